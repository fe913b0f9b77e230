"""The outbox: what it takes is sent, again and again if need be, and what became of it is known."""

import asyncio
import itertools
import math
import os
import re
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditTrail,
    ChainHead,
    NoopAlertDispatcher,
    OutboxError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.delivery.digest import Digest
from fapilog.delivery.fallback import Fallback
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox import SCHEDULE, Outbox, OutboxState
from fapilog.delivery.ratelimit import RateLimit
from fapilog.delivery.route import Route
from fapilog.testing import RecordingDispatcher, check_dispatcher
from tests.clock import jumping_backend
from tests.doubles.outboxes import DAY, Told, clock, glob, make, owned, statuses, until
from tests.doubles.scripted_dispatcher import Scripted, an_event

BUSY = TransientDeliveryError("busy")


# -- sending


async def test_taking_does_not_wait_for_sending(tmp_path: Path) -> None:
    """`send_alert` returns while the other side hangs."""
    async with make(RecordingDispatcher(wait=anyio.sleep_forever), tmp_path, stop_timeout=0) as outbox:
        began = anyio.current_time()
        await outbox.send_alert(an_event(), severity="critical")
        assert anyio.current_time() == began
    assert await statuses(outbox, an_event()) == ["pending"]


async def test_a_limit_is_a_count(tmp_path: Path) -> None:
    """How many alerts are asked for is a whole number, or it is said what was given instead."""
    outbox = make(RecordingDispatcher(), tmp_path)
    for ask in (outbox.pending, outbox.dead):
        assert await ask(0) == []
        with pytest.raises(ValueError, match="limit: expected a number of at least 0; got -1"):
            await ask(-1)
        with pytest.raises(TypeError, match="limit: expected a whole number"):
            await ask(math.inf)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.real_time
def test_a_pause_is_not_measured_by_the_clock_of_another_loop(tmp_path: Path) -> None:
    """Trio's clocks begin anywhere: a pause of the target that is over is over in the next loop too."""
    now = 1e9
    inner = Scripted(TransientDeliveryError("busy", retry_after=10.0), None)
    outbox = make(inner, tmp_path, stop_timeout=0, now=lambda: now)

    async def late() -> None:
        await anyio.sleep(1e12)  # noqa: ASYNC116  the clock jumps
        async with outbox:
            await outbox.send_alert(an_event(1), severity="critical")
            # Left before it has noted the answer, it would leave the alert to the end of its lease.
            while not any(each.outcome for each in await outbox.history(an_event(1).event_id)):  # noqa: ASYNC110
                await anyio.sleep(1)

    async def early() -> None:
        with anyio.fail_after(60):
            async with outbox:
                await until(lambda: len(inner.calls) > 1, step=0.01)

    backend, options = jumping_backend("trio")
    anyio.run(late, backend=backend, backend_options=options)
    now += 100.0
    anyio.run(early)


async def test_an_id_that_is_there_again(tmp_path: Path) -> None:
    """A trail in files stores an id again after a while: both alerts are sent, one after the other."""
    asked: list[int | None] = []

    def busy_at_first(event: AuditEvent) -> Exception | None:
        asked.append(event.sequence_number)
        return TransientDeliveryError("busy", retry_after=60.0) if len(asked) == 1 else None

    async with make(Scripted(answer=busy_at_first), tmp_path, concurrency=2, stop_timeout=0) as outbox:
        for number in range(1, 7):
            await outbox.send_alert(an_event(number, event_id=f"id-{number % 2}"), severity="critical")
        began = anyio.current_time()
        await until(lambda: len(asked) == 7)
        # Not after a lease, as if a process that died had left them.
        assert anyio.current_time() - began < 100
    assert sorted(number or 0 for number in asked[1:]) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow_on_trio
async def test_the_schedule_is_kept(tmp_path: Path) -> None:
    """After each failure comes the next wait of the schedule, up to a fifth more, and after the last the end."""
    inner = Scripted(BUSY)
    async with make(inner, tmp_path, lease=DAY) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.dead, step=600.0)
        times = inner.times(an_event().event_id)
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert len(waits) == len(SCHEDULE)
        assert all(due <= wait <= 1.21 * due for wait, due in zip(waits, SCHEDULE, strict=True))
        assert len({round(wait / due, 3) for wait, due in zip(waits, SCHEDULE, strict=True)}) > 5
        [dead] = await outbox.dead()
        assert (dead.event_id, dead.attempts, dead.reason) == (an_event().event_id, 12, "busy")
        history = await outbox.history(dead.event_id)
        assert [each.outcome for each in history] == ["transient"] * 12


async def test_an_attempt_that_hangs_is_ended(tmp_path: Path) -> None:
    """An attempt without an outcome within *timeout* is ambiguous, and tried again."""
    inner = RecordingDispatcher(wait=anyio.sleep_forever)
    async with make(inner, tmp_path, timeout=20.0) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await inner.wait_for(1)
        await anyio.sleep(20)
        inner.wait = None
        await inner.wait_for(2)
    first, _ = await outbox.history(an_event().event_id)
    assert (first.outcome, first.reason, first.took) == ("ambiguous", "no outcome within 20 s", 20.0)


async def test_what_is_refused_is_dead_at_once(tmp_path: Path) -> None:
    """A `PermanentDeliveryError` makes a dead letter after one attempt, with its reason; the others go on."""
    bad = an_event(1)
    inner = Scripted(answer=lambda event: PermanentDeliveryError("gone") if event.event_id == bad.event_id else None)
    async with make(inner, tmp_path) as outbox:
        for number in range(1, 4):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: outbox.state == OutboxState(dead=1))
    [dead] = await outbox.dead()
    assert (dead.event_id, dead.status, dead.attempts, dead.reason) == (bad.event_id, "dead", 1, "gone")
    assert len(inner.times(bad.event_id)) == 1


@pytest.mark.slow_on_trio
async def test_a_pause_holds_for_the_whole_target(tmp_path: Path) -> None:
    """After a Retry-After nothing goes out before it is over, and it does not use up the schedule."""
    throttled = TransientDeliveryError("slowly", retry_after=100.0)
    inner = Scripted(*[throttled] * 20, None)
    async with make(inner, tmp_path, concurrency=1) as outbox:
        for number in range(1, 4):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: len(inner.calls) == 23)
    times = [call.at for call in inner.calls]
    assert all(later - earlier >= 100 for earlier, later in itertools.pairwise(times[:21]))
    assert await statuses(outbox, *map(an_event, (1, 2, 3))) == ["delivered"] * 3
    outcomes = {each.outcome for each in await outbox.history(an_event(1).event_id)}
    assert outcomes == {"throttled", "dispatched"}


@pytest.mark.slow_on_trio
async def test_a_pause_outlives_a_restart(tmp_path: Path) -> None:
    """A pause holds for the next process too."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=1000.0), None)
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: inner.calls)
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(an_event(2), severity="critical")
        await until(lambda: len(inner.calls) == 3)
    assert inner.calls[1].at - inner.calls[0].at >= 1000


async def test_throttled_for_longer_than_the_schedule(tmp_path: Path) -> None:
    """An alert that is throttled for longer than the whole schedule is dead."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=30.0))
    async with make(inner, tmp_path, schedule=[10.0, 100.0]) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.dead)
        assert 4 <= len(inner.calls) <= 6


@pytest.mark.parametrize("nonsense", [float("nan"), -5.0])
async def test_a_pause_that_makes_no_sense(tmp_path: Path, nonsense: float) -> None:
    """What is no number of seconds counts as if nothing was asked for."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=nonsense), None)
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: len(inner.calls) == 2)
    assert 4 <= inner.calls[1].at - inner.calls[0].at <= 6


@pytest.mark.slow_on_trio
async def test_it_is_bounded_and_concurrent(tmp_path: Path) -> None:
    """As many as *concurrency* are sent at once, and no more."""
    inner = Scripted()
    inner.delay = 1.0
    async with make(inner, tmp_path, concurrency=5) as outbox:
        for number in range(1, 51):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: len(inner.calls) == 50)
    assert inner.most_at_once == 5
    assert inner.ids == [an_event(number).event_id for number in range(1, 51)]


@pytest.mark.slow
async def test_days_of_outage(tmp_path: Path) -> None:
    """After three days without the other side, one success brings all that wait, the oldest first, a few at a time."""
    inner = Scripted(BUSY)
    events = [an_event(number) for number in range(1, 21)]
    async with make(inner, tmp_path, lease=DAY) as outbox:
        for event in events:
            await outbox.send_alert(event, severity="critical")
            await anyio.sleep(600)
        await anyio.sleep(3 * DAY - 600 * len(events))
        assert outbox.state.pending == 20
        assert inner.most_at_once <= 8
        before, inner.outcomes, inner.delay, inner.most_at_once = len(inner.calls), [None], 1.0, 0
        await until(lambda: not outbox.state.pending)
        back = inner.calls[before:]
        assert len(back) == 20
        # The probe is whichever was due; then all others in the order in which they came.
        assert [call.event_id for call in back[1:]] == [
            event.event_id for event in events if event.event_id != back[0].event_id
        ]
        assert back[-1].at - back[0].at < 60
        assert [sum(call.at == at for call in back) for at in sorted({call.at for call in back})][:4] == [1, 2, 4, 8]
    assert not await outbox.dead()


@pytest.mark.slow_on_trio
async def test_a_poisoned_alert_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """An alert that always fails is tried by its schedule, however many others succeed."""
    bad = an_event(1)
    inner = Scripted(answer=lambda event: BUSY if event.event_id == bad.event_id else None)
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(bad, severity="critical")
        for number in range(2, 42):
            await outbox.send_alert(an_event(number), severity="critical")
            await anyio.sleep(25)
        assert len(inner.times(bad.event_id)) <= 6
        assert len(inner.calls) - len(inner.times(bad.event_id)) == 40


# -- life


async def test_not_entered_it_makes_the_first_attempt(tmp_path: Path) -> None:
    """Without `async with`, an alert is sent before `send_alert` returns, or else waits for the next start."""
    inner = Scripted(None, BUSY, None)
    outbox = make(inner, tmp_path)
    await outbox.send_alert(an_event(1), severity="critical")
    await outbox.send_alert(an_event(2), severity="critical")
    assert inner.ids == [an_event(1).event_id, an_event(2).event_id]
    assert await statuses(outbox, an_event(1), an_event(2)) == ["delivered", "pending"]
    async with outbox:
        await until(lambda: len(inner.calls) == 3)
    assert await statuses(outbox, an_event(2)) == ["delivered"]


async def test_a_caller_that_is_cancelled_when_it_was_left(tmp_path: Path) -> None:
    """If its caller is cancelled, the attempt of an outbox that was left before was cancelled, and not stopped."""
    inner = Scripted()
    inner.delay = 100.0
    async with make(inner, tmp_path) as outbox:
        pass
    with anyio.move_on_after(1.0):
        await outbox.send_alert(an_event(), severity="critical")
    assert [each.outcome for each in await outbox.history(an_event().event_id)] == ["cancelled"]


@pytest.mark.slow_on_trio
async def test_leaving_sends_what_is_due(tmp_path: Path) -> None:
    """A short-lived process leaves nothing behind that could be sent at once."""
    inner = Scripted()
    inner.delay = 1.0
    async with make(inner, tmp_path, concurrency=3) as outbox:
        for number in range(1, 10):
            await outbox.send_alert(an_event(number), severity="critical")
    assert len(inner.calls) == 9
    assert not await outbox.pending()


@pytest.mark.slow_on_trio
async def test_leaving_has_a_limit(tmp_path: Path) -> None:
    """After *stop_timeout* the rest stays, with its attempts, for the next start."""
    inner = Scripted()
    inner.delay = 10.0
    async with make(inner, tmp_path, concurrency=2, stop_timeout=25.0) as outbox:
        for number in range(1, 10):
            await outbox.send_alert(an_event(number), severity="critical")
        began = anyio.current_time()
    assert anyio.current_time() - began == pytest.approx(25.0)
    pending = await outbox.pending()
    assert len(pending) == 5
    assert [each.attempts for each in pending] == [1, 1, 0, 0, 0]
    [interrupted] = await outbox.history(pending[0].event_id)
    assert interrupted.outcome == "stopped"
    inner.delay = 0
    async with outbox:
        await until(lambda: not outbox.state.pending)
    assert len(inner.calls) == 6 + 5


async def test_the_inner_one_is_entered_and_left(tmp_path: Path) -> None:
    """What *inner* opens is open while alerts are sent, and closed with the outbox."""
    inner = Scripted()
    outbox = make(inner, tmp_path)
    async with outbox:
        assert inner.entered == 1
    assert not inner.entered
    assert repr(outbox).startswith("<Outbox 'alerts' around <")


@pytest.mark.slow_on_trio
async def test_entering_twice_is_refused(tmp_path: Path) -> None:
    """An outbox that is entered can't be entered again, and works for the caller that entered it first."""
    inner = Scripted()
    outbox = make(inner, tmp_path)
    async with owned(outbox) as told:
        expected = r"^outbox alerts: expected one that is not entered; an Outbox belongs to one trail$"
        with pytest.raises(ValueError, match=expected):
            await outbox.__aenter__()
        assert inner.entered == 1
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: told.reports)
    assert inner.entered == 0
    async with outbox:
        await outbox.send_alert(an_event(2), severity="critical")
    assert await statuses(outbox, *map(an_event, (1, 2))) == ["delivered"] * 2


async def test_entering_twice_at_once_is_refused(tmp_path: Path) -> None:
    """Of two callers that enter an outbox at the same time, one may, also where entering *inner* takes a while."""

    class Slow(Scripted):
        async def __aenter__(self) -> Self:
            await anyio.sleep(10)
            return await super().__aenter__()

    inner = Slow()
    outbox = make(inner, tmp_path)
    refused: list[ValueError] = []

    async def enter() -> None:
        try:
            async with outbox:
                await anyio.sleep(100)
        except ValueError as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(enter)
        tasks.start_soon(enter)
        await anyio.sleep(50)
        assert (inner.entered, len(refused)) == (1, 1)
    assert (inner.entered, len(refused)) == (0, 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_entering_that_ends_before_it_begins(tmp_path: Path) -> None:
    """Where the loop cancels the outbox's own task before its first step, the outbox can be entered later."""
    outbox = make(Scripted(), tmp_path)
    entering = asyncio.create_task(outbox.__aenter__())
    while not (own := [task for task in asyncio.all_tasks() if "Life" in str(task.get_coro())]):
        await anyio.lowlevel.checkpoint()
    own[0].cancel()
    with pytest.raises(RuntimeError, match="was cancelled"):
        await entering
    async with outbox:
        await outbox.send_alert(an_event(), severity="critical")


@pytest.mark.slow_on_trio
async def test_two_trails_with_one_outbox(tmp_path: Path) -> None:
    """The second trail with the same outbox does not start, and the alerts of the first are sent as before."""
    inner = Scripted()
    outbox = make(inner, tmp_path)
    async with AuditTrail(storage_path=tmp_path / "first", alert_dispatcher=outbox) as first:
        second = AuditTrail(storage_path=tmp_path / "second", alert_dispatcher=outbox)
        with pytest.raises(ValueError, match="outbox alerts: expected one that is not entered; an Outbox belongs to"):
            await second.start()
        assert inner.entered == 1
        event_id = await first.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        await until(lambda: inner.calls)
    assert (inner.ids, inner.entered) == ([event_id], 0)


@pytest.mark.slow_on_trio
async def test_an_inner_one_that_cannot_be_entered(tmp_path: Path) -> None:
    """Where entering *inner* fails, the caller is told, and the outbox can be entered later."""

    class Broken(Scripted):
        async def __aenter__(self) -> Self:
            if not self.calls:
                raise OSError("no network")
            return await super().__aenter__()

    inner = Broken()
    outbox = make(inner, tmp_path)
    with pytest.raises(OSError, match="no network"):
        await outbox.__aenter__()
    await outbox.send_alert(an_event(), severity="critical")
    async with outbox:
        assert inner.entered == 1


async def test_what_the_block_raises_passes(tmp_path: Path) -> None:
    """An exception in the block over an outbox comes out as it is."""
    with pytest.raises(ZeroDivisionError):
        async with make(NoopAlertDispatcher(), tmp_path):
            raise ZeroDivisionError


# -- several


async def test_names_keep_outboxes_apart(tmp_path: Path) -> None:
    """Two outboxes in one file have their own alerts, marks and pauses."""
    slow, fast = Scripted(TransientDeliveryError("slowly", retry_after=1e4)), Scripted()
    async with make(slow, tmp_path, name="slow") as first, make(fast, tmp_path, name="fast") as second:
        for outbox in (first, second):
            await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: fast.calls and slow.calls)
        assert await first.resume_from(ChainHead(5, "a")) == ChainHead(5, "a")
        assert await second.resume_from(ChainHead(7, "b")) == ChainHead(7, "b")
        await second.resumed_to(ChainHead(9, "c"))
        assert await first.resume_from(ChainHead(20, "d")) == ChainHead(5, "a")
        assert await second.resume_from(ChainHead(20, "d")) == ChainHead(9, "c")
    assert (len(await first.pending()), len(await second.pending())) == (1, 0)


# -- receipts


@pytest.mark.slow_on_trio
async def test_retrying(tmp_path: Path) -> None:
    """A dead or discarded alert is sent again when somebody asks for it, on a new schedule; a delivered one is not."""
    inner = Scripted(PermanentDeliveryError("gone"))
    async with make(inner, tmp_path) as outbox:
        for number in (1, 2, 3):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: outbox.state.dead == 3)
        assert await outbox.discard([an_event(3).event_id], reason="handled by phone") == 1
        inner.outcomes = [BUSY, None]
        assert await outbox.retry([an_event(1).event_id, "unknown"]) == 1
        await until(lambda: len(inner.times(an_event(1).event_id)) == 3)
        assert await outbox.retry() == 1
        await until(lambda: outbox.state == OutboxState())
        assert await outbox.retry([an_event(3).event_id]) == 1
        await until(lambda: len(inner.times(an_event(3).event_id)) == 2)
        assert await outbox.retry([an_event(1).event_id]) == 0
    assert await statuses(outbox, *map(an_event, (1, 2, 3))) == ["delivered"] * 3


async def test_discarding(tmp_path: Path) -> None:
    """A discarded alert is kept with the reason, and is not sent."""
    inner = Scripted(BUSY)
    async with make(inner, tmp_path, lease=DAY) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: inner.calls)
        assert await outbox.discard([an_event().event_id], reason="a drill") == 1
        assert await outbox.discard([an_event().event_id], reason="again") == 0
        await anyio.sleep(4 * DAY)  # longer than the schedule
    found = await outbox.find(an_event().event_id)
    assert found is not None
    assert (found.status, found.reason, len(inner.calls)) == ("discarded", "a drill", 1)
    with pytest.raises(ValueError, match="reason: expected words"):
        await outbox.discard([an_event().event_id], reason=" ")


@pytest.mark.slow_on_trio
async def test_discarding_what_is_being_sent(tmp_path: Path) -> None:
    """An alert that is discarded while it is being sent stays discarded when that fails, and can be retried."""
    inner = RecordingDispatcher(wait=anyio.sleep_forever)
    async with make(inner, tmp_path, timeout=20.0) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await inner.wait_for(1)
        assert await outbox.discard([an_event().event_id], reason="a drill") == 1
        await anyio.sleep(60)
        assert await statuses(outbox, an_event()) == ["discarded"]
        inner.wait = None
        assert await outbox.retry([an_event().event_id]) == 1
        await inner.wait_for(2)
    assert await statuses(outbox, an_event()) == ["delivered"]


@pytest.mark.slow_on_trio
async def test_receipts_are_pruned(tmp_path: Path) -> None:
    """What was delivered longer ago than *keep* is removed with its attempts; what is dead or discarded is kept."""
    inner = Scripted(None, PermanentDeliveryError("gone"), PermanentDeliveryError("gone"), None)
    async with make(inner, tmp_path, keep=3 * DAY, concurrency=1, lease=DAY / 4) as outbox:
        for number in (1, 2, 3):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: outbox.state.dead == 2)
        await outbox.discard([an_event(3).event_id], reason="a drill")
        await anyio.sleep(2 * DAY)
        assert await statuses(outbox, an_event(1)) == ["delivered"]
        await anyio.sleep(2 * DAY)
        assert await statuses(outbox, *map(an_event, (1, 2, 3))) == [None, "dead", "discarded"]
        assert await outbox.history(an_event(1).event_id) == []


async def test_what_is_delivered_is_not_kept(tmp_path: Path) -> None:
    """The file holds no more of a delivered event than its receipt."""
    inner = Scripted()
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(an_event(message="p4tient"), severity="critical")
        await until(lambda: inner.calls)
        await anyio.sleep(5)
    with sqlite3.connect(tmp_path / "alerts.db") as connection:
        assert connection.execute("SELECT event FROM alerts").fetchall() == [(None,)]
    connection.close()


@pytest.mark.slow_on_trio
async def test_a_clock_that_was_wrong(tmp_path: Path) -> None:
    """What was due in a far future, by a clock that was wrong, is sent."""
    inner = Scripted(BUSY, None)
    wrong = 40 * 365 * DAY
    async with Outbox(inner, tmp_path / "alerts.db", now=lambda: clock() + wrong) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: inner.calls)
    async with make(inner, tmp_path) as outbox:
        await until(lambda: len(inner.calls) == 2)
    assert await statuses(outbox, an_event()) == ["delivered"]


# -- what is told


async def test_each_attempt_is_reported(tmp_path: Path) -> None:
    """The owner is told of each attempt: of what, which one, how long it waited, and what came of it."""
    inner = Scripted(BUSY, None)
    outbox = make(inner, tmp_path, name="slack")
    async with owned(outbox) as told:
        await outbox.send_alert(an_event(), severity="critical", channel="#x")
        await until(lambda: len(inner.calls) == 2)
    first, second = told.reports
    assert (first.target, first.attempt, first.outcome, first.reason) == ("slack", 1, "transient", "busy")
    assert (second.target, second.attempt, second.outcome, second.reason) == ("slack", 2, "dispatched", None)
    assert (first.event.event_id, first.severity, first.channel) == (an_event().event_id, "critical", "#x")
    assert first.waited == 0
    assert 4 <= second.waited <= 6


async def test_dead_letters_are_told_of(tmp_path: Path) -> None:
    """The owner is told when an alert is given up, and when none is left that was."""
    inner = Scripted(PermanentDeliveryError("gone"), None)
    outbox = make(inner, tmp_path, name="slack")
    async with owned(outbox) as told:
        await outbox.send_alert(an_event(), severity="critical")
        what = "dead alerts in the outbox slack"
        await until(lambda: told.failures)
        assert told.failures == {what: f"event {an_event().event_id}: gone"}
        await outbox.retry()
        await until(lambda: told.recovered)
        assert told.recovered == [what]


async def test_that_a_part_works_is_told_where_it_is_news(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many alerts arrive, the owner is told once that none is old or dead, and that the route is whole."""
    working: list[str] = []
    monkeypatch.setattr(Told, "working", lambda _, part: working.append(part))
    outbox = make(Scripted(), tmp_path, name="slack")
    async with owned(outbox) as told:
        for number in range(1, 6):
            await outbox.send_alert(an_event(number), severity="critical")
            await until(lambda number=number: len(told.reports) == number)  # type: ignore[misc]
            await anyio.sleep(10)
    parts = ("dead alerts in", "the age of", "the route of")
    assert [working.count(f"{part} the outbox slack") for part in parts] == [1, 1, 1]
    assert working.count("the file of the outbox slack") > 5


async def test_a_look_that_is_too_old_to_see_a_dead_alert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the file that began before an alert was dead, and ends after, does not say that none is."""
    gate = anyio.Event()
    inner = RecordingDispatcher(wait=gate.wait, error=PermanentDeliveryError("gone"))
    outbox = make(inner, tmp_path, name="slack", timeout=DAY, lease=60.0)
    async with owned(outbox) as told:
        run = outbox._store.run

        async def late(call: Callable[[Any], Any]) -> Any:
            answer = await run(call)
            if inner.alerts and not gate.is_set():
                gate.set()
                await until(lambda: told.failures)
            return answer

        monkeypatch.setattr(outbox._store, "run", late)
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.dead)
        assert list(told.failures) == ["dead alerts in the outbox slack"]
        assert told.recovered == []


@pytest.mark.slow_on_trio
async def test_age_is_told_of(tmp_path: Path) -> None:
    """The owner is told when the oldest alert has waited too long, and when it does not any more."""
    inner = Scripted(BUSY)
    outbox = make(inner, tmp_path, name="slack", old_after=300.0)
    async with owned(outbox) as told:
        await outbox.send_alert(an_event(), severity="critical")
        await anyio.sleep(290)
        assert not told.failures
        await until(lambda: told.failures)
        assert list(told.failures) == ["the age of the outbox slack"]
        inner.outcomes = [None]
        await until(lambda: told.recovered)


async def test_the_log_shows_no_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says which attempt of which alert failed, and holds the text of our errors only."""
    inner = Scripted(ValueError("t0k3n"), BUSY, PermanentDeliveryError("gone"))
    async with make(inner, tmp_path, name="slack") as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.dead)
    assert "t0k3n" not in caplog.text
    messages = [record.getMessage() for record in caplog.records if record.name == "fapilog.delivery"]
    assert len(messages) == 3
    assert "in attempt 1" in messages[0]
    assert messages[0].endswith("ValueError")
    assert messages[2] == f"the outbox slack gives up the alert about event {an_event().event_id} after attempt 3: gone"


async def test_the_log_promises_no_attempt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log says when an entered outbox makes the next attempt, and of any other that it makes none by itself."""
    inner = Scripted(BUSY)
    outbox = make(inner, tmp_path, name="slack", schedule=[1e6], stop_timeout=30.0)
    await outbox.send_alert(an_event(1), severity="critical")
    inner.delay = 10.0
    async with outbox:
        await outbox.send_alert(an_event(2), severity="critical")
        await until(lambda: len(caplog.records) == 2)
        await outbox.send_alert(an_event(3), severity="critical")
        await until(lambda: inner.at_once)
    await outbox.send_alert(an_event(4), severity="critical")
    stays = "it stays in the outbox, and"
    not_retried = f"{stays} this process retries it only when the outbox, or its trail, is started: busy"
    before, entered, leaving, left = (record.getMessage().partition(" in attempt 1, ")[2] for record in caplog.records)
    assert re.fullmatch(r"the next is in 1\d{6} s: busy", entered)
    assert leaving == f"{stays} may wait until the outbox, or its trail, is started again: busy"
    assert before == left == not_retried


# -- a file that can't be used


async def test_a_file_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file can't be used, an alert goes out directly, once; it is noted in the file when that works again."""
    inner = Scripted()
    path = tmp_path / "alerts.db"
    path.mkdir()
    outbox = make(inner, tmp_path, name="slack")
    async with owned(outbox) as told:
        for number in (1, 2):
            await outbox.send_alert(an_event(number), severity="critical")
        assert inner.ids == [an_event(1).event_id, an_event(2).event_id]
        assert list(told.failures) == ["the file of the outbox slack"]
        path.rmdir()
        await until(lambda: told.recovered)
        await outbox.send_alert(an_event(1), severity="critical")
        await outbox.send_alert(an_event(3), severity="critical")
        await until(lambda: len(inner.calls) == 3)
    assert len(inner.calls) == 3
    [attempt] = await outbox.history(an_event(1).event_id)
    assert attempt.reason == "sent directly, for the outbox could not be used"
    assert len([record for record in caplog.records if "can't use its file" in record.getMessage()]) == 1


@pytest.mark.parametrize("make_other", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
async def test_what_is_no_file_is_named(tmp_path: Path, make_other: Callable[[Path], None]) -> None:
    """Where a directory or a named pipe has the name of the file, the outbox says so at once, and sends directly."""
    make_other(tmp_path / "alerts.db")
    inner = Scripted()
    outbox = make(inner, tmp_path)
    await outbox.send_alert(an_event(), severity="critical")
    assert len(inner.calls) == 1
    with pytest.raises(OutboxError, match=r"alerts\.db: expected a file, found something else$"):
        await outbox.pending()


async def test_sending_directly_may_fail(tmp_path: Path) -> None:
    """Where the file can't be used and sending directly fails, the caller is told."""
    (tmp_path / "alerts.db").mkdir()
    outbox = make(Scripted(BUSY), tmp_path)
    with pytest.raises(TransientDeliveryError):
        await outbox.send_alert(an_event(), severity="critical")
    with pytest.raises(OutboxError, match=r"alerts\.db"):
        await outbox.pending()


@pytest.mark.parametrize(
    "spoil",
    [lambda _: b"no database" * 1000, lambda whole: whole.replace(b"CREATE TABLE", b"CREATE TABL\xff")],
    ids=["no database", "no text"],
)
async def test_a_damaged_file_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[bytes], bytes]
) -> None:
    """A file that is no database is renamed, the alert goes out, the next is kept in a new file, and the mark stays."""
    inner = Scripted()
    path = tmp_path / "alerts.db"
    outbox = make(inner, tmp_path)
    await outbox.resume_from(ChainHead(7, "x"))
    outbox._store.place.close()
    damaged = spoil(path.read_bytes())
    path.write_bytes(damaged)
    await outbox.send_alert(an_event(1), severity="critical")
    await outbox.send_alert(an_event(2), severity="critical")
    assert inner.ids == [an_event(1).event_id, an_event(2).event_id]
    [aside] = glob(tmp_path, "alerts.db.corrupt-*[0-9]")
    assert aside.read_bytes() == damaged
    assert f"set aside as {aside}" in caplog.text
    assert await outbox.resume_from(ChainHead(9, "y")) == ChainHead(7, "x")
    assert await statuses(outbox, an_event(1), an_event(2)) == ["delivered", "delivered"]


@pytest.mark.parametrize("begin", [b"SQLite format 3\0", b"\0" * 100], ids=["pages", "header"])
async def test_a_file_that_was_damaged_before_the_start_is_set_aside(tmp_path: Path, begin: bytes) -> None:
    """An outbox that the last process left is known by its mark, or by the zeros that a crash of the system leaves."""
    path = tmp_path / "alerts.db"
    earlier = make(Scripted(), tmp_path)
    await earlier.send_alert(an_event(1), severity="critical")
    earlier._store.place.close()
    whole = path.read_bytes()
    path.write_bytes(begin + whole[len(begin) : 100] + b"\xff" * (len(whole) - 100))
    outbox = make(Scripted(), tmp_path)
    await outbox.send_alert(an_event(2), severity="critical")
    await outbox.send_alert(an_event(3), severity="critical")
    assert len(glob(tmp_path, "alerts.db.corrupt-*[0-9]")) == 1
    assert await statuses(outbox, an_event(3)) == ["delivered"]


async def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    """A file that never was an outbox, such as a script that is named by mistake, stays as and where it is."""
    path = tmp_path / "alerts.db"
    path.write_bytes(script := b"print('hello')\n" * 100)
    inner = Scripted()
    outbox = make(inner, tmp_path)
    for number in (1, 2):
        await outbox.send_alert(an_event(number), severity="critical")
    assert len(inner.calls) == 2
    with pytest.raises(OutboxError, match="file is not a database"):
        await outbox.pending()
    assert path.read_bytes() == script
    assert glob(tmp_path, "alerts.db.corrupt-*") == []


async def test_another_database_is_left_alone(tmp_path: Path) -> None:
    """Somebody else's database is refused, and stays as it is."""
    path = tmp_path / "alerts.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    inner = Scripted()
    outbox = make(inner, tmp_path)
    await outbox.send_alert(an_event(), severity="critical")
    assert len(inner.calls) == 1
    with pytest.raises(OutboxError, match="expected an outbox of version 1; got another database"):
        await outbox.pending()
    assert path.read_bytes() == before


async def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    """An outbox that a later version made is refused."""
    outbox = make(Scripted(), tmp_path)
    await outbox.send_alert(an_event(), severity="critical")
    outbox._store.place.close()
    connection = sqlite3.connect(tmp_path / "alerts.db")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(OutboxError, match="got version 2"):
        await outbox.pending()


@pytest.mark.parametrize("dropped", ["alerts", "attempts", "outboxes"])
async def test_a_table_that_is_dropped(tmp_path: Path, dropped: str) -> None:
    """An outbox of which somebody dropped a table makes it again, counts anew, and sends what comes."""
    inner = Scripted(TransientDeliveryError("down"), PermanentDeliveryError("no"), None)
    async with make(inner, tmp_path, concurrency=1) as outbox:
        for number in (1, 2):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: outbox.state.dead)
        await anyio.to_thread.run_sync(drop, tmp_path / "alerts.db", dropped)
        for number in (3, 4):
            await outbox.send_alert(an_event(number), severity="critical")
        await anyio.sleep(60)
        assert await statuses(outbox, an_event(3), an_event(4)) == ["delivered", "delivered"]
        is_lost = dropped == "alerts"
        assert await statuses(outbox, an_event(1), an_event(2)) == ([None] * 2 if is_lost else ["delivered", "dead"])
        assert outbox.state == OutboxState(dead=0 if is_lost else 1)


def drop(path: Path, table: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"DROP TABLE {table}")


async def test_a_file_that_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An outbox whose file was removed under it goes on with a new one, and nothing is written to the old."""
    inner = Scripted()
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: not outbox.state.pending and inner.calls)
        await anyio.sleep(5)
        for path in glob(tmp_path, "alerts.db*"):
            path.unlink()
        await outbox.send_alert(an_event(2), severity="critical")
        await until(lambda: len(inner.calls) == 2)
    assert "was replaced or removed while it was in use" in caplog.text
    assert await statuses(outbox, an_event(1), an_event(2)) == [None, "delivered"]


async def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    """An alert whose event can't be read is dead, and the others are sent."""
    inner = Scripted(BUSY)
    outbox = make(inner, tmp_path)
    for number in (1, 2):
        await outbox.send_alert(an_event(number), severity="critical")
    outbox._store.place.close()
    connection = sqlite3.connect(tmp_path / "alerts.db")
    connection.execute("UPDATE alerts SET event = 'no event', due_at = 0 WHERE id = 1")
    connection.commit()
    connection.close()
    inner.outcomes = [None]
    async with outbox:
        await until(lambda: len(inner.calls) == 3)
    [dead] = await outbox.dead()
    assert (dead.event_id, dead.reason) == (an_event(1).event_id, "the event in the outbox can't be read (DecodeError)")


async def test_what_ended_is_noted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file fails after an alert was sent, its delivery is noted when the file works again."""
    inner = Scripted()
    inner.delay = 10.0
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: inner.calls)
        run = outbox._store.place.run
        failures: list[int] = []

        def fail(*args: Any, **options: Any) -> Any:
            failures.append(1)
            if len(failures) < 5:
                raise OutboxError("disk I/O error")
            return run(*args, **options)

        monkeypatch.setattr(outbox._store._commits, "_commit", fail)
        await until(lambda: len(failures) > 5)
    assert len(inner.calls) == 1
    assert await statuses(outbox, an_event()) == ["delivered"]


async def test_leaving_with_a_broken_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An outbox whose file fails can be left, and says what it can't note, if there is anything."""

    def fail(*args: Any) -> Any:
        raise OutboxError("disk I/O error")

    def break_file(_: AuditEvent) -> None:
        outbox._store._commits._commit = fail

    inner = Scripted(answer=break_file)
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: inner.calls)
    assert "can't note the outcomes of attempts (1)" in caplog.text
    caplog.clear()
    async with make(inner, tmp_path, name="unused") as outbox:
        break_file(an_event())
    assert "can't note" not in caplog.text


def test_the_file_is_for_nobody_else(tmp_path: Path) -> None:
    """The file and what belongs to it can be read by their owner alone, and missing folders are made."""

    async def main() -> None:
        async with Outbox(NoopAlertDispatcher(), tmp_path / "new" / "folder" / "alerts.db") as outbox:
            await outbox.send_alert(an_event(), severity="critical")
            made = list((tmp_path / "new" / "folder").iterdir())
            assert len(made) == 3
            assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}

    anyio.run(main)


# -- options, contract


BAD_OPTIONS: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "a\nb"},
    {"concurrency": 0},
    {"timeout": 0},
    {"keep": float("nan")},
    {"old_after": -1},
    {"lease": 0},
    {"stop_timeout": -1},
    {"schedule": [1.0, -1.0]},
    {"schedule": [float("inf")]},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any]) -> None:
    """An option out of range is refused at construction."""
    with pytest.raises(ValueError, match=r"^\w+: expected"):
        Outbox(NoopAlertDispatcher(), tmp_path / "alerts.db", **options)


@pytest.mark.slow_on_trio
async def test_decimal_numbers(tmp_path: Path) -> None:
    """Seconds that are decimal numbers, as of a configuration, count like others."""
    seconds: Any = Decimal("1.5")
    inner = Scripted(TransientDeliveryError("down"), None)
    async with make(inner, tmp_path, schedule=[seconds], timeout=seconds, stop_timeout=seconds) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: len(inner.calls) == 2)
    assert await statuses(outbox, an_event()) == ["delivered"]


async def test_it_keeps_the_contract(tmp_path: Path) -> None:
    """It is a dispatcher as the contract says; it fails where neither the file nor the other side can be used."""
    numbers = iter(range(1000))
    (tmp_path / "folder").mkdir()
    await check_dispatcher(
        lambda: Outbox(RecordingDispatcher(), tmp_path / f"{next(numbers)}.db", now=clock),
        failing=lambda: Outbox(Scripted(BUSY), tmp_path / "folder", now=clock),
    )


def test_two_of_one_name_in_one_file(tmp_path: Path) -> None:
    """Two outboxes of one name in one file are refused where they are put together, at any depth of wrappers."""
    first, second = make(Scripted(), tmp_path), make(Scripted(), tmp_path)
    for together in (FanOut, Fallback):
        with pytest.raises(ValueError, match=r"^dispatchers: expected one name for each .*; got two .* named 'alerts'"):
            together([first, second])
    FanOut([first, make(Scripted(), tmp_path, name="other"), make(Scripted(), tmp_path / "other")])
    FanOut([first, RateLimit(Digest(first), rate=1, burst=1)])
    for deep in (RateLimit(second, rate=1, burst=1), Digest(Route({}, default=second))):
        with pytest.raises(ValueError, match=r"^dispatchers: expected one name for each .*; got two .* named 'alerts'"):
            FanOut([Route({}, default=first), deep])
    with pytest.raises(ValueError, match=r"^name: expected one name for each .*; got two .* named 'alerts'"):
        make(Digest(second), tmp_path)


@pytest.mark.parametrize("other", ["link.db", "folder/../alerts.db", "linked/alerts.db"])
async def test_another_name_of_the_same_file(tmp_path: Path, other: str) -> None:
    """A link, or a way around, leads to the same file: two outboxes of one name there are refused on entering."""
    (tmp_path / "link.db").symlink_to(tmp_path / "alerts.db")
    (tmp_path / "folder").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    both = FanOut([make(Scripted(), tmp_path), Outbox(Scripted(), tmp_path / other)])
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=both)
    with pytest.raises(ValueError, match=r"^name: expected one name for each outbox in .*; got 'alerts' twice$"):
        await trail.start()
    assert not trail.is_started
