"""The lock on a directory, which keeps the writers of a trail in files apart, and those who open a file of SQLite."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from .descriptors import close
from .directory import is_named

__all__ = ["close_locked", "is_locked_here", "lock", "lock_at_once", "locked", "unlock"]

# Seconds that a writer or a reader waits. Writers hold the lock for a write and a sync; a process that holds it longer
# is no writer (`flock DIR backup.sh`), or its disk hangs: then the callers need an error, and the operator an incident.
_PATIENCE: Final = 10.0
# Seconds between two attempts. flock can wait by itself, but not with a limit. Measured with four and eight processes
# that write all the time on two cores: rarer attempts make the longest waits longer, closer ones take processor time.
_PAUSE: Final = 0.000_3
# After so many seconds of waiting, the processor is worth more than the moment.
_LONG: Final = 2.0
_LONG_PAUSE: Final = 0.001
# "Locks held": https://man7.org/linux/man-pages/man5/proc_locks.5.html
_LOCKS: Final = "/proc/locks"


def lock(path: str, fd: int, how: int, check: Callable[[], object] = int) -> None:
    """
    Take the lock on a directory.

    Args:
        path: The directory.
        fd: A descriptor of it.
        how: `fcntl.LOCK_EX` for a writer, `fcntl.LOCK_SH` for a reader that keeps writers away.
        check: Is called while the lock is waited for; ends that by an exception.

    Raises:
        OSError: Another process has held the lock for ten seconds; the message names that process, if the system does.
            Or this thread holds it, whose call a signal handler has interrupted.
    """
    begun: float | None = None
    while True:
        try:
            lock_at_once(fd, how)
        except BlockingIOError:
            if begun is None and is_locked_here(path, but=fd):
                raise OSError(errno.EDEADLK, "called from within a call of the same thread") from None
            begun = begun or time.monotonic()
            waited = time.monotonic() - begun
        else:
            return
        if waited >= _PATIENCE:
            raise OSError(errno.ETIMEDOUT, f"its lock was held for {_PATIENCE:g} s by {_holder(fd)}")
        check()
        time.sleep(_PAUSE if waited < _LONG else _LONG_PAUSE)


# By the descriptor of a directory that is locked, or is about to be, the thread that does so.
_threads: Final[dict[int, int]] = {}
# In a child, the parent's threads are not there, and another may have the same number.
os.register_at_fork(after_in_child=_threads.clear)


def lock_at_once(fd: int, how: int) -> None:
    """Take the lock, as `lock`, or raise `BlockingIOError`."""
    # In this order: a signal handler may run in between, and would wait for a lock of its own thread.
    _threads[fd] = threading.get_ident()
    fcntl.flock(fd, how | fcntl.LOCK_NB)


def unlock(fd: int) -> None:
    """Release the lock, or give up taking it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        _threads.pop(fd, None)


def close_locked(fd: int) -> None:
    """Close a descriptor that may be locked. An interrupt may have kept it from being unlocked."""
    _threads.pop(fd, None)
    close(fd)


def is_locked_here(directory: str, but: int | None) -> bool:
    """Return whether a call of this thread has the lock on *directory* by another descriptor than *but*, or waits."""
    here = threading.get_ident()
    return any(thread == here and fd != but and is_named(directory, fd) for fd, thread in list(_threads.items()))


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
def locked(directory: Path, how: int = fcntl.LOCK_SH, check: Callable[[], object] = int) -> Generator[None, None, None]:
    """Wait for those in all processes who have the lock, and keep writers away until left; the rest is as of `lock`."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lock(os.fspath(directory), fd, how, check)
        yield
    finally:
        try:
            # Closing the directory would do, but for a child that is forked meanwhile and has it open as well. So an
            # error here changes nothing.
            with contextlib.suppress(OSError):
                unlock(fd)
        finally:
            close_locked(fd)
