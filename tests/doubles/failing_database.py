"""A connection to SQLite of which one statement fails."""

import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["Disk", "Fails", "database_error", "nothing"]


def database_error(message: str, code: int) -> sqlite3.DatabaseError:
    """Return the error that SQLite raises with *code*."""
    kind = (
        sqlite3.DatabaseError if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} else sqlite3.OperationalError
    )
    error = kind(message)
    error.sqlite_errorcode = code
    return error


Fails = Callable[[int, str], Exception | None]


def nothing(number: int, statement: str) -> None:
    """Let nothing fail."""


class Disk:
    """
    Counts the statements of all connections, and lets those fail that it is asked to.

    Attributes:
        fails: Asked for each statement, with its number from 1 and its text; returns the error to raise, or None.
        fails_after: The same, when the statement is done.
        count: How many there were.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work()
        connect = sqlite3.connect
        monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: _Connection(connect(*args, **options), self))

    def work(self) -> None:
        """Let nothing fail from now on."""
        self.fails: Fails = nothing
        self.fails_after: Fails = nothing
        self.count = 0


class _Connection:
    def __init__(self, connection: sqlite3.Connection, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        self._disk.count += 1
        number = self._disk.count
        error = self._disk.fails(number, statement)
        if error is None:
            # A thousand files are made; that what is in them is on the disk is for others to see.
            cursor = self._connection.execute(statement.replace("= FULL", "= OFF"), parameters)
            error = self._disk.fails_after(number, statement)
        if error is not None:
            raise error
        return cursor

    def close(self) -> None:
        self._connection.close()
