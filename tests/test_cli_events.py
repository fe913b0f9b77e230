"""`fapilog show`, `fapilog tail` and `fapilog count`: the questions of somebody with a shell."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEventType, AuditStorageError, AuditTrail, FileStorage
from fapilog.storage._archive.day import compress_day
from tests.doubles.aged_trails import aged_trail, day_file
from tests.doubles.commands import Run, runs

pytestmark = pytest.mark.skipif(not all(map(find_spec, ("typer", "rich"))), reason="needs the extra cli")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command, and returns its exit code, its output and its errors."""
    return runs(monkeypatch, capsys)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the directory of a small trail."""
    trail = AuditTrail(storage_path=tmp_path / "audit")
    trail.sync.log_data_access("patient/42", "read", user_id="alice", client_ip="10.0.0.7", session_id="s")
    trail.sync.log_data_access(
        "patient/7",
        "read",
        user_id="bob",
        regulatory_tags=["PCI-10"],
        metadata={"status": 403, "order": "42"},
        outcome="denied",
        actor={"id": "bob", "on_behalf_of": "carol"},
        trace_id="1" * 32,
    )
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
        (("--metadata", "order=42"), []),
        (("--metadata", 'order="42"'), [2]),
        (("--metadata", "order=" + "[" * 100_000), []),
        (("--metadata", "resource=patient/42", "--user", "bob"), []),
        (("--since", "1h"), [3, 2, 1]),
        (("--until", "1h"), []),
        (("--since", "2026-01-01", "--until", "2026-01-02T12:00:00Z"), []),
        (("--actor", "carol"), [2]),
        (("--outcome", "denied"), [2]),
        (("--trace", "1" * 32), [2]),
        (("--operation", "read"), [2, 1]),
        (("--after", "1"), [3, 2]),
        (("--before", "3", "--after", "1"), [2]),
        (("--level", "ERROR"), [3]),
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


def test_lines_of_json_are_printed_as_they_are_read(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many lines are asked for, no more than a page of events is kept, and what is read is printed at once."""
    monkeypatch.setattr("fapilog.cli.events._PAGE", 1)
    monkeypatch.setattr("fapilog.core._reading._PAGE", 1)
    page = FileStorage.page_from

    async def failing(storage: FileStorage, place: Any, *args: Any, **options: Any) -> Any:
        if place is not None:
            raise AuditStorageError("gone")
        return await page(storage, place, *args, **options)

    monkeypatch.setattr(FileStorage, "page_from", failing)
    code, out, err = run("show", directory, "--json")
    assert [json.loads(line)["sequence_number"] for line in out.splitlines()] == [3]
    assert (code, err) == (2, "fapilog: gone\n")


def test_a_damaged_record_behind_the_last_event_is_shown(run: Run, directory: Path) -> None:
    """A hole behind as many events as are shown is shown too, where no more events follow."""
    [file] = directory.glob("audit_*.jsonl")
    file.write_bytes(b"x\n" + b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
    code, out, err = run("show", directory, "--limit", 2)
    assert (code, numbers(out), err) == (0, [3, 2], "")
    assert "damaged" in out


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
    for arguments in (
        ("show", tmp_path),
        ("show", tmp_path, "--json"),
        ("tail", tmp_path),
        ("count", tmp_path, "--by", "user_id"),
    ):
        code, out, _ = run(*arguments)
        assert code == 0
        assert all(each.isprintable() for each in out.replace("\n", ""))
    assert "[bold]x[/bold]" in run("show", tmp_path)[1]


def test_a_row_is_one_line_however_long(run: Run, tmp_path: Path) -> None:
    """Off a terminal each event is a line, also one with a very long message, and no other row is as long."""
    trail = AuditTrail(storage_path=tmp_path)
    trail.sync.log_event("data_access", "x" * 50_000, user_id="日本")
    trail.sync.log_event("data_access", "short", user_id="alice")
    _, out, _ = run("show", tmp_path)
    head, short, long = out.splitlines()
    assert (len(long) > 50_000, len(short) < 100) == (True, True)
    assert head.index("message") == short.index("short") == long.index("xxx") + 2  # two characters of double width


def test_a_long_name_hides_nothing_on_a_terminal(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a long name leaves the number, the time, the level and the type of every record to be seen."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    trail = AuditTrail(storage_path=tmp_path)
    trail.sync.log_authentication(success=False, user_id="mallory" * 100)
    _, out, _ = run("show", tmp_path)
    assert re.search(r"(?m)^1 +\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ +security +authentication_failed +mallo", out)


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
    assert run("count", directory, "--by", "user_id", "--request", "none", "--json")[1] == "{}\n"
    assert run("count", directory, "--by", "metadata.status", "--json")[1] == '{"": 2, "403": 1}\n'
    code, _, err = run("count", directory, "--by", "usr_id")
    assert code == 2
    assert "did you mean user_id?" in " ".join(err.replace("│", "").split())


def damage(directory: Path) -> None:
    (file,) = directory.glob("audit_*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"bob"', b"\x1b[2J"))


@pytest.mark.parametrize("order", [(), ("--oldest-first",)])
def test_what_cannot_be_read_is_shown(run: Run, directory: Path, order: tuple[str, ...]) -> None:
    """A damaged record is shown in its place, with the file and the byte, and hides no other."""
    damage(directory)
    code, out, err = run("show", directory, *order)
    assert (code, err) == (0, "")
    assert sorted(numbers(out)) == [1, 3]
    assert re.search(
        r"(?m)^damaged +audit_\S+\.jsonl, byte [0-9]+: this is not a record of the trail", out.splitlines()[2]
    )
    code, out, _ = run("show", directory, "--json", *order)
    assert "offset" in json.loads(out.splitlines()[1])["damaged_record"]
    code, out, err = run("show", directory, "--limit", 1, "--user", "alice", *order)
    assert (code, numbers(out), err) == (0, [1], "")


def test_what_cannot_be_read_is_not_counted_silently(
    run: Run, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A count says what it leaves out."""
    damage(directory)
    code, out, _ = run("count", directory, "--by", "event_type", "--json")
    assert (code, json.loads(out)) == (0, {"data_access": 1, "authentication_failed": 1})
    assert "left out" in caplog.text


@pytest.mark.parametrize("arguments", [("show",), ("show", "--oldest-first"), ("tail",), ("count", "--by", "user_id")])
def test_a_trail_that_cannot_be_read(run: Run, directory: Path, arguments: tuple[str, ...]) -> None:
    """A directory in the place of a file is told, and the exit code is 2."""
    (directory / "audit_2020-01-01.jsonl").mkdir()
    command, *options = arguments
    code, out, err = run(command, directory, *options)
    assert (code, out) == (2, "")
    assert "audit_2020-01-01.jsonl: expected a regular file" in err


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), [1, 2, 3]),
        (("-n", 2), [2, 3]),
        (("-n", 0), []),
        (("--user", "alice"), [1]),
        (("--type", "data_access", "-n", 1), [2]),
        (("--metadata", "status=403", "--since", "1h"), [2]),
    ],
)
def test_the_tail(run: Run, directory: Path, options: tuple[str, ...], found: list[int]) -> None:
    """The tail has the newest events that meet the conditions, a line each, the oldest of them first."""
    code, out, err = run("tail", directory, *options)
    assert (code, err) == (0, "")
    assert numbers(out) == found
    assert len(out.splitlines()) == len(found)
    assert [
        json.loads(line)["sequence_number"] for line in run("tail", directory, "--json", *options)[1].splitlines()
    ] == found


@pytest.mark.parametrize("command", ["show", "tail"])
def test_times_have_their_zone(run: Run, directory: Path, command: str) -> None:
    """A time that is shown says that it is UTC, and can be given to --since as it is."""
    _, out, _ = run(command, directory)
    [oldest, *_] = sorted(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", out))
    assert set(numbers(run(command, directory, "--since", oldest)[1])) == {1, 2, 3}


@pytest.mark.slow
def test_the_tail_is_followed_over_midnight_and_damage(tmp_path: Path) -> None:
    """With -f, events to come are printed, of the next day too, each once, damage as well; Ctrl-C ends it with 130."""
    day = datetime(2026, 3, 1, tzinfo=UTC)
    now = [day]
    trail = AuditTrail(storage=FileStorage(tmp_path, durability="write", now=lambda: now[0]))
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "first", user_id="alice")
    command = [sys.executable, "-m", "fapilog", "tail", str(tmp_path), "-f", "--message", "s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert re.match(r"1  \S+ \S+  info      data_access  alice  first$", process.stdout.readline())
            trail.sync.log_event(AuditEventType.DATA_ACCESS, "\x1b[2Jsecond")
            trail.sync.log_event(AuditEventType.DATA_ACCESS, "another")
            now[0] += timedelta(days=1)
            trail.sync.log_event(AuditEventType.DATA_ACCESS, "last")
            assert process.stdout.readline().endswith("  \ufffd[2Jsecond\n")
            assert process.stdout.readline().startswith("4  ")
            with (tmp_path / "audit_2026-03-02.jsonl").open("ab") as file:
                file.write(b"x\n")
            assert process.stdout.readline().startswith("damaged: audit_2026-03-02.jsonl, byte ")
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, rest) == (130, "")


def test_a_trail_that_is_not_there_yet_is_followed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -f, the first event is printed of a service that makes its directory later; Ctrl-C ends it with 130."""
    directory = tmp_path / "audit"

    def meanwhile(_: float) -> None:
        if directory.exists():
            raise KeyboardInterrupt
        AuditTrail(storage_path=directory).sync.log_event(AuditEventType.DATA_ACCESS, "first")

    monkeypatch.setattr("fapilog.cli.events.sleep", meanwhile)
    code, out, err = run("tail", directory, "-f")
    assert (code, out.endswith("  data_access  first\n"), err) == (130, True, "")


def test_a_tail_shows_no_event_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -f, an old record that is pasted behind the newest is shown there, behind a hole, and no other one is."""
    trail = AuditTrail(storage_path=tmp_path)
    for number in range(3):
        trail.sync.log_event(AuditEventType.DATA_ACCESS, f"m{number}")
    [path] = tmp_path.glob("*.jsonl")
    first = path.read_bytes().splitlines(keepends=True)[0]
    looks: list[float] = []

    def meanwhile(pause: float) -> None:
        looks.append(pause)
        if len(looks) > 2:
            raise KeyboardInterrupt
        if len(looks) == 1:
            path.write_bytes(path.read_bytes() + first)

    monkeypatch.setattr("fapilog.cli.events.sleep", meanwhile)
    _, out, _ = run("tail", tmp_path, "-f", "-n", 1)
    assert [line.split()[0] for line in out.splitlines()] == ["3", "damaged:", "1"]


def test_recovering(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `recover`, the trail takes events, and `verify` says what happened, with 1, for ever."""
    monkeypatch.setenv("SUDO_USER", "carol")
    assert run("recover", directory, "--reason", "x") == (1, "", "fapilog: there is nothing to recover\n")
    damage(directory)
    code, _, err = run("recover", directory, "--reason", " ")
    assert (code, "expected the reason" in err) == (2, True)
    code, out, err = run("recover", directory, "--reason", "a bad disk")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"record 4 seals \d+ bytes behind record 1, from byte \d+ of \S+ on; services can go on\n", out)
    AuditTrail(storage_path=directory).sync.log_event(AuditEventType.DATA_ACCESS, "m")
    code, out, _ = run("verify", directory)
    assert code == 1
    assert out.startswith("NOT VALID: audit_")
    assert "record 4 has sealed this damage as it is" in out
    assert json.loads(run("verify", directory, "--json")[1])["status"] == "recovered"
    assert numbers(run("show", directory)[1]) == [5, 4, 3, 1]
    assert numbers(run("show", directory, "--user", "carol")[1]) == [4]


def test_recovering_from_a_gap(run: Run, directory: Path) -> None:
    """Where a record is gone and no byte is damaged, it is the gap that is sealed."""
    [file] = directory.glob("audit_*.jsonl")
    first, _, *rest = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, *rest]))
    _, out, _ = run("recover", directory, "--reason", "a record is gone")
    assert re.fullmatch(r"record 4 seals the gap behind record 1, from byte \d+ of \S+ on; services can go on\n", out)


def test_recovering_without_the_right_to(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a file may not be opened, it is named, with its owner, its mode and the user of the command."""
    damage(directory)
    [file] = directory.glob("audit_*.jsonl")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.setattr("fapilog.cli.recover.seal_damage", denied)
    code, _, err = run("recover", directory, "--reason", "a bad disk")
    users = f"this process is user {os.geteuid()}, and {file} is user {file.stat().st_uid}'s, mode 0600"
    assert (code, err) == (2, f"fapilog: cannot recover {directory}: Permission denied; {users}\n")


def test_recovering_from_a_damaged_compressed_day(run: Run, tmp_path: Path) -> None:
    """It has no records that could be sealed: what is to be done first is said; moved away, it is a gap."""
    directory = aged_trail(tmp_path / "aged", (2, 1, 0))
    compress_day(directory, day_file(1))
    path = directory / f"{day_file(1)}.gz"
    path.write_bytes(path.read_bytes()[:-9])
    code, out, err = run("recover", directory, "--reason", "a bad disk")
    assert (code, out) == (2, "")
    assert f"{path.name} is damaged: it can't be decompressed: put that file back from a copy; or move it else" in err
    path.rename(tmp_path / path.name)
    assert run("recover", directory, "--reason", "a bad disk")[0] == 0
    AuditTrail(storage_path=directory).sync.log_event(AuditEventType.DATA_ACCESS, "m")
    assert json.loads(run("verify", directory, "--json")[1])["status"] == "recovered"


def test_the_version(run: Run) -> None:
    """It says which version it is."""
    assert run("--version") == (0, f"fapilog {version('fapilog')}\n", "")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--since", "yesterday"), "got 'yesterday'"),
        (("--metadata", "status"), "expected NAME=VALUE; got 'status'"),
        (("--level", "loud"), "loud"),
        (("--before", "-1"), "greater than or equal to 0"),
    ],
)
def test_an_option_that_makes_no_sense(run: Run, directory: Path, options: tuple[str, str], says: str) -> None:
    """What is wrong with an option is said, and the exit code is 2."""
    code, _, err = run("show", directory, *options)
    assert code == 2
    assert says in err


PLACES = "expected a directory, a file of SQLite, postgresql://HOST/DATABASE or s3://BUCKET/PREFIX; got "


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("verify", "mysql://u:secret@h/d"), f"{PLACES}mysql://...\n"),
        (("show", ""), f"{PLACES}an empty text\n"),
        (
            ("show", ".", "--since", "2026-03-31", "--until", "2026-03-01T12:00"),
            "expected no time before --since, 2026-03-31 00:00:00+00:00; got 2026-03-01 12:00:00+00:00\n",
        ),
        (("tail", "", "-f"), "expected a path; got an empty text\n"),
        (("tail", __file__), f"{__file__!r} is a file.\n"),
        (("tail", "nowhere"), "'nowhere' does not exist.\n"),
        (("copy", "mysql://u:secret@h/d", "new.db"), f"{PLACES}mysql://...\n"),
        (("copy", "", "new.db"), "FROM: expected a path or an address; got an empty text\n"),
        (("copy", ".", ""), "TO: expected a path or an address; got an empty text\n"),
        (("copy", ".", "s3://b"), "TO: expected a directory, a file of SQLite or postgresql://; got s3:\n"),
        (("hold", "add", ".", "--reason", "x", "--since", "march"), "expected a day such as 2026-03-01; got 'march'\n"),
        (("continue", ".", "new"), "expected a trail of fapilog 0.3.5 or earlier in .; there is none\n"),
    ],
)
def test_an_argument_that_makes_no_sense(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    """It is said what was expected and what came, and nothing is made in the current directory."""
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*arguments)
    assert (code, err[-len(says) :]) == (2, says)
    assert list(tmp_path.iterdir()) == []


def test_times_are_utc_unless_they_say_otherwise(run: Run, tmp_path: Path) -> None:
    """A time without a zone is in UTC, and one with a zone is what it says."""
    trail = AuditTrail(storage_path=tmp_path)
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
    now = datetime.now(UTC)
    for moment, found in ((now - timedelta(hours=1), [1]), (now + timedelta(hours=1), [])):
        assert numbers(run("show", tmp_path, "--since", f"{moment:%Y-%m-%dT%H:%M:%S}")[1]) == found
        assert numbers(run("show", tmp_path, "--since", f"{moment:%Y-%m-%dT%H:%M:%S}+00:00")[1]) == found


def test_the_last_day_is_included(run: Run, directory: Path) -> None:
    """Until a day means until it is over, and not until it begins."""
    today = datetime.now(UTC).date()
    assert numbers(run("show", directory, "--since", str(today), "--until", str(today + timedelta(1)))[1]) == [3, 2, 1]
    assert numbers(run("show", directory, "--until", "9999-12-31")[1]) == [3, 2, 1]
    code, out, _ = run("count", directory, "--by", "user_id", "--until", str(today - timedelta(1)), "--json")
    assert (code, json.loads(out)) == (0, {})
    [event] = AuditTrail(storage_path=directory).sync.get_events(limit=1)
    day = event.timestamp.date()
    assert numbers(run("show", directory, "--since", str(day), "--until", str(day))[1])[0] == 3


@pytest.mark.parametrize("command", ["show", "show --oldest-first", "show --json", "tail", "count --by user_id"])
def test_a_directory_without_a_trail_has_no_answer(run: Run, tmp_path: Path, command: str) -> None:
    """That another directory has no such event is no answer: the command says so, with the exit code 2."""
    name, *options = command.split()
    (tmp_path / "incidents-1.json").touch()
    assert run(name, tmp_path, *options) == (2, "", f"fapilog: there is no trail in {tmp_path}\n")


def test_types_of_ones_own_are_asked_for(run: Run, directory: Path) -> None:
    """A type with a dot is found by its name; one that can't be a type is refused with those that can."""
    AuditTrail(storage_path=directory).sync.log_event("billing.refund", "of 7 EUR")
    for command in ("show", "tail", "count --by user_id"):
        code, out, _ = run(*command.split()[:1], directory, *command.split()[1:], "--type", "billing.refund", "--json")
        assert (code, "refund" in out or json.loads(out) == {"": 1}) == (0, True)
    code, _, err = run("show", directory, "--type", "refund")
    assert (code, "data_access" in err, "with a dot" in err) == (2, True, True)
    assert "did you mean data_access?" in run("show", directory, "--type", "data_acess")[2]


@pytest.mark.parametrize(
    "options",
    [
        ("--since", "999999d"),
        ("--since", "0001-01-01T00:00+05:00"),
        ("--until", "9999-12-31T23:59-05:00"),
    ],
)
def test_times_beyond_the_calendar_are_its_ends(options: tuple[str, str], run: Run, directory: Path) -> None:
    """Whoever asks for all times gets all events."""
    code, out, _ = run("show", directory, *options)
    assert (code, numbers(out)) == (0, [3, 2, 1])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["show", "count --by user_id"])
def test_a_character_that_the_encoding_lacks_is_printed_by_its_number(command: str, tmp_path: Path) -> None:
    """On a terminal of another encoding than UTF-8 everything is printed, in ASCII if need be."""
    AuditTrail(storage_path=tmp_path / "audit").sync.log_event("billing.refund", "7 €", user_id="жо")
    name, *options = command.split()
    printed = subprocess.run(
        [sys.executable, "-m", "fapilog", name, str(tmp_path / "audit"), *options],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        encoding="latin-1",
        timeout=60,
        check=True,
    )
    assert "\\u0436\\u043e" in printed.stdout
    assert printed.stderr == ""
