"""`fapilog verify` and `fapilog continue` with a trail of fapilog 0.3.5."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from fapilog import AuditStorageError, AuditTrail
from tests.doubles.commands import Run, runs

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("typer", "rich"))), reason="needs the extra cli")

GOLDEN = Path(__file__).parent / "golden" / "earlier" / "0.3.5"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command, and returns its exit code, its output and its errors."""
    return runs(monkeypatch, capsys)


def test_it_is_verified(run: Run, tmp_path: Path) -> None:
    """It is valid as it is, as words and as JSON, and a changed one is not."""
    words = "valid: 4 records of fapilog 0.3.5 or earlier, in 2 runs, each with a chain of its own\n"
    assert run("verify", GOLDEN) == (0, words, "")
    assert json.loads(run("verify", GOLDEN, "--json")[1])["records"] == 4
    shutil.copytree(GOLDEN, tmp_path / "old")
    [file] = (tmp_path / "old").iterdir()
    file.write_bytes(file.read_bytes().replace(b"alice", b"mally", 1))
    code, out, _ = run("verify", tmp_path / "old")
    assert code == 1
    assert "NOT VALID" in out
    assert run("continue", tmp_path / "old", tmp_path / "new")[0] == 1
    assert not (tmp_path / "new").exists()


def test_it_is_continued(run: Run, tmp_path: Path) -> None:
    """The first record of the new trail names the last checksum and the hashes of the old one, once."""
    code, out, err = run("continue", GOLDEN, tmp_path / "new")
    assert (code, err) == (0, "")
    assert "names the 4 records" in out
    assert run("verify", tmp_path / "new")[0] == 0
    (event,) = AuditTrail(storage_path=tmp_path / "new").sync.get_events()
    [file] = GOLDEN.iterdir()
    last = json.loads(file.read_bytes().splitlines()[-1])
    said = event.metadata["fapilog.continues"]
    assert (said["records"], said["runs"], said["checksum"]) == (4, 2, last["checksum"])
    assert list(said["files"]) == [file.name]
    there = f"fapilog: expected no trail in {tmp_path / 'new'}; there is one\n"
    assert run("continue", GOLDEN, tmp_path / "new") == (2, "", there)
    assert run("continue", tmp_path / "new", tmp_path / "newer")[0] == 2
    code, _, err = run("continue", GOLDEN, "s3://clinic/eu")
    assert (code, "got an address, s3://..." in err) == (2, True)


def test_it_is_told_from_damage(run: Run, tmp_path: Path) -> None:
    """Whoever takes it for one of ours is told what it is; it is no damage that could be sealed, and is not changed."""
    old = shutil.copytree(GOLDEN, tmp_path / "old")
    [file] = old.iterdir()
    before = file.read_bytes()
    with pytest.raises(AuditStorageError, match=r"line 1: this is a record of the earlier fapilog: `fapilog continue`"):
        AuditTrail(storage_path=old).sync.log_event("billing.refund", "m")
    code, out, _ = run("tail", old)
    assert (code, out.count("this is a record of the earlier fapilog")) == (0, 1)
    code, _, err = run("recover", old, "--reason", "x")
    assert (code, "is a trail of the earlier fapilog: `fapilog continue` begins" in err) == (2, True)
    assert file.read_bytes() == before


def test_its_events_are_shown_and_counted(run: Run) -> None:
    """It is asked the same questions as a trail of ours, in both orders."""
    code, out, err = run("show", GOLDEN, "--user", "alice", "--limit", "1", "--json")
    assert (code, json.loads(out)["sequence_number"], "more than 1" in err) == (0, 4, True)
    code, out, _ = run("show", GOLDEN, "--oldest-first", "--json")
    assert (code, [json.loads(line)["sequence_number"] for line in out.splitlines()]) == (0, [1, 2, 3, 4])
    assert json.loads(run("count", GOLDEN, "--by", "target.id", "--json")[1]) == {"42": 2, "": 2}
