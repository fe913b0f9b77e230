"""Asking a large trail: beside a search over the same bytes."""

import os
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import anyio
import anyio.lowlevel

from fapilog.core.audit import AuditEventType, AuditTrail

from .events import accesses
from .verification import large_trail

__all__ = ["asked", "grepped", "logged_beside"]


def asked(
    backend: str, directory: str, *, records: int, user_id: str | None = None, again: bool = False
) -> Iterator[float]:
    """Yield the ms of a question without an answer: for a user, or for the last minute, with *again* asked before."""
    path = large_trail(Path(directory), records)
    # All records are of the time when the trail was made.
    since = None if user_id is not None else datetime.now(UTC) + timedelta(hours=1)

    async def ask(trail: AuditTrail) -> float:
        began = perf_counter()
        found = await trail.get_events(start_time=since, user_id=user_id)
        took = perf_counter() - began
        assert not found
        return took * 1e3

    trail = AuditTrail(storage_path=path)
    if again:
        anyio.run(ask, trail, backend=backend)
    while True:
        yield anyio.run(ask, trail if again else AuditTrail(storage_path=path), backend=backend)


def grepped(_backend: str, directory: str, *, records: int) -> Iterator[float]:
    """Yield the ms that `grep -c` takes, of which the start of the process is one or two."""
    files = sorted(large_trail(Path(directory), records).glob("audit_*.jsonl"))
    grep = shutil.which("grep") or "grep"
    while True:
        began = perf_counter()
        command = [grep, "-c", '"user_id":"nobody"', *map(str, files)]
        # In another locale it looks for characters, and not for bytes.
        subprocess.run(command, stdout=subprocess.DEVNULL, check=False, env={**os.environ, "LC_ALL": "C"})
        yield (perf_counter() - began) * 1e3


def logged_beside(backend: str, directory: str, *, records: int, searches: int, events: int) -> Iterator[float]:
    """Yield the 99th percentile of the us of `log_event`, while so many searches of another trail go on and on."""
    path = large_trail(Path(directory), records)
    calls = accesses(events)

    async def search(trail: AuditTrail) -> None:
        while True:
            await trail.get_events(user_id="nobody")

    async def log(trail: AuditTrail) -> list[float]:
        took: list[float] = []
        async with anyio.create_task_group() as tasks:
            for _ in range(searches):
                tasks.start_soon(search, AuditTrail(storage_path=path))
            for call in calls:
                began = perf_counter()
                await trail.log_event(AuditEventType.DATA_ACCESS, **call)
                took.append(perf_counter() - began)
                # As in a service, where others have their turn in between.
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        return took

    while True:
        with TemporaryDirectory(dir=directory) as written:
            trail = AuditTrail(storage_path=written, durability="write")
            yield statistics.quantiles(anyio.run(log, trail, backend=backend), n=100)[-1] * 1e6
