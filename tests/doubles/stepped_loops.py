"""Event loops whose steps are counted, so that something can be done after a certain one."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from types import FrameType
from typing import Any, Final, TypeVarTuple, Unpack

import anyio
import trio
from trio.testing import MockClock

from tests.clock import JumpingLoop

__all__ = ["WATCHDOG", "Steps", "is_asyncio", "run", "tasks_here", "watched"]

Ts = TypeVarTuple("Ts")

# Real seconds for one service, which takes a tenth of one on an idle machine.
WATCHDOG: Final = 60.0


class Steps:
    """Calls *action* once, after the step *at* that follows `arm`, and again *gap* steps later, *times* in all."""

    def __init__(self, at: int, *, gap: int, times: int) -> None:
        self.due = [at + gap * number for number in range(times)]
        self.count = 0
        self.action: Callable[[], object] | None = None
        self.fired = 0

    def arm(self, action: Callable[[], object]) -> None:
        self.action = action
        self._look()

    def disarm(self) -> None:
        self.action = None

    def step(self) -> None:
        if self.action is not None:
            self.count += 1
            self._look()

    def _look(self) -> None:
        while self.action is not None and self.due and self.due[0] <= self.count:
            self.due.pop(0)
            self.fired += 1
            self.action()


class _SteppedLoop(JumpingLoop):
    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        def step() -> None:
            callback(*args)
            self._steps.step()

        return super().call_soon(step, context=context)


class _Instrument(trio.abc.Instrument):
    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._steps.step()


def run(backend: str, steps: Steps, main: Callable[[], Awaitable[None]]) -> None:
    """Run *main* in a loop whose steps are counted, and whose clock jumps."""
    options: dict[str, Any] = {"loop_factory": lambda: _SteppedLoop(steps)}
    if backend == "trio":
        options = {"clock": MockClock(autojump_threshold=0), "instruments": [_Instrument(steps)]}
    anyio.run(main, backend=backend, backend_options=options)


def is_asyncio() -> bool:
    return "asyncio" in sys.modules and asyncio._get_running_loop() is not None


def tasks_here(backend: str) -> set[str]:
    """Return the tasks of this loop, those of trio's system too, by name and number."""
    if backend == "asyncio":
        return {f"{task.get_coro()} {id(task)}" for task in asyncio.all_tasks()}
    found: set[str] = set()

    def note(task: trio.lowlevel.Task) -> None:
        found.add(f"{task.name} {id(task)}")
        for nursery in task.child_nurseries:
            for each in nursery.child_tasks:
                note(each)

    root = trio.lowlevel.current_root_task()
    assert root is not None
    note(root)
    return found


@contextmanager
def watched() -> Iterator[None]:
    """Raise in the main thread, again and again, when `WATCHDOG` seconds are over."""

    def bark(_: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it hangs: {frame}")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, WATCHDOG, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
