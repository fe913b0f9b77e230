"""An outbox that is given what nobody should: strange strings, numbers without an end, and more than it can send."""

import gc
import tracemalloc
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import AuditEventType, ChainHead, ErrorDetails, TransientDeliveryError
from fapilog.core.alerting import Alert
from fapilog.delivery.outbox import Outbox
from fapilog.testing import RecordingDispatcher
from tests.doubles.outboxes import clock, make, statuses, until
from tests.doubles.scripted_dispatcher import Scripted, an_event

HOSTILE = {
    "nul": "a\0b\0",
    "surrogate": "a\ud800b\udfff",
    "emoji": "👩‍👩‍👧‍👦🏴‍☠️" * 10,
    "long": "x" * (1 << 18),
    "empty": "",
    "sql": "'; DROP TABLE alerts; --",
    "controls": "".join(map(chr, range(32))) + "\x7f\u2028\u202e\ufeff\uffff",
    "bytes": "\x80\xff",
}
hostile = pytest.mark.parametrize("given", HOSTILE.values(), ids=HOSTILE)


class _Panicking(TransientDeliveryError):
    """Says with a panic how long to wait."""

    def __init__(self) -> None:
        Exception.__init__(self)

    def __getattribute__(self, name: str) -> Any:
        if name == "retry_after":
            raise BaseException
        return super().__getattribute__(name)


async def test_an_error_that_can_not_be_read(tmp_path: Path) -> None:
    """An error that raises a panic where it is asked for a pause asks for none; the alert is tried again."""
    inner = Scripted(_Panicking(), None)
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(an_event(), severity="info")
        await until(lambda: len(inner.calls) == 2)


@pytest.mark.parametrize("fails_at", range(3, 9))
async def test_a_clock_that_fails_costs_no_alert(tmp_path: Path, fails_at: int) -> None:
    """Whichever reading of the clock fails, the alert is sent, if need be when its lease is over."""
    readings = count(1)

    def now() -> float:
        if next(readings) == fails_at:
            raise ValueError
        return clock()

    inner = RecordingDispatcher()
    async with make(inner, tmp_path, now=now, lease=15.0) as outbox:
        await outbox.send_alert(an_event(), severity="info")
        with anyio.fail_after(600):
            await until(lambda: inner.alerts)


@pytest.mark.one_backend
@hostile
async def test_strings(tmp_path: Path, given: str) -> None:
    """Whatever text is in an event, its severity, channel and in a reason, it is kept and sent as it came."""
    inner = RecordingDispatcher(error=TransientDeliveryError(given))
    event = an_event(
        event_id=given or " ",
        message=given,
        user_id=given,
        client_ip=given,
        checksum=given,
        regulatory_tags=(given,),
        error=ErrorDetails(type=given, message=given, traceback=given),
        metadata={given: [given]},
    )
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(event, severity=given, channel=given)
        await inner.wait_for(1)
        await anyio.sleep(1)
        [alert] = await outbox.pending()
        assert alert.event_id == event.event_id
        assert await outbox.discard([event.event_id], reason=given + ".") == 1
        inner.error = None
        assert await outbox.retry([event.event_id]) == 1
        await inner.wait_for(2)
    assert [alert.event for alert in inner.alerts] == [event, event]
    cleaned = given.encode("utf-8", "backslashreplace").decode()
    assert {(alert.severity, alert.channel) for alert in inner.alerts} == {(cleaned, cleaned)}
    assert await statuses(outbox, event) == ["delivered"]


@pytest.mark.one_backend
@hostile
async def test_names(tmp_path: Path, given: str) -> None:
    """A name is printable text; whatever it is, two outboxes with other names have nothing of each other."""
    if not given.isprintable() or not given:
        with pytest.raises(ValueError, match="name: expected printable text"):
            make(Scripted(), tmp_path, name=given)
        return
    first, second = make(Scripted(), tmp_path, name=given), make(Scripted(), tmp_path, name=given + "'")
    await first.send_alert(an_event(), severity="critical")
    assert await statuses(first, an_event()) == ["delivered"]
    assert await statuses(second, an_event()) == [None]


@pytest.mark.one_backend
@hostile
async def test_events_that_nobody_knows(tmp_path: Path, given: str) -> None:
    """Asked for an event that it does not have, an outbox says so, and works on."""
    async with make(Scripted(), tmp_path) as outbox:
        for ask in (outbox.find, outbox.history, lambda each: outbox.retry([each]), _discarding(outbox)):
            assert not await ask(given)
        await outbox.send_alert(an_event(), severity="critical")
        await anyio.sleep(10)
        assert await statuses(outbox, an_event()) == ["delivered"]


def _discarding(outbox: Outbox) -> Any:
    return lambda event_id: outbox.discard([event_id], reason="a drill")


@pytest.mark.one_backend
@pytest.mark.parametrize("number", [2**63 - 1, 2**63, 2**64, 2**1000, -(2**63), -(2**70), 0, -1])
async def test_sequence_numbers(tmp_path: Path, number: int) -> None:
    """An event with a number that no database can hold is kept and sent all the same."""
    inner = Scripted()
    event = an_event(1, sequence_number=number, metadata={"n": number, "float": 5e-324})
    async with make(inner, tmp_path) as outbox:
        await outbox.send_alert(event, severity="critical")
        assert await outbox.lacking([Alert(event, "critical", None)]) == []
        await anyio.sleep(10)
    assert inner.ids == [event.event_id]
    assert await statuses(outbox, event) == ["delivered"]


async def test_marks(tmp_path: Path) -> None:
    """A mark that no database can hold is refused, and does no harm to the alerts that come meanwhile."""
    inner = Scripted()
    async with make(inner, tmp_path) as outbox:
        async with anyio.create_task_group() as tasks:
            for number in range(1, 11):
                tasks.start_soon(_refused_mark, outbox)
                tasks.start_soon(_send, outbox, number)
        await anyio.sleep(10)
        assert Counter(inner.ids) == Counter(an_event(number).event_id for number in range(1, 11))
        assert await outbox.resume_from(ChainHead(5, "x")) == ChainHead(5, "x")


async def _refused_mark(outbox: Outbox) -> None:
    with pytest.raises(OverflowError):
        await outbox.resumed_to(ChainHead(2**64, "x"))


async def _send(outbox: Outbox, number: int) -> None:
    await outbox.send_alert(an_event(number), severity="critical")


@pytest.mark.parametrize("entered", [True, False], ids=["entered", "not entered"])
async def test_two_hundred_events_with_one_id(tmp_path: Path, *, entered: bool) -> None:
    """Of many events with the same id, at once and one after the other, the first is sent, and once."""
    inner = Scripted()
    inner.delay = 1.0
    outbox = make(inner, tmp_path)

    async def send(number: int) -> None:
        event = an_event(1, message=str(number), event_type=AuditEventType.DATA_ACCESS)
        await outbox.send_alert(event, severity="critical")

    if entered:
        await outbox.__aenter__()
    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(send, number)
    for number in range(100):
        await send(number)
    await anyio.sleep(10)
    if entered:
        await outbox.__aexit__(None, None, None)
    assert len(inner.calls) == 1


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.torture)])
async def test_many_wait(tmp_path: Path, count: int) -> None:
    """While thousands of alerts wait and the other side hangs, memory stays flat, and leaving takes *stop_timeout*."""
    inner = RecordingDispatcher(wait=anyio.sleep_forever)
    async with make(inner, tmp_path, stop_timeout=7.0, timeout=50.0) as outbox:
        await _send_many(outbox, 1, 500)
        await anyio.sleep(200)
        gc.collect()
        tracemalloc.start()
        try:
            for first in range(501, count + 1, 500):
                await _send_many(outbox, first, 500)
            await anyio.sleep(200)
            used, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert outbox.state.pending == count
        began = anyio.current_time()
    assert anyio.current_time() - began == pytest.approx(7.0)
    assert used < 2 << 20
    assert most < 10 << 20
    assert len(await outbox.pending(limit=2 * count)) == count


async def _send_many(outbox: Outbox, first: int, count: int) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(first, first + count):
            tasks.start_soon(_send, outbox, number)
