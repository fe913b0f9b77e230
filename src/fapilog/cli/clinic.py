"""
The demonstration's service: a clinic under HIPAA, its staff, and the engineer on call.

Small, and real: HTTP on loopback, an audit trail, and a dispatcher that posts alerts. The patients are numbers.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NamedTuple

import anyio
from anyio import to_thread
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from .. import AuditEvent, AuditEventType, AuditTrail, DeliveryError

__all__ = ["LOOPBACK", "STAFF", "Clinic", "OnCall", "Request", "serve", "work"]

LOOPBACK: Final = "127.0.0.1"
# Two of them one byte apart.
STAFF: Final = ("adeyemi", "jim", "kim", "novak", "okafor", "silva", "tanaka")

_PASSWORD: Final = "correct horse"  # noqa: S105 - the clinic is gone in seconds
_LONGEST_HEAD: Final = 65_536


class OnCall:
    """
    A dispatcher: posts every alert as JSON to the engineer on call.

    The alert has the event type, the severity and the number of the record. Names of users and patients stay in the
    trail, where reading is audited as well.

    Args:
        host: The host of the receiver.
        port: The port that it listens on.
        timeout: Seconds without an answer after which the alert has failed.
    """

    def __init__(self, host: str, port: int, *, timeout: float = 5.0) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout

    async def send_alert(
        self,
        event: AuditEvent,
        *,
        severity: str,
        channel: str | None = None,  # noqa: ARG002 - there is but one receiver
    ) -> None:
        """Return when the receiver has taken the alert."""
        alert = {
            "record": event.sequence_number,
            "severity": severity,
            "type": event.event_type.value,
            "id": event.event_id,
        }
        await to_thread.run_sync(self._post, json.dumps(alert), abandon_on_cancel=True)

    def _post(self, alert: str) -> None:
        with contextlib.closing(http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)) as receiver:
            receiver.request("POST", "/alerts", alert, {"Content-Type": "application/json"})
            status = receiver.getresponse().status
        if not 200 <= status < 300:  # noqa: PLR2004 - the successful ones, RFC 9110
            raise DeliveryError(f"the receiver answered {status}")


class Request(NamedTuple):
    """
    An HTTP request.

    Attributes:
        method: "GET" or "POST".
        path: The path, "/schedule".
        headers: Their values, by their names in lower case.
        body: The body; may be empty.
        client_ip: The address of the client.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    client_ip: str


class Clinic:
    """
    The service. Every refused login, every access to data and every error is in its trail before it answers.

    Args:
        trail: Records them.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    async def answer(self, request: Request) -> int:
        """Return the status of the answer."""
        user, password = _credentials(request)
        if password != _PASSWORD:
            await self._trail.log_security_event(
                AuditEventType.AUTHENTICATION_FAILED,
                "wrong password",
                user_id=user,
                client_ip=request.client_ip,
                component="login",
            )
            return 401
        match request.path.split("/"):
            case ["", "schedule"]:
                await self._trail.log_data_access("schedule", "read", user_id=user, client_ip=request.client_ip)
            case ["", "patients", _]:
                await self._trail.log_data_access(
                    request.path, "read", user_id=user, client_ip=request.client_ip, contains_phi=True
                )
            case ["", "wards", _, "occupancy"]:
                try:
                    _occupancy(taken=3, beds=0)
                except ZeroDivisionError as error:
                    await self._trail.log_error(error, operation="occupancy", component="reports", user_id=user)
                    return 500
            case _:
                return 404
        return 200


async def work(
    port: int, user: str, numbers: Iterable[int], *, pause: float, on_answer: Callable[[int], object]
) -> None:
    """
    Use the clinic as *user*, over one connection.

    Args:
        port: The port of the clinic.
        user: One of the staff.
        numbers: One number per request; it decides the path, and whether the password is mistyped.
        pause: Seconds between an answer and the next request.
        on_answer: Called with the status of every answer.
    """
    async with await anyio.connect_tcp(LOOPBACK, port) as stream:
        received = BufferedByteReceiveStream(stream)
        for number in numbers:
            secret = "correct house" if number % 16 == 7 else _PASSWORD  # noqa: PLR2004 - now and then
            token = base64.b64encode(f"{user}:{secret}".encode()).decode()
            await stream.send(
                f"GET {_asked_for(number)} HTTP/1.1\r\nHost: clinic\r\nAuthorization: Basic {token}\r\n\r\n".encode()
            )
            first, _, _ = await _receive(received)
            on_answer(int(first.split()[1]))
            await anyio.sleep(pause)


async def serve(answer: Callable[[Request], Awaitable[int]], *, task_status: TaskStatus[int]) -> None:
    """Answer HTTP requests with the statuses that *answer* returns, on a free port, which *task_status* gets."""
    async with await anyio.create_tcp_listener(local_host=LOOPBACK) as listener:
        task_status.started(listener.extra(SocketAttribute.local_port))  # noqa: S610 - not Django's
        await listener.serve(functools.partial(_converse, answer))


async def _converse(answer: Callable[[Request], Awaitable[int]], stream: SocketStream) -> None:
    async with stream:
        client_ip = str(stream.extra(SocketAttribute.remote_address)[0])  # noqa: S610
        received = BufferedByteReceiveStream(stream)
        # The other side hung up, or does not speak HTTP.
        with contextlib.suppress(anyio.IncompleteRead, anyio.BrokenResourceError, anyio.DelimiterNotFound, ValueError):
            while True:
                first, headers, body = await _receive(received)
                method, path, _ = first.split(" ")
                status = await answer(Request(method, path, headers, body, client_ip))
                reason = http.client.responses[status]
                await stream.send(f"HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n\r\n".encode())


async def _receive(received: BufferedByteReceiveStream) -> tuple[str, dict[str, str], bytes]:
    """Return the first line, the headers and the body of the next HTTP message."""
    head = await received.receive_until(b"\r\n\r\n", _LONGEST_HEAD)
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    size = int(headers.get("content-length", "0"))
    return first, headers, await received.receive_exactly(size) if size else b""


def _credentials(request: Request) -> tuple[str, str]:
    """Return the user and the password that *request* brings (RFC 7617)."""
    _, _, token = request.headers.get("authorization", "").partition(" ")
    user, _, password = base64.b64decode(token).decode().partition(":")
    return user, password


def _asked_for(number: int) -> str:
    if number % 24 == 11:  # noqa: PLR2004 - now and then
        return "/wards/7/occupancy"
    return f"/patients/{4000 + number}" if number % 5 == 0 else "/schedule"


def _occupancy(*, taken: int, beds: int) -> float:
    return taken / beds
