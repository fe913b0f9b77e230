"""
A limit in time for a question to an object of others, whose `__repr__` or property may never return.

The question is asked in the caller's thread: what belongs to a thread, such as the session of a database, would break
in another one. While it lasts, a thread of ours counts the seconds, and then has CPython raise an exception in the
midst of the answer: https://docs.python.org/3/c-api/threads.html#c.PyThreadState_SetAsyncExc. It is raised between two
steps of Python code. So a loop ends, and a call in C that waits, for a lock or a server, goes on until it returns.

The limit is far above what a slow answer takes: an exception in the midst of its work may cost a driver its connection.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final, TypeVar

__all__ = ["TookTooLongError", "within_limit"]

T = TypeVar("T")

# Counted in looks, and not read from a clock, which may jump.
_LOOK_EVERY: Final = 0.5
_LOOKS: Final = 20
# Looks with nothing to look at, before the thread ends.
_IDLE_LOOKS: Final = 20


class TookTooLongError(BaseException):
    """Raised in the midst of an answer that does not come; no `Exception`, which a loop may swallow for ever."""


class _Question:
    __slots__ = ("frame", "looks")

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.looks = 0


# By the thread that waits for the answer. A signal handler may ask in the midst of a question, hence the RLock.
_open: Final[dict[int, _Question]] = {}
# The threads that were late a moment ago, which ask nothing more: of a thousand such objects in a list one alone costs
# the time.
_late: Final[set[int]] = set()
_lock = threading.RLock()
_watcher: threading.Thread | None = None


def within_limit(question: Callable[..., T], /, *given: Any) -> T:
    """
    Return the answer of *question*, called with what is *given*.

    Raises:
        TookTooLongError: There is none after ten seconds, unless it waits in C code; or this thread had no answer a
            moment ago. A question within a question has no limit of its own.
        BaseException: That of *question*.
    """
    thread = threading.get_ident()
    if thread in _late:
        raise TookTooLongError
    if thread in _open:
        return question(*given)
    _open[thread] = _Question(sys._getframe())  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001  # documented
    if _watcher is None or not _watcher.is_alive():
        _start()
    try:
        return question(*given)
    finally:
        _close(thread)


def _close(thread: int) -> None:
    while True:
        try:
            with _lock:
                _open.pop(thread, None)
                if thread in _late:
                    # It may have been set, and not been raised yet.
                    _set_exception(thread, None)
            break
        except TookTooLongError:
            continue


def _start() -> None:
    global _watcher  # noqa: PLW0603
    with _lock:
        if _watcher is None or not _watcher.is_alive():
            watcher = threading.Thread(target=_watch, name="fapilog-limit", daemon=True)
            # Without a thread, as at the end of the interpreter, there is no limit.
            with suppress(RuntimeError):
                watcher.start()
                _watcher = watcher


def _watch() -> None:
    global _watcher  # noqa: PLW0603
    pause = threading.Lock()
    pause.acquire()
    idle = 0
    while idle < _IDLE_LOOKS:
        # Not by `sleep`, which the tests of others replace.
        pause.acquire(timeout=_LOOK_EVERY)
        with _lock:
            idle = 0 if _look() else idle + 1
            if idle >= _IDLE_LOOKS:
                # Whoever asks from here on starts another one, or has asked before.
                _watcher = None
                if _open:
                    _watcher, idle = threading.current_thread(), 0


def _look() -> bool:
    """Look at all open questions once; return whether there are any."""
    _late.intersection_update(_open)
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001  # documented
    for thread, asked in _open.copy().items():
        frame = frames.get(thread)
        while frame is not None and frame is not asked.frame:
            frame = frame.f_back
        if frame is None:
            # A signal handler raised before it was closed.
            _open.pop(thread, None)
            continue
        asked.looks += 1
        if asked.looks >= _LOOKS:
            # At every further look once more: the answer may swallow it.
            _late.add(thread)
            _set_exception(thread, TookTooLongError)
    return bool(_open)


def _set_exception(thread: int, error: type[BaseException] | None) -> None:
    import ctypes  # noqa: PLC0415  hardly ever needed

    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    set_exception(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))


def _forget() -> None:
    """Forget, in a forked child, the parent's other threads."""
    global _lock, _watcher  # noqa: PLW0603
    _lock = threading.RLock()
    _watcher = None
    mine = threading.get_ident()
    for thread in [each for each in _open if each != mine]:
        del _open[thread]
    _late.intersection_update(_open)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
