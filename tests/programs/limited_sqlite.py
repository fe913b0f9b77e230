"""
Appends to a file of SQLite under a limit on the size of files, then without, and verifies what it says is stored.

    python limited_sqlite.py FILE fsync|write
"""

import resource
import signal
import sys

from fapilog import AuditEvent, AuditStorageError
from fapilog.core._reading import intact
from fapilog.core.audit import AuditEventType
from fapilog.storage.sqlite import SQLiteStorage
from fapilog.tasks.loops import without_loop

LIMIT = 300_000


def limit(size: int) -> None:
    """Limit the size of files."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def main(path: str, durability: str) -> None:
    """Append until nothing fits, and a bit more; then as much again."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    storage = SQLiteStorage(path, durability="fsync" if durability == "fsync" else "write")
    stored: list[str] = []
    refused: set[str] = set()

    def append() -> None:
        event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="x" * 2000)
        try:
            without_loop(storage.append(event))
            stored.append(event.event_id)
        except AuditStorageError as error:
            refused.add(str(error))

    limit(LIMIT)
    while len(refused) == 0:
        append()
    for _ in range(5):
        append()
    assert refused == {f"cannot append to {path}: disk I/O error"}, refused
    before = without_loop(storage.verify())
    assert (before.valid, before.events_checked) == (True, len(stored)), before
    limit(resource.RLIM_INFINITY)
    for _ in range(5):
        append()
    assert [event.event_id for event in intact(without_loop(storage.read(0, 1000)))] == stored
    assert without_loop(storage.verify()).valid
    without_loop(storage.aclose())


if __name__ == "__main__":
    main(*sys.argv[1:])
