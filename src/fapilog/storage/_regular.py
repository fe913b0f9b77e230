"""Opening what may be something else than a file: in a directory that others can write to, any name may be a pipe."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import IO, Final

__all__ = ["MAX_SMALL", "content_of_small", "expected_a_file", "no_file", "open_regular", "regular_file"]

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a symbolic link that leads to no file",
}
MAX_SMALL: Final = 16 << 20
"""The longest file beside the days that is read at once: tens of thousands of legal holds."""


def open_regular(path: str | Path, flags: int = os.O_RDONLY) -> int:
    """
    Open a file without waiting, even if it is a pipe.

    Raises:
        OSError: It is no regular file, or can't be opened.
    """
    try:
        # Without waiting for the other end of a pipe, or becoming the terminal's process: "man 2 open".
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except OSError as error:
        if words := no_file(path):
            raise OSError(errno.EINVAL, words) from error
        raise
    is_file = False
    try:
        # Of the open file, since another may have taken its name in the meantime.
        mode = os.fstat(fd).st_mode
        is_file = stat.S_ISREG(mode)
    finally:
        if not is_file:
            with contextlib.suppress(OSError):
                os.close(fd)
    if not is_file:
        raise OSError(errno.EINVAL, expected_a_file(os.path.basename(path), mode))
    return fd


def regular_file(path: str | Path) -> IO[bytes]:
    """Open a file for reading as `open_regular` does; the caller closes it."""
    return os.fdopen(open_regular(path), "rb")


def content_of_small(path: str | Path) -> bytes:
    """
    Return the content of a file that is read at once.

    Raises:
        OSError: It is no regular file, is longer than any that fapilog writes, or can't be read.
    """
    with regular_file(path) as file:
        data = file.read(MAX_SMALL + 1)
    if len(data) > MAX_SMALL:
        raise OSError(errno.EFBIG, f"{os.path.basename(path)}: expected at most {MAX_SMALL} bytes")
    return data


def no_file(path: str | Path) -> str | None:
    """Return the words that *path* is no regular file; None if it is one, or is not there."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            with contextlib.suppress(OSError):  # else the link leads nowhere, or in a circle
                mode = os.stat(path).st_mode
        return None if stat.S_ISREG(mode) else expected_a_file(os.path.basename(path), mode)
    return None


def expected_a_file(name: str, mode: int) -> str:
    """Return the words that the file *name* is not regular, with its kind by *mode*."""
    return f"{name}: expected a regular file, found {_KINDS.get(stat.S_IFMT(mode), 'something else')}"
