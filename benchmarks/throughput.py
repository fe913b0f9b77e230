"""Events a second that get to disk. `logged` runs in the peer's environment too, where fapilog is the earlier one."""

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import anyio

from fapilog.core.audit import AuditEventType, AuditTrail

from .events import accesses

__all__ = ["a_record", "log_all", "logged", "logged_by_stdlib"]


async def log_all(path: Path, calls: list[dict[str, Any]], callers: int = 1, **options: Any) -> float:
    """Log an event for each of *calls*; return the seconds from the first `log_event` to the end of `stop`."""
    trail = AuditTrail(storage_path=path, **options)

    async def log(calls: list[dict[str, Any]]) -> None:
        for call in calls:
            await trail.log_event(AuditEventType.DATA_ACCESS, **call)

    await trail.start()
    began = perf_counter()
    if callers == 1:
        await log(calls)
    else:
        async with anyio.create_task_group() as tasks:
            for number in range(callers):
                tasks.start_soon(log, calls[number::callers])
    await trail.stop()
    return perf_counter() - began


def logged(backend: str, directory: str, *, events: int, callers: int = 1, **options: Any) -> Iterator[float]:
    """Yield events a second."""
    calls = accesses(events)
    while True:
        with TemporaryDirectory(dir=directory) as path:
            took = anyio.run(partial(log_all, Path(path), calls, callers, **options), backend=backend)
            stored = b"".join(file.read_bytes() for file in Path(path).glob("*.jsonl"))
        assert stored.count(b"\n") == events
        yield events / took


def logged_by_stdlib(_backend: str, directory: str, *, events: int) -> Iterator[float]:
    """Yield records a second of a `logging.FileHandler` that is given lines as long as those of the trail."""
    logger = logging.getLogger("benchmark")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    while True:
        with TemporaryDirectory(dir=directory) as path:
            line = a_record(Path(path, "trail"))
            handler = logging.FileHandler(Path(path, "log"))
            logger.addHandler(handler)
            began = perf_counter()
            for _ in range(events):
                logger.info(line)
            handler.close()
            took = perf_counter() - began
            logger.removeHandler(handler)
        yield events / took


def a_record(path: Path) -> str:
    """Return a line that the trail, which is made in *path*, has stored."""
    anyio.run(log_all, path, accesses(1))
    (file,) = path.iterdir()
    return file.read_text().removesuffix("\n")
