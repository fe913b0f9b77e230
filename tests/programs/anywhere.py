"""
Forty threads log into one trail, twenty with event loops of their own, and half of the callers end in the middle.

    python -m tests.programs.anywhere DIRECTORY SEED SECONDS

Callers with a loop are cancelled, by asyncio and by a scope, or their loop is closed around them. The trail's own loop
is started, stopped, and closed as well. Prints the ids that came back, a few hundred at least. If it hangs, it prints
every stack.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import random
import sys
import threading
import time
import warnings

import anyio

from fapilog import AuditEventType, AuditLogLevel, AuditTrail
from fapilog.testing import RecordingDispatcher

DIRECTORY, SEED, SECONDS = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
LEVELS = (AuditLogLevel.INFO, AuditLogLevel.SECURITY)

trail = AuditTrail(storage_path=DIRECTORY, alert_dispatcher=RecordingDispatcher(), stop_timeout=1)
end = time.monotonic() + SECONDS
noted: list[str] = []


def note(event_id: str) -> None:
    """Print an id as soon as it came back."""
    os.write(1, f"{event_id}\n".encode())
    noted.append(event_id)


async def log(chance: random.Random) -> None:
    """Log a few events."""
    for _ in range(chance.randrange(1, 6)):
        note(await trail.log_event(AuditEventType.DATA_ACCESS, "awaited", log_level=chance.choice(LEVELS)))


async def log_and_leave(chance: random.Random) -> None:
    """Log in ten tasks, some of which are cancelled by their scopes."""
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(log, chance)
        await anyio.sleep(chance.random() / 100)
        if chance.random() < 0.5:
            tasks.cancel_scope.cancel()


async def log_and_cancel(chance: random.Random) -> None:
    """Log in ten tasks, some of which are cancelled as asyncio does."""
    tasks = [asyncio.ensure_future(log(chance)) for _ in range(10)]
    await asyncio.sleep(chance.random() / 100)
    for task in chance.sample(tasks, 5):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def log_and_close(chance: random.Random) -> None:
    """Log in a loop that is closed while its tasks wait."""
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(log(chance)) for _ in range(10)]
    loop.run_until_complete(asyncio.sleep(chance.random() / 100))
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


def live_and_end(chance: random.Random) -> None:
    """Start the trail in a loop of this thread, and end the loop, with `stop` or without."""

    async def live() -> None:
        await trail.start()
        await log(chance)
        if chance.random() < 0.5:
            await trail.stop()

    with contextlib.suppress(RuntimeError):
        anyio.run(live, backend=chance.choice(["asyncio", "trio"]))


def work(number: int) -> None:
    """Do one thing after the other until the time is over."""
    chance = random.Random(f"{SEED} {number}")  # noqa: S311
    while time.monotonic() < end or len(noted) < 200:
        if number >= 20:
            note(trail.sync.log_event(AuditEventType.DATA_ACCESS, "sync", log_level=chance.choice(LEVELS)))
        elif number == 0:
            live_and_end(chance)
        elif number % 4 == 1:
            anyio.run(log_and_leave, chance, backend="trio")
        elif number % 4 == 2:
            asyncio.run(log_and_cancel(chance))
        elif number % 4 == 3:
            log_and_close(chance)
        else:
            anyio.run(log_and_leave, chance)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(SECONDS + 60, exit=True)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda _: None  # what is closed in the middle complains when it is collected
    failed: list[object] = []

    def note_failure(args: threading.ExceptHookArgs) -> None:
        failed.append(args.thread)
        threading.__excepthook__(args)

    threading.excepthook = note_failure
    threads = [threading.Thread(target=work, args=[number]) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(f"{len(failed)} threads failed")
    note(trail.sync.log_event(AuditEventType.DATA_ACCESS, "last"))
    with contextlib.suppress(RuntimeError):
        trail.sync.stop()
