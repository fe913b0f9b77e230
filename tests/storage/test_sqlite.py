"""The storage in SQLite, beyond what every storage must do."""

import contextlib
import itertools
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, AuditStorageError, AuditTrail, ChainStatus
from fapilog.core._reading import intact
from fapilog.storage import _sqlitetrail
from fapilog.storage._files import locking
from fapilog.storage._rows import ranges
from fapilog.storage._rows.table import questions
from fapilog.storage._sqlitetrail import TrailFile
from fapilog.storage.protocol import EventFilter
from fapilog.storage.sqlite import SQLiteStorage, _Reader
from fapilog.storage.sqlitefile import Opened
from fapilog.tasks.loops import without_loop
from tests.doubles.file_systems import mounted, read_only
from tests.doubles.interrupting import interrupted_at
from tests.doubles.storages import stored_at_once


def an_event(message: str = "m", **fields: Any) -> AuditEvent:
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message, **fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that is not there, in a directory that is not there."""
    return tmp_path / "trail" / "audit.db"


@pytest.fixture
def storage(path: Path) -> Iterator[SQLiteStorage]:
    """Return a storage for the file."""
    made = SQLiteStorage(path, durability="write")
    yield made
    without_loop(made.aclose())


def append(storage: SQLiteStorage, *messages: str) -> None:
    for message in messages:
        without_loop(storage.append(an_event(message, user_id=message)))


def change(path: Path, *statements: str) -> None:
    """Change the file behind the back of the storage."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.may_block
async def test_a_trail_in_sqlite(path: Path) -> None:
    """A trail keeps its events in one file, from tasks and synchronous code, and goes on in it."""
    for number in (1, 3):
        async with AuditTrail(storage=SQLiteStorage(path)) as trail:
            await trail.log_event(AuditEventType.DATA_ACCESS, "one", user_id="alice")
            trail.sync.log_event(AuditEventType.DATA_ACCESS, "two", target="patient/42")
            assert [event.sequence_number for event in await trail.get_events(limit=2)] == [number + 1, number]
            assert (await trail.verify_chain_from_storage()).events_checked == number + 1
    assert len(await trail.get_events(target="patient/42")) == 2
    assert repr(trail) == f"<AuditTrail in <SQLiteStorage '{path}'>>"


def test_what_is_not_there_is_empty(storage: SQLiteStorage, path: Path) -> None:
    """A trail that is not there yet is valid and has no events, and looking for them makes no file."""
    for _ in range(2):
        assert without_loop(storage.find(EventFilter(), 10)) == without_loop(storage.read(0, 10)) == []
        assert without_loop(storage.verify()).valid
        if not path.parent.exists():
            path.parent.mkdir()
            path.touch()
    assert path.stat().st_size == 0
    append(storage, "a")
    assert len(without_loop(storage.read_lines(0, 10))) == 1


def test_modes(storage: SQLiteStorage, path: Path) -> None:
    """The files are for their owner alone, and so is the directory that is made for them."""
    append(storage, "a")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    assert len(list(path.parent.iterdir())) == 3


def test_durabilities(path: Path) -> None:
    """A commit is synced to the disk, or left to the operating system."""
    for durability, level in (("fsync", 2), ("write", 1)):
        storage = SQLiteStorage(path, durability=durability)  # type: ignore[arg-type]
        append(storage, durability)
        assert storage._writer.write(lambda each: each.execute("PRAGMA synchronous").fetchone()) == (level,)
        without_loop(storage.aclose())
    with pytest.raises(ValueError, match=r"^durability: expected 'fsync' or 'write'; got 'never'"):
        SQLiteStorage(path, durability="never")  # type: ignore[arg-type]


def test_an_id_that_is_there_is_refused(storage: SQLiteStorage) -> None:
    """The second event of an id is not stored, and keeps no other of its group from being stored."""
    event = an_event()
    stored, refused = anyio.run(stored_at_once, storage, [event, an_event(), event, an_event()])
    assert stored == [1, 2, 3]
    assert refused == [f"cannot append to {storage._path}: a record has the id of this event already"]


DAMAGE = {
    "a line": ("UPDATE records SET line = CAST(replace(line, '\"b\"', '\"x\"') AS BLOB)", "altered: its checksum", 2),
    "a text": ("UPDATE records SET line = 'b' WHERE sequence_number = 2", "not a record of the trail", 2),
    "another row": (
        "UPDATE records SET line = (SELECT line FROM records WHERE sequence_number = 1)",
        "should be here",
        2,
    ),
    "a column": ("UPDATE records SET user_id = NULL WHERE sequence_number = 2", "its column user_id differs from", 2),
    "a time": ("UPDATE records SET timestamp = 0 WHERE sequence_number = 3", "its column timestamp differs from", 3),
    "a number": ("UPDATE records SET sequence_number = 9 WHERE sequence_number = 3", "in the row of record 9", 3),
    "a gap": ("DELETE FROM records WHERE sequence_number = 2", "record 2 should be here, and this is 3", 2),
    "a row before all others": (
        f"INSERT INTO records (sequence_number, line) SELECT {-(2**63)}, line FROM records WHERE sequence_number = 2",  # noqa: S608
        "record 1 should be here, and this is 2",
        1,
    ),
    "the front": ("DELETE FROM records WHERE sequence_number = 1", "record 1 should be here", 1),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(storage: SQLiteStorage, path: Path, what: str) -> None:
    """Whatever is changed in the table, the verification names the first record that is not as it was stored."""
    append(storage, "a", "b", "c")
    without_loop(storage.aclose())
    statement, says, number = DAMAGE[what]
    change(path, statement)
    result = without_loop(storage.verify())
    assert (result.valid, result.first_invalid_sequence) == (False, number)
    assert str(path) in (result.error_message or "")
    assert says in (result.error_message or "")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"SQLite format 3\0" + b"\xff" * 8000,
        # SQLite repeats the words that it does not know.
        lambda whole: whole.replace(b"CREATE TABLE", b"CREATE TABL\xff"),
    ],
    ids=["pages", "words"],
)
def test_a_file_that_is_broken_is_no_tampering(
    storage: SQLiteStorage, path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    """A file that SQLite can't read is unreadable for the verification, and an error with its name for the others."""
    append(storage, *"abc")
    without_loop(storage.aclose())
    path.write_bytes(spoil(path.read_bytes()))
    result = without_loop(storage.verify())
    assert (result.valid, result.status, result.first_invalid_sequence) == (False, ChainStatus.UNREADABLE, None)
    for call in (storage.append(an_event()), storage.find(EventFilter(), 1), storage.read(0, 1)):
        with pytest.raises(AuditStorageError, match=r"^cannot (read|append to) .*audit\.db: "):
            without_loop(call)
    assert [each.name for each in path.parent.iterdir()] == ["audit.db"]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["directory", "pipe"])
def test_what_is_no_file_is_named(storage: SQLiteStorage, path: Path, make: Callable[[Path], None]) -> None:
    """Where a directory or a named pipe has the name of the file, every call says so at once."""
    path.parent.mkdir()
    make(path)
    for call in (storage.append(an_event()), storage.find(EventFilter(), 1)):
        with pytest.raises(AuditStorageError, match=r"^cannot .*audit\.db: expected a file, found something else$"):
            without_loop(call)


def test_nothing_is_appended_behind_damage(storage: SQLiteStorage, path: Path) -> None:
    """A writer whose newest record was altered or is gone stores nothing, until it is asked to look anew."""
    append(storage, "a", "b")
    change(path, "DELETE FROM records WHERE sequence_number = 2")
    with pytest.raises(AuditStorageError, match=r"record 2 is not where it was stored: .* cut .*; nothing is appended"):
        append(storage, "c")
    without_loop(storage.aclose())
    append(storage, "c")
    change(path, "UPDATE records SET line = CAST(replace(line, '\"c\"', '\"x\"') AS BLOB)")
    with pytest.raises(AuditStorageError, match=r"record 2 was altered: .*; nothing is appended"):
        append(storage, "d")


def test_a_file_that_is_taken_away_is_missed(storage: SQLiteStorage, path: Path) -> None:
    """Where the file was removed, and made anew, what this process has stored is missed."""
    append(storage, "a")
    for each in path.parent.iterdir():
        each.unlink()
    with pytest.raises(AuditStorageError, match="record 1 is not where it was stored"):
        append(storage, "b")


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        (["CREATE TABLE shop (item)"], "expected an audit trail of version 1; got another database"),
        ([f"PRAGMA application_id = {0x66617073}", "PRAGMA user_version = 7"], "version 1; got version 7"),
    ],
)
def test_the_file_of_somebody_else_is_left_alone(
    storage: SQLiteStorage, path: Path, statements: list[str], says: str
) -> None:
    """Another database, or one of another version, is named, and not changed."""
    path.parent.mkdir()
    change(path, *statements)
    before = path.read_bytes()
    for call in (storage.append(an_event()), storage.find(EventFilter(), 1)):
        with pytest.raises(AuditStorageError, match=says):
            without_loop(call)
    assert path.read_bytes() == before


def test_another_process_that_does_not_end_is_named(
    storage: SQLiteStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction of another process is waited for, but not for ever, and nothing is stored meanwhile."""
    append(storage, "a")
    monkeypatch.setattr(_sqlitetrail, "_PATIENCE", 0.01)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(AuditStorageError, match=r"^cannot append to .*audit.db: database is locked$"):
            append(storage, "b")
        assert len(without_loop(storage.read(0, 10))) == 1
    append(storage, "b")
    assert len(without_loop(storage.read(0, 10))) == 2


def test_a_process_that_has_the_lock_on_the_directory_is_named(
    storage: SQLiteStorage, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `flock DIR program` the file can't be opened, and the error names the program."""
    flock = shutil.which("flock")
    if flock is None or not Path("/proc/locks").exists():
        pytest.skip("no flock, or no list of locks")
    monkeypatch.setattr(locking, "_PATIENCE", 0.05)
    path.parent.mkdir()
    command = [flock, str(path.parent), "sh", "-c", "echo held; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdin is not None
        stranger.stdout.readline()
        with pytest.raises(
            AuditStorageError, match=rf"audit.db: its lock was held .* by process {stranger.pid} \(flock\)$"
        ):
            append(storage, "a")
        stranger.stdin.close()
    append(storage, "a")


def test_a_reader_is_not_in_the_way_in_a_copy(
    storage: SQLiteStorage, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy by VACUUM INTO, which is in another mode, takes events while others read, as the trail does."""
    append(storage, "one")
    change(path, f"VACUUM INTO '{tmp_path}/copy.db'")
    copy = SQLiteStorage(tmp_path / "copy.db", durability="write")
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchall()
        # Only the change of the mode waits for readers.
        monkeypatch.setattr(_sqlitetrail, "pause", reader.rollback)
        append(copy, "two")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchall()
        append(copy, "three")
        reader.execute("ROLLBACK")
    without_loop(copy.aclose())
    assert without_loop(copy.verify()).events_checked == 3


@pytest.mark.slow
def test_whoever_interrupts_the_opening_leaves_it_to_the_next_event(tmp_path: Path) -> None:
    """Wherever Ctrl+C comes while the file is opened, the next event is stored, and is synced."""

    def interrupt() -> None:
        interrupted.append(1)
        raise KeyboardInterrupt

    for line in itertools.count(1):
        interrupted: list[int] = []
        storage = SQLiteStorage(tmp_path / f"{line}.db")
        with contextlib.suppress(KeyboardInterrupt), interrupted_at(line, Path(_sqlitetrail.__file__), interrupt):
            append(storage, "interrupted")
        if not interrupted:
            break
        append(storage, "next")
        assert storage._writer._open is not None
        connection = storage._writer._open.connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        without_loop(storage.aclose())
    assert line > 20


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"user_id": "a"}, "by_user_id (<expr>=? AND user_id=? AND rowid>? AND rowid<?)"),
        ({"user_id": "a", "event_type": "data_access", "start_time": an_event().timestamp}, "by_user_id"),
        ({"request_id": "a"}, "by_request_id"),
        ({"trace_id": "a"}, "by_trace_id"),
        ({"session_id": "a", "outcome": "denied"}, "by_session_id"),
        ({"client_ip": "a"}, "by_client_ip"),
        ({"target": "patient/42"}, "by_target_id"),
        ({"event_id": "a"}, "by_event_id"),
        ({"event_type": AuditEventType.ADMIN_ACTION}, "by_event_type (event_type=? AND rowid>? AND rowid<?)"),
        ({"actor": "a"}, "by_user_id"),
        ({"min_level": AuditLogLevel.ERROR}, "INTEGER PRIMARY KEY"),
    ],
)
def test_questions_take_an_index(storage: SQLiteStorage, path: Path, asked: dict[str, Any], index: str) -> None:
    """A question goes the shortest way, and has its answers in order without sorting them."""
    append(storage, "a")
    question = questions(EventFilter(**asked), _Reader.dialect)[0]
    query = f"SELECT line FROM records WHERE {question.where} ORDER BY sequence_number DESC LIMIT 9"  # noqa: S608
    with contextlib.closing(sqlite3.connect(path)) as connection:
        [(_, _, _, plan)] = connection.execute(f"EXPLAIN QUERY PLAN {query}", question.within(0, 9)).fetchall()
    assert index in plan


@pytest.mark.parametrize("few", [1, 3, 100])
def test_times_are_found_wherever_a_clock_was_wrong(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Records of the wanted times are found, the newest first, also where one of them stands far from the others."""
    monkeypatch.setattr(ranges, "_FEW", few)
    monkeypatch.setattr(ranges, "_TOGETHER", 2)
    began = an_event().timestamp
    seconds = [0, 90, 1, 2, 3, 91, 4, 5, 92, 93, 6]
    for each in seconds:
        without_loop(storage.append(an_event(timestamp=began + timedelta(seconds=each))))
    for since, until in ((90, None), (90, 91), (None, 3), (4, 4), (95, None), (0, 93)):
        wanted = EventFilter(
            start_time=None if since is None else began + timedelta(seconds=since),
            end_time=None if until is None else began + timedelta(seconds=until),
        )
        expected = [
            number
            for number, each in enumerate(seconds, 1)
            if (since is None or each >= since) and (until is None or each <= until)
        ]
        found = intact(without_loop(storage.find(wanted, 20)))
        assert [event.sequence_number for event in found] == expected[::-1]


def test_a_forked_child_goes_on(storage: SQLiteStorage) -> None:
    """Parent and child append to one chain, whoever comes first, and neither takes the other's log away."""
    append(storage, "before")
    without_loop(storage.find(EventFilter(), 1))
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(Exception):
            append(storage, *"abc")
            code = 0
        os._exit(code)
    append(storage, *"def")
    assert os.waitpid(child, 0)[1] == 0
    append(storage, "after")
    assert without_loop(storage.verify()).events_checked == 8


FORKING = """
import os, sys, threading
from fapilog.storage.sqlite import SQLiteStorage

def make():
    while not is_over:
        SQLiteStorage("nowhere.db")

is_over, failures = False, []
sys.setswitchinterval(1e-6)
sys.unraisablehook = lambda failed: failures.append(failed.exc_value)
kept = [SQLiteStorage("nowhere.db") for _ in range(200)]
threads = [threading.Thread(target=make) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
is_over = True
for thread in threads:
    thread.join()
assert not failures, failures
"""


@pytest.mark.slow
def test_a_storage_is_made_while_the_process_is_forked() -> None:
    """All files are closed before a fork, also while another thread makes one more."""
    subprocess.run([sys.executable, "-c", FORKING], check=True, timeout=120)


class SlowConnection:
    """A connection that takes a tenth of a second to close, unless the process is forked meanwhile."""

    def __init__(self) -> None:
        self.is_closing, self.was_forked, self.is_closed = threading.Event(), threading.Event(), False

    def close(self) -> None:
        self.is_closing.set()
        self.was_forked.wait(0.1)
        self.is_closed = True


def test_a_fork_waits_for_a_file_that_the_collector_closes(path: Path) -> None:
    """While another thread drops a file and so closes it, with SQLite's own locks, no child is forked."""
    files, connection = [_sqlitetrail.TrailFile(path, durable=True)], SlowConnection()
    files[0]._open = Opened(files[0], cast("Any", connection), path, None)
    thread = threading.Thread(target=files.clear)
    thread.start()
    assert connection.is_closing.wait(60)
    child = os.fork()
    if not child:
        os._exit(0 if connection.is_closed else 1)
    connection.was_forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


def test_a_call_within_a_call_is_refused(storage: SQLiteStorage) -> None:
    """A signal handler that asks, stores, closes or forks in the midst of a call of its thread does not hang."""
    append(storage, "a")

    def handler(_: sqlite3.Connection) -> None:
        for call in (storage.find(EventFilter(), 1), storage.aclose()):
            with pytest.raises(AuditStorageError, match="called from within a call of the same thread"):
                without_loop(call)
        child = os.fork()
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    storage._reads.read(handler)
    assert len(without_loop(storage.read(0, 10))) == 1


def test_what_speaks_against_it_is_told(tmp_path: Path) -> None:
    """Where the directory is none, the trail is told so before it stores anything."""
    assert without_loop(SQLiteStorage(tmp_path / "new" / "audit.db").trouble()) is None
    (tmp_path / "file").touch()
    words = without_loop(SQLiteStorage(tmp_path / "file" / "audit.db").trouble())
    assert words == f"{tmp_path / 'file'}: expected a directory, found something else"


@pytest.mark.slow
def test_importing_fapilog_loads_no_sqlite() -> None:
    """Only who asks for this storage loads SQLite."""
    script = "import sys, fapilog, fapilog.testing; assert 'sqlite3' not in sys.modules"
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    subprocess.run([sys.executable, "-c", script], env=env, check=True)


def test_a_copy_on_a_read_only_file_system(storage: SQLiteStorage, path: Path, tmp_path: Path) -> None:
    """A copy on a read-only file system is searched and verified, and so is a newer one in its place."""
    append(storage, "a", "b")
    without_loop(storage.aclose())
    place = tmp_path / "evidence"
    place.mkdir()
    with mounted(place, "1m"):
        reader = SQLiteStorage(place / "copy.db")
        for count in (2, 3):
            shutil.copyfile(path, place / "copy.db")
            with read_only(place):
                assert len(without_loop(reader.find(EventFilter(), 10))) == count
                assert without_loop(reader.verify()).valid
                assert list(place.iterdir()) == [place / "copy.db"]
                with pytest.raises(AuditStorageError, match="expected a file that may be read and written"):
                    append(reader, "d")
            append(storage, "c")
            without_loop(storage.aclose())
        os.link(place / "copy.db", place / "other.db")
        with read_only(place), pytest.raises(AuditStorageError, match="the file has another name too"):
            without_loop(reader.find(EventFilter(), 10))
        without_loop(reader.aclose())


@pytest.mark.parametrize("beside", ["audit.db", "audit.db-wal", "audit.db-journal"])
def test_a_file_that_another_mount_writes_to(
    storage: SQLiteStorage, path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
) -> None:
    """What was read from a read-only file system while the file was written to by another mount is not believed."""
    append(storage, "a")
    without_loop(storage.aclose())
    monkeypatch.setattr("fapilog.storage._sqlitetrail.os.statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(AuditStorageError, match="it was written to while it was read"):
        TrailFile(path, durable=True).read(lambda _: path.with_name(beside).write_bytes(b"x"))


def test_the_room_for_the_file_is_looked_at(tmp_path: Path) -> None:
    """Little room on the file system of the file is a concern of the storage, and a directory to be made is none."""
    assert without_loop(SQLiteStorage(tmp_path / "new" / "audit.db").concerns()) == {}
    with mounted(tmp_path, "10m"):
        storage = SQLiteStorage(tmp_path / "audit.db")
        assert without_loop(storage.concerns()) == {}
        (tmp_path / "ballast").write_bytes(bytes(9_600_000))
        assert without_loop(storage.concerns()).keys() == {"capacity"}


# Exit handlers run in the reverse order: after the finalizers, which the first connection registers.
AT_EXIT = """
import atexit, sys

def log():
    print(trail.sync.log_event("billing.refund", "at the exit"))

atexit.register(log)

from fapilog import AuditTrail
from fapilog.storage.sqlite import SQLiteStorage

trail = AuditTrail(storage=SQLiteStorage(sys.argv[1]))
print(trail.sync.log_event("billing.refund", "before"))
"""


@pytest.mark.slow
def test_an_event_of_any_exit_handler_is_stored(tmp_path: Path) -> None:
    """An exit handler that was registered before everything else may log, though the connection is closed by then."""
    ended = subprocess.run(
        [sys.executable, "-c", AT_EXIT, str(tmp_path / "audit.db")], capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    stored = AuditTrail(storage=SQLiteStorage(tmp_path / "audit.db")).sync.get_events()
    assert [event.event_id for event in stored] == ended.stdout.split()[::-1]


def test_an_event_outlives_the_process_though_the_log_was_removed(tmp_path: Path) -> None:
    """Where the log beside an open file was removed, the file itself has each event that was stored since."""
    trail = AuditTrail(storage=SQLiteStorage(tmp_path / "audit.db"))
    trail.sync.log_event("billing.refund", "before")
    assert trail.sync.get_events()
    (tmp_path / "audit.db-wal").unlink()
    trail.sync.log_event("billing.refund", "after")
    # As after a SIGKILL.
    shutil.copy(tmp_path / "audit.db", tmp_path / "left.db")
    left = AuditTrail(storage=SQLiteStorage(tmp_path / "left.db")).sync.get_events()
    assert [event.message for event in left] == ["after", "before"]


@pytest.mark.parametrize("is_emptied", [False, True])
def test_a_file_that_was_moved_leaves_its_log(tmp_path: Path, *, is_emptied: bool) -> None:
    """Where the file was moved while it was in use, its log stays until the file is back, and no record is lost."""
    path, away = tmp_path / "audit.db", tmp_path / "away.db"
    trail = AuditTrail(storage=SQLiteStorage(path))
    for number in range(3):
        trail.sync.log_event("billing.refund", str(number))
    path.rename(away)
    if is_emptied:
        path.touch()
    for anew in (trail, AuditTrail(storage=SQLiteStorage(path))):
        with pytest.raises(AuditStorageError, match=r"audit\.db: the file is gone, and its log audit\.db-wal is there"):
            anew.sync.log_event("billing.refund", "refused")
        assert not anew.sync.verify_chain_from_storage().valid
    away.rename(path)
    trail.sync.log_event("billing.refund", "after")
    assert [event.message for event in trail.sync.get_events(event_type="billing.refund")] == ["after", "2", "1", "0"]


ANOTHER = """
import sys
from fapilog import AuditTrail
from fapilog.storage.sqlite import SQLiteStorage
trail = AuditTrail(storage=SQLiteStorage(sys.argv[1]))
trail.sync.log_event("billing.refund", "of another")
print("stored", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_an_event_in_a_log_that_nobody_else_reads_is_not_acknowledged(tmp_path: Path) -> None:
    """Where the log was removed, and another process has made one, the process that has the old one gets an error."""
    trail = AuditTrail(storage=SQLiteStorage(tmp_path / "audit.db"))
    trail.sync.log_event("billing.refund", "before")
    for name in ("wal", "shm"):
        (tmp_path / f"audit.db-{name}").unlink()
    command = [sys.executable, "-c", ANOTHER, str(tmp_path / "audit.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"stored\n"
        for _ in range(3):
            with pytest.raises(AuditStorageError):
                trail.sync.log_event("billing.refund", "after")
        other.communicate()


def test_a_file_with_two_names_is_not_opened(storage: SQLiteStorage, path: Path) -> None:
    """By a hard link, whose log would be another one, nothing is stored or read, and no record is lost."""
    append(storage, "a", "b")
    other = SQLiteStorage(path.with_name("other.db"))
    path.with_name("other.db").hardlink_to(path)
    with pytest.raises(AuditStorageError, match=r"other\.db: the file has another name too, a hard link"):
        append(other, "c")
    with pytest.raises(AuditStorageError, match=r"remove one of the names$"):
        without_loop(other.read(0, 10))
    append(storage, "c")
    path.with_name("other.db").unlink()
    without_loop(storage.aclose())
    append(storage, "d")
    assert len(without_loop(storage.read(0, 10))) == without_loop(storage.verify()).events_checked == 4


def test_behind_a_link_the_log_is_found(tmp_path: Path) -> None:
    """A commit by way of a link to the file leaves the record in the log, as any other: it is not written twice."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "audit.db").symlink_to(tmp_path / "disk" / "audit.db")
    (tmp_path / "disk" / "audit.db").touch()
    trail = AuditTrail(storage=SQLiteStorage(tmp_path / "audit.db"))
    trail.sync.log_event("billing.refund", "before")
    before = (tmp_path / "disk" / "audit.db").read_bytes()
    trail.sync.log_event("billing.refund", "after")
    assert (tmp_path / "disk" / "audit.db").read_bytes() == before
    assert len(trail.sync.get_events()) == 2
