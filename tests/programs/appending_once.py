"""
Appends events with given ids, each once in all processes, and prints "new" or "known" with each id.

    python appending_once.py DIRECTORY PREFIX COUNT
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from fapilog.record import chain
from fapilog.record.events import AuditEvent
from fapilog.record.kinds import AuditEventType
from fapilog.storage._files.recent import Once
from fapilog.storage._files.writer import TrailWriter


def main(directory: Path, prefix: str, count: int) -> None:
    """Append, and say what became of it."""
    files = TrailWriter(directory, durable=False, now=lambda: datetime(2026, 1, 31, 12, tzinfo=UTC))
    for number in range(count):
        event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", event_id=f"{prefix}-{number}")
        [result] = files.append([Once(chain.body(event))])
        print("known" if result is None else "new", event.event_id)  # noqa: T201
    files.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
