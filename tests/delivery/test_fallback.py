"""The next one when one fails: in which order, when, and what is said of it."""

import anyio
import pytest

from fapilog import (
    AlertDispatcher,
    AmbiguousDeliveryError,
    DeliveryError,
    NoopAlertDispatcher,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.core.alerting import DurableDispatcher
from fapilog.delivery.fallback import Fallback
from fapilog.testing import RecordingDispatcher, check_dispatcher
from tests.doubles.dispatchers import Managed, event
from tests.doubles.outboxes import owned
from tests.doubles.scripted_dispatcher import Scripted

GONE = PermanentDeliveryError("gone")
BUSY = TransientDeliveryError("busy", retry_after=7.0)


async def test_the_first_takes_it_and_no_other_is_asked(caplog: pytest.LogCaptureFixture) -> None:
    """As long as the first takes alerts, the others get none, and nothing is logged."""
    first, second = RecordingDispatcher(), RecordingDispatcher()
    await Fallback([first, second]).send_alert(event(), severity="critical", channel="#on-call")
    [alert] = first.alerts
    assert (alert.event, alert.severity, alert.channel) == (event(), "critical", "#on-call")
    assert not second.alerts
    assert not caplog.records


@pytest.mark.parametrize("error", [GONE, BUSY, AmbiguousDeliveryError("no answer"), ValueError("t0k3n")])
async def test_the_next_is_asked_when_one_fails(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """After any exception the next gets the alert, as it is, and one warning says who has it and who failed why."""
    first, second, third = RecordingDispatcher(error=error), RecordingDispatcher(), RecordingDispatcher()
    await Fallback([first, second, third]).send_alert(event(7), severity="critical", channel="#on-call")
    [alert] = second.alerts
    assert (alert.event, alert.severity, alert.channel) == (event(7), "critical", "#on-call")
    assert (len(first.alerts), len(third.alerts)) == (1, 0)
    [record] = caplog.records
    why = str(error) if isinstance(error, DeliveryError) else "ValueError"
    assert (record.name, record.levelname) == ("fapilog.delivery", "WARNING")
    assert record.getMessage() == (
        f"the alert about event {event(7).event_id} (record 7) went to number 2 (RecordingDispatcher), "
        f"after others failed: number 1 (RecordingDispatcher): {why}"
    )


async def test_the_next_is_asked_when_one_is_too_slow() -> None:
    """Who takes longer than its time is cancelled; the others each have their own."""
    slow, last = RecordingDispatcher(wait=anyio.sleep_forever), RecordingDispatcher(wait=lambda: anyio.sleep(9))
    began = anyio.current_time()
    await Fallback([slow, last]).send_alert(event(), severity="info")
    assert anyio.current_time() - began == pytest.approx(19)


async def test_if_all_fail_one_error_tells_of_all() -> None:
    """The error names each and its reason, and is transient if one is."""
    inner = [RecordingDispatcher(error=GONE), RecordingDispatcher(error=BUSY), Managed(error=ValueError("t0k3n"))]
    with pytest.raises(TransientDeliveryError) as caught:
        await Fallback(inner).send_alert(event(), severity="info")
    assert caught.value.retry_after == 7.0
    assert str(caught.value) == (
        "fallback: 0 of 3 dispatchers have the alert; not number 1 (RecordingDispatcher): gone; "
        "not number 2 (RecordingDispatcher): busy; not number 3 (Managed): ValueError"
    )


async def test_a_retry_begins_with_the_first() -> None:
    """The next call asks from the first on again, whatever happened before."""
    first, second = RecordingDispatcher(error=BUSY), RecordingDispatcher()
    fallback = Fallback([first, second])
    await fallback.send_alert(event(), severity="info")
    first.error = None
    await fallback.send_alert(event(), severity="info")
    assert (len(first.alerts), len(second.alerts)) == (2, 1)


async def test_a_cancelled_call_asks_no_other() -> None:
    """Cancellation from outside passes, and is no reason to try the next."""
    second = RecordingDispatcher()
    with anyio.move_on_after(5) as limit:
        await Fallback([RecordingDispatcher(wait=anyio.sleep_forever), second]).send_alert(event(), severity="info")
    assert limit.cancelled_caught
    assert not second.alerts


async def test_each_attempt_is_announced() -> None:
    """The trail hears of each attempt: at what, the how manyth, when, how long, and how it ended."""
    fallback = Fallback([Managed(error=GONE), RecordingDispatcher(wait=lambda: anyio.sleep(12)), RecordingDispatcher()])
    async with owned(fallback) as trail:
        await fallback.send_alert(event(), severity="critical", channel="#on-call")
    await fallback.send_alert(event(2), severity="critical")
    assert [(each.target, each.attempt, each.outcome, each.waited, each.took) for each in trail.reports] == [
        ("Managed", 1, "permanent", 0, 0),
        ("RecordingDispatcher", 2, "ambiguous", 0, pytest.approx(10)),
        ("RecordingDispatcher", 3, "dispatched", pytest.approx(10), 0),
    ]
    assert all((each.event, each.severity, each.channel) == (event(), "critical", "#on-call") for each in trail.reports)
    assert not trail.heard


async def test_it_does_not_resume() -> None:
    """Nobody can say who lacks an alert, so it keeps nothing."""
    assert not isinstance(Fallback([NoopAlertDispatcher()]), DurableDispatcher)


def test_it_shows_what_is_in_it() -> None:
    """Its repr is made of those of the dispatchers."""
    assert repr(Fallback([NoopAlertDispatcher()])).startswith("<Fallback [<fapilog.core.alerting.Noop")


SAME = NoopAlertDispatcher()


@pytest.mark.parametrize(
    ("dispatchers", "timeout"), [([], 1.0), ([SAME, SAME], 1.0), ([SAME], 0), ([SAME], float("nan"))]
)
def test_options_are_checked(dispatchers: list[AlertDispatcher], timeout: float) -> None:
    """No dispatcher, one twice, and a time out of range are refused at construction."""
    with pytest.raises(ValueError, match=r"^\w+: expected"):
        Fallback(dispatchers, timeout=timeout)


@pytest.mark.real_time
async def test_it_keeps_the_contract() -> None:
    """It is a dispatcher as the contract says."""
    await check_dispatcher(
        lambda: Fallback([RecordingDispatcher(error=ValueError("t0k3n")), Managed()]),
        failing=lambda: Fallback([Managed(error=ValueError("t0k3n")), Managed(error=GONE)]),
        secrets=["t0k3n"],
    )


async def test_a_lost_answer_is_asked_for_again_where_that_does_no_harm() -> None:
    """One that takes an alert once, and whose answer was lost, is asked a second time before the next is."""
    known = Scripted(AmbiguousDeliveryError("lost", repeatable=True), None)
    unknown = Scripted(AmbiguousDeliveryError("lost"), None)
    others = RecordingDispatcher()
    await Fallback([known, others]).send_alert(event(), severity="info")
    assert (len(known.calls), len(others.alerts)) == (2, 0)
    await Fallback([unknown, others]).send_alert(event(), severity="info")
    assert (len(unknown.calls), len(others.alerts)) == (1, 1)
