"""A scripted HTTP server on the loopback: real sockets, in threads of its own, so that it serves any client."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

__all__ = ["Answer", "Fault", "Origin", "Request"]

Fault = Literal[
    "",
    "hang_before_reading",
    "hang_before_answering",
    "hang_in_body",
    "reset_before_reading",
    "reset_before_answering",
    "reset_in_body",
    "close_before_answering",
    "close_in_body",
    "half_closed",
    "drip",
    "not_http",
]
"""
The faults of an answer, and where they happen.

A hang lasts until the client or the origin ends it; "half_closed" sends nothing and closes its half; "drip" sends a
byte of the body every 50 ms; "not_http" greets as a mail server does.
"""


@dataclass(frozen=True)
class Answer:
    """
    The answer of an `Origin` to one request.

    Attributes:
        status: For example 200.
        body: In a fault in the body, half of it is sent.
        headers: Besides the content's length.
        fault: The fault in place of a whole answer; "" for none.
    """

    status: int = 200
    body: bytes = b"ok"
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Fault = ""

    def wire(self) -> tuple[bytes, bytes]:
        """Return the head and the body as they are sent."""
        headers = {"content-length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1"), self.body


@dataclass(frozen=True)
class Request:
    """
    A request that came to an `Origin`.

    Attributes:
        method: "POST".
        path: With the query.
        headers: Names in lower case.
        body: All of it.
        connection: The number of the connection that it came by, from 1.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int

    def json(self) -> Any:
        """Return the body, decoded from JSON."""
        return msgspec.json.decode(self.body)


class Origin:
    """
    A server on the loopback that gives scripted answers.

        with Origin() as origin:
            origin.script(Answer(503), Answer(200))
            ...
            assert origin.requests[0].json() == ...

    It understands requests with a Content-Length, and keeps connections open.

    Args:
        tls: Makes it serve https.

    Attributes:
        requests: All that have come, in order.
        connections: How many connections were accepted.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections: int = 0
        self._tls = tls
        self._script = [Answer()]
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listener.getsockname()[1]

    @property
    def base_url(self) -> str:
        """Its address, without a slash at the end: ``http://127.0.0.1:40123``."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    def script(self, *answers: Answer) -> None:
        """Give these answers from now on, in turn, then the last again and again."""
        with self._lock:
            self._script = list(answers) or [Answer()]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        # First the thread that accepts: no connection must come that is not shut down.
        _shut(self._listener)
        self._threads[0].join(10)
        self._listener.close()
        for each in self._sockets:
            _shut(each)
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(accepted)
            self._start(self._serve, accepted, self.connections)

    def _serve(self, accepted: socket.socket, number: int) -> None:
        connection = accepted
        with suppress(OSError):
            if self._tls is not None:
                # With the handshake afterwards, which the other side may never begin: `__exit__` must find the socket.
                connection = self._tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
                self._sockets.append(connection)
                if self._ending.is_set():
                    _shut(connection)
                connection.do_handshake()
            while self._exchange(connection, number):
                pass
        with suppress(OSError):
            connection.close()

    def _next(self) -> Answer:
        with self._lock:
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def _exchange(self, connection: socket.socket, number: int) -> bool:
        """Read one request and answer it; return whether there may be another."""
        if self._script[0].fault.endswith("before_reading"):
            self._fail(connection, self._next())
            return False
        request = _read_request(connection, number)
        if request is None:
            return False
        self.requests.append(request)
        answer = self._next()
        if answer.fault:
            self._fail(connection, answer)
            return False
        connection.sendall(b"".join(answer.wire()))
        return True

    def _fail(self, connection: socket.socket, answer: Answer) -> None:
        kind, _, where = answer.fault.partition("_")
        head, body = answer.wire()
        if where == "in_body":
            connection.sendall(head + body[: len(body) // 2])
        match kind:
            case "hang":
                self._pause()
            case "reset":
                self._pause(0.1)  # lets the sent bytes arrive before the reset drops them
                _reset(connection)
            case "half":
                connection.shutdown(socket.SHUT_WR)
                self._pause()
            case "drip":
                connection.sendall(head)
                for byte in body:
                    connection.sendall(bytes([byte]))
                    if self._pause(0.05):
                        break
            case "not":
                connection.sendall(b"220 mail.example.com ESMTP\r\n")
            case _:
                pass

    def _pause(self, seconds: float | None = None) -> bool:
        """Wait within a fault; return whether the origin ends."""
        return self._ending.wait(seconds)


def _shut(each: socket.socket) -> None:
    with suppress(OSError):
        # Not that of an `SSLSocket`, which takes its state away from the thread that uses it.
        socket.socket.shutdown(each, socket.SHUT_RDWR)


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _read_request(connection: socket.socket, number: int) -> Request | None:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65_536)
        if not part:
            return None
        data += part
        if data.startswith(b"\x16"):  # the hello of TLS, to a server that has none
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return None
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        part = connection.recv(65_536)
        if not part:
            return None
        body += part
    method, path, _ = first.split(" ")
    return Request(method, path, headers, body, number)
