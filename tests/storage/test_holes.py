"""One bad record hides nothing: whatever became of some bytes, what is around them is read."""

import os
import re
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    DamagedRecord,
    FileStorage,
)
from fapilog.core import _reading
from fapilog.core._reading import Events
from fapilog.record import chain
from fapilog.record.chain import MAX_RECORD_BYTES
from fapilog.storage._files import lines as _lines
from fapilog.storage._holes import head_of_record
from fapilog.storage.protocol import EventFilter, head_of, holds

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
SECRET = "JOHN-Q-PATIENT"


def made(directory: Path, count: int, *, days: int = 1) -> list[bytes]:
    """Write a trail of *count* records to files of *days*, and return its lines."""
    head, lines = chain.EMPTY, list[bytes]()
    for number in range(count):
        event = AuditEvent(
            timestamp=BEGAN + timedelta(seconds=number),
            event_type=AuditEventType.DATA_ACCESS,
            message=SECRET,
            user_id=f"u{number % 3}",
        )
        line, seal = chain.seal(chain.body(event), *_next(head))
        head = ChainHead(seal.sequence_number, seal.checksum)
        lines.append(line)
    store(directory, lines, days=days)
    return lines


def _next(head: ChainHead) -> tuple[int, str | None]:
    return head.sequence_number + 1, head.checksum


def store(directory: Path, lines: Sequence[bytes], *, days: int = 1) -> None:
    directory.mkdir(exist_ok=True)
    size = -(-len(lines) // days)
    for day in range(days):
        name = f"audit_2026-03-{day + 1:02}.jsonl"
        (directory / name).write_bytes(b"".join(lines[day * size : (day + 1) * size]))


def numbers(items: Sequence[AuditEvent | DamagedRecord]) -> list[int | None]:
    """Return the numbers of events, with None for each hole."""
    return [item.sequence_number if isinstance(item, AuditEvent) else None for item in items]


@pytest.fixture(params=[300, 1 << 18])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", request.param)


junk = pytest.mark.parametrize(
    "junk",
    [
        b"{}\n",
        b"\xff\n",
        b"\n",
        b"x" * 5000 + b"\n",
        b"\0" * 700 + b"\n",
        b"a\nb\n\nc\n",
        b"x" * (MAX_RECORD_BYTES + 600) + b"\n",
        b'{"v":1,"event_id":"a","event_type":"JOHN-Q-PATIENT","message":"m"}\n',
        b'{"v":7,"event_type":"data_access","message":"m"}\n',
        b'{"v":1,"event_type":"data_access","message":"m"}\n',
        b'{"v":1,"event_id":"a","event_type":"data_access","message":"' + b"m" * 600,
    ],
    ids=range(11),
)


@pytest.mark.slow
@pytest.mark.one_backend
@junk
@pytest.mark.usefixtures("block")
async def test_reading_goes_on_behind_a_hole(tmp_path: Path, junk: bytes) -> None:
    """Whatever stands in the place of a record, it is one hole, and all others are read, from wherever one begins."""
    lines = made(tmp_path, 9, days=3)
    store(tmp_path, [*lines[:4], junk, *lines[5:]], days=3)
    # Bytes that no newline ends take the next record with them.
    whole = [1, 2, 3, 4, None, *([7] if not junk.endswith(b"\n") else [6, 7]), 8, 9]
    trail = AuditTrail(storage_path=tmp_path)
    for oldest_first, expected in ((True, whole), (False, whole[::-1])):
        found = [each async for each in trail.events(oldest_first=oldest_first, on_damage="yield")]
        assert numbers(found) == expected
    [hole] = [each for each in found if isinstance(each, DamagedRecord)]
    assert hole.file == "audit_2026-03-02.jsonl"
    assert (hole.offset, hole.lines) == (len(lines[3]), max(1, junk.count(b"\n")))
    assert SECRET not in repr(hole) + str(hole)
    assert numbers(await trail._storage.find(EventFilter(after=4, before=8), 10)) == whole[4:-2][::-1]
    for after in range(10):
        read = await trail._storage.read(after, 100)
        assert [number for number in numbers(read) if number] == [
            number for number in whole if number and number > after
        ]
        assert (None in numbers(read)) == (after < (6 if junk.endswith(b"\n") else 7))


@pytest.mark.one_backend
@pytest.mark.parametrize("page", [1, 2, 3, 100])
@pytest.mark.parametrize("loss", ["gone", "empty", "cut"])
@pytest.mark.usefixtures("block")
async def test_a_file_that_is_missing_is_a_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, loss: str, page: int
) -> None:
    """Records that are missing between two files are a hole, once, however the pages fall, and no warning beside it."""
    monkeypatch.setattr(_reading, "_PAGE", page)
    lines = made(tmp_path, 9, days=3)
    path = tmp_path / "audit_2026-03-02.jsonl"
    path.write_bytes(b"" if loss == "empty" else b"".join(lines[3:5]))
    if loss == "gone":
        path.unlink()
    whole = [1, 2, 3, *([4, 5] if loss == "cut" else []), None, 7, 8, 9]
    trail = AuditTrail(storage_path=tmp_path)
    for oldest_first, expected in ((True, whole), (False, whole[::-1])):
        found = [each async for each in trail.events(oldest_first=oldest_first, on_damage="yield")]
        assert numbers(found) == expected
        [hole] = [each for each in found if isinstance(each, DamagedRecord)]
        words = "record 6 is" if loss == "cut" else "records 4 to 6 are"
        assert str(hole) == f"audit_2026-03-03.jsonl, byte 0: {words} missing in front of this file"
    assert caplog.messages == []
    assert len(await trail.get_events()) == len(whole) - 1


@pytest.mark.one_backend
@junk
async def test_the_newest_or_the_oldest_record_is_a_hole(tmp_path: Path, junk: bytes) -> None:
    """Damage at the ends of a trail is a hole too, once, and the head is told by the newest record that can be read."""
    lines = made(tmp_path, 4)
    end = junk if junk.endswith(b"\n") else junk + b"\n"
    store(tmp_path, [end, *lines, end])
    trail = AuditTrail(storage_path=tmp_path)
    for oldest_first in (True, False):
        found = [each async for each in trail.events(oldest_first=oldest_first, on_damage="yield")]
        assert [number is None for number in numbers(found)] == [True, False, False, False, False, True]
    assert await trail.head() == ChainHead(4, lines[3][-67:-3].decode())


async def test_holes_are_left_out_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is left out silently: one warning says where the first hole is, and nothing of what stands there."""
    lines = made(tmp_path, 9)
    store(tmp_path, [lines[0], b"{}\n", *lines[2:5], SECRET.encode() + b"\n", *lines[6:]])
    trail = AuditTrail(storage_path=tmp_path)
    expected = [1, 3, 4, 5, 7, 8, 9]
    assert numbers(await trail.get_events())[::-1] == expected
    assert numbers([each async for each in trail.events(oldest_first=True)]) == expected
    assert sum((await trail.count_by("user_id")).values()) == len(expected)
    assert len(caplog.messages) == 3
    assert f"audit_2026-03-01.jsonl, byte {len(lines[0])}: this is not a record of the trail" in caplog.messages[1]
    assert SECRET not in caplog.text


async def test_damage_is_raised_to_those_who_want_that(tmp_path: Path) -> None:
    """With "raise", the events up to the page with the hole come, and then an error that names the place."""
    lines = made(tmp_path, 4)
    store(tmp_path, [*lines[:2], b"{}\n", lines[3]])
    trail = AuditTrail(storage_path=tmp_path)
    with pytest.raises(AuditStorageError, match=r"audit_2026-03-01.jsonl, byte \d+: this is not a record"):
        [each async for each in trail.events(on_damage="raise")]
    assert [each.sequence_number async for each in trail.events(on_damage="raise", user_id="u0")] == [4, 1]
    wrong: Any = "skip"
    with pytest.raises(ValueError, match="on_damage: expected"):
        trail.events(on_damage=wrong)


def test_holes_in_synchronous_code(tmp_path: Path) -> None:
    """Code without an event loop has the same three ways."""
    lines = made(tmp_path, 4)
    store(tmp_path, [*lines[:2], b"{}\n", lines[3]])
    trail = AuditTrail(storage_path=tmp_path)
    assert numbers(list(trail.sync.events())) == [4, 2, 1]
    assert numbers(list(trail.sync.events(on_damage="yield", oldest_first=True))) == [1, 2, None, 4]
    with pytest.raises(AuditStorageError, match=r"audit_2026-03-01.jsonl, byte"):
        list(trail.sync.events(on_damage="raise"))


async def test_a_hole_that_cannot_be_wanted_is_none(tmp_path: Path) -> None:
    """A line that has nothing of what is asked for, or another time, is no hole in the answer."""
    lines = made(tmp_path, 6)
    store(tmp_path, [*lines[:3], lines[3].replace(b'"info"', b"info"), *lines[4:]])
    trail = AuditTrail(storage_path=tmp_path)
    for asked, expected in (
        ({"user_id": "u0"}, [None, 1]),
        ({"user_id": "u1"}, [5, 2]),
        ({"start_time": BEGAN + timedelta(seconds=4)}, [6, 5]),
        ({"start_time": BEGAN + timedelta(seconds=3)}, [6, 5, None]),
    ):
        assert numbers([each async for each in trail.events(on_damage="yield", **asked)]) == expected


async def test_a_record_of_a_later_version_tells_the_head(tmp_path: Path) -> None:
    """A record that is whole, and only not understood, is a hole with its number and checksum, and may be the head."""
    lines = made(tmp_path, 3)
    body = lines[2].partition(b',"sequence_number"')[0].replace(b'"timestamp":"', b'"timestamp":"in ')
    later, seal = chain.seal(body, 3, chain.head_before(lines[2][:-1]).checksum)
    store(tmp_path, [*lines[:2], later])
    trail = AuditTrail(storage_path=tmp_path)
    head = ChainHead(3, seal.checksum)
    [hole] = await trail._storage.find(EventFilter(after=2), 1)
    assert isinstance(hole, DamagedRecord)
    assert hole.head == head == await trail.head()
    assert hole.problem == "this record is whole, and of a kind that this version of fapilog can't read"
    assert await holds(trail._storage, head)
    assert not await holds(trail._storage, ChainHead(3, "0" * 64))
    assert await trail._storage.read(3, 10) == []
    assert (await trail.verify_chain_from_storage()).valid


@pytest.mark.one_backend
async def test_many_bad_lines_are_one_hole(tmp_path: Path) -> None:
    """However long the damage is, it takes no memory, and a page ends."""
    lines = made(tmp_path, 4)
    store(tmp_path, [*lines[:2], b"\n" * 5000, *lines[2:]])
    storage = FileStorage(tmp_path)
    for page in (await storage.read(0, 3), await storage.find(EventFilter(), 3)):
        assert None in numbers(page)
        assert len(page) == 4
    assert await head_of(storage) == ChainHead(4, lines[3][-67:-3].decode())


async def test_raw_lines_are_those_that_were_stored(tmp_path: Path) -> None:
    """`read_lines` gives the bytes of the records, page by page, and they follow each other."""
    lines = [line[:-1] for line in made(tmp_path, 9, days=3)]
    storage = FileStorage(tmp_path)
    for after in range(11):
        for limit in (0, 1, 4, 100):
            assert await storage.read_lines(after, limit) == lines[after:][:limit]
    head = chain.follow(chain.EMPTY, await storage.read_lines(0, 5))
    assert chain.follow(head, await storage.read_lines(5, 100)).sequence_number == 9


async def test_raw_lines_of_a_damaged_trail(tmp_path: Path) -> None:
    """What is no record is left out of the raw lines, an altered record is not, and following them shows both."""
    lines = made(tmp_path, 6)
    altered = lines[4].replace(b'"u1"', b'"u2"')
    store(tmp_path, [lines[0], b"{}\n", lines[2], lines[3], altered, lines[5]])
    found = await FileStorage(tmp_path).read_lines(0, 10)
    assert found == [line[:-1] for line in (lines[0], lines[2], lines[3], altered, lines[5])]
    with pytest.raises(chain.ChainError, match="record 5 was altered"):
        chain.follow(ChainHead(2, re.findall(rb'"previous_hash":"(\w+)"', lines[2])[0].decode()), found[1:])


async def test_lines_that_came_by_another_system_are_read(tmp_path: Path) -> None:
    """A file whose lines end as on Windows is read, forwards and backwards, and found by its numbers."""
    lines = made(tmp_path, 9, days=2)
    store(tmp_path, [line.replace(b"\n", b"\r\n") for line in lines], days=2)
    storage = FileStorage(tmp_path)
    assert numbers(await storage.find(EventFilter(after=2, before=9), 100)) == [8, 7, 6, 5, 4, 3]
    assert numbers(await storage.read(3, 3)) == [4, 5, 6]


damages = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=300), st.integers(0, 900)), min_size=1, max_size=3)


@pytest.mark.slow
@given(damages, st.sampled_from([250, 1000, 1 << 18]))
@example([(0.99999, b"", 1)], 250)
def test_any_damage_is_read_around(damages: list[tuple[float, bytes, int]], block: int) -> None:
    """Whatever bytes are replaced by whatever others, every record that is whole is read, in both directions."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines, "_BLOCK_BYTES", block)
        directory = Path(name)
        content = b"".join(made(directory, 12))
        for place, new, size in damages:
            start = int(place * len(content))
            content = content[:start] + new + content[start + size :]
        (directory / "audit_2026-03-01.jsonl").write_bytes(content)
        *ended, rest = content.split(b"\n")
        # A last record that lacks nothing but the end of its line is a record.
        lines = len(ended) + (head_of_record(rest) is not None)
        whole: list[ChainHead] = [head for line in (*ended, rest) if (head := head_of_record(line))]
        storage = FileStorage(directory)

        async def check() -> None:
            for oldest_first in (True, False):
                reading = Events[Any](storage, EventFilter(), oldest_first=oldest_first, on_damage="yield")
                items = [item async for item in reading]
                read = [
                    ChainHead(each.sequence_number or 0, each.checksum)
                    for each in items
                    if isinstance(each, AuditEvent)
                ]
                assert [head for head in read if head in whole] == (whole if oldest_first else whole[::-1])
                holes = [each for each in items if isinstance(each, DamagedRecord)]
                assert len(read) + sum(hole.lines for hole in holes) == lines
            for head in whole:
                later = set(numbers(await storage.read(head.sequence_number, 100)))
                assert later >= {each.sequence_number for each in whole if each.sequence_number > head.sequence_number}
                assert await holds(storage, head)

        anyio.run(check)


@pytest.mark.one_backend
@pytest.mark.parametrize("number", [1, 8, 10**9])
@pytest.mark.parametrize("place", [0, 3, 4, 8, 10, 11])
async def test_a_record_that_claims_another_number_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, number: int
) -> None:
    """Wherever a page ends, each other record is read, and read once, though one was altered to be of another place."""
    monkeypatch.setattr(_reading, "_PAGE", 4)
    lines = made(tmp_path, 12)
    lines[place] = lines[place].replace(b'"sequence_number":%d,' % (place + 1), b'"sequence_number":%d,' % number)
    store(tmp_path, lines)
    for oldest_first in (True, False):
        found = [each async for each in AuditTrail(storage_path=tmp_path).events(oldest_first=oldest_first)]
        moments = [round((each.timestamp - BEGAN).total_seconds()) for each in found]
        assert [moment for moment in moments if moment != place] == [
            moment for moment in sorted(range(12), reverse=not oldest_first) if moment != place
        ]
        assert moments.count(place) == 1


@pytest.mark.one_backend
async def test_each_altered_record_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To number altered records by their places, the block in which they are is not read anew for each of them."""
    lines = made(tmp_path, 300)
    store(tmp_path, [line.replace(b'"debug"', b'"error"').replace(b'"info"', b'"error"') for line in lines])
    read = 0
    real = os.pread

    def count(fd: int, size: int, offset: int) -> bytes:
        nonlocal read
        found = real(fd, size, offset)
        read += len(found)
        return found

    monkeypatch.setattr(os, "pread", count)
    assert len(await FileStorage(tmp_path).find(EventFilter(), 1000)) == 300
    assert read < 20 * sum(map(len, lines))


@pytest.mark.one_backend
@pytest.mark.parametrize("oldest_first", [True, False])
async def test_pages_of_altered_records_cost_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, oldest_first: bool
) -> None:
    """Where each record is altered, a page is read from where the last one ended, and not from a whole record."""
    monkeypatch.setattr(_reading, "_PAGE", 10)
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 1000)
    read: dict[int, int] = {}
    real = os.pread
    for count in (200, 400):
        lines = [line.replace(b'"user_id":"u', b'"user_id":"v') for line in made(tmp_path / f"{count}", count)]
        store(tmp_path / f"{count}", lines, days=4)
        read[count] = 0

        def pread(fd: int, size: int, offset: int, count: int = count) -> bytes:
            found = real(fd, size, offset)
            read[count] += len(found)
            return found

        trail = AuditTrail(storage_path=tmp_path / f"{count}")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", pread)
            found = [event.sequence_number async for event in trail.events(oldest_first=oldest_first)]
        assert found == sorted(range(1, count + 1), reverse=not oldest_first)
    assert read[400] < 2.5 * read[200]


@pytest.mark.one_backend
@pytest.mark.parametrize("oldest_first", [True, False])
async def test_bounds_between_which_no_number_is(tmp_path: Path, *, oldest_first: bool) -> None:
    """Whatever the bounds are, the records between them are found, and where there are none nothing is."""
    store(tmp_path, made(tmp_path, 6), days=2)
    trail = AuditTrail(storage_path=tmp_path)
    for after in range(8):
        for before in range(1, 8):
            found = trail.events(oldest_first=oldest_first, after=after, before=before)
            expected = sorted(range(after + 1, min(before, 7)), reverse=not oldest_first)
            assert [event.sequence_number async for event in found] == expected


@pytest.mark.parametrize("oldest_first", [True, False])
async def test_a_storage_that_reads_in_its_own_way_is_read_so(tmp_path: Path, *, oldest_first: bool) -> None:
    """Where a class in files has a `find` or a `read` of its own, that is asked for the pages."""
    asked: list[str] = []

    class Noting(FileStorage):
        async def find(self, wanted: EventFilter, limit: int) -> Any:
            asked.append("find")
            return await super().find(wanted, limit)

        async def read(self, after: int, limit: int) -> Any:
            asked.append("read")
            return await super().read(after, limit)

    store(tmp_path, made(tmp_path, 6), days=2)
    trail = AuditTrail(storage=Noting(tmp_path))
    assert len([event async for event in trail.events(oldest_first=oldest_first)]) == 6
    assert set(asked) == {"read" if oldest_first else "find"}


@pytest.mark.one_backend
@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("moved", [4, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 9))])
async def test_a_moved_record_hides_none_that_is_in_its_place(tmp_path: Path, moved: int, place: int) -> None:
    """Questions with bounds on the numbers find each record that is in its place, wherever another one was put."""
    lines = made(tmp_path, 9)
    line = lines.pop(moved - 1)
    store(tmp_path, [*lines[:place], line, *lines[place:]], days=3)
    storage = FileStorage(tmp_path)
    others = [number for number in range(1, 10) if number != moved]
    for bound in range(1, 10):
        found = numbers(await storage.find(EventFilter(before=bound), 100))
        assert [each for each in found if each in others] == [each for each in others if each < bound][::-1]
        found = numbers(await storage.read(bound, 100))
        assert [each for each in found if each in others] == [each for each in others if each > bound]


@pytest.mark.one_backend
@pytest.mark.parametrize("page", [2, 100])
@pytest.mark.parametrize("place", [3, 4, 9])
async def test_an_altered_copy_hides_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, page: int
) -> None:
    """A copy that was altered has number and checksum of its record; both are read, wherever the copy was put."""
    monkeypatch.setattr(_reading, "_PAGE", page)
    lines = made(tmp_path, 9)
    store(tmp_path, [*lines[:place], lines[3].replace(b"JOHN", b"JANE"), *lines[place:]])
    trail = AuditTrail(storage_path=tmp_path)
    for oldest_first in (True, False):
        events = [event async for event in trail.events(oldest_first=oldest_first)]
        assert {event.sequence_number for event in events if event.message == SECRET} == set(range(1, 10))
        assert len(events) == 10
    assert len(await trail.get_events()) == 10


@pytest.mark.one_backend
@pytest.mark.parametrize("day", [1, 3])
@pytest.mark.parametrize("block", [300, 1 << 18])
async def test_a_record_that_lacks_its_newline_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, day: int, block: int
) -> None:
    """An editor that took the last newline of a file has hidden no record, and verification counts it too."""
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", block)
    lines = made(tmp_path, 9, days=3)
    path = tmp_path / f"audit_2026-03-{day:02}.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    trail = AuditTrail(storage_path=tmp_path)
    for oldest_first in (True, False):
        found = [each async for each in trail.events(oldest_first=oldest_first, on_damage="yield")]
        assert numbers(found) == sorted(range(1, 10), reverse=not oldest_first)
    assert len(await trail.get_events(user_id="u2")) == 3
    assert (await trail.head()).sequence_number == 9
    assert await trail._storage.read_lines(2, 9) == [line[:-1] for line in lines[2:]]
    if day == 3:
        assert (await trail.verify_chain_from_storage()).events_checked == 9


def placed(directory: Path) -> list[tuple[str, int]]:
    """Return the file and the offset of each line."""
    return [
        (path.name, sum(map(len, lines[:index])))
        for path in sorted(directory.glob("*.jsonl"))
        for lines in [path.read_bytes().splitlines(keepends=True)]
        for index in range(len(lines))
    ]


def is_in(place: tuple[str, int], hole: DamagedRecord) -> bool:
    return place[0] == hole.file and hole.offset <= place[1] < hole.offset + hole.size


claims = st.dictionaries(st.integers(0, 19), st.integers(1, 25) | st.just(10**9), min_size=1, max_size=19)


@pytest.mark.slow
@given(claims, st.integers(1, 5), st.sampled_from([250, 1 << 18]), st.sampled_from([1, 4]))
def test_records_that_claim_other_numbers_are_all_seen(
    claims: dict[int, int], page: int, block: int, days: int
) -> None:
    """However many claim whatever numbers, one after the other, each is seen, as an event or in a hole; others once."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines, "_BLOCK_BYTES", block)
        patch.setattr(_reading, "_PAGE", page)
        lines = made(Path(name), 20, days=days)
        for place, number in claims.items():
            altered = lines[place].replace(b'"sequence_number":%d,' % (place + 1), b'"sequence_number":%d,' % number)
            lines[place] = altered.replace(b'"debug"', b'"error"').replace(b'"info"', b'"error"')
        store(Path(name), lines, days=days)
        places = placed(Path(name))
        whole = [place for place in range(20) if place not in claims]

        async def check() -> None:
            for oldest_first in (True, False):
                reading = Events[Any](FileStorage(name), EventFilter(), oldest_first=oldest_first, on_damage="yield")
                items = [item async for item in reading]
                events = [item for item in items if isinstance(item, AuditEvent)]
                moments = [round((each.timestamp - BEGAN).total_seconds()) for each in events]
                assert len(set(moments)) == len(moments)
                assert [each for each in moments if each in whole] == (whole if oldest_first else whole[::-1])
                holes = [item for item in items if isinstance(item, DamagedRecord)]
                unseen = set(claims) - set(moments)
                assert all(any(is_in(places[place], hole) for hole in holes) for place in unseen)

        anyio.run(check)


@st.composite
def moved(draw: st.DrawFn) -> list[list[int]]:
    """Return the days of a trail of twelve records, of which some were cut out, and pasted anywhere or nowhere."""
    days = [[1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12]]
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(["cut", "copy", "swap", "reverse", "sort"]))
        day, other = (draw(st.sampled_from(days)) for _ in range(2))
        begin, size, place = draw(st.integers(0, 5)), draw(st.integers(1, 5)), draw(st.none() | st.integers(0, 5))
        block = day[begin : begin + size]
        if how == "swap":
            first, second = draw(st.permutations(range(3)))[:2]
            days[first], days[second] = days[second], days[first]
            continue
        if how == "cut":
            del day[begin : begin + size]
        if how == "reverse":
            day[begin : begin + size] = block[::-1]
        if how == "sort":
            day[:] = draw(st.permutations(day))
        if how in ("cut", "copy") and place is not None:
            other[place:place] = block
    return days


@pytest.mark.slow
@given(moved(), st.integers(1, 5), st.sampled_from([250, 1 << 18]))
def test_a_record_is_read_wherever_it_stands(days: list[list[int]], page: int, block: int) -> None:
    """Whichever lines are moved, copied or removed, each record that is there is read once; holes say the rest."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_lines, "_BLOCK_BYTES", block)
        patch.setattr(_reading, "_PAGE", page)
        directory = Path(name)
        lines = made(directory, 12)
        for index, day in enumerate(days):
            (directory / f"audit_2026-03-{index + 1:02}.jsonl").write_bytes(b"".join(lines[each - 1] for each in day))
        there = [number for day in days for number in day]
        first_places, last_places = list(dict.fromkeys(there)), list(dict.fromkeys(there[::-1]))

        async def check() -> None:
            trail = AuditTrail(storage_path=directory)
            for oldest_first, order in ((True, first_places), (False, last_places)):
                items = [item async for item in trail.events(oldest_first=oldest_first, on_damage="yield")]
                assert [number for number in numbers(items) if number] == order
                is_changed = there != list(range(1, len(there) + 1))
                assert (None in numbers(items)) == is_changed
                for user in range(3):
                    found = trail.events(oldest_first=oldest_first, user_id=f"u{user}")
                    assert [each.sequence_number async for each in found] == [
                        number for number in order if (number - 1) % 3 == user
                    ]
            assert sum((await trail.count_by("user_id")).values()) == len(first_places)

        anyio.run(check)
