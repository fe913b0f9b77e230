"""Checking a trail in files together with its archive: the removed days are verified where they are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from ...record.chain import EMPTY, AuditChainVerificationResult, ChainHead, ChainStatus
from .._anchor import anchor_of
from .._files.reader import TrailReader
from .._files.verifying import verify
from ..archive import Archive
from ..protocol import is_head
from .reader import ArchiveReader

__all__ = ["verify_together"]


class _Break(NamedTuple):
    """A place where the archive and the trail are not one chain."""

    status: ChainStatus
    number: int
    words: str


def verify_together(
    directory: Path, archive: Archive, progress: Callable[[int], None] | None = None
) -> AuditChainVerificationResult:
    """
    Check all records of *archive* and of the trail in *directory*, and that they are one chain; damage is returned.

    Days that are in both places are checked in both. One archived day at a time is fetched.

    Args:
        directory: The trail; may be written to meanwhile.
        archive: Its archive.
        progress: Called with how many records were checked so far.

    Raises:
        AuditStorageError: The archive is away.
        ChainError: The anchor of the trail is damaged.
        OSError: The anchor of the trail can't be read.
    """
    while True:
        before = anchor_of(directory)
        result = _verified(directory, archive, progress)
        if anchor_of(directory) == before:
            return result
        # Days were removed meanwhile.


def _verified(
    directory: Path, archive: Archive, progress: Callable[[int], None] | None
) -> AuditChainVerificationResult:
    reader, trail = ArchiveReader(archive), TrailReader(directory, durable=False)
    archived = reader.verify(progress, trail)
    if not archived.valid:
        return replace(archived, error_message=f"{archive}: {archived.error_message}")
    found = verify(directory, functools.partial(_note, progress, archived.events_checked))
    if not found.valid:
        return found
    begin, removed = archived.pruned or EMPTY, found.pruned or EMPTY
    wrong = _break(reader, trail, begin.sequence_number + archived.events_checked, removed)
    if wrong is not None:
        return replace(
            found, valid=False, status=wrong.status, first_invalid_sequence=wrong.number, error_message=wrong.words
        )
    is_torn = found.status is ChainStatus.TORN_TAIL
    words = [archived.error_message, found.error_message if is_torn else None]
    if removed.sequence_number > begin.sequence_number:
        words.append(f"records {begin.sequence_number + 1} to {removed.sequence_number} are in {archive}")
    return replace(
        found,
        events_checked=found.events_checked + removed.sequence_number - begin.sequence_number,
        error_message="; ".join(filter(None, words)) or None,
        status=found.status if is_torn else archived.status,
        set_aside=tuple(sorted({*archived.set_aside, *found.set_aside})),
        pruned=archived.pruned,
    )


def _note(progress: Callable[[int], None] | None, before: int, checked: int) -> None:
    if progress is not None:
        progress(before + checked)


def _break(reader: ArchiveReader, trail: TrailReader, last: int, removed: ChainHead) -> _Break | None:
    """Return where the archive, whose newest record is *last*, and the trail behind *removed* are not one chain."""
    number, place = removed.sequence_number, reader.days.place
    if last < number:
        words = f"records up to {number} were removed from the trail, and {place} has records up to {last} only"
        return _Break(ChainStatus.GAP, last + 1, words)
    if number and not is_head(reader.read_lines(number - 1, 1), removed):
        words = f"record {number} in {place} is not the one that was removed from the trail"
        return _Break(ChainStatus.BROKEN_LINK, number, words)
    if last > number and reader.read_lines(last - 1, 1) != trail.read_lines(last - 1, 1):
        words = f"record {last} in {place} is not that of the trail"
        return _Break(ChainStatus.BROKEN_LINK, last, words)
    return None
