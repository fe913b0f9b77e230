"""
Logs events until its standard input ends, and prints the id of each on a line of its own when it is stored.

    python writing_trail.py DIRECTORY|FILE.db|DSN asyncio|trio fsync|write
"""

import itertools
import os
import random
import sys
from pathlib import Path
from typing import Literal

import anyio
import anyio.lowlevel
import anyio.to_thread

from fapilog.core.audit import AuditEventType, AuditTrail
from fapilog.storage.files import FileStorage
from fapilog.storage.protocol import AuditStorage
from fapilog.storage.sqlite import SQLiteStorage

CALLERS = 4
# Mostly short ones, as in life, and some that take many pages and many reads.
SIZES = {10: 90, 1_000: 5, 10_000: 4, 300_000: 1}


def storage_at(place: str, durability: Literal["fsync", "write"]) -> AuditStorage:
    """Return a storage in files, or in a file of SQLite or in PostgreSQL if that is its name."""
    if place.startswith("host="):
        from fapilog.storage.postgres import PostgresStorage  # noqa: PLC0415  an extra

        return PostgresStorage(place, "written", timeout=60)
    path = Path(place)
    if path.suffix == ".db":
        return SQLiteStorage(path, durability=durability)
    return FileStorage(path, durability=durability)


async def main(place: str, durability: Literal["fsync", "write"]) -> None:
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
        AuditTrail(storage=storage_at(place, durability)) as trail,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(CALLERS):
            tasks.start_soon(call, trail)
        await anyio.to_thread.run_sync(sys.stdin.read)
        ended.set()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], "fsync" if sys.argv[3] == "fsync" else "write", backend=sys.argv[2])
