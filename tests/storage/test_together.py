"""A trail and its archive are verified as one chain, and what is between the two is never passed over."""

import gzip
from pathlib import Path

import pytest

from fapilog import AuditTrail, ChainStatus, CompliancePolicy, DirectoryArchive
from fapilog.storage._archive.together import verify_together
from tests.doubles.aged_trails import aged_trail, day_file

pytestmark = [pytest.mark.real_time, pytest.mark.may_block]

AGES = (40, 39, 38, 10, 2, 1)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A trail of six days, with three records each."""
    return aged_trail(tmp_path / "trail", AGES)


@pytest.fixture
def archive(tmp_path: Path) -> DirectoryArchive:
    """An archive in a directory."""
    return DirectoryArchive(tmp_path / "archive")


async def retain(directory: Path, archive: DirectoryArchive | None, *, days: int, cold: int | None = None) -> None:
    trail = AuditTrail(CompliancePolicy(retention_days=days, archive_after_days=cold), directory)
    await trail.apply_retention(archive=archive)
    await trail.stop()


@pytest.mark.slow_on_trio
async def test_one_chain_in_two_places(directory: Path, archive: DirectoryArchive) -> None:
    """Removed days count as there; days in both places are checked in both, and the counts go up."""
    await retain(directory, archive, days=30, cold=5)
    seen: list[int] = []
    result = verify_together(directory, archive, seen.append)
    assert (result.valid, result.status, result.pruned, result.events_checked) == (True, ChainStatus.OK, None, 19)
    assert result.error_message == f"records 1 to 9 are in {archive}"
    assert seen == sorted(seen)


async def test_a_trail_of_which_nothing_is_removed(directory: Path, archive: DirectoryArchive) -> None:
    """An empty archive, and one with days that are all in the trail too, take nothing away from it."""
    result = verify_together(directory, archive)
    assert (result.valid, result.events_checked, result.error_message) == (True, 18, None)
    await retain(directory, archive, days=1000, cold=20)
    assert len(archive.sizes()) == 3
    assert verify_together(directory, archive) == result


@pytest.mark.slow_on_trio
async def test_an_archive_that_begins_behind_an_anchor(directory: Path, archive: DirectoryArchive) -> None:
    """Days that were removed before the archive was begun are named, wherever the record about that is."""
    await retain(directory, None, days=39)
    await retain(directory, archive, days=30)
    result = verify_together(directory, archive)
    assert (result.valid, result.status, result.events_checked) == (True, ChainStatus.FRONT_PRUNED, 17)
    assert result.pruned is not None
    assert result.pruned.sequence_number == 3
    assert (result.error_message or "").startswith("records 1 to 3 were removed by retention, as record 19 says; ")


@pytest.mark.slow_on_trio
@pytest.mark.parametrize(
    ("damage", "status", "first", "words"),
    [
        ("altered", ChainStatus.ALTERED, 5, "record 5"),
        ("gone", ChainStatus.GAP, 4, "record 4"),
        ("cut", ChainStatus.GAP, 7, "records up to 9 were removed from the trail, and"),
        ("another", ChainStatus.BROKEN_LINK, 9, "is not the one that was removed from the trail"),
        ("longer", ChainStatus.BROKEN_LINK, 12, "is not that of the trail"),
        ("trail", ChainStatus.ALTERED, 11, "record 11"),
    ],
)
async def test_damage(
    directory: Path,
    archive: DirectoryArchive,
    tmp_path: Path,
    *,
    damage: str,
    status: ChainStatus,
    first: int,
    words: str,
) -> None:
    """Damage in the archive, in the trail and between the two is named with its place."""
    await retain(directory, archive, days=30)
    middle = archive.directory / f"{day_file(39)}.gz"
    if damage == "altered":
        middle.write_bytes(
            gzip.compress(gzip.decompress(middle.read_bytes()).replace(b"record 1 was", b"record 2 was"))
        )
    elif damage == "gone":
        middle.unlink()
    elif damage == "cut":
        (archive.directory / f"{day_file(38)}.gz").unlink()
    elif damage == "trail":
        day = directory / day_file(10)
        day.write_bytes(day.read_bytes().replace(b"record 1 was", b"record 2 was"))
    else:
        # A chain of its own, valid in itself, or one that begins as this trail does.
        for each in archive.directory.iterdir():
            if damage == "another":
                each.unlink()
        other = aged_trail(tmp_path / "other", AGES[:3] if damage == "another" else ())
        if damage == "longer":
            for each in archive.directory.iterdir():
                other.mkdir(exist_ok=True)
                (other / each.name).write_bytes(each.read_bytes())
            aged_trail(other, (5,))
        for each in other.glob("audit_*.jsonl"):
            (archive.directory / f"{each.name}.gz").write_bytes(gzip.compress(each.read_bytes()))
    result = verify_together(directory, archive)
    assert (result.valid, result.status, result.first_invalid_sequence) == (False, status, first)
    assert words in (result.error_message or "")
