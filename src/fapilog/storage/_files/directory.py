"""The directory of a trail: the lock on it, which keeps its writers apart, and descriptors that block."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...record.errors import AuditStorageError
from .._regular import open_regular
from .names import SUFFIX, is_name

__all__ = [
    "OWNER",
    "Access",
    "allow_as",
    "blocks",
    "cannot",
    "close",
    "closing",
    "identity",
    "is_named",
    "lock",
    "make_directory",
    "newest_file",
    "open_file",
    "open_to_append",
    "reading",
    "require_number",
    "size_of",
    "sync",
    "sync_directory",
    "why_not_writable",
    "without_writers",
    "write_all",
    "write_until_error",
]

# Seconds that a writer or a reader waits. Writers hold the lock for a write and a sync; a process that holds it longer
# is no writer (`flock DIR backup.sh`), or its disk hangs: then the callers need an error, and the operator an incident.
_PATIENCE: Final = 10.0
# Seconds between two attempts. flock can wait by itself, but not with a limit. Measured with four and eight processes
# that write all the time on two cores: rarer attempts make the longest waits longer, closer ones take processor time.
_PAUSE: Final = 0.000_3
# After so many seconds of waiting, the processor is worth more than the moment.
_LONG: Final = 2.0
_LONG_PAUSE: Final = 0.001
# Of one read.
_BLOCK_BYTES: Final = 1 << 20
# "Locks held": https://man7.org/linux/man-pages/man5/proc_locks.5.html
_LOCKS: Final = "/proc/locks"


class Access(NamedTuple):
    """
    The mode and group of new files of a trail; files that are there already keep theirs.

    Attributes:
        mode: The mode of a file; a new directory can be entered by all that may read.
        group: The number of the group; None for the one that the system gives.
    """

    mode: int
    group: int | None = None

    def give(self, fd: int, within: str | Path | None = None) -> None:
        """
        Give a file or directory that was just made its group and mode, whatever the umask.

        A file that root has made *within* the directory of another user gets that owner: after a ``sudo fapilog hold``
        the service could not write to the file of the day.
        """
        if within is not None and os.geteuid() == 0 and (found := os.stat(within)).st_uid != 0:
            with contextlib.suppress(PermissionError):  # a root that may not, as in some containers
                os.fchown(fd, found.st_uid, found.st_gid)
        if self.group is not None:
            os.fchown(fd, -1, self.group)
        if self.mode != OWNER.mode:
            now = os.fstat(fd).st_mode
            mode = self.mode | ((self.mode & 0o444) >> 2 if stat.S_ISDIR(now) else 0)
            # In a directory with this bit, new ones have its group.
            os.fchmod(fd, mode | now & stat.S_ISGID)


OWNER: Final = Access(0o600)
"""For the owner alone, as far as the umask leaves it."""


def allow_as(fd: int, other: int) -> None:
    """Give a file that was just made the owner, the group and the mode of *other*."""
    found = os.fstat(other)
    with contextlib.suppress(PermissionError):  # a group that this process is no member of, or an owner that it is not
        os.fchown(fd, -1, found.st_gid)
        if os.geteuid() == 0:
            os.fchown(fd, found.st_uid, -1)
    os.fchmod(fd, found.st_mode & 0o664)


def _give(directory: Path, access: Access) -> None:
    """Give *directory*, which was just made, its group and mode."""
    if access != OWNER:
        with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
            access.give(fd)


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
    Open the file *name* without waiting, even if it is a pipe; to read, also one that is compressed.

    Raises:
        ChainError: It is compressed, and damaged.
        OSError: It is no regular file, or can't be opened.
    """
    try:
        return open_regular(f"{directory}/{name}", flags)
    except FileNotFoundError:
        path = f"{directory}/{name}{SUFFIX}"
        if flags != os.O_RDONLY or not is_name(name) or not os.path.isfile(path):
            raise
    # Few trails have days that are compressed, and gzip loads much.
    from .compressed import decompressed  # noqa: PLC0415

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
    Return the size of the file *name*; of a compressed one, the former size.

    Raises:
        OSError: It can't be read.
    """
    path = f"{directory}/{name}"
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        from .compressed import size_when_decompressed  # noqa: PLC0415

        return size_when_decompressed(path + SUFFIX)


def reading(directory: Path, name: str) -> contextlib.AbstractContextManager[int]:
    """Open the file *name* for reading, and close it on leaving."""
    return closing(open_file(directory, name))


@contextlib.contextmanager
def newest_file(directory: Path) -> Generator[int | None]:
    """Open the newest file of a trail, whose owner, group and mode the files beside it get; None if there is none."""
    newest = max(filter(is_name, os.listdir(directory)), default=None)
    with contextlib.nullcontext() if newest is None else reading(directory, newest) as fd:
        yield fd


def blocks(fd: int, offset: int = 0) -> Iterator[bytes]:
    """Yield all that the open file *fd* has from *offset* on."""
    while block := os.pread(fd, _BLOCK_BYTES, offset):
        yield block
        offset += len(block)


def lock(fd: int, how: int, check: Callable[[], object] = int) -> None:
    """
    Take the lock on the open directory *fd*.

    Args:
        fd: The descriptor of the directory.
        how: `fcntl.LOCK_EX` for a writer, `fcntl.LOCK_SH` for a reader that keeps writers away.
        check: Is called while the lock is waited for; ends that by an exception.

    Raises:
        OSError: Another process has held the lock for ten seconds; the message names that process, if the system does.
    """
    begun: float | None = None
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            begun = begun or time.monotonic()
            waited = time.monotonic() - begun
        else:
            return
        if waited >= _PATIENCE:
            raise OSError(errno.ETIMEDOUT, f"its lock was held for {_PATIENCE:g} s by {_holder(fd)}")
        check()
        time.sleep(_PAUSE if waited < _LONG else _LONG_PAUSE)


# Trails of one process take turns at the lock, and do not share a sync, as the callers of one trail do.
_SELF: Final = "this process itself: make one trail for the directory, and keep it"


def _holder(fd: int) -> str:
    """Return the process that holds the lock on the open file *fd*, by its number and the name of its program."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        found = os.fstat(fd)
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        with open(_LOCKS, encoding="ascii") as file:
            for line in file:
                _, kind, _, _, pid, where, *_ = line.replace(" -> ", " waits ").split()
                if kind == "FLOCK" and where == place and int(pid) > 0:
                    return _SELF if int(pid) == os.getpid() else f"process {pid}{_program(pid)}"
    return "another process"


def _program(pid: str) -> str:
    # Not the command line, whose arguments may be secret.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return f" ({ascii(file.read().strip())[1:-1]})"
    return ""


@contextlib.contextmanager
def without_writers(
    directory: Path, how: int = fcntl.LOCK_SH, check: Callable[[], object] = int
) -> Generator[None, None, None]:
    """Wait for the writers in all processes, and keep them waiting until left; the rest is as of `lock`."""
    with closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        try:
            lock(fd, how, check)
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
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return f"{there}: its file system is read-only"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there}: this process may not write there{_users(there)}"
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
    """Write *data*, in several writes if need be; return how much was written, and the error that stopped the rest."""
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
    """Return the error that says that *action* failed in *directory*, and why; raise *error* if it is of no call."""
    require_number(error)
    if isinstance(error, FileExistsError | NotADirectoryError):
        return AuditStorageError(f"cannot {action} {directory}: expected a directory, found something else")
    # Also where the modes would allow it: of an append-only file (`chattr +a`), the operator has to know which it is.
    users = _users(error.filename, directory) if error.errno in (errno.EACCES, errno.EPERM) else ""
    return AuditStorageError(f"cannot {action} {directory}: {error.strerror or error}{users}")


def require_number(error: OSError) -> None:
    """Raise *error* if it has no number, as those of the system have: a signal handler raises a `TimeoutError`, say."""
    if error.errno is None:
        raise error


def _users(*paths: Any) -> str:
    """Return words about the user of this process, and the owner and the mode of the first of *paths* that is there."""
    for path in paths:
        with contextlib.suppress(OSError, TypeError):
            found = os.stat(path)
            of_path = f"{path} is user {found.st_uid}'s, mode {stat.S_IMODE(found.st_mode):04o}"
            return f"; this process is user {os.geteuid()}, and {of_path}"
    return f"; this process is user {os.geteuid()}"
