"""`fapilog send-test`: one alert to each destination, and every outcome in words."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest

from fapilog._extras import install_line
from fapilog.config import dispatcher_from_env
from fapilog.config._hints import accepted
from fapilog.config._reader import class_of
from fapilog.testing import Answer, Origin

typer_testing = pytest.importorskip("typer.testing")
pytest.importorskip("rich")
pytest.importorskip("prometheus_client")

from fapilog.cli import send_test  # noqa: E402  needs the extra
from fapilog.cli.commands import app  # noqa: E402  needs the extra

pytestmark = pytest.mark.real_time

SECRET = "s3cr3t-0f-ours-and-long-enough-0"
WHSEC = "whsec_" + base64.b64encode(SECRET.encode()).decode()

# What the environment holds for an origin, and what the origin answers.
OVER_HTTP: dict[str, tuple[Callable[[str], dict[str, str]], Answer, str]] = {
    "webhook": (
        lambda url: {"FAPILOG_WEBHOOK_URL": f"{url}/{SECRET}", "FAPILOG_WEBHOOK_SECRET": f"{WHSEC} {WHSEC}"},
        Answer(204, b""),
        "delivered",
    ),
    "slack": (lambda url: {"FAPILOG_SLACK_WEBHOOK_URL": f"{url}/{SECRET}"}, Answer(), "delivered"),
    "pagerduty": (
        lambda url: {"FAPILOG_PAGERDUTY_ROUTING_KEY": SECRET, "FAPILOG_PAGERDUTY_BASE_URL": url},
        Answer(202, b'{"status":"success"}'),
        "accepted",
    ),
    "opsgenie": (
        lambda url: {"FAPILOG_OPSGENIE_API_KEY": SECRET, "FAPILOG_OPSGENIE_BASE_URL": url},
        Answer(202, b'{"result":"Request will be processed","requestId":"r"}'),
        "accepted",
    ),
    "alertmanager": (
        lambda url: {"FAPILOG_ALERTMANAGER_URLS": f"{url}/{SECRET}, {url}/{SECRET}2"},
        Answer(200, b""),
        "accepted",
    ),
    "apprise": (
        lambda url: {"FAPILOG_APPRISE_URLS": f"{url.replace('http', 'json')}/{SECRET}"},
        Answer(),
        "delivered",
    ),
}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FAPILOG_"):
            monkeypatch.delenv(name)


def run(to: str, env: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run the command, and return its exit code and what it printed, on its output and on its errors."""
    done = typer_testing.CliRunner().invoke(app, ["send-test", "--to", to, *arguments], env=env)
    assert SECRET not in done.output
    return done.exit_code, done.stdout, done.stderr


def needs(to: str) -> None:
    """Skip the test where the library of *to* is not installed."""
    library = {"apprise": "apprise", "email": "ssl", "console": "json"}.get(to, "httpx2")
    if not find_spec(library):
        pytest.skip(f"needs the extra {to}")


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise's
@pytest.mark.parametrize("to", OVER_HTTP)
def test_it_is_taken(to: str, origin: Origin) -> None:
    """Each destination gets one alert that says it is a test, and the outcome is said."""
    needs(to)
    environment, answer, word = OVER_HTTP[to]
    origin.script(answer)
    code, out, err = run(to, environment(origin.base_url))
    assert (code, err) == (0, "")
    assert out.startswith(word)
    assert len(origin.requests) == (2 if to == "alertmanager" else 1)
    for request in origin.requests:
        assert "TEST" in request.body.decode()


OUTCOMES = [
    (Answer(429, headers={"retry-after": "7"}), "not delivered; try again in 7 s or later. webhook: status 429"),
    (Answer(500), "not delivered; try again later. webhook: status 500"),
    (Answer(410), "refused. webhook: status 410: the address is gone for good"),
    (Answer(302, headers={"location": "/"}), "refused. webhook: status 302: a redirect"),
    (Answer(fault="reset_before_answering"), "may have arrived; look there before you try again. webhook: sent, but"),
]


@pytest.mark.parametrize(("answer", "words"), OUTCOMES)
def test_it_is_not_taken(answer: Answer, words: str, origin: Origin) -> None:
    """What is not delivered, or not known, is said in words, with exit code 1, and is not sent again as it is."""
    needs("webhook")
    origin.script(answer)
    code, out, err = run("webhook", OVER_HTTP["webhook"][0](origin.base_url))
    assert (code, err) == (1, "")
    assert out.startswith(words)
    assert len(origin.requests) == (2 if answer.status == 410 else 1)


def test_a_mail_server_that_is_not_there() -> None:
    """Email reads its variables, and says that nobody was reached."""
    with Origin() as gone:
        port = gone.base_url.rpartition(":")[2]
    env = {
        "FAPILOG_EMAIL_HOST": "127.0.0.1",
        "FAPILOG_EMAIL_PORT": port,
        "FAPILOG_EMAIL_SENDER": "fapilog@example.com",
        "FAPILOG_EMAIL_RECIPIENTS": "a@example.com, b@example.com",
        "FAPILOG_EMAIL_USERNAME": "fapilog",
        "FAPILOG_EMAIL_PASSWORD": SECRET,
        "FAPILOG_EMAIL_TLS": "none",
    }
    code, out, err = run("email", env)
    assert (code, err) == (1, "")
    assert out.startswith("not delivered; try again later")


def test_the_console_prints_it() -> None:
    """Without any variable the alert can be printed, as severe as was asked for."""
    code, out, err = run("console", {}, "--severity", "critical")
    alert, outcome = out.splitlines()
    assert (code, err, outcome) == (0, "", "delivered: it is printed")
    assert json.loads(alert)["severity"] == "critical"
    assert "TEST" in json.loads(alert)["message"]
    assert "TEST" in json.loads(alert)["title"]


MISSING: list[tuple[str, dict[str, str], list[str]]] = [
    (
        "webhook",
        {},
        [
            "WEBHOOK_URL: expected a secret; got nothing",
            "WEBHOOK_SECRET: expected a secret; got nothing",
        ],
    ),
    (
        "webhook",
        {"FAPILOG_WEBHOOK_URL": "https://127.0.0.1"},
        ["WEBHOOK_SECRET: expected a secret; got nothing"],
    ),
    (
        "slack",
        {},
        ["SLACK_WEBHOOK_URL, FAPILOG_SLACK_TOKEN, FAPILOG_SLACK_CHANNEL: expected either webhook_url, "],
    ),
    ("pagerduty", {}, ["PAGERDUTY_ROUTING_KEY: expected a secret; got nothing"]),
    ("alertmanager", {"FAPILOG_ALERTMANAGER_URLS": ""}, ["ALERTMANAGER_URLS: expected "]),
    (
        "email",
        {"FAPILOG_EMAIL_HOST": "h"},
        [
            "EMAIL_SENDER: expected text; got nothing",
            "EMAIL_RECIPIENTS: expected text; got nothing",
        ],
    ),
    ("apprise", {}, ["APPRISE_URLS: expected "]),
    ("console", {"FAPILOG_CONSOLE_DISCLOSRE": "full"}, ["CONSOLE_DISCLOSRE: there is no such option; did you"]),
    (
        "email",
        {"FAPILOG_EMAIL_PORT": "smtp"},
        ["EMAIL_HOST: ", "EMAIL_PORT: expected a whole number; g"],
    ),
]


@pytest.mark.parametrize(("to", "env", "words"), MISSING)
def test_a_variable_is_wrong(to: str, env: dict[str, str], words: list[str]) -> None:
    """Each variable that is missing or wrong is named, a line each, and the command exits with 2."""
    needs(to)
    code, out, err = run(to, env)
    assert (code, out) == (2, "")
    for line, begins in zip(err.splitlines(), words, strict=False):
        assert line.startswith(f"fapilog: FAPILOG_{begins}")


def test_a_value_is_wrong() -> None:
    """A value that is not what is expected is named without being shown, with exit code 2."""
    needs("webhook")
    env = {"FAPILOG_WEBHOOK_URL": f"http://192.0.2.1/{SECRET}", "FAPILOG_WEBHOOK_SECRET": WHSEC}
    code, out, err = run("webhook", env)
    assert (code, out) == (2, "")
    assert err.startswith("fapilog: FAPILOG_WEBHOOK_URL: expected https:")
    assert "or --allow-http" in err


def test_http_is_allowed_when_asked() -> None:
    """With --allow-http an address may be another machine's and begin with http:."""
    needs("webhook")
    env = OVER_HTTP["webhook"][0]("http://nowhere.invalid")
    code, out, err = run("webhook", env, "--allow-http")
    assert (code, err) == (1, "")
    assert out.startswith("not delivered; try again later. webhook: no connection")


def test_a_bot_needs_no_webhook() -> None:
    """Slack's token and channel make a dispatcher too."""
    needs("slack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAPILOG_SLACK_TOKEN", SECRET)
        patch.setenv("FAPILOG_SLACK_CHANNEL", "#on-call")
        assert type(dispatcher_from_env("slack")).__name__ == "SlackDispatcher"


class Foreign:
    """Raises an error that is none of ours."""

    async def send_alert(self, *_: object, **__: object) -> None:
        raise RuntimeError(SECRET)


async def test_a_foreign_error_is_not_shown() -> None:
    """Of an error that is not a DeliveryError only the type is said."""
    assert await send_test.send(Foreign(), "webhook", "info") == (False, "not delivered. webhook: RuntimeError")


@pytest.mark.slow
def test_a_library_is_missing() -> None:
    """Without the library of a destination the command names the extra in one sentence, and exits with 2."""
    script = "import sys; sys.modules['httpx2'] = None; from fapilog.cli import main; main()"
    env = {**OVER_HTTP["opsgenie"][0]("https://127.0.0.1"), "PYTHONPATH": ":".join(sys.path)}
    child = subprocess.run(
        [sys.executable, "-c", script, "send-test", "--to", "opsgenie"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    says = f"this needs httpx2, which comes with: {install_line('opsgenie')}"
    assert (child.returncode, child.stdout) == (2, "")
    assert child.stderr == f"fapilog: FAPILOG_OPSGENIE: fapilog.OpsgenieDispatcher: {says}\n"


@pytest.mark.slow
def test_only_what_is_asked_for_is_imported() -> None:
    """The command imports no provider before it knows where to."""
    script = "import sys, fapilog.cli.commands; print(*(name for name in sys.modules if 'fapilog.providers' in name))"
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert child.stdout.split() == []


def test_the_docs_name_every_destination() -> None:
    """The reference names each destination with all that it needs, and no variable that is not read."""
    page = (Path(__file__).parents[1] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for to in get_args(send_test.Destination):
        needs(to)
        [row] = re.findall(rf"^\| {to} \| (.*)$", page, re.MULTILINE)
        named = {name.lower() for name in re.findall(rf"FAPILOG_{to.upper()}_([A-Z_]+)", row)}
        options = accepted(class_of(to))
        assert {key for key, option in options.items() if option.required} <= named <= set(options)
