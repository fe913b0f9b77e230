"""
Logs events that alert, through an outbox to a webhook, and prints the id of each on a line when it is stored.

    python alerting_trail.py DIRECTORY|DSN asyncio|trio URL log|drain

In a database the trail is called "written". It logs until its standard input ends; or it logs nothing, and ends when
its outbox is empty.
"""

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from fapilog import AuditEventType, AuditStorageError, AuditTrail, FileStorage
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.outbox._outbox import AnyOutbox
from fapilog.providers.webhook import WebhookDispatcher
from fapilog.storage.protocol import AuditStorage

CALLERS = 4
SECRET = "whsec_" + "c2VjcmV0" * 4


async def main(where: str, url: str, mode: str) -> None:
    """Run a few callers side by side, or wait until nothing is pending."""
    ended = anyio.Event()
    webhook = WebhookDispatcher(url=url, secret=SECRET, timeout=0.5)
    options: dict[str, Any] = {
        "schedule": [0.02] * 10_000,
        "timeout": 1.0,
        "lease": 1.0,
        "stop_timeout": 0.5,
    }
    storage: AuditStorage
    outbox: AnyOutbox
    if "dbname=" in where:
        # An extra of its own.
        from fapilog.delivery.outbox.postgres import PostgresOutbox  # noqa: PLC0415
        from fapilog.storage.postgres import PostgresStorage  # noqa: PLC0415

        storage = database = PostgresStorage(where, "written")
        outbox = PostgresOutbox(webhook, database, **options)
    else:
        storage = FileStorage(Path(where) / "trail")
        outbox = Outbox(webhook, Path(where) / "alerts.db", **options)

    async def call(trail: AuditTrail) -> None:
        for number in itertools.count():
            if ended.is_set():
                return
            try:
                event_id = await trail.log_security_event(
                    AuditEventType.SECURITY_VIOLATION, "m", metadata={"number": number}
                )
            except AuditStorageError:
                # The server is away.
                continue
            os.write(1, f"{event_id}\n".encode())
            # Not much faster than the other side can take it.
            await anyio.sleep(0.005)

    # A buffer so small that it is often full.
    async with AuditTrail(storage=storage, alert_dispatcher=outbox, alert_buffer=2) as trail:
        if mode == "drain":
            await trail.drain()
            while await outbox.pending(1):  # noqa: ASYNC110  another process may empty it
                await anyio.sleep(0.05)
            return
        async with anyio.create_task_group() as tasks:
            for _ in range(CALLERS):
                tasks.start_soon(call, trail)
            await anyio.to_thread.run_sync(sys.stdin.read)
            ended.set()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[3], sys.argv[4], backend=sys.argv[2])
