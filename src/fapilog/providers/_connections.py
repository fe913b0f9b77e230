"""
The connections that carry alerts: a provider's own, and those of the client that it may be given.

A provider's own are transports of httpx2, and no `AsyncClient`: the agents of Datadog, New Relic and Sentry patch its
`send`, and record the address of every request, which may be a secret.
"""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Final, Self
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

import httpx2

from ..record.errors import BrokenRouteError
from ..tasks.loops import Loop
from ..tasks.threads import in_thread
from ._secret import is_loopback

__all__ = ["Connections", "GivenClient", "RawHeaders"]

RawHeaders = Sequence[tuple[bytes, bytes]]
"""Names and values, as they go over the wire."""

# As httpx2's own clients send.
_DEFAULTS: Final = [(b"accept", b"*/*"), (b"user-agent", f"python-httpx2/{httpx2.__version__}".encode())]

# By a client that was given, the loop that used it first. Its connections belong to that loop: in another one, a
# request goes out on an idle connection, and its answer never arrives.
_loops: Final[WeakKeyDictionary[httpx2.AsyncClient, Loop]] = WeakKeyDictionary()


class Connections:
    """
    Connections to any targets, for one event loop, kept until they are closed.

    Args:
        name: The vendor in messages: "slack".
        certificates: The authorities that targets are checked by.

    Raises:
        BrokenRouteError: The proxy that the environment names can't be used.
    """

    def __init__(self, name: str, certificates: ssl.SSLContext) -> None:
        proxies = getproxies()
        self._direct = httpx2.AsyncHTTPTransport(verify=certificates)
        # By the scheme of the target's address.
        self._proxied: dict[str, httpx2.AsyncHTTPTransport] = {}
        with suppress(ValueError, ImportError, httpx2.InvalidURL):
            for scheme in ("http", "https"):
                proxy = proxies.get(scheme) or proxies.get("all")
                if proxy:
                    address = proxy if "://" in proxy else f"http://{proxy}"
                    self._proxied[scheme] = httpx2.AsyncHTTPTransport(verify=certificates, proxy=address)
            return
        # Raised out here, where the foreign error is not behind it.
        words = "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; one of socks5:// needs the package socksio"
        raise BrokenRouteError(f"{name}: the proxy of the environment can't be used; {words}")

    @classmethod
    async def new(cls, name: str) -> Self:
        """
        Return connections with the certificates of the system, or of the environment.

        Raises:
            BrokenRouteError: The certificates, or the proxy of the environment, can't be used.
        """
        # Loading them takes tens of milliseconds.
        with suppress(OSError):
            return cls(name, await in_thread(httpx2.create_ssl_context))
        place = next((each for each in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(each)), None)
        where = "those of the system" if place is None else f"{place}={os.environ[place]}"
        raise BrokenRouteError(f"{name}: no certificates can be read; see {where}")

    async def aclose(self) -> None:
        """Close all of them."""
        async with AsyncExitStack() as closing:
            for transport in (self._direct, *self._proxied.values()):
                closing.push_async_callback(transport.aclose)

    def way(self, url: httpx2.URL) -> str:
        """Return the way to *url* in words for messages; empty if it is direct."""
        return "" if self._transport(url) is self._direct else " through the proxy of the environment"

    def send(
        self, url: httpx2.URL, headers: RawHeaders, content: httpx2.AsyncByteStream
    ) -> Coroutine[Any, Any, httpx2.Response]:
        """Post *content*, to this machine past any proxy, and return the answer, without its body."""
        own = [*_DEFAULTS, *_credentials(url)]
        request = _request(url, _merged(own, headers), content)
        return self._transport(url).handle_async_request(request)

    def _transport(self, url: httpx2.URL) -> httpx2.AsyncHTTPTransport:
        found = self._proxied.get(url.scheme)
        # The proxies must not see requests to this machine: those may be unencrypted.
        if found is None or is_loopback(url.host):
            return self._direct
        # An IPv6 address stands in NO_PROXY with brackets or without.
        hosts = (url.host, url.netloc.decode("ascii"))
        return self._direct if any(map(proxy_bypass, hosts)) else found


class GivenClient:
    """
    The client that a provider was given, with its own settings, in the event loop that has used it first.

    Args:
        name: The vendor in messages.
        client: The client.
    """

    def __init__(self, name: str, client: httpx2.AsyncClient) -> None:
        self._name = name
        self._client = client

    def way(self, _url: httpx2.URL) -> str:
        """Return no words: the client has its own proxies."""
        return ""

    def send(
        self, url: httpx2.URL, headers: RawHeaders, content: httpx2.AsyncByteStream
    ) -> Coroutine[Any, Any, httpx2.Response]:
        """
        Post *content*, and return the answer, without its body.

        Raises:
            BrokenRouteError: The client is closed, or another loop has used it before.
        """
        client = self._client
        if client.is_closed:
            raise BrokenRouteError(f"{self._name}: the client that it was given is closed; close it after the trail")
        if not _loops.setdefault(client, Loop.current()).is_here:
            raise BrokenRouteError(
                f"{self._name}: the client that it was given belongs to the event loop that used it first; "
                "give none: then each loop has its own"
            )
        request = _request(url, _merged(client.headers.raw, headers), content, client)
        return client.send(request, stream=True, follow_redirects=False)


def _request(
    url: httpx2.URL, headers: RawHeaders, content: httpx2.AsyncByteStream, client: httpx2.AsyncClient | None = None
) -> httpx2.Request:
    """Return the request as ``client.build_request`` does, which takes three times as long to merge headers."""
    return httpx2.Request(
        "POST",
        url,
        params=client.params or None if client else None,
        headers=headers,
        cookies=client.cookies if client else None,
        content=content,
        # The caller has one limit for all.
        extensions={"timeout": httpx2.Timeout(None).as_dict()},
    )


def _merged(own: Iterable[tuple[bytes, bytes]], headers: RawHeaders) -> RawHeaders:
    """Return *headers*, and those of *own* that they lack."""
    names = {name.lower() for name, _ in headers}
    return [*(each for each in own if each[0].lower() not in names), *headers]


def _credentials(url: httpx2.URL) -> RawHeaders:
    """Return the header for the user and the password in the address, if there are any."""
    if not url.userinfo:
        return []
    return [(b"authorization", b"Basic " + base64.b64encode(f"{url.username}:{url.password}".encode()))]
