"""An incomplete record that a crash or a full disk left at the end of a file: it is kept, in a file of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from ...record.chain import ChainError, ChainHead, ChainStatus
from ...tasks.strangers import Log
from .access import Access
from .descriptors import closing, sync, write_all
from .directory import open_file, reading, sync_directory
from .lines import Lines

__all__ = ["Torn", "follow_older"]

_log: Final = Log("fapilog")


class Torn(NamedTuple):
    """
    The end of a file, which no newline ends.

    Attributes:
        directory: The directory of the file.
        name: The name of the file.
        offset: Behind the last whole record.
        rest: From there to the end of the file.
    """

    directory: Path
    name: str
    offset: int
    rest: bytes

    def mend(self, fd: int, head: ChainHead, access: Access, *, is_followed: bool) -> tuple[ChainHead, int, bool]:
        """
        End the record if it lacks only its newline, or else set it aside.

        Args:
            fd: The file, open.
            head: The head of the chain up to here.
            access: For the file that it is set aside in.
            is_followed: Whether there are records in later files.

        Returns:
            The head of the chain; where the records of the file end; and whether more can be appended to the file.

        Raises:
            OSError: The next attempt continues the work.
            ChainError: No crash has left this.
        """
        lines = Lines(fd, self.name)
        if is_followed:
            self.require_set_aside(lines, head)
            return head, self.offset, False
        if last := lines.follow_rest(self.offset, head, self.rest):
            write_all(fd, b"\n")
            sync(fd)
            return last, self.offset + len(self.rest) + 1, True
        is_cut = self._set_aside(fd, access)
        sync(fd)
        return head, self.offset, is_cut

    def require_set_aside(self, lines: Lines, head: ChainHead) -> None:
        """Raise `ChainError` with the *head* up to here, of a file that others follow, unless it `is_set_aside`."""
        if not self.is_set_aside():
            message = "the record is incomplete, and more follow"
            raise lines.placed(ChainError(ChainStatus.UNREADABLE, message, head), self.offset)

    def is_set_aside(self) -> bool:
        """
        Return whether the rest was set aside and could not be cut off.

        The chain is no weaker by that: had it been a whole record once, the next would name another one before itself.

        Raises:
            OSError: The file that it was set aside in can't be read.
        """
        try:
            with reading(self.directory, self._aside) as fd:
                return os.pread(fd, len(self.rest) + 1, 0) == self.rest
        except FileNotFoundError:
            return False

    @property
    def _aside(self) -> str:
        # Named by its content: after a crash in here, the next attempt writes the same file again.
        return f"{self.name}.torn-{self.offset}-{sha256(self.rest).hexdigest()[:16]}"

    def _set_aside(self, fd: int, access: Access) -> bool:
        """Copy the rest into a file of its own, and return whether it could be cut off from this one."""
        if not self.is_set_aside():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with closing(open_file(self.directory, self._aside, flags)) as aside_fd:
                access.give(aside_fd, self.directory)
                write_all(aside_fd, self.rest)
                os.fsync(aside_fd)
            sync_directory(self.directory)
        words = "an incomplete record of %d bytes in %s was set aside in %s"
        try:
            os.ftruncate(fd, self.offset)
        except PermissionError:
            # Of an append-only file (`chattr +a`).
            words = "an incomplete record of %d bytes in %s was copied to %s, and the next record begins another file"
            is_cut = False
        else:
            is_cut = True
        _log.warning(words, len(self.rest), self.name, self._aside)
        return is_cut


def follow_older(
    directory: Path, lines: Lines, offset: int, head: ChainHead, progress: Callable[[int], None] | None = None
) -> ChainHead:
    """Check *lines* as `Lines.follow` does, where others follow in later files; an end that is torn was set aside."""
    head, size, rest = lines.follow(offset, head, progress)
    if rest:
        Torn(directory, lines.name, size, rest).require_set_aside(lines, head)
    return head
