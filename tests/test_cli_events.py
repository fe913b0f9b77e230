"""`fapilog show` and `fapilog count`: the questions of somebody with a shell."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest

from fapilog import AuditEventType, AuditTrail
from fapilog.cli import main

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("typer", "rich"))), reason="needs the extra cli")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command, and returns its exit code, its output and its errors."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fapilog", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        printed = capsys.readouterr()
        return code or 0, printed.out, printed.err

    return run


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of a small trail."""
    trail = AuditTrail(storage_path=tmp_path / "audit")
    trail.sync.log_data_access("patient/42", "read", user_id="alice", client_ip="10.0.0.7", session_id="s")
    trail.sync.log_data_access("patient/7", "read", user_id="bob", regulatory_tags=["PCI-10"], metadata={"status": 403})
    trail.sync.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password", request_id="r", component="c")
    return tmp_path / "audit"


def numbers(printed: str) -> list[int]:
    return [int(each) for each in re.findall(r"(?m)^(\d+) ", printed)]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), [3, 2, 1]),
        (("--user", "alice"), [1]),
        (("--target", "patient/7"), [2]),
        (("--type", "data_access"), [2, 1]),
        (("--type", "data_access", "--type", "authentication_failed"), [3, 2, 1]),
        (("--level", "error"), [3]),
        (("--session", "s"), [1]),
        (("--request", "r"), [3]),
        (("--address", "10.0.0.7"), [1]),
        (("--component", "c"), [3]),
        (("--tag", "PCI-10"), [2]),
        (("--message", "password"), [3]),
        (("--metadata", "status=403"), [2]),
        (("--metadata", "resource=patient/42", "--user", "bob"), []),
        (("--since", "1h"), [3, 2, 1]),
        (("--until", "1h"), []),
        (("--since", "2026-01-01", "--until", "2026-01-02T12:00:00Z"), []),
        (("--oldest-first",), [1, 2, 3]),
    ],
)
def test_each_condition(run: Run, directory: Path, options: tuple[str, ...], found: list[int]) -> None:
    """Each option finds the events that it says, and nothing else."""
    code, out, err = run("show", directory, *options)
    assert (code, err) == (0, "")
    assert numbers(out) == found
    assert found or out == "no events\n"


def test_by_its_id(run: Run, directory: Path) -> None:
    """An event is found by its id, and printed as JSON that has all of it."""
    (event,) = AuditTrail(storage_path=directory).sync.get_events(user_id="alice")
    code, out, _ = run("show", directory, "--id", event.event_id, "--json")
    assert code == 0
    assert json.loads(out)["checksum"] == event.checksum


@pytest.mark.parametrize("order", [(), ("--oldest-first",)])
def test_more_than_the_limit(run: Run, directory: Path, order: tuple[str, ...]) -> None:
    """It says when there are more events than it shows."""
    code, out, err = run("show", directory, "--limit", 2, *order)
    assert (code, len(numbers(out))) == (0, 2)
    assert err == "fapilog: there are more than 2; --limit shows them\n"


def test_nothing_drives_a_terminal(run: Run, tmp_path: Path) -> None:
    """Whatever was logged, no control character is printed."""
    trail = AuditTrail(storage_path=tmp_path)
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "\x1b[2J\x9b31m\u202e\r\n[bold]x[/bold]", user_id="\x07[red]")
    for arguments in (("show", tmp_path), ("show", tmp_path, "--json"), ("count", tmp_path, "--by", "user_id")):
        code, out, _ = run(*arguments)
        assert code == 0
        assert all(each.isprintable() for each in out.replace("\n", ""))
    assert "[bold]x[/bold]" in run("show", tmp_path)[1]


def test_counts(run: Run, directory: Path) -> None:
    """Events are counted by a member or a path in the metadata, the most frequent value first."""
    assert run("count", directory, "--by", "event_type", "--json") == (
        0,
        '{"data_access": 2, "authentication_failed": 1}\n',
        "",
    )
    code, out, _ = run("count", directory, "--by", "user_id", "--type", "data_access")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [["events", "user_id"], ["1", "bob"], ["1", "alice"]]


@pytest.mark.parametrize("arguments", [("show",), ("count", "--by", "user_id")])
def test_a_trail_that_cannot_be_read(run: Run, directory: Path, arguments: tuple[str, ...]) -> None:
    """Damage on the way is told with its file and line, and the exit code is 2."""
    (file,) = directory.glob("audit_*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"bob"', b"bob"))
    command, *options = arguments
    code, out, err = run(command, directory, *options)
    assert (code, out) == (2, "")
    assert f"{file.name}, line 2" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--since", "yesterday"), "expected a time such as 2026-03-01"),
        (("--metadata", "status"), "expected NAME=VALUE"),
        (("--level", "loud"), "loud"),
    ],
)
def test_an_option_that_makes_no_sense(run: Run, directory: Path, options: tuple[str, str], says: str) -> None:
    """What is wrong with an option is said, and the exit code is 2."""
    code, _, err = run("show", directory, *options)
    assert code == 2
    assert says in err


def test_times_are_utc_unless_they_say_otherwise(run: Run, tmp_path: Path) -> None:
    """A time without a zone is in UTC, and one with a zone is what it says."""
    trail = AuditTrail(storage_path=tmp_path)
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
    now = datetime.now(UTC)
    for moment, found in ((now - timedelta(hours=1), [1]), (now + timedelta(hours=1), [])):
        assert numbers(run("show", tmp_path, "--since", f"{moment:%Y-%m-%dT%H:%M:%S}")[1]) == found
        assert numbers(run("show", tmp_path, "--since", f"{moment:%Y-%m-%dT%H:%M:%S}+00:00")[1]) == found
