"""The disk of the PostgreSQL server is full: nothing is lost or doubled, the trail says so, and goes on with room."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

import anyio
import anyio.to_thread
import psycopg

from fapilog import AuditEventType, AuditStorageError, AuditTrail
from fapilog.storage.postgres import PostgresStorage, install_schema
from fapilog.testing import RecordingDispatcher
from tests.doubles.file_systems import empty, fill, mounted
from tests.doubles.postgres import Server, binaries, server

TASKS = 20
# Seconds.
TIMEOUT = 3.0
FAILURE, RECOVERY = AuditEventType.COMPONENT_FAILURE, AuditEventType.COMPONENT_RECOVERY
# Each page has room for one event.
TEXT = "x" * 4000


class Writers:
    """
    Tasks that log events, each with an id of its own, and note what became of it.

    Attributes:
        stored: The ids that were returned.
        errors: The messages of the errors, by the ids.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail
        self._count = 0
        self.stored: list[str] = []
        self.errors: dict[str, str] = {}

    async def write(self, each: int) -> None:
        """Log *each* events in every task."""
        async with anyio.create_task_group() as tasks:
            for _ in range(TASKS):
                tasks.start_soon(self._write, each)

    async def _write(self, each: int) -> None:
        for _ in range(each):
            self._count += 1
            event_id = f"event-{self._count}"
            try:
                # Nothing waits for longer than an event that comes while others wait.
                with anyio.fail_after(2 * TIMEOUT + 30):
                    await self._trail.log_event(
                        AuditEventType.DATA_ACCESS, "read", event_id=event_id, metadata={"text": TEXT}
                    )
            except AuditStorageError as error:
                self.errors[event_id] = str(error)
            else:
                self.stored.append(event_id)

    async def until_refused(self) -> None:
        """Log events until the server refuses one."""
        while not self.errors:
            await self.write(5)

    async def until_stored(self) -> None:
        """Log events until one is stored."""
        before = len(self.stored)
        with anyio.fail_after(120):
            while len(self.stored) == before:
                await self.write(1)


async def require_nothing_lost(
    storage: PostgresStorage, fill_disk: Callable[[], None], make_room: Callable[[], None]
) -> list[str]:
    """Log while the disk is full, and when there is room again: one incident, each event once. Return the errors."""
    pager = RecordingDispatcher()
    async with AuditTrail(storage=storage, alert_dispatcher=pager) as trail:
        writers = Writers(trail)
        await writers.write(2)
        assert not writers.errors
        await anyio.to_thread.run_sync(fill_disk)
        await writers.until_refused()
        await trail.drain()
        assert [alert.event.event_type for alert in pager.alerts] == [FAILURE]
        await anyio.to_thread.run_sync(make_room)
        await writers.until_stored()
        await trail.drain()
        assert [alert.event.event_type for alert in pager.alerts] == [FAILURE, RECOVERY]
        result = await trail.verify_chain_from_storage()
        assert result.valid, result
        found = Counter([event.event_id async for event in trail.events(event_type=AuditEventType.DATA_ACCESS)])
    assert set(found.values()) == {1}
    assert set(writers.stored) <= set(found)
    # Beyond these there may only be events whose error says so: the answer to their commit was lost.
    for event_id in set(found) - set(writers.stored):
        assert "the event may be stored" in writers.errors[event_id]
    return list(writers.errors.values())


@contextmanager
def small_volume(started: Server) -> Iterator[Path]:
    """Mount a small file system that the server may write to."""
    small = Path(started.dsn().split()[0].removeprefix("host="), "small")
    small.mkdir()
    with mounted(small, "4m"):
        shutil.chown(small, "nobody" if os.geteuid() == 0 else os.geteuid())
        yield small


@pytest.mark.may_block
@pytest.mark.parametrize("programs", binaries(), ids=lambda path: path.parent.name)
async def test_no_room_for_the_tables(programs: Path) -> None:
    """Where a tablespace is full, the server refuses each transaction, and goes on."""
    with server(programs, fsync="off") as started, small_volume(started) as small:
        with psycopg.connect(started.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{small}'")
        install_schema(f"{started.dsn()} options='-c default_tablespace=small'")
        storage = PostgresStorage(started.dsn(), "full", timeout=TIMEOUT)
        errors = await require_nothing_lost(storage, lambda: fill(small), lambda: empty(small))
        # https://www.postgresql.org/docs/current/errcodes-appendix.html: disk_full
        assert all("(53100)" in error for error in errors)
        await storage.aclose()
        started.stop()


@pytest.mark.may_block
@pytest.mark.parametrize("programs", binaries(), ids=lambda path: path.parent.name)
async def test_no_room_for_the_log(programs: Path) -> None:
    """Where the write-ahead log has no room the server ends, and goes on when it is started again with room."""
    with server(programs, disk="160m", max_wal_size="32MB", min_wal_size="32MB") as started:
        install_schema(started.dsn())
        storage = PostgresStorage(started.dsn(), "full", timeout=TIMEOUT)
        await require_nothing_lost(storage, started.fill_disk, started.make_room)
        await storage.aclose()
