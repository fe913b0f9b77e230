"""
Going on behind damage: a record that seals the damaged bytes as they were found.

A trail that is damaged takes no more records. `recover` appends one all the same, of the operator, which names where
the damage begins, how many bytes it has, and their SHA-256. Nothing is changed and nothing deleted. From then on
writers continue behind that record. A verification that comes to damage looks for the record that has sealed it: if the
bytes are unchanged, it continues behind them, and its verdict is "recovered" for ever; it never is "ok".
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from ...record import chain
from ...record.chain import ChainHead
from ...record.events import AuditEvent
from ...record.formats import decoded
from ...record.kinds import AuditEventType, AuditLogLevel
from .._anchor import start_of
from .descriptors import closing, sync, write_all
from .directory import open_file, reading, size_of
from .lines import Lines, PlacedError, lines_of, placed
from .locking import locked
from .names import names
from .torn import follow_older

__all__ = ["Break", "Resumption", "Start", "last_seal", "recover", "sealed_break", "sealed_places"]

_MEMBER: Final = "fapilog.recovered"
_NEEDLE: Final = f'"{_MEMBER}":{{'.encode()
_BLOCK_BYTES: Final = 1 << 18


class Break(msgspec.Struct, frozen=True, kw_only=True):
    """
    Damage as a record seals it; a member of that record's metadata.

    Attributes:
        file: The file in which it begins.
        offset: The byte with which it begins.
        size: How many bytes it has, in that file and the next ones. It may be 0, if records were cut out.
        sha256: The hash of these bytes.
        after: The number of the last record before it.
        checksum: The checksum of that record.
        status: The kind of damage.
    """

    file: str
    offset: int
    size: int
    sha256: str
    after: int
    checksum: str | None
    status: str


class Start(NamedTuple):
    """Where a chain is followed from: the index of a file, an offset in it, and the head of the chain up to there."""

    file: int
    offset: int
    head: ChainHead


class Resumption(NamedTuple):
    """Where a chain resumes behind sealed damage: the index of a file, an offset, a head; and the record that seals."""

    file: int
    offset: int
    head: ChainHead
    record: int


def sealed_break(directory: Path, files: list[str], damage: PlacedError) -> Resumption | None:
    """
    Return where the chain resumes behind *damage*; None if no record has sealed it as it is.

    Raises:
        OSError: A file can't be read.
    """
    first, begin = files.index(damage.file), damage.offset
    seals: list[tuple[int, str, int]] = []
    for name in files[first:]:
        for line, seal in _seals(directory, name, begin):
            place = (seal.file, seal.offset, ChainHead(seal.after, seal.checksum))
            if place == (damage.file, damage.offset, damage.head):
                seals.append((seal.size, seal.sha256, chain.head_before(line).sequence_number + 1))
        begin = 0
    ends = _hashed(directory, files, first, damage.offset, [size for size, _, _ in seals])
    for size, digest, record in seals:
        if size in ends and ends[size].sha256 == digest and (found := _behind(directory, files, ends[size], record)):
            return found
    return None


def sealed_places(directory: Path, files: Iterable[str]) -> set[tuple[str, int]]:
    """Return the files and offsets where the damage begins that records in *files* claim to seal."""
    return {(seal.file, seal.offset) for name in files for _, seal in _seals(directory, name, 0)}


def last_seal(directory: Path, files: list[str], first: int, offset: int) -> Start | None:
    """Return where the last record that seals damage begins, from *offset* of the file *first* on."""
    for index in range(len(files) - 1, first - 1, -1):
        with lines_of(directory, files[index]) as lines:
            begin, end = offset if index == first else 0, lines.end()
            for start in reversed(lines.blocks(begin, end)):
                # As fast as grep, whatever is there: every writer of the trail waits meanwhile.
                for place, line in reversed(lines.having([_NEEDLE], start, end)):
                    if place >= begin and _seal_in(line) is not None:
                        return Start(index, place, chain.head_before(line))
    return None


def _seals(directory: Path, name: str, begin: int) -> Iterator[tuple[bytes, Break]]:
    with lines_of(directory, name) as lines:
        end = lines.end()
        for start in lines.blocks(begin, end):
            offset, data = lines.block(start, end)
            if _NEEDLE in data:
                for _, line in placed(offset, data):
                    if _NEEDLE in line and (seal := _seal_in(line)) is not None:
                        yield line, seal


def _seal_in(line: bytes) -> Break | None:
    """Return the break that the whole record *line* seals, if it does that."""
    if chain.head_behind(line) is None:
        return None
    try:
        return msgspec.convert(dict(decoded(line).metadata[_MEMBER]), Break)
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, ValueError):
        return None


def _behind(directory: Path, files: list[str], end: _Hashed, record: int) -> Resumption | None:
    """Return where the chain resumes at the *end* of the bytes that *record* seals; None if no record begins there."""
    if end.file == len(files):
        return None
    with lines_of(directory, files[end.file]) as lines:
        next_line = lines.first_from(end.offset, lines.end())
    if next_line is None or next_line[0] != end.offset or chain.head_behind(next_line[1]) is None:
        return None
    return Resumption(end.file, end.offset, chain.head_before(next_line[1]), record)


class _Hashed(NamedTuple):
    """The file and the offset behind some bytes, and their hash."""

    file: int
    offset: int
    sha256: str


def _hashed(directory: Path, files: list[str], index: int, offset: int, sizes: Iterable[int]) -> dict[int, _Hashed]:
    """Return the ends and the hashes of so many bytes, by their *sizes*, as far as there are so many."""
    # Read once, however many records claim to seal them: an attacker writes as many as fit.
    left = sorted({size for size in sizes if size >= 0}, reverse=True)
    found: dict[int, _Hashed] = {}
    digest, count = sha256(), 0
    while left and index < len(files):
        with reading(directory, files[index]) as fd:
            end = os.fstat(fd).st_size
            while left and offset < end:
                if count == left[-1]:
                    found[left.pop()] = _Hashed(index, offset, digest.hexdigest())
                elif block := os.pread(fd, min(_BLOCK_BYTES, left[-1] - count), offset):
                    digest.update(block)
                    offset, count = offset + len(block), count + len(block)
                else:
                    break
        index, offset = index + 1, 0
    if left and count == left[-1]:
        found[count] = _Hashed(len(files), 0, digest.hexdigest())
    return found


class _Damage(NamedTuple):
    """The first damage, the end of the last (None: the end of the trail), and the head that the next record follows."""

    first: PlacedError
    end: tuple[int, int] | None
    head: ChainHead


def recover(directory: Path, reason: str, *, user_id: str | None = None) -> tuple[int, Break] | None:
    """
    Seal the damage of the trail in *directory* by a record that is appended to it.

    Several damages are sealed as one, from the first to the last. Writers of all processes wait meanwhile.

    Args:
        directory: The directory of the trail; absolute.
        reason: Why, in the words of the operator; they become the `reason` of the record.
        user_id: The operator.

    Returns:
        The number of the record, and the damage that it seals; None if there is nothing to seal: the trail is intact,
        or a crash has left an incomplete record at its end, which the next writer sets aside.

    Raises:
        OSError: A file can't be read or written, or another process holds the lock on the trail.
    """
    with locked(directory, fcntl.LOCK_EX):
        files = names(directory)
        found = _damage(directory, files)
        return None if found is None else _seal(directory, files, found, reason, user_id)


def _damage(directory: Path, files: list[str]) -> _Damage | None:
    """Find the first damage that no record has sealed, and the end of the last."""
    found: _Damage | None = None
    index, offset = 0, 0
    head: ChainHead | None = start_of(directory)
    # The greatest number so far. The chain resumes with no smaller one, so that the record that seals gets a number
    # which no intact record has, and no writer after it either: where records changed their order, all are sealed.
    reached = 0
    while index < len(files):
        name = files[index]
        with lines_of(directory, name) as lines:
            try:
                if head is not None:
                    if found is None and name == files[-1]:
                        head, size, rest = lines.follow(offset, head)
                        # A writer repairs the rest that a crash leaves behind the last record; else it is damage.
                        lines.follow_rest(size, head, rest)
                    else:
                        head = follow_older(directory, lines, offset, head)
                    reached = head.sequence_number
                    found = found and found._replace(head=head)
                    index, offset = index + 1, 0
                    continue
            except PlacedError as damage:
                if found is None and (seal := sealed_break(directory, files, damage)) is not None:
                    index, offset, head = seal.file, seal.offset, seal.head
                    continue
                found = _Damage(damage if found is None else found.first, None, damage.head)
                reached, offset = damage.head.sequence_number, damage.offset
            assert found is not None  # noqa: S101 - the chain was lost here or before
            whole = _next_whole(lines, offset, reached)
            if whole is not None:
                offset, head = whole
                found = _Damage(found.first, (index, offset), head)
                continue
            end = lines.end()
            count = lines.count(offset, end)
            if name == files[-1] and lines.size > end:
                count += 1  # `_seal` makes a line of the rest
            # So these lines have the same numbers for those who count them from the record behind and from the one
            # before.
            head = ChainHead(found.head.sequence_number + count, found.head.checksum)
            found, head = _Damage(found.first, None, head), None
        index, offset = index + 1, 0
    return found


def _next_whole(lines: Lines, offset: int, reached: int) -> tuple[int, ChainHead] | None:
    """Return where the next whole record behind number *reached* begins, and the head that it claims to follow."""
    for place, line in lines.forwards(offset, lines.end()):
        if chain.head_behind(line) is not None and (head := chain.head_before(line)).sequence_number >= reached:
            return place, head
    return None


def _seal(directory: Path, files: list[str], damage: _Damage, reason: str, user_id: str | None) -> tuple[int, Break]:
    with closing(open_file(directory, files[-1], os.O_RDWR | os.O_APPEND)) as fd:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            write_all(fd, b"\n")
            sync(fd)
    first = damage.first
    begin = files.index(first.file)
    sizes = [size_of(directory, each) for each in files[begin:]]
    end, rest = (len(files), 0) if damage.end is None else damage.end
    span = sum(sizes[: end - begin]) + rest - first.offset
    hashed = _hashed(directory, files, begin, first.offset, [span])
    seal = Break(
        file=first.file,
        offset=first.offset,
        size=span,
        sha256=hashed[span].sha256 if span in hashed else "",
        after=first.head.sequence_number,
        checksum=first.head.checksum,
        status=first.status.value,
    )
    metadata: dict[str, Any] = {_MEMBER: msgspec.to_builtins(seal)}
    event = AuditEvent(
        event_type=AuditEventType.AUDIT_LOG_LIFECYCLE,
        log_level=AuditLogLevel.SECURITY,
        message="the trail goes on behind damage, which this record seals as it was found",
        operation="recover",
        user_id=user_id,
        reason=reason,
        hostname=os.uname().nodename,
        process_id=os.getpid(),
        metadata=metadata,
    )
    line, (number, _, _) = chain.seal(chain.body(event), damage.head.sequence_number + 1, damage.head.checksum)
    with closing(open_file(directory, files[-1], os.O_RDWR | os.O_APPEND)) as fd:
        write_all(fd, line)
        sync(fd)
    return number, seal
