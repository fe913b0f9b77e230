"""The alerts that are on their way to the dispatcher, and those that it missed."""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextvars import Context, copy_context
from typing import Final

import anyio

from ..record.events import AuditEvent, Identity, identity_of
from ..tasks.events import Condition
from ..tasks.loops import Loop
from .alerting import Alert

__all__ = ["LOOK_EVERY", "Outstanding", "Pending"]

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


class Outstanding:
    """
    The alerts that are on their way: to be announced, without a report, or missed.

    The trail notes an event before it is stored, and when it was announced. The forwarder notes an alert until its
    report. A catch-up, while there is one, waits for both, and resends the alerts that were missed: that found the
    buffer full, or failed. Any thread may call any method.

    Attributes:
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
        self._is_resending = False
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
        is_lost = event_id in self._unannounced and not self._is_resending
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

    def begin_resending(self) -> None:
        """Note that a catch-up resends the alerts that are missed from now on."""
        self._is_resending = True

    def end_resending(self) -> None:
        """Note that nothing resends alerts any more."""
        self._is_resending = False

    def miss(self, event: AuditEvent) -> bool:
        """Note an alert for the catch-up to resend; return False if it can't, or if there is none."""
        if not self._is_resending or event.sequence_number is None:
            return False
        with self._lock:
            self.has_missed = True
            if identity_of(event) in self._watched:
                self._missed.add(identity_of(event))
        return True

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
