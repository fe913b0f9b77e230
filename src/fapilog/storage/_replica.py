"""
The progress of a replication, in a file beside the trail, for other processes.

The process that replicates may be another one than the service, and may be dead. So the services that write to the
trail read here whether records wait for too long, and retention reads which days it has to keep.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Final
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from ..record.chain import ChainError, ChainHead
from ..record.errors import AuditStorageError
from ..record.formats import decoded, from_json
from ._files.access import cannot
from ._files.directory import reading
from ._files.names import names
from ._files.reader import TrailReader
from ._regular import content_of_small
from ._whole import PART, whole

__all__ = ["Replica", "keep_replica", "replica_of", "stored_at", "waits"]

_FILE: Final = "audit_replica.json"


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """
    The progress of a replication.

    Attributes:
        target: The place of the replica, in words, without a secret.
        sequence_number: The newest record that the target is known to have; 0 for none.
        checksum: The checksum of that record; None for none.
        lag_limit: Seconds that a record may wait; longer is a concern. None: it may wait for ever.
        problem: The last failure, in words; None after a success.
        is_stuck: Whether trying again can't help.
    """

    target: str
    sequence_number: int = 0
    checksum: str | None = None
    lag_limit: float | None
    problem: str | None = None
    is_stuck: bool = False

    @property
    def head(self) -> ChainHead:
        """The head that the next record to be replicated follows."""
        return ChainHead(self.sequence_number, self.checksum)


def replica_of(directory: Path) -> Replica | None:
    """
    Return the progress of the replication of *directory*; None if it is not replicated.

    Raises:
        AuditStorageError: The file can't be read, or is damaged.
    """
    path = directory / _FILE
    try:
        return from_json(content_of_small(path), Replica)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuditStorageError(f"cannot read {path}: {error.strerror or error}") from error
    except msgspec.MsgspecError:
        # Not None: retention would remove days that are not replicated.
        raise AuditStorageError(f"{path}: expected how far the trail is replicated; got something else") from None


def keep_replica(directory: Path, replica: Replica, *, is_known: bool) -> Replica:
    """
    Write the progress of the replication of *directory*, and return it; several processes may do so.

    Args:
        directory: The trail; while it has no file, nothing is written.
        replica: The progress.
        is_known: Whether its head is known; if not, the head in the file is kept, if the target is the same.

    Raises:
        AuditStorageError: The file can't be read or written.
    """
    try:
        there = replica_of(directory)
    except AuditStorageError:
        if not is_known:
            raise
        there = None
    if not is_known and there is not None and there.target == replica.target:
        replica = replace(replica, sequence_number=there.sequence_number, checksum=there.checksum)
    if replica == there:
        return replica
    # A name for this call alone, with the ending of the files that retention deletes after a crash: two containers may
    # have the same number of their processes.
    mine = f"{directory}/audit_replica.{uuid4().hex}{PART}"
    try:
        files = names(directory)
        if not files:
            return replica
        with reading(directory, files[-1]) as like, whole(mine, like=like) as file:
            file.write(msgspec.json.encode(replica) + b"\n")
        os.replace(mine, directory / _FILE)
    except OSError as error:
        raise cannot("write to", directory, error) from error
    except ChainError as damage:
        raise AuditStorageError(f"{directory}: {damage}") from damage
    return replica


def stored_at(line: bytes) -> datetime | None:
    """Return the time of the record *line*; None if this version can't read it."""
    try:
        return decoded(line).timestamp
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def waits(directory: Path, reader: TrailReader, now: datetime) -> str | None:
    """
    Return the concern that records wait for too long to be replicated, in words; None if they do not.

    Args:
        directory: The trail.
        reader: Reads it.
        now: The time.
    """
    try:
        replica = replica_of(directory)
        waiting = [] if replica is None else reader.read_lines(replica.sequence_number, 1)
    except AuditStorageError as error:
        return str(error)
    if replica is None or not waiting:
        return None
    at = stored_at(waiting[0])
    seconds = 0.0 if at is None else (now - at).total_seconds()
    is_early = replica.lag_limit is None or seconds <= replica.lag_limit
    if is_early and not replica.is_stuck:
        return None
    words = (
        f"{directory}: record {replica.sequence_number + 1} has waited for {seconds:.0f} s to be in {replica.target}"
    )
    return words if replica.problem is None else f"{words}: {replica.problem}"
