"""Files that can only be appended to (`chattr +a`): nothing can be cut off, not even what a crash left."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, ChainStatus, CompliancePolicy
from fapilog.record import chain
from tests.doubles.aged_trails import aged_trail, day_file
from tests.doubles.file_systems import append_only
from tests.doubles.trail_files import TrailFiles

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAYS = ["audit_2026-01-31.jsonl", "audit_2026-02-01.jsonl", "audit_2026-02-02.jsonl", "audit_2026-02-03.jsonl"]


def body(message: str = "m") -> bytes:
    return chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message))


def trail_in(directory: Path, days: int = 0) -> TrailFiles:
    return TrailFiles(directory, durable=True, now=lambda: NOON + timedelta(days=days))


Protect = Callable[[Path], object]


@pytest.fixture(params=["chattr", "a double"])
def protect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Protect]:
    """Return a function that makes a file append-only."""
    with ExitStack() as attributes:
        if request.param == "chattr":
            yield lambda path: attributes.enter_context(append_only(path))
            return
        paths: set[str] = set()
        real_open, real_truncate = os.open, os.ftruncate

        def refuse() -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        def open_file(path: Any, flags: int, *args: Any) -> int:
            writes = flags & (os.O_WRONLY | os.O_RDWR)
            if str(path) in paths and writes and (not flags & os.O_APPEND or flags & os.O_TRUNC):
                refuse()
            return real_open(path, flags, *args)

        def truncate(fd: int, size: int) -> None:
            if str(Path(f"/proc/self/fd/{fd}").readlink()) in paths:
                refuse()
            real_truncate(fd, size)

        monkeypatch.setattr(os, "open", open_file)
        monkeypatch.setattr(os, "ftruncate", truncate)
        yield lambda path: paths.add(str(path))


def contents(directory: Path) -> dict[str, int]:
    """Return how many lines each file has."""
    return {path.name: path.read_bytes().count(b"\n") for path in sorted(directory.glob("*.jsonl"))}


def test_a_torn_record_is_left_where_it_is(tmp_path: Path, protect: Protect) -> None:
    """Behind a torn record that can't be cut off, the chain goes on in the file of the next day, again and again."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    for day in range(3):
        protect(tmp_path / DAYS[day])
        trail.append([body(f"{day}")])
        trail.close()
        with (tmp_path / DAYS[day]).open("ab") as file:
            file.write(body("torn")[:-9])
        assert trail_in(tmp_path).verify().status is ChainStatus.TORN_TAIL
        other = trail_in(tmp_path)
        other.append([body(f"behind {day}")])
        trail.append([body("by the first again")])
        other.close()
    assert contents(tmp_path) == dict(zip(DAYS, [2, 3, 3, 2], strict=True))
    verdict = trail.verify()
    assert (verdict.valid, verdict.status, verdict.events_checked) == (True, ChainStatus.TORN_TAIL, 10)
    assert [name.partition(".torn")[0] for name in verdict.set_aside] == DAYS[:3]
    assert [event.sequence_number for event in trail.newest_first()] == list(range(10, 0, -1))
    assert len(trail.read(0, 100)) == 10
    trail.close()
    # Days later, when the clock has come to these files.
    later = trail_in(tmp_path, days=5)
    later.append([body()])
    assert contents(tmp_path)["audit_2026-02-05.jsonl"] == 1
    assert later.verify().events_checked == 11
    later.close()


def test_a_record_without_its_newline_is_ended(tmp_path: Path, protect: Protect) -> None:
    """A whole record that lacks its newline gets one, and the file goes on."""
    trail = trail_in(tmp_path)
    trail.append([body()])
    [seal] = trail.append([body()])
    trail.close()
    with (tmp_path / DAYS[0]).open("ab") as file:
        file.write(chain.seal(body(), 3, seal.checksum)[0][:-1])
    protect(tmp_path / DAYS[0])
    trail.append([body()])
    assert contents(tmp_path) == {DAYS[0]: 4}
    assert trail.verify().status is ChainStatus.OK
    trail.close()


def test_a_full_disk(tmp_path: Path, protect: Protect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of a record that a full disk left is set aside by the next append, in the process that wrote it too."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    protect(tmp_path / DAYS[0])
    real = os.write

    def write(fd: int, data: bytes) -> int:
        if real(fd, data[:100]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(AuditStorageError, match="No space left on device; whether it is stored"):
            trail.append([body("lost")])
    trail.append([body("two")])
    assert contents(tmp_path) == {DAYS[0]: 1, DAYS[1]: 1}
    assert [event.message for event in trail.newest_first()] == ["two", "one"]
    assert trail.verify().valid
    trail.close()


def test_a_failed_sync(tmp_path: Path, protect: Protect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the records can't be written again, another sync has to do, and the trail goes on."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    protect(tmp_path / DAYS[0])
    left = 2
    real = os.fdatasync

    def fail(fd: int) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(AuditStorageError, match="may be stored"):
        trail.append([body("two")])
    trail.append([body("three")])
    assert [event.message for event in trail.newest_first()] == ["three", "two", "one"]
    assert trail.verify().status is ChainStatus.OK
    trail.close()


def test_what_was_not_set_aside_is_damage(tmp_path: Path) -> None:
    """A file that ends in the middle of a record is intact only if that end was set aside, to the byte."""
    trail_in(tmp_path).append([body("one")])
    with (tmp_path / DAYS[0]).open("ab") as file:
        file.write(b"torn")
    with pytest.MonkeyPatch.context() as patch:

        def refuse(fd: int, size: int) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        patch.setattr(os, "ftruncate", refuse)
        trail_in(tmp_path).append([body("two")])
    assert trail_in(tmp_path).verify().valid
    [aside] = tmp_path.glob("*.torn-*")
    for rest in (b"turn", b"torn?", b""):
        aside.write_bytes(rest)
        verdict = trail_in(tmp_path).verify()
        assert (verdict.valid, verdict.status) == (False, ChainStatus.UNREADABLE)
        with pytest.raises(AuditStorageError, match="the record is incomplete, and more follow"):
            trail_in(tmp_path).append([body()])


def test_after_the_last_day_there_is_no_other(tmp_path: Path) -> None:
    """A file that needs a day after it, which there is none of, is an error that names the file."""
    last = TrailFiles(tmp_path, durable=True, now=lambda: datetime(9999, 12, 31, tzinfo=UTC))
    last.append([body()])
    last.close()
    with (tmp_path / "audit_9999-12-31.jsonl").open("ab") as file:
        file.write(b"torn")
    with pytest.MonkeyPatch.context() as patch:

        def refuse(fd: int, size: int) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(AuditStorageError, match=r"audit_9999-12-31\.jsonl: expected a file with a day after it"):
            last.append([body()])


def test_a_day_that_can_not_be_removed_is_named(tmp_path: Path) -> None:
    """Where retention can't remove an append-only day, the error names that file; the next run removes it."""
    directory = aged_trail(tmp_path / "trail", (40, 1))
    trail = AuditTrail(CompliancePolicy(retention_days=30), directory)
    day = directory / day_file(40)
    with append_only(day), pytest.raises(AuditStorageError, match=f"Operation not permitted; .* and {day} is user"):
        trail.sync.apply_retention()
    assert day.exists()
    trail.sync.apply_retention()
    assert not day.exists()
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.FRONT_PRUNED
