"""Taking alerts into an outbox and sending them, beside SQLite and httpx2 doing no more than that."""

import base64
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any, Final

import anyio
import httpx2
import msgspec

from fapilog import AuditEvent, NoopAlertDispatcher
from fapilog.core.alerting import Alert
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.outbox._file.place import OutboxFile
from fapilog.delivery.outbox._file.queue import FileQueue
from fapilog.delivery.outbox._place import Ending, Request, Verdict
from fapilog.providers.webhook import WebhookDispatcher

from .providing import an_event_each, origin, requests_of

__all__ = ["committed", "drained", "posted_at_once", "started", "taken"]

_AT_ONCE: Final = 8
_CALLERS: Final = 100
_SECRET: Final = "whsec_" + base64.b64encode(bytes(32)).decode()


def taken(backend: str, directory: str, *, alerts: int, pending: int = 0) -> Iterator[float]:
    """Yield the alerts a second that 100 tasks get into an outbox, in which *pending* wait already."""
    with TemporaryDirectory(dir=directory) as folder:
        path = Path(folder, "alerts.db")
        fill(path, pending)
        # Nothing is sent meanwhile, so that it is only the taking that is measured.
        paused = _request(time.time())._replace(pause=3600.0)
        OutboxFile(path).run([lambda queue: queue.exchange("alerts", paused)])

        async def run(events: list[AuditEvent]) -> float:
            waiting = iter(events)

            async def send(outbox: Outbox) -> None:
                for event in waiting:
                    await outbox.send_alert(event, severity="security")

            async with Outbox(NoopAlertDispatcher(), path) as outbox:
                began = perf_counter()
                async with anyio.create_task_group() as tasks:
                    for _ in range(_CALLERS):
                        tasks.start_soon(send, outbox)
                return perf_counter() - began

        for first in count(pending + 1, alerts):
            yield alerts / anyio.run(run, an_event_each(alerts, first=first), backend=backend)


def committed(_backend: str, directory: str, *, alerts: int) -> Iterator[float]:
    """Yield the alerts a second that SQLite takes, each with a commit of its own, as durable as those of the outbox."""
    with TemporaryDirectory(dir=directory) as folder:
        connection = sqlite3.connect(Path(folder, "alerts.db"), isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE alerts (event_id TEXT PRIMARY KEY, event BLOB)")
        while True:
            events = an_event_each(alerts)
            began = perf_counter()
            for event in events:
                connection.execute("INSERT INTO alerts VALUES (?, ?)", (event.event_id, msgspec.json.encode(event)))
            yield alerts / (perf_counter() - began)


def drained(backend: str, directory: str, *, alerts: int, by_processor: bool = False) -> Iterator[float]:
    """Yield the alerts a second, of the clock or of the processor, that an outbox with a backlog sends to a webhook."""
    now = process_time if by_processor else perf_counter
    with origin("ok") as url, TemporaryDirectory(dir=directory) as folder:

        async def run(path: Path) -> float:
            outbox = Outbox(make_webhook(url), path, concurrency=_AT_ONCE, stop_timeout=3600)
            began = now()
            async with outbox:
                pass  # leaving sends what is due
            took = now() - began
            assert not await outbox.pending()
            return took

        for number in count():
            path = Path(folder, f"{number}.db")
            fill(path, alerts)
            yield alerts / anyio.run(run, path, backend=backend)


def posted_at_once(backend: str, _directory: str, *, alerts: int, by_processor: bool = False) -> Iterator[float]:
    """Yield the posts a second of as many tasks with httpx2, of the same bytes to the same server."""
    now = process_time if by_processor else perf_counter
    with origin("ok") as url:
        requests = anyio.run(partial(requests_of, make_webhook, url, "ok", 100))

        async def run() -> float:
            numbers = iter(range(alerts))

            async def post(client: httpx2.AsyncClient) -> None:
                for number in numbers:
                    address, content, headers = requests[number % 100]
                    (await client.post(address, content=content, headers=headers)).raise_for_status()

            began = now()
            # The client is made within the time, as that of the outbox is.
            async with httpx2.AsyncClient() as client, anyio.create_task_group() as tasks:
                for _ in range(_AT_ONCE):
                    tasks.start_soon(post, client)
            return now() - began

        while True:
            yield alerts / anyio.run(run, backend=backend)


def started(backend: str, directory: str, *, delivered: int) -> Iterator[float]:
    """Yield the milliseconds until an outbox, with as many receipts in it, is entered and has taken one alert."""
    with TemporaryDirectory(dir=directory) as folder:
        path = Path(folder, "alerts.db")
        fill(path, delivered, delivered=True)

        async def run() -> float:
            [event] = an_event_each(1)
            began = perf_counter()
            async with Outbox(NoopAlertDispatcher(), path) as outbox:
                await outbox.send_alert(event, severity="security")
                return perf_counter() - began

        while True:
            yield anyio.run(run, backend=backend) * 1e3


def make_webhook(url: str, **options: Any) -> WebhookDispatcher:
    """Return a dispatcher to *url*."""
    return WebhookDispatcher(url=url, secret=_SECRET, **options)


def fill(path: Path, alerts: int, *, delivered: bool = False) -> None:
    """Put *alerts* into the outbox at *path*."""
    file = OutboxFile(path)
    for first in range(1, alerts + 1, 10_000):
        file.run([partial(_put, first, min(10_000, alerts + 1 - first), delivered)])
    file.close()


def _put(first: int, alerts: int, delivered: bool, queue: FileQueue) -> None:  # noqa: FBT001
    now = time.time()
    for event in an_event_each(alerts, first=first):
        queue.put("alerts", Alert(event, "security", None), now)
    if delivered:
        claims = queue.exchange("alerts", _request(now)._replace(room=alerts)).claims
        arrived = Verdict("dispatched", "delivered", wait=0.0, failures=0, spent=0.0)
        endings = [Ending(claim, arrived, now, took=0.01, reason=None, next_at=0.0) for claim in claims]
        queue.exchange("alerts", _request(now)._replace(endings=endings))


def _request(now: float) -> Request:
    return Request("benchmark", now, 0.0, lasts=60.0, longest_wait=3600.0)
