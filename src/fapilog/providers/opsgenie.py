"""
Alert by Jira Service Management (JSM) Operations, or by Opsgenie, which it succeeds.

Needs the extra ``opsgenie``. Opsgenie's API works until 2027-04-05; JSM's is the same at another address.
https://developer.atlassian.com/cloud/jira/service-desk-ops/rest/v2/api-group-integration-events/
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, Self

import msgspec

from .._extras import needs

with needs("opsgenie"):
    import httpx2

from ..record.errors import BrokenRouteError, DeliveryError
from ..record.events import AuditEvent
from ..record.incidents import is_recovery, subject_of
from ..record.privacy import Uncopied, without_frames
from ._answers import Answer
from ._http import Poster, Request
from ._rendering import Disclosure, Rendered, Renderer, clean, cut, dedup_key, fit, in_words, least, one_line
from ._secret import Secret, SecretSource, check_printable

__all__ = ["OpsgenieDispatcher"]

# P1 is the highest, P5 "informational"; https://docs.opsgenie.com/docs/alert-api
_PRIORITIES: Final = {"debug": "P5", "info": "P5", "warning": "P3", "error": "P2", "critical": "P1", "security": "P1"}

# https://docs.opsgenie.com/docs/alert-api#create-alert: characters, but for the number of tags.
_MAX_MESSAGE: Final = 130
_MAX_DESCRIPTION: Final = 15_000
_MAX_ENTITY: Final = 512
_MAX_TAGS: Final = 20
_MAX_TAG: Final = 50
# All names and values together.
_MAX_DETAILS: Final = 8_000

# "HTML formatting for the message values is also supported" (https://docs.opsgenie.com/docs/alerts-and-alert-fields),
# yet a text message shows an escaped "&lt;" as it is. These look right in both.
_LEFT: Final = "\u2039"
_RIGHT: Final = "\u203a"


class OpsgenieDispatcher(Uncopied):
    """
    Creates an alert in Jira Service Management Operations, or in Opsgenie, for every event.

    Events of type ``error_recovered`` and ``component_recovery`` whose metadata name an ``incident`` close the alert of
    the event with the same `incident`, or with the incident as its id. Without an `incident` they create an alert, like
    any other event.

    ``alias`` is made of the API key and of the `incident`, or else of the event's id, and is the same in every process:
    while the alert is open, sending it again raises its count and notifies no responder. Once it is closed, the same
    alias creates a new alert. Another API key makes another alias.

    The 202 means that the request was taken, and will be processed; it can still fail there. Whether it did is at
    ``/v2/alerts/requests/`` and its id, and in the log of the integration. An alert that it refuses as invalid or too
    large (400, 413, 422), or that something between refuses with any other 4xx or a web page, is sent once more, with
    the same ``alias``, as MINIMAL and without the link.

    Event type, severity, channel and regulatory tags become tags, which its policies can route by.

    Args:
        api_key: The key of an API integration; an API token of a person is something else.
        base_url: The address of the API: ``https://api.opsgenie.com`` for Opsgenie in the US,
            ``https://api.eu.opsgenie.com`` in the EU. JSM has one address for both.
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
        api_key: SecretSource,
        base_url: SecretSource = "https://api.atlassian.com/jsm/ops/integration",
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 10.0,
        client: httpx2.AsyncClient | None = None,
        allow_http: bool = False,
    ) -> None:
        self._poster = Poster(
            "opsgenie",
            _judge,
            timeout=timeout,
            client=client,
            allow_http=allow_http,
            repeatable=True,
            # "The request is valid and will be processed asynchronously", https://docs.opsgenie.com/docs/response
            enough={HTTPStatus.ACCEPTED},
        )
        self._render = Renderer(disclosure, link)
        self._url = self._poster.address(base_url, "base_url")
        self._api_key = Secret(api_key, "api_key", check=check_printable)

    async def __aenter__(self) -> Self:
        await self._poster.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._poster.close()

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Create the alert once, or close it; create it once more with less in it if that is refused."""
        api_key = self._api_key.reveal()
        # Aliases count for the whole account: the teams of two keys must both get the alert.
        alias = dedup_key(subject_of(event), api_key)
        address = self._url.reveal().rstrip("/") + "/v2/alerts"
        if is_recovery(event):
            # JSM takes it too, although its reference leaves it out: https://jira.atlassian.com/browse/JSDCLOUD-14179
            address += f"/{alias}/close?identifierType=alias"
        headers = {"content-type": "application/json", "authorization": f"GenieKey {api_key}"}

        def request(rendered: Rendered) -> Request:
            said: dict[str, Any] = {"note": _text(rendered.title)}
            if not is_recovery(event):
                said = {"alias": alias, **_create(rendered, channel)}
            return Request(address, headers, msgspec.json.encode({"source": "fapilog", **said}))

        await self._poster.post(request(self._render(event, severity)), lambda: request(least(event, severity)))


def _create(rendered: Rendered, channel: str | None) -> dict[str, Any]:
    """Return the part of the request with the event."""
    given = rendered.details
    details = {
        "link": rendered.link,
        **{name: _text(in_words(value)) for name, value in given.items() if name != "message"},
    }
    tags = [given["event_type"], rendered.severity, channel or "", *given.get("regulatory_tags", ())]
    content = {
        "message": cut(_text(rendered.title), "message", max_characters=_MAX_MESSAGE),
        "description": cut(_text(rendered.message or ""), "description", max_characters=_MAX_DESCRIPTION),
        "priority": _PRIORITIES.get(rendered.severity, "P1"),
        "tags": [cut(tag, "tag", max_characters=_MAX_TAG) for tag in map(_tag, tags) if tag][:_MAX_TAGS],
        "entity": cut(_tag(given.get("component", "")), "entity", max_characters=_MAX_ENTITY),
        "details": fit({name: value for name, value in details.items() if value}, _MAX_DETAILS),
    }
    return {name: value for name, value in content.items() if value}


def _text(given: str) -> str:
    return clean(given).replace("<", _LEFT).replace(">", _RIGHT)


def _tag(given: str) -> str:
    return _text(one_line(given))


def _judge(answer: Answer) -> DeliveryError | None:
    # Every answer of Opsgenie's has a `requestId`, and `took`: https://docs.opsgenie.com/docs/response
    is_its_own = bool(answer.json().get("requestId"))
    if answer.is_success and not is_its_own:
        return BrokenRouteError(f"opsgenie: status {answer.status}, but the answer is not Opsgenie's; check base_url")
    if is_its_own and answer.status in _ADVICE:
        return BrokenRouteError(f"opsgenie: status {answer.status}: {_ADVICE[answer.status]}")
    return None


# By the table of the same page; 403 has two meanings.
_ADVICE: Final = {
    401: "the API key is not valid, or its integration is turned off; check the key, and turn it on",
    402: "the plan of the account does not allow it; change the plan, or use another account",
    403: "the API key may not create alerts; allow it in its integration",
    404: "there is nothing at the address; check base_url",
}
