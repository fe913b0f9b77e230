"""
Send every alert to several dispatchers.

    from fapilog.delivery.fanout import FanOut

    trail = AuditTrail(alert_dispatcher=FanOut([pagerduty, Retrying(slack), email], timeout=20.0))
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextvars import copy_context
from functools import partial

from ..core.alerting import Alert, AlertDispatcher, is_resuming
from ..core.partial import PartialDelivery
from ..record.events import AuditEvent
from ..record.options import require
from ..tasks.background import side_by_side
from ._inner import ResumingWrapper, checked, deliver, kept_in, kinds, missing_from

__all__ = ["FanOut"]


class FanOut(ResumingWrapper):
    """
    Sends every alert to all of its dispatchers at the same time.

    A dispatcher that fails, hangs or cancels its own task does not affect another one. Returning means that all of them
    have the alert. If the call fails or is cancelled, the dispatchers that have taken the alert are remembered, and
    when the same `FanOut` is called again for it (the same event, severity and channel), the alert goes only to the
    dispatchers that lack it. The memory is for the thousand newest alerts that only some have, and ends with the
    process.

    The order of the wrappers makes a difference:

    - ``FanOut([Retrying(a), Retrying(b)])`` retries a and b by themselves, with their own pauses;
      ``Retrying(FanOut([a, b]))`` pauses for both.
    - ``FanOut([Outbox(a), Outbox(b)])`` keeps an alert for a and for b until they have it, also across a restart;
      ``Outbox(FanOut([a, b]))`` keeps it once, and after a restart a retry goes to both.

    If some of the dispatchers keep alerts (`DurableDispatcher`), so does this: the trail resends the alerts that any of
    them lacks. An alert that comes from the trail then goes to the dispatchers that lack it, and to dispatchers that
    keep nothing, which may get it again.

    If dispatchers are asynchronous context managers, they are entered and left with this.

    Args:
        dispatchers: The dispatchers; at least one, and none twice.
        timeout: Seconds that a dispatcher may take before it is cancelled, so that one that hangs does not hold the
            outcome of all; None sets no limit. In an `AuditTrail`, let *alert_timeout* be longer.

    Raises:
        TypeError: One of them is no dispatcher, or *timeout* no number.
        ValueError: No dispatcher, one twice, or a number out of range.
    """

    def __init__(self, dispatchers: Iterable[AlertDispatcher], *, timeout: float | None = None) -> None:
        super().__init__(checked(dispatchers))
        self._timeout = None if timeout is None else require("timeout", timeout, above=0)
        self._partial = PartialDelivery("fan-out", "dispatchers", kinds=kinds(self._dispatchers))

    def __repr__(self) -> str:
        return f"<FanOut {self._dispatchers!r}>"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """
        Send the alert to every dispatcher that lacks it.

        Raises:
            DeliveryError: Not all have it; the message names the dispatchers that have it, and the failed ones with the
                reasons. It is transient if any dispatcher's error is, asking for the longest pause of all; else
                permanent if all are; else ambiguous. Another exception than a `DeliveryError`, and an exceeded
                *timeout*, are named by their type and are ambiguous. Of a single dispatcher, its own `DeliveryError`.
        """
        alert = Alert(event, severity, channel)
        failures: dict[int, Exception] = {}

        async def send(number: int) -> None:
            error = await deliver(self._dispatchers[number], alert, self._timeout)
            if error is None:
                self._partial.delivered(alert, number)
            else:
                failures[number] = error

        lacking = self._partial.receivers_without(alert, range(len(self._dispatchers)))
        await side_by_side((copy_context(), partial(send, number)) for number in lacking)
        self._partial.finish(alert, failures, len(self._dispatchers))

    async def lacking(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Return the *alerts* that a dispatcher that resumes lacks, and remember the dispatchers that have them."""
        lacked: dict[int, set[Hashable]] = {}
        for number, dispatcher in enumerate(self._dispatchers):
            if is_resuming(dispatcher):
                lacked[number] = await missing_from(dispatcher, alerts)
        wanted = [alert for alert in alerts if any(alert.key in keys for keys in lacked.values())]
        for alert in wanted:
            for number, keys in lacked.items():
                if alert.key not in keys:
                    self._partial.delivered(alert, number)
        return wanted

    def kept_in(self, storage: object, alert: Alert) -> list[str]:
        """Return the names of the outboxes of all dispatchers that keep *alert* in *storage*."""
        return kept_in(self._dispatchers, storage, alert)
