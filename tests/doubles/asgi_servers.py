"""Real ASGI servers, run in the event loop of a test, and a client that opens a WebSocket."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import pytest

__all__ = ["App", "WebSocketClient", "serving"]

App = Callable[[Any, Any, Any], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(app: App, server: str, backend: str) -> AsyncGenerator[int]:
    """Serve *app* until the end of the block; yield the port. The application is started and stopped."""
    if server == "uvicorn" and backend == "trio":
        pytest.skip("uvicorn runs on asyncio alone")
    serve = {"uvicorn": _uvicorn, "hypercorn": _hypercorn}[server]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, app, listener, stop, backend)
            try:
                # A client may connect at once, and is answered when the application has started.
                yield port
            finally:
                stop.set()


async def _uvicorn(app: App, listener: socket.socket, stop: anyio.Event, _: str) -> None:
    uvicorn = pytest.importorskip("uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="wsproto", timeout_graceful_shutdown=5))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        await stop.wait()
        server.should_exit = True


async def _hypercorn(app: App, listener: socket.socket, stop: anyio.Event, backend: str) -> None:
    hypercorn = pytest.importorskip("hypercorn")
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 5
    serve = pytest.importorskip(f"hypercorn.{backend}").serve
    await serve(app, config, shutdown_trigger=stop.wait)


class WebSocketClient:
    """
    An open WebSocket.

    Attributes:
        headers: Of the answer to the handshake.
    """

    def __init__(self, stream: anyio.abc.SocketStream, wire: Any) -> None:
        self._stream = stream
        self._wire = wire
        self.headers: dict[str, str] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, port: int, path: str, headers: dict[str, str]) -> AsyncGenerator[WebSocketClient]:
        """Open a WebSocket until the end of the block; raise PermissionError if it is refused."""
        wsproto = pytest.importorskip("wsproto")
        events = pytest.importorskip("wsproto.events")
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            self = cls(stream, wsproto.WSConnection(wsproto.ConnectionType.CLIENT))
            extra = [(name.encode(), value.encode()) for name, value in headers.items()]
            await stream.send(self._wire.send(events.Request(host="127.0.0.1", target=path, extra_headers=extra)))
            answer = await self._next()
            if not isinstance(answer, events.AcceptConnection):
                raise PermissionError(str(answer))
            self.headers = {name.decode().lower(): value.decode() for name, value in answer.extra_headers}
            yield self
            await stream.send(self._wire.send(events.CloseConnection(code=1000)))

    async def ask(self, text: str) -> str:
        """Send a message, and return the next one that comes."""
        message = pytest.importorskip("wsproto.events").Message(data=text)
        await self._stream.send(self._wire.send(message))
        answer: str = (await self._next()).data
        return answer

    async def _next(self) -> Any:
        while True:
            for event in self._wire.events():
                return event
            self._wire.receive_data(await self._stream.receive())
