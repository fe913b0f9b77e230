"""
Logs events until its standard input ends, and prints the id of each on a line of its own when it is stored.

    python writing_trail.py DIRECTORY asyncio|trio fsync|write
"""

import itertools
import os
import random
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from fapilog.core.audit import AuditEventType, AuditTrail

CALLERS = 4
# Mostly short ones, as in life, and some that take many pages and many reads.
SIZES = {10: 90, 1_000: 5, 10_000: 4, 300_000: 1}


async def main(directory: str, durability: str) -> None:
    """Run a few callers side by side."""
    ended = anyio.Event()
    chance = random.Random(os.getpid())  # noqa: S311

    async def call(trail: AuditTrail) -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            (size,) = chance.choices(list(SIZES), list(SIZES.values()))
            event_id = await trail.log_event(AuditEventType.DATA_MODIFICATION, "x" * size, metadata={"number": number})
            os.write(1, f"{event_id}\n".encode())
            # With durability "write" nothing else need ever wait.
            await anyio.lowlevel.checkpoint()

    async with (
        AuditTrail(storage_path=Path(directory), durability="fsync" if durability == "fsync" else "write") as trail,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(CALLERS):
            tasks.start_soon(call, trail)
        await anyio.to_thread.run_sync(sys.stdin.read)
        ended.set()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[3], backend=sys.argv[2])
