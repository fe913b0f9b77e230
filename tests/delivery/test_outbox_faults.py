"""An outbox whose file, process or other side fails: every alert arrives, and none twice without a reason."""

from pathlib import Path

import anyio
import pytest

from fapilog.testing import RecordingDispatcher

from .scripted import Scripted, an_event
from .test_outbox import glob, make, statuses, until

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
