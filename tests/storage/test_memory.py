"""The storage in memory, beyond what every storage must do."""

import json
import os
import sys
from types import FrameType
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, ChainStatus
from fapilog.record.chain import EMPTY, MAX_RECORD_BYTES, body, seal
from fapilog.storage import memory
from fapilog.storage.memory import MemoryStorage
from fapilog.tasks.loops import without_loop


def an_event(message: str = "m", **fields: Any) -> AuditEvent:
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message, **fields)


async def test_a_trail_in_memory() -> None:
    """A trail keeps, finds and verifies its events without a file, from tasks and from synchronous code."""
    storage = MemoryStorage()
    trail = AuditTrail(storage=storage)
    event_id = await trail.log_event(AuditEventType.DATA_ACCESS, "one")
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "two", user_id="alice")
    assert [(event.message, event.sequence_number) for event in storage.events] == [("one", 1), ("two", 2)]
    assert [event.event_id for event in await trail.get_events(before=2)] == [event_id]
    assert len(trail.sync.get_events(user_id="alice")) == 1
    assert (await trail.verify_chain_from_storage()).events_checked == 2
    assert repr(storage) == "<MemoryStorage with 2 events>"


async def test_what_is_kept_is_what_a_file_would_hold() -> None:
    """An event comes back as it was stored, and its line is the one that verifies."""
    storage = MemoryStorage()
    await storage.append(an_event("\x1b[0m \u2028", metadata={"n": [1, None, {"x": 0.5}]}))
    [line] = await storage.read_lines(0, 10)
    assert b"\\u001b[0m \\u2028" in line
    assert storage.events == await storage.read(0, 10)
    assert storage.events[0].metadata == {"n": [1, None, {"x": 0.5}]}


async def test_lines_that_can_not_be_read_are_refused() -> None:
    """Of a record that has something else in a member nothing is stored, and the error is that of all storages."""
    storage = MemoryStorage()
    whole, _ = seal(body(an_event()), 1, None)
    line, _ = seal(body(an_event("m")).replace(b'"message":"m"', b'"message":5'), 2, json.loads(whole)["checksum"])
    with pytest.raises(AuditStorageError, match="a record is of a kind that can't be read here; nothing is appended"):
        await storage.append_lines(EMPTY, [whole.rstrip(b"\n"), line.rstrip(b"\n")])
    assert await storage.append_lines(EMPTY, [whole.rstrip(b"\n")])
    assert [event.message for event in storage.events] == ["m"]


async def test_what_no_storage_can_read_again_is_refused() -> None:
    """An event that makes a longer record than there can be is refused, as by a storage in files."""
    storage = MemoryStorage()
    with pytest.raises(AuditStorageError, match=f"an event of at most {MAX_RECORD_BYTES} bytes can be stored"):
        await storage.append(an_event("x" * MAX_RECORD_BYTES))
    assert storage.events == []


async def test_damage_is_named() -> None:
    """A line that was altered is the first invalid one, and nothing is appended behind a damaged last one."""
    storage = MemoryStorage()
    for message in ("a", "b", "c"):
        await storage.append(an_event(message))
    storage._lines[1] = storage._lines[1].replace(b'"b"', b'"x"')
    result = await storage.verify()
    assert (result.valid, result.first_invalid_sequence, result.status) == (False, 2, ChainStatus.ALTERED)
    assert result.error_message == "in memory: record 2 was altered: its checksum is of other bytes"
    storage._lines[2] = b"{}"
    with pytest.raises(AuditStorageError, match="in memory: this is not a record of the trail; nothing is appended"):
        await storage.append(an_event())
    assert len(await storage.read_lines(0, 10)) == 3


@pytest.mark.slow_on_trio
async def test_page_by_page_every_record_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page begins behind the page before, and not with the newest record."""
    storage = MemoryStorage()
    trail = AuditTrail(storage=storage)
    for number in range(1200):
        await storage.append(an_event(f"{number}"))
    looked_at: list[int] = []

    def item(number: int, line: bytes) -> Any:
        looked_at.append(number)
        return read_item(number, line)

    read_item = memory._item
    monkeypatch.setattr(memory, "_item", item)
    assert [event.message for event in [event async for event in trail.events()]][::599] == ["1199", "600", "1"]
    assert looked_at == list(range(1200, 0, -1))


def test_a_forked_child_goes_on_with_a_copy() -> None:
    """A child that is forked in the midst of an append of another thread can append, and the parent has none of it."""
    storage = MemoryStorage()
    without_loop(storage.append(an_event()))
    with storage._turn.taken():
        child = os.fork()
        if child == 0:
            seal = without_loop(storage.append(an_event()))
            os._exit(seal.sequence_number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert len(storage.events) == 1


def test_an_append_within_an_append_is_refused() -> None:
    """A signal handler that logs in the midst of an append of its thread gets an error, and the chain goes on."""
    storage = MemoryStorage()
    refused: list[str] = []

    def interrupt(frame: FrameType, what: str, _: object) -> None:
        # Where a signal handler may run: between any two lines.
        if storage._turn.is_mine and not refused:
            sys.settrace(None)
            with pytest.raises(AuditStorageError) as caught:
                without_loop(storage.append(an_event()))
            refused.append(str(caught.value))

    def trace(frame: FrameType, what: str, _: object) -> Any:
        if frame.f_code.co_filename.endswith("memory.py"):
            interrupt(frame, what, None)
            return trace
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        without_loop(storage.append(an_event()))
    finally:
        sys.settrace(before)
    assert refused == ["not stored: called from within a call of the same thread"]
    assert without_loop(storage.append(an_event())).sequence_number == 2
