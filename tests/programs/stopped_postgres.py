"""
Locks the head of a trail in PostgreSQL, says so, and appends an event when it has read a line.

    python stopped_postgres.py DSN TRAIL
"""

import os
import sys
from typing import Any

from fapilog import AuditEvent
from fapilog.core.audit import AuditEventType
from fapilog.storage.postgres import PostgresStorage, _writing, connection
from fapilog.tasks.loops import without_loop


def main(dsn: str, trail: str) -> None:
    """Append an event."""
    # Seconds; else the test takes as long as a stopped process is borne.
    connection._LEFT_ALONE = 1  # type: ignore[misc]
    storage = PostgresStorage(dsn, trail)
    take = _writing.Batch._begin
    told: list[bool] = []

    def begin(*args: Any) -> Any:
        head = take(*args)
        if not told:
            told.append(True)
            os.write(1, b"has the head\n")
            sys.stdin.readline()
        return head

    _writing.Batch._begin = begin  # type: ignore[assignment, method-assign]
    seal = without_loop(storage.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="stopped")))
    os.write(1, f"stored {seal.sequence_number}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
