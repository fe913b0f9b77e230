"""The records of a trail about itself, which PCI DSS 4.0.1 asks for: its start, its stop, and every reading of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import anyio

from ..record.errors import reason
from ..record.kinds import AuditEventType, AuditOutcome, ComplianceLevel
from ..tasks.loops import is_without_loop
from ..tasks.strangers import Log, contained
from .policy import CompliancePolicy

__all__ = ["OwnRecords"]

T = TypeVar("T")
LogEvent = Callable[..., Coroutine[Any, Any, str]]

_log: Final = Log("fapilog")

# For a storage that hangs: a trail has to start and stop all the same.
_SECONDS_TO_RECORD: Final = 5.0


class OwnRecords:
    """
    Records the start, the stop and the readings of the trail, if the level of its policy asks for that.

    The trail starts, stops and reads even if the record can't be stored; that is an incident, as for any event.

    Args:
        policy: The trail's policy.
    """

    # Every call brings the trail's `log_event`. Kept here it would keep the trail; and held weakly, it would be gone
    # when events are read whose trail nobody holds but the reader.

    def __init__(self, policy: CompliancePolicy) -> None:
        self._is_on = policy.enabled and policy.level is ComplianceLevel.PCI_DSS
        self.forget()

    def forget(self) -> None:
        """Become as new, in a forked child, which has started nothing."""
        self._is_started = False

    async def started(self, log_event: LogEvent) -> None:
        """Record that the trail is started: 10.2.1.6, "all initialization of new audit logs, and all starting"."""
        if self._is_on and not self._is_started:
            # Before anything is awaited: several tasks may start a trail, which is started once.
            self._is_started = True
            await self._record_life(log_event, "start")

    async def stopping(self, log_event: LogEvent) -> None:
        """Record that the trail is stopped: 10.2.1.6, "stopping, or pausing of the existing audit logs"."""
        if self._is_started:
            self._is_started = False
            await self._record_life(log_event, "stop")

    async def reading(
        self, log_event: LogEvent, operation: str, conditions: dict[str, Any], read: Callable[[], Awaitable[T]]
    ) -> T:
        """
        Return the result of ``await read()``, and record that the trail was read: 10.2.1.3, "all access to audit logs".

        Afterwards: the record is not among the events that are read.

        Raises:
            Exception: The exception of *read*.
        """
        try:
            with contained():
                result = await read()
        except Exception:
            await self._record_access(log_event, operation, conditions, AuditOutcome.FAILURE)
            raise
        await self._record_access(log_event, operation, conditions, AuditOutcome.SUCCESS)
        return result

    async def _record_access(
        self, log_event: LogEvent, operation: str, conditions: dict[str, Any], outcome: AuditOutcome
    ) -> None:
        if self._is_on:
            await self._record(
                log_event,
                AuditEventType.AUDIT_LOG_ACCESS,
                f"The audit trail was read: {operation}",
                operation=operation,
                outcome=outcome,
                metadata={"conditions": conditions},
            )

    async def _record_life(self, log_event: LogEvent, operation: str) -> None:
        message = f"The audit trail is {'started' if operation == 'start' else 'stopped'} by a process"
        if is_without_loop():
            await self._record(log_event, AuditEventType.AUDIT_LOG_LIFECYCLE, message, operation=operation)
            return
        # A process that is being ended is often being cancelled.
        with anyio.move_on_after(_SECONDS_TO_RECORD, shield=True) as scope:
            await self._record(log_event, AuditEventType.AUDIT_LOG_LIFECYCLE, message, operation=operation)
        if scope.cancelled_caught:
            _log.error("%s, and that may not be recorded: the storage took more than %g s", message, _SECONDS_TO_RECORD)

    async def _record(self, log_event: LogEvent, kind: AuditEventType, message: str, **fields: Any) -> None:
        try:
            await log_event(kind, message, **fields)
        except Exception as error:
            _log.error("%s, and that is not recorded: %s", message, reason(error))
