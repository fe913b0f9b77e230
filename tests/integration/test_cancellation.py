"""A service that is cancelled, in every way and with every dispatcher, after some of its steps."""

import zlib
from pathlib import Path

import anyio
import pytest

from fapilog import AuditTrail
from fapilog.testing import RecordingDispatcher
from tests.clock import stop_clock_in_threads
from tests.doubles.cancelled_service import DISPATCHERS, cancel_after, cases

# Nearly every service takes more steps than these.
STEPS = 50


def drawn(*case: object) -> tuple[bool, int]:
    """Return whether a case is tried, and after how many steps, as if by chance; `make torture` takes all of both."""
    is_tried, step = divmod(zlib.crc32(" ".join(map(str, case)).encode()) % (2 * STEPS), STEPS)
    return is_tried > 0, step


CASES = [
    (backend, dispatcher, way, started)
    for backend in ("asyncio", "trio")
    for dispatcher in DISPATCHERS
    for way in cases(backend)
    for started in (True, False)
    if way in ("scope", "cancel twice", "end") or dispatcher == "Outbox"
    if started or dispatcher in ("plain", "Outbox")
    if drawn(backend, dispatcher, way, started)[0]
]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "dispatcher", "way", "started"), CASES)
def test_whoever_is_cancelled_is_cancelled_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, dispatcher: str, way: str, *, started: bool
) -> None:
    """Nothing hangs, no event or report is lost, no task is left, the dispatcher is left, and a new start works."""
    stop_clock_in_threads(monkeypatch)
    _, step = drawn(backend, dispatcher, way, started)
    cancel_after(step, tmp_path / "service", backend, dispatcher, way, started=started)


async def test_a_cancelled_start_is_nobody_elses(tmp_path: Path) -> None:
    """Of two tasks that start a trail the first is cancelled: the other one starts it."""

    class Slow(RecordingDispatcher):
        async def __aenter__(self) -> None:
            await anyio.sleep(1)

        async def __aexit__(self, *_: object) -> None:
            pass

    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=Slow())
    async with anyio.create_task_group() as tasks:

        async def start(scope: anyio.CancelScope) -> None:
            with scope:
                await trail.start()

        cancelled, other = anyio.CancelScope(), anyio.CancelScope()
        tasks.start_soon(start, cancelled)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(start, other)
        await anyio.wait_all_tasks_blocked()
        cancelled.cancel()
    assert trail.is_started
    await trail.stop()
