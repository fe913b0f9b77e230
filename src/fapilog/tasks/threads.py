"""A call in a thread of its own: for a disk, a socket, and other calls that block."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Generator
from contextvars import copy_context
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from ..record.errors import AuditStorageError, FapilogError
from .loops import Loop, LoopClosedError, is_without_loop, uninterrupted

__all__ = ["Latch", "Turn", "begun_in_thread", "in_thread", "started"]

T = TypeVar("T")


def started(thread: threading.Thread) -> threading.Thread:
    """
    Start *thread*, and return it.

    Raises:
        RuntimeError: There can't be a further one, or the interpreter exits: before Python 3.12 it would never run, and
            its `start` would wait for that.
    """
    if sys.is_finalizing():
        raise RuntimeError("can't start a thread while the interpreter exits")
    thread.start()
    return thread


class Latch:
    """
    Opens once, and lets one thread wait for another.

    Where a signal handler raises in the midst of the `wait` of a `threading.Event`, that may stay locked, and the
    thread that sets it would wait for ever. A lock has no such midst.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let the thread that waits continue; does nothing the second time."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout: float = -1) -> bool:
        """Wait until it is open, for *timeout* seconds at most if they are not below 0; return whether it was."""
        is_open = self._lock.acquire(timeout=timeout)
        if is_open:
            self._lock.release()
        return is_open


class Turn:
    """
    A lock of which one thread has its turn at a time, and that is not waited for by the thread that has it.

    A signal handler, which runs in the midst of a call of its thread, would wait for itself for ever.

    Args:
        words: The text of the error that is raised instead.
        error: Makes that error.
    """

    def __init__(self, words: str, error: Callable[[str], FapilogError] = AuditStorageError) -> None:
        self._words = words
        self._error = error
        self._lock = threading.RLock()
        self._owner: int | None = None

    @property
    def is_mine(self) -> bool:
        """Whether this thread has the lock."""
        return self._owner == threading.get_ident()

    @contextlib.contextmanager
    def taken(self) -> Generator[None]:
        """Hold the lock for a block of code; raise the error if this thread has it already."""
        if self.is_mine:
            raise self._error(self._words)
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    def stop(self) -> None:
        """Take the lock, and keep it until `go_on`: for a fork."""
        self._lock.acquire()

    def go_on(self) -> None:
        """Release the lock again."""
        self._lock.release()

    def forget(self) -> None:
        """Become as new, in a forked child: another thread of the parent may have had it."""
        self._lock = threading.RLock()
        self._owner = None


def begun_in_thread(call: Callable[[], T], *, name: str) -> tuple[anyio.Event, Callable[[], T]]:
    """
    Begin *call* in a thread, in the caller's context variables.

    The thread is a daemon: anyio's worker threads are none on asyncio, and where a `SystemExit` ends the loop they
    stay, and with them the process.

    Args:
        call: May block.
        name: The thread's name.

    Returns:
        An event of this loop that is set when the call has ended, and a function that then returns the result of the
        call, or raises its exception.

    Raises:
        RuntimeError: No thread can be started, and *call* was not called.
    """
    here, ended = Loop.current(), anyio.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        with contextlib.suppress(LoopClosedError):
            here.call_soon(ended.set)

    def outcome() -> T:
        if errors:
            raise errors[0]
        return results[0]

    started(threading.Thread(target=copy_context().run, args=[run], name=name, daemon=True))
    return ended, outcome


async def in_thread(
    call: Callable[..., T], *args: Any, stop: Callable[[], object] | None = None, is_left: bool = False
) -> T:
    """
    Return the result of ``call(*args)`` in a thread, or raise its exception.

    A caller that is cancelled meanwhile calls *stop*, if given, to have the call end soon, and waits for the thread.
    With *is_left* it waits for nothing, and the call ends by itself: for a network that may hang, and a call that
    changes nothing here. Where no thread can be had (a limit on processes is reached, or the interpreter is shutting
    down), the call is made in this thread.
    """
    if is_without_loop():
        return call(*args)
    await anyio.lowlevel.checkpoint_if_cancelled()
    try:
        ended, outcome = begun_in_thread(functools.partial(call, *args), name="fapilog call")
    except RuntimeError:
        return call(*args)
    await (ended.wait() if is_left else _until(ended, stop))
    return outcome()


async def _until(ended: anyio.Event, stop: Callable[[], object] | None) -> None:
    if stop is not None:
        try:
            await ended.wait()
        except BaseException:
            stop()
            await uninterrupted(ended.wait)
            raise
    await uninterrupted(ended.wait)
