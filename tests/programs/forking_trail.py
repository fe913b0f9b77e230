"""
Forks while a trail is in use, and logs on both sides.

    python forking_trail.py SCENE DIRECTORY asyncio|trio

Ends with 0 if all went well. Prints the ids of the events that are stored.
"""

from __future__ import annotations

import builtins
import fcntl
import functools
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from fapilog.core._incidents import STORING
from fapilog.core.audit import AuditEventType, AuditTrail
from fapilog.record.events import AuditEvent

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BACKEND = sys.argv[3]


async def log(trail: AuditTrail, who: str, count: int = 1) -> None:
    """Log *count* events, and print their ids."""
    for number in range(count):
        event_id = await trail.log_event(AuditEventType.DATA_ACCESS, f"{who} {number}")
        os.write(1, f"{event_id}\n".encode())


def run(trail: AuditTrail, who: str, count: int = 1) -> None:
    """Log in an event loop of its own."""
    anyio.run(functools.partial(log, trail, who, count), backend=BACKEND)


def is_locked(directory: Path) -> bool:
    """Tell whether someone holds the trail's lock."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def wait_for(pid: int) -> None:
    """Wait for a child that must end well."""
    assert os.waitpid(pid, 0)[1] == 0


def in_child(call: Callable[[], None]) -> int:
    """Call *call* in a forked child; return its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def held(directory: Path) -> None:
    """Fork while a thread of the parent is writing, and so holds the lock."""
    trail = AuditTrail(storage_path=directory)
    run(trail, "parent")
    write, inside, go_on = os.write, threading.Event(), threading.Event()

    def slow_write(fd: int, data: ReadableBuffer) -> int:
        if bytes(data)[:5] == b'{"v":':
            inside.set()
            go_on.wait()
        return write(fd, data)

    os.write = slow_write
    thread = threading.Thread(target=run, args=(trail, "parent in a thread"))
    thread.start()
    inside.wait()

    wait_for(in_child(lambda: None))
    assert is_locked(directory), "a child that ended has taken the parent's lock with it"

    checked, tell_checked = os.pipe()

    def child() -> None:
        os.write = write
        assert is_locked(directory), "a child has the parent's lock"
        os.write(tell_checked, b"x")
        run(trail, "child")  # waits for the parent to give up the lock
        run(trail, "child again", 10)

    pid = in_child(child)
    os.read(checked, 1)
    assert is_locked(directory), "a child has unlocked the parent's lock"
    os.write = write
    go_on.set()
    thread.join()
    run(trail, "parent again", 10)
    wait_for(pid)
    run(trail, "parent at last")


class AlertFile:
    """Appends a line for each alert to a file."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Write one line."""
        os.write(self._fd, f"{os.getpid()} {event.process_id} {event.event_id}\n".encode())


async def serve(trail: AuditTrail, who: str) -> None:
    """Be a worker: log with the trail started, now and then something that alerts."""
    async with trail:
        for number in range(20):
            event_id = await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, f"{who} {number}")
            os.write(1, f"{event_id}\n".encode())
            await log(trail, who)


def preload(directory: Path) -> None:
    """Make a trail and use it, then fork workers that use it too, as `gunicorn --preload` does."""
    trail = AuditTrail(storage_path=directory / "trail", alert_dispatcher=AlertFile(directory / "alerts"))
    anyio.run(serve, trail, "before", backend=BACKEND)
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=anyio.run, args=(serve, trail, f"worker {number}"), kwargs={"backend": BACKEND})
        for number in range(3)
    ]
    for worker in workers:
        worker.start()
    anyio.run(serve, trail, "parent", backend=BACKEND)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0


def running(directory: Path) -> None:
    """Fork where an event loop runs and the trail is started."""

    async def main() -> None:
        trail = AuditTrail(storage_path=directory / "trail", alert_dispatcher=AlertFile(directory / "alerts"))
        async with trail:
            await log(trail, "parent")

            def child() -> None:
                thread = threading.Thread(target=anyio.run, args=(serve, trail, "child"), kwargs={"backend": BACKEND})
                thread.start()
                thread.join()

            pid = in_child(child)
            for number in range(20):
                event_id = await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, f"parent {number}")
                os.write(1, f"{event_id}\n".encode())
            await anyio.to_thread.run_sync(wait_for, pid)

    anyio.run(main, backend=BACKEND)


async def fail(trail: AuditTrail) -> None:
    """Have an incident open, and kept in a file."""
    await trail.log_event(AuditEventType.DATA_ACCESS, "so that there is a directory")
    trail._alerts.health.failing(STORING, "full")
    await trail.drain()


def incidents(directory: Path) -> list[bool]:
    """Tell of each file of incidents whether someone holds it."""
    return [is_locked(path) for path in directory.glob("incidents-*")]


def failing(directory: Path) -> None:
    """Fork while something is failing in the parent; the child uses the trail too."""

    async def main() -> None:
        trail = AuditTrail(storage_path=directory)
        async with trail:
            await fail(trail)

            def child() -> None:
                assert incidents(directory) == [True], "a child has taken the parent's lock with it"
                thread = threading.Thread(target=anyio.run, args=(serve, trail, "child"), kwargs={"backend": BACKEND})
                thread.start()
                thread.join()

            await anyio.to_thread.run_sync(wait_for, in_child(child))
            assert incidents(directory) == [True], "a child that ended has done away with the parent's file"
            assert not await trail.get_events(component="audit_trail"), "a child has told of the parent's recovery"
            await log(trail, "parent")
            await trail.drain()
            assert len(await trail.get_events(component="audit_trail")) == 1
            assert incidents(directory) == []

    anyio.run(main, backend=BACKEND)


def orphaned(directory: Path) -> None:
    """Fork while something is failing, and be killed while the child lives on."""
    alive, die = os.pipe()
    forked, tell_forked = os.pipe()

    def live_on() -> None:
        """Wait until nobody can write to the pipe."""
        os.write(tell_forked, b"x")
        os.close(die)
        os.read(alive, 1)

    async def main() -> None:
        trail = AuditTrail(storage_path=directory)
        async with trail:
            await fail(trail)
            assert incidents(directory) == [True]
            in_child(live_on)
            os.read(forked, 1)
            os.kill(os.getpid(), signal.SIGKILL)

    pid = in_child(lambda: anyio.run(main, backend=BACKEND))
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert incidents(directory) == [False], "the child has kept the lock of its parent, which is gone"


def importing(directory: Path) -> None:
    """Fork while a thread makes the first call in a loop, and has half imported what anyio needs for that."""
    importlib.import_module(BACKEND)
    trail, half, go_on = AuditTrail(storage_path=directory), threading.Event(), threading.Event()
    import_as_ever, name = builtins.__import__, f"anyio._backends._{BACKEND}"

    def slow_import(module: str, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] and args[0]["__name__"] == name and not half.is_set():
            half.set()
            go_on.wait()
        return import_as_ever(module, *args, **kwargs)

    vars(builtins)["__import__"] = slow_import
    thread = threading.Thread(target=run, args=(trail, "parent in a thread"))
    thread.start()
    half.wait()
    # The import goes on as soon as the fork begins, or a moment later.
    os.register_at_fork(before=go_on.set)

    def child() -> None:
        signal.alarm(20)
        run(trail, "child")

    pid = in_child(child)
    thread.join()
    wait_for(pid)


if __name__ == "__main__":
    scenes = {
        "held": held,
        "preload": preload,
        "running": running,
        "importing": importing,
        "failing": failing,
        "orphaned": orphaned,
    }
    scenes[sys.argv[1]](Path(sys.argv[2]))
