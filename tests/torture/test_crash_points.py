"""
Writers that end, or whose disk fails, at every point of their work: what was stored stays, and nothing looks tampered.

The points are the bytes of the last record, and the calls to the operating system (with strace, where it is installed).
"""

import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from fapilog.core.audit import AuditEventType, AuditTrail, ChainStatus
from fapilog.core.policy import CompliancePolicy
from fapilog.record.chain import Seal
from fapilog.record.errors import AuditStorageError
from fapilog.testing import RecordingDispatcher
from tests.doubles.trail_files import TrailFiles
from tests.doubles.trail_oracle import records
from tests.programs.appending_files import bodies

YESTERDAY = "audit_2026-01-30.jsonl"
TODAY = "audit_2026-01-31.jsonl"


def append(directory: Path, *ids: str, day: int = 30) -> list[Seal]:
    """Append events as a process does that has just started."""
    noon = datetime(2026, 1, day, 12, tzinfo=UTC)
    files = TrailFiles(directory, durable=False, now=lambda: noon)
    try:
        return files.append(bodies(list(ids), noon))
    finally:
        files.close()


def stored(directory: Path) -> list[str]:
    return [record["event_id"] for record in records(directory)]


def set_aside(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(directory.glob("*.torn-*"))]


def shorten(directory: Path, by: int) -> bytes:
    """Cut so many bytes off the end of the only file; return the rest."""
    (path,) = directory.iterdir()
    os.truncate(path, path.stat().st_size - by)
    return path.read_bytes()


def crash(directory: Path, name: str, whole: bytes, left: int, zeros: int = 0) -> bytes:
    """Leave *left* bytes of the last record of the file *name*, which is *whole*; return what is left of it."""
    begin = whole[:-1].rfind(b"\n") + 1
    rest = whole[begin : begin + left] + bytes(zeros)
    (directory / name).write_bytes(whole[:begin] + rest)
    return rest


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A trail of three records."""
    append(tmp_path / "trail", "one", "two", "three")
    return tmp_path / "trail"


@pytest.mark.usefixtures("without_syncs")
@pytest.mark.parametrize("today", [30, 31], ids=["same day", "at midnight"])
def test_a_record_cut_anywhere_is_set_aside(directory: Path, today: int) -> None:
    """Wherever a crash cut the last record, all others stay valid, and the next writer keeps the piece and goes on."""
    whole = (directory / YESTERDAY).read_bytes()
    size = len(whole.splitlines()[-1])
    for left in range(size):
        for path in directory.iterdir():
            path.unlink()
        rest = crash(directory, YESTERDAY, whole, left)
        result = TrailFiles(directory, durable=False).verify()
        assert (result.valid, result.events_checked) == (True, 2)
        assert result.status is (ChainStatus.TORN_TAIL if left else ChainStatus.OK)
        assert append(directory, "new", day=today)[0].sequence_number == 3
        assert stored(directory) == ["one", "two", "new"]
        assert set_aside(directory) == ([rest] if left else [])
        result = TrailFiles(directory, durable=False).verify()
        assert (result.valid, result.events_checked) == (True, 3)
        assert result.status is (ChainStatus.TORN_TAIL if left else ChainStatus.OK)
        assert len(result.set_aside) == bool(left)


@pytest.mark.parametrize("today", [30, 31], ids=["same day", "at midnight"])
def test_a_whole_record_without_its_newline_is_kept(directory: Path, today: int) -> None:
    """A record that a crash left without its newline is valid as it is, and the next writer only ends it."""
    whole = (directory / YESTERDAY).read_bytes()
    (directory / YESTERDAY).write_bytes(whole[:-1])
    result = TrailFiles(directory, durable=False).verify()
    assert (result.valid, result.events_checked, result.status) == (True, 3, ChainStatus.OK)
    append(directory, "new", day=today)
    assert (directory / YESTERDAY).read_bytes().startswith(whole)
    assert stored(directory) == ["one", "two", "three", "new"]
    assert not set_aside(directory)


@pytest.mark.usefixtures("without_syncs")
def test_zeros_for_the_rest_of_a_record_are_set_aside(directory: Path) -> None:
    """A power cut may leave zeros where the rest of the last record would be; they are set aside with it."""
    whole = (directory / YESTERDAY).read_bytes()
    size = len(whole.splitlines()[-1]) + 1
    for left in range(size):
        for path in directory.iterdir():
            path.unlink()
        rest = crash(directory, YESTERDAY, whole, left, size - left)
        result = TrailFiles(directory, durable=False).verify()
        assert (result.valid, result.events_checked, result.status) == (True, 2, ChainStatus.TORN_TAIL)
        append(directory, "new")
        assert stored(directory) == ["one", "two", "new"]
        assert set_aside(directory) == [rest]


@pytest.mark.parametrize("left", [0, 100])
def test_zeros_of_a_whole_batch(directory: Path, left: int) -> None:
    """The zeros that a power cut leaves of many records written at once are set aside, however many there are."""
    whole = (directory / YESTERDAY).read_bytes()
    rest = crash(directory, YESTERDAY, whole, left, 3 << 20)
    result = TrailFiles(directory, durable=False).verify()
    assert (result.valid, result.events_checked, result.status) == (True, 2, ChainStatus.TORN_TAIL)
    append(directory, "new")
    assert stored(directory) == ["one", "two", "new"]
    assert set_aside(directory) == [rest]


def test_crash_after_crash(directory: Path) -> None:
    """Each piece is kept in a file of its own, also where a second crash leaves one at the same place."""
    pieces = []
    for left in (1, 2, 3, 30, 100, 200, 250):
        whole = (directory / YESTERDAY).read_bytes()
        pieces.append(crash(directory, YESTERDAY, whole, left))
        assert append(directory, f"after {left}")[0].sequence_number == 3
    assert sorted(set_aside(directory)) == sorted(pieces)
    assert stored(directory) == ["one", "two", "after 250"]
    result = TrailFiles(directory, durable=False).verify()
    assert (result.valid, result.status, len(result.set_aside)) == (True, ChainStatus.TORN_TAIL, len(pieces))


@pytest.mark.real_time
@pytest.mark.parametrize("size", [1_000, 64 << 10, 200_000, 900_000])
async def test_a_long_piece_hides_nothing(tmp_path: Path, size: int) -> None:
    """Behind a piece of any length that a crash left, all events are found, and the next goes on."""
    policy = CompliancePolicy(max_message_characters=1_000_000, max_record_bytes=1 << 20)
    async with AuditTrail(policy, tmp_path) as trail:
        first = await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        await trail.log_event(AuditEventType.DATA_ACCESS, "x" * size)
        shorten(tmp_path, 100)
    async with AuditTrail(policy, tmp_path) as trail:
        assert (await trail.verify_chain_from_storage()).status is ChainStatus.TORN_TAIL
        assert [event.event_id for event in await trail.get_events()] == [first]
        second = await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        assert [event.event_id for event in await trail.get_events()] == [second, first]
    (piece,) = set_aside(tmp_path)
    assert len(piece) > size


# -- each call to the operating system

APPENDER = Path(__file__).parents[1] / "programs" / "appending_files.py"
CALLS = "?mkdir,?mkdirat,?open,openat,flock,write,pwrite64,pread64,?getdents64,fdatasync,fsync,ftruncate"
# What a new trail and one that a crash left torn begin with.
BEGINNINGS = {"new": [], "torn": ["before"]}


class Call(NamedTuple):
    """The *number*-th call with this *name*, counted from 1."""

    name: str
    number: int
    arguments: str


@pytest.fixture(params=BEGINNINGS)
def beginning(request: pytest.FixtureRequest) -> str:
    """What the trail is like at first."""
    beginning: str = request.param
    return beginning


class Stage:
    """
    Plays the appender, over and over from the same beginning, with strace between it and the operating system.

    Only what is done to the trail's own files is traced: the interpreter starts undisturbed.
    """

    def __init__(self, strace: str, beginning: str, scratch: Path) -> None:
        self.directory = scratch / "trail"
        self.beginning = BEGINNINGS[beginning]
        self._log = scratch / "log"
        self._strace = [strace, "-f", "-qq", "-s", "0", "-o", str(self._log), "-e", f"trace={CALLS}"]
        self._begin()
        self._run([])
        # Without the index of times, which may be lost.
        files = [path for path in self.directory.iterdir() if path.name != "audit_times.index"]
        for path in [scratch, self.directory, *files]:
            self._strace += ["-P", str(path)]
        self.play()
        self.calls = list(self._traced())

    def play(self, *faults: str) -> "subprocess.CompletedProcess[str]":
        """Run the appender with *faults*, all of which must happen."""
        self._begin()
        done = self._run([*self._strace, *(argument for fault in faults for argument in ("-e", f"inject={fault}"))])
        if any("signal=KILL" in fault for fault in faults):
            assert done.returncode == -signal.SIGKILL
        else:
            assert done.returncode == 0, done.stderr
            assert self._log.read_text().count("(INJECTED)") == len(faults)
        return done

    def _begin(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.beginning:
            append(self.directory, *self.beginning, "torn")
            shorten(self.directory, 100)

    def _run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        # Coverage would write files of its own.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        command = [*command, sys.executable, str(APPENDER), str(self.directory)]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    def _traced(self) -> Iterator[Call]:
        count: Counter[str] = Counter()
        for name, arguments in re.findall(r"^\d+ +(\w+)\((.*)\) += ", self._log.read_text(), re.MULTILINE):
            count[name] += 1
            yield Call(name, count[name], arguments)


def ids(played: "subprocess.CompletedProcess[str]", what: str) -> list[str]:
    """Return the ids of the events that were "stored" or "refused"."""
    rows = [line.split("\t") for line in played.stdout.splitlines()]
    return [event_id for row in rows if row[0] == what for event_id in row[1:] if re.match(r"\d\d-", event_id)]


def check(stage: Stage, played: "subprocess.CompletedProcess[str]") -> Counter[str]:
    """Verify what was left, append to it, find all that was stored exactly once; return what else was found."""
    result = TrailFiles(stage.directory, durable=True).verify()
    assert result.valid, result
    append(stage.directory, "next", day=31)
    found = Counter(stored(stage.directory))
    expected = Counter([*stage.beginning, *ids(played, "stored"), "next"])
    assert found >= expected
    return found - expected


def errors(call: Call) -> Iterator[int]:
    """Yield the errors that the operating system may answer *call* with."""
    yield errno.EIO
    if call.name in {"mkdir", "mkdirat", "write", "fdatasync", "fsync"} or "O_CREAT" in call.arguments:
        yield errno.ENOSPC


def test_the_stage_shows_the_work(strace: str, beginning: str, tmp_path: Path) -> None:
    """The calls that are made to fail are those that writing a trail takes."""
    names = Counter(call.name for call in Stage(strace, beginning, tmp_path).calls)
    assert names["write"] >= 4
    assert names["fdatasync"] >= 4
    assert names["flock"] >= 8
    assert names["fsync"] >= 2
    assert names["ftruncate"] == (beginning == "torn")


def test_each_failing_call_is_refused_and_made_good(strace: str, beginning: str, tmp_path: Path) -> None:
    """An error is told to the caller, and nothing of the event is left, or it is made good; the next is stored."""
    stage = Stage(strace, beginning, tmp_path)
    for call in stage.calls:
        for error in errors(call):
            played = stage.play(f"{call.name}:error={errno.errorcode[error]}:when={call.number}")
            assert not check(stage, played), "it was refused, and yet is there"
            refusals = [line for line in played.stdout.splitlines() if line.startswith("refused")]
            # A lock that can't be given up is given up by closing the directory, and what was stored is stored. Records
            # whose sync failed are written and synced again.
            is_refused = "LOCK_UN" not in call.arguments and not is_of_records(stage.calls, call)
            # Some reads are for the index of times alone: of records, and of the directory for the owner that it gets.
            is_read = call.name in {"pread64", "getdents64"} or "O_RDONLY" in call.arguments
            assert len(refusals) == is_refused or (is_read and not refusals)
            assert all(refusal.endswith(f"DIRECTORY: {os.strerror(error)}") for refusal in refusals)


def test_killed_in_each_call(strace: str, beginning: str, tmp_path: Path) -> None:
    """Killed in a call to the operating system, a writer leaves a valid trail that has all it said was stored."""
    stage = Stage(strace, beginning, tmp_path)
    for call in stage.calls:
        played = stage.play(f"{call.name}:signal=KILL:when={call.number}")
        assert not ids(played, "refused")
        # What was under way may be there, but no more than one batch of it.
        assert len(check(stage, played)) <= 2


@pytest.mark.parametrize("second", ["error=EIO", "signal=KILL"])
def test_making_good_fails_too(strace: str, tmp_path: Path, second: str) -> None:
    """A write or a sync fails, and so does making that good: what was refused may be there, but all else holds."""
    stage = Stage(strace, "new", tmp_path)
    for call in stage.calls:
        if call.name == "write" or is_of_records(stage.calls, call):
            other = "ftruncate" if call.name == "write" else "pwrite64"
            played = stage.play(f"{call.name}:error=EIO:when={call.number}", f"{other}:{second}:when=1")
            assert len(check(stage, played)) <= 2


def is_of_records(calls: list[Call], sync: Call) -> bool:
    """Tell whether *sync* is that of records that were just written, and not of the file of a day that is over."""
    return sync.name == "fdatasync" and calls[calls.index(sync) - 1].name == "write"


# -- no room


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("durability", ["fsync", "write"])
def test_a_record_that_fits_in_part(tmp_path: Path, backend: str, durability: str) -> None:
    """Where only a part of a write fits, its events are refused and not there, and the next go on with the chain."""
    script = Path(__file__).parents[1] / "programs" / "limited_trail.py"
    command = [sys.executable, str(script), str(tmp_path), backend, durability]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [line.split(maxsplit=2) for line in output.splitlines()]
    accepted = {event_id for what, _, event_id in rows if what == "stored"}
    refusals = {message for what, _, message in rows if what == "refused"}
    assert refusals == {f"cannot append to {tmp_path}: {os.strerror(errno.EFBIG)}"}
    assert {number for what, number, _ in rows if what == "stored"} >= {str(number) for number in range(30, 35)}
    # What the trail stored of itself, since it works again.
    accepted |= {event_id for what, _, event_id in rows if what == "recovered"}
    assert set(stored(tmp_path)) == accepted
    assert TrailFiles(tmp_path, durable=False).verify().status is ChainStatus.OK


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; only root may have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    if subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False, capture_output=True
    ).returncode:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run([umount, str(disk)], check=True)


@pytest.mark.real_time
@pytest.mark.parametrize("durability", ["fsync", "write"])
async def test_a_full_disk(small_disk: Path, durability: Literal["fsync", "write"]) -> None:
    """On a full disk events are refused and that is alerted, nothing stored is lost, and with room again it goes on."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(16 << 10))
    accepted = []
    dispatcher = RecordingDispatcher()
    async with AuditTrail(None, small_disk / "trail", dispatcher, durability=durability) as trail:
        with pytest.raises(AuditStorageError, match=os.strerror(errno.ENOSPC)):  # noqa: PT012
            while True:
                accepted.append(await trail.log_event(AuditEventType.DATA_ACCESS, "m" * 1_000))
        for _ in range(3):
            with pytest.raises(AuditStorageError, match=os.strerror(errno.ENOSPC)):
                await trail.log_event(AuditEventType.DATA_ACCESS, "m" * 10_000)
        assert (await trail.verify_chain_from_storage()).valid
        await trail.drain()
        (failure,) = dispatcher.alerts
        assert failure.event.metadata["cause"].endswith(os.strerror(errno.ENOSPC))
        ballast.unlink()
        accepted.append(await trail.log_event(AuditEventType.DATA_ACCESS, "m" * 1_000))
        await trail.drain()
        (_, recovery) = dispatcher.alerts
        assert recovery.event.metadata["incident"] == failure.event.metadata["incident"]
        accepted.append(recovery.event.event_id)
        assert (await trail.verify_chain_from_storage()).status is ChainStatus.OK
        assert (await trail.get_statistics())["total_events"] == len(accepted)
    assert stored(small_disk / "trail") == accepted


@pytest.mark.real_time
async def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    """Without room for the first byte the first event is refused; with room, one is the first of the chain."""
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    async with AuditTrail(storage_path=small_disk / "trail") as trail:
        for _ in range(2):
            with pytest.raises(AuditStorageError, match=os.strerror(errno.ENOSPC)):
                await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        ballast.unlink()
        event_id = await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        assert stored(small_disk / "trail")[0] == event_id
        await trail.drain()
        assert (await trail.verify_chain_from_storage()).events_checked == 2


@pytest.mark.real_time
async def test_no_room_to_set_a_piece_aside(small_disk: Path) -> None:
    """Without room to set a piece aside nothing is appended, and the piece stays where it is; with room it goes on."""
    directory = small_disk / "trail"
    append(directory, "one", "two")
    torn = shorten(directory, 100)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    async with AuditTrail(storage_path=directory) as trail:
        for _ in range(2):
            with pytest.raises(AuditStorageError, match=os.strerror(errno.ENOSPC)):
                await trail.log_event(AuditEventType.DATA_ACCESS, "m")
            assert (directory / YESTERDAY).read_bytes() == torn
            assert (await trail.verify_chain_from_storage()).valid
        ballast.unlink()
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")
    assert b"".join(set_aside(directory)) == torn.splitlines()[-1]
