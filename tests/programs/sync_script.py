"""
A plain script that logs without an event loop, and ends in one of several ways.

    python -m tests.programs.sync_script HOW DIRECTORY

Writes a line to ``DIRECTORY/alerts`` for each alert that its dispatcher has delivered.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import anyio

import fapilog
from fapilog import AlertDispatcher, AuditEvent, AuditEventType, AuditTrail
from fapilog.record.errors import TransientDeliveryError

HOW, DIRECTORY = sys.argv[1], Path(sys.argv[2])


class File:
    """Delivers into a file, in a moment; how often it fails first, or whether it hangs or blocks, depends on how."""

    def __init__(self) -> None:
        self.calls = 0

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        self.calls += 1
        if HOW == "hanging":
            await anyio.sleep_forever()
        if HOW == "blocking":
            time.sleep(60)  # noqa: ASYNC251  it blocks
        if HOW == "outbox" and not (DIRECTORY / "failed").exists():
            (DIRECTORY / "failed").touch()
            raise TransientDeliveryError("busy")
        if HOW in {"lookup", "only_late"}:
            # As a provider does with the name of its target.
            await anyio.getaddrinfo("localhost", 80)
        await anyio.sleep(0.05)
        with (DIRECTORY / "alerts").open("a") as file:
            file.write(f"{event.message} {os.getpid()}\n")


class SlowImport:
    """Says that the background thread imports asyncio, and gives others a moment to fork meanwhile."""

    begun = threading.Event()

    @classmethod
    def find_spec(cls, name: str, *_: object) -> None:
        """Find nothing."""
        if name == "asyncio.base_events":
            cls.begun.set()
            time.sleep(0.3)


def fork_early(log: Callable[[str], None]) -> None:
    """Fork while the first alert of another thread has asyncio imported."""
    sys.meta_path.insert(0, SlowImport)
    thread = threading.Thread(target=log, args=["first"])
    thread.start()
    assert SlowImport.begun.wait(30)
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        log("child")
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()


def main() -> None:  # noqa: C901, PLR0912  one way to end after the other
    """Log, and end."""
    pager = File()
    dispatcher: AlertDispatcher = pager
    if HOW == "outbox":
        # Imported here: the other scripts show that a trail has all loaded that it needs at the exit.
        from fapilog import Outbox  # noqa: PLC0415

        dispatcher = Outbox(pager, DIRECTORY / "alerts.db", schedule=[600, 600])
    trail = AuditTrail(
        storage_path=DIRECTORY / "audit",
        alert_dispatcher=dispatcher,
        stop_timeout=0.5 if HOW in {"hanging", "blocking"} else 50,
    )

    def log(message: str) -> None:
        trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, message)

    if HOW == "late":
        atexit.register(log, "at the exit")
    if HOW == "sigterm":
        fapilog.exit_on_sigterm()
    if HOW == "only_late":
        atexit.register(log, "at the exit")
        return
    if HOW == "fork_early":
        fork_early(log)
        return
    log("first")
    if HOW == "fork":
        pid = os.fork()
        log("child" if pid == 0 else "parent")
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    if HOW == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=log, args=["child"])
        child.start()
        child.join()
        assert child.exitcode == 0
    if HOW == "threads":
        threads = [threading.Thread(target=log, args=[f"thread {number}"]) for number in range(20)]
        for thread in threads:
            thread.start()
    if HOW == "drain":
        trail.sync.drain()
        assert trail.sync.get_statistics()["alerts"]["dispatched"] == 1
    if HOW == "stop":
        with trail.sync:
            log("second")
        assert not trail.is_started
    if HOW == "sigterm":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    if HOW == "raise":
        raise RuntimeError("the script failed")


main()
