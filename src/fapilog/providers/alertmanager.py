"""
Send alerts to Prometheus Alertmanager, or to a service with its API v2.

Needs the extra ``alertmanager``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final, Self

import anyio
import msgspec

from .._extras import needs

with needs("alertmanager"):
    import httpx2

from ..core.alerting import Alert
from ..core.partial import PartialDelivery
from ..record.errors import BrokenRouteError, DeliveryError
from ..record.events import AuditEvent
from ..record.options import require, require_mapping, require_text
from ..record.privacy import Uncopied, without_frames
from ..record.values import text
from ._answers import Answer
from ._http import Poster, Request
from ._rendering import Disclosure, Rendered, Renderer, cut, dedup_key, fit, in_words, least, one_line
from ._secret import SecretSource, sources

__all__ = ["AlertmanagerDispatcher"]

# Alertmanager has no limits of its own; the receivers behind it have.
_MAX_LABEL: Final = 200  # characters
_MAX_ANNOTATIONS: Final = 15_000  # bytes


class AlertmanagerDispatcher(Uncopied):
    """
    Posts every alert to every replica of an Alertmanager, by its API v2.

    The labels identify it: `alertname`, `severity`, `event_type`, `component`, `channel` and `event_key`, which is
    the same for the same event, whenever, by whichever process and to whichever replica it is sent; so it is one alert,
    however often it is posted. The annotations describe it: `summary`, `description`, and every field that may leave.

    Any 2xx means that the replica has the alert in its memory: its configuration decides who is notified, and when, and
    a replica that is restarted before it has notified a receiver forgets the alert. An alert that a replica refuses as
    invalid or too large (400, 413, 422), or that something between refuses with any other 4xx or a web page, is posted
    to it once more, with the same labels, as MINIMAL and without the link.

    If only some replicas have the alert, one error is raised that names both kinds, and when the same dispatcher is
    called again for the event, it posts only to the replicas that lack it.

    Args:
        urls: The addresses of all replicas, never of a load balancer before them; without ``/api/v2/alerts``. They may
            begin with a name and a password: ``https://user:password@host``.
        duration: Seconds until the alert ends by itself, since an event has no end. Longer than the `group_interval` of
            the routes, 5 minutes by default: about an alert that ends sooner, Alertmanager may send no notification.
            Shorter than their `repeat_interval`, 4 hours by default: else it sends another one.
        labels: Further labels, the same for all alerts; or other values for ``alertname``.
        disclosure: How much of an event is sent.
        link: The way to a record, for example ``https://audit.example.com/{event_id}``.
        timeout: Seconds for one attempt.
        client: Sends the requests, all in one event loop; it stays yours to close. None connects in any loops.
        allow_http: Whether an address may begin with ``http:`` and not be this machine's.

    Raises:
        TypeError: An option is not of its type.
        ValueError: An option is not valid. No secret is in the message.
    """

    @without_frames
    def __init__(
        self,
        *,
        urls: SecretSource | Sequence[SecretSource],
        duration: float = 3600.0,
        labels: Mapping[str, str] | None = None,
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 10.0,
        client: httpx2.AsyncClient | None = None,
        allow_http: bool = False,
    ) -> None:
        self._poster = Poster(
            "alertmanager",
            _judge,
            timeout=timeout,
            client=client,
            allow_http=allow_http,
            repeatable=True,
            # "200 OK", without a body: docs/alerts_api.md of Alertmanager.
            enough={HTTPStatus.OK},
        )
        self._render = Renderer(disclosure, link)
        each = sources("urls", urls)
        self._urls = [self._poster.address(url, f"urls[{number}]", check=_check_url) for number, url in enumerate(each)]
        # A year is enough, and a time that datetime can add.
        self._duration = timedelta(seconds=require("duration", duration, above=0, at_most=31_536_000))
        further = {} if labels is None else labels
        require_mapping("labels", further, expected="a mapping of names and texts")
        self._labels = dict(further)
        for name, value in self._labels.items():
            require_text("labels", name, expected="names of further labels")
            # https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels; "__" is for Prometheus itself.
            if not re.fullmatch(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*", name) or name in _OWN or not isinstance(value, str):
                raise ValueError(f"labels: expected names of further labels, with texts; got {name!r}")
        self._partial = PartialDelivery("alertmanager", "replicas")

    async def __aenter__(self) -> Self:
        await self._poster.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._poster.close()

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Post the alert to all replicas that lack it, at the same time."""
        alert = Alert(event, severity, channel)
        now = datetime.fromtimestamp(time.time(), UTC)
        key = dedup_key(event.event_id)
        whole = self._content(self._render(event, severity), key, channel, now)
        failures: dict[int, DeliveryError] = {}

        def less(number: int) -> Request:
            return self._request(number, self._content(least(event, severity), key, channel, now))

        async def post(number: int) -> None:
            try:
                await self._poster.post(self._request(number, whole), lambda: less(number))
            except DeliveryError as error:
                failures[number] = error
            else:
                self._partial.delivered(alert, number)

        lacking = self._partial.receivers_without(alert, range(len(self._urls)))
        if len(lacking) == 1:  # tasks would be a tenth of the time
            await post(*lacking)
        else:
            async with anyio.create_task_group() as tasks:
                for number in lacking:
                    tasks.start_soon(post, number)
        self._partial.finish(alert, failures, len(self._urls))

    def _request(self, number: int, content: bytes) -> Request:
        base = self._urls[number].reveal().rstrip("/").removesuffix("/api/v2/alerts")
        return Request(f"{base}/api/v2/alerts", {"content-type": "application/json"}, content)

    def _content(self, rendered: Rendered, key: str, channel: str | None, now: datetime) -> bytes:
        details = dict(rendered.details)
        labels = {
            "alertname": "fapilog",
            **self._labels,
            "severity": rendered.severity,
            "event_type": details.pop("event_type"),
            "component": details.pop("component", ""),
            "channel": channel or "",
            "event_key": key,
        }
        details.pop("message", None)
        annotations = {"summary": rendered.title, "description": rendered.message or "", **details}
        content = {
            # Empty labels are removed over there: docs/alerts_api.md of Alertmanager.
            "labels": {name: label for name, value in labels.items() if (label := _label(name, value))},
            "annotations": fit(
                {name: in_words(value) for name, value in annotations.items() if value}, _MAX_ANNOTATIONS
            ),
            "startsAt": min(now, datetime.fromisoformat(details["timestamp"])).isoformat(),
            # Counted from now, not from the event: an alert that comes late would have ended before its notification.
            "endsAt": (now + self._duration).isoformat(),
        }
        if rendered.link is not None:
            content["generatorURL"] = rendered.link
        return msgspec.json.encode([content])


_OWN: Final = {"severity", "event_type", "component", "channel", "event_key"}


def _label(name: str, value: str) -> str:
    return cut(one_line(text(value)), name, max_characters=_MAX_LABEL)


def _check_url(url: str) -> str | None:
    return "an address without ? and #" if re.search("[?#]", url) else None


def _judge(answer: Answer) -> DeliveryError | None:
    # Alertmanager answers 200 without a body. A page to read is that of a server before it, such as a login.
    if answer.is_success and answer.body.lstrip().startswith(b"<"):
        return BrokenRouteError("alertmanager: a web page answered, not an Alertmanager; check the address")
    return None
