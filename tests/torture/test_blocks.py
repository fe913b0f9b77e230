"""A trail is read in blocks, and a start checks only its end: wherever these limits fall, what is found is the same."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fapilog.record.errors import AuditStorageError
from tests.doubles.trail_files import TrailFiles
from tests.doubles.trail_oracle import records
from tests.programs.appending_files import bodies

BLOCK = "fapilog.storage._files.lines._BLOCK_BYTES"
CHECKED = "fapilog.storage._files.end.CHECKED_BYTES"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A trail of three days with records of different lengths, and a piece of one at the end."""
    for day in (29, 30, 31):
        noon = datetime(2026, 1, day, tzinfo=UTC)
        files = TrailFiles(tmp_path, durable=False, now=lambda: noon)  # noqa: B023
        files.append(bodies([f"{day} {'x' * length}" for length in (1, 300, 2, 30, 3)], noon))
        files.close()
    return tmp_path


def leave_piece(directory: Path, size: int) -> None:
    last = max(directory.glob("audit_*.jsonl"))
    with last.open("ab") as file:
        file.write(last.read_bytes()[:size])


@pytest.mark.parametrize("piece", [0, 1, 200])
def test_blocks_of_any_size(directory: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """Read in blocks of any size, the trail is the same, forwards and backwards, and so is the piece at its end."""
    expected = [record["event_id"] for record in records(directory)]
    leave_piece(directory, piece)
    total = sum(path.stat().st_size for path in directory.iterdir())
    files = TrailFiles(directory, durable=False)
    verdict = files.verify()
    assert (verdict.valid, verdict.events_checked) == (True, 15)
    for size in [*range(1, 40), *range(40, total, 17), total]:
        monkeypatch.setattr(BLOCK, size)
        assert files.verify() == verdict
        assert [event.event_id for event in files.newest_first()] == expected[::-1]


def test_damage_in_blocks_of_any_size(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in blocks of any size, the same record is reported at the same line."""
    path = directory / "audit_2026-01-30.jsonl"
    path.write_bytes(path.read_bytes().replace(b"30 xxx", b"30 xxy"))
    files = TrailFiles(directory, durable=False)
    verdict = files.verify()
    assert verdict.first_invalid_sequence == 7
    for size in [*range(1, 40), *range(40, 4_000, 17)]:
        monkeypatch.setattr(BLOCK, size)
        assert files.verify() == verdict


@pytest.mark.usefixtures("without_syncs")
@pytest.mark.parametrize("piece", [0, 200])
def test_a_start_that_checks_any_part(directory: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    """However little of the end a start checks, it goes on with the same chain, and sets the same piece aside."""
    total = sum(path.stat().st_size for path in directory.iterdir())
    whole = max(directory.glob("audit_*.jsonl")).stat().st_size
    last = max(directory.glob("audit_*.jsonl"))
    # At least the last record has to be within.
    longest = max(len(line) for line in last.read_bytes().splitlines()) + 1
    for checked in [*range(longest + piece, total, 13), total - 1, total, total + 1]:
        leave_piece(directory, piece)
        monkeypatch.setattr(CHECKED, checked)
        files = TrailFiles(directory, durable=False, now=lambda: datetime(2026, 1, 31, tzinfo=UTC))
        (seal,) = files.append(bodies(["next"], datetime(2026, 1, 31, tzinfo=UTC)))
        files.close()
        assert seal.sequence_number == 16
        assert len(records(directory)) == 16
        for aside in directory.glob("*.torn-*"):
            assert aside.stat().st_size == piece
            aside.unlink()
        with last.open("rb+") as file:
            file.truncate(whole)


def test_damage_within_what_a_start_checks(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that checks the last file refuses to go on if a record in it was altered, and names it."""
    last = max(directory.glob("audit_*.jsonl"))
    last.write_bytes(last.read_bytes().replace(b"31 xxx", b"31 xxy"))
    monkeypatch.setattr(CHECKED, last.stat().st_size)
    files = TrailFiles(directory, durable=False)
    with pytest.raises(AuditStorageError, match=f"{last.name}, line 2: "):
        files.append(bodies(["next"], datetime(2026, 1, 31, tzinfo=UTC)))
    files.close()
