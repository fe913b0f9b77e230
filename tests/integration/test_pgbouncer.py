"""PgBouncer in transaction mode: a trail is appended to, searched, verified and copied through it."""

import threading
from collections import Counter
from contextlib import ExitStack

import pytest

pytest.importorskip("psycopg")

import psycopg

from fapilog import AuditEvent, AuditEventType
from fapilog.core._reading import intact
from fapilog.storage.copying import copy
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.postgres import PostgresStorage, install_schema
from fapilog.storage.protocol import EventFilter, head_of
from fapilog.tasks.loops import without_loop
from tests.doubles.pgbouncer import pgbouncer
from tests.doubles.postgres import server
from tests.doubles.trail_writers import listen, writer

pytestmark = [pytest.mark.real_time, pytest.mark.slow]


def test_a_trail_behind_pgbouncer() -> None:
    """Processes and threads that share three connections store each event once, and find, verify and copy all."""
    # Each transaction has whichever connection is free, and none is reset in between: what is prepared, or set for
    # longer than a transaction, would be missed or found by somebody else.
    with server() as started, ExitStack() as stack:
        install_schema(started.dsn())
        with psycopg.connect(started.dsn()) as connection:
            connection.execute("CREATE ROLE service LOGIN IN ROLE fapilog_writer")
        dsn = stack.enter_context(pgbouncer(started, "service"))
        writers = [stack.enter_context(writer(dsn, backend, "fsync")) for backend in ("asyncio", "trio", "asyncio")]
        storage = PostgresStorage(dsn, "written", timeout=60)
        stored: list[str] = []

        def append() -> None:
            for number in range(10):
                event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", user_id=f"user-{number}")
                without_loop(storage.append(event))
                stored.append(event.event_id)

        threads = [threading.Thread(target=append) for _ in range(5)]
        for thread in threads:
            thread.start()
        for enough in (40, 80, 120):
            listen(writers, lambda: all(len(each.stored) >= enough for each in writers))  # noqa: B023
            with psycopg.connect(started.dsn()) as connection:
                # What a server that is shut down does to each of its connections.
                ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'service'"
                assert 1 <= len(connection.execute(ends).fetchall()) <= 3
        for thread in threads:
            thread.join()
        for each in writers:
            each.stop()
        result = without_loop(storage.verify())
        assert result.valid, result
        found = Counter(event.event_id for event in intact(without_loop(storage.find(EventFilter(), 1_000_000))))
        stored += [event_id for each in writers for event_id in each.stored]
        assert set(found.values()) == {1}
        assert not set(stored) - set(found)
        assert len(without_loop(storage.find(EventFilter(user_id="user-3"), 100))) == 5
        memory, again = MemoryStorage(), PostgresStorage(dsn, "again", timeout=60)
        without_loop(copy(storage, memory))
        without_loop(copy(memory, again))
        assert without_loop(head_of(again)) == without_loop(head_of(storage))
        for each_storage in (storage, again):
            without_loop(each_storage.aclose())
