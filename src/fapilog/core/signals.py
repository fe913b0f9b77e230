"""The signals that the trail sends, and a way to send them in which no receiver can hurt anyone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import Any, Final, TypeGuard

import blinker

from ..tasks.background import Background
from ..tasks.strangers import Log
from ._aftermath import Aftermath, calls_here

__all__ = ["Announcer", "alert_attempted", "alert_dispatched", "alert_failed", "calls_here", "compliance_alert"]

_log: Final = Log("fapilog")
_namespace: Final = blinker.Namespace()

compliance_alert: Final = _namespace.signal(
    "compliance_alert",
    """
    Sent when an event was stored that someone must be told of.

    The sender is the `AuditTrail`; a receiver is called as ``receiver(trail, event=..., severity=..., channel=...)``.
    It may be a function, a coroutine function or any callable object. Connect it with or without ``sender=trail``, and
    keep a reference to it or connect with ``weak=False``.
    """,
)
alert_dispatched: Final = _namespace.signal(
    "alert_dispatched",
    """Sent when the dispatcher has taken an alert: ``receiver(trail, report=...)``, with a `DeliveryReport`.""",
)
alert_failed: Final = _namespace.signal(
    "alert_failed",
    """Sent when an alert was not delivered: ``receiver(trail, report=...)``, with a `DeliveryReport`.""",
)
alert_attempted: Final = _namespace.signal(
    "alert_attempted",
    """
    Sent for each attempt of a dispatcher that makes several: ``receiver(trail, report=...)``, with a `DeliveryReport`
    whose `target` and `attempt` say which.
    """,
)


class Announcer:
    """
    Sends signals for one sender.

    Every receiver is called, whatever another one does. An exception of a receiver is logged with the receiver's name,
    without text and arguments: they may hold secrets or personal data. The awaitable of an asynchronous receiver is
    awaited in the background, for *timeout* seconds at most.

    Args:
        background: Runs the asynchronous receivers.
        aftermath: Knows the calls of the receivers, which may log events.
        timeout: Seconds that one call of an asynchronous receiver may take.
        limit: Calls of asynchronous receivers that may be under way; more are skipped, and that is logged.
    """

    def __init__(self, background: Background, aftermath: Aftermath, *, timeout: float, limit: int) -> None:
        self._background = background
        self._aftermath = aftermath
        self._timeout = timeout
        self._limit = limit
        # The awaitables of asynchronous receivers that are not awaited to their end.
        self._under_way: dict[int, Awaitable[object]] = {}
        self._muted: set[str] = set()

    def announce(self, signal: blinker.NamedSignal, sender: object, /, **details: Any) -> None:
        """Call the receivers of *signal* for *sender* with *details*; raises nothing that they raise."""
        if not signal.receivers:
            return
        if signal.is_muted:
            if signal.name not in self._muted:
                self._muted.add(signal.name)
                _log.warning("the signal %s is muted: nothing is announced on it", signal.name)
            return
        if self._muted:
            self._muted.discard(signal.name)
        for receiver in tuple(signal.receivers_for(sender)):
            self.call(receiver, sender, **details)

    def call(self, receiver: Callable[..., object], /, *args: Any, **details: Any) -> None:
        """Call *receiver* as one of a signal's: contained, and in the background if it is asynchronous."""
        try:
            if _is_coroutine_function(receiver):
                # Nothing of it runs before it is awaited, so it can't log an event here.
                self._await_soon(receiver, receiver(*args, **details))
                return
            with self._aftermath.begun():
                result = receiver(*args, **details)
            # The result decides, and not the receiver: a partial, or an object with an asynchronous __call__, does not
            # look asynchronous.
            if result is not None and inspect.isawaitable(result):
                self._await_soon(receiver, result)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # CancelledError, GeneratorExit and the panics of extension modules are no Exception; raised by a plain
            # function they are no cancellation of the caller either.
            _log_failure(receiver, error)

    def give_up(self) -> None:
        """Close the coroutines of receivers that will not be awaited any more, since the event loop has ended."""
        while self._under_way:
            _close(self._under_way.popitem()[1])

    def forget(self) -> None:
        """Forget the calls that are under way, in a forked child: the parent awaits them."""
        self._under_way = {}

    def _await_soon(self, receiver: object, result: Awaitable[object]) -> None:
        if len(self._under_way) >= self._limit:
            _log.error("receiver %s is skipped: %d calls are under way", _name(receiver), self._limit)
            _close(result)
            return
        self._under_way[id(result)] = result
        self._background.start_soon(
            functools.partial(self._await, result),
            timeout=self._timeout,
            failed=functools.partial(_log_failure, receiver),
        )

    async def _await(self, result: Awaitable[object]) -> None:
        with self._aftermath.begun():
            try:
                await result
            finally:
                self._under_way.pop(id(result), None)


_FUNCTIONS: Final = (FunctionType, MethodType)


def _is_coroutine_function(receiver: object) -> TypeGuard[Callable[..., Coroutine[Any, Any, object]]]:
    """Return whether *receiver* is an ``async def``; not whether it only acts like one."""
    # `inspect.iscoroutinefunction` also believes a function that was marked as one, of which some runs at once.
    return isinstance(receiver, _FUNCTIONS) and bool(receiver.__code__.co_flags & inspect.CO_COROUTINE)


def _close(result: Awaitable[object]) -> None:
    if inspect.iscoroutine(result):
        result.close()


def _log_failure(receiver: object, error: BaseException) -> None:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{PurePath(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno}" if trace is not None else "?"
    _log.error("receiver %s raised %s (%s)", _name(receiver), type(error).__qualname__, place)


def _name(receiver: object) -> str:
    """Return the name of *receiver* for a log: no `repr`, which may show its contents."""
    while isinstance(receiver, functools.partial):
        receiver = receiver.func
    named = getattr(receiver, "__qualname__", type(receiver).__qualname__)
    return f"{receiver.__module__}.{named}"
