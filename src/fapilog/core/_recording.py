"""Storing the events of a trail, with everything that follows but their announcement."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from ..record.chain import AuditChainVerificationResult, sealed
from ..record.errors import AuditStorageError, reason
from ..record.events import AuditEvent, is_error, is_security
from ..storage.protocol import AuditStorage, KeptAlert
from ..tasks.strangers import contained
from ._alerts import Alerts
from ._incidents import STORING, VERIFICATION

__all__ = ["Recorder"]


class Recorder:
    """
    Stores events and counts them. A storage that fails is an incident, and its next success the end of it.

    Args:
        storage: Keeps the events.
        alerts: Know which events are to be announced, and take the incidents.

    Attributes:
        counts: How many events were stored, in all, as errors, and as security events.
    """

    def __init__(self, storage: AuditStorage, alerts: Alerts) -> None:
        self._storage = storage
        self._alerts = alerts
        self.counts: dict[str, int] = {"total_events": 0, "error_events": 0, "security_events": 0}
        self.forget()

    def forget(self) -> None:
        """Get a new lock, in a forked child: another thread of the parent may have held it."""
        self._lock = threading.Lock()

    async def record(
        self, event: AuditEvent, *, announced: bool, once: bool = False, alerts: Sequence[KeptAlert] = ()
    ) -> AuditEvent | None:
        """
        Store *event*, and return it with its place in the chain; None if it is stored already.

        Args:
            event: The event.
            announced: Whether the caller announces the event next.
            once: Whether a recent record may have its id, which the caller gave.
            alerts: The alerts about it that the storage keeps.

        Raises:
            AuditStorageError: The event is not stored.
        """
        self._alerts.note_event()
        try:
            stored = await self.store(event, announced=announced, once=once, alerts=alerts)
        except Exception as error:
            self._alerts.health.failing(STORING, error)
            await self._send_own(announced=announced)
            raise
        self._alerts.health.working(STORING)
        if monotonic() >= self._alerts.watch.due:
            await self._alerts.watch.look_soon()
        await self._send_own(announced=announced)
        return stored

    async def _send_own(self, *, announced: bool) -> None:
        """Send the alerts of an incident that was opened or resolved, unless the caller does."""
        # Not in a `finally`: nothing may be awaited there when the coroutine is thrown away, with a loop that was
        # closed around it. The collector does that in any thread, and into the loop of that thread it would get.
        background = self._alerts.background
        if not announced and background.kept and background.home is None:
            await background.run([])

    async def store(
        self, event: AuditEvent, *, announced: bool = True, once: bool = False, alerts: Sequence[KeptAlert] = ()
    ) -> AuditEvent | None:
        """Store *event* as `record` does, but open and resolve no incident: for the recovery that resolves one, say."""
        if not self._alerts.watch.is_expected:
            await self._alerts.watch.expect()
        if announced:
            self._alerts.outstanding.expect(event.event_id)
        try:
            # A storage without the option *once* works, until a caller gives an id; likewise *alerts*.
            options: dict[str, Any] = {"once": True} if once else {}
            if alerts:
                options["alerts"] = alerts
            seal = await contained(functools.partial(self._storage.append, event, **options))
        except BaseException as error:
            self._alerts.outstanding.announced(event.event_id)
            if not isinstance(error, Exception) or isinstance(error, AuditStorageError):
                raise
            raise AuditStorageError(f"{type(self._storage).__qualname__} can't store: {reason(error)}") from error
        if seal is None:
            self._alerts.outstanding.announced(event.event_id)
            return None
        with self._lock:
            self.counts["total_events"] += 1
            self.counts["error_events"] += is_error(event)
            self.counts["security_events"] += is_security(event)
        if seal.sequence_number == 1:
            self._alerts.watch.begins(event)
        if self._alerts.catch_up is not None:
            self._alerts.catch_up.stored(seal.sequence_number)
        return sealed(event, seal) if announced else event

    async def verify(self, progress: Callable[[int], None] | None) -> AuditChainVerificationResult:
        """Check every stored event; a trail that is damaged, or can't be read, is an incident."""
        with self._alerts.background.collecting() as calls:
            try:
                result = await self._storage.verify(progress)
            except Exception as error:
                self._alerts.health.failing(VERIFICATION, error)
                await self._alerts.background.run(calls)
                raise
            self._alerts.health.verified(result)
            await self._alerts.background.run(calls)
        return result
