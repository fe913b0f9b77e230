"""The trail about itself: its first record, a clock that is set, and troubles of a storage that still stores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from ..record.errors import AuditStorageError, reason
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel, ComplianceLevel
from ..record.values import FrozenDict, text
from ..storage.protocol import AuditStorage
from ..tasks.background import Background, own_context
from ..tasks.loops import is_without_loop
from ..tasks.strangers import Log, contained
from ._health import Health, weakly
from ._incidents import CAPACITY, CLOCK, FILES, LONGEST_TEXT, REPLICA
from ._keeping import words_for
from .policy import CompliancePolicy

__all__ = ["Watch"]

_log: Final = Log("fapilog")

# Seconds between two looks, at events.
_EVERY: Final = 10.0
# Seconds that a look may take; a file system that hangs keeps its thread, and not the caller.
_PATIENCE: Final = 30.0
# Seconds by which the clock is set at least. A leap second is one, and no step.
_STEP: Final = 2.0
_PARTS: Final = {"capacity": CAPACITY, "files": FILES, "clock": CLOCK, "replica": REPLICA}


def _wall() -> float:
    # As the kernel has it: a test that replaces `time.time` does not set the clock.
    return time.clock_gettime(time.CLOCK_REALTIME)


def _elapsed() -> float:
    # A clock that can't be set, and that runs while the machine is suspended, so that a laptop that wakes up has not
    # set its clock: https://man7.org/linux/man-pages/man2/clock_gettime.2.html. On macOS CLOCK_MONOTONIC does so: "man
    # 3 clock_gettime". NTP slews both clocks alike.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Watch:
    """
    Looks at the clock and at the storage, at the start and then, at events, every ten seconds at most.

    Any thread may call any method. None raises; a finding of a look is an event, or an incident of the health.

    Args:
        storage: The trail's storage. Its method ``concerns``, if it has one, returns the causes of incidents.
        policy: Says which events of the trail about itself are recorded.
        background: Runs the looks.
        health: Takes the incidents.
        record: Stores an event and announces it as the policy says; a bound method, held weakly.

    Attributes:
        due: When the next look is due, on the clock `time.monotonic`; 0 for at once.
    """

    def __init__(
        self,
        storage: AuditStorage,
        *,
        policy: CompliancePolicy,
        background: Background,
        health: Health,
        record: Callable[[AuditEvent], Coroutine[Any, Any, None]],
    ) -> None:
        self._storage = storage
        self._policy = policy
        self._background = background
        self._health = health
        self._record = weakly(record)
        # The time of day when nothing had elapsed; another value means that the clock was set.
        self._zero = _wall() - _elapsed()
        # The looks at the storage that were begun, and the newest one that has said what it saw.
        self._begun = self._newest = 0
        self._has_complained = False
        self._sees_steps = True
        self.due: float = 0.0

    def doubt(self) -> None:
        """Trust nothing that was seen, as the trail is closed: look at the next start or event."""
        self.due = 0.0

    def ignore_steps(self) -> None:
        """Make no event of a clock that was set: in a test it may be the test that travels in time."""
        self._sees_steps = False

    async def warn_if_in_trouble(self) -> None:
        """Say at the start, and not at the first event, that the storage can't store."""
        trouble = getattr(self._storage, "trouble", None)
        if trouble is None:
            return
        try:
            with contained():
                words = await trouble()
        except Exception as error:
            words = type(error).__qualname__
        if words is not None:
            _log.error("this trail can't store: %s", text(words))

    def begins(self, first: AuditEvent) -> None:
        """Say that *first* is stored as record 1: a service that has run for years should know of that."""
        words = f"a trail begins at record 1 in {words_for(self._storage)}"
        _log.info("%s; if there should be one, its volume is not mounted, or it was removed", words)
        notice = self._event(AuditEventType.AUDIT_LOG_LIFECYCLE, "begin", words, {"first_event": first.event_id})
        # PCI DSS 10.2.1.6 asks for the initialization of new audit logs; otherwise only a policy that names the type
        # does. A record and an alert in every test of an application that makes a trail would be in the way.
        asked = self._policy.alerts_on(msgspec.structs.replace(notice, log_level=AuditLogLevel.INFO))
        if asked or self._policy.level is ComplianceLevel.PCI_DSS:
            self._start(lambda: self._recorded(notice))

    async def look_soon(self) -> None:
        """Look, if it is due: in the background, or here and now where there is no event loop."""
        # Without a lock: if another thread comes at the same moment, both look.
        if time.monotonic() < self.due:
            return
        self.due = time.monotonic() + _EVERY
        if is_without_loop() and self._background.home is None:
            # Kept for later, it would start the background thread of the process only to look.
            await self.look()
        else:
            self._start(self.look)

    async def look(self) -> None:
        """Look now; never raises."""
        self.due = time.monotonic() + _EVERY
        try:
            if self._sees_steps:
                await self._look_at_clock()
            await self._look_at_storage()
        except Exception as error:
            if not self._has_complained:
                _log.warning("cannot check the clock and the storage: %s", text(reason(error)))
            self._has_complained = True
        else:
            self._has_complained = False

    async def _look_at_clock(self) -> None:
        now = _wall()
        zero = now - _elapsed()
        step = zero - self._zero
        if abs(step) <= _STEP:
            return
        before, after = _time(now - step), _time(now)
        words = f"the clock was set {'forward' if step > 0 else 'back'} by {abs(step):.1f} s"
        told = {"from": before, "to": after, "seconds": round(step, 3)}
        # Taken by the first of several threads that look.
        former, self._zero = self._zero, zero
        try:
            await self._recorded(
                self._event(AuditEventType.TIME_STEP, "set clock", f"{words}, from {before} to {after}", told)
            )
        except AuditStorageError:
            # For the next look: the storage is an incident meanwhile.
            self._zero = former

    async def _look_at_storage(self) -> None:
        concerns = getattr(self._storage, "concerns", None)
        if concerns is None:
            return
        self._begun += 1
        number = self._begun
        with contained():
            found = await concerns()
        if number < self._newest:
            # It saw less than a look that took less time, and could resolve an incident that goes on.
            return
        self._newest = number
        for name, part in _PARTS.items():
            words = found.get(name)
            if words is None:
                self._health.working(part)
            else:
                self._health.failing(part, text(words)[:LONGEST_TEXT])

    def _start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        # It is not the request's that happened to be the first.
        own_context().run(lambda: self._background.start_soon(call, timeout=_PATIENCE))

    async def _recorded(self, event: AuditEvent) -> None:
        record = self._record()
        if record is not None and self._policy.enabled:
            await record(event)

    def _event(self, event_type: AuditEventType, operation: str, message: str, metadata: dict[str, Any]) -> AuditEvent:
        return AuditEvent(
            event_type=event_type,
            log_level=AuditLogLevel.SECURITY,
            message=message,
            component="audit_trail",
            operation=operation,
            hostname=os.uname().nodename,
            process_id=os.getpid(),
            compliance_level=self._policy.level,
            metadata=FrozenDict(metadata),
        )


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
