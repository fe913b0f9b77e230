"""
Logs events in a loop that is interrupted, as by Ctrl-C, at random moments, again and again.

    python interrupted_trail.py DIRECTORY asyncio|trio fsync|write

Prints the ids of the events that are stored.
"""

import contextlib
import faulthandler
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import anyio
import anyio.lowlevel

from fapilog.core.audit import AuditEventType, AuditTrail

INTERRUPTS = 60


class Interrupter:
    """Sends SIGINT to this process, a moment after each time that it is asked to."""

    def __init__(self) -> None:
        self._asked = threading.Semaphore(0)
        self._ended = threading.Event()
        self._idle = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def soon(self) -> None:
        """Send one within two milliseconds."""
        self._ended.clear()
        self._idle.clear()
        self._asked.release()

    def end(self) -> None:
        """Send no other, and wait for those that were sent."""
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                self._ended.set()
                self._idle.wait()
                # What was sent before is raised by the next line of Python at the latest.
                time.sleep(0)
                return

    def _run(self) -> None:
        chance = random.Random(0)  # noqa: S311
        while self._asked.acquire():
            time.sleep(chance.random() / 500)
            os.kill(os.getpid(), signal.SIGINT)
            # On asyncio the first one only cancels the main task. Once in some ten thousand times that is lost, perhaps
            # where it comes while a task group of anyio ends, and the work goes on; people press the keys again.
            while not self._ended.wait(0.5):
                os.kill(os.getpid(), signal.SIGINT)
            self._idle.set()


async def work(trail: AuditTrail, interrupter: Interrupter, ids: list[str]) -> None:
    """Log until interrupted."""
    interrupter.soon()
    while True:
        ids.append(await trail.log_event(AuditEventType.DATA_ACCESS, "m"))
        await anyio.lowlevel.checkpoint()


def main(directory: str, backend: str, durability: str) -> None:
    """Work and be interrupted."""
    # A shell starts what runs in its background with SIGINT ignored, and so does what that starts: nothing would end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    trail = AuditTrail(storage_path=Path(directory), durability="fsync" if durability == "fsync" else "write")
    interrupter = Interrupter()
    ids: list[str] = []
    for _ in range(INTERRUPTS):
        with contextlib.suppress(KeyboardInterrupt):
            anyio.run(work, trail, interrupter, ids, backend=backend)
        interrupter.end()
    ids.append(anyio.run(trail.log_event, AuditEventType.DATA_ACCESS, "last", backend=backend))
    anyio.run(trail.stop, backend=backend)
    print(*ids)  # noqa: T201


if __name__ == "__main__":
    faulthandler.dump_traceback_later(50, exit=True)
    main(*sys.argv[1:])
