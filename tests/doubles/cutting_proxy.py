"""A proxy before PostgreSQL that cuts a connection at a message of the protocol."""

import contextlib
import functools
import socket
import struct
import threading
from io import BufferedReader

__all__ = ["CuttingProxy"]


class CuttingProxy:
    """
    Forwards messages in both directions, and counts them.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._left: int | None = None
        self._forwards = False
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        # What the clients have sent.
        self.sent: list[bytes] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def arm(self, number: int, *, forwards: bool) -> None:
        """Cut the connection at the message with that *number* from now on, after it, or in its place."""
        with self._lock:
            self._left, self._forwards = number, forwards

    def disarm(self) -> bool:
        """Cut nothing any more; return whether something was cut."""
        with self._lock:
            left, self._left = self._left, None
            return left is None

    def close(self) -> None:
        """Take no more connections, and cut all."""
        # Its thread must not wait for the number of a descriptor that is the next proxy's.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for pair in self._pairs:
            _cut(pair)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                pair = (client, socket.create_connection(("127.0.0.1", self._server)))
                self._pairs.append(pair)
                for each in pair:
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for way, has_type in ((pair, False), (pair[::-1], True)):
                    pump = functools.partial(self._pump, pair, *way, has_type=has_type)
                    threading.Thread(target=pump, daemon=True).start()

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, target: socket.socket, *, has_type: bool
    ) -> None:
        with contextlib.suppress(OSError), source.makefile("rb") as stream:
            # The first message of a client has no type.
            while message := _message(stream, has_type=has_type):
                has_type = True
                if source is pair[0]:
                    self.sent.append(message)
                with self._lock:
                    is_last = False
                    if self._left is not None:
                        self._left -= 1
                        if self._left == 0:
                            self._left, is_last = None, True
                    if not is_last or self._forwards:
                        target.sendall(message)
                if is_last:
                    break
        _cut(pair)


def _message(stream: BufferedReader, *, has_type: bool) -> bytes:
    kind = stream.read(1) if has_type else b""
    size = stream.read(4)
    if len(size) < 4:
        return b""
    return kind + size + stream.read(struct.unpack("!I", size)[0] - 4)


def _cut(pair: tuple[socket.socket, socket.socket]) -> None:
    for each in pair:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
