"""Threads without an event loop: they wait for a call in a loop, of which the process has one in a thread."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final, Protocol, TypeVar

import anyio

from ..record.errors import reason
from .loops import Event, Loop, LoopClosedError
from .strangers import Log
from .threads import Latch, started

__all__ = ["Portal", "Stoppable", "flush_all", "flush_at_exit", "run_in"]

T = TypeVar("T")

_log: Final = Log("fapilog")

# Seconds between two looks at a loop that a thread waits for; and how long it may not answer. It may be open and stand
# still: between two calls of `run_until_complete`, or for ever.
_LOOK_EVERY: Final = 0.5
_PATIENCE: Final = 60.0


class Stoppable(Protocol):
    """A service to be stopped when the interpreter exits."""

    async def stop(self) -> None:
        """Stop; cancelled, finish with no time to lose."""
        ...


class Portal:
    """
    The thread and its loop. It is made when it is first needed, and belongs to the process: a forked child has none.

    When the interpreter exits, the services that were given to `stop_at_exit` are stopped before the loop ends.
    """

    def __init__(self) -> None:
        self._ready = Latch()
        self._end = Event()
        self._loop: Loop | None = None
        self._to_stop: weakref.WeakKeyDictionary[Stoppable, float] = weakref.WeakKeyDictionary()
        self._thread = started(threading.Thread(target=self._run_loop, name="fapilog portal", daemon=True))
        self._ready.wait()
        if self._loop is None:
            raise RuntimeError("the event loop of the background thread could not be started")

    @staticmethod
    def of_process() -> Portal | None:
        """Return the portal of this process; None if it was closed, or if no thread or module can be had for it."""
        with _lock:
            if _state.portal is None and not _state.is_closed:
                try:
                    _delay_forks()
                    _state.portal = Portal()
                except (RuntimeError, OSError):
                    return None
                _close_at_exit()
            return _state.portal

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run ``await call()`` in the loop while this thread waits, as `run_in` does."""
        return run_in(self._running(), call)

    def start_soon(self, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run ``await call()`` in the loop soon, and log its exception, by its reason. Never waits and never raises."""
        loop = self._running()

        async def run() -> None:
            try:
                await call()
            except Exception as error:
                name = getattr(call, "__qualname__", "a call")
                _log.error("%s failed in the background thread: %s", name, reason(error))

        with contextlib.suppress(LoopClosedError):
            loop.call_soon(lambda: loop.spawn(run, ended=lambda: None))

    def stop_at_exit(self, service: Stoppable, *, within: float) -> None:
        """Stop *service*, which is held weakly, when the interpreter exits, for *within* seconds at most."""
        with _lock:
            self._to_stop[service] = within

    @staticmethod
    def serves(service: Stoppable) -> bool:
        """Return whether *service* was given to the portal of this process: it may be started there at this moment."""
        portal = _state.portal
        return portal is not None and service in portal._to_stop  # noqa: SLF001  # its own class

    def close(self) -> None:
        """Stop the services, all at once, and end the loop; called when the interpreter exits."""
        with _lock:
            limit = max(self._to_stop.values(), default=0.0)
        try:
            run_in(self._running(), self._finish, timeout=limit + 1.0)
        except LoopClosedError:
            pass
        except (RuntimeError, TimeoutError) as error:
            _log.error("at the exit a trail was not stopped, and alerts that wait, if any, are lost: %s", error)
        self._end.set()
        # It may wait for a thread of a dispatcher that nothing can cancel; as a daemon it does not keep the process.
        self._thread.join(1.0)

    async def _finish(self) -> None:
        async with anyio.create_task_group() as tasks:
            with _lock:
                services = tuple(self._to_stop.items())
            for service, within in services:
                tasks.start_soon(_stop, service, within)

    def _running(self) -> Loop:
        assert self._loop is not None  # noqa: S101 - set before the constructor returns
        return self._loop

    def _run_loop(self) -> None:
        try:
            # Imported here, as `import fapilog` does without asyncio.
            from ._ownloop import run  # noqa: PLC0415

            run(self._run)
        except OSError as error:
            # There are no file descriptors left, say.
            _log.error("the event loop of the background thread can't run: %s", reason(error))
        finally:
            self._ready.open()

    async def _run(self) -> None:
        self._loop = Loop.current()
        self._ready.open()
        await self._end.wait()


def run_in(loop: Loop, call: Callable[[], Coroutine[Any, Any, T]], *, timeout: float | None = None) -> T:
    """
    Run ``await call()`` in a task of *loop* while this thread waits, and return its result.

    Raises:
        Exception: The exception of *call*.
        LoopClosedError: The loop has ended, before or meanwhile.
        RuntimeError: The loop runs in this very thread, which would wait for itself for ever; or it does not run,
            or is blocked, since a minute; if it runs again, the call is made all the same.
        TimeoutError: *timeout* seconds are over; the task still runs.
    """
    if loop.is_here:
        # All green threads have one running loop.
        from .green import refuse_green_threads  # noqa: PLC0415  for an error alone

        refuse_green_threads()
        raise RuntimeError("this thread runs the event loop that it would wait for; use `await` here")
    ended = Latch()
    results: list[T] = []
    errors: list[BaseException] = [LoopClosedError("the event loop ended")]
    context = copy_context()

    async def run() -> None:
        try:
            results.append(await call())
        except Exception as error:
            errors[0] = error

    loop.call_soon(lambda: loop.spawn(run, ended=ended.open, context=context))
    waited = silent_since = 0.0

    def answer() -> None:
        nonlocal silent_since
        silent_since = waited

    while not ended.wait(_LOOK_EVERY if timeout is None else min(_LOOK_EVERY, timeout - waited)):
        waited += _LOOK_EVERY
        if timeout is not None and waited >= timeout:
            raise TimeoutError(f"the event loop did not finish the call within {timeout:g} s")
        if waited - silent_since > _PATIENCE:
            raise RuntimeError(f"the event loop does not run, or is blocked: no answer for {_PATIENCE:g} s")
        try:
            loop.call_soon(answer)
        except LoopClosedError:
            break
    if results:
        return results[0]
    raise errors[0]


class _State:
    portal: Portal | None = None
    is_closed = False


_state: Final = _State()
_lock = threading.RLock()


async def _stop(service: Stoppable, within: float) -> None:
    try:
        with anyio.move_on_after(within):
            await service.stop()
    except Exception as error:
        _log.error("stopping %s at the exit raised %s", type(service).__qualname__, type(error).__qualname__)


_flushes: Final[weakref.WeakKeyDictionary[Any, Callable[[Any], object]]] = weakref.WeakKeyDictionary()


def flush_at_exit(owner: T, method: Callable[[T], object]) -> None:
    """Call ``method(owner)``, which raises nothing, when the interpreter exits and before services are stopped."""
    with _lock:
        _flushes[owner] = method
    atexit.unregister(_close)
    _close_at_exit()


def flush_all() -> None:
    """
    Call now all methods that were given to `flush_at_exit`.

    For a process that ends by `os._exit`, without an exit of the interpreter, as a child of Celery's pool does.
    """
    with _lock:
        flushes = list(_flushes.items())
    for owner, method in flushes:
        method(owner)


def _close_at_exit() -> None:
    atexit.register(_close)
    # A forked child of multiprocessing ends by os._exit, and calls its finalizers before.
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        sys.modules["multiprocessing.util"].Finalize(None, _close, exitpriority=0)


def _close() -> None:
    flush_all()
    with _lock:
        portal, _state.portal = _state.portal, None
        _state.is_closed = True
    if portal is not None:
        portal.close()


@functools.cache
def _delay_forks() -> None:
    """
    Have forks wait while a portal is made: its thread imports asyncio.

    A module that is half imported at a fork stays so in the child, which waits for ever for the thread that imports it.
    """
    # First: a fork takes the locks in the opposite order of their registration, and logging's is needed by the import.
    importlib.import_module("logging")
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork)


def _before_fork() -> None:
    _lock.acquire()


def _after_fork() -> None:
    # A fork that had begun before the registration has not acquired it.
    with contextlib.suppress(RuntimeError):
        _lock.release()


def _forget() -> None:
    # In a forked child the thread is gone, and the lock may be one that another thread held.
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()
    _state.portal = None


os.register_at_fork(after_in_child=_forget)
# Also here: a function that is registered while the interpreter exits, by a first alert that is logged then, is not
# called.
atexit.register(_close)
