"""A trail from a mapping, a file and the environment, and the words on everything that is wrong with one."""

import inspect
import json
import os
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import fapilog
from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditOutcome,
    AuditTrail,
    ComplianceLevel,
    CompliancePolicy,
    NoopAlertDispatcher,
    Threshold,
    config,
)
from fapilog.config import ConfigError, _reader, options_from_config, options_from_env
from fapilog.config._reader import DESTINATIONS
from fapilog.delivery.digest import Digest
from fapilog.delivery.fallback import Fallback
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.ratelimit import RateLimit
from fapilog.delivery.retry import Retrying
from fapilog.delivery.route import Route
from fapilog.record.errors import TransientDeliveryError
from fapilog.testing import Origin, RecordingDispatcher
from tests.doubles.configurations import KEY, SECRET, check_problems, problems_of

pytest.importorskip("httpx2")

WHSEC = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
SLACK = {"type": "slack", "webhook_url": "env:SLACK_URL"}
PAGER = {"type": "pagerduty", "routing_key": "env:PAGER_KEY"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hold the secrets that the configurations refer to, and be in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLACK_URL", f"https://hooks.example.com/{SECRET}")
    monkeypatch.setenv("PAGER_KEY", KEY)


def dispatcher_of(config: Mapping[str, Any]) -> Any:
    return options_from_config({"dispatcher": config})["alert_dispatcher"]


# -- what there is


def test_an_empty_configuration_is_a_trail() -> None:
    """Where nothing is configured, everything is as by default."""
    assert options_from_config({}) == {}
    assert repr(AuditTrail.from_config({})) == repr(AuditTrail())


def test_every_option_of_a_trail() -> None:
    """The options of a trail and of its policy have their names, and a path and a dispatcher the short ones."""
    policy = {
        "level": "HIPAA",
        "alert_on_critical_errors": False,
        "alert_channel": "#audit",
        "alert_channels": {"critical": "#on-call"},
        "max_text_characters": 512,
    }
    options = options_from_config(
        {
            "path": "~/audit",
            "archive": "~/archive",
            "durability": "write",
            "alert_timeout": 5,
            "alert_concurrency": 2,
            "alert_buffer": 10,
            "stop_timeout": 1.5,
            "policy": policy,
            "dispatcher": {"type": "noop"},
        }
    )
    assert isinstance(options.pop("alert_dispatcher"), NoopAlertDispatcher)
    assert options.pop("policy") == CompliancePolicy(**policy)  # type: ignore[arg-type]
    assert options == {
        "storage_path": "~/audit",
        "archive": "~/archive",
        "durability": "write",
        "alert_timeout": 5,
        "alert_concurrency": 2,
        "alert_buffer": 10,
        "stop_timeout": 1.5,
    }


WRAPPERS: list[tuple[dict[str, Any], type[Any]]] = [
    ({"type": "digest", "inner": SLACK, "window": 60, "bypass": "critical"}, Digest),
    ({"type": "fallback", "dispatchers": [PAGER, SLACK], "timeout": 8}, Fallback),
    ({"type": "fanout", "dispatchers": [PAGER, SLACK]}, FanOut),
    ({"type": "outbox", "inner": SLACK, "path": "a.db", "name": "slack", "schedule": [1, 60.5]}, Outbox),
    ({"type": "ratelimit", "inner": SLACK, "rate": 0.5, "burst": 5}, RateLimit),
    ({"type": "retry", "inner": SLACK, "attempts": 3}, Retrying),
    ({"type": "route", "default": SLACK, "routes": [{"severity": "critical", "dispatcher": PAGER}]}, Route),
]


@pytest.mark.parametrize(("config", "kind"), WRAPPERS)
def test_every_wrapper(config: dict[str, Any], kind: type[Any]) -> None:
    """Each wrapper is made with its options, around what it is configured with."""
    assert type(dispatcher_of(config)) is kind


PROVIDERS: list[dict[str, Any]] = [
    {"type": "alertmanager", "urls": ["env:SLACK_URL"], "labels": {"team": "audit"}},
    {"type": "console", "disclosure": "minimal"},
    {"type": "email", "host": "mx", "port": 25, "sender": "a@b.example", "recipients": "c@d.example"},
    {"type": "opsgenie", "api_key": "env:PAGER_KEY", "base_url": "https://opsgenie.example.com"},
    PAGER,
    SLACK,
    {"type": "slack", "token": "env:PAGER_KEY", "channel": "#audit", "timeout": 3},
    {"type": "webhook", "url": "env:SLACK_URL", "secret": "env:HOOK", "headers": {"x-key": "env:PAGER_KEY"}},
    {"type": "webhook", "url": "env:SLACK_URL", "secret": ["env:HOOK", "env:HOOK"]},
]


@pytest.mark.parametrize("config", PROVIDERS)
def test_every_provider(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each provider is made with its options, and shows no secret."""
    monkeypatch.setenv("HOOK", WHSEC)
    dispatcher = dispatcher_of(config)
    assert type(dispatcher) is getattr(fapilog, DESTINATIONS[config["type"]])
    assert SECRET not in repr(vars(dispatcher))


def test_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The addresses of Apprise are secrets as well."""
    pytest.importorskip("apprise")
    monkeypatch.setenv("ADDRESS", f"json://localhost/{SECRET}")
    assert dispatcher_of({"type": "apprise", "urls": ["env:ADDRESS"]})


def test_dispatchers_may_have_names() -> None:
    """A dispatcher that others name is made once, however many name it."""
    config = {
        "dispatcher": {
            "type": "route",
            "default": "slack",
            "routes": [
                {"severity": ["critical", "SECURITY"], "dispatcher": "both"},
                {"component": "db", "event_type": "component_failure", "dispatcher": "slack"},
            ],
        },
        "dispatchers": {
            "both": {"type": "fanout", "dispatchers": ["slack", "pager"]},
            "slack": SLACK,
            "pager": PAGER,
        },
    }
    shown = repr(options_from_config(config)["alert_dispatcher"])
    assert re.fullmatch(
        r"<Route when\(severity=critical\|security\): <FanOut \[(<\S+Slack.*>), <\S+Pager.*>\]>, "
        r"when\(event_type=component_failure, component=db\): \1, default: \1>",
        shown,
    )


def test_objects_may_be_there() -> None:
    """A mapping of Python may have a dispatcher of your own in it, and a policy."""
    own, policy = RecordingDispatcher(), CompliancePolicy("gdpr")  # type: ignore[arg-type]
    assert options_from_config({"dispatcher": own, "policy": policy}) == {"alert_dispatcher": own, "policy": policy}
    assert repr(dispatcher_of({"type": "fanout", "dispatchers": [own]})) == repr(FanOut([own]))


@pytest.mark.parametrize("kind", [*DESTINATIONS, *(config["type"] for config, _ in WRAPPERS)])
def test_every_option_that_a_value_can_say_is_there(kind: str) -> None:
    """Only what takes a function, a client, a stream or a context can't be configured."""
    name = {**DESTINATIONS, "ratelimit": "RateLimit", "fanout": "FanOut", "retry": "Retrying"}.get(kind)
    make = getattr(fapilog, name or kind.capitalize())
    [problem] = [
        each for each in problems_of({"dispatcher": {"type": kind, "nonsense-": 1}}) if "no such option" in each
    ]
    listed = set(problem.partition("there are ")[2].split(", ")) - {""}
    in_python = {"client", "tls_context", "stream", "now", "key", "on_attempt"}
    assert listed == set(inspect.signature(make).parameters) - in_python


# -- what can be wrong

TYPES = (
    "one of alertmanager, apprise, console, email, noop, opsgenie, pagerduty, slack, webhook, digest, fallback, "
    "fanout, outbox, postgres_deposit, postgres_outbox, ratelimit, retry, route"
)
REFERENCE = 'a reference to a secret, "env:NAME" or "file:/run/secrets/NAME", and not the secret itself'
DISPATCHER = 'a table with a "type", or the name of one of the dispatchers'

MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"durabilty": "write"}, ["durabilty: there is no such option; did you mean durability?"]),
    ({"storage_path": "audit"}, ["storage_path: there is no such option; did you mean path?"]),
    ({"level": "hipaa"}, ["level: there is no such option; did you mean policy.level?"]),
    ({"alert_dispatcher": "pager"}, ["alert_dispatcher: there is no such option; did you mean dispatcher?"]),
    ({"durability": "fsnc"}, ["durability: expected one of fsync, write; got 'fsnc'; did you mean fsync?"]),
    ({"path": 5}, ["path: expected a path; got 5"]),
    ({"path": ""}, ["path: expected a path; got an empty text"]),
    ({"path": "env:AUDIT_PATH"}, ["path: expected a path; got a reference, which only a secret can be"]),
    ({"policy": {"alert_channel": "file:/run/channel"}},
        ["policy.alert_channel: expected text; got a reference, which only a secret can be"]),
    ({"archive": 5}, ["archive: expected a path; got 5"]),
    ({"archive": "gs://b"}, ["archive: expected a directory or s3://bucket/prefix; got gs://..."]),
    ({"alert_timeout": "30"}, ["alert_timeout: expected a number; got text"]),
    ({"alert_timeout": 0}, ["alert_timeout: expected a number above 0; got 0"]),
    ({"alert_buffer": 1.5}, ["alert_buffer: expected a whole number; got 1.5"]),
    ({"alert_buffer": True}, ["alert_buffer: expected a whole number; got true"]),
    ({"policy": "hipaa"}, ["policy: expected a table; got text"]),
    ({"policy": {"enabled": "no"}}, ["policy.enabled: expected true or false; got text"]),
    ({"policy": {"alert_channels": "#x"}}, ["policy.alert_channels: expected a table; got text"]),
    ({"policy": {"alert_channels": {"critical": 5}}}, ["policy.alert_channels.critical: expected text; got 5"]),
    ({"policy": {"max_text_characters": 1}}, ["policy.max_text_characters: expected a number of at least 256; got 1"]),
    (
        {"policy": {"level": "hipa", "alert_chanel": "#x"}},
        [
            "policy.alert_chanel: there is no such option; did you mean policy.alert_channel?",
            "policy.level: expected one of none, basic, sox, hipaa, gdpr, pci_dss, soc2, iso27001; got 'hipa'; did you",
        ],
    ),
    ({"dispatcher": 5}, [f"dispatcher: expected {DISPATCHER}; got 5"]),
    ({"dispatcher": "console"}, [f'dispatcher: expected {DISPATCHER}; got text; did you mean {{"type": "console"}}?']),
    ({"dispatcher": {}}, [f"dispatcher.type: expected {TYPES}; got nothing"]),
    (
        {"dispatcher": {"type": "slak"}},
        [f"dispatcher.type: expected {TYPES}; got 'slak'; did you mean slack?"],
    ),
    ({"storage": 5}, ['storage: expected a table with a "type"; got 5']),
    ({"storage": {}}, ["storage.type: expected one of postgres, sqlite; got nothing"]),
    ({"storage": {"type": "sqlit", "path": "a"}},
        ["storage.type: expected one of postgres, sqlite; got 'sqlit'; did you mean sqlite?"]),
    ({"storage": {"type": "sqlite", "pth": "a.db"}},
        ["storage.pth: there is no such option; did you mean storage.path?",
         "storage.path: expected a path; got nothing"]),
    ({"storage": {"type": "sqlite", "path": "a.db"}, "path": "audit"},
        ["storage: expected a storage or a path; got both"]),
    ({"storage": {"type": "sqlite", "path": "a.db"}, "archive": "archive"},
        ["archive: expected a trail in files; got a SQLiteStorage"]),
    ({"storage": {"type": "sqlite", "path": "a.db"}, "replica": {"type": "sqlite", "path": "b.db"}},
        ["replica: expected a trail in files; got a SQLiteStorage"]),
    ({"replica": {"type": "sqlite", "path": "b.db"}, "lag_limit": 0},
        ["lag_limit: expected a number above 0; got 0"]),
    ({"path": "audit", "lag_limit": 60}, ["lag_limit: expected a replica too; got none"]),
    ({"storage": {"type": "sqlite", "path": "b.db"}, "durability": "write"},
        ["durability: expected it without storage, which has its own; got both"]),
    ({"dispatcher": "slak", "dispatchers": {"slack": SLACK}},
        [f"dispatcher: expected {DISPATCHER}; got text; did you mean slack?",
        "dispatchers.slack: expected something that sends alerts to it; got nothing"],
    ),
    ({"dispatcher": {**SLACK, "webhook_url": f"https://x/{SECRET}"}},
        [f"dispatcher.webhook_url: expected {REFERENCE}; got a text that is none"]),
    ({"dispatcher": {**SLACK, "webhook_url": 5}}, [f"dispatcher.webhook_url: expected {REFERENCE}; got 5"]),
    ({"dispatcher": {**SLACK, "webhook_url": None}}, [f"dispatcher.webhook_url: expected {REFERENCE}; got nothing"]),
    ({"dispatcher": {"type": "pagerduty"}}, [f"dispatcher.routing_key: expected {REFERENCE}; got nothing"]),
    ({"dispatcher": {**SLACK, "webhook_url": "env:NO_SUCH"}},
        ["dispatcher.webhook_url: expected a secret; got env:NO_SUCH, which is not set"]),
    ({"dispatcher": {**SLACK, "webhook_url": "file:no-such"}},
        ["dispatcher.webhook_url: expected a secret; got file:no-such: No such file or directory"]),
    ({"dispatcher": {**PAGER, "routing_key": "env:SLACK_URL"}},
        ["dispatcher.routing_key: expected 32 characters; got 40"]),
    ({"dispatcher": {**SLACK, "timeout": 0}}, ["dispatcher.timeout: expected a number above 0; got 0"]),
    ({"dispatcher": {**SLACK, "channel": "#x"}},
        ["dispatcher.webhook_url, dispatcher.token, dispatcher.channel: expected either webhook_url, "],
    ),
    ({"dispatcher": {"type": "fanout"}},
        [f"dispatcher.dispatchers: expected a list of: {DISPATCHER}; got nothing"]),
    ({"dispatcher": {"type": "fanout", "dispatchers": []}},
        ["dispatcher.dispatchers: expected at least one; got none"]),
    ({"dispatcher": {"type": "route", "default": SLACK, "routes": [{"dispatcher": PAGER}, 5, {"severity": "crit"}]}},
        ["dispatcher.routes[0]: when: expected at least one severity, event_type, component or channel; got none",
        'dispatcher.routes[1]: expected a table with conditions and a "dispatcher"; got 5',
        "dispatcher.routes[2].severity: expected one of debug, info, warning, error, critical, security; got 'crit'; ",
        f"dispatcher.routes[2].dispatcher: expected {DISPATCHER}; got nothing"],
    ),
    ({"dispatcher": {"type": "route", "default": SLACK, "routes": SLACK}},
        ['dispatcher.routes: expected a list of tables, each with conditions and a "dispatcher"; got a table']),
    ({"dispatchers": [SLACK]}, ["dispatchers: expected a table of dispatchers; got a list"]),
    ({"dispatchers": {5: SLACK}, "dispatcher": "6"},
        [f"dispatcher: expected {DISPATCHER}; got text", "dispatchers.5: expected something that sends alerts to it"]),
    ({"dispatcher": "a", "dispatchers": {"a": {"type": "digest", "inner": "a"}}},
        ["dispatchers.a.inner: expected a dispatcher; got one that is around it"]),
    ({"dispatcher": "a b", "dispatchers": {"a b": {"type": "digest", "inner": 1.5, "burst": -1}}},
        [f'dispatchers."a b".inner: expected {DISPATCHER}; got 1.5',
        'dispatchers."a b".burst: expected a number of at least 0; got -1'],
    ),
    ({"alert_buffer": 0, "stop_timeout": -1.0, "policy": {"retention_days": -1, "max_text_characters": 1},
        "dispatcher": {"type": "retry", "attempts": 0, "timeout": 0.0, "inner": {"type": "console"}}},
        ["policy.max_text_characters: ", "policy.retention_days: ", "dispatcher.attempts: ", "dispatcher.timeout: ",
        "alert_buffer: expected a number of at least 1; got 0", "stop_timeout: "],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "problems"), MISTAKES)
def test_a_mistake_is_named(config: dict[str, Any], problems: list[str]) -> None:
    """Everything that is wrong is said at once: where, what was expected, and what came."""
    check_problems(config, problems)


def test_what_is_no_mapping_is_refused() -> None:
    """A configuration that is none is refused by its type."""
    with pytest.raises(TypeError, match=r"^config: expected a mapping; got a str"):
        AuditTrail.from_config("audit")  # type: ignore[arg-type]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dispatcher whose library is not installed names the extra."""

    def class_of(kind: str) -> None:
        raise ImportError(f"fapilog.{kind}: this needs httpx2")

    for module in (_reader, config):
        monkeypatch.setattr(module, "class_of", class_of)
    assert problems_of({"dispatcher": SLACK}) == ["dispatcher.type: fapilog.slack: this needs httpx2"]
    environment(monkeypatch, SLACK_WEBHOOK_URL=SECRET)
    with pytest.raises(ConfigError, match=r"^FAPILOG_SLACK: fapilog\.slack: this needs httpx2$"):
        options_from_env()


# -- secrets


@pytest.mark.real_time
@pytest.mark.may_block
async def test_a_secret_is_read_for_each_alert(tmp_path: Path) -> None:
    """A secret in a file may be changed while the trail runs."""
    file = tmp_path / "secret"
    with Origin() as origin:
        file.write_text(f"{origin.base_url}/first\n")
        dispatcher = dispatcher_of({"type": "slack", "webhook_url": f"file:{file}"})
        event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="read")
        async with dispatcher:
            await dispatcher.send_alert(event, severity="info")
            file.write_text(f"{origin.base_url}/second\n")
            await dispatcher.send_alert(event, severity="info")
        assert [request.path for request in origin.requests] == ["/first", "/second"]


@pytest.mark.may_block
async def test_a_secret_that_has_become_a_pipe_blocks_nothing(tmp_path: Path) -> None:
    """A pipe in the place of the file is as a file that is gone: the alert may be sent later."""
    file = tmp_path / "secret"
    file.write_text("https://hooks.slack.com/services/T00/B00/XXX")
    dispatcher = dispatcher_of({**SLACK, "webhook_url": f"file:{file}"})
    file.unlink()
    os.mkfifo(file)
    async with dispatcher:
        with pytest.raises(TransientDeliveryError, match="webhook_url: the function that returns it raised OSError"):
            await dispatcher.send_alert(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"), severity="info")


def test_a_secret_has_no_mark_of_an_editor(tmp_path: Path) -> None:
    """The mark with which editors of Windows begin a file is no part of the secret."""
    file = tmp_path / "secret"
    file.write_text("https://hooks.slack.com/services/T00/B00/XXX\r\n", encoding="utf-8-sig")
    assert dispatcher_of({**SLACK, "webhook_url": f"file:{file}"})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"  \n", ", which is empty"),
        (b"\xff\xfe", ", which can't be read as text"),
        (None, ": expected a regular file"),
    ],
)
def test_a_file_without_a_secret_is_named(tmp_path: Path, content: bytes | None, words: str) -> None:
    """A file that is empty, or no text, holds no secret."""
    file = tmp_path / "secret"
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    assert problems_of({"dispatcher": {**SLACK, "webhook_url": f"file:{file}"}}) == [
        f"dispatcher.webhook_url: expected a secret; got file:{file}{words}"
    ]


# -- files

TOML = """
[tool.fapilog]
path = "audit"

[tool.fapilog.policy]
level = "hipaa"

[tool.fapilog.dispatcher]
type = "outbox"
path = "alerts.db"
inner = {type = "slack", webhook_url = "env:SLACK_URL"}
"""


@pytest.mark.may_block
async def test_a_trail_from_a_file(tmp_path: Path) -> None:
    """The trail of a file records where the file says, and is of the class that was asked."""

    class Own(AuditTrail):
        """Somebody's trail."""

    (tmp_path / "pyproject.toml").write_text(TOML)
    trail = Own.from_toml("pyproject.toml")
    assert type(trail) is Own
    assert trail.policy.level is ComplianceLevel.HIPAA
    await trail.log_event(AuditEventType.DATA_ACCESS, "read")
    await trail.stop()
    assert list((tmp_path / "audit").glob("audit_*.jsonl"))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (TOML.replace('level = "hipaa"', "level = 5"), r"tool\.fapilog\.policy\.level: expected one of .*; got 5"),
        (TOML.replace("[tool.fapilog]", "[tool.fapilog"), r".*wrong\.toml: Expected .* \(at line 2, column 14\)"),
        ("", r"tool\.fapilog: expected a table; got nothing"),
        ("[fapilog]", r"tool\.fapilog: expected a table; got fapilog$"),
        ("[tool.fapilgo]", r"tool\.fapilog: expected a table; got tool\.fapilgo$"),
        ("[tool.pylint]", r"tool\.fapilog: expected a table; got nothing"),
        ("[tool]\nfapilog = 5", r"tool\.fapilog: expected a table; got nothing"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, content: str, problem: str) -> None:
    """What is wrong with a file is said with its place in there."""
    file = tmp_path / "wrong.toml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        AuditTrail.from_toml(file)
    assert re.fullmatch(problem, str(caught.value))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """A file in another encoding is named, one that is not there an OSError, and the mark of Windows does no harm."""
    (tmp_path / "marked.toml").write_text(TOML, encoding="utf-8-sig")
    assert AuditTrail.from_toml(tmp_path / "marked.toml").policy.level is ComplianceLevel.HIPAA
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(ConfigError, match=r"latin\.toml: expected UTF-8$"):
        AuditTrail.from_toml(tmp_path / "latin.toml")
    with pytest.raises(FileNotFoundError):
        AuditTrail.from_toml(tmp_path / "none.toml")


def test_hundreds_of_tables_in_each_other_are_refused_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that is too deep to be read is an error in it, in a mapping, a file and the environment."""
    deep: dict[str, Any] = {"type": "console"}
    for _ in range(2000):
        deep = {"type": "retry", "inner": deep}
    with pytest.raises(ConfigError, match=r"^AUDIT: expected at most 32 wrappers inside of each other; got hundreds "):
        options_from_config({"dispatcher": deep}, where="AUDIT")
    (tmp_path / "deep.toml").write_text(f"[tool.fapilog]\npath = {'[' * 9000}{']' * 9000}")
    with pytest.raises(ConfigError, match=r"deep\.toml: expected at most 32 "):
        AuditTrail.from_toml(tmp_path / "deep.toml")
    environment(monkeypatch, ALERT_BUFFER="[" * 100_000)
    with pytest.raises(ConfigError, match=r"^FAPILOG_ALERT_BUFFER: expected a whole number; got text$"):
        options_from_env()


# -- the environment


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"FAPILOG_{name}", value)


def test_a_trail_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The options of trail and policy are variables, and so are those of one destination."""
    environment(
        monkeypatch,
        PATH=str(tmp_path / "trail"),
        DURABILITY="write",
        ALERT_TIMEOUT="2.5",
        ALERT_BUFFER="",
        POLICY_LEVEL="HIPAA",
        POLICY_ALERT_ON_CRITICAL_ERRORS="false",
        POLICY_ALERT_CHANNEL="123",
        POLICY_ALERT_CHANNELS='{"critical": "#a"}',
        PAGERDUTY_ROUTING_KEY=KEY,
    )
    options = options_from_env()
    assert options["policy"] == CompliancePolicy(
        ComplianceLevel.HIPAA, alert_on_critical_errors=False, alert_channel="123", alert_channels={"critical": "#a"}
    )
    assert options["alert_timeout"] == 2.5
    assert type(options["alert_dispatcher"]) is fapilog.PagerDutyDispatcher
    assert AuditTrail.from_env().storage_path == tmp_path / "trail"


def test_rules_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of tables is JSON there, as a table is; a list of names has commas between them."""
    rule = {"event_type": "authentication_failed", "count": 5, "within": 600, "by": "user_id"}
    environment(monkeypatch, POLICY_RULES=json.dumps([rule]), POLICY_ALERT_ON="data_export, denied")
    policy = AuditTrail.from_env().policy
    assert policy.rules == (Threshold("authentication_failed", count=5, within=600, by="user_id"),)
    assert list(policy.alert_on) == [AuditEventType.DATA_EXPORT, AuditOutcome.DENIED]


def test_several_destinations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each destination gets every alert, by an outbox of its own if there is to be one."""
    environment(
        monkeypatch,
        ALERTMANAGER_URLS="https://a.example, https://b.example",
        EMAIL_HOST="mx.example",
        EMAIL_PORT="25",
        EMAIL_SENDER="a@b.example",
        EMAIL_RECIPIENTS="c@d.example,e@f.example",
        WEBHOOK_URL=f"https://c.example/{SECRET}",
        WEBHOOK_SECRET=f"{WHSEC} {WHSEC}",
    )
    assert re.fullmatch(r"<FanOut \[<\S+Alertm.*>, <\S+Email.*>, <\S+Webhook.*>\]>", repr(to_all := dispatcher()))
    assert SECRET not in repr(to_all)
    environment(monkeypatch, OUTBOX="alerts.db")
    assert re.findall(r"<Outbox '\w+'", repr(dispatcher())) == [
        "<Outbox 'alertmanager'",
        "<Outbox 'email'",
        "<Outbox 'webhook'",
    ]


def test_an_outbox_without_a_destination_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives an outbox means to be alerted, and is not left with a trail that alerts nobody."""
    environment(monkeypatch, OUTBOX="alerts.db")
    with pytest.raises(ConfigError, match=r"^FAPILOG_OUTBOX: expected a destination too, one of .*slack.*; got none"):
        options_from_env()


def dispatcher() -> Any:
    return options_from_env()["alert_dispatcher"]


def test_an_environment_without_variables() -> None:
    """Without a variable everything is as by default."""
    assert options_from_env() == {}


def test_mistakes_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is wrong is said by the names of the variables, and no secret is."""
    environment(
        monkeypatch,
        PATHH="audit",
        LEVEL="hipaa",
        SLAK_TOKEN=SECRET,
        ALERT_TIMEOUT="-1",
        POLICY_ENABLED="no",
        POLICY_LEVL="hipaa",
        PAGERDUTY_BASE_URL="https://pagerduty.example",
        SLACK_WEBHOK_URL=SECRET,
        SLACK_WEBHOOK_URL=f"ftp://{SECRET}",
        WEBHOOK_SECRET=SECRET,
        EMAIL_HOST="mx",
        EMAIL_PORT="smtp",
        EMAIL_SENDER="a@b.example",
        EMAIL_RECIPIENTS="nobody",
    )
    with pytest.raises(ConfigError) as caught:
        AuditTrail.from_env()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert {line.partition("; there are")[0] for line in caught.value.problems} == {
        "FAPILOG_PATHH: there is no such variable; did you mean FAPILOG_PATH?",
        "FAPILOG_LEVEL: there is no such variable; did you mean FAPILOG_POLICY_LEVEL?",
        "FAPILOG_SLAK_TOKEN: there is no such variable",
        "FAPILOG_ALERT_TIMEOUT: expected a number above 0; got -1",
        "FAPILOG_POLICY_ENABLED: expected true or false; got text",
        "FAPILOG_POLICY_LEVL: there is no such option; did you mean FAPILOG_POLICY_LEVEL?",
        "FAPILOG_PAGERDUTY_ROUTING_KEY: expected a secret; got nothing",
        "FAPILOG_SLACK_WEBHOK_URL: there is no such option; did you mean FAPILOG_SLACK_WEBHOOK_URL?",
        "FAPILOG_SLACK_WEBHOOK_URL: expected an address that begins with https:// and a host",
        "FAPILOG_WEBHOOK_URL: expected a secret; got nothing",
        "FAPILOG_EMAIL_PORT: expected a whole number; got text",
        "FAPILOG_EMAIL_RECIPIENTS: expected an address such as ops@example.com, in ASCII; got 'nobody'",
    }
