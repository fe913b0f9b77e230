"""
Logs events with a limit on the size of files until one is refused, and prints the incident that is told of then.

    python failing_trail.py DIRECTORY asyncio|trio

It lives until its standard input ends.
"""

import os
import resource
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from fapilog.core.audit import AuditEventType, AuditTrail
from fapilog.record.errors import AuditStorageError
from fapilog.testing import RecordingDispatcher

# Of each file: more than a file of incidents has.
LIMIT = 5000


async def main(directory: str) -> None:
    """Run into the limit."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    dispatcher = RecordingDispatcher()
    async with AuditTrail(storage_path=Path(directory), alert_dispatcher=dispatcher) as trail:
        while not dispatcher.alerts:
            try:
                await trail.log_event(AuditEventType.DATA_ACCESS, "m" * 1000)
            except AuditStorageError:
                await trail.drain()
        os.write(1, f"{dispatcher.alerts[0].event.event_id}\n".encode())
        await anyio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], backend=sys.argv[2])
