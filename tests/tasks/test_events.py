"""Events that any thread sets, and that are waited for in any loop."""

import asyncio
import contextlib
import functools
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fapilog.tasks import loops
from fapilog.tasks.loops import Condition, Event, Loop, wake
from tests.doubles.interrupting import moments


@pytest.mark.real_time
async def test_an_event_wakes_every_loop() -> None:
    """Tasks of this loop, of an asyncio loop and of a trio loop in other threads wait for one event."""
    event = Event()
    woken: list[str] = []
    threads: list[threading.Thread] = []

    async def wait(name: str) -> None:
        await event.wait()
        woken.append(name)

    async with anyio.create_task_group() as tasks:
        for backend in ("asyncio", "trio"):
            threads.append(threading.Thread(target=functools.partial(anyio.run, wait, backend, backend=backend)))
            threads[-1].start()
        tasks.start_soon(wait, "here")
        while len(event.waiting) < 3:
            await anyio.lowlevel.checkpoint()
        event.set()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert sorted(woken) == ["asyncio", "here", "trio"]
    await event.wait()


async def test_a_waiter_whose_loop_has_ended_disturbs_no_other() -> None:
    """Setting an event skips the waiters of closed loops, and those that were cancelled."""
    event = Event()
    closed = asyncio.new_event_loop()
    closed.close()
    event.waiting[anyio.Event()] = Loop(closed)
    with anyio.move_on_after(1):
        await event.wait()
    assert len(event.waiting) == 1
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(event.wait)
        await anyio.lowlevel.checkpoint()
        event.set()


async def test_a_condition_is_asked_again_after_each_notification() -> None:
    """A waiter returns when the condition holds, and not before."""
    condition = Condition()
    values: list[int] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(condition.until, lambda: len(values) == 3)
        for number in range(3):
            await anyio.sleep(1)
            values.append(number)
            condition.notify()
    condition.notify()
    await condition.until(lambda: True)


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_a_notification_from_a_thread_is_not_missed() -> None:
    """However the threads are scheduled, a waiter sees the last change."""
    condition = Condition()
    for _ in range(200):
        done: list[int] = []

        def finish(done: list[int] = done) -> None:
            done.append(1)
            condition.notify()

        thread = threading.Thread(target=finish)
        thread.start()
        with anyio.fail_after(60):
            await condition.until(lambda done=done: bool(done))  # type: ignore[misc]
        thread.join()


@pytest.mark.slow_on_trio
async def test_an_interrupt_leaves_no_caller_asleep() -> None:
    """A signal handler that raises while callers are woken keeps none of them from being woken."""
    here = Loop.current()
    for place in (Path(loops.__file__), Path(asyncio.locks.__file__)):
        for moment in moments(place, KeyboardInterrupt):
            events = [here.make_event() for _ in range(3)]
            async with anyio.create_task_group() as tasks:
                for event in events:
                    tasks.start_soon(event.wait)
                await anyio.wait_all_tasks_blocked()
                with contextlib.suppress(KeyboardInterrupt), moment:
                    wake([(here, event) for event in events])
                # As the code that commits does.
                wake([(here, event) for event in events])


def test_time_is_not_needed_to_be_woken() -> None:
    """A task that waits for an event of another thread is woken at once, and not at its next look."""

    async def main() -> None:
        event = Event()
        timer = threading.Timer(0.05, event.set)
        timer.start()
        await event.wait()

    anyio.run(main)
