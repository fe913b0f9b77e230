"""Delivering alerts over HTTP, beside httpx2 doing no more than post the same bytes, and making these bytes."""

import base64
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from time import perf_counter, process_time
from typing import Any, Final

import anyio
import httpx2
import msgspec

from fapilog import AuditEvent, AuditEventType, AuditLogLevel
from fapilog.providers import Disclosure
from fapilog.providers._rendering import Rendered, Renderer
from fapilog.providers.alertmanager import AlertmanagerDispatcher
from fapilog.providers.apprise import _body
from fapilog.providers.console import _json
from fapilog.providers.opsgenie import OpsgenieDispatcher, _create
from fapilog.providers.pagerduty import PagerDutyDispatcher, _trigger
from fapilog.providers.slack import SlackDispatcher, _message
from fapilog.providers.smtp import EmailDispatcher
from fapilog.providers.webhook import WebhookDispatcher, _content
from fapilog.testing import Answer, Origin

from .events import accesses

__all__ = ["delivered", "encoded", "posted", "rendered"]

_SECRET: Final = "whsec_" + base64.b64encode(bytes(32)).decode()

_PROVIDERS: Final[dict[str, tuple[Callable[..., Any], str]]] = {
    # What makes a dispatcher for an address, and what the other side answers.
    "webhook": (lambda url, **options: WebhookDispatcher(url=url, secret=_SECRET, **options), "ok"),
    "slack": (lambda url, **options: SlackDispatcher(webhook_url=url, **options), "ok"),
    "pagerduty": (
        lambda url, **options: PagerDutyDispatcher(routing_key="0" * 32, base_url=url, **options),
        '{"status":"success","message":"Event processed","dedup_key":"k"}',
    ),
    "opsgenie": (
        lambda url, **options: OpsgenieDispatcher(api_key="k", base_url=url, **options),
        '{"result":"Request will be processed","took":0.1,"requestId":"r"}',
    ),
    "alertmanager": (lambda url, **options: AlertmanagerDispatcher(urls=[url], **options), ""),
}

_email: Final = EmailDispatcher(host="mail", sender="audit@example.com", recipients=["ops@example.com"])
_alertmanager: Final = AlertmanagerDispatcher(urls=["https://am"])
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)

_RENDERERS: Final[dict[str, Callable[[Rendered], object]]] = {
    "webhook": lambda each: _content(each, None),
    "slack": lambda each: msgspec.json.encode(_message(each)),
    "pagerduty": lambda each: msgspec.json.encode(_trigger(each, None)),
    "opsgenie": lambda each: msgspec.json.encode(_create(each, None)),
    "alertmanager": lambda each: _alertmanager._content(each, "0" * 32, None, _NOW),  # noqa: SLF001
    "email": lambda each: _email._content(each, "<0@example.com>", None),  # noqa: SLF001
    "apprise": _body,
    "console": lambda each: _json(each, None),
}


def delivered(backend: str, _directory: str, *, provider: str, alerts: int, at_once: int = 1) -> Iterator[float]:
    """Yield the microseconds from one alert to the next, *at_once* of them on their way."""
    make, answer = _PROVIDERS[provider]
    events = an_event_each(alerts)
    with origin(answer) as url:

        async def run() -> float:
            async with make(url) as dispatcher:

                async def send(number: int) -> None:
                    await dispatcher.send_alert(events[number], severity="security")

                return await timed(send, alerts, at_once)

        while True:
            yield anyio.run(run, backend=backend) / alerts * 1e6


def posted(backend: str, _directory: str, *, provider: str, alerts: int, at_once: int = 1) -> Iterator[float]:
    """Yield the same of httpx2 that posts what *provider* would, with its headers, and reads the answer."""
    make, answer = _PROVIDERS[provider]
    with origin(answer) as url:
        requests = anyio.run(partial(requests_of, make, url, answer, alerts))

        async def run() -> float:
            async with httpx2.AsyncClient() as client:

                async def post(number: int) -> None:
                    address, content, headers = requests[number]
                    (await client.post(address, content=content, headers=headers)).raise_for_status()

                return await timed(post, alerts, at_once)

        while True:
            yield anyio.run(run, backend=backend) / alerts * 1e6


async def timed(call: Callable[[int], Coroutine[Any, Any, None]], times: int, at_once: int) -> float:
    """Return the seconds that *times* calls take, after some that make the connections."""

    async def run(count: int) -> None:
        if at_once == 1:
            for number in range(count):
                await call(number)
            return
        for first in range(0, count, at_once):
            async with anyio.create_task_group() as tasks:
                for number in range(first, first + at_once):
                    tasks.start_soon(call, number)

    await run(at_once)
    began = perf_counter()
    await run(times)
    return perf_counter() - began


async def requests_of(
    make: Callable[..., Any], url: str, answer: str, alerts: int
) -> list[tuple[str, bytes, dict[str, str]]]:
    """Return address, content and headers of what a dispatcher sends, for another server at *url*."""
    with Origin() as noting:
        noting.script(Answer(200, answer.encode()))
        async with make(noting.base_url) as dispatcher:
            for event in an_event_each(alerts):
                await dispatcher.send_alert(event, severity="security")
    own = {"host", "content-length", "connection"}
    return [
        (url + each.path, each.body, {name: value for name, value in each.headers.items() if name not in own})
        for each in noting.requests
    ]


def rendered(_backend: str, _directory: str, *, provider: str, alerts: int) -> Iterator[float]:
    """Yield the microseconds of processor time that it takes to make what is sent about one event."""
    events, render, write = an_event_each(alerts), Renderer(Disclosure.STANDARD, None), _RENDERERS[provider]
    while True:
        began = process_time()
        for event in events:
            write(render(event, "security"))
        yield (process_time() - began) / alerts * 1e6


def encoded(_backend: str, _directory: str, *, alerts: int) -> Iterator[float]:
    """Yield the microseconds of processor time that msgspec takes to make JSON of one event."""
    events = an_event_each(alerts)
    while True:
        began = process_time()
        for event in events:
            msgspec.json.encode(event)
        yield (process_time() - began) / alerts * 1e6


def an_event_each(count: int, *, first: int = 1) -> list[AuditEvent]:
    """Return *count* events as they are stored, the first of them as record *first*."""
    return [
        AuditEvent(
            event_type=AuditEventType.AUTHENTICATION_FAILED,
            log_level=AuditLogLevel.SECURITY,
            hostname="web-1",
            process_id=4711,
            sequence_number=number,
            previous_hash="1" * 64,
            checksum="2" * 64,
            metadata={name: call.pop(name) for name in ("patient", "fields")},
            **call,
        )
        for number, call in enumerate(accesses(count), first)
    ]


@contextmanager
def origin(answer: str) -> Iterator[str]:
    """Run a server in a process of its own, which answers so, and give its address."""
    command = [sys.executable, "-c", _ORIGIN, answer]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate()


_ORIGIN: Final = """
import sys
from fapilog.testing import Answer, Origin

class Forgetful(list):
    def append(self, request):
        pass

with Origin() as origin:
    origin.requests = Forgetful()
    origin.script(Answer(200, sys.argv[1].encode()))
    print(origin.base_url, flush=True)
    sys.stdin.read()
"""
