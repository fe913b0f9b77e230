"""
Clocks that jump: where every task waits for a timer, time moves on at once, on asyncio and on trio.

Time stands still while `anyio.to_thread.run_sync` or a group commit is at work, so that a write to the disk takes no
time and no deadline passes behind its back. Sockets, subprocesses and threads of one's own are not seen: mark their
tests ``real_time``. Their clock goes on as any clock does; where a test waits for a limit in time to be over, `passing`
moves it on as soon as the other side hangs, so that the limit can be as long as a busy machine needs.
"""

import asyncio
import math
import selectors
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps

import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
from trio.testing import MockClock

from fapilog.tasks import threads
from fapilog.tasks.groupcommit import GroupCommit
from fapilog.tasks.loops import is_without_loop

__all__ = ["JumpingLoop", "Unhurried", "jumping_backend", "passing", "real_backend", "stop_clock_in_threads"]


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would wait for a timer, move the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; where nothing is and no thread works, jump over *timeout*."""
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self.threads:
            return super().select(None)
        self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that starts at zero and never waits for a timer."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the seconds jumped over since the loop was made."""
        return self._jumping.now

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Wait for real, however many timers are due."""
        self._jumping.threads += 1
        try:
            yield
        finally:
            self._jumping.threads -= 1


_stopped: Counter[MockClock] = Counter()


@contextmanager
def _stopped_trio(clock: MockClock) -> Iterator[None]:
    _stopped[clock] += 1
    clock.autojump_threshold = math.inf
    try:
        yield
    finally:
        _stopped[clock] -= 1
        if not _stopped[clock]:
            del _stopped[clock]
            clock.autojump_threshold = 0


@contextmanager
def _stopped_here() -> Iterator[None]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        clock = trio.lowlevel.current_clock()
        if isinstance(clock, MockClock):
            with _stopped_trio(clock):
                yield
            return
    else:
        if isinstance(loop, JumpingLoop):
            with loop.stopped():
                yield
            return
    yield


def stop_clock_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the calls that wait for a thread stop the clock that jumps, as long as they wait."""
    for owner, name in ((anyio.to_thread, "run_sync"), (threads, "_until"), (GroupCommit, "submit")):
        monkeypatch.setattr(owner, name, _stopping(getattr(owner, name)))


def _stopping(call: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    @wraps(call)
    async def stopping(*args: object, **options: object) -> object:
        if is_without_loop():
            return await call(*args, **options)
        with _stopped_here():
            return await call(*args, **options)

    return stopping


def jumping_backend(name: str) -> tuple[str, dict[str, Callable[[], JumpingLoop] | MockClock]]:
    """Return the anyio backend *name* with the options that make its clock jump."""
    if name == "asyncio":
        return name, {"loop_factory": JumpingLoop}
    return name, {"clock": MockClock(autojump_threshold=0)}


class _MovedLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock can be moved on."""

    moved = 0.0

    def time(self) -> float:
        return super().time() + self.moved


class _MovedClock(trio.abc.Clock):
    """A clock for trio that can be moved on."""

    moved = 0.0

    def start_clock(self) -> None:
        """Do nothing: it is always going."""

    def current_time(self) -> float:
        return time.monotonic() + self.moved

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.current_time()


def real_backend(name: str) -> tuple[str, dict[str, Callable[[], _MovedLoop] | _MovedClock]]:
    """Return the anyio backend *name* with the options that let `passing` move its clock."""
    if name == "asyncio":
        return name, {"loop_factory": _MovedLoop}
    return name, {"clock": _MovedClock()}


@asynccontextmanager
async def passing(seconds: float, *, once: Callable[[], object]) -> AsyncGenerator[None]:
    """Move the clock of a test in real time by *seconds*, when *once* is true and the tasks have seen what it means."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_pass, seconds, once)
        yield


async def _pass(seconds: float, once: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not once():  # noqa: ASYNC110  threads tell no loop
            await anyio.sleep(0.002)
    # What the other side has sent is here. A turn of the loop reads it, and each of the layers above takes a few more.
    for _ in range(100):
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()
    try:
        clock: object = asyncio.get_running_loop()
    except RuntimeError:
        clock = trio.lowlevel.current_clock()
    assert isinstance(clock, _MovedLoop | _MovedClock), "only a test that is marked real_time can have its clock moved"
    clock.moved += seconds


class Unhurried:
    """
    A clock for asyncio and trio that goes at a twentieth of the speed, so that no limit in time is over by itself.

    Attributes:
        moved: Seconds that it was moved on by; any thread may add to it.
    """

    moved = 0.0

    def time(self) -> float:
        """Return its time in seconds."""
        return time.monotonic() / 20 + self.moved

    def backend(self, name: str) -> dict[str, Callable[[], asyncio.AbstractEventLoop] | trio.abc.Clock]:
        """Return the options of the anyio backend *name* that give it this clock."""
        if name == "asyncio":
            return {"loop_factory": lambda: _UnhurriedLoop(self)}
        return {"clock": _UnhurriedClock(self)}


# Seconds after which a loop that waits looks whether its clock was moved.
_LOOK = 0.02


class _UnhurriedSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(_LOOK if timeout is None else min(timeout, _LOOK))


class _UnhurriedLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Unhurried) -> None:
        self._unhurried = clock
        super().__init__(_UnhurriedSelector())

    def time(self) -> float:
        return self._unhurried.time()


class _UnhurriedClock(trio.abc.Clock):
    def __init__(self, clock: Unhurried) -> None:
        self._unhurried = clock

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        return self._unhurried.time()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return min(deadline - self.current_time(), _LOOK)
