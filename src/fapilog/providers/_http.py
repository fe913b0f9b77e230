"""
The one POST that all providers over HTTP share, and the meaning of its answers.

A provider gives a `Request` and judges an `Answer`; a `Poster` does the rest. What is seen decides what is raised:

======================================================= ==================================================
What is seen                                            What is raised
======================================================= ==================================================
2xx, and the body agrees                                nothing
429, 503 and others below, with Retry-After             TransientDeliveryError with `retry_after`
429 without                                             TransientDeliveryError, `retry_after` 30 s
408, 425, 5xx                                           TransientDeliveryError
no connection: refused, DNS, TLS, or not in time        TransientDeliveryError
sent, then a reset, no answer, half an answer           AmbiguousDeliveryError
400, 413, 422                                           PayloadRefusedError
3xx, which is never followed, and every other status    PermanentDeliveryError that says what to do
======================================================= ==================================================

An alert whose content is refused is posted once more with the least that can be said of it: better a call that makes
the reader look at the trail than no call.
"""

from __future__ import annotations

import email.utils
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread
import httpx2
import msgspec

from ..record.errors import AmbiguousDeliveryError, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from ..record.options import require
from ._muting import mute, muted
from ._secret import Secret, SecretSource, is_loopback

__all__ = ["Answer", "Judge", "PayloadRefusedError", "Poster", "Request"]

_logger: Final = logging.getLogger("fapilog.providers")

# No vendor answers with more than a few hundred bytes.
_MAX_BODY: Final = 65_536
# Seconds. "Retry 3 times, 30 seconds apart", PagerDuty's Events API, Rate Limits; the others give no number.
_PAUSE_AFTER_429: Final = 30.0

# httpx2 logs the address of each request at INFO, and httpcore2 the headers of each answer, such as a Location that
# repeats it, at DEBUG; with HTTP/2, hpack logs all headers. Ours are kept out of the logs; other requests are not.
_LOGGERS: Final = (
    "httpx2",
    "httpcore2.connection",
    "httpcore2.http11",
    "httpcore2.http2",
    "httpcore2.proxy",
    "httpcore2.socks",
    "hpack.hpack",
    "hpack.table",
)
mute(_LOGGERS)


class Request(NamedTuple):
    """
    One POST.

    Attributes:
        url: The address, which may be a secret.
        headers: All headers but the content's length.
        content: The body.
    """

    url: str
    headers: Mapping[str, str]
    content: bytes

    def __repr__(self) -> str:
        return f"<request of {len(self.content)} bytes>"


class Answer(NamedTuple):
    """
    The other side's answer.

    Attributes:
        status: For example 200.
        headers: Names, in any case, and values.
        body: The first 64 KiB. It may repeat a secret: look for words that you know, and print no other.
        whole: Whether *body* is all of the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

    def __repr__(self) -> str:
        return f"<answer with status {self.status}>"

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return httpx2.codes.is_success(self.status)

    def json(self) -> dict[str, Any]:
        """Return the body's JSON object; an empty one if it is anything else."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return {}

    def later(self, seen: str, *, throttled: bool) -> TransientDeliveryError:
        """
        Return an error that asks for another try, after the pause that the answer asks for.

        Args:
            seen: The vendor and the part of the answer that asks: "slack: ratelimited".
            throttled: Whether too many alerts came: an answer without a pause then asks for 30 s.
        """
        retry_after = _retry_after(self.headers)
        if retry_after is None and throttled:
            retry_after = _PAUSE_AFTER_429
        pause = "" if retry_after is None else f", to be tried again in {retry_after:g} s"
        return TransientDeliveryError(f"{seen}{pause}", retry_after=retry_after)


Judge = Callable[[Answer], DeliveryError | None]
"""
Returns the error that an answer means by more than its status; None lets the status decide.

A 2xx without a whole body is not judged: it is ambiguous.
"""


class PayloadRefusedError(PermanentDeliveryError):
    """Means that the other side refused the content, and neither the sender nor the address."""


class Poster:
    """
    Posts alerts to one vendor.

    Opened, it keeps connections from one alert to the next; not opened, it makes one for each alert.

    Args:
        name: The vendor in messages: "slack".
        judge: Is asked first about any answer; None lets the status alone decide.
        timeout: Seconds for one attempt, from the connection to the end of the answer.
        client: Sends the requests, with your proxies and certificates; it stays yours to close. None makes one.
        allow_http: Whether an address may begin with ``http:`` and not be this machine's.

    Raises:
        ValueError: The timeout is not above zero.
    """

    def __init__(
        self, name: str, judge: Judge | None, *, timeout: float, client: httpx2.AsyncClient | None, allow_http: bool
    ) -> None:
        self._name = name
        self._judge = judge
        self._timeout = require("timeout", timeout, above=0)
        self._client = client
        self._allow_http = allow_http
        self._own_client: httpx2.AsyncClient | None = None
        self._opened = 0

    async def open(self) -> None:
        """Keep connections until `close` was called as often as this."""
        if self._client is None and self._own_client is None:
            self._own_client = await _make_client()
        self._opened += 1

    async def close(self) -> None:
        """Close the connections, unless `open` was called more often than this."""
        self._opened -= 1
        client = self._own_client
        if not self._opened and client is not None:
            self._own_client = None
            await client.aclose()

    def address(
        self, source: SecretSource, name: str, *, check: Callable[[str], str | None] = lambda _: None
    ) -> Secret:
        """Return an address that is https, or this machine's, or any if *allow_http* says so; otherwise as `Secret`."""
        return Secret(source, name, check=lambda given: self._complaint(given) or check(given))

    def _complaint(self, address: str) -> str | None:
        expected = "an address that begins with https:// and a host"
        try:
            url = httpx2.URL(address)
        except (httpx2.InvalidURL, ValueError):
            return expected
        if url.scheme not in {"https", "http"} or not re.fullmatch(rb"[\w.-]+|[0-9A-Fa-f:.]+", url.raw_host):
            return expected
        if url.scheme == "http" and not self._allow_http and not is_loopback(url.host):
            return "https:, or this machine, or allow_http=True"
        return None

    async def post(self, whole: Request, less: Callable[[], Request]) -> None:
        """
        Post an alert; if its content is refused, once more with less in it, unless there is no less to say.

        Args:
            whole: The alert.
            less: Returns the `least` of the same alert, with the same key.

        Raises:
            DeliveryError: As the table on top of this module says; where nothing is left to leave out, a refusal of the
                content is a PermanentDeliveryError.
        """
        failure = await self.post_once(whole)
        if isinstance(failure, PayloadRefusedError):
            failure = await self._post_less(whole, less(), refusal=str(failure))
        if failure is not None:
            raise failure

    async def _post_less(self, whole: Request, less: Request, refusal: str) -> DeliveryError | None:
        if less.content == whole.content:
            return PermanentDeliveryError(refusal)
        failure = await self.post_once(less)
        if isinstance(failure, PayloadRefusedError):
            return PermanentDeliveryError(f"{failure}; with less in it, it was refused again")
        if failure is None:
            _logger.warning("%s; what was taken says only what happened, and where in the trail it is", refusal)
        return failure

    async def post_once(self, request: Request) -> DeliveryError | None:
        """Post *request*, and return why the other side may not have the alert; None if it has."""
        answer = await self._answer(request)
        if isinstance(answer, DeliveryError):
            return answer
        failure = self._judge(answer) if self._judge is not None else None
        return failure if failure is not None else _failure(self._name, answer)

    async def _answer(self, request: Request) -> Answer | DeliveryError:
        """Return the answer, or the error to raise, which so has no foreign error behind it."""
        stream = _Content(request.content)
        answer: Answer | None = None
        failed: str | None = None
        with muted(), anyio.move_on_after(self._timeout) as limit:
            try:
                borrowed = self._client or self._own_client
                async with nullcontext(borrowed) if borrowed else await _make_client() as client:
                    sent = client.build_request(
                        "POST",
                        request.url,
                        content=stream,
                        headers={
                            **request.headers,
                            "content-length": str(len(request.content)),
                            # Not packed, so that the bytes that are read are bounded.
                            "accept-encoding": "identity",
                        },
                        timeout=None,
                    )
                    response = await client.send(sent, stream=True, follow_redirects=False)
                    answer = Answer(response.status_code, response.headers, b"", whole=False)
                    try:
                        answer = await _read(response, answer)
                    finally:
                        await response.aclose()
            except _CANT_BE_SENT as error:
                return PermanentDeliveryError(f"{self._name}: the request can't be sent ({type(error).__name__})")
            except Exception as error:
                failed = type(error).__name__
        if limit.cancelled_caught:
            failed = f"not within {self._timeout:g} s"
        if answer is not None and (answer.whole or self._judge is None or not answer.is_success):
            return answer
        if answer is not None:
            return AmbiguousDeliveryError(f"{self._name}: status {answer.status}, but the answer was cut off")
        if stream.begun:
            return AmbiguousDeliveryError(f"{self._name}: sent, but there was no answer ({failed})")
        return TransientDeliveryError(f"{self._name}: no connection ({failed})")


def _failure(name: str, answer: Answer) -> DeliveryError | None:
    """Return the error that *answer* means by its status."""
    status = answer.status
    if answer.is_success:
        return None
    where = f"{name}: status {status}"
    if status in _TRANSIENT or httpx2.codes.is_server_error(status):
        return answer.later(where, throttled=status == HTTPStatus.TOO_MANY_REQUESTS)
    if httpx2.codes.is_redirect(status):
        return PermanentDeliveryError(f"{where}: a redirect, which is not followed; configure the new address")
    kind = PayloadRefusedError if status in _REFUSED else PermanentDeliveryError
    return kind(f"{where}: {_ADVICE.get(status, 'the alert was refused')}")


_TRANSIENT: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_REFUSED: Final = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}

_ADVICE: Final = {
    400: "the alert was refused as malformed; check the options, and report it if they are right",
    401: "the credentials were refused; check the key, token or secret",
    403: "the credentials do not allow it; check the key, token or secret, and what it may do",
    404: "there is nothing at the address; check it, or create it anew on the other side",
    405: "the address takes no alerts; check it",
    410: "the address is gone for good; create a new one on the other side, and configure it here",
    413: "the alert is too large for it",
    422: "the alert was refused as invalid; check the options, and report it if they are right",
}

_CANT_BE_SENT: Final = (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, UnicodeError)


class _Content(httpx2.AsyncByteStream):
    """A body that knows whether anyone has begun to send it: the headers are out by then."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        yield self._content


async def _make_client() -> httpx2.AsyncClient:
    # Loading the certificates takes tens of milliseconds.
    context = await anyio.to_thread.run_sync(httpx2.create_ssl_context, abandon_on_cancel=True)
    return httpx2.AsyncClient(verify=context)


async def _read(response: httpx2.Response, answer: Answer) -> Answer:
    """Return *answer* with the body; with no more than is read of it, if that fails."""
    if response.headers.get("content-encoding", "identity") != "identity":
        return answer
    body = b""
    # To the end, within the time: a generator of httpx2 that is left early warns on trio.
    async for part in response.aiter_raw():
        if len(body) <= _MAX_BODY:
            body += part
    return answer._replace(body=body[:_MAX_BODY], whole=len(body) <= _MAX_BODY)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that Retry-After asks for, from a number, or from a date by the other side's own clock."""
    given = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,10})?", given):
        return float(given)
    until = _date(given)
    if until is None:
        return None
    now = _date(headers.get("date", "")) or datetime.fromtimestamp(time.time(), UTC)
    return max(0.0, (until - now).total_seconds())


def _date(given: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(given)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
