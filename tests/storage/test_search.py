"""A long search goes on in a process of its own, with the same answer, and in its thread where none can be had."""

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.to_thread
import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, AuditStorageError, AuditTrail, FileStorage
from fapilog.record.kinds import AuditOutcome
from fapilog.record.parties import Actor, Target
from fapilog.storage._files import search as _search
from fapilog.storage._files import searchers as _searchers
from fapilog.storage._files.effort import TooLongError
from fapilog.storage._files.locking import locked
from fapilog.storage._files.reader import TrailReader
from fapilog.storage._files.search import Search
from fapilog.storage._files.searchers import Searcher, Searchers
from fapilog.storage.protocol import Conditions, EventFilter
from tests.doubles.interrupting import moments

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
def searchers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Searchers]:
    """Return the processes for all searches of this test, all of which are long, and nobody is alone."""
    monkeypatch.setattr(_search, "_SHORT_BYTES", 0)
    monkeypatch.setattr(_search, "_is_alone", lambda: False)
    searchers = Searchers()
    monkeypatch.setattr(_searchers, "SEARCHERS", searchers)
    yield searchers
    searchers.close()


def test_an_interrupted_search_gives_its_turn_back(
    directory: Path, searchers: Searchers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a signal handler raises in the midst of a search, as many searches as before can be made at once."""
    monkeypatch.setattr(Search, "_there", lambda *_: [])
    turns, reader = searchers.turns.qsize(), TrailReader(directory, durable=True)

    def run(moment: AbstractContextManager[None]) -> None:
        with contextlib.suppress(KeyboardInterrupt), moment:
            Search(reader, EventFilter(), 1).run()

    for moment in moments(Path(_search.__file__), KeyboardInterrupt):
        # In a thread of its own: one that is interrupted as an `except` ends has that exception as the context of all
        # later ones.
        thread = threading.Thread(target=run, args=(moment,))
        thread.start()
        thread.join()
        assert searchers.turns.qsize() == turns


@pytest.fixture
def processes(searchers: Searchers, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that gets each process that is started."""
    started: list[Any] = []

    class Popen(subprocess.Popen):  # type: ignore[type-arg] # of bytes
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return started


@pytest.fixture
def not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a search fail that continues in its thread."""

    def fail(_: Search) -> None:
        raise AssertionError("the process did not answer")

    monkeypatch.setattr(Search, "_here", fail)


def search(directory: Path, searchers: Searchers, **conditions: Any) -> Search:
    return Search(TrailReader(directory, durable=False), EventFilter(**conditions), 100, searchers=searchers)


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.usefixtures("not_here")
def test_the_answer_is_the_same(directory: Path, searchers: Searchers, processes: list[Any]) -> None:
    """Whatever is asked, one process finds what a thread finds, question after question, and nothing is left of it."""
    for asked in QUESTIONS:
        expected = TrailReader(directory, durable=False).page(EventFilter(**asked), 100).items
        assert search(directory, searchers, **asked).run().items == expected, asked
    [process] = processes
    assert process.returncode is None
    assert not {"alice", "bob", str(directory)} & set(process.args)
    searchers.close()
    assert process.returncode is not None


@pytest.mark.slow_on_trio
@pytest.mark.real_time
@pytest.mark.usefixtures("not_here")
async def test_a_trail_asks_a_process(directory: Path, processes: list[Any]) -> None:
    """Whoever asks a trail, with or without a loop, has the answer of the process, which is started once."""
    trail = AuditTrail(storage=FileStorage(directory))
    expected = ["number 39", "number 36", "number 33"]
    assert [event.message for event in await trail.get_events(user_id="alice", limit=3)] == expected
    other = AuditTrail(storage=FileStorage(directory))
    found = await anyio.to_thread.run_sync(lambda: other.sync.get_events(user_id="alice", limit=3))
    assert [event.message for event in found] == expected
    assert len(processes) == 1


def test_a_short_search_has_no_process(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where some MiB are enough, nothing is started."""
    monkeypatch.setattr(_search, "_is_alone", lambda: False)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert len(search(directory, Searchers(), user_id="alice").run().items) == 14


@pytest.mark.slow
@pytest.mark.real_time
def test_a_program_of_one_thread_has_no_process(directory: Path) -> None:
    """Where no other thread is there to be slowed, the search stays where it is asked for."""
    program = f"""
import subprocess
from fapilog import AuditTrail
from fapilog.storage._files import search as _search
_search._SHORT_BYTES, subprocess.Popen = 0, None
print(len(AuditTrail(storage_path={str(directory)!r}).sync.get_events(user_id="alice")))
"""
    assert subprocess.check_output([sys.executable, "-c", program]) == b"14\n"


@pytest.mark.real_time
@pytest.mark.usefixtures("not_here")
def test_what_can_not_be_read_is_said(
    tmp_path: Path, directory: Path, searchers: Searchers, processes: list[Any]
) -> None:
    """An error of the other process is the one that a thread would have raised, and ends nothing."""
    other = tmp_path / "other"
    (other / "audit_2026-03-01.jsonl").mkdir(parents=True)
    with pytest.raises(AuditStorageError, match="expected a regular file, found a directory") as aside:
        search(other, searchers).run()
    with pytest.raises(AuditStorageError) as here:
        TrailReader(other, durable=False).page(EventFilter(), 1)
    assert str(aside.value) == str(here.value)
    assert len(search(directory, searchers, user_id="alice").run().items) == 14
    assert len(processes) == 1


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.usefixtures("not_here")
def test_a_process_that_waits_is_ended_after_some_time(
    directory: Path, searchers: Searchers, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no question comes, the process is gone without a trace; the next question has a new one."""
    ended = threading.Event()
    monkeypatch.setattr(_searchers, "_KEPT", 0.001)
    end = Searcher.end

    def end_and_tell(searcher: Searcher) -> None:
        end(searcher)
        # Those of all storages may be ended meanwhile, which an earlier test has asked.
        if searcher._process in processes:
            ended.set()

    monkeypatch.setattr(Searcher, "end", end_and_tell)
    for number in (1, 2):
        assert len(search(directory, searchers, user_id="alice").run().items) == 14
        assert ended.wait(60)
        ended.clear()
        assert len(processes) == number
        assert processes[-1].returncode is not None


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.usefixtures("not_here")
def test_a_process_that_died_or_has_other_rights_is_asked_nothing(
    directory: Path, searchers: Searchers, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was killed while it waited, or that another user started, is replaced by a new one."""
    assert len(search(directory, searchers, user_id="alice").run().items) == 14
    processes[0].kill()
    os.waitid(os.P_PID, processes[0].pid, os.WEXITED | os.WNOWAIT)
    assert len(search(directory, searchers, user_id="alice").run().items) == 14
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert len(search(directory, searchers, user_id="alice").run().items) == 14
    assert [process.returncode for process in processes] == [-9, -9, None]


@pytest.mark.real_time
def test_where_no_thread_can_be_had_no_process_is_kept(
    directory: Path, searchers: Searchers, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is ended at once that nobody would end later."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Timer, "start", refuse)
    assert len(search(directory, searchers, user_id="alice").run().items) == 14
    assert [process.returncode for process in processes] == [-9]


def _no_process(*_args: object, **_options: object) -> None:
    raise BlockingIOError("no more processes")


UNABLE: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no program": lambda patch: patch.setattr(sys, "executable", "/nowhere/python"),
    "not known": lambda patch: patch.setattr(sys, "executable", None),
    "an application": lambda patch: patch.setattr(sys, "executable", "/usr/sbin/uwsgi"),
    "frozen": lambda patch: patch.setattr(sys, "frozen", True, raising=False),
    "not allowed": lambda patch: patch.setattr(subprocess, "Popen", _no_process),
    "something else": lambda patch: patch.setattr(_searchers, "_PROGRAM", "print('>>> hello')"),
    "it can't import": lambda patch: patch.setattr(_searchers, "_PROGRAM", "import nothing"),
    "it dies later": lambda patch: patch.setattr(
        _searchers, "_PROGRAM", "import os, pickle; os.write(1, b'fapilog\\n' + pickle.dumps(1)); os._exit(1)"
    ),
    "it is of another version": lambda patch: patch.setattr(
        _searchers, "_PROGRAM", r"import os; os.write(1, b'fapilog\n' + b'cfapilog.later\nEvent\n.'); os._exit(1)"
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
    searchers = Searchers()
    for _ in range(2):
        assert len(search(directory, searchers, user_id="alice").run().items) == 14
    assert searchers.is_possible == (how in {"no program", "not allowed", "it dies later", "it is of another version"})


HANGING = "import sys; sys.stdout.write('fapilog\\n'); sys.stdout.flush(); sys.stdin.read()"


@pytest.mark.real_time
async def test_a_cancelled_caller_ends_the_process(
    directory: Path, processes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is cancelled while the process searches goes on at once, and the process is gone."""
    monkeypatch.setattr(_searchers, "_PROGRAM", HANGING)
    reading = threading.Event()

    def answer(pipe: IO[bytes]) -> object:
        reading.set()
        return pickle.load(pipe)  # noqa: S301 - there is nothing

    monkeypatch.setattr(_searchers, "_answer", answer)
    storage = FileStorage(directory)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(storage.find, EventFilter(), 10)
        await anyio.to_thread.run_sync(reading.wait)
        tasks.cancel_scope.cancel()
    assert [process.returncode for process in processes] == [-9]


def test_a_search_that_is_stopped_before_its_turn(directory: Path, searchers: Searchers, processes: list[Any]) -> None:
    """There are so many processes at once; who waits for a turn, and is stopped, has started none."""
    while not searchers.turns.empty():
        searchers.turns.get()
    waiting = search(directory, searchers)
    waiting.stop()
    with pytest.raises(TooLongError):
        waiting.run()
    searchers.turns.put(None)
    with pytest.raises(TooLongError):
        waiting.run()
    assert all(process.returncode == -9 for process in processes)
    # Nothing of the turn is kept.
    assert searchers.turns.qsize() == 1


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize("is_busy", [True, False])
def test_with_its_parent_the_process_ends(
    directory: Path, searchers: Searchers, processes: list[Any], *, is_busy: bool
) -> None:
    """A process whose parent dies, so that nobody has the other end of its input, ends, while it searches or waits."""
    searcher = searchers.taken()
    reader = TrailReader(directory, durable=False)
    # A search waits for writers.
    with locked(directory) if is_busy else contextlib.nullcontext():
        asking = threading.Thread(target=searcher.ask, args=[reader, EventFilter(), 1])
        asking.start()
        if not is_busy:
            asking.join()
        while not searcher.is_ours:
            os.sched_yield()
        processes[0].stdin.close()
        assert processes[0].wait() == 0
        asking.join()
    searchers.end(searcher)


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.usefixtures("not_here")
def test_a_forked_child_asks_as_its_parent_does(directory: Path, searchers: Searchers, processes: list[Any]) -> None:
    """A child that was forked while all turns were taken has its own, and leaves its parent's process alone."""
    storage = FileStorage(directory)
    assert len(search(directory, searchers, user_id="alice").run().items) == 14
    while not searchers.turns.empty():
        searchers.turns.get()
    program = os.fork()
    if program == 0:
        found = AuditTrail(storage=storage).sync.get_events(user_id="alice")
        is_mine = processes[0].stdin.raw.closed and processes[1].returncode is None
        searchers.close()
        os._exit(len(found) if is_mine else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]) == 14
    searchers.turns.put(None)
    assert len(search(directory, searchers, user_id="alice").run().items) == 14
    assert len(processes) == 1
