"""
The border to code that is not ours: receivers, dispatchers, storages, and the handlers of the application's log.

Such code may raise anything. Beyond this border there are only four kinds: an `Exception`, `KeyboardInterrupt`,
`SystemExit`, and the cancellation of the very task that is running. Anything else (a CancelledError out of a foreign
future, a GeneratorExit, the panic of an extension module, an exception that claims to be another) becomes a
`PanicError`, which is an exception.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

import anyio

from ..record.errors import PanicError
from ..record.privacy import MEMBERS, TRACE
from ..record.values import name_of
from .loops import is_without_loop

if TYPE_CHECKING:
    import logging

__all__ = ["Log", "answer", "cancellation_of_this_task", "contained", "is_interrupt", "is_logging", "tamed"]

P = ParamSpec("P")
T = TypeVar("T")

# https://docs.python.org/3/library/logging.html#logging-levels
_INFO: Final = 20
_WARNING: Final = 30
_ERROR: Final = 40
_CRITICAL: Final = 50

is_logging: Final = ContextVar("fapilog_is_logging", default=False)
"""Whether this code runs in a handler or a filter that was given a line of ours."""


class Log:
    """
    A logger of the standard library whose calls raise nothing that a handler or a filter raises.

    A filter that reads a context variable of the request raises outside of one; that must cost no alert, and not the
    service. A handler that logs here while it handles a line of ours would do so for ever: its lines are left out.

    Sentry gets the lines without a stack trace. With its option ``attach_stacktrace`` that would have the local
    variables of all frames, of which some of ours hold secrets and records.

    Args:
        name: The logger's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    @functools.cached_property
    def _logger(self) -> logging.Logger:
        # asyncio and trio import it, so that it is there before the first line; `import fapilog` need not wait for it.
        import logging  # noqa: PLC0415

        return logging.getLogger(self._name)

    def info(self, message: str, *args: object) -> None:
        """Log at level info."""
        self._log(_INFO, message, args)

    def warning(self, message: str, *args: object) -> None:
        """Log at level warning."""
        self._log(_WARNING, message, args)

    def error(self, message: str, *args: object) -> None:
        """Log at level error."""
        self._log(_ERROR, message, args)

    def critical(self, message: str, *args: object) -> None:
        """Log at level critical."""
        self._log(_CRITICAL, message, args)

    def exception(self, message: str, *args: object) -> None:
        """Log at level error, with the traceback of the exception that is being handled."""
        self._log(_ERROR, message, args, with_traceback=True)

    def _log(self, level: int, message: str, args: tuple[object, ...], *, with_traceback: bool = False) -> None:
        if is_logging.get():
            return
        try:
            # In here: a signal handler may raise as soon as it is set.
            is_logging.set(True)
            with ExitStack() as stack:
                # A release of Sentry without these functions must not cost the line.
                with suppress(Exception):
                    _keep_stack_from_sentry(stack)
                self._logger.log(level, message, *args, exc_info=with_traceback or None, stacklevel=3)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: S110  there is nowhere left to report it
            pass
        finally:
            is_logging.set(False)


def _keep_stack_from_sentry(until: ExitStack) -> None:
    sentry_sdk = sys.modules.get("sentry_sdk")
    if sentry_sdk is not None and sentry_sdk.is_initialized():
        until.enter_context(sentry_sdk.new_scope()).add_event_processor(_without_stack)


def _without_stack(event: dict[str, Any], _: object) -> dict[str, Any]:
    # Sentry adds the stack of this thread to events that have none of any thread.
    return {**event, "threads": {"values": []}}


def answer(function: Callable[P, T], *args: P.args, **given: P.kwargs) -> T:
    """
    Return the result of *function*.

    Raises:
        TypeError: It is something to await, as of an asynchronous function in disguise; it would count as true.
        BaseException: That of *function*.
    """
    found = function(*args, **given)
    # Of the type: an object may answer to every name.
    if hasattr(type(found), "__await__"):
        getattr(found, "close", bool)()
        raise TypeError("expected a function that returns its answer; got something to await")
    return found


def contained() -> AbstractContextManager[None]:
    """
    Be the border around the foreign code that is awaited inside of the ``with`` block.

    Raises:
        Exception: The exception of the code; a `PanicError` in place of anything that is no ordinary `Exception`.
        BaseException: `KeyboardInterrupt`, `SystemExit`, and the cancellation of this task.
    """
    return _Border()


class _Border:
    """No coroutine around that of the foreign code, and no generator: every alert comes by here, at every step."""

    __slots__ = ("_task",)

    def __enter__(self) -> None:
        self._task = _current_task()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or kind is None or issubclass(kind, KeyboardInterrupt | SystemExit):
            return
        # A coroutine that is closed, and not run by its task, is thrown a GeneratorExit, and must let it pass.
        if issubclass(kind, GeneratorExit) and (self._task is None or _current_task() != self._task):
            return
        passing = tamed(error)
        if passing is not error:
            raise passing from error


def tamed(error: BaseException) -> Exception:
    """
    Return *error*, which foreign code raised in this task, as an `Exception`.

    Raises:
        BaseException: *error* must not be stopped: it is, or a group has in it, a `KeyboardInterrupt`, a `SystemExit`,
            or the cancellation of this task.
    """
    if issubclass(type(error), Exception):
        return cast("Exception", error) if _is_honest(error) else PanicError(name_of(type(error)))
    for each in _leaves(error):
        if issubclass(type(each), KeyboardInterrupt | SystemExit):
            raise each
    if _is_cancelled():
        for each in _leaves(error):
            if issubclass(type(each), anyio.get_cancelled_exc_class()):
                raise each
    return PanicError(name_of(type(error)))


def is_interrupt(error: BaseException) -> bool:
    """
    Return whether a signal handler has raised *error*, as that of a time limit does, in the midst of code of ours.

    Such an exception is for the code that called ours, whatever its class.
    """
    import signal  # noqa: PLC0415  asyncio and trio import it, and every framework

    codes = [_code_of(signal.getsignal(number)) for number in signal.valid_signals()]
    trace = TRACE.__get__(error)
    while trace is not None:
        if any(trace.tb_frame.f_code is code for code in codes):
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: object) -> object:
    """Return the code of a function, of a method, or of an object that can be called; None for anything else."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not hasattr(handler, "__code__") and not hasattr(handler, "__func__"):
        handler = type(handler).__call__
    return getattr(getattr(handler, "__func__", handler), "__code__", None)


def _is_honest(error: BaseException) -> bool:
    """
    Return whether *error* says its own class, and the class its name, as all code on this side of the border asks.

    An exception may claim any class by its `__class__`: `isinstance` believes it, and ``except`` does not.
    """
    try:
        return error.__class__ is type(error) and type(type(error).__qualname__) is str
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return False


def _current_task() -> object:
    """Return the task that runs here; None if no loop runs, or no task of it. anyio's description of it costs more."""
    trio = getattr(sys.modules.get("trio"), "lowlevel", None)
    try:
        if getattr(trio, "in_trio_task", bool)():
            return trio.current_task()  # type: ignore[union-attr]
        return getattr(sys.modules.get("asyncio"), "current_task", lambda: None)()
    except RuntimeError:
        return None


def cancellation_of_this_task() -> Callable[[], bool]:
    """
    Return a function that returns whether this task is being cancelled; only asyncio needs it.

    When its loop ends, asyncio cancels all tasks in one go. So a cancelled task knows that the loop is ending if
    another one, which nothing else cancels, is cancelled too. trio ends the scopes around the tasks instead, from the
    outside in.
    """
    # trio's tasks have no such method.
    cancelling: Callable[[], int] = getattr(_current_task(), "cancelling", int)
    return lambda: cancelling() > 0


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group, however deep, or *error* if it is none."""
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if issubclass(type(each), BaseExceptionGroup):
            # The exceptions that it has, and not those that a subclass names.
            waiting += reversed(MEMBERS.__get__(each))
        else:
            yield each


def _is_cancelled() -> bool:
    """Whether this task is being cancelled, by a scope around it or by asyncio's `Task.cancel`."""
    if is_without_loop() or _current_task() is None:
        return False
    return anyio.current_effective_deadline() == -math.inf or cancellation_of_this_task()()
