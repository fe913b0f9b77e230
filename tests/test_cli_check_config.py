"""`fapilog check-config`: what it says about good and wrong configurations, and what it leaves alone."""

import re
from pathlib import Path

import pytest

from fapilog.testing import Origin

typer_testing = pytest.importorskip("typer.testing")
pytest.importorskip("rich")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx2")

from fapilog.cli.commands import app  # noqa: E402  needs the extra

pytestmark = pytest.mark.real_time

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "configure.md"


@pytest.fixture(autouse=True)
def _empty_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = typer_testing.CliRunner().invoke(app, ["check-config", *arguments], env=env)
    return done.exit_code, done.stdout, done.stderr


def write(*lines: str, name: str = "pyproject.toml") -> None:
    Path(name).write_text("\n".join(["[tool.fapilog]", *lines]))


def test_a_good_file(origin: Origin) -> None:
    """A configuration of which a trail can be made is described in a line, nothing is sent, and no file is made."""
    write('path = "audit"', "[tool.fapilog.dispatcher]", 'type = "slack"', 'webhook_url = "env:SLACK"')
    env = {"SLACK": f"{origin.base_url}/s3cr3t"}
    says = "pyproject.toml: good; records in audit, level basic, alerts to SlackDispatcher\n"
    assert run(env=env) == (0, says, "")
    assert origin.connections == 0
    assert [path.name for path in Path().iterdir()] == ["pyproject.toml"]


def test_a_file_without_a_dispatcher() -> None:
    """Where alerts go nowhere, that is said."""
    write(name="other.toml")
    assert run("other.toml") == (0, "other.toml: good; records in audit_logs, level basic, alerts nowhere\n", "")


def test_two_outboxes_of_one_name() -> None:
    """Two outboxes that the start of the trail would refuse are refused, at whatever depth each of them stands."""
    write(
        'dispatcher = "all"',
        "[tool.fapilog.dispatchers.all]",
        'type = "fanout"',
        'dispatchers = ["first", "limited"]',
        "[tool.fapilog.dispatchers.first]",
        'type = "outbox"',
        'path = "alerts.db"',
        'inner = "nowhere"',
        "[tool.fapilog.dispatchers.limited]",
        'type = "ratelimit"',
        "rate = 1",
        "burst = 1",
        'inner = { type = "outbox", path = "alerts.db", inner = "nowhere" }',
        "[tool.fapilog.dispatchers.nowhere]",
        'type = "noop"',
    )
    code, out, err = run()
    assert (code, err) == (1, "")
    assert out == (
        "pyproject.toml: tool.fapilog.dispatchers.all.dispatchers: expected one name for each outbox in a place; "
        "got two outboxes named 'alerts'; give each its own name=\n"
    )


def test_a_file_and_the_environment() -> None:
    """A file that would not be read is refused."""
    write(name="other.toml")
    code, out, err = run("other.toml", "--env")
    assert (code, out) == (2, "")
    assert "expected either FILE or --env" in err


def test_a_wrong_file() -> None:
    """Everything that is wrong is a line with its place, and no secret is in it."""
    write('pth = "audit"', "[tool.fapilog.dispatcher]", 'type = "slack"', 'webhook_url = "https://x/s3cr3t"')
    code, out, err = run()
    assert (code, err) == (1, "")
    assert [line.partition(": expected")[0] for line in out.splitlines()] == [
        "pyproject.toml: tool.fapilog.pth: there is no such option; did you mean tool.fapilog.path?",
        "pyproject.toml: tool.fapilog.dispatcher.webhook_url",
    ]
    assert "s3cr3t" not in out


def test_a_file_that_is_no_toml() -> None:
    """A file that can't be parsed is named once."""
    Path("pyproject.toml").write_text("[tool.fapilog")
    code, out, err = run()
    assert (code, out.count("pyproject.toml"), err) == (1, 1, "")


def test_a_file_that_is_not_there() -> None:
    """A file that can't be read is said on the errors."""
    assert run("none.toml") == (2, "", "fapilog: none.toml: No such file or directory\n")
    assert run(".")[::2] == (2, "fapilog: .: Is a directory\n")


def test_nothing_that_is_printed_drives_a_terminal() -> None:
    """Escape sequences in a configuration are shown as marks, whether it is good or wrong."""
    write(r'path = "a\u001b[31mb"')
    assert run()[1] == "pyproject.toml: good; records in a\ufffd[31mb, level basic, alerts nowhere\n"
    write("[tool.fapilog.dispatcher]", 'type = "slack"', r'webhook_url = "file:/none\u001b[31m"')
    code, out, _ = run()
    assert (code, "\x1b" in out, "file:/none\ufffd[31m" in out) == (1, False, True)


def test_a_path_that_is_none() -> None:
    """A path that no file can have is said like that of a file that is not there, without a traceback."""
    code, out, err = run("~nobody.knows/fapilog.toml")
    assert (code, out, err.startswith("fapilog: ~nobody.knows/fapilog.toml: path: expected")) == (2, "", True)


def test_the_environment() -> None:
    """The variables are checked instead of a file."""
    env = {"FAPILOG_PATH": "trail", "FAPILOG_POLICY_LEVEL": "sox"}
    assert run("--env", env=env) == (0, "the environment: good; records in trail, level sox, alerts nowhere\n", "")
    assert run("--env", env={"FAPILOG_PATHS": "x"}) == (
        1,
        "the environment: FAPILOG_PATHS: there is no such variable; did you mean FAPILOG_PATH?\n",
        "",
    )


def test_the_examples_in_the_docs_are_good(tmp_path: Path) -> None:
    """Each file that the page shows is one of which a trail can be made."""
    pytest.importorskip("psycopg")
    (tmp_path / "pagerduty").write_text("0" * 32)
    (tmp_path / "audit-db").write_text("s3cr3t")
    examples = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(examples) == 5
    for example in examples:
        Path("shown.toml").write_text(example.replace("/run/secrets", str(tmp_path)))
        code, out, _ = run("shown.toml", env={"SLACK_WEBHOOK_URL": "https://hooks.example.com"})
        assert (code, out.partition(";")[0]) == (0, "shown.toml: good")
