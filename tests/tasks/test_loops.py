"""Calls in event loops, from any thread, and without a loop."""

import asyncio
import contextlib
import errno
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from fapilog.tasks import loops, portal
from fapilog.tasks import threads as threads_module
from fapilog.tasks.loops import Loop, LoopClosedError, finished, is_without_loop, without_loop
from fapilog.tasks.portal import run_in
from fapilog.tasks.threads import in_thread
from tests.doubles.alarms import TimeUp
from tests.doubles.interrupting import moments


def closed_loop() -> Loop:
    """Return an asyncio loop that was closed."""
    loop = asyncio.new_event_loop()
    loop.close()
    return Loop(loop)


def ended_trio() -> Loop:
    """Return a trio loop that has ended."""

    async def current() -> Loop:
        return Loop.current()

    return trio.run(current)


def crashed_trio() -> Loop:
    """Return a trio loop that an exception in its own code has ended, and that does not know."""

    class Token:
        def run_sync_soon(self, _: object) -> None:
            # Of the socket that wakes it.
            raise OSError(errno.EBADF, "Bad file descriptor")

    return Loop(Token())


@pytest.mark.parametrize("ended", [closed_loop, ended_trio, crashed_trio])
def test_a_loop_that_has_ended_refuses_calls(ended: object) -> None:
    """Scheduling a call in a loop that has ended raises, and the loop says that it is closed."""
    loop = ended()  # type: ignore[operator]
    assert loop.is_closed
    with pytest.raises(LoopClosedError):
        loop.call_soon(print)
    with pytest.raises(LoopClosedError):
        run_in(loop, anyio.lowlevel.checkpoint)


@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
async def test_an_error_of_a_signal_handler_is_not_the_end_of_a_loop(error: type[BaseException]) -> None:
    """An exception that comes from outside while a call is scheduled is raised, whatever kind of error it is."""
    here = Loop.current()
    for moment in moments(Path(loops.__file__), error):
        with contextlib.suppress(error), moment:
            here.call_soon(int)
        assert not here.is_closed


@pytest.mark.real_time
async def test_a_thread_waits_for_a_call_in_a_loop() -> None:
    """Another thread gets the result of a call in this loop, or its exception, and this thread is refused."""
    here = Loop.current()

    async def double(number: int) -> int:
        await anyio.sleep(0.001)
        return 2 * number

    async def fail() -> None:
        raise ValueError("v")

    def in_the_thread() -> None:
        assert run_in(here, lambda: double(2)) == 4
        with pytest.raises(ValueError, match="v"):
            run_in(here, fail)
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            run_in(here, lambda: anyio.sleep(1), timeout=0.01)

    await anyio.to_thread.run_sync(in_the_thread)
    with pytest.raises(RuntimeError, match="use `await` here"):
        run_in(here, fail)


@pytest.mark.real_time
async def test_a_thread_that_is_interrupted_leaves_the_loop_alone() -> None:
    """A signal handler that raises in a thread that waits for a call hurts the thread, and no call that comes later."""
    here = Loop.current()
    places = [Path(threading.__file__), Path(portal.__file__), Path(threads_module.__file__)]

    async def answer() -> int:
        await anyio.sleep(0.001)
        return 1

    def in_the_thread() -> None:
        for place in places:
            for moment in moments(place, KeyboardInterrupt):
                with contextlib.suppress(KeyboardInterrupt), moment:
                    run_in(here, answer)
                assert run_in(here, answer, timeout=60) == 1

    await anyio.to_thread.run_sync(in_the_thread)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_does_not_wait_for_a_loop_that_ends(backend: str) -> None:
    """When the loop ends while another thread waits for a call in it, that thread gets an error."""
    errors: list[BaseException] = []

    async def main() -> None:
        here = Loop.current()
        began = threading.Event()

        async def hang() -> None:
            began.set()
            await anyio.sleep_forever()

        def wait() -> None:
            try:
                run_in(here, hang)
            except LoopClosedError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        threads.append(thread)
        while not began.is_set():
            await anyio.lowlevel.checkpoint()

    threads: list[threading.Thread] = []
    anyio.run(main, backend=backend)
    threads[0].join(60)
    assert len(errors) == 1


@pytest.mark.real_time
def test_a_thread_does_not_wait_for_ever_for_a_loop_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an open loop does not run, the thread that waits for it gives up with words."""
    monkeypatch.setattr(portal, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(portal, "_PATIENCE", 0.05)
    with (
        asyncio.Runner() as runner,
        pytest.raises(RuntimeError, match=r"does not run, or is blocked: no answer for 0\.05 s"),
    ):
        run_in(Loop(runner.get_loop()), lambda: add(1, 2))


@pytest.mark.slow
@pytest.mark.real_time
async def test_a_thread_waits_longer_for_a_loop_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call may take longer than a loop may not answer, as long as the loop runs."""
    monkeypatch.setattr(portal, "_PATIENCE", 3.0)
    here = Loop.current()

    async def slow() -> int:
        await anyio.sleep(4)
        return await add(1, 2)

    assert await anyio.to_thread.run_sync(run_in, here, slow) == 3


async def add(left: int, right: int) -> int:
    """Add after a while."""
    await anyio.sleep(1)
    return left + right


async def test_a_call_that_is_finished_returns_and_raises() -> None:
    """A call returns and raises as it would in the caller's task, KeyboardInterrupt too."""

    async def fail(error: BaseException) -> None:
        raise error

    assert await finished(lambda: add(1, 2)) == 3
    for error in (ValueError("v"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            await finished(lambda error=error: fail(error))  # type: ignore[misc]


@pytest.mark.real_time
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("place", [loops.__file__, asyncio.locks.__file__], ids=["ours", "asyncio"])
def test_a_call_that_is_interrupted_ends(place: str) -> None:
    """Wherever a signal handler raises in asyncio's loop, whoever waits for a call gets a result or an error."""

    async def wait(moment: AbstractContextManager[None]) -> None:
        with contextlib.suppress(TimeUp, LoopClosedError), moment:
            await finished(anyio.lowlevel.checkpoint)

    for moment in moments(Path(place), TimeUp):
        asyncio.run(wait(moment))


async def test_a_call_is_finished_when_the_caller_is_cancelled() -> None:
    """Cancelled meanwhile, the caller waits for the call, and the cancellation passes."""
    done: list[str] = []

    async def work() -> None:
        await anyio.sleep(5)
        done.append("done")

    with anyio.move_on_after(1) as scope:
        await finished(work)
    assert scope.cancelled_caught
    assert done == ["done"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_call_is_finished_when_the_task_is_cancelled() -> None:
    """Cancelling the caller's task as asyncio does, at any time and often, does not stop the call either."""
    for when in range(1, 5):
        done: list[str] = []

        async def work(done: list[str] = done) -> None:
            await anyio.sleep(5)
            done.append("done")

        task = asyncio.ensure_future(finished(work))
        for _ in range(when):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done == ["done"]


def test_a_coroutine_runs_without_a_loop() -> None:
    """What waits for nothing but this thread runs to its end in it, and returns or raises as with a loop."""

    async def ask() -> tuple[bool, int]:
        return is_without_loop(), await in_thread(threading.get_ident)

    async def fail() -> None:
        raise ValueError("v")

    assert without_loop(ask()) == (True, threading.get_ident())
    assert not is_without_loop()
    with pytest.raises(ValueError, match="v"):
        without_loop(fail())
    assert without_loop(finished(ask)) == (True, threading.get_ident())


def test_a_coroutine_that_needs_a_loop_is_refused() -> None:
    """What waits for a loop all the same raises RuntimeError, and is closed."""

    class Suspended:
        def __await__(self) -> object:
            yield

    async def suspend() -> None:
        await Suspended()  # type: ignore[misc]

    with pytest.raises(RuntimeError, match="waits for an event loop"):
        without_loop(suspend())


@pytest.mark.may_block
async def test_where_no_thread_can_be_had_the_call_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a limit on threads a call is made in the loop's own thread; its own RuntimeError stays what it is."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def fail() -> None:
        raise RuntimeError("of the call")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(trio.lowlevel, "start_thread_soon", lambda *_: refuse(threading.current_thread()))
        patch.setattr("trio._threads.start_thread_soon", lambda *_: refuse(threading.current_thread()))
        # A worker thread of another test may be idle.
        ident = await in_thread(threading.get_ident)
        assert isinstance(ident, int)
        with pytest.raises(RuntimeError, match="of the call"):
            await in_thread(fail)
