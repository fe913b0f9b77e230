"""Outboxes for tests, and a trail that remembers the reports of a dispatcher."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import AuditEvent, DeliveryReport
from fapilog.core.alerting import reporter
from fapilog.delivery.outbox import Outbox, _sender
from fapilog.delivery.outbox._outbox import AnyOutbox
from fapilog.delivery.outbox._place import Claim, Queue, Request

__all__ = [
    "DAY",
    "Told",
    "claim",
    "clock",
    "glob",
    "leased_until",
    "look_often",
    "make",
    "owned",
    "renewed",
    "statuses",
    "until",
]


DAY = 86_400.0


def clock() -> float:
    """Tell the seconds since 1970, by the clock that jumps."""
    return 1_750_000_000.0 + anyio.current_time()


def make(inner: Any, path: Path, **options: Any) -> Outbox:
    """Return an outbox whose clock jumps."""
    defaults: dict[str, Any] = {"now": clock, "lease": 600.0}
    return Outbox(inner, path / "alerts.db", **defaults | options)


class Told:
    """
    A trail that remembers what a dispatcher has told it.

    Attributes:
        reports: The attempts.
        failures: What fails now, and why.
        recovered: What has failed, and works again.
        heard: Every failure as a pair, and every recovery as the part alone.
    """

    def __init__(self) -> None:
        self.reports: list[DeliveryReport] = []
        self.failures: dict[str, str] = {}
        self.recovered: list[str] = []
        self.heard: list[tuple[str, ...]] = []

    def attempted(self, report: DeliveryReport) -> None:
        self.reports.append(report)

    def failing(self, part: str, cause: str) -> None:
        self.failures.setdefault(part, cause)
        self.heard.append((part, cause))

    def working(self, part: str) -> None:
        if self.failures.pop(part, None) is not None:
            self.recovered.append(part)
            self.heard.append((part,))


@asynccontextmanager
async def owned(dispatcher: AbstractAsyncContextManager[object]) -> AsyncIterator[Told]:
    """Enter *dispatcher* as a trail does."""
    told = Told()
    token = reporter.set(told)
    try:
        await dispatcher.__aenter__()
    finally:
        reporter.reset(token)
    try:
        yield told
    finally:
        await dispatcher.__aexit__(None, None, None)


async def until(condition: Callable[[], object], *, step: float = 1.0) -> None:
    """Let time pass until *condition* holds, or a hundredth longer than that and *step* seconds."""
    began = anyio.current_time()
    with anyio.fail_after(40 * DAY):
        while not condition():  # noqa: ASYNC110  the clock jumps
            await anyio.sleep(max(step, (anyio.current_time() - began) / 100))


def claim(queue: Queue, outbox: str, event: AuditEvent, lease: str, now: float, *, lasts: float) -> list[Claim]:
    """Claim the alert about *event* for *lasts* seconds, as a sender does."""
    request = Request(lease, now, 0.0, lasts=lasts, longest_wait=lasts, room=1, event=event)
    return queue.exchange(outbox, request).claims


def glob(directory: Path, pattern: str) -> list[Path]:
    return sorted(directory.glob(pattern))


async def statuses(outbox: AnyOutbox, *events: Any) -> list[str | None]:
    found = [await outbox.find(event.event_id) for event in events]
    return [None if each is None else each.status for each in found]


async def leased_until(outbox: AnyOutbox, event: AuditEvent) -> datetime:
    """Return when another process may take over the alert about *event*, which is being sent."""
    found = await outbox.find(event.event_id)
    assert found is not None
    assert found.due_at is not None
    return found.due_at


async def renewed(outbox: AnyOutbox, event: AuditEvent, *, lease: float) -> None:
    """Wait until the lease of the alert about *event* was renewed after it would have been over."""
    first = await leased_until(outbox, event)
    while await leased_until(outbox, event) <= first + timedelta(seconds=lease):  # noqa: ASYNC110  of the place
        await anyio.sleep(0.01)


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have outboxes look at their state, which tests wait for, twenty times a second instead of once."""
    monkeypatch.setattr(_sender, "_STATE_EVERY", 0.05)
