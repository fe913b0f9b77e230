"""An ASGI application that has no lifespan, as Django's has none, and a trail whose alerts take half a second."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from fapilog import AuditEvent, AuditTrail
from fapilog.integrations.asgi import with_lifespan

__all__ = ["app"]


class Slow:
    """Delivers an alert as a line in a file, half a second later."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await anyio.sleep(0.5)
        with Path(os.environ["TRAIL"]).with_name("alerts").open("a") as file:
            file.write(f"{event.event_id}\n")


trail = AuditTrail(storage_path=os.environ["TRAIL"], alert_dispatcher=Slow())


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Log an event that alerts, in a thread, and answer with its id."""
    assert scope["type"] == "http"
    event_id = await anyio.to_thread.run_sync(lambda: trail.sync.log_authentication(success=False))
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": event_id.encode()})


app = with_lifespan(bare, trail)
