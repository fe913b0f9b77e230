"""Trying again: when, how long, how often, and when not."""

import logging
from pathlib import Path

import anyio
import pytest

from fapilog import (
    AlertDispatcher,
    AmbiguousDeliveryError,
    AuditEvent,
    AuditEventType,
    AuditTrail,
    DeliveryReport,
    NoopAlertDispatcher,
    PermanentDeliveryError,
    TransientDeliveryError,
    alert_attempted,
)
from fapilog.delivery.retry import Attempt, Retrying
from fapilog.testing import RecordingDispatcher, check_dispatcher
from tests.clock import jumping_backend
from tests.doubles.scripted_dispatcher import Scripted

EVENT = AuditEvent(event_type=AuditEventType.SECURITY_VIOLATION, message="someone opened the safe")
BUSY = TransientDeliveryError("busy")


def steady(inner: AlertDispatcher, **options: float) -> Retrying:
    """Return one without chance."""
    return Retrying(inner, **{"wait_jitter": 0} | options)  # type: ignore[arg-type]


async def test_it_tries_until_it_is_taken() -> None:
    """A transient error is tried again, after waits that double."""
    inner = Scripted(BUSY, BUSY, BUSY, None)
    await steady(inner).send_alert(EVENT, severity="critical", channel="#on-call")
    assert inner.waits == [0.5, 1.0, 2.0]


async def test_waits_have_a_limit() -> None:
    """No wait is longer than *wait_max*, however many tries there are."""
    inner = Scripted(BUSY)
    with pytest.raises(TransientDeliveryError):
        await steady(inner, attempts=100, wait_max=4.0, timeout=20_000.0).send_alert(EVENT, severity="info")
    assert len(inner.calls) == 100
    assert inner.waits[:5] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert max(inner.waits) == 4.0


def test_a_pause_is_not_measured_by_the_clock_of_another_loop() -> None:
    """Trio's clocks begin anywhere: a pause that was asked for in one loop is no longer in the next."""
    inner = Scripted(TransientDeliveryError("busy", retry_after=0.01), None)
    retrying = steady(inner, attempts=1, wait_initial=0)

    async def late() -> None:
        await anyio.sleep(50_000)
        with pytest.raises(TransientDeliveryError):
            await retrying.send_alert(EVENT, severity="info")

    async def early() -> None:
        await retrying.send_alert(EVENT, severity="info")

    for call in (late, early):
        backend, options = jumping_backend("trio")
        anyio.run(call, backend=backend, backend_options=options)
    assert len(inner.calls) == 2


async def test_the_last_error_is_raised() -> None:
    """When the tries are over, the error of the last one is raised, as it is."""
    last = TransientDeliveryError("still busy")
    inner = Scripted(BUSY, last)
    with pytest.raises(TransientDeliveryError) as caught:
        await steady(inner, attempts=2).send_alert(EVENT, severity="info")
    assert caught.value is last
    assert caught.value.__cause__ is None
    assert len(inner.calls) == 2


@pytest.mark.parametrize(
    "error", [PermanentDeliveryError("gone"), AmbiguousDeliveryError("no answer"), ValueError("a mistake")]
)
async def test_nothing_else_is_tried_again(error: Exception) -> None:
    """After any other error the dispatcher is not called again."""
    inner = Scripted(error, None)
    with pytest.raises(type(error)) as caught:
        await Retrying(inner).send_alert(EVENT, severity="info")
    assert caught.value is error
    assert len(inner.calls) == 1


async def test_jitter_spreads_the_waits() -> None:
    """Each wait has up to *wait_jitter* more at random."""
    waits: set[float] = set()
    for _ in range(20):
        inner = Scripted(BUSY, None)
        await Retrying(inner, wait_initial=1.0, wait_jitter=2.0).send_alert(EVENT, severity="info")
        waits.update(inner.waits)
    assert all(1.0 <= wait <= 3.0 for wait in waits)
    assert len(waits) > 10


@pytest.mark.parametrize("seconds", [0.0, 0.001, 7.5, 58.0])
async def test_what_the_target_asks_for_counts(seconds: float) -> None:
    """The pause that an error asks for counts where it is longer than the wait that would come anyway."""
    inner = Scripted(*[TransientDeliveryError("slowly", retry_after=seconds)] * 2, None)
    await steady(inner, wait_max=5.0, timeout=1000.0).send_alert(EVENT, severity="info")
    assert inner.waits == [max(0.5, seconds), max(1.0, seconds)]


@pytest.mark.parametrize("nonsense", [float("nan"), -5.0, float("-inf")])
async def test_a_pause_that_makes_no_sense_is_ignored(nonsense: float) -> None:
    """What is no number of seconds counts as if nothing was asked for."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=nonsense), None)
    await steady(inner).send_alert(EVENT, severity="info")
    assert inner.waits == [0.5]


async def test_a_pause_holds_for_all_alerts() -> None:
    """While one alert was told to wait, no other goes to the target; afterwards all do."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=20.0), None)
    retrying = steady(inner)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(lambda: retrying.send_alert(EVENT, severity="info"))
            await anyio.sleep(1)
    assert inner.waits[0] == 20.0
    assert len(inner.calls) == 6


async def test_it_never_sleeps_past_its_time() -> None:
    """A wait that would end after the time is not begun; the error is raised at once, and so for the next alert."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=90.0), None)
    retrying = steady(inner)
    began = anyio.current_time()
    for asked in (90.0, 90.0):
        with pytest.raises(TransientDeliveryError) as caught:
            await retrying.send_alert(EVENT, severity="info")
        assert caught.value.retry_after == asked
    assert anyio.current_time() == began
    assert len(inner.calls) == 1
    await anyio.sleep(31)
    await retrying.send_alert(EVENT, severity="info")
    assert inner.waits == [90.0]


async def test_a_clock_that_is_wrong_stops_alerts_for_an_hour_at_most() -> None:
    """A pause of years holds for an hour."""
    inner = Scripted(TransientDeliveryError("slowly", retry_after=float("inf")), None)
    retrying = steady(inner)
    with pytest.raises(TransientDeliveryError):
        await retrying.send_alert(EVENT, severity="info")
    await anyio.sleep(3600)
    await retrying.send_alert(EVENT, severity="info")


async def test_the_time_ends_a_try() -> None:
    """A try that is under way when the time is over is cancelled, and nobody knows what became of it."""
    began = anyio.current_time()
    with pytest.raises(AmbiguousDeliveryError, match="60 s"):
        await Retrying(RecordingDispatcher(wait=anyio.sleep_forever)).send_alert(EVENT, severity="info")
    assert anyio.current_time() - began == pytest.approx(60.0)


async def test_each_try_is_reported() -> None:
    """Every try is reported with its number, its error and the wait that follows."""
    attempts: list[Attempt] = []
    inner = Scripted(BUSY, None)
    retrying = Retrying(inner, wait_jitter=0, on_attempt=attempts.append)
    await retrying.send_alert(EVENT, severity="critical", channel="#on-call")
    first, second = attempts
    assert (first.number, first.error, first.wait, first.took) == (1, BUSY, 0.5, 0)
    assert (second.number, second.error, second.wait, second.took) == (2, None, None, 0)
    assert (first.event, first.severity, first.channel) == (EVENT, "critical", "#on-call")


async def test_the_last_try_is_reported_without_a_wait() -> None:
    """Where no other try follows, for the tries or the time are over, the report says so."""
    attempts: list[Attempt] = []
    for options in ({"attempts": 1}, {"timeout": 0.4}):
        retrying = Retrying(Scripted(BUSY), wait_jitter=0, on_attempt=attempts.append, **options)
        with pytest.raises(TransientDeliveryError):
            await retrying.send_alert(EVENT, severity="info")
    assert [(each.number, each.wait) for each in attempts] == [(1, None), (1, None)]


async def test_a_report_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What *on_attempt* raises is logged by its type, and the alert goes on."""

    def fails(_: Attempt) -> None:
        raise RuntimeError("t0k3n")

    await steady(Scripted(BUSY, None)).send_alert(EVENT, severity="info")
    await Retrying(Scripted(None), on_attempt=fails).send_alert(EVENT, severity="info")
    assert "on_attempt raised RuntimeError" in caplog.text
    assert "t0k3n" not in caplog.text


async def test_a_try_that_failed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which alert waits, how long and why."""
    await steady(Scripted(BUSY, None)).send_alert(EVENT, severity="info")
    [message] = [record.getMessage() for record in caplog.records if record.name == "fapilog.delivery"]
    assert message == f"try 1 to deliver the alert about event {EVENT.event_id} failed, the next is in 0.5 s: busy"


async def test_a_wait_is_no_business_of_a_log_that_raises() -> None:
    """A filter of the application's log that raises, as outside of a request, does not keep an alert from its retry."""

    def refuse(_: logging.LogRecord) -> bool:
        raise LookupError

    root, inner = logging.getLogger(), Scripted(BUSY, BUSY, None)
    handlers = root.handlers.copy()
    for handler in handlers:
        handler.addFilter(refuse)
    try:
        await steady(inner).send_alert(EVENT, severity="info")
    finally:
        for handler in handlers:
            handler.removeFilter(refuse)
    assert handlers
    assert inner.waits == [0.5, 1.0]


async def test_cancellation_passes() -> None:
    """A cancelled wait ends at once."""
    inner = Scripted(BUSY)
    with anyio.move_on_after(0.2) as limit:
        await steady(inner).send_alert(EVENT, severity="info")
    assert limit.cancelled_caught
    assert len(inner.calls) == 1


BAD_OPTIONS = [
    {"attempts": 0},
    {"timeout": 0},
    {"timeout": float("nan")},
    {"wait_initial": -1},
    {"wait_max": float("inf")},
    {"wait_jitter": float("nan")},
]


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_options_are_checked(options: dict[str, float]) -> None:
    """A number out of range is refused at construction."""
    with pytest.raises(ValueError, match=r"^\w+: expected"):
        steady(NoopAlertDispatcher(), **options)


@pytest.mark.real_time
async def test_a_lost_answer_is_tried_again_where_that_does_no_harm() -> None:
    """After an ambiguous error it tries again if the target takes an alert once, or if its user wants it anyway."""
    lost, known = AmbiguousDeliveryError("lost"), AmbiguousDeliveryError("lost", repeatable=True)
    for inner, wants in ((Scripted(known, None), False), (Scripted(lost, None), True)):
        soon = Retrying(inner, retry_ambiguous=wants, wait_initial=0.01, wait_jitter=0.01)
        await soon.send_alert(EVENT, severity="info")
        assert len(inner.calls) == 2
    with pytest.raises(AmbiguousDeliveryError):
        await Retrying(Scripted(lost, None)).send_alert(EVENT, severity="info")


async def test_each_try_is_announced(tmp_path: Path) -> None:
    """In a trail each try is announced on `alert_attempted`, with its target, its number and its outcome."""
    reports: list[DeliveryReport] = []

    def note(_: object, *, report: DeliveryReport) -> None:
        reports.append(report)

    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=steady(Scripted(BUSY, None)))
    alert_attempted.connect(note, sender=trail)
    async with trail:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        await trail.drain()
    assert [(each.target, each.attempt, each.outcome, each.waited) for each in reports] == [
        ("Scripted", 1, "transient", 0.0),
        ("Scripted", 2, "dispatched", 0.5),
    ]


async def test_it_keeps_the_contract() -> None:
    """It is a dispatcher as the contract says, around one that takes alerts and around one that does not."""
    await check_dispatcher(
        lambda: Retrying(NoopAlertDispatcher()),
        failing=lambda: Retrying(Scripted(TransientDeliveryError("busy")), wait_initial=0, wait_jitter=0),
    )
