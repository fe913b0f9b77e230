"""
Send an alert to one of several dispatchers.

    from fapilog.delivery.route import Route, when

    trail = AuditTrail(
        alert_dispatcher=Route(
            {
                when(severity="critical"): pagerduty,
                when(channel="#dba"): slack_dba,
                when(component=["db", "cache"], event_type=AuditEventType.COMPONENT_FAILURE): opsgenie,
                lambda event, severity, channel: "vip" in event.regulatory_tags: FanOut([pagerduty, email]),
            },
            default=slack,
        )
    )
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Final, TypeAlias

from ..core.alerting import Alert, AlertDispatcher, is_resuming, require_dispatcher
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel, member
from ..record.options import require_callable, require_mapping, require_text, several
from ..tasks.strangers import Log, answer
from ._inner import ResumingWrapper, kept_in, missing_from, require_names

__all__ = ["Condition", "Route", "when"]

_log: Final = Log("fapilog.delivery")

Condition: TypeAlias = Callable[[AuditEvent, str, str | None], bool]
"""The condition of a route: called with the event, the severity and the channel, it returns whether they meet it."""


def when(
    *,
    severity: str | Collection[str] | None = None,
    event_type: AuditEventType | Collection[AuditEventType] | None = None,
    component: str | Collection[str] | None = None,
    channel: str | Collection[str] | None = None,
) -> Condition:
    """
    Return the condition that an alert has all that is given here; of several values of one kind, any.

    Args:
        severity: One of the six severities, or several of them: ``["critical", "security"]``.
        event_type: The kind of event.
        component: The part of the service, as it is recorded.
        channel: The channel that the policy chose.

    Raises:
        TypeError: A value is neither text nor a list of texts.
        ValueError: Nothing is given, or an unknown severity or type.
    """
    wanted: dict[str, list[str]] = {}
    if severity is not None:
        wanted["severity"] = [member(AuditLogLevel, each, "severity").value for each in several("severity", severity)]
    if event_type is not None:
        wanted["event_type"] = [
            member(AuditEventType, each, "event_type") for each in several("event_type", event_type)
        ]
    if component is not None:
        wanted["component"] = _texts("component", component)
    if channel is not None:
        wanted["channel"] = _texts("channel", channel)
    if not wanted or not all(wanted.values()):
        raise ValueError("when: expected at least one severity, event_type, component or channel; got none")
    return _When(wanted)


def _texts(name: str, given: str | Collection[str]) -> list[str]:
    return [require_text(name, each) for each in several(name, given)]


class _When:
    """Compared by identity: of two that ask for the same, as keys of a mapping, the first counts."""

    def __init__(self, wanted: Mapping[str, Collection[str]]) -> None:
        self._wanted = wanted

    def __call__(self, event: AuditEvent, severity: str, channel: str | None) -> bool:
        has = {
            "severity": severity,
            "event_type": event.event_type,
            "component": event.component,
            "channel": channel,
        }
        return all(has[name] in values for name, values in self._wanted.items())

    def __repr__(self) -> str:
        words = (f"{name}={'|'.join(str.__str__(each) for each in values)}" for name, values in self._wanted.items())
        return f"when({', '.join(words)})"


class Route(ResumingWrapper):
    """
    Sends an alert to the dispatcher of the first condition that it meets.

    The conditions are asked in the order in which they are written. Alerts that meet none go to *default*: there is no
    alert that goes nowhere, unless you say so with a `NoopAlertDispatcher`. A condition that raises is logged by the
    type of its exception, and counts as not met. Returning means that the dispatcher of the route has the alert, and
    its exceptions are raised.

    A dispatcher may be in several routes. To send to several at once, give a route a `FanOut`; to send to the next when
    one fails, a `Fallback`. Around a `Route`, a `Digest` counts alerts of all routes; inside, the alerts of one. An
    `Outbox` around it keeps alerts for all, and the route is chosen at every try;
    ``Route({...: Outbox(a)}, default=Outbox(b))`` gives a and b their own order and pauses.

    If dispatchers keep alerts (`DurableDispatcher`), so does this: a dispatcher is asked for the alerts of its own
    routes.

    If dispatchers are asynchronous context managers, they are entered and left with this.

    Args:
        routes: Dispatchers by their conditions: `when`, or any function of the event, the severity and the channel. It
            is called in the event loop, for every alert that meets no condition before it: it must not block, nor be
            asynchronous.
        default: Gets the rest.

    Raises:
        TypeError: *routes* is no mapping, a condition can't be called or is asynchronous, or one of the dispatchers is
            none.
        ValueError: Two outboxes in one place have one name.
    """

    def __init__(self, routes: Mapping[Condition, AlertDispatcher], *, default: AlertDispatcher) -> None:
        require_mapping("routes", routes, expected='a mapping such as {when(severity="critical"): pagerduty}')
        for condition in routes:
            require_callable("routes", condition, expected='conditions such as when(severity="critical")')
        self._routes = {condition: require_dispatcher("routes", each) for condition, each in routes.items()}
        # A None for "nowhere" is refused here, and not at the first alert.
        self._default = require_dispatcher("default", default)
        # Without duplicates.
        super().__init__(list({id(each): each for each in (*routes.values(), default)}.values()))
        require_names("routes, default", self._dispatchers)

    def __repr__(self) -> str:
        routes = (f"{condition!r}: {dispatcher!r}" for condition, dispatcher in self._routes.items())
        return f"<Route {', '.join([*routes, f'default: {self._default!r}'])}>"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Send the alert to the dispatcher of its route."""
        await self._way(event, severity, channel).send_alert(event, severity=severity, channel=channel)

    async def lacking(self, alerts: Sequence[Alert]) -> list[Alert]:
        """Return the *alerts* that the dispatcher of their route lacks, if it resumes."""
        lacked: set[Hashable] = set()
        ways = [self._way(*alert) for alert in alerts]
        for dispatcher in self._dispatchers:
            own = [alert for alert, way in zip(alerts, ways, strict=True) if way is dispatcher]
            if own and is_resuming(dispatcher):
                lacked |= await missing_from(dispatcher, own)
        return [alert for alert in alerts if alert.key in lacked]

    def kept_in(self, storage: object, alert: Alert) -> list[str]:
        """
        Return the names of the outboxes of the alert's route that keep *alert* in *storage*.

        None where a condition of your own may decide: once the event has its place in the chain, it might decide in
        another way.
        """
        if not all(isinstance(condition, _When) for condition in self._routes):
            return []
        return kept_in([self._way(*alert)], storage, alert)

    def _way(self, event: AuditEvent, severity: str, channel: str | None) -> AlertDispatcher:
        for number, (condition, dispatcher) in enumerate(self._routes.items(), 1):
            try:
                if answer(condition, event, severity, channel):
                    return dispatcher
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                # Not its text or traceback, which may hold values of the event.
                _log.error(
                    "condition %d of a route raised %s for event %s, and counts as not met",
                    number,
                    type(error).__qualname__,
                    event.event_id,
                )
        return self._default
