"""
The one POST that all providers over HTTP share, and what its answers mean.

What happens to the request decides what is raised:

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

An alert whose content is refused is posted once more with the least that can be said of it: better that people are
called and have to look than that nobody is.
"""

from __future__ import annotations

import email.utils
import ipaddress
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import anyio
import anyio.to_thread
import httpx2
import msgspec

from ..record.errors import AmbiguousDeliveryError, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from ..record.options import require
from ._secret import Secret, SecretSource

__all__ = ["Answer", "HttpDispatcher", "PayloadRefusedError"]

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
_posting: ContextVar[bool] = ContextVar("fapilog_posting", default=False)


def _is_not_ours(_: logging.LogRecord) -> bool:
    return not _posting.get()


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_is_not_ours)


class Answer(NamedTuple):
    """
    What the other side answered.

    Attributes:
        status: For example 200.
        headers: Their names in any case.
        body: At most 64 KiB of it. It may repeat a secret: look for words you know, and print nothing else of it.
        whole: Whether that is all of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool

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


class PayloadRefusedError(PermanentDeliveryError):
    """Raised when the other side refused what was sent, and not who sent it or where to."""


class HttpDispatcher:
    """
    What the dispatchers over HTTP have in common: a client, and a POST that tells the truth.

    Entered, it keeps connections open from one alert to the next, and closes them when it is left; not entered, it
    opens one for each alert.

    Args:
        name: What to call the other side in messages: "slack".
        timeout: Seconds for one attempt, from the connection to the end of the answer.
        client: Sends the requests, with your proxies and certificates; it stays yours to close. None makes one.
        allow_http: Whether an address may begin with ``http:`` and not be this machine's.

    Raises:
        ValueError: The timeout is not above zero.
    """

    def __init__(self, name: str, *, timeout: float, client: httpx2.AsyncClient | None, allow_http: bool) -> None:
        self._name = name
        self._timeout = require("timeout", timeout, above=0)
        self._client = client
        self._allow_http = allow_http
        self._own_client: httpx2.AsyncClient | None = None
        self._entered = 0

    async def __aenter__(self) -> Self:
        if self._client is None and self._own_client is None:
            self._own_client = await _make_client()
        self._entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered -= 1
        client = self._own_client
        if not self._entered and client is not None:
            self._own_client = None
            await client.aclose()

    def _address(self, source: SecretSource, name: str) -> Secret:
        """Return an address that is https, or this machine's, or any if *allow_http* says so; raise ValueError."""
        return Secret(source, name, check=self._complaint)

    def _complaint(self, address: str) -> str | None:
        expected = "an address that begins with https:// and a host"
        try:
            url = httpx2.URL(address)
        except (httpx2.InvalidURL, ValueError):
            return expected
        if url.scheme not in {"https", "http"} or not re.fullmatch(rb"[\w.-]+|[0-9A-Fa-f:.]+", url.raw_host):
            return expected
        if url.scheme == "http" and not self._allow_http and not _is_loopback(url.host):
            return "https:, or this machine, or allow_http=True"
        return None

    async def _post_or_less(
        self, post: Callable[[bytes], Awaitable[None]], whole: bytes, less: Callable[[], bytes]
    ) -> None:
        """
        Post an alert; if its content is refused, once more with less, unless there is no less to say.

        Args:
            post: Posts a content, as `_post` does.
            whole: The content.
            less: Returns one that says the `least`, with the same key.

        Raises:
            DeliveryError: As *post* does; where nothing is left to leave out, a PermanentDeliveryError.
        """
        refusal = await _refusal(post, whole)
        if refusal is None:
            return
        content = less()
        if content == whole:
            raise PermanentDeliveryError(refusal)
        again = await _refusal(post, content)
        if again is not None:
            raise PermanentDeliveryError(f"{again}; with less in it, it was refused again")
        _logger.warning("%s; what was taken says only what happened, and where in the trail it is", refusal)

    async def _post(
        self,
        address: str,
        content: bytes,
        headers: Mapping[str, str],
        *,
        judge: Callable[[Answer], None] | None = None,
    ) -> None:
        """
        Post *content* once; return if the other side has it.

        Args:
            address: Where to.
            content: The body.
            headers: All but the content's length.
            judge: Is given any answer first, and raises what the status alone does not tell; then the status decides. A
                2xx without a whole body it does not see: that is ambiguous.

        Raises:
            DeliveryError: As the table on top of this module says.
        """
        answer = await self._answer(address, content, headers, needs_body=judge is not None)
        if isinstance(answer, DeliveryError):
            raise answer
        if judge is not None:
            judge(answer)
        failure = self._failure(answer)
        if failure is not None:
            raise failure

    async def _answer(
        self, address: str, content: bytes, headers: Mapping[str, str], *, needs_body: bool
    ) -> Answer | DeliveryError:
        """Return the answer, or what is to be raised, which so has no foreign error behind it."""
        stream = _Content(content)
        answer: Answer | None = None
        failed: str | None = None
        posting = _posting.set(True)
        with anyio.move_on_after(self._timeout) as limit:
            try:
                borrowed = self._client or self._own_client
                async with nullcontext(borrowed) if borrowed else await _make_client() as client:
                    request = client.build_request(
                        "POST",
                        address,
                        content=stream,
                        # Undecoded, so that what is read is bounded.
                        headers={**headers, "content-length": str(len(content)), "accept-encoding": "identity"},
                        timeout=None,
                    )
                    response = await client.send(request, stream=True, follow_redirects=False)
                    answer = Answer(response.status_code, response.headers, b"", whole=False)
                    try:
                        answer = await _read(response, answer)
                    finally:
                        await response.aclose()
            except _CANT_BE_SENT as error:
                return PermanentDeliveryError(f"{self._name}: the request can't be sent ({type(error).__name__})")
            except Exception as error:
                failed = type(error).__name__
            finally:
                _posting.reset(posting)
        if limit.cancelled_caught:
            failed = f"not within {self._timeout:g} s"
        if answer is not None and (answer.whole or not (needs_body and answer.is_success)):
            return answer
        if answer is not None:
            return AmbiguousDeliveryError(f"{self._name}: status {answer.status}, but the answer was cut off")
        if stream.begun:
            return AmbiguousDeliveryError(f"{self._name}: sent, but there was no answer ({failed})")
        return TransientDeliveryError(f"{self._name}: no connection ({failed})")

    def _failure(self, answer: Answer) -> DeliveryError | None:
        """Return what *answer* means by its status."""
        status = answer.status
        if answer.is_success:
            return None
        where = f"{self._name}: status {status}"
        if status in _TRANSIENT or httpx2.codes.is_server_error(status):
            return self._later(answer, f"status {status}", throttled=status == HTTPStatus.TOO_MANY_REQUESTS)
        if httpx2.codes.is_redirect(status):
            return PermanentDeliveryError(f"{where}: a redirect, which is not followed; configure the new address")
        kind = PayloadRefusedError if status in _REFUSED else PermanentDeliveryError
        return kind(f"{where}: {_ADVICE.get(status, 'the alert was refused')}")

    def _later(self, answer: Answer, seen: str, *, throttled: bool) -> TransientDeliveryError:
        """Return that it may be tried again, and when, after an *answer* in which this was *seen*."""
        retry_after = _retry_after(answer.headers)
        if retry_after is None and throttled:
            retry_after = _PAUSE_AFTER_429
        pause = "" if retry_after is None else f", to be tried again in {retry_after:g} s"
        return TransientDeliveryError(f"{self._name}: {seen}{pause}", retry_after=retry_after)


async def _refusal(post: Callable[[bytes], Awaitable[None]], content: bytes) -> str | None:
    """Post *content*; return why it was refused, None if it was taken."""
    try:
        await post(content)
    except PayloadRefusedError as error:
        return str(error)
    return None


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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
