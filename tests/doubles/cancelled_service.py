"""
A service that is cancelled at a certain step of its event loop, and everything that must hold then.

A step is what a loop does between two looks at what is ready: of asyncio one callback, of trio one step of a task. So
"after step n", for n = 0, 1, 2 and so on until the service ends first, is every state in which a cancellation can find
the service: before a task has begun, while the task waits, and when the task was woken and has not run yet.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.lowlevel

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditTrail,
    DeliveryReport,
    alert_dispatched,
    alert_failed,
    compliance_alert,
)
from fapilog.core.alerting import AlertDispatcher
from fapilog.delivery.digest import Digest
from fapilog.delivery.fallback import Fallback
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.ratelimit import RateLimit
from fapilog.delivery.retry import Retrying
from fapilog.delivery.route import Route, when
from fapilog.proof.heartbeat import Heartbeat
from tests.doubles.stepped_loops import WATCHDOG, Steps, is_asyncio, run, tasks_here, watched

__all__ = ["DISPATCHERS", "WAYS", "Service", "cancel_after", "cases"]

KIND: Final = AuditEventType.SECURITY_VIOLATION


class Peer:
    """A dispatcher that needs a moment to be entered, to send and to be left; counts all three."""

    def __init__(self, *, sends_for: float = 0.1) -> None:
        self.sends_for = sends_for
        self.entered = self.left = 0
        self.told: list[str] = []

    async def __aenter__(self) -> Self:
        await anyio.sleep(0.1)
        self.entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Left in any case, however hurried it is.
        self.left += 1
        await anyio.sleep(0.1)

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await anyio.sleep(self.sends_for)
        self.told.append(event.event_id)


class Failing(Peer):
    """Fails for the first alert."""

    is_first = True

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        if self.is_first:
            self.is_first = False
            raise ConnectionError
        await super().send_alert(event, severity=severity, channel=channel)


Made = tuple[AlertDispatcher | None, list[Peer]]


def _none(_: Path) -> Made:
    return None, []


def _plain(_: Path) -> Made:
    return (peer := Peer()), [peer]


def _slow(_: Path) -> Made:
    return (peer := Peer(sends_for=4.0)), [peer]


def _hanging(_: Path) -> Made:
    return (peer := Peer(sends_for=1e9)), [peer]


def _outbox(directory: Path) -> Made:
    peer = Peer()
    return Outbox(peer, directory / "alerts.db", now=_clock), [peer]


def _outbox_failing(directory: Path) -> Made:
    peer = Failing()
    return Outbox(peer, directory / "alerts.db", now=_clock, schedule=[1.0] * 20), [peer]


def _retrying(_: Path) -> Made:
    return Retrying(peer := Failing(), attempts=3), [peer]


def _fan_out(_: Path) -> Made:
    peers = [Peer(), Peer(sends_for=1.0)]
    return FanOut(peers), peers


def _fallback(_: Path) -> Made:
    peers = [Failing(), Peer()]
    return Fallback(peers), peers


def _route(_: Path) -> Made:
    peers = [Peer(), Peer()]
    return Route({when(severity="security"): peers[0]}, default=peers[1]), peers


def _rate_limit(_: Path) -> Made:
    return RateLimit(peer := Peer(), rate=1, burst=1), [peer]


def _digest(_: Path) -> Made:
    return Digest(peer := Peer(), window=5), [peer]


def _clock() -> float:
    return 1_750_000_000.0 + anyio.current_time()


DISPATCHERS: Final[dict[str, Callable[[Path], Made]]] = {
    "none": _none,
    "plain": _plain,
    "slow": _slow,
    "hanging": _hanging,
    "Outbox": _outbox,
    "Outbox of a failing one": _outbox_failing,
    "Retrying": _retrying,
    "FanOut": _fan_out,
    "Fallback": _fallback,
    "Route": _route,
    "RateLimit": _rate_limit,
    "Digest": _digest,
    "Heartbeat": _plain,
}

WAYS: Final = {
    "scope": ("scope", 1),
    "deadline": ("deadline", 1),
    "cancel": ("cancel", 1),
    "cancel twice": ("cancel", 2),
    "cancel thrice": ("cancel", 3),
    "asyncio.timeout": ("timeout", 1),
    "end": ("end", 1),
    "Ctrl-C": ("interrupt", 1),
    "Ctrl-C twice": ("interrupt", 2),
}
"""How the service is cancelled, and how often."""

ENDING: Final = ("end", "interrupt")


class Service:
    """
    A trail, its dispatcher, the code that uses both and is cancelled, and a bystander that is not.

    Args:
        directory: An empty one.
        dispatcher: One of `DISPATCHERS`.
        way: One of `WAYS`.
        started: Whether the service starts the trail.
        durable: Whether it waits for the disk, in a thread.
    """

    def __init__(self, directory: Path, dispatcher: str, way: str, *, started: bool, durable: bool = False) -> None:
        self.kind, self.times = WAYS[way]
        self.started = started
        directory.mkdir(exist_ok=True)
        made, self.peers = DISPATCHERS[dispatcher](directory)
        # Short of the alert's time, and of what the slow dispatcher takes for three.
        self.trail = AuditTrail(
            storage_path=directory / "audit",
            alert_dispatcher=made,
            durability="fsync" if durable else "write",
            alert_timeout=30.0,
            alert_concurrency=2,
            stop_timeout=5.0,
        )
        self.beats = Peer() if dispatcher == "Heartbeat" else None
        self.outbox = made if isinstance(made, Outbox) else None
        self.ids: list[str] = []
        self.begun = self.done = 0
        self.most_done: int | None = None
        self.was_cancelled = False
        self.announced: Counter[str] = Counter()
        self.reported: Counter[str] = Counter()
        self.complaints: list[str] = []
        # Of other tests.
        self._threads = set(threading.enumerate())
        self._others: list[asyncio.Task[None]] = []

    # -- the code that is cancelled

    async def serve(self) -> None:
        async with AsyncExitStack() as stack:
            if self.started:
                await self.call(lambda: stack.enter_async_context(self.trail))
            if self.beats is not None:
                heartbeat = Heartbeat(self.trail, self.beats, key="k" * 32)
                await self.call(lambda: stack.enter_async_context(heartbeat))
            # These two may return without ever waiting: with durability="write", and where there is no alert.
            await self.log()
            await self.call(self.log_security)
            await self.call(self.log_security)
            await self.trail.drain()
            await self.call(self.log_security)
        if not self.started:
            await self.trail.stop()

    async def call(self, method: Callable[[], Awaitable[object]]) -> None:
        self.begun += 1
        await method()
        self.done += 1

    async def log(self) -> None:
        self.ids.append(await self.trail.log_event(AuditEventType.DATA_ACCESS, "read"))

    async def log_security(self) -> None:
        self.ids.append(await self.trail.log_event(KIND, "safe", log_level="security"))

    async def stand_by(self) -> None:
        for _ in range(3):
            await self.log_security()
            await anyio.sleep(0.05)

    # -- a life

    def live(self, backend: str, steps: Steps) -> None:
        """Serve until cancelled or done, check, start and stop again, and check again."""
        with self._observed(), watched():
            if self.outbox is not None:
                # Alerts from before it was first used are not sent.
                run(backend, steps, self._again)
            if self.kind in ENDING:
                with suppress(KeyboardInterrupt):
                    run(backend, steps, lambda: self._end_early(steps))
                steps.disarm()
                self._others.clear()
                gc.collect()
                run(backend, steps, self._again)
                self._check_reports()
            else:
                run(backend, steps, lambda: self._be_cancelled(backend, steps))
        self._check_storage(backend)
        self._check_threads()
        assert not self.complaints, self.complaints

    async def _be_cancelled(self, backend: str, steps: Steps) -> None:
        await anyio.lowlevel.checkpoint()
        before = tasks_here(backend)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.stand_by)
            tasks.start_soon(self._serve_cancelled, steps)
        steps.disarm()
        assert self.most_done is None or self.done <= self.most_done, "a cancellation was swallowed"
        self._check_ended(backend, before)
        await self._again()
        self._check_ended(backend, before)

    async def _serve_cancelled(self, steps: Steps) -> None:
        if self.kind == "scope":
            with anyio.CancelScope() as scope:
                steps.arm(self._noting(scope.cancel))
                await self.serve()
                steps.disarm()
        elif self.kind == "deadline":
            with anyio.CancelScope() as scope:
                # trio looks at its deadlines now and then: a call more may be done until then.
                steps.arm(lambda: setattr(scope, "deadline", -math.inf))
                await self.serve()
                steps.disarm()
        elif self.kind == "timeout":
            await self._time_out(steps)
        else:
            task = asyncio.create_task(self.serve())
            cancelled: list[bool] = []
            steps.arm(self._noting(lambda: cancelled.append(task.cancel())))
            await asyncio.wait({task})
            steps.disarm()
            assert task.cancelled() is any(cancelled), "Task.cancel was swallowed"
            if not task.cancelled():
                await task

    async def _time_out(self, steps: Steps) -> None:
        here = asyncio.current_task()
        assert here is not None
        is_late = False
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                steps.arm(self._noting(lambda: timeout.reschedule(0)))
                await self.serve()
                is_late = steps.fired == 0
                steps.disarm()
        assert timeout.expired() or is_late or not steps.fired or self.done == self.begun
        assert not here.cancelling()

    async def _end_early(self, steps: Steps) -> None:
        if self.kind == "interrupt":
            here = asyncio.current_task() if is_asyncio() else None

            def press() -> None:
                # asyncio stops the next loop that it runs, if its main task is done and not yet noticed.
                if here is None or not here.done():
                    signal.raise_signal(signal.SIGINT)

            steps.arm(press)
            await self.serve()
            steps.disarm()
            return
        end = anyio.Event()
        steps.arm(end.set)
        if not is_asyncio():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._serve_and_set, end)
                tasks.start_soon(self.stand_by)
                await end.wait()
                tasks.cancel_scope.cancel()
            return
        # Others use it as well, and are cancelled all at once by the end of the loop.
        self._others = [asyncio.create_task(each()) for each in (self.stand_by, self.stand_by, self.trail.drain)]
        self._others.append(asyncio.create_task(self._serve_and_set(end)))
        await end.wait()

    async def _serve_and_set(self, end: anyio.Event) -> None:
        await self.serve()
        end.set()

    async def _again(self) -> None:
        """Start and stop as if nothing had been."""
        with anyio.fail_after(1000):
            async with self.trail:
                await self.log_security()
                await self.trail.drain()
                while self.outbox is not None and await self.outbox.pending():  # noqa: ASYNC110
                    await anyio.sleep(1)  # the clock jumps
        assert not self.trail.is_started

    def _noting(self, action: Callable[[], object]) -> Callable[[], None]:
        def act() -> None:
            if self.most_done is None:
                self.most_done = self.begun if self.begun > self.done else self.begun + 1
            action()

        return act

    # -- claims

    def _check_ended(self, backend: str, before: set[str]) -> None:
        assert not self.trail.is_started, "the trail is still started"
        left = tasks_here(backend) - before
        assert not left, f"tasks are left: {left}"
        self._check_reports()
        self._check_left()

    def _check_left(self) -> None:
        peers = self.peers if self.beats is None else [*self.peers, self.beats]
        assert [peer.entered for peer in peers] == [peer.left for peer in peers], "entered and never left"

    def _check_reports(self) -> None:
        # After Ctrl-C between the storing of an event and its announcement, which trio lets through every shield, a
        # catch-up that is just under way sends the alert without announcing it.
        is_right = self.announced <= self.reported if self.kind == "interrupt" else self.announced == self.reported
        assert is_right, f"{self.announced} announced, {self.reported} reported"

    def _check_storage(self, backend: str) -> None:
        stored = []

        async def read() -> None:
            assert (await self.trail.verify_chain_from_storage()).valid
            stored.extend(await self.trail.get_events(limit=1000))
            await self.trail.stop()

        anyio.run(read, backend=backend)
        ids = [event.event_id for event in stored]
        assert len(ids) == len(set(ids))
        assert set(self.ids) <= set(ids), "an id was returned, and nothing is stored"
        alerting = {event.event_id for event in stored if event.log_level == "security"}
        if self.kind not in ENDING:
            assert alerting <= set(self.announced), "stored, and never announced"
        if self.outbox is not None:
            assert alerting <= {each for peer in self.peers for each in peer.told}, "kept, and never sent"
        self._check_left()

    def _check_threads(self) -> None:
        """No thread of the trail outlives it."""
        del self.trail
        self.peers, self.outbox = [], None
        # A call that has ended holds what it was made with until its thread has ended too.
        for name in ("fapilog call", "fapilog commit"):
            gc.collect()
            for thread in set(threading.enumerate()) - self._threads:
                if thread.name.startswith(name):
                    thread.join(WATCHDOG)
                    assert not thread.is_alive()

    @contextmanager
    def _observed(self) -> Iterator[None]:
        def announced(_: object, *, event: AuditEvent, **__: object) -> None:
            self.announced[event.event_id] += 1

        def reported(_: object, *, report: DeliveryReport) -> None:
            self.reported[report.event.event_id] += 1

        class Handler(logging.Handler):
            def emit(_, record: logging.LogRecord) -> None:  # noqa: N805
                self.complaints.append(f"{record.getMessage()} {record.exc_info}")

        compliance_alert.connect(announced, sender=self.trail)
        alert_dispatched.connect(reported, sender=self.trail)
        alert_failed.connect(reported, sender=self.trail)
        handler, before = Handler(), sys.unraisablehook
        sys.unraisablehook = lambda raised: self.complaints.append(f"{raised.err_msg} {raised.exc_value!r}")
        logging.getLogger("asyncio").addHandler(handler)
        logging.getLogger("trio").addHandler(handler)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                # The loop cancels all tasks at once, and that of the trail may end before the service says `stop`.
                warnings.filterwarnings("ignore", ".* was not stopped before its event loop ended", ResourceWarning)
                yield
                gc.collect()
        finally:
            sys.unraisablehook = before
            logging.getLogger("asyncio").removeHandler(handler)
            logging.getLogger("trio").removeHandler(handler)


def cases(backend: str) -> list[str]:
    """Return the ways that there are on *backend*: trio's tasks are cancelled by scopes alone."""
    return [way for way, (kind, _) in WAYS.items() if backend == "asyncio" or kind not in ("cancel", "timeout")]


def cancel_after(step: int, directory: Path, backend: str, dispatcher: str, way: str, **options: Any) -> bool:
    """Have a service cancelled after *step*; return whether that came before its end."""
    gap: int = options.pop("gap", 1)
    service = Service(directory, dispatcher, way, **options)
    steps = Steps(step, gap=gap, times=service.times)
    service.live(backend, steps)
    return steps.fired > 0
