"""S3 on loopback: moto's server, behind a proxy of ours that records the requests, and plays faults that moto can't."""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

import pytest

boto3 = pytest.importorskip("boto3")
botocore_config = pytest.importorskip("botocore.config")
botocore_loaders = pytest.importorskip("botocore.loaders")
moto_server = pytest.importorskip("moto.server")

__all__ = ["ACCESS_KEY", "S3", "SECRET_KEY", "Fault", "Hanging", "bucket_of", "s3_server"]

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/s3cr3t"


class Request(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Fault(NamedTuple):
    """
    What the next request with *method* meets.

    With a *status* it is answered so, with this *code*, and moto does not see it. With *cut_request* moto gets half of
    the body; with *cut_answer* the client gets half of it. With *lost* moto does it, and the client never hears.
    """

    method: str
    status: int | None = None
    code: str = ""
    cut_request: bool = False
    cut_answer: bool = False
    lost: bool = False
    #: Headers of the answer that are changed; None takes one away.
    headers: Mapping[str, str | None] = {}


class _Handler(BaseHTTPRequestHandler):
    server: S3
    protocol_version = "HTTP/1.1"
    # An answer goes in one piece, so that who reads it makes the same calls each time.
    wbufsize = -1

    def handle_expect_100(self) -> bool:
        """Let a body come."""
        is_allowed = super().handle_expect_100()
        self.wfile.flush()
        return is_allowed

    def _handle(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:
            # The client is gone. S3 stores nothing of such a body.
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.command, self.path, headers, body))
        fault = self.server.next_fault(self.command)
        if fault is not None and fault.status is not None:
            text = f"<Error><Code>{fault.code}</Code><Message>the object-lock is shut</Message></Error>".encode()
            self._answer(fault.status, {"content-type": "application/xml"}, text)
            return
        if fault is not None and fault.cut_request:
            body = body[: len(body) // 2]
        status, found, answer = self.server.forward(self.command, self.path, dict(self.headers), body)
        if fault is not None and fault.lost:
            # A reset, and no end that could be taken for an answer.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        for name, value in ({} if fault is None else fault.headers).items():
            found.pop(name, None)
            if value is not None:
                found[name] = value
        self._answer(status, found, answer, cut=fault is not None and fault.cut_answer)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _handle  # noqa: N815  as http.server calls them

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in {"content-length", "connection", "transfer-encoding"}:
                self.send_header(name, value)
        size = headers.get("content-length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("content-length", size)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class S3(ThreadingHTTPServer):
    """
    The proxy.

    Attributes:
        requests: All that came, in order.
        faults: What the next requests meet; each is for the first request with its method.
        client: A client for it.
    """

    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.requests: list[Request] = []
        self.faults: deque[Fault] = deque()
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        # Which tries once, and leaves the rest to the archive.
        options = botocore_config.Config(retries={"mode": "standard", "total_max_attempts": 1})
        self.client: Any = boto3.session.Session().client("s3", endpoint_url=self.url, config=options)

    def next_fault(self, method: str) -> Fault | None:
        """Return the fault for a request, and play it once."""
        with self._lock:
            found = next((fault for fault in self.faults if fault.method == method), None)
            if found is not None:
                self.faults.remove(found)
            return found

    def forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Ask moto."""
        sent = {name: value for name, value in headers.items() if name.lower() not in {"content-length", "expect"}}
        with contextlib.closing(http.client.HTTPConnection(*self.behind)) as connection:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def sent(self, method: str) -> list[Request]:
        """Return the requests with *method*."""
        return [request for request in self.requests if request.method == method]


class Hanging:
    """
    A server that takes connections and requests, and never answers.

    Attributes:
        port: Where it listens, on loopback.
        count: How many connections came.
        asked: Is set when the first request has come.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.count = 0
        self.asked = threading.Event()
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self._held.append(connection)
                self.count += 1
                if connection.recv(1):
                    self.asked.set()

    def is_held(self) -> bool:
        """Return whether the last client still waits for the answer."""
        connection = self._held[-1]
        connection.settimeout(0)
        try:
            while connection.recv(1 << 16):
                pass
        except BlockingIOError:
            return True
        return False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Ends the wait for the next connection.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self._held:
            connection.close()
        self._thread.join()


_load = botocore_loaders.JSONFileLoader.load_file


@functools.cache
def _load_once(path: str) -> Any:
    return _load(botocore_loaders.JSONFileLoader(), path)


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    """Run both until the end of the block, with credentials in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # Each session would read megabytes of botocore's own models anew, and each test has one.
        patch.setattr(botocore_loaders.JSONFileLoader, "load_file", lambda _, path: _load_once(path))
        moto = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        moto.start()
        try:
            with S3(moto.get_host_and_port()) as proxy:
                # What another server of this process has had.
                proxy.forward("POST", "/moto-api/reset", {}, b"")
                patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
                thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
                thread.start()
                try:
                    yield proxy
                finally:
                    proxy.shutdown()
                    thread.join()
                    proxy.client.close()
        finally:
            moto.stop()


def bucket_of(s3: S3, name: str, *, locked: bool = True) -> str:
    """Make a bucket, and return its name."""
    s3.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=locked)
    s3.requests.clear()
    s3.faults.clear()
    return name
