"""Reading the records of one file: forwards to check them or from some record on, backwards to find them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Collection, Iterator
from typing import Final

from ..record import chain
from ..record.chain import EMPTY, ChainError, ChainHead, ChainStatus

__all__ = ["MAX_RECORD_BYTES", "Lines"]

MAX_RECORD_BYTES: Final = 1 << 20
"""The longest record that is stored, and so the most that a reader must hold at once."""

_MAX_ZEROS: Final = 64 << 20
# A reader's thread gives up the interpreter lock while it reads a block. Reading a much smaller one is over before the
# event loop's thread has woken up, which would then have to wait for its turn again and again.
_BLOCK_BYTES: Final = 1 << 18


class Lines:
    """
    The lines of one file, read in blocks.

    Args:
        fd: The file, open.
        name: Its name, for messages.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name

    def follow(
        self, offset: int, head: ChainHead, progress: Callable[[int], None] | None = None
    ) -> tuple[ChainHead, int, bytes]:
        """
        Check that the records from *offset* on follow *head*.

        Args:
            offset: Where a record begins, or the file ends.
            head: Of the chain up to there.
            progress: Called after each block with the last sequence number.

        Returns:
            The head after the last whole record, the offset behind that record, and the bytes from there to the end of
            the file, which no newline ends.

        Raises:
            ChainError: A record does not belong where it stands; the message names file and line.
        """
        rest = b""
        while block := os.pread(self._fd, _BLOCK_BYTES, offset + len(rest)):
            *lines, end = (rest + block).split(b"\n")
            behind = offset + len(rest) + len(block) - len(end)
            if lines:
                head = self._follow_block(lines, offset, head)
                if progress is not None:
                    progress(head.sequence_number)
            offset, rest = behind, end
            self._limit(rest, offset, head)
        return head, offset, rest

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

    def backwards(self, end: int, *, begin: int = 0, needles: Collection[bytes] = ()) -> Iterator[tuple[int, bytes]]:
        """
        Yield the lines from *end* to *begin*, the last first, with their offsets.

        Args:
            end: Behind a newline.
            begin: Where a line begins.
            needles: Yield only lines that have all of these in them. A block without them is not cut into lines.
        """
        offset = end - 1
        rest = b""
        while offset > begin:
            size = min(_BLOCK_BYTES, offset - begin)
            offset -= size
            block = os.pread(self._fd, size, offset) + rest
            if all(needle in block for needle in needles):
                rest, *lines = block.split(b"\n")
                position = offset + len(block) + 1
                for line in reversed(lines):
                    position -= len(line) + 1
                    if all(needle in line for needle in needles):
                        yield position, line
            else:
                rest = block.partition(b"\n")[0]
            self._limit(rest, offset)
        if end > begin and all(needle in rest for needle in needles):
            yield begin, rest

    def end(self) -> int:
        """Return the offset behind the last newline; a record that is being written, or is torn, may follow."""
        offset = os.fstat(self._fd).st_size
        while offset > 0:
            size = min(_BLOCK_BYTES, offset)
            offset -= size
            if behind := os.pread(self._fd, size, offset).rfind(b"\n") + 1:
                return offset + behind
        return 0

    def forwards(self, offset: int, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the lines from *offset* to *end*, with their offsets."""
        rest = b""
        while block := os.pread(self._fd, min(_BLOCK_BYTES, end - offset - len(rest)), offset + len(rest)):
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield offset, line
                offset += len(line) + 1
            self._limit(rest, offset)

    def first_from(self, offset: int, end: int) -> tuple[int, bytes] | None:
        """Return the first line that begins at *offset* or later, and is whole before *end*, with its own offset."""
        if offset > end:
            return None
        # A line begins at *offset* if the byte in front of it is a newline.
        lines = self.forwards(max(0, offset - 1), end)
        return next(itertools.islice(lines, min(1, offset), None), None)

    def after(self, sequence_number: int, end: int) -> Iterator[tuple[int, bytes]]:
        """
        Yield the records up to *end* that come after the one with *sequence_number*, with their offsets.

        Raises:
            ChainError: A line on the way is no record; the message names file and line.
        """
        # The first wanted record begins at *low* or later, and no later than the first line after *high*.
        low, high = 0, end
        while high - low > _BLOCK_BYTES:
            middle = (low + high) // 2
            behind = self.first_from(middle + 1, end)
            if behind is None or self.head_before(*behind).sequence_number >= sequence_number:
                high = middle
            else:
                low = behind[0]
        for offset, line in self.forwards(low, end):
            if self.head_before(offset, line).sequence_number >= sequence_number:
                yield offset, line

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

    def placed(self, damage: ChainError, offset: int) -> ChainError:
        """Return *damage* with the file, and the number of the line that begins at *offset*."""
        blocks = (
            os.pread(self._fd, min(_BLOCK_BYTES, offset - start), start) for start in range(0, offset, _BLOCK_BYTES)
        )
        number = 1 + sum(block.count(b"\n") for block in blocks)
        return ChainError(damage.status, f"{self._name}, line {number}: {damage}", damage.head)

    def torn_in_the_middle(self, offset: int, head: ChainHead) -> ChainError:
        """Return the damage of a file that ends, from *offset* on, in an incomplete record while others follow."""
        message = "the record is incomplete, and others follow"
        return self.placed(ChainError(ChainStatus.UNREADABLE, message, head), offset)

    def _follow_block(self, lines: list[bytes], offset: int, head: ChainHead) -> ChainHead:
        try:
            return chain.follow(head, lines)
        except ChainError as damage:
            good = damage.head.sequence_number - head.sequence_number
            raise self.placed(damage, offset + sum(len(line) + 1 for line in lines[:good])) from None

    def _limit(self, rest: bytes, offset: int, head: ChainHead = EMPTY) -> None:
        if len(rest) <= MAX_RECORD_BYTES:
            return
        # After a power cut some file systems have the size of all that was written at once, and zeros for its bytes.
        if len(rest.rstrip(b"\0")) > MAX_RECORD_BYTES or len(rest) > _MAX_ZEROS:
            raise self.placed(ChainError(ChainStatus.UNREADABLE, "longer than a record can be", head), offset)
