"""The table of a trail in a database: its columns, its indices, and the questions that these answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, NamedTuple, cast

import msgspec

from ...record.chain import ChainError, ChainHead, ChainStatus, follow
from ...record.events import AuditEvent
from ...record.formats import AS_THEY_ARE, decoded
from ...record.kinds import AuditEventType, AuditLogLevel
from ...record.parties import Target
from ..copying import events_of
from ..protocol import EQUAL, EventFilter
from .ranges import STRETCH_BITS

__all__ = [
    "COLUMNS",
    "SCATTERED",
    "STRETCH",
    "Dialect",
    "Question",
    "follow_row",
    "questions",
    "rows_of",
    "values_of",
]


# Beside its number and its line, a record has columns to search by, taken from the event.
COLUMNS: Final = (
    *EQUAL,
    *("timestamp", "event_type", "log_level", "outcome"),
    *("actor_id", "actor_on_behalf_of", "target_type", "target_id", "target_name"),
)
"""The columns that are searched."""

_equal: Final = attrgetter(*EQUAL)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

SCATTERED: Final = (
    *("user_id", "session_id", "request_id", "trace_id", "client_ip"),
    *("actor_id", "actor_on_behalf_of", "target_id"),
)
"""Columns whose values come in no order, and of which few records have the same value."""

STRETCH: Final = f"(sequence_number >> {STRETCH_BITS})"
"""The first column of the indices of `SCATTERED`."""


def values_of(event: AuditEvent) -> tuple[Any, ...]:
    """Return the values of `COLUMNS` for *event*."""
    outcome, actor, target = event.outcome, event.actor, event.target
    return (
        *_equal(event),
        _microseconds(event.timestamp),
        event.event_type.value,
        event.log_level.value,
        None if outcome is None else outcome.value,
        *((None, None) if actor is None else (actor.id, actor.on_behalf_of)),
        *((None, None, None) if target is None else (target.type, target.id, target.name)),
    )


def _microseconds(time: datetime) -> int:
    # Whole numbers: a float has too few digits.
    return (time - _EPOCH) // _MICROSECOND


class Dialect(NamedTuple):
    """
    The SQL of a database for a question.

    Attributes:
        parameter: The placeholder of a value.
        contains: The condition that a text is in the line.
        unindexed: Stands before a column whose index would be a longer way than another.
        key_of: Returns the value that a column has for one of a record.
    """

    parameter: str
    contains: str
    unindexed: str
    key_of: Callable[[Any], Any]


def rows_of(after: ChainHead, lines: Sequence[bytes]) -> list[tuple[Any, ...]]:
    """
    Return the rows of the records *lines*, which follow the head *after*.

    Raises:
        AuditStorageError: One is of a kind that can't be read.
    """
    numbered = zip(lines, events_of(lines), strict=True)
    return [
        (number, *values_of(event), line) for number, (line, event) in enumerate(numbered, after.sequence_number + 1)
    ]


def follow_row(
    head: ChainHead,
    number: int,
    line: Any,
    values: Sequence[Any] | None,
    searched_by: Callable[[AuditEvent], tuple[Any, ...]] = values_of,
) -> ChainHead:
    """
    Check that a row is the record that follows *head*, and return the head after it.

    Args:
        head: The head before the row.
        number: The number in the row.
        line: The record in the row; a value that isn't bytes is no record.
        values: The values of its columns that are searched; None to leave them unchecked.
        searched_by: Returns the values that these columns should have.

    Raises:
        ChainError: It is not.
    """
    if not isinstance(line, bytes):
        raise ChainError(ChainStatus.UNREADABLE, "this is not a record of the trail", head)
    after = follow(head, [line])
    if number != after.sequence_number:
        message = f"record {after.sequence_number} is in the row of record {number}"
        raise ChainError(ChainStatus.GAP, message, head)
    if values is None:
        return after
    try:
        event = decoded(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return after
    # A later version of fapilog may know more of a record that it wrote.
    if event.line is None:
        for name, value, stored in zip(COLUMNS, searched_by(event), values, strict=True):
            if value != stored:
                message = f"record {number} was altered: its column {name} differs from the record"
                raise ChainError(ChainStatus.ALTERED, message, head)
    return after


class Question(NamedTuple):
    """
    A condition in SQL that holds for every wanted record, and for few more.

    Attributes:
        where: The condition.
        values: The values of its parameters, without those that `within` adds.
        in_stretches: Whether it holds for records of one stretch only, since an index of `SCATTERED` is the shortest
            way.
        times: The first and the last microsecond that is wanted, if the times of the records are the shortest way.
    """

    where: str
    values: tuple[Any, ...]
    in_stretches: bool
    times: tuple[int, int] | None

    @property
    def is_open(self) -> bool:
        """Whether it holds for all records with the numbers that are wanted."""
        return not self.values

    def within(self, first: int, before: int) -> tuple[Any, ...]:
        """Return the values of all parameters, for records between the numbers *first* and *before*, without these."""
        stretch = [(before - 1) >> STRETCH_BITS] if self.in_stretches else []
        return (*stretch, first, before, *self.values)


_EARLIEST: Final = -(2**63)
_LATEST: Final = 2**63 - 1


def questions(wanted: EventFilter, dialect: Dialect) -> list[Question]:
    """Return questions; every wanted record is an answer to at least one."""
    equal: dict[str, Any] = {name: getattr(wanted, name) for name in EQUAL if getattr(wanted, name) is not None}
    # Checked by the filter, and a target by now.
    target = cast("Target | None", wanted.target)
    for name in ("type", "id", "name"):
        if target is not None and getattr(target, name) is not None:
            equal[f"target_{name}"] = getattr(target, name)
    for name in ("log_level", "outcome"):
        if getattr(wanted, name) is not None:
            equal[name] = getattr(wanted, name).value
    if wanted.actor is None or wanted.user_id is not None:
        # Where both are asked for, the actor is looked for among the records of the user.
        return [_question(wanted, equal, dialect)]
    return [
        _question(wanted, {**equal, name: wanted.actor}, dialect)
        for name in ("user_id", "actor_id", "actor_on_behalf_of")
    ]


def _question(wanted: EventFilter, equal: dict[str, Any], dialect: Dialect) -> Question:
    mark = dialect.parameter
    is_selective = "event_id" in equal or bool(equal.keys() & set(SCATTERED))
    in_stretches = is_selective and "event_id" not in equal
    parts: list[tuple[str, list[Any]]] = [(f"{name} = {mark}", [value]) for name, value in equal.items()]
    kinds = [kind.value for kind in cast("tuple[AuditEventType, ...]", wanted.event_type or ())]
    if wanted.event_type is not None:
        # The sign keeps SQLite from an index that has too many of them, or that has them in another order.
        sign = dialect.unindexed if is_selective or len(kinds) != 1 else ""
        parts.append((f"{sign}event_type IN ({', '.join([mark] * len(kinds)) or 'NULL'})", kinds))
    if wanted.min_level is not None:
        # One that is not known is looked at, as `EventFilter` does.
        lower = [level.value for level in AuditLogLevel]
        lower = lower[: lower.index(AuditLogLevel(wanted.min_level).value)]
        if lower:
            parts.append((f"log_level NOT IN ({', '.join([mark] * len(lower))})", lower))
    texts = [text for text in (wanted.message, wanted.tag) if text and re.fullmatch(AS_THEY_ARE, text)]
    parts += [(dialect.contains, [text.encode()]) for text in texts]
    begin = _EARLIEST if wanted.start_time is None else _microseconds(wanted.start_time)
    end = _LATEST if wanted.end_time is None else _microseconds(wanted.end_time)
    has_times = (begin, end) != (_EARLIEST, _LATEST)
    if has_times:
        parts.append((f"{dialect.unindexed}timestamp BETWEEN {mark} AND {mark}", [begin, end]))
    conditions = [f"sequence_number > {mark} AND sequence_number < {mark}", *(part for part, _ in parts)]
    return Question(
        " AND ".join([f"{STRETCH} = {mark}", *conditions] if in_stretches else conditions),
        tuple(dialect.key_of(value) for _, values in parts for value in values),
        in_stretches,
        (begin, end) if has_times and not is_selective else None,
    )
