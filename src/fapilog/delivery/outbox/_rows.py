"""The rows of an outbox: alerts and attempts, read even from damaged rows."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeGuard, get_args

import msgspec

from ...core.alerting import Outcome
from ...record.events import AuditEvent
from ...record.formats import decoded
from ...record.privacy import Discreet
from ...record.values import text

__all__ = [
    "FIRST_TIME",
    "LAST_TIME",
    "OutboxAlert",
    "OutboxAttempt",
    "OutboxState",
    "Status",
    "alert_of",
    "attempt_of",
    "count_or_0",
    "event_in",
    "is_time",
    "sequence_number_of",
    "sound",
    "time_or_0",
]

Status = Literal["pending", "delivered", "dead", "discarded"]

_MAX_INTEGER: Final = 2**63 - 1
# Seconds from 1970 to where `datetime` begins and ends.
FIRST_TIME: Final = -62_135_596_800.0
LAST_TIME: Final = 253_402_300_799.0
# Stands for a time that can't be read.
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)


class OutboxAlert(Discreet, frozen=True, kw_only=True):
    """
    One alert in an outbox.

    Attributes:
        outbox: The name of the outbox.
        event_id: The event that it is about.
        sequence_number: That event's place in the trail; None if it has none.
        event_type: The kind of event.
        severity: The severity that the dispatcher gets.
        channel: The channel that the dispatcher gets.
        status: "pending": it waits, or is being sent. "delivered": the dispatcher has taken it. "dead": it was refused,
            or failed until its schedule was over. "discarded": an operator has given it up.
        came_at: When the alert came into the outbox.
        due_at: When the next attempt is due; of one that is being sent, when another process may take it over; None if
            there is none.
        ended_at: When the alert was delivered, died or was discarded; None while it is pending.
        attempts: How many attempts were begun.
        reason: Why it was not delivered, or why it was discarded; None otherwise.
        unreadable: The members that are damaged in the file, with the values found there. Such a time is here in 1970,
            or None; such a number is 0.
    """

    _shown = ("event_id", "event_type", "severity", "sequence_number", "status")

    outbox: str
    event_id: str
    sequence_number: int | None
    event_type: str
    severity: str
    channel: str | None
    status: Status
    came_at: datetime
    due_at: datetime | None
    ended_at: datetime | None
    attempts: int
    reason: str | None
    unreadable: Mapping[str, str] = {}


class OutboxAttempt(Discreet, frozen=True, kw_only=True):
    """
    One attempt to deliver an alert.

    Attributes:
        number: Counted from 1.
        began_at: When the attempt was begun.
        took: Seconds; None if unknown.
        outcome: As `DeliveryReport.outcome`; None while it is under way. "stopped" is all that is known if the process
            ended, or the outbox was left.
        reason: In words that may be printed; None if it was dispatched.
        unreadable: As in `OutboxAlert`.
    """

    _shown = ("number", "outcome")

    number: int
    began_at: datetime
    took: float | None
    outcome: Outcome | None
    reason: str | None
    unreadable: Mapping[str, str] = {}


class OutboxState(msgspec.Struct, frozen=True, kw_only=True):
    """
    The contents of an outbox.

    Attributes:
        pending: Alerts that are not delivered yet.
        oldest: When the oldest of them came, in seconds since 1970; None if there is none.
        dead: Alerts that were refused or given up on, and not retried or discarded since.
    """

    pending: int = 0
    oldest: float | None = None
    dead: int = 0


def sequence_number_of(event: AuditEvent) -> int:
    """Return the event's place in the trail; 0 if it has none, or one that SQLite can't keep."""
    number = event.sequence_number or 0
    return number if abs(number) <= _MAX_INTEGER else 0


def event_in(stored: Any, event_id: object, number: object) -> AuditEvent | str:
    """Return the event of an alert, or why it can't be read; of another event, how it ended would never be found."""
    try:
        event = decoded(stored)
    except Exception as error:
        return f"the event in the outbox can't be read ({type(error).__qualname__})"
    if (event.event_id, sequence_number_of(event)) != (event_id, number):
        return "the event in the outbox is not the one that the alert is about"
    return event


def sound(found: Sequence[Any], now: float) -> tuple[str, str | None, float, int, int, float]:
    """Return sound values to send an alert with, for a part of its row."""
    severity, channel, came_at, attempts, failures, spent = found
    return (
        text(severity),
        None if channel is None else text(channel),
        # Also where the clock was ahead when it came.
        min(came_at, now) if is_time(came_at) else now,
        count_or_0(attempts),
        count_or_0(failures),
        spent if _is_duration(spent) and spent >= 0 else 0.0,
    )


def count_or_0(value: object) -> int:
    """Return *value* if it is a number of things, of which there is a next one; or else 0."""
    return value if _is_count(value) else 0


def time_or_0(value: object) -> float:
    """Return *value* if it is a time that `datetime` knows; or else 0."""
    return value if is_time(value) else 0.0


def is_time(value: object) -> TypeGuard[float]:
    """Return whether *value* is a time that `datetime` knows."""
    return isinstance(value, float) and FIRST_TIME <= value <= LAST_TIME


def _is_duration(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < _MAX_INTEGER


def _is_text(value: object) -> bool:
    return isinstance(value, str)


class _Row:
    """
    A row, readable or not.

    Attributes:
        unreadable: The columns that held impossible values, with these.
    """

    def __init__(self, columns: Iterable[Sequence[Any]], values: Iterable[object]) -> None:
        self._values = dict(zip((name for name, *_ in columns), values, strict=True))
        self.unreadable: dict[str, str] = {}

    def read(self, column: str, is_right: Callable[[object], bool], otherwise: Any, *, or_none: bool = False) -> Any:
        """Return the value of *column* if it is sound."""
        value = self._values[column]
        if is_right(value) or (or_none and value is None):
            return value
        self.unreadable[column] = reprlib.repr(value)
        return otherwise

    def text(self, column: str, *, or_none: bool = False) -> Any:
        """Return text."""
        return self.read(column, _is_text, text(self._values[column]), or_none=or_none)

    def time(self, column: str, *, or_none: bool = False) -> datetime | None:
        """Return a time; None if there is none."""
        seconds = self.read(column, is_time, None, or_none=or_none)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def alert_of(columns: Iterable[Sequence[Any]], values: Iterable[object]) -> OutboxAlert:
    """Return the alert in a row; its columns begin with their names."""
    row = _Row(columns, values)
    status = row.read("status", get_args(Status).__contains__, row.text("status"))
    return OutboxAlert(
        outbox=row.text("outbox"),
        event_id=row.text("event_id"),
        sequence_number=row.read("sequence_number", _is_integer, None) or None,
        event_type=row.text("event_type"),
        severity=row.text("severity"),
        channel=row.text("channel", or_none=True),
        status=status,
        came_at=row.time("came_at") or _NO_TIME,
        due_at=row.time("due_at") if status == "pending" else None,
        ended_at=row.time("ended_at", or_none=True),
        attempts=row.read("attempts", _is_count, 0),
        reason=row.text("reason", or_none=True),
        unreadable=row.unreadable,
    )


def attempt_of(columns: Iterable[Sequence[Any]], values: Iterable[object]) -> OutboxAttempt:
    """Return the attempt in a row; its columns begin with their names."""
    row = _Row(columns, values)
    return OutboxAttempt(
        number=row.read("number", _is_integer, 0),
        began_at=row.time("began_at") or _NO_TIME,
        took=row.read("took", _is_duration, None, or_none=True),
        outcome=row.read("outcome", get_args(Outcome).__contains__, None, or_none=True),
        reason=row.text("reason", or_none=True),
        unreadable=row.unreadable,
    )
