"""
Try again where that may help.

    from fapilog.delivery.retry import Retrying

    trail = AuditTrail(alert_dispatcher=Retrying(slack), alert_timeout=65.0)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import count
from typing import Final

import anyio
import msgspec

from ..core.alerting import Alert, AlertDispatcher, pause_of, require_dispatcher
from ..record.errors import AmbiguousDeliveryError, TransientDeliveryError
from ..record.events import AuditEvent
from ..record.options import require, require_bool, require_callable
from ..record.values import text
from ..tasks.countdown import Countdown
from ..tasks.strangers import Log, contained
from ._inner import Wrapper

__all__ = ["Attempt", "Retrying"]

_log: Final = Log("fapilog.delivery")

# Seconds. A target that asks for more, perhaps since its clock is wrong, would stop all alerts for as long.
_LONGEST_PAUSE: Final = 3600.0


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """
    One try to deliver an alert.

    Attributes:
        event: The event that it is about.
        severity: The severity that the dispatcher got.
        channel: The channel that the dispatcher got.
        number: Counted from 1.
        took: Seconds that the call of the dispatcher took.
        error: Why it failed; None if the dispatcher took the alert. Its text may hold secrets unless it is a
            `DeliveryError`.
        wait: Seconds until the next try; None if there is none.
    """

    event: AuditEvent
    severity: str
    channel: str | None
    number: int
    took: float
    error: Exception | None
    wait: float | None


class Retrying(Wrapper):
    """
    Sends an alert again after a `TransientDeliveryError`, and after a lost answer if that does no harm.

    An `AmbiguousDeliveryError` means that the alert may have been seen. It is tried again if it is `repeatable`: the
    target drops an alert whose key it knows, as PagerDuty, Opsgenie, Alertmanager and most webhooks do. Elsewhere that
    is your choice, by *retry_ambiguous*: of a security alert, twice is better than never. When the tries or the time
    are over, the last error is raised.

    The wait before try n + 1 is ``min(wait_max, wait_initial * 2 ** (n - 1))``, plus up to *wait_jitter* at random. If
    the error asks for more, that counts instead, plus up to *wait_jitter*, and no other alert goes to *inner* before:
    give every target a `Retrying` of its own. A wait that would end after *timeout* is not begun.

    In an `AuditTrail`, let *alert_timeout* be longer than *timeout*; every try is announced on `alert_attempted`, with
    the name of *inner*'s type as its `target`. If *inner* is an asynchronous context manager, it is entered and left
    with this.

    Args:
        inner: Makes one try per call.
        attempts: Tries for one alert, the first included.
        timeout: Seconds for one alert, all tries and waits together; a try under way is then cancelled.
        wait_initial: Seconds before the second try.
        wait_max: The most seconds between two tries, unless the error says more.
        wait_jitter: The most seconds that are added at random.
        retry_ambiguous: Whether to try again after a lost answer although the alert may then be seen twice.
        on_attempt: Called after every try; its exceptions are logged by their type.

    Raises:
        TypeError: *inner* is no dispatcher, or another option is not of its type.
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        inner: AlertDispatcher,
        *,
        attempts: int = 4,
        timeout: float = 60.0,
        wait_initial: float = 0.5,
        wait_max: float = 30.0,
        wait_jitter: float = 1.0,
        retry_ambiguous: bool = False,
        on_attempt: Callable[[Attempt], None] | None = None,
    ) -> None:
        self._inner = require_dispatcher("inner", inner)
        super().__init__([inner])
        self._attempts = require("attempts", attempts, at_least=1, whole=True)
        self._timeout = require("timeout", timeout, above=0)
        self._wait_initial = require("wait_initial", wait_initial, at_least=0, finite=True)
        self._wait_max = require("wait_max", wait_max, at_least=0, finite=True)
        self._wait_jitter = require("wait_jitter", wait_jitter, at_least=0, finite=True)
        self._retry_ambiguous = require_bool("retry_ambiguous", retry_ambiguous)
        require_callable("on_attempt", on_attempt, expected="a function of one Attempt", or_none=True)
        self._on_attempt = on_attempt
        # For which the target has asked.
        self._pause = Countdown()

    def __repr__(self) -> str:
        return f"<Retrying {self._inner!r}>"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Send the alert to *inner*, again and again if need be."""
        alert = Alert(event, severity, channel)
        called = anyio.current_time()
        end = called + self._timeout
        for number in count(1):
            await self._wait_out_the_pause(end)
            began = anyio.current_time()
            error = await self._try_once(end, alert)
            now = anyio.current_time()
            wait = self._wait_after(error, number)
            if wait is not None and now + wait >= end:
                wait = None
            target = type(self._inner).__qualname__
            self._report(alert, error, target=target, attempt=number, called=called, began=began)
            self._tell(
                Attempt(
                    event=event,
                    severity=severity,
                    channel=channel,
                    number=number,
                    took=now - began,
                    error=error,
                    wait=wait,
                )
            )
            if error is None:
                return
            if wait is None:
                raise error
            await anyio.sleep(wait)

    async def _try_once(self, end: float, alert: Alert) -> Exception | None:
        """Call *inner* until the time is over, and return its exception."""
        with anyio.CancelScope(deadline=end):
            try:
                with contained():
                    await self._inner.send_alert(alert.event, severity=alert.severity, channel=alert.channel)
            except Exception as error:
                return error
            return None
        return AmbiguousDeliveryError(f"the last try was cancelled; all of them took {self._timeout:g} s")

    async def _wait_out_the_pause(self, end: float) -> None:
        """Wait as long as the target has asked for, of this alert or another; raise if that is too long."""
        while (pause := self._pause.left) > 0:
            if anyio.current_time() + pause >= end:
                raise TransientDeliveryError(f"the target asked for a pause of {pause:.0f} s more", retry_after=pause)
            await anyio.sleep(pause + self._jitter())

    def _wait_after(self, error: Exception | None, number: int) -> float | None:
        """Return the seconds to wait after *error*, and note the pause that it asks for; None if it is the last try."""
        wait = min(self._wait_max, self._wait_initial * 2.0 ** min(number - 1, 100))
        if isinstance(error, TransientDeliveryError):
            pause = pause_of(error, _LONGEST_PAUSE)
            if pause is not None:
                # Never shorter than without: "Retry-After: 0" doesn't say how soon is too soon.
                wait = max(wait, pause)
                self._pause.begin(max(self._pause.left, wait))
        elif not isinstance(error, AmbiguousDeliveryError) or not (error.repeatable or self._retry_ambiguous):
            return None
        return wait + self._jitter() if number < self._attempts else None

    def _jitter(self) -> float:
        return random.uniform(0, self._wait_jitter)  # noqa: S311  spreads load

    def _tell(self, attempt: Attempt) -> None:
        if attempt.wait is not None:
            _log.warning(
                "try %d to deliver the alert about event %s failed, the next is in %.1f s: %s",
                attempt.number,
                attempt.event.event_id,
                attempt.wait,
                text(attempt.error),
            )
        if self._on_attempt is not None:
            try:
                self._on_attempt(attempt)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                _log.error("on_attempt raised %s", type(error).__qualname__)
