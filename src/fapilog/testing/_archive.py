"""A check of any archive against the contract of `Archive`."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from ..record.errors import AuditStorageError
from ..record.values import kind_of
from ..storage.archive import Archive, PackedFile

__all__ = ["check_archive"]

_FIRST: Final = b'{"message":"first"}\n' * 9000
_OTHER: Final = b'{"message":"other"}\n' * 9000


def check_archive(archive: Archive) -> None:
    """
    Check that an archive keeps the contract of `Archive`; return if it does.

    Every clause has a name, which a failure begins with:

    - *put*: a file is there with its name, its size and its bytes, and `prove` says so, also if it is put twice.
    - *once*: another file of the same name changes nothing, and `prove` refuses it.
    - *recompressed*: `prove` accepts a file whose decompressed bytes equal the archive's.
    - *open*: every caller reads a file of its own, seekable; with a size, the first bytes at least.
    - *missing*: for a missing file, `prove` and `open` raise `AuditStorageError`.

    Args:
        archive: An empty archive; two files stay in it. Where files are locked, they are for a day or a little longer.

    Raises:
        AssertionError: It does not; the message begins with the name of the clause.
        ValueError: The archive is not empty.
    """
    if archive.sizes():
        raise ValueError("archive: expected an empty one; got one with files")
    with tempfile.TemporaryDirectory(prefix="fapilog-") as here:
        first, second = _packed(here, "2026-01-01", _FIRST), _packed(here, "2026-01-02", _OTHER)
        _refused("missing", "prove", lambda: archive.prove(first))
        _refused("missing", "open", lambda: archive.open(first.path.name).close())
        for file in (first, second, first):
            archive.put(file)
            archive.prove(file)
        names = {file.path.name: file.size for file in (first, second)}
        _require("put", "sizes has the names and sizes of the stored files", found=dict(archive.sizes()) == names)
        name, data = first.path.name, first.path.read_bytes()
        with (
            contextlib.closing(archive.open(name)) as one,
            contextlib.closing(archive.open(name)) as two,
        ):
            _require("put", "open gives the bytes that were put", found=one.read() == data)
            one.seek(3)
            _require("open", "a file can be read again from any place", found=one.read() == data[3:])
            _require("open", "two callers read by themselves", found=two.read(9) == data[:9])
        with contextlib.closing(archive.open(name, 20)) as begun:
            _require("open", "the first bytes are there", found=begun.read(20) == data[:20])
        other = _packed(here, "2026-01-01", _OTHER)
        archive.put(other)
        _refused("once", "prove of another file", lambda: archive.prove(other))
        with contextlib.closing(archive.open(name)) as file_there:
            _require("once", "the first file is still there", found=file_there.read() == data)
        recompressed = _packed(here, "2026-01-01", _FIRST, level=1)
        archive.put(recompressed)
        archive.prove(recompressed)


def _packed(here: str, day: str, content: bytes, *, level: int = 9) -> PackedFile:
    path = Path(here, f"audit_{day}.jsonl.gz")
    path.write_bytes(gzip.compress(content, level, mtime=0))
    data = path.read_bytes()
    today = datetime.now(UTC).date()
    return PackedFile(
        path=path,
        size=len(data),
        sha256=sha256(data).hexdigest(),
        content=sha256(content).hexdigest(),
        # Whatever its name says: so the lock is a short one.
        day=today - timedelta(1),
        retention_days=1,
    )


def _refused(clause: str, what: str, call: Callable[[], object]) -> None:
    try:
        call()
    except AuditStorageError:
        return
    except Exception as error:
        raise AssertionError(f"{clause}: {what} raises {kind_of(error)}, and no AuditStorageError") from error
    raise AssertionError(f"{clause}: {what} raises nothing")


def _require(clause: str, words: str, *, found: bool) -> None:
    if not found:
        raise AssertionError(f"{clause}: expected that {words}")
