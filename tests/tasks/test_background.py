"""Background work: owned, isolated, and done when its owner leaves."""

import asyncio
import functools
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fapilog.tasks.background import Background, in_own_task


async def wait_then(done: list[str], name: str, *, seconds: float = 0) -> None:
    """Add *name* to *done* after *seconds*."""
    await anyio.sleep(seconds)
    done.append(name)


async def test_calls_run_beside_the_code_that_starts_them() -> None:
    """Entered, a call begins by itself, and leaving waits for it."""
    done: list[str] = []
    background = Background()
    await background.enter()
    background.start_soon(functools.partial(wait_then, done, "a", seconds=5))
    background.start_soon(functools.partial(wait_then, done, "b", seconds=1))
    assert done == []
    await background.leave(timeout=10)
    assert done == ["b", "a"]
    assert not background.entered


async def test_calls_are_kept_until_someone_settles() -> None:
    """Not entered, calls wait for `settle`, which runs them all at once."""
    done: list[str] = []
    background = Background()
    for name in "abc":
        background.start_soon(functools.partial(wait_then, done, name, seconds=5))
    await anyio.sleep(100)
    assert (done, background.kept) == ([], 3)
    began = anyio.current_time()
    await background.settle()
    assert sorted(done) == ["a", "b", "c"]
    assert anyio.current_time() - began == pytest.approx(5)


async def test_kept_calls_run_on_entering() -> None:
    """What was kept before runs as soon as the background is entered."""
    done: list[str] = []
    background = Background()
    background.start_soon(functools.partial(wait_then, done, "a"))
    await background.enter()
    await background.settle()
    assert done == ["a"]
    await background.leave(timeout=1)


async def test_settle_waits_for_all_that_settle() -> None:
    """Several tasks may wait until no call is left."""
    done: list[str] = []
    background = Background()
    await background.enter()
    background.start_soon(functools.partial(wait_then, done, "a", seconds=5))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(background.settle)
    assert done == ["a"]
    await background.leave(timeout=1)


async def test_leaving_is_limited() -> None:
    """A call that does not end is cancelled when the time for leaving is over."""
    background = Background()
    await background.enter()
    background.start_soon(anyio.sleep_forever)
    began = anyio.current_time()
    await background.leave(timeout=3)
    assert anyio.current_time() - began == pytest.approx(3)


async def test_cancellation_outside_does_not_reach_the_calls() -> None:
    """Calls go on when the code around the background is cancelled, and leaving still waits for them."""
    done: list[str] = []
    background = Background()
    with anyio.CancelScope() as scope:
        await background.enter()
        background.start_soon(functools.partial(wait_then, done, "a", seconds=5))
        await anyio.lowlevel.checkpoint()
        scope.cancel()
        await background.leave(timeout=10)
    assert done == ["a"]


@pytest.mark.parametrize("entered", [True, False])
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_call_that_cancels_its_task_ends_alone(*, entered: bool) -> None:
    """A call that raises CancelledError, or cancels the task it is in, takes no other call and no caller with it."""
    done: list[str] = []

    async def raise_cancelled() -> None:
        raise asyncio.CancelledError

    async def cancel_task() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    background = Background()
    if entered:
        await background.enter()
    for call in (raise_cancelled, cancel_task, functools.partial(wait_then, done, "a")):
        background.start_soon(call)
    await background.settle()
    assert done == ["a"]
    background.start_soon(functools.partial(wait_then, done, "b"))
    await background.settle()
    await background.leave(timeout=1)
    assert done == ["a", "b"]


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_keyboard_interrupt_passes_through() -> None:
    """A KeyboardInterrupt in a call comes out where the background is left, as itself."""

    async def interrupt() -> None:
        raise KeyboardInterrupt

    background = Background()
    await background.enter()
    background.start_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        await background.leave(timeout=1)


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_several_exceptions_stay_a_group() -> None:
    """More than one exception that is nobody's to handle comes out as a group."""

    async def interrupt() -> None:
        await anyio.sleep(1)
        raise SystemExit(1)

    background = Background()
    background.start_soon(interrupt)
    background.start_soon(interrupt)
    with pytest.raises(BaseExceptionGroup):
        await background.settle()


async def test_what_is_held_may_own_tasks() -> None:
    """A held context manager is entered and left in one task, so it may hold a task group open."""
    done: list[str] = []

    @asynccontextmanager
    async def manager() -> Any:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_then, done, "worker")
            yield
        done.append("left")

    background = Background()
    await background.enter()
    await background.hold(manager())
    background.start_soon(functools.partial(wait_then, done, "call", seconds=2))
    await background.leave(timeout=5)
    assert done == ["worker", "call", "left"]


async def test_an_error_on_entering_is_raised() -> None:
    """What entering a held context manager raises comes out of `hold`."""

    class Manager:
        async def __aenter__(self) -> None:
            raise ValueError("no such host")

        async def __aexit__(self, *_: object) -> None: ...

    background = Background()
    await background.enter()
    with pytest.raises(ValueError, match="no such host"):
        await background.hold(Manager())
    await background.leave(timeout=1)


async def test_an_error_on_leaving_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What leaving a held context manager raises is logged by its type, without its text."""

    class Manager:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *_: object) -> None:
            raise ValueError("https://hooks.example/SECRET")

    background = Background()
    await background.enter()
    await background.hold(Manager())
    await background.leave(timeout=1)
    assert "Manager raised ValueError" in caplog.text
    assert "SECRET" not in caplog.text


async def test_leaving_what_is_held_is_limited() -> None:
    """A held context manager that hangs on leaving is cancelled in time."""

    class Manager:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, *_: object) -> None:
            await anyio.sleep_forever()

    background = Background()
    await background.enter()
    await background.hold(Manager())
    began = anyio.current_time()
    await background.leave(timeout=3)
    assert anyio.current_time() - began == pytest.approx(3)


async def add(left: int, right: int) -> int:
    """Add after a while."""
    await anyio.sleep(1)
    return left + right


async def test_a_task_of_its_own_returns_and_raises() -> None:
    """A call in a task of its own returns and raises as it would in the caller's."""

    async def fail() -> None:
        raise ValueError("v")

    assert await in_own_task(add, 1, 2) == 3
    with pytest.raises(ValueError, match="v"):
        await in_own_task(fail)


async def shielded_then_not(done: list[str]) -> None:
    """Do something that must be done, and then something that need not."""
    with anyio.CancelScope(shield=True):
        await wait_then(done, "must", seconds=5)
    await wait_then(done, "need not", seconds=5)


async def test_what_is_shielded_is_done_when_the_caller_is_cancelled() -> None:
    """Cancelled meanwhile, the call does what it shields and nothing more, and the cancellation passes."""
    done: list[str] = []
    with anyio.move_on_after(1) as scope:
        await in_own_task(shielded_then_not, done)
    assert scope.cancelled_caught
    assert done == ["must"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_what_is_shielded_withstands_the_cancelling_of_the_task() -> None:
    """Cancelling the caller's task as asyncio does, at any time, does not stop what is shielded either."""
    for when in range(4):
        done: list[str] = []
        task = asyncio.ensure_future(in_own_task(shielded_then_not, done))
        for _ in range(when):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == (["must"] if when else [])
