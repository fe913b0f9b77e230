"""
What users write, for the type checkers: never run.

Where a line must be refused, it is ignored with a code: a checker that accepts the line reports the comment instead.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false, reportUnusedClass=false

from pathlib import Path
from typing import IO, Any, Self, assert_type

import anyio
from blinker import NamedSignal
from fastapi import FastAPI
from litestar import Litestar
from litestar.middleware import DefineMiddleware
from opentelemetry.metrics import get_meter_provider
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware

import fapilog
from fapilog import (
    Actor,
    AlertDispatcher,
    AuditChainVerificationResult,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditOutcome,
    AuditStorage,
    AuditTrail,
    ChainHead,
    ChainStatus,
    ComplianceLevel,
    CompliancePolicy,
    DamagedRecord,
    DeliveryError,
    DeliveryReport,
    FileStorage,
    NoopAlertDispatcher,
    Retrying,
    SlackDispatcher,
    Target,
    Threshold,
    alert_dispatched,
    alert_failed,
    audit_context,
    bind_audit_context,
    compliance_alert,
    current_audit_context,
)
from fapilog.core.alerting import AlertDispatcher as SameAlertDispatcher
from fapilog.core.alerting import DurableDispatcher, Outcome
from fapilog.core.audit import AuditEvent as SameAuditEvent
from fapilog.core.audit import AuditTrail as SameAuditTrail
from fapilog.delivery.digest import Digest, digest_of
from fapilog.delivery.fallback import Fallback
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.ratelimit import RateLimit
from fapilog.delivery.route import Condition, Route, when
from fapilog.integrations.asgi import AuditMiddleware, Scope
from fapilog.observers import logs, metrics, otel
from fapilog.record.chain import Seal
from fapilog.storage.archive import Archive, DirectoryArchive, PackedFile
from fapilog.storage.archived import ArchiveStorage
from fapilog.storage.earlier import EarlierStorage
from fapilog.storage.protocol import EventFilter
from fapilog.storage.s3 import S3Archive
from fapilog.testing import RecordedAlert, RecordedTrail, RecordingDispatcher, check_archive, check_dispatcher

# -- names that are imported when they are asked for

assert_type(fapilog.Retrying(NoopAlertDispatcher()), Retrying)
assert_type(SlackDispatcher(webhook_url="https://hooks.example.com"), fapilog.SlackDispatcher)
assert_type(AuditTrail.from_config({"path": "audit"}), AuditTrail)
assert_type(AuditTrail.from_toml(Path("pyproject.toml")), AuditTrail)
assert_type(AuditTrail.from_env(), AuditTrail)
no_such_name = fapilog.NoSuchName  # type: ignore[attr-defined]

# -- dispatchers


class Pager:
    """What most people write."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        raise DeliveryError("nobody is there")


class Generous:
    """Takes more than it is given."""

    async def send_alert(
        self, event: AuditEvent, *, severity: str = "info", channel: str | None = None, urgent: bool = False
    ) -> None:
        """Send it somewhere."""


class Wrapper:
    """Has the same shape inside and outside, and something to open."""

    def __init__(self, *, inner: AlertDispatcher) -> None:
        self._inner = inner

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        assert_type(await self._inner.send_alert(event, severity=severity, channel=channel), None)


class Synchronous:
    """Is not asynchronous."""

    def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Block the event loop."""


class Demanding:
    """Can't do without a channel."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str) -> None:
        """Send it there."""


class Nameless:
    """Calls the severity something else."""

    async def send_alert(self, event: AuditEvent, *, level: str, channel: str | None = None) -> None:
        """Send it somewhere."""


class Telling:
    """Returns how it went."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> bool:
        return True


pager: AlertDispatcher = Pager()
generous: AlertDispatcher = Generous()
wrapper: AlertDispatcher = Wrapper(inner=Wrapper(inner=pager))
noop: AlertDispatcher = NoopAlertDispatcher()
recording: AlertDispatcher = RecordingDispatcher()
same: SameAlertDispatcher = pager

synchronous: AlertDispatcher = Synchronous()  # type: ignore[assignment]
demanding: AlertDispatcher = Demanding()  # type: ignore[assignment]
nameless: AlertDispatcher = Nameless()  # type: ignore[assignment]
telling: AlertDispatcher = Telling()  # type: ignore[assignment]
a_class: AlertDispatcher = Pager  # type: ignore[assignment]


# -- wrappers


def about_vips(event: AuditEvent, severity: str, channel: str | None) -> bool:
    return "vip" in event.regulatory_tags


def of_a_user(event: AuditEvent, severity: str, channel: str | None) -> str | None:
    return event.user_id


tree: AlertDispatcher = FanOut(
    [
        Digest(RateLimit(Pager(), rate=1, burst=5), window=60, key=of_a_user, bypass=["critical"]),
        Route(
            {
                when(severity="critical"): Fallback([Pager(), Generous()], timeout=8),
                when(channel="#dba", component=["db", "cache"]): FanOut((Pager(), generous), timeout=None),
                when(event_type=AuditEventType.DATA_EXPORT): RecordingDispatcher(),
                about_vips: wrapper,
                lambda event, severity, channel: event.contains_phi and channel is None: noop,
            },
            default=NoopAlertDispatcher(),
        ),
    ]
)
AuditTrail(alert_dispatcher=tree)
resumable: DurableDispatcher = FanOut([pager])
also_resumable: DurableDispatcher = Route({}, default=pager)
condition: Condition = when(severity=AuditLogLevel.CRITICAL)
routes: dict[Condition, AlertDispatcher] = {when(severity="critical"): Pager(), about_vips: noop}
Route(routes, default=pager)
assert_type(digest_of(["an id"]), str)
assert_type(condition(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=""), "info", None), bool)

FanOut(Pager())  # type: ignore[arg-type]
FanOut([Synchronous()])  # type: ignore[list-item]
FanOut([pager], 5.0)  # type: ignore[call-arg]
Fallback([pager, Pager])  # type: ignore[list-item]
Route({when(severity="critical"): pager})  # type: ignore[call-arg]
Route({when(severity="critical"): pager}, default=None)  # type: ignore[arg-type]
Route({"critical": pager}, default=noop)  # type: ignore[dict-item]
Route({when(severity="critical"): Synchronous()}, default=noop)  # type: ignore[dict-item]
when(severity=1)  # type: ignore[arg-type]
RateLimit(pager)  # type: ignore[call-arg]
Digest(pager, 60.0)  # type: ignore[call-arg]
Digest(pager, key="user_id")  # type: ignore[arg-type]
not_resumable: DurableDispatcher = Fallback([pager])  # type: ignore[assignment]


async def enters_wrappers() -> None:
    async with FanOut([pager]) as fan_out, Digest(pager) as digest, RateLimit(pager, rate=0.5, burst=1) as limit:
        assert_type(fan_out, FanOut)
        assert_type(digest, Digest)
        assert_type(
            await limit.send_alert(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=""), severity=""), None
        )


# -- policies and trails

CompliancePolicy()
CompliancePolicy(ComplianceLevel.HIPAA)
CompliancePolicy(
    level=ComplianceLevel.GDPR, enabled=False, alert_channel="#ops", alert_channels={"critical": "#on-call"}
)
CompliancePolicy("hipaa")  # type: ignore[arg-type]
CompliancePolicy(
    alert_on={AuditEventType.IMPERSONATION, AuditOutcome.DENIED, "billing.refund"},
    severities={"admin_action": "critical"},
    rules=[Threshold(["data_export"], count=1, within=60, by="actor", where=lambda event: event.contains_phi)],
)
Threshold("data_export", count=1, within=60, where=lambda event: event.message)  # type: ignore[arg-type, return-value]
Threshold("data_export")  # type: ignore[call-arg]
CompliancePolicy(encrypt_audit_logs=True)  # type: ignore[call-arg]

AuditTrail()
AuditTrail(CompliancePolicy(), Path("audit"), pager)
AuditTrail(alert_dispatcher=Wrapper(inner=Pager()), alert_timeout=5, alert_concurrency=1, alert_buffer=10)
AuditTrail(storage=FileStorage(Path("audit"), durability="write"), stop_timeout=1.5)
AuditTrail(storage_path=Path("audit"), durability="write")
AuditTrail(durability="sometimes")  # type: ignore[arg-type]
AuditTrail(alert_dispatcher=Synchronous())  # type: ignore[arg-type]
AuditTrail(alert_dispatcher=Pager)  # type: ignore[arg-type]
AuditTrail(None, None, None, FileStorage(Path("audit")))  # type: ignore[call-arg]


async def records(trail: AuditTrail) -> None:
    async with trail as entered:
        assert_type(entered, AuditTrail)
    async with SameAuditTrail() as other:
        assert_type(other, AuditTrail)

    assert_type(
        await trail.log_event(
            AuditEventType.CONFIG_CHANGED,
            "the limit was raised",
            log_level=AuditLogLevel.WARNING,
            outcome=AuditOutcome.SUCCESS,
            target=Target(type="limit", id="7"),
            actor=Actor(id="ci", type="service"),
            changes={"limit": (1, 2)},
            component="limits",
            operation="raise",
            error=ValueError(),
            user_id="alice",
            session_id=None,
            request_id="r-1",
            client_ip="192.0.2.1",
            user_agent="curl",
            contains_pii=True,
            contains_phi=False,
            data_classification="internal",
            regulatory_tags=["SOX-404"],
            metadata={"old": 1, "new": 2},
        ),
        str,
    )
    assert_type(await trail.log_error(KeyboardInterrupt(), operation="boot", component="kernel", user_id="root"), str)
    assert_type(
        await trail.log_security_event(
            AuditEventType.AUTHENTICATION_FAILED, "wrong password", user_id="alice", metadata={"tries": 3}
        ),
        str,
    )
    assert_type(await trail.log_data_access("patients/7", "read", contains_phi=True, client_ip="192.0.2.1"), str)
    await trail.log_event(AuditEventType.DATA_ACCESS)  # type: ignore[call-arg]
    await trail.log_event("billing.refund", "refunded", outcome="success", log_level="warning")
    await trail.log_event(AuditEventType.DATA_ACCESS, "read", userid="alice")  # type: ignore[call-arg]
    await trail.log_event(AuditEventType.DATA_ACCESS, "read", log_level="warn")  # type: ignore[arg-type]
    await trail.log_event(AuditEventType.DATA_ACCESS, "read", contains_phi="false")  # type: ignore[arg-type]
    await trail.log_error("not an exception")  # type: ignore[arg-type]
    await trail.log_change("user/7", {"role": ("user", "admin"), "age": [6, 7], "name": (None, "Ann")}, user_id="root")
    await trail.log_change("user/7", {"role": "admin"})  # type: ignore[dict-item]
    await trail.log_event("billing.refund", "refunded", changes={"state": "paid"})  # type: ignore[dict-item]


async def reads(trail: AuditTrail) -> None:
    assert_type(await trail.get_events(event_type=AuditEventType.DATA_ACCESS, limit=10), list[AuditEvent])
    assert_type(await trail.head(), ChainHead)
    assert_type(await trail.get_statistics(), dict[str, Any])
    verdict = await trail.verify_chain_from_storage()
    assert_type(verdict, AuditChainVerificationResult)
    assert_type(AuditTrail.verify_chain(await trail.get_events()), AuditChainVerificationResult)
    assert_type(verdict.valid, bool)
    assert_type(verdict.first_invalid_sequence, int | None)
    assert_type(verdict.status, ChainStatus)
    await trail.get_events(limit="all")  # type: ignore[arg-type]
    await trail.get_events(userid="alice")  # type: ignore[call-arg]
    await trail.get_events(user_id=5)  # type: ignore[arg-type]
    assert_type(await trail.count_by("user_id", event_type=[AuditEventType.DATA_ACCESS]), dict[str, int])
    async for event in trail.events(oldest_first=True, target="patient/42"):
        assert_type(event, AuditEvent)
    async for item in trail.events(on_damage="yield"):
        assert_type(item, AuditEvent | DamagedRecord)
    async for event in trail.events(on_damage="raise"):
        assert_type(event, AuditEvent)
    for same in trail.sync.events(on_damage="yield"):
        assert_type(same, AuditEvent | DamagedRecord)
    trail.events(on_damage="skip")  # type: ignore[call-overload]
    trail.events(user="alice")  # type: ignore[call-overload]


def sees(event: SameAuditEvent) -> None:
    assert_type(event, AuditEvent)
    assert_type(event.event_type, AuditEventType)
    assert_type(event.log_level, AuditLogLevel)
    assert_type(event.event_id, str)
    assert_type(event.sequence_number, int | None)
    assert_type(event.metadata["anything"], Any)
    event.message = "something else"  # type: ignore[misc]
    event.metadata["more"] = 1  # type: ignore[index]
    AuditEvent(message="without a type")  # type: ignore[call-arg]


class Legacy(AuditTrail):
    """A subclass as they were written for the earlier fapilog."""

    async def _send_compliance_alert(self, event: AuditEvent) -> None:
        await super()._send_compliance_alert(event)


class Memory:
    """A storage that keeps nothing."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        return Seal(sequence_number=1, previous_hash=None, checksum="")

    async def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent]:
        return []

    async def read(self, after: int, limit: int) -> list[AuditEvent]:
        return []

    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        return []

    async def verify(self, progress: object = None) -> AuditChainVerificationResult:
        return AuditChainVerificationResult(valid=True, events_checked=0)

    async def aclose(self) -> None:
        """Close nothing."""


storage: AuditStorage = Memory()
not_a_storage: AuditStorage = Pager()  # type: ignore[assignment]
AuditTrail(storage=Memory())


class Shelf:
    """An archive that keeps nothing."""

    def sizes(self) -> dict[str, int]:
        return {}

    def put(self, file: PackedFile) -> None:
        """Keep nothing."""

    def prove(self, file: PackedFile) -> None:
        """Believe it."""

    def open(self, name: str, size: int | None = None) -> IO[bytes]:
        return Path(name).open("rb")


archive: Archive = Shelf()
archive = S3Archive("clinic-audit", prefix="eu", lock_days=2190)
archive = DirectoryArchive("archive")
not_an_archive: Archive = Memory()  # type: ignore[assignment]
AuditTrail(storage_path="audit", archive=archive)
AuditTrail(storage_path="audit", archive="s3://clinic-audit/eu")
AuditTrail(storage=ArchiveStorage(archive))
AuditTrail(storage=EarlierStorage("old"))
check_archive(archive)
S3Archive("clinic-audit", "eu")  # type: ignore[call-arg]


# -- context and applications


@audit_context(component="exports")
async def export_all(path: Path, *, rows: int = 1) -> bool:
    """Export."""
    return rows > len(path.name)


@audit_context(component="exports")
def count_all(path: Path) -> int:
    """Count."""
    return len(path.name)


async def in_decorated_functions() -> None:
    """Call functions that are blocks."""
    assert_type(await export_all(Path("x"), rows=2), bool)
    assert_type(count_all(Path("x")), int)
    count_all("x")  # type: ignore[arg-type]
    audit_context(component="exports")(1)  # type: ignore[type-var]


async def in_context(trail: AuditTrail) -> None:
    """Log in a context."""
    with audit_context(user_id=lambda: "alice", tenant=7) as nothing:
        assert_type(nothing, None)
        bind_audit_context(request_id="r-1")
        assert_type(current_audit_context(), dict[str, Any])
    async with trail.lifespan():
        pass
    async with trail.lifespan(Pager()):
        pass


def user_of(scope: Scope) -> str | None:
    """Return the user."""
    return scope.get("user")


def of_fastapi(trail: AuditTrail) -> None:
    """Add it to an application, or wrap one."""
    fastapi = FastAPI(lifespan=trail.lifespan)
    fastapi.add_middleware(AuditMiddleware, trail=trail, user=user_of, log_requests=True)
    fastapi.add_middleware(AuditMiddleware, nothing=True)  # type: ignore[call-arg]
    AuditMiddleware(AuditMiddleware(fastapi), log_requests=lambda method, path, status: method != "GET")
    AuditMiddleware(fastapi, user="alice")  # type: ignore[arg-type]


def of_starlette(trail: AuditTrail) -> None:
    """Give it to an application."""
    Starlette(lifespan=trail.lifespan, middleware=[Middleware(AuditMiddleware, trail=trail, trusted_proxies=1)])


def of_litestar(trail: AuditTrail) -> None:
    """Wrap an application, or give it the middleware."""
    AuditMiddleware(Litestar(lifespan=[trail.lifespan]), session=lambda scope: scope["session"]["id"])
    DefineMiddleware(AuditMiddleware, trail=trail)


# -- signals

assert_type(compliance_alert, NamedSignal)
assert_type(alert_dispatched, NamedSignal)
assert_type(alert_failed, NamedSignal)


@compliance_alert.connect
def announced(trail: AuditTrail, *, event: AuditEvent, severity: str, channel: str | None) -> None:
    """Receive from every trail."""


@alert_failed.connect
async def failed(trail: AuditTrail, *, report: DeliveryReport) -> None:
    assert_type(report.event, AuditEvent)
    assert_type(report.waited, float)
    assert_type(report.error, Exception | None)
    assert_type(report.outcome, Outcome)
    report.took = 0  # type: ignore[misc]


# What is connected keeps its own type.
announced(AuditTrail(), event=AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=""), severity="", channel=None)
announced(AuditTrail())  # type: ignore[call-arg]
compliance_alert.connect(announced, sender=AuditTrail(), weak=False)


# -- observers

assert_type(logs.connect(), logs.Connection)
assert_type(logs.connect(sender=AuditTrail(), logger="shop.alerts"), logs.Connection)
assert_type(metrics.connect(registry=CollectorRegistry()), metrics.Connection)
assert_type(otel.connect(meter_provider=get_meter_provider()).disconnect(), None)
metrics.connect(outboxes=[Outbox(pager, "alerts.db", name="pager")])
otel.connect(outboxes=(Outbox(pager, Path("alerts.db")), Outbox(noop, "alerts.db", name="none")))
watched: metrics.HasState = Outbox(pager, "alerts.db")
also_watched: otel.HasState = watched
metrics.connect(outboxes=[pager])  # type: ignore[list-item]
otel.connect(outboxes=Outbox(pager, "alerts.db"))  # type: ignore[arg-type]
logs.connect(sender="all of them")  # type: ignore[arg-type]
metrics.connect(AuditTrail())  # type: ignore[call-arg]

with logs.connect() as connection, metrics.connect(), otel.connect():
    assert_type(connection, logs.Connection)


# -- testing


async def tests() -> None:
    await check_dispatcher(NoopAlertDispatcher)
    await check_dispatcher(lambda: Wrapper(inner=Pager()), failing=Pager, secrets=["token"], timeout=5)
    await check_dispatcher(Pager())  # type: ignore[arg-type]
    await check_dispatcher(Synchronous)  # type: ignore[arg-type]

    dispatcher = RecordingDispatcher(wait=anyio.Event().wait, error=DeliveryError())
    assert_type(await dispatcher.wait_for(2), list[RecordedAlert])
    assert_type(dispatcher.alerts[0].event, AuditEvent)
    assert_type(dispatcher.alerts[0].channel, str | None)


def without_await(trail: AuditTrail) -> None:
    """The methods of `sync` take and give what those with await do."""
    assert_type(trail.sync.log_event(AuditEventType.DATA_ACCESS, "m", user_id="alice", metadata={"anything": 1}), str)
    assert_type(trail.sync.log_error(ValueError("v")), str)
    assert_type(trail.sync.get_events(limit=1), list[AuditEvent])
    assert_type(trail.sync.verify_chain_from_storage(), AuditChainVerificationResult)
    assert_type(trail.sync.head(), ChainHead)
    with trail.sync as sync:
        assert_type(sync.holds(ChainHead(0, None)), bool)
    trail.sync.log_event(AuditEventType.DATA_ACCESS)  # type: ignore[call-arg]
    trail.sync.get_events(limit="1")  # type: ignore[arg-type]
    for event in trail.sync.events(min_level=AuditLogLevel.ERROR):
        assert_type(event, AuditEvent)


# -- tests


async def test_with_the_fixture(audit_trail: RecordedTrail) -> None:
    """Takes the fixture of the pytest plugin."""
    trail: AuditTrail = audit_trail
    await trail.log_event(AuditEventType.DATA_ACCESS, "read")
    assert_type(audit_trail.events[0], AuditEvent)
    assert_type([event async for event in audit_trail.events(user_id="alice")], list[AuditEvent])
    assert_type(list(audit_trail.alerts), list[RecordedAlert])
