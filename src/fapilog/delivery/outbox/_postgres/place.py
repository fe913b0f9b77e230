"""The place of outboxes in PostgreSQL: its transactions, and the thread that hears of the alerts of other processes."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, LiteralString, TypeVar

import psycopg

from ....record.errors import AuditStorageError, OutboxError
from ....storage.postgres import PostgresStorage
from ....storage.postgres.alerts import CHANNEL
from ....storage.postgres.connection import Connection, Server, abandon, words
from ....tasks.fork import call_in_child
from .queue import PostgresQueue

__all__ = ["Database", "Listener"]

T = TypeVar("T")

# Seconds: for an attempt to connect and for the server's answer, and between two looks after a notification.
_PATIENCE: Final = 10.0
_BETWEEN: Final = 0.5
# Seconds between two attempts to listen: the first, and the longest.
_PAUSES: Final = (1.0, 60.0)


class Database:
    """
    The outboxes of a trail in the database that has the trail; see `Place`.

    Args:
        storage: The storage of the trail.
    """

    def __init__(self, storage: PostgresStorage) -> None:
        self.kind: Final = "database"
        self._trail = storage.trail
        self._timeout = storage.timeout
        self._place = str(storage)
        self._link = storage.link()
        call_in_child(self, Database._abandon)

    def __str__(self) -> str:
        return self._place

    def identity(self) -> str:
        """Return the text."""
        return self._place

    def run(self, calls: Sequence[Callable[[PostgresQueue], T]], *, writes: bool = True) -> list[T]:
        """
        Make *calls* in one transaction, which is tried again while the server is away, for the storage's timeout.

        Raises:
            OutboxError: It failed. If the answer to a commit was lost, the calls may have taken effect.
        """
        try:
            transaction = functools.partial(self._transaction, calls, "COMMIT" if writes else "ROLLBACK")
            return self._link.call(f"use the outboxes of trail {self._trail!r}", transaction, self._timeout)
        except AuditStorageError as error:
            problem = str(error)
        # Outside of the `except`: nothing of a record is to stand behind it.
        raise OutboxError(problem)

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._link.close()

    def _transaction(
        self, calls: Sequence[Callable[[PostgresQueue], T]], end: LiteralString, connection: Connection
    ) -> list[T]:
        connection.execute(connection.beginning())
        queue = PostgresQueue(connection, self._trail)
        try:
            results = [call(queue) for call in calls]
        except psycopg.DataError as error:
            problem = words(error)
        else:
            connection.execute(end)
            return results
        # One of the calls is at fault, and not the database.
        raise ValueError(problem)

    def _abandon(self) -> None:
        # In a forked child.
        self._link.abandon()


class Listener:
    """
    Hears at once that there is something to do for the outboxes of a trail, in a thread of its own.

    It is only a help: a sender looks by itself when its next alert is due, or a lease is over. A pooler such as
    PgBouncer passes no notifications; behind one the thread ends. The thread is a daemon, which keeps no process from
    ending.

    Args:
        server: The server of the database.
        trail: The name of the trail.
        heard: Called in that thread, twice a second at most.
    """

    def __init__(self, server: Server, trail: str, heard: Callable[[], object]) -> None:
        self._server = server
        self._trail = trail
        self._heard = heard
        self._stopped = threading.Event()
        self._connection: Connection | None = None
        call_in_child(self, Listener._abandon)

    def start(self) -> None:
        """Begin to listen; nothing happens where no thread can be had."""
        with suppress(RuntimeError):
            threading.Thread(target=self._run, name="fapilog outbox", daemon=True).start()

    def stop(self) -> None:
        """Have the thread end soon."""
        self._stopped.set()
        connection = self._connection
        if connection is not None:
            # It looks at this ten times a second.
            connection.give_up_at(0.0)

    def _abandon(self) -> None:
        # In a forked child, which has no such thread.
        connection = self._connection
        if connection is not None:
            abandon(connection)

    def _run(self) -> None:
        pause = _PAUSES[0]
        while not self._stopped.is_set():
            with suppress(psycopg.Error):
                self._connection = connection = self._server.connect(_PATIENCE)
                try:
                    if _is_pooled(connection):
                        return
                    connection.execute(f"LISTEN {CHANNEL}")
                    pause = _PAUSES[0]
                    self._listen(connection)
                finally:
                    self._connection = None
                    connection.close()
            # A fleet does not come back all at once.
            self._stopped.wait(pause * random.uniform(0.5, 1.5))  # noqa: S311  no secret
            pause = min(2 * pause, _PAUSES[1])

    def _listen(self, connection: Connection) -> None:
        connection.give_up_at(float("inf"))
        while not self._stopped.is_set():
            # Also when it begins: there may have been something before.
            self._heard()
            # Every stored alert wakes all other processes: in a storm they must not look once for every alert.
            self._stopped.wait(_BETWEEN)
            while not self._is_for_us(connection):
                pass

    def _is_for_us(self, connection: Connection) -> bool:
        """Wait for a notification; return whether it is about the trail."""
        return self._trail in {each.payload for each in connection.notifies(stop_after=1)}


def _is_pooled(connection: Connection) -> bool:
    """Return whether a pooler is between: it says of itself which process the server is, and passes nothing on."""
    row: Any = connection.execute("SELECT pg_backend_pid()").fetchone()
    return row is None or row[0] != connection.info.backend_pid
