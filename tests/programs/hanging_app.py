"""
A service that hangs: each request logs an event, whose alert hangs, gets the event's id, and never ends.

As `asgi` for uvicorn, and as `wsgi` for gunicorn.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import anyio

from fapilog import AuditEvent, AuditEventType, AuditTrail

Message = MutableMapping[str, Any]
KIND = AuditEventType.SECURITY_VIOLATION


class Hanging:
    """Never returns."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await anyio.sleep_forever()


trail = AuditTrail(
    storage_path=os.environ["TRAIL"], alert_dispatcher=Hanging(), alert_timeout=600.0, stop_timeout=600.0
)


async def asgi(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Serve one request, or the whole life of the service."""
    if scope["type"] == "lifespan":
        await receive()
        async with trail:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    event_id = await trail.log_security_event(KIND, "m")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"<{event_id}>".encode(), "more_body": True})
    await anyio.sleep_forever()


def wsgi(_: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterator[bytes]:
    """Serve one request."""
    start_response("200 OK", [])
    yield f"<{trail.sync.log_security_event(KIND, 'm')}>".encode()
    time.sleep(600)
