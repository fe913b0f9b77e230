"""Each call to the operating system that a trail makes fails once: the caller gets `AuditStorageError` or a success."""

import errno
import fcntl
import itertools
import os
import stat
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, ChainStatus, FileStorage
from fapilog.record import chain
from fapilog.storage._files.access import Access
from fapilog.storage._files.recent import Once
from tests.doubles.trail_files import TrailFiles

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
TODAY = "audit_2026-01-31.jsonl"

CALLS = [
    *("os.open", "os.close", "os.fsync", "os.fdatasync", "os.ftruncate", "os.write", "os.pread", "os.fstat"),
    *("os.stat", "os.lstat", "os.scandir", "os.listdir", "os.mkdir", "fcntl.flock", "os.fchmod", "os.fchown"),
]


def body(message: str) -> bytes:
    return chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message))


def trail_in(directory: Path, *, durable: bool = True, days: int = 0) -> TrailFiles:
    return TrailFiles(directory, durable=durable, now=lambda: NOON + timedelta(days=days))


class Disk:
    """Lets the call of one kind with that *number*, from 0, fail, or all from there on; a close closes all the same."""

    def __init__(self, call: str, number: int, *, for_good: bool = False) -> None:
        self.failed = False
        self._number = number
        self._for_good = for_good
        module, _, self._name = call.partition(".")
        self._module = {"os": os, "fcntl": fcntl}[module]
        self._real = getattr(self._module, self._name)
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        self._patch.setattr(self._module, self._name, self._call)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def _call(self, *args: Any, **options: Any) -> Any:
        self._number -= 1
        if self._number >= 0 or (self.failed and not self._for_good):
            return self._real(*args, **options)
        self.failed = True
        if self._name == "close":
            self._real(*args)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def append_first(directory: Path) -> Generator[Callable[[], object]]:
    """A new trail, two directories deep."""
    yield lambda: trail_in(directory / "below" / "audit").append([body("new")])


def append_next(directory: Path) -> Generator[Callable[[], object]]:
    trail = trail_in(directory / "below" / "audit")
    trail.append([body("old")])
    yield lambda: trail.append([body("new")])
    trail.close()


def append_at_once(directory: Path) -> Generator[Callable[[], object]]:
    trail = trail_in(directory / "below" / "audit", durable=False)
    trail.append([body("old")])
    yield lambda: trail.append_at_once(body("new")) or trail.append([body("new")])
    trail.close()


def append_behind_another(directory: Path) -> Generator[Callable[[], object]]:
    trail, other = trail_in(directory / "below" / "audit"), trail_in(directory / "below" / "audit")
    trail.append([body("old")])
    other.append([body("old")])
    other.close()
    yield lambda: trail.append([body("new")])
    trail.close()


def append_on_the_next_day(directory: Path) -> Generator[Callable[[], object]]:
    days = 0
    trail = TrailFiles(directory / "below" / "audit", durable=True, now=lambda: NOON + timedelta(days=days))
    trail.append([body("old")])
    days = 1
    yield lambda: trail.append([body("new")])
    trail.close()


def append_after_a_crash(directory: Path) -> Generator[Callable[[], object]]:
    trail = trail_in(directory / "below" / "audit")
    trail.append([body("old")])
    trail.close()
    with (trail.directory / TODAY).open("ab") as file:
        file.write(b"torn")
    yield lambda: trail.append([body("new")])
    trail.close()


def append_first_for_a_group(directory: Path) -> Generator[Callable[[], object]]:
    access = Access(0o640, os.getegid())
    trail = TrailFiles(directory / "below" / "audit", durable=True, now=lambda: NOON, access=access)
    yield lambda: trail.append([body("new")])
    assert {stat.S_IMODE(path.stat().st_mode) for path in trail.directory.iterdir()} <= {0o640, 0o600}
    trail.close()


def append_once(directory: Path) -> Generator[Callable[[], object]]:
    trail = trail_in(directory / "below" / "audit")
    trail_in(directory / "below" / "audit", durable=False).append([body("old")])
    yield lambda: trail.append([Once(body("new"))])
    trail.close()


def append_behind_what_can_not_be_cut_off(directory: Path) -> Generator[Callable[[], object]]:
    trail = trail_in(directory / "below" / "audit")
    trail.append([body("old")])
    trail.close()
    path = trail.directory / TODAY
    with path.open("ab") as file:
        file.write(b"torn")
    real = os.ftruncate

    def refuse(fd: int, size: int) -> None:
        if os.path.samestat(os.fstat(fd), path.stat()):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real(fd, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "ftruncate", refuse)
        yield lambda: trail.append([body("new")])
    trail.close()


WAYS = [
    append_first_for_a_group,
    append_once,
    append_behind_what_can_not_be_cut_off,
    append_first,
    append_next,
    append_at_once,
    append_behind_another,
    append_on_the_next_day,
    append_after_a_crash,
]


def stored(directory: Path) -> list[str]:
    return [event.message for event in trail_in(directory).newest_first()][::-1]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_failing_call_is_a_refusal_or_a_success(
    tmp_path: Path, way: Callable[[Path], Generator[Callable[[], object]]]
) -> None:
    """What is returned is stored, what is refused is not, nobody waits for a lock, and the next event is stored."""
    for call in CALLS:
        each_fails(tmp_path / call, way, call)


def each_fails(path: Path, way: Callable[[Path], Generator[Callable[[], object]]], call: str) -> None:
    """Let the first *call* fail, then the second, and so on; the directory of an attempt names both."""
    for number in itertools.count():
        directory = path / str(number) / "below" / "audit"
        directory.parent.parent.mkdir(parents=True)
        going = way(directory.parent.parent)
        append = next(going)
        before = stored(directory)
        is_stored = True
        with Disk(call, number) as disk:
            try:
                append()
            except AuditStorageError:
                is_stored = False
        if not disk.failed:
            going.close()
            break
        # Another process first, which would wait for ever for a lock that is still held.
        other = trail_in(directory, durable=False)
        if directory.exists():
            fd = os.open(directory, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)
        assert stored(directory) == [*before, *["new"] * is_stored]
        other.append([body("by another")])
        append()
        assert stored(directory) == [*before, *["new"] * is_stored, "by another", "new"]
        assert trail_in(directory).verify().valid
        other.close()
        for _ in going:
            pass
    assert is_stored


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("durable", [True, False], ids=["fsync", "write"])
def test_a_failing_unlock_or_close_is_no_failure(tmp_path: Path, *, durable: bool, for_good: bool) -> None:
    """A written record is stored, whatever becomes of the lock and the descriptors, and no writer waits for ever."""
    for call in ("fcntl.flock", "os.close"):
        days = 0
        directory = tmp_path / call
        trail = TrailFiles(directory, durable=durable, now=lambda: NOON + timedelta(days=days))  # noqa: B023
        other = trail_in(directory, durable=durable, days=2)
        # The first flock takes the lock, and the second gives it up.
        real = fcntl.flock

        def unlock(fd: int, how: int) -> None:
            if how == fcntl.LOCK_UN:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(fd, how)  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            if call == "fcntl.flock":
                patch.setattr(fcntl, "flock", unlock)
            with Disk("os.close", 0 if call == "os.close" else 1 << 30, for_good=for_good):
                for turn in range(4):
                    assert len(trail.append([body(f"{turn}")])) == 1
                    trail.append_at_once(body(f"{turn} at once")) or trail.append([body(f"{turn} at once")])
                    days = turn % 2
                    assert other.verify().status is ChainStatus.OK
                    assert len(other.read(0, 100)) == len(list(other.newest_first())) == 2 * turn + 2
                trail.close()
        other.append([body("by another")])
        verdict = trail.verify()
        assert (verdict.status, verdict.events_checked) == (ChainStatus.OK, 9)
        other.close()


@pytest.mark.parametrize("call", CALLS)
def test_reading_raises_nothing_but_its_own_error(tmp_path: Path, call: str) -> None:
    """Where a call fails, readers raise `AuditStorageError`, and the verdict is right, or that it can't be read."""
    trail = trail_in(tmp_path)
    trail.append([body("one")])
    trail_in(tmp_path, days=1).append([body("two")])
    with (tmp_path / "audit_2026-02-01.jsonl").open("ab") as file:
        file.write(b"torn")
    reads: list[Callable[[], object]] = [lambda: trail.read(0, 10), lambda: list(trail.newest_first())]
    for read in reads:
        right = read()
        for number in itertools.count():
            said = f"cannot read {tmp_path}: Input/output error"
            with Disk(call, number) as disk:
                try:
                    assert read() == right
                except AuditStorageError as error:
                    said = str(error)
            assert said == f"cannot read {tmp_path}: Input/output error"
            if not disk.failed:
                break
    verdict = trail.verify()
    for number in itertools.count():
        with Disk(call, number) as disk:
            found = trail.verify()
        if found != verdict:
            assert (found.valid, found.status, found.first_invalid_sequence) == (False, ChainStatus.UNREADABLE, None)
            assert found.error_message == f"cannot read {tmp_path}: Input/output error"
        if not disk.failed:
            break
    trail.append([body("three")])
    trail.close()


@pytest.mark.parametrize("call", ["fcntl.flock", "os.close", "os.fsync", "os.fdatasync"])
async def test_closing_a_storage_raises_nothing(tmp_path: Path, call: str) -> None:
    """A trail is stopped, and a storage closed, whatever fails meanwhile, and can be used again."""
    storage = FileStorage(tmp_path)
    async with AuditTrail(storage=storage) as trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        disk = Disk(call, 0, for_good=True)
        disk.__enter__()
    await storage.aclose()
    disk.__exit__()
    await storage.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"))
    assert (await storage.verify()).events_checked == 2
    await storage.aclose()


def test_a_directory_whose_name_is_not_on_the_disk_is_made_anew(tmp_path: Path) -> None:
    """If the sync of the directory above fails, the next append makes the directory again, and syncs that."""
    synced: list[str] = []
    real = os.fsync

    def note(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    trail = trail_in(tmp_path / "above" / "audit")
    for number in (0, 1, 0):
        with Disk("os.fsync", number), pytest.raises(AuditStorageError, match="Input/output error"):
            trail.append([body("m")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", note)
        trail.append([body("m")])
    assert synced == [str(tmp_path / "above"), str(tmp_path / "above" / "audit")]
    assert trail.verify().events_checked == 1
    trail.close()
