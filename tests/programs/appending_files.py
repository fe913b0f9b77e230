"""
Appends events that are the same in every run, and prints "stored" or "refused" with the id of each.

    python appending_files.py DIRECTORY

Two days, one event and a batch on each. A refused batch is tried once more, under other ids, as a service would go on.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from fapilog.record import chain
from fapilog.record.errors import AuditStorageError
from fapilog.record.events import AuditEvent
from fapilog.record.kinds import AuditEventType
from fapilog.storage._files.writer import TrailWriter

DAYS = [datetime(2026, 1, day, 12, tzinfo=UTC) for day in (30, 31)]


def bodies(ids: list[str], time: datetime) -> list[bytes]:
    """Return the records of events with *ids*, without their seals."""
    return [
        chain.body(AuditEvent(event_id=event_id, timestamp=time, event_type=AuditEventType.DATA_ACCESS, message="m"))
        for event_id in ids
    ]


def main(directory: Path) -> None:
    """Append, and say what became of it."""
    today = DAYS[0]
    files = TrailWriter(directory, durable=True, now=lambda: today)
    for today in DAYS:
        for batch in (["one"], ["two", "three"]):
            for attempt in ("first", "second"):
                ids = [f"{today.day}-{each}-{attempt}" for each in batch]
                try:
                    files.append(bodies(ids, today))
                except AuditStorageError as error:
                    print("refused", *ids, error.args[0].replace(str(directory), "DIRECTORY"), sep="\t", flush=True)  # noqa: T201
                else:
                    print("stored", *ids, sep="\t", flush=True)  # noqa: T201
                    break
    files.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
