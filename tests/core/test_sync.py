"""The trail without await: in scripts, threads and synchronous views."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, Self

import anyio
import anyio.to_thread
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    FileStorage,
    MemoryStorage,
    alert_dispatched,
    compliance_alert,
    exit_on_sigterm,
)
from fapilog.delivery.outbox import Outbox
from fapilog.record.chain import Seal
from fapilog.tasks.portal import Portal
from fapilog.testing import RecordingDispatcher

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[2]


def alert(trail: AuditTrail, message: str = "m") -> str:
    """Log an event that alerts."""
    return trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, message)


class Pager(RecordingDispatcher):
    """Remembers the threads in which it is entered, called and left."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []

    async def __aenter__(self) -> Self:
        self.threads.append(f"entered in {threading.current_thread().name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.threads.append(f"left in {threading.current_thread().name}")

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        await anyio.sleep(0.001)
        await super().send_alert(event, severity=severity, channel=channel)


@pytest.fixture
def pager() -> Pager:
    """Return a dispatcher that remembers."""
    return Pager()


@pytest.fixture
def trail(tmp_path: Path, pager: Pager) -> AuditTrail:
    """Return a trail that is not started."""
    return AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=pager)


def test_every_method_is_there_without_await(trail: AuditTrail) -> None:
    """Recording, reading, verifying and counting give what the methods with await give."""
    sync = trail.sync
    ids = [
        sync.log_event(AuditEventType.SYSTEM_STARTUP, "ready", component="service"),
        sync.log_error(ValueError("v"), operation="sum"),
        sync.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password", user_id="mallory"),
        sync.log_data_access("patient/42", "read", user_id="alice"),
    ]
    assert [event.event_id for event in sync.get_events()] == ids[::-1]
    head = sync.head()
    assert head.sequence_number == 4
    assert sync.holds(head)
    assert not sync.holds(ChainHead(4, "0" * 64))
    assert sync.verify_chain_from_storage().valid
    sync.drain()
    assert sync.get_statistics()["total_events"] == 4
    assert anyio.run(trail.get_statistics) == sync.get_statistics()
    sync.stop()


def test_the_record_is_committed_in_the_calling_thread(tmp_path: Path) -> None:
    """No other thread is needed to store a record, and none is started for it."""
    trail = AuditTrail(storage_path=tmp_path / "audit")
    before = set(threading.enumerate())
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
    # A thread of an earlier test may have ended meanwhile.
    assert set(threading.enumerate()) <= before


def test_the_first_alert_starts_the_trail_in_the_background(trail: AuditTrail, pager: Pager) -> None:
    """Alerts are sent in one thread of the process, where the dispatcher is entered, and later left."""
    for number in range(20):
        alert(trail, str(number))
    trail.sync.drain()
    assert sorted(int(sent.event.message) for sent in pager.alerts) == list(range(20))
    trail.sync.stop()
    assert pager.threads == ["entered in fapilog portal", "left in fapilog portal"]
    assert not trail.is_started
    alert(trail, "started again")
    trail.sync.stop()
    assert len(pager.threads) == 4
    assert len(pager.alerts) == 21


def test_it_is_a_context_manager(trail: AuditTrail, pager: Pager) -> None:
    """Entered, it is started; left, every alert is sent."""
    with trail.sync as sync:
        assert trail.is_started
        sync.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        sync.start()
    assert len(pager.alerts) == 1
    assert not trail.is_started


def test_with_in_place_of_async_with_is_refused(trail: AuditTrail) -> None:
    """Entering the trail itself without async says what to write."""
    with pytest.raises(TypeError, match=r"`async with trail`, or in synchronous code by `with trail\.sync`"):
        trail.__enter__()


_user: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.mark.parametrize("where", ["portal", "loop"])
async def test_the_callers_context_reaches_receivers_and_dispatcher(tmp_path: Path, where: str) -> None:
    """Receivers, awaited ones too, and the dispatcher see the context variables of the thread that logs."""
    seen: list[str] = []

    class Reading:
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            seen.append(f"dispatcher: {_user.get()}")

    def plain(_: object, **__: Any) -> None:
        seen.append(f"plain: {_user.get()}")

    async def awaited(_: object, **__: Any) -> None:
        seen.append(f"awaited: {_user.get()}")

    def reported(_: object, **__: Any) -> None:
        seen.append(f"report: {_user.get()}")

    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=Reading())
    compliance_alert.connect(plain, sender=trail)
    compliance_alert.connect(awaited, sender=trail)
    alert_dispatched.connect(reported, sender=trail)

    def log(user: str) -> None:
        _user.set(user)
        alert(trail)

    if where == "loop":
        await trail.start()
    for user in ("alice", "bob"):
        await anyio.to_thread.run_sync(log, user)
    await anyio.to_thread.run_sync(trail.sync.drain)
    await trail.stop()
    kinds = ("plain", "awaited", "dispatcher", "report")
    assert sorted(seen) == sorted(f"{kind}: {user}" for kind in kinds for user in ("alice", "bob"))


async def test_alerts_go_to_the_loop_that_the_trail_is_started_in(trail: AuditTrail, pager: Pager) -> None:
    """Threads hand their alerts to the loop; twenty at once lose none."""
    async with trail, anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(anyio.to_thread.run_sync, alert, trail, str(number))
    assert len(pager.alerts) == 20
    assert pager.threads == ["entered in MainThread", "left in MainThread"]


async def test_a_busy_loop_delays_no_thread(trail: AuditTrail, pager: Pager) -> None:
    """While the loop of the trail is blocked, another thread logs an alert and goes on."""
    async with trail:
        thread = threading.Thread(target=alert, args=[trail])
        thread.start()
        thread.join(60)  # in the loop's own thread, which nothing else can use meanwhile
        assert not thread.is_alive()
        assert pager.alerts == []
    assert len(pager.alerts) == 1


async def test_where_a_loop_runs_it_records_and_refuses_to_wait(trail: AuditTrail, pager: Pager) -> None:
    """In a thread whose loop runs, a record is stored and its alert sent; what would wait for that loop is refused."""
    async with trail:
        alert(trail)
        assert trail.sync.get_events()[0].message == "m"
        for refused in (trail.sync.drain, trail.sync.stop):
            with pytest.raises(RuntimeError, match="use `await` here"):
                refused()
    assert len(pager.alerts) == 1


async def test_where_a_loop_runs_a_trail_that_is_not_started_works_too(trail: AuditTrail, pager: Pager) -> None:
    """In a thread whose loop runs, a trail that is not started hands its alerts to the background thread."""
    alert(trail)
    await anyio.to_thread.run_sync(trail.sync.stop)
    assert pager.threads == ["entered in fapilog portal", "left in fapilog portal"]
    assert len(pager.alerts) == 1


async def test_an_alert_of_the_very_end_is_sent(pager: Pager) -> None:
    """An event that a thread records while the trail is closing its storage alerts before `stop` returns."""

    class Closing(MemoryStorage):
        async def aclose(self) -> None:
            await anyio.to_thread.run_sync(alert, stopping)
            await super().aclose()

    stopping = AuditTrail(storage=Closing(), alert_dispatcher=pager)
    await stopping.start()
    await stopping.stop()
    assert len(pager.alerts) == 1


async def test_await_and_sync_meet(trail: AuditTrail, pager: Pager) -> None:
    """What was started in the background thread takes the alerts of this loop too, and this loop may stop it."""
    trail.sync.start()
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "awaited")
    await trail.start()
    await trail.drain()
    assert len(pager.alerts) == 1
    await trail.stop()
    assert pager.threads == ["entered in fapilog portal", "left in fapilog portal"]


class Refusing(RecordingDispatcher):
    """Can't be entered."""

    async def __aenter__(self) -> None:
        raise OSError("no such host")

    async def __aexit__(self, *_: object) -> None: ...


def test_a_dispatcher_that_can_not_be_entered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Starting raises what entering raised; an alert is reported as failed in the end, and logging goes on."""
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=Refusing())
    with pytest.raises(OSError, match="no such host"):
        trail.sync.start()
    alert(trail)
    with contextlib.suppress(OSError):  # unless the attempt to start in the background has failed before
        trail.sync.stop()
    alert(trail, "still stored")
    assert [event.message for event in trail.sync.get_events()] == ["still stored", "m"]
    with contextlib.suppress(OSError):
        trail.sync.stop()
    anyio.run(trail.stop)
    alerts = trail.sync.get_statistics()["alerts"]
    assert (alerts["failed"] + alerts["dispatched"], alerts["waiting"]) == (2, 0)
    assert "AuditTrail.start failed in the background thread: OSError\n" in caplog.text


def test_an_alert_of_a_trail_that_can_not_be_started_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An alert that waits for a start which fails has a report that says that, and not that the trail was stopped."""
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=Refusing())
    alert(trail)
    with contextlib.suppress(OSError):  # unless the attempt to start in the background has failed before
        trail.sync.stop()
    assert "(record 1) was not delivered: the trail could not be started\n" in caplog.text


def test_stopping_what_could_not_be_started(tmp_path: Path) -> None:
    """After a start that failed there is nothing to stop, and no event loop is needed for that."""
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=Refusing())
    with pytest.raises(OSError, match="no such host"):
        trail.sync.start()
    trail.sync.stop()
    assert not trail.is_started


@pytest.mark.parametrize("event_id", [None, "of-a-message"])
@pytest.mark.parametrize("durability", ["fsync", "write"])
def test_an_event_that_interrupts_an_append_of_its_thread_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Literal["fsync", "write"], event_id: str | None
) -> None:
    """A signal handler or a destructor gets an error, and does not wait for the append that waits for it."""
    trail = AuditTrail(storage_path=tmp_path, durability=durability)
    trail.sync.log_event(AuditEventType.SYSTEM_STARTUP, "the first opens the file")
    read, here, refused = os.pread, threading.get_ident(), list[str]()

    def interrupted(fd: int, size: int, offset: int) -> bytes:
        # A trail of an earlier test may look at its files meanwhile.
        if threading.get_ident() == here:
            monkeypatch.setattr(os, "pread", read)
            try:
                trail.sync.log_event(AuditEventType.DATA_ACCESS, "in between", event_id=event_id)
            except AuditStorageError as error:
                refused.append(str(error))
        return read(fd, size, offset)

    monkeypatch.setattr(os, "pread", interrupted)
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
    assert refused == ["not stored: called from within a call of the same thread"]
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "after it")
    stored = {event.message for event in trail.sync.get_events()}
    assert {"m", "after it"} <= stored
    assert "in between" not in stored
    assert trail.sync.verify_chain_from_storage().valid


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_with_fsync_share_their_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """One thread syncs each event by itself; several that wait for a sync share the next one."""
    trail = AuditTrail(storage_path=tmp_path)
    trail.sync.log_event(AuditEventType.SYSTEM_STARTUP, "the first opens the file")
    syncs = list[int]()
    sync = os.fdatasync
    waiting = threading.Barrier(threads, timeout=20)

    def log() -> None:
        waiting.wait()
        for _ in range(50):
            trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")

    def counted(fd: int) -> None:
        if threading.current_thread() in workers:
            syncs.append(fd)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    workers = [threading.Thread(target=log) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert trail.sync.get_statistics()["total_events"] == 50 * threads + 1
    assert len(syncs) == 50 if threads == 1 else len(syncs) < 50 * threads
    assert trail.sync.verify_chain_from_storage().events_checked == 50 * threads + 1


class LoopStorage(FileStorage):
    """Needs an event loop, as a storage over a network would."""

    runs_anywhere = False

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        await asyncio.sleep(0.001)
        return await super().append(event, once=once)


def test_a_storage_that_needs_a_loop_gets_one(tmp_path: Path, pager: Pager) -> None:
    """With a storage of one's own the methods run in the background thread while the caller waits."""
    trail = AuditTrail(storage=LoopStorage(tmp_path / "audit"), alert_dispatcher=pager)
    alert(trail)
    assert trail.sync.get_events()[0].message == "m"
    trail.sync.stop()
    assert len(pager.alerts) == 1


def test_a_subclass_that_overrides_a_method_is_called(tmp_path: Path) -> None:
    """An override with await of its own is what `sync` runs."""

    class Mine(AuditTrail):
        async def log_event(self, *args: Any, **kwargs: Any) -> str:
            await asyncio.sleep(0.001)
            return await super().log_event(*args, **{**kwargs, "component": "mine"})

    trail = Mine(storage_path=tmp_path / "audit")
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
    assert trail.sync.get_events()[0].component == "mine"
    trail.sync.stop()


def test_an_event_that_is_not_stored_raises(tmp_path: Path) -> None:
    """A storage that can't store raises AuditStorageError, as with await; the failure is announced."""
    (tmp_path / "file").touch()
    pager = Pager()
    trail = AuditTrail(storage_path=tmp_path / "file", alert_dispatcher=pager)
    with pytest.raises(AuditStorageError, match="expected a directory"):
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
    trail.sync.stop()
    assert [sent.event.event_type for sent in pager.alerts] == [AuditEventType.COMPONENT_FAILURE]


def test_without_a_background_thread_the_caller_sends(
    trail: AuditTrail, pager: Pager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the background thread can't be had, the alert is sent before the call returns; starting says so."""
    monkeypatch.setattr(Portal, "of_process", staticmethod(lambda: None))
    alert(trail)
    assert len(pager.alerts) == 1
    with pytest.raises(RuntimeError, match="the trail can't be started"):
        trail.sync.start()


def run(how: str, directory: Path, *, timeout: float = 60.0) -> "subprocess.CompletedProcess[str]":
    """Run the script that ends in this way."""
    # Coverage has a handler of SIGTERM of its own.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, "-m", "tests.programs.sync_script", how, str(directory)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def delivered(directory: Path) -> list[str]:
    """Return the messages of the alerts that the script has delivered."""
    return [line.rpartition(" ")[0] for line in (directory / "alerts").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "code", "expected"),
    [
        ("end", 0, ["first"]),
        ("drain", 0, ["first"]),
        ("stop", 0, ["first", "second"]),
        ("raise", 1, ["first"]),
        ("late", 0, ["at the exit", "first"]),
        ("only_late", 0, ["at the exit"]),
        ("lookup", 0, ["first"]),
        ("sigterm", 128 + signal.SIGTERM, ["first"]),
        ("fork", 0, ["child", "first", "parent"]),
        ("fork_early", 0, ["child", "first"]),
        ("multiprocessing", 0, ["child", "first"]),
        ("threads", 0, ["first", *sorted(f"thread {number}" for number in range(20))]),
    ],
)
def test_a_script_that_ends_loses_no_alert(tmp_path: Path, how: str, code: int, expected: list[str]) -> None:
    """However a plain script ends, its alerts are delivered first, each once."""
    ended = run(how, tmp_path)
    assert ended.returncode == code, ended.stderr
    assert sorted(delivered(tmp_path)) == sorted(expected), ended.stderr
    trail = AuditTrail(storage_path=tmp_path / "audit")
    assert trail.sync.verify_chain_from_storage().valid
    assert len(trail.sync.get_events()) == len(expected)


@pytest.mark.slow
def test_a_script_with_an_outbox_keeps_what_it_could_not_deliver(tmp_path: Path) -> None:
    """An alert whose first attempt failed waits in the outbox when the script ends, and after it the next script."""
    for _ in range(2):
        ended = run("outbox", tmp_path)
        assert ended.returncode == 0, ended.stderr
    waiting = anyio.run(Outbox(RecordingDispatcher(), tmp_path / "alerts.db").pending)
    assert [(alert.sequence_number, alert.attempts) for alert in waiting] == [(1, 1)]
    assert delivered(tmp_path) == ["first"]


FIRST_ALERT = """
import sys
from fapilog import AuditTrail
from fapilog.delivery.outbox import Outbox
from fapilog.testing import RecordingDispatcher

trail = AuditTrail(storage_path=sys.argv[1], alert_dispatcher=Outbox(RecordingDispatcher(), sys.argv[1] + "/alerts.db"))
before = set(sys.modules)
trail.sync.log_security_event("security_violation", "m")
trail.sync.drain()
print(*(name for name in sys.modules if name.startswith("fapilog.") and name not in before))
"""


@pytest.mark.slow
def test_the_first_alert_imports_nothing_that_a_fork_does_not_wait_for(tmp_path: Path) -> None:
    """A module that another thread has half imported stays so in a forked child, which may wait for it for ever."""
    command = [sys.executable, "-c", FIRST_ALERT, str(tmp_path)]
    imported = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert imported == ["fapilog.tasks._ownloop"]


@pytest.mark.slow
def test_a_script_with_a_dispatcher_that_hangs_ends(tmp_path: Path) -> None:
    """The exit does not wait for the dispatcher, and the alert is reported in the log."""
    ended = run("hanging", tmp_path)
    assert ended.returncode == 0
    assert "the trail was stopped first" in ended.stderr


@pytest.mark.slow
def test_a_script_with_a_dispatcher_that_blocks_says_that_alerts_are_lost(tmp_path: Path) -> None:
    """The exit does not wait for the event loop, in which nothing can be reported, and logs so."""
    ended = run("blocking", tmp_path)
    assert ended.returncode == 0
    assert "at the exit a trail was not stopped, and alerts that wait, if any, are lost: the event loop" in ended.stderr


def test_exit_on_sigterm_leaves_other_handlers_alone() -> None:
    """A handler that is installed stays; another thread is refused."""

    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        exit_on_sigterm()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    errors: list[ValueError] = []

    def call() -> None:
        try:
            exit_on_sigterm()
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


@pytest.mark.slow
def test_green_threads_are_told_apart_from_real_ones(tmp_path: Path) -> None:
    """Where gevent has replaced the threads, events are stored, and starting and the exit say what is not possible."""
    pytest.importorskip("gevent")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.programs.green_script", str(tmp_path / "audit")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    records, refusal = ended.stdout.splitlines()
    assert records == "2 records"
    assert refusal.startswith("fapilog needs real threads, and gevent and eventlet replace them")
    assert "are lost: fapilog needs real threads" in ended.stderr
    assert "Traceback" not in ended.stderr


LATE = """
import json, sys
from fapilog import AuditStorageError, AuditTrail

class Late:
    def __init__(self, trail):
        self.trail, self.error, self.say = trail, AuditStorageError, print

    def __del__(self):
        sync = self.trail.sync
        for call in (
            lambda: sync.log_event("data_access", "short"),
            lambda: sync.log_event("data_access", "long" * 100_000),
            lambda: sync.get_events(),
            lambda: list(sync.events()),
            lambda: sync.count_by("user_id"),
        ):
            try:
                call()
                self.say("done")
            except self.error as error:
                self.say(error)

trail = AuditTrail(storage_path=sys.argv[1])
if sys.argv[2:]:
    trail.sync.log_event("data_access", "first")
# A module that is loaded before the others is taken away after them.
json.late = Late(trail)
"""


@pytest.mark.slow
@pytest.mark.parametrize("used", [True, False])
def test_a_finalizer_at_the_very_end_gets_an_error_of_ours(tmp_path: Path, *, used: bool) -> None:
    """Where the interpreter has taken modules and `open` away, a call is done, or raises an `AuditStorageError`."""
    command = [sys.executable, "-c", LATE, str(tmp_path), *(["used"] if used else [])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    error = "the interpreter ends: nothing can be read, and an event may be stored or not"
    short, long, *asked = ended.stdout.splitlines()
    assert [short, long] == ["done" if used else error, error]
    assert [line.partition(":")[0] for line in asked] == ["a module can't be loaded"] * 3
    assert not ended.stderr
