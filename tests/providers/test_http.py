"""The one POST: what each thing that can happen to it means, and that it keeps its secrets."""

import asyncio
import codecs
import errno
import gc
import gzip
import logging
import os
import socket
import ssl
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Container, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any, Self

import anyio
import anyio.abc
import anyio.to_thread
import pytest

from fapilog import (
    AmbiguousDeliveryError,
    BrokenRouteError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from tests.clock import passing
from tests.doubles.http_providers import EACH, Provider
from tests.doubles.origin import SECRET_PATH, Answer, Fault, Origin
from tests.providers.conftest import an_event

httpx2 = pytest.importorskip("httpx2")
trustme = pytest.importorskip("trustme")

from fapilog.providers._answers import Answer as Seen  # noqa: E402
from fapilog.providers._answers import FilteredError, Judge, PayloadRefusedError, unpacked  # noqa: E402
from fapilog.providers._causes import cause_of  # noqa: E402
from fapilog.providers._http import _LOGGERS, Poster, Request  # noqa: E402

pytestmark = pytest.mark.real_time


class Vendor:
    def __init__(
        self,
        *,
        timeout: float = 10.0,
        client: Any = None,
        judge: Judge | None = None,
        enough: Container[int] = (),
    ) -> None:
        self.poster = Poster(
            "vendor", judge, timeout=timeout, client=client, allow_http=False, repeatable=False, enough=enough
        )

    async def __aenter__(self) -> Self:
        await self.poster.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.poster.close()

    async def post(self, url: str, content: bytes = b"{}", headers: dict[str, str] | None = None) -> None:
        failure = await self.poster.post_once(Request(url, headers or {}, content))
        if failure is not None:
            raise failure


async def failure_of(vendor: Vendor, url: str) -> DeliveryError:
    async with vendor:
        with pytest.raises(DeliveryError) as caught:
            await vendor.post(url)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


STATUSES = [
    *((status, TransientDeliveryError) for status in (408, 425, 429, 500, 501, 502, 503, 504, 599)),
    *((status, BrokenRouteError) for status in (300, 301, 302, 303, 304, 307, 308, 407)),
    *((status, FilteredError) for status in (401, 402, 403, 404, 405, 406, 409, 410, 418, 451, 499)),
    *((status, PayloadRefusedError) for status in (400, 413, 422)),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_the_status_decides(origin: Origin, status: int, kind: type[DeliveryError]) -> None:
    """Every status but 2xx raises the error of its kind, with the status in its text and no word of the body."""
    origin.script(Answer(status, b"" if status == 304 else b"the body", {"location": f"{origin.base_url}/other"}))
    error = await failure_of(Vendor(), origin.url)
    assert type(error) is kind
    assert f"vendor: status {status}" in str(error)
    assert "the body" not in str(error)
    assert len(origin.requests) == 1


@pytest.mark.one_backend
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_a_2xx_is_taken(origin: Origin, status: int) -> None:
    """Any 2xx means that the other side has it."""
    origin.script(Answer(status, b""))
    async with Vendor() as vendor:
        await vendor.post(origin.url, b"bytes as they are", {"x-one": "1"})
    [request] = origin.requests
    assert (request.method, request.path, request.body) == ("POST", SECRET_PATH, b"bytes as they are")
    assert (request.headers["x-one"], request.headers["content-length"]) == ("1", "17")


WORDS = {
    301: "not followed",
    401: "check the key",
    404: "create it anew",
    407: "the proxy wants a password",
    410: "gone for good; create a new one",
}


@pytest.mark.one_backend
@pytest.mark.parametrize(("status", "words"), WORDS.items())
async def test_a_refusal_says_what_to_do(origin: Origin, status: int, words: str) -> None:
    """What is permanent says what to change."""
    origin.script(Answer(status))
    assert words in str(await failure_of(Vendor(), origin.url))


def date(**later: float) -> str:
    return format_datetime(datetime.now(UTC).replace(microsecond=0) + timedelta(**later), usegmt=True)


PAUSES = [
    ({"retry-after": "7"}, 7.0),
    ({"retry-after": " 0.75 "}, 0.75),
    ({"retry-after": "0"}, 0.0),
    ({"retry-after": date(seconds=90), "date": date()}, 90.0),
    ({"retry-after": "Wed, 21 Oct 2015 07:30:00 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 120.0),
    ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    *(({"retry-after": bad}, None) for bad in ("", "-1", "nan", "inf", "1e9", "soon", "1_0", "0x10", "9" * 400)),
    ({"retry-after": "Wed, 99 Oct 99999999 07:28:00 GMT"}, None),
    ({}, None),
]


@pytest.mark.one_backend
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("headers", "seconds"), PAUSES)
async def test_retry_after_is_read(origin: Origin, status: int, headers: dict[str, str], seconds: float | None) -> None:
    """Retry-After counts as seconds, with a fraction or without, and as a date by the other side's clock."""
    origin.script(Answer(status, headers=headers))
    error = await failure_of(Vendor(), origin.url)
    assert isinstance(error, TransientDeliveryError)
    assert error.retry_after == (30.0 if seconds is None and status == 429 else seconds)


async def test_a_date_without_a_clock_counts_from_now(origin: Origin) -> None:
    """Where the answer has no Date, a Retry-After that is a date counts from this machine's time."""
    origin.script(Answer(503, headers={"retry-after": date(seconds=60)}))
    error = await failure_of(Vendor(), origin.url)
    assert isinstance(error, TransientDeliveryError)
    assert error.retry_after is not None
    assert 50 < error.retry_after <= 60


FAULTS: list[tuple[Fault, bool, type[DeliveryError] | None]] = [
    # The fault, whether the body is judged, and what is raised.
    ("hang_before_reading", False, AmbiguousDeliveryError),
    ("hang_before_answering", False, AmbiguousDeliveryError),
    ("reset_before_answering", False, AmbiguousDeliveryError),
    ("close_before_answering", False, AmbiguousDeliveryError),
    ("half_closed", False, AmbiguousDeliveryError),
    ("not_http", False, AmbiguousDeliveryError),
    *((fault, True, AmbiguousDeliveryError) for fault in ("hang_in_body", "reset_in_body", "close_in_body", "drip")),
    # The status alone says that it has arrived.
    *((fault, False, None) for fault in ("hang_in_body", "reset_in_body", "close_in_body", "drip")),
]


@pytest.mark.parametrize(("fault", "judged", "kind"), FAULTS)
async def test_a_fault_after_the_request_is_ambiguous(
    origin: Origin, *, fault: Fault, judged: bool, kind: type[DeliveryError] | None
) -> None:
    """Once the request is written, only an answer tells: without one, or a part that is needed, it may have arrived."""
    origin.script(Answer(200, b"ok" * 50, fault=fault))
    waits = fault.startswith("hang") or fault == "drip"
    vendor = Vendor(timeout=60.0, judge=(lambda _: None) if judged else None)
    async with passing(60.0, once=origin.hangs.is_set) if waits else nullcontext():
        if kind is None:
            async with vendor:
                await vendor.post(origin.url)
        else:
            assert type(await failure_of(vendor, origin.url)) is kind


@pytest.mark.parametrize("fault", ["hang_in_body", "reset_in_body", "close_in_body"])
async def test_a_refusal_with_half_a_body_is_a_refusal(origin: Origin, fault: Fault) -> None:
    """A status that refuses counts, whatever becomes of the body."""
    origin.script(Answer(401, b"ok" * 50, fault=fault))
    vendor = Vendor(timeout=60.0, judge=lambda _: None)
    async with passing(60.0, once=origin.hangs.is_set) if fault == "hang_in_body" else nullcontext():
        assert isinstance(await failure_of(vendor, origin.url), PermanentDeliveryError)


async def test_no_connection_is_transient() -> None:
    """A port where nobody listens did not take the alert."""
    with Origin() as gone:
        url = gone.url
    error = await failure_of(Vendor(), url)
    assert type(error) is TransientDeliveryError
    assert str(error) == "vendor: no connection (the connection was refused; nothing listens at the port)"


async def test_no_name_is_transient() -> None:
    """A host without an address did not take the alert."""
    error = await failure_of(Vendor(), f"https://nowhere.invalid{SECRET_PATH}")
    assert type(error) is TransientDeliveryError
    assert str(error) == "vendor: no connection (the name of the host does not resolve)"


async def test_no_tls_is_transient(origin: Origin) -> None:
    """A server that speaks no TLS did not take the alert."""
    error = await failure_of(Vendor(), origin.url.replace("http:", "https:"))
    assert type(error) is TransientDeliveryError
    assert str(error) == "vendor: no connection (the other side does not speak TLS; check the port)"
    assert not origin.requests


async def test_silence_before_tls_is_transient(origin: Origin) -> None:
    """A server that waits for another protocol than TLS did not take the alert."""
    origin.script(Answer(fault="hang_before_reading"))
    async with passing(60.0, once=origin.hangs.is_set):
        error = await failure_of(Vendor(timeout=60.0), origin.url.replace("http:", "https:"))
    assert type(error) is TransientDeliveryError
    assert str(error) == "vendor: no connection (connected, but TLS did not begin within 60 s)"


def open_to(origin: Origin) -> list[socket.socket]:
    """Return the open sockets whose other side is *origin*."""
    port = httpx2.URL(origin.url).port
    # Asked for its type, a proxy of another library says what it is, and not what it stands for.
    sockets = [each for each in gc.get_objects() if issubclass(type(each), socket.socket) and each.fileno() >= 0]
    found = []
    for each in sockets:
        with suppress(OSError):
            found += [each] if each.getpeername()[1:2] == (port,) else []
    return found


async def test_a_call_that_is_cancelled_while_tls_begins_leaves_no_connection(origin: Origin) -> None:
    """A caller that is cancelled there has the connection closed, and not left to the garbage collector."""
    origin.script(Answer(fault="hang_before_reading"))
    async with Vendor() as vendor, anyio.create_task_group() as tasks:
        tasks.start_soon(vendor.post, origin.url.replace("http:", "https:"))
        await anyio.to_thread.run_sync(origin.hangs.wait)
        assert len(open_to(origin)) == 1
        tasks.cancel_scope.cancel()
    assert open_to(origin) == []


@pytest.mark.slow_on_trio
async def test_a_reset_before_tls_is_transient(origin: Origin) -> None:
    """A server that resets the connection at the first word of TLS did not take the alert."""
    origin.script(Answer(fault="reset_before_reading"))
    error = await failure_of(Vendor(), origin.url.replace("http:", "https:"))
    assert type(error) is TransientDeliveryError
    assert str(error) == "vendor: no connection (the connection was reset)"


async def test_a_close_before_tls_is_transient() -> None:
    """A server that closes the connection at the first word of TLS did not take the alert."""

    async def close(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.receive()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, close)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  it is anyio's
        error = await failure_of(Vendor(), f"https://127.0.0.1:{port}{SECRET_PATH}")
        tasks.cancel_scope.cancel()
    assert type(error) is TransientDeliveryError
    assert str(error) == "vendor: no connection (the connection was closed)"


def tls(authority: Any, name: str = "127.0.0.1", **options: Any) -> ssl.SSLContext:
    """Return a server's context, with a certificate for *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


def trusting(authority: Any) -> Any:
    """Return a client that trusts *authority*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return httpx2.AsyncClient(verify=context)


async def test_a_stranger_s_certificate_is_transient() -> None:
    """A server with a certificate of nobody we know is not told the alert."""
    with Origin(tls(trustme.CA())) as origin:
        error = await failure_of(Vendor(), origin.url)
        assert type(error) is TransientDeliveryError
        assert "(the certificate is not trusted; set SSL_CERT_FILE" in str(error)
        assert not origin.requests


PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime(2090, 1, 1, tzinfo=UTC)
CERTIFICATES: list[tuple[str, dict[str, Any], str]] = [
    ("pager.example.com", {}, "the certificate is for another name"),
    ("127.0.0.2", {}, "the certificate is for another name"),
    ("127.0.0.1", {"not_before": PAST, "not_after": PAST + timedelta(days=9)}, "the certificate has expired"),
    ("127.0.0.1", {"not_before": FUTURE, "not_after": FUTURE + timedelta(days=9)}, "not valid yet; check the clock"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "options", "words"), CERTIFICATES, ids=range(len(CERTIFICATES)))
async def test_a_bad_certificate_is_named(name: str, options: dict[str, Any], words: str) -> None:
    """What is wrong with a certificate is told, each in its own words."""
    authority = trustme.CA()
    with Origin(tls(authority, name, **options)) as origin:
        async with trusting(authority) as client:
            error = await failure_of(Vendor(client=client), origin.url)
        assert type(error) is TransientDeliveryError
        assert words in str(error)
        assert not origin.requests


async def test_no_version_of_tls_in_common() -> None:
    """A server that speaks only a TLS that we refuse is told apart from one that speaks none."""
    authority = trustme.CA()
    context = tls(authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with Origin(context) as origin:
        async with httpx2.AsyncClient(verify=old) as client:
            error = await failure_of(Vendor(client=client), origin.url)
    assert str(error) == "vendor: no connection (TLS failed with TLSV1_ALERT_PROTOCOL_VERSION)"


async def test_the_caller_s_own_error_is_not_the_cause(origin: Origin) -> None:
    """An error that the caller is just handling, such as of its database, is not told as that of the alert."""
    origin.script(Answer(fault="not_http"))
    failure: DeliveryError | None = None
    try:
        raise ConnectionRefusedError
    except ConnectionRefusedError:
        failure = await Vendor().poster.post_once(Request(origin.url, {}, b"{}"))
    assert str(failure) == "vendor: sent, but there was no answer (RemoteProtocolError)"


@pytest.mark.slow_on_trio
async def test_a_lost_answer_says_how(origin: Origin) -> None:
    """A reset and a wait that was too long are told apart."""
    origin.script(Answer(fault="reset_before_answering"), Answer(fault="hang_before_answering"))
    assert "no answer (the connection was reset)" in str(await failure_of(Vendor(), origin.url))
    origin.hangs.clear()
    async with passing(60.0, once=origin.hangs.is_set):
        assert "no answer (not within 60 s)" in str(await failure_of(Vendor(timeout=60.0), origin.url))


def refused(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "s3cr3t")
    error.verify_code = code
    return error


RARE: list[tuple[BaseException, str]] = [
    (OSError(errno.EHOSTUNREACH, "s3cr3t"), "there is no way to the host"),
    (TimeoutError(errno.ETIMEDOUT, "s3cr3t"), "no answer in time"),
    (refused(23), "the certificate was revoked"),
    (refused(79), "the certificate is not accepted, code 79 of OpenSSL"),
    (ssl.SSLError("s3cr3t"), "the connection was closed"),
    (ssl.SSLCertVerificationError("s3cr3t"), "the certificate is not accepted, code 0"),
    (ValueError("s3cr3t"), "Exception"),
    (ExceptionGroup("s3cr3t", [ValueError(), ConnectionRefusedError()]), "the connection was refused"),
]


@pytest.mark.parametrize(("error", "words"), RARE, ids=range(len(RARE)))
def test_a_rare_cause_is_told_too(error: BaseException, words: str) -> None:
    """What no server on this machine does is told by the code of the error behind, and without its text."""
    outer = Exception("s3cr3t")
    outer.__cause__ = error
    said = cause_of(outer)
    assert said.startswith(words)
    assert "s3cr3t" not in said


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    """Run a server, and have the environment name it as the proxy."""
    with Origin() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv("http_proxy", server.base_url)
        monkeypatch.setenv("https_proxy", server.base_url)
        yield server


PROXIED = [
    (407, BrokenRouteError, "the proxy wants a password; put it into the proxy's address"),
    (403, BrokenRouteError, "the proxy refused it, status 403: ask its operator"),
    (404, BrokenRouteError, "the proxy refused it, status 404: ask its operator"),
    (429, TransientDeliveryError, "the proxy refused it, status 429"),
    (502, TransientDeliveryError, "the proxy refused it, status 502"),
    (302, BrokenRouteError, "the proxy refused it, status 302: ask its operator"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("status", "kind", "words"), PROXIED)
async def test_a_proxy_that_opens_no_way(proxy: Origin, status: int, kind: type[DeliveryError], words: str) -> None:
    """A proxy that refuses the way to an https address is told from the other side, and has not seen the alert."""
    proxy.script(Answer(status, b"<html>s3cr3t", {"proxy-authenticate": "Basic"}))
    error = await failure_of(Vendor(), f"https://pager.example.com{SECRET_PATH}")
    assert type(error) is kind
    assert f"vendor: no connection (the proxy refused it, status {status}" in str(error)
    assert words in str(error)
    assert [request.method for request in proxy.requests] == ["CONNECT"]


async def test_a_proxy_s_own_refusal_of_http(proxy: Origin) -> None:
    """A proxy that wants a password answers a plain request itself."""
    proxy.script(Answer(407, b"<html>", {"proxy-authenticate": "Basic"}))
    error = await failure_of(Vendor(), "http://pager.example.com/x")
    assert type(error) is BrokenRouteError
    assert str(error) == "vendor: status 407: the proxy wants a password; put it into the proxy's address"


UNUSABLE = [
    ("SSL_CERT_FILE", "/nowhere/s.pem", "no certificates can be read; see SSL_CERT_FILE=/nowhere/s.pem"),
    ("SSL_CERT_FILE", os.devnull, "no certificates can be read; see SSL_CERT_FILE=/dev/null"),
    ("HTTPS_PROXY", "gopher://user:s3cr3t@proxy:70", "the proxy of the environment can't be used; check HTTPS_PROXY"),
    ("ALL_PROXY", "socks9://user:s3cr3t@proxy:1080", "the proxy of the environment can't be used; check HTTPS_PROXY"),
    ("HTTPS_PROXY", "http://user:s3cr3t/@proxy:3128", "the proxy of the environment can't be used; check HTTPS_PROXY"),
]


@pytest.mark.parametrize(("name", "value", "words"), UNUSABLE)
@pytest.mark.parametrize("is_entered", [True, False])
async def test_a_setting_of_the_environment_that_can_not_be_used(
    proxy: Origin, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str, *, is_entered: bool
) -> None:
    """What is wrong with the certificates or the proxy is told by the name of the variable, at the start already."""
    monkeypatch.delenv("https_proxy")
    monkeypatch.setenv(name, value)
    # The tests keep one context for all.
    monkeypatch.setattr(httpx2, "create_ssl_context", httpx2.create_ssl_context.__wrapped__)
    vendor = Vendor()
    call = vendor.poster.open if is_entered else partial(vendor.post, "https://pager.example.com/x")
    with pytest.raises(BrokenRouteError, match=f"^vendor: {words}") as caught:
        await call()
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None
    assert not proxy.requests


async def test_a_client_that_was_closed(origin: Origin) -> None:
    """A client that was given, and is closed already, is told of as such."""
    async with httpx2.AsyncClient() as client:
        vendor = Vendor(client=client)
        await vendor.post(origin.url)
    error = await failure_of(vendor, origin.url)
    assert type(error) is BrokenRouteError
    assert str(error) == "vendor: the client that it was given is closed; close it after the trail"


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_a_client_is_for_one_loop(origin: Origin, other: str) -> None:
    """A client that was given is refused in another loop, by every provider, and goes on in its own."""

    async def elsewhere() -> DeliveryError:
        return await failure_of(Vendor(client=client), origin.url)

    async with httpx2.AsyncClient() as client:
        await Vendor(client=client).post(origin.url)
        error = await anyio.to_thread.run_sync(partial(anyio.run, elsewhere, backend=other))
        await Vendor(client=client).post(origin.url)
    assert type(error) is BrokenRouteError
    assert str(error) == (
        "vendor: the client that it was given belongs to the event loop that used it first; "
        "give none: then each loop has its own"
    )
    assert len(origin.requests) == 2


async def test_a_socks_proxy_has_no_status(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that speaks of no status is transient."""
    failing = httpx2.MockTransport(lambda _: (_ for _ in ()).throw(httpx2.ProxyError("s3cr3t")))
    async with httpx2.AsyncClient(transport=failing) as client:
        error = await failure_of(Vendor(client=client), origin.url)
    assert type(error) is TransientDeliveryError
    assert str(error) == "vendor: no connection (the proxy refused it)"


@pytest.mark.parametrize("entered", [True, False])
async def test_what_stays_on_this_machine_uses_no_proxy(proxy: Origin, origin: Origin, *, entered: bool) -> None:
    """Alerts for a loopback address, which may be unencrypted for that, never go to the proxy of the environment."""
    port = origin.base_url.rpartition(":")[2]
    urls = [f"http://{host}:{port}{SECRET_PATH}" for host in ("127.0.0.1", "localhost", "LOCALHOST", "127.1.2.3")]
    vendor = Vendor()
    if entered:
        await vendor.poster.open()
    for url in urls:
        await vendor.poster.post_once(Request(url, {}, b"{}"))
    await vendor.poster.post_once(Request("http://pager.example.com/x", {}, b"{}"))
    if entered:
        await vendor.poster.close()
    assert len(origin.requests) >= len(urls) - 1
    assert [request.path for request in proxy.requests] == ["http://pager.example.com/x"]


async def test_a_proxy_that_is_not_there(proxy: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why there is no connection is told with the way: it may be the proxy to which there is none."""
    monkeypatch.setenv("https_proxy", "127.0.0.1:1")
    error = await failure_of(Vendor(), f"https://pager.example.com{SECRET_PATH}")
    assert type(error) is TransientDeliveryError
    assert str(error) == (
        "vendor: no connection through the proxy of the environment"
        " (the connection was refused; nothing listens at the port)"
    )
    assert not proxy.requests


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("excepted", "host"),
    [("example.com, 0.0.0.0", "0.0.0.0"), ("*", "0.0.0.0"), ("::", "[::]"), ("[::]", "[::]")],  # noqa: S104  this machine
)
async def test_an_exception_from_the_proxy(
    proxy: Origin, origin: Origin, monkeypatch: pytest.MonkeyPatch, excepted: str, host: str
) -> None:
    """A host that NO_PROXY names is reached without the proxy, and any other host by it."""
    url = f"http://{host}:{origin.base_url.rpartition(':')[2]}/x"
    await Vendor().poster.post_once(Request(url, {}, b"{}"))
    assert [request.path[-2:] for request in proxy.requests] == ["/x"]
    monkeypatch.setenv("no_proxy", excepted)
    await Vendor().poster.post_once(Request(url, {}, b"{}"))
    assert len(proxy.requests) == 1


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_another_loop_has_connections_of_its_own(origin: Origin, other: str) -> None:
    """While one loop keeps a connection, another one posts, opens and closes, and neither disturbs the other."""
    vendor = Vendor()

    async def post(*, entered: bool) -> None:
        if entered:
            await vendor.poster.open()
        for _ in range(2):
            await vendor.post(origin.url)
        if entered:
            await vendor.poster.close()

    await vendor.poster.open()
    for entered in (False, True):
        await vendor.post(origin.url)
        await anyio.to_thread.run_sync(partial(anyio.run, partial(post, entered=entered), backend=other))
    await vendor.post(origin.url)
    await vendor.poster.close()
    assert len(origin.requests) == 7


async def test_a_client_of_ones_own_brings_its_certificates() -> None:
    """A client that is passed in sends the request, and is not closed."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    with Origin(tls(authority)) as origin:
        async with httpx2.AsyncClient(verify=context, follow_redirects=True, timeout=0.001) as client:
            async with Vendor(client=client) as vendor:
                await vendor.post(origin.url)
            assert not client.is_closed
            origin.script(Answer(307, headers={"location": "/other"}))
            assert "not followed" in str(await failure_of(Vendor(client=client), origin.url))
        assert [request.path for request in origin.requests] == [SECRET_PATH, SECRET_PATH]


def post_in_two_loops(url: str, *, anew: bool) -> None:
    """Post in a loop that is closed then, and in another; *anew*: opened again there."""
    vendor = Vendor()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(vendor.poster.open())
    loop.run_until_complete(vendor.post(url))
    loop.close()

    async def post() -> None:
        async with vendor if anew else nullcontext():
            await vendor.post(url)

    asyncio.run(post())


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("anew", [True, False])
def test_connections_of_a_loop_that_was_closed_are_not_used(origin: Origin, *, anew: bool) -> None:
    """An alert in another loop goes over another connection, and its answer arrives, also if nothing is opened anew."""
    post_in_two_loops(origin.url, anew=anew)
    assert len(origin.requests) == 2
    gc.collect()


def test_another_kind_of_client_is_refused() -> None:
    """With a synchronous client, or one of another package, no alert would be sent."""
    words = "client: expected an AsyncClient of httpx2; got a Client of httpx2"
    with httpx2.Client() as client, pytest.raises(TypeError, match=words):
        Vendor(client=client)


async def test_what_cannot_be_sent_is_permanent(origin: Origin) -> None:
    """A request that HTTP does not allow is refused here, without its text."""
    async with Vendor() as vendor:
        with pytest.raises(PermanentDeliveryError, match="can't be sent") as caught:
            await vendor.post(origin.url, headers={"authorization": "two\r\nlines"})
    assert "lines" not in str(caught.value)
    assert caught.value.__context__ is None
    assert not origin.requests


async def test_a_body_is_read_within_bounds(origin: Origin) -> None:
    """Of a huge body 64 KiB are kept; where more is needed the alert is not sent again, else the status counts."""
    origin.script(Answer(200, b"x" * 5_000_000))
    async with Vendor() as vendor:
        await vendor.post(origin.url)
    error = await failure_of(Vendor(judge=lambda _: None), origin.url)
    assert type(error) is PermanentDeliveryError
    assert "the answer is longer than 64 KiB; the alert may have arrived" in str(error)


async def test_a_body_without_end_takes_no_memory() -> None:
    """Of a body beyond the bound nothing is kept."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield bytes(100_000)

    seen: list[Seen] = []
    endless = httpx2.MockTransport(lambda _: httpx2.Response(400, content=parts()))
    async with httpx2.AsyncClient(transport=endless) as client:
        tracemalloc.start()
        try:
            await failure_of(Vendor(client=client, judge=seen.append), "https://vendor.example.com/")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    (answer,) = seen
    assert (len(answer.body), answer.whole) == (65_536, False)
    assert peak < 3_000_000


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


PACKED: list[tuple[str | None, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("X-GZip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("gzip", zlib.compress),
    ("identity, gzip", gzip.compress),
    ("gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
    # A mark of UTF-8, as some servers put it before every text.
    (None, lambda body: codecs.BOM_UTF8 + body),
    ("gzip", lambda body: gzip.compress(codecs.BOM_UTF8 + body)),
    # Labels of nothing, and labels of a body that was unpacked on the way.
    *((label, bytes) for label in (None, "", "identity", "Identity", "none", "utf-8", "UTF-8", "gzip", "br", "8bit")),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("label", "pack"), PACKED, ids=range(len(PACKED)))
@pytest.mark.parametrize("body", [b'{"ok":true}', b"ok \xc3\xa9", b""])
async def test_an_answer_is_read_as_clients_read_it(
    origin: Origin, label: str | None, pack: Callable[[bytes], bytes], body: bytes
) -> None:
    """A body that was packed unasked, or labelled oddly, is judged like any other."""
    seen: list[Seen] = []
    origin.script(Answer(200, pack(body), {} if label is None else {"content-encoding": label}))
    async with Vendor(judge=seen.append) as vendor:
        await vendor.post(origin.url)
    assert [(answer.body, answer.whole) for answer in seen] == [(body, True)]
    assert origin.requests[0].headers["accept-encoding"] == "identity"


# 10 MB in 10 kB.
BOMB = gzip.compress(bytes(10_000_000))
UNREADABLE = [
    ("br", b"\x0b\x00\x80ok\x03"),
    ("zstd", b"\x28\xb5\x2f\xfd\x20\x02\x11\x00\x00ok"),
    ("gzip", b"\x1f\x8b\xff\xff"),
    ("gzip", gzip.compress(b"ok" * 100)[:-9]),
    ("deflate", bytes(range(256))),
    ("gzip, br", b"\x0b\x00\x80ok\x03"),
    ("rot13", b"\xff\x00"),
    ("gzip", BOMB),
    ("gzip, gzip, gzip", gzip.compress(gzip.compress(BOMB))),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("label", "body"), UNREADABLE, ids=range(len(UNREADABLE)))
async def test_an_answer_that_cannot_be_read(origin: Origin, label: str, body: bytes) -> None:
    """A 2xx that stays unreadable is taken where its status is enough, else an error that asks for no other try."""
    origin.script(Answer(202, body, {"content-encoding": label}))
    error = await failure_of(Vendor(judge=lambda _: None), origin.url)
    assert type(error) is PermanentDeliveryError
    assert "vendor: status 202, but the answer" in str(error)
    for vendor in (Vendor(), Vendor(judge=lambda _: error, enough={202})):
        async with vendor:
            await vendor.post(origin.url)
    assert type(await failure_of(Vendor(judge=lambda _: None, enough={200}), origin.url)) is PermanentDeliveryError


def test_a_bomb_takes_no_memory() -> None:
    """What a body would unpack to is never made."""
    bomb = gzip.compress(BOMB)
    tracemalloc.start()
    try:
        answer = unpacked(200, {"content-encoding": "gzip, gzip"}, bomb, ended=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not answer.whole
    assert peak < 1_000_000


PAGES = [
    (b"\xef\xbb\xbf\r\n<!DOCTYPE html><title>Sign in</title>", {"content-type": "text/html"}),
    (b"<HTML><BODY>We'll be right back", {}),
    (b"<script>location='/login'</script>", {"content-type": "text/html; charset=utf-8"}),
    (b"<meta http-equiv=refresh content='0;url=/login'>", {}),
    (b"<html>" + b" " * 100_000, {"content-type": "text/html"}),
    (gzip.compress(b"<html>" + b" " * 100_000), {"content-type": "text/html", "content-encoding": "gzip"}),
]
OWN = [
    (b"ok", {"content-type": "text/html"}),
    (b"", {"content-type": "text/html"}),
    (b"<Response/>", {"content-type": "application/xml"}),
    (b"<?xml version='1.0'?><ok/>", {"content-type": "text/xml"}),
    (b'{"a": "<html>"}', {"content-type": "application/json"}),
]


@pytest.mark.one_backend
@pytest.mark.parametrize("status", [200, 202, 400, 401, 403, 404, 422])
@pytest.mark.parametrize(("body", "headers"), PAGES, ids=range(len(PAGES)))
async def test_a_web_page_is_nobody_s_answer(origin: Origin, status: int, body: bytes, headers: dict[str, str]) -> None:
    """A web page says that something in between answered, whatever its status; no judge sees it."""
    origin.script(Answer(status, body, {**headers, "server": "nginx/1.2"}))
    for vendor in (Vendor(), Vendor(judge=lambda _: PermanentDeliveryError("vendor: own words"), enough={status})):
        error = await failure_of(vendor, origin.url)
        assert type(error) is FilteredError
        assert str(error).startswith(f"vendor: status {status}, server nginx: a web page")


@pytest.mark.one_backend
@pytest.mark.parametrize(("body", "headers"), OWN)
async def test_a_receiver_may_answer_in_any_type(origin: Origin, body: bytes, headers: dict[str, str]) -> None:
    """A short text that is labelled HTML, and XML, are no web pages."""
    origin.script(Answer(200, body, headers))
    async with Vendor() as vendor:
        await vendor.post(origin.url)


SERVERS = {
    "": "",
    "cloudflare": ", server cloudflare",
    "Microsoft-IIS/10.0": ", server Microsoft-IIS",
    "Apache (Unix)": ", server Apache",
    "t0k3n": "",
    "x" * 100: "",
    "<b>nginx": "",
}


@pytest.mark.one_backend
@pytest.mark.parametrize(("server", "found"), SERVERS.items())
async def test_the_server_is_named_in_letters(origin: Origin, server: str, found: str) -> None:
    """The product that refused is named, if its name can't be anything else."""
    origin.script(Answer(403, b"", {"server": server}))
    error = await failure_of(Vendor(), origin.url)
    assert isinstance(error, FilteredError)
    assert error.found == f"something between refused the content: status 403{found}"


async def test_the_body_has_its_say(origin: Origin) -> None:
    """A judge sees each answer first, with its body, and the error that it returns is raised."""
    seen: list[Seen] = []

    def judge(answer: Seen) -> DeliveryError | None:
        seen.append(answer)
        return None if answer.json().get("ok") is True else PermanentDeliveryError("vendor: says no")

    origin.script(Answer(200, b'{"ok":true}'), Answer(200, b'{"ok":false}'), Answer(403, b"[1]"), Answer(500, b"\xff"))
    async with Vendor(judge=judge) as vendor:
        await vendor.post(origin.url)
        for _ in range(3):
            with pytest.raises(PermanentDeliveryError, match="says no"):
                await vendor.post(origin.url)
    assert [(answer.status, answer.whole) for answer in seen] == [(200, True), (200, True), (403, True), (500, True)]


async def test_connections_are_kept(origin: Origin) -> None:
    """Entered, a dispatcher sends all its alerts over one connection; not entered, each has its own."""
    vendor = Vendor()
    async with vendor, vendor:
        for _ in range(5):
            await vendor.post(origin.url)
    assert origin.connections == 1
    for _ in range(2):
        await vendor.post(origin.url)
    assert origin.connections == 3


@pytest.mark.one_backend
@pytest.mark.parametrize("provider", EACH)
async def test_every_provider_keeps_its_connection(origin: Origin, provider: Provider) -> None:
    """Entered, each sends its alerts over one connection, which is closed when it is left."""
    origin.script(provider.taken)
    dispatcher = provider.make(origin.base_url)
    assert isinstance(dispatcher, AbstractAsyncContextManager)
    for connections in (1, 2):
        async with dispatcher:
            for _ in range(2):
                await dispatcher.send_alert(an_event(), severity="security")
        assert origin.connections == connections


@pytest.mark.slow_on_trio
async def test_alerts_share_a_client(origin: Origin) -> None:
    """Fifty alerts are on their way at once."""
    async with Vendor() as vendor, anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(vendor.post, origin.url)
    assert len(origin.requests) == 50


async def test_cancellation_passes(origin: Origin) -> None:
    """A cancelled post ends at once, and the dispatcher works afterwards."""
    origin.script(Answer(fault="hang_before_answering"), Answer())
    async with Vendor() as vendor:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(vendor.post, origin.url)
            while not origin.requests:  # noqa: ASYNC110  it is in other threads, and has no event to wait for
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        await vendor.post(origin.url)
    assert len(origin.requests) == 2


# Not written where a traceback would show the line.
SECRET_BODY = b"s3cr3t-b0dy"
TOKEN = "Bearer t0k3n"

SPILLS = [
    Answer(200),
    Answer(302, headers={"location": SECRET_PATH}),
    Answer(400, b"no such path: " + SECRET_PATH.encode(), {"x-echo": TOKEN + SECRET_PATH}),
    Answer(429, headers={"retry-after": SECRET_PATH}),
    *(Answer(fault=fault) for fault in ("hang_before_answering", "reset_before_answering", "hang_in_body", "not_http")),
]


@pytest.mark.parametrize("answer", SPILLS)
async def test_no_secret_is_said(origin: Origin, answer: Answer, everything_said: Callable[..., str]) -> None:
    """Neither the address nor a header is in any log at DEBUG, in what is printed, in the error or behind it."""
    origin.script(answer)
    raised: list[Exception] = []
    async with Vendor(timeout=0.3) as vendor:
        try:
            await vendor.post(origin.url, SECRET_BODY, {"authorization": TOKEN})
        except DeliveryError as error:
            raised.append(error)
    said = everything_said(*raised)
    assert "s3cr3t" not in said
    assert "t0k3n" not in said


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://nowhere.invalid", "https://127.0.0.1:9"])
async def test_no_secret_is_said_without_a_connection(url: str, everything_said: Callable[..., str]) -> None:
    """A host that can't be reached gives nothing away either."""
    error = await failure_of(Vendor(), url + SECRET_PATH)
    assert "s3cr3t" not in everything_said(error)


async def test_other_requests_are_still_logged(origin: Origin, everything_said: Callable[..., str]) -> None:
    """Only what a dispatcher sends is kept out of the logs of httpx2."""
    async with Vendor() as vendor, httpx2.AsyncClient() as other:
        await vendor.post(origin.url)
        await other.post(f"{origin.base_url}/someone-else")
    assert "/someone-else" in everything_said()


def test_requests_and_answers_show_no_secret() -> None:
    """The repr of neither, which a crash reporter shows of a frame, has an address, a header or a body in it."""
    request = Request("https://hooks.example/s3cr3t", {"authorization": "s3cr3t"}, b"s3cr3t")
    answer = Seen(200, {"x-echo": "s3cr3t"}, b"s3cr3t", whole=True)
    assert "s3cr3t" not in f"{request!r} {answer!r} {request} {answer}"


def test_every_logger_on_the_way_is_muted() -> None:
    """No logger of httpx2 or httpcore2 is missing in the list."""
    on_the_way = {
        name
        for name, logger in logging.Logger.manager.loggerDict.items()
        if name.startswith(("httpx2", "httpcore2", "hpack")) and isinstance(logger, logging.Logger)
    }
    assert on_the_way <= set(_LOGGERS)


def test_a_timeout_is_checked() -> None:
    """A timeout that is not above zero is refused."""
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout: expected a number above 0"):
            Vendor(timeout=timeout)
