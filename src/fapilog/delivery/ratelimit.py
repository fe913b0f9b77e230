"""
Send no more alerts than a target bears.

    from fapilog.delivery.ratelimit import RateLimit

    trail = AuditTrail(alert_dispatcher=RateLimit(slack, rate=1.0, burst=5))
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

import anyio

from ..core.alerting import AlertDispatcher, require_dispatcher
from ..record.errors import TransientDeliveryError
from ..record.events import AuditEvent
from ..record.options import require
from ..record.privacy import Uncopied
from ..tasks.countdown import Countdown
from ..tasks.fork import call_in_child
from ..tasks.loops import Loop, Waiter, wake
from ._inner import Wrapper

__all__ = ["RateLimit"]


class RateLimit(Wrapper, Uncopied):
    """
    Sends *burst* alerts at once and *rate* a second after that, in the order in which they came.

    In any t seconds, *inner* is called ``burst + rate * t`` times at most. An alert waits for its turn. If that would
    take longer than *max_wait*, `send_alert` raises `TransientDeliveryError` at once, with the seconds until then as
    its `retry_after`: nothing is dropped, and nothing waits here that something around it could keep. A waiter that is
    cancelled gives its turn to the next.

    The order of the wrappers makes a difference: ``Retrying(RateLimit(a))`` counts every try, and waits until there is
    a turn; ``RateLimit(Retrying(a))`` counts alerts, however often they are tried. An `Outbox` around it keeps alerts
    that have no turn yet. One `RateLimit` may be in several places, to share its turns: the limits of most targets are
    for all that comes from you.

    If *inner* is an asynchronous context manager, it is entered and left with this.

    Args:
        inner: Gets the alerts in their turn.
        rate: Alerts a second; below 1 for less than one a second.
        burst: Alerts that may go at once after a time without any.
        max_wait: The most seconds that an alert waits for its turn. In an `AuditTrail`, let *alert_timeout* be longer.

    Raises:
        TypeError: *inner* is no dispatcher, or a number is none.
        ValueError: A number is out of range.
    """

    def __init__(self, inner: AlertDispatcher, *, rate: float, burst: int, max_wait: float = 5.0) -> None:
        self._inner = require_dispatcher("inner", inner)
        super().__init__([inner])
        self._interval = 1 / require("rate", rate, above=0, finite=True)
        self._burst = require("burst", burst, at_least=1, whole=True)
        self._max_wait = require("max_wait", max_wait, at_least=0)
        # Until all of the burst is there again: a bucket of tokens, kept as one number.
        self._refill = Countdown()
        # In any loop.
        self._waiting: deque[Waiter] = deque()
        # In a forked child no task would ever give up the turns that the parent's alerts wait for.
        call_in_child(self, lambda limit: limit._waiting.clear())  # noqa: SLF001

    def __repr__(self) -> str:
        return f"<RateLimit {self._inner!r}>"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """
        Send the alert to *inner* when it is its turn.

        Raises:
            TransientDeliveryError: Its turn would come after *max_wait*.
        """
        await self._wait_for_a_turn()
        await self._inner.send_alert(event, severity=severity, channel=channel)

    async def _wait_for_a_turn(self) -> None:
        # First, so that no alert is counted whose loop was closed around it.
        self._wake_first()
        wait = self._next_turn(len(self._waiting))
        if wait > self._max_wait:
            raise TransientDeliveryError(f"rate limit: the next turn is in {wait:.1f} s", retry_after=wait)
        waiter = Loop.current(), anyio.Event()
        self._waiting.append(waiter)
        try:
            self._wake_first()
            await waiter[1].wait()
            await anyio.sleep(self._next_turn(0))
            self._refill.begin(self._refill.left + self._interval)
        finally:
            with suppress(ValueError):
                self._waiting.remove(waiter)
            self._wake_first()

    def _wake_first(self) -> None:
        """Wake the first waiter, passing over those whose loop was closed around them."""
        # Another thread may take waiters out meanwhile.
        with suppress(IndexError):
            while self._waiting[0][0].is_closed:
                self._waiting.popleft()
            wake([self._waiting[0]])

    def _next_turn(self, ahead: int) -> float:
        """Return the seconds until it is the turn of an alert that has *ahead* alerts before it."""
        return max(0.0, self._refill.left + (ahead + 1 - self._burst) * self._interval)
