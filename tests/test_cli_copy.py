"""`fapilog copy`: what it says, and with which exit code it ends."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from fapilog import AuditTrail
from fapilog.storage._archive.day import compress_day
from fapilog.storage.sqlite import SQLiteStorage
from tests.doubles.aged_trails import aged_trail, day_file
from tests.doubles.commands import Run, runs

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("typer", "rich"))), reason="needs the extra cli")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command, and returns its exit code, its output and its errors."""
    return runs(monkeypatch, capsys)


def test_into_a_database_and_back(run: Run, tmp_path: Path) -> None:
    """A name with the ending of a database makes one, any other a directory; each says what was copied."""
    trail = AuditTrail(storage_path=tmp_path / "audit")
    for number in range(3):
        trail.sync.log_data_access(f"patient/{number}", "read", user_id="alice")
    code, out, err = run("copy", tmp_path / "audit", tmp_path / "audit.db")
    assert (code, err) == (0, "")
    assert out.startswith("copied 3 records;")
    there = AuditTrail(storage=SQLiteStorage(tmp_path / "audit.db"))
    assert there.sync.head() == trail.sync.head()
    there.sync.stop()
    assert run("copy", tmp_path / "audit.db", tmp_path / "again")[0] == 0
    assert run("verify", tmp_path / "again")[0] == 0
    code, out, _ = run("copy", tmp_path / "audit.db", tmp_path / "again")
    assert (code, out.startswith("copied 0 records;")) == (0, True)


def test_a_file_of_sqlite_is_asked_by_the_same_commands(run: Run, tmp_path: Path) -> None:
    """`show`, `count` and `verify` say of a file of SQLite what they say of the files that it was copied from."""
    trail = AuditTrail(storage_path=tmp_path / "audit")
    for number in range(5):
        trail.sync.log_data_access(f"patient/{number}", "read", user_id=f"user-{number % 2}")
    head = trail.sync.head()
    assert run("copy", tmp_path / "audit", tmp_path / "audit.db")[0] == 0
    for command, *options in (
        ("show", "--user", "user-1"),
        ("show", "--oldest-first", "--limit", 2, "--json"),
        ("count", "--by", "user_id"),
        ("verify",),
        ("verify", "--head", f"5:{head.checksum}"),
        ("verify", "--head", f"5:{'0' * 64}"),
    ):
        said = run(command, tmp_path / "audit.db", *options)
        assert said == run(command, tmp_path / "audit", *options)
        assert said[0] == (1 if f"5:{'0' * 64}" in options else 0)
    (tmp_path / "other").write_text("no database")
    for command in ("show", "verify"):
        assert run(command, tmp_path / "other")[0] == 2
    for option in ("--trail", "--archive"):
        code, _, err = run("show", tmp_path / "audit.db", option, tmp_path / "x")
        assert (code, option in err) == (2, True)


def test_damage_is_told(run: Run, tmp_path: Path) -> None:
    """Of a damaged trail nothing is copied from the damage on, its file and line are named, and the exit code is 1."""
    trail = AuditTrail(storage_path=tmp_path / "audit")
    trail.sync.log_data_access("patient/1", "read", user_id="alice")
    (file,) = (tmp_path / "audit").glob("audit_*.jsonl")
    file.write_bytes(file.read_bytes().replace(b"alice", b"mally"))
    code, out, err = run("copy", tmp_path / "audit", tmp_path / "audit.db")
    assert (code, out) == (1, "")
    damage = f"{file.name}, line 1: record 1 was altered: its checksum is of other bytes"
    assert err == f"fapilog: the source is damaged: {damage}; nothing is copied behind record 0\n"


def test_a_compressed_day_that_is_damaged_is_told(run: Run, tmp_path: Path) -> None:
    """A day of which no record can be read is named, and not only that records are missing."""
    directory = aged_trail(tmp_path / "audit", (2, 1, 0))
    compress_day(directory, day_file(1))
    path = directory / f"{day_file(1)}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    code, _, err = run("copy", directory, tmp_path / "audit.db")
    assert (code, f"the source is damaged: {path.name} is damaged: it can't be decompressed" in err) == (1, True)


@pytest.mark.parametrize("name", ["audit", "audit.db"])
def test_without_a_trail_nothing_is_copied(run: Run, tmp_path: Path, name: str) -> None:
    """A place that has no records is no trail that could be said to be copied: the exit code is 2."""
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit.db").touch()
    code, out, err = run("copy", tmp_path / name, tmp_path / "there")
    assert (code, out, err) == (2, "", f"fapilog: there is no trail in {tmp_path / name}\n")


@pytest.mark.parametrize("name", ["whole", "whole.db"])
def test_an_archive_and_its_trail_are_whole_again(run: Run, tmp_path: Path, name: str) -> None:
    """Copied into one place, an archive and then the trail behind it are the trail as it was before retention."""
    directory, archive = aged_trail(tmp_path / "audit", (400, 300, 1)), tmp_path / "archive"
    assert run("retain", directory, "--retention-days", 350, "--archive", archive)[0] == 0
    assert run("copy", archive, tmp_path / name)[0] == 0
    code, out, err = run("copy", directory, tmp_path / name)
    assert (code, err, out.startswith("copied 7 records;")) == (0, "", True)
    assert run("verify", tmp_path / name)[1].startswith("valid: 10 records, none altered, none missing in between")
    assert run("retain", directory, "--retention-days", 250)[0] == 0
    assert run("copy", archive, tmp_path / "another")[0] == 0
    code, _, err = run("copy", directory, tmp_path / "another")
    assert (code, "and the source begins behind record 6" in err) == (1, True)


def test_a_home_directory_that_nobody_has(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a user without a home directory: the argument is named, with the exit code 2, and nothing is made."""
    monkeypatch.chdir(aged_trail(tmp_path / "audit", (1,)).parent)
    name = "~nobody-has-this-name"
    code, out, err = run("copy", "audit", f"{name}/audit")
    assert (code, out) == (2, "")
    assert "Invalid value for TO: expected a path in a home directory that is known" in " ".join(err.split())
    (tmp_path / name).mkdir()
    code, out, err = run("copy", name, "there")
    assert (code, out, "Invalid value for FROM" in err) == (2, "", True)
    code, out, err = run("show", name)
    assert (code, out, "a home directory that is known" in " ".join(err.split())) == (2, "", True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit", name]


@pytest.mark.parametrize("address", ["s3://clinic/eu", "sqlite:///audit.db", "mysql://root:hunter2@db/audit"])
def test_no_directory_is_made_of_an_address(
    run: Run, tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place with an address that nothing can be copied to is refused, and not taken for the name of a directory."""
    monkeypatch.chdir(aged_trail(tmp_path / "audit", (1,)).parent)
    code, out, err = run("copy", "audit", address)
    assert (code, out) == (2, "")
    assert "expected a directory, a file of SQLite or postgresql://" in err
    code, _, err = run("copy", "mysql://root:hunter2@db/audit", "there")
    assert (code, "hunter2" in err) == (2, False)
    assert [path.name for path in tmp_path.iterdir()] == ["audit"]


def test_what_cannot_be_copied(run: Run, tmp_path: Path) -> None:
    """A trail is not copied onto itself, and a place that can't be written to is named, with the exit code 2."""
    AuditTrail(storage_path=tmp_path / "audit").sync.log_data_access("patient/1", "read")
    assert run("copy", tmp_path / "audit", tmp_path / "audit")[0] == 2
    (tmp_path / "file").touch()
    code, _, err = run("copy", tmp_path / "audit", tmp_path / "file" / "there")
    assert code == 2
    assert "there" in err
