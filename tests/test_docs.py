"""
The docs can be followed, and their tables say what is there.

The Python examples of each page are run by the conftest.py in the directory above.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import fapilog
from fapilog import AuditEvent, AuditEventType, ChainStatus, CompliancePolicy, testing
from fapilog.core import alerting
from fapilog.record import chain, errordetails, errors, freezing, values
from fapilog.record.events import PERSONAL
from tests.doubles.modules import PUBLIC
from tests.doubles.observed_alerts import finish
from tests.doubles.observed_outboxes import Counted
from tests.doubles.trail_files import TrailFiles

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

CONFIGURE = "how-to/configure.md"
PROVE = "how-to/prove-that-someone-was-told.md"

# A fenced block, and what stands before it since the last one.
BLOCK = re.compile(r"(?P<before>.*?)^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"(Save this as )?`(\w+\.(?:py|toml))`:\s*(?:<!-- skip: next -->\s*)?\Z")


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Return the language and the code of each block of *page*, and what stands before it."""
    found = BLOCK.finditer((DOCS / page).read_text(encoding="utf-8"))
    return [(block["language"], block["code"], block["before"]) for block in found]


def table(page: str, first_column: str) -> list[list[str]]:
    """Return the rows of the table in *page* whose first column is headed *first_column*, without backticks."""
    _, _, rest = (DOCS / page).read_text(encoding="utf-8").partition(f"\n| {first_column} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    assert rows, f"{page} has no table of {first_column}"
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


def in_shell(script: str, directory: Path) -> str:
    """Return what *script* prints, run in *directory* with this Python as `python`."""
    if shutil.which("sha256sum") is None:
        script = script.replace("sha256sum", "shasum -a 256")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = ["sh", "-c", script]
    run = subprocess.run(
        shell, cwd=directory, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    return run.stdout


def write_trail(directory: Path, *messages: str, now: datetime | None = None) -> Path:
    """Store an event for each of *messages*, and return the file."""
    trail = TrailFiles(directory, durable=False, now=lambda: now or datetime(2026, 1, 31, tzinfo=UTC))
    trail.append(
        [chain.body(AuditEvent(event_type=AuditEventType.CONFIG_CHANGED, message=message)) for message in messages]
    )
    trail.close()
    [file] = directory.glob("audit_*.jsonl")
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["tutorial.md", "how-to/run-several-workers.md", "how-to/ask-the-trail.md", PROVE, CONFIGURE]
)
def test_a_reader_sees_what_the_page_shows(page: str, tmp_path: Path) -> None:
    """Whoever saves the scripts of a page, and runs them and its commands in order, gets the output that is shown."""
    if "fapilog alerts" in (DOCS / page).read_text(encoding="utf-8"):
        pytest.importorskip("typer")
    if page == CONFIGURE:
        pytest.importorskip("typer")
        pytest.importorskip("httpx2")
    printed, compared = "", 0
    for language, code, before in blocks(page):
        if language == "output" and page == CONFIGURE:  # of what Sybil runs
            continue
        name = NAMED.search(before)
        if language in {"python", "toml"} and name:
            (tmp_path / name[2]).write_text(code, encoding="utf-8")
            printed = "" if name[1] else in_shell(f"python {name[2]}", tmp_path)
        elif language == "sh":
            printed = in_shell(code, tmp_path)
        elif language in {"output", "text"}:
            assert OutputChecker().check_output(code, printed, ELLIPSIS | NORMALIZE_WHITESPACE), (
                f"shown:\n{code}\nprinted:\n{printed}"
            )
            compared += 1
    assert compared


def shell_block(page: str, containing: str) -> str:
    """Return the one block of shell commands in *page* that contains a text."""
    [code] = [code for language, code, _ in blocks(page) if language == "sh" and containing in code]
    return code


def test_a_shell_computes_the_checksum_of_a_record(tmp_path: Path) -> None:
    """The command in the docs prints the checksum that is stored, also of text that a shell might take for its own."""
    lines = write_trail(tmp_path / "audit", "a", "$(b) `b` \\n %s \"'*? ü", "c").read_text().splitlines()
    printed = in_shell(shell_block("how-to/verify-and-recover.md", "sed"), tmp_path)
    assert printed.split()[0] == msgspec.json.decode(lines[1])["checksum"]


def test_the_command_in_the_source_computes_the_checksum_too(tmp_path: Path) -> None:
    """The command in the docstring of the module that seals records is right."""
    lines = write_trail(tmp_path, "a", "b", "c").read_text().splitlines()
    [command] = re.findall(r"^ +(sed .*)$", chain.__doc__ or "", re.MULTILINE)
    assert in_shell(command, tmp_path).split()[0] == msgspec.json.decode(lines[2])["checksum"]


TAMPERED: dict[str, Callable[[list[str]], list[str]]] = {
    "edited": lambda lines: [lines[0], lines[1].replace('"b"', '"x"'), *lines[2:]],
    "removed": lambda lines: [lines[0], *lines[2:]],
    "removed at the front": lambda lines: lines[1:],
    "swapped": lambda lines: [lines[0], lines[2], lines[1], lines[3]],
    "repeated": lambda lines: [*lines[:2], *lines[1:]],
    "replaced by something else": lambda lines: [lines[0], "something else", *lines[2:]],
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_shell_finds_what_a_verification_finds(how: str, tmp_path: Path) -> None:
    """The script in the docs names the same record as `verify_chain_from_storage`, and none if all is well."""
    file = write_trail(tmp_path / "audit", "a", "b", "c", "d")
    script = shell_block("how-to/verify-and-recover.md", "while")
    assert in_shell(script, tmp_path) == ""

    file.write_text("".join(f"{line}\n" for line in TAMPERED[how](file.read_text().splitlines())), encoding="utf-8")
    first = TrailFiles(tmp_path / "audit", durable=False).verify().first_invalid_sequence
    assert in_shell(script, tmp_path) == f"record {first} is not as it was stored\n"


def test_an_anchor_shows_that_the_trail_was_made_anew(tmp_path: Path) -> None:
    """A checksum that was kept elsewhere is found in the trail it is from, and not in a forged one that verifies."""
    script = shell_block("how-to/verify-and-recover.md", "CHECKSUM")
    file = write_trail(tmp_path / "audit", "a", "b", "c")
    command = script.replace("CHECKSUM", msgspec.json.decode(file.read_text().splitlines()[1])["checksum"])
    assert in_shell(command, tmp_path) == "1\n"

    file.unlink()
    write_trail(tmp_path / "audit", "a", "x", "c")
    assert TrailFiles(tmp_path / "audit", durable=False).verify().valid
    assert in_shell(f"{command.strip()} || true", tmp_path) == "0\n"


@pytest.mark.slow
def test_the_examples_for_pytest_pass(tmp_path: Path) -> None:
    """The fixtures and tests that the docs show run on both backends."""
    conftest, test, own_test = (
        code for _, code, before in blocks("how-to/test-your-alerting.md") if "<!-- skip: next -->" in before
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nanyio_mode = auto\nfilterwarnings = error\n")
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_login.py").write_text(test)
    (tmp_path / "pager.py").write_text("from fapilog import NoopAlertDispatcher as Pager\n")
    (tmp_path / "test_pager.py").write_text(own_test)
    of_an_app = [code for language, code, _ in blocks("how-to/test-your-app.md") if language == "python"]
    (tmp_path / "test_app.py").write_text("".join(of_an_app[:4]))
    # Without the plugins of this environment that take longer to load than these tests to run.
    without = " ".join(f"-p no:{each}" for each in ("cacheprovider", "asyncio", "faker", "hypothesispytest", "xdist"))
    assert "9 passed" in in_shell(f"python -m pytest -q {without}", tmp_path)


def test_the_table_of_members_is_the_record() -> None:
    """The reference names every member of a record, in order, those that are always there, and the personal ones."""
    rows = table("reference/record.md", "member")
    names = [field.name for field in msgspec.structs.fields(AuditEvent) if field.name not in {"format_version", "line"}]
    assert [row[0] for row in rows] == ["v", *names]
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="", hostname="h", process_id=1)
    stored = msgspec.json.decode(chain.seal(chain.body(event), 1, None)[0])
    assert [row[0] for row in rows if row[2] == "yes"] == list(stored)
    assert {row[0] for row in rows if row[3] == "P"} == set(PERSONAL)


def test_the_page_of_rules_names_what_there_is() -> None:
    """Its tables have the types of events, and the members of an event, a trail and a policy, by their names."""
    rows = [line for line in (DOCS / "reference/rules.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    names = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)\b", "\n".join(rows)))
    known = {each.value for each in AuditEventType}.union(*map(dir, (AuditEvent, fapilog.AuditTrail, CompliancePolicy)))
    assert names
    assert names <= known | {"fapilog_reader"}


def test_the_table_of_limits_has_the_numbers() -> None:
    """The limits in the reference are those in the code."""
    limits = [row[1] for row in table("reference/record.md", "value")]
    texts = ["8,192 characters", "65,536 characters", "the last 32,768 characters"]
    assert limits == ["256 KiB", *texts, "64", "1,000"]
    policy = CompliancePolicy()
    assert (
        policy.max_record_bytes,
        policy.max_text_characters,
        policy.max_message_characters,
        errordetails.MAX_TRACEBACK,
        freezing.MAX_DEPTH,
        values.MAX_TAGS,
    ) == (256 << 10, 8_192, 65_536, 32_768, 64, 1_000)


def test_the_table_of_files_is_complete() -> None:
    """The reference names every file that a trail has beside its days."""
    source = "".join(
        path.read_text(encoding="utf-8") for path in Path(fapilog.__file__).with_name("storage").rglob("*.py")
    )
    named = re.findall(r"audit_[a-z]+\.[a-z]+", " ".join(row[1] for row in table("reference/record.md", "contents")))
    assert sorted(named) == sorted(set(re.findall(r'"(audit_[a-z]+\.[a-z]+)"', source)))


def test_the_table_of_verdicts_is_complete() -> None:
    """The page about verifying says what to do about every status."""
    rows = table("how-to/verify-and-recover.md", "status")
    assert [row[0] for row in rows] == [status.value for status in ChainStatus]


def test_the_tables_of_outcomes_are_complete() -> None:
    """The reference, the how-to about observers and the glossary name every outcome, and no other."""
    rows = table("reference/errors.md", "error")
    assert {row[1] for row in rows} == set(get_args(alerting.Outcome)) - {"dispatched"}
    rows = table("how-to/observe-alerts.md", "outcome")
    assert [row[0].strip('"') for row in rows] == list(get_args(alerting.Outcome))
    glossary = (DOCS / "reference/glossary.md").read_text(encoding="utf-8")
    assert all(f'"{outcome}"' in glossary for outcome in get_args(alerting.Outcome))


def test_the_rules_for_prometheus_are_about_what_is_there(tmp_path: Path) -> None:
    """Every metric and outcome that the alerting rules name exists, each gauge may be missing, and promtool agrees."""
    prometheus = pytest.importorskip("prometheus_client")
    metrics = importlib.import_module("fapilog.observers.metrics")
    [rules] = [code for language, code, _ in blocks("how-to/observe-alerts.md") if language == "yaml"]
    registry = prometheus.CollectorRegistry()
    with metrics.connect(registry=registry, outboxes=[Counted("slack")]):
        finish()
        exposed = prometheus.generate_latest(registry).decode()
    there = set(re.findall(r"^(fapilog_\w+)\{", exposed, re.MULTILINE))
    named = set(re.findall(r"\bfapilog_\w+", rules))
    gauges = {name for name in there if name.startswith("fapilog_outbox_")}
    assert gauges < named <= there
    assert {name for name in gauges if f'absent({name}{{outbox="slack"}})' in rules} == gauges
    # Of the first failure after a restart, of which the count may be that of the process before, nothing else tells.
    assert 'time() - fapilog_alerts_finished_created{outcome!="dispatched"} < 3600' in rules
    assert set(re.findall(r'outcome!?="(\w+)"', rules)) <= set(get_args(alerting.Outcome))
    if promtool := shutil.which("promtool"):
        (tmp_path / "rules.yml").write_text(rules, encoding="utf-8")
        subprocess.run([promtool, "check", "rules", tmp_path / "rules.yml"], check=True, timeout=60)


@pytest.mark.parametrize(
    ("pages", "names"),
    [
        ("reference/api/*.md", [*fapilog.__all__, *testing.__all__]),
        ("reference/errors.md", errors.__all__),
        ("reference/signals.md", ["compliance_alert", "alert_attempted", "alert_dispatched", "alert_failed"]),
    ],
)
def test_a_reference_is_complete(pages: str, names: list[str]) -> None:
    """No public name is missing from the pages that list its kind."""
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.glob(pages))
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_observer_is_in_the_reference() -> None:
    """The reference shows how to connect each observer."""
    text = (DOCS / "reference/api/observers.md").read_text(encoding="utf-8")
    modules = [path.stem for path in PUBLIC if path.parts[0] == "observers" and path.stem != "__init__"]
    assert modules
    assert [name for name in modules if f"fapilog.observers.{name}.connect" not in text] == []


def test_every_command_and_option_is_in_the_reference() -> None:
    """The reference names every command of the command line, with its arguments and options."""
    typer = pytest.importorskip("typer")
    commands = importlib.import_module("fapilog.cli.commands")
    text = (DOCS / "reference/cli.md").read_text(encoding="utf-8")
    waiting = list(typer.main.get_command(commands.app).commands.items())
    for name, command in waiting:
        assert f"## `fapilog {name}" in text
        assert [each.opts for each in command.params if (each.metavar or each.opts[-1]) not in text] == []
        waiting += [(f"{name} {inner}", each) for inner, each in getattr(command, "commands", {}).items()]


def test_the_story_points_at_what_is_there() -> None:
    """Every file and folder that the map of the requirements names exists."""
    text = (DOCS / "explanation/story.md").read_text(encoding="utf-8")
    paths = [path for path in re.findall(r"`([\w./]+)`", text) if "/" in path or path.endswith((".md", ".toml"))]
    assert paths
    # The package may be installed elsewhere.
    package = Path(fapilog.__file__).parent
    places = [
        package / path.removeprefix("src/fapilog/") if path.startswith("src/fapilog/") else ROOT / path
        for path in paths
    ]
    assert [place for place in places if not place.exists()] == []


def test_the_readme_names_every_extra() -> None:
    """The list of extras is that of the package, and `all` has those that the list says."""
    words = (ROOT / "README.md").read_text(encoding="utf-8").partition("The extras:")[2].partition("needs no extra.")[0]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(re.findall("`(.+?)`", words)) - {"fapilog"} == set(extras)
    [everything] = extras.pop("all")
    assert set(extras) - {"django", "flask", "sqlalchemy"} == set(everything[len("fapilog[") : -1].split(","))


def test_the_links_of_the_readme_lead_somewhere() -> None:
    """Every file that the README links to is there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
