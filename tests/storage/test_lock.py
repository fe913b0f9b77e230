"""A lock that is held by somebody else: waited for with a limit, and left at once by callers who are cancelled."""

import asyncio
import errno
import fcntl
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, FileStorage
from fapilog.storage._files import locking as _locking
from fapilog.storage._files import writer as _writer
from fapilog.storage.protocol import EventFilter
from fapilog.testing import RecordingDispatcher
from tests.doubles.trail_files import whole


def event(event_id: str) -> AuditEvent:
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", event_id=event_id)


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the lock as another program would."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await anyio.lowlevel.checkpoint()


async def stored(storage: FileStorage) -> list[str]:
    return [whole(each).event_id for each in await storage.read(0, 100)]


@pytest.mark.parametrize("durability", ["fsync", "write"])
async def test_a_stranger_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str) -> None:
    """Under `flock DIR program`, callers and readers get an error that names the program, and then all goes on."""
    flock = shutil.which("flock")
    if flock is None or not Path("/proc/locks").exists():  # noqa: ASYNC240
        pytest.skip("no flock, or no list of locks")
    monkeypatch.setattr(_locking, "_PATIENCE", 0.05)
    storage = FileStorage(tmp_path, durability=durability)  # type: ignore[arg-type]
    await storage.append(event("first"))
    command = [flock, str(tmp_path), "sh", "-c", "echo held; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:  # noqa: ASYNC220
        assert stranger.stdout is not None
        assert stranger.stdin is not None
        stranger.stdout.readline()
        said = rf"{tmp_path}: its lock was held for 0.05 s by process {stranger.pid} \(flock\)$"
        refused: list[str] = []

        async def append(number: int) -> None:
            with pytest.raises(AuditStorageError, match=f"cannot append to {said}"):
                await storage.append(event(f"{number}"))
            refused.append(f"{number}")

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(append, number)
        assert len(refused) == 5
        with pytest.raises(AuditStorageError, match=f"cannot read {said}"):
            await storage.read(0, 10)
        stranger.stdin.close()
        stranger.wait()
    await storage.append(event("next"))
    assert await stored(storage) == ["first", "next"]
    await storage.aclose()


async def test_a_process_that_is_in_its_own_way_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another trail of this process holds the lock, the error says that one trail is enough."""
    if not Path("/proc/locks").exists():  # noqa: ASYNC240
        pytest.skip("no list of locks")
    monkeypatch.setattr(_locking, "_PATIENCE", 0.01)
    storage = FileStorage(tmp_path)
    await storage.append(event("first"))
    with held(tmp_path), pytest.raises(AuditStorageError, match="by this process itself: make one trail for"):
        await storage.append(event("refused"))
    await storage.aclose()


async def test_a_caller_that_is_cancelled_before_the_write_stores_nothing(tmp_path: Path) -> None:
    """Of the callers that wait for a lock, those that are cancelled store nothing, and the others are stored."""
    storage = FileStorage(tmp_path)
    await storage.append(event("first"))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as others:
            with held(tmp_path):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(storage.append, event("cancelled"))
                    others.start_soon(storage.append, event("patient"))
                    # The commit has begun, and waits.
                    await until(lambda: storage._commits._committer is not None)
                    await until(lambda: len(storage._commits._waiting) == 2)
                    tasks.cancel_scope.cancel()
                others.start_soon(storage.append, event("late"))
                await until(lambda: len(storage._commits._waiting) == 2)
    assert not scope.cancelled_caught
    assert await stored(storage) == ["first", "patient", "late"]
    await storage.aclose()


async def test_all_may_be_cancelled(tmp_path: Path) -> None:
    """If no caller is left when the lock is free, nothing is written, and the next caller is stored."""
    storage = FileStorage(tmp_path)
    await storage.append(event("first"))
    with held(tmp_path):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.append, event("cancelled"))
            await until(lambda: storage._commits._committer is not None)
            tasks.cancel_scope.cancel()
    await storage.append(event("next"))
    assert await stored(storage) == ["first", "next"]
    await storage.aclose()


@pytest.mark.parametrize("ask", ["find", "read", "read_lines", "verify"])
async def test_a_reader_that_is_cancelled_is_free_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """A caller that is cancelled while the end of the trail is looked for does not wait for the lock."""
    storage = FileStorage(tmp_path)
    await storage.append(event("first"))
    if ask == "verify":
        # It waits for writers where it comes to an incomplete record.
        [path] = tmp_path.glob("*.jsonl")  # noqa: ASYNC240
        path.write_bytes(path.read_bytes() + b'{"v":2,')
    monkeypatch.setattr(_locking, "_PATIENCE", 3600.0)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "find": lambda: storage.find(EventFilter(), 1),
        "read": lambda: storage.read(0, 1),
        "read_lines": lambda: storage.read_lines(0, 1),
        "verify": storage.verify,
    }
    with held(tmp_path):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(calls[ask])
            await until(lambda: bool(waits))
            tasks.cancel_scope.cancel()
    assert await stored(storage) == ["first"]
    await storage.aclose()


async def test_a_held_lock_is_an_incident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trail whose lock is held alerts once that it can't store events, and once that it can again."""
    dispatcher = RecordingDispatcher()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher) as trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "first")
        # Beside its own readers the trail has the patience that it always has.
        with held(tmp_path), monkeypatch.context() as patch:
            patch.setattr(_locking, "_PATIENCE", 0.01)
            for _ in range(2):
                with pytest.raises(AuditStorageError, match=r"its lock was held for 0\.01 s by"):
                    await trail.log_event(AuditEventType.DATA_ACCESS, "refused")
        await trail.log_event(AuditEventType.DATA_ACCESS, "next")
    types = [alert.event.event_type for alert in dispatcher.alerts]
    assert types == [AuditEventType.COMPONENT_FAILURE, AuditEventType.COMPONENT_RECOVERY]


@pytest.mark.parametrize(
    "listed",
    [
        "",
        "nonsense\n",
        "1: POSIX  ADVISORY  WRITE 12 {place} 0 EOF\n",
        "1: FLOCK  ADVISORY  WRITE 12 00:01:1 0 EOF\n",
        "1: -> FLOCK  ADVISORY  WRITE 12 {place} 0 EOF\n",
        "1: FLOCK  ADVISORY  WRITE 0 {place} 0 EOF\n",
    ],
)
def test_a_holder_that_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    """Where the system does not tell who holds the lock, another process does."""
    fd = os.open(tmp_path, os.O_RDONLY)
    found = os.fstat(fd)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    (tmp_path / "locks").write_text(listed.format(place=place))
    monkeypatch.setattr(_locking, "_LOCKS", str(tmp_path / "locks"))
    assert _locking._holder(fd) == "another process"
    (tmp_path / "locks").write_text(f"1: FLOCK  ADVISORY  WRITE 999999999 {place} 0 EOF\n")
    assert _locking._holder(fd) == "process 999999999"
    (tmp_path / "locks").unlink()
    assert _locking._holder(fd) == "another process"
    os.close(fd)


def test_a_lock_that_fails_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks is no lock that is held."""

    def fail(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="No locks available"), _locking.locked(tmp_path):
        pass


def test_an_interrupt_that_comes_before_the_unlocking_leaves_nothing_of_the_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of a directory that was closed may be that of any other file next."""

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    def reader() -> None:
        with _locking.locked(tmp_path):
            pass

    storage = FileStorage(tmp_path)
    trail = AuditTrail(storage=storage).sync
    for call in (reader, lambda: trail.log_event(AuditEventType.DATA_ACCESS, "m")):
        with monkeypatch.context() as patch:
            for module in (_locking, _writer):
                patch.setattr(module, "unlock", interrupted)
            with pytest.raises(KeyboardInterrupt):
                call()
    asyncio.run(storage.aclose())
    assert not _locking.is_locked_here(str(tmp_path), but=None)
    assert _locking._threads == {}


@pytest.mark.parametrize("durability", ["fsync", "write"])
@pytest.mark.parametrize("interrupting", [0, 1], ids=["same trail", "other trail"])
def test_a_call_that_interrupts_one_of_its_thread_does_not_wait_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: str, interrupting: int
) -> None:
    """A signal handler gets an error at once, in a read and in an append, if it needs the lock which its thread has."""
    trails = [AuditTrail(storage_path=tmp_path, durability=durability) for _ in range(2)]  # type: ignore[arg-type]
    first, trail = trails[0].sync, trails[interrupting]
    other = trail.sync
    first.log_event(AuditEventType.SYSTEM_STARTUP, "the first opens the file")
    flock, here, answers = fcntl.flock, threading.get_ident(), list[str]()
    handlers: list[Callable[[], object]] = [
        lambda: other.log_event(AuditEventType.DATA_ACCESS, "in between"),
        lambda: asyncio.run(trail.log_event(AuditEventType.DATA_ACCESS, "in between")),
        other.get_events,
    ]

    def interrupted(fd: int, how: int) -> None:
        is_free = how & fcntl.LOCK_UN and threading.get_ident() == here and not answers
        if is_free:
            for handler in handlers:
                try:
                    answers.append(f"{len(handler())} characters or events")  # type: ignore[arg-type]
                except AuditStorageError as error:
                    answers.append(str(error))
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", interrupted)
    nested = "not stored: called from within a call of the same thread"
    begun = time.monotonic()
    assert [event.message for event in first.get_events()] == ["the first opens the file"]
    assert answers == [nested, nested, "1 characters or events"]
    answers.clear()
    first.log_event(AuditEventType.DATA_ACCESS, "appended")
    assert answers == [nested, nested, f"cannot read {tmp_path}: called from within a call of the same thread"]
    assert time.monotonic() - begun < 5
    monkeypatch.undo()
    other.log_event(AuditEventType.DATA_ACCESS, "after it")
    messages = [event.message for event in other.get_events()]
    assert {"after it", "appended"} <= set(messages)
    assert "in between" not in messages
    assert first.verify_chain_from_storage().valid
