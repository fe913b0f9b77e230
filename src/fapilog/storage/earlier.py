"""
Trails of the earlier fapilog, up to 0.3.5: read and verified as they are, and continued by a new trail.

There a record is a line of JSON with sorted keys, so that ``checksum`` comes first. It is the SHA-256 of the line
without that member. Every process began a chain of its own, from number 1: a directory holds one or several runs. The
records of processes that wrote at the same time, the workers of a server for example, stand between each other.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from ..record.chain import AuditChainVerificationResult, ChainStatus
from ..record.damage import DamagedRecord
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.formats import EARLIER, is_earlier, taken, target_in
from ..record.options import require_path
from ..record.privacy import without_frames
from ..tasks.threads import in_thread
from ._files.access import cannot
from ._files.directory import open_file
from ._holes import joined, up_to
from ._verdicts import unreadable
from .protocol import EventFilter

__all__ = ["EarlierStorage", "EarlierTrail", "as_metadata", "is_of_earlier", "verify_earlier"]

_COVERED: Final = len(EARLIER) + 64 + len(b'",')
_NOTHING: Final = (0, None)
# Lines that are read at once.
_PAGE: Final = 500
# Under which the metadata have the members of a record that an event has not, or has of its own chain.
_OF_EARLIER: Final = "fapilog.earlier"
_SEAL: Final = ("sequence_number", "previous_hash", "checksum")


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
        status: The kind of damage.
    """

    records: int
    runs: int
    sequence_number: int
    checksum: str | None
    files: dict[str, str]
    problem: str | None = None
    status: ChainStatus = ChainStatus.OK


class _Record(msgspec.Struct):
    checksum: str
    sequence_number: int
    previous_hash: str | None


_decode: Final = msgspec.json.Decoder(_Record).decode
_LONGEST_LINE: Final = 64 << 20


def is_of_earlier(directory: Path) -> bool:
    """Return whether the first record of the trail in *directory* was written by the earlier fapilog."""
    # The next search for a trail of ours reports a file that can't be read.
    with contextlib.suppress(AuditStorageError):
        # A disk that was full has left a file without a record.
        lines = (line for name in _names(directory) for line in _lines(directory, name) if not line.isspace())
        return is_earlier(next(lines, b""))
    return False


def verify_earlier(directory: Path, progress: Callable[[int], None] | None = None) -> EarlierTrail:
    """
    Check every record of a trail of the earlier fapilog, by its own rule; damage is returned, not raised.

    A record is the first of a run, or follows the newest one of a run. Nothing tells whether the last records of a run
    were cut off.

    Args:
        directory: The directory of the trail.
        progress: Called now and then with how many records were checked so far.

    Raises:
        AuditStorageError: A file can't be read.
    """
    records = runs = number = 0
    checksum: str | None = None
    problem: str | None = None
    status = ChainStatus.OK
    # What the next record may follow: nothing, as the first of a run does, or the newest record of a run.
    heads: set[tuple[int, str | None]] = {_NOTHING}
    hashes: dict[str, str] = {}
    for name in _names(directory):
        content = sha256()
        for index, line in enumerate(_lines(directory, name), 1):
            content.update(line)
            if problem is not None or not line.strip():
                continue
            records += 1
            if progress is not None and records % _PAGE == 0:
                progress(records)
            record = _checked(line.rstrip(b"\r\n"))
            if record is None:
                status = ChainStatus.ALTERED
                problem = f"{name}, line {index}: this is no record of fapilog 0.3.5, or was altered"
                continue
            follows = record.sequence_number - 1, record.previous_hash
            if follows not in heads:
                status = ChainStatus.BROKEN_LINK
                problem = f"{name}, line {index}: record {record.sequence_number} follows no record in front of it"
                continue
            if follows == _NOTHING:
                runs += 1
            else:
                heads.remove(follows)
            number, checksum = record.sequence_number, record.checksum
            heads.add((number, checksum))
        hashes[name] = content.hexdigest()
    return EarlierTrail(
        records=records,
        runs=runs,
        sequence_number=number,
        checksum=checksum,
        files=hashes,
        problem=problem,
        status=status,
    )


def as_metadata(trail: EarlierTrail) -> dict[str, Any]:
    """Return the metadata of the first record of a trail that continues *trail*."""
    return {"fapilog.continues": {"written_by": "fapilog 0.3.5 or earlier", **msgspec.to_builtins(trail)}}


class _Page(NamedTuple):
    """Where some lines begin; the first of them is the record with this number."""

    name: str
    offset: int
    number: int


class EarlierStorage:
    """
    A trail of fapilog 0.3.5 or earlier, as a storage for reading.

        trail = AuditTrail(storage=EarlierStorage("old"))

    Its chains are checked by `verify`, by their own rule, and are not the chain of events that are read here: the
    `sequence_number` of an event counts the records as they stand in the files, and it has no `checksum`. The metadata
    have the members of the record that an event has not under ``fapilog.earlier``, its number, its hashes and its
    signature among them. The resource of an access is the `target` too; and the address and the user agent of a
    security event, which are in the metadata, fill their own members.

    The trail is read by pages: memory does not grow with it. A question without a condition on numbers decodes every
    record until it has enough events.

    Args:
        directory: The directory of the trail. ``~`` is the home directory.

    Raises:
        TypeError: *directory* is no path.
        ValueError: *directory* is a text that none can be called.
    """

    #: Without an event loop every method blocks the calling thread.
    runs_anywhere = True

    def __init__(self, directory: Path | str) -> None:
        self._directory = require_path("directory", directory).absolute()
        # The files as they were, with their sizes and times, and the pages that were found in them.
        self._known: tuple[list[tuple[str, int, int]], list[_Page]] = [], []

    def __repr__(self) -> str:
        return f"<EarlierStorage {str(self._directory)!r}>"

    async def append(self, event: AuditEvent, *, once: bool = False) -> NoReturn:  # noqa: ARG002  of the protocol
        """Raise AuditStorageError: a new trail continues this one."""
        raise AuditStorageError(f"{self._directory}: a trail of the earlier fapilog is read, and not written to")

    @without_frames
    async def find(self, wanted: EventFilter, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.find`; raise AuditStorageError if a file can't be read."""
        return await in_thread(self._find, wanted, limit, is_left=True)

    @without_frames
    async def read(self, after: int, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """Do as `AuditStorage.read`; raise AuditStorageError if a file can't be read."""
        return await in_thread(self._read, after, limit, is_left=True)

    @without_frames
    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        """Return the records as they are stored, of which each has a checksum of the earlier kind; raises as `read`."""
        return await in_thread(self._read_lines, after, limit, is_left=True)

    @without_frames
    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Check every run of the trail as `verify_earlier` does; damage is returned, not raised."""
        return await in_thread(self._verify, progress, is_left=True)

    async def aclose(self) -> None:
        """Do nothing: nothing stays open."""

    def _find(self, wanted: EventFilter, limit: int) -> list[AuditEvent | DamagedRecord]:
        pages = self._behind(wanted.after or 0)
        if wanted.before is not None:
            pages = pages[: bisect_right(pages, wanted.before - 1, key=_number)]
        items = (item for page in reversed(pages) for item in reversed(list(self._items(page))))
        return list(up_to(limit, joined(item for item in items if _is_wanted(wanted, item))))

    def _read(self, after: int, limit: int) -> list[AuditEvent | DamagedRecord]:
        items = (item for page in self._behind(after) for item in self._items(page, after))
        return list(up_to(limit, joined(items)))

    def _read_lines(self, after: int, limit: int) -> list[bytes]:
        lines = (line for page in self._behind(after) for number, _, line in self._records(page) if number > after)
        return [line.rstrip(b"\r\n") for line in islice(lines, max(0, limit))]

    def _verify(self, progress: Callable[[int], None] | None) -> AuditChainVerificationResult:
        try:
            found = verify_earlier(self._directory, progress)
        except AuditStorageError as error:
            return unreadable(error)
        return AuditChainVerificationResult(
            valid=found.problem is None,
            events_checked=found.records,
            first_invalid_sequence=None if found.problem is None else found.records,
            error_message=None if found.problem is None else f"{self._directory}: {found.problem}",
            status=found.status,
        )

    def _pages(self) -> list[_Page]:
        files, pages = self._known
        try:
            names = _names(self._directory)
            stats = [(name, (self._directory / name).stat()) for name in names]
        except OSError as error:
            raise cannot("read", self._directory, error) from error
        now = [(name, found.st_size, found.st_mtime_ns) for name, found in stats]
        if now != files:
            pages = list(self._counted(names))
            self._known = now, pages
        return pages

    def _counted(self, names: Iterable[str]) -> Iterator[_Page]:
        number = 1
        for name in names:
            offset = 0
            for index, line in enumerate(_lines(self._directory, name)):
                if index % _PAGE == 0:
                    yield _Page(name, offset, number)
                offset += len(line)
                number += not line.isspace()

    def _behind(self, after: int) -> list[_Page]:
        """Return the pages that may have a record with a greater number than *after*."""
        pages = self._pages()
        return pages[max(0, bisect_right(pages, after + 1, key=_number) - 1) :]

    def _records(self, page: _Page) -> Iterator[tuple[int, int, bytes]]:
        """Yield the number, the offset and the line of every record of a page."""
        number, offset = page.number, page.offset
        for line in islice(_lines(self._directory, page.name, offset), _PAGE):
            if not line.isspace():
                yield number, offset, line
                number += 1
            offset += len(line)

    def _items(self, page: _Page, after: int = 0) -> Iterator[AuditEvent | DamagedRecord]:
        for number, offset, line in self._records(page):
            if number <= after:
                continue
            try:
                yield _event(line, number)
            except (msgspec.MsgspecError, RecursionError, ValueError):
                problem = "this is no record of fapilog 0.3.5"
                yield DamagedRecord(file=page.name, offset=offset, size=len(line), problem=problem)


def _number(page: _Page) -> int:
    return page.number


def _is_wanted(wanted: EventFilter, item: AuditEvent | DamagedRecord) -> bool:
    return isinstance(item, DamagedRecord) or wanted.matches(item)


def _event(line: bytes, number: int) -> AuditEvent:
    """Return the event in *line*, which is the record with that number; raises what msgspec does if it is none."""
    members: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    found = taken(members)
    metadata = dict(found.pop("metadata", {}))
    own = {name: value for name, value in members.items() if value and (name not in found or name in _SEAL)}
    own.pop("metadata", None)
    for name in ("client_ip", "user_agent"):
        if found.get(name) is None and isinstance(metadata.get(name), str):
            found[name] = metadata[name]
    found |= {**dict.fromkeys(_SEAL), "sequence_number": number}
    return AuditEvent(**found, target=target_in(metadata), metadata={**metadata, _OF_EARLIER: own})


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("audit_????-??-??.jsonl"))


def _lines(directory: Path, name: str, offset: int = 0) -> Iterator[bytes]:
    try:
        with os.fdopen(open_file(directory, name), "rb") as file:
            file.seek(offset)
            # A longer line is none of its records, and might not fit into memory.
            while line := file.readline(_LONGEST_LINE):
                yield line
    except OSError as error:
        raise AuditStorageError(f"cannot read {directory / name}: {error.strerror or error}") from error


def _checked(line: bytes) -> _Record | None:
    """Return the record that *line* is, if its checksum is right."""
    try:
        record = _decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    if not line.startswith(EARLIER + record.checksum.encode() + b'",'):
        return None
    return record if sha256(b"{" + line[_COVERED:]).hexdigest() == record.checksum else None
