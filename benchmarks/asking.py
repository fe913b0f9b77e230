"""Asking a large trail: beside a search over the same bytes."""

import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

import anyio

from fapilog.core.audit import AuditTrail

from .verification import large_trail

__all__ = ["asked", "grepped"]


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
        subprocess.run([grep, "-c", '"user_id":"nobody"', *files], stdout=subprocess.DEVNULL, check=False)
        yield (perf_counter() - began) * 1e3
