"""The console: words for people, JSON for programs."""

import io
import json
import os
import sys
import threading
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fapilog import AuditLogLevel, PermanentDeliveryError
from fapilog.providers import Disclosure
from fapilog.providers._rendering import Rendered
from fapilog.providers.console import ConsoleDispatcher, _json, _pretty
from fapilog.record.values import text
from fapilog.testing import check_dispatcher
from tests.doubles.malicious_alerts import check_many, is_clean
from tests.providers.conftest import an_event

pytestmark = pytest.mark.real_time


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_pipe_gets_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Where no terminal is, each alert is a line of JSON on standard output."""
    dispatcher = ConsoleDispatcher(link="https://audit/{event_id}")
    await dispatcher.send_alert(an_event(message="two\nlines \u2028"), severity="security", channel="#on-call")
    await dispatcher.send_alert(an_event(), severity="info")
    first, second, rest = capsys.readouterr().out.split("\n")
    alert = json.loads(first)
    assert alert["title"] == "SECURITY authentication_failed in auth"
    assert (alert["channel"], alert["link"]) == ("#on-call", f"https://audit/{an_event().event_id}")
    assert alert["message"] == "two\nlines \u2028"
    assert "channel" not in json.loads(second)
    assert not rest


class Writer:
    """Lacks the other methods of a stream, and could not print an alert."""

    def write(self, text: str) -> int:
        return len(text)


@pytest.mark.parametrize("other", ["alerts.log", Writer()], ids=["name", "writer"])
def test_a_stream_is_asked_for(other: Any) -> None:
    """What is no stream, such as the name of a file, is refused when the dispatcher is made."""
    with pytest.raises(TypeError, match=r"^stream: expected a stream of text, such as sys.stderr; got a "):
        ConsoleDispatcher(other)


async def test_a_terminal_gets_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal an alert is a title in colour and a line for each field."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    await ConsoleDispatcher(terminal).send_alert(an_event(), severity="security")
    title, message, *fields = terminal.getvalue().splitlines()
    assert title == "\x1b[1;35mSECURITY authentication_failed in auth\x1b[0m"
    assert message == "  five wrong passwords in a row"
    assert "  sequence_number      12" in fields


async def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR in the environment, and at severities that need none, there is no colour."""
    terminal = Terminal()
    await ConsoleDispatcher(terminal).send_alert(an_event(), severity="info")
    monkeypatch.setenv("NO_COLOR", "")
    await ConsoleDispatcher(terminal).send_alert(an_event(), severity="critical")
    assert "\x1b" not in terminal.getvalue()


async def test_an_event_cannot_control_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Escapes in an event reach the terminal as text, and can't forge a line of another field."""
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    words = "\x1b]0;title\x07\x1b[2J\r\u202e\nchecksum forged"
    event = an_event(message=words, component=words, user_id=words, metadata={words: words})
    await ConsoleDispatcher(terminal, disclosure=Disclosure.FULL).send_alert(event, severity="security", channel=words)
    printed = terminal.getvalue()
    assert not set(printed) & {"\x1b", "\x07", "\r", "\u202e"}
    assert not [line for line in printed.splitlines() if line.startswith("checksum")]


async def test_any_encoding_is_served() -> None:
    """What a stream's encoding lacks is escaped."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    await ConsoleDispatcher(stream).send_alert(an_event(message="naïve ☃"), severity="info")
    assert rb"na\xefve \u2603" in raw.getvalue()


async def test_a_closed_stream_is_permanent() -> None:
    """What can't be printed is not delivered."""
    stream = io.StringIO()
    stream.close()
    with pytest.raises(PermanentDeliveryError, match="closed"):
        await ConsoleDispatcher(stream).send_alert(an_event(), severity="info")


async def test_no_stream_is_permanent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was started with a closed standard output has none, and the alert is not delivered."""
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(PermanentDeliveryError, match="closed"):
        await ConsoleDispatcher().send_alert(an_event(), severity="info")


async def test_a_broken_pipe_is_permanent() -> None:
    """A reader that has gone gets nothing more, and what is behind the error gives nothing away."""

    class Broken(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError("s3cr3t")

    with pytest.raises(PermanentDeliveryError, match="broken") as caught:
        await ConsoleDispatcher(Broken()).send_alert(an_event(), severity="info")
    assert caught.value.__context__ is None


async def test_an_alert_is_known_again() -> None:
    """A line of JSON has the severity as it was told and the id of the event, the same whoever prints it."""
    for level in AuditLogLevel:
        event, printed = an_event(log_level=level), []
        for _ in range(2):
            stream = io.StringIO()
            await ConsoleDispatcher(stream).send_alert(event, severity=level.value)
            printed.append(json.loads(stream.getvalue()))
        assert printed[0] == printed[1]
        assert (printed[0]["severity"], printed[0]["event_id"]) == (level.value, event.event_id)
        assert printed[0]["title"].startswith(level.value.upper())


@pytest.mark.slow_on_trio
async def test_a_stuck_pipe_holds_nobody_up() -> None:
    """A stream that blocks neither blocks the event loop nor cancellation."""
    release = threading.Event()

    class Stuck(io.StringIO):
        def write(self, words: str, /) -> int:
            release.wait(60)
            return len(words)

    try:
        with anyio.move_on_after(0.1) as limit:
            await ConsoleDispatcher(Stuck()).send_alert(an_event(), severity="info")
        assert limit.cancelled_caught
    finally:
        release.set()


@pytest.mark.slow_on_trio
async def test_a_stuck_pipe_keeps_one_thread() -> None:
    """Alerts whose callers have gone leave no threads behind a stream that blocks, and are not printed afterwards."""
    stuck, release = threading.Event(), threading.Event()

    class Stuck(io.StringIO):
        def write(self, words: str, /) -> int:
            stuck.set()
            release.wait(60)
            return super().write(words)

    def printing() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "fapilog console"}

    stream = Stuck()
    dispatcher = ConsoleDispatcher(stream)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(dispatcher.send_alert, an_event(), severity="info"))
            await anyio.to_thread.run_sync(stuck.wait)
            tasks.cancel_scope.cancel()
        before = printing()
        for _ in range(10):
            with anyio.move_on_after(0.01):
                await dispatcher.send_alert(an_event(), severity="info")
        for thread in printing() - before:
            await anyio.to_thread.run_sync(thread.join, 60)
        assert printing() <= before
    finally:
        release.set()
    await dispatcher.send_alert(an_event(), severity="error")
    assert [json.loads(line)["severity"] for line in stream.getvalue().splitlines()] == ["info", "error"]


def test_a_child_that_is_forked_while_another_thread_prints() -> None:
    """A forked child can print although a thread of its parent was printing, and held the lock, at the fork."""
    dispatcher = ConsoleDispatcher(io.StringIO())
    with dispatcher._lock:
        pid = os.fork()
        if pid == 0:
            taken = dispatcher._lock.acquire(timeout=60)
            os._exit(0 if taken else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.slow_on_trio
async def test_it_keeps_the_contract() -> None:
    """It is a dispatcher as the contract says, on a terminal and on a pipe."""
    closed = io.StringIO()
    closed.close()
    await check_dispatcher(lambda: ConsoleDispatcher(Terminal()))
    await check_dispatcher(lambda: ConsoleDispatcher(io.StringIO()), failing=lambda: ConsoleDispatcher(closed))


def check_hostile(rendered: Rendered, channel: str | None) -> None:
    """Fail unless JSON is one line, and words for a terminal are clean and forge no other field."""
    channel = channel and text(channel)
    [line, rest] = _json(rendered, channel).split("\n")
    assert json.loads(line)["title"] == rendered.title
    assert not rest
    colour = ("\x1b[33m", "\x1b[31m", "\x1b[1;31m", "\x1b[1;35m")
    title, *lines = _pretty(rendered, channel).split("\n")
    assert is_clean(title.removeprefix(next(filter(title.startswith, colour), "")).removesuffix("\x1b[0m"), set())
    assert all(is_clean(each) and each[:2] in {"  ", ""} for each in lines)


def test_hostile_alerts() -> None:
    """Thirty hostile alerts become what the other side takes; `make torture` tries 10,000."""
    check_many(check_hostile, 30)
