"""Where alerts go: the `AlertDispatcher` contract, and the dispatcher that is used when none is given."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from contextvars import ContextVar
from inspect import signature
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeGuard, runtime_checkable

from ..record.chain import ChainHead
from ..record.errors import (
    AlertBufferFullError,
    AlertCancelledError,
    AlertStoppedError,
    AlertTimeoutError,
    AmbiguousDeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
    reason,
)
from ..record.events import AuditEvent, identity_of
from ..record.options import is_async
from ..record.privacy import Discreet
from ..record.values import kind_of
from .signals import alert_attempted, alert_dispatched, alert_failed, compliance_alert

__all__ = [
    "Alert",
    "AlertDispatcher",
    "DeliveryReport",
    "DurableDispatcher",
    "NoopAlertDispatcher",
    "Outcome",
    "Reporter",
    "alert_attempted",
    "alert_dispatched",
    "alert_failed",
    "compliance_alert",
    "is_resuming",
    "outcome_of",
    "pause_of",
    "reporter",
    "require_dispatcher",
]

Outcome = Literal[
    "dispatched",
    "transient",
    "throttled",
    "permanent",
    "ambiguous",
    "error",
    "timeout",
    "buffer_full",
    "cancelled",
    "stopped",
]
"""
The outcome of an alert, or of an attempt: one of few words, fit for a metric's label.

"transient": it may help to try again; "throttled": it does, after the pause that the other side asks for; "permanent":
it does not; "ambiguous": it may have arrived; "error": the dispatcher raised anything else. "timeout", "buffer_full",
"cancelled" and "stopped" come from the trail or the outbox itself.
"""


@runtime_checkable
class AlertDispatcher(Protocol):
    """
    Delivers alerts to a destination: a chat, a pager, a mailbox.

    Returning means that the other side has the alert. Raising means that it may not have it; the type of the exception
    tells observers why, and no exception is raised into the audited code. A dispatcher owns its retries and its
    back-off, and must be done within `alert_timeout`: after that it is cancelled, and it must let the cancellation
    pass. Calls may overlap, up to `alert_concurrency` of them. If a dispatcher is an asynchronous context manager, the
    trail enters it on start and leaves it when all alerts are out.
    """

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """
        Deliver one alert.

        Args:
            event: The event as it is stored; immutable.
            severity: "debug", "info", "warning", "error", "critical" or "security".
            channel: The channel that the policy names; None leaves the choice to the dispatcher.
        """
        ...


class NoopAlertDispatcher:
    """Takes every alert and does nothing with it: the default."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Return at once."""


class Alert(NamedTuple):
    """
    One alert, as it was announced.

    Attributes:
        event: The event that it is about.
        severity: The severity that a dispatcher gets.
        channel: The channel that a dispatcher gets.
    """

    event: AuditEvent
    severity: str
    channel: str | None

    def __repr__(self) -> str:
        return f"<Alert {self.severity} about {self.event!r}>"

    @property
    def key(self) -> Hashable:
        """The event's id and number, the severity and the channel: no other alert has the same."""
        return *identity_of(self.event), self.severity, self.channel


@runtime_checkable
class DurableDispatcher(Protocol):
    """
    A dispatcher that keeps alerts, so that after a crash the trail can resend the alerts that it lacks.

    When the trail is started it calls `resume_from`, and then, in the background and for some hundred events at a time,
    `lacking` and `resumed_to`: the alerts since its mark that a dispatcher lacks are sent to it by `send_alert`. The
    same happens when more alerts came than the trail's buffer holds. The trail asks its own dispatcher alone; a wrapper
    may pass the calls on to the dispatchers inside.

    It may have a method ``async def oldest_pending(self) -> int | None`` for `AuditTrail.apply_retention`: the method
    returns the number of the first event whose alert has not arrived, and the record of that event stays.

    A dispatcher that keeps its alerts in the database of the trail may have a method ``def kept_in(self, storage:
    object, alert: Alert) -> Sequence[str]``: it returns the names of its outboxes that keep *alert* in *storage*. The
    storage then puts the alert into them, in the transaction that stores the event. The trail calls the method for each
    event that alerts, before the event has its place in the chain; it must not wait. `send_alert` is called as well.
    """

    @property
    def resumes(self) -> bool:
        """Whether it keeps anything; if not, the trail treats it as a dispatcher like any other."""
        ...

    async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
        """
        Return the dispatcher's mark: the newest event up to which it needs no alerts.

        Args:
            head: The newest event of the trail, which is the mark of a dispatcher that has none yet: it needs no alerts
                about earlier events.
            anew: Whether to take *head* in any case, since the mark is not of this trail.
        """
        ...

    async def lacking(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Return the *alerts* that the dispatcher lacks: they are after its mark, and it has not taken them."""
        ...

    async def resumed_to(self, mark: ChainHead) -> None:
        """Move the mark on to *mark*, up to which the dispatcher lacks no alert. An older mark changes nothing."""
        ...


def is_resuming(dispatcher: AlertDispatcher) -> TypeGuard[DurableDispatcher]:
    """Return whether *dispatcher* keeps alerts, so that the trail resends those that it lacks."""
    # Not `isinstance`, which asks for `resumes` too (until Python 3.11): every wrapper would ask all dispatchers inside
    # of it twice, and n of them in each other 2**n times.
    has_methods = all(hasattr(dispatcher, name) for name in ("resume_from", "lacking", "resumed_to"))
    return has_methods and bool(getattr(dispatcher, "resumes", False))


@runtime_checkable
class Reporter(Protocol):
    """
    How a dispatcher reports to its trail. No call waits or raises, and any thread may make it.

    A dispatcher finds it in `reporter` while it is entered as an asynchronous context manager.
    """

    def attempted(self, report: DeliveryReport) -> None:
        """Announce *report*, about one attempt to deliver an alert, on `alert_attempted`."""
        ...

    def failing(self, part: str, cause: str) -> None:
        """
        Report that *part* fails, which opens an incident, unless one of that part is open.

        Args:
            part: One of few names, such as "the outbox slack".
            cause: The cause in words, without a secret.
        """
        ...

    def working(self, part: str) -> None:
        """
        Report that *part* works, which resolves its incident, if one is open: soon, if it fails and works in turns.

        Report it also where nothing has failed: an earlier process may have left an incident open.
        """
        ...


reporter: Final[ContextVar[Reporter | None]] = ContextVar("fapilog_reporter", default=None)
"""The trail that enters a dispatcher, or None."""


class DeliveryReport(Discreet, frozen=True, kw_only=True):
    """
    The outcome of one alert, or of one attempt to deliver it.

    Attributes:
        event: The event that it is about.
        severity: The severity that the dispatcher got.
        channel: The channel that the dispatcher got.
        waited: Seconds from the announcement to the call of the dispatcher, or to the failure if it was not called.
        took: Seconds that the call took; 0 if there was none.
        error: Why it failed; None if the dispatcher took it. Its text and traceback may hold secrets: print `reason`.
        target: On `alert_attempted`, the name of the outbox, or of the dispatcher; else None.
        attempt: On `alert_attempted`, which attempt it was, counted from 1; else 1.
    """

    _shown = ("outcome", "severity", "event")

    event: AuditEvent
    severity: str
    channel: str | None
    waited: float
    took: float
    error: Exception | None
    target: str | None = None
    attempt: int = 1

    @property
    def reason(self) -> str | None:
        """
        Why it failed, in words that may be printed; None if the dispatcher took it.

        The text of a `DeliveryError`; of any other exception only the type, since its text may hold the address of a
        webhook, which is a secret.
        """
        return None if self.error is None else reason(self.error)

    @property
    def outcome(self) -> Outcome:
        """The outcome in one of few words, fit for a metric's label."""
        return outcome_of(self.error)


def outcome_of(error: Exception | None) -> Outcome:
    """Return the outcome that *error* means, or None for success."""
    if error is None:
        return "dispatched"
    if pause_of(error, math.inf) is not None:
        return "throttled"
    for kind, outcome in _OUTCOMES.items():
        if isinstance(error, kind):
            return outcome
    return "error"


def pause_of(error: Exception | None, at_most: float) -> float | None:
    """
    Return the seconds to wait that *error* asks for, no more than *at_most*; None if it asks for none.

    A dispatcher may have set `retry_after` to anything, such as the text of a header, or made a property of it: a
    number of seconds counts, and anything else, a negative number and NaN give no time.
    """
    if not isinstance(error, TransientDeliveryError):
        return None
    told: Any = None
    try:
        told = error.retry_after
        seconds = float(told)
    except OverflowError:
        seconds = math.inf if told > 0 else -math.inf
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # of None too
        return None
    # NaN is not at least 0.
    return min(seconds, at_most) if seconds >= 0 else None


_OUTCOMES: Final[dict[type[Exception], Outcome]] = {
    TransientDeliveryError: "transient",
    PermanentDeliveryError: "permanent",
    AmbiguousDeliveryError: "ambiguous",
    AlertTimeoutError: "timeout",
    AlertBufferFullError: "buffer_full",
    AlertCancelledError: "cancelled",
    AlertStoppedError: "stopped",
}


def require_dispatcher(name: str, dispatcher: AlertDispatcher) -> AlertDispatcher:
    """
    Return *dispatcher* if it can be one.

    Raises:
        TypeError: It is a class, or has no asynchronous `send_alert` that takes an event, *severity* and *channel*. The
            message begins with *name*.
    """
    send = getattr(dispatcher, "send_alert", None)
    expected = f"{name}: expected an object with `async def send_alert(event, *, severity, channel=None)`"
    if isinstance(dispatcher, type):
        raise TypeError(f"{expected}; got {kind_of(dispatcher)}")
    if not callable(send):
        raise TypeError(f"{expected}; got {kind_of(dispatcher)} without a send_alert")
    if not is_async(send):
        raise TypeError(f"{expected}; got {kind_of(dispatcher)}, whose send_alert is not asynchronous")
    try:
        takes = signature(send)
    except Exception:  # of a function that is not written in Python, or an AsyncMock in Python 3.11.2
        return dispatcher
    try:
        takes.bind(None, severity="info", channel=None)
    except TypeError as error:
        got = f"{kind_of(dispatcher)}, whose send_alert takes {takes}"
        raise TypeError(f"{expected}; got {got}: {error}") from None
    return dispatcher
