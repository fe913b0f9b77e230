"""Functions for any file of SQLite, of a trail or of an outbox: it is made, locked, and closed before a fork."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import sqlite3
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from ..record.errors import FapilogError
from ..tasks.threads import Turn
from ._files.directory import sync_directory

__all__ = [
    "ERRORS",
    "Opened",
    "SharedFile",
    "close",
    "inode_of",
    "is_damage",
    "make_file",
    "make_tables",
    "number",
    "pause",
    "require_writable",
    "words_of",
]

T = TypeVar("T")

# Seconds between two looks whether another process has finished. SQLite's own waits grow to a tenth of a second, in
# which other processes take their turns again and again: sqliteDefaultBusyCallback in
# https://sqlite.org/src/file?name=src/main.c
_LOOK_EVERY: Final = (0.0005, 0.003)


class SharedFile:
    """
    A file of SQLite that the threads of a process use one at a time, and that no fork finds open.

    Args:
        path: The path of the file, for messages.
        error: Makes the error of a call from within a call of the same thread, such as that of a signal handler.
    """

    def __init__(self, path: Path, error: Callable[[str], FapilogError]) -> None:
        self._turn = Turn(f"cannot use {path}: called from within a call of the same thread", error)
        self._open: Opened | None = None
        # Not while the files are counted for a fork: none of them would be closed.
        with _forking:
            _all.add(self)

    def close(self) -> None:
        """
        Close it; the next call opens it again.

        Raises:
            FapilogError: Called from within a call of the same thread.
        """
        with self._turn.taken():
            self._close()

    def _close(self) -> None:
        opened, self._open = self._open, None
        if opened is not None:
            opened.close()

    def before_fork(self) -> bool:
        """Close it, keep it closed until `after_fork`, and return True; False if this very thread uses it."""
        if self._turn.is_mine:
            return False
        self._turn.stop()
        self._close()
        return True

    def after_fork(self) -> None:
        """Let it be used again, in the parent and in the child."""
        self._turn.go_on()

    @property
    def connections(self) -> set[sqlite3.Connection]:
        """The connection to it, if it is open."""
        return set() if self._open is None else {self._open.connection}


# SQLite keeps account of the locks that a process has on a file. A child takes its parent's for its own, and has none:
# the parent would remove the log that the child writes to. So no file is open while the process is forked.
# https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_
_all: Final[weakref.WeakSet[SharedFile]] = weakref.WeakSet()
# Also a destructor may open a file while its thread forks.
_forking: Final = threading.RLock()
_stopped: Final[list[SharedFile]] = []
# The connections that are not closed yet, also those that the collector closes in another thread, for a file that is
# gone: a child that is forked meanwhile would wait for ever for a lock that SQLite has then.
_connections: Final[set[sqlite3.Connection]] = set()
_closing = threading.RLock()


def _before_fork() -> None:
    _forking.acquire()
    files = list(_all)
    _stopped.extend(file for file in files if file.before_fork())
    # This very thread uses those of the others.
    for connection in _connections.difference(*(file.connections for file in files)):
        close(connection)


def _after_fork() -> None:
    for file in _stopped:
        file.after_fork()
    _stopped.clear()
    _forking.release()


def _after_fork_in_child() -> None:
    # Not held during the fork: the collector may wait for it in any thread, with any lock.
    global _closing  # noqa: PLW0603
    _closing = threading.RLock()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def close(connection: sqlite3.Connection) -> None:
    """Close *connection*; an error is ignored, as it could not be mended."""
    with _closing:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        _connections.discard(connection)


def _committed(connection: sqlite3.Connection, call: Callable[[], T]) -> T:
    """Return the result of *call* when the transaction is committed; take it back if *call* raises."""
    try:
        result = call()
        connection.execute("COMMIT")
    except BaseException:
        _roll_back(connection)
        raise
    return result


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite may have done so by itself, and an error here says less than the one before.
    with contextlib.suppress(sqlite3.Error):
        connection.execute("ROLLBACK")


ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""The errors of SQLite: the second where its words repeat bytes of a damaged file that are no text."""


def is_damage(error: Exception) -> bool:
    """Return whether one of `ERRORS` says that the file is damaged, or no database."""
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(error, UnicodeDecodeError) or code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def words_of(error: Exception) -> str:
    """Return the words of one of `ERRORS`."""
    return "database disk image is malformed" if isinstance(error, UnicodeDecodeError) else str(error)


def number(connection: sqlite3.Connection, pragma: str) -> int:
    """Return the value of a *pragma* that is a number."""
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def make_tables(connection: sqlite3.Connection, schema: Iterable[str], *, application_id: int, version: int) -> None:
    """Make the tables of *schema*, and mark the file with *application_id*, in one transaction."""
    marks = (f"PRAGMA user_version = {version}", f"PRAGMA application_id = {application_id}")
    connection.execute("BEGIN IMMEDIATE")
    _committed(connection, lambda: [connection.execute(statement) for statement in (*schema, *marks)])


class Opened:
    """
    A connection to the file that is at a path, until it is closed: by `close`, with its owner, or at the exit.

    Args:
        owner: Whose connection it is: closed when that is gone.
        connection: The connection.
        path: The path of the file.
        inode: The identity of the file, from before the connection was made.
        closes_at_exit: Whether the exit of the interpreter closes it.
    """

    def __init__(
        self,
        owner: object,
        connection: sqlite3.Connection,
        path: Path,
        inode: tuple[int, int] | None,
        *,
        closes_at_exit: bool = True,
    ) -> None:
        self.connection: sqlite3.Connection = connection
        _connections.add(connection)
        self.inode: tuple[int, int] | None = inode
        self._path = path
        # SQLite has its log and the index of that beside the file that a link leads to; their identities, once known.
        self._beside = [Path(f"{os.path.realpath(path)}-{name}") for name in ("wal", "shm")]
        self._known: list[tuple[int, int] | None] | None = None
        # Keeps the connection alive until it is closed: collected with its owner, it might warn first that it is open.
        self._closes = weakref.finalize(owner, close, connection)
        self._closes.atexit = closes_at_exit

    @property
    def is_in_place(self) -> bool:
        """Whether the file is still the one at the path."""
        return self.inode == inode_of(self._path)

    @property
    def is_usable(self) -> bool:
        """Whether it is open and in place; not in an exit handler that runs after the exit has closed it."""
        return self._closes.alive and self.is_in_place

    def commit(self, call: Callable[[], T]) -> T:
        """
        Return the result of *call*, which is made in the transaction that was begun, when that is on the disk.

        Raises:
            Exception: The exception of *call*.
            sqlite3.Error: It can't be committed, or may be lost: the file, or its log, was removed meanwhile.
        """
        result = _committed(self.connection, call)
        if not self.is_in_place:
            raise sqlite3.OperationalError("it was replaced or removed while it was in use")
        if not self._has_kept():
            raise sqlite3.OperationalError("its log was removed, and what was written may be lost with this process")
        return result

    def _has_kept(self) -> bool:
        """
        Return whether the transaction that was just committed outlives the process.

        It does not where the log beside the file, "NAME-wal", was removed: the processes that have it open go on
        writing to it, and it is gone with the last of them, killed perhaps. So what is in it is written to the file at
        once. But if there is another log by now, of a process that came later, the records there are others. SQLite
        itself removes and makes the log, and its index "NAME-shm", only while no process has the file open.
        """
        found = [inode_of(path) for path in self._beside]
        if self._known is None:
            self._known = found
        if None not in found:
            return found == self._known
        # https://www.sqlite.org/pragma.html#pragma_wal_checkpoint; of a file without a log, -1 and -1.
        is_busy, written, moved = self.connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        return not is_busy and written == moved

    def close(self) -> None:
        """Close it; does nothing if it is closed."""
        self._closes()


def inode_of(path: Path) -> tuple[int, int] | None:
    """
    Return the identity of the file at *path*; None if there is none.

    Raises:
        OSError: It is a directory, a pipe or a device, of which SQLite says "disk I/O error"; or there is no telling.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "expected a file, found something else")
    return found.st_dev, found.st_ino


def make_file(path: Path) -> None:
    """Make the file, for the owner alone, so that it survives a power cut."""
    # Never opened if it is there: closing any descriptor of it would give up the locks that SQLite holds in this
    # process. https://www.sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        sync_directory(path.parent)


def require_writable(path: Path, error: Callable[[str], Exception]) -> None:
    """
    Raise if the file at *path*, if there is one, may not be read and written.

    SQLite would open one that it may only read, and leave its log and the index of that beside it, with the same mode:
    then nobody could write to the file, even when its mode is put right.

    Args:
        path: The path of the file.
        error: Makes the exception.
    """
    effective = os.access in os.supports_effective_ids
    if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=effective):
        raise error(f"{path}: expected a file that may be read and written; this one may not be")


def pause() -> None:
    """Give another process time to finish."""
    time.sleep(random.uniform(*_LOOK_EVERY))  # noqa: S311  no secret
