"""A long search goes on in a process of its own, with the same answer, and in its thread where none can be had."""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.to_thread
import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, AuditStorageError, AuditTrail, FileStorage
from fapilog.record.kinds import AuditOutcome
from fapilog.record.parties import Actor, Target
from fapilog.storage import _aside
from fapilog.storage._aside import Aside, Search
from fapilog.storage._directory import without_writers
from fapilog.storage._effort import TooLongError
from fapilog.storage._reader import TrailReader
from fapilog.storage.protocol import Conditions, EventFilter

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
ODD = 'é"\\udcff'
LONE = "x\udcff"
EVENTS = [
    AuditEvent(
        timestamp=BEGAN + timedelta(seconds=number),
        event_type=AuditEventType.DATA_ACCESS if number % 3 else AuditEventType("billing.refund"),
        log_level=AuditLogLevel.ERROR if number % 7 == 0 else AuditLogLevel.INFO,
        message=f"number {number}",
        user_id=("alice", ODD, LONE)[number % 3],
        outcome=AuditOutcome.DENIED if number % 5 == 0 else None,
        actor=Actor(id="robot", on_behalf_of="bob") if number % 4 == 0 else None,
        target=Target(type="patient", id=str(number % 6)),
        regulatory_tags=("PCI-10",) if number % 2 else (),
        metadata={"http": {"status": 400 + number % 4}, "a": [1, {"b": None}]},
    )
    for number in range(40)
]
QUESTIONS: list[Conditions] = [
    {},
    {"user_id": "alice"},
    {"user_id": ODD},
    {"user_id": LONE},
    {"user_id": ""},
    {"after": 0, "before": 30},
    {"start_time": BEGAN + timedelta(seconds=10), "end_time": BEGAN + timedelta(seconds=20)},
    {"event_type": ["billing.refund", "data_access"]},
    {"event_type": []},
    {"min_level": "error"},
    {"outcome": "denied"},
    {"actor": "bob"},
    {"target": "patient/3"},
    {"target": Target(id="3")},
    {"tag": "PCI-10"},
    {"message": "number 1"},
    {"metadata": {"http.status": 402}},
    {"metadata": {"a": [1, {"b": None}]}},
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of a trail, with a line in it that is no record."""

    async def write() -> None:
        storage = FileStorage(tmp_path, durability="write")
        for event in EVENTS:
            await storage.append(event)

    anyio.run(write)
    [path] = tmp_path.glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:20], b"no record\n", *lines[20:]]))
    return tmp_path


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Send every search aside, and return a list that gets each process that is started."""
    monkeypatch.setattr(_aside, "_SHORT_BYTES", 0)
    started: list[Any] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg] # of bytes
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return started


def search(directory: Path, aside: Aside | None = None, **conditions: Any) -> Search:
    return Search(aside or Aside(), TrailReader(directory, durable=False), EventFilter(**conditions), 100)


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize("asked", QUESTIONS, ids=str)
def test_the_answer_is_the_same(directory: Path, processes: list[Any], asked: Conditions) -> None:
    """Whatever is asked, another process finds what a thread finds, and nothing is left of it."""
    expected = TrailReader(directory, durable=False).find(EventFilter(**asked), 100)
    assert search(directory, **asked).run() == expected
    # Values that are made anew in another process may not be equal there.
    assert len(processes) == ("metadata" not in asked or "a" not in (asked["metadata"] or {}))
    for process in processes:
        assert process.returncode is not None
        assert not {"alice", "bob", str(directory)} & set(process.args)


@pytest.mark.real_time
async def test_a_trail_asks_aside(directory: Path, processes: list[Any]) -> None:
    """Whoever asks a trail, with or without a loop, has the answer of the process."""
    trail = AuditTrail(storage=FileStorage(directory))
    expected = ["number 39", "number 36", "number 33"]
    assert [event.message for event in await trail.get_events(user_id="alice", limit=3)] == expected
    found = await anyio.to_thread.run_sync(lambda: trail.sync.get_events(user_id="alice", limit=3))
    assert [event.message for event in found] == expected
    assert len(processes) == 2


def test_a_short_search_has_no_process(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some MiB are enough, nothing is started."""
    monkeypatch.setattr(subprocess, "Popen", None)
    assert len(search(directory, user_id="alice").run()) == 14


@pytest.mark.real_time
def test_what_can_not_be_read_is_said(tmp_path: Path, processes: list[Any]) -> None:
    """An error of the other process is the one that a thread would have raised."""
    (tmp_path / "audit_2026-03-01.jsonl").mkdir()
    with pytest.raises(AuditStorageError, match="expected a regular file, found a directory") as aside:
        search(tmp_path)._there()
    with pytest.raises(AuditStorageError) as here:
        TrailReader(tmp_path, durable=False).find(EventFilter(), 1)
    assert str(aside.value) == str(here.value)
    assert len(processes) == 1


def _no_process(*_args: object, **_options: object) -> None:
    raise BlockingIOError("no more processes")


UNABLE: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no program": lambda patch: patch.setattr(sys, "executable", "/nowhere/python"),
    "not known": lambda patch: patch.setattr(sys, "executable", None),
    "an application": lambda patch: patch.setattr(sys, "executable", "/usr/sbin/uwsgi"),
    "frozen": lambda patch: patch.setattr(sys, "frozen", True, raising=False),
    "not allowed": lambda patch: patch.setattr(subprocess, "Popen", _no_process),
    "something else": lambda patch: patch.setattr(_aside, "_PROGRAM", "print('>>> hello')"),
    "it can't import": lambda patch: patch.setattr(_aside, "_PROGRAM", "import nothing"),
    "it dies later": lambda patch: patch.setattr(
        _aside, "_PROGRAM", "import os, pickle; os.write(1, b'fapilog\\n' + pickle.dumps(1)); os._exit(1)"
    ),
}


@pytest.mark.real_time
@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("how", UNABLE)
def test_without_another_process_it_goes_on_in_its_thread(
    directory: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Where no process can be had, or it fails, the answer is the same; what is no Python is not tried again."""
    UNABLE[how](monkeypatch)
    aside = Aside()
    for _ in range(2):
        assert len(search(directory, aside, user_id="alice").run()) == 14
    assert aside.is_possible == (how in {"no program", "not allowed", "it dies later"})


HANGING = "import sys; sys.stdout.write('fapilog\\n'); sys.stdout.flush(); sys.stdin.read()"


@pytest.mark.real_time
async def test_a_cancelled_caller_ends_the_process(
    directory: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is cancelled while the process searches goes on at once, and the process is gone."""
    monkeypatch.setattr(_aside, "_PROGRAM", HANGING)
    reading = threading.Event()

    def answer(pipe: IO[bytes]) -> object:
        reading.set()
        return pickle.load(pipe)  # noqa: S301 - there is nothing

    monkeypatch.setattr(_aside, "_answer", answer)
    storage = FileStorage(directory)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(storage.find, EventFilter(), 10)
        await anyio.to_thread.run_sync(reading.wait)
        tasks.cancel_scope.cancel()
    assert [process.returncode for process in processes] == [-9]


def test_a_search_that_is_stopped_before_its_turn(directory: Path, processes: list[Any]) -> None:
    """There are so many processes at once; who waits for a turn, and is stopped, has started none."""
    aside = Aside()
    while aside.turns.acquire(blocking=False):
        pass
    waiting = search(directory, aside)
    waiting.stop()
    with pytest.raises(TooLongError):
        waiting.run()
    aside.turns.release()
    with pytest.raises(TooLongError):
        waiting.run()
    assert all(process.returncode == -9 for process in processes)
    # Nothing of the turn is kept.
    assert aside.turns.acquire(blocking=False)


@pytest.mark.real_time
def test_with_its_parent_the_process_ends(directory: Path) -> None:
    """A process whose parent dies, so that nobody has the other end of its input, ends, whatever it waits for."""
    command = [sys.executable, "-I", "-S", "-c", _aside._PROGRAM]
    with (
        without_writers(directory),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        assert process.stdin is not None
        asked = search(directory)
        asked._ask(process.stdin)
        process.stdin.close()
        assert process.wait() in (0, 1)


@pytest.mark.real_time
@pytest.mark.usefixtures("processes")
def test_a_forked_child_asks_as_its_parent_does(directory: Path) -> None:
    """A child that was forked while all turns were taken has turns of its own."""
    storage = FileStorage(directory)
    while storage._aside.turns.acquire(blocking=False):
        pass
    program = os.fork()
    if program == 0:
        found = AuditTrail(storage=storage).sync.get_events(user_id="alice")
        os._exit(len(found))
    assert os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]) == 14
