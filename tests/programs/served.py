"""The one trail of a small service: in the directory ``$TRAIL``, with a dispatcher that writes beside it."""

from __future__ import annotations

import os
from pathlib import Path

import anyio

from fapilog import AuditEvent, AuditEventType, AuditTrail

__all__ = ["KIND", "File", "Slow", "trail"]

KIND = AuditEventType.SECURITY_VIOLATION


class File:
    """Delivers each alert in a moment, as a line in a file."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await anyio.sleep(0.01)
        with Path(os.environ["TRAIL"]).with_name("alerts").open("a") as file:
            file.write(f"{event.event_id}\n")


class Slow(File):
    """Delivers each alert so late that some wait when a process ends."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await anyio.sleep(0.3)
        await super().send_alert(event, severity=severity, channel=channel)


trail = AuditTrail(storage_path=os.environ["TRAIL"], alert_dispatcher=File())
if os.environ.get("TRAIL_USED_BEFORE_FORK"):
    # As by a module that logs while gunicorn loads it: the background thread runs when the workers are forked.
    trail.sync.log_security_event(KIND, "loaded")
    trail.sync.drain()
