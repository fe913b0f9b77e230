"""Copies of a trail: byte for byte, between any two storages, however often they are interrupted."""

import contextlib
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from fapilog import AuditEvent, AuditEventType, AuditStorageError, ChainHead, FileStorage
from fapilog.record.chain import AuditChainVerificationResult
from fapilog.record.errors import TrailMismatchError
from fapilog.storage.copying import copy, pages
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import AuditStorage, EventFilter, head_of
from fapilog.storage.sqlite import SQLiteStorage

pytestmark = pytest.mark.real_time

NOON = datetime(2026, 1, 30, 12, tzinfo=UTC)
GOLDEN = Path(__file__).parents[1] / "golden"
Make = Callable[[Path], AuditStorage]
MAKERS: list[Make] = [
    FileStorage,
    lambda path: SQLiteStorage(path.with_suffix(".db")),
    lambda _: MemoryStorage(),
]
NAMES = ["files", "sqlite", "memory"]


def event(number: int) -> AuditEvent:
    """Return an event, three of them a day."""
    at = NOON + timedelta(hours=8 * number)
    return AuditEvent(
        event_id=f"id-{number}", timestamp=at, event_type=AuditEventType.DATA_ACCESS, message=f"\x85 \u202e {number}"
    )


async def filled(storage: AuditStorage, count: int) -> AuditStorage:
    for number in range(count):
        await storage.append(event(number))
    return storage


async def lines(storage: AuditStorage) -> list[bytes]:
    return list(await storage.read_lines(0, 10_000))


@pytest.mark.one_backend
@pytest.mark.parametrize("source", MAKERS, ids=NAMES)
@pytest.mark.parametrize("target", MAKERS, ids=NAMES)
async def test_every_byte_arrives(tmp_path: Path, source: Make, target: Make) -> None:
    """Copied from any storage into any other, a trail has the same bytes and the same head, and goes on there."""
    trail, there = await filled(source(tmp_path / "from"), 7), target(tmp_path / "to")
    seen: list[int] = []
    assert await copy(trail, there, seen.append) == (7, await head_of(trail))
    assert seen == [7]
    assert await lines(there) == await lines(trail)
    assert (await there.append(event(8))).sequence_number == 8  # type: ignore[union-attr]
    assert (await there.verify()).valid
    await trail.aclose()
    await there.aclose()


@pytest.mark.parametrize("source", MAKERS, ids=NAMES)
async def test_files_are_of_the_days_of_their_records(tmp_path: Path, source: Make) -> None:
    """In files each record is in the file of its own day."""
    trail, there = await filled(source(tmp_path / "from"), 7), FileStorage(tmp_path / "to")
    await copy(trail, there)
    counts = {path.name: path.read_bytes().count(b"\n") for path in (tmp_path / "to").glob("*.jsonl")}
    assert counts == {"audit_2026-01-30.jsonl": 2, "audit_2026-01-31.jsonl": 3, "audit_2026-02-01.jsonl": 2}
    await trail.aclose()
    await there.aclose()


@pytest.mark.one_backend
@pytest.mark.parametrize("golden", ["format-1", "format-2"])
@pytest.mark.parametrize("target", MAKERS, ids=NAMES)
async def test_each_format_stays_as_it_is(tmp_path: Path, golden: str, target: Make) -> None:
    """The golden trail of each format arrives byte for byte, and verifies."""
    trail, there = FileStorage(GOLDEN / golden), target(tmp_path / "to")
    await copy(trail, there)
    assert await lines(there) == await lines(trail)
    await there.aclose()


class Ending(MemoryStorage):
    """A source that fails after some records."""

    def __init__(self, whole: AuditStorage, limit: int) -> None:
        super().__init__()
        self._whole = whole
        self._limit = limit

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        if after >= self._limit:
            raise AuditStorageError("the source is gone")
        return await self._whole.read_lines(after, min(3, limit))


@pytest.mark.parametrize("target", MAKERS, ids=NAMES)
async def test_it_goes_on_where_it_was(tmp_path: Path, target: Make) -> None:
    """A copy that was interrupted goes on with the next record, and one that is whole copies nothing."""
    trail, there = await filled(MemoryStorage(), 7), target(tmp_path / "to")
    for limit in (1, 4):
        with pytest.raises(AuditStorageError, match="gone"):
            await copy(Ending(trail, limit), there)
        assert (await head_of(there)).sequence_number in {3, 6}
    assert (await copy(trail, there))[0] == 1
    assert (await copy(trail, there))[0] == 0
    assert await lines(there) == await lines(trail)
    await there.aclose()


@pytest.mark.parametrize("target", MAKERS, ids=NAMES)
async def test_two_trails_are_not_mixed(tmp_path: Path, target: Make) -> None:
    """Into a storage with another trail nothing is copied."""
    there = target(tmp_path / "to")
    await there.append(replace(event(0), message="another"))
    with pytest.raises(AuditStorageError, match="two trails"):
        await copy(await filled(MemoryStorage(), 3), there)
    assert (await head_of(there)).sequence_number == 1
    await there.aclose()


class Damaged(MemoryStorage):
    """One record is another than it was."""

    def __init__(self, changed: Callable[[list[bytes]], Sequence[bytes]]) -> None:
        super().__init__()
        self._changed = changed

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        return list(self._changed(await super().read_lines(after, limit)))


@pytest.mark.one_backend
@pytest.mark.parametrize("target", MAKERS, ids=NAMES)
@pytest.mark.parametrize(
    "changed",
    [
        lambda page: [line.replace(b"data_access", b"data_export") for line in page],
        lambda page: page[::-1],
        lambda page: page[1:],
        lambda page: [line + b"\r" for line in page],
    ],
    ids=["altered", "in another order", "without the first", "with CR"],
)
async def test_what_is_damaged_is_not_copied(
    tmp_path: Path, changed: Callable[[list[bytes]], Sequence[bytes]], target: Make
) -> None:
    """A record that does not follow the one before it is not copied, and neither is any of its page."""
    there = target(tmp_path / "to")
    with pytest.raises(
        AuditStorageError, match=r"^(in the source, .*; nothing is copied|the source begins .*; nothing is app)"
    ):
        await copy(await filled(Damaged(changed), 3), there)
    assert await lines(there) == []
    await there.aclose()


@pytest.mark.parametrize("target", MAKERS, ids=NAMES)
async def test_lines_go_behind_the_head_alone(tmp_path: Path, target: Make) -> None:
    """Lines that follow another head than the storage has are refused, although they are intact."""
    there, page = target(tmp_path / "to"), await lines(await filled(MemoryStorage(), 3))
    with pytest.raises(AuditStorageError, match="its newest record is not record 1"):
        await there.append_lines(await head_after(page[:1]), page[1:])  # type: ignore[attr-defined]
    assert await lines(there) == []
    await there.aclose()


async def head_after(page: Sequence[bytes]) -> ChainHead:
    storage = MemoryStorage()
    return await storage.append_lines(ChainHead(0, None), page)


@pytest.mark.slow_on_trio
async def test_long_records_go_one_by_one() -> None:
    """A page has no more than a mebibyte, unless it is one record, and is larger again when the records are short."""
    source = MemoryStorage()
    for size in (300_000, 300_000, 600_000, 1_047_000, *[3000] * 3, 300_000, *[10] * 700):
        await source.append(replace(event(0), message="x" * size))
    found = [page async for page in pages(source, 0)]
    assert [len(page) for page in found[:3]] == [2, 1, 1]
    assert max(map(len, found)) == 500
    assert all(len(page) == 1 or sum(map(len, page)) <= 1 << 20 for page in found)
    assert [line for page in found for line in page] == await lines(source)


@pytest.mark.parametrize("target", MAKERS, ids=NAMES)
async def test_an_id_that_is_there_twice(tmp_path: Path, target: Make) -> None:
    """A trail in which an id is there twice is copied as it is; asked for that id, the copy has both records."""
    trail, there = MemoryStorage(), target(tmp_path / "to")
    for number in (0, 1, 0):
        await trail.append(event(number))
    await copy(trail, there)
    assert await lines(there) == await lines(trail)
    found = await there.find(EventFilter(event_id="id-0"), 10)
    assert [each.sequence_number for each in found if isinstance(each, AuditEvent)] == [3, 1]
    assert await there.append(event(0), once=True) is None
    await there.aclose()


async def test_sqlite_can_be_asked_for_what_was_copied(tmp_path: Path) -> None:
    """The columns that SQLite searches are filled from the records."""
    there = SQLiteStorage(tmp_path / "to.db")
    await copy(await filled(MemoryStorage(), 3), there)
    with contextlib.closing(sqlite3.connect(tmp_path / "to.db")) as connection:
        rows = connection.execute("SELECT event_id, event_type FROM records ORDER BY sequence_number").fetchall()
    assert rows == [(f"id-{number}", "data_access") for number in range(3)]
    await there.aclose()


@pytest.mark.parametrize(("number", "kind"), [(1, TrailMismatchError), (None, AuditStorageError)])
async def test_a_copy_that_is_not_valid(number: int | None, kind: type[Exception]) -> None:
    """A copy that reads back damaged is another trail; one that can't be read back is away, and may be tried again."""

    class Spoilt(MemoryStorage):
        async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
            return AuditChainVerificationResult(
                valid=False, events_checked=1, first_invalid_sequence=number, error_message="spoilt"
            )

    source = MemoryStorage()
    await source.append(event(0))
    with pytest.raises(AuditStorageError, match=r"^the copy is not valid: spoilt$") as raised:
        await copy(source, Spoilt())
    assert type(raised.value) is kind


async def test_a_storage_without_append_lines_is_refused() -> None:
    """What takes no lines as they are is named."""

    class Other:
        pass

    with pytest.raises(TypeError, match=r"append_lines; got a .*Other"):
        await copy(MemoryStorage(), Other())  # type: ignore[arg-type]
