"""Retention: what is old enough is compressed, archived and removed, and nothing else; and the rest verifies."""

import asyncio
import contextlib
import gzip
import json
import os
import shutil
import signal
import sqlite3
import threading
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from fapilog import (
    ArchiveStorage,
    AuditEvent,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    ChainStatus,
    CompliancePolicy,
    DirectoryArchive,
    FanOut,
    Outbox,
    Route,
)
from fapilog.record import chain
from fapilog.record.chain import head_before
from fapilog.record.kinds import ComplianceLevel
from fapilog.storage import retention
from fapilog.storage._anchor import ANCHOR
from fapilog.storage._archive.day import exclusive
from fapilog.storage._archive.together import verify_together
from fapilog.storage._files.lines import Lines
from fapilog.storage._files.recovering import recover
from fapilog.storage._files.times import INDEX
from fapilog.storage._files.verifying import verify
from fapilog.storage.archive import PackedFile
from fapilog.storage.holds import add_hold, holds_on, remove_hold
from fapilog.storage.memory import MemoryStorage
from fapilog.testing import RecordingDispatcher
from tests.doubles.aged_trails import aged_trail, day_file, today
from tests.doubles.file_systems import empty, fill, mounted
from tests.doubles.trail_files import TrailFiles, whole
from tests.programs.appending_files import bodies

pytestmark = pytest.mark.real_time

AGES = (40, 39, 38, 10, 2, 1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A trail of six days, 40 to 1 days ago, with three records each."""
    return aged_trail(tmp_path / "trail", AGES)


def trail_in(directory: Path, days: int | None = 30, **policy: Any) -> AuditTrail:
    return AuditTrail(CompliancePolicy(retention_days=days, **policy), directory)


def files(directory: Path) -> list[str]:
    """Return the names of the days that are there."""
    return sorted(path.name for path in directory.glob("audit_2*"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != INDEX}


def verified(directory: Path) -> tuple[bool, ChainStatus, int, int | None]:
    result = TrailFiles(directory, durable=False).verify()
    front = None if result.pruned is None else result.pruned.sequence_number
    return result.valid, result.status, result.events_checked, front


def numbers(directory: Path) -> list[int]:
    return [event.sequence_number or 0 for event in TrailFiles(directory, durable=False).read(0, 1000)]


@pytest.mark.slow_on_trio
async def test_old_days_are_removed(directory: Path) -> None:
    """Days beyond the age are removed, a record and an anchor say so, and the rest verifies, is read and goes on."""
    trail = trail_in(directory)
    heads = [ChainHead(event.sequence_number or 0, event.checksum) for event in await trail.get_events()]
    report = await trail.apply_retention()
    assert [(day.file, day.removed, day.first, day.last) for day in report.days] == [
        (day_file(40), True, 1, 3),
        (day_file(39), True, 4, 6),
        (day_file(38), True, 7, 9),
    ]
    assert report.records == (19,)
    assert files(directory) == [day_file(10), day_file(2), day_file(1), day_file(0)]
    assert verified(directory) == (True, ChainStatus.FRONT_PRUNED, 10, 9)
    assert numbers(directory) == list(range(10, 20))
    (event,) = await trail.get_events(event_type=AuditEventType.RETENTION_POLICY_APPLIED)
    said = event.metadata["fapilog.retention"]
    assert (said["first"], said["sequence_number"], said["previous_hash"], len(said["days"])) == (1, 9, None, 3)
    assert event.reason == "older than 30 days"
    # What follows the front has not changed, and what is before it can't be shown any more.
    assert [await trail.holds(head) for head in heads] == [True] * 9 + [False] * 9
    await trail.log_data_access("patient/1", "read")
    assert verified(directory) == (True, ChainStatus.FRONT_PRUNED, 11, 9)


@pytest.mark.slow_on_trio
async def test_again_and_again(directory: Path) -> None:
    """A later removal takes the place of an earlier one, and one with nothing to remove does nothing."""
    await trail_in(directory, 38).apply_retention()
    assert verified(directory) == (True, ChainStatus.FRONT_PRUNED, 13, 6)
    before = contents(directory)
    assert (await trail_in(directory, 38).apply_retention()).days == ()
    assert contents(directory) == before
    await trail_in(directory, 5).apply_retention()
    assert verified(directory) == (True, ChainStatus.FRONT_PRUNED, 8, 12)


@pytest.mark.one_backend
async def test_without_a_loop(directory: Path) -> None:
    """`trail.sync` has the same method."""
    assert len(trail_in(directory).sync.apply_retention().days) == 3
    assert verified(directory)[1] is ChainStatus.FRONT_PRUNED


@pytest.mark.one_backend
async def test_only_asked(directory: Path, tmp_path: Path) -> None:
    """With *dry_run* the report is that of what would be done, and nothing is."""
    before = contents(directory)
    asked = await trail_in(directory, archive_after_days=9).apply_retention(archive=tmp_path / "archive", dry_run=True)
    assert contents(directory) == before
    assert not (tmp_path / "archive").exists()
    done = await trail_in(directory, archive_after_days=9).apply_retention(archive=tmp_path / "archive")
    assert asked.days == done.days
    assert (asked.dry_run, done.dry_run) == (True, False)


@pytest.mark.one_backend
async def test_days_are_compressed(directory: Path) -> None:
    """Days beyond the other age are compressed in place, once, and are still part of the trail."""
    trail = trail_in(directory, None, archive_after_days=9)
    report = await trail.apply_retention()
    assert [day.compressed for day in report.days] == [True] * 4
    assert files(directory) == [*(f"{day_file(age)}.gz" for age in AGES[:4]), day_file(2), day_file(1)]
    assert verified(directory) == (True, ChainStatus.OK, 18, None)
    assert (await trail.apply_retention()).days == ()


@pytest.mark.one_backend
async def test_ages_beyond_all_days(directory: Path) -> None:
    """An age that no day can have, of more days than Python counts, is one that nothing is old enough for."""
    trail = trail_in(directory, 10**12, archive_after_days=10**12)
    assert (await trail.apply_retention()).days == ()


@pytest.mark.one_backend
async def test_the_newest_file_stays(tmp_path: Path) -> None:
    """Neither the newest file nor today's is touched, however little is asked to be kept."""
    directory = aged_trail(tmp_path / "old", (400, 300))
    await trail_in(directory, 1, archive_after_days=1).apply_retention()
    assert files(directory) == [day_file(300), day_file(0)]
    # The newest before the record, which then is in a newer one.
    await trail_in(directory, 1).apply_retention()
    assert files(directory) == [day_file(0)]
    assert verified(directory) == (True, ChainStatus.FRONT_PRUNED, 2, 6)


@pytest.mark.one_backend
async def test_nothing_is_asked_for(directory: Path) -> None:
    """A policy without ages does nothing."""
    assert (await trail_in(directory, None).apply_retention()).days == ()
    assert files(directory) == [day_file(age) for age in AGES]


# -- the archive


@pytest.mark.slow_on_trio
async def test_the_archive_is_a_trail(directory: Path, tmp_path: Path) -> None:
    """What is removed is in the archive, byte for byte, which verifies and is searched where it is."""
    archive = tmp_path / "archive"
    before = {name: (directory / name).read_bytes() for name in files(directory)}
    report = await trail_in(directory).apply_retention(archive=archive)
    assert [(day.archived, day.removed) for day in report.days] == [(True, True)] * 3
    assert files(archive) == [f"{day_file(age)}.gz" for age in (40, 39, 38)]
    for name in files(archive):
        assert gzip.decompress((archive / name).read_bytes()) == before[name.removesuffix(".gz")]
    assert verified(archive) == (True, ChainStatus.OK, 9, None)
    assert len(await AuditTrail(storage_path=archive).get_events(user_id="user-39")) == 3
    # The next days follow those that are there.
    await trail_in(directory, 5).apply_retention(archive=archive)
    assert verified(archive) == (True, ChainStatus.OK, 12, None)


@pytest.mark.one_backend
async def test_a_day_that_no_archive_takes_stays_with_all_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too large to be compressed, and so is not archived, is not removed with the days around it."""
    for age, count in ((40, 3), (39, 30), (38, 3), (1, 3)):
        aged_trail(tmp_path / "trail", [age], count=count)
    monkeypatch.setattr(retention, "MAX_SIZE", (tmp_path / "trail" / day_file(39)).stat().st_size - 1)
    policy = CompliancePolicy(archive_after_days=30, retention_days=30)
    trail = AuditTrail(policy, tmp_path / "trail", archive=tmp_path / "archive")
    for _ in range(2):
        # The next run would delete what this one has taken for removed.
        report = await trail.apply_retention()
        assert [day.kept for day in report.days][-2:] == ["it is too large to be compressed", "an older day is kept"]
        kept = [day_file(39), day_file(38) + ".gz"]
        assert [name for name in files(tmp_path / "trail") if name < day_file(1)] == kept
    assert numbers(tmp_path / "trail")[:1] == [4]
    await trail.stop()
    # Nor are days behind it archived: the archive has no gap.
    report = await trail_in(tmp_path / "trail", None, archive_after_days=30).apply_retention(archive=trail._archive)
    words = ["it is too large to be compressed", "an older day is too large to be archived"]
    assert [day.kept for day in report.days] == words
    assert files(tmp_path / "archive") == [f"{day_file(40)}.gz"]
    assert verified(tmp_path / "archive") == (True, ChainStatus.OK, 3, None)
    # Without an archive nothing has to be compressed first.
    await trail_in(tmp_path / "trail").apply_retention()
    assert [name for name in files(tmp_path / "trail") if name < day_file(1)] == []


@pytest.mark.one_backend
async def test_archived_and_kept(directory: Path, tmp_path: Path) -> None:
    """Days beyond the age for the archive are there and here; once they are there, they are not copied again."""
    archive = tmp_path / "archive"
    trail = trail_in(directory, None, archive_after_days=9)
    assert [day.archived for day in (await trail.apply_retention(archive=archive)).days] == [True] * 4
    assert (await trail.apply_retention(archive=archive)).days == ()
    assert verified(archive)[:3] == (True, ChainStatus.OK, 12)
    assert verified(directory)[:3] == (True, ChainStatus.OK, 18)


@pytest.mark.one_backend
async def test_an_archive_that_begins_later(directory: Path, tmp_path: Path) -> None:
    """An archive that begins after a first removal says what is before it, once it has the record about that."""
    archive = tmp_path / "archive"
    await trail_in(directory, 39).apply_retention()
    await trail_in(directory, 9).apply_retention(archive=archive)
    assert files(archive)[0] == f"{day_file(39)}.gz"
    assert verified(archive) == (False, ChainStatus.GAP, 9, 3)
    for name in files(directory):
        (archive / name).write_bytes((directory / name).read_bytes())
    assert verified(archive) == (True, ChainStatus.FRONT_PRUNED, 17, 3)


@pytest.mark.one_backend
def calls_of(patch: pytest.MonkeyPatch, name: str) -> list[object]:
    """Return a list that gets the arguments of every call of that function of `os`."""
    calls: list[object] = []
    function = getattr(os, name)

    def call(*args: object) -> object:
        calls.append(args)
        return function(*args)

    patch.setattr(os, name, call)
    return calls


@pytest.mark.slow
@pytest.mark.one_backend
async def test_the_directories_are_listed_as_often_for_many_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many days are compressed and archived, neither their directory nor the archive is listed for each."""
    listings: dict[int, int] = {}
    for count in (3, 12):
        directory = aged_trail(tmp_path / f"trail-{count}", range(10, 40 + count))
        archive = tmp_path / f"archive-{count}"
        # So that the archive begins later than the trail.
        await trail_in(directory, 40).apply_retention()
        with monkeypatch.context() as patch:
            listed = [calls_of(patch, name) for name in ("scandir", "listdir")]
            trail = trail_in(directory, None, archive_after_days=40 - count)
            report = await trail.apply_retention(archive=archive)
        assert sum(day.compressed and day.archived for day in report.days) == count
        listings[count] = sum(map(len, listed))
    assert listings[12] == listings[3]


@pytest.mark.slow_on_trio
async def test_an_archive_that_is_gone(directory: Path, tmp_path: Path) -> None:
    """An archive that had removed days, and is empty, is no new one: its volume may not be mounted."""
    archive = tmp_path / "archive"
    await trail_in(directory, 39).apply_retention(archive=archive)
    archive.rename(tmp_path / "unmounted")
    for dry_run in (True, False):
        with pytest.raises(AuditStorageError, match=rf"^{archive}: it is empty, and had .*; nothing is deleted$"):
            await trail_in(directory, 9).apply_retention(archive=archive, dry_run=dry_run)
        archive.mkdir(exist_ok=True)
    assert files(directory)[0] == day_file(39)
    # Another one begins there.
    await trail_in(directory, 38).apply_retention(archive=tmp_path / "another")
    archive.rmdir()
    (tmp_path / "unmounted").rename(archive)
    assert files(archive) == [f"{day_file(40)}.gz"]


@pytest.mark.parametrize("change", [b"", b"x", gzip.compress(b"{}")], ids=["cut", "garbage", "something else"])
@pytest.mark.one_backend
async def test_nothing_is_removed_that_the_archive_lacks(directory: Path, tmp_path: Path, change: bytes) -> None:
    """Where the archive has something else of that name, nothing is removed, and it is left as it is."""
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / f"{day_file(39)}.gz").write_bytes(change)
    with pytest.raises(AuditStorageError, match=r"read back, it differs from the trail; nothing is deleted$"):
        await trail_in(directory).apply_retention(archive=archive)
    assert (archive / f"{day_file(39)}.gz").read_bytes() == change
    assert verified(directory)[:3] == (True, ChainStatus.OK, 18)


@pytest.mark.one_backend
async def test_a_day_is_proved_again_before_it_is_removed(directory: Path, tmp_path: Path) -> None:
    """A day that an earlier run has archived, and whose copy has spoilt since, with the same size, is not removed."""
    archive = tmp_path / "archive"
    await trail_in(directory, None, archive_after_days=9).apply_retention(archive=archive)
    copy = archive / f"{day_file(39)}.gz"
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    with pytest.raises(AuditStorageError, match=r"read back, it differs from the trail; nothing is deleted$"):
        await trail_in(directory).apply_retention(archive=archive)
    assert verified(directory)[:3] == (True, ChainStatus.OK, 18)


@pytest.mark.one_backend
async def test_an_archive_that_cannot_be_written(directory: Path, tmp_path: Path) -> None:
    """Where the archive can't be made, nothing is removed."""
    (tmp_path / "file").touch()
    with pytest.raises(AuditStorageError, match=r"cannot read .*file/archive"):
        await trail_in(directory).apply_retention(archive=tmp_path / "file" / "archive")
    assert verified(directory)[:3] == (True, ChainStatus.OK, 18)


@pytest.mark.one_backend
async def test_the_archive_is_elsewhere(directory: Path) -> None:
    """The directory of the trail can't be its archive."""
    with pytest.raises(ValueError, match="another directory"):
        await trail_in(directory).apply_retention(archive=directory / ".." / directory.name)


# -- what is kept


def kept(report: Any) -> list[str | None]:
    return [day.kept for day in report.days]


@pytest.mark.one_backend
async def test_a_floor_of_the_records(tmp_path: Path) -> None:
    """What the records' own level asks to keep is kept, whatever the policy's level is, unless that is said twice."""
    directory = aged_trail(tmp_path / "trail", (400, 399), level=ComplianceLevel.PCI_DSS)
    aged_trail(directory, (300, 299), level=ComplianceLevel.PCI_DSS)
    aged_trail(directory, (1,))
    report = await trail_in(directory, 100).apply_retention()
    assert [day.removed for day in report.days] == [True, True, False, False]
    assert kept(report)[2:] == [
        "it has records of level pci_dss, which are kept for 1 year",
        "an older day is kept",
    ]
    assert verified(directory)[3] == 6
    report = await trail_in(directory, 100, retention_below_floor=True).apply_retention()
    assert [day.removed for day in report.days] == [True, True]


def test_a_level_at_the_end_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record's level is found wherever the blocks end in which the file is read."""
    directory = aged_trail(tmp_path / "trail", (1,), count=1, level=ComplianceLevel.HIPAA)
    for block in range(65, 300):
        monkeypatch.setattr(retention, "_BLOCK_BYTES", block)
        assert retention._levels_in(directory, day_file(1)) == [ComplianceLevel.HIPAA]


@pytest.mark.one_backend
async def test_six_years(tmp_path: Path) -> None:
    """Health records are kept for six years, with their leap days."""
    directory = aged_trail(tmp_path / "trail", (2193, 2192), level=ComplianceLevel.HIPAA)
    aged_trail(directory, (1,))
    report = await trail_in(directory, 30).apply_retention()
    assert [day.removed for day in report.days] == [True, False]
    assert kept(report)[1] == "it has records of level hipaa, which are kept for 6 years"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": "pci_dss", "retention_days": 364}, "at least 365, for which pci_dss asks; got 364"),
        ({"level": "hipaa", "retention_days": 2189}, "at least 2190, for which hipaa asks; got 2189"),
        ({"retention_days": 0}, "retention_days"),
        ({"archive_after_days": 1.5}, "archive_after_days"),
    ],
)
def test_a_policy_below_the_floor_is_refused(options: dict[str, Any], words: str) -> None:
    """A policy that keeps less than its level asks for is refused where it is made, unless it says so twice."""
    with pytest.raises((ValueError, TypeError), match=words):
        CompliancePolicy(**options)
    assert CompliancePolicy(ComplianceLevel.PCI_DSS, retention_days=365).retention_days == 365
    assert CompliancePolicy(ComplianceLevel.HIPAA, retention_days=1, retention_below_floor=True).retention_days == 1


@pytest.mark.one_backend
async def test_a_hold(directory: Path) -> None:
    """A day that a legal hold names is kept, with all after it, until the hold is lifted."""
    middle = today() - timedelta(39)
    hold = add_hold(directory, "case 7", since=middle, until=middle)
    assert holds_on(directory) == [hold]
    report = await trail_in(directory).apply_retention()
    assert kept(report) == [None, f"legal hold {hold.id}", "an older day is kept"]
    assert verified(directory)[3] == 3
    assert remove_hold(directory, hold.id) == hold
    assert kept(await trail_in(directory).apply_retention()) == [None, None]


@pytest.mark.parametrize(
    ("since", "until", "count"), [(None, None, 0), (None, 40, 0), (38, None, 2), (37, None, 3), (None, 41, 3)]
)
@pytest.mark.one_backend
async def test_the_days_of_a_hold(directory: Path, since: int | None, until: int | None, count: int) -> None:
    """A hold begins and ends with the days that it names, or with the trail."""

    def day(age: int | None) -> date | None:
        return None if age is None else today() - timedelta(age)

    add_hold(directory, "case 7", since=day(since), until=day(until))
    assert sum(each.removed for each in (await trail_in(directory).apply_retention()).days) == count


@pytest.mark.one_backend
async def test_a_hold_on_the_day_of_an_event(directory: Path) -> None:
    """A hold keeps the events of its days, also where a clock that was ahead put them into a later day's file."""
    day = today() - timedelta(50)
    files = TrailFiles(directory.with_name("ahead"), durable=False, now=lambda: datetime.now(UTC) - timedelta(45))
    event = AuditEvent(
        event_type=AuditEventType.DATA_ACCESS,
        message='"timestamp":"2026-99-99T',
        timestamp=datetime.combine(day, datetime.max.time(), UTC),
        metadata={"timestamp": "2026-99-99T"},
    )
    files.append([chain.body(event)])
    files.close()
    aged_trail(files.directory, (40, 1))
    for held in (day, today() - timedelta(45)):
        hold = add_hold(files.directory, "case 7", since=held, until=held)
        report = await trail_in(files.directory).apply_retention()
        assert kept(report) == [f"legal hold {hold.id}", "an older day is kept"]
        remove_hold(files.directory, hold.id)
    add_hold(files.directory, "case 8", since=day - timedelta(1), until=day - timedelta(1))
    assert kept(await trail_in(files.directory).apply_retention()) == [None, None]


def test_more_holds_than_can_be_read_again_are_refused(directory: Path) -> None:
    """A hold whose reason is longer than the file of the holds may be is refused, and the other holds stay."""
    hold = add_hold(directory, "case 7")
    with pytest.raises(AuditStorageError, match=r"audit_holds\.json: expected at most 16777216 bytes of holds; got 2"):
        add_hold(directory, "x" * 20_000_000)
    assert holds_on(directory) == [hold]


@pytest.mark.one_backend
async def test_holds_that_cannot_be_read_hold_everything(directory: Path) -> None:
    """If the file of the holds is no such file, nothing is removed."""
    (directory / "audit_holds.json").write_text('{"holds": []}')
    with pytest.raises(AuditStorageError, match="expected a list of holds"):
        await trail_in(directory).apply_retention()
    assert verified(directory)[:3] == (True, ChainStatus.OK, 18)


def test_a_hold_that_is_none(directory: Path) -> None:
    """A hold needs a reason, and days in their order; one that is not there can't be lifted."""
    with pytest.raises(ValueError, match="reason"):
        add_hold(directory, " ")
    with pytest.raises(ValueError, match="until"):
        add_hold(directory, "x", since=date(2026, 1, 2), until=date(2026, 1, 1))
    with pytest.raises(LookupError, match="there is no hold x"):
        remove_hold(directory, "x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"directory": b"audit"}, "directory: expected a path; got a bytes"),
        ({"reason": b"case 7"}, "reason: expected text; got a bytes"),
        ({"since": "1 May"}, "since: expected a date; got a str"),
        ({"until": datetime(2026, 1, 1, tzinfo=UTC)}, "until: expected a date; got a datetime"),
    ],
)
def test_a_hold_of_other_types_is_refused(directory: Path, given: dict[str, Any], message: str) -> None:
    """What could not be read again is refused before it is written, and the other holds stay."""
    hold = add_hold(str(directory), "case 7")
    with pytest.raises(TypeError, match=f"^{message}$"):
        add_hold(**{"directory": directory, "reason": "x", **given})
    assert holds_on(directory) == [hold]


@pytest.mark.one_backend
async def test_keep_from(directory: Path) -> None:
    """The day with the record that is named stays, and all after it."""
    report = await trail_in(directory).apply_retention(keep_from=6)
    assert kept(report) == [None, "an alert about record 6 may be pending", "an older day is kept"]


def alert(path: Path, number: int, status: str) -> None:
    """Put an alert about a record into the file of an outbox."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO alerts (outbox, event_id, sequence_number, event_type, severity, status, came_at, due_at,"
            " noted_at) VALUES ('alerts', ?, ?, 'data_access', 'info', ?, 0, 1e12, 0)",
            [f"about {number}", number, status],
        )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "around",
    [lambda it: it, lambda it: FanOut([it]), lambda it: Route({}, default=it)],
    ids=["alone", "fan-out", "route"],
)
@pytest.mark.parametrize("status", ["pending", "dead"])
async def test_alerts_that_have_not_arrived(directory: Path, tmp_path: Path, around: Any, status: str) -> None:
    """A record about which an alert waits, or is dead, in the trail's outbox stays, whatever is around the outbox."""
    outbox = Outbox(RecordingDispatcher(), tmp_path / "outbox.db")
    policy = CompliancePolicy(retention_days=30)
    async with AuditTrail(policy, directory, around(outbox)) as trail:
        assert kept(await trail.apply_retention(dry_run=True)) == [None, None, None]
        alert(tmp_path / "outbox.db", 5, status)
        alert(tmp_path / "outbox.db", 2, "delivered")
        assert kept(await trail.apply_retention()) == [
            None,
            "an alert about record 5 may be pending",
            "an older day is kept",
        ]
        await outbox.discard("about 5", reason="known")
        assert kept(await trail.apply_retention()) == [None, None]


@pytest.mark.slow_on_trio
async def test_alerts_that_may_be_lacking(directory: Path, tmp_path: Path) -> None:
    """What is behind the mark of a durable dispatcher stays, until the trail has looked for alerts that it lacks."""
    outbox = Outbox(RecordingDispatcher(), tmp_path / "outbox.db")
    trail = AuditTrail(CompliancePolicy(retention_days=30), directory, outbox)
    (fourth,) = await trail.get_events(after=3, before=5)
    await outbox.resume_from(ChainHead(4, fourth.checksum))
    report = await trail.apply_retention(dry_run=True)
    assert kept(report)[1] == "an alert about record 5 may be pending"
    async with trail:
        assert kept(await trail.apply_retention()) == [None, None, None]


@pytest.mark.one_backend
async def test_alerts_of_which_nothing_is_known(directory: Path, tmp_path: Path) -> None:
    """Where the outbox of the trail can't be read, nothing is removed."""
    (tmp_path / "outbox.db").mkdir()
    trail = AuditTrail(
        CompliancePolicy(retention_days=30), directory, Outbox(RecordingDispatcher(), tmp_path / "outbox.db")
    )
    with pytest.raises(AuditStorageError, match="the dispatcher can't say which alerts are pending"):
        await trail.apply_retention()
    assert files(directory) == [day_file(age) for age in AGES]


@pytest.mark.one_backend
async def test_damage_is_kept(directory: Path) -> None:
    """A damaged day is evidence, and stays, with all after it."""
    path = directory / day_file(39)
    path.write_bytes(path.read_bytes().replace(b"user-39", b"user-93"))
    report = await trail_in(directory).apply_retention(dry_run=True)
    assert kept(report) == [None, "it is damaged", "an older day is kept"]


async def test_one_at_a_time(directory: Path) -> None:
    """While another process applies retention, nothing is done, and no hold is changed."""
    with exclusive(directory):
        with pytest.raises(AuditStorageError, match="another process applies retention"):
            await trail_in(directory).apply_retention()
        with pytest.raises(AuditStorageError, match="another process applies retention"):
            add_hold(directory, "case 7")
    assert files(directory) == [day_file(age) for age in AGES]


def test_a_child_that_is_forked_meanwhile_keeps_no_lock(directory: Path) -> None:
    """A worker that is forked while retention is applied does not keep the next run away for as long as it lives."""
    with exclusive(directory):
        child = os.fork()
        if not child:
            signal.pause()
    try:
        assert len(trail_in(directory).sync.apply_retention().days) == 3
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_run_that_is_cancelled_at_its_beginning_keeps_no_lock(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that asyncio cancels while the lock is being taken gives it up: the next run is not refused."""

    async def cancelled() -> None:
        loop, begun, may_end = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def slowly(directory: Path) -> Any:
            loop.call_soon_threadsafe(begun.set)
            may_end.wait()
            return exclusive(directory)

        monkeypatch.setattr(retention, "exclusive", slowly)
        task = loop.create_task(trail_in(directory).apply_retention())
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    monkeypatch.undo()
    assert len(trail_in(directory).sync.apply_retention().days) == 3


@pytest.mark.one_backend
async def test_trails_that_cannot(directory: Path) -> None:
    """A trail that is not in files, or records nothing, is refused."""
    with pytest.raises(TypeError, match="got a MemoryStorage"):
        await AuditTrail(storage=MemoryStorage()).apply_retention()
    with pytest.raises(ValueError, match="enabled"):
        await AuditTrail(CompliancePolicy(enabled=False, retention_days=1), directory).apply_retention()


# -- failures


async def test_a_failure_of_an_archive_of_others_is_an_incident(directory: Path, tmp_path: Path) -> None:
    """Whatever the archive raises, the incident has its type, and not its text, which may be a secret."""

    class Theirs(DirectoryArchive):
        def put(self, file: PackedFile) -> None:
            raise KeyError("hunter2")

    alerts = RecordingDispatcher()
    policy = CompliancePolicy(retention_days=30)
    async with AuditTrail(policy, directory, alerts, archive=Theirs(tmp_path / "archive")) as trail:
        with pytest.raises(KeyError):
            await trail.apply_retention()
        await trail.drain()
    [alert] = alerts.alerts
    assert (alert.event.operation, alert.event.metadata["cause"]) == ("applying retention", "KeyError")


@pytest.mark.slow_on_trio
async def test_a_retention_that_fails_is_an_incident(directory: Path, tmp_path: Path) -> None:
    """A run that can't be completed is an incident, with its cause, until one is; asking opens none."""
    alerts = RecordingDispatcher()
    (tmp_path / "archive").mkdir()
    other = tmp_path / "archive" / f"{day_file(39)}.gz"
    other.write_bytes(b"x")
    policy = CompliancePolicy(retention_days=30)
    async with AuditTrail(policy, directory, alerts, archive=tmp_path / "archive") as trail:
        with exclusive(directory), pytest.raises(AuditStorageError, match="another process"):
            await trail.apply_retention()
        await trail.apply_retention(dry_run=True)
        await trail.drain()
        assert not alerts.alerts
        for _ in range(2):
            with pytest.raises(AuditStorageError, match="read back"):
                await trail.apply_retention()
        await trail.drain()
        assert [alert.event.event_type.value for alert in alerts.alerts] == ["component_failure"]
        assert alerts.alerts[0].event.operation == "applying retention"
        assert f"{other}: read back" in alerts.alerts[0].event.metadata["cause"]
        other.unlink()
        assert len((await trail.apply_retention()).days) == 3
        await trail.drain()
        assert alerts.alerts[1].event.event_type.value == "component_recovery"


@pytest.mark.one_backend
async def test_a_trail_of_its_own_archive(directory: Path, tmp_path: Path) -> None:
    """The archive of a trail is taken where none is given, and another one in its place where one is."""
    trail = AuditTrail(CompliancePolicy(retention_days=38), directory, archive=tmp_path / "archive")
    await trail.apply_retention(archive=tmp_path / "other", dry_run=True)
    await trail.apply_retention()
    assert files(tmp_path / "archive") == [f"{day_file(age)}.gz" for age in (40, 39)]


# -- what is forged


def forge(directory: Path, **changes: Any) -> None:
    path = directory / ANCHOR
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.one_backend
async def test_a_forged_anchor_is_noticed(directory: Path) -> None:
    """An anchor that hides more than a record says was removed is noticed, whatever it says."""
    await trail_in(directory).apply_retention()
    next_head = TrailFiles(directory, durable=False).read(0, 3)[-1]
    anchor = (directory / ANCHOR).read_bytes()
    first = files(directory)[0]
    more = {"sequence_number": 12, "checksum": next_head.checksum, "file": first}
    forge(directory, **more)
    assert verified(directory)[:2] == (False, ChainStatus.GAP)
    forge(directory, **more, record=11)
    assert verified(directory)[:2] == (False, ChainStatus.GAP)
    (directory / ANCHOR).write_bytes(anchor)
    for changes in ({"checksum": "0" * 64}, {"sequence_number": 8}, {"record": 18}, {"file": day_file(41)}):
        forge(directory, **changes)
        assert not TrailFiles(directory, durable=False).verify().valid, changes
        (directory / ANCHOR).write_bytes(anchor)
    assert verified(directory)[:2] == (True, ChainStatus.FRONT_PRUNED)


@pytest.mark.one_backend
async def test_a_torn_tail_hides_no_forged_anchor(directory: Path) -> None:
    """A trail that ends in an incomplete record is valid with the removed days that a record names, and no others."""
    await trail_in(directory).apply_retention()
    next_head = TrailFiles(directory, durable=False).read(0, 3)[-1]
    first, *_, last = files(directory)
    with (directory / last).open("ab") as file:
        file.write(b'{"v":2,"event')
    assert verified(directory)[:2] == (True, ChainStatus.TORN_TAIL)
    words = str(TrailFiles(directory, durable=False).verify().error_message)
    assert "incomplete record" in words
    assert "were removed by retention" in words
    forge(directory, sequence_number=12, checksum=next_head.checksum, file=first)
    assert verified(directory)[:2] == (False, ChainStatus.GAP)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"v":1}'])
@pytest.mark.one_backend
async def test_an_anchor_that_is_none(directory: Path, content: bytes) -> None:
    """Something else in the place of the anchor is damage, for the verification and for writers."""
    (directory / ANCHOR).write_bytes(content)
    result = TrailFiles(directory, durable=False).verify()
    assert (result.valid, result.status) == (False, ChainStatus.UNREADABLE)
    with pytest.raises(AuditStorageError, match="damaged, or was not written by retention"):
        await trail_in(directory).log_data_access("patient/1", "read")


@pytest.mark.one_backend
async def test_a_missing_anchor_is_a_gap(directory: Path) -> None:
    """Without the anchor the removed records are missing ones."""
    await trail_in(directory).apply_retention()
    (directory / ANCHOR).unlink()
    assert verified(directory)[:2] == (False, ChainStatus.GAP)


@pytest.mark.one_backend
async def test_removing_more_by_hand_is_a_gap(directory: Path) -> None:
    """A day that somebody deletes behind the removed ones is missing."""
    await trail_in(directory).apply_retention()
    (directory / day_file(10)).unlink()
    assert verified(directory)[:2] == (False, ChainStatus.GAP)


# -- incomplete records


def torn(directory: Path, age: int, *, is_cut: bool = True) -> str:
    """Leave an incomplete record on that day, as a crash and the writer after it do, and return its file's name."""
    path, rest = directory / day_file(age), b'{"v":1,"event_id":"half'
    size = path.stat().st_size
    piece = path.with_name(f"{path.name}.torn-{size}-{sha256(rest).hexdigest()[:16]}")
    piece.write_bytes(rest)
    if not is_cut:
        with path.open("ab") as file:
            file.write(rest)
    return piece.name


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut off", "in a file that can't be cut"])
@pytest.mark.one_backend
async def test_an_incomplete_record_is_archived_with_its_day(directory: Path, tmp_path: Path, *, is_cut: bool) -> None:
    """A piece of a record that was set aside goes with its day, is named, and the archive verifies by it."""
    names = [torn(directory, 39, is_cut=is_cut)]
    empty = directory / day_file(41)
    empty.touch()
    names.insert(0, f"{empty.name}.torn-0-ab")
    (directory / names[0]).touch()
    archive = DirectoryArchive(tmp_path / "archive")
    trail = trail_in(directory)
    report = await trail.apply_retention(archive=archive)
    assert [day.set_aside for day in report.days] == [(names[0],), (names[1],), ()]
    [event] = await trail.get_events(event_type="retention_policy_applied")
    assert event.metadata["fapilog.retention"]["set_aside"] == names
    assert set(names) < set(archive.sizes())
    for result in (await ArchiveStorage(archive).verify(), verify(archive.directory)):
        assert (result.valid, result.status, result.set_aside) == (True, ChainStatus.TORN_TAIL, tuple(names))
    both = verify_together(directory, archive)
    assert (both.valid, both.status, both.set_aside) == (True, ChainStatus.TORN_TAIL, tuple(names))
    # A next run, and a crash before it, find the same.
    await trail.apply_retention(archive=archive)
    assert not [name for name in contents(directory) if ".torn-" in name]


@pytest.mark.slow
@pytest.mark.one_backend
async def test_a_removal_says_all_but_the_names_for_which_there_is_no_room(directory: Path) -> None:
    """Where crashes left more incomplete records than a record can name, it lacks some of their names and no more."""
    for number in range(2000):
        (directory / f"{day_file(40)}.torn-{number}-{number:016x}").touch()
    trail = trail_in(directory, max_record_bytes=65_536)
    await trail.apply_retention()
    [event] = await trail.get_events(event_type="retention_policy_applied")
    said = event.metadata["fapilog.retention"]
    assert list(said)[-1] == "set_aside"
    assert said["set_aside"][-1] == "… (2000 values)"
    assert {"archive", "below_floor", "retention_days"} < said.keys()
    assert verified(directory)[:2] == (True, ChainStatus.FRONT_PRUNED)


@pytest.mark.one_backend
@pytest.mark.parametrize("place", ["trail", "archive"])
async def test_a_full_disk_stays_as_full_as_it_was(tmp_path: Path, place: str) -> None:
    """A day that is not compressed, or archived, for want of room leaves that to the trail; the next run does it."""
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", "1m"):
        directory = aged_trail(tmp_path / ("disk" if place == "trail" else "") / "trail", (5, 1), count=500)
        trail = trail_in(directory, None, archive_after_days=2)
        archive = tmp_path / "disk" / "archive"
        fill(tmp_path / "disk")
        os.truncate(tmp_path / "disk" / "ballast", (tmp_path / "disk" / "ballast").stat().st_size - 16_384)
        free = shutil.disk_usage(tmp_path / "disk").free
        with pytest.raises(AuditStorageError, match="No space left on device"):
            await trail.apply_retention(archive=archive)
        assert free - shutil.disk_usage(tmp_path / "disk").free <= 4096 * 2  # the lock, and a directory
        empty(tmp_path / "disk")
        assert [day.archived for day in (await trail.apply_retention(archive=archive)).days] == [True]
        assert verified(directory)[:2] == (True, ChainStatus.OK)
        await trail.stop()


# -- crashes, besides those at each call to the operating system in tests/torture


@pytest.mark.one_backend
async def test_what_a_crash_leaves_is_swept(directory: Path) -> None:
    """Files that are removed and still there are no part of the trail; the next run deletes these, and no others."""
    before = contents(directory)
    await trail_in(directory).apply_retention()
    for age in (39, 38):
        (directory / day_file(age)).write_bytes(before[day_file(age)])
    (directory / f"{day_file(38)}.torn-1-ab").touch()
    (directory / f"{day_file(10)}.gz.part").touch()
    (directory / "outbox.db").touch()
    (directory / "audit_report.csv.part").touch()
    assert verified(directory) == (True, ChainStatus.FRONT_PRUNED, 10, 9)
    assert numbers(directory) == list(range(10, 20))
    assert (await trail_in(directory).apply_retention()).days == ()
    assert sorted(contents(directory)) == [
        *(day_file(age) for age in (10, 2, 1, 0)),
        "audit_anchor.json",
        "audit_report.csv.part",
        "audit_retention.lock",
        "outbox.db",
    ]


@pytest.mark.one_backend
async def test_damage_behind_the_front_is_sealed(directory: Path) -> None:
    """A trail whose front was removed is recovered as any other."""
    await trail_in(directory).apply_retention()
    path = directory / day_file(2)
    path.write_bytes(path.read_bytes().replace(b"user-2", b"user-9", 1))
    assert verified(directory)[:2] == (False, ChainStatus.ALTERED)
    sealed = recover(directory, "known")
    assert sealed is not None
    assert sealed[0] == 20
    assert verified(directory) == (False, ChainStatus.RECOVERED, 11, 9)
    await trail_in(directory).log_data_access("patient/1", "read")


# -- writers and readers beside it


@pytest.mark.one_backend
async def test_an_idle_writer_goes_on(tmp_path: Path) -> None:
    """A process whose newest record was removed meanwhile goes on behind the newest that is there."""
    now = datetime.now(UTC)
    times = [now - timedelta(40), now]
    idle = TrailFiles(tmp_path, durable=False, now=lambda: times[0])
    idle.append(bodies(["a"], now))
    aged_trail(tmp_path, (39, 1))
    await trail_in(tmp_path).apply_retention()
    del times[0]
    assert [seal.sequence_number for seal in idle.append(bodies(["b"], now))] == [9]
    assert verified(tmp_path) == (True, ChainStatus.FRONT_PRUNED, 5, 4)
    idle.close()


@pytest.mark.one_backend
async def test_a_reader_in_the_midst(directory: Path) -> None:
    """A reader who was at work when days were removed goes on to the last that is left."""
    newest_first = TrailFiles(directory, durable=False).newest_first()
    assert next(newest_first).sequence_number == 18
    await trail_in(directory).apply_retention()
    assert [event.sequence_number for event in newest_first] == list(range(17, 9, -1))


@pytest.mark.parametrize(("kind", "step"), [("events", "forwards"), ("events", "start"), ("lines", "forwards")])
def test_days_that_are_removed_while_they_are_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch, kind: str, step: str
) -> None:
    """A page that was begun with a day that is removed, as the next ones are, begins behind them: it has no hole."""
    reader, former = TrailFiles(directory, durable=False).reader, getattr(Lines, step)

    def remove(*args: Any) -> Any:
        # The first day is open, and those behind it are not yet.
        monkeypatch.undo()
        trail_in(directory).sync.apply_retention()
        return former(*args)

    monkeypatch.setattr(Lines, step, remove)
    if kind == "events":
        assert [whole(item).sequence_number for item in reader.read(0, 100)] == list(range(10, 20))
    else:
        found = [head_before(line).sequence_number + 1 for line in reader.read_lines(0, 100)]
        assert found == list(range(10, 20))


@pytest.mark.one_backend
async def test_ids_that_come_again(directory: Path) -> None:
    """An id is stored once, also by a process that has read days which are removed now."""
    trail = trail_in(directory)
    given = "0f6d3f4c-95a4-4a0a-8a0f-0f3c1a1a1a1a"
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", event_id=given)
    await trail.apply_retention()
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", event_id=given)
    assert verified(directory) == (True, ChainStatus.FRONT_PRUNED, 11, 9)
