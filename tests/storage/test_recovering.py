"""Damage is sealed as it was found: the trail goes on, and no verification says again that it is intact."""

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEventType, AuditStorageError, AuditTrail, ChainStatus, FileStorage
from fapilog.storage._files import locking as _locking
from fapilog.storage._files import recovering
from fapilog.storage._files.descriptors import closing
from fapilog.storage._files.recovering import recover
from tests.doubles.measured_calls import measured_calls
from tests.doubles.trail_oracle import lines

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def trail_in(directory: Path, day: int = 0) -> AuditTrail:
    return AuditTrail(storage=FileStorage(directory, durability="write", now=lambda: NOON + timedelta(days=day)))


def written(directory: Path) -> list[Path]:
    """Write four records on each of three days."""
    for day in range(3):
        trail = trail_in(directory, day)
        for number in range(4):
            trail.sync.log_event(AuditEventType.DATA_ACCESS, f"{day}-{number}", user_id="alice")
    return sorted(directory.glob("audit_*.jsonl"))


def changed(change: Callable[[list[bytes]], list[bytes]], day: int = 1) -> Callable[[list[Path]], None]:
    def damage(files: list[Path]) -> None:
        files[day].write_bytes(b"".join(change(files[day].read_bytes().splitlines(keepends=True))))

    return damage


def several(files: list[Path]) -> None:
    for day in (0, 2):
        changed(lambda found: [found[0], b"junk\n", *found[2:]], day)(files)


def all_but_the_first(files: list[Path]) -> None:
    for file in files[1:]:
        file.write_bytes(file.read_bytes().decode().encode("utf-16") + b"x\n")


def removed(files: list[Path]) -> None:
    files[1].unlink()


DAMAGES: dict[str, tuple[Callable[[list[Path]], None], ChainStatus, int]] = {
    "one altered record": (
        changed(lambda found: [*found[:2], found[2].replace(b"alice", b"mallo"), found[3]]),
        ChainStatus.ALTERED,
        7,
    ),
    "a line that is none": (changed(lambda found: [*found[:3], b"\0" * 900 + b"\n"]), ChainStatus.UNREADABLE, 8),
    "a record that is gone": (changed(lambda found: [*found[:2], found[3]]), ChainStatus.GAP, 7),
    "records in another order": (changed(lambda found: found[::-1]), ChainStatus.GAP, 5),
    "a file that is gone": (removed, ChainStatus.GAP, 5),
    "the newest record": (changed(lambda found: [*found[:3], b"x\n"], 2), ChainStatus.UNREADABLE, 12),
    "bytes that are no torn record": (
        changed(lambda found: [*found[:3], found[3][:-1] + b"x"], 2),
        ChainStatus.ALTERED,
        12,
    ),
    "damage in several files": (several, ChainStatus.UNREADABLE, 2),
    "all but the first file": (all_but_the_first, ChainStatus.UNREADABLE, 5),
    "all of it": (changed(lambda _: [b"x\n"], 0), ChainStatus.UNREADABLE, 1),
    "a torn record in the middle": (changed(lambda found: [*found[:3], found[3][:50]]), ChainStatus.UNREADABLE, 8),
}


@pytest.mark.parametrize(("damage", "status", "first"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_trail_goes_on_behind_sealed_damage(
    tmp_path: Path, damage: Callable[[list[Path]], None], status: ChainStatus, first: int
) -> None:
    """After any damage a writer goes on, the verdict is "recovered" for ever, and no byte of the damage is gone."""
    files = written(tmp_path)
    damage(files)
    verdict = trail_in(tmp_path).sync.verify_chain_from_storage()
    assert (verdict.valid, verdict.status, verdict.first_invalid_sequence) == (False, status, first)
    before = lines(tmp_path)
    sealed = recover(tmp_path, "the disk was full of it")
    assert sealed is not None
    number, seal = sealed
    assert (seal.after, seal.status) == (first - 1, status.value)
    for more in (1, 2):
        trail_in(tmp_path, 2 + more).sync.log_event(AuditEventType.DATA_ACCESS, "goes on")
        trail = trail_in(tmp_path, 2 + more)
        after = trail.sync.verify_chain_from_storage()
        assert (after.valid, after.status, after.first_invalid_sequence) == (False, ChainStatus.RECOVERED, first)
        assert after.events_checked == number + more
        assert after.error_message is not None
        assert after.error_message.endswith(f"record {number} has sealed this damage as it is")
    assert lines(tmp_path)[: len(before)] == before
    [event] = trail.sync.get_events(event_type=AuditEventType.AUDIT_LOG_LIFECYCLE)
    assert (event.sequence_number, event.reason) == (number, "the disk was full of it")
    assert recover(tmp_path, "again") is None


def test_a_converted_file_in_front_of_damage_is_sealed_with_it(tmp_path: Path) -> None:
    """Whether a tool converted a file before the damaged one or not, the verdict after a recovery is "recovered"."""
    files = written(tmp_path)
    changed(lambda found: [line[:-1] + b"\r\n" for line in found], 0)(files)
    DAMAGES["one altered record"][0](files)
    assert trail_in(tmp_path).sync.verify_chain_from_storage().status is ChainStatus.ALTERED
    assert recover(tmp_path, "an editor, and a bad disk") is not None
    trail_in(tmp_path, 3).sync.log_event(AuditEventType.DATA_ACCESS, "goes on")
    verdict = trail_in(tmp_path).sync.verify_chain_from_storage()
    assert (verdict.status, verdict.first_invalid_sequence) == (ChainStatus.RECOVERED, 1)


def test_a_file_that_is_converted_behind_sealed_damage_is_named(tmp_path: Path) -> None:
    """A conversion that no record has sealed is in the verdict beside the damage that one has."""
    files = written(tmp_path)
    DAMAGES["one altered record"][0](files)
    assert recover(tmp_path, "a bad disk") is not None
    changed(lambda found: [line[:-1] + b"\r\n" for line in found], 0)(files)
    verdict = trail_in(tmp_path).sync.verify_chain_from_storage()
    assert verdict.status is ChainStatus.RECOVERED
    assert verdict.error_message is not None
    assert "audit_2026-03-01.jsonl was converted: its lines end in CR LF" in verdict.error_message


def as_a_later_file(files: list[Path]) -> None:
    (files[0].parent / "audit_2026-03-04.jsonl").write_bytes(files[0].read_bytes())


def exchanged(files: list[Path]) -> None:
    first, other = files[1].read_bytes(), files[2].read_bytes()
    files[1].write_bytes(other)
    files[2].write_bytes(first)


@pytest.mark.parametrize(
    "move",
    [
        as_a_later_file,
        exchanged,
        changed(lambda found: [found[1], found[3], found[0], found[2]]),
        changed(lambda found: found[::-1], 2),
        changed(lambda found: [*found, *found[:2]], 2),
    ],
    ids=["a copy as a later file", "two files", "in one file", "at the end", "once more at the end"],
)
def test_a_record_behind_moved_ones_has_a_number_of_its_own(tmp_path: Path, move: Callable[[list[Path]], None]) -> None:
    """However records were moved, the record that seals this and those behind it have greater numbers than all."""
    move(written(tmp_path))
    sealed = recover(tmp_path, "a restore that went wrong")
    assert sealed is not None
    assert sealed[0] > 12
    trail = trail_in(tmp_path, 4)
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "goes on")
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.RECOVERED
    numbers = [event.sequence_number or 0 for event in trail.sync.events()]
    assert sorted(set(numbers)) == sorted(numbers) == [*range(1, 13), sealed[0], sealed[0] + 1]


@pytest.mark.parametrize("has_failed", [True, False])
@pytest.mark.parametrize(
    "damage",
    [
        lambda found: [*found, b"x\n"],
        lambda found: [*found[:-1], b"x\n"],
        lambda found: [*found[:-1], found[-1][:-1] + b"x"],
        lambda found: [*found[:-1], b"x" * (len(found[-1]) - 1) + b"\n"],
        lambda found: [*found, b'{"v":2,"event_id":"' + b"x" * 900 + b'"}\n', b"x"],
    ],
    ids=range(5),
)
def test_a_service_goes_on_behind_sealed_damage(
    tmp_path: Path, damage: Callable[[list[bytes]], list[bytes]], *, has_failed: bool
) -> None:
    """After a recovery a service need not be started again, whether the damage has refused an event of it or not."""
    files = written(tmp_path)
    service = trail_in(tmp_path, 2)
    service.sync.log_event(AuditEventType.DATA_ACCESS, "before")
    changed(damage, 2)(files)
    if has_failed:
        with pytest.raises(AuditStorageError, match="nothing is appended"):
            service.sync.log_event(AuditEventType.DATA_ACCESS, "refused")
    assert recover(tmp_path, "a bad disk") is not None
    for _ in range(2):
        service.sync.log_event(AuditEventType.DATA_ACCESS, "goes on")
    assert trail_in(tmp_path).sync.verify_chain_from_storage().status is ChainStatus.RECOVERED


def test_what_was_sealed_can_be_checked_with_other_tools(tmp_path: Path) -> None:
    """The record names file, byte, size and SHA-256 of the damage."""
    files = written(tmp_path)
    changed(lambda found: [found[0], b"junk\n", *found[2:]])(files)
    assert recover(tmp_path, "x") is not None
    seal = json.loads(files[2].read_bytes().splitlines()[-1])["metadata"]["fapilog.recovered"]
    content = files[1].read_bytes()
    assert seal["file"] == files[1].name
    assert content[seal["offset"] :][: seal["size"]] == b"junk\n"
    assert seal["sha256"] == hashlib.sha256(b"junk\n").hexdigest()


@pytest.mark.parametrize("what", [b"junk", b"0-0", b"2-1", b"fapilog.recovered"])
def test_damage_that_changes_after_it_was_sealed_is_damage(tmp_path: Path, what: bytes) -> None:
    """A change to the sealed bytes, to a record before or behind them, or to the seal, is told as any damage is."""
    files = written(tmp_path)
    changed(lambda found: [found[0], b"junk\n", *found[2:]])(files)
    assert recover(tmp_path, "x") is not None
    for file in files:
        file.write_bytes(file.read_bytes().replace(what, b"JUNK"))
    verdict = trail_in(tmp_path).sync.verify_chain_from_storage()
    assert not verdict.valid
    assert verdict.status in (ChainStatus.ALTERED, ChainStatus.UNREADABLE)
    # And it can be sealed anew.
    assert recover(tmp_path, "y") is not None
    assert trail_in(tmp_path).sync.verify_chain_from_storage().status is ChainStatus.RECOVERED


def test_two_damages_are_sealed_one_after_the_other(tmp_path: Path) -> None:
    """What is damaged after a recovery is sealed by a second one, and the verdict names both."""
    files = written(tmp_path)
    changed(lambda found: [found[0], b"junk\n", *found[2:]], 0)(files)
    first = recover(tmp_path, "x")
    changed(lambda found: [found[0], b"more junk\n", *found[2:]], 1)(files)
    second = recover(tmp_path, "y")
    assert first is not None
    assert second is not None
    verdict = trail_in(tmp_path).sync.verify_chain_from_storage()
    assert (verdict.status, verdict.first_invalid_sequence) == (ChainStatus.RECOVERED, 2)
    assert all(f"record {number} has sealed" in str(verdict.error_message) for number, _ in (first, second))


@pytest.mark.parametrize("tail", [b"", b'{"v":2,"event_id":"'])
def test_there_is_nothing_to_recover(tmp_path: Path, tail: bytes) -> None:
    """An intact trail, and one with a torn record at its end, is left as it is."""
    files = written(tmp_path)
    with files[-1].open("ab") as file:
        file.write(tail)
    content = [file.read_bytes() for file in files]
    assert recover(tmp_path, "x") is None
    assert [file.read_bytes() for file in files] == content


def test_a_lock_that_another_program_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `flock DIR program` it is an error, as for a writer, and no wait for ever."""
    monkeypatch.setattr(_locking, "_PATIENCE", 0.05)
    DAMAGES["a line that is none"][0](written(tmp_path))
    with closing(os.open(tmp_path, os.O_RDONLY)) as fd:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(OSError, match=r"its lock was held for 0.05 s by "):
            recover(tmp_path, "why")
    assert recover(tmp_path, "why") is not None


@pytest.mark.parametrize("end", [b"", b'{"v":2,'])
def test_a_record_has_one_number_from_either_side(tmp_path: Path, end: bytes) -> None:
    """Behind sealed damage up to the end, each record has the same number with the oldest and with the newest first."""
    files = written(tmp_path)
    for file in files[1:]:
        file.write_bytes(file.read_bytes().replace(b"alice", b"mally"))
    files[2].write_bytes(files[2].read_bytes() + end)
    number, _ = recover(tmp_path, "ticket 7") or (0, None)
    assert number == 13 + bool(end)
    trail = AuditTrail(storage_path=tmp_path).sync
    found = {event.event_id: event.sequence_number for event in trail.events(oldest_first=True)}
    assert list(found.values()) == [*range(1, 13), number]
    assert {event.event_id: event.sequence_number for event in trail.get_events()} == found


def test_a_damaged_trail_still_takes_nothing_by_itself(tmp_path: Path) -> None:
    """Without a recovery nothing is appended to a damaged trail, and a record that only looks like one is none."""
    files = written(tmp_path)
    forged: dict[str, Any] = {"fapilog.recovered": {"file": files[2].name, "offset": 0}}
    trail_in(tmp_path, 2).sync.log_event(AuditEventType.DATA_ACCESS, "m", metadata=forged)
    changed(lambda found: [found[0], b"junk\n", *found[2:]], 2)(files)
    with pytest.raises(AuditStorageError, match="nothing is appended"):
        trail_in(tmp_path, 2).sync.log_event(AuditEventType.DATA_ACCESS, "m")
    assert trail_in(tmp_path).sync.verify_chain_from_storage().status is ChainStatus.UNREADABLE


@pytest.mark.parametrize("size", [-1, 0, 10, 1 << 62])
def test_records_that_claim_to_seal_damage_cost_one_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """However many records claim to seal a damage, and whatever size they say, its bytes are read once."""
    files = written(tmp_path)
    first, second, *_ = lines(tmp_path)
    claim = {"file": files[0].name, "offset": len(first) + 1, "size": size, "sha256": "0" * 64, "after": 1}
    claim |= {"checksum": json.loads(first)["checksum"], "status": "altered"}
    trail = trail_in(tmp_path, 2)
    for number in range(20):
        trail.sync.log_event(
            AuditEventType.DATA_ACCESS, "m", metadata={"fapilog.recovered": claim | {"size": size + number // 10}}
        )
    files[0].write_bytes(files[0].read_bytes().replace(second, second.replace(b"alice", b"mally")))
    read = measured_calls(monkeypatch, recovering, "reading")
    verdict = trail_in(tmp_path).sync.verify_chain_from_storage()
    assert (verdict.status, verdict.first_invalid_sequence) == (ChainStatus.ALTERED, 2)
    assert len(read) <= len(files)


def test_lines_of_damage_are_not_made_one_by_one(tmp_path: Path) -> None:
    """However many lines there are, a writer that is refused for them does not look at each, with the lock held."""
    file = written(tmp_path / "audit")[-1]
    with file.open("ab") as damaged:
        damaged.write(b"junk\n" * 20_000)
    storage = FileStorage(tmp_path / "audit", durability="write", now=lambda: NOON + timedelta(days=2))
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    trail = AuditTrail(storage=storage).sync
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        with pytest.raises(AuditStorageError, match="nothing is appended"):
            trail.log_event(AuditEventType.DATA_ACCESS, "x")
    finally:
        sys.setprofile(before)
    assert calls < 20_000
