"""From the signal to the dispatcher: bounded, isolated and timed."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from contextvars import Context, copy_context
from typing import Any, Final

import anyio
import anyio.lowlevel

from ..record.errors import AlertBufferFullError, AlertCancelledError, AlertStoppedError, AlertTimeoutError
from ..record.events import AuditEvent, Identity, identity_of
from ..tasks.background import Background
from ..tasks.loops import Condition, Loop, is_without_loop
from ..tasks.strangers import Log, contained
from ._health import Health
from .alerting import Alert, AlertDispatcher, DeliveryReport
from .policy import CompliancePolicy
from .signals import Aftermath, Announcer, alert_dispatched, alert_failed

__all__ = ["LOOK_EVERY", "AlertForwarder", "Outstanding", "Pending"]

_log: Final = Log("fapilog")

# Turns of the event loop in which an alert surely gets from the buffer to the dispatcher.
_TURNS: Final = 8
LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether an event loop was closed around a call that is waited for."""


class Pending:
    """
    An alert that has no report yet.

    Args:
        sender: The trail that has announced it.
        alert: The alert.
        announced: The time of the announcement, on the forwarder's clock.

    Attributes:
        is_taken: Whether it will have a report: it is sent when its turn comes, or fails at once.
        loop: The loop in which it is sent; None if it waits for that in the buffer, or was announced without a loop.
    """

    __slots__ = ("alert", "announced", "context", "is_taken", "loop", "sender")

    def __init__(self, sender: object, alert: Alert, announced: float) -> None:
        self.sender = sender
        self.alert = alert
        self.announced = announced
        self.is_taken = False
        self.loop: Loop | None = None
        # The alert is sent in the context variables of the code that announced it.
        self.context: Context = copy_context()


class Outstanding:
    """
    The alerts that are on their way: to be announced, without a report, or missed.

    The trail notes an event before it is stored, and when it was announced. The forwarder notes an alert until its
    report. A catch-up, while there is one, waits for both, and resends the alerts that were missed: that found the
    buffer full, or failed. Any thread may call any method.

    Attributes:
        resends: Whether a catch-up resends the alerts that are missed from now on.
        has_missed: Whether an alert was missed since `watch` was called.
        changed: Notified after every change.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # By the event's id, the loop that announces it; None: a thread without a loop does.
        self._unannounced: dict[str, Loop | None] = {}
        self._pending: dict[Pending, None] = {}
        self._watched: frozenset[Identity] = frozenset()
        self._missed: set[Identity] = set()
        self.resends: bool = False
        self.has_missed: bool = False
        self.changed: Condition = Condition()

    def __len__(self) -> int:
        return len(self._pending)

    def expect(self, event_id: str) -> None:
        """Note an event that is announced as soon as it is stored, by this loop or thread."""
        self._unannounced[event_id] = Loop.here()

    def announced(self, event_id: str) -> None:
        """Note that an event was announced, or will not be."""
        if event_id in self._unannounced:
            self._unannounced.pop(event_id, None)
            self.changed.notify()

    def interrupted(self, event_id: str) -> bool:
        """
        Note that a signal handler ended the call that stores and announces an event, so that its alert may be missed.

        Returns:
            Whether nothing resends it: it was not received yet, and there is no catch-up.
        """
        is_lost = event_id in self._unannounced and not self.resends
        self._unannounced.pop(event_id, None)
        self.has_missed = True
        self.changed.notify()
        return is_lost

    async def until_announced(self) -> None:
        """Wait until the events that are expected now were announced, or the loops of their calls were closed."""
        before = self._unannounced.copy()
        is_waiting = True
        while is_waiting:
            for event_id, loop in before.items():
                if loop is not None and loop.is_closed:
                    self._unannounced.pop(event_id, None)
            # Nothing notifies when a loop is closed.
            with anyio.move_on_after(LOOK_EVERY) as looking:
                await self.changed.until(lambda: not before.keys() & self._unannounced.keys())
            is_waiting = looking.cancelled_caught

    def add(self, pending: Pending) -> None:
        """Note an alert until its report."""
        self._pending[pending] = None

    def has(self, pending: Pending) -> bool:
        """Return whether an alert still has no report."""
        return pending in self._pending

    def remove(self, pending: Pending) -> bool:
        """Note that an alert has its report; return False if it had one already."""
        return self._pending.pop(pending, self) is None

    def all(self) -> tuple[Pending, ...]:
        """Return the alerts without a report."""
        return tuple(self._pending.copy())

    def miss(self, event: AuditEvent) -> None:
        """Note an alert for the catch-up to resend."""
        with self._lock:
            self.has_missed = True
            if identity_of(event) in self._watched:
                self._missed.add(identity_of(event))

    def watch(self, identities: Collection[Identity]) -> frozenset[Identity]:
        """Note from now on which of these events' alerts are missed; return the events whose alerts have no report."""
        with self._lock:
            self._watched, self._missed, self.has_missed = frozenset(identities), set(), False
        return self._unreported()

    async def until_reported(self) -> frozenset[Identity]:
        """Wait until the alerts about all watched events have a report; return the events whose alerts were missed."""
        await self.changed.until(lambda: not self._watched & self._unreported())
        return frozenset(self._missed)

    def _unreported(self) -> frozenset[Identity]:
        return frozenset(identity_of(pending.alert.event) for pending in self.all())


class AlertForwarder:
    """
    Receives `compliance_alert` and sends the alerts to the dispatcher.

    Every alert that is received ends in exactly one report, on `alert_dispatched` or on `alert_failed`. While the trail
    is started, alerts wait in a bounded buffer, and up to *concurrency* of them are sent at once, in the trail's event
    loop. While it is not, the call of `log_event` sends its alert itself.

    While a catch-up resends missed alerts, an alert that finds the buffer full has no report yet: it is received again.

    Args:
        dispatcher: Gets the alerts.
        policy: Says how much of an event the dispatcher gets.
        background: Runs the sends.
        announcer: Sends the reports.
        health: Takes the reports.
        outstanding: Knows the alerts that have no report yet.
        aftermath: Knows the calls of the dispatcher, which may log events.
        timeout: Seconds that the dispatcher may take for one alert.
        concurrency: Alerts that are sent at once.
        buffer: Alerts that may wait; more fail.
        clock: Returns seconds, for the times in reports.

    Attributes:
        dispatched: How many alerts the dispatcher has taken.
        failed: How many alerts failed.
    """

    def __init__(
        self,
        dispatcher: AlertDispatcher,
        *,
        policy: CompliancePolicy,
        background: Background,
        announcer: Announcer,
        health: Health,
        outstanding: Outstanding,
        aftermath: Aftermath,
        timeout: float,
        concurrency: int,
        buffer: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._policy = policy
        self._background = background
        self._announcer = announcer
        self._health = health
        self._outstanding = outstanding
        self._aftermath = aftermath
        self._timeout = timeout
        self._concurrency = concurrency
        self._limit = buffer
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Become as new, in a forked child: the parent sends its alerts."""
        # Guards all that follows: alerts come from any thread.
        self._lock = threading.RLock()
        self._buffer: deque[Pending] = deque()
        self._sending = 0
        # The task of the oldest alert has not begun. The next waits for that: trio begins tasks in any order.
        self._is_starting = False
        self.dispatched: int = 0
        self.failed: int = 0

    async def until_room(self) -> None:
        """Wait until the buffer is not full."""
        await self._outstanding.changed.until(lambda: len(self._buffer) < self._limit)

    async def make_room(self) -> None:
        """Let this loop send while the buffer is filling up, so that a tight loop does not fill it; soon returns."""
        home = self._background.home
        for _ in range(_TURNS):
            # A full buffer stays full: a dispatcher that hangs must not delay the callers.
            is_filling = self._limit <= 2 * len(self._buffer) < 2 * self._limit
            if not is_filling or home is None or is_without_loop() or not home.is_here:
                return
            await anyio.lowlevel.checkpoint()

    def receive(self, sender: object, *, event: AuditEvent, severity: str, channel: str | None = None) -> None:
        """Take one alert. Called by the signal, from any thread; never waits for the dispatcher or for a loop."""
        pending: Pending | None = None
        try:
            pending = Pending(sender, Alert(event, severity, channel), self._clock())
            self._receive(pending)
        except BaseException:
            # A signal handler has raised: perhaps before the alert was on its way.
            if pending is None or not pending.is_taken:
                if pending is not None:
                    self._outstanding.remove(pending)
                self._receive(Pending(sender, Alert(event, severity, channel), self._clock()))
            raise
        finally:
            self._outstanding.announced(event.event_id)

    def _receive(self, pending: Pending) -> None:
        event = pending.alert.event
        is_open = self._background.home is not None
        with self._lock:
            is_full = (len(self._buffer) if is_open else self._background.kept) >= self._limit
            is_missed = is_full and self._outstanding.resends and event.sequence_number is not None
            if not is_missed:
                self._outstanding.add(pending)
            if is_open and not is_full:
                self._buffer.append(pending)
                pending.is_taken = True
        if is_missed:
            self._outstanding.miss(event)
            self._outstanding.changed.notify()
        elif is_full:
            pending.is_taken = True
            self._report(pending, AlertBufferFullError(self._limit))
        elif not is_open:
            pending.loop = Loop.here()
            self._start(pending, self._send)
            pending.is_taken = True
        else:
            self._start_first()

    def give_up(self) -> None:
        """Fail the alerts that have no report, since the trail was stopped."""
        with self._lock:
            self._buffer.clear()
            self._sending, self._is_starting = 0, False
        for pending in self._outstanding.all():
            self._report(pending, AlertStoppedError())

    def give_up_lost(self) -> None:
        """Fail the alerts whose event loop was closed around their sending."""
        for pending in self._outstanding.all():
            if pending.loop is not None and pending.loop.is_closed:
                self._report(pending, AlertStoppedError())

    def _start(self, pending: Pending, send: Callable[[Pending], Coroutine[Any, Any, None]]) -> None:
        pending.context.run(self._background.start_soon, functools.partial(send, pending))

    def _next(self) -> Pending | None:
        """Return the oldest alert in the buffer if its task may begin; called with the lock held."""
        if not self._buffer or self._sending >= self._concurrency or self._is_starting:
            return None
        self._is_starting = True
        return self._buffer[0]

    async def _send_in_turn(self, pending: Pending) -> None:
        """Send the first alert in the buffer; the next one is started when this begins, and when it ends."""
        with self._lock:
            self._is_starting = False
            if not self._buffer or self._buffer[0] is not pending:
                return  # given up, or started a second time
            self._buffer.popleft()
            self._sending += 1
        self._start_next()
        try:
            await self._send(pending)
        finally:
            with self._lock:
                self._sending = max(0, self._sending - 1)
            self._start_next()

    def _start_next(self) -> None:
        if self._background.home is not None:
            self._start_first()

    def _start_first(self) -> None:
        try:
            with self._lock:
                following = self._next()
            if following is not None:
                self._start(following, self._send_in_turn)
        except BaseException:
            # A signal handler has raised: perhaps before the task was started, for which all others would wait.
            self._is_starting = False
            self._start_first()
            raise

    async def _send(self, pending: Pending) -> None:
        with self._aftermath.begun():
            await self._call_dispatcher(pending)

    async def _call_dispatcher(self, pending: Pending) -> None:
        if not self._outstanding.has(pending):
            return  # given up before its turn came
        pending.loop = Loop.current()
        event, severity, channel = pending.alert
        began = self._clock()
        error: Exception | None = None
        is_done = False
        try:
            with anyio.move_on_after(self._timeout):
                # The call of `log_event` returns first. On asyncio it is woken a turn after the task that stores.
                await anyio.lowlevel.checkpoint()
                event = self._policy.for_dispatch(event)
                with contained():
                    await self._dispatcher.send_alert(event, severity=severity, channel=channel)
                is_done = True
            if not is_done:
                error = AlertTimeoutError(self._timeout)
        except Exception as raised:
            error = raised
        except BaseException:
            stopped = self._background.leaving
            self._report(pending, AlertStoppedError() if stopped else AlertCancelledError(), began=began)
            raise
        self._report(pending, error, began=began)

    def _report(self, pending: Pending, error: Exception | None, *, began: float | None = None) -> None:
        if not self._outstanding.remove(pending):
            return  # another thread has given it up
        event, severity, channel = pending.alert
        now = self._clock()
        report = DeliveryReport(
            event=event,
            severity=severity,
            channel=channel,
            waited=(now if began is None else began) - pending.announced,
            took=0.0 if began is None else now - began,
            error=error,
        )
        with self._lock:
            self.dispatched += error is None
            self.failed += error is not None
        if error is None:
            self._announcer.announce(alert_dispatched, pending.sender, report=report)
        else:
            _log.error(
                "the alert about event %s (record %s) was not delivered: %s",
                event.event_id,
                event.sequence_number or "not stored",
                report.reason,
            )
            self._announcer.announce(alert_failed, pending.sender, report=report)
            if self._outstanding.resends and event.sequence_number is not None:
                self._outstanding.miss(event)
        self._outstanding.changed.notify()
        self._health.reported(report, pending.announced)
