"""The clock that jumps, on which most other tests rely."""

import time

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st


async def test_an_hour_takes_no_time() -> None:
    """A sleep of an hour ends at once, and the clock shows the hour."""
    started = time.monotonic()
    before = anyio.current_time()
    await anyio.sleep(3600)
    assert anyio.current_time() - before == pytest.approx(3600)
    assert time.monotonic() - started < 60


async def test_deadlines_pass_in_their_order() -> None:
    """Sleepers wake in the order of their deadlines."""
    woken: list[int] = []

    async def sleeper(seconds: int) -> None:
        await anyio.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in (3, 1, 2):
            tasks.start_soon(sleeper, seconds)
    assert woken == [1, 2, 3]


@pytest.mark.slow_on_trio
async def test_a_thread_takes_no_time() -> None:
    """No deadline passes while a worker thread is at work."""
    before = anyio.current_time()
    with anyio.fail_after(0.01):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, time.sleep, 0.05)
            await anyio.to_thread.run_sync(time.sleep, 0.1)
    assert anyio.current_time() == before


async def test_time_goes_on_after_a_thread() -> None:
    """The clock jumps again when the last worker thread has ended."""
    await anyio.to_thread.run_sync(time.sleep, 0.01)
    with anyio.move_on_after(60) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


@given(st.integers(1, 1000))
async def test_time_jumps_in_every_example(seconds: int) -> None:
    """Each example of a property has its clock jump."""
    before = anyio.current_time()
    await anyio.sleep(seconds)
    await anyio.to_thread.run_sync(int)
    assert anyio.current_time() - before == pytest.approx(seconds)


@pytest.mark.real_time
async def test_real_time_is_real() -> None:
    """A test marked ``real_time`` waits."""
    started = time.monotonic()
    await anyio.sleep(0.02)
    assert time.monotonic() - started >= 0.02
