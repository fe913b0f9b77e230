"""A record that a reader could see stays where it is, whatever the disk does."""

import contextlib
import ctypes
import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, ChainStatus, FileStorage
from fapilog.record import chain
from fapilog.storage._files import reserving
from fapilog.storage._files.recent import Once
from fapilog.storage._files.writer import TrailWriter
from tests.doubles.file_systems import mounted
from tests.doubles.trail_files import TrailFiles, whole

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
TODAY = "audit_2026-01-31.jsonl"

durabilities = pytest.mark.parametrize("durable", [True, False], ids=["fsync", "write"])


def body(event_id: str, size: int = 1) -> bytes:
    return chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m" * size, event_id=event_id))


def trail_in(directory: Path, *, durable: bool = True) -> TrailFiles:
    return TrailFiles(directory, durable=durable, now=lambda: NOON)


def ids(directory: Path) -> list[str]:
    return [event.event_id for event in trail_in(directory, durable=False).read(0, 10_000)]


class Shipper:
    """Follows a file as `tail -F` does, and sends its lines on as soon as they are there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sent: list[bytes] = []
        self.saw_piece = False

    def look(self) -> None:
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        assert self.sent == whole[: len(self.sent)], "a record that was seen is gone"
        self.sent = whole
        self.saw_piece |= lines != whole


def watched(shipper: Shipper, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        shipper.look()
        try:
            return real(*args)
        finally:
            shipper.look()

    return call


@contextmanager
def looking_at_each_step(shipper: Shipper) -> Iterator[None]:
    """Let the shipper look before and after each call that changes the file."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "pwrite", "ftruncate", "fdatasync"):
            patch.setattr(os, name, watched(shipper, getattr(os, name)))
        yield


@contextmanager
def no_more_than(directory: Path, how: str) -> Iterator[None]:
    """Have room for some 64 KiB."""
    if how != "a limit":
        with mounted(directory, "64k"):
            yield
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_001, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@durabilities
@pytest.mark.parametrize("how", ["a full disk", "a limit", "a full disk where no room can be reserved"])
def test_records_that_fit_are_kept(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, *, durable: bool) -> None:
    """Of a batch that fits in part, the records that are whole have their seals, and no record is taken back."""
    if how.endswith("reserved"):
        monkeypatch.setattr(reserving, "_fallocate", lambda: None)
    writer = TrailWriter(tmp_path / "audit", durable=durable, now=lambda: NOON)
    shipper = Shipper(tmp_path / "audit" / TODAY)
    (tmp_path / "audit").mkdir()
    said: dict[str, bool] = {}
    with no_more_than(tmp_path / "audit", how):
        with looking_at_each_step(shipper):
            for turn in range(20):
                names = [f"{turn}-{number}" for number in range(20)]
                results: list[object] = [None] * len(names)
                with contextlib.suppress(AuditStorageError):
                    results[:] = writer.append([body(each, 397) for each in names])
                said |= {each: isinstance(result, chain.Seal) for each, result in zip(names, results, strict=True)}
        stored = [each for each, is_stored in said.items() if is_stored]
        assert 40 < len(stored) < 200
        assert len(stored) % 20, "no batch was cut"
        assert shipper.saw_piece == how.endswith("reserved")
        assert ids(tmp_path / "audit") == stored
        assert trail_in(tmp_path / "audit").verify().status is ChainStatus.OK
        writer.close()


def test_a_write_that_found_no_room_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system seems to have room, as with a quota, at most one write leaves a piece to be cut off."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    shipper, real = Shipper(tmp_path / TODAY), os.write
    pieces = 0

    def write(fd: int, data: bytes) -> int:
        nonlocal pieces
        if len(data) > 100 and data.startswith(b"{"):
            pieces += 1
            real(fd, data[:100])
            shipper.look()
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    def fallocate(*_: int) -> int:
        ctypes.set_errno(errno.EDQUOT)
        return -1

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(reserving, "_fallocate", lambda: fallocate)
    for _ in range(5):
        with pytest.raises(AuditStorageError, match="quota"):
            trail.append([body("two"), body("three")])
    assert pieces == 1
    monkeypatch.undo()
    trail.append([body("four")])
    assert ids(tmp_path) == ["one", "four"]
    trail.close()


async def test_each_caller_of_a_batch_gets_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers that share a commit which fits in part get what became of their own events."""
    storage = FileStorage(tmp_path)
    await storage.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="first"))
    [path] = tmp_path.glob("*.jsonl")  # noqa: ASYNC240
    room = 3 * path.stat().st_size + 100
    real = os.write

    def write(fd: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(fd, data[:room])
        room -= written
        return written

    results: dict[str, bool] = {}

    async def append(event_id: str) -> None:
        event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", event_id=event_id)
        results[event_id] = False
        with contextlib.suppress(AuditStorageError):
            results[event_id] = (await storage.append(event)) is not None

    monkeypatch.setattr(os, "write", write)
    storage._commits._turn.acquire()
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(append, f"{number}")
        while len(storage._commits._waiting) < 6:
            await anyio.lowlevel.checkpoint()
        storage._commits._turn.release()
    monkeypatch.undo()
    assert sum(results.values()) == 3
    events = [whole(each) for each in await storage.read(1, 10)]
    assert {event_id for event_id, is_stored in results.items() if is_stored} == {
        whole(event).event_id for event in events
    }
    await storage.aclose()


class Syncs:
    """Lets so many syncs of data fail; notes what is written again."""

    def __init__(self, patch: pytest.MonkeyPatch, failures: int) -> None:
        self.left = failures
        self.calls: list[str] = []
        sync, write = os.fdatasync, os.pwrite

        def fail(fd: int) -> None:
            self.calls.append("sync")
            self.left -= 1
            if self.left >= 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(fd)

        def note(fd: int, data: bytes, offset: int) -> int:
            self.calls.append("write again")
            return write(fd, data, offset)

        patch.setattr(os, "fdatasync", fail)
        patch.setattr(os, "pwrite", note)


def test_a_sync_that_fails_once_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync the records are written again and synced; if that succeeds they are stored."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    syncs = Syncs(monkeypatch, 1)
    with looking_at_each_step(Shipper(tmp_path / TODAY)):
        assert [seal.sequence_number for seal in trail.append([body("two"), body("three")])] == [2, 3]
        assert [seal.sequence_number for seal in trail.append([body("four")])] == [4]
    assert syncs.calls == ["sync", "write again", "sync", "sync"]
    assert ids(tmp_path) == ["one", "two", "three", "four"]
    trail.close()


@pytest.mark.parametrize("others", [0, 3])
def test_a_sync_that_fails_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """Records that can't be synced stay, their callers are told that they may be stored, and no more are written."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    syncs = Syncs(monkeypatch, 5)
    with looking_at_each_step(Shipper(tmp_path / TODAY)):
        with pytest.raises(AuditStorageError, match="error; it may be stored all the same: its record is written"):
            trail.append([body("two")])
        for _ in range(3):
            with pytest.raises(AuditStorageError, match=r"cannot append to .*: Input/output error$"):
                trail.append([body("not written")])
        other = trail_in(tmp_path, durable=False)
        for number in range(others):
            other.append([body(f"by another {number}")])
        syncs.calls.clear()
        assert trail.writer.append([Once(body("two")), body("three")])[0] is None
    # Before anything else, and where they are.
    assert syncs.calls[:2] == ["write again", "sync"]
    assert ids(tmp_path) == ["one", "two", *(f"by another {number}" for number in range(others)), "three"]
    assert trail_in(tmp_path).verify().status is ChainStatus.OK
    trail.close()


def test_what_the_disk_has_lost_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has forgotten records whose sync failed, and reads zeros, they are there again."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    first = (tmp_path / TODAY).read_bytes()
    Syncs(monkeypatch, 2)
    with pytest.raises(AuditStorageError, match="it may be stored all the same"):
        trail.append([body("two"), body("three")])
    whole = (tmp_path / TODAY).read_bytes()
    (tmp_path / TODAY).write_bytes(first + whole[len(first) :][:100] + bytes(len(whole) - len(first) - 100))
    trail.append([body("four")])
    assert (tmp_path / TODAY).read_bytes().startswith(whole)
    assert trail_in(tmp_path).verify().status is ChainStatus.OK
    trail.close()


def test_nothing_is_written_again_into_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file was cut or replaced since its sync failed, nothing is written to it, and the append says so."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    first = (tmp_path / TODAY).read_bytes()
    syncs = Syncs(monkeypatch, 2)
    with pytest.raises(AuditStorageError, match="it may be stored all the same"):
        trail.append([body("two")])
    for spoil in (
        lambda: os.truncate(tmp_path / TODAY, len(first)),
        (tmp_path / TODAY).unlink,
        lambda: (tmp_path / TODAY).write_bytes(b"x" * 10_000),
    ):
        spoil()
        syncs.calls.clear()
        before = (tmp_path / TODAY).read_bytes() if (tmp_path / TODAY).exists() else None
        with pytest.raises(AuditStorageError, match="nothing is appended"):
            trail.append([body("three")])
        assert "write again" not in syncs.calls
        assert ((tmp_path / TODAY).read_bytes() if (tmp_path / TODAY).exists() else None) == before
    trail.close()
