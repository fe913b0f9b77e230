"""
Logs 300 records, of which three alert, and ends, without a word to the handler or the trail.

    python -m tests.programs.logging_script DIRECTORY [hangs]

With "hangs", the storage never returns, and the handler may take half a second for its flush.
"""

import logging
import sys
import threading
from pathlib import Path

from fapilog import AuditEvent, AuditTrail, FileStorage
from fapilog.integrations.logging import AuditHandler
from fapilog.record.chain import Seal

directory = Path(sys.argv[1])


class Hanging(FileStorage):
    """Never returns."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        threading.Event().wait()
        return await super().append(event, once=once)


class File:
    """Delivers each alert as a line in a file."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        with (directory / "alerts").open("a") as file:
            file.write(f"{event.message}\n")


storage = Hanging if sys.argv[2] else FileStorage
trail = AuditTrail(storage=storage(directory / "audit", durability="write"), alert_dispatcher=File())
log = logging.getLogger("script")
log.addHandler(AuditHandler(trail, flush_timeout=0.5 if sys.argv[2] else 15.0))
for number in range(300):
    log.log(logging.ERROR if number % 100 else logging.CRITICAL, "%d", number)
