"""
Forks in the middle of an attempt to deliver an alert. The child takes alerts too, before and after the parent leaves.

    python forking_outbox.py DIRECTORY asyncio|trio

Prints a line for each alert that is sent, and for each that was taken, with the process that did so.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import anyio

from fapilog import AmbiguousDeliveryError, AuditEvent, AuditEventType
from fapilog.delivery.outbox import Outbox


def say(what: str, event_id: str) -> None:
    os.write(1, f"{PROCESS} {what} {event_id}\n".encode())


async def take(outbox: Outbox, event_id: str) -> None:
    """Hand an alert to the outbox."""
    event = AuditEvent(event_id=event_id, event_type=AuditEventType.SECURITY_VIOLATION, message="m")
    await outbox.send_alert(event, severity="critical")
    say("took", event_id)


class Forking:
    """Forks when it is first called, and takes nothing."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        global CHILD  # noqa: PLW0603  there is one
        say("sends", event.event_id)
        if not CHILD:
            CHILD = os.fork()
            if not CHILD:
                in_child(self)
        raise AmbiguousDeliveryError("nobody knows")


def in_child(inner: Forking) -> None:
    """Go on as the child, with an event loop of its own; never return."""
    global PROCESS, CHILD
    PROCESS, CHILD = "child", -1

    def work() -> None:
        os.read(STILL[0], 1)
        anyio.run(take, OUTBOX, "before", backend=sys.argv[2])
        os.write(TOOK[1], b".")
        os.read(LEFT[0], 1)
        anyio.run(take, OUTBOX, "after", backend=sys.argv[2])
        os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def in_parent() -> None:
    """Have an alert sent; leave when the child has taken one."""
    async with OUTBOX:
        await take(OUTBOX, "first")
        # Until the attempt is in the file: a thread of the parent that is still at it might claim the child's alert.
        while not ((found := await OUTBOX.find("first")) and found.reason):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        os.write(STILL[1], b".")
        os.read(TOOK[0], 1)
    os.write(LEFT[1], b".")
    os.waitpid(CHILD, 0)  # noqa: ASYNC222


CHILD = 0
PROCESS = "parent"
OUTBOX = Outbox(Forking(), Path(sys.argv[1]) / "alerts.db", schedule=[1000.0], stop_timeout=0)
STILL, TOOK, LEFT = os.pipe(), os.pipe(), os.pipe()

if __name__ == "__main__":
    anyio.run(in_parent, backend=sys.argv[2])
