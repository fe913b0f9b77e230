"""
Page the engineer on call by PagerDuty, over its Events API v2.

Needs the extra ``pagerduty``. https://developer.pagerduty.com/docs/events-api-v2-overview
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Self

import msgspec

from .._extras import needs

with needs("pagerduty"):
    import httpx2

from ..record.errors import BrokenRouteError, DeliveryError
from ..record.events import AuditEvent
from ..record.incidents import is_recovery, subject_of
from ..record.privacy import Uncopied, without_frames
from ..record.values import text
from ._answers import Answer
from ._http import Poster, Request
from ._rendering import Disclosure, Rendered, Renderer, clean, cut, dedup_key, fit, least, one_line
from ._secret import Secret, SecretSource

__all__ = ["PagerDutyDispatcher"]

# The four that it knows; https://developer.pagerduty.com/docs/send-alert-event
_SEVERITIES: Final = {
    "debug": "info",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
    "security": "critical",
}
_KEY_CHARACTERS: Final = 32
_MAX_SUMMARY: Final = 1024
# PagerDuty gives no limit for the other texts; this is ours.
_MAX_TEXT: Final = 255
# An event may have 512 KB; the rest of it gets 12 of them.
# https://developer.pagerduty.com/docs/events-api-v2-overview#size-limits
_MAX_DETAILS: Final = 500_000


class PagerDutyDispatcher(Uncopied):
    """
    Sends every alert as an event of the Events API v2.

    Events of type ``error_recovered`` and ``component_recovery`` whose metadata name an ``incident`` resolve the alert
    of the event with the same `incident`, or with the incident as its id. Without an `incident` they open an alert,
    like any other event.

    ``dedup_key`` is made of the `incident`, or else of the event's id, and is the same in every process: while the
    alert is open, sending it again is logged there and pages no responder. Once it is resolved, the same key opens a
    new one.

    PagerDuty's 202 means that it has taken the event, and will process it; the rules of the service decide who is
    paged, and when. It drops a resolve for which nothing is open. An event that it refuses as invalid or too large
    (400, 413), or that something between refuses with any other 4xx or a web page, is sent once more, with the same
    ``dedup_key``, as MINIMAL and without the link.

    The channel becomes ``custom_details.channel``, which its event rules can route by.

    Args:
        routing_key: The integration key of a service or an orchestration: 32 characters.
        base_url: The address of the API; in the EU ``https://events.eu.pagerduty.com``.
        disclosure: How much of an event is sent.
        link: The way to a record, for example ``https://audit.example.com/{event_id}``.
        timeout: Seconds for one attempt.
        client: Sends the requests, all in one event loop; it stays yours to close. None connects in any loops.
        allow_http: Whether *base_url* may begin with ``http:`` and not be this machine's.

    Raises:
        TypeError: An option is not of its type.
        ValueError: An option is not valid. No secret is in the message.
    """

    @without_frames
    def __init__(
        self,
        *,
        routing_key: SecretSource,
        # EU: https://support.pagerduty.com/docs/service-regions
        base_url: SecretSource = "https://events.pagerduty.com",
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 10.0,
        client: httpx2.AsyncClient | None = None,
        allow_http: bool = False,
    ) -> None:
        self._poster = Poster(
            "pagerduty",
            _judge,
            timeout=timeout,
            client=client,
            allow_http=allow_http,
            repeatable=True,
            # "202 Accepted", https://developer.pagerduty.com/docs/events-api-v2-overview#response-codes--retry-logic
            enough={HTTPStatus.ACCEPTED},
        )
        self._render = Renderer(disclosure, link)
        self._url = self._poster.address(base_url, "base_url")
        self._routing_key = Secret(routing_key, "routing_key", check=_check_routing_key)

    async def __aenter__(self) -> Self:
        await self._poster.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._poster.close()

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Send the event once, a trigger or a resolve; a trigger once more with less in it if that is refused."""
        # The routing key needs no part in it: keys count for one routing key.
        # https://developer.pagerduty.com/docs/send-alert-event
        keys = {"routing_key": self._routing_key.reveal(), "dedup_key": dedup_key(subject_of(event))}
        address = self._url.reveal().rstrip("/") + "/v2/enqueue"
        headers = {"content-type": "application/json"}

        def request(rendered: Rendered) -> Request:
            action = {"event_action": "resolve"} if is_recovery(event) else _trigger(rendered, channel)
            return Request(address, headers, msgspec.json.encode(keys | action))

        await self._poster.post(request(self._render(event, severity)), lambda: request(least(event, severity)))


def _trigger(rendered: Rendered, channel: str | None) -> dict[str, Any]:
    """Return the part of the payload with the event."""
    details = _cleaned(rendered.details if channel is None else {**rendered.details, "channel": text(channel)})
    message = f": {one_line(rendered.message)}" if rendered.message else ""
    payload = {
        "summary": cut(rendered.title + message, "summary", max_characters=_MAX_SUMMARY),
        # It must say something.
        "source": _text(rendered, "hostname") or _text(rendered, "component") or "fapilog",
        "severity": _SEVERITIES.get(rendered.severity, "critical"),
        "timestamp": rendered.details["timestamp"],
        "component": _text(rendered, "component"),
        "class": rendered.details["event_type"],
        "custom_details": fit(details, _MAX_DETAILS),
    }
    trigger: dict[str, Any] = {
        "event_action": "trigger",
        "payload": {name: value for name, value in payload.items() if value},
    }
    if rendered.link is not None:
        trigger["links"] = [{"href": rendered.link, "text": "The record"}]
    return trigger


def _text(rendered: Rendered, name: str) -> str:
    return cut(one_line(rendered.details.get(name, "")), name, max_characters=_MAX_TEXT)


def _cleaned(value: Any) -> Any:
    """Return JSON values with clean texts."""
    match value:
        case str():
            return clean(value)
        case Mapping():
            return {clean(name): _cleaned(each) for name, each in value.items()}
        case list() | tuple():
            return [_cleaned(each) for each in value]
        case _:
            return value


def _judge(answer: Answer) -> DeliveryError | None:
    said = answer.json()
    if answer.is_success and said.get("status") != "success":
        return BrokenRouteError(f"pagerduty: status {answer.status}, but the answer is not PagerDuty's; check base_url")
    # Its `errors` are then such as "Length of 'routing_key' is incorrect (should be 32 characters)".
    if answer.status == HTTPStatus.BAD_REQUEST and "routing_key" in str(said.get("errors")):
        return BrokenRouteError(
            "pagerduty: the routing key was refused; use the integration key of an Events API v2 integration"
        )
    return None


def _check_routing_key(key: str) -> str | None:
    # https://developer.pagerduty.com/docs/events-api-v2-overview
    return None if len(key) == _KEY_CHARACTERS else f"{_KEY_CHARACTERS} characters; got {len(key)}"
