"""The trail: what is recorded, what is announced, and what can't go wrong for the caller."""

import asyncio
import functools
import gc
import inspect
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal
from unittest.mock import AsyncMock

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pytest

from fapilog import (
    Actor,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditOutcome,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    ChainStatus,
    ComplianceLevel,
    CompliancePolicy,
    DeliveryReport,
    FileStorage,
    NoopAlertDispatcher,
    Target,
    alert_dispatched,
    alert_failed,
    compliance_alert,
)
from fapilog.core import alerting, audit
from fapilog.testing import RecordingDispatcher


class Recorder:
    """Remembers what it is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[AuditEvent, str, str | None]] = []

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        self.sent.append((event, severity, channel))

    def __len__(self) -> int:
        return len(self.sent)

    @property
    def messages(self) -> list[str]:
        return [event.message for event, _, _ in self.sent]


class Hanging:
    """Never returns."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await anyio.sleep_forever()


@pytest.fixture
def recorder() -> Recorder:
    """Return a dispatcher that remembers."""
    return Recorder()


@pytest.fixture
def trail(anyio_backend_name: str, tmp_path: Path, recorder: Recorder) -> AuditTrail:
    """Return a trail of either durability, not started, with the recorder as its dispatcher."""
    # That both work alike on both backends is what `check_storage` is for.
    durability: Literal["fsync", "write"] = "fsync" if anyio_backend_name == "asyncio" else "write"
    return AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=recorder, durability=durability)


@asynccontextmanager
async def maybe_started(trail: AuditTrail, *, started: bool) -> AsyncIterator[AuditTrail]:
    """Enter *trail* if it shall be started."""
    if started:
        async with trail:
            yield trail
    else:
        yield trail


started_or_not = pytest.mark.parametrize("started", [True, False], ids=["started", "not_started"])


def test_names_of_the_earlier_fapilog() -> None:
    """The two modules that users of the earlier fapilog know offer the names that they import from them."""
    for name in ("AlertDispatcher", "NoopAlertDispatcher", "compliance_alert", "alert_dispatched", "alert_failed"):
        assert hasattr(alerting, name)
    for name in (
        "AuditEvent",
        "AuditEventType",
        "AuditLogLevel",
        "AuditTrail",
        "ComplianceLevel",
        "CompliancePolicy",
        "AuditChainVerificationResult",
    ):
        assert hasattr(audit, name)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (
            AuditEventType,
            """
            error_occurred error_recovered error_escalated authentication_succeeded authentication_failed
            authorization_failed security_violation session_ended credential_changed account_changed
            role_changed permission_changed mfa_changed admin_action impersonation system_startup
            system_shutdown component_failure component_recovery data_access data_modification data_deletion
            data_export config_changed plugin_loaded plugin_unloaded compliance_check audit_log_access
            audit_log_lifecycle retention_policy_applied time_step
            """,
        ),
        (AuditLogLevel, "debug info warning error critical security"),
        (ComplianceLevel, "none basic sox hipaa gdpr pci_dss soc2 iso27001"),
    ],
)
def test_enum_values(kind: type[AuditEventType], values: str) -> None:
    """The values of the enums are those that records and users rely on."""
    assert [member.value for member in kind] == values.split()
    assert all(member.name == member.value.upper() for member in kind)


async def test_an_id_means_stored(trail: AuditTrail) -> None:
    """The id that is returned is that of an event that can be read back, with all that was given."""
    event_id = await trail.log_event(
        AuditEventType.DATA_ACCESS,
        "read",
        log_level=AuditLogLevel.WARNING,
        component="api",
        operation="get",
        error=ValueError("v"),
        user_id="alice",
        session_id="s",
        request_id="r",
        client_ip="192.0.2.1",
        user_agent="curl",
        contains_pii=True,
        contains_phi=True,
        data_classification="restricted",
        regulatory_tags=["164.312"],
        outcome="denied",
        reason="no need to know",
        actor={"type": "service", "on_behalf_of": "bob"},
        target="patient/42",
        changes={"ward": ("A", None)},
        occurred=datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=1))),
        trace_id="0af7651916cd43dd8448eb211c80319c",
        span_id="b7ad6b7169203331",
        metadata={"patient": 7},
    )
    (event,) = await trail.get_events()
    assert event.event_id == event_id == str(uuid.UUID(event_id))
    stored = {
        name: value for name, value in msgspec.structs.asdict(event).items() if name not in ("timestamp", "error")
    }
    assert stored == {
        "event_id": event_id,
        "event_type": AuditEventType.DATA_ACCESS,
        "log_level": AuditLogLevel.WARNING,
        "message": "read",
        "component": "api",
        "operation": "get",
        "user_id": "alice",
        "session_id": "s",
        "request_id": "r",
        "client_ip": "192.0.2.1",
        "user_agent": "curl",
        "hostname": event.hostname,
        "process_id": event.process_id,
        "data_classification": "restricted",
        "contains_pii": True,
        "contains_phi": True,
        "compliance_level": ComplianceLevel.BASIC,
        "regulatory_tags": ("164.312",),
        "metadata": {"patient": 7},
        "outcome": AuditOutcome.DENIED,
        "reason": "no need to know",
        "actor": Actor(id="alice", type="service", on_behalf_of="bob"),
        "target": Target(type="patient", id="42"),
        "changes": {"ward": ["A", None]},
        "occurred": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "b7ad6b7169203331",
        "truncated": (),
        "not_announced": None,
        "format_version": 2,
        "line": None,
        "sequence_number": 1,
        "previous_hash": None,
        "checksum": event.checksum,
    }
    assert event.error is not None
    assert (event.error.type, event.error.message) == ("ValueError", "v")
    assert event.hostname
    assert event.process_id


async def test_a_disabled_policy_stores_nothing(tmp_path: Path, recorder: Recorder) -> None:
    """With a disabled policy every method returns an empty id, stores nothing and alerts nobody."""
    trail = AuditTrail(CompliancePolicy(enabled=False), tmp_path / "audit", recorder)
    assert await trail.log_event(AuditEventType.DATA_ACCESS, "m", log_level=AuditLogLevel.CRITICAL) == ""
    assert await trail.log_error(ValueError()) == ""
    assert await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m") == ""
    assert await trail.log_data_access("r", "read") == ""
    assert not (tmp_path / "audit").exists()
    assert recorder.sent == []


async def test_log_error(trail: AuditTrail) -> None:
    """`log_error` records any exception, at level error unless another is given."""
    await trail.log_error(KeyError("k"), operation="load", component="db")
    await trail.log_error(
        ExceptionGroup("g", [OSError()]), log_level=AuditLogLevel.CRITICAL, user_id="al", metadata={"attempt": 2}
    )
    second, first = await trail.get_events()
    assert (first.event_type, first.log_level, first.message) == (
        AuditEventType.ERROR_OCCURRED,
        AuditLogLevel.ERROR,
        "Error occurred: 'k'",
    )
    assert (first.operation, first.component) == ("load", "db")
    assert first.error is not None
    assert first.error.type == "KeyError"
    assert (second.log_level, second.user_id, second.metadata) == (AuditLogLevel.CRITICAL, "al", {"attempt": 2})


async def test_log_security_event(trail: AuditTrail) -> None:
    """`log_security_event` fills the fields of the context, at level security."""
    await trail.log_security_event(
        AuditEventType.AUTHENTICATION_FAILED,
        "no",
        user_id="al",
        client_ip="192.0.2.1",
        user_agent="curl",
        metadata={"attempt": 3},
    )
    (event,) = await trail.get_events()
    assert (event.log_level, event.user_id, event.client_ip, event.user_agent, event.metadata) == (
        AuditLogLevel.SECURITY,
        "al",
        "192.0.2.1",
        "curl",
        {"attempt": 3},
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("operation", "event_type"),
    [
        ("read", AuditEventType.DATA_ACCESS),
        ("Write", AuditEventType.DATA_MODIFICATION),
        ("update", AuditEventType.DATA_MODIFICATION),
        ("delete", AuditEventType.DATA_DELETION),
        ("export", AuditEventType.DATA_EXPORT),
        ("print", AuditEventType.DATA_ACCESS),
    ],
)
async def test_log_data_access(trail: AuditTrail, operation: str, event_type: AuditEventType) -> None:
    """`log_data_access` chooses the event type by the operation, and keeps the resource."""
    await trail.log_data_access("patients/7", operation, user_id="al", contains_pii=True, data_classification="secret")
    (event,) = await trail.get_events()
    assert (event.event_type, event.operation, event.metadata) == (event_type, operation, {"resource": "patients/7"})
    assert event.message == f"Data {operation} on resource: patients/7"
    assert (event.contains_pii, event.data_classification) == (True, "secret")


CONTEXT = {
    "log_level": AuditLogLevel.WARNING,
    "session_id": "s",
    "request_id": "r",
    "regulatory_tags": ("t",),
    "component": "c",
    "operation": "o",
    "user_id": "u",
    "client_ip": "192.0.2.1",
    "user_agent": "a",
    "contains_pii": True,
    "contains_phi": True,
    "data_classification": "d",
}


@pytest.mark.parametrize("method", ["log_event", "log_error", "log_security_event", "log_data_access"])
async def test_no_keyword_is_lost(trail: AuditTrail, method: str) -> None:
    """In every method a keyword is the field of that name, or metadata, and a mapping of metadata is merged."""
    special: dict[str, list[Any]] = {"log_error": [ValueError("v")], "log_data_access": ["res", "read"]}
    positional = special.get(method, [AuditEventType.DATA_ACCESS, "m"])
    context = {name: value for name, value in CONTEXT.items() if (method, name) != ("log_data_access", "operation")}
    clashing = {} if method in ("log_event", "log_security_event") else {"message": "mine", "event_type": "mine"}
    await getattr(trail, method)(
        *positional, **context, **clashing, tenant=5, checksum="c", hostname="h", metadata={"tenant": 6, "more": 7}
    )
    (event,) = await trail.get_events()
    assert {name: getattr(event, name) for name in context} == context
    expected = {"tenant": 5, "checksum": "c", "hostname": "h", "more": 7, "metadata": {"tenant": 6}, **clashing}
    assert {name: value for name, value in event.metadata.items() if name != "resource"} == expected


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"metadata": {"a": 1}}, {"a": 1}),
        ({"metadata": {"a": 1}, "b": 2}, {"a": 1, "b": 2}),
        ({"metadata": "text"}, {"metadata": "text"}),
        ({"metadata": None}, {}),
        ({"metadata": {"a": 1, "metadata": 2}, "a": 3}, {"a": 3, "metadata": {"a": 1, "metadata": 2}}),
        ({"metadata": {"message": 1}, "message": 2}, {"message": 2, "metadata": {"message": 1}}),
        ({"metadata": "text", "message": 2}, {"message": 2, "metadata": "text"}),
    ],
)
async def test_merging_metadata_loses_nothing(trail: AuditTrail, given: Any, stored: Any) -> None:
    """However metadata are given, each value is in the event."""
    await trail.log_error(ValueError(), **given)
    (event,) = await trail.get_events()
    assert event.metadata == stored


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (("login", "m"), {}),
        ((AuditEventType.DATA_ACCESS, "m"), {"log_level": "fatal"}),
    ],
)
async def test_unknown_types_and_levels_are_refused(trail: AuditTrail, arguments: Any, options: Any) -> None:
    """An unknown event type or level is an error that lists those that there are, and nothing is stored."""
    own = ", or a type of your own with a dot, such as billing.refund"
    words = rf"(event_type: expected one of .*{own}|log_level: expected one of .*); got '(login|fatal)'"
    with pytest.raises(ValueError, match=words):
        await trail.log_event(*arguments, **options)
    assert await trail.get_events() == []


async def test_values_may_stand_for_members(trail: AuditTrail) -> None:
    """Event types and levels may be given by their values."""
    await trail.log_event("data_export", "m", log_level="debug")
    (event,) = await trail.get_events(event_type="data_export", log_level="debug")
    assert event.event_type is AuditEventType.DATA_EXPORT


@started_or_not
async def test_an_alert_is_dispatched(trail: AuditTrail, recorder: Recorder, *, started: bool) -> None:
    """An event that meets the policy reaches the dispatcher as it was stored; others do not."""
    async with maybe_started(trail, started=started):
        await trail.log_event(AuditEventType.DATA_ACCESS, "quiet")
        event_id = await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "loud")
        await trail.drain()
        (event,) = await trail.get_events(log_level=AuditLogLevel.SECURITY)
        assert recorder.sent == [(event, "security", None)]
        assert event.event_id == event_id
        assert event.sequence_number == 2
        assert (await trail.get_statistics())["alerts"] == {"dispatched": 1, "failed": 0, "waiting": 0}


async def test_not_started_the_alert_is_out_when_the_id_is_returned(trail: AuditTrail, recorder: Recorder) -> None:
    """Without `start` the dispatcher has had the alert before `log_event` returns, for each of many callers."""

    async def log(number: int) -> None:
        await trail.log_event(AuditEventType.DATA_ACCESS, str(number), log_level=AuditLogLevel.CRITICAL)
        assert str(number) in recorder.messages

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(log, number)
    assert sorted(recorder.messages, key=int) == [str(number) for number in range(50)]


@started_or_not
async def test_channels_reach_the_dispatcher(tmp_path: Path, recorder: Recorder, *, started: bool) -> None:
    """The dispatcher is told the severity, and the channel that the policy has for it."""
    policy = CompliancePolicy(ComplianceLevel.HIPAA, alert_channel="#audit", alert_channels={"critical": "#on-call"})
    async with maybe_started(AuditTrail(policy, tmp_path, recorder), started=started) as trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "m", log_level=AuditLogLevel.CRITICAL)
        await trail.log_data_access("r", "read", contains_phi=True)
        await trail.drain()
    assert sorted((severity, channel) for _, severity, channel in recorder.sent) == [
        ("critical", "#on-call"),
        ("info", "#audit"),
    ]


async def test_the_default_dispatcher_does_nothing(tmp_path: Path) -> None:
    """Without a dispatcher alerts are announced and taken by the one that does nothing."""
    announced: list[str] = []

    def receiver(_: object, *, event: AuditEvent, **__: object) -> None:
        announced.append(event.message)

    trail = AuditTrail(storage_path=tmp_path)
    with compliance_alert.connected_to(receiver, sender=trail):
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    assert announced == ["m"]
    assert (await trail.get_statistics())["alerts"] == {"dispatched": 1, "failed": 0, "waiting": 0}
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m")
    assert await NoopAlertDispatcher().send_alert(event, severity="info") is None  # type: ignore[func-returns-value]


async def test_receivers_see_what_the_dispatcher_sees(trail: AuditTrail, recorder: Recorder) -> None:
    """A receiver that tries to change the event changes nothing for the dispatcher."""

    def vandal(_: object, *, event: Any, **details: Any) -> None:
        details["severity"] = "none"
        event.metadata["list"].append(1)

    def plain_vandal(_: object, *, event: Any, **details: Any) -> None:
        event.message = "nothing to see"

    for receiver in (vandal, plain_vandal):
        compliance_alert.connect(receiver, sender=trail)
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m", metadata={"list": [0]})
    ((event, severity, _),) = recorder.sent
    assert (event.message, event.metadata, severity) == ("m", {"list": [0]}, "security")


@started_or_not
async def test_reports_reach_observers(trail: AuditTrail, recorder: Recorder, *, started: bool) -> None:
    """Plain and asynchronous receivers of `alert_dispatched` get the report, with the trail as sender."""
    reports: list[tuple[object, DeliveryReport]] = []

    def plain(sender: object, *, report: DeliveryReport) -> None:
        reports.append((sender, report))

    async def coroutine(sender: object, *, report: DeliveryReport) -> None:
        await anyio.sleep(1)
        reports.append((sender, report))

    alert_dispatched.connect(plain)
    alert_dispatched.connect(coroutine, sender=trail)
    async with maybe_started(trail, started=started):
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        await trail.drain()
    assert [(sender, report.outcome, report.event.message) for sender, report in reports] == [
        (trail, "dispatched", "m")
    ] * 2
    alert_dispatched.disconnect(plain)


@started_or_not
async def test_a_hanging_dispatcher_does_not_delay_a_started_trail(tmp_path: Path, *, started: bool) -> None:
    """Started, logging does not wait for the dispatcher; not started, it waits no longer than the timeout per alert."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=Hanging(), alert_timeout=5, stop_timeout=1)
    async with maybe_started(trail, started=started):
        # The first time there is another alert, which says that alerts are not delivered.
        for alerts in (2, 1):
            began = anyio.current_time()
            await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
            assert anyio.current_time() - began == pytest.approx(0 if started else 5 * alerts)
    failed = 2 if started else 3
    assert (await trail.get_statistics())["alerts"] == {"dispatched": 0, "failed": failed, "waiting": 0}


async def test_stop_is_limited_and_reports_the_rest(tmp_path: Path) -> None:
    """`stop` waits as long as it may, then reports what is left as failed, to asynchronous receivers too."""
    outcomes: list[str] = []

    async def note(_: object, *, report: DeliveryReport) -> None:
        await anyio.sleep(1)
        outcomes.append(report.outcome)

    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=Hanging(), alert_concurrency=1, stop_timeout=3)
    alert_failed.connect(note, sender=trail)
    await trail.start()
    for _ in range(3):
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    began = anyio.current_time()
    await trail.stop()
    assert anyio.current_time() - began == pytest.approx(4)
    assert outcomes == ["stopped"] * 3
    assert (await trail.get_statistics())["alerts"]["waiting"] == 0


async def test_stop_drains_even_if_cancelled(trail: AuditTrail, recorder: Recorder) -> None:
    """A cancelled service still sends the alerts that wait."""
    with anyio.CancelScope() as scope:
        async with trail:
            await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
            scope.cancel()
            await anyio.sleep_forever()
    assert recorder.messages == ["m"]


async def test_start_and_stop_again_and_again(trail: AuditTrail, recorder: Recorder) -> None:
    """Starting what is started and stopping what is stopped does nothing, and a trail may be started again."""
    await trail.stop()
    for number in range(3):
        await trail.start()
        await trail.start()
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, f"started {number}")
        await trail.stop()
        await trail.stop()
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, f"stopped {number}")
    assert recorder.messages == [f"{state} {number}" for number in range(3) for state in ("started", "stopped")]
    assert (await trail.verify_chain_from_storage()).valid


async def test_what_else_the_earlier_trail_had(trail: AuditTrail, tmp_path: Path) -> None:
    """The attributes `policy` and `storage_path` are there, and `cleanup` stops."""
    await trail.start()
    await trail.cleanup()
    assert trail._alerts.background.home is None
    assert (trail.policy, trail.storage_path) == (CompliancePolicy(), tmp_path / "audit")


async def test_any_task_may_start_and_any_other_stop(trail: AuditTrail, recorder: Recorder) -> None:
    """A trail that one task starts is used by another, and a third stops it, after the last alert."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trail.start)
    assert trail.is_started
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trail.stop)
    assert [trail.is_started] == [False]
    assert len(recorder) == 1


async def test_the_dispatcher_is_entered_and_left(tmp_path: Path) -> None:
    """A dispatcher that is a context manager is entered on start and left on stop, after the last alert."""
    steps: list[str] = []

    class Managed(Recorder):
        async def __aenter__(self) -> None:
            steps.append("enter")

        async def __aexit__(self, *_: object) -> None:
            steps.append("leave")

        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            await anyio.sleep(1)
            steps.append("send")

    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=Managed()) as trail:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    assert steps == ["enter", "send", "leave"]


async def test_a_dispatcher_that_cannot_be_entered(tmp_path: Path) -> None:
    """If the dispatcher can't be entered, `start` raises why, and the trail works as one that is not started."""

    class Broken(Recorder):
        async def __aenter__(self) -> None:
            raise ConnectionError("refused")

        async def __aexit__(self, *_: object) -> None: ...

    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=(dispatcher := Broken()))
    with pytest.raises(ConnectionError, match="refused"):
        await trail.start()
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    assert dispatcher.messages == ["m"]


async def test_a_dispatcher_that_is_never_entered(tmp_path: Path) -> None:
    """A dispatcher whose entering hangs is given up after `alert_timeout`, and the trail works as one not started."""

    class Silent(Recorder):
        async def __aenter__(self) -> None:
            await anyio.sleep_forever()

        async def __aexit__(self, *_: object) -> None: ...

    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=(dispatcher := Silent()), alert_timeout=5)
    with pytest.raises(TimeoutError, match="Silent was not entered within 5 s"):
        await trail.start()
    assert not trail.is_started
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    assert dispatcher.messages == ["m"]


@pytest.mark.parametrize(
    "dispatcher",
    [
        object(),
        Recorder,
        type("Sync", (), {"send_alert": lambda self, event, *, severity, channel=None: None})(),
        type("NotCallable", (), {"send_alert": 5})(),
    ],
    ids=["object", "class", "sync", "not_callable"],
)
def test_what_is_no_dispatcher_is_refused(tmp_path: Path, dispatcher: Any) -> None:
    """A dispatcher without an asynchronous `send_alert` is a TypeError that says what was expected and what came."""
    with pytest.raises(TypeError, match=r"expected an object with `async def send_alert\(event, .*\)`; got "):
        AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)


async def test_dispatchers_of_all_asynchronous_shapes(tmp_path: Path) -> None:
    """A mock, a partial, and an object with an asynchronous __call__ are accepted as `send_alert`."""

    class Call:
        def __init__(self) -> None:
            self.calls = 0

        async def __call__(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            self.calls += 1

    class Holder:
        def __init__(self, send_alert: Any) -> None:
            self.send_alert = send_alert

    call, mock = Call(), AsyncMock()
    for send in (call, functools.partial(call), mock):
        trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=Holder(send))
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    assert call.calls == 2
    assert mock.await_args is not None
    assert mock.await_args.kwargs == {"severity": "security", "channel": None}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": "hipaa"}, TypeError, "policy: expected a CompliancePolicy; a path goes to storage_path=; got"),
        ({"alert_timeout": 0}, ValueError, "alert_timeout: expected a number above 0; got 0"),
        ({"alert_timeout": float("nan")}, ValueError, "alert_timeout: expected a number above 0; got nan"),
        ({"alert_concurrency": 0}, ValueError, "alert_concurrency: expected a number of at least 1; got 0"),
        ({"alert_buffer": 0}, ValueError, "alert_buffer: expected a number of at least 1; got 0"),
        ({"stop_timeout": -1}, ValueError, "stop_timeout: expected a number of at least 0; got -1"),
        ({"durability": "maybe"}, ValueError, "durability: expected 'fsync' or 'write'; got 'maybe'"),
        ({"storage": FileStorage("x")}, ValueError, "storage: expected a storage or a path; got both"),
        (
            {"storage_path": None, "storage": FileStorage("x"), "durability": "write"},
            ValueError,
            "durability: expected it without storage, which has its own; got both",
        ),
        ({"lag_limit": 60.0}, ValueError, "lag_limit: expected a replica too; got none"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: Any, error: type[Exception], message: str) -> None:
    """An option that can't be, or has no effect, is refused at construction, with what was expected and what came."""
    with pytest.raises(error, match=message):
        AuditTrail(**{"storage_path": tmp_path, **options})


def test_making_a_trail_touches_no_file(tmp_path: Path) -> None:
    """Constructing a trail makes no directory; the first event does."""
    AuditTrail(storage_path=tmp_path / "audit")
    assert not (tmp_path / "audit").exists()


async def test_the_default_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a path the trail is in audit_logs."""
    monkeypatch.chdir(tmp_path)
    await AuditTrail().log_event(AuditEventType.DATA_ACCESS, "m")
    assert [path.name.startswith("audit_2") for path in (tmp_path / "audit_logs").iterdir()] == [True]


async def test_what_is_not_stored_is_not_announced(tmp_path: Path, recorder: Recorder) -> None:
    """If an event can't be stored, the caller gets the error, nobody is alerted of it, and nothing is counted."""
    (tmp_path / "file").write_text("x")
    trail = AuditTrail(storage_path=tmp_path / "file", alert_dispatcher=recorder)
    for log in (
        functools.partial(trail.log_security_event, AuditEventType.SECURITY_VIOLATION, "m"),
        functools.partial(trail.log_event, AuditEventType.DATA_ACCESS, "m"),
    ):
        with pytest.raises(AuditStorageError, match="file: expected a directory, found something else"):
            await log()
    assert [event.event_type for event, _, _ in recorder.sent] == [AuditEventType.COMPONENT_FAILURE]
    assert (await trail.get_statistics())["total_events"] == 0


async def test_statistics(trail: AuditTrail) -> None:
    """Statistics count events, errors and security events of this trail, and show the policy."""
    await trail.log_event(AuditEventType.DATA_ACCESS, "m")
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", log_level=AuditLogLevel.CRITICAL)
    await trail.log_error(ValueError())
    await trail.log_event(AuditEventType.AUTHORIZATION_FAILED, "m")
    await trail.log_security_event(AuditEventType.CONFIG_CHANGED, "m")
    assert await trail.get_statistics() == {
        "total_events": 5,
        "error_events": 2,
        "security_events": 2,
        "alerts": {"dispatched": 2, "failed": 0, "waiting": 0},
        "policy": {"compliance_level": "basic", "enabled": True},
    }


@started_or_not
async def test_emitting_by_hand_dispatches(trail: AuditTrail, recorder: Recorder, *, started: bool) -> None:
    """An alert that is sent with blinker's own `send` reaches the dispatcher too."""
    async with maybe_started(trail, started=started):
        event = AuditEvent(event_type=AuditEventType.DATA_EXPORT, message="by hand")
        compliance_alert.send(trail, event=event, severity="critical", channel="#x")
        compliance_alert.send(trail, event=event, severity="info")
        await trail.drain()
    assert {(severity, channel) for _, severity, channel in recorder.sent} == {("critical", "#x"), ("info", None)}
    assert [sent for sent, _, _ in recorder.sent] == [event, event]


async def test_a_muted_signal_is_respected(
    trail: AuditTrail, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """While the signal is muted, events are stored and nobody is alerted; that is logged once."""
    with compliance_alert.muted():
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    assert recorder.sent == []
    assert len(await trail.get_events()) == 2
    assert caplog.text.count("muted") == 1


@pytest.mark.slow
@started_or_not
async def test_a_trail_that_nobody_keeps_is_collected(tmp_path: Path, *, started: bool) -> None:
    """The strong connection to the signal does not keep a trail alive, nor its dispatcher."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=(recorder := Recorder()))
    async with maybe_started(trail, started=started):
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        gc.collect()
        await trail.drain()
        assert recorder.messages == ["m"]
    kept = weakref.ref(trail), weakref.ref(recorder)
    del trail, recorder
    for _ in range(1000):  # the loop lets go of tasks that are done, and a worker thread of its last call
        await anyio.to_thread.run_sync(time.sleep, 0.01)
        gc.collect()
        if not any(reference() for reference in kept):
            break
    assert [reference() for reference in kept] == [None, None]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_forgetting_to_stop_is_loud(tmp_path: Path, backend: str) -> None:
    """A trail whose event loop ends before it was stopped warns, reports what waits, and is stopped."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=Hanging())

    async def main() -> None:
        await trail.start()
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")

    with pytest.warns(ResourceWarning, match=r"AuditTrail in .* was not stopped before its event loop ended"):
        anyio.run(main, backend=backend)
    assert not trail.is_started
    assert (trail._alerts.forwarder.failed, trail._alerts.forwarder.waiting) == (1, 0)


@started_or_not
async def test_a_subclass_may_override_the_hook(tmp_path: Path, recorder: Recorder, *, started: bool) -> None:
    """A subclass written for the earlier trail, which overrides `_send_compliance_alert`, is called for each alert."""
    sent: list[str] = []

    class Mine(AuditTrail):
        async def _send_compliance_alert(self, event: AuditEvent) -> None:
            await anyio.sleep(1)
            sent.append(event.message)
            if event.message == "loud":
                await super()._send_compliance_alert(event)

    async with maybe_started(Mine(storage_path=tmp_path, alert_dispatcher=recorder), started=started) as trail:
        for message in ("quiet", "loud"):
            await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, message)
        await trail.log_event(AuditEventType.DATA_ACCESS, "no alert")
        await trail.drain()
    assert sorted(sent) == ["loud", "quiet"]
    assert recorder.messages == ["loud"]


@started_or_not
@pytest.mark.parametrize("failure", ["raises", "hangs"])
async def test_a_failing_hook_is_contained(
    tmp_path: Path, failure: str, caplog: pytest.LogCaptureFixture, *, started: bool
) -> None:
    """An overridden hook that raises or hangs does not reach the caller, and is logged."""

    class Mine(AuditTrail):
        async def _send_compliance_alert(self, event: AuditEvent) -> None:
            if failure == "raises":
                raise ValueError("SECRET")
            await anyio.sleep_forever()

    async with maybe_started(Mine(storage_path=tmp_path, alert_timeout=5), started=started) as trail:
        assert await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    assert "Mine._send_compliance_alert raised " in caplog.text
    assert "SECRET" not in caplog.text


async def test_the_id_comes_before_the_work_of_the_dispatcher(tmp_path: Path, recorder: Recorder) -> None:
    """Started, `log_event` returns before the dispatcher is called, however little the loop has to do besides."""
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=recorder) as trail:
        for number in range(20):
            await trail.log_event(AuditEventType.DATA_ACCESS, "m", log_level=AuditLogLevel.CRITICAL)
            assert len(recorder) == number
            await trail.drain()
            assert len(recorder) == number + 1


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.torture)])
async def test_a_tight_loop_loses_no_alert(tmp_path: Path, recorder: Recorder, count: int) -> None:
    """Alerts logged in a tight loop all reach an instant dispatcher, through the smallest lane."""
    trail = AuditTrail(
        storage_path=tmp_path, alert_dispatcher=recorder, alert_concurrency=1, alert_buffer=10, durability="write"
    )
    async with trail:
        for number in range(count):
            await trail.log_event(AuditEventType.DATA_ACCESS, str(number), log_level=AuditLogLevel.CRITICAL)
    assert recorder.messages == [str(number) for number in range(count)]


async def test_a_cancelled_caller_is_cancelled(trail: AuditTrail, recorder: Recorder) -> None:
    """Cancellation passes through every method; an alert of a stored event is announced all the same."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        await anyio.lowlevel.checkpoint()
        pytest.fail("not cancelled")
    assert scope.cancelled_caught
    await trail.drain()
    assert len(recorder.messages) == len(await trail.get_events())


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@started_or_not
async def test_task_cancel_loses_no_alert(trail: AuditTrail, recorder: Recorder, *, started: bool) -> None:
    """However a task is cancelled while it logs, what it stored is announced, and the chain stays whole."""
    async with maybe_started(trail, started=started):
        for ticks in range(12):
            task = asyncio.ensure_future(trail.log_security_event(AuditEventType.SECURITY_VIOLATION, str(ticks)))
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        await trail.drain()
        stored = [event.message for event in await trail.get_events()]
        alerts = (await trail.get_statistics())["alerts"]
    assert alerts["dispatched"] + alerts["failed"] == len(stored)
    assert sorted(recorder.messages) == sorted(stored) or not started
    assert (await trail.verify_chain_from_storage()).valid


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_exits_pass_through_a_receiver(trail: AuditTrail, error: type[BaseException]) -> None:
    """KeyboardInterrupt in a receiver is not contained: the event is stored, and the program ends."""

    def receiver(_: object, **__: object) -> None:
        raise error

    compliance_alert.connect(receiver, sender=trail)
    with pytest.raises(error):
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    assert len(await trail.get_events()) == 1


async def _no_names() -> list[str]:
    return []


@pytest.mark.parametrize("answer", [ZeroDivisionError, asyncio.CancelledError, GeneratorExit, _no_names])
async def test_a_dispatcher_that_does_not_say_what_it_keeps_gets_the_alert(answer: Any, tmp_path: Path) -> None:
    """Whatever `kept_in` raises, or if it is asynchronous, the event is stored and its alert sent as to any other."""

    class Keeping(RecordingDispatcher):
        def kept_in(self, storage: object, alert: alerting.Alert) -> Any:
            if answer is _no_names:
                return answer()
            raise answer

    dispatcher = Keeping()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)
    event_id = await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "kept")
    assert [event.event_id for event in await trail.get_events()] == [event_id]
    assert [alert.event.event_id for alert in dispatcher.alerts] == [event_id]


@started_or_not
@pytest.mark.parametrize("level", [AuditLogLevel.INFO, AuditLogLevel.CRITICAL])
async def test_an_endless_loop_can_be_cancelled(trail: AuditTrail, level: AuditLogLevel, *, started: bool) -> None:
    """A loop that does nothing but log ends when it is cancelled."""
    with anyio.CancelScope() as scope:
        async with maybe_started(trail, started=started):
            for number in range(1_000):
                await trail.log_event(AuditEventType.DATA_ACCESS, "m", log_level=level)
                if number == 20:
                    scope.cancel()
    assert scope.cancelled_caught


async def test_events_are_returned_newest_first(trail: AuditTrail) -> None:
    """`get_events` returns the newest events, the newest first, and no more than the limit."""
    for number in range(30):
        await trail.log_event(AuditEventType.DATA_ACCESS, str(number))
    assert [event.message for event in await trail.get_events(limit=3)] == ["29", "28", "27"]
    assert len(await trail.get_events()) == 30
    assert await trail.get_events(limit=0) == []


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        ({"user_id": "u1"}, [4, 1]),
        ({"user_id": 7}, [5]),
        ({"component": "c1"}, [3, 1]),
        ({"event_type": AuditEventType.DATA_EXPORT}, [2]),
        ({"log_level": AuditLogLevel.WARNING}, [3]),
        ({"user_id": "u1", "component": "c1"}, [1]),
        ({"user_id": "nobody"}, []),
        ({"start_time": datetime(2000, 1, 1, tzinfo=UTC), "limit": 2}, [5, 4]),
        ({"end_time": datetime(2000, 1, 1, tzinfo=UTC)}, []),
        ({"start_time": datetime.now(UTC) + timedelta(days=1)}, []),
    ],
)
async def test_events_are_filtered(trail: AuditTrail, wanted: Any, numbers: list[int]) -> None:
    """`get_events` returns those events that meet all conditions."""
    details: list[dict[str, Any]] = [
        {"user_id": "u1", "component": "c1"},
        {"event_type": AuditEventType.DATA_EXPORT},
        {"component": "c1", "log_level": AuditLogLevel.WARNING},
        {"user_id": "u1"},
        {"user_id": 7},
    ]
    for number, given in enumerate(details, 1):
        given = {"event_type": AuditEventType.DATA_ACCESS, "message": str(number), **given}  # noqa: PLW2901
        await trail.log_event(**given)
    assert [int(event.message) for event in await trail.get_events(**wanted)] == numbers


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"limit": -1}, "limit: expected a number of at least 0; got -1"),
        ({"start_time": datetime(2026, 1, 1)}, "start_time: expected a datetime with a time zone; got"),  # noqa: DTZ001
        ({"end_time": datetime(2026, 1, 1)}, "end_time: expected a datetime with a time zone; got"),  # noqa: DTZ001
        ({"event_type": "login"}, "event_type: expected one of"),
    ],
)
async def test_queries_are_checked(trail: AuditTrail, wanted: Any, message: str) -> None:
    """A query that can't be meant is an error that says what was expected."""
    with pytest.raises(ValueError, match=message):
        await trail.get_events(**wanted)


async def test_the_head_is_the_newest_event(trail: AuditTrail) -> None:
    """`head` tells number and checksum of the newest event; of an empty trail 0 and None."""
    assert await trail.head() == ChainHead(0, None)
    for number in range(3):
        await trail.log_event(AuditEventType.DATA_ACCESS, str(number))
        (newest,) = await trail.get_events(limit=1)
        assert await trail.head() == ChainHead(number + 1, newest.checksum)


async def test_verifying_events_in_memory(trail: AuditTrail) -> None:
    """`verify_chain` gives the verdict of the storage from the events themselves."""
    for number in range(5):
        await trail.log_event(AuditEventType.DATA_ACCESS, str(number), metadata={"value": 1.5e300, "text": "ü\n\x00"})
    events = list(reversed(await trail.get_events()))
    assert AuditTrail.verify_chain(events) == await trail.verify_chain_from_storage()
    assert AuditTrail.verify_chain([]).valid

    def verdict(changed: list[AuditEvent]) -> tuple[ChainStatus, int | None]:
        result = AuditTrail.verify_chain(changed)
        assert not result.valid
        assert result.events_checked == result.first_invalid_sequence
        return result.status, result.first_invalid_sequence

    altered = msgspec.structs.replace(events[2], message="x")
    assert verdict([*events[:2], altered, *events[3:]]) == (ChainStatus.ALTERED, 3)
    assert verdict([*events[:2], *events[3:]]) == (ChainStatus.GAP, 3)
    assert verdict([events[1], events[0]]) == (ChainStatus.GAP, 1)
    unsealed = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="x")
    assert verdict([*events, unsealed]) == (ChainStatus.UNREADABLE, 6)
    # As `get_events` returns them: nobody should look for a forger.
    assert "they are the newest first" in (AuditTrail.verify_chain(events[::-1]).error_message or "")
    assert "newest first" not in (AuditTrail.verify_chain(events[1:]).error_message or "")


@pytest.mark.one_backend
async def test_what_is_no_event_and_no_head(trail: AuditTrail) -> None:
    """What JSON makes of an event, or of a head, is refused in words."""
    nothing: Any = [{"v": 2}]
    head: Any = [5, "x"]
    read: Any = trail.events()
    with pytest.raises(TypeError, match=r"^events: expected AuditEvents; got a dict among them$"):
        AuditTrail.verify_chain(nothing)
    with pytest.raises(TypeError, match=r"^events: expected AuditEvents, the oldest first; got an Events$"):
        AuditTrail.verify_chain(read)
    with pytest.raises(TypeError, match=r"^after: expected a ChainHead; got a list$"):
        AuditTrail.verify_chain([], after=head)
    with pytest.raises(TypeError, match=r"^head: expected a ChainHead; got a list$"):
        await trail.holds(head)


async def test_a_storage_of_ones_own(recorder: Recorder, tmp_path: Path) -> None:
    """Any object with the methods of AuditStorage can keep the events, and is closed on stop."""
    calls: list[str] = []

    class Mine:
        def __init__(self) -> None:
            self.inner = FileStorage(tmp_path)

        async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
            calls.append("append")
            return await self.inner.append(event, once=once)

        async def find(self, wanted: Any, limit: int) -> Any:
            calls.append("find")
            return await self.inner.find(wanted, limit)

        async def read(self, after: int, limit: int) -> list[AuditEvent]:
            raise NotImplementedError

        async def read_lines(self, after: int, limit: int) -> list[bytes]:
            raise NotImplementedError

        async def verify(self, progress: Callable[[int], None] | None = None) -> Any:
            calls.append("verify")
            return await self.inner.verify(progress)

        async def aclose(self) -> None:
            calls.append("aclose")

    async with AuditTrail(storage=Mine(), alert_dispatcher=recorder) as trail:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        assert len(await trail.get_events()) == 1
        assert (await trail.verify_chain_from_storage()).valid
    assert calls == ["append", "find", "verify", "aclose"]
    assert recorder.messages == ["m"]


async def test_a_trail_holds_its_heads(trail: AuditTrail, tmp_path: Path) -> None:
    """Every head that a trail had it holds; none that it had not, nor one that was cut off, replaced or altered."""
    heads = [await trail.head()]
    for number in range(1, 6):
        await trail.log_event(AuditEventType.DATA_ACCESS, f"event {number}")
        heads.append(await trail.head())
    assert [await trail.holds(head) for head in heads] == [True] * 6
    assert not await trail.holds(ChainHead(6, heads[5].checksum))
    assert not await trail.holds(ChainHead(4, heads[5].checksum))
    assert not await trail.holds(ChainHead(3, None))

    def rewrite(lines: list[str]) -> None:
        file.write_text("".join(lines))

    (file,) = (tmp_path / "audit").glob("audit_*.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    rewrite(lines[:3])
    assert [await trail.holds(head) for head in heads] == [True] * 4 + [False] * 2
    rewrite(lines[3:])
    assert not await trail.holds(heads[2])
    rewrite([*lines[:3], lines[3].replace("event 4", "event 9"), lines[4]])
    assert [await trail.holds(head) for head in heads] == [True] * 4 + [False, True]


async def test_verification_tells_its_progress(trail: AuditTrail, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verification tells how many events it has checked."""
    monkeypatch.setattr("fapilog.storage._files.lines._BLOCK_BYTES", 5_000)
    for number in range(50):
        await trail.log_event(AuditEventType.DATA_ACCESS, str(number))
    told: list[int] = []
    await trail.verify_chain_from_storage(told.append)
    assert told == sorted(set(told))
    assert told[-1] == 50
    assert len(told) > 1


@pytest.mark.parametrize("progress", [5, lambda: None, anyio.sleep], ids=["no function", "no argument", "asynchronous"])
async def test_a_progress_that_cannot_be_called_is_no_failure_of_the_trail(trail: AuditTrail, progress: Any) -> None:
    """What can't be told the progress is refused before the trail is verified, and opens no incident."""
    with pytest.raises(TypeError, match=r"^progress: expected a function of the number of events; got "):
        await trail.verify_chain_from_storage(progress)
    assert (await trail.get_statistics())["total_events"] == 0


def test_the_signature_is_the_one_that_is_decided() -> None:
    """The parameters of AuditTrail and of `log_event` are those that users rely on."""
    assert list(inspect.signature(AuditTrail).parameters) == [
        "policy",
        "storage_path",
        "alert_dispatcher",
        "storage",
        "durability",
        "alert_timeout",
        "alert_concurrency",
        "alert_buffer",
        "stop_timeout",
        "must_exist",
        "expected_head",
        "archive",
        "replica",
        "lag_limit",
    ]
