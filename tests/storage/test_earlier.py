"""Trails of fapilog 0.3.5, verified by its own rule. It wrote the golden one itself."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from fapilog import AuditTrail
from fapilog.record.errors import AuditStorageError
from fapilog.storage.earlier import is_of_earlier, verify_earlier
from tests.doubles.aged_trails import aged_trail

GOLDEN = Path(__file__).parents[1] / "golden" / "earlier" / "0.3.5"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A trail that two processes of fapilog 0.3.5 wrote, two records each."""
    shutil.copytree(GOLDEN, tmp_path / "old")
    return tmp_path / "old"


def file_in(directory: Path) -> Path:
    [file] = directory.glob("audit_*.jsonl")
    return file


def test_what_it_wrote_is_valid(old: Path) -> None:
    """Two runs of two records each are valid, and the hash of the file is that of its bytes."""
    found = verify_earlier(old)
    last = json.loads(file_in(old).read_bytes().splitlines()[-1])
    assert (found.records, found.runs, found.problem) == (4, 2, None)
    assert (found.sequence_number, found.checksum) == (2, last["checksum"])
    assert found.files == {file_in(old).name: sha256(file_in(old).read_bytes()).hexdigest()}


def test_each_changed_byte_is_found(old: Path) -> None:
    """Whichever byte of a record is changed, the record is not valid."""
    whole = file_in(old).read_bytes()
    end = whole.index(b"\n")
    for offset in range(end):
        changed = bytearray(whole)
        changed[offset] ^= 1
        file_in(old).write_bytes(changed)
        found = verify_earlier(old)
        assert found.problem is not None, offset
        assert (found.records, found.runs) == (1, 0)


def test_records_that_are_missing_or_moved_are_found(old: Path) -> None:
    """A record that does not follow the one before it is found, with its place."""
    first, second, third, fourth = file_in(old).read_bytes().splitlines(keepends=True)
    for lines in ([second, third, fourth], [first, fourth], [second, first], [first, second, second], [third, second]):
        file_in(old).write_bytes(b"".join(lines))
        assert "follows no record" in (verify_earlier(old).problem or "")
    file_in(old).write_bytes(first + b"\n" + second[:100])
    assert "line 3" in (verify_earlier(old).problem or "")


def test_processes_that_wrote_at_once(old: Path) -> None:
    """The records of several processes may stand between each other, over the days too: each run is a chain."""
    file = file_in(old)
    first, second, third, fourth = file.read_bytes().splitlines(keepends=True)
    for lines in ([first, third, second, fourth], [third, first, fourth, second]):
        file.write_bytes(b"".join(lines[:3]))
        (old / "audit_9999-12-31.jsonl").write_bytes(lines[3])
        found = verify_earlier(old)
        assert (found.records, found.runs, found.problem) == (4, 2, None)
        assert found.checksum == json.loads(lines[3])["checksum"]


def test_a_trail_that_jq_has_sorted_is_ours(tmp_path: Path) -> None:
    """With its members sorted, a record of ours begins as those of the earlier fapilog do, and is none of them."""
    ours = aged_trail(tmp_path, (1,))
    file = file_in(ours)
    records = [json.loads(line) for line in file.read_bytes().splitlines()]
    lines = [json.dumps(record, sort_keys=True, separators=(",", ":")) for record in records]
    assert all(line.startswith('{"checksum":"') for line in lines)
    file.write_text("".join(f"{line}\n" for line in lines))
    assert not is_of_earlier(ours)
    verdict = AuditTrail(storage_path=ours).sync.verify_chain_from_storage()
    assert "earlier fapilog" not in str(verdict.error_message)


def test_whose_it_is(old: Path, tmp_path: Path) -> None:
    """A trail of ours, and an empty directory, are none of the earlier fapilog's."""
    assert is_of_earlier(old)
    assert not is_of_earlier(aged_trail(tmp_path / "ours", (1,)))
    assert not is_of_earlier(tmp_path / "none")
    (tmp_path / "ours" / "audit_2020-01-01.jsonl").mkdir()
    assert not is_of_earlier(tmp_path / "ours")
    with pytest.raises(AuditStorageError, match="cannot read"):
        verify_earlier(tmp_path / "ours")
