"""What a call of a logger costs the code that logs, with the handler for the trail and with one that writes a file."""

import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from fapilog import AuditTrail
from fapilog.integrations.logging import AuditHandler

from .throughput import a_record

__all__ = ["filed", "handled"]


def handled(_backend: str, directory: str, *, events: int) -> Iterator[float]:
    """Yield the microseconds of a call whose record an `AuditHandler` takes, until the call returns."""
    while True:
        with TemporaryDirectory(dir=directory) as path:
            trail = AuditTrail(storage_path=path, durability="write")
            handler = AuditHandler(trail, buffer=2 * events, flush_timeout=60)
            took = _logged(handler, events, "m", {"audit": {"user_id": "alice", "order": 4711}})
            stored = sum(file.read_bytes().count(b"\n") for file in Path(path).glob("*.jsonl"))
        assert stored == events
        yield took


def filed(_backend: str, directory: str, *, events: int) -> Iterator[float]:
    """Yield the microseconds of a call whose record, as long as one of a trail, a `logging.FileHandler` writes."""
    while True:
        with TemporaryDirectory(dir=directory) as path:
            line = a_record(Path(path, "trail"))
            yield _logged(logging.FileHandler(Path(path, "log")), events, line, {})


def _logged(handler: logging.Handler, events: int, message: str, extra: dict[str, object]) -> float:
    logger = logging.getLogger("benchmark")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    began = perf_counter()
    for _ in range(events):
        logger.info(message, extra=extra)
    took = perf_counter() - began
    logger.removeHandler(handler)
    handler.close()
    return took / events * 1e6
