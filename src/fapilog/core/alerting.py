"""Where alerts go: the `AlertDispatcher` contract, and the dispatcher that is used when none is given."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from .errors import (
    AlertBufferFullError,
    AlertCancelledError,
    AlertStoppedError,
    AlertTimeoutError,
    DeliveryError,
)
from .events import AuditEvent
from .signals import alert_dispatched, alert_failed, compliance_alert
from .values import text

__all__ = [
    "AlertDispatcher",
    "DeliveryReport",
    "NoopAlertDispatcher",
    "Outcome",
    "alert_dispatched",
    "alert_failed",
    "compliance_alert",
]

Outcome = Literal["dispatched", "error", "timeout", "buffer_full", "cancelled", "stopped"]
"""What became of an alert, in a few words that are fit for a metric's label."""


class AlertDispatcher(Protocol):
    """
    Takes alerts to where people see them.

    Returning means that the other side has the alert. Raising means that it may not have it; which exception it is
    tells observers why, and is never raised into the audited code. A dispatcher owns its retries and its back-off, and
    must be done within `alert_timeout`: after that it is cancelled, and it must let the cancellation pass. Calls may
    overlap, up to `alert_concurrency` of them. If a dispatcher is an asynchronous context manager, the trail enters it
    on start and leaves it when all alerts are out.
    """

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """
        Deliver one alert.

        Args:
            event: The event as it is stored; immutable.
            severity: "debug", "info", "warning", "error", "critical" or "security".
            channel: Where it should go, if the policy says so; None leaves it to the dispatcher.
        """
        ...


class NoopAlertDispatcher:
    """Takes every alert and does nothing with it: the default."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Return at once."""


class DeliveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """
    What became of one alert.

    Attributes:
        event: The event that it is about.
        severity: As the dispatcher was told.
        channel: As the dispatcher was told.
        waited: Seconds from the announcement to the call of the dispatcher, or to the failure if it was not called.
        took: Seconds that the call took; 0 if there was none.
        error: Why it failed; None if the dispatcher took it. Its text and traceback may hold secrets: print `reason`.
    """

    event: AuditEvent
    severity: str
    channel: str | None
    waited: float
    took: float
    error: Exception | None

    @property
    def reason(self) -> str | None:
        """
        Why it failed, in words that may be printed; None if the dispatcher took it.

        The text of a `DeliveryError`; of any other exception only the type, since its text may hold the address of a
        webhook, which is a secret.
        """
        if self.error is None:
            return None
        return text(self.error) if isinstance(self.error, DeliveryError) else type(self.error).__qualname__

    @property
    def outcome(self) -> Outcome:
        """One of a few words for what became of it, fit for a metric's label."""
        match self.error:
            case None:
                return "dispatched"
            case AlertTimeoutError():
                return "timeout"
            case AlertBufferFullError():
                return "buffer_full"
            case AlertCancelledError():
                return "cancelled"
            case AlertStoppedError():
                return "stopped"
            case _:
                return "error"
