"""
How far a trail in files is replicated, in a file beside them: for whoever else looks after the trail.

The process that replicates may be another one, and may be dead. So each service that writes to the trail looks here
whether records wait for too long, and retention removes none that wait.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from ..record.chain import ChainError, ChainHead
from ..record.errors import AuditStorageError
from ..record.formats import decoded
from ._directory import cannot, names, reading
from ._reader import TrailReader
from ._whole import PART, whole

__all__ = ["Replica", "keep_replica", "replica_of", "stored_at", "waits"]

_FILE: Final = "audit_replica.json"


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """
    Up to where a trail is replicated.

    Attributes:
        target: Where to, in words, without a secret.
        sequence_number: The newest record that the target is known to have; 0 for none.
        checksum: Of that record; None for none.
        lag_limit: Seconds that a record may wait before that is a concern.
        problem: Why records wait, in words; None if they do not, or if that is not known.
        is_stuck: Whether that does not pass by itself.
    """

    target: str
    sequence_number: int = 0
    checksum: str | None = None
    lag_limit: float
    problem: str | None = None
    is_stuck: bool = False

    @property
    def head(self) -> ChainHead:
        """The head that the next record to be replicated follows."""
        return ChainHead(self.sequence_number, self.checksum)


_decode: Final = msgspec.json.Decoder(Replica).decode


def replica_of(directory: Path) -> Replica | None:
    """
    Return up to where the trail in *directory* is replicated; None if it is not.

    Raises:
        AuditStorageError: The file can't be read, or holds something else.
    """
    path = directory / _FILE
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AuditStorageError(f"cannot read {path}: {error.strerror or error}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # Never "no replica": something would be removed that must not be.
        raise AuditStorageError(f"{path}: expected how far the trail is replicated; got something else") from None


def keep_replica(directory: Path, replica: Replica, *, is_known: bool) -> Replica:
    """
    Say up to where the trail in *directory* is replicated, and return what is said; several processes may do so.

    Args:
        directory: Where the trail is; while it has no file, nothing is said.
        replica: What to say.
        is_known: Whether its head is known; if not, the one stays that is there for this target.

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
    # Of this process alone, and with an ending that retention sweeps away after a crash.
    mine = f"{directory}/audit_replica.{os.getpid()}{PART}"
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
    Return that records wait for too long to be replicated, and why; None if they do not.

    Raises:
        AuditStorageError: A file can't be read.
    """
    replica = replica_of(directory)
    waiting = [] if replica is None else reader.read_lines(replica.sequence_number, 1)
    if replica is None or not waiting:
        return None
    at = stored_at(waiting[0])
    seconds = 0.0 if at is None else (now - at).total_seconds()
    if seconds <= replica.lag_limit and not replica.is_stuck:
        return None
    words = (
        f"{directory}: record {replica.sequence_number + 1} has waited for {seconds:.0f} s to be in {replica.target}"
    )
    return words if replica.problem is None else f"{words}: {replica.problem}"
