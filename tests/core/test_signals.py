"""Announcing: every receiver is called, and none hurts another."""

import functools
import gc
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import anyio
import blinker
import pytest

from fapilog.core.signals import Aftermath, Announcer, alert_dispatched, alert_failed, compliance_alert
from fapilog.tasks.background import Background
from tests.doubles.running_background import Running


class Sender:
    """Something that sends."""


@pytest.fixture
def signal() -> blinker.NamedSignal:
    """Return a signal of its own for the test."""
    return blinker.NamedSignal("test")


@pytest.fixture
def background() -> Background:
    """Return a background that is not entered."""
    return Background()


@pytest.fixture
def announcer(background: Background) -> Announcer:
    """Return an announcer whose receivers may take ten seconds."""
    return Announcer(background, Aftermath(0), ours=bool, timeout=10, limit=5)


class Calls(list[Any]):
    """Receivers of every shape, each of which adds its name and what it was told."""

    def plain(self, sender: object, *, value: int) -> None:
        self.append(("plain", value))

    async def coroutine(self, sender: object, *, value: int) -> None:
        await anyio.sleep(1)
        self.append(("coroutine", value))

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    @functools.lru_cache  # noqa: B019
    def cached(self, sender: object, *, value: int) -> None:
        self.append(("cached", value))


class AsyncCallable:
    """An object with an asynchronous __call__, which blinker does not recognise as such."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    async def __call__(self, sender: object, *, value: int) -> None:
        await self.calls.coroutine(sender, value=value)


async def test_receivers_of_every_shape(
    signal: blinker.NamedSignal, background: Background, announcer: Announcer
) -> None:
    """Functions, coroutine functions, objects with an asynchronous __call__ and partials of it are all called."""
    calls, sender = Calls(), Sender()
    receivers: list[Callable[..., object]] = [
        calls.plain,
        calls.coroutine,
        AsyncCallable(calls),
        functools.partial(AsyncCallable(calls), value=2),
    ]
    signal.connect(receivers[0])
    signal.connect(receivers[1], sender=sender)
    signal.connect(receivers[2])
    announcer.announce(signal, sender, value=1)
    signal.disconnect(receivers[2])
    signal.connect(receivers[3])
    await background.settle()
    assert sorted(calls) == [("coroutine", 1), ("coroutine", 1), ("plain", 1)]


async def test_functions_of_other_kinds(signal: blinker.NamedSignal, announcer: Announcer) -> None:
    """A method that is not written as a function, and a mock that claims to be one, are called."""
    calls, sender, mock = Calls(), Sender(), Mock(spec=Calls.plain)
    signal.connect(calls.cached, weak=False)
    signal.connect(mock)
    announcer.announce(signal, sender, value=1)
    assert calls == [("cached", 1)]
    assert mock.call_count == 1


async def test_a_receiver_of_another_sender_is_not_called(signal: blinker.NamedSignal, announcer: Announcer) -> None:
    """A receiver that is connected with a sender hears only that one."""
    calls, sender = Calls(), Sender()
    signal.connect(calls.plain, sender=sender)
    announcer.announce(signal, Sender(), value=1)
    announcer.announce(signal, sender, value=2)
    assert calls == [("plain", 2)]


async def test_asynchronous_receivers_run_at_once(
    signal: blinker.NamedSignal, background: Background, announcer: Announcer
) -> None:
    """Asynchronous receivers run at the same time."""
    calls, sender = Calls(), Sender()
    others = [AsyncCallable(calls) for _ in range(5)]
    for other in others:
        signal.connect(other)
    began = anyio.current_time()
    announcer.announce(signal, sender, value=1)
    await background.settle()
    assert len(calls) == 5
    assert anyio.current_time() - began == pytest.approx(1)


async def test_a_failing_receiver_is_logged_by_name(
    signal: blinker.NamedSignal, background: Background, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    """What a receiver raises is logged with its name and place, not its text, and the others are still called."""
    calls, sender = Calls(), Sender()

    def plain_failure(_: object, **details: object) -> None:
        raise ValueError("SECRET")

    async def late_failure(_: object, **details: object) -> None:
        await anyio.sleep(1)
        raise ConnectionError("SECRET")

    for receiver in (plain_failure, calls.plain, late_failure, calls.coroutine):
        signal.connect(receiver)
    announcer.announce(signal, sender, value=1)
    await background.settle()
    assert sorted(calls) == [("coroutine", 1), ("plain", 1)]
    assert "plain_failure raised ValueError (test_signals.py, line " in caplog.text
    assert "late_failure raised ConnectionError (test_signals.py, line " in caplog.text
    assert "SECRET" not in caplog.text


async def test_a_failing_receiver_without_a_name(
    signal: blinker.NamedSignal, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    """A receiver that can't be asked for its name, as the proxies of frameworks outside of a request, is logged too."""

    class Proxy:
        def __call__(self, _: object, **details: object) -> None:
            raise ValueError("SECRET")

        def __getattr__(self, _: str) -> Any:
            raise RuntimeError("SECRET: working outside of request context")

    proxy = Proxy()
    signal.connect(proxy)
    announcer.announce(signal, Sender(), value=1)
    (line,) = caplog.messages
    assert "Proxy raised ValueError (test_signals.py, line " in line


async def test_a_hanging_receiver_is_cancelled(
    signal: blinker.NamedSignal, background: Background, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    """An asynchronous receiver has a limited time, and exceeding it is logged."""

    class Hanging:
        async def __call__(self, sender: object) -> None:
            await anyio.sleep_forever()

    receiver = functools.partial(Hanging())
    signal.connect(receiver)
    announcer.announce(signal, Sender())
    began = anyio.current_time()
    await background.settle()
    assert anyio.current_time() - began == pytest.approx(10)
    assert "Hanging raised TimeoutError" in caplog.text


@pytest.mark.parametrize("entered", [True, False])
async def test_each_receiver_has_its_own_time(
    signal: blinker.NamedSignal,
    background: Background,
    announcer: Announcer,
    caplog: pytest.LogCaptureFixture,
    *,
    entered: bool,
) -> None:
    """The time of one receiver neither ends nor extends another, and a receiver of the wrong shape is a failure."""
    calls = Calls()

    async def hangs(_: object, **details: object) -> None:
        await anyio.sleep_forever()

    async def takes_nothing() -> None:
        """Can't be called with a sender."""

    for receiver in (hangs, takes_nothing, calls.coroutine):
        signal.connect(receiver)
    running = Running(background)
    if entered:
        await running.enter()
    began = anyio.current_time()
    announcer.announce(signal, Sender(), value=1)
    await background.settle()
    assert anyio.current_time() - began == pytest.approx(10)
    if entered:
        await running.leave(timeout=1)
    assert calls == [("coroutine", 1)]
    assert caplog.text.count("hangs raised TimeoutError") == 1
    assert "takes_nothing raised TypeError" in caplog.text


async def test_the_announcer_goes_on_first(
    signal: blinker.NamedSignal, background: Background, announcer: Announcer
) -> None:
    """Nothing of an asynchronous receiver runs before the code that announces lets the loop run."""
    calls: list[str] = []

    async def note(_: object) -> None:
        calls.append("received")

    signal.connect(note)
    running = Running(background)
    await running.enter()
    for _ in range(3):
        announcer.announce(signal, Sender())
    calls.append("announced")
    await background.settle()
    await running.leave(timeout=1)
    assert calls == ["announced", *["received"] * 3]


async def test_calls_under_way_are_limited(
    signal: blinker.NamedSignal, background: Background, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    """More asynchronous calls than the limit are skipped and logged; later ones are made again."""
    calls, sender = Calls(), Sender()
    signal.connect(calls.coroutine)
    for value in range(7):
        announcer.announce(signal, sender, value=value)
    await background.settle()
    announcer.announce(signal, sender, value=7)
    await background.settle()
    assert sorted(value for _, value in calls) == [0, 1, 2, 3, 4, 7]
    assert caplog.text.count("Calls.coroutine is skipped: 5 calls are under way") == 2


async def test_receivers_may_disconnect_while_they_are_called(
    signal: blinker.NamedSignal, announcer: Announcer
) -> None:
    """A receiver may disconnect itself and others; this time all are called, and next time those that are left."""
    calls: list[str] = []

    def once(_: object) -> None:
        calls.append("once")
        signal.disconnect(once)
        signal.disconnect(other)

    def other(_: object) -> None:
        calls.append("other")

    def stays(_: object) -> None:
        calls.append("stays")

    for receiver in (once, other, stays):
        signal.connect(receiver)
    announcer.announce(signal, Sender())
    announcer.announce(signal, Sender())
    assert calls.count("once") == calls.count("other") == 1
    assert calls.count("stays") == 2


async def test_a_receiver_that_is_gone_is_no_problem(signal: blinker.NamedSignal, announcer: Announcer) -> None:
    """A receiver that nobody keeps is not called, and nothing else changes."""
    calls = Calls()
    signal.connect(calls.plain)
    signal.connect(Calls().plain)
    gc.collect()
    announcer.announce(signal, Sender(), value=1)
    assert calls == [("plain", 1)]


async def test_muting_is_respected_and_logged_once(
    signal: blinker.NamedSignal, announcer: Announcer, caplog: pytest.LogCaptureFixture
) -> None:
    """A muted signal reaches nobody; each time it is muted, that is logged once."""
    calls, sender = Calls(), Sender()
    signal.connect(calls.plain)
    for _ in range(2):
        with signal.muted():
            announcer.announce(signal, sender, value=1)
            announcer.announce(signal, sender, value=2)
        announcer.announce(signal, sender, value=3)
    assert calls == [("plain", 3)] * 2
    assert caplog.text.count("the signal test is muted") == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_exits_pass_through(
    signal: blinker.NamedSignal, announcer: Announcer, error: type[BaseException]
) -> None:
    """KeyboardInterrupt and SystemExit are not a receiver's failure but the program's end."""

    def leave(_: object) -> None:
        raise error

    signal.connect(leave)
    with pytest.raises(error):
        announcer.announce(signal, Sender())


def test_the_signals_are_our_own() -> None:
    """The signals have their names and are not in blinker's default namespace, where others could clash."""
    for signal in (compliance_alert, alert_dispatched, alert_failed):
        assert blinker.signal(signal.name) is not signal
    assert {compliance_alert.name, alert_dispatched.name, alert_failed.name} == {
        "compliance_alert",
        "alert_dispatched",
        "alert_failed",
    }
