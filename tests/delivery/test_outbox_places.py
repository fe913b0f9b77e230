"""What every outbox does, whether its alerts are kept in a file or in PostgreSQL."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

pytest.importorskip("psycopg")

from fapilog import (
    AmbiguousDeliveryError,
    AuditEvent,
    BrokenRouteError,
    ChainHead,
    OutboxError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.core.alerting import Alert, reporter
from fapilog.delivery.outbox import Outbox, OutboxState
from fapilog.delivery.outbox._outbox import AnyOutbox
from fapilog.delivery.outbox._place import Queue
from fapilog.delivery.outbox.postgres import PostgresOutbox
from fapilog.storage.postgres import PostgresStorage
from fapilog.testing import RecordingDispatcher
from tests.doubles.outboxes import Told, claim, look_often, renewed, statuses
from tests.doubles.scripted_dispatcher import Scripted, an_event

pytestmark = pytest.mark.real_time

BUSY = TransientDeliveryError("busy")
Make = Callable[..., AnyOutbox]


@pytest.fixture(params=["file", pytest.param("database", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a function that makes an outbox as a process would: each has the same place, which is new."""
    look_often(monkeypatch)
    if request.param == "file":
        return lambda inner, **options: Outbox(inner, tmp_path / "alerts.db", **options)
    dsn = request.getfixturevalue("database").dsn(user="service")
    return lambda inner, **options: PostgresOutbox(inner, PostgresStorage(dsn, name), **options)


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something that another thread, or another outbox, does."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110  nothing tells of it
            await anyio.sleep(0.01)


async def test_it_sends_what_it_takes(make: Make) -> None:
    """What was taken is sent in the background, as it came, and has a receipt."""
    inner = RecordingDispatcher()
    event = an_event(message="opened", contains_phi=True, metadata={"door": 3})
    async with make(inner) as outbox:
        await outbox.send_alert(event, severity="critical", channel="#on-call")
        [alert] = await inner.wait_for(1)
        assert (alert.event, alert.severity, alert.channel) == (event, "critical", "#on-call")
    found = await outbox.find(event.event_id)
    assert found is not None
    assert (found.status, found.attempts, found.reason, found.due_at) == ("delivered", 1, None, None)
    assert (found.sequence_number, found.event_type, found.channel) == (1, "security_violation", "#on-call")
    assert found.ended_at is not None
    assert abs(found.came_at.timestamp() - time.time()) < 60
    [attempt] = await outbox.history(event.event_id)
    assert (attempt.number, attempt.outcome, attempt.reason) == (1, "dispatched", None)
    assert found.unreadable == attempt.unreadable == {}


async def test_an_event_is_taken_once(make: Make) -> None:
    """However often an event is handed over, during and after its delivery, it is sent once."""
    inner = RecordingDispatcher()
    async with make(inner) as outbox:
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(lambda: outbox.send_alert(an_event(), severity="critical"))
        await inner.wait_for(1)
        await outbox.send_alert(an_event(), severity="critical")
    assert len(inner.alerts) == 1


@pytest.mark.slow_on_trio
async def test_an_id_that_is_there_again(make: Make) -> None:
    """A trail in files stores an id again after a while: every alert is sent, and one of each id at a time."""
    asked: list[int | None] = []

    def busy_at_first(event: AuditEvent) -> Exception | None:
        asked.append(event.sequence_number)
        # The pause lets the others come, so that they are due together.
        return TransientDeliveryError("busy", retry_after=1.0) if len(asked) == 1 else None

    inner = Scripted(answer=busy_at_first)
    inner.delay = 0.05
    async with make(inner, concurrency=4) as outbox:
        for number in range(1, 7):
            await outbox.send_alert(an_event(number, event_id=f"id-{number % 2}"), severity="critical")
        await until(lambda: len(asked) == 7)
        await until(lambda: not outbox.state.pending)
    assert sorted(number or 0 for number in asked[1:]) == [1, 2, 3, 4, 5, 6]
    assert inner.most_at_once == 2
    once_more = Alert(an_event(7, event_id="id-1"), "critical", None)
    come = [Alert(an_event(number, event_id=f"id-{number % 2}"), "critical", None) for number in (5, 6)]
    assert await outbox.lacking([once_more, *come]) == [once_more]


async def test_any_text_is_kept(make: Make) -> None:
    """A text that a database can't hold as it is stands in the way of no alert, and of no other one."""
    inner = RecordingDispatcher()
    async with make(inner) as outbox:
        await outbox.send_alert(an_event(1), severity="a\0b\ud800", channel="'; DROP TABLE alerts; --\0\U0001f525%s")
        await outbox.send_alert(an_event(2), severity="critical")
        await inner.wait_for(2)
    assert await statuses(outbox, an_event(1), an_event(2)) == ["delivered"] * 2
    assert await outbox.find("\0\ud800' OR true --") is None


@pytest.mark.slow_on_trio
@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (BUSY, "transient", "busy"),
        (AmbiguousDeliveryError("no \0 answer"), "ambiguous", "no \ufffd answer"),
        (ValueError("t0k3n"), "error", "ValueError"),
    ],
)
async def test_what_may_help_is_tried_again(make: Make, error: Exception, outcome: str, reason: str) -> None:
    """A failure that is not permanent is tried again by the schedule, and its reason is kept, without a secret."""
    inner = Scripted(error, None)
    async with make(inner, schedule=[0.2]) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: len(inner.calls) == 2)
    first, second = await outbox.history(an_event().event_id)
    assert (first.outcome, (first.reason or "").replace("\0", "\ufffd"), second.outcome) == (
        outcome,
        reason,
        "dispatched",
    )
    # Two clocks are read, one after the other: a wait may be a little shorter on one than on the other.
    assert inner.waits[0] > 0.1


@pytest.mark.slow_on_trio
async def test_what_is_refused_is_dead_until_people_decide(make: Make) -> None:
    """A dead alert is counted and kept; it can be retried, also by another process, and be given up."""
    inner = Scripted(PermanentDeliveryError("gone"))
    other = make(NotCalled())
    async with make(inner, lease=0.5) as outbox:
        for number in (1, 2):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: outbox.state == OutboxState(dead=2))
        assert [each.event_id for each in await other.dead()] == [an_event(1).event_id, an_event(2).event_id]
        assert (await other.dead())[0].reason == "gone"
        assert await other.discard(an_event(2).event_id, reason="told by phone") == 1
        assert await other.discard(an_event(3).event_id, reason="told by phone") == 0
        inner.outcomes = [None]
        assert await other.retry() == 1
        await until(lambda: len(inner.calls) == 3)
    assert await statuses(outbox, an_event(1), an_event(2)) == ["delivered", "discarded"]
    assert await other.retry(an_event(2).event_id) == 1
    assert [each.event_id for each in await other.pending()] == [an_event(2).event_id]
    assert await other.oldest_pending() == 2


class NotCalled:
    """A dispatcher of a process that sends nothing."""

    async def send_alert(self, event: Any, *, severity: str, channel: str | None = None) -> None:
        raise AssertionError


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("by_another", [False, True])
async def test_a_route_is_tried_when_people_retry(make: Make, *, by_another: bool) -> None:
    """While the route is broken nothing is sent for a long time, unless people retry an alert, in whatever process."""
    inner = Scripted(BrokenRouteError("status 407"))
    async with make(inner, schedule=[600.0] * 3, lease=0.5, concurrency=1) as outbox:
        for number in range(1, 6):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: len(inner.calls) == 1 and outbox.state.pending == 5)
        people = make(NotCalled()) if by_another else outbox
        # It is still broken: one try, and no more.
        assert await people.retry(an_event(5).event_id) == 1
        await until(lambda: len(inner.calls) == 2)
        inner.outcomes = [None]
        assert await people.retry(an_event(5).event_id) == 1
        await until(lambda: not outbox.state.pending)
    assert len(inner.calls) == 7


@pytest.mark.slow_on_trio
async def test_people_cannot_shorten_a_pause(make: Make) -> None:
    """What the target asks for is kept by every process, whatever people retry."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=600.0))
    other = RecordingDispatcher()
    async with make(inner, lease=0.3) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: inner.calls)
        # The pause is noted with how the attempt ended.
        while (await outbox.history(an_event(1).event_id))[0].outcome is None:  # noqa: ASYNC110  nothing tells of it
            await anyio.sleep(0.01)
        async with make(other, lease=0.3) as another:
            await another.send_alert(an_event(2), severity="critical")
            await another.retry(an_event(1).event_id)
            await anyio.sleep(1.0)
    assert len(inner.calls) == 1
    assert not other.alerts
    assert await statuses(outbox, an_event(1), an_event(2)) == ["pending"] * 2


@pytest.mark.slow_on_trio
async def test_each_alert_is_sent_by_one(make: Make) -> None:
    """Of several processes that share a place, one sends a given alert."""
    inners = [RecordingDispatcher() for _ in range(3)]
    async with (
        make(inners[0]) as one,
        make(inners[1]) as two,
        make(inners[2]) as three,
        anyio.create_task_group() as tasks,
    ):
        for number in range(1, 151):
            outbox = (one, two, three)[number % 3]
            tasks.start_soon(partial(outbox.send_alert, an_event(number), severity="critical"))
        await until(lambda: sum(len(inner.alerts) for inner in inners) >= 150)
    sent = [alert.event.event_id for inner in inners for alert in inner.alerts]
    assert sorted(sent) == sorted(an_event(number).event_id for number in range(1, 151))


@pytest.mark.slow_on_trio
async def test_what_a_dead_process_held_is_taken_over(make: Make) -> None:
    """When the lease of a process is over, another one sends its alerts, and the history says what is not known."""
    dead = make(NotCalled())
    now, began = time.time(), time.monotonic()
    # In one transaction: between two of them the lease might run out.
    _, [claimed], none = dead._store.place.run(
        [
            lambda queue: queue.put("alerts", Alert(an_event(), "critical", None), now),
            lambda queue: claim(queue, "alerts", an_event(), "theirs", now, lasts=1.0),
            lambda queue: claim(queue, "alerts", an_event(), "mine", now, lasts=1.0),
        ]
    )
    assert claimed.attempt == 1
    assert none == []
    dead._store.place.close()
    inner = RecordingDispatcher()
    async with make(inner) as outbox:
        await inner.wait_for(1)
        assert time.monotonic() - began > 0.9
    history = await outbox.history(an_event().event_id)
    assert [each.outcome for each in history] == ["stopped", "dispatched"]


@pytest.mark.slow_on_trio
async def test_the_lease_is_renewed(make: Make) -> None:
    """For as long as an attempt takes its lease is renewed, and the attempt is made once."""
    ended = anyio.Event()
    inner = RecordingDispatcher(wait=ended.wait)
    async with make(inner, lease=1.0) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await inner.wait_for(1)
        # No other outbox waits meanwhile: it would rightly send the alert if this process did not get the processor for
        # so long.
        await renewed(outbox, an_event(), lease=1.0)
        ended.set()
    assert len(inner.alerts) == 1
    assert await statuses(outbox, an_event()) == ["delivered"]


async def test_the_mark(make: Make) -> None:
    """The mark begins at the head, moves on and never back, unless the trail is another one."""
    outbox, other = make(NotCalled()), make(NotCalled())
    heads = {number: ChainHead(number, f"{number:064x}") for number in (3, 5, 7, 9)}
    assert await outbox.resume_from(heads[5]) == heads[5]
    assert await other.resume_from(heads[9]) == heads[5]
    await other.resumed_to(heads[7])
    await outbox.resumed_to(heads[5])
    assert await make(NotCalled()).resume_from(heads[9]) == heads[7]
    await _put(outbox, 9)
    lacking = await other.lacking([Alert(an_event(number), "critical", None) for number in (6, 8, 9)])
    assert [alert.event.sequence_number for alert in lacking] == [8]
    assert await outbox.resume_from(heads[3], anew=True) == heads[3]
    assert await make(NotCalled()).resume_from(heads[9]) == heads[3]


async def _put(outbox: AnyOutbox, *numbers: int) -> None:
    for number in numbers:
        alert = Alert(an_event(number), "critical", None)
        await outbox._store.run(partial(_put_one, outbox.name, alert))


def _put_one(name: str, alert: Alert, queue: Queue) -> None:
    queue.put(name, alert, time.time())


@pytest.mark.slow_on_trio
async def test_old_receipts_are_removed(make: Make) -> None:
    """A receipt is kept for as long as asked, and a dead alert until people decide."""
    gone = an_event(1).event_id
    inner = Scripted(answer=lambda event: PermanentDeliveryError("gone") if event.event_id == gone else None)
    async with make(inner) as outbox:
        for number in (1, 2):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: outbox.state.dead and len(inner.calls) == 2)
    await anyio.sleep(0.3)
    async with make(NotCalled(), keep=0.2):
        pass
    assert await statuses(outbox, an_event(1), an_event(2)) == ["dead", None]
    assert await outbox.history(an_event(2).event_id) == []


async def test_a_place_that_fails(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert that can't be kept is sent directly, people are told, and the place has its receipt when it works."""
    inner, told = RecordingDispatcher(), Told()
    outbox = make(inner)
    run = outbox._store.place.run

    def fail(*_: Any, **__: Any) -> Any:
        raise OutboxError("no")

    token = reporter.set(told)
    try:
        await outbox.__aenter__()
    finally:
        reporter.reset(token)
    part = f"the {outbox._store.place.kind} of the outbox alerts"
    # Otherwise the success of its first look may be reported after the failure, where a loop turns slowly.
    await until(lambda: outbox._store._works)
    monkeypatch.setattr(outbox._store.place, "run", fail)
    await outbox.send_alert(an_event(1), severity="critical")
    assert told.failures == {part: "no"}
    monkeypatch.setattr(outbox._store.place, "run", run)
    await outbox.send_alert(an_event(2), severity="critical")
    await inner.wait_for(2)
    await outbox.__aexit__(None, None, None)
    assert part in told.recovered
    assert len(inner.alerts) == 2
    [attempt] = await outbox.history(an_event(1).event_id)
    assert (attempt.outcome, attempt.reason) == ("dispatched", "sent directly, for the outbox could not be used")
    assert await statuses(outbox, an_event(1), an_event(2)) == ["delivered"] * 2


async def test_without_being_entered(make: Make) -> None:
    """An outbox that is not entered makes the first attempt before it returns."""
    inner = RecordingDispatcher()
    outbox = make(inner)
    await outbox.send_alert(an_event(), severity="critical")
    assert len(inner.alerts) == 1
    assert await statuses(outbox, an_event()) == ["delivered"]
    outbox._store.place.close()


@pytest.mark.slow_on_trio
async def test_many_attempts(make: Make) -> None:
    """Of very many attempts the last hundred are kept."""
    inner = Scripted(BUSY)
    async with make(inner, schedule=[0.0] * 120) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.dead)
    history = await outbox.history(an_event().event_id)
    assert [each.number for each in history] == list(range(22, 122))


async def test_an_attempt_that_was_not_begun_is_none(make: Make) -> None:
    """An alert that waits for its turn when the outbox is left has no attempt in its history."""
    inner = Scripted()
    inner.delay = 3600.0
    async with make(inner, concurrency=2, stop_timeout=0.0) as outbox:
        for number in (1, 2, 3):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: len(inner.ids) == 2 and outbox._sender._claims.waiting)
    assert inner.ids == [an_event(number).event_id for number in (1, 2)]
    found = await outbox.find(an_event(3).event_id)
    assert found is not None
    assert (found.status, found.attempts, await outbox.history(found.event_id)) == ("pending", 0, [])


async def test_how_old_the_oldest_is(make: Make) -> None:
    """The state tells the age of the oldest alert that waits, by this process's clock."""
    inner = Scripted(BUSY)
    async with make(inner, schedule=[600.0]) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.pending)
        assert outbox.state.oldest is not None
        assert abs(outbox.state.oldest - time.time()) < 60
