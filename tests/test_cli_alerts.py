"""`fapilog alerts`: what is in the file of an outbox is shown and changed, whatever is in it, and whoever uses it."""

import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given, settings

from fapilog import AmbiguousDeliveryError, PermanentDeliveryError, TransientDeliveryError
from fapilog.core.alerting import Alert
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.outbox._file.place import OutboxFile
from fapilog.delivery.outbox._file.queue import FileQueue
from fapilog.testing import RecordingDispatcher
from tests.doubles.damaged_outbox import GOOD, SPOILED, Spoilt, an_outbox, spoil, spoils
from tests.doubles.outboxes import claim
from tests.doubles.postgres import Server
from tests.doubles.scripted_dispatcher import Scripted, an_event
from tests.doubles.terminal import Terminal, colours

typer_testing = pytest.importorskip("typer.testing")
Console = pytest.importorskip("rich.console").Console
pytest.importorskip("prometheus_client")

from fapilog.cli.commands import app  # noqa: E402  needs the extra
from fapilog.cli.receipts import duration, listing  # noqa: E402  needs the extra

pytestmark = pytest.mark.real_time

PRIVATE = "jane@example.com"
# Clears the screen, sets the title, moves back, turns the text around; and what rich and a pager take for markup.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b1A\r\n\u202e[bold red]gone[/bold red] [link=http://evil]"

GONE = PermanentDeliveryError("slack: status 410: the address is gone")
BUSY = TransientDeliveryError("busy")


def number(count: int) -> str:
    return an_event(count).event_id


async def take(path: Path, error: Exception | None, *events: int, age: float = 0.0, **options: Any) -> None:
    """Let an outbox take alerts about *events*, and make the first attempt."""
    outbox = Outbox(Scripted(error), path, now=lambda: time.time() - age, **options)
    for event in events:
        await outbox.send_alert(an_event(event, message=PRIVATE), severity="critical", channel="#on-call")
    outbox._store.place.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file in which 1 and 5 are dead, 2 is delivered, 3 is pending, and 4 is discarded."""
    path = tmp_path / "alerts.db"

    async def fill() -> None:
        await take(path, GONE, 1, age=180, name="slack")
        await take(path, None, 2, name="slack")
        await take(path, BUSY, 3, 4, name="slack")
        await take(path, GONE, 5, name="pager")
        await Outbox(Scripted(), path, name="slack").discard([number(4)], reason="a drill")

    anyio.run(fill)
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    """Run the command, and return its exit code and what it printed, on its output and on its errors."""
    done = typer_testing.CliRunner().invoke(app, ["alerts", *map(str, arguments)])
    assert PRIVATE not in done.output
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.stdout, done.stderr


def listed(*arguments: object) -> list[str]:
    """Return the last digits of the events that are listed."""
    code, out, _ = run("list", *arguments)
    assert code == 0
    return re.findall(r"^\S+-0*(\d+) ", out, re.MULTILINE)


def shown(path: Path, event: int) -> list[dict[str, Any]]:
    """Return what is said of an alert, as JSON."""
    return [json.loads(line) for line in run("show", path, number(event), "--json")[1].splitlines()]


# -- list


def test_it_lists_what_is_not_delivered(file: Path) -> None:
    """Without options what is pending and dead is listed, the oldest first, a line for each."""
    code, out, err = run("list", file)
    assert (code, err) == (0, "")
    heads, first, *others = out.splitlines()
    assert heads.split() == ["event", "outbox", "status", "age", "severity", "attempts", "reason"]
    assert re.split(r"\s{2,}", first) == [number(1), "slack", "dead", "3 minutes", "critical", "1", str(GONE)]
    assert [re.split(r"\s{2,}", line)[:3] for line in others] == [
        [number(3), "slack", "pending"],
        [number(5), "pager", "dead"],
    ]


@pytest.mark.parametrize(
    ("options", "events"),
    [
        (["--status", "pending"], ["3"]),
        (["--status", "dead"], ["1", "5"]),
        (["--status", "delivered"], ["2"]),
        (["--status", "discarded"], ["4"]),
        (["--status", "all"], ["1", "2", "3", "4", "5"]),
        (["--outbox", "pager"], ["5"]),
        (["--outbox", "slack", "--status", "dead"], ["1"]),
        (["--status", "all", "--limit", "5"], ["1", "2", "3", "4", "5"]),
    ],
)
def test_it_lists_what_is_asked_for(file: Path, options: list[str], events: list[str]) -> None:
    """The status and the outbox say which alerts are listed."""
    assert listed(file, *options) == events


def test_it_says_that_there_are_more(file: Path) -> None:
    """When there are more than the limit, the first are listed, and that is said apart from them."""
    code, out, err = run("list", file, "--limit", "2", "--json")
    assert (code, err) == (0, "fapilog: there are more than 2; --limit shows them\n")
    assert [json.loads(line)["event_id"] for line in out.splitlines()] == [number(1), number(3)]


def test_nothing_to_list(file: Path) -> None:
    """Where there is nothing, that is said in words, and with --json nothing is printed."""
    assert run("retry", file, "--all-dead")[0] == 0
    assert run("list", file, "--status", "dead") == (0, "no alerts are dead\n", "")
    assert run("list", file, "--status", "dead", "--json") == (0, "", "")
    run("discard", file, *map(number, (1, 3, 5)), "--reason", "a drill")
    assert run("list", file) == (0, "no alerts are pending or dead\n", "")
    assert run("list", file, "--outbox", "pager", "--status", "all")[1].count("\n") == 2


def test_an_empty_outbox(tmp_path: Path) -> None:
    """An outbox into which nothing has come is no error."""
    OutboxFile(tmp_path / "alerts.db").run([lambda queue: queue.touch("slack")])
    assert run("list", tmp_path / "alerts.db", "--status", "all") == (0, "no alerts\n", "")
    assert run("list", tmp_path / "alerts.db", "--outbox", "slack")[0] == 0


def test_lines_of_json(file: Path) -> None:
    """With --json each alert is one object in a line, with the members of an `OutboxAlert`."""
    _, out, _ = run("list", file, "--json")
    dead, pending, _ = map(json.loads, out.splitlines())
    assert (
        dead.items()
        >= {
            "outbox": "slack",
            "event_id": number(1),
            "sequence_number": 1,
            "event_type": "security_violation",
            "severity": "critical",
            "channel": "#on-call",
            "status": "dead",
            "due_at": None,
            "attempts": 1,
            "reason": str(GONE),
        }.items()
    )
    assert dead.keys() == pending.keys() == {*dead, "came_at", "ended_at"}
    assert pending["due_at"] > pending["came_at"] > dead["came_at"]


@pytest.mark.slow
def test_on_a_terminal(file: Path) -> None:
    """On a terminal of 80 columns an id is in one piece, what does not fit is below, and the status has a colour."""
    unset = {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}
    env = {name: value for name, value in os.environ.items() if name not in unset} | {"TERM": "xterm-256color"}
    terminal = Terminal("alerts", "list", str(file), env=env)
    assert terminal.read_to_the_end() == 0
    assert colours(terminal.shown) >= {"31", "33"}
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.shown)
    assert number(1) in text
    assert "critical, 1 attempt: " in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 seconds"),
        (0.9, "0 seconds"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (7199, "1 hour"),
        (7200, "2 hours"),
        (86_400, "1 day"),
        (9e6, "104 days"),
    ],
)
def test_ages_are_in_words(seconds: float, words: str) -> None:
    """An age is said in the largest unit of which there is one, rounded down."""
    assert duration(seconds) == words


# -- show


def test_it_shows_a_receipt(file: Path) -> None:
    """An alert is shown with all that is known of it, in UTC, and each attempt."""
    code, out, err = run("show", file, number(1))
    assert (code, err) == (0, "")
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    for name, value in {
        "event": number(1),
        "type": "security_violation",
        "severity": "critical",
        "channel": "#on-call",
        "record": "1",
        "outbox": "slack",
        "came": rf"{moment}, 3 minutes ago",
        "status": "dead",
        "since": rf"{moment}, 3 minutes ago",
        "reason": str(GONE),
    }.items():
        assert re.search(rf"^{name} +{value}$", out, re.MULTILINE)
    assert re.search(rf"\n1 +{moment} +\d+\.\d{{3}} +permanent +{GONE}\n$", out)


def test_it_shows_every_outbox(file: Path) -> None:
    """An event that is in several outboxes is shown for each."""
    anyio.run(take, file, AmbiguousDeliveryError("no answer"), 1, 1)
    [first, second] = shown(file, 1)
    assert [(each["outbox"], each["status"]) for each in (first, second)] == [("slack", "dead"), ("alerts", "pending")]
    assert [each["outcome"] for each in second["history"]] == ["ambiguous"]
    out = run("show", file, number(1))[1]
    assert re.findall(r"^outbox +(\w+)", out, re.MULTILINE) == ["slack", "alerts"]


def test_it_shows_what_comes_next(file: Path) -> None:
    """Of an alert that waits it is shown when the next attempt is due."""
    assert re.search(r"^next +due at .* UTC, in [3-6] seconds$", run("show", file, number(3))[1], re.MULTILINE)
    run("retry", file, number(3))
    assert "due now" in run("show", file, number(3))[1]


def test_it_shows_an_attempt_under_way(tmp_path: Path) -> None:
    """An alert that nobody has tried to send, and an attempt without an outcome, are shown as such."""
    file, now = OutboxFile(tmp_path / "alerts.db"), time.time()
    file.run([lambda queue: queue.put("slack", Alert(an_event(), "critical", None), now)])
    assert "never attempted" in run("show", file.path, number(1))[1]
    file.run([lambda queue: claim(queue, "slack", an_event(), "lease", now, lasts=60)])
    out = run("show", file.path, number(1))[1]
    assert "an attempt is under way" in out
    assert re.search(r"unknown +under way\n$", out)
    says = f"fapilog: {number(1)}: it is being sent\n"
    assert run("retry", file.path, number(1)) == (1, "0 alerts are due now\n", says)


def test_there_is_nothing_to_show(file: Path) -> None:
    """An event without an alert is said on the errors, with exit code 1."""
    says = "fapilog: \ufffd[31mx: there is no such alert\n"
    assert run("show", file, "\x1b[31mx") == run("show", file, "--json", "\x1b[31mx") == (1, "", says)


def test_hostile_text(tmp_path: Path) -> None:
    """Text in the file can't control a terminal, is no markup, and forges no line."""
    file = OutboxFile(tmp_path / "alerts.db")
    event = an_event(event_id=f"id {HOSTILE}")
    file.run([lambda queue: queue.put(HOSTILE, Alert(event, HOSTILE, HOSTILE), time.time())])
    file.run([lambda queue: queue.discard(None, [event.event_id], HOSTILE, time.time())])
    lines = {"list": 2, "show": 12}
    for command, arguments in {"list": ["--status", "all"], "show": [event.event_id]}.items():
        code, out, _ = run(command, file.path, *arguments)
        assert code == 0
        assert out.replace("\n", "").isprintable()
        assert "[bold red]gone[/bold red] [link=http://evil]" in out
        assert out.count("\n") == lines[command]
        assert run(command, file.path, *arguments, "--json")[1].replace("\n", "").isascii()
    code, _, err = run("list", file.path, "--outbox", "slack")
    assert code == 2
    assert err.count("\n") == 1
    assert err.removesuffix("\n").isprintable()


# -- retry and discard


def test_it_retries_what_is_named(file: Path) -> None:
    """Alerts that are named become due, be they dead, discarded or waiting."""
    assert run("retry", file, *map(number, (1, 3, 4, 4))) == (0, "3 alerts are due now\n", "")
    assert listed(file, "--status", "pending") == ["1", "3", "4"]
    assert run("retry", file, number(5)) == (0, "1 alert is due now\n", "")


def test_it_retries_all_that_are_dead(file: Path) -> None:
    """With --all-dead all dead ones become due, in one outbox or in all, and it is no error if there are none."""
    assert run("retry", file, "--all-dead", "--outbox", "pager") == (0, "1 alert is due now\n", "")
    assert run("retry", file, "--all-dead") == (0, "1 alert is due now\n", "")
    assert run("retry", file, "--all-dead") == (0, "0 alerts are due now\n", "")
    assert listed(file, "--status", "pending") == ["1", "3", "5"]


def test_what_cannot_be_retried(file: Path) -> None:
    """What is delivered, not there, or in another outbox is named with the reason, and the others are retried."""
    code, out, err = run("retry", file, *map(number, (1, 2, 5, 7)), "--outbox", "slack")
    assert (code, out) == (1, "1 alert is due now\n")
    assert err.splitlines() == [
        f"fapilog: {number(2)}: it was delivered",
        f"fapilog: {number(5)}: there is no such alert",
        f"fapilog: {number(7)}: there is no such alert",
    ]


@pytest.mark.parametrize("arguments", [[], ["--all-dead", "1"]])
def test_retry_wants_to_know_what(file: Path, arguments: list[str]) -> None:
    """It is either events or --all-dead."""
    code, _, err = run("retry", file, *arguments)
    assert code == 2
    assert "expected either EVENT_ID or --all-dead" in err


def test_it_discards_what_is_named(file: Path) -> None:
    """Alerts that are named are given up and kept with the reason, and can be retried."""
    assert run("discard", file, number(1), number(3), "--reason", "handled by phone") == (
        0,
        "2 alerts are discarded\n",
        "",
    )
    [discarded] = shown(file, 1)
    assert (discarded["status"], discarded["reason"]) == ("discarded", "handled by phone")
    assert run("retry", file, number(1))[0] == 0


def test_what_cannot_be_discarded(file: Path) -> None:
    """What is delivered, discarded already or not there is named with the reason, with exit code 1."""
    code, out, err = run("discard", file, *map(number, (2, 4, 7)), "--reason", "a drill")
    assert (code, out) == (1, "0 alerts are discarded\n")
    assert err.splitlines() == [
        f"fapilog: {number(2)}: it was delivered",
        f"fapilog: {number(4)}: it was discarded already",
        f"fapilog: {number(7)}: there is no such alert",
    ]


@pytest.mark.parametrize("arguments", [[], ["--reason", " "]])
def test_discard_wants_a_reason(file: Path, arguments: list[str]) -> None:
    """Nothing is discarded without a reason in words."""
    code, _, err = run("discard", file, number(1), *arguments)
    assert code == 2
    assert "--reason" in err
    assert listed(file, "--status", "dead") == ["1", "5"]


# -- files

COMMANDS = (["list"], ["show", "x"], ["retry", "--all-dead"], ["discard", "x", "--reason", "y"])


def missing(path: Path) -> None:
    """Make nothing."""


def a_text(path: Path) -> None:
    path.write_text("these are notes, and no database\n" * 100)


def an_empty_file(path: Path) -> None:
    path.touch()


def a_directory(path: Path) -> None:
    path.mkdir()


def another_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()


def a_later_version(path: Path) -> None:
    file = OutboxFile(path)
    file.run([FileQueue.outboxes])
    file.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()


def a_damaged_outbox(path: Path) -> None:
    file = OutboxFile(path)
    file.run([lambda queue: queue.put("slack", Alert(an_event(), "critical", None), time.time())])
    file.close()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing, "there is no such file"),
        (a_directory, "expected a file, found something else"),
        (a_text, "file is not a database"),
        (an_empty_file, "expected an outbox of version 1; got an empty file"),
        (another_database, "expected an outbox of version 1; got another database"),
        (a_later_version, "expected an outbox of version 1; got version 2"),
        (a_damaged_outbox, "database disk image is malformed"),
    ],
)
def test_what_is_no_outbox(make: Any, says: str, tmp_path: Path) -> None:
    """A file that can't be used is said in one sentence, with exit code 2, and is neither changed nor renamed."""
    path = tmp_path / "alerts.db"
    make(path)
    before = {each: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    for command, *arguments in COMMANDS:
        assert run(command, path, *arguments) == (2, "", f"fapilog: {path}: {says}\n")
    assert {each: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()} == before


def test_a_file_has_no_trail(file: Path) -> None:
    """The name of a trail in a database is refused where the outbox is a file, and not ignored."""
    for command, *arguments in COMMANDS:
        code, out, err = run(command, file, *arguments, "--trail", "clinic")
        assert (code, out) == (2, "")
        assert "Invalid value for --trail: expected an outbox in PostgreSQL" in " ".join(err.split())


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a directory that everybody may look into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
def test_a_file_that_may_not_be_written(public: Path) -> None:
    """A file of which one may only read is said in one sentence, with exit code 2."""
    path = public / "alerts.db"
    anyio.run(take, path, GONE, 1)
    path.chmod(0o444)
    script = f"""if True:
        import os, sys
        from typer.testing import CliRunner
        from fapilog.cli.commands import app
        arguments = ["alerts", "list", {str(path)!r}]
        if os.geteuid() == 0:
            # What is imported on the way, root has to import; and root may do anything.
            CliRunner().invoke(app, arguments)
            os.setuid(65534)
        app(arguments)
    """
    # Coverage could not write its file there.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    says = f"fapilog: {path}: expected a file that may be read and written; this one may not be\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", says)


def test_an_outbox_that_is_not_there(file: Path) -> None:
    """A name that no outbox in the file has is said with those that there are, with exit code 2."""
    for command, *arguments in (["list"], ["retry", "--all-dead"], ["discard", "x", "--reason", "y"]):
        code, out, err = run(command, file, "--outbox", "slak", *arguments)
        assert (code, out) == (2, "")
        assert err == f"fapilog: {file}: there is no outbox slak; there is: pager, slack\n"


# -- a file that is damaged, or made by somebody who means no good


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Return a file with an alert of which hardly anything can be read, and two that are as they should be."""
    path = tmp_path / "alerts.db"
    an_outbox(path, time.time(), "slack")
    spoil(
        path,
        [
            Spoilt("came_at", 1e300),
            Spoilt("status", "lost\x1b[2J"),
            Spoilt("attempts", "many"),
            Spoilt("ended_at", b"\x1b"),
            Spoilt("reason", b"gone\xff", as_text=True),
            Spoilt("took", "long", "attempts"),
            Spoilt("began_at", float("inf"), "attempts"),
            Spoilt("outcome", "\x1b[2J", "attempts"),
        ],
    )
    return path


def test_what_can_not_be_read_is_listed(damaged: Path) -> None:
    """An alert of which a part can't be read is listed with the rest, and with what is wrong; so are all others."""
    code, out, err = run("list", damaged, "--status", "all")
    assert (code, err) == (0, "")
    _, *rows, last = out.splitlines()
    assert [row.split()[0] for row in rows] == [event.event_id for event in GOOD]
    event, outbox, status, age, severity, attempts, reason = re.split(r"\s{2,}", last)
    assert (event, outbox, age, severity, attempts) == (SPOILED.event_id, "slack", "unknown", "critical", "unknown")
    assert status == "lost\ufffd[2J"
    assert reason == (
        "gone\ufffd; can't be read: status ('lost\\x1b[2J'), came_at (1e+300), ended_at (b'\\x1b'), attempts ('many')"
    )


def test_what_can_not_be_read_is_shown(damaged: Path) -> None:
    """An alert is shown with what can't be read of it, and of each attempt."""
    code, out, err = run("show", damaged, SPOILED.event_id)
    assert (code, err) == (0, "")
    assert re.search(r"^came +unknown$", out, re.MULTILINE)
    assert re.search(r"^status +lost\ufffd\[2J$", out, re.MULTILINE)
    assert re.search(r"^can't be read +status \('lost.*\), came_at \(1e\+300\), ended_at", out, re.MULTILINE)
    reason = r"gone; can't be read: began_at \(inf\), took \('long'\), outcome"
    assert re.search(rf"^1 +unknown +unknown +unknown +{reason}", out, re.MULTILINE)
    assert out.replace("\n", "").isprintable()


def test_what_can_not_be_read_is_in_the_json(damaged: Path) -> None:
    """In lines of JSON, too, what can't be read is named, and they are JSON."""
    found = shown(damaged, 2)
    assert [(each["status"], sorted(each["unreadable"])) for each in found] == [
        ("lost\x1b[2J", ["attempts", "came_at", "ended_at", "status"])
    ]
    assert [sorted(each["unreadable"]) for each in found[0]["history"]] == [["began_at", "outcome", "took"]]


def test_what_can_not_be_read_on_a_terminal(damaged: Path) -> None:
    """Where there is less room, what can't be read stands below."""
    alerts = OutboxFile(damaged).run([lambda queue: queue.alerts(event_id=SPOILED.event_id)])[0]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(listing(alerts, datetime.now(UTC), wide=False))
    assert "critical, unknown attempts: gone" in console.export_text()


def test_it_is_retried_and_discarded_all_the_same(damaged: Path) -> None:
    """Of an alert whose status is none, retrying makes it due, and it can be discarded then."""
    assert run("discard", damaged, SPOILED.event_id, "--reason", "x") == (
        1,
        "0 alerts are discarded\n",
        f"fapilog: {SPOILED.event_id}: its status is lost\ufffd[2J\n",
    )
    assert run("retry", damaged, SPOILED.event_id) == (0, "1 alert is due now\n", "")
    assert run("discard", damaged, SPOILED.event_id, "--reason", "x") == (0, "1 alert is discarded\n", "")


def test_an_alert_without_its_event(file: Path) -> None:
    """A dead alert whose event is gone from the file can't be retried, and that is said."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE alerts SET event = NULL WHERE event_id = ?", (number(1),))
    assert run("retry", file, number(1)) == (
        1,
        "0 alerts are due now\n",
        f"fapilog: {number(1)}: its event is not in the outbox\n",
    )


def test_arguments_that_are_not_utf8(file: Path) -> None:
    """An event or an outbox that is named in bytes that are no text is not there."""
    for command, *options in (["show"], ["retry"], ["discard", "--reason", "x"]):
        code, _, err = run(command, file, *options, "\udcff")
        assert (code, err) == (1, "fapilog: \\udcff: there is no such alert\n")
    code, _, err = run("list", file, "--outbox", "\udcff")
    assert (code, err) == (2, f"fapilog: {file}: there is no outbox \\udcff; there is: pager, slack\n")


@pytest.mark.slow
@settings(max_examples=min(60, settings().max_examples // 8))  # an example is slow
@given(spoils)
def test_whatever_is_in_one_row_the_others_are_there(spoilt: list[Spoilt]) -> None:
    """Any values in any columns of an alert, and of its attempt, are shown without harm, and so are the others."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "alerts.db"
        an_outbox(path, time.time(), "slack")
        spoil(path, spoilt)
        for options in ([], ["--status", "all"]):
            code, out, err = run("list", path, *options)
            assert (code, err) == (0, "")
            assert out.replace("\n", "").isprintable()
            assert all(event.event_id in out for event in GOOD)
            for line in run("list", path, *options, "--json")[1].splitlines():
                json.loads(line, parse_constant=pytest.fail)
        for event in (SPOILED, *GOOD):
            for options in ([], ["--json"]):
                code, out, _ = run("show", path, event.event_id, *options)
                assert code == 0 or event is SPOILED
                assert out.replace("\n", "").isprintable()
        for command in (["retry"], ["discard", "--reason", "a drill"]):
            code, out, err = run(command[0], path, *command[1:], SPOILED.event_id, GOOD[0].event_id)
            assert code in {0, 1}
            assert (out + err).replace("\n", "").isprintable()
        assert run("retry", path, "--all-dead")[0] == 0
        assert run("list", path, "--outbox", "no\x1b")[0] == 2


# -- beside a service


@pytest.mark.slow
@pytest.mark.one_backend
async def test_beside_a_service(tmp_path: Path) -> None:
    """What another process retries and discards, a running outbox sends and leaves alone."""
    inner = RecordingDispatcher(error=GONE)
    async with Outbox(inner, tmp_path / "alerts.db", lease=0.1) as outbox:
        for event in (1, 2):
            await outbox.send_alert(an_event(event), severity="critical")
        with anyio.fail_after(60):
            await inner.wait_for(2)
            while outbox.state.dead < 2:  # noqa: ASYNC110  of the file
                await anyio.sleep(0.01)

            file, inner.error = str(tmp_path / "alerts.db"), None
            assert await anyio.to_thread.run_sync(listed, file, "--status", "dead") == ["1", "2"]
            await anyio.to_thread.run_sync(run, "discard", file, number(1), "--reason", "a drill")
            await anyio.run_process([sys.executable, "-m", "fapilog", "alerts", "retry", file, "--all-dead"])
            await inner.wait_for(3)
    assert [alert.event.event_id for alert in inner.alerts[2:]] == [number(2)]
    found = [await outbox.find(number(event)) for event in (1, 2)]
    assert [each.status for each in found if each] == ["discarded", "delivered"]


@pytest.mark.one_backend
async def test_beside_a_busy_service(tmp_path: Path) -> None:
    """Looking on while alerts come and go disturbs neither side."""
    inner = RecordingDispatcher()

    async def look() -> None:
        for _ in range(10):
            code, _, err = await anyio.to_thread.run_sync(run, "list", tmp_path / "alerts.db", "--status", "all")
            assert (code, err) == (0, "")

    async with Outbox(inner, tmp_path / "alerts.db") as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(look)
                for event in range(2, 31):
                    await outbox.send_alert(an_event(event), severity="critical")
            await inner.wait_for(30)
    assert len(inner.alerts) == 30


# -- in a database


@pytest.mark.slow
def test_a_database(database: Server) -> None:
    """The same is shown of an outbox in PostgreSQL, and done to it; a password is never shown."""
    postgres = pytest.importorskip("fapilog.storage.postgres")
    pgplace = pytest.importorskip("fapilog.delivery.outbox._postgres.place")
    host = database.dsn(user="service", port=database.port).split()[0].removeprefix("host=")
    dsn = f"postgresql://service:t0k3n@{host}:{database.port}/postgres"
    place = pgplace.Database(postgres.PostgresStorage(dsn, "clinic"))
    for each in (1, 2):
        alert = Alert(an_event(each, message=PRIVATE), "critical", "#on-call")
        place.run([lambda queue, alert=alert: queue.put("slack", alert, time.time())])
    place.close()
    at = (dsn, "--trail", "clinic")
    code, out, err = run("list", *at)
    assert (code, err) == (0, "")
    assert [number(each) in out for each in (1, 2, 3)] == [True, True, False]
    assert run("discard", *at, number(1), "--reason", "told by phone") == (0, "1 alert is discarded\n", "")
    assert run("retry", *at, number(1)) == (0, "1 alert is due now\n", "")
    assert run("retry", *at, number(3)) == (
        1,
        "0 alerts are due now\n",
        f"fapilog: {number(3)}: there is no such alert\n",
    )
    code, out, err = run("show", *at, number(2), "--json")
    assert (code, err, json.loads(out)["status"], json.loads(out)["channel"]) == (0, "", "pending", "#on-call")
    place_ = f"PostgreSQL {host}:{database.port}/postgres, trail 'clinic'"
    assert run("list", *at, "--outbox", "mail") == (
        2,
        "",
        f"fapilog: {place_}: there is no outbox mail; there is: slack\n",
    )
    for command in (("list",), ("show", number(1)), ("retry", "--all-dead")):
        # That a trail has no alerts whose name is mistaken would be no answer.
        words = f"fapilog: PostgreSQL {host}:{database.port}/postgres, trail 'klinic': there is no outbox\n"
        assert run(command[0], dsn, "--trail", "klinic", *command[1:]) == (2, "", words)
    for arguments in (
        ("list", dsn),
        ("list", "postgresql://a:t0k3n@b:c:d/", "--trail", "x"),
        ("list", *at, "--outbox", "x"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "t0k3n" not in err
