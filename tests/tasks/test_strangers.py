"""The border to foreign code, and lines of our log, as the handlers of the application get them."""

import asyncio
import logging
import sys
import types
from collections.abc import Generator
from typing import Any

import pytest

from fapilog.record.errors import PanicError
from fapilog.tasks.strangers import Log, contained

NAME = "fapilog.tests"


def log_a_line(of_the_record: str) -> None:
    """Log at level warning, in a frame with a local variable."""
    Log(NAME).warning("%d characters were cut", len(of_the_record))


def test_sentry_gets_a_line_without_the_variables_of_its_frames() -> None:
    """With its option `attach_stacktrace`, too, which adds the local variables of all frames to every line."""
    sentry_sdk = pytest.importorskip("sentry_sdk")
    sent: list[Any] = []

    def keep(event: Any, _: object) -> None:
        sent.append(event)

    client = sentry_sdk.Client(
        "https://key@sentry.invalid/1", attach_stacktrace=True, default_integrations=False, before_send=keep
    )
    handler = pytest.importorskip("sentry_sdk.integrations.logging").EventHandler(level=logging.WARNING)
    logger = logging.getLogger(NAME)
    logger.addHandler(handler)
    with sentry_sdk.new_scope() as scope:
        scope.set_client(client)
        log_a_line("JOHN-Q-PATIENT")
        # Lines of the application are as they were.
        logger.warning("of the application")
    logger.removeHandler(handler)
    ours, theirs = sent
    assert ours["logentry"]["formatted"] == "14 characters were cut"
    assert "JOHN-Q-PATIENT" not in str(ours)
    assert ours["threads"] == {"values": []}
    assert theirs["threads"]["values"][0]["stacktrace"]["frames"]


def test_another_sentry_than_expected_costs_no_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A release of Sentry without the functions that are asked for is no reason to lose a line."""
    monkeypatch.setitem(sys.modules, "sentry_sdk", types.ModuleType("sentry_sdk"))
    log_a_line("JOHN-Q-PATIENT")
    assert caplog.messages == ["14 characters were cut"]


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (ValueError, ValueError),
        (SystemExit, SystemExit),
        (asyncio.CancelledError, PanicError),
        (GeneratorExit, PanicError),
    ],
)
async def test_what_foreign_code_raises_is_an_exception(raised: type[BaseException], seen: type[BaseException]) -> None:
    """Exceptions and the exit of the process pass the border; anything else, raised by the code, is an exception."""
    with pytest.raises(seen) as caught, contained():
        raise raised
    assert caught.value.__cause__ is None or type(caught.value.__cause__) is raised


def test_a_coroutine_that_is_closed_passes_the_border() -> None:
    """A coroutine that is thrown away in the midst of foreign code ends by its GeneratorExit, and by no other error."""
    left: list[type] = []

    @types.coroutine
    def suspended() -> Generator[None]:
        yield

    async def wait() -> None:
        try:
            with contained():
                await suspended()
        finally:
            left.append(type(sys.exception()))

    coroutine = wait()
    coroutine.send(None)
    coroutine.close()
    assert left == [GeneratorExit]
