"""
A service as its users write one: records behind a login, everything audited, refused logins announced.

Its alerts go to the file that the environment variable ALERTS names, one write each, so that several workers can share
it.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from fapilog import AuditEvent, AuditEventType, AuditTrail


class AlertFile:
    """Appends a line with the event's id to a file, for each alert."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Write one line."""
        os.write(self._fd, f"{severity} {event.event_id}\n".encode())


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    """Keep the trail as long as the worker lives."""
    async with AuditTrail(
        storage_path=Path(os.environ["TRAIL"]), alert_dispatcher=AlertFile(Path(os.environ["ALERTS"]))
    ) as app.state.trail:
        await app.state.trail.log_event(AuditEventType.SYSTEM_STARTUP, "worker started")
        yield
        await app.state.trail.log_event(AuditEventType.SYSTEM_SHUTDOWN, "worker stopped")


async def log_in(request: Request) -> JSONResponse:
    """Refuse those who don't know the password."""
    given = await request.json()
    if given["password"] != "right":
        event_id = await request.app.state.trail.log_security_event(
            AuditEventType.AUTHENTICATION_FAILED,
            "wrong password",
            user_id=given["user"],
            request_id=request.headers["x-request-id"],
        )
        return JSONResponse({"event": event_id}, status_code=401)
    event_id = await request.app.state.trail.log_event(
        AuditEventType.DATA_ACCESS, "logged in", user_id=given["user"], request_id=request.headers["x-request-id"]
    )
    return JSONResponse({"event": event_id})


async def read_record(request: Request) -> JSONResponse:
    """Hand out a record."""
    event_id = await request.app.state.trail.log_data_access(
        request.path_params["name"], "read", request_id=request.headers["x-request-id"]
    )
    return JSONResponse({"event": event_id})


app = Starlette(
    routes=[Route("/login", log_in, methods=["POST"]), Route("/records/{name}", read_record)], lifespan=lifespan
)
