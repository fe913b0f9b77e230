"""Retention of a trail: what its policy says, beside the alerts that are pending and the records that say so."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Any, Final

import anyio

from ..record.errors import AuditStorageError, reason
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType
from ..storage.archive import Archive, DirectoryArchive
from ..storage.files import FileStorage, utc_now
from ..storage.protocol import AuditStorage, EventFilter, head_of
from ..storage.retention import RetentionReport, RetentionRule, apply_retention
from ..tasks.loops import is_without_loop
from ..tasks.strangers import contained
from ..tasks.threads import in_thread
from ._alerts import Alerts
from .alerting import AlertDispatcher, DurableDispatcher
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
    if not isinstance(storage, FileStorage):
        raise TypeError(f"retention: expected a trail in files; got a {type(storage).__qualname__}")
    if not policy.enabled:
        raise ValueError("retention: expected a policy that is enabled, since removals are recorded; this one is not")
    if isinstance(archive, DirectoryArchive):
        await in_thread(_require_another, archive.directory, storage.directory)
    mark = None if policy.retention_days is None else await _first_that_stays(storage, alerts)
    rule = RetentionRule(
        archive_after_days=policy.archive_after_days,
        retention_days=policy.retention_days,
        archive=archive,
        below_floor=policy.retention_below_floor,
        keep_from=min((number for number in (mark, keep_from) if number is not None), default=None),
    )

    async def record(metadata: dict[str, Any], why: str) -> int:
        event_id = await log_event(
            AuditEventType.RETENTION_POLICY_APPLIED,
            "the oldest days of the trail are removed",
            operation="retain",
            reason=why,
            metadata=metadata,
        )
        for event in await storage.find(EventFilter(event_id=event_id), 1):
            if isinstance(event, AuditEvent) and event.sequence_number is not None:
                return event.sequence_number
        raise AuditStorageError("the record about the removal can't be found: nothing is removed")

    return await apply_retention(storage.directory, rule, today=_today(), record=record, dry_run=dry_run)


def _require_another(archive: Path, directory: Path) -> None:
    if archive.resolve() == directory.resolve():
        raise ValueError("archive: expected another directory than that of the trail")


def _today() -> date:
    return utc_now().date()


async def _first_that_stays(storage: AuditStorage, alerts: Alerts) -> int | None:
    """Return the number of the first record about which an alert may be pending; None if there is none."""
    dispatcher = alerts.dispatcher
    if not isinstance(dispatcher, DurableDispatcher) or not dispatcher.resumes:
        return None
    home = alerts.background.home
    if alerts.catch_up is not None and home is not None and not is_without_loop() and home.is_here:
        with anyio.move_on_after(_PATIENCE):
            await alerts.catch_up.move_on()
    try:
        mark = await contained(functools.partial(_mark, dispatcher, storage))
    except Exception as error:
        raise AuditStorageError(f"it can't be told which alerts are pending: {reason(error)}") from error
    return mark


async def _mark(dispatcher: AlertDispatcher, storage: AuditStorage) -> int:
    assert isinstance(dispatcher, DurableDispatcher)  # noqa: S101 - by the caller
    head = await head_of(storage)
    first = (await dispatcher.resume_from(head)).sequence_number + 1
    oldest_pending: Callable[[], Awaitable[int | None]] | None = getattr(dispatcher, "oldest_pending", None)
    pending = None if oldest_pending is None else await oldest_pending()
    return first if pending is None else min(first, pending)
