"""The directory of a trail: the names of its files, the lock on it, and descriptors that block."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Generator
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

from ..record.errors import AuditStorageError
from ._anchor import ANCHOR, anchor_of
from ._compressed import SUFFIX, decompressed, size_when_decompressed
from ._lock import lock

__all__ = [
    "OWNER",
    "Access",
    "cannot",
    "close",
    "closing",
    "day_after",
    "day_of",
    "file_of_day",
    "files_set_aside",
    "identity",
    "is_named",
    "make_directory",
    "names",
    "open_file",
    "open_to_append",
    "reading",
    "size_of",
    "sync",
    "sync_directory",
    "why_not_writable",
    "without_writers",
    "write_all",
    "write_until_error",
]

# Not "\d", which takes the digits of all scripts.
_NAME: Final = re.compile(r"audit_[0-9]{4}-[0-9]{2}-[0-9]{2}\.jsonl")
_SET_ASIDE: Final = re.compile(_NAME.pattern + r"\.torn-[0-9]+-[0-9a-f]+")
_OF_A_DAY: Final = re.compile(rf"({_NAME.pattern})({re.escape(SUFFIX)}|\.torn-.*)?")
_EITHER: Final = re.compile(rf"({_NAME.pattern})({re.escape(SUFFIX)})?")

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFLNK: "a symbolic link that leads to no file",
}


class Access(NamedTuple):
    """
    Who may read the files of a trail, apart from those that were made before.

    Attributes:
        mode: Of a file; a directory that is made can be entered by all that may read.
        group: The number of the group; None for the one that the system gives.
    """

    mode: int
    group: int | None = None

    def give(self, fd: int) -> None:
        """Give a file or directory that was just made its group and mode, whatever the umask."""
        if self.group is not None:
            os.fchown(fd, -1, self.group)
        if self.mode != OWNER.mode:
            found = os.fstat(fd).st_mode
            mode = self.mode | ((self.mode & 0o444) >> 2 if stat.S_ISDIR(found) else 0)
            # In a directory with this bit, new ones have its group.
            os.fchmod(fd, mode | found & stat.S_ISGID)


OWNER: Final = Access(0o600)
"""For the owner alone, as far as the umask leaves it."""


def _give(directory: Path, access: Access) -> None:
    """Give *directory*, which was just made, its group and mode."""
    if access != OWNER:
        with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
            access.give(fd)


def file_of_day(day: int) -> str:
    """Return the name of the file for *day*, a proleptic Gregorian ordinal."""
    return date.fromordinal(day).strftime("audit_%Y-%m-%d.jsonl")


def day_after(name: str) -> str:
    """
    Return the name of the file for the day after that of the file *name*.

    Raises:
        OSError: There is no such day.
    """
    try:
        return file_of_day(date.fromisoformat(name[len("audit_") : -len(".jsonl")]).toordinal() + 1)
    except (ValueError, OverflowError) as error:
        raise OSError(errno.EINVAL, f"{name}: expected a file with a day after it") from error


def names(directory: Path) -> list[str]:
    """
    Return the names of the trail's files, the oldest first.

    Of a compressed one the name that it had. Those that retention has removed are left out, also where a crash has left
    them.

    Raises:
        ChainError: It can't be told which were removed.
        OSError: One of them is no regular file, or the directory can't be read.
    """
    try:
        entries = os.scandir(directory)
    except FileNotFoundError:
        if directory.is_symlink():  # to a volume that is not mounted, say
            raise
        return []
    with entries:
        there = {entry.name: entry for entry in entries}
    found = [entry for entry in there.values() if _EITHER.fullmatch(entry.name)]
    for entry in found:
        # Most file systems tell the kind with the name, so that this reads nothing more.
        if not entry.is_file(follow_symlinks=False) and (words := _no_file(entry.path)):
            raise OSError(errno.EINVAL, words)
    anchor = anchor_of(directory) if ANCHOR in there else None
    last = "" if anchor is None else anchor.file
    return sorted(name for name in {entry.name.removesuffix(SUFFIX) for entry in found} if name > last)


def day_of(name: str) -> str | None:
    """Return the name of the file of the trail that the file *name* is, compressed or not, or an end of; else None."""
    found = _OF_A_DAY.fullmatch(name)
    return None if found is None else found[1]


def files_set_aside(directory: Path) -> tuple[str, ...]:
    """Return the names of the files that hold incomplete records, sorted; raise as `names`."""
    anchor = anchor_of(directory)
    last = "" if anchor is None else anchor.file
    found = filter(_SET_ASIDE.fullmatch, os.listdir(directory))
    return tuple(sorted(name for name in found if name[: len(last)] > last or not last))


def identity(directory: str) -> tuple[int, int, int]:
    """Return a value that changes when a file is made or removed, or *directory*, or one above it, is moved."""
    found = os.stat(directory)
    return found.st_dev, found.st_ino, found.st_ctime_ns


def is_named(path: str, fd: int) -> bool:
    """Return whether *path* leads to the file that *fd* is of."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def open_file(directory: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """
    Open the file *name* at once, whatever has that name; to read, also one that is compressed.

    Raises:
        ChainError: It is compressed, and damaged.
        OSError: It is no regular file, or can't be opened.
    """
    try:
        return _open(directory, name, flags)
    except FileNotFoundError:
        path = f"{directory}/{name}{SUFFIX}"
        if flags != os.O_RDONLY or not _NAME.fullmatch(name) or not os.path.isfile(path):
            raise
    return decompressed(path)


def open_to_append(directory: Path, name: str) -> tuple[int, bool]:
    """Open the file *name*, and return whether more can be appended to it; raise as `open_file`."""
    try:
        return open_file(directory, name, os.O_RDWR | os.O_APPEND), True
    except FileNotFoundError:
        # It is compressed.
        return open_file(directory, name), False


def size_of(directory: Path, name: str) -> int:
    """
    Return the size of the file *name*; of a compressed one, that which it had.

    Raises:
        OSError: It can't be read.
    """
    path = f"{directory}/{name}"
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return size_when_decompressed(path + SUFFIX)


def _open(directory: Path, name: str, flags: int) -> int:
    path = f"{directory}/{name}"
    try:
        # Without waiting for the other end of a pipe, or becoming the terminal's process: "man 2 open".
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    except OSError as error:
        if words := _no_file(path):
            raise OSError(errno.EINVAL, words) from error
        raise
    is_file = False
    try:
        # Of the open file, since another may have taken its name in the meantime.
        mode = os.fstat(fd).st_mode
        is_file = stat.S_ISREG(mode)
    finally:
        if not is_file:
            close(fd)
    if not is_file:
        raise OSError(errno.EINVAL, _expected_a_file(name, mode))
    return fd


def reading(directory: Path, name: str) -> contextlib.AbstractContextManager[int]:
    """Open the file *name* for reading, and close it on leaving."""
    return closing(open_file(directory, name))


@contextlib.contextmanager
def without_writers(directory: Path) -> Generator[None, None, None]:
    """Wait for the writers in all processes, and keep them waiting until left."""
    with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        try:
            lock(fd, fcntl.LOCK_SH)
            yield
        finally:
            # Closing the directory would do, but for a child that is forked meanwhile and has it open as well. So an
            # error here changes nothing.
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)


def why_not_writable(directory: Path) -> str | None:
    """Return why no file can be made in *directory*, or that can't be made; None if nothing speaks against it."""
    there = directory
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there}: expected a directory, found something else"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there}: this process may not write there"
    return None


def make_directory(directory: Path, access: Access = OWNER) -> None:
    """Make *directory* and the missing ones above it, so that they survive a power cut."""
    if directory.is_dir():
        return
    make_directory(directory.parent, access)
    is_made = True
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        if not directory.is_dir():  # else another process was faster
            raise
        is_made = False
    try:
        if is_made:
            _give(directory, access)
        sync_directory(directory.parent)
    except OSError:
        # Else the next attempt would take it for one that survives.
        with contextlib.suppress(OSError):
            os.rmdir(directory)
        raise


def sync_directory(directory: Path) -> None:
    """Make files that were created in *directory*, or renamed there, survive a power cut."""
    with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        os.fsync(fd)


def sync(fd: int) -> None:
    """Return when the data of a file, and its size, are on the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        # On macOS fsync leaves the data in the drive's cache: "man 2 fsync".
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write *data*, in several writes if need be."""
    _, error = write_until_error(fd, data)
    if error is not None:
        raise error


def write_until_error(fd: int, data: bytes) -> tuple[int, OSError | None]:
    """Write *data*, in several writes if need be; return how much was written, and the error that left it at that."""
    written = 0
    try:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, data[written:])
    except OSError as error:
        return written, error
    return written, None


def close(fd: int) -> None:
    """Close *fd*. An error says nothing of synced data, and the descriptor is free all the same: "man 2 close"."""
    try:  # noqa: SIM105 - less than half as long as `suppress`
        os.close(fd)
    except OSError:
        pass


@contextlib.contextmanager
def closing(fd: int) -> Generator[int, None, None]:
    """Close *fd* on leaving."""
    try:
        yield fd
    finally:
        close(fd)


def cannot(action: str, directory: object, error: OSError) -> AuditStorageError:
    """Return the error that says that *action* failed in *directory*, and why."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return AuditStorageError(f"cannot {action} {directory}: expected a directory, found something else")
    return AuditStorageError(f"cannot {action} {directory}: {error.strerror or error}")


def _no_file(path: str) -> str | None:
    """Return the words that *path* is no regular file; None if it is one, or is not there."""
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if stat.S_ISLNK(mode):
            with contextlib.suppress(OSError):  # else the link leads nowhere, or in a circle
                mode = os.stat(path).st_mode
        return None if stat.S_ISREG(mode) else _expected_a_file(os.path.basename(path), mode)
    return None


def _expected_a_file(name: str, mode: int) -> str:
    return f"{name}: expected a regular file, found {_KINDS.get(stat.S_IFMT(mode), 'something else')}"
