"""Reading the records of one file: forwards to check them or from some record on, backwards to find them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ...record import chain
from ...record.chain import MAX_RECORD_BYTES, ChainError, ChainHead, ChainStatus
from .._holes import head_of_record
from .directory import reading

__all__ = ["Around", "Lines", "PlacedError", "lines_of", "placed", "placed_backwards", "split"]

_MAX_ZEROS: Final = 64 << 20
# A reader's thread gives up the interpreter lock while it reads a block. Reading a much smaller one is over before the
# event loop's thread has woken up, which would then have to wait for its turn again and again.
_BLOCK_BYTES: Final = 1 << 18
# Of the next block, to complete a line.
_REST_BYTES: Final = 1 << 12
# Lines that are looked at one by one.
_FEW_LINES: Final = 8


def placed(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of *data*, which begins at *offset*, the first one first, with their offsets."""
    for line in split(data):
        yield offset, line
        offset += len(line) + 1


def placed_backwards(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of *data*, which begins at *offset*, the last one first, with their offsets."""
    lines = split(data)
    offset += sum(map(len, lines)) + len(lines)
    for line in reversed(lines):
        offset -= len(line) + 1
        yield offset, line


def _placed_having(needle: bytes, data: bytes, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of *data* from *begin* to *end* that have *needle*, with their places; no others are made."""
    while (found := data.find(needle, begin, end)) >= 0:
        begin, behind = data.rfind(b"\n", begin, found) + 1 or begin, data.find(b"\n", found, end)
        behind = behind if behind >= 0 else end
        yield begin, data[begin:behind]
        begin = behind


def split(data: bytes) -> list[bytes]:
    """Return the lines of *data*, without their newlines."""
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


class PlacedError(ChainError):
    """
    Raised at the first record that does not belong where it stands, of which the place is known.

    Attributes:
        file: The name of the file.
        offset: The offset of the record in the file.
    """

    def __init__(self, damage: ChainError, file: str, number: int, offset: int) -> None:
        super().__init__(damage.status, f"{file}, line {number}: {damage}", damage.head)
        self.file: str = file
        self.offset: int = offset


class Around(NamedTuple):
    """
    The surroundings of a number in one file: the last whole record up to it, and the first whole one after it.

    Attributes:
        offset: The offset of the first of the two.
        behind: The offset behind it; the bytes between the two are damaged.
        place: The offset of the second.
        number: The number of the first; None if there is none.
        next_number: The number of the second; None if there is none.
    """

    offset: int
    behind: int
    place: int
    number: int | None
    next_number: int | None


class Lines:
    """
    The lines of one file, read in blocks.

    Args:
        fd: The file, open.
        name: Its name, for messages.

    Attributes:
        name: As given.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name: str = name

    def follow(
        self, offset: int, head: ChainHead, progress: Callable[[int], None] | None = None
    ) -> tuple[ChainHead, int, bytes]:
        """
        Check that the records from *offset* on follow *head*.

        Args:
            offset: The offset of a record, or of the file's end.
            head: The head of the chain up to there.
            progress: Called after every block with the last sequence number.

        Returns:
            The head after the last whole record, the offset behind that record, and the bytes from there to the end of
            the file, which no newline ends.

        Raises:
            ChainError: A record does not belong where it stands; the message names file and line.
        """
        # The pieces of a line whose newline is not found yet: joined with every block, a long one would take for ever.
        pieces: list[bytes] = []
        size = 0
        while block := os.pread(self._fd, _BLOCK_BYTES, offset + size):
            size += len(block)
            pieces.append(block)
            if b"\n" in block:
                *lines, end = b"".join(pieces).split(b"\n")
                head = self._follow_block(lines, offset, head)
                if progress is not None:
                    progress(head.sequence_number)
                offset, size, pieces = offset + size - len(end), len(end), [end]
            self._limit(size, pieces[-1], offset, head)
        return head, offset, b"".join(pieces)

    def follow_rest(self, offset: int, head: ChainHead, rest: bytes) -> ChainHead | None:
        """
        Check *rest*, the bytes from *offset* to the end of the file, which no newline ends.

        Returns:
            The head after *rest*, if that is the next record and lacks only its newline; None if a crash left *rest*.

        Raises:
            ChainError: *rest* is neither; the message names file and line.
        """
        try:
            return None if chain.incomplete(rest) else chain.follow(head, [rest])
        except ChainError as damage:
            raise self.placed(ChainError(damage.status, str(damage), head), offset) from None

    @staticmethod
    def blocks(begin: int, end: int) -> range:
        """Return where the blocks begin that have the lines from *begin* to *end*; the same ones at every reading."""
        return range(begin - begin % _BLOCK_BYTES, end, _BLOCK_BYTES) if begin < end else range(0)

    def block(self, start: int, end: int, begin: int = 0) -> tuple[int, bytes]:
        """
        Return the lines that begin in the block at *start*, whole, and where the first of them begins.

        A line that is longer than a record can be is cut, and then lacks its newline.

        Args:
            start: One of `blocks`.
            end: The offset behind the newline of the last line of interest.
            begin: The offset from which on lines are of interest.
        """
        stop = self.block_end(start, end)
        # A line begins there if the byte in front of it is a newline.
        offset = max(0, start - 1, begin - 1)
        data = os.pread(self._fd, stop - offset, offset)
        if start or begin:
            first = data.find(b"\n") + 1
            if first in (0, len(data)):
                return stop, b""
            data, offset = data[first:], offset + first
        if stop < end and not data.endswith(b"\n"):
            data += b"".join(self._to_newline(stop, end))
        behind = data.rfind(b"\n") + 1
        # A line without a newline was taken back by its writer meanwhile, unless it is longer than a record can be, or
        # is the whole record with which the file ends.
        is_kept = len(data) - behind > MAX_RECORD_BYTES or offset + len(data) == end
        return offset, data if is_kept else data[:behind]

    @staticmethod
    def block_end(start: int, end: int) -> int:
        """Return where the block at *start* ends, of lines that end at *end*."""
        return min(start + _BLOCK_BYTES, end)

    @staticmethod
    def whole_blocks(begin: int, end: int) -> range:
        """Return where the blocks begin that lines from *begin* to *end* complete, so that nothing is added to them."""
        return range(begin - begin % _BLOCK_BYTES, end - end % _BLOCK_BYTES, _BLOCK_BYTES)

    def view(self, start: int, end: int) -> tuple[int, bytes, int, int]:
        """
        Return bytes in which the lines of the block at *start* are, which are not copied once more.

        Returns:
            Where the bytes begin in the file, the bytes, and where in these the first line begins and the last ends.
        """
        stop, offset = self.block_end(start, end), max(0, start - 1)
        data = os.pread(self._fd, min(stop + _REST_BYTES, end) - offset, offset)
        behind = data.find(b"\n", stop - offset - 1) + 1
        if not behind:
            # The last line of the block ends further on.
            offset, data = self.block(start, end)
            return offset, data, 0, len(data)
        return offset, data, data.find(b"\n") + 1 if start else 0, behind

    def having(self, needles: list[bytes], start: int, end: int) -> list[tuple[int, bytes]]:
        """Return the lines of the block at *start* that have all *needles*, with offsets; as fast as grep."""
        offset, data, begin, behind = self.view(start, end)
        found = ((offset + place, line) for place, line in _placed_having(needles[0], data, begin, behind))
        return [each for each in found if all(needle in each[1] for needle in needles)]

    def _to_newline(self, offset: int, end: int) -> Iterator[bytes]:
        stop = min(end, offset + MAX_RECORD_BYTES + 1)
        while offset < stop and (piece := os.pread(self._fd, min(_REST_BYTES, stop - offset), offset)):
            behind = piece.find(b"\n") + 1
            yield piece[:behind] if behind else piece
            if behind:
                return
            offset += len(piece)

    def forwards(self, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the lines from *begin* to *end*, both behind a newline, with their offsets."""
        for start in self.blocks(begin, end):
            yield from placed(*self.block(start, end, begin))

    def backwards(self, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the lines up to *end*, behind a newline, with their offsets, the last one first."""
        for start in reversed(self.blocks(0, end)):
            yield from placed_backwards(*self.block(start, end))

    def count(self, begin: int, end: int) -> int:
        """Return how many lines there are from *begin* to *end*, of which the last may lack its newline."""
        count, piece = 0, b""
        for start in range(begin, end, _BLOCK_BYTES):
            piece = os.pread(self._fd, min(_BLOCK_BYTES, end - start), start)
            count += piece.count(b"\n")
        return count + (bool(piece) and not piece.endswith(b"\n"))

    @property
    def size(self) -> int:
        """The size of the file."""
        return os.fstat(self._fd).st_size

    def end(self) -> int:
        """Return the offset behind the last newline; a record that is being written, or is torn, may follow."""
        offset = self.size
        # Mostly in the last bytes.
        most = min(_REST_BYTES, _BLOCK_BYTES)
        while offset > 0:
            size, most = min(most, offset), _BLOCK_BYTES
            offset -= size
            if behind := os.pread(self._fd, size, offset).rfind(b"\n") + 1:
                return offset + behind
        return 0

    def end_of_records(self) -> int:
        """Return the same; or the end of the file, if a whole record is there that lacks only its newline."""
        end, size = self.end(), self.size
        is_whole = (
            0 < size - end <= MAX_RECORD_BYTES and head_of_record(os.pread(self._fd, size - end, end)) is not None
        )
        return size if is_whole else end

    def start(self) -> ChainHead | None:
        """Return the head that the first line follows; None if that is no whole record."""
        line, newline, _ = os.pread(self._fd, _REST_BYTES, 0).partition(b"\n")
        if not newline:
            _, line = self.first_from(0, self.end_of_records()) or (0, b"")
        return None if head_of_record(line) is None else chain.head_before(line.removesuffix(b"\r"))

    def end_with(self, head: ChainHead, end: int) -> bool:
        """Return whether the line that ends at *end* is the newest of *head*; at the cost of some bytes."""
        tail = f'"checksum":"{head.checksum}"}}\n'.encode()
        return os.pread(self._fd, len(tail), max(0, end - len(tail))) == tail

    def first_from(self, offset: int, end: int) -> tuple[int, bytes] | None:
        """Return the first line that begins at *offset* or later, and is whole before *end*, with its own offset."""
        return next(self.forwards(offset, end), None)

    def first_record(self, offset: int, end: int) -> tuple[int, int] | None:
        """Return where the first record is that begins at *offset* or later and is whole, and its sequence number."""
        for place, line in self.forwards(offset, end):
            head = head_of_record(line)
            if head is not None:
                return place, head.sequence_number
        return None

    def around(self, sequence_number: int, end: int) -> Around:
        """
        Return the surroundings of a number among the lines up to *end*, if their numbers are in order.

        Only records whose checksum is right count.
        """
        # The last record up to that number begins at *low* or later; the first one after it no later than the first
        # record from *high* on.
        low, high, step = 0, end, _BLOCK_BYTES
        while high - low > _BLOCK_BYTES:
            # In growing steps from the end, near which most wanted records are.
            middle = max((low + high) // 2, high - step)
            found = self.first_record(middle, high)
            if found is None or found[1] > sequence_number:
                high, step = middle, 4 * step
            else:
                low = found[0]
        # The same among the lines of about one block, since every record that is looked at is hashed.
        near = list(self.forwards(low, high))
        first, last = 0, len(near)
        while last - first > _FEW_LINES:
            middle = (first + last) // 2
            heads = ((index, head_of_record(near[index][1])) for index in range(middle, last))
            index, head = next((each for each in heads if each[1] is not None), (last, None))
            if head is None or head.sequence_number > sequence_number:
                last = middle
            else:
                first = index
        low = near[first][0] if near else low
        offset, behind, number = low, low, None
        for place, line in self.forwards(low, end):
            head = head_of_record(line)
            if head is not None:
                if head.sequence_number > sequence_number:
                    return Around(offset, behind, place, number, head.sequence_number)
                offset, behind, number = place, place + len(line) + 1, head.sequence_number
        return Around(offset, behind, end, number, None)

    def head_before(self, offset: int, line: bytes) -> ChainHead:
        """
        Return the head that the record *line*, which begins at *offset*, claims to follow.

        Raises:
            ChainError: *line* is no record; the message names file and line.
        """
        try:
            return chain.head_before(line)
        except ChainError as damage:
            raise self.placed(damage, offset) from None

    def placed(self, damage: ChainError, offset: int) -> PlacedError:
        """Return *damage* with the file, and the number of the line that begins at *offset*."""
        return PlacedError(damage, self.name, 1 + self.count(0, offset), offset)

    def _follow_block(self, lines: list[bytes], offset: int, head: ChainHead) -> ChainHead:
        try:
            return chain.follow(head, lines)
        except ChainError as damage:
            good = damage.head.sequence_number - head.sequence_number
            raise self.placed(damage, offset + sum(len(line) + 1 for line in lines[:good])) from None

    def _limit(self, size: int, last: bytes, offset: int, head: ChainHead) -> None:
        """Check that a line of *size* bytes so far, of which *last* are the last, can be a record, or a torn one."""
        if size <= MAX_RECORD_BYTES:
            return
        # After a power cut some file systems have the size of all that was written at once, and zeros for its bytes.
        record = last.rstrip(b"\0")
        if (record and size - len(last) + len(record) > MAX_RECORD_BYTES) or size > _MAX_ZEROS:
            raise self.placed(ChainError(ChainStatus.UNREADABLE, "longer than a record can be", head), offset)


@contextlib.contextmanager
def lines_of(directory: Path, name: str) -> Generator[Lines]:
    """Open the file *name* for its lines, and close it on leaving; raise as `open_file`."""
    with reading(directory, name) as fd:
        yield Lines(fd, name)
