"""Pauses, broken routes and wrong clocks: when an outbox calls its target."""

import itertools
from pathlib import Path

import anyio
import pytest

from fapilog import BrokenRouteError, TransientDeliveryError
from fapilog.delivery.outbox import OutboxState
from tests.doubles.outboxes import DAY, clock, make, owned, until
from tests.doubles.scripted_dispatcher import Scripted, an_event

BUSY = TransientDeliveryError("busy")

# -- pauses and routes


@pytest.mark.one_backend
@pytest.mark.parametrize("asked", [0.0, *(pytest.param(each, marks=pytest.mark.slow) for each in (0.001, 1e-300))])
async def test_a_pause_has_a_floor(tmp_path: Path, asked: float) -> None:
    """A target that says "slow down", and asks for next to no pause, is called ever more seldom, by one at a time."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=asked))
    async with make(inner, tmp_path) as outbox:
        for number in range(1, 51):
            await outbox.send_alert(an_event(number), severity="critical")
        await anyio.sleep(7200)
        assert 25 <= len(inner.calls) <= 40
        gaps = inner.waits  # 1, 2, 4, 8 ... 300, 300, and up to a tenth more
        assert gaps[0] < 3
        assert all(gap <= 2.5 * before + 3 for before, gap in itertools.pairwise(gaps))
        assert gaps[-1] >= 300
        inner.outcomes = [None]
        await until(lambda: not outbox.state.pending)


async def test_a_refusal_that_goes_on_ends_with_the_schedule(tmp_path: Path) -> None:
    """An alert that is told to wait again and again is dead when it has waited for longer than its whole schedule."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=40.0))
    async with make(inner, tmp_path, schedule=[50.0, 50.0]) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.dead)
    assert len(inner.calls) == 3


@pytest.mark.parametrize("set_by", [-3600.0, 0.0, 3600.0])
async def test_people_retry_over_a_broken_route_whatever_the_clock_says(tmp_path: Path, set_by: float) -> None:
    """A retry is one try of the route at once, also if the clock is set before the sender hears of it."""
    inner = Scripted(BrokenRouteError("status 407"))
    is_set = False

    def now() -> float:
        return clock() + is_set * set_by

    async with make(inner, tmp_path, now=now, schedule=[900.0] * 3, concurrency=1) as outbox:
        for number in (1, 2):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: len(inner.calls) == 1)
        await anyio.sleep(60)
        assert await make(Scripted(), tmp_path).retry(an_event(1).event_id) == 1
        is_set = True
        retried = anyio.current_time()
        await outbox.send_alert(an_event(3), severity="critical")
        await until(lambda: len(inner.calls) == 2)
        assert inner.calls[1].at - retried < 10
        await anyio.sleep(600)
        assert len(inner.calls) == 2


@pytest.mark.slow_on_trio
async def test_a_broken_route_keeps_the_alerts(tmp_path: Path) -> None:
    """While the route is broken one alert is tried now and then, people are told, and when it is mended all arrive."""
    inner = Scripted(BrokenRouteError("status 407"))
    outbox = make(inner, tmp_path, schedule=[10.0, 100.0, 100_000.0], concurrency=3)
    async with owned(outbox) as told:
        for number in range(1, 31):
            await outbox.send_alert(an_event(number), severity="critical")
        await anyio.sleep(20_000)
        calls = [call.at for call in inner.calls]
        # Three were under way; then 10, 100, 900, 900 ... seconds apart, and up to a fifth more.
        assert 20 <= len(calls) <= 27
        assert all(later - call >= 900 for call, later in itertools.pairwise(calls[5:]))
        assert "status 407" in told.failures["the route of the outbox alerts"]
        assert (outbox.state.pending, outbox.state.dead) == (30, 0)
        inner.outcomes, began = [None], anyio.current_time()
        await until(lambda: not outbox.state.pending)
        assert anyio.current_time() - began < 1100
        assert "the route of the outbox alerts" in told.recovered
    assert (await outbox.history(an_event(1).event_id))[0].outcome == "permanent"


@pytest.mark.slow_on_trio
async def test_a_route_that_is_broken_for_one_alert_alone(tmp_path: Path) -> None:
    """An alert whose own address is gone does not stand in the way of the others, which are tried in its place."""
    bad = an_event(1).event_id
    inner = Scripted(answer=lambda event: BrokenRouteError("gone") if event.event_id == bad else None)
    async with make(inner, tmp_path, schedule=[10.0, 10_000.0]) as outbox:
        for number in range(1, 11):
            await outbox.send_alert(an_event(number), severity="critical")
        began = anyio.current_time()
        await until(lambda: outbox.state.pending == 1)
        assert anyio.current_time() - began < 600
        await until(lambda: outbox.state.dead, step=600.0)


# -- clocks


class SetClock:
    """A time of day that is set while the outbox runs."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return clock() + self.ahead


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "ahead",
    [70 * 365 * DAY, -3600.0, *(pytest.param(each, marks=pytest.mark.slow) for each in (6 * 3600.0, -30 * 365 * DAY))],
)
@pytest.mark.parametrize("error", [TransientDeliveryError("slowly", retry_after=5.0), BUSY, BrokenRouteError("407")])
async def test_a_clock_that_is_set_right(tmp_path: Path, ahead: float, error: Exception) -> None:
    """An alert that came while the clock was wrong, and failed, is tried again as soon as it was to be."""
    inner, now = Scripted(error), SetClock()
    now.ahead = ahead
    async with make(inner, tmp_path, now=now, lease=15.0, schedule=[10.0] * 20) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: len(inner.calls) == 2)
        now.ahead, inner.outcomes = 0.0, [None]
        await outbox.send_alert(an_event(2), severity="critical")
        began = anyio.current_time()
        await until(lambda: outbox.state == OutboxState(pending=0, oldest=None, dead=0))
        assert anyio.current_time() - began < 40
        assert {call.event_id for call in inner.calls} == {an_event(1).event_id, an_event(2).event_id}


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("ahead", [6 * 3600.0, 70 * 365 * DAY])
async def test_a_lease_is_renewed_whatever_the_clock_does(tmp_path: Path, ahead: float) -> None:
    """An attempt that takes longer than its lease is made once, although the clock is set meanwhile."""
    inner, now = Scripted(None), SetClock()
    inner.delay, now.ahead = 200.0, ahead
    async with make(inner, tmp_path, now=now, lease=15.0, timeout=500.0) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: inner.at_once == 1)
        now.ahead = 0.0
        async with make(inner, tmp_path, now=now, lease=15.0, timeout=500.0):
            await until(lambda: not outbox.state.pending)
    assert len(inner.calls) == 1


async def test_the_age_is_told_from_when_the_clock_was_right(tmp_path: Path) -> None:
    """An alert that came in 2099 has the age that it has since the clock was set right."""
    now = SetClock()
    now.ahead = 70 * 365 * DAY
    async with make(Scripted(BUSY), tmp_path, now=now, old_after=100.0, schedule=[1000.0] * 3) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await anyio.sleep(50)
        now.ahead = 0.0
        await anyio.sleep(700)
        assert outbox.state.oldest is not None
        assert 0 < now() - outbox.state.oldest < 1000
