"""Checking a stored chain: how fast, in how much memory, and beside what."""

import itertools
import resource
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import anyio

from fapilog.core.audit import AuditEvent, AuditEventType, AuditTrail

from .events import accesses
from .throughput import log_all

__all__ = ["longest_gap", "peak_memory", "verified"]


async def verify(path: Path, records: int) -> float:
    """Return the seconds that it takes to verify the trail of *records* in *path*."""
    trail = AuditTrail(storage_path=path)
    began = perf_counter()
    verdict = await trail.verify_chain_from_storage()
    took = perf_counter() - began
    assert verdict.valid
    assert verdict.events_checked == records
    return took


def verified(backend: str, directory: str, *, records: int) -> Iterator[float]:
    """Yield records a second. Runs in the peer's environment too."""
    with TemporaryDirectory(dir=directory) as path:
        anyio.run(log_all, Path(path), accesses(records), backend=backend)
        while True:
            yield records / anyio.run(verify, Path(path), records, backend=backend)


def peak_memory(backend: str, directory: str, *, records: int) -> Iterator[float]:
    """Yield the most memory, in MiB, that this process has had when it has verified *records*."""
    path = large_trail(Path(directory), records)
    while True:
        anyio.run(verify, path, records, backend=backend)
        unit = 1 if sys.platform == "darwin" else 1 << 10
        yield resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 20)


def longest_gap(backend: str, directory: str, *, records: int, idle: bool = False) -> Iterator[float]:
    """Yield the longest time, in ms, between two ticks 10 ms apart while *records* are verified, or nothing is done."""
    path = large_trail(Path(directory), records)

    async def work() -> None:
        await (anyio.sleep(1) if idle else verify(path, records))

    while True:
        yield anyio.run(_longest_gap, work, backend=backend) * 1e3


async def _longest_gap(work: Callable[[], Awaitable[None]]) -> float:
    """Return the longest time, in seconds, between two ticks while *work* is done."""
    ticks = [perf_counter()]

    async def tick() -> None:
        while True:
            await anyio.sleep(0.01)
            ticks.append(perf_counter())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await work()
        tasks.cancel_scope.cancel()
    return max(after - before for before, after in itertools.pairwise([*ticks, perf_counter()]))


def large_trail(directory: Path, records: int) -> Path:
    """Return the directory of a trail of *records*; made if it is not there, faster than `log_event` would."""
    from fapilog.record.chain import body, seal  # noqa: PLC0415 - the peer has no such module

    path = directory / f"trail-of-{records}"
    if not path.exists():
        path.mkdir()
        bodies = itertools.cycle([body(an_access(**call)) for call in accesses(1000)])
        checksum: str | None = None
        with (path / "audit_2026-01-31.jsonl").open("wb") as file:
            for number in range(1, records + 1):
                line, (_, _, checksum) = seal(next(bodies), number, checksum)
                file.write(line)
    return path


def an_access(*, patient: int, fields: list[str], **given: Any) -> AuditEvent:
    """Return the event that `log_event` would make of these keywords."""
    metadata = {"patient": patient, "fields": fields}
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, metadata=metadata, **given)
