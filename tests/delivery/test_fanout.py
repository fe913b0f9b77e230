"""One alert for several dispatchers: isolation, what a retry does, what is said of failures, and resuming."""

import asyncio
from contextlib import suppress

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import (
    AlertDispatcher,
    AmbiguousDeliveryError,
    DeliveryError,
    NoopAlertDispatcher,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.core.alerting import Alert, DurableDispatcher, is_resuming
from fapilog.delivery.fanout import FanOut
from fapilog.record.chain import ChainHead
from fapilog.testing import RecordingDispatcher, check_dispatcher
from tests.doubles.dispatchers import Keeping, Managed, event

GONE = PermanentDeliveryError("gone")
BUSY = TransientDeliveryError("busy", retry_after=7.0)
LOST = AmbiguousDeliveryError("no answer")


async def failure(fan_out: FanOut) -> DeliveryError:
    """Return what the fan-out raises."""
    with pytest.raises(DeliveryError) as caught:
        await fan_out.send_alert(event(), severity="info")
    return caught.value


async def test_all_get_the_alert_at_once() -> None:
    """Every dispatcher is called as the fan-out was, at the same time."""
    inner = [RecordingDispatcher(wait=lambda: anyio.sleep(5)) for _ in range(3)]
    began = anyio.current_time()
    await FanOut(inner).send_alert(event(), severity="critical", channel="#on-call")
    assert anyio.current_time() - began == pytest.approx(5)
    for each in inner:
        [alert] = each.alerts
        assert (alert.event, alert.severity, alert.channel) == (event(), "critical", "#on-call")


async def test_one_that_fails_or_hangs_touches_no_other() -> None:
    """The others get the alert, and the outcome is there when the time of the one that hangs is over."""
    inner = [RecordingDispatcher(error=GONE), RecordingDispatcher(wait=anyio.sleep_forever), RecordingDispatcher()]
    began = anyio.current_time()
    error = await failure(FanOut(inner, timeout=20.0))
    assert anyio.current_time() - began == pytest.approx(20)
    assert [len(each.alerts) for each in inner] == [1, 1, 1]
    assert isinstance(error, AmbiguousDeliveryError)
    assert str(error) == (
        "fan-out: 1 of 3 dispatchers have the alert, number 3 (RecordingDispatcher); "
        "not number 1 (RecordingDispatcher): gone; "
        "not number 2 (RecordingDispatcher): it did not return within 20 s"
    )


@pytest.mark.real_time
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_that_cancels_its_own_task_touches_no_other() -> None:
    """On asyncio a dispatcher can cancel the task that it runs in; it counts as failed, and the call goes on."""

    class Suicidal:
        async def send_alert(self, *_: object, **__: object) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

    other = RecordingDispatcher()
    error = await failure(FanOut([Suicidal(), other]))
    assert isinstance(error, AmbiguousDeliveryError)
    assert "not number 1 (" in str(error)
    assert len(other.alerts) == 1


async def test_a_retry_goes_only_to_those_that_lack_the_alert() -> None:
    """Those that have the alert do not get it again; the next alert, and this one once all had it, go to all."""
    first, second = RecordingDispatcher(), RecordingDispatcher(error=BUSY)
    fan_out = FanOut([first, second])
    await failure(fan_out)
    await failure(fan_out)
    second.error = None
    await fan_out.send_alert(event(), severity="info")
    assert (len(first.alerts), len(second.alerts)) == (1, 3)
    await fan_out.send_alert(event(2), severity="info")
    await fan_out.send_alert(event(), severity="info")
    assert (len(first.alerts), len(second.alerts)) == (3, 5)


async def test_another_severity_or_channel_is_another_alert() -> None:
    """An alert about the same event with another severity or channel goes to all."""
    first = RecordingDispatcher()
    fan_out = FanOut([first, RecordingDispatcher(error=BUSY)])
    for severity, channel in (("info", None), ("info", "#a"), ("error", "#a"), ("error", "#a")):
        with pytest.raises(TransientDeliveryError):
            await fan_out.send_alert(event(), severity=severity, channel=channel)
    assert len(first.alerts) == 3


async def test_who_finished_before_a_cancellation_is_remembered() -> None:
    """When the call is cancelled, those that have the alert do not get it again."""
    quick, slow = RecordingDispatcher(), RecordingDispatcher(wait=anyio.sleep_forever)
    fan_out = FanOut([quick, slow])
    with anyio.move_on_after(1) as limit:
        await fan_out.send_alert(event(), severity="info")
    assert limit.cancelled_caught
    slow.wait = None
    await fan_out.send_alert(event(), severity="info")
    assert (len(quick.alerts), len(slow.alerts)) == (1, 2)


@pytest.mark.slow_on_trio
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.lists(st.sampled_from([None, BUSY, GONE, LOST]), min_size=4, max_size=4)),
        max_size=20,
    )
)
async def test_nobody_gets_an_alert_twice_and_nobody_is_forgotten(
    calls: list[tuple[int, list[DeliveryError | None]]],
) -> None:
    """Whatever fails in whichever order, a retry goes to exactly those that have not taken the alert."""
    inner = [RecordingDispatcher() for _ in range(4)]
    fan_out = FanOut(inner)
    lacking = {number: set(range(4)) for number in (1, 2, 3)}
    for number, outcomes in calls:
        asked = lacking[number] or set(range(4))
        for each, outcome in zip(inner, outcomes, strict=True):
            each.error = outcome
            each.alerts.clear()
        failing = {place for place in asked if outcomes[place] is not None}
        with suppress(DeliveryError) if failing else anyio.CancelScope():
            await fan_out.send_alert(event(number), severity="info")
        assert {place for place, each in enumerate(inner) if each.alerts} == asked
        lacking[number] = failing


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("errors", "kind", "pause"),
    [
        ([GONE, None], PermanentDeliveryError, None),
        ([GONE, LOST], AmbiguousDeliveryError, None),
        ([GONE, BUSY, LOST, TransientDeliveryError("busier", retry_after=9.0)], TransientDeliveryError, 9.0),
        ([TransientDeliveryError("busy"), None], TransientDeliveryError, None),
        ([TransientDeliveryError("", retry_after=float("nan")), BUSY], TransientDeliveryError, 7.0),
        ([GONE, ValueError("https://hooks.example/t0k3n")], AmbiguousDeliveryError, None),
        ([GONE, DeliveryError("no idea")], AmbiguousDeliveryError, None),
        ([ValueError("https://hooks.example/t0k3n")], AmbiguousDeliveryError, None),
    ],
)
async def test_the_error_is_what_most_can_be_done_about(
    errors: list[Exception | None], kind: type[DeliveryError], pause: float | None
) -> None:
    """It is transient if one is, else permanent if all are, else ambiguous, and shows no foreign text."""
    error = await failure(FanOut([RecordingDispatcher(error=each) for each in errors]))
    assert type(error) is kind
    assert getattr(error, "retry_after", None) == pause
    assert "t0k3n" not in str(error)


async def test_of_one_dispatcher_the_error_is_its_own() -> None:
    """A single dispatcher's error is raised as it is."""
    assert await failure(FanOut([RecordingDispatcher(error=GONE)])) is GONE


@pytest.mark.slow
@pytest.mark.one_backend
async def test_memory_is_bounded() -> None:
    """Of alerts that only some have, the thousand newest are remembered."""
    first, second = RecordingDispatcher(), RecordingDispatcher(error=GONE)
    fan_out = FanOut([first, second])
    for number in (*range(1001), 1000, 0):
        with pytest.raises(PermanentDeliveryError):
            await fan_out.send_alert(event(number), severity="info")
    assert len(first.alerts) == 1002
    assert first.alerts[-1].event.sequence_number == 0


async def test_when_one_can_not_be_entered_the_others_are_left() -> None:
    """What was opened before the one that refuses is closed, and what it raised is raised."""
    first, last = Managed(), Managed()
    with pytest.raises(OSError, match="no"):
        await FanOut([first, Managed(refuses=True), last]).__aenter__()
    assert (first.entered, first.left, last.entered) == (1, 1, 0)


async def test_it_may_be_entered_again_while_it_is() -> None:
    """One that is in two places of a tree is entered twice, and left as often."""
    inner = Managed()
    shared = FanOut([inner])
    async with FanOut([FanOut([shared]), shared]) as fan_out:
        assert inner.entered == 2
        await fan_out.send_alert(event(), severity="info")
    assert inner.left == 2


ALERTS = [Alert(event(number), "security", None) for number in range(1, 8)]


async def test_it_resumes_if_one_of_them_does() -> None:
    """The trail is told whether any of the dispatchers keeps what it takes."""
    assert isinstance(FanOut([NoopAlertDispatcher()]), DurableDispatcher)
    assert not FanOut([NoopAlertDispatcher(), Keeping(resumes=False)]).resumes
    assert FanOut([NoopAlertDispatcher(), FanOut([Keeping()])]).resumes


async def test_a_dispatcher_deep_inside_is_asked_once() -> None:
    """However many wrappers are around a dispatcher, one question asks it once whether it resumes."""
    asked: list[None] = []

    class Asked(Keeping):
        def __getattribute__(self, name: str) -> object:
            if name == "resumes":
                asked.append(None)
            return super().__getattribute__(name)

    dispatcher: AlertDispatcher = Asked()
    for _ in range(20):
        dispatcher = FanOut([dispatcher])
    asked.clear()
    assert is_resuming(dispatcher)
    assert len(asked) == 1


async def test_the_oldest_mark_counts() -> None:
    """All are asked, those that have no mark take the head, and the oldest mark is returned."""
    inner = [Keeping(5), Keeping(), Keeping(3), Keeping(resumes=False)]
    head = ChainHead(9, "9")
    assert (await FanOut([*inner, NoopAlertDispatcher()]).resume_from(head)).sequence_number == 3
    assert [each.mark and each.mark.sequence_number for each in inner] == [5, 9, 3, None]
    assert await FanOut([NoopAlertDispatcher()]).resume_from(head) == head


async def test_each_is_handed_what_it_lacks() -> None:
    """After resuming, all have every alert since their marks, each once, whoever lacked it."""
    first, second, plain = Keeping(2), Keeping(5), RecordingDispatcher()
    await first.send_alert(event(4), severity="security")
    fan_out = FanOut([first, second, plain])
    mark = await fan_out.resume_from(ChainHead(7, "7"))
    wanted = await fan_out.lacking([alert for alert in ALERTS if (alert.event.sequence_number or 0) > 2])
    assert mark.sequence_number == 2
    assert [alert.event.sequence_number for alert in wanted] == [3, 5, 6, 7]
    for alert in wanted:
        await fan_out.send_alert(alert.event, severity=alert.severity, channel=alert.channel)
    await fan_out.resumed_to(ChainHead(7, "7"))
    assert first.numbers == [4, 3, 5, 6, 7]
    assert second.numbers == [6, 7]
    assert len(plain.alerts) == 4
    assert (first.mark, second.mark) == (ChainHead(7, "7"), ChainHead(7, "7"))


def test_it_shows_what_is_in_it() -> None:
    """Its repr is made of those of the dispatchers."""
    shown = repr(FanOut([FanOut([NoopAlertDispatcher()])]))
    assert shown.startswith("<FanOut [<FanOut [<fapilog.core.alerting.NoopAlertDispatcher")


SAME = NoopAlertDispatcher()


@pytest.mark.parametrize(
    ("dispatchers", "timeout"), [([], None), ([SAME, SAME], None), ([SAME], 0), ([SAME], float("nan"))]
)
def test_options_are_checked(dispatchers: list[AlertDispatcher], timeout: float | None) -> None:
    """No dispatcher, one twice, and a time out of range are refused at construction."""
    with pytest.raises(ValueError, match=r"^\w+: expected"):
        FanOut(dispatchers, timeout=timeout)


@pytest.mark.real_time
async def test_it_keeps_the_contract() -> None:
    """It is a dispatcher as the contract says."""
    await check_dispatcher(
        lambda: FanOut([NoopAlertDispatcher(), Managed()], timeout=5.0),
        failing=lambda: FanOut([NoopAlertDispatcher(), Managed(error=ValueError("t0k3n"))]),
        secrets=["t0k3n"],
    )
