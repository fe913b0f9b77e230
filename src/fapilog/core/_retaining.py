"""Retention of a trail by its policy: records with pending alerts stay, and every removal is recorded."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

from ..record.errors import AuditStorageError, reason
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType
from ..storage.archive import Archive
from ..storage.files import utc_now
from ..storage.protocol import AuditStorage, EventFilter, head_of
from ..storage.retention import BusyError, RetentionReport, RetentionRule, apply_retention
from ..tasks.loops import is_without_loop
from ..tasks.strangers import contained
from ._alerts import Alerts
from ._incidents import RETAINING
from ._keeping import in_files
from .alerting import DurableDispatcher, is_resuming
from .policy import CompliancePolicy

__all__ = ["retained"]

# Seconds that the catch-up has to say up to where the dispatcher lacks no alert.
_PATIENCE: Final = 10.0


async def retained(
    storage: AuditStorage,
    policy: CompliancePolicy,
    alerts: Alerts,
    log_event: Callable[..., Awaitable[str]],
    *,
    archive: Archive | None,
    keep_from: int | None,
    dry_run: bool,
) -> RetentionReport:
    """Do as `AuditTrail.apply_retention`."""
    files = in_files("retention", storage)
    if not policy.enabled:
        raise ValueError("retention: expected a policy that is enabled, since removals are recorded; this one is not")

    async def record(metadata: dict[str, Any], why: str) -> int:
        event_id = await log_event(
            AuditEventType.RETENTION_POLICY_APPLIED,
            "the oldest days of the trail are removed",
            operation="retain",
            reason=why,
            metadata=metadata,
        )
        for event in await files.find(EventFilter(event_id=event_id), 1):
            if isinstance(event, AuditEvent) and event.sequence_number is not None:
                return event.sequence_number
        raise AuditStorageError("the record about the removal can't be found: nothing is removed")

    async with contextlib.nullcontext() if dry_run else _incident(alerts):
        mark = None if policy.retention_days is None else await _first_that_stays(files, alerts)
        rule = RetentionRule(
            archive_after_days=policy.archive_after_days,
            retention_days=policy.retention_days,
            archive=archive,
            below_floor=policy.retention_below_floor,
            keep_from=min((number for number in (mark, keep_from) if number is not None), default=None),
        )
        return await apply_retention(files.directory, rule, today=utc_now().date(), record=record, dry_run=dry_run)


@asynccontextmanager
async def _incident(alerts: Alerts) -> AsyncGenerator[None]:
    """Note whether retention can be applied in the block; that another process applies it says nothing of that."""
    try:
        yield
    except BusyError:
        raise
    except Exception as error:
        # An archive that is not ours may raise any.
        alerts.health.failing(RETAINING, error)
        await alerts.send_own()
        raise
    alerts.health.working(RETAINING)
    await alerts.send_own()


async def _first_that_stays(storage: AuditStorage, alerts: Alerts) -> int | None:
    """Return the number of the first record about which an alert may be pending; None if there is none."""
    dispatcher = alerts.dispatcher
    if not is_resuming(dispatcher):
        return None
    home = alerts.background.home
    if alerts.catch_up is not None and home is not None and not is_without_loop() and home.is_here:
        with anyio.move_on_after(_PATIENCE):
            await alerts.catch_up.move_on()
    try:
        with contained():
            return await _mark(dispatcher, storage)
    except Exception as error:
        raise AuditStorageError(f"the dispatcher can't say which alerts are pending: {reason(error)}") from error


async def _mark(dispatcher: DurableDispatcher, storage: AuditStorage) -> int:
    head = await head_of(storage)
    first = (await dispatcher.resume_from(head)).sequence_number + 1
    oldest_pending: Callable[[], Awaitable[int | None]] | None = getattr(dispatcher, "oldest_pending", None)
    pending = None if oldest_pending is None else await oldest_pending()
    return first if pending is None else min(first, pending)
