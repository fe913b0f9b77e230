"""
Send an alert to the first of several dispatchers that takes it.

    from fapilog.delivery.fallback import Fallback

    trail = AuditTrail(alert_dispatcher=Fallback([pagerduty, slack, email], timeout=8.0))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import anyio

from ..core.alerting import Alert, AlertDispatcher
from ..core.partial import combined
from ..record.errors import AmbiguousDeliveryError, reason
from ..record.events import AuditEvent
from ..record.options import require
from ..tasks.strangers import Log
from ._inner import Wrapper, checked, deliver, kinds

__all__ = ["Fallback"]

_log: Final = Log("fapilog.delivery")


class Fallback(Wrapper):
    """
    Sends an alert to its dispatchers in order, until one takes it.

    The next gets its turn when one raises an `Exception`, or takes longer than *timeout* seconds and is cancelled.
    Returning means that one of them has the alert; when that is not the first, a warning names the dispatcher that has
    it, and the failed ones with their reasons. A dispatcher that failed may have it as well: after an
    `AmbiguousDeliveryError` or a timeout, two may have the alert. So a dispatcher whose answer was lost, and which
    takes an alert once however often it comes (`repeatable`), is asked a second time first. When the same `Fallback` is
    called again for an alert, it begins with the first.

    In a trail, every attempt is announced on `alert_attempted`: its `target` is the name of the dispatcher's type, and
    its `attempt` the place of the dispatcher in the order.

    The order of the wrappers makes a difference: ``Fallback([Retrying(a), b])`` goes to b when the tries at a are over;
    ``Retrying(Fallback([a, b]))`` tries b before it tries a again. An `Outbox` belongs around it, or in its last place:
    it takes every alert, so a dispatcher after it gets none.

    If dispatchers are asynchronous context managers, all are entered and left with this.

    Args:
        dispatchers: The dispatchers, in the order in which to ask them; at least one, and none twice.
        timeout: Seconds that a dispatcher may take. In an `AuditTrail`, let *alert_timeout* be longer than all
            together.

    Raises:
        TypeError: One of them is no dispatcher, or *timeout* no number.
        ValueError: No dispatcher, one twice, or a number out of range.
    """

    def __init__(self, dispatchers: Iterable[AlertDispatcher], *, timeout: float = 10.0) -> None:
        super().__init__(checked(dispatchers))
        self._kinds = kinds(self._dispatchers)
        self._timeout = require("timeout", timeout, above=0)

    def __repr__(self) -> str:
        return f"<Fallback {self._dispatchers!r}>"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """
        Send the alert to one dispatcher after the other until one takes it.

        Cancelled, it asks no other.

        Raises:
            DeliveryError: None took it; the message says why. It is transient if any dispatcher's error is, asking for
                the longest pause of all; else permanent if all are; else ambiguous. Another exception than a
                `DeliveryError`, and an exceeded *timeout*, are named by their type and are ambiguous. Of a single
                dispatcher, its own `DeliveryError`.
        """
        alert = Alert(event, severity, channel)
        called = anyio.current_time()
        failures: dict[int, Exception] = {}
        for number in range(len(self._dispatchers)):
            error = await self._ask(number, alert, called)
            if isinstance(error, AmbiguousDeliveryError) and error.repeatable:
                # Otherwise two dispatchers may have the alert, and here one more try does no harm.
                error = await self._ask(number, alert, called)
            if error is None:
                if failures:
                    self._log(event, number, failures)
                return
            failures[number] = error
        raise combined("fallback", "dispatchers", failures, len(self._dispatchers), kinds=self._kinds)

    async def _ask(self, number: int, alert: Alert, called: float) -> Exception | None:
        """Send *alert* to a dispatcher, report the attempt, and return the error; None if it has the alert."""
        began = anyio.current_time()
        error = await deliver(self._dispatchers[number], alert, self._timeout)
        self._report(alert, error, target=self._kinds[number], attempt=number + 1, called=called, began=began)
        return error

    def _log(self, event: AuditEvent, number: int, failures: dict[int, Exception]) -> None:
        words = (f"number {place + 1} ({self._kinds[place]}): {reason(error)}" for place, error in failures.items())
        _log.warning(
            "the alert about event %s (record %s) went to number %d (%s), after others failed: %s",
            event.event_id,
            event.sequence_number or "not stored",
            number + 1,
            self._kinds[number],
            "; ".join(words),
        )
