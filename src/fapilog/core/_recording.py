"""Storing the events of a trail, with everything that follows but their announcement."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from ..record.chain import Seal
from ..record.errors import AuditStorageError, StoringInterruptedError, reason
from ..record.events import AuditEvent, handed_out
from ..record.kinds import AuditEventType, AuditLogLevel
from ..storage.protocol import AuditStorage, KeptAlert
from ..tasks.strangers import contained
from ._alerts import Alerts
from ._incidents import STORING
from ._keeping import Expected, is_ours, plain_files_of

__all__ = ["Recorder"]

# Tuples, in which a member is found without its hash, which for an enum is slow: every event is looked up.
_ERROR_LEVELS: Final = (AuditLogLevel.ERROR, AuditLogLevel.CRITICAL)
_SECURITY_TYPES: Final = (
    AuditEventType.AUTHENTICATION_FAILED,
    AuditEventType.AUTHORIZATION_FAILED,
    AuditEventType.SECURITY_VIOLATION,
)


class Recorder:
    """
    Stores events and counts them. A storage that fails is an incident, and its next success the end of it.

    Args:
        storage: Keeps the events.
        expected: The trail that has to be there already.
        alerts: Know which events are to be announced, and take the incidents.

    Attributes:
        counts: How many events were stored, in all, as errors, and as security events.
    """

    def __init__(self, storage: AuditStorage, expected: Expected, alerts: Alerts) -> None:
        self._storage = storage
        self._expected = expected
        self._alerts = alerts
        self._files = plain_files_of(storage)
        self._is_ours = is_ours(storage)
        self.counts: dict[str, int] = {"total_events": 0, "error_events": 0, "security_events": 0}
        self.forget()

    def forget(self) -> None:
        """Get a new lock, in a forked child: another thread of the parent may have held it."""
        self._lock = threading.RLock()

    async def record(
        self,
        event: AuditEvent,
        record: bytes,
        *,
        once: bool = False,
        alerts: Sequence[KeptAlert] = (),
        quietly: bool = False,
    ) -> Seal | None:
        """
        Store *event*, and return its place in the chain; None if it is stored already.

        Args:
            event: The event.
            record: The body of the event, as of `chain.body_to_store`, which is all that a storage in files needs.
            once: Whether a recent record may have its id, which the caller gave.
            alerts: The alerts about it that the storage keeps.
            quietly: Whether the caller announces nothing, and so does not send the alert of an incident that opens or
                ends here.

        Raises:
            AuditStorageError: The event is not stored; or, if it was interrupted, may be stored.
            BaseException: A signal handler, such as that of a time limit, has raised it in the midst of a storage of
                this package, which raises nothing else itself: the event may be stored or not.
        """
        if self._alerts.was_stopped:
            self._alerts.warn_of_late_event()
        # Not in a `finally`: nothing may be awaited there when the coroutine is thrown away, with a loop that was
        # closed around it. The collector does that in any thread, and into the loop of that thread it would get.
        try:
            seal = await self.store(event, record, once=once, alerts=alerts)
        except StoringInterruptedError:
            raise
        except (RecursionError, MemoryError) as error:
            # The caller's stack, or the memory, was nearly full. No signal handler raises these.
            raise StoringInterruptedError from error
        except AuditStorageError as error:
            self._alerts.health.failing(STORING, error)
            if quietly:
                await self._alerts.send_own()
            raise
        self._alerts.health.working(STORING)
        if monotonic() >= self._alerts.watch.due:
            await self._alerts.watch.look_soon()
        if quietly and self._alerts.background.kept:
            await self._alerts.send_own()
        return seal

    async def store(
        self, event: AuditEvent, record: bytes, *, once: bool = False, alerts: Sequence[KeptAlert] = ()
    ) -> Seal | None:
        """Store *event* as `record` does, but open and resolve no incident: for the recovery that resolves one, say."""
        if not self._expected.is_there:
            await self._expected.find()
        files = self._files
        # An `append` that stands in the object, as a test has put it there, may do more than that of the class.
        if files is None or alerts or "append" in files.__dict__:
            seal = await self._append(event, once=once, alerts=alerts)
        else:
            seal = await files.append_record(record, once=once)
        if seal is not None:
            self._take_note(event, seal.sequence_number)
        return seal

    async def _append(self, event: AuditEvent, *, once: bool, alerts: Sequence[KeptAlert]) -> Seal | None:
        """Store *event* in a storage that need not be ours."""
        # A storage without the option *once* works, until a caller gives an id; likewise *alerts*.
        options: dict[str, Any] = {"once": True} if once else {}
        if alerts:
            options["alerts"] = alerts
        storage = self._storage
        if self._is_ours and "append" not in storage.__dict__:
            return await storage.append(handed_out(event), **options)
        try:
            with contained():
                return await storage.append(handed_out(event), **options)
        except AuditStorageError:
            raise
        except Exception as error:
            raise AuditStorageError(f"{type(storage).__qualname__} can't store: {reason(error)}") from error

    def _take_note(self, event: AuditEvent, sequence_number: int) -> None:
        """Count *event*, which is stored as the record of that number, and wake the followers of the trail."""
        kind, log_level, counts = event.event_type, event.log_level, self.counts
        with self._lock:
            counts["total_events"] += 1
            if kind is AuditEventType.ERROR_OCCURRED or log_level in _ERROR_LEVELS:
                counts["error_events"] += 1
            if log_level is AuditLogLevel.SECURITY or kind in _SECURITY_TYPES:
                counts["security_events"] += 1
        if sequence_number == 1:
            self._alerts.watch.begins(event)
        if self._alerts.catch_up is not None:
            self._alerts.catch_up.stored(sequence_number)
