"""How long one caller of `log_event` waits."""

import logging
import os
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import anyio
from anyio import to_thread

from fapilog import AlertDispatcher, AuditEventType, AuditLogLevel, AuditTrail

from .events import accesses
from .outboxing import make_webhook
from .providing import origin
from .throughput import a_record

__all__ = ["logged", "logged_alerting", "logged_one_by_one", "written"]


def logged(backend: str, directory: str, *, events: int) -> Iterator[float]:
    """Yield the median of the microseconds that `log_event` takes with durability "fsync"."""
    calls = accesses(events)
    while True:
        with TemporaryDirectory(dir=directory) as path:
            took = anyio.run(partial(_logged, Path(path), AuditEventType.DATA_ACCESS, calls), backend=backend)
        yield statistics.median(took) * 1e6


def written(backend: str, directory: str, *, events: int) -> Iterator[float]:
    """Yield the median of the microseconds that a thread takes to write and sync the same bytes."""
    while True:
        with TemporaryDirectory(dir=directory) as path:
            record = a_record(Path(path, "trail")).encode() + b"\n"
            with Path(path, "bytes").open("ab", buffering=0) as file:
                took = anyio.run(_written, file.fileno(), record, events, backend=backend)
        yield statistics.median(took) * 1e6


def logged_alerting(backend: str, directory: str, *, events: int, hangs: bool, **options: Any) -> Iterator[float]:
    """Yield the 99th percentile of the microseconds that `log_event` takes for events that alert."""
    logging.basicConfig(filename=Path(directory, f"{os.getpid()}.log"))
    calls = [{**call, "log_level": AuditLogLevel.SECURITY} for call in accesses(events)]
    while True:
        dispatcher = Hanging() if hangs else None
        with TemporaryDirectory(dir=directory) as path:
            took = anyio.run(
                partial(_logged, Path(path), AuditEventType.AUTHENTICATION_FAILED, calls, dispatcher, **options),
                backend=backend,
            )
        yield statistics.quantiles(took, n=100)[-1] * 1e6


def logged_one_by_one(backend: str, directory: str, *, events: int, durability: str, posts: bool) -> Iterator[float]:
    """Yield the median of the microseconds that `log_event` takes for an alert, the one before being delivered."""
    calls = [{**call, "log_level": AuditLogLevel.SECURITY} for call in accesses(events)]
    with origin("ok") as url:
        while True:
            dispatcher = make_webhook(url) if posts else None
            with TemporaryDirectory(dir=directory) as path:
                run = partial(_logged, Path(path), AuditEventType.AUTHENTICATION_FAILED, calls, dispatcher, drains=True)
                took = anyio.run(partial(run, durability=durability), backend=backend)
            yield statistics.median(took) * 1e6


class Hanging:
    """A dispatcher that never returns."""

    async def send_alert(self, *_: object, **__: object) -> None:
        await anyio.sleep_forever()


async def _logged(
    path: Path,
    event_type: AuditEventType,
    calls: list[dict[str, Any]],
    dispatcher: AlertDispatcher | None = None,
    *,
    drains: bool = False,
    **options: Any,
) -> list[float]:
    took: list[float] = []
    async with AuditTrail(storage_path=path, alert_dispatcher=dispatcher, stop_timeout=0, **options) as trail:
        for call in calls:
            began = perf_counter()
            await trail.log_event(event_type, **call)
            took.append(perf_counter() - began)
            if drains:
                await trail.drain()
                # So that both sides begin with threads and a loop that sleep, as in a service.
                await anyio.sleep(0.002)
    return took


async def _written(fd: int, record: bytes, times: int) -> list[float]:
    def write_and_sync() -> None:
        os.write(fd, record)
        os.fdatasync(fd)

    took: list[float] = []
    for _ in range(times):
        began = perf_counter()
        await to_thread.run_sync(write_and_sync)
        took.append(perf_counter() - began)
    return took
