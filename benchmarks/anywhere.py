"""A trail without an event loop, from several threads and processes, and with many events or alerts in it."""

import json
import logging
import resource
import sqlite3
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter

import anyio

from fapilog import AuditEvent, AuditEventType, AuditTrail

from .events import accesses
from .latency import Hanging
from .throughput import a_record, log_all

__all__ = ["first_event", "inserted", "logged_by_processes", "logged_without_loop", "memory_of_events", "pending"]


def logged_without_loop(_backend: str, directory: str, *, events: int, threads: int = 1) -> Iterator[float]:
    """Yield the microseconds between two events that `trail.sync.log_event` stores, in all *threads* together."""
    calls = accesses(events)
    while True:
        with TemporaryDirectory(dir=directory) as path:
            trail = AuditTrail(storage_path=path)

            def log(number: int, trail: AuditTrail = trail) -> None:
                for call in calls[number::threads]:
                    trail.sync.log_event(AuditEventType.DATA_ACCESS, **call)

            trail.sync.log_event(AuditEventType.SYSTEM_STARTUP, "the first opens the file")
            workers = [threading.Thread(target=log, args=[number]) for number in range(threads)]
            began = perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            took = perf_counter() - began
        yield took / events * 1e6


def inserted(_backend: str, directory: str, *, events: int) -> Iterator[float]:
    """Yield the microseconds of an INSERT of a line as long, with its commit, into SQLite (WAL, synchronous=FULL)."""
    while True:
        with TemporaryDirectory(dir=directory) as path:
            line = a_record(Path(path, "trail"))
            connection = sqlite3.connect(Path(path, "events.db"), isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE events (number INTEGER PRIMARY KEY, line TEXT NOT NULL)")
            connection.execute("INSERT INTO events (line) VALUES (?)", [line])
            began = perf_counter()
            for _ in range(events):
                connection.execute("INSERT INTO events (line) VALUES (?)", [line])
            took = perf_counter() - began
            connection.close()
        yield took / events * 1e6


def logged_by_processes(backend: str, directory: str, *, events: int, processes: int, figure: str) -> Iterator[float]:
    """
    Yield a figure of *processes* that log into one directory at once, *events* each, ten callers in each.

    Args:
        backend: As of every subject.
        directory: As of every subject.
        events: For each process.
        processes: How many.
        figure: "cpu": processor time an event; "p50", "p99.9": of the time that one call takes. In microseconds.
    """
    while True:
        with TemporaryDirectory(dir=directory) as path:
            command = [sys.executable, "-m", "benchmarks.anywhere", backend, path, str(events)]
            started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
            found = [json.loads(process.communicate()[0]) for process in started]
        took = sorted(seconds for each in found for seconds in each["took"])
        match figure:
            case "cpu":
                yield sum(each["cpu"] for each in found) / (events * processes) * 1e6
            case "p50":
                yield median(took) * 1e6
            case _:
                yield quantiles(took, n=1000)[-1] * 1e6


def first_event(backend: str, directory: str, *, records: int) -> Iterator[float]:
    """Yield the milliseconds of the first `log_event` of a process, in a trail with that many *records*."""

    async def first(path: Path) -> float:
        async with AuditTrail(storage_path=path) as trail:
            began = perf_counter()
            await trail.log_event(AuditEventType.DATA_ACCESS, "m")
            return perf_counter() - began

    with TemporaryDirectory(dir=directory) as path:
        if records:
            anyio.run(partial(log_all, Path(path), accesses(records), 1, durability="write"), backend=backend)
        while True:
            yield anyio.run(first, Path(path), backend=backend) * 1e3


def pending(backend: str, directory: str, *, alerts: int) -> Iterator[float]:
    """Yield the bytes that an alert takes, with its event, while it waits for a dispatcher that hangs."""

    logging.disable(logging.ERROR)  # of the alerts that are given up in the end

    async def wait(path: str) -> float:
        trail = AuditTrail(
            storage_path=path, durability="write", alert_dispatcher=Hanging(), alert_buffer=2 * alerts, stop_timeout=0
        )
        await trail.start()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        for call in accesses(alerts):
            await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, **call)
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        await trail.stop()
        return (after - before) / alerts

    while True:
        with TemporaryDirectory(dir=directory) as path:
            yield anyio.run(wait, path, backend=backend)


def memory_of_events(_backend: str, _directory: str, *, events: int) -> Iterator[float]:
    """Yield the bytes that such an event takes by itself."""
    while True:
        calls = accesses(events)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        kept = [
            AuditEvent(
                event_type=AuditEventType.SECURITY_VIOLATION,
                **{key: value for key, value in call.items() if key in AuditEvent.__struct_fields__},
                metadata={key: value for key, value in call.items() if key not in AuditEvent.__struct_fields__},
            )
            for call in calls
        ]
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        yield (after - before) / len(kept)


async def _log_many(path: str, events: int) -> list[float]:
    """Log *events* by ten callers at once, and return the seconds that each call took."""
    took: list[float] = []
    calls = accesses(events)

    async def log(trail: AuditTrail, number: int) -> None:
        for call in calls[number::10]:
            began = perf_counter()
            await trail.log_event(AuditEventType.DATA_ACCESS, **call)
            took.append(perf_counter() - began)

    async with AuditTrail(storage_path=path) as trail, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(log, trail, number)
    return took


def _main(backend: str, path: str, events: str) -> None:
    took = anyio.run(_log_many, path, int(events), backend=backend)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"took": took, "cpu": used.ru_utime + used.ru_stime}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
