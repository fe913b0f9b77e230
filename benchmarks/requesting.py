"""What the ASGI middleware adds to a request."""

import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import anyio
from anyio import to_thread

from fapilog import AuditTrail
from fapilog.integrations.asgi import AuditMiddleware

__all__ = ["handled"]

Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

HEADERS = {
    "host": "service.example.com",
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate, br",
    "accept-language": "en-GB,en;q=0.5",
    "authorization": "Bearer 0123456789abcdef",
    "connection": "keep-alive",
    "x-forwarded-for": "192.0.2.7",
    "x-forwarded-proto": "https",
    "x-request-id": "0b9c8d7e6f5a4b3c",
}


async def bare(_: Any, __: object, send: Send) -> None:
    """Answer with two headers and a short body."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def handled(backend: str, directory: str, *, requests: int, how: str) -> Iterator[float]:
    """
    Yield the microseconds that an application takes for a request.

    Args:
        requests: How many are measured.
        how: "bare": the application alone. "middleware": with one that only knows the request. "event": with one that
            stores an event too. "line": instead of that, the application writes and syncs what an event tells.
    """
    while True:
        with TemporaryDirectory(dir=directory) as path:
            yield anyio.run(_handled, Path(path), requests, how, backend=backend) / requests * 1e6


async def _handled(path: Path, requests: int, how: str) -> float:
    headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
    common = {"type": "http", "method": "GET", "path": "/records/42", "client": ("10.0.0.2", 4711), "headers": headers}
    async with AuditTrail(storage_path=path / "audit") as trail:
        app, close = _app(path, trail, how)
        # Where nothing is waited for, the time of the processor says the same, and not what else the machine does.
        now = process_time if how in {"bare", "middleware"} else perf_counter
        began = now()
        for _ in range(requests):
            await app({**common, "state": {"user_id": "alice"}}, _receive, _send)
        took = now() - began
        close()
    return took


def _app(path: Path, trail: AuditTrail, how: str) -> tuple[App, Callable[[], object]]:
    if how == "bare":
        return bare, bool
    if how == "line":
        file = (path / "log").open("ab", buffering=0)
        return _writing(file.fileno()), file.close
    return AuditMiddleware(
        bare,
        trail=trail,
        user=lambda scope: scope["state"]["user_id"],
        trusted_proxies=1,
        log_requests=how == "event",
    ), bool


def _writing(fd: int) -> App:
    def write_and_sync(line: bytes) -> None:
        os.write(fd, line)
        os.fdatasync(fd)

    async def app(scope: Any, receive: object, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        line = {
            "event": "request",
            "method": scope["method"],
            "path": scope["path"],
            "status": 200,
            "user_id": scope["state"]["user_id"],
            "client_ip": headers["x-forwarded-for"],
            "user_agent": headers["user-agent"],
            "request_id": headers["x-request-id"],
        }
        await to_thread.run_sync(write_and_sync, f"{json.dumps(line)}\n".encode())
        await bare(scope, receive, send)

    return app


async def _receive() -> object:
    return {"type": "http.request", "body": b""}


async def _send(_: object) -> None:
    pass
