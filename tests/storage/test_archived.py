"""Days in an archive are searched and verified where they are, and what is not there is never passed over."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import pytest

from fapilog import (
    ArchiveStorage,
    AuditEvent,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    ChainStatus,
    CompliancePolicy,
    DamagedRecord,
    DirectoryArchive,
)
from fapilog.record import chain
from fapilog.storage._files.compressed import compress
from fapilog.storage.archive import Archive, PackedFile
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import EventFilter
from fapilog.testing import check_archive
from tests.doubles.aged_trails import aged_trail, day_file
from tests.doubles.trail_files import TrailFiles

pytestmark = pytest.mark.real_time

AGES = (40, 39, 38, 10, 2, 1)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    from tests.doubles.s3 import s3_server  # noqa: PLC0415  needs an extra

    with s3_server() as server:
        yield server


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.slow)])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    """An archive of each kind."""
    if request.param == "directory":
        return DirectoryArchive(tmp_path / "archive")
    server = request.getfixturevalue("server")
    from fapilog import S3Archive  # noqa: PLC0415  needs an extra
    from tests.doubles.s3 import bucket_of  # noqa: PLC0415

    bucket = bucket_of(server, f"archived-{abs(hash(request.node.nodeid))}")
    return S3Archive(bucket, prefix="clinic", lock_days=1, client=server.client)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A trail of six days, 40 to 1 days ago, with three records each."""
    return aged_trail(tmp_path / "trail", AGES)


def trail_in(directory: Path, days: int | None = 30, archive: Any = None, **policy: Any) -> AuditTrail:
    return AuditTrail(CompliancePolicy(retention_days=days, **policy), directory, archive=archive)


def numbers(items: Any) -> list[int | None]:
    """Return the numbers of events; None for a hole."""
    return [item.sequence_number if isinstance(item, AuditEvent) else None for item in items]


def put(archive: Any, name: str, data: bytes) -> None:
    """Put something into an archive that is not from the trail, or take it out."""
    if isinstance(archive, DirectoryArchive):
        archive.directory.mkdir(exist_ok=True)
        (archive.directory / name).write_bytes(data)
    else:
        archive._given.put_object(Bucket=archive.bucket, Key=f"clinic/{name}", Body=data)


def take(archive: Any, name: str) -> None:
    if isinstance(archive, DirectoryArchive):
        (archive.directory / name).unlink()
    else:
        # A marker, behind which the locked version stays.
        archive._given.delete_object(Bucket=archive.bucket, Key=f"clinic/{name}")


def fetched(archive: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are fetched whole from now on."""
    whole: list[str] = []
    former = type(archive).open

    def noted(self: Any, name: str, size: int | None = None) -> Any:
        if size is None:
            whole.append(name)
        return former(self, name, size)

    monkeypatch.setattr(type(archive), "open", noted)
    return whole


# -- the contract


@pytest.mark.slow
def test_the_contract(archive: Archive) -> None:
    """Our archives keep the contract, and one that is not empty is not checked."""
    check_archive(archive)
    with pytest.raises(ValueError, match="expected an empty one"):
        check_archive(archive)


class Spoiled(DirectoryArchive):
    """An archive that does one thing wrong."""

    def __init__(self, directory: Path, way: str) -> None:
        super().__init__(directory)
        self.way = way

    def put(self, file: PackedFile) -> None:
        if self.way == "replaces":
            (self.directory / file.path.name).unlink(missing_ok=True)
        super().put(file)

    def prove(self, file: PackedFile) -> None:
        if self.way == "believes":
            return
        if self.way == "compares" and file.sha256 != sha256((self.directory / file.path.name).read_bytes()).hexdigest():
            raise AuditStorageError("other bytes")
        super().prove(file)

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        if self.way == "raises":
            return (self.directory / name).open("rb")
        if self.way == "cuts":
            with super().open(name) as file:
                return BytesIO(file.read(10))
        return super().open(name)

    def sizes(self) -> Mapping[str, int]:
        return {name: size + (self.way == "counts") for name, size in super().sizes().items()}


@pytest.mark.parametrize(
    ("way", "clause"),
    [
        ("replaces", "once: prove of another file raises nothing"),
        ("believes", "missing: prove raises nothing"),
        ("compares", "missing: prove raises a FileNotFoundError"),
        ("raises", "missing: open raises a FileNotFoundError"),
        ("cuts", "put: expected that open gives the bytes"),
        ("counts", "put: expected that sizes has"),
    ],
)
def test_the_contract_is_held_up(tmp_path: Path, way: str, clause: str) -> None:
    """An archive that breaks the contract is told which clause."""
    with pytest.raises(AssertionError, match=clause):
        check_archive(Spoiled(tmp_path / "archive", way))


# -- the archive alone


@pytest.mark.slow_on_trio
async def test_a_whole_archive(directory: Path, archive: Archive) -> None:
    """An archive is a trail that is read in both directions, searched, counted and verified, and not written to."""
    await trail_in(directory, archive=archive).apply_retention()
    storage = ArchiveStorage(archive)
    trail = AuditTrail(storage=storage)
    assert numbers(await trail.get_events()) == list(range(9, 0, -1))
    assert numbers(await trail.get_events(user_id="user-39", limit=2)) == [6, 5]
    assert numbers(await trail.get_events(after=2, before=5)) == [4, 3]
    assert numbers([event async for event in trail.events(oldest_first=True)]) == list(range(1, 10))
    assert numbers(await storage.read(4, 3)) == [5, 6, 7]
    assert len(await storage.read_lines(7, 9)) == 2
    assert await trail.count_by("user_id") == {"user-38": 3, "user-39": 3, "user-40": 3}
    counts: list[int] = []
    result = await storage.verify(counts.append)
    assert (result.valid, result.status, result.events_checked, counts[-1]) == (True, ChainStatus.OK, 9, 9)
    with pytest.raises(AuditStorageError, match="an archive is read, and not written to"):
        await trail.log_data_access("patient/1", "read")


@pytest.mark.one_backend
async def test_an_empty_archive(archive: Archive) -> None:
    """An archive without a day has no events, and nothing is wrong with it."""
    storage = ArchiveStorage(archive)
    assert await storage.find(EventFilter(), 9) == []
    assert await storage.read(0, 9) == []
    assert (await storage.verify()).events_checked == 0


@pytest.mark.one_backend
async def test_a_few_records_of_many_days(directory: Path, archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For some records the days are fetched in which they are, each once, and of others only the beginning."""
    await trail_in(directory, archive=archive).apply_retention()
    whole = fetched(archive, monkeypatch)
    storage = ArchiveStorage(archive)
    assert numbers(await storage.find(EventFilter(before=6), 1)) == [5]
    assert numbers(await storage.find(EventFilter(before=5), 1)) == [4]
    assert whole == [f"{day_file(39)}.gz"]


@pytest.mark.one_backend
async def test_a_time(directory: Path, archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days that were over before the time asked for are not fetched, and the archive is not asked for later ones."""
    aged_trail(tmp := directory.parent / "long", (60, 50, 49, 48, 2, 1))
    trail = trail_in(tmp, archive=archive)
    await trail.apply_retention()
    whole = fetched(archive, monkeypatch)
    now = datetime.now(UTC)
    found = await trail.get_events(start_time=now - timedelta(48, minutes=1))
    assert numbers(found)[-3:] == [10, 11, 12][::-1]
    assert f"{day_file(60)}.gz" not in whole
    assert numbers(await trail.get_events(start_time=now - timedelta(99)))[-1] == 1
    assert await ArchiveStorage(archive).find(EventFilter(start_time=now), 9) == []
    assert len(await ArchiveStorage(archive).find(EventFilter(start_time=datetime.min.replace(tzinfo=UTC)), 99)) == 12
    monkeypatch.setattr(type(archive), "sizes", None)
    assert len(await trail.get_events(start_time=now - timedelta(5))) == 7


@pytest.mark.slow
@pytest.mark.one_backend
async def test_a_time_with_the_oldest_first(directory: Path, archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading forwards from a time fetches the days of that time, and not the days that are known to be before it."""
    aged_trail(directory := directory.parent / "long", range(40, 0, -1))
    trail = trail_in(directory, archive=archive)
    await trail.apply_retention()
    alone = AuditTrail(storage=ArchiveStorage(archive))
    since = datetime.now(UTC) - timedelta(34, minutes=1)
    for each in (trail, alone):
        whole = fetched(archive, monkeypatch)
        found = [event async for event in each.events(oldest_first=True, start_time=since)]
        assert numbers(found)[:3] == [19, 20, 21]
        # The day before, whose last record is the one to begin behind.
        assert whole[0] == f"{day_file(35)}.gz"
        found = [event async for event in each.events(oldest_first=True, start_time=since, after=20)]
        assert numbers(found)[:2] == [21, 22]
    late = [event async for event in alone.events(oldest_first=True, start_time=datetime.now(UTC) - timedelta(5))]
    assert late == []
    monkeypatch.setattr(type(archive), "sizes", None)
    late = [event async for event in trail.events(oldest_first=True, start_time=datetime.now(UTC) - timedelta(3.5))]
    assert {event.user_id for event in late} == {"user-3", "user-2", "user-1", None}


@pytest.mark.one_backend
async def test_the_name_of_a_day_is_no_proof(directory: Path, archive: Archive) -> None:
    """A record that is later than the day of its file is found by its time, in both directions."""
    path = directory / day_file(40)
    now = datetime.now(UTC).replace(microsecond=0)
    path.unlink()
    files = TrailFiles(directory.parent / "wrong", durable=False, now=lambda: now - timedelta(40))
    (directory.parent / "wrong").mkdir()
    event = AuditEvent(event_id="late", timestamp=now, event_type=AuditEventType.DATA_ACCESS, message="a clock stepped")
    files.append([chain.body(event)])
    files.close()
    wrong = aged_trail(directory.parent / "wrong", AGES[1:])
    trail = trail_in(wrong, archive=archive)
    await trail.apply_retention()
    assert "late" in [each.event_id for each in await trail.get_events(start_time=now)]
    assert "late" in [each.event_id async for each in trail.events(oldest_first=True, start_time=now)]


@pytest.mark.one_backend
async def test_a_day_of_another_program(directory: Path, archive: Archive) -> None:
    """A day that does not say its times is fetched, and one that denies them is found by a verification."""
    await trail_in(directory, archive=archive).apply_retention()
    for age in (40, 39, 38):
        with contextlib.closing(archive.open(f"{day_file(age)}.gz")) as file:
            content = gzip.decompress(file.read())
        take(archive, f"{day_file(age)}.gz")
        put(archive, f"{day_file(age)}.gz", gzip.compress(content))
    storage = AuditTrail(storage=ArchiveStorage(archive))
    since = datetime.now(UTC) - timedelta(38, minutes=1)
    assert numbers(await storage.get_events(start_time=since)) == [9, 8, 7]
    assert numbers([event async for event in storage.events(oldest_first=True, start_time=since)]) == [7, 8, 9]
    packed = BytesIO()
    compress([content], packed, b"2001-01-01T00:00:00")
    take(archive, f"{day_file(38)}.gz")
    put(archive, f"{day_file(38)}.gz", packed.getvalue())
    result = await ArchiveStorage(archive).verify()
    assert (result.valid, result.status) == (False, ChainStatus.ALTERED)
    assert "denies times that its records have" in (result.error_message or "")


@pytest.mark.parametrize("damage", [b"", b"x", gzip.compress(b"{}\n")], ids=["empty", "garbage", "something else"])
@pytest.mark.one_backend
async def test_a_damaged_day(directory: Path, archive: Archive, damage: bytes) -> None:
    """A day that is damaged is a hole between the others, and is found by a verification."""
    await trail_in(directory, archive=archive).apply_retention()
    put(archive, f"{day_file(39)}.gz", damage)
    storage = ArchiveStorage(archive)
    assert numbers(await storage.find(EventFilter(), 99)) == [9, 8, 7, None, 3, 2, 1]
    assert numbers(await storage.read(0, 99)) == [1, 2, 3, None, 7, 8, 9]
    result = await storage.verify()
    assert not result.valid
    assert day_file(39) in (result.error_message or "")
    assert result.status is ChainStatus.UNREADABLE


@pytest.mark.one_backend
async def test_a_day_that_is_gone(directory: Path, archive: Archive) -> None:
    """A day that was taken out of the archive is a gap, and a hole for whoever reads, also by way of the trail."""
    trail = trail_in(directory, archive=archive)
    await trail.apply_retention()
    take(archive, f"{day_file(39)}.gz")
    storage = ArchiveStorage(archive)
    result = await storage.verify()
    assert (result.valid, result.status, result.first_invalid_sequence) == (False, ChainStatus.GAP, 4)
    assert numbers(await storage.find(EventFilter(), 99)) == [9, 8, 7, None, 3, 2, 1]
    assert numbers(await storage.read(0, 99)) == [1, 2, 3, None, 7, 8, 9]
    assert numbers(await storage.find(EventFilter(user_id="user-38"), 99)) == [9, 8, 7, None]
    [hole] = [item async for item in trail.events(on_damage="yield") if isinstance(item, DamagedRecord)]
    assert str(hole) == f"{day_file(38)}, byte 0: records 4 to 6 are missing in front of this file"


@pytest.mark.slow
@pytest.mark.one_backend
async def test_an_archive_with_an_anchor(directory: Path, archive: Archive) -> None:
    """An archive that begins later verifies as its trail did, once it has the record that says why."""
    await trail_in(directory, 39).apply_retention()
    trail = trail_in(directory, 1, archive)
    await trail.apply_retention()
    result = await ArchiveStorage(archive).verify()
    assert (result.valid, result.status) == (False, ChainStatus.GAP)
    newest = (directory / day_file(0)).read_bytes()
    put(archive, f"{day_file(1)}.gz", gzip.compress((directory / day_file(1)).read_bytes()))
    put(archive, f"{day_file(0)}.gz", gzip.compress(newest))
    result = await ArchiveStorage(archive).verify()
    assert (result.valid, result.status, result.events_checked) == (True, ChainStatus.FRONT_PRUNED, 17)
    assert result.error_message == "records 1 to 3 were removed by retention, as record 19 says"
    put(archive, "audit_anchor.json", b"{}")
    assert (await ArchiveStorage(archive).verify()).status is ChainStatus.UNREADABLE


@pytest.mark.one_backend
async def test_a_torn_day(directory: Path, archive: Archive) -> None:
    """A day that ends within a record is read up to there, what it lacks is a hole, and it is no intact one."""
    await trail_in(directory, archive=archive).apply_retention()
    with contextlib.closing(archive.open(f"{day_file(39)}.gz")) as file:
        content = gzip.decompress(file.read())
    put(archive, f"{day_file(39)}.gz", gzip.compress(content[:-9]))
    storage = ArchiveStorage(archive)
    assert numbers(await storage.find(EventFilter(), 99)) == [9, 8, 7, None, 5, 4, 3, 2, 1]
    result = await storage.verify()
    assert (result.valid, result.first_invalid_sequence) == (False, 6)


@pytest.mark.one_backend
async def test_a_directory_that_cannot_be_read(tmp_path: Path) -> None:
    """An archive whose directory can't be read is an error that names it."""
    (tmp_path / "file").touch()
    storage = ArchiveStorage(tmp_path / "file")
    for ask in (lambda: storage.find(EventFilter(), 9), lambda: storage.read(0, 9), storage.verify):
        with pytest.raises(AuditStorageError, match=f"cannot read {tmp_path / 'file'}"):
            await ask()


# -- the trail with its archive


@pytest.mark.slow
async def test_a_trail_with_its_archive(directory: Path, archive: Archive) -> None:
    """Questions to a trail that has an archive reach back to the days that were removed, in both directions."""
    trail = trail_in(directory, archive=archive, archive_after_days=9)
    await trail.apply_retention()
    assert numbers(await trail.get_events()) == list(range(19, 0, -1))
    assert numbers(await trail.get_events(user_id="user-39")) == [6, 5, 4]
    assert numbers(await trail.get_events(after=5, before=12)) == [11, 10, 9, 8, 7, 6]
    assert numbers(await trail.get_events(before=4)) == [3, 2, 1]
    assert numbers([event async for event in trail.events(oldest_first=True)]) == list(range(1, 20))
    assert numbers([event async for event in trail.events(after=7)]) == list(range(19, 7, -1))
    assert (await trail.count_by("user_id"))["user-40"] == 3
    assert await trail.log_data_access("patient/1", "read")
    assert (await trail.verify_chain_from_storage()).status is ChainStatus.FRONT_PRUNED
    # Without it the trail has what is left.
    assert numbers(await AuditTrail(storage_path=directory).get_events(before=13)) == [12, 11, 10]


@pytest.mark.one_backend
@pytest.mark.parametrize("what", ["a day", "all of it"])
async def test_a_link_that_leads_nowhere_is_no_empty_archive(directory: Path, tmp_path: Path, what: str) -> None:
    """An archive on a volume that is not mounted, or a day of it, is an error, and not taken for one without days."""
    archive = tmp_path / "archive"
    trail = trail_in(directory, archive=archive)
    await trail.apply_retention()
    moved = archive / f"{day_file(39)}.gz" if what == "a day" else archive
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "not mounted")
    with pytest.raises(AuditStorageError, match=f"cannot read {archive}: "):
        await trail.get_events()
    with pytest.raises(AuditStorageError, match=f"cannot read {archive}: "):
        DirectoryArchive(archive).sizes()


@pytest.mark.one_backend
async def test_texts_are_asked_for_as_they_were_given(directory: Path, archive: Archive) -> None:
    """A text that is stored with escapes is found in the archive as in the trail."""
    then = datetime.now(UTC) - timedelta(37)
    files = TrailFiles(directory, durable=False, now=lambda: then)
    files.append([chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", user_id="\udcff"))])
    files.close()
    trail = trail_in(directory, archive=archive)
    assert len(await trail.get_events(user_id="\udcff")) == 1
    await trail.apply_retention()
    assert len(await trail.get_events(user_id="\udcff")) == 1


@pytest.mark.slow
@pytest.mark.one_backend
async def test_page_by_page(directory: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages end and begin where days do, in them, and between the archive and the trail, and nothing comes twice."""
    trail = trail_in(directory, archive=archive)
    await trail.apply_retention()
    # Parts of a day of three records, a day, more than one, two, and more than the trail has of its own.
    for size in (1, 2, 3, 4, 6, 11):
        monkeypatch.setattr("fapilog.core._reading._PAGE", size)
        assert numbers([event async for event in trail.events()]) == list(range(19, 0, -1)), size
        assert numbers([event async for event in trail.events(oldest_first=True)]) == list(range(1, 20)), size


@pytest.mark.one_backend
async def test_what_the_archive_lacks_is_a_hole(directory: Path, archive: Archive) -> None:
    """Records that were removed and are not in the archive are a hole, in front of it and behind it."""
    await trail_in(directory, 39).apply_retention()
    await trail_in(directory, 37, archive).apply_retention()
    await trail_in(directory, 9).apply_retention()
    trail = trail_in(directory, archive=archive)
    found = [item async for item in trail.events(on_damage="yield", before=16)]
    assert numbers(found) == [15, 14, 13, None, 9, 8, 7, 6, 5, 4, None]
    assert [item.problem for item in found if isinstance(item, DamagedRecord)] == [
        f"records up to 12 were removed, and the last of them are not in {archive}",
        f"records 1 to 3 were removed, and are not in {archive}",
    ]
    found = [item async for item in trail.events(on_damage="yield", oldest_first=True, before=16)]
    assert numbers(found) == [None, 4, 5, 6, 7, 8, 9, None, 13, 14, 15]
    assert numbers([item async for item in trail.events(on_damage="yield", after=4, before=8)]) == [7, 6, 5]
    with pytest.raises(AuditStorageError, match="are not in"):
        [item async for item in trail.events(on_damage="raise")]


@pytest.mark.one_backend
async def test_an_archive_that_is_away(directory: Path, archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions that reach back to an archive that is away are an error, and others are answered."""
    trail = trail_in(directory, archive=archive)
    await trail.apply_retention()

    def away(*_: object) -> None:
        raise AuditStorageError(f"{archive}: away")

    monkeypatch.setattr(type(archive), "sizes", away)
    assert numbers(await trail.get_events(limit=10)) == list(range(19, 9, -1))
    assert numbers(await trail.get_events(after=9)) == list(range(19, 9, -1))
    for ask in (trail.get_events, lambda: trail.get_events(user_id="user-39"), lambda: trail.count_by("user_id")):
        with pytest.raises(AuditStorageError, match="away"):
            await ask()
    with pytest.raises(AuditStorageError, match="away"):
        await ArchiveStorage(archive).verify()


@pytest.mark.one_backend
async def test_days_that_are_removed_meanwhile(directory: Path, archive: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a question is answered days are removed, and it has all events once all the same."""
    trail = trail_in(directory, 39, archive)
    await trail.apply_retention()
    former = type(archive).sizes
    later = iter([37])

    def slow(self: Any) -> Any:
        for days in later:
            trail_in(directory, days, archive).sync.apply_retention()
        return former(self)

    monkeypatch.setattr(type(archive), "sizes", slow)
    assert numbers(await trail.get_events())[1:] == list(range(19, 0, -1))
    later = iter([9])
    assert numbers([event async for event in trail.events(oldest_first=True)])[:19] == list(range(1, 20))


@pytest.mark.one_backend
async def test_an_anchor_that_is_none(directory: Path, archive: Archive) -> None:
    """Where the anchor of the trail can't be read, nobody knows what was removed: an error."""
    trail = trail_in(directory, archive=archive)
    for content in (b"{}", None):
        (directory / "audit_anchor.json").unlink(missing_ok=True)
        if content is None:
            (directory / "audit_anchor.json").mkdir()
        else:
            (directory / "audit_anchor.json").write_bytes(content)
        for ask in (trail.get_events, trail.events(oldest_first=True).next_page):
            with pytest.raises(AuditStorageError):
                await ask()


@pytest.mark.one_backend
async def test_without_a_loop(directory: Path, archive: Archive) -> None:
    """`trail.sync` asks the archive too."""
    trail = trail_in(directory, archive=archive).sync
    trail.apply_retention()
    assert numbers(trail.events(oldest_first=True)) == list(range(1, 20))
    assert AuditTrail(storage=ArchiveStorage(archive)).sync.verify_chain_from_storage().events_checked == 9


def test_trails_that_can_have_none(tmp_path: Path) -> None:
    """A trail that is not in files has no archive, and the directory of the trail is none."""
    with pytest.raises(TypeError, match="expected a trail in files; got a MemoryStorage"):
        AuditTrail(storage=MemoryStorage(), archive=tmp_path)
    with pytest.raises(ValueError, match="another directory"):
        AuditTrail(storage_path=tmp_path, archive=tmp_path)
    with pytest.raises(TypeError, match="or an Archive; got an int"):
        AuditTrail(storage_path=tmp_path, archive=1)  # type: ignore[arg-type]
