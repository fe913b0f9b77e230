"""Several processes on one trail: forked ones, and readers beside writers."""

import errno
import fcntl
import itertools
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import anyio
import pytest

from fapilog.core._incidentfiles import IncidentFiles
from fapilog.core.audit import AuditEventType, AuditTrail, ChainStatus
from fapilog.record import chain
from fapilog.record.errors import AuditStorageError
from fapilog.storage.files import FileStorage
from fapilog.storage.protocol import EventFilter
from fapilog.testing import RecordingDispatcher
from tests.doubles.trail_files import TrailFiles, whole
from tests.doubles.trail_oracle import records
from tests.doubles.trail_writers import failing, listen, writer
from tests.programs.appending_files import bodies

FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


def play(scene: str, directory: Path, backend: str) -> list[str]:
    """Run a scene of `forking_trail.py`, which ends well; return the ids that it has printed, of all processes."""
    script = Path(__file__).parents[1] / "programs" / "forking_trail.py"
    played = subprocess.run(
        [sys.executable, str(script), scene, str(directory), backend],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert played.returncode == 0, played.stderr
    return played.stdout.split()


def check(directory: Path, ids: list[str]) -> list[dict[str, object]]:
    """Expect a valid trail of exactly the events with *ids*; return its records."""
    assert TrailFiles(directory, durable=False).verify().valid
    found = records(directory)
    assert Counter(record["event_id"] for record in found) == Counter(ids)
    return found


@pytest.mark.slow
@backends
def test_a_child_does_not_share_the_lock(tmp_path: Path, backend: str) -> None:
    """Forked while its parent holds the lock, a child neither has it nor takes it away, and both go on."""
    check(tmp_path, play("held", tmp_path, backend))


@pytest.mark.slow
@backends
def test_a_fork_waits_for_an_import_in_a_thread(tmp_path: Path, backend: str) -> None:
    """A child that is forked in the midst of a thread's first call in a loop can make such a call too."""
    assert len(check(tmp_path, play("importing", tmp_path, backend))) == 2


@pytest.mark.slow
@backends
@pytest.mark.parametrize("scene", ["preload", "running"])
def test_a_trail_is_used_before_and_after_a_fork(tmp_path: Path, scene: str, backend: str) -> None:
    """A trail that was made before a fork works on both sides of it: one chain, each alert sent by its own process."""
    found = check(tmp_path / "trail", play(scene, tmp_path, backend))
    alerts = [line.split() for line in (tmp_path / "alerts").read_text().splitlines()]
    assert all(sender == author for sender, author, _ in alerts)
    alerting = [record["event_id"] for record in found if record["log_level"] == "security"]
    assert Counter(event_id for _, _, event_id in alerts) == Counter(alerting)


@pytest.mark.slow
@pytest.mark.parametrize(("scene", "backend"), [("failing", "trio"), ("orphaned", "asyncio")])
def test_what_fails_in_a_parent_is_its_own(tmp_path: Path, scene: str, backend: str) -> None:
    """A child neither ends what is failing in its parent, nor keeps others from it when the parent is gone."""
    play(scene, tmp_path, backend)


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.real_time
async def test_what_a_killed_process_told_of_is_over(tmp_path: Path, anyio_backend_name: str) -> None:
    """Two are killed while they can't store events, one lives; the next to start tells that it is over for the two."""
    with ExitStack() as stack:
        writers = [stack.enter_context(failing(tmp_path, anyio_backend_name)) for _ in range(3)]
        await anyio.to_thread.run_sync(listen, writers, lambda: all(each.stored for each in writers))
        incidents = [each.stored[0] for each in writers]
        for each in writers[:2]:
            each.kill()
        dispatcher = RecordingDispatcher()
        async with AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher) as trail:
            await trail.log_event(AuditEventType.DATA_ACCESS, "the disk has room again")
            await trail.drain()
        recoveries = [alert.event.metadata for alert in dispatcher.alerts]
        assert sorted(each["incident"] for each in recoveries) == sorted(incidents[:2])
        assert {"File too large" in each["cause"] for each in recoveries} == {True}
        writers[2].stop()
    assert len(IncidentFiles(tmp_path).take_over()) == 1
    assert (await trail.verify_chain_from_storage()).valid


@pytest.mark.slow
@pytest.mark.real_time
async def test_readers_beside_writers(tmp_path: Path, anyio_backend_name: str) -> None:
    """Beside two processes that write, each verification is valid and each reader gets the newest events, in order."""
    durability = "fsync" if anyio_backend_name == "asyncio" else "write"
    rounds = 0

    async def verify(trail: AuditTrail) -> None:
        checked = 0
        while rounds < 4:
            result = await trail.verify_chain_from_storage()
            assert result.valid, result
            assert result.events_checked >= checked
            checked = result.events_checked

    async def read(trail: AuditTrail) -> None:
        while rounds < 4:
            events = await trail.get_events(limit=50)
            for newer, older in itertools.pairwise(events):
                assert newer.sequence_number is not None
                assert older.sequence_number == newer.sequence_number - 1
                assert newer.previous_hash == older.checksum

    with ExitStack() as stack:
        writers = [stack.enter_context(writer(tmp_path, anyio_backend_name, durability)) for _ in range(2)]
        trail = AuditTrail(storage_path=tmp_path)
        async with anyio.create_task_group() as tasks:
            for task in (verify, verify, read, read):
                tasks.start_soon(task, trail)
            while rounds < 4:
                enough = {each: len(each.stored) + 10 for each in writers}
                await anyio.to_thread.run_sync(
                    listen,
                    writers,
                    lambda: all(len(each.stored) >= enough[each] for each in writers),  # noqa: B023
                )
                rounds += 1
        for each in writers:
            each.stop()
    acknowledged = {event_id for each in writers for event_id in each.stored}
    assert len(acknowledged) >= 80
    assert acknowledged <= {event.event_id for event in await trail.get_events(limit=1_000_000)}


class Unsteady:
    """
    Two threads that write, each with files of its own as a process has, while a test looks on.

    A day lasts for twenty batches, and on a failing disk every third sync fails.
    """

    def __init__(self, directory: Path, *, fails: bool) -> None:
        self.directory = directory
        self.stored: list[str] = []
        self._batches = itertools.count(1)
        self._syncs = itertools.count(1)
        self._fails = fails
        self._over = False
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(2)]

    def sync(self, fd: int) -> None:
        """Stand in for fdatasync."""
        if self._fails and next(self._syncs) % 3 == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def do_not_sync(self, fd: int) -> None:
        """Stand in for fsync."""

    def _write(self, thread: int) -> None:
        batch = 0
        files = TrailFiles(self.directory, durable=True, now=lambda: FIRST_DAY + timedelta(days=batch // 20))
        while not self._over:
            batch = next(self._batches)
            ids = [f"{thread} {batch} {number} {'x' * (number * 3_000)}" for number in range(3)]
            try:
                files.append(bodies(ids, FIRST_DAY))
            except AuditStorageError:
                assert self._fails
            else:
                self.stored += ids
        files.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["good", "failing"])
def test_readers_beside_unsteady_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str) -> None:
    """Where days end every moment, and syncs fail, a verification beside it is valid and finds no less than before."""
    fails = disk == "failing"
    writers = Unsteady(tmp_path, fails=fails)
    monkeypatch.setattr(os, "fdatasync", writers.sync)
    monkeypatch.setattr(os, "fsync", writers.do_not_sync)
    with writers:
        reader = TrailFiles(tmp_path, durable=False)
        checked = 0
        while len(writers.stored) < 1_000:
            result = reader.verify()
            assert result.status is ChainStatus.OK, result
            assert result.events_checked >= checked
            checked = result.events_checked
            newest = [whole(event).sequence_number or 0 for event in itertools.islice(reader.newest_first(), 100)]
            assert newest == list(range(max(newest, default=0), max(newest, default=0) - len(newest), -1))
    assert sorted(record["event_id"] for record in records(tmp_path)) == sorted(writers.stored)


@pytest.mark.parametrize("seen", [b"", b"\n", b'{"v":2,', b"\n{}\n"], ids=["end", "line", "piece", "other"])
def test_what_a_reader_saw_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bytes) -> None:
    """Where records that a verification has seen are taken back under its eyes, it goes by what is there in the end."""
    files = TrailFiles(tmp_path, durable=False)
    files.append(bodies(["one", "two"], FIRST_DAY))
    (path,) = tmp_path.iterdir()
    kept = path.stat().st_size
    files.append(bodies(["taken back", "this too"], FIRST_DAY))
    before = path.read_bytes() + seen
    path.write_bytes(before)
    flock = fcntl.flock

    def take_back(fd: int, how: int) -> None:
        """Do what a writer does before it gives the lock to a reader."""
        if how & fcntl.LOCK_SH and path.read_bytes() == before:
            os.truncate(path, kept)
            TrailFiles(tmp_path, durable=False).append(bodies(["longer than those before", "and", "more"], FIRST_DAY))
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", take_back)
    result = files.verify()
    files.close()
    # At the end of a line there is no reason to look twice.
    assert (result.valid, result.events_checked) == (True, 5 if seen else 4), result


class FailsToSync:
    """
    A writer in a thread whose first sync fails, so that it writes its records and syncs them again, and then others.

    The sync fails when a reader has read its *after*-th block without the lock, and then the reader goes on when all
    that is done; or when a reader waits for the lock.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
        self._files = TrailFiles(directory, durable=True, now=lambda: FIRST_DAY)
        self._files.append(bodies(["one", "two"], FIRST_DAY))
        self._written, self._fails = threading.Event(), threading.Event()
        self._reads = itertools.count(1)
        self._locked_out = False
        self._thread = threading.Thread(target=self._write)
        pread, flock = os.pread, fcntl.flock

        def sync(fd: int) -> None:
            if not self._written.is_set():
                self._written.set()
                self._fails.wait()
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        def read(fd: int, size: int, offset: int) -> bytes:
            block = pread(fd, size, offset)
            if self._is_reader() and not self._locked_out and next(self._reads) == after:
                self.end()
            return block

        def lock(fd: int, how: int) -> None:
            if how & fcntl.LOCK_SH:
                self._fails.set()
            flock(fd, how)
            if self._is_reader():
                self._locked_out = bool(how & fcntl.LOCK_SH)

        monkeypatch.setattr(os, "fdatasync", sync)
        monkeypatch.setattr(os, "pread", read)
        monkeypatch.setattr(fcntl, "flock", lock)
        self._thread.start()
        self._written.wait()

    def _is_reader(self) -> bool:
        return threading.current_thread() is not self._thread

    def _write(self) -> None:
        self._files.append(bodies(["synced again", "this too"], FIRST_DAY))
        self._files.append(bodies(["longer than those before", "and", "more"], FIRST_DAY))
        self._files.close()

    def end(self) -> None:
        self._fails.set()
        self._thread.join()


@pytest.mark.one_backend
@pytest.mark.real_time
@pytest.mark.parametrize("after", range(1, 13))
@pytest.mark.parametrize("way", ["backwards", "forwards"])
async def test_what_would_be_found_is_not_synced_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, way: str
) -> None:
    """Where a sync fails while someone searches or reads, only records that are on the disk are found, all in order."""
    writer = FailsToSync(tmp_path, monkeypatch, after=after)
    monkeypatch.setattr("fapilog.storage._files.lines._BLOCK_BYTES", 100)
    storage = FileStorage(tmp_path)
    try:
        found = await (storage.read(0, 10) if way == "forwards" else storage.find(EventFilter(), 10))
    finally:
        writer.end()
    stored = (tmp_path / "audit_2026-01-01.jsonl").read_bytes().splitlines()
    assert len(stored) == 7
    events = [whole(each) for each in (found if way == "forwards" else found[::-1])]
    lines = [chain.seal(chain.body(event), event.sequence_number or 0, event.previous_hash)[0] for event in events]
    stored = [line + b"\n" for line in stored]
    assert lines in (stored[:4], stored)
