"""
Clocks that jump: where every task waits for a timer, time moves on at once, on asyncio and on trio.

Time stands still while `anyio.to_thread.run_sync` or a group commit is at work, so that a write to the disk takes no
time and no deadline passes behind its back. Sockets, subprocesses and threads of one's own are not seen: mark their
tests ``real_time``.
"""

import asyncio
import math
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import anyio.to_thread
import pytest
import trio
from trio.testing import MockClock

from fapilog.tasks import threads
from fapilog.tasks.groupcommit import GroupCommit
from fapilog.tasks.loops import is_without_loop

__all__ = ["JumpingLoop", "jumping_backend", "stop_clock_in_threads"]


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
