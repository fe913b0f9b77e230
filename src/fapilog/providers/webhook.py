"""
Send alerts to any address that takes Standard Webhooks.

Needs the extra ``webhook``. The other side verifies alerts with a library of https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, Self

import msgspec

from .._extras import needs

with needs("webhook"):
    import httpx2

from ..record.events import AuditEvent
from ..record.options import require_mapping, require_text
from ..record.privacy import Uncopied, without_frames
from ..record.values import text
from ._http import Poster, Request
from ._rendering import Disclosure, Rendered, Renderer, dedup_key, fit, least
from ._secret import Secret, SecretSource, sources

__all__ = ["WebhookDispatcher"]

# "We recommend ... keeping it under 20kb"; spec/standard-webhooks.md, Payload size.
_MAX_BYTES: Final = 20_000
_KEY_BYTES: Final = range(24, 65)
_RESERVED: Final = {"content-type", "content-length", "host", "webhook-id", "webhook-timestamp", "webhook-signature"}


class WebhookDispatcher(Uncopied):
    """
    Posts every alert as a Standard Webhook, version 1.0, signed with HMAC-SHA256 (``v1``).

    The body is JSON: `type` ("audit." and the type of the event), `timestamp` (when it happened) and `data` (severity,
    channel, title, link, and the fields that may leave). ``webhook-id`` is the same for the same event and address,
    whenever and by whichever process it is sent: a receiver drops an alert that it has seen before.

    Any 2xx but a web page means that the receiver has the alert, and so does 409: it has seen the ``webhook-id``. An
    alert that is answered with any other 4xx, or with a web page, is posted once more, with the same ``webhook-id``, as
    MINIMAL and without the link.

    Args:
        url: The address of the receiver.
        secret: ``whsec_`` and 24 to 64 bytes in base64, as the receiver has it; with several, an alert is signed with
            all of them, so that one can be exchanged while both are accepted.
        headers: Further headers, such as ``Authorization``.
        disclosure: How much of an event is sent.
        link: The way to a record, for example ``https://audit.example.com/{event_id}``.
        timeout: Seconds for one attempt.
        client: Sends the requests, all in one event loop; it stays yours to close. None connects in any loops.
        allow_http: Whether *url* may begin with ``http:`` and not be this machine's.

    Raises:
        TypeError: An option is not of its type.
        ValueError: An option is not valid. No secret is in the message.
    """

    @without_frames
    def __init__(
        self,
        *,
        url: SecretSource,
        secret: SecretSource | Sequence[SecretSource],
        headers: Mapping[str, SecretSource] | None = None,
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 10.0,
        client: httpx2.AsyncClient | None = None,
        allow_http: bool = False,
    ) -> None:
        self._poster = Poster(
            "webhook",
            None,
            timeout=timeout,
            client=client,
            allow_http=allow_http,
            repeatable=True,
            # Receivers answer so for an id that they have seen; 208, which some choose, is a 2xx.
            repeated={HTTPStatus.CONFLICT},
        )
        self._render = Renderer(disclosure, link)
        self._url = self._poster.address(url, "url")
        self._secrets = [Secret(each, "secret", check=_check_secret) for each in sources("secret", secret)]
        further = {} if headers is None else headers
        require_mapping("headers", further, expected="a mapping of names and values")
        for name in further:
            require_text("headers", name, expected="names of further headers")
            if name.lower() in _RESERVED or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ValueError(f"headers: expected names of further headers; got {name!r}")
        self._headers = {name: Secret(value, f"header {name}", check=_check_value) for name, value in further.items()}

    async def __aenter__(self) -> Self:
        await self._poster.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._poster.close()

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Post the alert once; once more with less in it if that is refused."""
        url = self._url.reveal()
        key = dedup_key(event.event_id, url)
        channel = channel and text(channel)

        def request(rendered: Rendered) -> Request:
            return self._request(url, key, _content(rendered, channel))

        await self._poster.post(request(self._render(event, severity)), lambda: request(least(event, severity)))

    def _request(self, url: str, key: str, content: bytes) -> Request:
        """Return the request, signed as of now."""
        now = str(int(time.time()))
        signed = f"{key}.{now}.".encode() + content
        headers = {
            **{name: value.reveal() for name, value in self._headers.items()},
            "content-type": "application/json",
            "webhook-id": key,
            "webhook-timestamp": now,
            "webhook-signature": " ".join(_signature(each.reveal(), signed) for each in self._secrets),
        }
        return Request(url, headers, content)


def _content(rendered: Rendered, channel: str | None) -> bytes:
    """Return the body; its `data` leave a quarter of the limit to the rest."""
    data = {"severity": rendered.severity, "channel": channel, "title": rendered.title, "link": rendered.link}
    data |= rendered.details
    content = {
        "type": f"audit.{rendered.details['event_type']}",
        "timestamp": rendered.details["timestamp"],
        "data": fit({name: value for name, value in data.items() if value is not None}, _MAX_BYTES * 3 // 4),
    }
    return msgspec.json.encode(content)


def _check_value(value: str) -> str | None:
    return None if value.isascii() and value.isprintable() else "printable ASCII"


def _check_secret(secret: str) -> str | None:
    if len(key := _key(secret)) in _KEY_BYTES:
        return None
    # How much of it is as it should be, and nothing of the secret.
    got = (
        f"{len(key)} bytes"
        if key
        else "no base64 behind it"
        if secret.startswith("whsec_")
        else "a text without whsec_"
    )
    return f"whsec_ and 24 to 64 bytes in base64; got {got}"


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True) if secret.startswith("whsec_") else b""
    except binascii.Error:
        return b""


def _signature(secret: str, signed: bytes) -> str:
    return "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()
