"""The items of a trail that is read: events, and the holes between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final

import msgspec

from ..record.chain import MAX_RECORD_BYTES, ChainError, ChainStatus
from ..record.damage import DamagedRecord
from ..record.events import AuditEvent
from ..record.formats import decoded, no_record
from ._files.lines import head_of_record
from .protocol import EventFilter

__all__ = ["MAX_NUMBER", "bounds_of", "item_of", "items_of_rows", "joined", "missing_rows", "newest_of", "up_to"]
__all__ += ["wanted_of"]


def joined(items: Iterable[AuditEvent | DamagedRecord]) -> Generator[AuditEvent | DamagedRecord, None, None]:
    """Yield *items*, with adjacent holes joined into one."""
    hole: DamagedRecord | None = None
    for item in items:
        if isinstance(item, DamagedRecord):
            both = None if hole is None else hole.joined(item)
            if hole is not None and both is None:
                yield hole
            hole = both or item
            continue
        if hole is not None:
            yield hole
            hole = None
        yield item
    if hole is not None:
        yield hole


def up_to(limit: int, items: Iterable[AuditEvent | DamagedRecord]) -> Generator[AuditEvent | DamagedRecord, None, None]:
    """Yield *items* up to the event that is the last of *limit*."""
    if limit < 1:
        return
    for item in items:
        yield item
        limit -= isinstance(item, AuditEvent)
        if limit < 1:
            # Before the next one is looked for, which may be in another file.
            return


def newest_of(limit: int, answers: Iterable[Iterable[AuditEvent | DamagedRecord]]) -> list[AuditEvent | DamagedRecord]:
    """
    Return the newest *limit* events of all *answers*, the newest first, and the holes between them.

    Args:
        limit: How many at most; no answer is followed further than that.
        answers: Each with the newest first. What several of them have is returned once.
    """
    # By number and id; of one number, the hole comes first.
    found: dict[tuple[int, bool, str], AuditEvent | DamagedRecord] = {}
    for items in answers:
        for item in up_to(limit, joined(items)):
            if isinstance(item, AuditEvent):
                found[item.sequence_number or 0, False, item.event_id] = item
            else:
                found[item.offset, True, ""] = item
    return list(up_to(limit, joined(found[key] for key in sorted(found, reverse=True))))


def items_of_rows(
    rows: Iterable[tuple[int, Any]],
    item: Callable[[int, Any], AuditEvent | DamagedRecord],
    *,
    file: str,
    bound: int | None,
    newest: Callable[[int], int | None],
) -> Iterator[AuditEvent | DamagedRecord]:
    """
    Yield the items in the *rows* of a database, and holes where rows are missing, or have the record of another row.

    Args:
        rows: Their numbers and lines, one after the other in either order.
        item: Returns the item in a row.
        file: The name of the database, for the holes.
        bound: The number from which the rows were asked for; None if not all rows from there on were.
        newest: Returns the greatest number of a row that is smaller than one; None if there is none.
    """
    last: int | None = None
    for index, (number, line) in enumerate(rows):
        if bound is not None:
            # The rows in front of the first of all were removed, perhaps.
            last = last if index or not _may_lack(bound, number, newest) else bound
            if last is not None and abs(number - last) > 1:
                yield missing_rows(file, min(number, last) + 1, max(number, last))
            last = number
        is_placed = not isinstance(line, bytes) or b',"sequence_number":%d,"' % number in line[-_SEAL_BYTES:]
        if not is_placed and (head := head_of_record(line)) is not None:
            problem = f"record {head.sequence_number} is in the row of record {number}"
            yield DamagedRecord(file=file, offset=number, size=0, lines=0, problem=problem)
        yield item(number, line)


def missing_rows(file: str, first: int, behind: int) -> DamagedRecord:
    """Return the hole in a database where the rows from *first* to the one in front of *behind* are missing."""
    which = f"record {first} is" if behind == first + 1 else f"records {first} to {behind - 1} are"
    problem = f"{which} missing in front of record {behind}"
    return DamagedRecord(file=file, offset=first, size=behind - first, lines=0, problem=problem)


def _may_lack(bound: int, number: int, newest: Callable[[int], int | None]) -> bool:
    """Return whether rows are missing if the first row from *bound* on is that of *number*, and not the next one."""
    if abs(number - bound) == 1 or bound == MAX_NUMBER:
        return False
    found = newest(bound + 1 if bound < number else MAX_NUMBER)
    return found is not None and (bound < number or found >= bound)


MAX_NUMBER: Final = 2**63 - 1
"""Greater than the number of any row."""

# More than a seal has.
_SEAL_BYTES: Final = 256


def bounds_of(wanted: EventFilter) -> tuple[int, int]:
    """Return the numbers of rows between which all are that are *wanted*, without these."""
    low = -1 if wanted.after is None else min(wanted.after, MAX_NUMBER)
    return low, MAX_NUMBER if wanted.before is None else min(wanted.before, MAX_NUMBER)


def wanted_of(items: Iterable[AuditEvent | DamagedRecord], wanted: EventFilter) -> Iterator[AuditEvent | DamagedRecord]:
    """Yield the *items* that are *wanted*, and all holes."""
    return (item for item in items if isinstance(item, DamagedRecord) or wanted.matches(item))


def item_of(line: bytes, *, file: str, offset: int, size: int, number: int | None) -> AuditEvent | DamagedRecord:
    """
    Return the event in *line*, which is in this place; the hole that it is if it can't be read.

    Args:
        line: The line.
        file: The name of the file.
        offset: The offset of the hole in the file.
        size: The size of the hole.
        number: That its place has, for a record that was altered; None to believe the one that it claims.
    """
    try:
        event = _event(line)
        if number in (None, event.sequence_number):
            return event
        # Who pages by numbers would lose it else, or have it twice. Its checksum is of other bytes, so that it can't be
        # taken for a record that was stored so.
        return msgspec.structs.replace(event, sequence_number=number)
    except ChainError as damage:
        problem = str(damage)
    head = head_of_record(line)
    if head is not None:
        problem = "this record is whole, and of a kind that this version of fapilog can't read"
    return DamagedRecord(file=file, offset=offset, size=size, problem=problem, head=head)


def _event(line: bytes) -> AuditEvent:
    """
    Return the event in *line*.

    Raises:
        ChainError: There is none. The message has nothing of the line.
    """
    if len(line) > MAX_RECORD_BYTES:
        raise ChainError(ChainStatus.UNREADABLE, "this is longer than a record can be")
    try:
        event = decoded(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ChainError(ChainStatus.UNREADABLE, f"{no_record(line)}{_where(error)}") from None
    if event.sequence_number is None:
        raise ChainError(ChainStatus.UNREADABLE, "this is no record of the trail: it has no place in the chain")
    return event


def _where(error: Exception) -> str:
    """Return the place in a record that *error* names, without the value that stands there."""
    found = re.search(_PLACE, str(error))
    return f": it is wrong at {found[0]}" if found else ""


# As msgspec's messages end: the byte where JSON breaks off, or the member that is wrong.
_PLACE: Final = r"byte [0-9]+(?=\)$)|\$\.[a-z_]+(?=[^`]*`$)"
