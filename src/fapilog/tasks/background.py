"""Calls that run beside the audited code, for a trail, an outbox or a wrapper that waits for them in the end."""

from __future__ import annotations

import functools
import inspect
import math
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final

import anyio

from .loops import Condition, Loop, LoopClosedError, is_without_loop
from .strangers import Log, cancellation_of_this_task, contained

__all__ = ["Background", "Call", "Job", "alone", "own_context", "side_by_side"]

_log: Final = Log("fapilog")

Call = Callable[[], Coroutine[Any, Any, object]]
"""A call to be awaited."""


class Job:
    """
    A call that was started, with the context variables of the code that started it.

    Args:
        call: The call to await.
        timeout: Seconds that it may take.
        failed: Is called with the exception of the call, or a `TimeoutError`.

    Attributes:
        has_begun: Whether the call has begun; it does not in a task that asyncio cancels before its first step, or in
            which a signal handler raises before.
    """

    __slots__ = ("call", "context", "failed", "has_begun", "scope", "timeout")

    def __init__(self, call: Call, timeout: float, failed: Callable[[Exception], None]) -> None:
        self.call: Call = call
        self.timeout: float = timeout
        self.failed: Callable[[Exception], None] = failed
        self.has_begun: bool = False
        self.context: Context = copy_context()
        self.scope: anyio.CancelScope | None = None

    async def run(self, *, shield: bool, is_late: Callable[[], bool] = bool) -> None:
        """
        Await the call, in a task of its own and in the context of the job.

        Args:
            shield: Whether only the scope of the job cancels it.
            is_late: Whether it is cancelled at once.
        """
        if self.has_begun:
            return
        # One scope for the shield and the time: to enter one costs as much as to make a task.
        deadline = math.inf if self.timeout == math.inf else anyio.current_time() + self.timeout
        try:
            with anyio.CancelScope(shield=shield, deadline=deadline) as self.scope:
                if is_late():
                    self.scope.cancel()
                # Calls that it starts itself are not for the list of the code that started it, which may no longer read
                # the list.
                _collected.set(None)
                try:
                    with contained():
                        self.has_begun = True
                        await self.call()
                except Exception as error:
                    self.failed(error)
        except anyio.get_cancelled_exc_class():
            if shield:
                return  # the call cancelled the task that it runs in, which is this one and ends here, alone
            raise
        if self.scope.cancelled_caught and anyio.current_time() >= deadline:
            self.failed(TimeoutError())


class Background:
    """
    Tasks that can hurt neither the code that starts them nor another task.

    While it is `open`, every call runs in a task of its own in the loop where it was opened, whichever thread starts
    the call. While it is not, calls are kept: by `collecting` for the code that started them, and otherwise for the
    next `settle`. An exception of a call is logged, by its type; `KeyboardInterrupt` and `SystemExit` end the loop.

    Attributes:
        home: The loop that runs the calls; None while they are kept.
    """

    def __init__(self) -> None:
        # Guards the four next attributes, so that no call falls between being kept and being run.
        self._lock = threading.RLock()
        self.home: Loop | None = None
        self._kept: deque[Job] = deque()
        self._to_begin: list[Job] = []
        # Whether code in the loop has asked it to begin the calls that are to begin.
        self._was_asked = False
        self._jobs: dict[Job, None] = {}
        self._idle = Condition()
        self._is_closing = False
        self._loop_is_ending: Callable[[], bool] = bool

    @property
    def leaving(self) -> bool:
        """Whether calls are cancelled since this is being closed, or since the loop is ending."""
        return self._is_closing or self._loop_is_ending()

    @property
    def kept(self) -> int:
        """How many calls wait for `settle`, or for it to be opened."""
        return len(self._kept)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """
        Run the calls in this loop, the kept ones first; in the end cancel the calls that still run.

        A call that can't be cancelled, such as one that waits for a thread, is waited for: no task is left behind.
        """
        if self.home is not None:
            self.forget()  # the loop in which it was opened before was closed
        self._loop_is_ending = cancellation_of_this_task()
        self._begin_kept()
        try:
            yield
        finally:
            with self._lock:
                self.home = None
                # Perhaps of code that a signal handler ended before it asked the loop to begin them.
                left, self._to_begin = self._to_begin, []
                for job in left:
                    self._jobs.pop(job, None)
                self._kept.extend(left)
            self._is_closing = True
            try:
                self._idle.notify()
                for job in self._jobs.copy():
                    if job.scope is not None:
                        job.scope.cancel()
                with anyio.CancelScope(shield=True):
                    await self._idle.until(lambda: not self._jobs)
            finally:
                self._is_closing, self._loop_is_ending = False, bool

    def start_soon(
        self, call: Call, *, timeout: float = math.inf, failed: Callable[[Exception], None] | None = None
    ) -> None:
        """
        Run *call* soon, or keep it for `settle`. From any thread; never waits and never raises.

        Args:
            call: The call to await, in the context variables of this code.
            timeout: Seconds after which it is cancelled.
            failed: Is called with the exception of *call*, or a `TimeoutError`; by default, the type is logged.
        """
        collected = _collected.get()
        self._start(Job(call, timeout, failed or _log_failure), self._kept if collected is None else collected)

    def _start(self, job: Job, otherwise: list[Job] | deque[Job]) -> None:
        """Run *job* if this is open, and else add it to *otherwise*."""
        with self._lock:
            home = self.home
            if home is None:
                otherwise.append(job)
                return
            # In this order: a signal handler may raise in between, and closing waits for a job that nobody begins.
            self._to_begin.append(job)
            self._jobs[job] = None
        # The tasks are made when the code that starts the calls lets the loop run, all at once. Code elsewhere asks for
        # that at each call: the loop may have ended meanwhile.
        is_here = home.is_here
        if is_here and self._was_asked:
            return
        try:
            home.call_soon(functools.partial(self._begin_all, home))
        except LoopClosedError:
            with self._lock:
                if self.home is home:  # else it was closed meanwhile, which has kept the job
                    self.forget()
                    self._kept.append(job)
        if is_here:
            # Not before: a signal handler may raise there, and then the next call asks.
            self._was_asked = True

    @contextmanager
    def collecting(self) -> Generator[list[Job]]:
        """While it is not open, collect the calls of this task in a list, for `run`; the rest is kept."""
        calls: list[Job] = []
        before = _collected.get()
        try:
            # In here: a signal handler may raise as soon as it is set.
            _collected.set(calls)
            yield calls
        finally:
            _collected.set(before)
            self._kept.extend(calls)

    async def run(self, collected: list[Job]) -> None:
        """Run the *collected* and the kept calls, all at once and to their end."""
        if self.home is not None or is_without_loop():
            # Without an event loop nothing can be run: the calls are kept. Open meanwhile, it runs them by itself.
            while collected:
                # In this order: a signal handler may raise in between, and a call that is begun twice is made once.
                self._start(collected[0], self._kept)
                del collected[0]
            return
        while collected or self._kept:
            with suppress(IndexError):
                # All in one call into C, in which no signal handler raises.
                collected.extend(iter(self._kept.popleft, None))
            jobs = tuple(collected)
            try:
                collected.clear()
                here = Loop.current()
                for job in jobs:
                    here.adopt(job.context)
                await side_by_side((job.context, functools.partial(_alone, job)) for job in jobs)
            finally:
                # The caller was cancelled first. Every alert must get its report, so the calls are kept for the next
                # `run`.
                self._kept.extend(job for job in jobs if not job.has_begun)

    async def settle(self) -> None:
        """Wait until no call is left; not open, run the kept calls, all at once and to their end."""
        home = self.home
        if home is not None:
            if self._to_begin:
                # Of code that a signal handler ended before it asked for that.
                home.call_soon(functools.partial(self._begin_all, home))
            await self._idle.until(lambda: not self._jobs)
        await self.run([])

    def forget(self) -> None:
        """Become as new, in a forked child and when the loop was closed: its calls are dropped."""
        self.__init__()  # type: ignore[misc]

    def _begin_kept(self) -> None:
        # Not in `open`, whose variables would hold these calls, with their alerts and trail, until it is closed.
        with self._lock:
            home = self.home = Loop.current()
            # After an interruption of its end some may never have been begun.
            kept = [*self._kept, *self._to_begin]
            self._kept, self._to_begin, self._was_asked = deque(), [], False
            self._jobs.update(dict.fromkeys(kept))
        for job in kept:
            self._begin(job, home)

    def _begin_all(self, home: Loop) -> None:
        with self._lock:
            if self.home is not home:
                return  # closed meanwhile, which has kept the calls, and perhaps opened anew
            self._was_asked = False
            to_begin = self._to_begin
            # Not those that come from now on: of one of them another thread may not have noted yet that it is there.
            jobs = tuple(to_begin)
            self._jobs.update(dict.fromkeys(jobs))
        for job in jobs:
            # In this order: a signal handler may raise in between, and closing waits for a job that nobody begins. Then
            # it is begun again, which does nothing the second time.
            self._begin(job, home)
            del to_begin[0]

    def _begin(self, job: Job, home: Loop) -> None:
        # In the context of the code that started the call, which is not always the code that runs here now.
        home.spawn(
            functools.partial(job.run, shield=True, is_late=self._is_closed),
            ended=functools.partial(self._end, job),
            context=job.context,
        )

    def _is_closed(self) -> bool:
        return self.home is None

    def _end(self, job: Job) -> None:
        # Not in the body of the task, which asyncio may cancel before its first step.
        home = self.home
        if not job.has_begun and home is not None and home.is_here and not self.leaving:
            # A signal handler has raised before the call, which others may wait for.
            self._begin(job, home)
            return
        self._jobs.pop(job, None)
        if not self._jobs:
            self._idle.notify()


_collected: Final[ContextVar[list[Job] | None]] = ContextVar("fapilog_collected", default=None)


def own_context() -> Context:
    """
    Return a context with the caller's variables of this package, and no others.

    For tasks that outlive their caller, and must not run in the context of the request that happened to start them.
    """
    context = Context()
    for variable, value in copy_context().items():
        if variable.name.startswith("fapilog_"):
            context.run(variable.set, value)
    return context


def _log_failure(error: Exception) -> None:
    # Not its text or traceback, which may hold secrets.
    _log.error("a call in the background raised %s", type(error).__qualname__)


async def _alone(job: Job) -> None:
    await alone(functools.partial(job.run, shield=False))


async def alone(call: Call) -> None:
    """
    Await ``call()`` in a task of its own, so that a call which cancels the task it runs in ends alone.

    Raises:
        BaseException: As `side_by_side`.
    """
    await side_by_side([(copy_context(), call)])


async def side_by_side(calls: Iterable[tuple[Context, Call]]) -> None:
    """
    Await all *calls* at once, in a task and a context per call, to their end.

    Raises:
        BaseException: A `KeyboardInterrupt` or a `SystemExit` of a call, which cancels the other calls. Or the only
            exception of the calls, and a `BaseExceptionGroup` of several.
    """
    exits: list[BaseException] = []
    tasks = anyio.create_task_group()

    async def run(call: Call) -> None:
        try:
            await call()
        except (KeyboardInterrupt, SystemExit) as error:
            # Raised out of its task it would break asyncio's loop, which then complains that the exception was never
            # retrieved.
            exits.append(error)
            tasks.cancel_scope.cancel()

    coroutines = [(context, run(call)) for context, call in calls]
    try:
        async with tasks:
            for context, coroutine in coroutines:
                context.run(tasks.start_soon, _itself, coroutine)
    except BaseExceptionGroup as group:
        raise _only_one(group) from None
    finally:
        # anyio leaves the coroutine behind where asyncio cancels a task before its first step, as it does when its loop
        # ends, and Python complains that the coroutine "was never awaited".
        for _, coroutine in coroutines:
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()
    if exits:
        raise exits[0]


def _itself(coroutine: Coroutine[Any, Any, object]) -> Coroutine[Any, Any, object]:
    return coroutine


def _only_one(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception in *group* if it is the only one, however deep, and *group* otherwise."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return group if isinstance(found, BaseExceptionGroup) else found
