"""
Retention that ends, or whose disk fails, at every point of its work, and beside writers and readers.

Nothing looks tampered, nothing is lost that is not in the archive, and the next run goes on.
"""

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

from fapilog import AuditTrail, ChainStatus, CompliancePolicy, DirectoryArchive
from fapilog.record.chain import EMPTY, follow
from fapilog.storage._archive.reader import ArchiveReader
from tests.doubles.aged_trails import aged_trail, day_file
from tests.doubles.trail_files import TrailFiles
from tests.programs.appending_files import bodies

PROGRAM = Path(__file__).parents[1] / "programs" / "retaining_trail.py"
AGES = (40, 39, 20, 1)
NETWORK = "connect,sendto,recvfrom"
CALLS = "?open,openat,flock,write,?rename,?renameat,?renameat2,?unlink,?unlinkat,fsync,?fchmod,?fchown,?getdents64"


def lines(directory: Path) -> list[bytes]:
    return TrailFiles(directory, durable=False).reader.read_lines(0, 10_000)


class Stage:
    """
    Plays the program over and over from the same beginning, with strace between it and the operating system.

    Attributes:
        archive: The archive of the last play.
    """

    # Whether the number of calls differs a little from play to play, so that the last of them may not come.
    is_varying = False

    def __init__(self, strace: str, scratch: Path, *, calls: str = CALLS) -> None:
        self.scratch, self.directory = scratch, scratch / "trail"
        aged_trail(scratch / "beginning", AGES)
        self.records = lines(scratch / "beginning")
        self.archive: Any = self.new_archive()
        self._log = scratch / "log"
        self._strace = [strace, "-f", "-qq", "-s", "0", "-o", str(self._log), "-e", f"trace={calls}"]
        if calls == CALLS:
            names = [day_file(age) for age in (*AGES, 0)]
            names += [f"{name}.gz" for name in names] + ["audit_anchor.json"]
            names += [f"{name}.part" for name in names] + ["audit_retention.lock"]
            for path in [self.directory, scratch / "archive"]:
                for each in [path, *(path / name for name in names)]:
                    self._strace += ["-P", str(each)]
        self.play()
        self.calls = list(self._traced())

    def new_archive(self) -> Any:
        """Return an archive with nothing in it."""
        shutil.rmtree(self.scratch / "archive", ignore_errors=True)
        return DirectoryArchive(self.scratch / "archive")

    def play(self, fault: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run the program with a fault, which must happen."""
        shutil.rmtree(self.directory, ignore_errors=True)
        self.archive = self.new_archive()
        shutil.copytree(self.scratch / "beginning", self.directory)
        injected = [] if fault is None else ["-e", f"inject={fault}"]
        # Coverage would write files of its own.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        command = [*self._strace, *injected, sys.executable, str(PROGRAM), str(self.directory), str(self.archive)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if fault is not None and "signal=KILL" in fault:
            assert done.returncode == -signal.SIGKILL or (self.is_varying and not done.returncode)
        else:
            assert done.returncode == 0, done.stderr
        return done

    def _traced(self) -> Iterator[tuple[str, int]]:
        count: Counter[str] = Counter()
        for name in re.findall(r"^\d+ +(\w+)\(.*\) += ", self._log.read_text(), re.MULTILINE):
            count[name] += 1
            yield name, count[name]

    def check(self) -> None:
        """Verify what was left, go on with it, and find every record in the trail or the archive."""
        result = TrailFiles(self.directory, durable=True).verify()
        assert result.valid, result
        left = lines(self.directory)
        archived = ArchiveReader(self.archive).read_lines(0, 10_000)
        assert set(archived) | set(left) >= set(self.records)
        follow(result.pruned or EMPTY, left)
        policy = CompliancePolicy(retention_days=30, archive_after_days=10)
        trail = AuditTrail(policy, self.directory, archive=self.archive)
        trail.sync.log_data_access("patient/1", "read")
        trail.sync.apply_retention()
        # The newest record is about the removal, or of an incident.
        found = [event.sequence_number for event in trail.sync.events(oldest_first=True)]
        assert found == list(range(1, len(found) + 1))
        trail.sync.stop()
        result = TrailFiles(self.directory, durable=True).verify()
        assert (result.valid, result.status) == (True, ChainStatus.FRONT_PRUNED), result
        # An incident may be open.
        names = {path.name for path in self.directory.glob("audit_*")} - {"audit_times.index"}
        kept = {f"{day_file(20)}.gz", day_file(1), day_file(0)}
        assert names == {*kept, "audit_anchor.json", "audit_retention.lock"}
        assert ArchiveReader(self.archive).read_lines(0, 10_000) == self.records[:9]
        assert ArchiveReader(self.archive).verify().status is ChainStatus.OK
        self.check_archive()

    def check_archive(self) -> None:
        """Check what only this kind of archive has."""
        assert TrailFiles(self.archive.directory, durable=True).verify().valid


class StageOfS3(Stage):
    """The same with an archive in S3."""

    # The event loop wakes itself up by a socket, more or less often.
    is_varying = True

    def __init__(self, strace: str, scratch: Path, s3: Any, *, calls: str) -> None:
        self.s3 = s3
        self._numbers = itertools.count()
        super().__init__(strace, scratch, calls=calls)

    def new_archive(self) -> Any:
        """Return an archive in a new bucket."""
        from fapilog import S3Archive  # noqa: PLC0415  needs an extra
        from tests.doubles.s3 import bucket_of  # noqa: PLC0415

        bucket = bucket_of(self.s3, f"stage-{next(self._numbers)}")
        return S3Archive(bucket, prefix="clinic", client=self.s3.client)

    def check_archive(self) -> None:
        """Check that each day was stored once, and is locked."""
        found = self.s3.client.list_object_versions(Bucket=self.archive.bucket)
        assert len(found["Versions"]) == 3
        for each in found["Versions"]:
            head = self.s3.client.head_object(Bucket=self.archive.bucket, Key=each["Key"])
            assert head["ObjectLockMode"] == "COMPLIANCE"


@pytest.fixture
def s3() -> Iterator[Any]:
    """S3 on loopback, for this process and its children."""
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    from tests.doubles.s3 import s3_server  # noqa: PLC0415  needs an extra

    with s3_server() as server:
        yield server


def test_the_stage_shows_the_work(strace: str, tmp_path: Path) -> None:
    """The calls at which it ends are those that retention takes."""
    stage = Stage(strace, tmp_path)
    names = Counter(name for name, _ in stage.calls)
    assert names["rename"] + names["renameat"] + names["renameat2"] == 7
    assert names["unlink"] + names["unlinkat"] >= 5
    stage.check()


def test_killed_in_each_call(strace: str, tmp_path: Path) -> None:
    """Killed in a call to the operating system, it leaves a valid trail, and the next run ends the work."""
    stage = Stage(strace, tmp_path)
    for name, number in stage.calls:
        stage.play(f"{name}:signal=KILL:when={number}")
        stage.check()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_each_failing_call(strace: str, tmp_path: Path, error: int) -> None:
    """Where a call fails, it leaves a valid trail, and the next run ends the work."""
    stage = Stage(strace, tmp_path)
    for name, number in stage.calls:
        stage.play(f"{name}:error={errno.errorcode[error]}:when={number}")
        stage.check()


@pytest.mark.parametrize("calls", [CALLS, NETWORK], ids=["files", "network"])
@pytest.mark.real_time
def test_killed_in_each_call_with_s3(strace: str, tmp_path: Path, s3: Any, calls: str) -> None:
    """Killed in a call for a file or for the network, it leaves a valid trail, and nothing is uploaded twice."""
    stage = StageOfS3(strace, tmp_path, s3, calls=calls)
    assert len(stage.calls) > 20
    for name, number in stage.calls:
        stage.play(f"{name}:signal=KILL:when={number}")
        stage.check()


@pytest.mark.real_time
def test_each_failing_call_of_the_network(strace: str, tmp_path: Path, s3: Any) -> None:
    """Where the connection breaks, whatever S3 has done by then, it is tried again, and succeeds."""
    # A request that was never sent, on a connection that is whole, is only noticed by the time that its answer takes.
    stage = StageOfS3(strace, tmp_path, s3, calls="connect,recvfrom")
    for name, number in stage.calls:
        done = stage.play(f"{name}:error=ECONNRESET:when={number}")
        assert "done" in done.stdout, (name, number)
        stage.check()


class Beside:
    """Writes, verifies and reads in threads, and keeps what is not as it should be."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_over = threading.Event()
        self.problems: list[object] = []
        calls = (self._write, self._verify, self._read)
        self._threads = [threading.Thread(target=self._again_and_again, args=[call]) for call in calls]

    def __enter__(self) -> Self:
        self._writer = TrailFiles(self._directory, durable=True)
        self._reader = TrailFiles(self._directory, durable=False)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self._writer.close()

    def _again_and_again(self, call: Callable[[], None]) -> None:
        try:
            while not self._is_over.is_set():
                call()
        except Exception as error:
            self.problems.append(error)

    def _write(self) -> None:
        self._writer.append(bodies(["new"], datetime.now(UTC)))

    def _verify(self) -> None:
        result = TrailFiles(self._directory, durable=False).verify()
        if not result.valid:
            self.problems.append(result)

    def _read(self) -> None:
        newest = [event.sequence_number or 0 for event in self._reader.newest_first()]
        oldest = [event.sequence_number or 0 for event in self._reader.read(0, 100)]
        for found in (newest[::-1], oldest):
            if found != list(range(found[0], found[0] + len(found))):
                self.problems.append(found)


@pytest.mark.real_time
def test_beside_writers_and_readers(tmp_path: Path) -> None:
    """While days are compressed and removed, writers write, and no verification and no reader sees anything wrong."""
    directory = aged_trail(tmp_path / "trail", range(60, 0, -2))
    with Beside(directory) as beside:
        for days in range(58, 10, -4):
            policy = CompliancePolicy(retention_days=days, archive_after_days=max(1, days - 20))
            AuditTrail(policy, directory).sync.apply_retention(archive=tmp_path / "archive")
    assert not beside.problems
    assert TrailFiles(directory, durable=False).verify().status is ChainStatus.FRONT_PRUNED
    assert TrailFiles(tmp_path / "archive", durable=False).verify().valid
