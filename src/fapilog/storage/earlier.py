"""
Trails of the earlier fapilog, up to 0.3.5: read and verified as they are, and continued by a new trail.

There a record is a line of JSON with sorted keys, so that ``checksum`` comes first. It is the SHA-256 of the line
without that member. Every process began a chain of its own, from number 1: a directory holds one or several runs. The
records of processes that wrote at the same time, the workers of a server for example, stand between each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec

from ..record.chain import MAX_RECORD_BYTES
from ..record.errors import AuditStorageError
from ..record.formats import EARLIER, is_earlier

__all__ = ["EarlierTrail", "as_metadata", "is_of_earlier", "verify_earlier"]

_COVERED: Final = len(EARLIER) + 64 + len(b'",')
_NOTHING: Final = (0, None)


class EarlierTrail(msgspec.Struct, frozen=True, kw_only=True):
    """
    The content of a trail of the earlier fapilog.

    Attributes:
        records: How many records were checked, the invalid one included.
        runs: How many chains they are: one per process that wrote.
        sequence_number: The number of the last record.
        checksum: The checksum of the last record.
        files: The SHA-256 of every file.
        problem: The damage, with file and line; None if there is none.
    """

    records: int
    runs: int
    sequence_number: int
    checksum: str | None
    files: dict[str, str]
    problem: str | None = None


class _Record(msgspec.Struct):
    checksum: str
    sequence_number: int
    previous_hash: str | None


_decode: Final = msgspec.json.Decoder(_Record).decode


def is_of_earlier(directory: Path) -> bool:
    """Return whether the oldest file of the trail in *directory* was written by the earlier fapilog."""
    # The next search for a trail of ours reports a file that can't be read.
    with contextlib.suppress(OSError):
        for path in _files(directory):
            if path.is_file():
                with path.open("rb") as file:
                    return is_earlier(file.readline(MAX_RECORD_BYTES))
    return False


def verify_earlier(directory: Path) -> EarlierTrail:
    """
    Check every record of a trail of the earlier fapilog, by its own rule; damage is returned, not raised.

    A record is the first of a run, or follows the newest one of a run. Nothing tells whether the last records of a run
    were cut off.

    Raises:
        AuditStorageError: A file can't be read.
    """
    records = runs = number = 0
    checksum: str | None = None
    problem: str | None = None
    # What the next record may follow: nothing, as the first of a run does, or the newest record of a run.
    heads: set[tuple[int, str | None]] = {_NOTHING}
    hashes: dict[str, str] = {}
    for path in _files(directory):
        content = sha256()
        for index, line in enumerate(_lines(path), 1):
            content.update(line)
            if problem is not None or not line.strip():
                continue
            records += 1
            record = _checked(line.rstrip(b"\r\n"))
            if record is None:
                problem = f"{path.name}, line {index}: this is no record of fapilog 0.3.5, or was altered"
                continue
            follows = record.sequence_number - 1, record.previous_hash
            if follows not in heads:
                problem = f"{path.name}, line {index}: record {record.sequence_number} follows no record in front of it"
                continue
            if follows == _NOTHING:
                runs += 1
            else:
                heads.remove(follows)
            number, checksum = record.sequence_number, record.checksum
            heads.add((number, checksum))
        hashes[path.name] = content.hexdigest()
    return EarlierTrail(
        records=records, runs=runs, sequence_number=number, checksum=checksum, files=hashes, problem=problem
    )


def as_metadata(trail: EarlierTrail) -> dict[str, Any]:
    """Return the metadata of the first record of a trail that continues *trail*."""
    return {"fapilog.continues": {"written_by": "fapilog 0.3.5 or earlier", **msgspec.to_builtins(trail)}}


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("audit_????-??-??.jsonl"))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except OSError as error:
        raise AuditStorageError(f"cannot read {path}: {error.strerror or error}") from error


def _checked(line: bytes) -> _Record | None:
    """Return the record that *line* is, if its checksum is right."""
    try:
        record = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if not line.startswith(EARLIER + record.checksum.encode() + b'",'):
        return None
    return record if sha256(b"{" + line[_COVERED:]).hexdigest() == record.checksum else None
