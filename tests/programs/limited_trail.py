"""
Logs events with a limit on the size of files until one is refused, and more once the limit is lifted.

    python limited_trail.py DIRECTORY asyncio|trio fsync|write

The kernel writes what fits and refuses the rest, as on a full disk. Prints "stored" or "refused" for each event, and
"recovered" for each that the trail stores of itself.
"""

import resource
import sys
from pathlib import Path

import anyio

from fapilog.core.audit import AuditEventType, AuditTrail
from fapilog.record.errors import AuditStorageError

LIMIT = 10_000


async def main(directory: str, durability: str) -> None:
    """Run into the limit, with callers side by side, and out of it."""
    trail = AuditTrail(storage_path=Path(directory), durability="fsync" if durability == "fsync" else "write")

    async def call(number: int) -> None:
        try:
            event_id = await trail.log_event(AuditEventType.DATA_ACCESS, "m" * 100, metadata={"number": number})
        except AuditStorageError as error:
            print("refused", number, error, flush=True)  # noqa: T201
        else:
            print("stored", number, event_id, flush=True)  # noqa: T201

    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    for first in range(0, 30, 3):
        async with anyio.create_task_group() as tasks:
            for number in range(first, first + 3):
                tasks.start_soon(call, number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for number in range(30, 35):
        await call(number)
    for event in await trail.get_events(component="audit_trail"):
        print("recovered", event.sequence_number, event.event_id)  # noqa: T201
    await trail.stop()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[3], backend=sys.argv[2])
