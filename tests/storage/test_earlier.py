"""Trails of fapilog 0.3.5, verified by its own rule. It wrote the golden one itself."""

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from fapilog import AuditEvent, AuditEventType, AuditTrail, ChainStatus, DamagedRecord, EarlierStorage
from fapilog.record.errors import AuditStorageError
from fapilog.storage import earlier
from fapilog.storage.earlier import is_of_earlier, verify_earlier
from fapilog.storage.protocol import EventFilter
from tests.doubles.aged_trails import aged_trail

GOLDEN = Path(__file__).parents[1] / "golden" / "earlier" / "0.3.5"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A trail that two processes of fapilog 0.3.5 wrote, two records each."""
    shutil.copytree(GOLDEN, tmp_path / "old")
    return tmp_path / "old"


def file_in(directory: Path) -> Path:
    [file] = directory.glob("audit_*.jsonl")
    return file


def test_what_it_wrote_is_valid(old: Path) -> None:
    """Two runs of two records each are valid, and the hash of the file is that of its bytes."""
    found = verify_earlier(old)
    last = json.loads(file_in(old).read_bytes().splitlines()[-1])
    assert (found.records, found.runs, found.problem) == (4, 2, None)
    assert (found.sequence_number, found.checksum) == (2, last["checksum"])
    assert found.files == {file_in(old).name: sha256(file_in(old).read_bytes()).hexdigest()}


@pytest.mark.slow
def test_each_changed_byte_is_found(old: Path) -> None:
    """Whichever byte of a record is changed, the record is not valid."""
    whole = file_in(old).read_bytes()
    end = whole.index(b"\n")
    for offset in range(end):
        changed = bytearray(whole)
        changed[offset] ^= 1
        file_in(old).write_bytes(changed)
        found = verify_earlier(old)
        assert found.problem is not None, offset
        assert (found.records, found.runs) == (1, 0)


def test_records_that_are_missing_or_moved_are_found(old: Path) -> None:
    """A record that does not follow the one before it is found, with its place."""
    first, second, third, fourth = file_in(old).read_bytes().splitlines(keepends=True)
    for lines in ([second, third, fourth], [first, fourth], [second, first], [first, second, second], [third, second]):
        file_in(old).write_bytes(b"".join(lines))
        assert "follows no record" in (verify_earlier(old).problem or "")
    file_in(old).write_bytes(first + b"\n" + second[:100])
    assert "line 3" in (verify_earlier(old).problem or "")


def test_processes_that_wrote_at_once(old: Path) -> None:
    """The records of several processes may stand between each other, over the days too: each run is a chain."""
    file = file_in(old)
    first, second, third, fourth = file.read_bytes().splitlines(keepends=True)
    for lines in ([first, third, second, fourth], [third, first, fourth, second]):
        file.write_bytes(b"".join(lines[:3]))
        (old / "audit_9999-12-31.jsonl").write_bytes(lines[3])
        found = verify_earlier(old)
        assert (found.records, found.runs, found.problem) == (4, 2, None)
        assert found.checksum == json.loads(lines[3])["checksum"]


def test_a_trail_that_jq_has_sorted_is_ours(tmp_path: Path) -> None:
    """With its members sorted, a record of ours begins as those of the earlier fapilog do, and is none of them."""
    ours = aged_trail(tmp_path, (1,))
    file = file_in(ours)
    records = [json.loads(line) for line in file.read_bytes().splitlines()]
    lines = [json.dumps(record, sort_keys=True, separators=(",", ":")) for record in records]
    assert all(line.startswith('{"checksum":"') for line in lines)
    file.write_text("".join(f"{line}\n" for line in lines))
    assert not is_of_earlier(ours)
    verdict = AuditTrail(storage_path=ours).sync.verify_chain_from_storage()
    assert "earlier fapilog" not in str(verdict.error_message)


def test_whose_it_is(old: Path, tmp_path: Path) -> None:
    """A trail of ours, and an empty directory, are none of the earlier fapilog's."""
    assert is_of_earlier(old)
    assert not is_of_earlier(aged_trail(tmp_path / "ours", (1,)))
    assert not is_of_earlier(tmp_path / "none")
    (tmp_path / "ours" / "audit_2020-01-01.jsonl").mkdir()
    assert not is_of_earlier(tmp_path / "ours")
    with pytest.raises(AuditStorageError, match="cannot read"):
        verify_earlier(tmp_path / "ours")


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_it_may_begin_without_a_record(old: Path, content: bytes) -> None:
    """A file in front of the first record, which a full disk has left empty, does not change whose a trail is."""
    (old / "audit_2020-01-01.jsonl").write_bytes(content)
    assert is_of_earlier(old)
    assert verify_earlier(old).problem is None


async def test_its_events_are_read(old: Path) -> None:
    """They are numbered as they stand in the files, and what an event does not have is in the metadata."""
    stored = [json.loads(line) for line in file_in(old).read_bytes().splitlines()]
    trail = AuditTrail(storage=EarlierStorage(old))
    events = await trail.get_events()
    assert [event.sequence_number for event in events] == [4, 3, 2, 1]
    assert [event.event_id for event in reversed(events)] == [each["event_id"] for each in stored]
    changed, read = events[3], events[2]
    assert (changed.message, changed.event_type) == ("retention changed ü \u2028", AuditEventType.CONFIG_CHANGED)
    assert changed.metadata["metadata"]["big"] == 2**70
    assert (read.user_id, str(read.target), read.checksum) == ("alice", "patient/42", None)
    own = {name: stored[1][name] for name in ("checksum", "previous_hash", "sequence_number")}
    assert read.metadata == {"resource": "patient/42", "fapilog.earlier": own}
    assert [event async for event in trail.events(target="patient/42", oldest_first=True)] == [events[2], events[0]]
    assert await trail.count_by("user_id") == {"alice": 2, "": 2}


async def test_whatever_it_has_is_read(old: Path) -> None:
    """The address of a security event, members that nobody knows, and a type of its own are there to ask for."""
    line = json.loads(file_in(old).read_bytes().splitlines()[0])
    line |= {"event_type": "own", "signature": "s", "metadata": {"client_ip": "192.0.2.7", "user_agent": 1}}
    file_in(old).write_text(json.dumps({**line, "further": [1]}) + "\n")
    (event,) = await AuditTrail(storage=EarlierStorage(old)).get_events(client_ip="192.0.2.7")
    assert isinstance(event.event_type, AuditEventType)
    assert (event.event_type.value, event.user_agent) == ("own", None)
    assert event.metadata["fapilog.earlier"] == {
        "checksum": line["checksum"],
        "sequence_number": 1,
        "signature": "s",
        "further": [1],
    }


def long_trail(directory: Path, old: Path) -> list[bool]:
    """Write two files with blank and damaged lines; return of every record whether it is intact."""
    record = json.loads(file_in(old).read_bytes().splitlines()[0]) | {"metadata": {}}
    directory.mkdir()
    expected: list[bool] = []
    for day, count in (("2025-01-01", 14), ("2025-01-02", 13)):
        lines: list[str] = []
        for index in range(count):
            if index in {2, 4, 5}:
                lines.append("\n")
                continue
            expected.append(index not in {7, 8, 12})
            number = len(expected)
            own = json.dumps({**record, "event_id": str(number), "user_id": f"u{number % 3}"})
            lines.append(f"{own if expected[-1] else 'damaged'}\n")
        (directory / f"audit_{day}.jsonl").write_text("".join(lines))
    return expected


@pytest.mark.slow
@pytest.mark.one_backend
async def test_pages_are_one_trail(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a page of the answer begins, over the files and their pages, no event is missing, or there twice."""
    monkeypatch.setattr(earlier, "_PAGE", 5)
    expected = long_trail(tmp_path / "long", old)
    numbers = [number for number, is_intact in enumerate(expected, 1) if is_intact]
    storage = EarlierStorage(tmp_path / "long")
    for limit in (1, 4, 99):
        for place in range(len(expected) + 3):
            after = await storage.read(place, limit)
            found = [int(item.event_id) for item in after if isinstance(item, AuditEvent)]
            assert found == [number for number in numbers if number > place][:limit]
            assert [item.sequence_number for item in after if isinstance(item, AuditEvent)] == found
            before = await storage.find(EventFilter(before=place, after=3, user_id="u1"), limit)
            found = [int(item.event_id) for item in before if isinstance(item, AuditEvent)]
            assert found == [each for each in reversed(numbers) if 3 < each < place and each % 3 == 1][:limit]
            assert len(await storage.read_lines(place, limit)) == len(expected[place : place + limit])
    holes = [item for item in await storage.read(0, 99) if isinstance(item, DamagedRecord)]
    assert [(hole.file[-8:-6], hole.lines) for hole in holes] == [("01", 2), ("01", 1), ("02", 2), ("02", 1)]
    trail = AuditTrail(storage=storage)
    assert [int(event.event_id) async for event in trail.events()] == numbers[::-1]
    assert [int(event.event_id) async for event in trail.events(oldest_first=True)] == numbers


async def test_its_verdict_is_that_of_its_own_rule(old: Path) -> None:
    """It is valid, altered or broken as `verify_earlier` says, and its events are no part of a chain of ours."""
    trail = AuditTrail(storage=EarlierStorage(old))
    checked: list[int] = []
    result = await trail.verify_chain_from_storage(checked.append)
    assert (result.valid, result.events_checked, result.status) == (True, 4, ChainStatus.OK)
    assert AuditTrail.verify_chain((await trail.get_events())[::-1]).status is ChainStatus.UNREADABLE
    whole = file_in(old).read_bytes()
    for content, status, number in (
        (whole.replace(b"alice", b"mally", 1), ChainStatus.ALTERED, 2),
        (b"".join(whole.splitlines(keepends=True)[1:]), ChainStatus.BROKEN_LINK, 1),
    ):
        file_in(old).write_bytes(content)
        result = await trail.verify_chain_from_storage()
        assert (result.valid, result.status, result.first_invalid_sequence) == (False, status, number)
        assert str(old) in (result.error_message or "")


async def test_it_may_grow_and_is_not_written_to(old: Path) -> None:
    """A record that the earlier fapilog appends is read next; nothing else is appended."""
    trail = AuditTrail(storage=EarlierStorage(old))
    lines = file_in(old).read_bytes().splitlines(keepends=True)
    file_in(old).write_bytes(lines[0])
    assert len(await trail.get_events()) == 1
    file_in(old).write_bytes(b"".join(lines))
    assert len(await trail.get_events()) == 4
    with pytest.raises(AuditStorageError, match="is read, and not written to"):
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")
    assert file_in(old).read_bytes() == b"".join(lines)


def test_what_is_no_file_is_not_waited_for(old: Path) -> None:
    """A pipe with the name of a day is an error at once, and a verdict."""
    os.mkfifo(old / "audit_2030-01-01.jsonl")
    trail = AuditTrail(storage=EarlierStorage(old))
    with pytest.raises(AuditStorageError, match="audit_2030-01-01"):
        trail.sync.get_events()
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.UNREADABLE
    with pytest.raises(AuditStorageError, match="audit_2030-01-01"):
        verify_earlier(old)


def test_a_line_that_is_nested_deeply_is_damage(old: Path) -> None:
    """A line that begins as its records do, and holds JSON that no decoder follows, is no record, and no error."""
    path = max(old.glob("*.jsonl"))
    with path.open("ab") as file:
        file.write(b'{"checksum":"' + b"0" * 64 + b'","x":' + b"[" * 5000 + b"]" * 5000 + b"}\n")
    assert "this is no record" in (verify_earlier(old).problem or "")
