"""The outbox in PostgreSQL: one transaction with the record, several processes, and a server that comes and goes."""

import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

pytest.importorskip("psycopg")

import psycopg

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    ComplianceLevel,
    CompliancePolicy,
    OutboxError,
    TransientDeliveryError,
)
from fapilog.core.alerting import Alert
from fapilog.core.signals import compliance_alert
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox._place import Queue
from fapilog.delivery.outbox._postgres.place import Listener
from fapilog.delivery.outbox.deposit import PostgresDeposit
from fapilog.delivery.outbox.postgres import PostgresOutbox
from fapilog.delivery.retry import Retrying
from fapilog.delivery.route import Route, when
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.postgres import PostgresStorage
from fapilog.storage.postgres.alerts import CHANNEL
from fapilog.storage.postgres.connection import Connection
from fapilog.storage.protocol import KeptAlert
from fapilog.testing import RecordingDispatcher
from tests.doubles.cutting_proxy import CuttingProxy
from tests.doubles.outboxes import leased_until, look_often, owned, renewed, statuses
from tests.doubles.pgbouncer import pgbouncer
from tests.doubles.postgres import Server, followed
from tests.doubles.scripted_dispatcher import Scripted, an_event

pytestmark = pytest.mark.real_time

HOLDING = Path(__file__).parents[1] / "programs" / "holding_outbox.py"
VIOLATION = AuditEventType.SECURITY_VIOLATION


@pytest.fixture
def storage(database: Server, name: str, monkeypatch: pytest.MonkeyPatch) -> PostgresStorage:
    """Return a storage for a trail of the test's own, in the role of a service."""
    look_often(monkeypatch)
    return PostgresStorage(database.dsn(user="service"), name)


def pager(inner: Any, storage: PostgresStorage, **options: Any) -> PostgresOutbox:
    """Return an outbox as another process would have it."""
    return PostgresOutbox(inner, storage, **{"name": "pager", **options})


def rows(database: Server, storage: PostgresStorage, columns: str = "outbox, status") -> list[tuple[Any, ...]]:
    """Return what is in the outboxes of a trail."""
    with psycopg.connect(database.dsn()) as connection:
        query = f"SELECT {columns} FROM fapilog.alerts WHERE trail = %s ORDER BY id"  # noqa: S608
        return connection.execute(query.encode(), [storage.trail]).fetchall()


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something that another thread, or another outbox, does."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110  nothing tells of it
            await anyio.sleep(0.01)


# -- in the transaction of the record


@pytest.mark.slow
async def test_a_stored_event_is_in_the_outbox(database: Server, storage: PostgresStorage) -> None:
    """A process that dies right after the commit has lost nothing: another one sends the alert, as it would have."""
    trail = AuditTrail(storage=storage, alert_dispatcher=pager(Scripted(), storage))
    trail._announce = lambda event: None  # type: ignore[method-assign]  # it dies here
    event_id = await trail.log_security_event(VIOLATION, "the safe is open", user_id="alice")
    await trail.log_data_access("patient/42", "read")
    assert rows(database, storage) == [("pager", "pending")]
    inner = RecordingDispatcher()
    async with pager(inner, storage):
        [alert] = await inner.wait_for(1)
    [stored] = await trail.get_events(event_id=event_id)
    assert alert.event == stored
    assert (alert.event.sequence_number, alert.severity) == (1, "security")


@pytest.mark.slow_on_trio
async def test_a_role_whose_backslashes_are_escapes(database: Server, name: str) -> None:
    """With the settings that an old application needs, an alert arrives as it would with any others."""
    old = "-c standard_conforming_strings=off -c backslash_quote=on -c bytea_output=escape"
    storage, inner = PostgresStorage(f"{database.dsn(user='service')} options='{old}'", name), RecordingDispatcher()
    async with AuditTrail(storage=storage, alert_dispatcher=pager(inner, storage)) as trail:
        event_id = await trail.log_security_event(VIOLATION, "C:\\new", user_id="O'Brien\\")
        [alert] = await inner.wait_for(1)
    assert [alert.event] == await trail.get_events(message="C:\\new", user_id="O'Brien\\")
    assert alert.event.event_id == event_id


@pytest.mark.slow_on_trio
async def test_an_event_that_is_not_stored_leaves_no_alert(database: Server, storage: PostgresStorage) -> None:
    """What is rolled back with the record, or is there already, is in no outbox."""
    async with AuditTrail(storage=storage, alert_dispatcher=pager(Scripted(), storage)) as trail:
        for _ in range(2):
            await trail.log_security_event(VIOLATION, "m", event_id="one")
    assert rows(database, storage, "event_id") == [("one",)]
    event = AuditEvent(event_id="one", event_type=VIOLATION, message="m")
    with pytest.raises(AuditStorageError, match="has the id of this event already"):
        await storage.append(event, alerts=[KeptAlert("another", "security", None, event)])
    assert rows(database, storage, "outbox") == [("pager",)]


@pytest.mark.slow_on_trio
async def test_an_alert_without_a_number_of_its_own(database: Server, storage: PostgresStorage) -> None:
    """Where the database numbers alerts from behind, as after logical replication, no event is stored without one."""
    trail = AuditTrail(storage=storage, alert_dispatcher=pager(Scripted(), storage))
    await trail.log_security_event(VIOLATION, "before")
    taken = """\
        INSERT INTO fapilog.alerts (id, trail, outbox, event_id, sequence_number, event_type, severity)
        OVERRIDING SYSTEM VALUE
        SELECT nextval(pg_get_serial_sequence('fapilog.alerts', 'id')) + 1, 'another', 'pager', %s, 1, 't', 's'
    """
    with psycopg.connect(database.dsn()) as connection:
        connection.execute(taken, [storage.trail])
    with pytest.raises(AuditStorageError, match=r"the sequence of fapilog\.alerts\.id is behind its rows"):
        await trail.log_security_event(VIOLATION, "refused")
    assert [event.message for event in await trail.get_events()] == ["before"]
    event_id = await trail.log_security_event(VIOLATION, "after")
    assert (event_id,) in rows(database, storage, "event_id")


async def test_a_role_that_may_not_alert_stores_nothing(database: Server, storage: PostgresStorage) -> None:
    """Where the alert can't be put in, the event is not stored either."""
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute("REVOKE INSERT ON fapilog.alerts FROM fapilog_writer, fapilog_sender")
        try:
            trail = AuditTrail(storage=storage, alert_dispatcher=pager(Scripted(), storage))
            with pytest.raises(AuditStorageError, match="permission denied for table alerts"):
                await trail.log_security_event(VIOLATION, "m")
        finally:
            connection.execute("GRANT INSERT ON fapilog.alerts TO fapilog_writer, fapilog_sender")
    assert (await trail.verify_chain_from_storage()).events_checked == 0


async def test_each_target_has_its_own(database: Server, storage: PostgresStorage) -> None:
    """A fan-out of outboxes, and a route of them, have the alert put into those that it goes to."""
    one, two = pager(Scripted(), storage, name="one"), pager(Scripted(), storage, name="two")
    routed = Route({when(severity="security"): FanOut([one, RecordingDispatcher()])}, default=two)
    for dispatcher in (FanOut([one, two]), routed):
        trail = AuditTrail(storage=storage, alert_dispatcher=dispatcher)
        trail._announce = lambda event: None  # type: ignore[method-assign]
        await trail.log_security_event(VIOLATION, "m")
    assert rows(database, storage, "outbox, sequence_number") == [("one", 1), ("two", 1), ("one", 2)]


async def test_what_can_decide_otherwise_later_is_not_asked(database: Server, storage: PostgresStorage) -> None:
    """Where something else decides on the alert, it comes by `send_alert`, as it does for any outbox."""

    class Choosy(AuditTrail):
        async def _send_compliance_alert(self, event: AuditEvent) -> None:
            """Announce nothing."""

    outbox = pager(Scripted(), storage)
    own = Route({lambda event, severity, channel: event.sequence_number == 2: Scripted()}, default=outbox)
    elsewhere = MemoryStorage()
    for trail in (
        Choosy(storage=storage, alert_dispatcher=outbox),
        AuditTrail(storage=storage, alert_dispatcher=own),
        AuditTrail(storage=elsewhere, alert_dispatcher=outbox),
        AuditTrail(storage=storage, alert_dispatcher=Retrying(outbox)),
        AuditTrail(storage=storage, alert_dispatcher=Broken()),
    ):
        if type(trail) is AuditTrail:
            trail._announce = lambda event: None  # type: ignore[method-assign]
        await trail.log_security_event(VIOLATION, "m")
    with compliance_alert.muted():
        await AuditTrail(storage=storage, alert_dispatcher=outbox).log_security_event(VIOLATION, "m")
    assert rows(database, storage) == []


class Broken(Scripted):
    """Raises where it is asked which of its outboxes keep an alert."""

    def kept_in(self, storage: object, alert: Alert) -> list[str]:
        raise ZeroDivisionError


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize(
    "options", [{"keep": math.inf}, {"timeout": math.inf}, {"lease": 1e15}, {"schedule": [1e15]}], ids=str
)
async def test_seconds_may_be_without_an_end(
    storage: PostgresStorage, options: dict[str, Any], *, started: bool
) -> None:
    """Receipts that are kept for ever, and other times that the server does not know, keep no alert from being sent."""
    inner = RecordingDispatcher()
    trail = AuditTrail(storage=storage, alert_dispatcher=pager(inner, storage, **options))
    if started:
        await trail.start()
    await trail.log_security_event(VIOLATION, "m")
    with anyio.fail_after(60):
        await inner.wait_for(1)
        await trail.stop()
    assert (await trail.get_statistics())["alerts"] == {"dispatched": 1, "failed": 0, "waiting": 0}


async def test_the_outbox_holds_what_is_sent(database: Server, storage: PostgresStorage) -> None:
    """With the minimum necessary the outbox holds no more; on delivery the event is gone."""
    policy = CompliancePolicy(level=ComplianceLevel.HIPAA, hipaa_minimum_necessary=True)
    inner = RecordingDispatcher()
    trail = AuditTrail(policy, storage=storage, alert_dispatcher=pager(inner, storage))
    trail._announce = lambda event: None  # type: ignore[method-assign]
    await trail.log_security_event(VIOLATION, "jane is ill", user_id="jane")
    [(event,)] = rows(database, storage, "event")
    assert b"jane" not in event
    async with pager(inner, storage):
        [alert] = await inner.wait_for(1)
        assert alert.event.sequence_number == 1
    assert rows(database, storage, "event, status") == [(None, "delivered")]


@pytest.mark.slow_on_trio
async def test_a_trail_with_an_outbox(storage: PostgresStorage) -> None:
    """Alerts of tasks and of synchronous code arrive once, and a start finds nothing to resend."""
    inner = RecordingDispatcher()
    for number in (2, 4):
        async with AuditTrail(storage=storage, alert_dispatcher=pager(inner, storage)) as trail:
            await trail.log_security_event(VIOLATION, "one")
            trail.sync.log_security_event(VIOLATION, "two")
            await inner.wait_for(number)
            await trail.drain()
    # In no order: several are sent at once.
    assert sorted(alert.event.sequence_number or 0 for alert in inner.alerts) == [1, 2, 3, 4]


# -- several processes


@pytest.mark.slow
async def test_a_killed_process_is_taken_over(
    storage: PostgresStorage, database: Server, anyio_backend_name: str
) -> None:
    """A process renews its lease; when it is killed another one sends its alerts, once the lease is over."""

    def put(queue: Queue) -> None:
        for number in (1, 2, 3):
            queue.put("pager", Alert(an_event(number), "critical", None), 0.0)

    await pager(Scripted(), storage)._store.run(put)
    command = [sys.executable, str(HOLDING), database.dsn(user="service"), storage.trail, anyio_backend_name]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220
    assert holder.stdout is not None
    for _ in range(3):
        await anyio.to_thread.run_sync(holder.stdout.readline)
    # No other one waits meanwhile: it would rightly send them if the first did not get the processor for a while.
    onlooker = pager(Scripted(), storage)
    await renewed(onlooker, an_event(1), lease=1.0)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    last = await leased_until(onlooker, an_event(1))
    inner = RecordingDispatcher()
    async with pager(inner, storage) as outbox:
        await inner.wait_for(3)
    attempts = await outbox.history(an_event(1).event_id)
    assert [each.outcome for each in attempts] == ["stopped", "dispatched"]
    # Its beginning is by the clock of this process, and the lease by the server's.
    assert attempts[1].began_at > last - timedelta(seconds=0.5)


@pytest.mark.slow_on_trio
async def test_others_hear_of_an_alert_at_once(storage: PostgresStorage) -> None:
    """A sender that has nothing to do for an hour is woken when another process stores an alert, or retries one."""
    inner = Scripted(None, ZeroDivisionError(), None)
    async with pager(inner, storage, lease=3600.0, schedule=[3600.0]) as outbox:
        await until(lambda: is_listening(storage))
        trail = AuditTrail(storage=PostgresStorage(dsn_of(storage), storage.trail))
        event = AuditEvent(event_type=VIOLATION, message="m")
        await trail._storage.append(event, alerts=[KeptAlert("pager", "security", None, event)])  # type: ignore[call-arg]
        await until(lambda: len(inner.calls) == 1)
        await pager(Scripted(), storage)._store.run(
            lambda queue: queue.put("pager", Alert(an_event(7), "critical", None), 0)
        )
        await until(lambda: len(inner.calls) == 2)
        while (await outbox.history(an_event(7).event_id))[0].outcome is None:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        await pager(Scripted(), storage).retry(an_event(7).event_id)
        await until(lambda: len(inner.calls) == 3)
        await trail.stop()


def dsn_of(storage: PostgresStorage) -> str:
    parameters = storage.server._parameters
    return " ".join(f"{name}={value}" for name, value in parameters.items())


def is_listening(storage: PostgresStorage) -> bool:
    with psycopg.connect(dsn_of(storage).replace("user=service", "user=postgres")) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE query = %s"
        return connection.execute(query, [f"LISTEN {CHANNEL}"]).fetchone() != (0,)


@pytest.mark.slow_on_trio
async def test_the_thread_that_listens_ends(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outbox that was left has no connection any more, and no thread, although nothing is heard."""
    before = set(threading.enumerate())
    waits, is_for_us = threading.Event(), Listener._is_for_us

    def wait(self: Listener, connection: Connection) -> bool:
        waits.set()
        return is_for_us(self, connection)

    monkeypatch.setattr(Listener, "_is_for_us", wait)
    async with pager(Scripted(), storage):
        await until(waits.is_set)
    await until(
        lambda: not [each for each in threading.enumerate() if each.name == "fapilog outbox" and each not in before]
    )
    await until(lambda: not is_listening(storage))


@pytest.mark.slow_on_trio
async def test_behind_a_pooler_it_looks(database: Server, storage: PostgresStorage) -> None:
    """Behind PgBouncer in transaction mode nothing is listened to, and everything arrives."""
    with pgbouncer(database, "service") as dsn:
        pooled = PostgresStorage(dsn, storage.trail)
        inner = RecordingDispatcher()
        outbox = pager(inner, pooled, lease=0.5)
        async with AuditTrail(storage=pooled, alert_dispatcher=outbox) as trail:
            await trail.log_security_event(VIOLATION, "m")
            await inner.wait_for(1)
            event = AuditEvent(event_type=VIOLATION, message="m")
            await storage.append(event, alerts=[KeptAlert("pager", "security", None, event)])
            await inner.wait_for(2)
            assert not is_listening(storage)
        assert (await trail.verify_chain_from_storage()).events_checked == 2


@pytest.mark.slow_on_trio
async def test_clocks_that_differ(storage: PostgresStorage) -> None:
    """A process whose clock is a day ahead, and one whose clock is behind, wait as long as all others."""
    inner = Scripted(ZeroDivisionError(), None)
    outbox = pager(inner, storage, schedule=[0.5])
    outbox._store.now = lambda: time.time() + 86_400.0
    async with outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: len(inner.calls) == 2)
    assert inner.waits[0] < 30
    found = await pager(Scripted(), storage).find(an_event().event_id)
    assert found is not None
    assert abs(found.came_at.timestamp() - time.time()) < 3600
    [first, _] = await outbox.history(found.event_id)
    assert abs(first.began_at.timestamp() - time.time()) < 3600


@pytest.mark.slow_on_trio
async def test_a_server_whose_clock_was_ahead(database: Server, storage: PostgresStorage) -> None:
    """Times that a server with a wrong clock has written are put right by the next connection."""
    inner = RecordingDispatcher()
    await _put(storage, 1)
    with psycopg.connect(database.dsn()) as connection:
        connection.execute(
            "UPDATE fapilog.alerts SET due_at = now() + interval '1 year', came_at = now() + interval '1 year'"
            " WHERE trail = %s",
            [storage.trail],
        )
    async with pager(inner, storage) as outbox:
        await inner.wait_for(1)
        await until(lambda: not outbox.state.pending)


@pytest.mark.slow
async def test_a_server_whose_clock_is_set_back(database: Server, storage: PostgresStorage) -> None:
    """Times that are too far in the future, since the server's clock was set back, are put right as the outbox runs."""
    inner = Scripted(TransientDeliveryError("busy"), None)
    async with pager(inner, storage, schedule=[1000.0], lease=0.5) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: rows(database, storage, "failures") == [(1,)])
        for change, is_right in (
            ("alerts SET came_at", "came_at <= now()"),
            ("outboxes SET paused_until", "true"),
            ("alerts SET due_at", "due_at <= now()"),
        ):
            with psycopg.connect(database.dsn()) as connection:
                query = f"UPDATE fapilog.{change} = now() + interval '1 year' WHERE trail = %s"
                connection.execute(query.encode(), [storage.trail])
            await until(lambda is_right=is_right: rows(database, storage, is_right) == [(True,)])  # type: ignore[misc]
        await until(lambda: len(inner.calls) == 2)
        await until(lambda: not outbox.state.pending)


async def _put(storage: PostgresStorage, number: int) -> None:
    outbox = pager(Scripted(), storage)
    await outbox._store.run(lambda queue: queue.put("pager", Alert(an_event(number), "critical", None), time.time()))
    outbox._store.place.close()


# -- a server that comes and goes


@pytest.mark.slow
async def test_the_server_is_restarted(database: Server, storage: PostgresStorage) -> None:
    """While the server is away alerts wait, and that is an incident; when it is back they arrive, each once."""
    inner = Scripted()
    storage = PostgresStorage(database.dsn(user="service"), storage.trail, timeout=3.0)
    outbox = pager(inner, storage, schedule=[0.2] * 100, lease=1.0)
    async with owned(outbox) as told:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: len(inner.calls) == 1)
        database.stop()
        try:
            await outbox.send_alert(an_event(2), severity="critical")
            assert "the database of the outbox pager" in told.failures
            assert "PostgreSQL" in told.failures["the database of the outbox pager"]
        finally:
            database.start()
        await outbox.send_alert(an_event(3), severity="critical")
        await until(lambda: len(inner.calls) == 3)
        await until(lambda: "the database of the outbox pager" in told.recovered)
    assert inner.ids == [an_event(number).event_id for number in (1, 2, 3)]
    assert await statuses(outbox, *map(an_event, (1, 2, 3))) == ["delivered"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("forwards", [True, False])
async def test_cut_connections(database: Server, storage: PostgresStorage, *, forwards: bool) -> None:
    """Wherever the connection is cut, every alert arrives, and twice only after an attempt that nobody knows about."""
    proxy = CuttingProxy(database.port)
    try:
        dsn = f"{database.dsn(user='service', port=proxy.port)} sslmode=disable gssencmode=disable"
        away = PostgresStorage(dsn, storage.trail)
        inner = Scripted()
        outbox = pager(inner, away, lease=0.5)
        async with outbox:
            for number in range(1, 31):
                proxy.arm(number, forwards=forwards)
                await outbox.send_alert(an_event(number), severity="critical")
                proxy.disarm()
            await until(lambda: len(set(inner.ids)) == 30)
        for number in range(1, 31):
            event_id = an_event(number).event_id
            history = await pager(Scripted(), storage).history(event_id)
            unknown = [each for each in history if each.outcome in {None, "stopped"}]
            assert inner.ids.count(event_id) <= 1 + len(unknown), history
    finally:
        proxy.close()


# -- roles, forks and errors


@pytest.mark.slow_on_trio
async def test_roles(database: Server, storage: PostgresStorage) -> None:
    """A writer puts alerts in, and may neither send nor remove them; an auditor may read."""
    await _put(storage, 1)
    for user in ("writer", "auditor"):
        other = PostgresStorage(database.dsn(user=user), storage.trail)
        outbox = pager(Scripted(), other)
        assert [each.event_id for each in await outbox.pending()] == [an_event(1).event_id]
        with pytest.raises(OutboxError, match="permission denied for table"):
            await outbox.discard(an_event(1).event_id, reason="mine")
        with pytest.raises(OutboxError, match="permission denied for table"):
            await outbox.retry(an_event(1).event_id)
    writer = PostgresStorage(database.dsn(user="writer"), storage.trail)
    trail = AuditTrail(storage=writer, alert_dispatcher=pager(RecordingDispatcher(), writer))
    await trail.log_security_event(VIOLATION, "m")
    assert rows(database, storage, "status") == [("pending",)] * 2


@pytest.mark.slow_on_trio
async def test_a_host_that_only_records(database: Server, storage: PostgresStorage) -> None:
    """With the role of a writer alone a host keeps its alerts, all of them once, and another host sends them."""
    writer = PostgresStorage(database.dsn(user="writer"), storage.trail)
    deposit = PostgresDeposit(writer, name="pager")
    async with AuditTrail(storage=writer, alert_dispatcher=deposit) as trail:
        stored = await trail.log_security_event(VIOLATION, "m")
        await trail.drain()
        # As the alert about a failure of the trail comes.
        await deposit.send_alert(an_event(7), severity="critical", channel="#on-call")
        await deposit.send_alert(an_event(7), severity="critical", channel="#on-call")
        assert (await trail.get_statistics())["alerts"] == {"dispatched": 1, "failed": 0, "waiting": 0}
    assert rows(database, storage, "event_id, status") == [(stored, "pending"), (an_event(7).event_id, "pending")]
    target = RecordingDispatcher()
    async with AuditTrail(storage=storage, alert_dispatcher=pager(target, storage)):
        await until(lambda: len(target.alerts) == 2)
    assert {alert.event.event_id for alert in target.alerts} == {stored, an_event(7).event_id}


async def test_a_deposit_without_its_server(database: Server) -> None:
    """While the server is away an alert can't be deposited, and the error is one that may pass, without a secret."""
    away = PostgresStorage("host=127.0.0.1 port=9 user=u password=s3cr3t dbname=d", "t", timeout=0.1)
    with pytest.raises(TransientDeliveryError, match="cannot use the outboxes of trail 't'") as caught:
        await PostgresDeposit(away).send_alert(an_event(1), severity="info")
    assert "s3cr3t" not in str(caught.value)
    assert repr(PostgresDeposit(away)) == "<PostgresDeposit 'alerts' in PostgreSQL 127.0.0.1:9/d, trail 't'>"
    with pytest.raises(TypeError, match="storage: expected the PostgresStorage of the trail; got a MemoryStorage"):
        PostgresDeposit(MemoryStorage())  # type: ignore[arg-type]
    for wrong in ("", "x" * 201, "a\nb"):
        with pytest.raises(ValueError, match="name: expected 1 to 200 characters that can be printed"):
            PostgresDeposit(away, name=wrong)


def test_a_forked_child_leaves_the_parent_its_connections(storage: PostgresStorage) -> None:
    """A child of a process that has used an outbox uses it too, and the parent goes on."""
    outbox = pager(RecordingDispatcher(), storage)

    def send(number: int) -> None:
        anyio.run(partial(outbox.send_alert, an_event(number), severity="critical"))

    send(1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            send(2)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    send(3)
    found = [anyio.run(outbox.find, an_event(number).event_id) for number in (1, 2, 3)]
    assert [each and each.status for each in found] == ["delivered"] * 3


def test_what_is_no_outbox(storage: PostgresStorage) -> None:
    """A storage of another kind, a name that is too long, and two of one name are refused in words."""
    with pytest.raises(TypeError, match="storage: expected the PostgresStorage of the trail; got a MemoryStorage"):
        PostgresOutbox(Scripted(), MemoryStorage())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name: expected 1 to 200 characters that can be printed; got 'x"):
        pager(Scripted(), storage, name="x" * 201)
    with pytest.raises(ValueError, match="got two outboxes named"):
        FanOut([pager(Scripted(), storage), pager(Scripted(), storage)])
    secret = PostgresStorage("postgresql://service:t0k3n@db.example/audit", "clinic")
    outbox = PostgresOutbox(Scripted(), secret)
    assert outbox.place == "PostgreSQL db.example:5432/audit, trail 'clinic'"
    assert "t0k3n" not in repr(vars(outbox))


@pytest.mark.slow
def test_the_page_can_be_followed(database: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The example in the docs prints what the page says."""
    output = followed("alert-from-a-fleet.md", database.dsn(user="service"))
    assert capsys.readouterr().out == output
