"""A standby takes over: the primary is killed under writers, and whatever was acknowledged is there, once."""

import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

import psycopg

from fapilog.core._reading import intact
from fapilog.storage.postgres import PostgresStorage, install_schema
from fapilog.storage.protocol import EventFilter
from fapilog.tasks.loops import without_loop
from tests.doubles.postgres import Server, binaries, server
from tests.doubles.trail_writers import listen, writer

pytestmark = [pytest.mark.real_time, pytest.mark.slow]


def run(database: Server, *statements: str) -> None:
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def dsn_of_both(first: Server, second: Server) -> str:
    """Return the DSN of whichever of the two takes records, for the role of a service."""
    parts = [dict(part.split("=", 1) for part in each.dsn().split()) for each in (first, second)]
    hosts, ports = (",".join(part[name] for part in parts) for name in ("host", "port"))
    return f"host={hosts} port={ports} user=service dbname=postgres target_session_attrs=read-write"


def until_it_waits_for_the_standby(primary: Server) -> None:
    """Return when every commit waits for the standby: a server reads its settings anew in its own time."""
    end = time.monotonic() + 60
    with psycopg.connect(primary.dsn(), autocommit=True) as connection:
        while True:
            state = connection.execute("SELECT application_name, sync_state FROM pg_stat_replication").fetchall()
            if state == [("standby", "sync")]:
                return
            assert time.monotonic() < end, state
            time.sleep(0.02)


# The oldest and the newest that is here, as it takes its time.
@pytest.mark.parametrize("programs", sorted({*binaries()[:1], *binaries()[-1:]}), ids=lambda path: path.parent.name)
def test_a_standby_takes_over(programs: Path) -> None:
    """With remote_apply no acknowledged event is lost or there twice when the primary dies, and the writers go on."""
    with ExitStack() as stack:
        primary = stack.enter_context(server(programs))
        install_schema(primary.dsn())
        run(primary, "CREATE ROLE service LOGIN IN ROLE fapilog_writer")
        standby = stack.enter_context(server(programs, standby_of=primary))
        run(
            primary,
            "ALTER ROLE service SET synchronous_commit = remote_apply",
            "ALTER SYSTEM SET synchronous_standby_names = 'standby'",
            "SELECT pg_reload_conf()",
        )
        until_it_waits_for_the_standby(primary)
        both = dsn_of_both(primary, standby)
        writers = [stack.enter_context(writer(both, backend, "fsync")) for backend in ("asyncio", "trio", "asyncio")]
        listen(writers, lambda: all(len(each.stored) >= 50 for each in writers))
        primary.kill()
        run(standby, "SELECT pg_promote()")
        before = {each: len(each.stored) for each in writers}
        listen(writers, lambda: all(len(each.stored) > before[each] + 20 for each in writers))
        for each in writers:
            each.stop()
        storage = PostgresStorage(both, "written")
        result = without_loop(storage.verify())
        assert result.valid, result
        found = Counter(event.event_id for event in intact(without_loop(storage.find(EventFilter(), 1_000_000))))
        assert set(found.values()) == {1}
        assert not {event_id for each in writers for event_id in each.stored} - set(found)
        without_loop(storage.aclose())
