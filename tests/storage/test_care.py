"""What must be looked after while a trail still stores: its room, its files, and the clock that names them."""

import gzip
import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, ChainStatus
from fapilog.record import chain
from fapilog.storage._anchor import Anchor
from fapilog.storage._archive.day import write_anchor
from fapilog.storage._files import care
from fapilog.storage._files.recovering import recover
from fapilog.storage.files import FileStorage
from fapilog.tasks.loops import without_loop
from tests.doubles.file_systems import append_only, mounted
from tests.doubles.trail_files import TrailFiles

BODY = chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"))
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
GZIP = shutil.which("gzip") or pytest.skip("no gzip here", allow_module_level=True)
DAYS = [f"audit_2026-01-0{day}.jsonl" for day in range(1, 6)]


def write(directory: Path, *days: datetime, records: int = 3, body: bytes = BODY) -> None:
    """Append records on each of *days*."""
    for day in days:
        files = TrailFiles(directory, durable=False, now=lambda day=day: day)  # type: ignore[misc]
        files.append([body] * records)
        files.close()


def five_days(directory: Path) -> None:
    write(directory, *(NOON - timedelta(days=4 - day) for day in range(5)))


def concerns(directory: Path, now: datetime = NOON, min_free: float | None = 0) -> dict[str, str]:
    """Return what a process sees that has just begun."""
    return without_loop(FileStorage(directory, now=lambda: now, min_free=min_free).concerns())


def status(directory: Path) -> ChainStatus:
    return TrailFiles(directory, durable=False).verify().status


def test_nothing_is_wrong_with_a_trail(tmp_path: Path) -> None:
    """A directory that is not there or empty, and a trail of several days, are no concern."""
    assert concerns(tmp_path / "none", min_free=None) == {}
    assert concerns(tmp_path, min_free=None) == {}
    five_days(tmp_path)
    assert concerns(tmp_path, min_free=None) == {}


@pytest.mark.parametrize(
    ("min_free", "is_low"), [(0, False), (1, False), (1e18, True), (0.999999, True), (1e-9, False)]
)
def test_room_is_asked_for_in_bytes_or_as_a_share(tmp_path: Path, min_free: float, *, is_low: bool) -> None:
    """Less free than *min_free*, in bytes or as a share below one, is a concern that names directory and limit."""
    found = concerns(tmp_path, min_free=min_free)
    assert found.keys() == ({"capacity"} if is_low else set())
    assert all(str(tmp_path) in words and "make room" in words for words in found.values())


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), ("5%", TypeError), (True, TypeError), (float("nan"), ValueError)]
)
def test_a_limit_that_is_none_is_refused(tmp_path: Path, value: float, error: type[Exception]) -> None:
    """A *min_free* that is negative or no number is refused when the storage is made."""
    with pytest.raises(error, match=r"^min_free: "):
        FileStorage(tmp_path, min_free=value)


def test_a_file_system_that_fills_up(tmp_path: Path) -> None:
    """By default a tenth of a small file system must be free, and somewhat more before there is room again."""
    with mounted(tmp_path, "10m"):
        storage = FileStorage(tmp_path)
        ballast = tmp_path / "ballast"
        seen: list[bool] = []
        for mebibytes in (8.5, 9.1, 8.95, 8.5, 8.95, 9.1):
            ballast.write_bytes(bytes(int(mebibytes * (1 << 20))))
            seen.append("capacity" in without_loop(storage.concerns()))
    assert seen == [False, True, True, False, False, True]


@pytest.mark.parametrize("day", [0, 2, 4], ids=["oldest", "middle", "newest"])
@pytest.mark.parametrize("suffix", [".1.gz", "-20260109.gz", ".1", ".xz"])
def test_a_file_that_logrotate_packed(tmp_path: Path, day: int, suffix: str) -> None:
    """A file that was packed or renamed is named with what is there instead, until it is back."""
    five_days(tmp_path)
    path = tmp_path / DAYS[day]
    path.rename(f"{path}{suffix}")
    found = concerns(tmp_path)
    assert found.keys() == {"files"}
    assert f"{DAYS[day]} is gone, and {DAYS[day]}{suffix} is there" in found["files"]
    Path(f"{path}{suffix}").rename(path)
    assert concerns(tmp_path) == {}
    assert status(tmp_path) is ChainStatus.OK


@pytest.mark.parametrize("day", [0, 2, 4], ids=["oldest", "middle", "newest"])
def test_a_file_that_gzip_compressed(tmp_path: Path, day: int) -> None:
    """A file that is compressed under its own name, as retention leaves it, is read as before, and no concern."""
    five_days(tmp_path)
    subprocess.run([GZIP, tmp_path / DAYS[day]], check=True)
    assert concerns(tmp_path) == {}
    assert status(tmp_path) is ChainStatus.OK


def test_compressed_days_are_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all is well, a look reads no records to find out whether damage was sealed, however many days there are."""
    five_days(tmp_path)
    subprocess.run([GZIP, *(tmp_path / day for day in DAYS[:4])], check=True)
    monkeypatch.setattr(care, "last_seal", None)
    assert concerns(tmp_path) == {}


def test_a_packed_copy_beside_its_file_is_none_of_our_business(tmp_path: Path) -> None:
    """Copies of files that are there, and files with other names, are no concern."""
    five_days(tmp_path)
    for name in (
        f"{DAYS[1]}.gz",
        "notes.jsonl.gz",
        "audit_2026-01-02.jsonl.torn-12-0123456789abcdef",
        "audit_.jsonl.1",
    ):
        (tmp_path / name).write_bytes(b"x")
    assert concerns(tmp_path) == {}


@pytest.mark.parametrize("suffix", [".1", "-20260109", ".1.gz", ".1.xz"])
@pytest.mark.parametrize("writes", [True, False], ids=["begun anew", "emptied"])
def test_a_file_that_is_begun_anew_beside_its_records(tmp_path: Path, suffix: str, *, writes: bool) -> None:
    """A day's file whose records were rotated away, and that is there again, is named with what has them."""
    write(tmp_path, NOON)
    path = tmp_path / DAYS[4]
    records = path.read_bytes()
    rotated = path.with_name(f"{path.name}{suffix}")
    rotated.write_bytes(gzip.compress(records) if suffix.endswith("gz") else records)
    assert concerns(tmp_path) == {}
    path.write_bytes(b"")
    if writes:
        write(tmp_path, NOON, body=BODY.replace(b'"m"', b'"n"'))
    is_seen = not (writes and suffix.endswith("xz"))
    found = concerns(tmp_path)
    assert found.keys() == ({"files"} if is_seen else set())
    assert all(f"its former records are in {rotated.name}" in words for words in found.values())
    path.write_bytes(records + path.read_bytes())
    assert concerns(tmp_path) == {}


def test_a_copy_that_cannot_be_read_is_no_concern(tmp_path: Path) -> None:
    """A directory or a pipe beside a day's file, named as its copy, holds up no look, and says nothing."""
    write(tmp_path, NOON)
    (tmp_path / f"{DAYS[4]}.1").mkdir()
    os.mkfifo(tmp_path / f"{DAYS[4]}.2")
    assert concerns(tmp_path) == {}


def test_a_file_that_is_made_meanwhile_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day's file that is begun between two steps of a look is not taken for a copy of one that is gone."""
    five_days(tmp_path)
    monkeypatch.setattr("fapilog.storage._files.care.names", lambda _: DAYS[:4])
    assert concerns(tmp_path) == {}


def cut(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))


def empty(path: Path) -> None:
    shutil.copy(path, path.with_name("saved"))  # as logrotate's copytruncate does
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [Path.unlink, cut, empty])
@pytest.mark.parametrize("day", [0, 1, 3])
def test_a_file_that_is_gone_or_cut(tmp_path: Path, harm: Callable[[Path], object], day: int) -> None:
    """Records that are missing in front of a later file are told by that file, also by a process that is new."""
    five_days(tmp_path)
    harm(tmp_path / DAYS[day])
    found = concerns(tmp_path)
    assert found.keys() == {"files"}
    assert f"{DAYS[day + 1]} goes on behind record {3 * (day + 1)}" in found["files"]
    assert status(tmp_path) is ChainStatus.GAP


@pytest.mark.parametrize("step", ["names", "reading"])
def test_a_day_that_retention_removes_meanwhile_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A look during which the first day is removed, before or after it is listed, finds nothing wrong."""
    five_days(tmp_path)
    head = chain.follow(chain.EMPTY, (tmp_path / DAYS[0]).read_bytes().splitlines())
    assert head.checksum is not None
    removal = Anchor(sequence_number=3, checksum=head.checksum, file=DAYS[0], record=16)
    former = getattr(care, step)

    def meanwhile(*args: Any) -> Any:
        monkeypatch.undo()
        found = former(*args) if step == "names" else None
        write_anchor(tmp_path, removal)
        if step == "reading":
            (tmp_path / DAYS[0]).unlink()
        return found or former(*args)

    monkeypatch.setattr(care, step, meanwhile)
    assert concerns(tmp_path) == {}


def test_a_running_process_sees_a_file_go_and_come(tmp_path: Path) -> None:
    """The same storage sees that a file was removed, and that it is back, without reading the rest again."""
    five_days(tmp_path)
    storage = FileStorage(tmp_path, now=lambda: NOON, min_free=0)
    assert without_loop(storage.concerns()) == {}
    (tmp_path / DAYS[2]).rename(tmp_path / "elsewhere")
    assert without_loop(storage.concerns()).keys() == {"files"}
    (tmp_path / "elsewhere").rename(tmp_path / DAYS[2])
    assert without_loop(storage.concerns()) == {}


def test_a_directory_that_is_gone_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    """A directory that was there and can't be read any more raises, so that no incident ends by that."""
    directory = tmp_path / "audit"
    five_days(directory)
    storage = FileStorage(directory, now=lambda: NOON)
    without_loop(storage.concerns())
    directory.rename(tmp_path / "elsewhere")
    with pytest.raises(AuditStorageError, match=r"cannot look after .*: No such file"):
        without_loop(storage.concerns())


@pytest.mark.parametrize("harm", [Path.unlink, cut])
def test_what_was_sealed_is_no_concern(tmp_path: Path, harm: Callable[[Path], object]) -> None:
    """Records that are missing, and of which an operator has recorded why, are no concern any more."""
    five_days(tmp_path)
    harm(tmp_path / DAYS[1])
    (tmp_path / f"{DAYS[1]}.1.gz").write_bytes(b"spoiled")
    assert concerns(tmp_path).keys() == {"files"}
    recover(tmp_path, "the backup of that day is spoiled")
    assert concerns(tmp_path) == {}


def test_an_incomplete_record_that_stays_is_no_concern(tmp_path: Path) -> None:
    """Where a torn record can't be taken out of its file, the trail goes on in the next file, and none is missing."""
    write(tmp_path, NOON - timedelta(days=1))
    path = tmp_path / DAYS[3]
    with path.open("ab") as file:
        file.write(BODY[:40])
    with append_only(path):
        write(tmp_path, NOON)
        assert path.read_bytes().endswith(BODY[:40])
        assert concerns(tmp_path) == {}


def test_long_and_unreadable_first_records(tmp_path: Path) -> None:
    """A first record that is longer than most is read whole, and one that is damaged is left to a verification."""
    long = chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m" * 50_000))
    for day in range(3):
        files = TrailFiles(tmp_path, durable=False, now=lambda day=day: NOON + timedelta(days=day - 2))  # type: ignore[misc]
        files.append([long])
        files.close()
    assert concerns(tmp_path) == {}
    path = tmp_path / DAYS[4]
    path.write_bytes(path.read_bytes().replace(b"}\n", b"\n"))
    assert concerns(tmp_path) == {}


def test_a_file_of_2099(tmp_path: Path) -> None:
    """A file of a day to come is a concern that says to what it may be renamed, and doing so ends it."""
    five_days(tmp_path)
    far = datetime(2099, 1, 1, tzinfo=UTC)
    write(tmp_path, far)
    # The clock is right again, and all records go to that file.
    write(tmp_path, NOON)
    found = concerns(tmp_path)
    assert found.keys() == {"clock"}
    assert "audit_2099-01-01.jsonl is of a day to come, for it is 2026-01-05" in found["clock"]
    assert found["clock"].endswith("rename that file to audit_2026-01-06.jsonl")
    (tmp_path / "audit_2099-01-01.jsonl").rename(tmp_path / "audit_2026-01-06.jsonl")
    assert concerns(tmp_path) == {}
    write(tmp_path, NOON)
    assert status(tmp_path) is ChainStatus.OK
    assert len(list(tmp_path.glob("*.jsonl"))) == 6


def test_several_files_of_days_to_come(tmp_path: Path) -> None:
    """Where a clock was wrong for days, the files keep their order under the names that are advised."""
    write(tmp_path, datetime(2099, 1, 1, tzinfo=UTC), datetime(2099, 1, 2, tzinfo=UTC))
    words = concerns(tmp_path)["clock"]
    assert words.endswith("rename these files, in their order, from audit_2026-01-05.jsonl on")
    assert "audit_2099-01-01.jsonl (and 1 more like it)" in words


def test_tomorrow_is_not_far(tmp_path: Path) -> None:
    """A file of tomorrow, which another machine or a torn record may have begun, is no concern."""
    write(tmp_path, NOON + timedelta(days=1))
    assert concerns(tmp_path) == {}


def test_a_write_in_the_future(tmp_path: Path) -> None:
    """A file that was written hours from now is a concern, and one that was written minutes from now is none."""
    five_days(tmp_path)
    ahead = datetime.now(UTC).timestamp()
    os.utime(tmp_path / DAYS[4], (ahead + 600, ahead + 600))
    assert concerns(tmp_path) == {}
    os.utime(tmp_path / DAYS[4], (ahead + 86_400, ahead + 86_400))
    assert "audit_2026-01-05.jsonl was written 8" in concerns(tmp_path)["clock"]


@pytest.fixture
def without_its_beginning(tmp_path: Path) -> Path:
    five_days(tmp_path)
    (tmp_path / DAYS[0]).unlink()
    return tmp_path


async def test_a_look_does_not_block(without_its_beginning: Path) -> None:
    """In an event loop the directory is looked at in a thread."""
    assert (await FileStorage(without_its_beginning, now=lambda: NOON).concerns()).keys() == {"files"}


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """No file is made, written to or removed by a look."""
    five_days(tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    concerns(tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
