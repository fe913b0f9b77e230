"""Reading the records of one file: forwards to check them or from some record on, backwards to find them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Final

from ..record import chain
from ..record.chain import Chain, ChainError, ChainStatus

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
        self, offset: int, walk: Chain | None, progress: Callable[[int], None] | None = None
    ) -> tuple[Chain | None, int, bytes]:
        """
        Check the records from *offset* on.

        Args:
            offset: Where to begin; without *walk*, at the first line that begins there or later.
            walk: The chain up to there; None to believe the first record.
            progress: Told the last sequence number after each block.

        Returns:
            The chain up to the last whole record, if there is one; the offset behind that; what is there without a
            newline.

        Raises:
            ChainError: A record is not as it should be; the message names file and line.
        """
        skips = walk is None and offset > 0
        offset -= skips
        rest = b""
        while block := os.pread(self._fd, _BLOCK_BYTES, offset + len(rest)):
            *lines, end = (rest + block).split(b"\n")
            behind = offset + len(rest) + len(block) - len(end)
            if skips and lines:
                offset += len(lines.pop(0)) + 1
                skips = False
            if lines:
                walk = self._follow_block(lines, offset, walk)
                if progress is not None:
                    progress(walk.sequence_number)
            offset, rest = behind, end
            self._limit(rest, offset)
        return walk, offset, rest

    def backwards(self, end: int) -> Iterator[tuple[int, bytes]]:
        """Yield the lines from *end*, which is behind a newline, to the first, with their offsets."""
        offset = end - 1
        rest = b""
        while offset > 0:
            size = min(_BLOCK_BYTES, offset)
            offset -= size
            rest, *lines = (os.pread(self._fd, size, offset) + rest).split(b"\n")
            position = offset + len(rest) + 1 + sum(len(line) + 1 for line in lines)
            for line in reversed(lines):
                position -= len(line) + 1
                yield position, line
            self._limit(rest, offset)
        if end:
            yield 0, rest

    def end(self) -> int:
        """Return the offset behind the last newline; what is there is a record that is being written, or torn."""
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

    def after(self, sequence_number: int, end: int) -> Iterator[tuple[int, bytes]]:
        """
        Yield the records up to *end* that come after the one with *sequence_number*, with their offsets.

        Raises:
            ChainError: A line on the way is no record; the message names file and line.
        """
        # The first that is wanted begins at *low* or later, and no later than the first line behind *high*.
        low, high = 0, end
        while high - low > _BLOCK_BYTES:
            middle = (low + high) // 2
            behind = next(itertools.islice(self.forwards(middle, end), 1, None), None)
            if behind is None or self.number(*behind) > sequence_number:
                high = middle
            else:
                low = behind[0]
        for offset, line in self.forwards(low, end):
            if self.number(offset, line) > sequence_number:
                yield offset, line

    def number(self, offset: int, line: bytes) -> int:
        """
        Return the sequence number of the record at *offset*, by its own account.

        Raises:
            ChainError: It is no record; the message names file and line.
        """
        try:
            return Chain.before(line).sequence_number + 1
        except ChainError as damage:
            raise self.placed(damage, offset) from None

    def lack_only_newline(self, offset: int, rest: bytes, walk: Chain | None) -> bool:
        """
        Return whether *rest*, which the file ends with, is the next record but for its newline; else a crash left it.

        Raises:
            ChainError: It is neither; the message names file and line.
        """
        try:
            if chain.incomplete(rest):
                return False
            (walk or Chain.before(rest)).follow([rest])
        except ChainError as damage:
            raise self.placed(damage, offset) from None
        return True

    def placed(self, damage: ChainError, offset: int) -> ChainError:
        """Return *damage* with the file, and the line that begins at *offset*."""
        blocks = (
            os.pread(self._fd, min(_BLOCK_BYTES, offset - start), start) for start in range(0, offset, _BLOCK_BYTES)
        )
        number = 1 + sum(block.count(b"\n") for block in blocks)
        return ChainError(damage.status, f"{self._name}, line {number}: {damage}")

    def _follow_block(self, lines: list[bytes], offset: int, walk: Chain | None) -> Chain:
        before = 0
        try:
            if walk is None:
                walk = Chain.before(lines[0])
            before = walk.sequence_number
            walk.follow(lines)
        except ChainError as damage:
            good = 0 if walk is None else walk.sequence_number - before
            raise self.placed(damage, offset + sum(len(line) + 1 for line in lines[:good])) from None
        return walk

    def _limit(self, rest: bytes, offset: int) -> None:
        if len(rest) <= MAX_RECORD_BYTES:
            return
        # After a power cut some file systems have the size of all that was written at once, and zeros for its bytes.
        if len(rest.rstrip(b"\0")) > MAX_RECORD_BYTES or len(rest) > _MAX_ZEROS:
            raise self.placed(ChainError(ChainStatus.UNREADABLE, "longer than a record can be"), offset)
