"""The items of a trail that is read: events, and the holes between them."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from typing import Final

import msgspec

from ..record.chain import MAX_RECORD_BYTES, ChainError, ChainHead, ChainStatus, head_behind
from ..record.damage import DamagedRecord
from ..record.events import AuditEvent
from ..record.formats import decoded, no_record

__all__ = ["head_of_record", "item_of", "joined", "up_to"]


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


def head_of_record(line: bytes) -> ChainHead | None:
    """Return the number and the checksum of *line* if it is a whole record, wherever its place may be; else None."""
    # A copy by way of another system adds this to every line.
    return head_behind(line.removesuffix(b"\r"))


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
