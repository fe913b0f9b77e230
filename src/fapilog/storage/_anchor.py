"""
The end of the days that retention has removed from a trail: in a directory its anchor, in a database a record.

The anchor is a file. It names the head before the first record that is left, so that the rest can still be verified;
the last file that was removed; and the record about the removal, further on in the chain. It is no proof by itself,
since an attacker who can delete files can write one: a verification accepts it only if the first record that is left
follows that head, and the record about the removal is there and says the same.

Writing it is the removal. Files up to the one that it names are no part of the trail from then on. They are deleted
next, or after a crash by the next run.

A database, into which such a trail was copied, needs no anchor beside its rows: the first record names the head that it
follows, and the record about the removal names that head too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from ..record.chain import EMPTY, ChainError, ChainHead, ChainStatus, head_before
from ..record.events import AuditEvent
from ..record.formats import decoded, from_json
from ..record.kinds import AuditEventType
from ._regular import content_of_small
from .protocol import AuditStorage, EventFilter

__all__ = [
    "ANCHOR",
    "MEMBER",
    "Anchor",
    "RemovedError",
    "anchor_of",
    "decoded_anchor",
    "front_of",
    "front_pruned",
    "head_in_front",
    "is_removed",
    "says",
    "start_of",
]

ANCHOR: Final = "audit_anchor.json"
MEMBER: Final = "fapilog.retention"
"""The metadata of a record about a removal have the removed days under this name."""

_PAGE: Final = 100
_REMOVALS: Final = EventFilter(event_type=AuditEventType.RETENTION_POLICY_APPLIED)


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """
    The end of the days that were removed.

    Attributes:
        sequence_number: The number of the last removed record.
        checksum: The checksum of that record.
        file: The last file that was removed, without the ending of a compressed one.
        record: The number of the record about the removal.
        latest: The latest time of all records that were removed, as `_latest` has it; None if it is not known.
    """

    sequence_number: int
    checksum: str
    file: str
    record: int
    latest: str | None = None

    @property
    def head(self) -> ChainHead:
        """The head that the first record that is left follows."""
        return ChainHead(self.sequence_number, self.checksum)

    @property
    def removed(self) -> str:
        """The words for the records that were removed."""
        last = self.sequence_number
        return "record 1 was" if last == 1 else f"records 1 to {last} were"


class RemovedError(Exception):
    """Raised where retention removes a file, and with it those before it, of which some were read already."""


def anchor_of(directory: Path) -> Anchor | None:
    """
    Return the anchor of the trail in *directory*; None if nothing was removed.

    Raises:
        ChainError: The file is no anchor.
        OSError: It can't be read.
    """
    try:
        return decoded_anchor(content_of_small(f"{os.fspath(directory)}/{ANCHOR}"))
    except FileNotFoundError:
        return None


def decoded_anchor(data: bytes) -> Anchor:
    """Return the anchor that is in *data*; raise ChainError if it is none."""
    try:
        return from_json(data, Anchor)
    except msgspec.MsgspecError:
        raise ChainError(ChainStatus.UNREADABLE, f"{ANCHOR} is damaged, or was not written by retention") from None


def start_of(directory: Path) -> ChainHead:
    """Return the head that the first record in *directory* follows; raise as `anchor_of`."""
    anchor = anchor_of(directory)
    return EMPTY if anchor is None else anchor.head


def is_removed(directory: Path, name: str) -> bool:
    """Return whether the file *name* was removed by retention, perhaps just now; raise as `anchor_of`."""
    anchor = anchor_of(directory)
    return anchor is not None and name <= anchor.file


def front_pruned(anchor: Anchor) -> str:
    """Return the words on a front that retention has removed, as a record says."""
    return f"{anchor.removed} removed by retention, as record {anchor.record} says"


def says(line: bytes, anchor: Anchor) -> bool:
    """Return whether the record *line* is about the removal that *anchor* names."""
    try:
        return _anchor_in(decoded(line)) == replace(anchor, latest=None)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _anchor_in(event: AuditEvent) -> Anchor | None:
    """Return the anchor of the removal that *event* is about; None if it is about none."""
    try:
        said: Any = event.metadata[MEMBER]
        there = {name: said[name] for name in ("sequence_number", "checksum", "file")}
        anchor = msgspec.convert({**there, "record": event.sequence_number}, Anchor)
    except (msgspec.ValidationError, LookupError, TypeError):
        return None
    return anchor if event.event_type == AuditEventType.RETENTION_POLICY_APPLIED else None


def head_in_front(lines: Sequence[bytes]) -> ChainHead:
    """Return the head that the first of *lines* claims to follow; `EMPTY` if it claims nothing, or is not there."""
    try:
        return head_before(lines[0]) if lines else EMPTY
    except ChainError:
        return EMPTY


async def front_of(storage: AuditStorage) -> Anchor | None:
    """
    Return the end of the removed records, as a record in *storage* has it; None if there is no such record.

    Raises:
        AuditStorageError: It can't be read.
    """
    head = head_in_front(await storage.read_lines(0, 1))
    if head == EMPTY:
        return None
    wanted = _REMOVALS
    while found := [each for each in await storage.find(wanted, _PAGE) if isinstance(each, AuditEvent)]:
        anchors = filter(None, map(_anchor_in, found))
        if anchor := next((each for each in anchors if each.head == head), None):
            return anchor
        before = min(each.sequence_number or 0 for each in found)
        if wanted.before is not None and before >= wanted.before:
            break
        wanted = wanted.numbered(after=None, before=before)
    return None
