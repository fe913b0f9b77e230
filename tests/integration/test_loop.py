"""The event loop is never held up by the disk. On asyncio, every test here fails where fapilog blocks the loop."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import anyio
import pytest
from blockbuster import BlockingError

from fapilog import AuditEvent
from fapilog.core.audit import AuditEventType, AuditTrail
from fapilog.record.errors import AuditStorageError
from fapilog.storage.files import FileStorage
from tests.doubles.trail_files import TrailFiles


class Silent:
    """Takes alerts."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Do nothing."""


async def use(trail: AuditTrail) -> None:
    """Use all of the trail that touches the disk."""
    async with trail, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(trail.log_event, AuditEventType.DATA_ACCESS, "m")
            tasks.start_soon(trail.log_security_event, AuditEventType.SECURITY_VIOLATION, "m")
        assert (await trail.verify_chain_from_storage()).valid
        await trail.get_events(limit=30)
        await trail.get_statistics()


@pytest.mark.slow_on_trio
async def test_the_loop_is_not_blocked(tmp_path: Path) -> None:
    """With durability "fsync", logging, reading, verifying, starting and stopping leave all that blocks to a thread."""
    for _ in range(2):
        await use(AuditTrail(storage_path=tmp_path / "deep" / "trail", alert_dispatcher=Silent()))


@pytest.mark.slow_on_trio
async def test_nor_when_things_go_wrong(tmp_path: Path) -> None:
    """What a crash left, a damaged record, and a path that is a file are handled in a thread as well."""
    trail = AuditTrail(storage_path=tmp_path)
    await use(trail)
    path = tmp_path / os.listdir(tmp_path)[0]  # noqa: PTH208
    os.truncate(path, path.stat().st_size - 20)
    await use(trail)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"m"', b'"n"', 1))
    damaged = AuditTrail(storage_path=tmp_path)
    with pytest.raises(AuditStorageError):
        await damaged.log_event(AuditEventType.DATA_ACCESS, "m")
    assert not (await damaged.verify_chain_from_storage()).valid
    await damaged.stop()
    with pytest.raises(AuditStorageError):
        await AuditTrail(storage_path=path).log_event(AuditEventType.DATA_ACCESS, "m")


@pytest.mark.parametrize("durability", ["fsync", "write"])
async def test_nor_at_midnight(tmp_path: Path, durability: Literal["fsync", "write"]) -> None:
    """Going on to the next day's file is left to a thread."""
    days = [30]
    storage = FileStorage(tmp_path, durability=durability, now=lambda: datetime(2026, 1, days[-1], tzinfo=UTC))
    for day in (30, 31):
        days.append(day)
        await storage.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"))
    await storage.aclose()
    files = sorted(path.name for path in tmp_path.glob("*.jsonl"))  # noqa: ASYNC240
    assert files == ["audit_2026-01-30.jsonl", "audit_2026-01-31.jsonl"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_watch_watches(tmp_path: Path) -> None:
    """The same work, done in the loop instead of a thread, is noticed."""
    with pytest.raises(BlockingError):
        TrailFiles(tmp_path, durable=True).append([b'{"v":2'])
