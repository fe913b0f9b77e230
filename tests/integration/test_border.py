"""Whatever receivers, dispatchers, storages and log handlers raise: it hurts neither the service nor another alert."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    DeliveryReport,
    FileStorage,
    alert_attempted,
    alert_dispatched,
    alert_failed,
    compliance_alert,
)
from fapilog.core.alerting import AlertDispatcher
from fapilog.delivery.digest import Digest
from fapilog.delivery.fallback import Fallback
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.ratelimit import RateLimit
from fapilog.delivery.retry import Retrying
from fapilog.delivery.route import Route
from fapilog.record.chain import ChainHead
from fapilog.testing import RecordingDispatcher


class PanicException(BaseException):
    """As PyO3 calls the panic of an extension module that is written in Rust."""


class Liar(PanicException):
    """Claims to be another exception, which `isinstance` believes and ``except`` does not."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return KeyboardInterrupt


class Unreadable(Exception):
    """Raises when it is asked for its past, or is to have another one."""

    def _fail(self, *_: object) -> Any:
        raise LookupError("t0k3n")

    __cause__ = __context__ = __traceback__ = __notes__ = property(_fail, _fail)


STRANGE = [
    asyncio.CancelledError("t0k3n"),
    BaseExceptionGroup("t0k3n", [PanicException("t0k3n"), ValueError()]),
    Liar("t0k3n"),
    Unreadable("t0k3n"),
    *(
        pytest.param(error("t0k3n"), marks=pytest.mark.slow)
        for error in (ValueError, GeneratorExit, StopIteration, PanicException)
    ),
]
strange = pytest.mark.parametrize("error", STRANGE, ids=lambda error: type(error).__qualname__)
started_or_not = pytest.mark.parametrize("started", [True, False], ids=["started", "not_started"])


class Raising:
    """Raises *error* for the alerts about the message "bad"; *told* are the others."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.told: list[str] = []

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        if event.message == "bad":
            raise self.error
        self.told.append(event.message)


@pytest.fixture
def reports() -> Iterator[list[DeliveryReport]]:
    found: list[DeliveryReport] = []

    def note(_: object, *, report: DeliveryReport) -> None:
        found.append(report)

    alert_dispatched.connect(note)
    alert_failed.connect(note)
    yield found
    alert_dispatched.disconnect(note)
    alert_failed.disconnect(note)


async def use(trail: AuditTrail, *, started: bool) -> None:
    """Log "bad" and "good", and see that both are stored, and that the trail stops."""
    with anyio.fail_after(100):
        if started:
            await trail.start()
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "bad")
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "good")
        await trail.drain()
        logged = {event.message for event in await trail.get_events()}
        await trail.stop()
    assert {"good", "bad"} <= logged


def outcomes(reports: list[DeliveryReport]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for report in reports:
        if report.event.event_type is AuditEventType.SECURITY_VIOLATION:
            found.setdefault(report.event.message, []).append(report.outcome)
    return found


@started_or_not
@strange
async def test_a_dispatcher_raises(
    tmp_path: Path, reports: list[DeliveryReport], error: BaseException, *, started: bool
) -> None:
    """A dispatcher that raises anything fails its own alert, with a report, and no other."""
    dispatcher = Raising(error)
    await use(AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher), started=started)
    assert "good" in dispatcher.told
    assert outcomes(reports) == {"bad": ["error"], "good": ["dispatched"]}
    assert not any("t0k3n" in str(report.reason) for report in reports)


WRAPPERS: dict[str, Callable[[AlertDispatcher], AlertDispatcher]] = {
    "RateLimit": lambda inner: RateLimit(inner, rate=100, burst=10),
    "Digest": lambda inner: Digest(inner, window=10),
    "Retrying": lambda inner: Retrying(inner, attempts=2),
    "Route": lambda inner: Route({}, default=inner),
    "FanOut": lambda inner: FanOut([inner, RecordingDispatcher()]),
    "Fallback": lambda inner: Fallback([inner, Raising(PanicException())]),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
@strange
async def test_a_wrapped_dispatcher_raises(
    tmp_path: Path, reports: list[DeliveryReport], error: BaseException, wrapper: str
) -> None:
    """In a wrapper too, one that raises anything fails its own alert, with one report, and no other."""
    dispatcher = Raising(error)
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=WRAPPERS[wrapper](dispatcher), alert_timeout=500)
    await use(trail, started=True)
    assert "good" in dispatcher.told
    found = outcomes(reports)
    assert found["good"] == ["dispatched"]
    assert found["bad"] != ["dispatched"]
    assert len(found["bad"]) == 1


@pytest.mark.slow_on_trio
@strange
async def test_in_an_outbox_it_is_an_attempt(tmp_path: Path, error: BaseException) -> None:
    """For an outbox it is an attempt like any other: the alert waits as the schedule says, and is dead at its end."""
    dispatcher = Raising(error)
    outbox = Outbox(dispatcher, tmp_path / "alerts.db", schedule=[10.0, 20.0], now=anyio.current_time)
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=outbox)
    await use(trail, started=True)
    (pending,) = [alert for alert in await outbox.pending() if alert.severity == "security"]
    assert pending.attempts == 1
    async with trail:
        await anyio.sleep(60)
    dead = [alert.attempts for alert in await outbox.dead() if alert.severity == "security"]
    assert dead == [3]
    assert "good" in dispatcher.told


@pytest.mark.parametrize("when", ["entering", "leaving"])
@strange
async def test_entering_or_leaving_raises(tmp_path: Path, error: BaseException, when: str) -> None:
    """A trail whose dispatcher can't be entered is not started; one whose dispatcher can't be left is stopped."""

    class Manager(RecordingDispatcher):
        async def __aenter__(self) -> None:
            if when == "entering":
                raise error

        async def __aexit__(self, *_: object) -> None:
            raise error

    dispatcher = Manager()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)
    if when == "entering":
        with pytest.raises((type(error), RuntimeError, AuditStorageError, Exception)):
            await trail.start()
        assert not trail.is_started
    await use(trail, started=when != "entering")
    assert [alert.event.message for alert in dispatcher.alerts] == ["bad", "good"]


SIGNALS = [compliance_alert, alert_dispatched, alert_failed, alert_attempted]


@pytest.mark.parametrize(("kind", "started"), [("plain", False), ("asynchronous", True)])
@strange
async def test_receivers_raise(
    tmp_path: Path, reports: list[DeliveryReport], error: BaseException, kind: str, *, started: bool
) -> None:
    """Receivers of any signal that raise anything stop no other receiver, and change no report."""

    def plain(*_: object, **__: object) -> None:
        raise error

    async def asynchronous(*_: object, **__: object) -> None:
        await anyio.lowlevel.checkpoint()
        raise error

    announced: list[str] = []

    def note(_: object, *, event: AuditEvent, **__: object) -> None:
        announced.append(event.message)

    dispatcher = Raising(OSError())
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)
    raising: Any = plain if kind == "plain" else asynchronous
    for signal in SIGNALS:
        signal.connect(raising, sender=trail)
    compliance_alert.connect(note, sender=trail)
    await use(trail, started=started)
    assert outcomes(reports) == {"bad": ["error"], "good": ["dispatched"]}
    assert {"bad", "good"} <= set(announced)
    assert "good" in dispatcher.told


@strange
async def test_a_storage_raises(tmp_path: Path, error: BaseException) -> None:
    """Whatever a storage raises, `log_event` raises `AuditStorageError`, and the next event is stored."""

    class Strange(FileStorage):
        is_bad = True

        async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
            if self.is_bad:
                raise error
            return await super().append(event, once=once)

    storage = Strange(tmp_path)
    async with AuditTrail(storage=storage) as trail:
        for log in (trail.log_event, trail.log_security_event):
            with pytest.raises(AuditStorageError):
                await log(AuditEventType.SECURITY_VIOLATION, "m")
        storage.is_bad = False
        await trail.log_event(AuditEventType.DATA_ACCESS, "stored")
        assert "stored" in {event.message for event in await trail.get_events()}


@strange
async def test_a_storage_that_is_read_raises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    """Whatever a storage raises when it is read, the trail raises an exception, and no end of the service."""

    async def fail(*_: object) -> Any:
        raise error

    storage = FileStorage(tmp_path)
    for name in ("find", "read", "read_lines", "verify"):
        monkeypatch.setattr(storage, name, fail)
    trail = AuditTrail(storage=storage)
    for ask in (
        trail.get_events,
        trail.head,
        lambda: trail.holds(ChainHead(1, "0" * 64)),
        lambda: trail.count_by("user_id"),
        lambda: anext(trail.events(oldest_first=True)),
        trail.verify_chain_from_storage,
    ):
        # A `BaseException` would not be caught.
        with pytest.raises(Exception):  # noqa: B017, PT011
            await ask()


@pytest.mark.slow
@pytest.mark.parametrize(("where", "started"), [("filter", True), ("handler", False)])
@strange
async def test_logging_raises(
    tmp_path: Path, reports: list[DeliveryReport], error: BaseException, where: str, *, started: bool
) -> None:
    """A log filter or handler that raises anything changes nothing: all is stored, sent and reported."""

    class Handler(logging.Handler):
        def filter(self, record: logging.LogRecord) -> bool:
            if where == "filter":
                raise error
            return True

        def emit(self, record: logging.LogRecord) -> None:
            raise error

    def buggy(*_: object, **__: object) -> None:
        raise ValueError

    handler = Handler()
    outbox = Outbox(Raising(OSError()), tmp_path / "alerts.db")
    dispatcher = Raising(OSError())
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=FanOut([dispatcher, outbox]))
    compliance_alert.connect(buggy, sender=trail)
    logging.getLogger("fapilog").addHandler(handler)
    try:
        await use(trail, started=started)
    finally:
        logging.getLogger("fapilog").removeHandler(handler)
    assert {message: len(found) for message, found in outcomes(reports).items()} == {"bad": 1, "good": 1}
    assert "good" in dispatcher.told
