"""Calling the receivers of a signal, beside blinker doing it without isolation."""

from collections.abc import Callable, Coroutine, Iterator
from time import perf_counter
from typing import Any

import anyio
import blinker

from fapilog.core.audit import AuditEvent, AuditEventType
from fapilog.core.signals import Aftermath, Announcer
from fapilog.tasks.background import Background
from fapilog.tasks.life import Life

__all__ = ["announced", "called", "sent_by_blinker"]

Details = dict[str, Any]


class Sender:
    """Stands for the trail."""


def announced(
    backend: str, _directory: str, *, times: int, receiver: str, batch: int = 1, until_run: bool = True
) -> Iterator[float]:
    """
    Yield the microseconds that one announcement takes.

    Args:
        times: How many are measured.
        receiver: Of which kind.
        batch: How many are made before the receivers are waited for.
        until_run: Whether the wait for the receivers is measured with it.
    """

    async def run() -> float:
        background = Background()
        life = Life(background.open())
        await life.enter()
        announcer = Announcer(background, Aftermath(0), ours=bool, timeout=30, limit=1000)
        signal, sender, details = prepared(receiver)
        took = 0.0
        for _ in range(times // batch):
            began = perf_counter()
            for _ in range(batch):
                announcer.announce(signal, sender, **details)
            if until_run:
                await background.settle()
            took += perf_counter() - began
            await background.settle()
        await life.leave()
        return took

    while True:
        yield anyio.run(run, backend=backend) / times * 1e6


def sent_by_blinker(backend: str, _directory: str, *, times: int, receiver: str) -> Iterator[float]:
    """Yield the microseconds that one `send_async` takes."""

    async def run() -> float:
        signal, sender, details = prepared(receiver)
        began = perf_counter()
        for _ in range(times):
            # The wrapper is for plain functions: blinker refuses to call one without it.
            await signal.send_async(sender, _sync_wrapper=as_coroutine, **details)
        return perf_counter() - began

    while True:
        yield anyio.run(run, backend=backend) / times * 1e6


def called(_backend: str, _directory: str, *, times: int) -> Iterator[float]:
    """Yield the microseconds that it takes to call a method that does nothing, with the arguments of `announce`."""
    nothing = Nothing()
    signal, sender, details = prepared("none")
    while True:
        began = perf_counter()
        for _ in range(times):
            nothing.announce(signal, sender, **details)
        yield (perf_counter() - began) / times * 1e6


class Nothing:
    def announce(self, signal: blinker.NamedSignal, sender: object, /, **details: Any) -> None:
        pass


def prepared(receiver: str) -> tuple[blinker.NamedSignal, Sender, Details]:
    """Return a signal with the *receiver* that is named, and what to send."""
    signal = blinker.NamedSignal("benchmark")
    if receiver != "none":
        signal.connect({"function": function, "coroutine": coroutine}[receiver])
    event = AuditEvent(event_type=AuditEventType.AUTHENTICATION_FAILED, message="wrong password")
    return signal, Sender(), {"event": event, "severity": "security", "channel": None}


def function(sender: object, **details: Any) -> None:
    pass


async def coroutine(sender: object, **details: Any) -> None:
    pass


def as_coroutine(receiver: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def call(*args: Any, **details: Any) -> Any:
        return receiver(*args, **details)

    return call
