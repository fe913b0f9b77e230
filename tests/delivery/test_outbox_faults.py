"""An outbox whose file, process or other side fails: every alert arrives, and none twice without a reason."""

import asyncio
from functools import partial
from pathlib import Path

import anyio
import pytest

from fapilog import TransientDeliveryError
from fapilog.core.alerting import Announcement
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.outboxfile import Table
from fapilog.testing import RecordingDispatcher

from .scripted import Scripted, an_event
from .test_outbox import glob, make, statuses, until

BUSY = TransientDeliveryError("busy")


# -- another file, another process


@pytest.mark.parametrize("corrupt", [False, True], ids=["removed", "damaged"])
async def test_an_attempt_that_outlives_its_file(tmp_path: Path, *, corrupt: bool) -> None:
    """What ends after the file was replaced is noted for its own alert, not for one that took its place in the file."""
    slow = RecordingDispatcher(wait=lambda: anyio.sleep(10))
    async with make(slow, tmp_path, concurrency=1) as outbox:
        await outbox.send_alert(an_event(1), severity="critical")
        await slow.wait_for(1)
        for path in glob(tmp_path, "alerts.db*"):
            path.rename(f"{path}.old")
        if corrupt:
            (tmp_path / "alerts.db").write_bytes(b"no database" * 1000)
            await anyio.sleep(1)
        slow.wait = anyio.sleep_forever
        for number in (2, 3):
            await outbox.send_alert(an_event(number), severity="critical")
        await until(lambda: len(slow.alerts) >= 2)
        await anyio.sleep(20)
        assert await statuses(outbox, an_event(1)) == ["delivered"]
        slow.wait = None
        await anyio.sleep(100)
        assert await statuses(outbox, *map(an_event, (1, 2, 3))) == ["delivered"] * 3
    assert {alert.event.event_id for alert in slow.alerts} == {an_event(number).event_id for number in (1, 2, 3)}


async def test_what_others_took_over_meanwhile_is_theirs(tmp_path: Path) -> None:
    """A process that stood still for longer than its lease does not send what another has sent meanwhile."""
    slow, other = Scripted(), Scripted()
    slow.delay = 1000.0
    first = make(slow, tmp_path, lease=60.0, concurrency=2, timeout=2000.0)
    async with first:
        # Two are being sent, one is held for the next that is free.
        for number in (1, 2, 3):
            await first.send_alert(an_event(number), severity="critical")
        await until(lambda: len(first._sender._held) == 3)
        first._sender._next_renewal = float("inf")
        async with make(other, tmp_path, lease=60.0):
            await until(lambda: len(other.calls) == 3)
        first._sender._next_renewal = 0.0
        await anyio.sleep(3000)
    assert slow.ids == [an_event(1).event_id, an_event(2).event_id]


async def test_discarded_while_it_is_sent(tmp_path: Path) -> None:
    """What is discarded while it is sent is sent again only if it is retried, and not if it has arrived meanwhile."""
    slow = Scripted(BUSY, None, None)
    slow.delay = 10.0
    async with make(slow, tmp_path) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: slow.at_once)
        assert await outbox.discard([an_event().event_id], reason="a drill") == 1
        await anyio.sleep(1000)
        assert (len(slow.calls), await statuses(outbox, an_event())) == (1, ["discarded"])
        assert await outbox.retry([an_event().event_id]) == 1
        await until(lambda: slow.at_once)
        assert await outbox.discard([an_event().event_id], reason="a drill") == 1
        assert await outbox.retry([an_event().event_id]) == 1
        await anyio.sleep(1000)
        assert (len(slow.calls), await statuses(outbox, an_event())) == (2, ["delivered"])


async def test_one_bad_call_harms_no_other(tmp_path: Path) -> None:
    """What can't be written, such as a lone surrogate, is refused alone: alerts that come meanwhile are kept."""
    inner = Scripted()
    refused = []

    async def find(outbox: Outbox) -> None:
        with pytest.raises(UnicodeEncodeError):
            await outbox.find("\ud800")
        refused.append(1)

    async with make(inner, tmp_path) as outbox:
        for number in range(1, 21):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(find, outbox)
                    tasks.start_soon(partial(outbox.send_alert, an_event(number), severity="critical"))
        await anyio.sleep(100)
        assert await statuses(outbox, *map(an_event, range(1, 21))) == ["delivered"] * 20
    assert (len(refused), len(inner.calls)) == (60, 20)


async def test_what_the_file_cannot_take_goes_out_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert that can't be written, for whatever reason, goes out directly, once, and others are kept."""
    inner = Scripted()
    put = Table.put

    def fail(table: Table, outbox: str, alert: Announcement, now: float) -> bool:
        if alert.event.event_id == an_event(1).event_id:
            raise MemoryError
        return put(table, outbox, alert, now)

    monkeypatch.setattr(Table, "put", fail)
    async with make(inner, tmp_path) as outbox:
        for number in (1, 2):
            await outbox.send_alert(an_event(number), severity="critical")
        await anyio.sleep(100)
        assert await statuses(outbox, *map(an_event, (1, 2))) == [None, "delivered"]
    assert inner.ids == [an_event(1).event_id, an_event(2).event_id]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_dispatcher_that_is_cancelled(tmp_path: Path) -> None:
    """A dispatcher in which something raises `CancelledError` has failed, and is tried again by the schedule."""
    inner = Scripted(asyncio.CancelledError())
    async with make(inner, tmp_path, schedule=[10.0, 100.0]) as outbox:
        await outbox.send_alert(an_event(), severity="critical")
        await until(lambda: outbox.state.dead)
    assert len(inner.calls) == 3
    assert [each.outcome for each in await outbox.history(an_event().event_id)] == ["interrupted"] * 3
