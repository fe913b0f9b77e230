"""
Is asked to end, by `sys.exit` or Ctrl-C, in code that a trail calls.

    python exiting_trail.py DIRECTORY asyncio|trio exit|interrupt PLACE started|not_started plain|outbox|restarted

The PLACE is one of dispatcher, receiver, coroutine (a receiver that is asynchronous), storage, entering and leaving.
"restarted" is an outbox as well, and no event is logged. Prints "alive" if nothing ends the process.
"""

import faulthandler
import functools
import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from fapilog import AuditEvent, AuditTrail, FileStorage, compliance_alert
from fapilog.core.alerting import AlertDispatcher
from fapilog.core.audit import AuditEventType
from fapilog.delivery.outbox import Outbox
from fapilog.record.chain import Seal

CODE = 3
SCHEDULE = (0.2, 0.4, 0.8, 1.6, 3.2)


def end(what: str) -> None:
    """End the process as it was asked to."""
    if what == "exit":
        sys.exit(CODE)
    raise KeyboardInterrupt


class Ending:
    """Ends the process where it should."""

    def __init__(self, what: str, place: str) -> None:
        self.what = what
        self.place = place

    async def _at(self, place: str) -> None:
        await anyio.lowlevel.checkpoint()
        if self.place == place:
            end(self.what)

    async def __aenter__(self) -> None:
        await self._at("entering")

    async def __aexit__(self, *_: object) -> None:
        await self._at("leaving")

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await self._at("dispatcher")


class EndingStorage(FileStorage):
    """Ends the process when an event is stored."""

    what = "exit"

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        end(self.what)
        return await super().append(event, once=once)


async def main(directory: Path, what: str, place: str, started: str, kept: str) -> None:
    """Log an event that alerts, and wait for what becomes of it."""

    def receiver(*_: object, **__: Any) -> None:
        end(what)

    async def coroutine(*_: object, **__: Any) -> None:
        await anyio.lowlevel.checkpoint()
        end(what)

    storage: FileStorage | None = None
    if place == "storage":
        ending = storage = EndingStorage(directory / "audit")
        ending.what = what
    dispatcher: AlertDispatcher = Ending(what, place)
    if kept != "plain":
        dispatcher = Outbox(dispatcher, directory / "alerts.db", schedule=SCHEDULE)
    if kept != "plain" and storage is None:
        # Without files of incidents: an outbox holds one alert, and no other that the next start has to send.
        storage = FileStorage(directory / "audit")
    path = directory / "audit" if storage is None else None
    trail = AuditTrail(storage=storage, storage_path=path, alert_dispatcher=dispatcher)
    if place in ("receiver", "coroutine"):
        compliance_alert.connect(receiver if place == "receiver" else coroutine, sender=trail)
    if started == "started":
        await trail.start()
    if kept != "restarted":
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    if kept != "plain" and place == "dispatcher":
        await anyio.sleep(30)
    await trail.drain()
    await trail.stop()
    print("alive", flush=True)  # noqa: T201


if __name__ == "__main__":
    faulthandler.dump_traceback_later(50, exit=True)
    # A shell starts what runs in its background with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    anyio.run(functools.partial(main, Path(sys.argv[1]), *sys.argv[3:]), backend=sys.argv[2])
