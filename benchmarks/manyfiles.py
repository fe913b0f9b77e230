"""Several processes that write to one trail, beside the files of years."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import anyio
import anyio.to_thread

from fapilog import AuditEvent, AuditEventType, AuditTrail, FileStorage

from .events import accesses

__all__ = ["logged_among"]


def logged_among(backend: str, directory: str, *, events: int, days: int, processes: int = 4) -> Iterator[float]:
    """
    Yield the events a second of *processes*, one caller in each, in a trail with a file for each of *days*.

    Counted when every process has stored its first event, and so knows the files.
    """
    with TemporaryDirectory(dir=directory) as path:
        anyio.run(_make_days, path, days, backend=backend)
        command = [sys.executable, "-m", "benchmarks.manyfiles", backend, path, str(events)]
        while True:
            started = [
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(processes)
            ]
            for process in started:
                assert process.stdout is not None
                process.stdout.readline()
            began = perf_counter()
            for process in started:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            for process in started:
                assert process.stdout is not None
                process.stdout.readline()
            took = perf_counter() - began
            for process in started:
                process.communicate()
            yield processes * events / took


async def _make_days(path: str, days: int) -> None:
    now = datetime.now(UTC) - timedelta(days=days)
    storage = FileStorage(Path(path), durability="write", now=lambda: now)
    for _ in range(days):
        await storage.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"))
        now += timedelta(days=1)
    await storage.aclose()


async def _log(path: str, events: int) -> None:
    async with AuditTrail(storage_path=path) as trail:
        await trail.log_event(AuditEventType.SYSTEM_STARTUP, "the first looks at the files")
        print(flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        for call in accesses(events):
            await trail.log_event(AuditEventType.DATA_ACCESS, **call)
        print(flush=True)


if __name__ == "__main__":
    anyio.run(partial(_log, sys.argv[2], int(sys.argv[3])), backend=sys.argv[1])
