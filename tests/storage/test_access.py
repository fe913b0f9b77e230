"""Who may read the files: the mode and the group that a `FileStorage` gives them."""

import errno
import grp
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fapilog import AuditEvent, AuditEventType, AuditStorageError, FileStorage
from fapilog.storage._archive.day import compress_day
from fapilog.storage._files.times import INDEX
from fapilog.storage.holds import add_hold
from fapilog.storage.protocol import EventFilter
from fapilog.tasks.loops import without_loop

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
EVENT = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m")


@pytest.fixture
def _narrow_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def a_group() -> grp.struct_group:
    """Return a group that this process may give a file: not its own one, if it may."""
    own = os.getegid()
    others = grp.getgrall() if os.geteuid() == 0 else [grp.getgrgid(each) for each in os.getgroups()]
    return next((each for each in others if each.gr_gid != own), grp.getgrgid(own))


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in sorted(directory.iterdir())}


@pytest.mark.usefixtures("_narrow_umask")
@pytest.mark.parametrize(("mode", "directories"), [(0o640, 0o750), (0o644, 0o755), (0o660, 0o770), (0o600, 0o700)])
async def test_a_group_may_read(tmp_path: Path, mode: int, directories: int) -> None:
    """Each file and directory that is made has the mode and the group, whatever the umask; those before keep theirs."""
    group = a_group()
    now = NOON
    storage = FileStorage(tmp_path / "above" / "audit", now=lambda: now, mode=mode, group=group.gr_name)
    await storage.append(EVENT)
    directory = tmp_path / "above" / "audit"
    for each in (directory.parent, directory):
        assert stat.S_IMODE(each.stat().st_mode) == directories
        assert each.stat().st_gid == group.gr_gid
    (directory / "audit_2026-01-31.jsonl").chmod(0o604)
    directory.chmod(0o711)
    await storage.aclose()
    with (directory / "audit_2026-01-31.jsonl").open("ab") as file:
        file.write(b"torn")
    await storage.append(EVENT)
    now += timedelta(days=1)
    await storage.append(EVENT)
    await storage.aclose()
    [aside] = [name for name in modes(directory) if "torn" in name]
    assert modes(directory) == {
        "audit_2026-01-31.jsonl": 0o604,
        aside: mode,
        "audit_2026-02-01.jsonl": mode,
        # Made when that day was over, for those who may read its file.
        INDEX: 0o604,
    }
    assert {path.stat().st_gid for path in directory.iterdir()} == {group.gr_gid}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o711


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mode": "0640"}, TypeError, "mode: expected an int such as 0o640; got a str"),
        ({"mode": 640}, ValueError, "mode: expected one that lets the owner .*; got 0o1200; did you mean 0o640[?]"),
        ({"mode": 0o440}, ValueError, "got 0o440"),
        ({"mode": 0o646}, ValueError, "got 0o646"),
        ({"mode": 0o750}, ValueError, "got 0o750"),
        ({"mode": 0o2640}, ValueError, "got 0o2640"),
        ({"mode": -1}, ValueError, "mode: "),
        ({"group": "no such group"}, ValueError, "group: expected a group of this system; got 'no such group'"),
        ({"group": -7}, ValueError, "group: expected a name, or a number from 0 to 4294967294; got -7"),
        ({"group": "\ud800"}, ValueError, "group: expected a group of this system; got "),
        ({"group": "a\0b"}, ValueError, "group: expected a group of this system; got "),
        ({"group": 2**32 - 1}, ValueError, "group: expected a name, or a number"),
        ({"group": b"audit"}, TypeError, "group: expected a name or a number; got a bytes"),
    ],
)
def test_what_is_wrong_is_said_at_once(tmp_path: Path, options: Any, error: type[Exception], words: str) -> None:
    """A mode that would lock the owner out, or let others in to write, and an unknown group, are errors at once."""
    with pytest.raises(error, match=words):
        FileStorage(tmp_path, **options)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give any group")
async def test_a_group_without_a_name(tmp_path: Path) -> None:
    """In a container the group of the process may have a number alone."""
    number = next(number for number in range(60_000, 70_000) if number not in {each.gr_gid for each in grp.getgrall()})
    await FileStorage(tmp_path / "audit", mode=0o640, group=number).append(EVENT)
    assert {path.stat().st_gid for path in (tmp_path / "audit", *(tmp_path / "audit").iterdir())} == {number}


async def test_a_group_that_may_not_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses the group, no event is stored under another, and no file is left that would have it."""
    storage = FileStorage(tmp_path, group=os.getegid())

    def refuse(fd: int, user: int, group: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", refuse)
        for _ in range(2):
            with pytest.raises(AuditStorageError, match="Operation not permitted"):
                await storage.append(EVENT)
            assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240
    assert (await storage.append(EVENT)) is not None
    await storage.aclose()


def test_the_index_is_for_whoever_the_records_are_for(tmp_path: Path) -> None:
    """Made by a question for a day that is compressed, the index has the mode and the group of the records."""
    group = a_group()
    for now in (NOON, NOON + timedelta(days=1)):
        storage = FileStorage(tmp_path / "audit", now=lambda now=now: now, mode=0o660, group=group.gr_name)  # type: ignore[misc]
        without_loop(storage.append(replace(EVENT, timestamp=now)))
    compress_day(tmp_path / "audit", "audit_2026-01-31.jsonl")
    (tmp_path / "audit" / INDEX).unlink(missing_ok=True)
    asked = EventFilter(end_time=NOON)
    assert len(without_loop(FileStorage(tmp_path / "audit").find(asked, 10))) == 1
    found = (tmp_path / "audit" / INDEX).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, group.gr_gid)


def test_who_may_write_records_may_set_holds(tmp_path: Path) -> None:
    """A hold, and the lock of retention, are for the owner and the group that the records are for."""
    directory, group = tmp_path / "audit", a_group()
    without_loop(FileStorage(directory, mode=0o660, group=group.gr_name).append(EVENT))
    add_hold(directory, "a lawsuit")
    assert set(modes(directory).values()) == {0o660}
    assert {path.stat().st_gid for path in directory.iterdir()} == {group.gr_gid}
    assert len(list(directory.iterdir())) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can be had by root alone")
@pytest.mark.parametrize("may_give", [True, False])
def test_root_locks_no_service_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, may_give: bool) -> None:
    """Each file that root makes in the directory of a service is that service's, where root may give it away."""
    now = NOON
    storage = FileStorage(tmp_path, now=lambda: now)
    os.chown(tmp_path, 54321, 54321)
    if not may_give:
        monkeypatch.setattr(os, "fchown", _refuse)
    without_loop(storage.append(EVENT))
    with (tmp_path / "audit_2026-01-31.jsonl").open("ab") as file:
        file.write(b"torn")
    now += timedelta(days=1)
    without_loop(storage.append(EVENT))
    without_loop(storage.aclose())
    owners = {path.name[:26]: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.glob("*.jsonl*")}
    assert len(owners) == 3
    assert set(owners.values()) == {(54321, 54321) if may_give else (0, os.getegid())}


def _refuse(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")
