"""PostgreSQL is killed with SIGKILL, and its connections are cut: what was said to be stored is, once, and is valid."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

import anyio

from fapilog import AuditEvent, AuditEventType, AuditStorageError
from fapilog.core._reading import intact
from fapilog.storage.postgres import PostgresStorage, install_schema
from fapilog.storage.protocol import EventFilter
from fapilog.tasks.loops import without_loop
from tests.doubles.cutting_proxy import CuttingProxy
from tests.doubles.postgres import Server, binaries, server
from tests.doubles.trail_writers import listen, writer

WRITERS = 4
KILLINGS = 3


def require_once(storage: PostgresStorage, stored: list[str]) -> None:
    """Verify the trail, and find in it once whatever is in *stored*, and nothing twice."""
    result = without_loop(storage.verify())
    assert result.valid, result
    found = Counter(event.event_id for event in intact(without_loop(storage.find(EventFilter(), 1_000_000))))
    assert set(found.values()) == {1}
    assert not set(stored) - set(found)


def run_round(started: Server, number: int) -> None:
    """Let four write while the server is killed and started again, and one of the writers with it."""
    chance = random.Random(number)  # noqa: S311
    with ExitStack() as stack:
        new = [("asyncio", "trio")[each % 2] for each in range(WRITERS)]
        alive = [stack.enter_context(writer(started.dsn(), backend, "fsync")) for backend in new]
        everyone = list(alive)
        for _ in range(KILLINGS):
            enough = {each: len(each.stored) + chance.randrange(1, 80) for each in alive}
            listen(alive, lambda: all(len(each.stored) >= count for each, count in enough.items()))  # noqa: B023
            if chance.random() < 0.5:
                victim = chance.choice(alive)
                victim.kill()
                alive.remove(victim)
                alive.append(stack.enter_context(writer(started.dsn(), "trio", "fsync")))
                everyone.append(alive[-1])
            started.kill()
            started.start()
        before = {each: len(each.stored) for each in alive}
        listen(alive, lambda: all(len(each.stored) > before[each] for each in alive))
        for each in alive:
            each.stop()
    storage = PostgresStorage(started.dsn(), "written")
    require_once(storage, [event_id for each in everyone for event_id in each.stored])
    without_loop(storage.aclose())


@pytest.mark.parametrize("programs", binaries(), ids=lambda path: path.parent.name)
def test_a_killed_server_loses_nothing(programs: Path, rounds: Iterator[int]) -> None:
    """The server is killed under four writers: each event whose id was returned is there once, and all is valid."""
    with server(programs) as started:
        install_schema(started.dsn())
        for number in rounds:
            run_round(started, number)


def an_event() -> AuditEvent:
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", user_id="alice")


@pytest.mark.parametrize("programs", binaries(), ids=lambda path: path.parent.name)
@pytest.mark.parametrize("forwards", [True, False])
@pytest.mark.parametrize("is_new", [True, False])
def test_every_cut_stores_once(programs: Path, *, forwards: bool, is_new: bool) -> None:
    """Wherever the connection is cut, each of 20 events that are stored at once is there once, in its place."""

    async def store_many(storage: PostgresStorage, events: list[AuditEvent]) -> dict[str, int]:
        places: dict[str, int] = {}

        async def store(event: AuditEvent) -> None:
            places[event.event_id] = (await storage.append(event)).sequence_number

        async with anyio.create_task_group() as tasks:
            for event in events:
                tasks.start_soon(store, event)
        return places

    with server(programs, fsync="off") as started:
        install_schema(started.dsn())
        proxy = CuttingProxy(started.port)
        storage = PostgresStorage(f"{started.dsn(port=proxy.port)} sslmode=disable gssencmode=disable", "cut")
        places = anyio.run(store_many, storage, [an_event()])
        number, was_cut = 0, True
        while was_cut:
            number += 1
            if is_new:
                without_loop(storage.aclose())
            proxy.arm(number, forwards=forwards)
            events = [an_event() for _ in range(20)]
            places |= anyio.run(store_many, storage, events)
            # The first of the others may have had a transaction of its own.
            was_cut = proxy.disarm()
        found = list(intact(without_loop(storage.read(0, 10_000))))
        assert {event.event_id: event.sequence_number for event in found} == places
        require_once(storage, list(places))
        without_loop(storage.aclose())
        proxy.close()
    assert number > 15


def test_the_server_is_checked(tmp_path: Path) -> None:
    """With sslmode=verify-full nothing is sent to a server whose certificate is not of the authority that is named."""
    trustme = pytest.importorskip("trustme")
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ours.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    with server() as started:
        install_schema(started.dsn())
        started.stop()
        started.use_certificate(ours.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes())
        started.start()
        in_use = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        for authority in ("ours", "other"):
            dsn = f"{started.dsn(port=started.port)} sslmode=verify-full sslrootcert={tmp_path / authority}.pem"
            storage = PostgresStorage(dsn, "tls", timeout=2)
            if authority == "ours":
                without_loop(storage.append(an_event()))
                assert storage._writer.call("ask", lambda each: each.execute(in_use).fetchone(), 2) == (True,)
            else:
                with pytest.raises(AuditStorageError, match="certificate verify failed"):
                    without_loop(storage.append(an_event()))
            without_loop(storage.aclose())
