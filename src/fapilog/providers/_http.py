"""
The one POST that all providers over HTTP share, and the meaning of its answers.

A provider gives a `Request` and judges an `Answer`; a `Poster` does the rest. The answer decides the error:

======================================================= ==================================================
Seen                                                    Raised
======================================================= ==================================================
2xx, and the body agrees                                nothing
2xx with a body that can't be read                      nothing where the vendor's status says enough,
                                                        else PermanentDeliveryError: not posted again
2xx with a web page                                     posted with less; then BrokenRouteError
2xx with another body than the vendor's                 BrokenRouteError
429, 503 and the statuses below, with Retry-After       TransientDeliveryError with `retry_after`
429 without                                             TransientDeliveryError, `retry_after` 30 s
408, 425, 5xx                                           TransientDeliveryError
no connection: refused, DNS, TLS, or not in time        TransientDeliveryError that says why
sent, then a reset, no answer, half an answer           AmbiguousDeliveryError
400, 413, 422, without a web page                       posted with less; then PermanentDeliveryError
4xx about the credentials, in the vendor's own words    BrokenRouteError with advice
407, and a 4xx of the proxy before there is a way       BrokenRouteError
3xx, which is never followed                            BrokenRouteError
every other 4xx                                         posted with less; then BrokenRouteError
======================================================= ==================================================

An alert whose content is refused is posted once more with the least content: better a call that makes the reader look
at the trail than no call. So is an alert that was refused without a word of the vendor's: firewalls refuse requests
that quote an attack, and an alert about an attack does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Callable, Container, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from functools import partial
from typing import Final, NamedTuple

import anyio
import httpx2

from ..record.errors import (
    AmbiguousDeliveryError,
    BrokenRouteError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from ..record.options import require, require_bool, require_kind_or_none
from ..tasks.loops import Loop
from ..tasks.strangers import Log
from ._answers import MOST_READ, Answer, FilteredError, Judge, PayloadRefusedError, by_proxy, by_status, unpacked
from ._causes import cause_of, waited_for
from ._connections import Connections, GivenClient, RawHeaders
from ._muting import mute, muted
from ._secret import Secret, SecretSource, is_loopback

__all__ = ["Poster", "Request"]

_log: Final = Log("fapilog.providers")

# httpx2 logs the address of every request at INFO, and httpcore2 the headers of every answer, such as a Location that
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


class _Kept:
    """
    The connections that are kept from one alert to the next.

    Attributes:
        connections: The connections.
        opened: How often they were opened, and not closed.
    """

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.opened = 0


class Poster:
    """
    Posts alerts to one vendor.

    In an event loop in which it is opened, it keeps connections from one alert to the next; elsewhere it makes one per
    alert. Any loops may use it at the same time.

    Args:
        name: The vendor in messages: "slack".
        judge: Is asked first about any answer but a web page; None lets the status alone decide.
        timeout: Seconds for one attempt, from the connection to the end of the answer.
        client: Sends the requests, with your proxies and certificates, in one event loop; it stays yours to close. None
            makes connections, for any loops, through the proxies of the environment, but not to this machine's
            addresses.
        allow_http: Whether an address may begin with ``http:`` and not be this machine's.
        repeatable: Whether the vendor recognises an alert by a key, and takes it once however often it comes.
        enough: The statuses by which alone the vendor says that it has the alert, if the rest can't be read.
        repeated: The statuses by which it says that it had the alert already.

    Raises:
        TypeError: *client* is another kind of client, such as a synchronous one, or one of httpx.
        ValueError: The timeout is not above zero.
    """

    def __init__(
        self,
        name: str,
        judge: Judge | None,
        *,
        timeout: float,
        client: httpx2.AsyncClient | None,
        allow_http: bool,
        repeatable: bool,
        enough: Container[int] = (),
        repeated: Container[int] = (),
    ) -> None:
        self._name = name
        self._judge = judge
        require_kind_or_none("client", client, httpx2.AsyncClient, expected="an AsyncClient of httpx2")
        self._timeout = require("timeout", timeout, above=0)
        self._client = None if client is None else GivenClient(name, client)
        self._allow_http = require_bool("allow_http", allow_http)
        self._repeatable = repeatable
        self._enough = enough
        self._repeated = repeated
        # By the loop that they were opened in: no other loop can use their connections.
        self._kept: dict[Loop, _Kept] = {}
        self._last_url: tuple[str, httpx2.URL] | None = None

    async def open(self) -> None:
        """
        Keep connections, for calls in this event loop, until `close` was called in it as often as this.

        Raises:
            BrokenRouteError: The certificates or the proxy that the environment names can't be used.
        """
        if self._client is not None:
            return
        # Those of a loop that has ended without a `close` are of no use any more.
        for loop in [each for each in self._kept.copy() if each.is_closed]:
            self._kept.pop(loop, None)
        here = Loop.current()
        if here not in self._kept:
            made = await Connections.new(self._name)
            self._kept.setdefault(here, _Kept(made))
        self._kept[here].opened += 1

    async def close(self) -> None:
        """Close the connections of this event loop, unless `open` was called more often than this."""
        kept = self._kept.get(Loop.current())
        if kept is None:
            return
        kept.opened -= 1
        if not kept.opened:
            del self._kept[Loop.current()]
            await kept.connections.aclose()

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
        Post an alert; if that is refused, for its content or without a reason, once more with less in it.

        Args:
            whole: The alert.
            less: Returns the `least` of the same alert, with the same key.

        Raises:
            DeliveryError: As the table on top of this module says.
        """
        failure = await self.post_once(whole)
        if isinstance(failure, PayloadRefusedError | FilteredError):
            failure = await self._post_less(whole, less(), failure)
        if failure is not None:
            raise failure

    async def _post_less(
        self, whole: Request, less: Request, refusal: PayloadRefusedError | FilteredError
    ) -> DeliveryError | None:
        """Post *less*, unless it is the same as *whole*, and return the error to raise; None if the alert was taken."""
        if less.content == whole.content:
            return _for_good(refusal, str(refusal))
        # The other side may know the key from the request that it has just refused.
        failure = await self.post_once(less, repeated=())
        if isinstance(failure, PayloadRefusedError | FilteredError):
            return _for_good(failure, f"{failure}; with less in it, it was refused again")
        if failure is None:
            found = f"{self._name}: {refusal.found}" if isinstance(refusal, FilteredError) else str(refusal)
            _log.warning("%s; the alert that was taken has only the event type and the place in the trail", found)
        return failure

    async def post_once(self, request: Request, *, repeated: Container[int] | None = None) -> DeliveryError | None:
        """
        Post *request*, and return why the other side may not have the alert; None if it has.

        Args:
            request: The alert.
            repeated: The statuses that say that the other side has the alert already; None for the vendor's.
        """
        answer = await self._answer(request)
        if isinstance(answer, DeliveryError):
            return answer
        if not answer.is_page:
            if answer.status in (self._repeated if repeated is None else repeated):
                return None
            if answer.is_success and answer.unreadable is not None:
                return self._unreadable(answer)
            if self._judge is not None:
                if answer.is_success and not answer.whole:
                    return self._unknown(f"status {answer.status}, but the answer was cut off")
                judged = self._judge(answer)
                if judged is not None:
                    return judged
        return by_status(self._name, answer)

    def _unknown(self, words: str) -> AmbiguousDeliveryError:
        return AmbiguousDeliveryError(f"{self._name}: {words}", repeatable=self._repeatable)

    def _unreadable(self, answer: Answer) -> DeliveryError | None:
        # As unreadable the next time: every further try could be one more message.
        if self._judge is None or answer.status in self._enough:
            return None
        return PermanentDeliveryError(
            f"{self._name}: status {answer.status}, but the answer {answer.unreadable};"
            " the alert may have arrived, and is not sent again"
        )

    async def _answer(self, request: Request) -> Answer | DeliveryError:
        """Return the answer, or the error to raise, which so has no foreign error behind it."""
        stream = _Content(request.content)
        handled = sys.exception()
        response: httpx2.Response | None = None
        body = bytearray()
        ended = False
        failed = ""
        # Asked where a connection fails alone: it reads the whole environment for the exceptions from a proxy.
        way: Callable[[], str] = str
        with muted(), anyio.move_on_after(self._timeout):
            try:
                url = self._parsed(request.url)
                async with await self._connections() as connections:
                    way = partial(connections.way, url)
                    response = await connections.send(url, _headers(request), stream)
                    try:
                        # To the end, within the time: a generator of httpx2 that is left early warns on trio.
                        async for part in response.aiter_raw():
                            body += part[: MOST_READ - len(body)]
                        ended = True
                    finally:
                        await response.aclose()
            except BrokenRouteError as error:
                return error.with_traceback(None)
            except _CANT_BE_SENT as error:
                return BrokenRouteError(f"{self._name}: the request can't be sent ({type(error).__name__})")
            except httpx2.ProxyError as error:
                # Its text begins with the status of the proxy's answer; a SOCKS proxy has none.
                found = re.match("[1-5][0-9][0-9]", str(error))
                return by_proxy(self._name, int(found[0]) if found else None)
            except anyio.get_cancelled_exc_class() as error:
                failed = await waited_for(error, self._timeout)
                raise
            except Exception as error:
                failed = cause_of(error, handled)
        if response is not None:
            return unpacked(response.status_code, response.headers, bytes(body), ended=ended)
        if stream.begun:
            return self._unknown(f"sent, but there was no answer ({failed})")
        return TransientDeliveryError(f"{self._name}: no connection{way()} ({failed})")

    async def _connections(self) -> AbstractAsyncContextManager[Connections | GivenClient]:
        """Return the connections to post by, which are closed then unless they are kept, or given."""
        kept = self._kept.get(Loop.current())
        kept_or_given = self._client if kept is None else kept.connections
        return aclosing(await Connections.new(self._name)) if kept_or_given is None else nullcontext(kept_or_given)

    def _parsed(self, address: str) -> httpx2.URL:
        # It is the same for most alerts, and parsing it takes a thirtieth of a whole post. Any thread may be here.
        known = self._last_url
        if known is None or known[0] != address:
            known = self._last_url = address, httpx2.URL(address)
        return known[1]


def _headers(request: Request) -> RawHeaders:
    return [
        *((name.encode("ascii"), value.encode("ascii")) for name, value in request.headers.items()),
        (b"content-length", b"%d" % len(request.content)),
        # Not packed, please; some pack all the same.
        (b"accept-encoding", b"identity"),
    ]


def _for_good(refusal: PayloadRefusedError | FilteredError, words: str) -> DeliveryError:
    return PermanentDeliveryError(words) if isinstance(refusal, PayloadRefusedError) else BrokenRouteError(words)


_CANT_BE_SENT: Final = (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, UnicodeError)


class _Content(httpx2.AsyncByteStream):
    """A body that knows whether its sending has begun: the headers are out by then."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.begun = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        yield self._content
