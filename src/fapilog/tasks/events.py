"""Events that any thread sets, and that are waited for in any loop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import anyio.lowlevel

from .loops import Loop, Waiter, wake

__all__ = ["Condition", "Event"]


class Event:
    """
    An event that is set once, by any thread, and waited for in any loop.

    anyio's `Event` belongs to one loop: set by another thread, it wakes no waiter, or breaks that loop. So every waiter
    has an event of its own loop, and setting this event schedules one call per loop, which sets that loop's events. A
    waiter whose loop has ended meanwhile disturbs no other waiter.

    Attributes:
        is_set: Whether it was set; to be read alone.
    """

    __slots__ = ("_lock", "_waiting", "is_set")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.is_set: bool = False
        self._waiting: list[Waiter] = []

    def set(self) -> None:
        """Wake every waiter; does nothing if it is set already."""
        with self._lock:
            # In this order: a signal handler may raise in between, and then the next call wakes the rest.
            wake(self._waiting)
            self.is_set = True

    async def wait(self) -> None:
        """Return when the event is set."""
        loop = Loop.current()
        waiter = loop, loop.make_event()
        with self._lock:
            if not self.is_set:
                self._waiting.append(waiter)
        if self.is_set:
            await anyio.lowlevel.checkpoint()
            return
        try:
            await waiter[1].wait()
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._waiting.remove(waiter)


class Condition:
    """Wakes tasks that wait for something to become true, in any thread and any loop."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._event: Event | None = None

    def notify(self) -> None:
        """Make every waiter look again; cheap where there is none."""
        event = self._event
        if event is not None and not event.is_set:
            event.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when *holds* returns True; it is called at first, and after every `notify`."""
        while True:
            # Registered before the question: a change between the two must not be missed.
            with self._lock:
                if self._event is None or self._event.is_set:
                    self._event = Event()
                event = self._event
            if holds():
                return
            await event.wait()
