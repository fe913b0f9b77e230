"""Who may read and write the files of a trail, and the words for a process that can't."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...record.errors import AuditStorageError

__all__ = ["OWNER", "Access", "allow_as", "cannot", "require_number", "why_not_writable"]


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
