"""
Takes two alerts into an outbox, and leaves it when they are sent.

    python keeping_outbox.py DIRECTORY FILE

Prints the id of each event whose alert was taken, and adds to FILE a line for each that is sent.
"""

import os
import sys
from pathlib import Path

import anyio

from fapilog import AuditEvent, AuditEventType
from fapilog.delivery.outbox import Outbox, _sender

__all__ = ["Noting", "keep"]


class Noting:
    """Takes every alert, and adds the id of its event to a file, where it stays when the process is killed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{event.event_id}\n".encode())
        os.close(fd)


async def keep(outbox: Outbox, *event_ids: str) -> None:
    """Hand alerts to an outbox that is entered, one after the other, and leave it."""
    async with outbox:
        for event_id in event_ids:
            event = AuditEvent(event_id=event_id, event_type=AuditEventType.SECURITY_VIOLATION, message="m")
            await outbox.send_alert(event, severity="critical")
            os.write(1, f"{event_id}\n".encode())


if __name__ == "__main__":
    _sender._MENDING = 0.05  # type: ignore[misc]  # there are hundreds of runs
    anyio.run(keep, Outbox(Noting(Path(sys.argv[2])), Path(sys.argv[1]) / "alerts.db"), "one", "two")
