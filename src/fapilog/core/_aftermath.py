"""Knowing that an event is logged by what an alert has set going, so that no alert feeds itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Final, TypeVar

import msgspec

from ..record.events import AuditEvent
from ..tasks.strangers import is_logging

__all__ = ["Aftermath", "calls_here", "is_of_aftermath", "noted"]

E = TypeVar("E", bound=AuditEvent)

_WHY: Final = "logged by what an alert has set going"


class Aftermath:
    """
    The calls of receivers and dispatchers that one trail makes about its alerts, and what these calls set going.

    A receiver may log that an alert has failed; if that was an alert too, the next would fail as well, and so on for as
    long as the pager is down. A call is told by a context variable, which the tasks that it starts inherit. The task of
    a worker that is started lazily, and then lives for ever, is to be heard again: so a call that has returned counts
    for some seconds only.

    Args:
        seconds: Counted from the return of a call.
        clock: Returns seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock

    def begun(self) -> AbstractContextManager[None]:
        """Make calls of receivers and dispatchers in here."""
        return _Call(self)

    @property
    def is_here(self) -> bool:
        """Whether this code runs in such a call, or was set going by one, or handles a line of the log about it."""
        return is_logging() or any(call.trail is self and call.counts for call in _calls.get())

    def now(self) -> float:
        """Return the seconds of the clock."""
        return self._clock()

    def lasts(self, call: _Call) -> bool:
        """Return whether *call* still counts."""
        return call.ended is None or self._clock() - call.ended < self._seconds


class _Call:
    """A call; as a context manager, for it is made for each receiver and a generator would cost as much as the rest."""

    __slots__ = ("_token", "ended", "trail")

    def __init__(self, trail: Aftermath) -> None:
        self.trail: Aftermath = trail
        self.ended: float | None = None

    def __enter__(self) -> None:
        before = _calls.get()
        self._token = _calls.set((*(each for each in before if each.counts), self) if before else (self,))

    def __exit__(self, *_: object) -> None:
        self.ended = self.trail.now()
        _calls.reset(self._token)

    @property
    def counts(self) -> bool:
        return self.trail.lasts(self)


# One of each trail: a dispatcher of one trail may log into another one, whose alerts go elsewhere.
_calls: Final[ContextVar[tuple[_Call, ...]]] = ContextVar("fapilog_aftermath", default=())


def calls_here() -> tuple[object, ...]:
    """Return the calls of receivers and dispatchers that have set going this code: a longer tuple in each of them."""
    return _calls.get()


def noted(event: E) -> E:
    """Return *event* with the note that it was logged in an aftermath, and is not to be announced."""
    return msgspec.structs.replace(event, not_announced=_WHY)


def is_of_aftermath(event: AuditEvent) -> bool:
    """Return whether *event* has the note of `noted`."""
    return event.not_announced == _WHY
