"""What the surroundings can do to a trail: it says so, and what is stored stays."""

import contextlib
import errno
import fcntl
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from fapilog.core.audit import AuditEvent, AuditEventType, AuditTrail, ChainStatus, CompliancePolicy
from fapilog.record.chain import MAX_RECORD_BYTES
from fapilog.record.errors import AuditStorageError
from fapilog.storage.files import FileStorage
from tests.doubles.trail_files import TrailFiles
from tests.doubles.trail_oracle import records

pytestmark = pytest.mark.real_time

Durability = Literal["fsync", "write"]
# What the trail tells and stores of its own failures has tests of its own.
QUIET = CompliancePolicy(real_time_alerts=False)
durabilities = pytest.mark.parametrize("durability", ["fsync", "write"])


async def log(trail: AuditTrail, message: str = "m") -> str:
    return await trail.log_event(AuditEventType.DATA_ACCESS, message)


async def log_at_last(trail: AuditTrail) -> str:
    """Log an event that may be refused once, because the directory was replaced."""
    try:
        return await log(trail)
    except AuditStorageError as error:
        if "replaced" not in str(error):
            raise
    return await log(trail)


def stored(directory: Path) -> list[str]:
    return [record["event_id"] for record in records(directory)]


# -- the directory


async def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    """A storage path that is a file is told to the caller, also by reading, and the file stays as it is."""
    path = tmp_path / "trail"
    path.write_bytes(b"mine")
    async with AuditTrail(QUIET, storage_path=path) as trail:
        for _ in range(2):
            with pytest.raises(AuditStorageError, match=f"{path}: expected a directory, found something else"):
                await log(trail)
        with pytest.raises(AuditStorageError, match=f"{path}: expected a directory, found something else"):
            await trail.get_events()
        result = await trail.verify_chain_from_storage()
        assert (result.valid, result.status) == (False, ChainStatus.UNREADABLE)
        assert path.read_bytes() == b"mine"
        path.unlink()
        event_id = await log(trail)
    assert stored(path) == [event_id]


async def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    """A file where a parent directory should be is told to the caller."""
    (tmp_path / "file").touch()
    trail = AuditTrail(QUIET, storage_path=tmp_path / "file" / "deep" / "trail")
    with pytest.raises(AuditStorageError, match="expected a directory, found something else"):
        await log(trail)
    (tmp_path / "file").unlink()
    await log(trail)
    assert (await trail.verify_chain_from_storage()).events_checked == 1


async def test_nobody_else_may_read(tmp_path: Path) -> None:
    """Files have mode 0600 and directories 0700, also what is set aside, whatever the umask grants."""
    umask = os.umask(0)
    try:
        path = tmp_path / "new" / "trail"
        async with AuditTrail(QUIET, storage_path=path) as trail:
            await log(trail)
        (file,) = path.iterdir()
        os.truncate(file, file.stat().st_size - 9)
        async with AuditTrail(QUIET, storage_path=path) as trail:
            await log(trail)
    finally:
        os.umask(umask)
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)} == {0o700}
    assert [stat.S_IMODE(each.stat().st_mode) for each in path.iterdir()] == [0o600, 0o600]


# Behind a program with `warm_up` and `main`, each of which takes a directory.
AS_NOBODY = """

async def as_nobody():
    with tempfile.TemporaryDirectory() as directory:
        # What is imported on the way, root has to import.
        await warm_up(directory)
    if os.geteuid() == 0:
        os.seteuid(65534)  # root may do anything
    with tempfile.TemporaryDirectory() as directory:
        print(directory)
        await main(directory)


anyio.run(as_nobody)
"""


UNWRITABLE = """
import os
import sys
import tempfile
from pathlib import Path

import anyio

from fapilog import AuditEventType, AuditTrail, CompliancePolicy
from fapilog.record.errors import AuditStorageError


async def attempt(call, *args):
    try:
        await call(*args)
    except AuditStorageError as error:
        print(error)
    else:
        print("done")


async def main(trail):
    path = Path(trail)
    trail = AuditTrail(CompliancePolicy(real_time_alerts=False), path)
    path.chmod(0o500)
    await attempt(trail.log_event, AuditEventType.DATA_ACCESS, "m")
    path.chmod(0o700)
    await attempt(trail.log_event, AuditEventType.DATA_ACCESS, "m")
    path.chmod(0)
    await attempt(trail.get_events)
    print((await trail.verify_chain_from_storage()).error_message)
    path.chmod(0o700)
    print((await trail.verify_chain_from_storage()).events_checked)
    await trail.stop()


async def warm_up(directory):
    trail = AuditTrail(storage_path=Path(directory))
    await trail.log_event(AuditEventType.DATA_ACCESS, "m")
    await trail.stop()
"""


@pytest.mark.slow
def test_an_unwritable_directory() -> None:
    """A directory that may not be written to, or read, is told to the caller with the reason, and whose it is."""
    script = subprocess.run([sys.executable, "-c", UNWRITABLE + AS_NOBODY], check=True, capture_output=True, text=True)
    path, *printed = script.stdout.splitlines()
    user = os.geteuid() or 65534
    denied = f"{os.strerror(errno.EACCES)}; this process is user {user}, and {path} is user {user}'s, mode"
    assert printed == [
        f"cannot append to {path}: {denied} 0500",
        "done",
        f"cannot read {path}: {denied} 0000",
        f"cannot read {path}: {denied} 0000",
        "1",
    ]


READ_ONLY = """
import os
import tempfile
from pathlib import Path

import anyio

from fapilog import AuditEvent, AuditEventType, AuditTrail
from fapilog.delivery.outbox import Outbox
from fapilog.storage.sqlite import SQLiteStorage
from fapilog.testing import RecordingDispatcher


async def record(path):
    async with AuditTrail(storage=SQLiteStorage(path)) as trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")


async def keep(path):
    outbox = Outbox(RecordingDispatcher(), path)
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m")
    await outbox.send_alert(event, severity="info")
    await outbox.find(event.event_id)


async def main(directory):
    for number, use in enumerate([record, keep]):
        path = Path(directory, f"{number}.db")
        await use(path)
        path.chmod(0o400)
        try:
            await use(path)
        except Exception as error:
            print(error)
        path.chmod(0o600)
        await use(path)
        print("again")


warm_up = main
"""


@pytest.mark.slow
def test_a_database_that_may_only_be_read() -> None:
    """A file of SQLite that may not be written is told with the reason, and is used again when its mode is right."""
    script = subprocess.run([sys.executable, "-c", READ_ONLY + AS_NOBODY], check=True, capture_output=True, text=True)
    path, *printed = script.stdout.splitlines()[-5:]
    says = "expected a file that may be read and written; this one may not be"
    assert printed == [f"{path}/0.db: {says}", "again", f"{path}/1.db: {says}", "again"]


async def test_the_directory_is_removed(tmp_path: Path) -> None:
    """Where the directory is gone while it is in use, events are refused: a new one would forget what was stored."""
    path = tmp_path / "trail"
    async with AuditTrail(QUIET, storage_path=path) as trail:
        await log(trail)
        await log(trail)
        path.rename(tmp_path / "away")
        for _ in range(3):
            with pytest.raises(AuditStorageError, match=f"{path}: "):
                await log(trail)
        if path.exists():
            path.rmdir()
        (tmp_path / "away").rename(path)
        await log_at_last(trail)
        assert (await trail.verify_chain_from_storage()).events_checked == 3
    assert len(stored(path)) == 3


@pytest.mark.slow_on_trio
@durabilities
async def test_the_directory_is_replaced(tmp_path: Path, durability: Durability) -> None:
    """With a copy of the directory in its place the chain goes on there; with another trail's, events are refused."""
    path = tmp_path / "trail"
    async with AuditTrail(QUIET, storage_path=path, durability=durability) as trail:
        await log(trail)
        await log(trail)
        path.rename(tmp_path / "original")
        shutil.copytree(tmp_path / "original", path)
        await log_at_last(trail)
        assert len(stored(path)) == 3
        assert len(stored(tmp_path / "original")) == 2
        shutil.rmtree(path)
        async with AuditTrail(QUIET, storage_path=path) as other:
            for _ in range(5):
                await log(other)
        before = stored(path)
        for _ in range(3):
            with pytest.raises(AuditStorageError, match=f"{path}: "):
                await log(trail)
        assert stored(path) == before


FULL = """
import resource
import sys
from pathlib import Path

import anyio

from fapilog import AuditEventType, AuditStorageError, AuditTrail


class Pager:
    async def send_alert(self, event, *, severity, channel=None):
        print("alert", severity, event.event_type.value, event.sequence_number, event.metadata["incident"], flush=True)


async def main():
    async with AuditTrail(None, Path(sys.argv[1]), Pager(), durability=sys.argv[3]) as trail:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
        refused = 0
        while refused < 5:
            try:
                await trail.log_event(AuditEventType.DATA_ACCESS, "m" * 1_000)
            except AuditStorageError:
                refused += 1
        await trail.drain()
        print("full", flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for _ in range(3):
            await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        await trail.drain()
        (recovery,) = await trail.get_events(component="audit_trail")
        print("stored", recovery.sequence_number, recovery.metadata["incident"])
        assert recovery.metadata["cause"].endswith(sys.argv[4])
        assert recovery.metadata["started"] < recovery.metadata["ended"]
        assert (await trail.verify_chain_from_storage()).valid


anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "durability"), [("asyncio", "write"), ("trio", "fsync")])
def test_a_full_disk_is_told_at_once(tmp_path: Path, backend: str, durability: str) -> None:
    """While the kernel takes no byte more, one alert says so, and when it does again one says that, and is stored."""
    command = [sys.executable, "-c", FULL, str(tmp_path), backend, durability, os.strerror(errno.EFBIG)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    failure, full, recovery, in_trail = (line.split() for line in lines)
    assert failure[:4] == ["alert", "critical", "component_failure", "None"]
    assert full == ["full"]
    assert recovery[:3] == ["alert", "info", "component_recovery"]
    assert failure[4] == recovery[4]
    assert in_trail == ["stored", *recovery[3:]]


def test_the_lock_is_that_of_the_directory_in_its_place(tmp_path: Path) -> None:
    """Once the directory was replaced, its writers keep apart by a lock on the new one."""
    path = tmp_path / "trail"
    body = b'{"v":2,"event_id":"one"'
    writer = TrailFiles(path, durable=False)
    writer.append([body])
    path.rename(tmp_path / "original")
    shutil.copytree(tmp_path / "original", path)
    with contextlib.suppress(AuditStorageError):  # once, perhaps
        writer.append([body])
    writer.append([body])
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert writer.append_at_once(body) is None
    fcntl.flock(fd, fcntl.LOCK_UN)
    assert writer.append_at_once(body) is not None
    os.close(fd)
    writer.close()


def test_what_is_made_is_there_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is made for the first event, the directory that holds it is synced before the event counts as stored."""
    synced: set[int] = set()

    def sync(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    files = TrailFiles(tmp_path / "a" / "b" / "trail", durable=True)
    files.append([b'{"v":2,"event_id":"one"'])
    files.close()
    holders = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "trail"]
    assert {path.stat().st_ino for path in holders} <= synced


@durabilities
async def test_a_directory_above_is_replaced(tmp_path: Path, durability: Durability) -> None:
    """Where a directory above is moved away, no event is said to be stored that is not to be found at the path."""
    path = tmp_path / "parent" / "trail"
    async with AuditTrail(QUIET, storage_path=path, durability=durability) as trail:
        await log(trail)
        await log(trail)
        path.parent.rename(tmp_path / "away")
        for _ in range(3):
            with pytest.raises(AuditStorageError, match=f"{path}: "):
                await log(trail)
        assert len(stored(tmp_path / "away" / "trail")) == 2
        shutil.rmtree(path.parent, ignore_errors=True)
        (tmp_path / "away").rename(path.parent)
        await log_at_last(trail)
    assert len(stored(path)) == 3


@durabilities
async def test_a_relative_path_stays_where_it_was(
    tmp_path: Path, durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative storage path means the place where it was when the trail was made, also for a process that moves."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with (
        AuditTrail(QUIET, storage_path=Path("trail"), durability=durability) as trail,
        AuditTrail(QUIET, storage_path=Path("unused"), durability=durability) as unused,
    ):
        ids = [await log(trail)]
        monkeypatch.chdir(tmp_path / "elsewhere")
        ids.append(await log(trail))
        assert [event.event_id for event in await trail.get_events()] == ids[::-1]
        assert (await trail.verify_chain_from_storage()).events_checked == 2
        await log(unused)
    assert stored(tmp_path / "trail") == ids
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "trail", "unused"]  # noqa: PTH208
    assert not os.listdir(tmp_path / "elsewhere")  # noqa: PTH208


@pytest.mark.slow
def test_many_begin_at_once(tmp_path: Path) -> None:
    """Writers that begin at once where no directory is all store their first event, in one chain."""
    for number in range(30):
        path = tmp_path / str(number) / "deep" / "trail"
        everyone = threading.Barrier(4)
        errors: list[Exception] = []

        def begin(path: Path, everyone: threading.Barrier, errors: list[Exception]) -> None:
            files = TrailFiles(path, durable=False)
            everyone.wait()
            try:
                files.append([b'{"v":2,"event_id":"one"'])
            except AuditStorageError as error:
                errors.append(error)
            files.close()

        threads = [threading.Thread(target=begin, args=(path, everyone, errors)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert len(stored(path)) == 4


# -- the clock


@pytest.mark.parametrize("seed", range(10))
def test_clocks_that_differ(tmp_path: Path, seed: int) -> None:
    """Whatever the clocks of several writers say, none goes back to a file older than the newest."""
    chance = random.Random(seed)  # noqa: S311
    days = [20, 20, 20]

    def writer(which: int) -> TrailFiles:
        return TrailFiles(tmp_path, durable=False, now=lambda: datetime(2026, 1, days[which], tzinfo=UTC))

    writers = [writer(which) for which in range(3)]
    newest_day = 0
    for number in range(60):
        which = chance.randrange(3)
        days[which] = max(1, min(31, days[which] + chance.choice([-1, 0, 0, 0, 1])))
        newest_day = max(newest_day, days[which])
        writers[which].append([b'{"v":2,"event_id":"%d"' % number])
        assert newest(tmp_path).name == f"audit_2026-01-{newest_day:02}.jsonl"
        if chance.random() < 0.1:
            writers[which].close()
    assert stored(tmp_path) == [str(number) for number in range(60)]
    assert writers[0].verify().status is ChainStatus.OK
    for each in writers:
        each.close()


def test_midnight_within_a_tick_of_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where files made one after the other bear the same time, two writers keep one chain all the same."""

    def coarse(stat: Callable[..., os.stat_result]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            result = stat(*args, **options)
            fields = {name: getattr(result, name) for name in dir(result) if name.startswith("st_")}
            return SimpleNamespace(**fields | {name: 0 for name in fields if name.endswith("time_ns")})

        return call

    monkeypatch.setattr(os, "stat", coarse(os.stat))
    monkeypatch.setattr(os, "fstat", coarse(os.fstat))
    today = datetime(2026, 1, 30, tzinfo=UTC)
    first, second = (TrailFiles(tmp_path, durable=False, now=lambda: today) for _ in range(2))
    first.append([b'{"v":2,"event_id":"one"'])
    today = datetime(2026, 1, 31, tzinfo=UTC)
    second.append([b'{"v":2,"event_id":"two"'])
    first.append([b'{"v":2,"event_id":"three"'])
    monkeypatch.undo()
    assert stored(tmp_path) == ["one", "two", "three"]
    for files in (first, second):
        files.close()


# -- the newest file


def newest(directory: Path) -> Path:
    return max(directory.glob("audit_*.jsonl"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    os.truncate(file, 0)


def cut(file: Path) -> None:
    """Leave the first record."""
    os.truncate(file, file.read_bytes().index(b"\n") + 1)


def cut_a_little(file: Path) -> None:
    """Leave all but the last few bytes."""
    os.truncate(file, file.stat().st_size - 5)


def shorten(file: Path) -> None:
    """Put another file in its place that has the first record."""
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[: data.index(b"\n") + 1])


@durabilities
@pytest.mark.parametrize("harm", [remove, empty, cut, cut_a_little, shorten])
async def test_the_newest_file_is_harmed(tmp_path: Path, harm: Callable[[Path], None], durability: Durability) -> None:
    """Where the newest file loses what this process stored in it, events are refused, file and loss are named."""
    async with AuditTrail(QUIET, storage_path=tmp_path, durability=durability) as trail:
        for _ in range(3):
            await log(trail)
        path = newest(tmp_path)
        whole = path.read_bytes()
        harm(path)
        harmed = contents(tmp_path)
        for _ in range(3):
            with pytest.raises(AuditStorageError, match=f"{path.name} "):
                await log(trail)
        assert contents(tmp_path) == harmed
        path.write_bytes(whole)
        await log(trail)
        assert (await trail.verify_chain_from_storage()).events_checked == 4


@durabilities
async def test_the_newest_file_is_replaced_by_a_copy(tmp_path: Path, durability: Durability) -> None:
    """Where a copy takes the place of the newest file, as when a backup is put back, the chain goes on there."""
    async with AuditTrail(QUIET, storage_path=tmp_path, durability=durability) as trail:
        await log(trail)
        await log(trail)
        path = newest(tmp_path)
        copy = tmp_path / "copy"
        shutil.copy(path, copy)
        copy.rename(path)
        await log(trail)
        assert len(stored(tmp_path)) == 3


async def test_another_writer_went_on_after_a_cut(tmp_path: Path) -> None:
    """Where the end was cut off and a process that began later went on without it, the one that knows of it refuses."""
    async with AuditTrail(QUIET, storage_path=tmp_path) as trail, AuditTrail(QUIET, storage_path=tmp_path) as later:
        for _ in range(3):
            await log(trail)
        cut(newest(tmp_path))
        for _ in range(5):
            await log(later)
        before = newest(tmp_path).read_bytes()
        with pytest.raises(AuditStorageError, match=newest(tmp_path).name):
            await log(trail)
        assert newest(tmp_path).read_bytes() == before


# -- the record


@pytest.mark.slow_on_trio
@durabilities
async def test_the_longest_record(tmp_path: Path, durability: Durability) -> None:
    """Events up to a mebibyte are stored whole if the policy says so, and a longer one is cut."""
    policy = CompliancePolicy(
        real_time_alerts=False, max_message_characters=5 * MAX_RECORD_BYTES, max_record_bytes=MAX_RECORD_BYTES
    )
    sizes = [MAX_RECORD_BYTES - 3_000, MAX_RECORD_BYTES, 5 * MAX_RECORD_BYTES]
    async with AuditTrail(policy, storage_path=tmp_path, durability=durability) as trail:
        ids = [await log(trail, "x" * size) for size in sizes]
        events = await trail.get_events()
        assert [event.event_id for event in reversed(events)] == ids
        assert not events[-1].truncated
        assert [event.truncated for event in events[:2]] == [("message",)] * 2
        assert len(events[-1].message) == sizes[0]
        assert (await trail.verify_chain_from_storage()).valid
    assert stored(tmp_path) == ids


async def test_what_is_no_record_of_a_trail_is_refused(tmp_path: Path) -> None:
    """An event that somebody made, longer than a record can be, is refused by the storage with its length."""
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="x" * MAX_RECORD_BYTES)
    with pytest.raises(AuditStorageError, match=f"at most {MAX_RECORD_BYTES} bytes"):
        await FileStorage(tmp_path).append(event)


# -- file descriptors

# The first calls of a process, with no file descriptor left to read a module from. In the end the trail works.
NO_FILES = """
import contextlib, os, resource, sys, anyio
from fapilog import AuditStorageError, AuditTrail, MemoryStorage

async def logs(trail): await trail.log_event("data_access", "m")
async def logs_critical(trail): await trail.log_event("data_access", "m", log_level="critical")
async def logs_an_error(trail): await trail.log_error(ValueError("m"), metadata={"a": object()})
async def logs_audited(trail):
    with trail.sync.audited("export"): pass
async def logs_a_slip(trail): await AuditTrail(storage=MemoryStorage()).log_event("data_access", "m", clientip="::1")
async def starts(trail): await trail.start()
async def stops(trail): await trail.stop()
async def drains(trail): await trail.drain()
async def reads(trail): await trail.get_events()
async def reads_on(trail): [event async for event in trail.events()]
async def counts(trail): await trail.count_by("user_id")
async def retains(trail): await trail.apply_retention()

@contextlib.contextmanager
def no_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    files = []
    try:
        while True: files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError: pass
    try:
        yield
        print("done")
    except AuditStorageError as error: print("Too many open files" in str(error))
    finally:
        while files: os.close(files.pop())

async def main():
    call = globals()[sys.argv[2]]
    trail = AuditTrail(storage_path=sys.argv[1])
    with no_files(): await call(trail)
    await trail.log_event("data_access", "m")
    await trail.stop()

def in_sync():
    trail = AuditTrail(storage_path=sys.argv[1])
    with no_files(): trail.sync.log_event("data_access", "m")
    trail.sync.log_event("data_access", "m")

in_sync() if sys.argv[2] == "in_sync" else anyio.run(main, backend=sys.argv[3])
"""


CALLS = [
    *((name, "True") for name in ("logs", "logs_critical", "logs_an_error", "logs_audited", "in_sync")),
    *((name, "True") for name in ("reads", "reads_on", "counts", "retains")),
    *((name, "done") for name in ("logs_a_slip", "starts", "stops", "drains")),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "outcome", "backend"),
    [
        # Each call on one backend; `make torture` takes both.
        pytest.param(call, outcome, backend, marks=() if number % 2 == place % 2 else pytest.mark.torture)
        for place, (call, outcome) in enumerate(CALLS)
        for number, backend in enumerate(("asyncio", "trio"))
    ],
)
def test_no_file_descriptors(tmp_path: Path, backend: str, call: str, outcome: str) -> None:
    """Without a file descriptor, the first call of a process raises no other error than `AuditStorageError`."""
    command = [sys.executable, "-c", NO_FILES, str(tmp_path), call, backend]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (ended.stdout.strip(), ended.returncode) == (outcome, 0), ended.stderr
    assert "Traceback" not in ended.stderr
    assert [record["event_type"] for record in records(tmp_path)].count("data_access") == 1
