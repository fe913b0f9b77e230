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
from typing import Final, TypeVar

__all__ = ["TookTooLongError", "within_limit"]

T = TypeVar("T")

# Counted in looks, and not read from a clock, which may jump.
_LOOK_EVERY: Final = 0.5
_LOOKS: Final = 20
# Looks with nothing to look at, before the thread ends: while it runs, Python 3.12 warns of every `os.fork`.
_IDLE_LOOKS: Final = 4


class TookTooLongError(BaseException):
    """Raised in the midst of an answer that does not come; no `Exception`, which a loop may swallow for ever."""


class _Question:
    __slots__ = ("frame", "kind", "looks")

    def __init__(self, frame: FrameType, kind: int) -> None:
        self.frame = frame
        self.kind = kind
        self.looks = 0


# By the thread that waits for the answer.
_open: Final[dict[int, _Question]] = {}
# The threads that had no answer a moment ago, each with the id of the value's class. It asks no more of this class for
# now: of a thousand in a list one alone costs the time. Other values, in this event or the next one, are read.
_late: Final[set[tuple[int, int]]] = set()
# A signal handler may ask in the midst of a question, hence the RLock.
_lock = threading.RLock()
_watcher: threading.Thread | None = None


def within_limit(question: Callable[..., T], value: object, /, *more: object) -> T:
    """
    Return the answer of *question*, called with *value* and *more*.

    Raises:
        TookTooLongError: There is none after ten seconds, unless it waits in C code; or another value of this class had
            none a moment ago. A question within a question has no limit of its own.
        BaseException: That of *question*.
    """
    thread = threading.get_ident()
    outer = _open.get(thread)
    if outer is not None:
        if outer.looks >= _LOOKS:
            raise TookTooLongError
        return question(value, *more)
    # Not the class itself, whose metaclass may have a `__hash__`.
    kind = id(type(value))
    if _late and (thread, kind) in _late:
        raise TookTooLongError
    asked = _Question(sys._getframe(), kind)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001  # documented
    try:
        _open[thread] = asked
        if _watcher is None or not _watcher.is_alive():
            _start()
        return question(value, *more)
    finally:
        # In this order, and without a call in front: an exception may be raised after any call.
        try:
            _open.pop(thread, None)
        finally:
            if asked.looks >= _LOOKS:
                try:
                    _take_back(thread)
                except BaseException:
                    # It was raised, or a signal handler has.
                    _take_back(thread)
                    raise
            # It holds this frame, which holds it: the value would live until the next collection.
            del asked


def _take_back(thread: int) -> None:
    """
    Let no exception that was set for a question, which is closed now, be raised later.

    It is raised here, by being set once more. None in its place would not do: CPython 3.11 forgets that there was one
    only as it raises it. Until then all threads look for it at each call, and one that is traced does nothing else.
    """
    with suppress(TookTooLongError):
        # The watcher may be about to set it.
        with _lock:
            is_set = _set_exception(thread)
        while is_set:
            pass


def _start() -> None:
    global _watcher  # noqa: PLW0603
    with _lock:
        # Without a thread, as at the end of the interpreter, there is no limit. Before Python 3.12 a thread that is
        # started then does not run, and `start` waits for it for ever.
        if (_watcher is None or not _watcher.is_alive()) and not sys.is_finalizing():
            with suppress(RuntimeError):
                watcher = threading.Thread(target=_watch, name="fapilog-limit", daemon=True)
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
        idle = 0 if _look() else idle + 1
        if idle >= _IDLE_LOOKS:
            with _lock:
                # Whoever asks from here on starts another one, or has asked before.
                _watcher = None
                if _open:
                    _watcher, idle = threading.current_thread(), 0


def _look() -> bool:
    """Look at all open questions once; return whether there are any."""
    _late.difference_update([late for late in _late.copy() if late[0] not in _open])
    if not _open:
        return False
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001  # documented
    # This one would hold itself, and with it the values of all threads, until the next collection.
    del frames[threading.get_ident()]
    for thread, asked in _open.copy().items():
        frame = frames.get(thread)
        while frame is not None and frame is not asked.frame:
            frame = frame.f_back
        if frame is None:
            # It waits in a greenlet: another one runs in this thread.
            _open.pop(thread, None)
            continue
        asked.looks += 1
        if asked.looks >= _LOOKS:
            _late.add((thread, asked.kind))
            # At every further look once more: the answer may swallow it.
            with _lock:
                if _open.get(thread) is asked:
                    _set_exception(thread)
    return True


def _set_exception(thread: int) -> bool:
    """Have the exception raised in that thread; return False if it is no thread, as a greenlet is none."""
    try:
        import ctypes  # noqa: PLC0415  hardly ever needed
    except ImportError:
        # Without it, as in some builds of Python, there is no limit either.
        return False
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    return bool(set_exception(ctypes.c_ulong(thread), ctypes.py_object(TookTooLongError)))


def _forget() -> None:
    """Forget, in a forked child, the questions of the parent, whose thread that looks is not here."""
    global _lock, _watcher  # noqa: PLW0603
    _lock = threading.RLock()
    _watcher = None
    _open.clear()
    _late.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
