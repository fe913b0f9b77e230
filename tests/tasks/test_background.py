"""Background calls: beside the code that starts them, isolated, and done when the background is closed."""

import asyncio
import contextlib
import functools
import gc
import threading
import weakref
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fapilog.tasks import background as background_module
from fapilog.tasks.background import Background, Call, Job
from fapilog.tasks.loops import Loop, without_loop
from tests.doubles.alarms import TimeUp
from tests.doubles.interrupting import moments
from tests.doubles.running_background import Running


async def wait_then(done: list[Any], name: str, *, seconds: float = 0) -> None:
    """Add *name* to *done* after *seconds*."""
    await anyio.sleep(seconds)
    done.append(name)


async def test_calls_run_beside_the_code_that_starts_them() -> None:
    """Open, a call begins by itself, and leaving waits for it."""
    done: list[str] = []
    background = Background()
    running = Running(background)
    await running.enter()
    background.start_soon(functools.partial(wait_then, done, "a", seconds=5))
    background.start_soon(functools.partial(wait_then, done, "b", seconds=1))
    assert done == []
    await running.leave(timeout=10)
    assert done == ["b", "a"]
    assert background.home is None


async def test_calls_that_an_interrupted_end_left_are_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ctrl-C interrupts the closing, a call that was not begun is begun once when it is opened anew."""
    done: list[str] = []
    background = Background()

    async def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    async def end_too_early() -> None:
        async with background.open():
            background.start_soon(functools.partial(wait_then, done, "a"))
            monkeypatch.setattr(background._idle, "until", interrupted)

    with pytest.raises(KeyboardInterrupt):
        await end_too_early()
    monkeypatch.undo()
    async with background.open():
        await background.settle()
        background.start_soon(functools.partial(wait_then, done, "b"))
        await background.settle()
    assert done == ["a", "b"]


async def collect_and_run(background: Background, call: Call, moment: AbstractContextManager[None]) -> None:
    """Collect *call* twice, and run both at that moment."""
    with background.collecting() as calls:
        background.start_soon(call)
        background.start_soon(call)
        with contextlib.suppress(KeyboardInterrupt), moment:
            await background.run(calls)


async def test_an_interrupt_loses_no_call_that_was_collected() -> None:
    """Wherever Ctrl-C interrupts code without a loop that leaves its calls for later, each call is made once."""
    for moment in moments(Path(background_module.__file__), KeyboardInterrupt):
        done: list[str] = []
        background = Background()
        without_loop(collect_and_run(background, functools.partial(wait_then, done, "a"), moment))
        await background.settle()
        assert done == ["a", "a"]


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
def test_a_loop_that_is_interrupted_loses_no_call() -> None:
    """Wherever a signal handler raises in asyncio's loop, a call is made or has failed, and its end is noticed."""

    async def start(moment: AbstractContextManager[None]) -> None:
        ends: list[object] = []
        background = Background()
        async with background.open():
            with contextlib.suppress(TimeUp), moment:
                background.start_soon(functools.partial(wait_then, ends, "a"), failed=ends.append)
                ends.append("started")
                await background.settle()
            await background.settle()
        # One that was not even started may be made or not.
        assert len(ends) != 1 or ends[0] != "started"

    for moment in moments(Path(background_module.__file__).parent, TimeUp):
        asyncio.run(start(moment))


async def test_code_that_is_interrupted_holds_back_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ctrl-C interrupts the code that starts a call, the call is begun with the next; if there is none, later."""
    done: list[str] = []
    ended = anyio.Event()
    background = Background()

    async def end() -> None:
        ended.set()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def start_interrupted(name: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "call_soon", interrupted)
            with pytest.raises(KeyboardInterrupt):
                background.start_soon(functools.partial(wait_then, done, name))

    async with background.open():
        start_interrupted("a")
        background.start_soon(end)
        await ended.wait()
        await background.settle()
        assert done == ["a"]
        start_interrupted("b")
    await background.settle()
    assert done == ["a", "b"]


async def test_calls_are_kept_until_someone_settles() -> None:
    """Not open, calls wait for `settle`, which runs them all at once."""
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


async def test_collected_calls_belong_to_their_collector() -> None:
    """Not open, a task that collects its calls runs those, and waits for them, whatever another task settles."""
    done: list[str] = []
    background = Background()

    async def collect(name: str) -> None:
        with background.collecting() as calls:
            background.start_soon(functools.partial(wait_then, done, name, seconds=5))
            await anyio.sleep(1)
            await background.run(calls)
        assert name in done

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect, "a")
        tasks.start_soon(collect, "b")
        await anyio.sleep(0.5)
        await background.settle()
        assert done == []
    assert sorted(done) == ["a", "b"]


async def test_collected_calls_that_were_not_run_are_kept() -> None:
    """A collector that is cancelled leaves its calls to the next `settle`."""
    done: list[str] = []
    background = Background()
    with background.collecting():
        background.start_soon(functools.partial(wait_then, done, "a"))
    await background.settle()
    assert done == ["a"]


async def test_kept_calls_run_on_opening() -> None:
    """What was kept before runs as soon as the background is open."""
    done: list[str] = []
    background = Background()
    background.start_soon(functools.partial(wait_then, done, "a"))
    running = Running(background)
    await running.enter()
    await background.settle()
    assert done == ["a"]
    await running.leave(timeout=1)


@pytest.mark.slow_on_trio
async def test_kept_calls_are_let_go_of_when_they_have_run() -> None:
    """A call that was kept, and all that it holds, such as an alert, lives no longer than one that came later."""

    class Alert:
        async def send(self) -> None:
            await anyio.lowlevel.checkpoint()

    alert = Alert()
    left = weakref.ref(alert)
    background = Background()
    background.start_soon(alert.send)
    del alert
    async with background.open():
        await background.settle()
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        assert left() is None


async def test_settle_waits_for_all_that_settle() -> None:
    """Several tasks may wait until no call is left."""
    done: list[str] = []
    background = Background()
    running = Running(background)
    await running.enter()
    background.start_soon(functools.partial(wait_then, done, "a", seconds=5))
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(background.settle)
    assert done == ["a"]
    await running.leave(timeout=1)


async def test_leaving_is_limited() -> None:
    """A call that does not end is cancelled when the time for leaving is over."""
    background = Background()
    running = Running(background)
    await running.enter()
    background.start_soon(anyio.sleep_forever)
    began = anyio.current_time()
    await running.leave(timeout=3)
    assert anyio.current_time() - began == pytest.approx(3)


async def test_cancellation_outside_does_not_reach_the_calls() -> None:
    """Calls go on when the code around the background is cancelled."""
    done: list[str] = []
    background = Background()
    running = Running(background)
    with anyio.CancelScope() as scope:
        await running.enter()
        background.start_soon(functools.partial(wait_then, done, "a", seconds=5))
        await anyio.lowlevel.checkpoint()
        scope.cancel()
    await running.leave(timeout=10)
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
    running = Running(background)
    if entered:
        await running.enter()
    for call in (raise_cancelled, cancel_task, functools.partial(wait_then, done, "a")):
        background.start_soon(call)
    await background.settle()
    assert done == ["a"]
    background.start_soon(functools.partial(wait_then, done, "b"))
    await background.settle()
    if entered:
        await running.leave(timeout=1)
    assert done == ["a", "b"]


@pytest.mark.parametrize("entered", [True, False])
async def test_an_exception_is_logged_by_its_type(caplog: pytest.LogCaptureFixture, *, entered: bool) -> None:
    """What a call raises reaches no other code; the log has its type and not its text."""

    async def fail() -> None:
        raise ValueError("SECRET")

    background = Background()
    running = Running(background)
    if entered:
        await running.enter()
    background.start_soon(fail)
    await background.settle()
    if entered:
        await running.leave(timeout=1)
    assert "a call in the background raised ValueError" in caplog.text
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("entered", [True, False])
async def test_a_call_has_the_time_that_it_was_given(caplog: pytest.LogCaptureFixture, *, entered: bool) -> None:
    """A call that takes longer is cancelled, which is told to nobody but the function that was given with it."""
    done: list[str] = []
    failures: list[Exception] = []
    background = Background()
    running = Running(background)
    if entered:
        await running.enter()
    background.start_soon(anyio.sleep_forever, timeout=3, failed=failures.append)
    background.start_soon(functools.partial(wait_then, done, "a", seconds=5), timeout=6, failed=failures.append)
    began = anyio.current_time()
    await background.settle()
    assert anyio.current_time() - began == pytest.approx(5)
    if entered:
        await running.leave(timeout=1)
    assert done == ["a"]
    assert [type(each) for each in failures] == [TimeoutError]
    assert not caplog.text


async def test_a_call_that_is_cancelled_on_leaving_has_not_failed() -> None:
    """Leaving cancels the calls that are left; that is no lack of time."""
    failures: list[Exception] = []
    background = Background()
    running = Running(background)
    await running.enter()
    background.start_soon(anyio.sleep_forever, timeout=60, failed=failures.append)
    await running.leave(timeout=1)
    assert failures == []


def test_calls_of_a_loop_that_was_closed_are_kept_for_the_next() -> None:
    """A call that another thread starts when the loop was closed, with calls still to begin, is kept."""
    background = Background()
    done: list[str] = []
    loop = asyncio.new_event_loop()
    running = Running(background)
    loop.run_until_complete(running.enter())
    background.start_soon(functools.partial(wait_then, done, "never"))
    loop.close()
    thread = threading.Thread(target=background.start_soon, args=[functools.partial(wait_then, done, "kept")])
    thread.start()
    thread.join()
    anyio.run(background.settle)
    assert done == ["kept"]


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_of_several_exits_one_is_raised() -> None:
    """Two calls that end the program end it once, whoever else is still running."""

    async def interrupt() -> None:
        await anyio.sleep(1)
        raise SystemExit(1)

    background = Background()
    background.start_soon(interrupt)
    background.start_soon(interrupt)
    background.start_soon(anyio.sleep_forever)
    with pytest.raises(SystemExit):
        await background.settle()


_request: ContextVar[str] = ContextVar("request", default="none")


@pytest.mark.parametrize("entered", [True, False])
async def test_a_call_runs_in_the_context_it_was_started_in(*, entered: bool) -> None:
    """Each call sees the context variables of the code that started it, and not those of another call."""
    seen: list[str] = []

    async def note() -> None:
        seen.append(_request.get())

    background = Background()
    running = Running(background)
    if entered:
        await running.enter()
    for name in ("first", "second"):
        token = _request.set(name)
        background.start_soon(note)
        _request.reset(token)
    await background.settle()
    if entered:
        await running.leave(timeout=1)
    assert sorted(seen) == ["first", "second"]


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_calls_from_other_threads_run_in_the_loop() -> None:
    """Twenty threads start calls at once; all run, in the thread of the loop, in the context of their starter."""
    threads: list[int] = []
    seen: list[str] = []

    async def note() -> None:
        threads.append(threading.get_ident())
        seen.append(_request.get())

    background = Background()
    running = Running(background)
    await running.enter()
    barrier = threading.Barrier(20)

    def start(number: int) -> None:
        _request.set(str(number))
        barrier.wait()
        for _ in range(50):
            background.start_soon(note)

    workers = [threading.Thread(target=start, args=[number]) for number in range(20)]
    for worker in workers:
        worker.start()
    for worker in workers:
        await anyio.to_thread.run_sync(worker.join)
    await background.settle()
    await running.leave(timeout=5)
    assert set(threads) == {threading.get_ident()}
    assert sorted(seen) == sorted(str(number) for number in range(20) for _ in range(50))


@pytest.mark.may_block
async def test_a_call_that_comes_while_others_begin_is_not_waited_for_for_ever() -> None:
    """A thread that is stopped in the midst of starting a call does not note it when it has ended already."""
    background = Background()
    may_append, may_note = threading.Event(), threading.Event()
    done: list[str] = []

    class Slow(dict[Job, None]):
        def __setitem__(self, job: Job, value: None) -> None:
            if threading.current_thread() is thread:
                appended.set()
                may_note.wait()
            super().__setitem__(job, value)

    def start() -> None:
        may_append.wait()
        background.start_soon(functools.partial(wait_then, done, "late"))

    begin, appended, thread = background._begin, threading.Event(), threading.Thread(target=start)

    def begin_slowly(job: Job, home: Loop) -> None:
        begin(job, home)
        if not may_append.is_set():
            may_append.set()
            appended.wait()

    async with background.open():
        background._jobs = Slow()
        background._begin = begin_slowly  # type: ignore[method-assign]
        thread.start()
        background.start_soon(functools.partial(wait_then, done, "first"))
        while "first" not in done:
            await anyio.lowlevel.checkpoint()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        may_note.set()
        await anyio.to_thread.run_sync(thread.join)
        with anyio.fail_after(60):
            await background.settle()
    assert done == ["first", "late"]


def test_a_call_whose_loop_ends_before_its_first_step_is_not_waited_for() -> None:
    """A task that asyncio cancels before it has begun, as the loop ends, does not hang the background's closing."""
    background = Background()
    done: list[str] = []

    async def main() -> None:
        running = Running(background)
        await running.enter()
        for _ in range(10):
            background.start_soon(functools.partial(wait_then, done, "a", seconds=60))

    anyio.run(main)
    assert done == []
    assert background.home is None


async def test_an_interrupt_while_calls_begin_loses_none_of_them() -> None:
    """A signal handler that raises while the loop begins calls leaves them to be begun, once, and closing ends."""
    began: list[int] = []

    async def call(number: int) -> None:
        began.append(number)

    for moment in moments(Path(background_module.__file__), KeyboardInterrupt):
        began.clear()
        background = Background()
        async with background.open():
            for number in range(3):
                background.start_soon(functools.partial(call, number))
            home = background.home
            assert home is not None
            with contextlib.suppress(KeyboardInterrupt), moment:
                background._begin_all(home)
            await background.settle()
        assert sorted(began) == [0, 1, 2]
