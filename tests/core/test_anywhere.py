"""
Each cell of the table in ``docs/how-to/call-it-from-anywhere.md``: a trail in any state, used by a caller of any kind.

A caller logs an event that alerts, drains, starts and stops the trail; whatever the state, the event is stored and its
alert is dispatched once, and nothing hangs.
"""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from fapilog import AuditEvent, AuditEventType, AuditTrail

pytestmark = pytest.mark.real_time

STATES = ("not started", "started", "started in the background thread", "stopped")
CALLERS = ("same task", "other task", "other asyncio loop", "other trio loop", "other thread", "child", "no loop")


class Pager:
    """Writes a line to a file for each alert, so that a child's are counted too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await anyio.lowlevel.checkpoint()
        with self.path.open("a") as file:
            file.write(f"{event.message}\n")


async def log(trail: AuditTrail) -> None:
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")


async def log_and_drain(trail: AuditTrail) -> None:
    await log(trail)
    await trail.drain()


async def restart(trail: AuditTrail) -> None:
    await trail.start()
    await log(trail)
    await trail.stop()


def log_and_drain_without_await(trail: AuditTrail) -> None:
    trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    trail.sync.drain()


def restart_without_await(trail: AuditTrail) -> None:
    trail.sync.start()
    trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    trail.sync.stop()


ACTIONS: dict[str, tuple[Callable[[AuditTrail], Coroutine[None, None, None]], Callable[[AuditTrail], None]]] = {
    "log and drain": (log_and_drain, log_and_drain_without_await),
    "start, log and stop": (restart, restart_without_await),
}


def in_child(call: Callable[[], object]) -> None:
    """Call *call* in a forked child, which must end well and in time."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def within(seconds: float, call: Callable[[], object]) -> None:
    """Call *call* in a thread of its own; it must return in time."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    if errors:
        raise errors[0]


async def act(trail: AuditTrail, caller: str, action: str) -> None:
    """Have a caller of that kind do something with the trail."""
    awaited, blocking = ACTIONS[action]
    match caller:
        case "same task":
            await awaited(trail)
        case "other task":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(awaited, trail)
        case "other asyncio loop" | "other trio loop":
            run = functools.partial(anyio.run, awaited, trail, backend=caller.split()[1])
            await anyio.to_thread.run_sync(within, 60, run)
        case "child":
            await anyio.to_thread.run_sync(in_child, functools.partial(blocking, trail))
        case _:
            await anyio.to_thread.run_sync(within, 60, functools.partial(blocking, trail))


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("caller", [caller for caller in CALLERS if caller != "no loop"])
@pytest.mark.parametrize("state", STATES)
async def test_any_caller_in_any_state(tmp_path: Path, state: str, caller: str, action: str) -> None:
    """The event is stored, its alert is dispatched once, and the trail can be stopped by whoever made it."""
    pager = Pager(tmp_path / "alerts")
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=pager)
    if state == "started in the background thread":
        await anyio.to_thread.run_sync(trail.sync.start)
    elif state != "not started":
        await trail.start()
    if state == "stopped":
        await trail.stop()
    with anyio.fail_after(60):
        await act(trail, caller, action)
        await trail.stop()
    assert not trail.is_started
    assert pager.path.read_text().splitlines() == ["m"]
    assert [event.message for event in await trail.get_events()] == ["m"]
    assert (await trail.verify_chain_from_storage()).valid


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("state", ["not started", "started in the background thread", "stopped", "loop ended"])
@pytest.mark.filterwarnings("ignore:.*was not stopped before its event loop ended:ResourceWarning")
def test_without_any_loop(tmp_path: Path, state: str, action: str) -> None:
    """Where no event loop is left in the process, the event is stored and its alert is dispatched once too."""
    pager = Pager(tmp_path / "alerts")
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=pager)
    if state == "started in the background thread":
        trail.sync.start()
    elif state == "stopped":
        with trail.sync:
            pass
    elif state == "loop ended":
        anyio.run(trail.start)
    within(60, functools.partial(ACTIONS[action][1], trail))
    within(60, trail.sync.stop)
    assert pager.path.read_text().splitlines() == ["m"]
    assert [event.message for event in trail.sync.get_events()] == ["m"]


@pytest.mark.parametrize("starter", ["asyncio", "trio"])
def test_trio_as_a_guest_of_asyncio(tmp_path: Path, starter: str) -> None:
    """Tasks of both libraries may use a trail in one thread, in which trio is a guest, whichever has started it."""
    trio = pytest.importorskip("trio")
    pager = Pager(tmp_path / "alerts")
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=pager)

    async def use(backend: str) -> None:
        await log(trail)
        if backend == starter:
            async with trail:
                await log_and_drain(trail)
        await log(trail)

    async def main() -> None:
        loop, outcomes = asyncio.get_running_loop(), asyncio.Queue[Any]()
        trio.lowlevel.start_guest_run(
            use, "trio", run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=outcomes.put_nowait
        )
        await use("asyncio")
        (await outcomes.get()).unwrap()

    asyncio.run(main())
    assert len(pager.path.read_text().splitlines()) == 5
    assert trail.sync.verify_chain_from_storage().events_checked == 5
