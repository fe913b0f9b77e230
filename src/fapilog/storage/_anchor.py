"""
The anchor: what remains of the days that retention has removed from a trail.

It names the head before the first record that is left, so that the rest can still be verified; the last file that was
removed; and the record, further on in the chain, that says so. It is no proof by itself, since who can delete files can
write one: a verification believes it only if the first record that is left follows that head, and that record is there
and says the same.

Writing it is the removal. Files up to the one that it names are no part of the trail from then on, and are deleted
next, or after a crash by the next run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from ..record.chain import EMPTY, ChainError, ChainHead, ChainStatus
from ..record.events import AuditEvent
from ..record.formats import decoded
from ..record.kinds import AuditEventType

__all__ = ["ANCHOR", "MEMBER", "Anchor", "anchor_of", "decoded_anchor", "is_removed", "says", "start_of"]

ANCHOR: Final = "audit_anchor.json"
MEMBER: Final = "fapilog.retention"
"""In the metadata of a record that says what is removed."""


class Anchor(msgspec.Struct, frozen=True, kw_only=True):
    """
    What remains of the days that were removed.

    Attributes:
        sequence_number: Of the last record that was removed.
        checksum: Of that record.
        file: The last file that was removed, without the ending of a compressed one.
        record: The number of the record that says so.
    """

    sequence_number: int
    checksum: str
    file: str
    record: int

    @property
    def head(self) -> ChainHead:
        """The head that the first record that is left follows."""
        return ChainHead(self.sequence_number, self.checksum)


_decode: Final = msgspec.json.Decoder(Anchor).decode


def anchor_of(directory: Path) -> Anchor | None:
    """
    Return the anchor of the trail in *directory*; None if nothing was removed.

    Raises:
        ChainError: The file is no anchor.
        OSError: It can't be read.
    """
    try:
        with open(f"{os.fspath(directory)}/{ANCHOR}", "rb") as file:
            return decoded_anchor(file)
    except FileNotFoundError:
        return None


def decoded_anchor(file: IO[bytes]) -> Anchor:
    """Return the anchor that is in *file*; raise ChainError if it is none, and OSError if it can't be read."""
    try:
        return _decode(file.read(1 << 16))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ChainError(ChainStatus.UNREADABLE, f"{ANCHOR} is not what retention has written") from None


def start_of(directory: Path) -> ChainHead:
    """Return the head that the first record in *directory* follows; raise as `anchor_of`."""
    anchor = anchor_of(directory)
    return EMPTY if anchor is None else anchor.head


def is_removed(directory: Path, name: str) -> bool:
    """Return whether the file *name* was removed by retention, perhaps just now; raise as `anchor_of`."""
    anchor = anchor_of(directory)
    return anchor is not None and name <= anchor.file


def says(line: bytes, anchor: Anchor) -> bool:
    """Return whether the record *line* says that what *anchor* names is removed."""
    try:
        event: AuditEvent = decoded(line)
        said: Any = event.metadata[MEMBER]
        there = said["sequence_number"], said["checksum"], said["file"]
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError):
        return False
    return (
        event.event_type == AuditEventType.RETENTION_POLICY_APPLIED
        and event.sequence_number == anchor.record
        and there == (anchor.sequence_number, anchor.checksum, anchor.file)
    )
