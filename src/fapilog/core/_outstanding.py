"""The events that are still to be announced, and the alerts that the dispatcher missed."""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import Final

import anyio

from ..record.events import AuditEvent, Identity, identity_of
from ..tasks.events import Condition
from ..tasks.loops import Loop

__all__ = ["LOOK_EVERY", "Outstanding"]

LOOK_EVERY: Final = 1.0
"""Seconds between two looks whether an event loop was closed around a call that is waited for."""


class Outstanding:
    """
    The alerts that have not come to the forwarder yet, or that it could not send.

    The trail notes an event before it is stored, and when it was announced. The forwarder notes an alert that found the
    buffer full, or failed. A catch-up, while there is one, waits for the former, and resends the latter. Any thread may
    call any method.

    Attributes:
        has_missed: Whether an alert was missed since `watch` was called.
        changed: Notified after every change.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # By the event's id, the loop that announces it; None: a thread without a loop does.
        self._unannounced: dict[str, Loop | None] = {}
        self._watched: frozenset[Identity] = frozenset()
        self._missed: set[Identity] = set()
        self._is_resending = False
        self.has_missed: bool = False
        self.changed: Condition = Condition()

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

    def watch(self, identities: Collection[Identity]) -> None:
        """Note from now on which of these events' alerts are missed."""
        with self._lock:
            self._watched, self._missed, self.has_missed = frozenset(identities), set(), False

    @property
    def missed(self) -> frozenset[Identity]:
        """The watched events whose alerts were missed."""
        return frozenset(self._missed)
