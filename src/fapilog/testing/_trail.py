"""A trail for tests, which remembers its events and its alerts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, Unpack, overload

from ..core._reading import Events
from ..core.audit import AuditTrail
from ..core.policy import CompliancePolicy
from ..record.damage import DamagedRecord
from ..record.events import AuditEvent
from ..storage.memory import MemoryStorage
from ..storage.protocol import Conditions
from ..tasks.loops import Loop, LoopClosedError
from ..tasks.portal import run_in
from ._recording import RecordedAlert, RecordingDispatcher

__all__ = ["RecordedEvents", "RecordedTrail"]

# Seconds that a synchronous test waits for alerts, which another thread sends.
_PATIENCE: Final = 1.0


class RecordedEvents(list[AuditEvent]):
    """
    The events of a `RecordedTrail`, the oldest first, as they were when it was asked.

    It can be called, too: the code under test may call `AuditTrail.events`.
    """

    def __init__(self, trail: AuditTrail, events: list[AuditEvent]) -> None:
        super().__init__(events)
        self._trail = trail

    @overload
    def __call__(
        self,
        *,
        oldest_first: bool = False,
        on_damage: Literal["log", "raise"] = "log",
        **conditions: Unpack[Conditions],
    ) -> Events[AuditEvent]: ...

    @overload
    def __call__(
        self, *, oldest_first: bool = False, on_damage: Literal["yield"], **conditions: Unpack[Conditions]
    ) -> Events[AuditEvent | DamagedRecord]: ...

    def __call__(self, **options: Any) -> Events[Any]:
        """Do as `AuditTrail.events`."""
        found: Events[Any] = AuditTrail.events(self._trail, **options)
        return found


class RecordedTrail(AuditTrail):
    """
    A trail in memory, whose events and alerts are at hand.

    The pytest fixture `audit_trail` is one. Not started, it sends an alert before `log_event` returns; started, in the
    background, as any trail: await `drain`, or `dispatcher.wait_for`. Where `sync` is used, a thread sends the alerts,
    and `alerts` waits for them.

    Args:
        policy: Which events alert; by default `CompliancePolicy()`.

    Attributes:
        dispatcher: Gets the alerts; set its `error` or `wait` to see how the code under test behaves.
    """

    def __init__(self, policy: CompliancePolicy | None = None) -> None:
        self._memory = MemoryStorage()
        self.dispatcher: RecordingDispatcher = RecordingDispatcher()
        super().__init__(policy, alert_dispatcher=self.dispatcher, storage=self._memory)
        # time-machine replaces every function that tells the time of day, those of the kernel too.
        self._alerts.watch.ignore_steps()

    @property
    def events(self) -> RecordedEvents:  # pyright: ignore[reportIncompatibleMethodOverride]  # callable as the method is
        """The stored events, the oldest first; called, it does as `AuditTrail.events`."""
        return RecordedEvents(self, self._memory.events)

    @property
    def alerts(self) -> list[RecordedAlert]:
        """
        The alerts that the dispatcher was given, as in ``[alert] = trail.alerts``; the oldest is the first.

        In a thread without an event loop, it waits for the alerts that are under way, for one second at most.
        """
        self._run_elsewhere(self.drain)
        return list(self.dispatcher.alerts)

    def close(self) -> None:
        """
        Stop the trail if it is left started, at the end of a test, for one second at most.

        For a thread without an event loop; in one with, nothing happens: use ``await trail.stop()``.
        """
        self._run_elsewhere(self.stop)

    def _run_elsewhere(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run *call* in the loop in which the trail is started, if any, unless this thread has a loop itself."""
        if Loop.runs_here():
            return
        background = self._alerts.background
        if background.kept:
            # Synchronous code has started it, or is about to.
            self.sync.start()
        home = background.home
        if home is not None:
            # The loop of an asynchronous fixture stands still while a synchronous test runs.
            with contextlib.suppress(LoopClosedError, TimeoutError):
                run_in(home, call, timeout=_PATIENCE)
