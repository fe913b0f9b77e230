"""Reads a trail without fapilog: what it must find there is what the record format promises."""

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["lines", "records"]


def lines(directory: Path) -> list[bytes]:
    """Return all lines of the trail, without their newlines, in order; a piece that no newline ends is one too."""
    files = sorted(directory.glob("audit_*.jsonl"))
    return [line for file in files for line in file.read_bytes().split(b"\n") if line]


def records(directory: Path) -> list[dict[str, Any]]:
    """Return the records of the trail in *directory*, after checking their chain with the standard library only."""
    found: list[dict[str, Any]] = []
    previous = None
    for number, line in enumerate(lines(directory), 1):
        record = json.loads(line)
        sealed, _, rest = line.rpartition(b',"checksum":"')
        assert rest == record["checksum"].encode() + b'"}', line
        assert hashlib.sha256(sealed + b"}").hexdigest() == record["checksum"], line
        assert (record["v"], record["sequence_number"], record["previous_hash"]) == (2, number, previous), line
        previous = record["checksum"]
        found.append(record)
    return found
