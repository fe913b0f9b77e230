"""
The file of an outbox, in SQLite: opened, made, locked, and set aside if it is damaged.

`OutboxFile` makes calls in a transaction, and blocks: the store calls it in a worker thread, the command line directly.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import math
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from ....record.errors import OutboxError
from ....storage._files.locking import locked
from ....storage.sqlitefile import (
    ERRORS,
    Opened,
    SharedFile,
    inode_of,
    is_damage,
    make_file,
    make_tables,
    number,
    require_writable,
    words_of,
)
from ....tasks.strangers import Log
from .queue import FileQueue
from .schema import COUNT_ANEW, SCHEMA, VERSION

__all__ = ["OutboxFile", "has_mark"]

T = TypeVar("T")

_log: Final = Log("fapilog.delivery")

# "fapi", by which `file` and SQLite's own tools recognize it: https://www.sqlite.org/fileformat.html#application_id
_APPLICATION_ID: Final = 0x66617069
_SQLITE: Final = b"SQLite format 3\0"
# Seconds that a call waits for another process to finish its own.
_BUSY_TIMEOUT: Final = 10.0
# Bytes of the write-ahead log beside the file. SQLite empties it at about 4 MiB, but not while a reader has a
# transaction open: then the log grows with every commit.
# https://www.sqlite.org/wal.html#avoiding_excessively_large_wal_files
_LARGE_LOG: Final = 64 * 2**20
# Seconds between two looks at its size.
_LOOK_EVERY: Final = 10.0

_FAILURES: Final = (OSError, *ERRORS)


class OutboxFile(SharedFile):
    """
    A file with one or several outboxes in it.

    All methods block, and while one is at work so does a fork. Threads, other processes and other objects for the same
    file may use it at the same time. It is made, mode 0600, when it is first used. It is never deleted: one that is no
    database, or a damaged one, is renamed to ``NAME.corrupt-…`` and a new one takes its place.

    Args:
        path: The path of the file: on a local file system, as SQLite's locks can't be relied on over NFS.
        must_exist: Whether to raise if the file is missing, instead of making it.
    """

    def __init__(self, path: Path, *, must_exist: bool = False) -> None:
        self.kind: Final = "file"
        self.path: Path = path.absolute()
        super().__init__(self.path, OutboxError)
        self._must_exist = must_exist
        self._next_look = -math.inf
        self._has_worked = False
        self._log_is_large = False

    def __str__(self) -> str:
        return str(self.path)

    def identity(self) -> str:
        """Return the path without links, which two names of one file have in common."""
        return os.path.realpath(self.path)

    def run(self, calls: Sequence[Callable[[FileQueue], T]], *, writes: bool = True) -> list[T]:
        """
        Make *calls* in one transaction, and return their results when it is on the disk.

        Args:
            calls: Called with the queue.
            writes: Whether the calls may change the file.

        Raises:
            OutboxError: None of them had an effect. The message names the file and the reason.
        """
        results = self._run(calls, writes=writes)
        if writes and time.monotonic() >= self._next_look:
            self._look_at_log()
        return results

    def _run(self, calls: Sequence[Callable[[FileQueue], T]], *, writes: bool) -> list[T]:
        with self._turn.taken():
            try:
                opened = self._opened()
                opened.connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                queue = self._queue
                return opened.commit(lambda: [call(queue) for call in calls])
            except _FAILURES as error:
                inode = None if self._open is None else self._open.inode
                self._close()
                if is_damage(error) and not self._must_exist:
                    self._set_aside(inode)
                raise self._failure(error) from error
            except OutboxError:
                self._close()
                raise

    def _look_at_log(self) -> None:
        """Log a warning when SQLite's log has become large, and one when it is small again."""
        self._next_look = time.monotonic() + _LOOK_EVERY
        with contextlib.suppress(OSError):
            # SQLite has it beside the file that a link leads to.
            size = Path(f"{self.identity()}-wal").stat().st_size
            was_large, self._log_is_large = self._log_is_large, size > _LARGE_LOG
            if self._log_is_large and not was_large:
                message = (
                    "the log of the outbox file %s has %d MiB: a reader in a transaction keeps it from being emptied"
                )
                _log.warning(message, self.path, size // 2**20)
            elif was_large and not self._log_is_large:
                _log.warning("the log of the outbox file %s is small again", self.path)

    def _opened(self) -> Opened:
        if self._open is not None and self._open.is_usable:
            return self._open
        if self._open is not None and not self._open.is_in_place:
            _log.error("the outbox file %s was replaced or removed while it was in use", self.path)
        self._close()
        if not self._must_exist:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not self.path.exists():
            raise OutboxError(f"{self.path}: there is no such file")
        # One at a time: to change to WAL, SQLite needs the file for itself and does not wait for it.
        with locked(self.path.parent, fcntl.LOCK_EX):
            if not self._must_exist:
                make_file(self.path)
            require_writable(self.path, OutboxError)
            inode = inode_of(self.path)
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            self._open = opened = Opened(self, connection, self.path, inode)
            self._queue = FileQueue(connection)
            # Any bytes as text: SQLite's own way fails for the whole row, and with it for all other rows.
            connection.text_factory = functools.partial(str, encoding="utf-8", errors="replace")
            # Before anything is changed: it may be another program's file.
            steps = self._steps(connection)
            for pragma in ("synchronous = FULL", "foreign_keys = ON"):
                connection.execute(f"PRAGMA {pragma}").fetchall()
            if steps:
                # Before there is a log, in which the mark of the file would stay for long: `fapilog retain` looks for
                # that in the file.
                make_tables(connection, steps, application_id=_APPLICATION_ID, version=VERSION)
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            # Else a log that is empty again keeps its size: https://www.sqlite.org/pragma.html#pragma_journal_size_limit
            connection.execute(f"PRAGMA journal_size_limit = {_LARGE_LOG}").fetchall()
        self._has_worked = True
        return opened

    def _steps(self, connection: sqlite3.Connection) -> tuple[str, ...]:
        """Return the SQL that makes the tables that lack; raise if the file is no outbox, or one of another version."""
        application, version = number(connection, "application_id"), number(connection, "user_version")
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        is_empty = not application and not there
        if (application, version) == (_APPLICATION_ID, VERSION) or (is_empty and not self._must_exist):
            # Someone may have dropped a table: without that of the attempts, alerts would come and never be sent.
            lacking = [sql for name, sql in SCHEMA.items() if name not in there]
            return (*lacking, COUNT_ANEW) if lacking else ()
        got = "an empty file" if is_empty else "another database"
        if application == _APPLICATION_ID:
            got = f"version {version}"
        raise OutboxError(f"{self.path}: expected an outbox of version {VERSION}; got {got}")

    def _failure(self, error: Exception) -> OutboxError:
        words = (error.strerror or error) if isinstance(error, OSError) else words_of(error)
        return OutboxError(f"{self.path}: {words}")

    def _set_aside(self, inode: tuple[int, int] | None) -> None:
        """Rename a damaged outbox, with its log and index, unless another process has done so meanwhile."""
        try:
            with locked(self.path.parent, fcntl.LOCK_EX):
                if inode is None or inode != inode_of(self.path) or not self._was_outbox() or not self._is_damaged():
                    return
                aside = f"{self.path}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
                for suffix in ("-wal", "-shm", ""):
                    with contextlib.suppress(FileNotFoundError):
                        Path(f"{self.path}{suffix}").rename(f"{aside}{suffix}")
        except _FAILURES as error:
            raise self._failure(error) from error
        _log.critical("the outbox file %s is damaged; it was set aside as %s", self.path, aside)

    def _was_outbox(self) -> bool:
        """Return whether the file was one before it was damaged: a file that a path names by mistake stays in place."""
        if self._has_worked:
            return True
        with self.path.open("rb") as file:
            header = file.read(100)
        if header.startswith(_SQLITE):
            return has_mark(header)
        # A crash of the system may leave zeros; and nothing but a database has a log beside it.
        return not header.strip(b"\0") or Path(f"{self.identity()}-wal").exists()

    def _is_damaged(self) -> bool:
        """Look through all of it: SQLite also says "malformed" where the disk failed to read, once."""
        with contextlib.closing(sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT, isolation_level=None)) as connection:
            try:
                return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() != ("ok",))
            except ERRORS as error:
                if is_damage(error):
                    return True
                raise


def has_mark(header: bytes) -> bool:
    """Return whether a file that begins with *header*, of 72 bytes at least, is an outbox."""
    # https://www.sqlite.org/fileformat.html#the_database_header
    return header.startswith(_SQLITE) and header[68:72] == _APPLICATION_ID.to_bytes(4, "big")
