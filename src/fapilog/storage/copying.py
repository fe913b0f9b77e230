"""
Copying a trail from one storage to another, byte for byte.

    await copy(FileStorage("audit"), SQLiteStorage("audit.db"))
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from inspect import signature
from typing import Final, Protocol, cast, runtime_checkable

import msgspec

from ..record.chain import EMPTY, ChainError, ChainHead, follow
from ..record.errors import AuditStorageError, TrailMismatchError
from ..record.events import AuditEvent
from ..record.formats import decoded
from ..record.values import kind_of
from ._anchor import Anchor, front_of, head_in_front
from .protocol import AuditStorage, head_of, holds

__all__ = ["TakesLines", "appended", "common_head", "copy", "elsewhere", "events_of", "followed", "pages"]

# Of one transaction: more records are no faster, and more bytes may take longer than the target waits.
_PAGE: Final = 500
_PAGE_BYTES: Final = 1 << 20
# Of the first read, before it is known how long the records are.
_FIRST: Final = 64


@runtime_checkable
class TakesLines(Protocol):
    """A storage that records can be copied into: all of ours can be."""

    async def append_lines(self, after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
        """
        Append records as they are, and return the new head.

        A record may have the id of another one: a trail in files knows the newest ids only, and stores an older one
        again.

        Args:
            after: The head that the first of them follows, and with which the trail ends.
            lines: The records, without their newlines, as `AuditStorage.read_lines` returns them.

        Raises:
            TrailMismatchError: The records do not follow *after*.
            AuditStorageError: The trail ends with another head, or can't be written.
        """
        ...


class _BeginsBehind(Protocol):
    """A storage whose trail can begin behind records that were removed."""

    async def append_lines(
        self, after: ChainHead, lines: Sequence[bytes], *, removed: Anchor | None = None
    ) -> ChainHead: ...


async def copy(
    source: AuditStorage, target: AuditStorage, progress: Callable[[int], None] | None = None
) -> tuple[int, ChainHead]:
    """
    Copy the records that *target* lacks, and then check all of *target*.

    Every record is checked before it is written. Interrupted, by a crash too, it resumes where it was when it is called
    again. The source may be written to meanwhile: records after the last page are left for the next call.

    Args:
        source: The trail; from its first record to its last it must be intact. Retention may have removed its front:
            copied after the `ArchiveStorage` that has it, into the same target, the trail is whole again.
        target: Empty, or with the first records of *source*; one that has an `append_lines`.
        progress: Called after every page with the number of the newest record that is copied.

    Returns:
        How many records were copied, and the head that both have now.

    Raises:
        TrailMismatchError: *target* has other records than *source*, or one of the two is damaged.
        AuditStorageError: One of the two can't be read or written, or another process appended to *target* meanwhile.
        TypeError: *target* takes no lines.
    """
    if not isinstance(target, TakesLines):
        raise TypeError(f"target: expected a storage with append_lines; got {kind_of(target)}")
    count, head = 0, await common_head(source, cast("AuditStorage", target))
    async with contextlib.aclosing(pages(source, head.sequence_number)) as found:
        async for lines in found:
            try:
                head = await appended(source, target, head, lines)
            except TrailMismatchError as error:
                # The lines say which record it is; the source says in which of its files.
                verdict = await source.verify() if isinstance(error.__cause__, ChainError) else None
                if verdict is None or verdict.valid:
                    raise
                words = f"the source is damaged: {verdict.error_message}"
                raise TrailMismatchError(f"{words}; nothing is copied behind record {head.sequence_number}") from error
            count += len(lines)
            if progress is not None:
                progress(head.sequence_number)
    result = await target.verify()
    if not result.valid:
        # Without a number it is no damage: the target is away.
        kind = AuditStorageError if result.first_invalid_sequence is None else TrailMismatchError
        raise kind(f"the copy is not valid: {result.error_message}")
    return count, head


async def appended(source: AuditStorage, target: TakesLines, head: ChainHead, lines: Sequence[bytes]) -> ChainHead:
    """
    Append *lines* of *source* behind *head* to *target*, and return the new head.

    Where retention has removed the first records of *source*, an empty target begins behind them too, if a record of
    *source* says so.

    Raises as `TakesLines.append_lines`; if *lines* are damaged, the message is about the source, and names no target.
    """
    try:
        return await _appended(source, target, head, lines)
    except TrailMismatchError as error:
        if not isinstance(error.__cause__, ChainError):
            raise
        words = f"in the source, {error.__cause__}; nothing is copied behind record {head.sequence_number}"
        raise TrailMismatchError(words) from error.__cause__


async def _appended(source: AuditStorage, target: TakesLines, head: ChainHead, lines: Sequence[bytes]) -> ChainHead:
    if head != EMPTY or head_in_front(lines) == EMPTY:
        return await target.append_lines(head, lines)
    removed = await front_of(source)
    if removed is None:
        number = head_in_front(lines).sequence_number
        raise TrailMismatchError(
            f"the source begins behind record {number}, and no record says why; nothing is appended"
        )
    if "removed" not in signature(target.append_lines).parameters:
        raise TrailMismatchError(f"{kind_of(target)} can't begin behind record {removed.sequence_number}")
    return await cast("_BeginsBehind", target).append_lines(removed.head, lines, removed=removed)


async def pages(source: AuditStorage, after: int) -> AsyncGenerator[list[bytes]]:
    """
    Yield the records of *source* behind number *after*, in pages for one transaction.

    A page has up to 500 records, and up to a mebibyte unless it is one record.

    Raises:
        AuditStorageError: *source* can't be read.
    """
    limit = _FIRST
    while lines := await source.read_lines(after, limit):
        # Retention may have removed the records before the first.
        after = max(after, head_in_front(lines).sequence_number) + len(lines)
        limit = min(_PAGE, max(1, len(lines) * _PAGE_BYTES // sum(map(len, lines))))
        page: list[bytes] = []
        room = _PAGE_BYTES
        for line in lines:
            if page and len(line) > room:
                yield page
                page, room = [], _PAGE_BYTES
            page.append(line)
            room -= len(line)
        yield page


async def common_head(source: AuditStorage, target: AuditStorage) -> ChainHead:
    """
    Return the head of *target*, which *source* holds too, or begins behind: from there on records can be copied.

    Raises:
        TrailMismatchError: *source* is another trail, or begins further behind.
        AuditStorageError: One of the two can't be read.
    """
    head = await head_of(target)
    if head == EMPTY or await holds(source, head):
        return head
    begin = head_in_front(await source.read_lines(0, 1))
    if begin == head:
        return head
    words = f"the target ends with record {head.sequence_number}, checksum {head.checksum}"
    if begin.sequence_number > head.sequence_number:
        raise TrailMismatchError(f"{words}, and the source begins behind record {begin.sequence_number}")
    raise TrailMismatchError(f"{words}, which the source does not have: two trails")


def followed(place: object, after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
    """
    Return the head after *lines*, which follow the head *after*.

    Raises:
        TrailMismatchError: They do not; the message begins with *place*.
    """
    try:
        return follow(after, lines)
    except ChainError as damage:
        raise TrailMismatchError(f"{place}: in the given records, {damage}; nothing is appended") from damage


def elsewhere(place: object, after: ChainHead) -> AuditStorageError:
    """Return the error that says that the trail in *place* does not end with the head *after*."""
    return AuditStorageError(f"{place}: its newest record is not record {after.sequence_number}; nothing is appended")


def events_of(lines: Sequence[bytes]) -> list[AuditEvent]:
    """
    Return the events of the records *lines*, to find these by.

    Raises:
        AuditStorageError: One is of a kind that can't be read.
    """
    try:
        return [decoded(line) for line in lines]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AuditStorageError("a record is of a kind that can't be read here; nothing is appended") from error
