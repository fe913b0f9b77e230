"""
The file of a trail in SQLite: opened, made, locked, and closed before a fork.

A `TrailFile` is one connection. It makes calls one at a time, and blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final, TypeVar

from ..record.chain import ChainError
from ..record.errors import AuditStorageError
from ._files.access import require_number
from ._files.directory import make_directory
from ._files.locking import locked
from ._rows.table import COLUMNS, SCATTERED, STRETCH
from .sqlitefile import (
    ERRORS,
    Opened,
    SharedFile,
    inode_of,
    make_file,
    make_tables,
    number,
    pause,
    require_writable,
    words_of,
)

__all__ = ["TrailFile"]

T = TypeVar("T")

# "faps", by which `file` and SQLite's own tools recognize it: https://www.sqlite.org/fileformat.html#application_id
_APPLICATION_ID: Final = 0x66617073
_VERSION: Final = 1
_SCHEMA: Final = (
    f"""
CREATE TABLE records (
    sequence_number INTEGER PRIMARY KEY,
    {", ".join(COLUMNS)},
    line BLOB NOT NULL  -- last, so that a long one is not read to look at the rest
)
    """,
    # Not unique: a trail in files, which is copied here, knows the newest ids only, and stores an older one again.
    "CREATE INDEX by_event_id ON records (event_id)",
    *(f"CREATE INDEX by_{name} ON records ({STRETCH}, {name}) WHERE {name} IS NOT NULL" for name in SCATTERED),
    "CREATE INDEX by_event_type ON records (event_type)",
    "CREATE INDEX by_timestamp ON records (timestamp)",
)

# Seconds that a call waits for other processes to finish theirs.
_PATIENCE: Final = 10.0
# Bytes that the write-ahead log beside the file keeps when it is empty again.
_LOG_KEPT: Final = 64 << 20


class TrailFile(SharedFile):
    """
    A connection to the file.

    Threads, other processes and other objects for the same file may use it at the same time. The file is made, mode
    0600, by the first call that writes. It is never deleted or renamed, even if it is damaged.

    Args:
        path: The path of the file: absolute, and on a local file system, as SQLite's locks can't be relied on over NFS.
        durable: Whether a call that writes returns only when its changes are on the disk.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path = path
        # Beside the file that a link leads to.
        self._log = Path(f"{os.path.realpath(path)}-wal")
        self._durable = durable
        super().__init__(path, AuditStorageError)

    def write(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """
        Make *call* in a transaction of its own, and return its result when it is committed.

        Raises:
            AuditStorageError: It had no effect. The message names the file and the reason.
        """
        with self._turn.taken(), self._failures("append to"):
            opened = self._opened(is_made=True)
            assert opened is not None  # noqa: S101 - made if it was not there
            _when_free(opened.connection, "BEGIN IMMEDIATE")
            return opened.commit(functools.partial(call, opened.connection))

    def read(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        """
        Return the result of *call*, which changes nothing; None if the file is not there, or empty.

        Raises:
            AuditStorageError: It can't be read. The message names the file and the reason.
        """
        with self._turn.taken(), self._failures("read"):
            if self._is_still():
                return self._read_still(call)
            opened = self._opened(is_made=False)
            return None if opened is None else call(opened.connection)

    def _is_still(self) -> bool:
        """Return whether the file is a copy on a read-only file system, which no process has open."""
        with contextlib.suppress(FileNotFoundError):
            if os.statvfs(self._path).f_flag & os.ST_RDONLY:
                return not self._log.exists() and not self._log.with_name(f"{self._log.name[:-3]}journal").exists()
        return False

    def _read_still(self, call: Callable[[sqlite3.Connection], T]) -> T | None:
        """
        Do as `read`, without a log: SQLite could not make its index, and would not open the file.

        Through a mount that is not read-only a process may write to the file meanwhile, which SQLite does not notice:
        https://www.sqlite.org/uri.html#uriimmutable
        """
        self._require_one_name()
        before = self._path.stat()
        with contextlib.closing(sqlite3.connect(f"{self._path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            result = None if self._is_new(connection) else call(connection)
        after = self._path.stat()
        if not self._is_still() or (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise sqlite3.OperationalError("it was written to while it was read")
        return result

    @contextlib.contextmanager
    def _failures(self, action: str) -> Generator[None]:
        """Raise `AuditStorageError` for errors of SQLite, the system and the chain; open the file anew next time."""
        try:
            yield
        except BaseException as error:
            # An interrupt too: it may have come before the settings were made.
            self._close()
            if isinstance(error, ChainError):
                raise AuditStorageError(f"{self._path}: {error}; nothing is appended") from error
            if isinstance(error, ERRORS):
                raise AuditStorageError(f"cannot {action} {self._path}: {words_of(error)}") from error
            if isinstance(error, OSError):
                require_number(error)
                raise AuditStorageError(f"cannot {action} {self._path}: {error.strerror or error}") from error
            raise

    def _opened(self, *, is_made: bool) -> Opened | None:
        """Return the open file, opened if need be; None if there is no trail yet, and none is to be made."""
        if self._open is not None and self._open.is_usable:
            return self._open
        self._close()
        if is_made:
            make_directory(self._path.parent)
        elif inode_of(self._path) is None and not _size(self._log):
            return None
        # One at a time: to change to WAL, SQLite needs the file for itself and does not wait for it.
        with locked(self._path.parent, fcntl.LOCK_EX):
            return self._connected(is_made=is_made)

    def _connected(self, *, is_made: bool) -> Opened | None:
        """Open the file, with its tables and settings; return None if it has no tables, and none are to be made."""
        self._require_file_of_log()
        if is_made:
            make_file(self._path)
            require_writable(self._path, AuditStorageError)
        inode = inode_of(self._path)
        self._require_one_name()
        # Never made by SQLite, with a mode that other users may read.
        uri = f"{self._path.as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        # The exit of the interpreter waits for a commit, and not for a thread that reads: closed under its hands,
        # the connection would crash the process.
        self._open = opened = Opened(self, connection, self._path, inode, closes_at_exit=is_made)
        is_new = self._is_new(connection)
        if is_new and not is_made:
            self._close()
            return None
        if is_made:
            # In another mode, which a backup by VACUUM INTO has, readers are in the way of a commit.
            connection.execute("PRAGMA busy_timeout = 0").fetchall()
            _when_free(connection, "PRAGMA journal_mode = WAL")
        if is_new:
            make_tables(connection, _SCHEMA, application_id=_APPLICATION_ID, version=_VERSION)
        synchronous = "FULL" if self._durable else "NORMAL"
        # On macOS fsync leaves the data in the drive's cache: https://www.sqlite.org/pragma.html#pragma_fullfsync
        for setting in (f"synchronous = {synchronous}", "fullfsync = ON", f"journal_size_limit = {_LOG_KEPT}"):
            connection.execute(f"PRAGMA {setting}").fetchall()
        if not is_made:
            connection.execute("PRAGMA query_only = ON")
        return opened

    def _require_file_of_log(self) -> None:
        """
        Raise if the log is there, with records, and the file is not, since it was moved or removed while it was in use.

        SQLite takes a log beside an empty file for one of another file, and deletes it.
        """
        if _size(self._log) and not _size(self._path):
            raise AuditStorageError(
                f"{self._path}: the file is gone, and its log {self._log.name} is there, with the newest records"
                " perhaps: put the file back beside it, or move the log away too"
            )

    def _require_one_name(self) -> None:
        """
        Raise if the file has another name, a hard link, by which SQLite has another log for it.

        Records that are in one log are then overwritten by those in the other:
        https://www.sqlite.org/howtocorrupt.html#_multiple_links_to_the_same_file
        """
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_nlink > 1:
                raise AuditStorageError(
                    f"{self._path}: the file has another name too, a hard link, and would have another log by that:"
                    " remove one of the names"
                )

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Return whether there are no tables yet; raise if it is another program's file, or of another version."""
        application, version = number(connection, "application_id"), number(connection, "user_version")
        if (application, version) == (_APPLICATION_ID, _VERSION):
            return False
        if not application and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return True
        got = f"version {version}" if application == _APPLICATION_ID else "another database"
        raise AuditStorageError(f"{self._path}: expected an audit trail of version {_VERSION}; got {got}")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _when_free(connection: sqlite3.Connection, statement: str) -> None:
    """Execute a *statement* that has to wait until no other process is at the file."""
    give_up_at = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                raise
        else:
            return
        pause()
