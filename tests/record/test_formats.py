"""Records of each format, and of those to come, are read, kept, and written again as they are."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fapilog import Actor, AuditEvent, AuditEventType, AuditLogLevel, AuditOutcome, AuditTrail, Target
from fapilog.record import chain
from fapilog.record.chain import EMPTY, ChainHead, ChainStatus
from fapilog.record.formats import decoded, encoded

GOLDEN = Path(__file__).parent.parent / "golden"
FORMAT_1 = (GOLDEN / "format-1" / "audit_2026-01-31.jsonl").read_bytes().splitlines()
FORMAT_2 = (GOLDEN / "format-2" / "audit_2026-11-26.jsonl").read_bytes().splitlines()


def line_of(number: int, previous: str | None, **members: Any) -> bytes:
    """Return a record that a later version wrote."""
    record = {
        "v": 3,
        "event_id": f"id-{number}",
        "timestamp": "2030-01-01T00:00:00Z",
        "event_type": "quantum_leap",
        "log_level": "fatal",
        "message": "m",
        **members,
    }
    return chain.seal(msgspec.json.encode(record)[:-1], number, previous)[0].rstrip(b"\n")


def later(count: int = 3) -> list[bytes]:
    """Return a chain of records of a later version."""
    lines: list[bytes] = []
    for number in range(1, count + 1):
        previous = json.loads(lines[-1])["checksum"] if lines else None
        lines.append(line_of(number, previous, site="moon", actor={"id": "a", "species": "x"}))
    return lines


@pytest.mark.parametrize("lines", [FORMAT_1, FORMAT_2, later()], ids=["1", "2", "later"])
def test_an_event_is_written_as_the_record_that_it_was_read_from(lines: list[bytes]) -> None:
    """A chain that was read is followed by its events, in any format, from any record on."""
    events = [decoded(line) for line in lines]
    head = chain.follow(EMPTY, lines)
    assert chain.follow_events(EMPTY, events) == head
    first = ChainHead(1, events[0].checksum)
    assert AuditTrail.verify_chain(events[1:], after=first).events_checked == len(lines) - 1
    assert [decoded(encoded(event)) for event in events] == events
    altered = msgspec.structs.replace(events[1], message="n")
    assert AuditTrail.verify_chain([events[0], altered]).status is ChainStatus.ALTERED
    assert AuditTrail.verify_chain([altered], after=first).first_invalid_sequence == 2


def test_the_golden_record_of_format_2() -> None:
    """A record of format 2 with all members has them all."""
    event = decoded(FORMAT_2[0])
    assert event.format_version == 2
    assert event.line is None
    assert event.outcome is AuditOutcome.DENIED
    assert event.actor == Actor(id="alice", type="service", on_behalf_of="bob")
    assert event.target == Target(type="patient", id="42", name="John")
    assert event.changes == {"ward": ["A", None]}
    assert event.occurred == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert event.event_type == AuditEventType("clinic.visit")
    assert event.truncated == ("user_agent",)


def test_what_a_later_version_wrote_is_kept() -> None:
    """Unknown types, levels, members and members of members are read as what they are."""
    event = decoded(later(1)[0])
    assert event.event_type.value == "quantum_leap"
    assert event.log_level.value == "fatal"
    assert event.message == "m"
    assert event.actor == Actor(id="a")
    assert event.unknown == {"site": "moon", "actor": {"id": "a", "species": "x"}}
    assert event.format_version == 3


async def test_a_target_with_a_member_more_is_asked_for(tmp_path: Path) -> None:
    """A record whose target and actor have members of a later version is found by the members that are known."""
    parties = {"target": {"type": "patient", "id": "42", "ward": "A"}, "actor": {"id": "a", "species": "x"}}
    (tmp_path / "audit_2030-01-01.jsonl").write_bytes(line_of(1, None, **parties) + b"\n")
    trail = AuditTrail(storage_path=tmp_path)
    questions: list[dict[str, Any]] = [{"target": "patient/42"}, {"actor": "a"}, {"target": "patient/42", "actor": "a"}]
    for asked in questions:
        [event] = await trail.get_events(**asked)
        assert (event.target, event.unknown) == (Target(type="patient", id="42"), parties)
    assert await trail.get_events(target="patient/4") == []


@pytest.mark.parametrize(
    "change",
    [
        {"event_id": 1},
        {"timestamp": "soon"},
        {"message": None},
        {"event_type": 7},
        {"v": "3"},
        {"v": 0},
        {"checksum": 1},
    ],
)
def test_what_is_no_record_of_any_version(change: dict[str, Any]) -> None:
    """A record without what every record has, or with something else in its place, is none."""
    with pytest.raises(msgspec.ValidationError):
        decoded(msgspec.json.encode(json.loads(later(1)[0]) | change))
    for line in (later(1)[0], FORMAT_1[0], FORMAT_2[0]):
        for name in ("v", "event_id", "timestamp", "event_type", "message"):
            with pytest.raises(msgspec.ValidationError):
                decoded(msgspec.json.encode({k: v for k, v in json.loads(line).items() if k != name}))


async def test_a_trail_goes_on_in_one_chain(tmp_path: Path) -> None:
    """Records of both formats and of a later one are one chain, which is verified, searched and continued."""
    head = chain.follow(EMPTY, FORMAT_1)
    more = line_of(head.sequence_number + 1, head.checksum, message="from the future")
    (tmp_path / "audit_2026-01-31.jsonl").write_bytes(b"\n".join([*FORMAT_1, more, b""]))
    trail = AuditTrail(storage_path=tmp_path)
    await trail.log_event("billing.refund", "now", outcome="success")
    result = await trail.verify_chain_from_storage()
    assert (result.valid, result.events_checked) == (True, len(FORMAT_1) + 2)
    events = await trail.get_events(limit=2)
    assert [event.format_version for event in events] == [2, 3]
    assert AuditTrail.verify_chain((await trail.get_events())[::-1]).valid
    found = await trail.get_events(min_level=AuditLogLevel.SECURITY, message="future")
    assert [event.message for event in found] == ["from the future"]
    assert [event.event_type.value for event in await trail.get_events(event_type="billing.refund")] == [
        "billing.refund"
    ]


async def test_the_resource_of_format_1_is_a_target(tmp_path: Path) -> None:
    """What `log_data_access` stored as a resource in format 1 is found as a target."""
    event = AuditEvent(
        event_type=AuditEventType.DATA_ACCESS, message="m", metadata={"resource": "patient/42"}, format_version=1
    )
    line, _ = chain.seal(chain.body(event), 1, None)
    assert line.startswith(b'{"v":1,')
    (tmp_path / "audit_2026-01-31.jsonl").write_bytes(line)
    trail = AuditTrail(storage_path=tmp_path)
    for target in ("patient/42", Target(id="42"), {"type": "patient"}):
        [found] = await trail.get_events(target=target)  # type: ignore[arg-type]
        assert found.target == Target(type="patient", id="42")
    assert await trail.get_events(target="patient/4") == []


def test_types_of_your_own() -> None:
    """A type with a dot is taken, is equal to itself, and is no other; a text without one is refused."""
    kind = AuditEventType("billing.refund")
    assert (kind, kind.value, kind.name) == (AuditEventType("billing.refund"), "billing.refund", "billing.refund")
    assert len({kind, AuditEventType("billing.refund")}) == 1
    assert kind not in list(AuditEventType)
    for text in ("billing", ".refund", "billing.", "bil ling.x", "a." + "b" * 200, "é.x", 5, None):
        with pytest.raises(ValueError, match="is not a valid AuditEventType"):
            AuditEventType(text)


DEEP = 100_000


@pytest.mark.parametrize(
    "members",
    [
        b'"metadata":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'"site":' + b"[" * DEEP + b"]" * DEEP,
        b'"timestamp":"9999-12-31T23:59:59-10:00"',
        b'"timestamp":"2026-01-31T12:00:00"',
    ],
    ids=["metadata", "unknown", "year", "zone"],
)
def test_what_nobody_can_have_stored_is_no_record(members: bytes) -> None:
    """Somebody who plants a record makes a reader raise one kind of error, and so a hole among others."""
    line = line_of(1, None)[:-1]
    with pytest.raises(msgspec.MsgspecError):
        decoded(line[:7] + members + b"," + line[7:])


def test_a_time_that_can_not_be_is_an_unknown_value() -> None:
    """An event whose other time has no zone is read without it."""
    event = decoded(line_of(1, None, occurred="2026-01-31T12:00:00"))
    assert (event.occurred, event.unknown) == (None, {"occurred": "2026-01-31T12:00:00"})


@pytest.mark.parametrize("planted", [{"line": "e30="}, {"format_version": 1}])
def test_members_that_no_record_has_are_unknown_ones(planted: dict[str, Any]) -> None:
    """What an event has and a record has not can't be planted: the event is the record, and says so."""
    line = line_of(1, None, **planted)
    event = decoded(line)
    assert (event.line, event.format_version, event.unknown) == (line, 3, planted)
    assert AuditTrail.verify_chain([event]).valid


# In children of its own, for it may crash: the first reader is stopped amid each step in which a class is described.
READING = """
import os, sys, threading
from fapilog.record.formats import decoded

line = sys.stdin.buffer.read()
for number in range(1, 8):
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, number
        continue
    steps, found = [], []
    other = threading.Thread(target=lambda: found.append(decoded(line)))

    def trace(frame, event, _):
        if frame.f_code.co_name == "get_class_annotations":
            steps.append(event)
            if len(steps) == number:
                other.start()
                # It reads, or waits for this thread.
                other.join(0.1)

    sys.settrace(trace)
    found.append(decoded(line))
    sys.settrace(None)
    assert steps
    if len(steps) >= number:
        other.join()
        assert found[0] == found[1]
    os._exit(0)
"""


@pytest.mark.slow
def test_threads_that_read_the_first_record_at_once() -> None:
    """While one thread makes ready what all of them read by, another one waits for it."""
    subprocess.run([sys.executable, "-c", READING], input=FORMAT_2[0], check=True, timeout=60)


INTERRUPTED = """
import sys
from fapilog import AuditStorageError
from fapilog.record.formats import decoded

line, refused = sys.stdin.buffer.read(), []

def trace(frame, *_):
    if frame.f_code.co_name == "get_class_annotations" and not refused:
        try:
            decoded(line)
        except AuditStorageError as error:
            refused.append(str(error))

sys.settrace(trace)
decoded(line)
sys.settrace(None)
assert refused == ["a record can't be read: called from within the first such call of the same thread"], refused
decoded(line)
"""


def test_a_signal_handler_that_reads_amid_the_first_reading_is_refused() -> None:
    """It can't wait for its own thread, and gets an error; the thread goes on."""
    subprocess.run([sys.executable, "-c", INTERRUPTED], input=FORMAT_2[0], check=True, timeout=60)
