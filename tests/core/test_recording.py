"""Storing an event that is not announced: by its record, and nothing else is made of it."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, FileStorage, MemoryStorage
from fapilog.record import chain
from fapilog.record.errors import StoringInterruptedError
from fapilog.testing import RecordingDispatcher

DURABILITIES = pytest.mark.parametrize("durability", ["fsync", "write"])
ODD: list[dict[str, Any]] = [
    {},
    {"user_id": "\udcff", "path": "\\udcff", "patient": 7},
    {"reason": 5, "component": Path("a"), "metadata": {"by": {1, 2}, "at": float("nan")}},
    {"user_agent": "x" * 10_000, "note": "\u202e\x85"},
    {"actor": {"id": "a", "on_behalf_of": "b"}, "target": "patient/7", "changes": {"role": ("a", "b")}},
    {"error": ValueError("wrong"), "regulatory_tags": ["a", "\ud800"], "outcome": "denied"},
]


async def log(trail: AuditTrail, message: str = "m", **fields: Any) -> str:
    return await trail.log_event(AuditEventType.DATA_ACCESS, message, **fields)


def records(directory: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for path in sorted(directory.glob("*.jsonl"))).splitlines()


@DURABILITIES
@pytest.mark.parametrize("fields", ODD, ids=",".join)
async def test_a_record_is_that_of_its_event(tmp_path: Path, durability: Any, fields: dict[str, Any]) -> None:
    """What is written without an event having been made is, byte for byte, what is written of the event."""
    trail = AuditTrail(storage_path=tmp_path, durability=durability)
    for number in range(2):
        await log(trail, f"record {number}", **fields)
    stored = records(tmp_path)
    events = list(reversed(await trail.get_events()))
    head = chain.EMPTY
    for line, event in zip(stored, events, strict=True):
        again, seal = chain.seal(chain.body(event), head.sequence_number + 1, head.checksum)
        assert again == line + b"\n"
        head = chain.ChainHead(seal.sequence_number, seal.checksum)


@DURABILITIES
async def test_an_append_of_ones_own_gets_each_event(tmp_path: Path, durability: Any) -> None:
    """A storage that does more with an event is given every one, whatever the trail knows of files."""

    class Telling(FileStorage):
        async def append(self, event: AuditEvent, **how: Any) -> Any:
            told.append(event)
            return await super().append(event, **how)

    told: list[AuditEvent] = []
    trail = AuditTrail(storage=Telling(tmp_path, durability=durability), alert_dispatcher=RecordingDispatcher())
    for number in range(3):
        await log(trail, str(number))
    await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password")
    assert [event.message for event in told] == ["0", "1", "2", "wrong password"]
    assert {type(event) for event in told} == {AuditEvent}


async def test_an_append_that_a_test_has_replaced_gets_each_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage whose `append` is replaced after the trail is made is asked by that for every event."""
    storage = FileStorage(tmp_path, durability="write")
    trail = AuditTrail(storage=storage)
    await trail.log_event(AuditEventType.DATA_ACCESS, "m")

    async def full(*_: Any, **__: Any) -> None:
        raise AuditStorageError("no room")

    monkeypatch.setattr(storage, "append", full)
    with pytest.raises(AuditStorageError, match="no room"):
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")


async def test_a_storage_of_any_kind_gets_an_event() -> None:
    """What a storage other than files is given is an event, and no draft of one."""
    kinds: list[type] = []

    class Kinds(MemoryStorage):
        async def append(self, event: AuditEvent, **how: Any) -> Any:
            kinds.append(type(event))
            return await super().append(event, **how)

    storage = Kinds()
    await log(AuditTrail(storage=storage))
    assert (kinds, len(storage.events)) == ([AuditEvent], 1)


async def test_a_write_that_fails_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a write that failed nobody knows how much is there: it is told, as an incident too, and not repeated."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher, durability="write")
    await log(trail)
    tries: list[int] = []
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if b"the message" not in data:
            return write(fd, data)
        tries.append(fd)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(AuditStorageError, match="No space left on device"):
            await log(trail, "the message")
    assert len(tries) == 1
    await log(trail, "again")
    assert (await trail.verify_chain_from_storage()).valid
    assert "the message" not in {event.message for event in await trail.get_events()}
    assert dispatcher.alerts


class Odd(BaseException):
    """What a signal handler may raise."""


async def raised_by_a_write_that_raises(directory: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """Return what a call raises whose write raises *error*: it opens no incident, and the next call stores."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(storage=FileStorage(directory, durability="write"), alert_dispatcher=dispatcher)
    await log(trail)

    def write(_: int, __: bytes) -> int:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(BaseException) as raised:  # noqa: PT011  the caller looks
            await log(trail)
    await log(trail)
    assert (await trail.verify_chain_from_storage()).events_checked == 2
    assert not dispatcher.alerts
    return raised.value


@pytest.mark.parametrize("error", [Odd("time is up"), ValueError("time is up"), TimeoutError("time is up")], ids=repr)
async def test_whatever_interrupts_a_write_is_for_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """A signal handler may raise anything in the middle of a write: that ends its caller, and opens no incident."""
    with pytest.raises(type(error), match="time is up"):
        raise await raised_by_a_write_that_raises(tmp_path, monkeypatch, error)


@pytest.mark.parametrize("error", [RecursionError(), MemoryError()], ids=repr)
async def test_a_full_stack_or_memory_is_no_failure_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Where the stack or the memory ends in the middle of a write, the event may be stored, which opens no incident."""
    with pytest.raises(StoringInterruptedError, match="may be stored or not"):
        raise await raised_by_a_write_that_raises(tmp_path, monkeypatch, error)


async def test_the_same_id_is_stored_once_by_its_record(tmp_path: Path) -> None:
    """An id that the caller gives is looked for, though a write alone would be faster."""
    trail = AuditTrail(storage_path=tmp_path, durability="write")
    ids = [await log(trail, event_id="7f3a") for _ in range(3)]
    assert (ids, len(await trail.get_events()), (await trail.get_statistics())["total_events"]) == (["7f3a"] * 3, 1, 1)
