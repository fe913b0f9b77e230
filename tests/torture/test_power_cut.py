"""
The power is cut: what a disk has at any moment is copied, and looked at as after a restart. Only root may do that.

The trail lies on an ext4 file system in a file. What was not synced is only in memory, so it is missing from a copy of
that file; mounting the copy replays the journal, as it is done after a power cut.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.trail_files import TrailFiles
from tests.doubles.trail_oracle import records
from tests.programs.appending_files import bodies

# Calls after which something else may be on the disk.
CALLS = ("mkdir", "write", "fdatasync", "fsync", "ftruncate")


def run(*command: str) -> bool:
    """Run a command of the administrator; return whether it could be done."""
    program = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return (
        program is not None and not subprocess.run([program, *command[1:]], check=False, capture_output=True).returncode
    )


@contextmanager
def mounted(image: Path) -> Generator[Path]:
    directory = image.with_suffix(".mounted")
    directory.mkdir()
    # The journal is written by fsync alone, and not by a timer while it is copied.
    if not run("mount", "-o", "loop,commit=900", str(image), str(directory)):
        pytest.skip("no file system in a file can be mounted here")
    try:
        yield directory
    finally:
        assert run("umount", str(directory))


class Disk:
    """
    A disk that can be cut off its power at any moment.

    Attributes:
        cuts: Copies of the disk, each with the ids of the events that had been reported as stored by then.
        directory: Where the trail is.
        stored: The ids of the events that have been reported as stored.
    """

    def __init__(self, image: Path, directory: Path) -> None:
        self._image = image
        self.directory = directory / "parent" / "trail"
        self.stored: list[str] = []
        self.cuts: list[tuple[Path, list[str]]] = []
        self._cutting = False

    def cut(self) -> None:
        """Keep a copy of what is on the disk now."""
        copy = self._image.with_name(f"cut-{len(self.cuts)}")
        shutil.copyfile(self._image, copy)
        self.cuts.append((copy, list(self.stored)))

    def cut_after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return *call* with a cut after it."""

        def called(*args: Any, **options: Any) -> Any:
            result = call(*args, **options)
            if not self._cutting:
                self._cutting = True
                self.cut()
                self._cutting = False
            return result

        return called

    def append(self, writer: TrailFiles, *ids: str) -> None:
        """Append records of several pages each."""
        writer.append([body + b',"more":"%b"' % (b"x" * 9_000) for body in bodies(list(ids), NOON)])
        self.stored += ids
        self.cut()


NOON = datetime(2026, 1, 30, 12, tzinfo=UTC)


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    if not run("mkfs.ext4", "-q", "-F", "-J", "size=1", "-E", "lazy_itable_init=0", str(image)):
        pytest.skip("no ext4 can be made here")
    with mounted(image) as directory:
        yield Disk(image, directory)


def use(disk: Disk, *, durable: bool) -> None:
    """Append on two days; between them a crash leaves a piece of a record, which the next writer sets aside."""
    days = [30]
    writers = [
        TrailFiles(disk.directory, durable=durable, now=lambda: datetime(2026, 1, days[-1], tzinfo=UTC))
        for _ in range(2)
    ]
    disk.append(writers[0], "one")
    disk.append(writers[0], "two", "three")
    with (disk.directory / "audit_2026-01-30.jsonl").open("rb+") as file:
        piece = file.read(500)
        file.seek(0, os.SEEK_END)
        file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    disk.append(writers[1], "four")
    days.append(31)
    disk.append(writers[0], "five")
    disk.append(writers[1], "six", "seven")
    for writer in writers:
        writer.close()


def check(disk: Disk) -> list[str]:
    """Look at every cut: expect a valid trail that can go on; return what is missing of what was stored."""
    missing: list[str] = []
    for copy, stored in disk.cuts:
        with mounted(copy) as directory:
            trail = directory / "parent" / "trail"
            writer = TrailFiles(trail, durable=True, now=lambda: datetime(2026, 1, 31, tzinfo=UTC))
            result = writer.verify()
            assert result.valid, result
            writer.append(bodies(["next"], NOON))
            writer.close()
            found = [record["event_id"] for record in records(trail)]
            assert found[-1] == "next"
            missing += [event_id for event_id in stored if event_id not in found]
        copy.unlink()
    return missing


def test_what_is_stored_outlives_a_power_cut(disk: Disk) -> None:
    """With durability "fsync", an event that was reported as stored is on the disk at that moment."""
    use(disk, durable=True)
    assert len(disk.cuts) == 5
    assert not check(disk)


def test_without_syncs_a_power_cut_takes_the_last_events(disk: Disk) -> None:
    """With durability "write" the last events may be missing, as documented, and the trail is valid all the same."""
    use(disk, durable=False)
    assert check(disk)


def test_a_durable_writer_saves_what_others_wrote(disk: Disk) -> None:
    """What was only written, today or the day before, is on the disk as soon as a durable event behind it is."""
    for day, durable in ((29, False), (30, True), (30, False), (31, False), (31, True)):
        noon = datetime(2026, 1, day, tzinfo=UTC)
        writer = TrailFiles(disk.directory, durable=durable, now=lambda: noon)  # noqa: B023
        disk.append(writer, f"{day} {durable}")
        writer.close()
        if not durable:
            disk.cuts.pop()
    assert not check(disk)


@pytest.mark.parametrize("durable", [True, False], ids=["fsync", "write"])
def test_a_power_cut_at_any_moment(disk: Disk, monkeypatch: pytest.MonkeyPatch, durable: bool) -> None:  # noqa: FBT001
    """Cut after any call to the disk, the trail is valid and goes on, and what was stored durably is there."""
    for name in CALLS:
        monkeypatch.setattr(os, name, disk.cut_after(getattr(os, name)))
    use(disk, durable=durable)
    monkeypatch.undo()
    assert len(disk.cuts) > 20
    missing = check(disk)
    assert not durable or not missing
