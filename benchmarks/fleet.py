"""
Processes that append to one trail in PostgreSQL, beside a bare COPY of the same rows into the same tables.

A process of either kind: ``python -m benchmarks.fleet append|copy BACKEND DSN TRAIL EVENTS CALLERS``. It begins when it
reads a line, and prints when it began and ended, as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

import anyio
import psycopg

from fapilog.core.audit import AuditEvent, AuditEventType
from fapilog.storage.postgres import PostgresStorage, install_schema
from fapilog.storage.postgres._writing import _COPY, _TYPES
from fapilog.storage.protocol import EventFilter
from tests.doubles.postgres import server

from .events import accesses

__all__ = ["appended", "copied"]

_TRAILS = count()


def appended(backend: str, _directory: str, *, processes: int, callers: int, events: int) -> Iterator[float]:
    """
    Yield the events a second of processes that append *events* each to one trail.

    Args:
        backend: As of every subject.
        processes: How many.
        callers: In each of them, each of which appends one event after the other.
        events: For each process.
    """
    with server() as started:
        install_schema(started.dsn())
        while True:
            arguments = ["append", backend, started.dsn(), f"t{next(_TRAILS)}", str(events), str(callers)]
            yield _run(arguments, processes, events)


def copied(_backend: str, _directory: str, *, processes: int, callers: int, events: int) -> Iterator[float]:
    """Yield the rows a second of processes that do nothing but COPY the same rows, *callers* of them in a commit."""
    with server() as started:
        install_schema(started.dsn())
        anyio.run(partial(_append, started.dsn(), "rows", events, 100))
        while True:
            arguments = ["copy", "asyncio", started.dsn(), f"t{next(_TRAILS)}", str(events), str(callers)]
            yield _run(arguments, processes, events)


def _run(arguments: list[str], processes: int, events: int) -> float:
    command = [sys.executable, "-m", "benchmarks.fleet", *arguments]
    started = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(processes)
    ]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    found = [json.loads(each.communicate()[0]) for each in started]
    took: float = max(each["ended"] for each in found) - min(each["began"] for each in found)
    return events * processes / took


async def _append(dsn: str, trail: str, events: int, callers: int) -> dict[str, float]:
    made = [_event(**call) for call in accesses(events)]
    storage = PostgresStorage(dsn, trail, timeout=60)

    async def append(number: int) -> None:
        for event in made[number::callers]:
            await storage.append(event)

    await storage.find(EventFilter(), 1)
    _wait()
    began = perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(callers):
            tasks.start_soon(append, number)
    ended = perf_counter()
    await storage.aclose()
    return {"began": began, "ended": ended}


def _event(**call: Any) -> AuditEvent:
    metadata = {name: call.pop(name) for name in ("patient", "fields")}
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, metadata=metadata, **call)


def _copy(dsn: str, trail: str, callers: int) -> dict[str, float]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute("SELECT * FROM fapilog.records WHERE trail = 'rows'", binary=True).fetchall()
        rows = [(trail, *row[1:]) for row in rows]
        _wait()
        began = perf_counter()
        for first in range(0, len(rows), callers):
            with connection.transaction(), connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.set_types(_TYPES)
                for row in rows[first : first + callers]:
                    copy.write_row(row)
        return {"began": began, "ended": perf_counter()}


def _wait() -> None:
    if not sys.argv[0].endswith("fleet.py"):
        return
    print("ready", flush=True)
    sys.stdin.readline()


def _main(*arguments: str) -> None:
    what, backend, dsn, trail, events, callers, number = arguments
    if what == "append":
        append = partial(_append, dsn, trail, int(events), int(callers))
        print(json.dumps(anyio.run(append, backend=backend)))
    else:
        print(json.dumps(_copy(dsn, trail + number, int(callers))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
