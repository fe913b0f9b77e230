"""`sys.exit` in code that a trail calls ends the process at once, and no alert of an outbox makes that a crash loop."""

from pathlib import Path

import anyio
import pytest

from fapilog import AuditEventType
from fapilog.core.alerting import NoopAlertDispatcher
from fapilog.delivery.outbox import Outbox
from tests.doubles.exits import ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "place", "started", "kept"),
    [
        ("asyncio", "dispatcher", "started", "plain"),
        ("trio", "dispatcher", "started", "plain"),
        ("trio", "dispatcher", "started", "outbox"),
        ("asyncio", "dispatcher", "not_started", "plain"),
        ("asyncio", "coroutine", "started", "plain"),
        ("trio", "coroutine", "started", "plain"),
        ("trio", "entering", "started", "plain"),
        ("asyncio", "storage", "started", "plain"),
    ],
)
def test_an_exit_ends_the_process(tmp_path: Path, backend: str, place: str, started: str, kept: str) -> None:
    """Wherever strangers' code exits, the process ends at once, with its exit code."""
    ends(tmp_path, backend, "exit", place=place, started=started, kept=kept)


@pytest.mark.slow
def test_a_poisonous_alert_is_no_crash_loop(tmp_path: Path) -> None:
    """A dispatcher that exits makes an attempt each time: the attempts rise and the waits grow with each restart."""
    outbox = Outbox(NoopAlertDispatcher(), tmp_path / "alerts.db")

    waits: list[float] = []
    for attempts in range(1, 4):
        # The program waits for as long as the alert has to.
        kept = "outbox" if attempts == 1 else "restarted"
        ends(tmp_path, "asyncio", "exit", place="dispatcher", started="started", kept=kept)
        # An incident of an earlier run may wait beside it.
        pending = anyio.run(outbox.pending)
        (alert,) = [each for each in pending if each.event_type == AuditEventType.SECURITY_VIOLATION.value]
        assert alert.attempts == attempts
        assert alert.due_at is not None
        last = anyio.run(outbox.history, alert.event_id)[-1]
        waits.append((alert.due_at - last.began_at).total_seconds())
    assert waits == sorted(waits)
    assert waits[-1] > waits[0] * 2
