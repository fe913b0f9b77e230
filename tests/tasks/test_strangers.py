"""The border to foreign code, and lines of our log, as the handlers of the application get them."""

import asyncio
import logging
import signal
import sys
import types
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest

from fapilog.record.errors import PanicError
from fapilog.tasks.strangers import Log, contained, is_interrupt

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


class Liar(BaseException):
    """Claims to be whatever the test says, to `isinstance` and not to ``except``."""

    claims: type = Exception

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self.claims


class Mute(Exception):
    """Raises whatever it is asked."""

    def __getattribute__(self, _: str) -> Any:
        raise LookupError


class NamelessType(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise LookupError
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=NamelessType):
    """An exception whose class does not say its name."""


class Deep(BaseExceptionGroup):
    """A group that names itself as its only member."""

    @property
    def exceptions(self) -> Any:
        return (self,)


@pytest.mark.parametrize("claims", [ValueError, KeyboardInterrupt, SystemExit, ExceptionGroup, PanicError])
async def test_an_exception_is_no_other_by_saying_so(claims: type) -> None:
    """The class counts, and not the claim of an object."""
    error = Liar()
    error.claims = claims
    with pytest.raises(PanicError, match="it raised Liar, which"), contained():
        raise error


@pytest.mark.parametrize("make", [Mute, Nameless, lambda: Deep("", [GeneratorExit()])])
async def test_an_exception_that_cannot_be_asked_is_replaced(make: Callable[[], BaseException]) -> None:
    """Code on this side asks an exception for its class, and a group for its members."""
    with pytest.raises(PanicError), contained():
        raise make()


async def test_the_members_of_a_group_are_found_however_deep_they_are() -> None:
    """An exit in more groups than Python makes calls ends the service all the same."""
    error: BaseException = SystemExit()
    for _ in range(2000):
        error = BaseExceptionGroup("", [error])
    with pytest.raises(SystemExit), contained():
        raise error


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


class Limit:
    """A time limit, whose handlers are of any kind."""

    def __call__(self, number: int, frame: object) -> None:
        raise LookupError

    def expire(self, number: int, frame: object) -> None:
        raise LookupError

    @staticmethod
    def expire_for(_: str, number: int, frame: object) -> None:
        raise LookupError


def function(number: int, frame: object) -> None:
    raise LookupError


@pytest.mark.parametrize("handler", [Limit(), Limit().expire, partial(Limit.expire_for, "x"), function])
def test_an_interrupt_is_known(handler: Any) -> None:
    """An exception that a signal handler has raised is one, however it is called; the same raised by a call is none."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(LookupError) as raised:
            signal.raise_signal(signal.SIGALRM)
        assert is_interrupt(raised.value)
        with pytest.raises(LookupError) as raised:
            "".encode("x")
        assert not is_interrupt(raised.value)
    finally:
        signal.signal(signal.SIGALRM, before)
