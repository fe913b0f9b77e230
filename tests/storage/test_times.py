"""A question for times: exact whatever the clocks did, and asked again it reads next to nothing."""

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import AuditEvent, AuditEventType, DamagedRecord
from fapilog.record import chain
from fapilog.record.chain import ChainHead
from fapilog.storage import _lines
from fapilog.storage._reader import TrailReader
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
    events = reader.find(wanted, 1000)
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
            [hole] = reader.find(EventFilter(start_time=BEGAN + timedelta(seconds=9)), 9)
            assert isinstance(hole, DamagedRecord)
            assert hole.offset == len(lines[0])
