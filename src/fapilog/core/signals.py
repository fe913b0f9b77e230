"""
The signals that the trail sends, and a way to send them in which no receiver can hurt the caller or another receiver.

Nor can an alert feed itself: a receiver may log that an alert has failed, and if that was an alert too, the next would
fail as well, and so on for as long as the pager is down. `Aftermath` recognises such events.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import FunctionType, MethodType
from typing import Any, Final, TypeGuard, TypeVar

import blinker
import msgspec

from ..record.events import AuditEvent
from ..record.privacy import place_of
from ..record.values import name_of
from ..tasks.background import Background
from ..tasks.strangers import Log, is_logging

__all__ = [
    "Aftermath",
    "Announcer",
    "alert_attempted",
    "alert_dispatched",
    "alert_failed",
    "calls_here",
    "compliance_alert",
    "is_of_aftermath",
    "noted",
]

E = TypeVar("E", bound=AuditEvent)
T = TypeVar("T")

_log: Final = Log("fapilog")
_namespace: Final = blinker.Namespace()

# The note of an event that was logged in the aftermath of an alert.
_WHY: Final = "logged by what an alert has set going"

compliance_alert: Final = _namespace.signal(
    "compliance_alert",
    """
    Sent when an event that meets the policy was stored.

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
    Sent for every attempt of a dispatcher that makes several: ``receiver(trail, report=...)``, with a `DeliveryReport`
    whose `target` and `attempt` say which.
    """,
)


class Aftermath:
    """
    The calls of receivers and dispatchers that one trail makes about its alerts, and the tasks that they start.

    A context variable holds the call, and the tasks that it starts inherit the variable. A worker task that such a call
    starts, and that then lives for ever, must be able to alert again: so a call counts for some seconds after its
    return only.

    Args:
        seconds: Counted from the return of a call.
        clock: Returns seconds.

    Attributes:
        seconds: As given.
        clock: As given.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds: float = seconds
        self.clock: Callable[[], float] = clock

    def begun(self) -> AbstractContextManager[None]:
        """Make calls of receivers and dispatchers in here, in a task of their own."""
        return _Call(self)

    def call(self, function: Callable[..., T], /, *args: Any, **details: Any) -> T:
        """Return the result of *function*, a receiver that is called in the task of the code that logs the event."""
        before, call = _calls.get(), _Call(self)
        try:
            # In here: a signal handler may raise as soon as it is set, and this thread would announce nothing again.
            _calls.set(call.within(before))
            return function(*args, **details)
        finally:
            _calls.set(before)
            call.ended = self.clock()

    @property
    def is_here(self) -> bool:
        """Whether this code runs in such a call, or was set going by one, or handles a line of the log about it."""
        return any(call.aftermath is self and call.counts for call in _calls.get()) or is_logging.get()


class _Call:
    """A call, as a context manager: one is made per receiver, and a generator would cost as much as the rest."""

    __slots__ = ("_token", "aftermath", "ended")

    def __init__(self, aftermath: Aftermath) -> None:
        self.aftermath: Aftermath = aftermath
        self.ended: float | None = None

    def within(self, before: tuple[_Call, ...]) -> tuple[_Call, ...]:
        """Return this call behind the calls *before* it that still count."""
        return (*(each for each in before if each.counts), self) if before else (self,)

    def __enter__(self) -> None:
        self._token = _calls.set(self.within(_calls.get()))

    def __exit__(self, *_: object) -> None:
        self.ended = self.aftermath.clock()
        _calls.reset(self._token)

    @property
    def counts(self) -> bool:
        return self.ended is None or self.aftermath.clock() - self.ended < self.aftermath.seconds


# One per trail: a dispatcher of one trail may log into another one, whose alerts go elsewhere.
_calls: Final[ContextVar[tuple[_Call, ...]]] = ContextVar("fapilog_aftermath", default=())


def calls_here() -> tuple[object, ...]:
    """Return the calls of receivers and dispatchers that led to this code: a nested call makes the tuple longer."""
    return _calls.get()


def noted(event: E) -> E:
    """Return *event* with the note that it was logged in an aftermath, and is not to be announced."""
    return msgspec.structs.replace(event, not_announced=_WHY)


def is_of_aftermath(event: AuditEvent) -> bool:
    """Return whether *event* has the note of `noted`."""
    return event.not_announced == _WHY


class Announcer:
    """
    Sends signals for one sender.

    Every receiver is called, even if another one raises. An exception of a receiver is logged with the receiver's name,
    without text and arguments: they may hold secrets or personal data. The awaitable of an asynchronous receiver is
    awaited in the background, for *timeout* seconds at most.

    Args:
        background: Runs the asynchronous receivers.
        aftermath: Knows the calls of the receivers, which may log events.
        ours: A method of this package that is connected. It raises nothing itself: an exception that comes out of it is
            of a signal handler, and for the caller.
        timeout: Seconds that one call of an asynchronous receiver may take.
        limit: Calls of asynchronous receivers that may be under way; more are skipped, and that is logged.
    """

    def __init__(
        self,
        background: Background,
        aftermath: Aftermath,
        *,
        ours: Callable[..., object],
        timeout: float,
        limit: int,
    ) -> None:
        self._background = background
        self._aftermath = aftermath
        self._timeout = timeout
        self._limit = limit
        self._ours = ours
        # The awaitables of asynchronous receivers that are not awaited to their end.
        self._under_way: dict[int, Awaitable[object]] = {}
        self._muted: set[str] = set()

    def announce(self, signal: blinker.NamedSignal, sender: object, /, **details: Any) -> None:
        """
        Call the receivers of *signal* for *sender* with *details*; raises nothing that they raise.

        But for a `KeyboardInterrupt` or a `SystemExit`, and what a signal handler raises in *ours*, once all receivers
        were called: the forwarder may be the last.
        """
        if not signal.receivers:
            return
        if signal.is_muted:
            if signal.name not in self._muted:
                self._muted.add(signal.name)
                _log.warning("the signal %s is muted: nothing is announced on it", signal.name)
            return
        if self._muted:
            self._muted.discard(signal.name)
        exits: list[BaseException] = []
        for receiver in tuple(signal.receivers_for(sender)):
            try:
                self.call(receiver, sender, **details)
            except BaseException as error:
                exits.append(error)
        if exits:
            raise exits[0]

    def call(self, receiver: Callable[..., object], /, *args: Any, **details: Any) -> None:
        """Call *receiver* as one of a signal's: contained, and in the background if it is asynchronous."""
        if _function(receiver) is self._ours:
            # It logs no event: one that a signal handler logs meanwhile is the application's own, and may alert.
            receiver(*args, **details)
            return
        try:
            if _is_coroutine_function(receiver):
                # Nothing of it runs before it is awaited, so it can't log an event here.
                self._await_soon(receiver, receiver(*args, **details))
                return
            result = self._aftermath.call(receiver, *args, **details)
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
        """Close the coroutines of receivers that were not begun, and never will be, since the event loop has ended."""
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


def _is_coroutine_function(receiver: object) -> TypeGuard[Callable[..., Coroutine[Any, Any, object]]]:
    """Return whether *receiver* is an ``async def``; not whether it only acts like one."""
    # `inspect.iscoroutinefunction` also believes a function that was marked as one, of which some runs at once. By the
    # type: a mock may claim to be a function, and a method may be bound to any object that can be called.
    function = _function(receiver)
    return type(function) is FunctionType and bool(function.__code__.co_flags & inspect.CO_COROUTINE)


def _function(receiver: object) -> object:
    """Return the function of *receiver*, if that is a method."""
    return receiver.__func__ if type(receiver) is MethodType else receiver


def _close(result: Awaitable[object]) -> None:
    # One that has begun belongs to its task: its `finally` blocks may await, and would raise here.
    if inspect.iscoroutine(result) and inspect.getcoroutinestate(result) == inspect.CORO_CREATED:
        result.close()


def _log_failure(receiver: object, error: BaseException) -> None:
    _log.error("receiver %s raised %s (%s)", _name(receiver), name_of(type(error)), place_of(error))


def _name(receiver: object) -> str:
    """Return the name of *receiver* for a log: no `repr`, which may show its contents."""
    try:
        while isinstance(receiver, functools.partial):
            receiver = receiver.func
        return f"{receiver.__module__}.{getattr(receiver, '__qualname__', type(receiver).__qualname__)}"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # Of an object that may not be asked now: a proxy of a framework raises outside of a request.
        return name_of(type(receiver))
