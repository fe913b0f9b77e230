"""
Enters an outbox in PostgreSQL, prints a line when it is sending an alert, and never ends.

    python holding_outbox.py DSN TRAIL asyncio|trio
"""

import os
import sys
from typing import Any

import anyio

from fapilog.delivery.outbox.postgres import PostgresOutbox
from fapilog.storage.postgres import PostgresStorage


class Hanging:
    """Takes an alert up, and lets nobody know more."""

    async def send_alert(self, event: Any, *, severity: str, channel: str | None = None) -> None:
        """Hang."""
        os.write(1, f"{event.event_id}\n".encode())
        await anyio.sleep_forever()


async def main(dsn: str, trail: str) -> None:
    """Hold whatever is there."""
    async with PostgresOutbox(Hanging(), PostgresStorage(dsn, trail), name="pager", lease=1.0):
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], backend=sys.argv[3])
