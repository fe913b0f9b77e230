"""An outbox whose file, process or other side fails: every alert arrives, and none twice without a reason."""

import asyncio
import fcntl
import gc
import itertools
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fapilog import AuditEvent, NoopAlertDispatcher, OutboxError, TransientDeliveryError
from fapilog.core.alerting import Alert
from fapilog.delivery.outbox import Outbox, OutboxState
from fapilog.delivery.outbox._file import place
from fapilog.delivery.outbox._file.place import OutboxFile
from fapilog.delivery.outbox._file.queue import FileQueue
from fapilog.testing import RecordingDispatcher
from tests.doubles.failing_database import Disk, Fails, database_error, nothing
from tests.doubles.outboxes import DAY, clock, glob, make, owned, statuses, until
from tests.doubles.scripted_dispatcher import Scripted, an_event

BUSY = TransientDeliveryError("busy")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """What is between every outbox and its file."""
    return Disk(monkeypatch)


@pytest.fixture
def first(anyio_backend_name: str) -> int:
    """Which statement fails first: the backends take others."""
    return 1 if anyio_backend_name == "asyncio" else 2


# -- another file, another process


@pytest.mark.parametrize("corrupt", [False, True], ids=["removed", "damaged"])
async def test_an_attempt_that_outlives_its_file(tmp_path: Path, *, corrupt: bool) -> None:
    """What ends after the file was replaced is noted for its own alert, not for one that took its place in the file."""
    slow = RecordingDispatcher(wait=lambda: anyio.sleep(10))
    async with make(slow, tmp_path, concurrency=1) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await slow.wait_for(1)
        for path in glob(tmp_path, "alerts.db*"):
            path.rename(f"{path}.old")
        if corrupt:
            (tmp_path / "alerts.db").write_bytes(b"no database" * 1000)
            with pytest.raises(OutboxError):
                await outbox.pending()
        slow.wait = anyio.sleep_forever
        for number in (2, 3):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: len(slow.alerts) >= 2)
        await anyio.sleep(20)
        assert await statuses(outbox, an_event(1)) == ["delivered"]
        slow.wait = None
        await anyio.sleep(100)
        assert await statuses(outbox, *map(an_event, (1, 2, 3))) == ["delivered"] * 3
    assert {alert.event.event_id for alert in slow.alerts} == {an_event(number).event_id for number in (1, 2, 3)}


@pytest.mark.slow_on_trio
async def test_what_others_took_over_meanwhile_is_theirs(tmp_path: Path) -> None:
    """A process that stood still for longer than its lease does not send what another has sent meanwhile."""
    slow, other = Scripted(), Scripted()
    slow.delay = 1000.0
    first = make(slow, tmp_path, lease=60.0, concurrency=2, timeout=2000.0)
    async with first:
        # Two are being sent, one is held for the next that is free.
        for number in (1, 2, 3):
            await first.send_alert(an_event(number), severity="critical")
        await until(lambda: len(first._sender._claims.held) == 3)
        await anyio.sleep(5)  # it has renewed its leases, and is idle
        first._sender._next_renewal = float("inf")
        async with make(other, tmp_path, lease=60.0):
            await until(lambda: len(other.calls) == 3)
        first._sender._next_renewal = 0.0
        await anyio.sleep(3000)
    assert slow.ids == [an_event(1).event_id, an_event(2).event_id]


async def test_discarded_while_it_is_sent(tmp_path: Path) -> None:
    """What is discarded while it is sent is sent again only if it is retried, and not if it has arrived meanwhile."""
    slow = Scripted(BUSY, None, None)
    slow.delay = 10.0
    async with make(slow, tmp_path) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: slow.at_once)
        assert await outbox.discard([an_event().event_id], reason="a drill") == 1
        await anyio.sleep(1000)
        assert (len(slow.calls), await statuses(outbox, an_event())) == (1, ["discarded"])
        assert await outbox.retry([an_event().event_id]) == 1
        await until(lambda: slow.at_once)
        assert await outbox.discard([an_event().event_id], reason="a drill") == 1
        assert await outbox.retry([an_event().event_id]) == 1
        await anyio.sleep(1000)
        assert (len(slow.calls), await statuses(outbox, an_event())) == (2, ["delivered"])


@pytest.mark.slow_on_trio
async def test_one_bad_call_harms_no_other(tmp_path: Path) -> None:
    """What can't be written, such as a lone surrogate, is refused alone: alerts that come meanwhile are kept."""
    inner = Scripted()
    refused = []

    async def find(outbox: Outbox) -> None:
        with pytest.raises(UnicodeEncodeError):
            await outbox._store.run(lambda queue: cast(FileQueue, queue).connection.execute("SELECT ?", ["\ud800"]))
        refused.append(1)

    async with make(inner, tmp_path) as outbox:
        for number in range(1, 21):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(find, outbox)
                    tasks.start_soon(partial(outbox.send_alert, an_event(number), severity="critical"))
        await anyio.sleep(100)
        assert await statuses(outbox, *map(an_event, range(1, 21))) == ["delivered"] * 20
    assert (len(refused), len(inner.calls)) == (60, 20)


def test_a_call_within_a_call_is_refused(tmp_path: Path) -> None:
    """A signal handler that asks, closes or forks in the midst of a call of its thread does not hang."""
    file = OutboxFile(tmp_path / "alerts.db")

    def handler(_: FileQueue) -> None:
        for call in (partial(file.run, [FileQueue.outboxes]), file.close):
            with pytest.raises(OutboxError, match="called from within a call of the same thread"):
                call()
        child = os.fork()
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    file.run([handler])
    assert file.run([FileQueue.outboxes]) == [[]]


async def test_what_the_file_cannot_take_goes_out_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert that can't be written, for whatever reason, goes out directly, once, and others are kept."""
    inner = Scripted()
    put = FileQueue.put

    def fail(queue: FileQueue, outbox: str, alert: Alert, now: float) -> None:
        if alert.event.event_id == an_event(1).event_id:
            raise MemoryError
        put(queue, outbox, alert, now)

    monkeypatch.setattr(FileQueue, "put", fail)
    async with make(inner, tmp_path) as outbox:
        for number in (1, 2):
            await outbox.send_alert(an_event(number), severity="critical")
        await anyio.sleep(100)
        assert await statuses(outbox, *map(an_event, (1, 2))) == [None, "delivered"]
    assert inner.ids == [an_event(1).event_id, an_event(2).event_id]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_dispatcher_that_is_cancelled(tmp_path: Path) -> None:
    """A dispatcher in which something raises `CancelledError` has failed, and is tried again by the schedule."""
    inner = Scripted(asyncio.CancelledError())
    async with make(inner, tmp_path, schedule=[10.0, 100.0]) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.dead)
    assert len(inner.calls) == 3
    assert [each.outcome for each in await outbox.history(an_event().event_id)] == ["error"] * 3


# -- each statement

IO_ERROR = database_error("disk I/O error", sqlite3.SQLITE_IOERR)
FULL = database_error("database or disk is full", sqlite3.SQLITE_FULL)
LOCKED = database_error("database is locked", sqlite3.SQLITE_BUSY)
CORRUPT = database_error("database disk image is malformed", sqlite3.SQLITE_CORRUPT)


def nth(wanted: int, error: Exception, *, more: int = 0) -> Fails:
    """Return what lets the statement with that number, and so many more, fail."""
    return lambda number, statement: error if wanted <= number <= wanted + more else None


async def play(disk: Disk, path: Path, fails: Fails, fails_after: Fails = nothing) -> Counter[str]:
    """Take up two alerts that were left, and take three more, while *disk* fails; return how often each was sent."""
    inner = Scripted(BUSY, BUSY, None)
    disk.work()
    for number in (1, 2):
        await make(inner, path).send_alert(an_event(number), severity="critical")
    inner.calls.clear()
    inner.delay = 0.1
    disk.count, disk.fails, disk.fails_after = 0, fails, fails_after
    async with make(inner, path, concurrency=2) as outbox:
        for number in (3, 4, 5):
            await outbox.send_alert(an_event(number), severity="critical")
            await anyio.sleep(0.15)
        await anyio.sleep(60)
    made = disk.count
    disk.work()
    async with make(inner, path) as outbox:
        await anyio.sleep(1000)
        assert outbox.state == OutboxState()
    disk.count = made
    return Counter(inner.ids)


# Of the statements that may fail, every thirteenth on each backend, and all of them in the long runs.
some_or_all = pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.torture)])
EACH_ONCE = Counter(an_event(number).event_id for number in range(1, 6))


@pytest.mark.slow_on_trio
@some_or_all
async def test_a_statement_fails(tmp_path: Path, disk: Disk, first: int, step: int) -> None:
    """Whichever statement fails, each alert is sent, and once."""
    for wanted in itertools.count(first, step):
        error = (IO_ERROR, FULL, LOCKED)[wanted % 3]
        assert await play(disk, tmp_path / str(wanted), nth(wanted, error)) == EACH_ONCE, wanted
        if disk.count < wanted:
            break
    assert wanted > 50


@pytest.mark.slow_on_trio
@some_or_all
async def test_all_statements_fail_for_a_while(tmp_path: Path, disk: Disk, first: int, step: int) -> None:
    """From whichever statement on the file fails for a while, each alert is sent, and once."""
    for wanted in itertools.count(first, step):
        assert await play(disk, tmp_path / str(wanted), nth(wanted, IO_ERROR, more=8)) == EACH_ONCE, wanted
        if disk.count < wanted:
            break


async def test_a_clock_that_is_set_while_the_file_fails(tmp_path: Path, disk: Disk) -> None:
    """An alert waits no longer than it was to, also if its file failed when its clock was set back."""
    inner, ahead = Scripted(BUSY, None), 3 * DAY
    async with make(inner, tmp_path, now=lambda: clock() + ahead, lease=15.0, schedule=[300.0]) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: inner.calls)
        disk.fails = lambda _, statement: FULL if statement.startswith("UPDATE") else None
        ahead = 0.0
        await anyio.sleep(60)
        disk.work()
        await anyio.sleep(400)
    assert len(inner.calls) == 2


async def test_a_file_that_can_only_be_read(tmp_path: Path, disk: Disk) -> None:
    """As long as nothing can be written, people are told once that the file fails, and not that it works."""
    inner = Scripted(BUSY)
    outbox = make(inner, tmp_path)
    async with owned(outbox) as told:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: inner.calls)
        disk.fails = lambda _, statement: FULL if statement.startswith(("INSERT", "UPDATE", "DELETE")) else None
        for number in (2, 3, 4):
            with pytest.raises(TransientDeliveryError):
                await outbox.send_alert(an_event(number), severity="critical")
            await anyio.sleep(10)
        assert [each.event_id for each in await outbox.pending()] == [an_event(1).event_id]
        assert list(told.failures) == ["the file of the outbox alerts"]
        assert not told.recovered
        disk.work()
        await until(lambda: told.recovered)


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.torture)])
async def test_a_commit_that_succeeds_is_said_to_have_failed(tmp_path: Path, disk: Disk, first: int, step: int) -> None:
    """Where a commit takes place and an error comes back, each alert is sent, and once."""
    for wanted in itertools.count(first, step):
        commits = itertools.count(1)

        def fails_after(
            number: int, statement: str, wanted: int = wanted, commits: Iterator[int] = commits
        ) -> Exception | None:
            return IO_ERROR if statement == "COMMIT" and next(commits) == wanted else None

        assert await play(disk, tmp_path / str(wanted), nothing, fails_after) == EACH_ONCE, wanted
        if next(commits) <= wanted:
            break


@pytest.mark.slow_on_trio
@some_or_all
async def test_a_statement_finds_the_file_damaged(tmp_path: Path, disk: Disk, first: int, step: int) -> None:
    """Whichever statement finds the file damaged that is not, it stays, and each alert is sent, and once."""
    for wanted in itertools.count(first, step):
        path = tmp_path / str(wanted)
        assert await play(disk, path, nth(wanted, CORRUPT)) == EACH_ONCE, wanted
        assert not glob(path, "*corrupt*"), wanted
        if disk.count < wanted:
            break


# -- the caller, the process


@pytest.mark.slow
async def test_a_backlog_takes_few_transactions(tmp_path: Path, disk: Disk) -> None:
    """While there are alerts to send, how the attempts ended is noted of many at once, and within a moment."""
    before = make(Scripted(BUSY), tmp_path)
    events = [an_event(number) for number in range(1, 201)]
    for event in events:
        await before.send_alert(event, severity="critical")
    await before.retry(event.event_id for event in events)
    inner = Scripted()
    inner.delay = 0.001
    commits: list[int] = []

    def count(number: int, statement: str) -> None:
        if statement == "COMMIT":
            commits.append(number)

    disk.fails = count
    async with make(inner, tmp_path) as outbox:
        await until(lambda: len(inner.calls) == 200)
        await anyio.sleep(0.06)
        assert not await outbox.pending()
        assert len(commits) < 20


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("entered", [True, False], ids=["entered", "not entered"])
async def test_a_caller_that_is_cancelled(tmp_path: Path, *, entered: bool) -> None:
    """Wherever the caller is cancelled, its alert is sent or not; twice only after an attempt that was cut off."""
    inner = Scripted()
    outbox = make(inner, tmp_path, schedule=[10.0])
    async with outbox if entered else nullcontext():
        for number in range(1, 30):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(partial(outbox.send_alert, an_event(number), severity="critical"))
                    for _ in range(number):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()
            await outbox.send_alert(an_event(1000 + number), severity="critical")
    async with outbox:
        await anyio.sleep(1000)
        assert outbox.state == OutboxState()
    sent = Counter(inner.ids)
    assert all(sent[an_event(1000 + number).event_id] == 1 for number in range(1, 30))
    for number in range(1, 30):
        outcomes = [attempt.outcome for attempt in await outbox.history(an_event(number).event_id)]
        # One that was cut off may not have got as far as the other side. Not entered, the attempt is the caller's own.
        assert outcomes in ([], ["dispatched"], ["stopped", "dispatched"]) or (
            outcomes == ["cancelled", "dispatched"] and not entered
        )
        assert (outcomes != []) <= sent[an_event(number).event_id] <= len(outcomes)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_forgetting_to_leave_is_loud(tmp_path: Path, backend: str) -> None:
    """An outbox whose event loop ends before it was left warns."""
    with pytest.warns(ResourceWarning, match=r"<Outbox 'alerts' .*> was not stopped before its event loop ended"):
        anyio.run(make(NoopAlertDispatcher(), tmp_path).__aenter__, backend=backend)


@pytest.mark.slow_on_trio
async def test_an_outbox_that_nobody_keeps_is_collected(tmp_path: Path) -> None:
    """One that is not needed any more goes, with its file and what it is around, entered before or not."""
    for entered in (True, False):
        inner = Scripted()
        outbox = make(inner, tmp_path)
        async with outbox if entered else nullcontext():
            await outbox.send_alert(an_event(1 + entered), severity="critical")
        kept = weakref.ref(outbox), weakref.ref(outbox._store.place), weakref.ref(inner)
        del outbox, inner
        for _ in range(1000):  # the loop lets go of tasks that are done, and a worker thread of its last call
            await anyio.to_thread.run_sync(time.sleep, 0.01)
            gc.collect()
            if not any(reference() for reference in kept):
                break
        assert [reference() for reference in kept] == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_fork_in_the_middle(tmp_path: Path, backend: str) -> None:
    """A child sends nothing that its parent sends, and what it takes is kept, although the parent closes the file."""
    script = Path(__file__).parents[1] / "programs" / "forking_outbox.py"
    command = [sys.executable, str(script), str(tmp_path), backend]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert sorted(done.stdout.splitlines()) == [
        "child sends after",
        "child sends before",
        "child took after",
        "child took before",
        "parent sends first",
        "parent took first",
    ]
    file = OutboxFile(tmp_path / "alerts.db")
    [alerts] = file.run([lambda queue: queue.alerts(statuses=["pending"])])
    file.close()
    assert [(alert.event_id, alert.attempts) for alert in alerts] == [("first", 1), ("before", 1), ("after", 1)]


async def test_leaving_at_once(tmp_path: Path) -> None:
    """Left before it has begun to work, an outbox sends what is due and does not wait for anything."""
    inner = Scripted()
    inner.delay = 1.0
    await make(Scripted(BUSY), tmp_path, schedule=[0.0]).send_alert(an_event(), severity="critical")
    began = anyio.current_time()
    async with make(inner, tmp_path):
        pass
    assert len(inner.calls) == 1
    assert anyio.current_time() - began == 1.0


@pytest.mark.slow_on_trio
async def test_leaving_as_soon_as_it_is_taken(tmp_path: Path) -> None:
    """What was taken is sent before an outbox is left, whatever it was doing when it came."""
    for number in range(1, 60, 3):
        inner = Scripted()
        async with make(inner, tmp_path) as outbox:
            for _ in range(number):
                await anyio.lowlevel.checkpoint()
            await outbox.send_alert(an_event(number), severity="critical")
        assert inner.ids == [an_event(number).event_id]


# -- a file that is locked, full or read-only


@pytest.mark.slow_on_trio
async def test_a_locked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody keeps the file locked, alerts go out directly, once; then they are noted."""
    monkeypatch.setattr(place, "_BUSY_TIMEOUT", 0.05)
    inner = Scripted()
    outbox = make(inner, tmp_path)
    async with owned(outbox) as told:
        await outbox.send_alert(an_event(1), severity="critical")
        await until(lambda: inner.calls)
        other = sqlite3.connect(outbox.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for number in (2, 3):
            await outbox.send_alert(an_event(number), severity="critical")
        assert [cause.rpartition(": ")[2] for cause in told.failures.values()] == ["database is locked"]
        other.close()
        await until(lambda: told.recovered)
        assert await statuses(outbox, *map(an_event, (1, 2, 3))) == ["delivered"] * 3
    assert Counter(inner.ids) == Counter(an_event(number).event_id for number in (1, 2, 3))


async def test_a_locked_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While somebody keeps the folder locked, the file can't be opened, and alerts go out directly, once."""
    monkeypatch.setattr("fapilog.storage._files.locking._PATIENCE", 0.05)
    inner = Scripted()
    fd = await anyio.to_thread.run_sync(os.open, tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        async with make(inner, tmp_path) as outbox:
            await outbox.send_alert(an_event(), severity="critical")
            assert inner.ids == [an_event().event_id]
            fcntl.flock(fd, fcntl.LOCK_UN)
            await anyio.sleep(10)
            assert await statuses(outbox, an_event()) == ["delivered"]
    finally:
        os.close(fd)
    assert len(inner.calls) == 1


def mounted(*options: str) -> bool:
    """Run mount; return whether it could."""
    mount = shutil.which("mount")
    command = [] if mount is None else [mount, *options]
    return bool(command) and not subprocess.run(command, check=False, capture_output=True).returncode


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB, twice of what SQLite lets its log grow to; only root may have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)):
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)  # noqa: S607


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill *disk* to the last byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(65_536)):
            pass
    yield
    ballast.unlink()


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond *size*; the kernel writes what fits."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def send_with_and_without_room(path: Path, no_room: AbstractContextManager[None]) -> None:
    """Check that each alert is sent once, and noted, also those that come while there is no room."""
    inner = Scripted()
    events: list[AuditEvent] = []
    outbox = make(inner, path)

    async def send(count: int) -> None:
        for _ in range(count):
            events.append(an_event(1 + len(events), message="m" * 100_000))
            await outbox.send_alert(events[-1], severity="critical")

    async with owned(outbox) as told:
        await send(10)
        await until(lambda: len(inner.calls) == 10)
        with no_room:
            # The files may have grown before, by as much as the disk holds, and what they don't use of it is room.
            # What was closed and opened again may have found room in its own file.
            while not (told.failures or told.recovered):
                assert len(events) < 100
                await send(1)
            await send(10)
            await anyio.sleep(60)
        await until(lambda: told.recovered and not told.failures)
        assert await statuses(outbox, *events) == ["delivered"] * len(events)
    assert Counter(inner.ids) == Counter(event.event_id for event in events)


@pytest.mark.slow_on_trio
@pytest.mark.may_block
async def test_a_full_disk(small_disk: Path) -> None:
    """While the disk is full, alerts go out directly, once; with room they are noted."""
    await send_with_and_without_room(small_disk, full(small_disk))


@pytest.mark.slow_on_trio
@pytest.mark.may_block
async def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """While the file can't grow, alerts go out directly, once; when it can they are noted."""
    await send_with_and_without_room(tmp_path, limited(500_000))


@pytest.mark.slow_on_trio
@pytest.mark.may_block
async def test_no_room_for_what_nobody_takes(small_disk: Path) -> None:
    """With the disk full and the other side down the caller is told; what was kept is sent when it is back."""
    inner = Scripted(BUSY)
    kept: list[AuditEvent] = []
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(5 << 20))
    async with make(inner, small_disk) as outbox:
        with pytest.raises(TransientDeliveryError):  # noqa: PT012
            while True:
                event = an_event(1 + len(kept), message="m" * 200_000)
                await outbox.send_alert(event, severity="critical")
                kept.append(event)
        assert kept
        inner.outcomes = [None]
        inner.calls.clear()
        await anyio.sleep(100)
        ballast.unlink()
        await anyio.sleep(1000)
        assert await statuses(outbox, *kept) == ["delivered"] * len(kept)
    assert Counter(inner.ids) == Counter(event.event_id for event in kept)


@pytest.mark.may_block
async def test_a_disk_that_is_read_only(small_disk: Path) -> None:
    """While the disk is read-only, alerts go out directly, once; what was kept is sent when it is not any more."""
    inner = Scripted(BUSY, None)
    before = make(inner, small_disk)
    await before.send_alert(an_event(1), severity="critical")
    before._store.place.close()
    assert mounted("-o", "remount,ro", str(small_disk))
    outbox = make(inner, small_disk)
    async with owned(outbox) as told:
        await outbox.send_alert(an_event(2), severity="critical")
        assert inner.ids == [an_event(1).event_id, an_event(2).event_id]
        assert mounted("-o", "remount,rw", str(small_disk))
        await until(lambda: told.recovered)
        await until(lambda: len(inner.calls) == 3)
        await anyio.sleep(10)
        assert await statuses(outbox, *map(an_event, (1, 2))) == ["delivered"] * 2
    assert len(inner.calls) == 3
