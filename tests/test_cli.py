"""The command, as people run it: in a terminal, in a pipe, and without its extra."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import AuditEventType, AuditTrail, __version__
from fapilog._extras import install_line
from fapilog.cli import main
from fapilog.cli.clinic import LOOPBACK, OnCall, Request, serve
from fapilog.testing import check_dispatcher
from tests.doubles.aged_trails import aged_trail, day_file
from tests.doubles.commands import Run, runs
from tests.doubles.terminal import COMMAND, Terminal, colours

LIBRARIES = ("typer", "rich", "prometheus_client")

needs_extra = pytest.mark.skipif(not all(map(find_spec, LIBRARIES)), reason="needs the extra cli")

NOT_VALID = re.compile(r"NOT VALID: (audit_\S+\.jsonl), line (\d+): record (\d+) was altered")


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """Return the directory where the command puts what is temporary."""
    path = tmp_path / "temporary"
    path.mkdir()
    return path


@pytest.fixture
def environment(empty: Path) -> dict[str, str]:
    """Return the environment of somebody who asked for nothing special."""
    asked_for = {"CLICOLOR", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    usual = {name: value for name, value in os.environ.items() if name not in asked_for}
    return {**usual, "TMPDIR": str(empty), "TERM": "xterm-256color"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command in this process."""
    return runs(monkeypatch, capsys)


def piped(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command with its output piped."""
    return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=170, check=False)


# -- the demonstration


@needs_extra
@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
def test_demo_when_piped(backend: str, environment: dict[str, str], empty: Path) -> None:
    """Piped, the demonstration prints plain text, tells of each alert, and no person, and leaves nothing behind."""
    done = piped("demo", "--backend", backend, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(character.isprintable() for line in done.stdout.split("\n") for character in line)
    assert done.stdout.isascii()
    assert "valid: 365 records" in done.stdout
    assert NOT_VALID.search(done.stdout)
    assert list(empty.iterdir()) == []
    assert "364 requests: 326 answered, 23 refused, 15 failed" in done.stdout
    assert "89 alerts: 89 at the receiver, 89 in the log" in done.stdout
    assert re.search(r"authentication_failed +security +dispatched +23 ", done.stdout)
    (alert,) = re.findall(r"^ *(\{.*\})$", done.stdout, re.MULTILINE)
    assert json.loads(alert).keys() == {"record", "severity", "type", "id"}
    assert "/patients/" not in done.stdout


@pytest.mark.slow
@needs_extra
def test_demo_names_the_record_that_it_altered(environment: dict[str, str], tmp_path: Path, run: Run) -> None:
    """Kept, the trail has one byte changed in the very record that both verdicts name, and is valid without that."""
    kept = tmp_path / "kept"
    verdict = NOT_VALID.search(piped("demo", "--keep", str(kept), env=environment).stdout)
    assert verdict
    code, out, _ = run("verify", kept)
    assert code == 1
    assert out.startswith(verdict[0])

    file, line = kept / verdict[1], int(verdict[2])
    lines = file.read_bytes().splitlines(keepends=True)
    assert b'"user_id":"jim"' in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(b'"user_id":"jim"', b'"user_id":"kim"')
    file.write_bytes(b"".join(lines))
    assert run("verify", kept)[0] == 0


@needs_extra
@pytest.mark.torture
def test_demo_touches_no_other_trail(environment: dict[str, str], tmp_path: Path) -> None:
    """A directory with anything in it is refused, and stays as it is."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "audit_2026-01-31.jsonl").write_text("a trail")
    done = piped("demo", "--keep", str(tmp_path / "kept"), env=environment)
    assert done.returncode == 2
    assert "is not empty" in done.stderr
    assert [path.read_text() for path in (tmp_path / "kept").iterdir()] == ["a trail"]


@needs_extra
def test_demo_says_where_it_cannot_keep(run: Run, tmp_path: Path) -> None:
    """A directory that can't be made is an error that says why."""
    (tmp_path / "file").touch()
    code, _, err = run("demo", "--keep", tmp_path / "file" / "kept")
    assert code == 2
    assert "Not a directory" in err


@pytest.mark.slow
@needs_extra
def test_demo_is_live_and_in_colour_on_a_terminal(environment: dict[str, str], empty: Path) -> None:
    """On a terminal the demonstration is drawn in colour with progress bars, and gives the cursor back."""
    terminal = Terminal("demo", env=environment)
    terminal.read_until("posted to the engineer on call")
    assert terminal.read_to_the_end() == 0
    assert colours(terminal.shown)
    assert "365/365" in terminal.shown
    assert "NOT VALID" in terminal.shown
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    assert list(empty.iterdir()) == []


@pytest.mark.slow
@needs_extra
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.torture)])
def test_demo_ends_cleanly_on_a_signal(
    backend: str, number: signal.Signals, environment: dict[str, str], empty: Path
) -> None:
    """A signal ends the demonstration at once, without a word, and nothing is left behind."""
    terminal = Terminal("demo", "--backend", backend, env={**environment, "NO_COLOR": "1"})
    terminal.read_until("fapilog.alert_dispatched")
    terminal.process.send_signal(number)
    assert terminal.read_to_the_end() == 130
    assert "365/365" not in terminal.shown
    assert "Traceback" not in terminal.shown
    assert "not delivered" not in terminal.shown
    assert not colours(terminal.shown)
    assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")
    assert list(empty.iterdir()) == []


@needs_extra
def test_demo_leaves_nothing_when_it_is_ended_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    """A signal in the moment in which its directory is made ends it as any other does."""

    class Signalled(tempfile.TemporaryDirectory[str]):
        def __init__(self, **options: Any) -> None:
            super().__init__(dir=tmp_path, **options)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", Signalled)
    assert run("demo")[0] == 130
    assert list(tmp_path.iterdir()) == []


@needs_extra
@pytest.mark.torture
def test_demo_draws_nothing_on_a_dumb_terminal(environment: dict[str, str]) -> None:
    """A terminal that can't be drawn on gets plain lines."""
    terminal = Terminal("demo", env={**environment, "TERM": "dumb"})
    assert terminal.read_to_the_end() == 0
    assert "\x1b" not in terminal.shown


@needs_extra
@pytest.mark.torture
def test_demo_goes_on_when_nobody_reads(environment: dict[str, str], empty: Path) -> None:
    """Where its reader goes away, as `head` does, the demonstration ends without a word and leaves nothing behind."""
    command = [*COMMAND, "demo"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0
    assert list(empty.iterdir()) == []


# -- verifying a trail


@pytest.mark.slow
@needs_extra
@pytest.mark.real_time
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("command", [["verify"], ["verify", "--json"], ["show"], ["show", "--json"]], ids=" ".join)
def test_an_output_that_cannot_be_written(trail: Path, environment: dict[str, str], command: list[str]) -> None:
    """It is said, and the exit code is not that of a trail that is damaged, whose output could be written."""
    arguments = [*COMMAND, *command, str(trail)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "fapilog: cannot go on: No space left on device\n")


@pytest.mark.slow
@needs_extra
@pytest.mark.real_time
def test_a_place_that_cannot_be_looked_at(environment: dict[str, str]) -> None:
    """It is named, where the system does not tell whether there is a directory."""
    name = "\x1b" + 300 * "n"
    done = subprocess.run([*COMMAND, "verify", name], env=environment, capture_output=True, text=True, check=False)
    expected = f"fapilog: cannot go on: \ufffd{300 * 'n'}: File name too long\n"
    assert (done.returncode, done.stderr) == (2, expected)


@pytest.mark.slow
@needs_extra
@pytest.mark.real_time
def test_a_reader_that_goes_away(trail: Path, environment: dict[str, str]) -> None:
    """Where nobody reads the verdict, the exit code is not that of a trail that is damaged either."""
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [*COMMAND, "verify", "--json", str(trail)]
    with os.fdopen(writing, "w") as gone:
        done = subprocess.run(arguments, env=environment, stdout=gone, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (2, b"")


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """Run the command in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["fapilog", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


@pytest.mark.parametrize("group", [[], ["alerts"], ["hold"], ["storage"]], ids=" ".join)
def test_a_list_of_commands_has_whole_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], group: list[str]
) -> None:
    """On a terminal of 80 columns, the help says what each command does without an ellipsis."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run_main(monkeypatch, *group, "--help") == 0
    commands = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert [line for line in commands if line and not line.endswith(".")] == []
    assert [line for line in commands if line.endswith("...")] == []


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """Return the directory of a trail with three records."""

    async def write() -> None:
        async with AuditTrail(storage_path=tmp_path / "trail") as trail:
            for number in range(3):
                await trail.log_event(AuditEventType.DATA_ACCESS, f"reading {number}")

    anyio.run(write)
    return tmp_path / "trail"


def file_of(trail: Path) -> Path:
    (file,) = trail.glob("audit_*.jsonl")
    return file


@needs_extra
def test_verify_accepts_an_intact_trail(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An intact trail is valid, and the exit code is 0."""
    assert run_main(monkeypatch, "verify", trail) == 0
    assert capsys.readouterr() == ("valid: 3 records, none altered, none missing in between\n", "")


@needs_extra
def test_verify_tells_of_a_torn_tail(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a crash left at the very end is told, and the trail is valid."""
    with file_of(trail).open("ab") as file:
        file.write(b'{"v":2,"event_id":')
    assert run_main(monkeypatch, "verify", trail) == 0
    assert re.fullmatch(r"valid: 3 records, .*; audit_.* 18 bytes of an incomplete record\n", capsys.readouterr().out)


@needs_extra
def test_verify_compares_the_index_of_times(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index that denies a record its time is deleted, and that is said; it is no damage of the records."""
    monkeypatch.setattr("fapilog.storage._files.lines._BLOCK_BYTES", 100)
    found = AuditTrail(storage_path=trail).sync.get_events(end_time=datetime(2000, 1, 1, tzinfo=UTC))
    assert found == []
    index = trail / "audit_times.index"
    index.write_bytes(re.sub(rb'"20..-', b'"1999-', index.read_bytes()))
    assert run_main(monkeypatch, "verify", trail) == 0
    said = capsys.readouterr()
    assert said.out.startswith("valid: 3 records")
    assert "audit_times.index denies times that records have" in said.err
    assert not index.exists()


@needs_extra
def test_verify_leaves_nothing_behind(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A check of a damaged trail makes no file of an incident beside its records, and says no more than the verdict."""
    file_of(trail).write_bytes(file_of(trail).read_bytes().replace(b"reading 1", b"reading 7"))
    before = {path.name: path.read_bytes() for path in trail.iterdir()}
    assert run_main(monkeypatch, "verify", trail) == 1
    assert {path.name: path.read_bytes() for path in trail.iterdir()} == before
    assert capfd.readouterr().err == ""


@needs_extra
def test_verify_names_an_altered_record(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trail with an altered record is not valid, the record is named, and the exit code is 1."""
    file_of(trail).write_bytes(file_of(trail).read_bytes().replace(b"reading 1", b"reading 7"))
    assert run_main(monkeypatch, "verify", trail) == 1
    verdict = NOT_VALID.match(capsys.readouterr().out)
    assert verdict
    assert verdict[3] == "2"


@needs_extra
def test_verify_prints_json(trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the verdict is one JSON object, and the exit code is the same."""
    assert run_main(monkeypatch, "verify", "--json", trail) == 0
    assert json.loads(capsys.readouterr().out) == {
        "valid": True,
        "events_checked": 3,
        "first_invalid_sequence": None,
        "error_message": None,
        "status": "ok",
        "set_aside": [],
        "pruned": None,
    }
    file_of(trail).write_bytes(file_of(trail).read_bytes().replace(b"reading 1", b"reading 7"))
    assert run_main(monkeypatch, "verify", "--json", trail) == 1
    assert json.loads(capsys.readouterr().out).items() >= {"first_invalid_sequence": 2, "status": "altered"}.items()


@needs_extra
def test_verify_holds_a_trail_against_a_head(
    trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trail that has the record of the head is valid; once that is cut off, or the checksum is another, it is not."""
    lines = file_of(trail).read_bytes().splitlines(keepends=True)
    checksum = json.loads(lines[2])["checksum"]
    for head in ("0:none", f"3:{checksum}"):
        assert run_main(monkeypatch, "verify", "--head", head, trail) == 0
        assert capsys.readouterr().out.startswith("valid: 3 records")
    assert run_main(monkeypatch, "verify", "--head", f"2:{checksum}", trail) == 1
    file_of(trail).write_bytes(b"".join(lines[:2]))
    assert run_main(monkeypatch, "verify", trail) == 0
    capsys.readouterr()
    assert run_main(monkeypatch, "verify", "--json", "--head", f"3:{checksum}", trail) == 1
    assert json.loads(capsys.readouterr().out).items() >= {"first_invalid_sequence": 3, "status": "gap"}.items()
    file_of(trail).unlink()
    assert run_main(monkeypatch, "verify", "--head", f"3:{checksum}", trail) == 1
    assert capsys.readouterr().out.startswith("NOT VALID: record 3 is not there, or not with that checksum")


@needs_extra
@pytest.mark.parametrize("head", ["3", "3:", "3:abc", "x:" + "0" * 64, "0:" + "0" * 64, "-1:none"])
def test_verify_refuses_what_is_no_head(
    head: str, trail: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no number and checksum is an error of the command line."""
    assert run_main(monkeypatch, "verify", f"--head={head}", trail) == 2
    assert f"expected NUMBER:CHECKSUM, a checksum of 64 hexadecimal digits; got {head!r}" in capsys.readouterr().err


@needs_extra
def test_verify_finds_files_that_were_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If logrotate has moved the newest file, that is said; if it has moved all, there is no trail."""
    aged_trail(tmp_path, [0, 1])
    for age, code, words in ((0, 0, "is gone"), (1, 2, f"there is no trail in {tmp_path}\n")):
        (tmp_path / day_file(age)).rename(tmp_path / f"{day_file(age)}.1")
        assert run_main(monkeypatch, "verify", tmp_path) == code
        error = capsys.readouterr().err
        assert ".jsonl.1 is there: unpack it to the former name" in error
        assert words in error
    assert run_main(monkeypatch, "show", tmp_path) == 2


@needs_extra
def test_verify_finds_no_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory without a trail, or with files that were emptied, or none at all, is not called valid: 2 it is."""
    for _ in range(2):
        assert run_main(monkeypatch, "verify", tmp_path) == 2
        assert capsys.readouterr() == ("", f"fapilog: there is no trail in {tmp_path}\n")
        (tmp_path / "audit_2026-01-31.jsonl").touch()
    assert run_main(monkeypatch, "verify", tmp_path / "nowhere") == 2
    assert "does not exist" in capsys.readouterr().err


@needs_extra
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_verify_is_given_a_file_of_a_trail(trail: Path, run: Run, ending: str) -> None:
    """It asks for the directory, where SQLite would say that the file is no database."""
    path = file_of(trail).rename(f"{file_of(trail)}{ending}")
    code, out, err = run("verify", path)
    assert (code, out) == (2, "")
    assert f"is a file of a trail; expected its directory, '{trail}'" in err


@needs_extra
def test_verify_says_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trail that can't be read is neither valid nor altered: the exit code is 2, and the reason is printed."""
    (tmp_path / "audit_2026-01-31.jsonl").mkdir()
    assert run_main(monkeypatch, "verify", tmp_path) == 2
    assert "expected a regular file, found a directory" in capsys.readouterr().out


@pytest.mark.slow
@needs_extra
def test_verify_is_in_colour_on_a_terminal(trail: Path, environment: dict[str, str]) -> None:
    """On a terminal the verdict has a colour."""
    terminal = Terminal("verify", str(trail), env=environment)
    assert terminal.read_to_the_end() == 0
    assert colours(terminal.shown)


@needs_extra
def test_help_tells_the_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of each command tells its exit codes."""
    for command in ("demo", "verify"):
        assert run_main(monkeypatch, command, "--help") == 0
        assert "Exit code: 0" in capsys.readouterr().out


@pytest.mark.slow
@needs_extra
def test_help_tells_why_it_is_short(environment: dict[str, str]) -> None:
    """Where Python removes docstrings, the help says that it lacks them."""
    done = piped("--help", env={**environment, "PYTHONOPTIMIZE": "2"})
    assert "Check whether a trail is intact." not in done.stdout
    assert "Python has removed most of this help" in done.stdout


# -- what is missing


@needs_extra
def test_a_copy_without_metadata_knows_its_version(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is printed where no metadata of the package is there, as in a zipapp."""

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", missing)
    assert run("--version") == (0, f"fapilog {__version__}\n", "")


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where *module* can't be imported."""
    script = f"import sys; sys.modules[{module!r}] = None; from fapilog.cli import main; main()"
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "library", [LIBRARIES[0], *(pytest.param(each, marks=pytest.mark.slow) for each in LIBRARIES[1:])]
)
def test_says_how_to_get_the_extra(library: str) -> None:
    """Without a library of the extra, the command says in one line how to get it, and exits with 2."""
    done = without(library, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        rf"fapilog: this needs {library}.*, which comes with: {re.escape(install_line('cli'))}\n", done.stderr
    )


@pytest.mark.slow
@needs_extra
def test_says_how_to_get_trio() -> None:
    """Without trio, its backend is refused with what to install."""
    done = without("trio", "demo", "--backend", "trio")
    assert done.returncode == 2
    assert "pip install trio" in done.stderr


def test_interrupted_while_it_loads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C before the libraries are there ends the command without a word, as it does later."""

    class Interrupted:
        def find_spec(self, *_: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "fapilog.cli.commands", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted()])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@needs_extra
def test_an_error_of_our_own_is_not_a_missing_extra() -> None:
    """If one of our own modules is missing, that is what is said."""
    assert "ModuleNotFoundError" in without("fapilog.cli.demo").stderr


# -- the dispatcher that people copy


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_the_dispatcher_of_the_demo_keeps_the_contract() -> None:
    """It delivers what its receiver takes, raises when that refuses, and lets cancellation pass."""

    async def take(_request: Request) -> int:
        return 204

    async def refuse(_request: Request) -> int:
        return 503

    async with anyio.create_task_group() as receivers:
        taking = await receivers.start(serve, take)
        refusing = await receivers.start(serve, refuse)
        await check_dispatcher(lambda: OnCall(LOOPBACK, taking), failing=lambda: OnCall(LOOPBACK, refusing))
        receivers.cancel_scope.cancel()


@needs_extra
@pytest.mark.parametrize(
    "command",
    [
        ("retain", "ADDRESS", "--retention-days", "400"),
        ("hold", "add", "ADDRESS", "--reason", "x"),
        ("hold", "list", "ADDRESS"),
        ("hold", "remove", "ADDRESS", "1", "--reason", "x"),
        ("recover", "ADDRESS", "--reason", "x"),
        ("continue", "ADDRESS", "new"),
        ("continue", ".", "ADDRESS"),
        ("replicate", "ADDRESS", "postgresql://host/audit", "--trail", "x"),
        ("tail", "ADDRESS"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_an_address_is_no_directory(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    """Where a trail must be in files, the address of a database is refused, and its password is not shown."""
    monkeypatch.chdir(tmp_path)
    # As a directory, such as an earlier mistake may have made.
    Path("postgresql:/clinic:hunter2@host/audit").mkdir(parents=True)
    address = "postgresql://clinic:hunter2@host/audit"
    code, out, err = run(*(address if part == "ADDRESS" else part for part in command))
    assert (code, out) == (2, "")
    assert "expected a path; got an address, postgresql://..." in " ".join(err.split())
    assert "hunter2" not in err
