"""An outbox whose file holds what no outbox writes: what is wrong with one alert is no harm to the others."""

import logging
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings

from fapilog import ChainHead
from fapilog.core.alerting import Alert
from fapilog.delivery.outbox import Outbox, OutboxAlert, OutboxState
from fapilog.testing import RecordingDispatcher
from tests.clock import jumping_backend, stop_clock_in_threads
from tests.doubles.damaged_outbox import GOOD, SPOILED, Spoilt, an_outbox, spoil, spoil_outbox, spoils
from tests.doubles.outboxes import clock, make, owned, statuses
from tests.doubles.scripted_dispatcher import Scripted, an_event

IMPOSSIBLE = [
    *(1e300, float("inf"), "abc", b"\xff\x00"),
    *(pytest.param(value, marks=pytest.mark.slow) for value in (-1e300, "", "\x1b[2J")),
]


def make_file(path: Path, *spoilt: Spoilt, now: float = 1_750_000_000.0) -> None:
    an_outbox(path / "alerts.db", now)
    spoil(path / "alerts.db", spoilt)


async def spoiled(path: Path, *spoilt: Spoilt) -> None:
    """Make a file, now, in a thread as it blocks."""
    await anyio.to_thread.run_sync(partial(make_file, path, *spoilt, now=clock()))


async def found(outbox: Outbox) -> OutboxAlert:
    alert = await outbox.find(SPOILED.event_id)
    assert alert is not None
    return alert


@pytest.mark.one_backend
@pytest.mark.parametrize("value", IMPOSSIBLE)
@pytest.mark.parametrize("column", ["came_at", "noted_at", "attempts", "failures", "spent"])
async def test_numbers_that_can_not_be(tmp_path: Path, column: str, value: object) -> None:
    """An alert whose numbers can't be read is sent all the same, and what was wrong with them is put right."""
    await spoiled(tmp_path, Spoilt(column, value))
    inner = Scripted()
    async with owned(outbox := make(inner, tmp_path)) as told:
        await anyio.sleep(10)
        assert Counter(inner.ids) == Counter(each.event_id for each in (SPOILED, *GOOD))
        assert outbox.state == OutboxState()
    assert all(0 <= report.waited < 100 for report in told.reports)
    alert = await found(outbox)
    assert (alert.status, alert.unreadable) == ("delivered", {})
    assert alert.attempts in {1, 2}


@pytest.mark.one_backend
@pytest.mark.parametrize("value", [-1, -(2**63), 2**63 - 1, 0.5])
@pytest.mark.parametrize("column", ["attempts", "failures"])
async def test_counts_that_can_not_be(tmp_path: Path, column: str, value: object) -> None:
    """A number of attempts that is below zero, endless or not whole counts as none."""
    await spoiled(tmp_path, Spoilt(column, value))
    inner = Scripted()
    async with make(inner, tmp_path) as outbox:
        await anyio.sleep(10)
    assert await statuses(outbox, SPOILED, *GOOD) == ["delivered"] * 3


@pytest.mark.one_backend
@pytest.mark.parametrize("value", [*IMPOSSIBLE, 1e12])
async def test_due_when_nobody_knows(tmp_path: Path, value: object) -> None:
    """An alert that is due at no possible time is due at once."""
    await spoiled(tmp_path, Spoilt("due_at", value))
    async with make(Scripted(), tmp_path) as outbox:
        await anyio.sleep(10)
        assert await statuses(outbox, SPOILED, *GOOD) == ["delivered"] * 3


@pytest.mark.parametrize("value", ["abc", b"\xff", 1e300])
async def test_due_when_nobody_knows_from_now_on(tmp_path: Path, value: object) -> None:
    """A time that becomes impossible while the outbox works stops nothing, and is put right within an hour."""
    async with make(Scripted(), tmp_path) as outbox:
        await anyio.sleep(10)
        await spoiled(tmp_path, Spoilt("due_at", value))
        await anyio.sleep(1000)
        assert await statuses(outbox, *GOOD) == ["delivered"] * 2
        await anyio.sleep(3600)
        assert await statuses(outbox, SPOILED) == ["delivered"]


@pytest.mark.one_backend
@pytest.mark.parametrize(("column", "value"), [("severity", b"\xff"), ("channel", b"\xff")])
async def test_words_that_are_none(tmp_path: Path, column: str, value: bytes) -> None:
    """A severity or a channel that is no text reaches the dispatcher as text."""
    await spoiled(tmp_path, Spoilt(column, value))
    inner = RecordingDispatcher()
    async with make(inner, tmp_path):
        await anyio.sleep(10)
    assert {type(each) for alert in inner.alerts for each in (alert.severity, alert.channel)} == {str}
    assert len(inner.alerts) == 3


@pytest.mark.one_backend
@pytest.mark.parametrize("column", ["severity", "channel", "reason", "event_type", "event", "lease"])
async def test_text_that_is_not_utf8(tmp_path: Path, column: str) -> None:
    """Text that is no UTF-8 keeps no alert from being sent, nor from being looked at."""
    await spoiled(tmp_path, Spoilt(column, b"caf\xe9", as_text=True))
    outbox = make(Scripted(), tmp_path)
    assert len(await outbox.pending()) == 3
    async with outbox:
        await anyio.sleep(10)
        assert await statuses(outbox, *GOOD) == ["delivered"] * 2
        assert await statuses(outbox, SPOILED) == ["dead" if column == "event" else "delivered"]


@pytest.mark.parametrize(("column", "value"), [("event_id", "another"), ("event_id", b"x"), ("sequence_number", 77)])
async def test_an_event_in_the_wrong_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str, value: object
) -> None:
    """An alert whose event is another than its row says is dead, which is logged, and not sent again and again."""
    await spoiled(tmp_path, Spoilt(column, value))
    inner = Scripted()
    async with make(inner, tmp_path) as outbox:
        await anyio.sleep(10_000)
        assert Counter(inner.ids) == Counter(each.event_id for each in GOOD)
        [dead] = await outbox.dead()
    assert dead.reason == "the event in the outbox is not the one that the alert is about"
    logged = value if column == "event_id" else SPOILED.event_id
    assert f"the outbox alerts gives up the alert about event {logged!r}: {dead.reason}" in caplog.text


async def test_what_can_not_be_read_is_marked(tmp_path: Path) -> None:
    """An alert is shown with what can be read of it, and what can't be is named with what was found."""
    await spoiled(
        tmp_path,
        Spoilt("status", "lost"),
        Spoilt("came_at", 1e300),
        Spoilt("ended_at", "never"),
        Spoilt("attempts", b"\x00"),
        Spoilt("number", "first", "attempts"),
        Spoilt("began_at", -1e300, "attempts"),
        Spoilt("took", float("inf"), "attempts"),
        Spoilt("outcome", "?", "attempts"),
    )
    outbox = make(Scripted(), tmp_path)
    alert = await found(outbox)
    assert alert.unreadable == {
        "status": "'lost'",
        "came_at": "1e+300",
        "ended_at": "'never'",
        "attempts": r"b'\x00'",
    }
    assert (alert.status, alert.came_at.year, alert.ended_at, alert.attempts) == ("lost", 1970, None, 0)
    [attempt] = await outbox.history(SPOILED.event_id)
    assert attempt.unreadable == {"number": "'first'", "began_at": "-1e+300", "took": "inf", "outcome": "'?'"}
    assert (attempt.number, attempt.began_at.year, attempt.took, attempt.outcome) == (0, 1970, None, None)


@pytest.mark.one_backend
@pytest.mark.parametrize("value", IMPOSSIBLE)
@pytest.mark.parametrize("column", ["paused_until", "pending", "dead", "sequence_number", "checksum"])
async def test_what_is_kept_of_an_outbox(tmp_path: Path, column: str, value: object) -> None:
    """What is wrong with the account of an outbox, its pause or its mark stops no alert."""
    await spoiled(tmp_path)
    await anyio.to_thread.run_sync(spoil_outbox, tmp_path / "alerts.db", column, value)
    head = ChainHead(5, "5" * 64)
    async with make(Scripted(), tmp_path) as outbox:
        mark = await outbox.resume_from(head)
        assert mark == head or column == "checksum"
        assert await outbox.lacking([Alert(an_event(9), "critical", None)])
        await outbox.resumed_to(ChainHead(6, "6" * 64))
        await anyio.sleep(10)
        assert await statuses(outbox, SPOILED, *GOOD) == ["delivered"] * 3
        assert isinstance(outbox.state.pending, int)
        assert isinstance(outbox.state.dead, int)


async def test_a_receipt_that_is_there_already(tmp_path: Path) -> None:
    """What was sent past the file is noted in it, also where an attempt with its number is noted already."""
    await spoiled(tmp_path, Spoilt("attempts", 0))
    outbox = make(Scripted(), tmp_path)
    alert, now = Alert(SPOILED, "critical", None), clock()
    await outbox._store.run(lambda queue: queue.put_delivered("alerts", alert, now, 0.1, now))
    assert (await found(outbox)).status == "delivered"


@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
def test_whatever_is_in_one_row_the_others_are_sent(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """Any values in any columns of an alert, and of its attempt, keep no other alert from being sent, once each."""

    @settings(max_examples=min(60, settings().max_examples // 2))  # an example is slow, and there are two backends
    @given(spoils)
    def check(spoilt: list[Spoilt]) -> None:
        with TemporaryDirectory() as directory:
            make_file(Path(directory), *spoilt)
            name, options = jumping_backend(backend)
            inner = Scripted()
            anyio.run(_work, inner, Path(directory), backend=name, backend_options=options)
        counts = Counter(inner.ids)
        assert max(counts.values()) == 1
        assert all(counts[event.event_id] for event in GOOD)

    with pytest.MonkeyPatch.context() as patch:
        stop_clock_in_threads(patch)
        check()
    assert "what should not happen" not in caplog.text
    assert not [record for record in caplog.records if record.levelno > logging.ERROR or record.exc_info]


async def _work(inner: Scripted, path: Path) -> None:
    async with owned(outbox := make(inner, path)):
        await anyio.sleep(1000)
        await outbox.pending()
        await outbox.dead()
        for event in (SPOILED, *GOOD):
            await outbox.find(event.event_id)
            await outbox.history(event.event_id)
        assert await statuses(outbox, *GOOD) == ["delivered"] * 2
        state = outbox.state
        assert all(type(each) is int and each >= 0 for each in (state.pending, state.dead))
