"""The files of a trail, one writer after the other and many at once."""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fapilog import AuditEvent, AuditEventType, AuditStorageError, ChainStatus, DamagedRecord, FileStorage
from fapilog.record import chain
from fapilog.record.chain import MAX_RECORD_BYTES
from fapilog.storage._files import descriptors as _descriptors
from fapilog.storage._files import directory as _directory
from fapilog.storage._files import end as _end
from fapilog.storage._files import lines, recent, unsynced
from fapilog.storage._files import locking as _locking
from fapilog.storage._files import names as _names
from fapilog.storage._files import reader as _reader
from fapilog.storage._files import torn as _torn
from fapilog.storage._files import writer as _writer
from fapilog.storage._files.times import INDEX
from fapilog.storage.protocol import EventFilter
from tests.doubles.interrupting import traced
from tests.doubles.trail_files import TrailFiles, whole

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def body(message: str = "m", **fields: Any) -> bytes:
    """Return the unsealed record of an event."""
    return chain.body(AuditEvent(**{"event_type": AuditEventType.DATA_ACCESS, "message": message, **fields}))


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that shows noon."""
    return Clock()


@pytest.fixture
def trail(tmp_path: Path, clock: Clock) -> Iterator[TrailFiles]:
    """Return the files of an empty trail."""
    made = TrailFiles(tmp_path / "audit", durable=True, now=clock)
    yield made
    made.close()


def contents(trail: TrailFiles) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(trail.directory.iterdir()) if path.name != INDEX}


def test_the_newest_file_is_written_to_whatever_the_clock_does(trail: TrailFiles, clock: Clock) -> None:
    """A new day begins a new file; a clock that goes back does not go back to an older one; the chain is one."""
    for days in (0, 1, -1, 0, 2):
        clock.now = NOON + timedelta(days=days)
        trail.append([body()])
    assert {name: data.count(b"\n") for name, data in contents(trail).items()} == {
        "audit_2026-01-31.jsonl": 1,
        "audit_2026-02-01.jsonl": 3,
        "audit_2026-02-02.jsonl": 1,
    }
    assert (trail.verify().valid, trail.verify().events_checked) == (True, 5)


def test_a_writer_whose_clock_is_behind_follows_the_other(trail: TrailFiles, tmp_path: Path, clock: Clock) -> None:
    """Two writers with different clocks make one chain, in the newer one's file."""
    behind, ahead = trail, TrailFiles(tmp_path / "audit", durable=True, now=lambda: NOON + timedelta(days=1))
    for writer in (behind, ahead, behind, behind, ahead):
        writer.append([body()])
    assert [data.count(b"\n") for data in contents(trail).values()] == [1, 4]
    assert trail.verify().events_checked == 5
    ahead.close()


def test_modes(trail: TrailFiles) -> None:
    """The directory is for its owner alone, and so is each file, those that were set aside too."""
    trail.append([body()])
    with (trail.directory / "audit_2026-01-31.jsonl").open("ab") as file:
        file.write(b"torn")
    trail.append([body()])
    assert stat.S_IMODE(trail.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in trail.directory.iterdir()} == {0o600}
    assert len(contents(trail)) == 2


def test_an_empty_directory_is_a_valid_trail(trail: TrailFiles) -> None:
    """A trail with nothing in it, or that is not there yet, is valid and has no events."""
    assert trail.verify().valid
    assert list(trail.newest_first()) == trail.read(0, 10) == []
    trail.directory.mkdir()
    assert list(trail.newest_first()) == trail.read(0, 10) == []
    assert (trail.verify().valid, trail.verify().events_checked) == (True, 0)
    (trail.directory / "notes.txt").write_text("not ours")
    trail.append([body()])
    assert trail.verify().events_checked == 1


def test_what_is_torn_is_set_aside_and_told(trail: TrailFiles, caplog: pytest.LogCaptureFixture) -> None:
    """What a crash left is kept in its own file, the chain goes on, and the verdict is valid and says so."""
    trail.append([body()])
    path = trail.directory / "audit_2026-01-31.jsonl"
    with path.open("ab") as file:
        file.write(b'{"v":2,"event')
    before = trail.verify()
    assert (before.valid, before.status, before.events_checked) == (True, ChainStatus.TORN_TAIL, 1)
    assert before.error_message == "audit_2026-01-31.jsonl ends with 13 bytes of an incomplete record"
    trail.append([body()])
    after = trail.verify()
    assert (after.valid, after.status, after.events_checked) == (True, ChainStatus.TORN_TAIL, 2)
    (aside,) = after.set_aside
    assert after.error_message == f"incomplete records were set aside in {aside}"
    assert (trail.directory / aside).read_bytes() == b'{"v":2,"event'
    assert "an incomplete record of 13 bytes in audit_2026-01-31.jsonl was set aside" in caplog.text


def test_damage_is_named_and_nothing_is_appended(trail: TrailFiles) -> None:
    """A writer that finds damage says in which file and line, and leaves everything as it is."""
    trail.append([body() for _ in range(5)])
    trail.close()
    path = trail.directory / "audit_2026-01-31.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"sequence_number":3,', b'"sequence_number":8,'))
    before = contents(trail)
    for _ in range(2):
        with pytest.raises(
            AuditStorageError, match=r"audit_2026-01-31.jsonl, line 3: record 3 was altered.*nothing is"
        ):
            trail.append([body()])
    assert contents(trail) == before


@pytest.mark.parametrize("number", [1, 2, 5, 9, 10])
def test_the_line_of_damage_is_counted_over_all_blocks(
    trail: TrailFiles, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The line that a verdict names is the right one, wherever in the blocks of a file it is."""
    trail.append([body() for _ in range(10)])
    trail.close()
    path = trail.directory / "audit_2026-01-31.jsonl"
    size = len(path.read_bytes()) // 10
    path.write_bytes(path.read_bytes().replace(b'"sequence_number":%d,' % number, b'"sequence_number":99,'))
    for block in (size // 2, size, 3 * size + 1):
        monkeypatch.setattr(lines, "_BLOCK_BYTES", block)
        assert str(trail.verify().error_message).startswith(f"{path.name}, line {number}: record {number} was altered")


def test_only_the_end_of_a_large_trail_is_checked_on_opening(
    trail: TrailFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start reads a bounded part of the trail, beginning at a whole record of whichever file that is in."""
    for days in range(4):
        clock.now = NOON + timedelta(days=days)
        trail.append([body() for _ in range(10)])
    trail.close()
    size = len(contents(trail)["audit_2026-01-31.jsonl"]) // 10
    path = trail.directory / "audit_2026-01-31.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"sequence_number":3,', b'"sequence_number":8,'))
    for limit in (2 * size, 5 * size, 10 * size, 25 * size):
        monkeypatch.setattr(_end, "CHECKED_BYTES", limit)
        trail.append([body()])
        trail.close()
    monkeypatch.setattr(_end, "CHECKED_BYTES", 100 * size)
    with pytest.raises(AuditStorageError, match="line 3: record 3 was altered"):
        trail.append([body()])
    verdict = trail.verify()
    assert (verdict.status, verdict.first_invalid_sequence) == (ChainStatus.ALTERED, 3)


def test_only_the_newest_files_are_checked_on_opening(
    trail: TrailFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start opens a bounded number of files, wherever in them the records and the incomplete ones are."""
    for days in range(12):
        clock.now = NOON + timedelta(days=days)
        trail.append([body(), body()])
    trail.close()
    path = trail.directory / "audit_2026-02-03.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"sequence_number":8,', b'"sequence_number":9,'))
    for count in range(1, 12):
        monkeypatch.setattr(_end, "_CHECKED_FILES", count)
        if count < 9:
            assert trail.append([body()])[0].sequence_number == 24 + count
        else:
            with pytest.raises(AuditStorageError, match="line 2: record 8 was altered"):
                trail.append([body()])
        trail.close()
    # Files without records, as after crashes right behind midnight, and a file that is torn.
    monkeypatch.setattr(_end, "_CHECKED_FILES", 3)
    with (trail.directory / "audit_2026-02-11.jsonl").open("ab") as file:
        file.write(b"torn")
    for day in range(12, 17):
        (trail.directory / f"audit_2026-02-{day}.jsonl").touch()
    monkeypatch.setattr(_end, "CHECKED_BYTES", 2000)
    assert trail.append([body()])[0].sequence_number == 33


def test_a_writer_far_behind_checks_the_end_only(
    trail: TrailFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that has slept while others wrote much does not read all of it before it goes on."""
    other = TrailFiles(tmp_path / "audit", durable=False, now=lambda: NOON)
    trail.append([body()])
    other.append([body() for _ in range(50)])
    monkeypatch.setattr(_end, "CHECKED_BYTES", 5000)
    trail.append([body()])
    assert trail.verify().events_checked == 52
    other.close()


def test_writers_that_take_turns_do_not_list_the_files(
    trail: TrailFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many days a trail has, a writer looks for its files only if one was made or removed since."""
    monkeypatch.setattr(_end, "_TICK", 0)
    other = TrailFiles(tmp_path / "audit", durable=False, now=lambda: NOON)
    for writer in (trail, other) * 3:
        writer.append([body()])
    listed: list[Path] = []
    real = _names.names

    def names(directory: Path) -> list[str]:
        listed.append(directory)
        return real(directory)

    monkeypatch.setattr(_end, "names", names)
    for writer in (trail, other) * 10:
        writer.append([body()])
    assert listed == []
    (trail.directory / "audit_2026-02-01.jsonl").touch()
    trail.append([body()])
    other.append([body()])
    assert len(listed) >= 2
    assert [data.count(b"\n") for data in contents(trail).values()] == [26, 2]
    other.close()


def test_a_failed_write_leaves_no_trace(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is raised with its reason, and the next success continues the chain."""
    trail.append([body("one")])
    real = os.write

    def fail(fd: int, data: bytes) -> int:
        real(fd, data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fail)
    for _ in range(3):
        with pytest.raises(AuditStorageError, match=r"cannot append to .*: No space left on device"):
            trail.append([body("lost")])
    monkeypatch.setattr(os, "write", real)
    trail.append([body("two")])
    assert [event.message for event in trail.newest_first()] == ["two", "one"]
    assert trail.verify().status is ChainStatus.OK


def test_short_writes_are_completed(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only a part of the data is continued."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:100]))
    trail.append([body(), body()])
    monkeypatch.undo()
    assert trail.verify().events_checked == 2


def test_a_failed_write_that_cannot_be_undone_is_mended_later(
    trail: TrailFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If what was written of a failed record can't be taken back, it is set aside by the next append."""
    trail.append([body("one")])
    real = os.write

    def fail(fd: int, data: bytes) -> int:
        real(fd, data[:10])
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        patch.setattr(os, "ftruncate", lambda *_: fail(-1, b""))
        with pytest.raises(AuditStorageError):
            trail.append([body("lost")])
    trail.append([body("two")])
    assert [event.message for event in trail.newest_first()] == ["two", "one"]
    assert trail.verify().status is ChainStatus.TORN_TAIL


def test_a_verifier_waits_for_the_writer_before_it_calls_a_record_torn(trail: TrailFiles) -> None:
    """What looks torn while a writer holds the lock is looked at again without writers."""
    trail.append([body(), body()])
    path = trail.directory / "audit_2026-01-31.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    real = fcntl.flock

    def complete(fd: int, how: int) -> None:
        if how & fcntl.LOCK_SH:
            path.write_bytes(whole)
        real(fd, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", complete)
        assert (trail.verify().status, trail.verify().events_checked) == (ChainStatus.OK, 2)


def test_a_verifier_looks_again_before_it_calls_the_newest_file_damaged(trail: TrailFiles) -> None:
    """Records whose sync failed may be taken back under a verifier's eyes, which is no tampering."""
    trail.append([body(), body()])
    path = trail.directory / "audit_2026-01-31.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"sequence_number":2,', b'"sequence_number":7,'))
    real = fcntl.flock

    def restore(fd: int, how: int) -> None:
        if how & fcntl.LOCK_SH:
            path.write_bytes(whole)
        real(fd, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", restore)
        assert (trail.verify().status, trail.verify().events_checked) == (ChainStatus.OK, 2)


def test_an_incomplete_record_in_an_older_file_is_damage(trail: TrailFiles, clock: Clock) -> None:
    """A file that ends in the middle of a record can't be followed by another."""
    trail.append([body(), body()])
    clock.now += timedelta(days=1)
    trail.append([body()])
    trail.close()
    path = trail.directory / "audit_2026-01-31.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    verdict = trail.verify()
    assert (verdict.valid, verdict.status, verdict.first_invalid_sequence) == (False, ChainStatus.UNREADABLE, 2)
    assert verdict.error_message == "audit_2026-01-31.jsonl, line 2: the record is incomplete, and more follow"
    with pytest.raises(AuditStorageError, match="line 2: the record is incomplete, and more follow; nothing is"):
        trail.append([body()])


def test_a_crash_right_after_midnight(trail: TrailFiles, clock: Clock) -> None:
    """A torn record in yesterday's file, with today's still empty, is set aside there."""
    trail.append([body()])
    trail.close()
    with (trail.directory / "audit_2026-01-31.jsonl").open("ab") as file:
        file.write(b"torn")
    (trail.directory / "audit_2026-02-01.jsonl").touch()
    clock.now += timedelta(days=1)
    trail.append([body()])
    assert (trail.verify().valid, trail.verify().events_checked) == (True, 2)
    assert [data.count(b"\n") for name, data in contents(trail).items() if name.endswith("jsonl")] == [1, 1]


def test_a_line_longer_than_a_record_is_damage(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers hold no more than a record at once, and say where there is more."""
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 2000)
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 1000)
    trail.append([body()])
    path = trail.directory / "audit_2026-01-31.jsonl"
    with path.open("ab") as file:
        file.write(b"x" * 5000 + b"\n")
    verdict = trail.verify()
    assert (verdict.status, verdict.first_invalid_sequence) == (ChainStatus.UNREADABLE, 2)
    assert verdict.error_message == "audit_2026-01-31.jsonl, line 2: longer than a record can be"
    first, hole = trail.reader.read(0, 9)
    assert whole(first).sequence_number == 1
    assert isinstance(hole, DamagedRecord)


def test_reading_backwards_across_blocks_and_files(
    trail: TrailFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records come newest first, wherever the blocks end and whatever is incomplete at the end."""
    for number in range(40):
        clock.now = NOON + timedelta(days=number // 15)
        trail.append([body(str(number), metadata={"x": "y" * (37 * number)})])
    with (trail.directory / "audit_2026-02-02.jsonl").open("ab") as file:
        file.write(b"x" * 700)
    for size in (100, 512, 1000, 5000, 1 << 18):
        monkeypatch.setattr(lines, "_BLOCK_BYTES", size)
        assert [int(event.message) for event in trail.newest_first()] == list(reversed(range(40)))


@pytest.mark.parametrize(
    "block", [11, 5000, *(pytest.param(size, marks=pytest.mark.slow) for size in (100, 512, 1 << 18))]
)
@pytest.mark.parametrize("torn", [b"", b"x" * 700, b"\0" * 5000], ids=["whole", "torn", "zeros"])
def test_reading_forwards_from_anywhere(
    trail: TrailFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch, block: int, torn: bytes
) -> None:
    """A page holds the oldest events after a number, wherever files and blocks end and whatever is empty or torn."""
    for number in range(20):
        clock.now = NOON + timedelta(days=2 * (number // 6))
        trail.append([body(metadata={"x": "y" * (number * 997 % 1500)})])
    events = list(trail.newest_first())[::-1]
    for day in ("2026-01-01", "2026-02-01", "2026-03-01"):
        (trail.directory / f"audit_{day}.jsonl").touch()
    with (trail.directory / "audit_2026-02-06.jsonl").open("ab") as file:
        file.write(torn)
    monkeypatch.setattr(lines, "_BLOCK_BYTES", block)
    for limit in (-1, 0, 3, 100) if block > 100 else (3,):
        for after in range(-1, 23):
            assert trail.read(after, limit) == events[max(0, after) :][: max(0, limit)]


def test_a_trail_that_lost_its_oldest_files_is_read_from_where_it_begins(trail: TrailFiles, clock: Clock) -> None:
    """Where somebody took the first events away, a hole says that, and the oldest that are there come behind it."""
    for days in range(3):
        clock.now = NOON + timedelta(days=days)
        trail.append([body() for _ in range(3)])
    (trail.directory / "audit_2026-01-31.jsonl").unlink()
    for found in (trail.reader.read(1, 4), trail.reader.page(EventFilter(before=8), 9).items[::-1]):
        assert str(found[0]).startswith("audit_2026-02-01.jsonl, byte 0: records ")
        assert str(found[0]).endswith(" to 3 are missing in front of this file")
        assert [whole(event).sequence_number for event in found[1:]] == [4, 5, 6, 7]


def test_a_page_takes_no_longer_in_a_long_trail(
    trail: TrailFiles, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a long trail is found without reading what is in front of it or behind it."""
    for days in range(64):
        clock.now = NOON + timedelta(days=days)
        trail.append([body() for _ in range(64)])
    blocks = 0
    real = os.pread

    def count(fd: int, size: int, offset: int) -> bytes:
        nonlocal blocks
        blocks += 1
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", count)
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 1000)
    for after in range(0, 64 * 64, 509):
        blocks = 0
        assert [event.sequence_number for event in trail.read(after, 2)] == [after + 1, after + 2]
        assert blocks < 60


def test_many_blocks_without_a_newline_are_read_once(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long torn tail, as a power cut leaves of a batch, costs what its bytes do, with the lock of the trail held."""
    trail.append([body()])
    [file] = trail.directory.glob("audit_*.jsonl")
    with file.open("ab") as end:
        end.write(bytes(4 << 20))
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 256)
    begun = time.thread_time()
    assert TrailFiles(trail.directory, durable=False).verify().status is ChainStatus.TORN_TAIL
    # Copied once more with each of its 16,384 blocks, it takes more than ten times as long.
    assert time.thread_time() - begun < 3


@pytest.mark.parametrize("size", [MAX_RECORD_BYTES - 1000, 300_000])
def test_long_records_are_read_forwards(trail: TrailFiles, size: int) -> None:
    """Records as long as they can be are found like any others."""
    trail.append([body(f"{number} {'x' * size}") for number in range(5)])
    for after in range(6):
        assert [event.message[:1] for event in trail.read(after, 2)] == ["0", "1", "2", "3", "4"][after : after + 2]


def test_a_directory_in_the_place_of_a_file_cannot_be_read(trail: TrailFiles) -> None:
    """What can't be opened as a file is an error, and no hole."""
    trail.append([body()])
    path = trail.directory / "audit_2026-01-31.jsonl"
    path.unlink()
    path.mkdir()
    for read in (trail.reader.read, trail.reader.read_lines):
        with pytest.raises(AuditStorageError, match=r"cannot read .*: expected a regular file, found a directory"):
            read(1, 10)


def test_what_may_be_taken_back_is_not_read(trail: TrailFiles) -> None:
    """A record that was written and not yet synced is waited for, and is not there if its sync fails."""
    trail.append([body(), body()])
    path = trail.directory / "audit_2026-01-31.jsonl"
    synced = path.stat().st_size
    trail.append([body()])
    trail.close()
    real = fcntl.flock

    def take_back(fd: int, how: int) -> None:
        if how & fcntl.LOCK_SH:
            os.truncate(path, synced)
        real(fd, how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", take_back)
        assert [event.sequence_number for event in trail.read(0, 10)] == [1, 2]


def test_what_is_read_is_on_the_disk(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed writer has written and not synced is synced by the reader, or not returned."""
    trail.append([body()])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_reader, "sync", fail)
    with pytest.raises(AuditStorageError, match=r"cannot read .*: Input/output error"):
        trail.read(0, 10)
    assert len(TrailFiles(trail.directory, durable=False).read(0, 10)) == 1


WRITING = {module.__file__ for module in (_writer, _end, _descriptors, _directory, _locking, recent, _torn, unsynced)}


class Interrupter:
    """Raises `KeyboardInterrupt` at a line of the writer's modules, below the methods that take the mutex."""

    def __init__(self, after: int) -> None:
        self._left = after
        self.done = False

    def __call__(self, frame: FrameType, event: str, _: object) -> "Interrupter | None":
        """Trace *frame*, as `sys.settrace` asks for it."""
        code = frame.f_code
        if code.co_filename not in WRITING or code.co_name in {"append", "append_at_once", "__del__"}:
            return None
        if event == "line":
            self._left -= 1
            if self._left < 0 and not self.done:
                self.done = True
                raise KeyboardInterrupt
        return self


@pytest.mark.parametrize(
    "days", [None, pytest.param(0, marks=pytest.mark.slow), 1], ids=["first", "same day", "at midnight"]
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "group"])
def test_an_interrupt_at_any_line_leaves_one_chain(
    tmp_path: Path, clock: Clock, *, at_once: bool, days: int | None
) -> None:
    """Wherever `KeyboardInterrupt` ends an append, the next one continues the chain."""
    for line in itertools.count():
        clock.now = NOON
        trail = TrailFiles(tmp_path / str(line), durable=False, now=clock)
        if days is not None:
            trail.append([body()])
            clock.now += timedelta(days=days)
        interrupter = Interrupter(line)
        with traced(interrupter), contextlib.suppress(KeyboardInterrupt):
            trail.append_at_once(body()) if at_once else trail.append([body()])
        trail.append([body()])
        assert trail.verify().status is ChainStatus.OK
        trail.close()
        if not interrupter.done:
            break
    assert line > (20 if days == 0 or not at_once else 5 if days else 2)


async def test_the_storage_is_read_page_by_page(tmp_path: Path) -> None:
    """A storage that is not there yet has nothing to read, and then each page begins where the last one ended."""
    storage = FileStorage(tmp_path / "audit")
    assert await storage.read(0, 10) == []
    for _ in range(5):
        await storage.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"))
    assert [whole(event).sequence_number for event in await storage.read(0, 3)] == [1, 2, 3]
    assert [whole(event).sequence_number for event in await storage.read(3, 3)] == [4, 5]
    assert await storage.read(5, 3) == []
    await storage.aclose()


async def test_a_record_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """An event longer than a record can be is an error that says how long it may be, and nothing is stored."""
    storage = FileStorage(tmp_path / "audit")
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="x" * MAX_RECORD_BYTES)
    with pytest.raises(AuditStorageError, match="at most 1048576 bytes can be stored; this has 1048"):
        await storage.append(event)
    assert not (tmp_path / "audit").exists()


async def test_the_storage_says_where_it_is(tmp_path: Path) -> None:
    """The repr of a storage names its directory; one may be given as text."""
    assert repr(FileStorage(str(tmp_path))) == f"<FileStorage {str(tmp_path)!r}>"


def test_a_set_aside_file_is_logged_on_the_documented_logger() -> None:
    """What the storage has to say goes to the logger "fapilog"."""
    assert _torn._log._logger is logging.getLogger("fapilog")


class OneTrail(RuleBasedStateMachine):
    """Several writers, restarts, crashes and clocks against a list of what was stored."""

    @initialize(durable=st.booleans())
    def begin(self, *, durable: bool) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.durable = durable
        self.writers = [self.writer(), self.writer()]
        self.stored: list[str] = []
        self.torn = False

    def writer(self) -> TrailFiles:
        return TrailFiles(Path(self.directory.name) / "audit", durable=self.durable, now=self.clock)

    @rule(which=st.integers(0, 1), count=st.integers(1, 3))
    def append(self, which: int, count: int) -> None:
        messages = [f"{len(self.stored) + number}" for number in range(count)]
        self.writers[which].append([body(message) for message in messages])
        self.stored += messages

    @rule(which=st.integers(0, 1))
    def append_at_once(self, which: int) -> None:
        if self.writers[which].append_at_once(body(str(len(self.stored)))) is not None:
            self.stored.append(str(len(self.stored)))

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.writers[which].close()
        self.writers[which] = self.writer()

    @rule(hours=st.integers(-30, 60))
    def clock_moves(self, hours: int) -> None:
        self.clock.now += timedelta(hours=hours)

    @rule(part=st.floats(0, 1, exclude_max=True), zeros=st.integers(0, 5))
    def crash_while_writing(self, part: float, zeros: int) -> None:
        writer = self.writers[0]
        end = writer.writer._end
        if end is None or not end.name:
            return
        newest = max(path for path in writer.directory.iterdir() if path.suffix == ".jsonl")
        record = body("torn")
        fragment = record[: int(part * len(record))] + b"\0" * zeros
        with newest.open("ab") as file:
            file.write(fragment)
        self.torn = self.torn or bool(fragment)

    @rule()
    def crash_before_the_newline(self) -> None:
        names = sorted((Path(self.directory.name) / "audit").glob("audit_*.jsonl"))
        if names and names[-1].stat().st_size and names[-1].read_bytes().endswith(b"\n"):
            with names[-1].open("r+b") as file:
                file.truncate(names[-1].stat().st_size - 1)
            for which in (0, 1):  # a crash takes all with it
                self.restart(which)

    @invariant()
    def nothing_is_lost_and_nothing_looks_like_tampering(self) -> None:
        if not hasattr(self, "writers"):
            return
        verdict = self.writers[1].verify()
        assert verdict.valid, verdict
        read = [event.message for event in self.writers[1].newest_first()][::-1]
        assert [event.message for event in self.writers[1].read(0, 1000)] == read
        # The last record may lack its newline until the next writer adds it.
        assert read in (self.stored, self.stored[:-1])
        if verdict.status is ChainStatus.OK:
            assert verdict.events_checked == len(self.stored)

    def teardown(self) -> None:
        if hasattr(self, "writers"):
            for writer in self.writers:
                writer.append([body("last")])
            assert self.writers[0].verify().events_checked == len(self.stored) + 2
            for writer in self.writers:
                writer.close()
            self.directory.cleanup()


TestOneTrail = OneTrail.TestCase
TestOneTrail.settings = settings(max_examples=min(60, settings().max_examples), stateful_step_count=25)
