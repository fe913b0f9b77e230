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

__all__ = ["AlertForwarder"]

_log: Final = Log("fapilog")

# Seconds between two looks whether an event loop was closed around a call that is waited for: nothing notifies of that.
_LOOK_EVERY: Final = 1.0
# Turns of the event loop in which an alert surely gets from the buffer to the dispatcher.
_TURNS: Final = 8


class _Pending:
    """
    An alert that has no report yet.

    Args:
        sender: The trail that has announced it.
        alert: The alert.
        announced: The time of the announcement, on the forwarder's clock.

    Attributes:
        is_taken: Whether it will have a report: it is sent when its turn comes, or fails at once.
        is_reported: Whether it has had its report.
        loop: The loop in which it is sent; None if it waits for that in the buffer, or was announced without a loop.
    """

    __slots__ = ("alert", "announced", "context", "is_reported", "is_taken", "loop", "sender")

    def __init__(self, sender: object, alert: Alert, announced: float) -> None:
        self.sender = sender
        self.alert = alert
        self.announced = announced
        self.is_taken = self.is_reported = False
        self.loop: Loop | None = None
        # The alert is sent in the context variables of the code that announced it.
        self.context: Context = copy_context()


class AlertForwarder:
    """
    Receives `compliance_alert` and sends the alerts to the dispatcher.

    Every alert that is received ends in exactly one report, on `alert_dispatched` or on `alert_failed`. While the trail
    is started, alerts wait in a bounded buffer, and up to *concurrency* of them are sent at once, in the trail's event
    loop. While it is not, the call of `log_event` sends its alert itself.

    It also knows the events that are announced as soon as they are stored. A catch-up is told of the alerts that were
    missed: they found the buffer full, or failed. While there is one, an alert that finds the buffer full has no report
    yet: it is received again.

    Args:
        dispatcher: Gets the alerts.
        policy: Says how much of an event the dispatcher gets.
        background: Runs the sends.
        announcer: Sends the reports.
        health: Takes the reports.
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
        # The alerts without a report; of these, the alerts that wait in the buffer, and the alerts out of it that are
        # being sent.
        self._pending: dict[_Pending, None] = {}
        self._buffer: deque[_Pending] = deque()
        self._sending: set[_Pending] = set()
        # The task of the oldest alert has not begun. The next waits for that: trio begins tasks in any order.
        self._is_starting = False
        self.dispatched: int = 0
        self.failed: int = 0
        # By the id of an event that is to be announced, the loop that does so; None: a thread without a loop does.
        self._unannounced: dict[str, Loop | None] = {}
        # Resends an alert that was missed; None if nothing does.
        self._resend_soon: Callable[[Identity], object] | None = None
        # Nobody waits for changes but a catch-up that is under way.
        self._changed: Condition = Condition()

    @property
    def waiting(self) -> int:
        """How many alerts have no report."""
        return len(self._pending)

    def expect(self, event_id: str) -> None:
        """Note an event that is announced as soon as it is stored, by this loop or thread."""
        self._unannounced[event_id] = Loop.here()

    def announced(self, event_id: str) -> None:
        """Note that an event was announced, or will not be."""
        if self._unannounced.pop(event_id, self) is not self and self._changed.waiting:
            self._changed.notify()

    def interrupted(self, event_id: str) -> bool:
        """
        Note that a signal handler ended the call that stores and announces an event, so that its alert may be missed.

        Returns:
            Whether nothing resends it: it was not received yet, and there is no catch-up.
        """
        resend_soon = self._resend_soon
        is_lost = event_id in self._unannounced and resend_soon is None
        self._unannounced.pop(event_id, None)
        if resend_soon is not None:
            # Its number is not known here, if it has one.
            resend_soon((event_id, None))
        self._changed.notify()
        return is_lost

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
        pending: _Pending | None = None
        try:
            pending = _Pending(sender, Alert(event, severity, channel), self._clock())
            self._receive(pending)
        except BaseException:
            # A signal handler has raised: perhaps before the alert was on its way.
            if pending is None or not (pending.is_taken or pending.is_reported):
                if pending is not None:
                    self._pending.pop(pending, None)
                self._receive(_Pending(sender, Alert(event, severity, channel), self._clock()))
            # Or before its task was started.
            self._start_next()
            raise
        finally:
            self.announced(event.event_id)

    def _receive(self, pending: _Pending) -> None:
        event = pending.alert.event
        is_open = self._background.home is not None
        with self._lock:
            is_full = (len(self._buffer) if is_open else self._background.kept) >= self._limit
            if not is_full:
                self._pending[pending] = None
                if is_open:
                    self._buffer.append(pending)
                    pending.is_taken = True
        if is_full:
            if not self._miss(event):
                self._pending[pending] = None
                self._report(pending, AlertBufferFullError(self._limit))
        elif not is_open:
            pending.loop = Loop.here()
            self._start(pending, self._send)
            pending.is_taken = True
        else:
            # Also where the background was closed a moment ago: it keeps the call, for the trail that is being stopped.
            self._start_first()

    def give_up(self, *why: str) -> None:
        """Fail the alerts that have no report, since the trail was stopped, or as *why* says."""
        with self._lock:
            self._buffer.clear()
            self._sending.clear()
            self._is_starting = False
        for pending in tuple(self._pending.copy()):
            self._report(pending, AlertStoppedError(*why))

    def _start(self, pending: _Pending, send: Callable[[_Pending], Coroutine[Any, Any, None]]) -> None:
        # In a copy: where a signal handler has raised, two threads may start it, and a context is entered by one.
        start = functools.partial(self._background.start_soon, failed=functools.partial(self._end, pending))
        pending.context.copy().run(start, functools.partial(send, pending))

    def _end(self, pending: _Pending, error: Exception) -> None:
        """Report an alert whose task *error* has ended: of a signal handler, and before the task could do so."""
        with self._lock:
            if self._buffer and self._buffer[0] is pending:
                self._buffer.popleft()
            self._is_starting = False
            self._sending.discard(pending)
        self._report(pending, error)
        self._start_next()

    async def _send_in_turn(self, pending: _Pending) -> None:
        """Send the first alert in the buffer; the next one is started when this begins, and when it ends."""
        with self._lock:
            self._is_starting = False
            if not self._buffer or self._buffer[0] is not pending:
                return  # given up, or started a second time
            self._sending.add(pending)
            self._buffer.popleft()
        try:
            self._start_next()
            await self._send(pending)
        finally:
            self._sending.discard(pending)
            self._start_next()

    def _start_next(self) -> None:
        if self._background.home is not None:
            self._start_first()

    def _start_first(self) -> None:
        """Start the task of the oldest alert in the buffer, if it may begin."""
        first: _Pending | None = None
        try:
            with self._lock:
                if self._buffer and len(self._sending) < self._concurrency and not self._is_starting:
                    self._is_starting = True
                    first = self._buffer[0]
            if first is not None:
                self._start(first, self._send_in_turn)
        except BaseException:
            # A signal handler has raised: perhaps before the task was started, for which all others would wait.
            self._is_starting = False
            self._start_first()
            raise

    async def _send(self, pending: _Pending) -> None:
        if pending not in self._pending:
            return  # given up before its turn came
        pending.loop = Loop.current()
        event, severity, channel = pending.alert
        began = self._clock()
        error: Exception | None = None
        is_done = False
        with self._aftermath.begun():
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

    def _report(self, pending: _Pending, error: Exception | None, *, began: float | None = None) -> None:
        try:
            # Else another thread has given it up.
            if self._pending.pop(pending, self) is None:
                self._announce_report(pending, error, began)
        except BaseException:
            # A signal handler has raised: perhaps before the report was announced, or before it was noted.
            self._pending.pop(pending, None)
            self._announce_report(pending, error, began)
            raise

    def _announce_report(self, pending: _Pending, error: Exception | None, began: float | None) -> None:
        """Announce the report of an alert, unless that was done, and note it."""
        event, now = pending.alert.event, self._clock()
        report = DeliveryReport(
            **pending.alert._asdict(),
            waited=(now if began is None else began) - pending.announced,
            took=0.0 if began is None else now - began,
            error=error,
        )
        if not pending.is_reported:
            if error is not None:
                message = "the alert about event %s (record %s) was not delivered: %s"
                _log.error(message, event.event_id, event.sequence_number or "not stored", report.reason)
            signal = alert_dispatched if error is None else alert_failed
            self._announcer.announce(signal, pending.sender, report=report)
            pending.is_reported = True
            with self._lock:
                self.dispatched += error is None
                self.failed += error is not None
        if error is not None:
            self._miss(event)
        if self._changed.waiting:
            self._changed.notify()
        self._health.reported(report, pending.announced)

    # -- for the catch-up

    def resend_missed(self, resend_soon: Callable[[Identity], object] | None) -> None:
        """Have the function called, from any thread, for every alert that is missed from now on; None for no call."""
        self._resend_soon = resend_soon

    def _miss(self, event: AuditEvent) -> bool:
        """Have the alert about *event* resent; return False if nothing resends it."""
        resend_soon = self._resend_soon
        if resend_soon is None or event.sequence_number is None:
            return False
        resend_soon(identity_of(event))
        return True

    async def until_room(self) -> None:
        """Wait until the buffer is not full."""
        await self._changed.until(lambda: len(self._buffer) < self._limit)

    async def until_announced(self) -> None:
        """Wait until the events that are expected now were announced, or the loops of their calls were closed."""
        before = self._unannounced.copy()
        await self._until(lambda: before.keys().isdisjoint(self._unannounced))

    def unreported(self) -> frozenset[Identity]:
        """Return the events whose alerts have no report."""
        return frozenset(identity_of(pending.alert.event) for pending in self._pending.copy())

    async def until_reported(self, events: Collection[Identity]) -> None:
        """Wait until the alerts about all these *events* have a report."""
        await self._until(lambda: self.unreported().isdisjoint(events))

    async def _until(self, holds: Callable[[], bool]) -> None:
        is_waiting = True
        while is_waiting:
            self._give_up_lost()
            with anyio.move_on_after(_LOOK_EVERY) as looking:
                await self._changed.until(holds)
            is_waiting = looking.cancelled_caught

    def _give_up_lost(self) -> None:
        """Expect nothing of loops that were closed, and fail the alerts that were being sent there."""
        for event_id, loop in self._unannounced.copy().items():
            if loop is not None and loop.is_closed:
                self._unannounced.pop(event_id, None)
        for pending in tuple(self._pending.copy()):
            if pending.loop is not None and pending.loop.is_closed:
                self._report(pending, AlertStoppedError())
