"""From the signal to the dispatcher: bounded, isolated and timed."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from contextvars import Context, copy_context
from typing import Final

import anyio

from ..record.errors import (
    AlertBufferFullError,
    AlertCancelledError,
    AlertStoppedError,
    AlertTimeoutError,
)
from ..record.events import AuditEvent
from ..tasks.background import Background
from ..tasks.loops import Condition
from ._health import Health
from .alerting import Alert, AlertDispatcher, DeliveryReport
from .policy import CompliancePolicy
from .signals import Announcer, alert_dispatched, alert_failed

__all__ = ["AlertForwarder"]

_logger: Final = logging.getLogger("fapilog")


class _Pending:
    """An alert that has no report yet: its sender, when it was announced, and in which context."""

    __slots__ = ("alert", "announced", "context", "sender")

    def __init__(self, sender: object, alert: Alert, announced: float) -> None:
        self.sender = sender
        self.alert = alert
        self.announced = announced
        self.context: Context = copy_context()


class AlertForwarder:
    """
    Receives `compliance_alert` and hands each alert to the dispatcher.

    Every alert that is received ends in exactly one report, on `alert_dispatched` or on `alert_failed`. While the trail
    is started, alerts wait in a bounded buffer, and up to *concurrency* of them are sent at once, in the trail's event
    loop. While it is not, the alert is sent by the call of `log_event` that it is for. An alert is sent in the context
    variables of the code that announced it.

    While a catch-up resends what the dispatcher lacks (`resend`), an alert that finds the buffer full has no report
    yet: it will be received again.

    Args:
        dispatcher: Gets the alerts.
        policy: Says how much of an event the dispatcher gets.
        background: Runs the sends.
        announcer: Sends the reports.
        health: Is told of each report.
        timeout: Seconds that the dispatcher may take for one alert.
        concurrency: Alerts that are sent at once.
        buffer: Alerts that may wait; more fail.
        clock: Tells the seconds that reports are made of.

    Attributes:
        changed: Notified when an alert was reported or missed.
        dispatched: How many alerts the dispatcher has taken.
        failed: How many it has not.
    """

    def __init__(
        self,
        dispatcher: AlertDispatcher,
        *,
        policy: CompliancePolicy,
        background: Background,
        announcer: Announcer,
        health: Health,
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
        self._timeout = timeout
        self._concurrency = concurrency
        self._limit = buffer
        self._clock = clock
        # Guards all that follows: alerts come from any thread.
        self._lock = threading.Lock()
        self._buffer: deque[_Pending] = deque()
        self._pending: dict[_Pending, None] = {}
        self._sending = 0
        # The task of the oldest alert has not begun. The next waits for that: trio begins tasks in any order.
        self._is_starting = False
        self._resends = False
        self._has_missed = False
        self._watched: frozenset[str] = frozenset()
        self._missed: set[str] = set()
        self.changed: Condition = Condition()
        self.dispatched: int = 0
        self.failed: int = 0

    @property
    def waiting(self) -> int:
        """How many alerts have no report yet."""
        return len(self._pending)

    # -- for the catch-up

    def resend(self, *, resends: bool) -> None:
        """Note whether a catch-up resends the alerts that find the buffer full, or fail."""
        self._resends = resends

    @property
    def has_missed(self) -> bool:
        """Whether an alert was missed since `watch` was called."""
        return self._has_missed

    def watch(self, event_ids: Collection[str]) -> frozenset[str]:
        """Note from now on which of these events' alerts are missed; return those that have no report yet."""
        with self._lock:
            self._watched, self._missed, self._has_missed = frozenset(event_ids), set(), False
            return frozenset(pending.alert.event.event_id for pending in self._pending)

    async def until_done(self) -> frozenset[str]:
        """Wait until the alerts about all events that are watched have a report; return those that were missed."""
        await self.changed.until(lambda: not self._watched & self._without_report())
        return frozenset(self._missed)

    async def until_room(self) -> None:
        """Wait until the buffer is not full."""
        await self.changed.until(lambda: len(self._buffer) < self._limit)

    def _without_report(self) -> set[str]:
        with self._lock:
            return {pending.alert.event.event_id for pending in self._pending}

    # -- receiving and sending

    def receive(self, sender: object, *, event: AuditEvent, severity: str, channel: str | None = None) -> None:
        """Take one alert. Called by the signal, from any thread; never waits for the dispatcher or for a loop."""
        pending = _Pending(sender, Alert(event, severity, channel), self._clock())
        is_open = self._background.entered
        to_send: _Pending | None = pending
        with self._lock:
            is_full = max(len(self._buffer), self._background.kept) >= self._limit
            is_missed = is_full and self._resends and event.sequence_number is not None
            if is_missed:
                self._miss(event)
            else:
                self._pending[pending] = None
                if is_open and not is_full:
                    self._buffer.append(pending)
                    to_send = self._next()
        if is_missed:
            self.changed.notify()
        elif is_full:
            self._report(pending, AlertBufferFullError(self._limit))
        elif to_send is not None:
            self._start(to_send, self._send_one if is_open else self._send)

    def give_up(self) -> None:
        """Fail the alerts that have no report, since the trail was stopped."""
        with self._lock:
            pending = tuple(self._pending)
            self._buffer.clear()
            self._sending, self._is_starting = 0, False
        for each in pending:
            self._report(each, AlertStoppedError())

    def forget(self) -> None:
        """Drop what waits, in a forked child: the parent sends it."""
        self._lock = threading.Lock()
        self.changed = Condition()
        self._buffer.clear()
        self._pending.clear()
        self._sending = self.dispatched = self.failed = 0
        self._is_starting = self._resends = self._has_missed = False
        self._watched, self._missed = frozenset(), set()

    def _next(self) -> _Pending | None:
        """Return the oldest alert in the buffer if its task may begin; called with the lock held."""
        if not self._buffer or self._sending >= self._concurrency or self._is_starting:
            return None
        self._sending += 1
        self._is_starting = True
        return self._buffer[0]

    def _start(self, pending: _Pending, send: Callable[[_Pending], object]) -> None:
        pending.context.run(self._background.start_soon, functools.partial(send, pending))  # type: ignore[arg-type]

    async def _send_one(self, pending: _Pending) -> None:
        """Send an alert in a task with the alert's context; such a task begins, and ends, with starting the next."""
        with self._lock:
            self._is_starting = False
            if self._buffer and self._buffer[0] is pending:
                self._buffer.popleft()
        self._start_next()
        try:
            await self._send(pending)
        finally:
            with self._lock:
                self._sending = max(0, self._sending - 1)
            self._start_next()

    def _start_next(self) -> None:
        with self._lock:
            following = self._next() if self._background.entered else None
        if following is not None:
            self._start(following, self._send_one)

    async def _send(self, pending: _Pending) -> None:
        if pending not in self._pending:
            return  # it was given up before its turn came
        event, severity, channel = pending.alert
        began = self._clock()
        error: Exception | None = AlertTimeoutError(self._timeout)
        try:
            with anyio.move_on_after(self._timeout):
                await self._dispatcher.send_alert(self._policy.for_dispatch(event), severity=severity, channel=channel)
                error = None
        except Exception as raised:
            error = raised
        except BaseException:
            stopped = self._background.leaving
            self._report(pending, AlertStoppedError() if stopped else AlertCancelledError(), began=began)
            raise
        self._report(pending, error, began=began)

    def _report(self, pending: _Pending, error: Exception | None, *, began: float | None = None) -> None:
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
            if pending not in self._pending:
                return  # another thread has given it up
            del self._pending[pending]
            if error is None:
                self.dispatched += 1
            else:
                self.failed += 1
                if self._resends and event.sequence_number is not None:
                    self._miss(event)
        if error is None:
            self._announcer.announce(alert_dispatched, pending.sender, report=report)
        else:
            _logger.error(
                "the alert about event %s (record %s) was not delivered: %s",
                event.event_id,
                event.sequence_number,
                report.reason,
            )
            self._announcer.announce(alert_failed, pending.sender, report=report)
        self.changed.notify()
        self._health.reported(report, pending.announced)

    def _miss(self, event: AuditEvent) -> None:
        """Note an alert that the catch-up is to resend; called with the lock held."""
        self._has_missed = True
        if event.event_id in self._watched:
            self._missed.add(event.event_id)
