"""The messages about what people get wrong: each says what was expected, what came, and where."""

import copy
import functools
import logging
import os
import pickle
import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditTrail,
    ComplianceLevel,
    CompliancePolicy,
    DeliveryError,
)
from fapilog.delivery.digest import Digest
from fapilog.delivery.fallback import Fallback
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.ratelimit import RateLimit
from fapilog.delivery.retry import Retrying
from fapilog.delivery.route import Route, when
from fapilog.observers._gauges import measured
from fapilog.storage.files import FileStorage
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import EventFilter
from fapilog.testing import RecordingDispatcher

AUDIT, DISPATCHER = Path("audit"), RecordingDispatcher()


class WithoutSeverity:
    """A dispatcher whose method takes less than the contract says."""

    async def send_alert(self, event: AuditEvent) -> None:
        """Take it."""


class Synchronous:
    """A dispatcher whose method can't be awaited."""

    def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Take it."""


async def asynchronous(*_: object) -> str:
    raise AssertionError


class HalfAStorage:
    """A storage that can store, and no more."""

    async def append(self, event: AuditEvent) -> None:
        """Take it."""


def event(**fields: Any) -> AuditEvent:
    return AuditEvent(**{"event_type": AuditEventType.DATA_ACCESS, "message": "read", **fields})


SENDER = r"expected an object with `async def send_alert\(event, \*, severity, channel=None\)`"
CHANNELS = 'alert_channels: expected a mapping such as {"critical": "#on-call"}'

MISTAKES: list[tuple[Callable[..., object], dict[str, Any], type[Exception], str]] = [
    (CompliancePolicy, {"alert_channels": "#x"}, TypeError, f"{CHANNELS}; got a str"),
    (CompliancePolicy, {"alert_channels": ["#x"]}, TypeError, f"{CHANNELS}; got a list"),
    (CompliancePolicy, {"alert_channels": {"critical": 5}}, TypeError, "alert_channels: expected text; got an int"),
    (CompliancePolicy, {"alert_channel": 5}, TypeError, "alert_channel: expected text; got an int"),
    (CompliancePolicy, {"enabled": "no"}, TypeError, "enabled: expected True or False; got a str"),
    (CompliancePolicy, {"real_time_alerts": 0}, TypeError, "real_time_alerts: expected True or False; got an int"),
    (CompliancePolicy, {"level": "hipa"}, ValueError, "level: expected one of .*; got 'hipa'; did you mean hipaa[?]"),
    (AuditTrail, {"alert_timeout": "30"}, TypeError, "alert_timeout: expected a number; got a str"),
    (AuditTrail, {"alert_buffer": 1.5}, TypeError, "alert_buffer: expected a whole number; got a float"),
    (AuditTrail, {"alert_concurrency": True}, TypeError, "alert_concurrency: expected a whole number; got a bool"),
    (AuditTrail, {"storage_path": 5}, TypeError, "storage_path: expected a path; got an int"),
    (AuditTrail, {"storage": "audit"}, TypeError, "storage: expected an AuditStorage; got a str without append, read"),
    (AuditTrail, {"replica": "postgresql://h/d"}, TypeError, "replica: expected an AuditStorage; got a str without"),
    (AuditTrail, {"storage": FileStorage}, TypeError, "storage: expected an AuditStorage; got the class FileStorage"),
    (AuditTrail, {"storage": HalfAStorage()}, TypeError, "storage: .*; got a HalfAStorage without find, read, "),
    (
        AuditTrail,
        {"alert_dispatcher": WithoutSeverity()},
        TypeError,
        f"alert_dispatcher: {SENDER}; got a Without.*: ",
    ),
    (AuditTrail, {"alert_dispatcher": Synchronous()}, TypeError, f".*{SENDER}; got a Synch.* is not asynchronous"),
    (AuditTrail, {"alert_dispatcher": object()}, TypeError, f".*{SENDER}; got an object without"),
    (AuditTrail, {"archive": ""}, ValueError, "archive: expected a path; got an empty text"),
    (FileStorage, {"directory": 5}, TypeError, "directory: expected a path; got an int"),
    (EventFilter, {"start_time": "2026-01-01"}, TypeError, "start_time: expected a datetime with a .*; got a str"),
    (EventFilter, {"end_time": date(2026, 1, 1)}, TypeError, "end_time: expected a datetime with a .*; got a date"),
    (EventFilter, {"min_level": "eror"}, ValueError, "min_level: .*; got 'eror'; did you mean error[?]"),
    (EventFilter, {"event_type": 5}, TypeError, "event_type: expected one text, or a list; got an int"),
    (event, {"event_type": "data_acces"}, ValueError, "event_type: .*; got 'data_acces'; did you mean data_access[?]"),
    (event, {"log_level": "loud"}, ValueError, "log_level: expected one of debug, info, .*; got 'loud'$"),
    (event, {"compliance_level": "none of it"}, ValueError, "compliance_level: expected one of none, basic, "),
    (event, {"timestamp": "2026-01-01"}, TypeError, "timestamp: expected a datetime with a time zone; got a str"),
    (Digest, {"inner": RecordingDispatcher}, TypeError, f"inner: {SENDER}; got the class RecordingDispatcher"),
    (Digest, {"inner": DISPATCHER, "burst": 1.5}, TypeError, "burst: expected a whole number; got a float"),
    (Digest, {"inner": DISPATCHER, "key": "type"}, TypeError, "key: expected a function of event, .*; got a str"),
    (
        Digest,
        {"inner": DISPATCHER, "key": asynchronous},
        TypeError,
        "key: expected .*; got an asynchronous one",
    ),
    (Digest, {"inner": DISPATCHER, "bypass": "critic"}, ValueError, "bypass: .*'critic'; did you mean critical[?]"),
    (RateLimit, {"inner": DISPATCHER, "rate": 1, "burst": 0.5}, TypeError, "burst: expected a whole number; got a fl"),
    (Retrying, {"inner": DISPATCHER, "attempts": 2.5}, TypeError, "attempts: expected a whole number; got a float"),
    (Retrying, {"inner": DISPATCHER, "retry_ambiguous": "no"}, TypeError, "retry_ambiguous: expected True or False; g"),
    (Retrying, {"inner": DISPATCHER, "on_attempt": 5}, TypeError, "on_attempt: expected a function of .*; got an int"),
    (
        Retrying,
        {"inner": DISPATCHER, "on_attempt": functools.partial(asynchronous, 1)},
        TypeError,
        "on_attempt: .*; got an asynchronous one",
    ),
    (FanOut, {"dispatchers": DISPATCHER}, TypeError, "dispatchers: expected a list of dispatchers; got a Recording"),
    (Fallback, {"dispatchers": DISPATCHER}, TypeError, "dispatchers: expected a list of dispatchers; got a Recording"),
    (
        Route,
        {"routes": [DISPATCHER], "default": DISPATCHER},
        TypeError,
        "routes: expected a mapping such .*; got a l",
    ),
    (
        Route,
        {"routes": {"critical": DISPATCHER}, "default": DISPATCHER},
        TypeError,
        "routes: expected conditions such as when(.*); got a str",
    ),
    (
        Route,
        {"routes": {asynchronous: DISPATCHER}, "default": DISPATCHER},
        TypeError,
        "routes: expected conditions such as when(.*); got an asynchronous one",
    ),
    (when, {"component": 5}, TypeError, "component: expected one text, or a list; got an int"),
    (when, {"channel": ["#a", None]}, TypeError, "channel: expected text; got None"),
    (when, {"severity": "critcal"}, ValueError, "severity: .*; got 'critcal'; did you mean critical[?]"),
]


@pytest.mark.parametrize(("make", "options", "error", "words"), MISTAKES)
def test_a_mistake_is_named(
    make: Callable[..., object], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """An option that can't be meant is refused where it is given, with what was expected and what came."""
    with pytest.raises(error, match=f"^{words}"):
        make(**options)


async def test_an_alert_about_no_record_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log of an alert that failed names its record; the trail's alert about that has none."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=RecordingDispatcher(error=DeliveryError("gone")))
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    places = re.findall(r"\((.*?)\) was not delivered: gone", caplog.text)
    assert places == ["record 1", "record not stored"]


MEASURED_MISTAKES: list[tuple[Any, str]] = [
    (Outbox(DISPATCHER, "alerts.db"), "outboxes: expected a list; got an Outbox"),
    ("alerts.db", "outboxes: expected objects with a name and a state; got a str among them"),
    ([DISPATCHER], "outboxes: expected objects with a name and a state; got a RecordingDispatcher among them"),
]


@pytest.mark.parametrize(("outboxes", "words"), MEASURED_MISTAKES)
def test_what_cannot_be_measured_is_named(outboxes: Any, words: str) -> None:
    """An observer refuses a single outbox, a file, and a dispatcher that is none."""
    with pytest.raises(TypeError, match=f"^{words}$"):
        measured(outboxes, ())


OUTBOX_MISTAKES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"inner": RecordingDispatcher}, TypeError, f"inner: {SENDER}; got the class RecordingDispatcher"),
    ({"name": 5}, TypeError, "name: expected text; got an int"),
    ({"path": 5}, TypeError, "path: expected a path; got an int"),
    ({"concurrency": 1.5}, TypeError, "concurrency: expected a whole number; got a float"),
    ({"schedule": 5}, TypeError, "schedule: expected a list of numbers; got an int"),
    ({"schedule": ["5"]}, TypeError, "schedule: expected a number; got a str"),
]


@pytest.mark.parametrize(("options", "error", "words"), OUTBOX_MISTAKES)
def test_a_mistake_about_an_outbox_is_named(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """An outbox refuses what can't be meant when it is made."""
    with pytest.raises(error, match=f"^{words}"):
        Outbox(**{"inner": DISPATCHER, "path": "alerts.db", **options})


async def test_a_limit_that_is_no_number_is_named(tmp_path: Path) -> None:
    """Asking for None events is refused in the words of the other options."""
    with pytest.raises(TypeError, match=r"^limit: expected a whole number; got None"):
        await AuditTrail(storage_path=tmp_path).get_events(limit=None)  # type: ignore[arg-type]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("given", "level"),
    [
        ("WARNING", AuditLogLevel.WARNING),
        ("Security", AuditLogLevel.SECURITY),
        (logging.DEBUG, AuditLogLevel.DEBUG),
        (logging.INFO, AuditLogLevel.INFO),
        (logging.WARNING, AuditLogLevel.WARNING),
        (logging.ERROR, AuditLogLevel.ERROR),
        (logging.CRITICAL, AuditLogLevel.CRITICAL),
    ],
)
async def test_levels_have_other_spellings(tmp_path: Path, given: Any, level: AuditLogLevel) -> None:
    """A level may be in upper case, or one of the standard library's, wherever one is given."""
    trail = AuditTrail(storage_path=tmp_path)
    await trail.log_event(AuditEventType.DATA_ACCESS, "read", log_level=given)
    [found] = await trail.get_events(min_level=given, log_level=given)
    assert found.log_level is level
    assert event(log_level=given).log_level is level
    await trail.stop()


def test_other_names_are_taken_in_upper_case_too() -> None:
    """The regulation and the type of an event may be in upper case."""
    assert CompliancePolicy("HIPAA").level is ComplianceLevel.HIPAA  # type: ignore[arg-type]
    assert event(event_type="DATA_EXPORT").event_type is AuditEventType.DATA_EXPORT
    assert CompliancePolicy(alert_channels={"CRITICAL": "#a"}).channel_for("critical") == "#a"


@pytest.mark.parametrize("given", [0, 25, True, 20.0, None])
def test_no_other_number_is_a_level(given: Any) -> None:
    """A number that the standard library has no name for is no level."""
    with pytest.raises(ValueError, match=f"^log_level: expected one of debug, .*; got {given}$"):
        event(log_level=given)


def test_the_home_directory_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path in the home directory makes no directory whose name is a tilde."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert AuditTrail(storage_path="~/audit").storage_path == tmp_path / "audit"
    assert Outbox(DISPATCHER, "~/alerts.db").path == tmp_path / "alerts.db"
    assert repr(FileStorage("~/audit")) == f"<FileStorage {str(tmp_path / 'audit')!r}>"


def test_one_text_is_one_severity() -> None:
    """A single severity is not taken for its letters."""
    Digest(DISPATCHER, bypass="critical")
    assert repr(when(severity="CRITICAL", component="db")) == "when(severity=critical, component=db)"


@pytest.mark.real_time
async def test_one_text_is_one_alert(tmp_path: Path) -> None:
    """An outbox that is given the id of one event retries and discards that one."""
    outbox = Outbox(RecordingDispatcher(error=ValueError("not now")), tmp_path / "alerts.db")
    one, other = event(), event()
    await outbox.send_alert(one, severity="info")
    await outbox.send_alert(other, severity="info")
    assert await outbox.retry(one.event_id) == 1
    assert await outbox.discard(one.event_id, reason="told by phone") == 1
    with pytest.raises(TypeError, match=r"^event_ids: expected one text, or a list; got an int"):
        await outbox.retry(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^event_ids: expected text; got an int"):
        await outbox.discard([5], reason="x")  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"^reason: expected text; got None"):
        await outbox.discard([one.event_id], reason=None)  # type: ignore[arg-type]


async def test_an_outbox_belongs_to_one_trail(tmp_path: Path) -> None:
    """A second trail that is started with the outbox of the first says so."""
    outbox = Outbox(DISPATCHER, tmp_path / "alerts.db")
    async with AuditTrail(storage_path=tmp_path / "a", alert_dispatcher=outbox):
        with pytest.raises(ValueError, match="an Outbox belongs to one trail"):
            await AuditTrail(storage_path=tmp_path / "b", alert_dispatcher=outbox).start()


def test_a_trail_is_not_entered_without_a_loop() -> None:
    """The plain `with` is refused with the words of what works."""
    with pytest.raises(TypeError, match=r"^an AuditTrail is entered by `async with trail`, or .* `with trail.sync`"):
        AuditTrail().__enter__()


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


async def test_a_file_in_the_place_of_the_directory_is_told_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A trail whose path is a file says at its start, in one line, that it can't store."""
    path = tmp_path / "audit"
    path.write_text("not a directory")
    for storage_path in (path, path / "deeper"):
        caplog.clear()
        async with AuditTrail(storage_path=storage_path):
            assert errors(caplog) == [f"this trail can't store: {path}: expected a directory, found something else"]


async def test_a_directory_that_is_not_writable_is_told_at_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trail that may not write to its directory, or not make it, says so at its start."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    async with AuditTrail(storage_path=tmp_path / "new"):
        [words] = errors(caplog)
    user = os.geteuid()
    assert words == (
        f"this trail can't store: {tmp_path}: this process may not write there; "
        f"this process is user {user}, and {tmp_path} is user {user}'s, mode 0700"
    )


async def test_a_directory_that_can_be_made_is_no_trouble(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A start says nothing, and makes nothing, where the directory can be made."""
    async with AuditTrail(storage_path=tmp_path / "new" / "audit"):
        assert not caplog.records
        assert not (tmp_path / "new").exists()


class Troubled(FileStorage):
    """A storage that can't tell whether it can store."""

    async def trouble(self) -> str | None:
        """Raise."""
        raise ZeroDivisionError


async def test_a_storage_that_cannot_tell_does_not_stop_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A storage whose check raises is named by the type of that, and the trail starts."""
    async with AuditTrail(storage=Troubled(tmp_path)) as trail:
        assert errors(caplog) == ["this trail can't store: ZeroDivisionError"]
        assert await trail.log_event(AuditEventType.DATA_ACCESS, "read")


async def test_recording_after_the_stop_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first event after a stop is stored like any other, and one line says that the trail was stopped."""
    trail = AuditTrail(storage_path=tmp_path)
    await trail.log_event(AuditEventType.DATA_ACCESS, "before the start")
    async with trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "started")
    assert not caplog.records
    for _ in range(3):
        await trail.log_event(AuditEventType.DATA_ACCESS, "stopped")
    [line] = caplog.records
    assert line.getMessage().startswith("an event is recorded after its trail was stopped")
    assert len(await trail.get_events()) == 5
    async with trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "started again")
    assert len(caplog.records) == 1
    await trail.stop()


@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_is_gone_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: str) -> None:
    """A trail whose loop is gone says so in one line when it has an alert, and sends it."""
    recorder = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=recorder)
    with pytest.warns(ResourceWarning, match="was not stopped before its event loop ended"):
        anyio.run(trail.start, backend=backend)
    caplog.clear()

    async def log() -> None:
        for _ in range(2):
            await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "seen")
        await trail.stop()

    anyio.run(log, backend=backend)
    assert len([record for record in caplog.records if "trail was" in record.getMessage()]) == 1
    assert len(recorder.alerts) == 2


def test_slack_says_that_its_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address from a variable that is not set is told from two ways at once, and no secret is in the message."""
    slack = pytest.importorskip("fapilog.providers.slack").SlackDispatcher
    monkeypatch.delenv("NOPE", raising=False)
    expected = "^webhook_url, token, channel: expected either webhook_url, or token and channel; got"
    with pytest.raises(ValueError, match=rf"{expected} none of them: webhook_url is None \(is a variable not set\?\)"):
        slack(webhook_url=os.environ.get("NOPE"))
    with pytest.raises(ValueError, match=f"{expected} webhook_url and token\n"):
        slack(webhook_url="https://hooks.example.com/s3cr3t", token="xoxb-s3cr3t")
    with pytest.raises(ValueError, match=f"{expected} token\n"):
        slack(token="xoxb-s3cr3t")
    with pytest.raises(ValueError, match=f"{expected} an empty webhook_url\n"):
        slack(webhook_url="")
    with pytest.raises(ValueError, match=f"{expected} token and an empty channel\n"):
        slack(token="xoxb-s3cr3t", channel="")


def test_a_secret_that_is_none_is_named() -> None:
    """A provider whose secret comes from a variable that is not set says so."""
    pagerduty = pytest.importorskip("fapilog.providers.pagerduty").PagerDutyDispatcher
    with pytest.raises(TypeError, match=r"^routing_key: expected text, or .*; got None: is the variable not set[?]"):
        pagerduty(routing_key=None)
    with pytest.raises(TypeError, match=r"^allow_http: expected True or False; got a str"):
        pagerduty(routing_key="0" * 32, allow_http="no")


def test_one_text_is_one_address() -> None:
    """A single recipient, or a single address, needs no list around it, and none at all is refused."""
    email = pytest.importorskip("fapilog.providers.smtp").EmailDispatcher
    email(host="mx.example.com", sender="a@example.com", recipients="b@example.com")
    with pytest.raises(ValueError, match=r"^recipients: expected at least one address; got none"):
        email(host="mx.example.com", sender="a@example.com", recipients=[])
    with pytest.raises(TypeError, match=r"^recipients: expected an address such as ops@example\.com; got an int"):
        email(host="mx.example.com", sender="a@example.com", recipients=[5])
    alertmanager = pytest.importorskip("fapilog.providers.alertmanager").AlertmanagerDispatcher
    alertmanager(urls="https://a.example.com")
    alertmanager(urls=lambda: "https://a.example.com")
    with pytest.raises(ValueError, match=r"^urls: expected at least one; got none"):
        alertmanager(urls=[])
    with pytest.raises(TypeError, match=r"^urls\[0\]: expected text, or .*; got None: is the variable not set[?]"):
        alertmanager(urls=None)


def test_an_aware_time_is_kept() -> None:
    """A time with a zone is taken as it is."""
    assert event(timestamp=datetime(2026, 1, 1, tzinfo=UTC)).timestamp == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("number", range(6))
def test_what_there_is_one_of_is_not_copied(tmp_path: Path, number: int, duplicate: Callable[[object], object]) -> None:
    """A trail that is given to another process, or copied with a configuration, says to make another there."""
    trail = AuditTrail(storage_path=tmp_path)
    only = [
        trail,
        trail.sync,
        FileStorage(tmp_path),
        MemoryStorage(),
        Outbox(DISPATCHER, tmp_path / "alerts.db"),
        RateLimit(DISPATCHER, rate=1, burst=1),
    ]
    with pytest.raises(TypeError, match=r"^\w+ holds .*: it is neither copied nor pickled; make another where it is "):
        duplicate(only[number])
