"""
Measures an outbox for Prometheus in multiprocess mode, and changes what is in it as it is told on its standard input.

    PROMETHEUS_MULTIPROC_DIR=... python measured_outbox.py DIRECTORY worker|master

A worker answers each command when its own metrics show what the command has changed: "take" brings an alert that is
pending and one that is dead, "discard" discards both. A master forks a worker, and never enters the outbox itself.
"""

import os
import sys
from pathlib import Path

import anyio
from prometheus_client import REGISTRY

from fapilog import AuditEvent, AuditEventType, PermanentDeliveryError, TransientDeliveryError
from fapilog.delivery.outbox import Outbox, OutboxState
from fapilog.observers import metrics

EVENTS = ["pending", "dead"]


class Refusing:
    """Refuses the alert about the event "dead" for good, and the other for now."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        raise PermanentDeliveryError("no") if event.event_id == "dead" else TransientDeliveryError("not now")


class Watched:
    """An outbox that counts how often its state is asked for."""

    name = "slack"

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.asked = 0

    @property
    def state(self) -> OutboxState:
        self.asked += 1
        return self.outbox.state


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def shown(number: float) -> None:
    """Wait until the metrics of this process show so many pending and so many dead alerts."""
    for name in EVENTS:
        while REGISTRY.get_sample_value(f"fapilog_outbox_{name}", {"outbox": "slack"}) != number:  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def work(outbox: Outbox) -> None:
    """Do as the standard input says until it ends."""
    async with outbox:
        await shown(0)
        say("ready")
        while command := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
            if command == "take":
                for event_id in EVENTS:
                    event = AuditEvent(event_id=event_id, event_type=AuditEventType.SECURITY_VIOLATION, message="m")
                    await outbox.send_alert(event, severity="critical")
                await shown(1)
            else:
                await outbox.discard(EVENTS, reason="told by phone")
                await shown(0)
            say(command)


async def look_on(watched: Watched) -> None:
    """Answer each command when the outbox was asked for its state often enough to have been measured."""
    while command := (await anyio.to_thread.run_sync(sys.stdin.readline)).strip():
        asked = watched.asked
        while watched.asked < asked + 20:  # noqa: ASYNC110
            await anyio.sleep(0.01)
        say(command)


def main() -> None:
    metrics._LOOK_EVERY = 0.01  # type: ignore[misc]  # the tests wait for it
    watched = Watched(Outbox(Refusing(), Path(sys.argv[1]) / "alerts.db", name="slack", lease=0.2))
    metrics.connect(outboxes=[watched])
    if sys.argv[2] == "worker":
        anyio.run(work, watched.outbox)
        return
    of_child, to_child = os.pipe()
    if not os.fork():
        # Ends with the master: nobody else can write to it then.
        os.close(to_child)
        os.dup2(of_child, 0)
        anyio.run(work, watched.outbox)
        os._exit(0)
    os.write(to_child, b"take\n")
    anyio.run(look_on, watched)


if __name__ == "__main__":
    main()
