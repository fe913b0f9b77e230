"""
Sends an alert to a server that takes the connection and says nothing, stops the trail, and ends.

    python silent_target.py DIRECTORY asyncio|trio email|apprise

Prints "stopped" when the trail is stopped and nothing is left to do.
"""

import faulthandler
import socket
import sys
from pathlib import Path

import anyio
import anyio.to_thread

from fapilog.core.alerting import AlertDispatcher
from fapilog.core.audit import AuditEventType, AuditTrail


def make_dispatcher(target: str, port: int) -> AlertDispatcher:
    """Return a dispatcher that is ready to wait for ten minutes."""
    if target == "email":
        from fapilog.providers.smtp import EmailDispatcher  # noqa: PLC0415

        return EmailDispatcher(
            host="127.0.0.1", port=port, tls="none", sender="a@example.com", recipients=["b@example.com"], timeout=600.0
        )
    from fapilog.providers.apprise import AppriseDispatcher  # noqa: PLC0415

    return AppriseDispatcher(urls=[f"json://127.0.0.1:{port}?rto=600"], timeout=600.0)


async def main(directory: str, target: str, listener: socket.socket) -> socket.socket:
    """Stop the trail while the target is silent, and return the connection, which is still open."""
    dispatcher = make_dispatcher(target, listener.getsockname()[1])
    trail = AuditTrail(storage_path=Path(directory), alert_dispatcher=dispatcher, stop_timeout=0.2)
    await trail.start()
    await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "five wrong passwords")
    connection, _ = await anyio.to_thread.run_sync(listener.accept)
    await trail.stop()
    return connection


if __name__ == "__main__":
    faulthandler.dump_traceback_later(50, exit=True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = anyio.run(main, sys.argv[1], sys.argv[3], silent, backend=sys.argv[2])
    print("stopped", flush=True)  # noqa: T201
