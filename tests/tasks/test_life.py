"""A life: entered by one task, left by another."""

import asyncio
import functools
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fapilog.tasks.life import Life, enter_all, leave_all
from fapilog.tasks.loops import LoopClosedError
from fapilog.tasks.portal import flush_all


class Manager:
    """Notes where it is entered and left; does what it is told there."""

    def __init__(self, *, entering: float = 0.0, leaving: float = 0.0, error: Exception | None = None) -> None:
        self.entering = entering
        self.leaving = leaving
        self.error = error
        self.notes: list[str] = []

    async def __aenter__(self) -> None:
        await anyio.sleep(self.entering)
        if self.error is not None and "left" not in str(self.error):
            raise self.error
        self.notes.append("entered")

    async def __aexit__(self, *_: object) -> None:
        await anyio.sleep(self.leaving)
        self.notes.append("left")
        if self.error is not None:
            raise self.error


async def test_the_manager_may_own_tasks() -> None:
    """A manager with a task group is entered by one task and left by another."""
    done: list[str] = []

    @asynccontextmanager
    async def manager() -> AsyncGenerator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep, 1)
            yield
        done.append("left")

    life = Life(manager())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(life.enter)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(life.leave)
    assert done == ["left"]
    assert life.is_over


async def test_an_error_on_entering_is_raised() -> None:
    """What entering raises comes out of `enter`, and out of `settled` in another task; leaving raises nothing more."""
    life = Life(Manager(entering=1, error=ValueError("no such host")))

    async def settled() -> None:
        with pytest.raises(ValueError, match="no such host"):
            await life.settled()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(settled)
        with pytest.raises(ValueError, match="no such host"):
            await life.enter()
    await life.leave()
    assert life.is_over


async def test_an_error_on_leaving_is_raised() -> None:
    """What leaving raises comes out of `leave`."""
    life = Life(Manager(error=ValueError("left in disorder")))
    await life.enter()
    with pytest.raises(ValueError, match="left in disorder"):
        await life.leave()


async def test_leaving_is_limited() -> None:
    """A manager that takes longer to leave than it may is cancelled."""
    manager = Manager(leaving=60)
    life = Life(manager, leave_within=3)
    await life.enter()
    began = anyio.current_time()
    await life.leave()
    assert anyio.current_time() - began == pytest.approx(3)
    assert manager.notes == ["entered"]


async def test_a_cancelled_leaving_is_finished_in_a_hurry() -> None:
    """A caller of `leave` that is cancelled ends the manager's waiting, waits for its end, and is cancelled then."""
    done: list[float] = []

    @asynccontextmanager
    async def manager() -> AsyncGenerator[None]:
        yield
        await life.within(60, anyio.sleep_forever)
        with anyio.CancelScope(shield=True):
            await anyio.sleep(1)
        done.append(anyio.current_time())

    life = Life(manager())
    await life.enter()
    began = anyio.current_time()
    with anyio.move_on_after(2) as scope:
        await life.leave()
    assert scope.cancelled_caught
    assert [at - began for at in done] == pytest.approx([3])


async def test_who_is_cancelled_before_leaves_with_all_the_time_there_is() -> None:
    """A caller that leaves in a scope which is cancelled already gives the manager its time, and is cancelled then."""
    done: list[str] = []

    @asynccontextmanager
    async def manager() -> AsyncGenerator[None]:
        yield
        await life.within(60, lambda: anyio.sleep(10))
        done.append("in time")

    life = Life(manager())
    await life.enter()
    began = anyio.current_time()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await life.leave()
    assert scope.cancelled_caught
    assert done == ["in time"]
    assert anyio.current_time() - began == pytest.approx(10)


async def test_a_life_inside_of_a_hurried_one_is_hurried() -> None:
    """Where the outer manager is left with no time to lose, so is a life that it leaves."""

    @asynccontextmanager
    async def patient() -> AsyncGenerator[None]:
        yield
        await inner.within(60, anyio.sleep_forever)

    @asynccontextmanager
    async def hurried() -> AsyncGenerator[None]:
        await inner.enter()
        yield
        await inner.leave()

    inner, outer = Life(patient()), Life(hurried())
    await outer.enter()
    began = anyio.current_time()
    outer.hurry()
    await outer.leave()
    assert inner.is_over
    assert anyio.current_time() == began


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_leaving_withstands_several_cancellations() -> None:
    """However often asyncio cancels the task that leaves, the manager is left, once, and the task is cancelled."""
    manager = Manager(leaving=5)
    life = Life(manager)
    await life.enter()
    task = asyncio.ensure_future(life.leave())
    for _ in range(3):
        await asyncio.sleep(1)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert manager.notes == ["entered", "left"]


async def test_cancelling_the_entering_undoes_it() -> None:
    """A caller that is cancelled while entering has entered nothing, at whatever moment."""
    for when in (0.0, 0.5, 1.5):
        manager = Manager(entering=1, leaving=1)
        life = Life(manager)
        with anyio.move_on_after(when) as scope:
            await life.enter()
            await anyio.sleep(2)
            await life.leave()
        if when < 1:
            assert scope.cancelled_caught
            assert manager.notes in ([], ["entered", "left"])
            assert life.is_over
        else:
            await life.leave()
            assert manager.notes == ["entered", "left"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_loop_may_end_first(backend: str) -> None:
    """When the loop ends, the manager is left, in the loop still, and `leave` in another loop has nothing to do."""
    manager = Manager(leaving=0.01)

    async def main() -> Life:
        life = Life(manager)
        await life.enter()
        return life

    life = anyio.run(main, backend=backend)
    assert manager.notes == ["entered", "left"] or life.is_over
    anyio.run(life.leave)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_owner_is_named_if_the_loop_ends_first(backend: str) -> None:
    """Who forgets to leave gets a ResourceWarning that names the owner."""

    async def main() -> None:
        await Life(Manager(), owner="the service").enter()

    with pytest.warns(ResourceWarning, match="'the service' was not stopped before its event loop ended"):
        anyio.run(main, backend=backend)


def test_a_loop_that_was_closed_is_said_to_be() -> None:
    """Leaving in another loop what was entered in one that was closed around it raises at once."""
    life = Life(Manager())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(life.enter())
    loop.close()
    assert life.is_over
    with pytest.raises(LoopClosedError):
        anyio.run(life.leave)


@pytest.mark.real_time
async def test_another_thread_may_leave() -> None:
    """A thread with a loop of its own, of either kind, leaves what this loop has entered."""
    for backend in ("asyncio", "trio"):
        manager = Manager()
        life = Life(manager)
        await life.enter()
        await anyio.to_thread.run_sync(functools.partial(anyio.run, life.leave, backend=backend))
        assert manager.notes == ["entered", "left"]


@pytest.mark.real_time
def test_a_loop_that_does_not_run_is_not_waited_for_for_ever() -> None:
    """Leaving in another loop while the first does not run gives up with words."""
    life = Life(Manager())
    with asyncio.Runner() as runner:
        runner.run(life.enter())

        def leave() -> None:
            with pytest.raises(RuntimeError, match=r"has not answered for 0\.1 s"):
                anyio.run(lambda: life.leave(patience=0.1))

        thread = threading.Thread(target=leave)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        runner.run(life.leave())


@pytest.mark.real_time
def test_a_loop_that_stands_still_while_it_enters_is_not_waited_for_for_ever() -> None:
    """Waiting in another loop for a manager that the first is about to enter gives up with words, and harms nothing."""
    manager = Manager()
    life = Life(manager)

    async def begin() -> None:
        entering = asyncio.ensure_future(life.enter())
        await asyncio.sleep(0)
        starts.append(entering)

    starts: list[asyncio.Future[None]] = []
    with asyncio.Runner() as runner:
        runner.run(begin())
        with pytest.raises(RuntimeError, match=r"has not answered for 0\.1 s"):
            anyio.run(lambda: life.settled(patience=0.1), backend="trio")
        runner.get_loop().run_until_complete(starts[0])
        assert not life.is_over
        runner.run(life.leave())
    assert manager.notes == ["entered", "left"]


async def test_several_are_entered_in_order_and_left_in_reverse() -> None:
    """When one of several can't be entered, those before it are left; when one can't be left, the others are."""
    first, second = Manager(), Manager(error=ValueError("no such host"))
    with pytest.raises(ValueError, match="no such host"):
        await enter_all([first, second])
    assert first.notes == ["entered", "left"]
    lives = await enter_all([third := Manager(), Manager(error=ValueError("left in disorder"))])
    with pytest.raises(ValueError, match="left in disorder"):
        await leave_all(lives)
    assert third.notes == ["entered", "left"]


async def test_one_that_is_cancelled_leaves_the_entering_to_the_other() -> None:
    """Of two callers that wait for the entering one is cancelled: nothing changes for the other; both: it is undone."""
    for times in (1, 2):
        manager = Manager(entering=5)
        life = Life(manager)
        scopes = [anyio.CancelScope(), anyio.CancelScope()]
        async with anyio.create_task_group() as tasks:

            async def call(method: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
                with scope:
                    await method()

            for method, scope in zip((life.enter, life.settled), scopes, strict=True):
                tasks.start_soon(call, method, scope)
                await anyio.sleep(1)
            for scope in scopes[:times]:
                scope.cancel()
        assert manager.notes == (["entered"] if times == 1 else [])
        await life.leave()


@pytest.mark.real_time
@pytest.mark.parametrize("stops", [0, 2])
def test_a_loop_that_was_stopped_runs_again_at_the_exit(stops: int) -> None:
    """A manager is left in a loop that is not closed, as a notebook's, however often that was told to stop."""
    left: list[str] = []

    @asynccontextmanager
    async def manager() -> AsyncGenerator[None]:
        yield
        await anyio.lowlevel.checkpoint()
        left.append("left")

    loop = asyncio.new_event_loop()
    life = Life(manager(), owner=manager)
    loop.run_until_complete(life.enter())
    for _ in range(stops):
        loop.call_soon(loop.call_soon, loop.stop)
    child = os.fork()
    if not child:
        flush_all()
        os._exit(len(left))
    assert os.waitpid(child, 0)[1] == 0
    flush_all()
    loop.close()
    assert left == ["left"]
    assert life.is_over
