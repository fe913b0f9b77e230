"""A question for times: exact whatever the clocks did, and asked again it reads next to nothing."""

import os
import random
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import AuditEvent, AuditEventType, DamagedRecord
from fapilog.record import chain
from fapilog.record.chain import ChainHead
from fapilog.storage._anchor import Anchor
from fapilog.storage._archive.day import compress_day, remove_days, tidy
from fapilog.storage._files import lines as _lines
from fapilog.storage._files import times as _times
from fapilog.storage._files.reader import TrailReader
from fapilog.storage._files.times import INDEX
from fapilog.storage._files.writer import TrailWriter
from fapilog.storage.protocol import EventFilter

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
NAME = "audit_2026-03-01.jsonl"


def records(seconds: list[float], *, head: ChainHead = chain.EMPTY) -> list[bytes]:
    """Return a record for each of *seconds*, which its clock showed after the beginning, in a chain behind *head*."""
    lines: list[bytes] = []
    number, checksum = head
    for each in seconds:
        event = AuditEvent(
            event_type=AuditEventType.DATA_ACCESS,
            timestamp=BEGAN + timedelta(seconds=each),
            message="m",
            metadata={"a": "x", "timestamp": "2099-01-01T00:00:00"},
        )
        line, (number, _, checksum) = chain.seal(chain.body(event), number + 1, checksum)
        lines.append(line)
    return lines


def found(
    reader: TrailReader, since: float | None, until: float | None, message: str | None = None
) -> list[int | None]:
    wanted = EventFilter(
        start_time=None if since is None else BEGAN + timedelta(seconds=since),
        end_time=None if until is None else BEGAN + timedelta(seconds=until),
        message=message,
    )
    events = reader.page(wanted, 1000).items
    return [event.sequence_number for event in events if not isinstance(event, DamagedRecord)]


# Mostly in order, and anything in between.
moments = st.lists(
    st.one_of(
        st.none(), st.integers(-(10**9), 2 * 10**9), st.integers(-100_000, 100_000).map(lambda each: each / 1000)
    ),
    min_size=1,
    max_size=30,
).map(lambda each: [float(number if moment is None else moment) for number, moment in enumerate(each)])
limits = st.one_of(st.none(), st.integers(-5, 35), st.integers(-(10**9), 2 * 10**9))


@pytest.mark.slow
@given(moments, moments, st.lists(st.tuples(limits, limits), min_size=1, max_size=5), st.sampled_from([700, 2000]))
def test_every_record_is_found_by_the_time_that_it_has(
    first: list[float], later: list[float], asked: list[tuple[float | None, float | None]], block: int
) -> None:
    """Whatever the clocks did, and whatever was asked before, the answer is that of a look at each record."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines, "_BLOCK_BYTES", block)
        lines = records(first + later)
        reader = TrailReader(Path(name), durable=False)
        for stored in (first, first + later):
            (Path(name) / NAME).write_bytes(b"".join(lines[: len(stored)]))
            for since, until in asked:
                expected = [
                    number
                    for number, moment in enumerate(stored, 1)
                    if (since is None or moment >= since) and (until is None or moment <= until)
                ]
                assert found(reader, since, until) == expected[::-1]
                assert found(reader, since, until, message="m") == expected[::-1]


def test_asked_again_it_reads_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the blocks whose times are known, only the ends are looked at; those with a wrong clock are read again."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 5000)
    wild = 10**9
    (tmp_path / NAME).write_bytes(b"".join(records([*range(300), wild, *range(300, 600)])))
    read: list[int] = []
    real = os.pread

    def count(fd: int, size: int, offset: int) -> bytes:
        read.append(size)
        return real(fd, size, offset)

    monkeypatch.setattr(os, "pread", count)
    reader = TrailReader(tmp_path, durable=False)
    assert found(reader, 10_000, None) == [301]
    size = sum(read)
    read.clear()
    assert found(reader, 10_000, None) == [301]
    assert sum(read) < size / 10
    read.clear()
    assert found(reader, 590, None, message="m") == [*range(601, 591, -1), 301]
    assert sum(read) < size / 10


@pytest.mark.parametrize("in_place", [True, False])
def test_another_file_in_its_place_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_place: bool
) -> None:
    """A file that was replaced, by another or in place, is not taken for the one whose times are known."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 1000)
    reader = TrailReader(tmp_path, durable=False)
    path = tmp_path / NAME
    path.write_bytes(b"".join(records([0.0] * 20)))
    assert found(reader, 50, None) == []
    if not in_place:
        path.rename(tmp_path / "elsewhere")
    path.write_bytes(b"".join(records([*[0.0] * 10, 60.0, *[0.0] * 9])))
    assert found(reader, 50, None) == [11]


def test_a_line_without_a_time_may_be_wanted(tmp_path: Path) -> None:
    """A damaged line that says no time, or not all of it, is a hole in the answer to every question for times."""
    lines = records([0.0, 1.0, 2.0])
    for junk in (b"x\n", lines[1][:60] + b"\n", lines[1][:75] + b"\n", b"\n"):
        (tmp_path / NAME).write_bytes(lines[0] + junk + lines[2])
        reader = TrailReader(tmp_path, durable=False)
        for _ in range(2):
            [hole] = reader.page(EventFilter(start_time=BEGAN + timedelta(seconds=9)), 9).items
            assert isinstance(hole, DamagedRecord)
            assert hole.offset == len(lines[0])


DAYS = 3


def written(directory: Path, seconds: list[float], *, days: int = DAYS) -> None:
    """Write a record for each of *seconds* by a writer, in files of *days*, a batch of some records at a time."""
    batches = [seconds[begin : begin + 5] for begin in range(0, len(seconds), 5)]
    day = 0
    writer = TrailWriter(directory, durable=False, now=lambda: BEGAN + timedelta(days=day))
    for number, batch in enumerate(batches):
        day = number * days // len(batches)
        writer.append([chain.unsealed(line[:-1]) for line in records(batch)])
    writer.close()


def numbers_between(seconds: list[float], since: float | None, until: float | None) -> list[int | None]:
    return [
        number
        for number, moment in reversed(list(enumerate(seconds, 1)))
        if (since is None or moment >= since) and (until is None or moment <= until)
    ]


def shuffled(index: bytes, chance: random.Random) -> bytes:
    lines = index.split(b"\n")
    chance.shuffle(lines)
    return b"\n".join(lines)


# What may have come over an index.
SPOILED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "nothing": lambda index, _: index,
    "it is gone": lambda *_: b"",
    "cut": lambda index, chance: index[: chance.randrange(len(index) + 1)],
    "torn": lambda index, chance: index[: chance.randrange(len(index) + 1)] + b"\n" + index,
    "shuffled": shuffled,
    "zeros": lambda index, _: bytes(len(index)),
    "nested": lambda index, _: index.replace(b"]", b"," + b"[" * 5000 + b"]" * 5000 + b"]"),
    "of another file": lambda index, _: index.replace(b"03-01.jsonl", b"03-09.jsonl").replace(b"03-02.j", b"03-01.j"),
}


@pytest.mark.slow
@given(
    moments,
    moments,
    st.lists(st.tuples(limits, limits), min_size=1, max_size=3),
    st.sampled_from([700, 2000]),
    st.tuples(st.sampled_from(sorted(SPOILED)), st.randoms(use_true_random=False)),
)
def test_with_any_index_the_answer_is_the_same(
    first: list[float],
    later: list[float],
    asked: list[tuple[float | None, float | None]],
    block: int,
    spoiling: tuple[str, random.Random],
) -> None:
    """Over several days, whatever the clocks did and whatever came over the index, each record is found by its time."""
    how, chance = spoiling
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines, "_BLOCK_BYTES", block)
        directory = Path(name)
        written(directory, first)
        for since, until in asked:
            assert found(TrailReader(directory, durable=False), since, until) == numbers_between(first, since, until)
        if (directory / INDEX).exists():
            (directory / INDEX).write_bytes(SPOILED[how]((directory / INDEX).read_bytes(), chance))
        # Records that come without a note in the index.
        with pytest.MonkeyPatch.context() as silent:
            silent.setattr(_times.Times, "note", lambda *_args, **_options: None)
            written(directory, later)
        for since, until in [*asked, *asked]:
            expected = numbers_between(first + later, since, until)
            assert found(TrailReader(directory, durable=False), since, until) == expected


def test_a_trail_of_other_records_does_not_take_the_index_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that came with a restored backup, of records that were lost since, hides none of the new ones."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)
    written(tmp_path / "lost", [0.0] * 40)
    written(tmp_path / "new", [*[0.0] * 20, 60.0, *[0.0] * 19])
    (tmp_path / "new" / INDEX).write_bytes((tmp_path / "lost" / INDEX).read_bytes())
    assert found(TrailReader(tmp_path / "new", durable=False), 50, None) == [21]


def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the size of each read of a record."""
    read: list[int] = []
    real = os.pread

    def count(fd: int, size: int, offset: int) -> bytes:
        data = real(fd, size, offset)
        if b'"previous_hash"' in data:
            read.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", count)
    return read


def test_the_first_question_of_a_process_reads_next_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer notes the times as it goes: who asks first reads the last block, which is still being filled."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 5000)
    written(tmp_path, [float(number) for number in range(2000)])
    size = sum(path.stat().st_size for path in tmp_path.glob("*.jsonl"))
    read = bytes_read(monkeypatch)
    assert found(TrailReader(tmp_path, durable=False), 10_000, None) == []
    assert sum(read) < size / 10
    read.clear()
    assert found(TrailReader(tmp_path, durable=False), 1998, None) == [2000, 1999]
    assert sum(read) < size / 10


def test_a_reader_makes_the_index_of_a_trail_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a trail that an earlier version wrote, the first question reads all, and a next process next to nothing."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 5000)
    written(tmp_path, [float(number) for number in range(600)])
    (tmp_path / INDEX).unlink()
    read = bytes_read(monkeypatch)
    assert found(TrailReader(tmp_path, durable=False), 10_000, None) == []
    size = sum(read)
    read.clear()
    assert found(TrailReader(tmp_path, durable=False), 10_000, None) == []
    assert sum(read) < size / 20


@pytest.mark.slow
def test_a_crash_while_the_index_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a crash cuts a write of the index, what was noted before and after it is still known."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)
    written(tmp_path, [float(number) for number in range(20)], days=1)
    found(TrailReader(tmp_path, durable=False), 100, None)
    index = (tmp_path / INDEX).read_bytes()
    for size in range(0, len(index), 7):
        (tmp_path / INDEX).write_bytes(index[:size])
        assert found(TrailReader(tmp_path, durable=False), 18, None) == [20, 19]
        assert found(TrailReader(tmp_path, durable=False), 100, None) == []
        read = bytes_read(monkeypatch)
        assert found(TrailReader(tmp_path, durable=False), 100, None) == []
        assert sum(read) < 2000
        monkeypatch.undo()
        monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had by root alone")
@pytest.mark.parametrize(("owner", "mode"), [(54321, 0o600), (0, 0o666)])
def test_the_index_of_a_stranger_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int
) -> None:
    """An index that belongs to one who could not have removed the records, or that all may write, hides none."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)
    written(tmp_path, [float(number) for number in range(20)])
    (tmp_path / INDEX).write_bytes((tmp_path / INDEX).read_bytes().replace(b'"2026-', b'"2025-'))
    os.chown(tmp_path / INDEX, owner, -1)
    (tmp_path / INDEX).chmod(mode)
    assert found(TrailReader(tmp_path, durable=False), 0, None) == list(range(20, 0, -1))
    # What the owner has learned is not added to it.
    assert b'"2025-' not in (tmp_path / INDEX).read_bytes()
    assert (tmp_path / INDEX).stat().st_uid == 0


def test_a_lie_about_the_times_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with the records, an index that denies one of them its time is thrown away, and that is said."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)
    written(tmp_path, [float(number) for number in range(20)])
    compress_day(tmp_path, NAME)
    assert found(TrailReader(tmp_path, durable=False), 0, 9) == list(range(10, 0, -1))
    assert _times.Times(tmp_path).check() is None
    lie = (tmp_path / INDEX).read_bytes().replace(b'"2026-03-01T', b'"2026-02-01T')
    (tmp_path / INDEX).write_bytes(lie)
    words = _times.Times(tmp_path).check()
    assert words is not None
    assert "denies times that records have" in words
    assert not (tmp_path / INDEX).exists()
    assert found(TrailReader(tmp_path, durable=False), 0, None) == list(range(20, 0, -1))


def test_a_damaged_compressed_day_is_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a day that was compressed since the index was written, and can't be decompressed, nothing can be a lie."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)
    written(tmp_path, [float(number) for number in range(20)])
    assert found(TrailReader(tmp_path, durable=False), 100, None) == []
    compress_day(tmp_path, NAME)
    packed = tmp_path / f"{NAME}.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    assert _times.Times(tmp_path).check() is None


@pytest.mark.parametrize("made", ["a directory", "a link", "a pipe", "nothing that can be made"])
def test_where_no_index_can_be_had_all_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str
) -> None:
    """What can't be read or made as the index is left alone, and the next questions of the process are quick."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 5000)
    path = tmp_path / "trail" / INDEX
    path.parent.mkdir()
    if made == "a directory":
        path.mkdir()
    elif made == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    elif made == "a pipe":
        os.mkfifo(path)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
    written(path.parent, [float(number) for number in range(600)])
    reader = TrailReader(path.parent, durable=False)
    read = bytes_read(monkeypatch)
    assert found(reader, 10_000, None) == []
    size = sum(read)
    read.clear()
    assert found(reader, 10_000, None) == []
    assert sum(read) < size / 20
    assert not (tmp_path / "elsewhere").exists()


def test_a_compressed_day_is_not_decompressed_for_other_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a compressed day, the times are known after the first question; nothing of it is known that is gone."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)
    written(tmp_path, [float(number) for number in range(60)])
    compress_day(tmp_path, NAME)
    tidy(tmp_path)
    assert NAME.encode() not in (tmp_path / INDEX).read_bytes()
    assert found(TrailReader(tmp_path, durable=False), 59, None) == [60]
    assert f"{NAME}.gz".encode() in (tmp_path / INDEX).read_bytes()
    reader = TrailReader(tmp_path, durable=False)
    with monkeypatch.context() as patch:
        patch.setattr("fapilog.storage._files.compressed.decompressed", None)
        assert found(reader, 59, None) == [60]
    assert found(reader, None, 3) == [4, 3, 2, 1]
    assert found(TrailReader(tmp_path, durable=False), 18, 22) == [23, 22, 21, 20, 19]


def test_with_its_day_the_index_forgets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What retention removes is gone from the index too, and the mode of that stays."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)
    written(tmp_path, [float(number) for number in range(60)])
    (tmp_path / INDEX).chmod(0o640)
    line = (tmp_path / NAME).read_bytes().splitlines()[-1]
    checksum = chain.follow(chain.head_before(line), [line]).checksum
    assert checksum is not None
    remove_days(tmp_path, Anchor(sequence_number=20, checksum=checksum, file=NAME, record=60))
    assert NAME.encode() not in (tmp_path / INDEX).read_bytes()
    assert b"audit_2026-03-02.jsonl" in (tmp_path / INDEX).read_bytes()
    assert (tmp_path / INDEX).stat().st_mode & 0o777 == 0o640
    assert found(TrailReader(tmp_path, durable=False), 0, 30) == list(range(31, 20, -1))


def test_an_index_of_no_end_is_not_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index has a limit, beyond which the times of more parts are read again."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 700)
    monkeypatch.setattr(_times, "_MOST_BYTES", 1000)
    monkeypatch.setattr(_times, "_MOST_PARTS", 6)
    written(tmp_path, [float(number) for number in range(60)])
    assert (tmp_path / INDEX).stat().st_size <= 1000
    for _ in range(2):
        assert found(TrailReader(tmp_path, durable=False), 18, 22) == [23, 22, 21, 20, 19]
