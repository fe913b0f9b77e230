"""The clients that post alerts: those of a provider, and the one that it may be given."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from typing import Final
from weakref import WeakKeyDictionary

import httpx2

from ..record.errors import BrokenRouteError
from ..tasks.loops import Loop
from ..tasks.threads import in_thread

__all__ = ["certificates_for", "client_for", "given_client"]

# By a client that was given, the loop that used it first. Its connections belong to that loop: in another one, a
# request goes out on an idle connection, and its answer never arrives.
_loops: Final[WeakKeyDictionary[httpx2.AsyncClient, Loop]] = WeakKeyDictionary()


def given_client(name: str, client: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """
    Return *client*, which a provider was given, for a request in this event loop.

    Raises:
        BrokenRouteError: It is closed, or another loop has used it before; the message begins with *name*.
    """
    if client.is_closed:
        raise BrokenRouteError(f"{name}: the client that it was given is closed; close it after the trail")
    if not _loops.setdefault(client, Loop.current()).is_here:
        raise BrokenRouteError(
            f"{name}: the client that it was given belongs to the event loop that used it first; "
            "give none: then each loop has its own"
        )
    return client


async def certificates_for(name: str) -> ssl.SSLContext:
    """Return the certificates of the system, or of the environment; raise BrokenRouteError if they can't be read."""
    # Loading them takes tens of milliseconds.
    with suppress(OSError):
        return await in_thread(httpx2.create_ssl_context)
    # Raised out here, where the foreign error is not behind it.
    place = next((each for each in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(each)), None)
    where = "those of the system" if place is None else f"{place}={os.environ[place]}"
    raise BrokenRouteError(f"{name}: no certificates can be read; see {where}")


def client_for(name: str, certificates: ssl.SSLContext, *, near: bool) -> httpx2.AsyncClient:
    """Return a client, for this machine's addresses if *near*; raise BrokenRouteError if its proxy can't be used."""
    # The environment names proxies, which must not see requests to this machine: those may be unencrypted.
    with suppress(ValueError, ImportError):
        return httpx2.AsyncClient(verify=certificates, trust_env=not near)
    words = "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; one of socks5:// needs the package socksio"
    raise BrokenRouteError(f"{name}: the proxy of the environment can't be used; {words}")
