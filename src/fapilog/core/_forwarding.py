"""From the signal to the dispatcher: bounded, isolated and timed."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import anyio
import anyio.lowlevel

from ..record.errors import (
    AlertBufferFullError,
    AlertCancelledError,
    AlertStoppedError,
    AlertTimeoutError,
)
from ..record.events import AuditEvent
from ..tasks.background import Background
from .alerting import AlertDispatcher, DeliveryReport
from .policy import CompliancePolicy
from .signals import Announcer, alert_dispatched, alert_failed

__all__ = ["AlertForwarder"]

_logger: Final = logging.getLogger("fapilog")


class _Home(NamedTuple):
    thread: int
    token: Any


class _Alert(NamedTuple):
    sender: object
    event: AuditEvent
    severity: str
    channel: str | None
    announced: float


class AlertForwarder:
    """
    Receives `compliance_alert` and hands each alert to the dispatcher.

    Every alert that is received ends in exactly one report, on `alert_dispatched` or on `alert_failed`. While the trail
    is started, alerts wait in a bounded buffer, and up to *concurrency* of them are sent at once. While it is not, the
    alert is sent by whoever settles the background next: the call of `log_event` that it is for.

    If somebody sees to what is `missed`, an alert that finds the buffer full has no report yet: it will be received
    again.

    Args:
        dispatcher: Gets the alerts.
        policy: Says what of an event the dispatcher gets.
        background: Runs the sends.
        announcer: Sends the reports.
        timeout: Seconds that the dispatcher may take for one alert.
        concurrency: Alerts that are sent at once.
        buffer: Alerts that may wait; more fail.
        reported: Called with each report, and with the time on *clock* at which its alert was announced.
        clock: Tells the seconds that reports are made of.

    Attributes:
        dispatched: How many alerts the dispatcher has taken.
        failed: How many it has not.
        missed: Told of each event of the trail whose alert found the buffer full, or has failed; None for nobody.
    """

    def __init__(
        self,
        dispatcher: AlertDispatcher,
        *,
        policy: CompliancePolicy,
        background: Background,
        announcer: Announcer,
        timeout: float,
        concurrency: int,
        buffer: int,
        reported: Callable[[DeliveryReport, float], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dispatcher = dispatcher
        self._policy = policy
        self._background = background
        self._announcer = announcer
        self._timeout = timeout
        self._concurrency = concurrency
        self._limit = buffer
        self._reported = reported
        self._clock = clock
        self._buffer: deque[_Alert] = deque()
        self._lanes = 0
        self._home: _Home | None = None
        self._in_hand: Counter[str] = Counter()
        self._changed: anyio.Event | None = None
        self.dispatched: int = 0
        self.failed: int = 0
        self.missed: Callable[[AuditEvent], None] | None = None

    @property
    def waiting(self) -> int:
        """How many alerts have no report yet."""
        return self._in_hand.total()

    def in_hand(self) -> frozenset[str]:
        """Return the ids of the events whose alerts have no report yet."""
        return frozenset(self._in_hand)

    async def until_done(self, event_ids: Collection[str]) -> None:
        """Wait until the alerts about all these events have a report."""
        while any(event_id in self._in_hand for event_id in event_ids):
            await self._change()

    async def until_room(self) -> None:
        """Wait until the buffer is not full."""
        while len(self._buffer) >= self._limit:
            await self._change()

    async def _change(self) -> None:
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()

    def at_home(self) -> None:
        """Remember the event loop that this is called in: alerts from other threads are taken there."""
        self._home = _Home(threading.get_ident(), anyio.lowlevel.current_token())

    def receive(self, sender: object, *, event: AuditEvent, severity: str, channel: str | None = None) -> None:
        """Take one alert. Called by the signal, from any thread; never waits for the dispatcher."""
        alert = _Alert(sender, event, severity, channel, self._clock())
        home = self._home
        if home is None or home.thread == threading.get_ident():
            self._accept(alert)
        else:
            # Seldom needed, and it takes longer to import than the rest of this package.
            from anyio import from_thread  # noqa: PLC0415

            try:
                from_thread.run_sync(self._accept, alert, token=home.token)
            except RuntimeError:  # the event loop is gone, and the trail was not stopped
                self._in_hand[event.event_id] += 1
                self._report(alert, AlertStoppedError())

    def give_up(self) -> None:
        """Fail what still waits, since the trail was stopped."""
        self._home = None
        while self._buffer:
            alert = self._buffer.popleft()
            self._report(alert, AlertStoppedError())

    def forget(self) -> None:
        """Drop what waits, in a forked child: it is the parent's to send."""
        self._buffer.clear()
        self._home = self.missed = None
        self._in_hand.clear()
        self._lanes = self.dispatched = self.failed = 0

    def _accept(self, alert: _Alert) -> None:
        is_full = max(len(self._buffer), self._background.kept) >= self._limit
        if is_full and self.missed is not None and alert.event.sequence_number is not None:
            self.missed(alert.event)
            return
        self._in_hand[alert.event.event_id] += 1
        if is_full:
            self._report(alert, AlertBufferFullError(self._limit))
        elif self._background.entered:
            self._buffer.append(alert)
            self._open_lane()
        else:
            self._background.start_soon(functools.partial(self._send, alert))

    def _open_lane(self) -> None:
        if self._lanes < self._concurrency and self._background.entered:
            self._lanes += 1
            self._background.start_soon(self._lane)

    async def _lane(self) -> None:
        """Send alerts one after the other, as long as there are any."""
        try:
            while self._buffer:
                await self._send(self._buffer.popleft())
        finally:
            self._lanes -= 1
            if self._buffer:
                # A dispatcher ended this task, not the alerts.
                self._open_lane()

    async def _send(self, alert: _Alert) -> None:
        began = self._clock()
        error: Exception | None = AlertTimeoutError(self._timeout)
        try:
            with anyio.move_on_after(self._timeout):
                await self._dispatcher.send_alert(
                    self._policy.for_dispatch(alert.event), severity=alert.severity, channel=alert.channel
                )
                error = None
        except Exception as raised:
            error = raised
        except BaseException:
            stopped = self._background.leaving
            self._report(alert, AlertStoppedError() if stopped else AlertCancelledError(), began=began)
            raise
        self._report(alert, error, began=began)

    def _report(self, alert: _Alert, error: Exception | None, *, began: float | None = None) -> None:
        now = self._clock()
        report = DeliveryReport(
            event=alert.event,
            severity=alert.severity,
            channel=alert.channel,
            waited=(now if began is None else began) - alert.announced,
            took=0.0 if began is None else now - began,
            error=error,
        )
        self._put_down(alert.event.event_id)
        if error is None:
            self.dispatched += 1
            self._announcer.announce(alert_dispatched, alert.sender, report=report)
        else:
            self.failed += 1
            _logger.error(
                "the alert about event %s (record %s) was not delivered: %s",
                alert.event.event_id,
                alert.event.sequence_number,
                report.reason,
            )
            self._announcer.announce(alert_failed, alert.sender, report=report)
            if self.missed is not None and alert.event.sequence_number is not None:
                self.missed(alert.event)
        if self._reported is not None:
            self._reported(report, alert.announced)

    def _put_down(self, event_id: str) -> None:
        self._in_hand[event_id] -= 1
        if not self._in_hand[event_id]:
            del self._in_hand[event_id]
        if self._changed is not None:
            self._changed.set()
            self._changed = None
