"""
Event loops, from any thread: schedule a call, wake tasks, finish a call whatever happens to its caller, or do without.

Here, and where `strangers` looks for the current task, asyncio and trio are treated differently: anyio starts tasks
only inside of a task group, whose host is one certain task, it has no way to schedule a call in another thread's loop
without waiting for the call, and its events belong to one loop: set by another thread, they wake no waiter, or break
that loop. So every waiter has an event of its own loop here, and one call per loop sets them.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import Context, copy_context
from typing import Any, Final, Self, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

__all__ = [
    "Condition",
    "Event",
    "Loop",
    "LoopClosedError",
    "Waiter",
    "finished",
    "is_without_loop",
    "uninterrupted",
    "wake",
    "without_loop",
]

T = TypeVar("T")


class LoopClosedError(RuntimeError):
    """Raised when a call is scheduled in an event loop that has ended."""


# asyncio holds its tasks weakly. Tasks of a loop that is closed around them stay here for ever, and must: a coroutine
# that is collected runs its `finally` blocks in the thread of the collector, and in the event loop of that thread.
_tasks: Final[set[object]] = set()


class Loop:
    """
    An event loop, of asyncio or of trio. Two of them are equal if they are the same loop.

    Args:
        native: An asyncio event loop or a `trio.lowlevel.TrioToken`.

    Attributes:
        native: As given.
        is_asyncio: Whether this is a loop of asyncio, or of a library with the same interface, and not of trio.
    """

    __slots__ = ("is_asyncio", "native")

    def __init__(self, native: Any) -> None:
        self.native: Any = native
        self.is_asyncio: bool = hasattr(native, "call_soon_threadsafe")

    @classmethod
    def current(cls) -> Self:
        """Return the loop that runs in this thread; raise a RuntimeError if none does."""
        native = _running()
        if native is None:
            raise RuntimeError("no event loop runs in this thread")
        return cls(native)

    @classmethod
    def here(cls) -> Self | None:
        """Return the loop that runs this code; None if none does, as in `without_loop`."""
        native = None if is_without_loop() else _running()
        return None if native is None else cls(native)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loop) and self.native is other.native

    def __hash__(self) -> int:
        return id(self.native)

    @staticmethod
    def runs_here() -> bool:
        """Whether any event loop runs in this thread."""
        return _running() is not None

    @property
    def is_here(self) -> bool:
        """Whether this is the loop that runs in this thread."""
        return _running() is self.native

    @property
    def is_closed(self) -> bool:
        """Whether the loop has ended for good."""
        if self.is_asyncio:
            return bool(self.native.is_closed())
        try:
            if not self.is_here:
                self.call_soon(_nothing)
        except LoopClosedError:
            return True
        return False

    def make_event(self) -> Any:
        """Return an event with `set` and `wait`, for this loop alone: anyio's takes as long to make as a hash."""
        return _FutureEvent(self.native) if self.is_asyncio else sys.modules["trio"].Event()

    def call_soon(self, call: Callable[[], object]) -> None:
        """Schedule *call* in the loop, from any thread, and never wait; raise a `LoopClosedError` if it has ended."""
        schedule = self.native.call_soon_threadsafe if self.is_asyncio else self.native.run_sync_soon
        try:
            schedule(call)
        except (RuntimeError, OSError) as error:
            # A loop of trio that has crashed does not know that it has ended: the socket that wakes it is closed. Any
            # other error is of a signal handler, which raises a TimeoutError, say.
            if not self.native.is_closed() if self.is_asyncio else getattr(error, "errno", 0) is None:
                raise
            raise LoopClosedError("the event loop is closed") from error

    def adopt(self, context: Context) -> None:
        """Make *context*, which may come from a thread with a loop of the other kind, name the library of this loop."""
        sniffio = sys.modules.get("sniffio")
        if sniffio is not None:
            context.run(sniffio.current_async_library_cvar.set, "asyncio" if self.is_asyncio else "trio")

    def spawn(
        self,
        call: Callable[[], Coroutine[Any, Any, object]],
        *,
        ended: Callable[[], object],
        context: Context | None = None,
    ) -> None:
        """
        Run ``await call()`` in a task of its own, which belongs to this loop and to no other task.

        To be called in this loop. When asyncio's loop ends it cancels the task; when trio's main task ends, the scopes
        around the task are cancelled. KeyboardInterrupt and SystemExit end the loop: asyncio lets them out of the loop
        itself, and trio's main task gets a KeyboardInterrupt, as if the user had pressed Ctrl-C.

        Args:
            call: Handles its own exceptions.
            ended: Called when the task has ended, even if it was cancelled before its first step; called again if a
                signal handler raises in it.
            context: The context variables of the task; by default a copy of the caller's.
        """
        context = copy_context() if context is None else context
        self.adopt(context)
        if self.is_asyncio:
            task = self.native.create_task(call(), context=context)
            _tasks.add(task)

            def done(task: Any) -> None:
                if task in _tasks:
                    ended()
                    _tasks.discard(task)
                    # Asked for, so that asyncio does not complain of an exception that nothing retrieves.
                    if not task.cancelled():
                        task.exception()

            # Once more, if a signal handler raises in the first: somebody may wait for the end.
            task.add_done_callback(done)
            task.add_done_callback(done)
            return

        trio = sys.modules["trio"]  # whose loop runs

        async def run() -> None:
            try:
                await call()
            except (KeyboardInterrupt, SystemExit):
                # Raised from here it would be an internal error of trio, which abandons every task.
                if threading.current_thread() is not threading.main_thread():
                    raise
                import signal  # noqa: PLC0415  trio has imported it

                signal.raise_signal(signal.SIGINT)
            finally:
                ended()

        trio.lowlevel.spawn_system_task(run, context=context)


Waiter: TypeAlias = tuple[Loop, Any]
"""A loop, and an event of that loop: of anyio, or of the loop's own library."""


def wake(waiting: Iterable[Waiter]) -> None:
    """Set the events of all *waiting* in their own loops, with one call per loop, from any thread."""
    by_loop: dict[Loop, list[Any]] = {}
    for loop, event in waiting:
        by_loop.setdefault(loop, []).append(event)
    for loop, events in by_loop.items():
        if loop.is_here:
            _set_all(events)
        else:
            # Where the loop has ended, no task waits any more.
            with contextlib.suppress(LoopClosedError):
                loop.call_soon(functools.partial(_set_all, events))


def _set_all(events: list[Any]) -> None:
    try:
        for event in events:
            event.set()
    except BaseException:
        # A signal handler has raised in this thread: the callers wait all the same.
        for event in events:
            event.set()
        raise


class Condition:
    """Wakes tasks that wait for something to become true, in any thread and any loop."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # The tasks that wait. Where there is none after the change, `notify` need not be called.
        self.waiting: dict[Any, Loop] = {}

    def notify(self) -> None:
        """Make every waiter look again."""
        with self._lock:
            # In this order: a signal handler may raise in between, and then the next call wakes the rest.
            wake([(loop, woken) for woken, loop in self.waiting.items()])
            self.waiting.clear()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when *holds* returns True; it is called at first, and after every `notify`."""
        loop = Loop.current()
        while True:
            woken = loop.make_event()
            # Before the question: a change between the two must not be missed.
            with self._lock:
                self.waiting[woken] = loop
            try:
                if holds():
                    return
                await woken.wait()
            finally:
                with self._lock:
                    self.waiting.pop(woken, None)


class Event(Condition):
    """An event that is set once, by any thread, and waited for in any loop."""

    is_set: bool = False
    """Whether it was set; to be read alone."""

    def set(self) -> None:
        """Wake every waiter; does nothing if it is set already."""
        # With the lock held, no waiter that was woken can look before it is set; and in this order, as in `notify`.
        with self._lock:
            self.notify()
            self.is_set = True

    async def wait(self) -> None:
        """Return when the event is set."""
        if self.is_set:
            await anyio.lowlevel.checkpoint()
        else:
            await self.until(lambda: self.is_set)


class _FutureEvent:
    """
    An event of an asyncio loop for one task, which may wait again where it was cancelled.

    Where a signal handler raises in the midst of `asyncio.Event.set`, that event counts as set, and its task sleeps.
    """

    __slots__ = ("_future", "_is_set", "native")

    def __init__(self, native: Any) -> None:
        self.native: Any = native
        self._future = native.create_future()
        self._is_set = False

    def set(self) -> None:
        self._is_set = True
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        while not self._is_set:
            if self._future.done():
                self._future = self.native.create_future()
            await self._future


def _running() -> Any:
    """
    Return the asyncio loop or the trio token of this thread; None if neither runs here.

    A library that is not imported runs nowhere, and importing it would take longer than the rest of this package.
    anyio's own `current_token` knows tasks only, and not the callbacks of asyncio's loop.
    """
    # While another thread imports a library for the first time, it lacks some of its names, and runs nowhere either.
    trio = getattr(sys.modules.get("trio"), "lowlevel", None)
    if getattr(trio, "in_trio_task", bool)():
        return trio.current_trio_token()  # type: ignore[union-attr]
    asyncios = getattr(sys.modules.get("asyncio"), "_get_running_loop", _nothing)()
    # A callback of trio, unless trio is a guest in asyncio's loop, whose tasks all run in such a thread.
    if asyncios is None and getattr(trio, "in_trio_run", bool)():
        return trio.current_trio_token()  # type: ignore[union-attr]
    return asyncios


async def finished(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """
    Return the result of ``await call()``, which is finished even if the caller is cancelled meanwhile.

    On asyncio the call runs in a task of its own, since `Task.cancel` reaches into a shielded scope. A caller that is
    cancelled waits for the call all the same, and the cancellation is raised afterwards. For a caller that was
    cancelled before, nothing is called.

    Raises:
        BaseException: The exception of *call*.
        LoopClosedError: The loop was ended, and with it the call.
    """
    if is_without_loop():
        return await call()
    await anyio.lowlevel.checkpoint_if_cancelled()
    results: list[T] = []
    errors: list[BaseException] = [LoopClosedError("the event loop ended")]

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            try:
                results.append(await call())
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                # KeyboardInterrupt too: it is the caller's.
                errors[0] = error

    here = Loop.current()
    if here.is_asyncio:
        ended = here.make_event()
        here.spawn(run, ended=ended.set)
        await uninterrupted(ended.wait)
    else:
        with anyio.CancelScope(shield=True):
            results.append(await call())
    await anyio.lowlevel.checkpoint_if_cancelled()
    if results:
        return results[0]
    raise errors[0]


async def uninterrupted(wait: Callable[[], Awaitable[object]]) -> None:
    """Await ``wait()`` until it returns, however often the caller is cancelled; then raise the cancellation."""
    cancelled: BaseException | None = None
    with anyio.CancelScope(shield=True):
        while True:
            try:
                await wait()
                break
            except anyio.get_cancelled_exc_class() as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


_thread: Final = threading.local()


def is_without_loop() -> bool:
    """Whether this thread runs a coroutine by `without_loop`, so that waiting means to block the thread."""
    return bool(getattr(_thread, "without_loop", False))


def without_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    Run *coroutine* to its end in this thread, without an event loop, and return its result.

    So that every method has one implementation, and no synchronous twin: the functions that the coroutine awaits look
    at `is_without_loop`, and block this thread where they would let a loop run otherwise.

    Raises:
        BaseException: The exception of *coroutine*.
        RuntimeError: The coroutine waits for an event loop all the same.
    """
    before, _thread.without_loop = is_without_loop(), True
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        _thread.without_loop = before
    coroutine.close()
    raise RuntimeError(f"{coroutine!r} waits for an event loop, and there is none")


def _nothing() -> None: ...
