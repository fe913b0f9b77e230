"""`fapilog retain` and `fapilog hold`: what they say and do, and with which exit code they end."""

import contextlib
import errno
import grp
import json
import os
import re
import sqlite3
import stat
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import ArchiveStorage, AuditEventType, AuditTrail, Outbox
from fapilog.storage._archive.day import exclusive
from fapilog.storage.holds import remove_hold
from fapilog.testing import RecordingDispatcher
from tests.doubles.aged_trails import aged_trail, day_file
from tests.doubles.commands import Run, runs

pytestmark = [
    pytest.mark.skipif(not all(map(find_spec, ("typer", "rich"))), reason="needs the extra cli"),
    pytest.mark.real_time,
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command, and returns its exit code, its output and its errors."""
    return runs(monkeypatch, capsys)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A trail of five days, 40 to 1 days ago, with three records each."""
    return aged_trail(tmp_path / "trail", (40, 39, 20, 2, 1))


def test_a_run(run: Run, directory: Path, tmp_path: Path) -> None:
    """Asked first and then done, it says for each day what becomes of it, and the trail and a later head verify."""
    head = AuditTrail(storage_path=directory).sync.get_events(before=8)[0]
    options = ("--retention-days", 30, "--archive-after-days", 10, "--archive", tmp_path / "archive")
    code, out, err = run("retain", directory, *options, "--dry-run")
    assert (code, err) == (0, "")
    rows = [line.split(maxsplit=2) for line in out.splitlines()]
    assert rows == [
        ["day", "records", "would be"],
        [day_file(40)[:-6], "1-3", "compressed, archived, removed"],
        [day_file(39)[:-6], "4-6", "compressed, archived, removed"],
        [day_file(20)[:-6], "compressed,", "archived"],
    ]
    code, out, _ = run("retain", directory, *options)
    assert code == 0
    assert [line.split(maxsplit=2) for line in out.splitlines()] == [["day", "records", "done"], *rows[1:]]
    code, out, _ = run("verify", directory)
    assert code == 0
    assert "records 1 to 6 were removed by retention, as record 16 says" in out
    assert run("verify", directory, "--head", f"{head.sequence_number}:{head.checksum}")[0] == 0
    code, out, _ = run("verify", directory, "--head", f"3:{'0' * 64}")
    assert (code, "record 3 was removed by retention" in out) == (2, True)
    assert run("verify", tmp_path / "archive")[0] == 0
    both = ("verify", directory, "--archive", tmp_path / "archive")
    code, out, _ = run(*both)
    assert (code, "valid: 16 records" in out, "records 1 to 6 are in" in out) == (0, True, True)
    removed = AuditTrail(storage_path=tmp_path / "archive").sync.head()
    assert run(*both, "--head", f"{removed.sequence_number}:{removed.checksum}")[0] == 0
    assert run(*both, "--head", f"3:{'0' * 64}")[0] == 1
    assert run("retain", directory, *options) == (0, "nothing is old enough\n", "")


def test_as_json(run: Run, directory: Path) -> None:
    """As JSON the report has every member."""
    code, out, _ = run("retain", directory, "--retention-days", 39, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["dry_run"], report["records"], len(report["days"])) == (False, [16], 1)
    assert report["days"][0]["removed"] is True


def test_options_that_say_nothing(run: Run, directory: Path) -> None:
    """Without an age, and with one below the floor of the level, nothing is done."""
    assert run("retain", directory)[0] == 2
    code, _, err = run("retain", directory, "--retention-days", 30, "--level", "pci_dss")
    assert code == 2
    assert "--below-floor" in err
    assert run("retain", directory, "--retention-days", 30, "--level", "pci_dss", "--below-floor")[0] == 0


def test_another_at_work(run: Run, directory: Path) -> None:
    """While another process applies retention it says so, with the exit code 2."""
    with exclusive(directory):
        code, _, err = run("retain", directory, "--retention-days", 30)
    assert code == 2
    assert "another process applies retention" in err


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("place", ["trail/outbox.db", "elsewhere.db"])
async def test_an_outbox(run: Run, directory: Path, tmp_path: Path, place: str) -> None:
    """A record about which an outbox has a dead alert stays, if the outbox is in the directory or is named."""
    path = tmp_path / place
    async with AuditTrail(storage_path=directory, alert_dispatcher=Outbox(RecordingDispatcher(), path)) as trail:
        await trail.drain()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO alerts (outbox, event_id, sequence_number, event_type, severity, status, came_at, due_at,"
            " noted_at) VALUES ('alerts', 'x', 5, 'data_access', 'info', 'dead', 0, 0, 0)"
        )
    named = () if place.startswith("trail") else ("--outbox", path)
    code, out, _ = run("retain", directory, "--retention-days", 30, *named)
    assert code == 0
    assert out.count("removed") == 1
    assert "kept: an alert about record 5 may be pending" in out
    assert run("alerts", "discard", path, "x", "--reason", "known")[0] == 0
    assert run("retain", directory, "--retention-days", 30, *named)[1].count("removed") == 1


@pytest.mark.slow
async def test_an_outbox_in_use(directory: Path) -> None:
    """One that was made just now, and is in use by another process, is seen in the directory, whatever its name is."""
    path = directory / "audit_alerts.db"
    async with AuditTrail(storage_path=directory, alert_dispatcher=Outbox(RecordingDispatcher(), path)):
        asked = f"from pathlib import Path; print(*_outboxes_in(Path({str(directory)!r})))"
        script = f"from fapilog.cli.retain import _outboxes_in; {asked}"
        found = await anyio.run_process([sys.executable, "-c", script])
    assert found.stdout.decode().split() == [str(path)]


def test_an_outbox_that_is_none(run: Run, directory: Path, tmp_path: Path) -> None:
    """Where an outbox that is named can't be read, nothing is removed."""
    code, _, err = run("retain", directory, "--retention-days", 30, "--outbox", tmp_path / "none.db")
    assert code == 2
    assert "there is no such file" in err
    assert (directory / day_file(40)).exists()


def test_a_file_that_cannot_be_read(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the trail that may be an outbox, and can't be read, is named, and nothing is removed."""
    (directory / "alerts.db").touch()
    opened = os.open

    def refuse(path: Any, *args: Any, **options: Any) -> int:
        if path == directory / "alerts.db":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    code, out, err = run("retain", directory, "--retention-days", 30)
    assert (code, out) == (2, "")
    assert err.startswith(f"fapilog: cannot read {directory / 'alerts.db'}: Permission denied; this process is user ")
    assert (directory / day_file(40)).exists()


CHANGES = [("retain", "--retention-days", 30), ("hold", "add", "--reason", "a lawsuit")]


@pytest.mark.parametrize("command", CHANGES)
def test_no_command_locks_a_log_shipper_out(run: Run, directory: Path, command: tuple[object, ...]) -> None:
    """The file of a day that a command begins has the mode and the group of the newest file before."""
    newest = directory / day_file(1)
    groups = (each.gr_gid for each in grp.getgrall()) if os.geteuid() == 0 else os.getgroups()
    group = next((each for each in groups if each != os.getegid()), os.getegid())
    os.chown(newest, -1, group)
    newest.chmod(0o640)
    assert run(*command, directory)[0] == 0
    found = (directory / day_file(0)).stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o640, group)


@pytest.mark.skipif(os.geteuid() != 0, reason="another group can be had by root alone")
@pytest.mark.parametrize("command", CHANGES)
def test_a_group_without_a_name(run: Run, directory: Path, command: tuple[object, ...]) -> None:
    """Where the group of the newest file has no name, as in a container, the commands work, and keep the mode."""
    os.chown(directory / day_file(1), -1, 54321)
    (directory / day_file(1)).chmod(0o640)
    assert run(*command, directory)[0] == 0
    assert stat.S_IMODE((directory / day_file(0)).stat().st_mode) == 0o640


def test_holds(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hold is set, listed and lifted, and by whom is recorded; while it is set, no day that it names is removed."""
    monkeypatch.setenv("SUDO_USER", "alice")
    assert run("hold", "list", directory) == (0, "no holds\n", "")
    code, out, _ = run("hold", "add", directory, "--reason", "case 7")
    assert code == 0
    name = out.split()[1]
    code, out, _ = run("hold", "list", directory)
    assert (code, name in out, "case 7" in out) == (0, True, True)
    assert json.loads(run("hold", "list", directory, "--json")[1])[0]["id"] == name
    _, out, _ = run("retain", directory, "--retention-days", 30)
    assert f"kept: legal hold {name}" in out
    assert run("hold", "remove", directory, "none", "--reason", "x")[0] == 1
    assert run("hold", "remove", directory, name, "--reason", " ")[0] == 2
    assert run("hold", "remove", directory, name, "--reason", "closed") == (0, f"hold {name} is lifted\n", "")
    _, out, _ = run("retain", directory, "--retention-days", 30)
    assert out.count("removed") == 2
    trail = AuditTrail(storage_path=directory).sync
    events = trail.get_events(event_type=AuditEventType.AUDIT_LOG_LIFECYCLE)
    assert [(event.message, event.user_id, event.reason) for event in events] == [
        ("a legal hold was lifted", "alice", "closed"),
        ("a legal hold was set", "alice", "case 7"),
    ]


def test_a_hold_on_a_damaged_trail(run: Run, directory: Path) -> None:
    """A hold that is in force, and can't be recorded since the trail is damaged, is said to be both."""
    newest = max(directory.glob("audit_*.jsonl"))
    newest.write_bytes(newest.read_bytes().replace(b'"message":"', b'"message":"X', 1))
    code, out, err = run("hold", "add", directory, "--reason", "case 7")
    assert (code, out) == (2, "")
    said = re.match(r"fapilog: hold (\w+) is set, but not recorded: .*; nothing is appended\n", err)
    assert said
    assert said[1] in run("hold", "list", directory)[1]


def test_a_hold_is_lifted_once(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another operator lifts the hold at the same moment, there is none any more, and the exit code says so."""
    name = run("hold", "add", directory, "--reason", "case 7")[1].split()[1]
    lifted = remove_hold(directory, name)
    monkeypatch.setattr("fapilog.cli.hold.holds_on", lambda _: [lifted])
    assert run("hold", "remove", directory, name, "--reason", "x") == (1, "", f"fapilog: there is no hold {name}\n")


@pytest.mark.parametrize("login", ["bob", None])
def test_who_sets_a_hold_has_a_name_or_a_number(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch, login: str | None
) -> None:
    """Without sudo it is the user of the process, by its number in a container that has no name for it."""

    def getuser() -> str:
        if login is None:
            raise KeyError("uid not found")
        return login

    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr("getpass.getuser", getuser)
    assert run("hold", "add", directory, "--reason", "case 7")[0] == 0
    [event] = AuditTrail(storage_path=directory).sync.get_events(limit=1)
    assert event.user_id == (login or str(os.getuid()))


def test_the_reason_of_a_hold_is_any_text(run: Run, directory: Path) -> None:
    """A reason is no markup, and one with bytes that are no UTF-8 is taken with their escapes."""
    reason = "[/7] [red]caf\udce9 :smile:"
    assert run("hold", "add", directory, "--reason", reason)[0] == 0
    code, out, err = run("hold", "list", directory)
    assert (code, err) == (0, "")
    assert "[/7] [red]caf\\udce9 :smile:" in out


@pytest.mark.parametrize(
    "command", ["hold list", "hold list --json", "retain --retention-days 30", "retain --retention-days 30 --json"]
)
def test_no_hold_drives_a_terminal(run: Run, directory: Path, command: str) -> None:
    """Whatever was written into the file of the holds, no control character is printed."""
    hostile = "\x1b[2J\x9b31m\u202e"
    hold = {"id": hostile, "reason": hostile, "set_at": "2026-01-01T00:00:00Z"}
    (directory / "audit_holds.json").write_text(json.dumps([hold]))
    code, out, err = run(*command.split(), directory)
    assert (code, err) == (0, "")
    assert "31m" in out
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "command", ["hold add --reason x", "hold list", "retain --retention-days 9", "recover --reason x"]
)
def test_a_directory_without_a_trail(run: Run, tmp_path: Path, command: str) -> None:
    """It is refused, and stays empty: where a volume is not mounted, "nothing is old enough" would be believed."""
    code, out, err = run(*command.split(), tmp_path)
    assert (code, out, err) == (2, "", f"fapilog: there is no trail in {tmp_path}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ("--reason", ""),
        ("--reason", "x", "--since", "yesterday"),
        ("--reason", "x", "--since", "2026-02-01", "--until", "2026-01-01"),
    ],
)
def test_holds_that_are_none(run: Run, directory: Path, options: tuple[str, ...]) -> None:
    """A hold without a reason, or with days that are none, is refused."""
    assert run("hold", "add", directory, *options)[0] == 2
    assert run("hold", "list", directory) == (0, "no holds\n", "")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an archive in S3, on loopback."""
    pytest.importorskip("boto3")
    pytest.importorskip("moto")
    from tests.doubles.s3 import bucket_of, s3_server  # noqa: PLC0415  needs an extra

    monkeypatch.setattr("fapilog.storage.s3.sleep", lambda _: None)
    with s3_server() as server:
        yield f"s3://{bucket_of(server, 'clinic-audit')}/eu?lock_days=2190"


@pytest.mark.slow
def test_an_archive_in_s3(run: Run, directory: Path, bucket: str) -> None:
    """Days go into S3 by the address of the archive, and are shown, counted and verified there, and with the trail."""
    options = ("--retention-days", 30, "--archive", bucket)
    assert "archived, removed" in run("retain", directory, *options, "--dry-run")[1]
    code, out, err = run("retain", directory, *options)
    assert (code, err, out.count("compressed, archived, removed")) == (0, "", 2)
    code, out, _ = run("verify", bucket)
    assert (code, "6" in out) == (0, True)
    head = AuditTrail(storage=ArchiveStorage(bucket)).sync.head()
    assert run("verify", bucket, "--head", f"{head.sequence_number}:{head.checksum}")[0] == 0
    assert run("verify", bucket, "--head", f"7:{'0' * 64}")[0] == 1
    code, out, _ = run("show", bucket, "--user", "user-39", "--json")
    assert [json.loads(line)["sequence_number"] for line in out.splitlines()] == [6, 5, 4]
    code, out, _ = run("show", directory, "--archive", bucket, "--oldest-first", "--json")
    assert [json.loads(line)["sequence_number"] for line in out.splitlines()] == list(range(1, 17))
    assert json.loads(run("count", directory, "--archive", bucket, "--by", "user_id", "--json")[1])["user-40"] == 3
    assert len(run("show", directory, "--json")[1].splitlines()) == 10
    code, out, _ = run("verify", directory, "--archive", bucket)
    assert (code, "valid: 16 records" in out) == (0, True)
    code, _, err = run("count", bucket, "--archive", bucket, "--by", "user_id")
    assert (code, "got s3://clinic-audit/eu" in err) == (2, True)


@pytest.mark.slow
def test_an_archive_that_is_none(run: Run, directory: Path, bucket: str) -> None:
    """An archive that is empty, away, or no archive is an error that says so, with the exit code 2."""
    code, _, err = run("verify", bucket)
    assert (code, "there is no trail in s3://clinic-audit/eu" in err) == (2, True)
    for command in (("verify",), ("show",), ("count", "--by", "user_id")):
        code, _, err = run(*command, "s3://nobody/has")
        assert (code, "there is no such bucket" in err) == (2, True)
    code, _, err = run("verify", directory, "--archive", "s3://nobody/has")
    assert (code, "there is no such bucket" in err) == (2, True)
    code, _, err = run("retain", directory, "--retention-days", 30, "--archive", "s3://nobody/has")
    assert (code, "there is no such bucket" in err) == (2, True)
    for wrong in ("gs://bucket", "s3://", "s3://b?lock=1", "s3://b?lock_days=x", "s3://b?lock_days=0"):
        assert run("verify", wrong)[0] == 2
        assert run("retain", directory, "--retention-days", 30, "--archive", wrong)[0] == 2
    assert (directory / day_file(40)).exists()


def test_an_archive_without_its_library(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without boto3 the error names the extra that brings it."""
    monkeypatch.delitem(sys.modules, "fapilog.storage.s3", raising=False)
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    code, _, err = run("retain", directory, "--retention-days", 30, "--archive", "s3://bucket/x")
    assert code == 2
    assert "[s3]" in err.replace("\n", "")
