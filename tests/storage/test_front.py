"""A trail whose first records retention has removed is copied and replicated, and verifies as such where it arrives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from fapilog import (
    AuditEventType,
    AuditStorage,
    AuditTrail,
    ChainStatus,
    CompliancePolicy,
    FileStorage,
    TrailMismatchError,
)
from fapilog.storage._anchor import ANCHOR
from fapilog.storage.copying import copy
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import head_of
from fapilog.storage.replication import Replication
from fapilog.storage.sqlite import SQLiteStorage
from tests.doubles.aged_trails import aged_trail, day_file

pytestmark = [pytest.mark.real_time, pytest.mark.may_block, pytest.mark.one_backend]

Make = Callable[[str], AuditStorage]


@pytest.fixture(params=["files", "sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Return a function that makes an empty storage of each kind, by a name."""
    if request.param == "files":
        return lambda name: FileStorage(tmp_path / name)
    if request.param == "sqlite":
        return lambda name: SQLiteStorage(tmp_path / f"{name}.db")
    server = request.getfixturevalue("database")
    from fapilog.storage.postgres import PostgresStorage  # noqa: PLC0415  needs an extra

    return lambda name: PostgresStorage(server.dsn(user="service"), f"{request.node.name} {name}")


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A trail of four days with three records each, of which retention has removed the first two."""
    directory = aged_trail(tmp_path / "trail", (40, 39, 10, 1))
    trail = AuditTrail(CompliancePolicy(retention_days=30), directory)
    await trail.apply_retention()
    await trail.stop()
    return directory


async def require_pruned(storage: AuditStorage, checked: int) -> None:
    result = await storage.verify()
    assert (result.valid, result.status, result.events_checked) == (True, ChainStatus.FRONT_PRUNED, checked)
    assert result.pruned is not None
    assert result.pruned.sequence_number == 6
    assert result.error_message == "records 1 to 6 were removed by retention, as record 13 says"


async def test_a_pruned_trail_is_copied(directory: Path, make: Make) -> None:
    """From files to each storage and from there to files: the same bytes and heads, which verify as front pruned."""
    source, target, back = FileStorage(directory), make("target"), FileStorage(directory.parent / "back")
    assert await copy(source, target) == (7, await head_of(source))
    await require_pruned(target, 7)
    assert (await copy(target, back))[0] == 7
    await require_pruned(back, 7)
    assert await back.read_lines(0, 99) == await source.read_lines(0, 99)
    for name in (ANCHOR, day_file(10), day_file(1)):
        there = (directory.parent / "back" / name).read_bytes()
        # The time up to which records were removed is known to retention alone.
        assert there == (directory / name).read_bytes() or name == ANCHOR
    # All of them go on: the source, its copy, and the copying.
    await AuditTrail(storage=source).log_event(AuditEventType.DATA_ACCESS, "read")
    assert await copy(source, target) == (1, await head_of(source))
    await AuditTrail(storage=target).log_event(AuditEventType.DATA_ACCESS, "read")
    await require_pruned(target, 9)
    for each in (source, target, back):
        await each.aclose()


@pytest.mark.slow_on_trio
async def test_a_pruned_trail_is_replicated(directory: Path, make: Make) -> None:
    """A replication that begins after a removal begins behind the removed records, and resumes."""
    target = make("replica")
    for _ in range(2):
        replication = Replication(directory, target)
        assert await replication.catch_up() == await head_of(FileStorage(directory))
    await require_pruned(target, 7)
    await target.aclose()


async def test_a_front_that_no_record_explains(directory: Path, make: Make) -> None:
    """A trail whose first records are gone without a record that says so is not copied, and nothing is written."""
    (directory / ANCHOR).unlink()
    (directory / day_file(10)).unlink()
    source, target = FileStorage(directory), make("target")
    with pytest.raises(TrailMismatchError, match=r"begins behind record 9, and no record says why"):
        await copy(source, target)
    assert await target.read_lines(0, 1) == []
    await target.aclose()


@pytest.mark.slow_on_trio
async def test_a_removed_front_of_a_copy_is_a_gap(directory: Path, make: Make) -> None:
    """Only records that the record about the removal names may be missing."""
    source, target = FileStorage(directory), make("target")
    lines = await source.read_lines(6, 99)
    head = (await source.verify()).pruned
    assert head is not None
    # Records of a chain that begins elsewhere are refused where nothing explains them.
    with contextlib.suppress(TypeError), pytest.raises(Exception, match="its newest record is not record 6"):
        await target.append_lines(head, lines)  # type: ignore[attr-defined]
    await copy(source, target)
    if isinstance(target, SQLiteStorage):
        import sqlite3  # noqa: PLC0415

        with contextlib.closing(sqlite3.connect(str(target))) as connection, connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {name}")
            connection.execute("DELETE FROM records WHERE sequence_number = 7")
        result = await target.verify()
        assert (result.valid, result.status) == (False, ChainStatus.GAP)
    await target.aclose()


async def test_a_storage_that_begins_with_the_first_record(directory: Path) -> None:
    """A storage that can't begin behind removed records says so."""
    with pytest.raises(TrailMismatchError, match="a MemoryStorage can't begin behind record 6"):
        await copy(FileStorage(directory), MemoryStorage())
