"""Turns: how many, in which order, how long one waits, and what a cancelled waiter does to the others."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import AuditEvent, NoopAlertDispatcher, TransientDeliveryError
from fapilog.delivery.ratelimit import RateLimit
from fapilog.testing import RecordingDispatcher, check_dispatcher
from tests.clock import JumpingLoop, jumping_backend
from tests.doubles.dispatchers import Managed, event


class Timed(Managed):
    """Remembers when which alert came."""

    def __init__(self) -> None:
        super().__init__()
        self.began = anyio.current_time()
        self.calls: list[tuple[float, int | None]] = []

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        self.calls.append((round(anyio.current_time() - self.began, 6), event.sequence_number))
        await super().send_alert(event, severity=severity, channel=channel)


async def test_a_burst_goes_at_once_and_the_rest_at_the_rate() -> None:
    """After a burst, the alerts go one by one in the order in which they came."""
    inner = Timed()
    limit = RateLimit(inner, rate=2.0, burst=3)
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(partial(limit.send_alert, event(number), severity="info", channel="#a"))
            await anyio.sleep(0.001)
    assert [number for _, number in inner.calls] == [0, 1, 2, 3, 4, 5]
    assert [when for when, _ in inner.calls] == pytest.approx([0, 0.001, 0.002, 0.5, 1.0, 1.5])
    assert (inner.alerts[0].severity, inner.alerts[0].channel) == ("info", "#a")


async def test_a_pause_brings_the_burst_back() -> None:
    """After a time without alerts a burst may go again, and never more than that."""
    inner = Timed()
    limit = RateLimit(inner, rate=1.0, burst=2, max_wait=0)
    for pause, turns in ((0, 2), (1, 1), (2, 2), (3600, 2)):
        await anyio.sleep(pause)
        inner.calls.clear()
        for _ in range(turns):
            await limit.send_alert(event(), severity="info")
        with pytest.raises(TransientDeliveryError):
            await limit.send_alert(event(), severity="info")
        assert len(inner.calls) == turns


async def test_a_turn_that_is_too_far_off_is_refused_at_once() -> None:
    """Who would wait longer than allowed is told for how long, and takes nobody's turn."""
    inner = Timed()
    limit = RateLimit(inner, rate=0.5, burst=1, max_wait=5.0)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: limit.send_alert(event(), severity="info"))
        await anyio.sleep(0.5)
        for _ in range(3):
            with pytest.raises(TransientDeliveryError, match=r"^rate limit: the next turn is in 5\.5 s$") as caught:
                await limit.send_alert(event(), severity="info")
            assert caught.value.retry_after == pytest.approx(5.5)
        await anyio.sleep(0.5)
        await limit.send_alert(event(9), severity="info")
    assert [when for when, _ in inner.calls] == pytest.approx([0, 2, 4, 6])


async def test_a_cancelled_waiter_gives_its_turn_back() -> None:
    """Who stops waiting, first in the line or in the middle of it, lets the others move up."""
    inner = Timed()
    limit = RateLimit(inner, rate=1.0, burst=1)
    scopes = [anyio.CancelScope() for _ in range(5)]

    async def send(number: int) -> None:
        with scopes[number]:
            await limit.send_alert(event(number), severity="info")

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(send, number)
            await anyio.sleep(0.01)
        scopes[1].cancel()
        scopes[3].cancel()
    assert [number for _, number in inner.calls] == [0, 2, 4]
    assert [when for when, _ in inner.calls] == pytest.approx([0, 1, 2])


@pytest.mark.slow_on_trio
@given(
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 5),
    max_wait=st.floats(0, 10),
    arrivals=st.lists(st.tuples(st.floats(0, 3), st.none() | st.floats(0, 3)), max_size=25),
)
async def test_it_is_never_exceeded_and_loses_nothing(
    rate: float, burst: int, max_wait: float, arrivals: list[tuple[float, float | None]]
) -> None:
    """In any span of time no more go than the limit says, and each alert went, was refused or was cancelled."""
    inner = Timed()
    limit = RateLimit(inner, rate=rate, burst=burst, max_wait=max_wait)
    ends = {"sent": 0, "refused": 0, "cancelled": 0}
    asked: list[float | None] = []

    async def send(number: int, patience: float | None) -> None:
        began = anyio.current_time()
        with anyio.move_on_after(patience) as scope:
            try:
                await limit.send_alert(event(number), severity="info")
            except TransientDeliveryError as error:
                asked.append(error.retry_after)
                ends["refused"] += 1
            else:
                ends["sent"] += 1
            assert anyio.current_time() - began <= max_wait + 1e-6
        ends["cancelled"] += scope.cancelled_caught

    async with anyio.create_task_group() as tasks:
        for number, (pause, patience) in enumerate(arrivals):
            await anyio.sleep(pause)
            tasks.start_soon(send, number, patience)

    assert sum(ends.values()) == len(arrivals)
    assert all(seconds is not None and seconds > max_wait for seconds in asked)
    assert ends["sent"] == len(inner.calls)
    assert [number for _, number in inner.calls] == sorted(number or 0 for _, number in inner.calls)
    times = [when for when, _ in inner.calls]
    for first, begin in enumerate(times):
        for last, end in enumerate(times[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin) + 1e-3


def test_the_clock_of_another_event_loop_does_no_harm() -> None:
    """Used again on a loop whose clock is behind, it makes nobody wait longer than a burst takes."""
    limit = RateLimit(NoopAlertDispatcher(), rate=1.0, burst=2, max_wait=5.0)

    async def late() -> None:
        await anyio.sleep(50_000)
        await limit.send_alert(event(), severity="info")

    async def early() -> None:
        for _ in range(3):
            await limit.send_alert(event(), severity="info")

    for call in (late, early):
        backend, options = jumping_backend("asyncio")
        anyio.run(call, backend=backend, backend_options=options)


def test_an_alert_that_waits_in_a_loop_that_was_closed_does_no_harm() -> None:
    """The alerts of another loop do not wait behind it for ever."""
    inner = RecordingDispatcher()
    limit = RateLimit(inner, rate=1.0, burst=1)
    loop = JumpingLoop()
    tasks = [loop.create_task(limit.send_alert(event(number), severity="info")) for number in range(2)]
    loop.run_until_complete(tasks[0])
    loop.close()
    backend, options = jumping_backend("asyncio")
    call = partial(limit.send_alert, event(2), severity="info")
    anyio.run(call, backend=backend, backend_options=options)
    assert [alert.event.sequence_number for alert in inner.alerts] == [0, 2]
    tasks[1]._log_destroy_pending = False  # type: ignore[attr-defined]


def test_alerts_of_a_loop_that_was_closed_take_no_turns() -> None:
    """An alert is not refused for alerts before it that nothing will ever send."""
    inner = RecordingDispatcher()
    limit = RateLimit(inner, rate=1.0, burst=2, max_wait=0)
    loop = JumpingLoop()
    tasks = [loop.create_task(limit.send_alert(event(number), severity="info")) for number in range(2)]
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    backend, options = jumping_backend("asyncio")
    anyio.run(partial(limit.send_alert, event(2), severity="info"), backend=backend, backend_options=options)
    assert [alert.event.sequence_number for alert in inner.alerts] == [2]
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.real_time
@pytest.mark.parametrize("backends", [("asyncio", "asyncio"), ("trio", "trio"), ("asyncio", "trio")], ids=str)
def test_the_loops_of_several_threads_share_the_turns(backends: tuple[str, str]) -> None:
    """An alert in one thread wakes the one that is next, in another; all get their turn."""
    inner = RecordingDispatcher()
    limit = RateLimit(inner, rate=100.0, burst=1, max_wait=60.0)

    async def send_some() -> None:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(partial(limit.send_alert, event(number), severity="info"))

    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda backend: anyio.run(send_some, backend=backend), backends))
    assert len(inner.alerts) == 20


def test_it_shows_what_is_in_it() -> None:
    """Its repr is made of that of the inner one."""
    assert repr(RateLimit(NoopAlertDispatcher(), rate=1.0, burst=1)).startswith("<RateLimit <fapilog")


@pytest.mark.parametrize(
    "options",
    [
        {"rate": 0},
        {"rate": math.inf},
        {"rate": math.nan},
        {"burst": 0},
        {"max_wait": -1},
        {"max_wait": math.nan},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    """A number out of range is refused at construction."""
    with pytest.raises(ValueError, match=r"^\w+: expected"):
        RateLimit(NoopAlertDispatcher(), **{"rate": 1.0, "burst": 1} | options)


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_it_keeps_the_contract() -> None:
    """It is a dispatcher as the contract says, with turns for all and with waits between them."""
    for rate in (1000.0, 100.0):
        await check_dispatcher(
            partial(RateLimit, NoopAlertDispatcher(), rate=rate, burst=1),
            failing=lambda: RateLimit(Managed(error=ValueError()), rate=1.0, burst=1),
        )
