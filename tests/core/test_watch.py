"""The trail about itself: that it begins, that its clock was set, and what goes wrong while it still stores."""

import gzip
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    ComplianceLevel,
    CompliancePolicy,
)
from fapilog.storage.files import FileStorage
from fapilog.storage.memory import MemoryStorage
from fapilog.testing import RecordingDispatcher
from tests.doubles.aged_trails import aged_trail
from tests.doubles.file_systems import mounted

PCI = CompliancePolicy(ComplianceLevel.PCI_DSS)
LOGIN = AuditEventType.AUTHENTICATION_SUCCEEDED
MODES = ["started", "not started", "sync"]

Log = Callable[[AuditTrail], Awaitable[object]]


class Clock:
    """The two clocks of a machine, one of which can be set."""

    def __init__(self) -> None:
        self.wall = 1_767_225_600.0  # 2026-01-01
        self.elapsed = 5_000.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("fapilog.core._watch._wall", lambda: clock.wall)
    monkeypatch.setattr("fapilog.core._watch._elapsed", lambda: clock.elapsed)
    return clock


@pytest.fixture
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at every event."""
    monkeypatch.setattr("fapilog.core._watch._EVERY", 0.0)


class Concerned(MemoryStorage):
    """A storage in memory that says what is wrong with it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.error: BaseException | None = None
        self.looks = 0
        self.gate: Callable[[], Awaitable[object]] | None = None

    async def concerns(self) -> dict[str, str]:
        self.looks += 1
        found = self.found
        if self.gate is not None:
            await self.gate()
        if self.error is not None:
            raise self.error
        return found


async def log(trail: AuditTrail, message: str = "m") -> None:
    """Log an event that does not alert, and wait for what it sets going."""
    await trail.log_event(LOGIN, message)
    await trail.drain()


def kinds(dispatcher: RecordingDispatcher) -> list[tuple[str, str | None]]:
    return [(alert.event.event_type.value, alert.event.operation) for alert in dispatcher.alerts]


async def of_type(trail: AuditTrail, kind: AuditEventType) -> list[AuditEvent]:
    """Return the stored events of this type, the oldest first."""
    operation = {AuditEventType.AUDIT_LOG_LIFECYCLE: "begin", AuditEventType.TIME_STEP: "set clock"}[kind]
    return (await trail.get_events(event_type=kind, operation=operation))[::-1]


# -- a trail begins


async def begun(trail: AuditTrail, mode: str) -> None:
    """Log two events as *mode* says."""
    if mode == "started":
        async with trail:
            await log(trail)
            await log(trail)
    elif mode == "sync":
        for _ in range(2):
            await anyio.to_thread.run_sync(lambda: trail.sync.log_event(LOGIN, "m"))
        await anyio.to_thread.run_sync(trail.sync.start)
        await anyio.to_thread.run_sync(trail.sync.stop)
    else:
        await log(trail)
        await log(trail)


@pytest.mark.real_time
@pytest.mark.parametrize("mode", MODES)
async def test_that_a_trail_begins_is_recorded_and_alerts(tmp_path: Path, mode: str) -> None:
    """Under PCI DSS the beginning of a trail is one event with its place, which alerts; going on with it is none."""
    for _ in range(2):
        recorder = RecordingDispatcher()
        trail = AuditTrail(PCI, tmp_path, recorder)
        await begun(trail, mode)
    trail = AuditTrail(PCI, tmp_path, recorder)
    [event] = await of_type(trail, AuditEventType.AUDIT_LOG_LIFECYCLE)
    assert event.message == f"a trail begins at record 1 in <FileStorage {str(tmp_path)!r}>"
    assert event.log_level is AuditLogLevel.SECURITY
    [first] = await trail.get_events(before=2)
    assert event.metadata == {"first_event": first.event_id}
    assert recorder.alerts == []


@pytest.mark.real_time
@pytest.mark.parametrize("mode", MODES)
async def test_the_alert_about_a_beginning(mode: str) -> None:
    """The beginning alerts once, whether the trail is started or not, with the severity security."""
    recorder = RecordingDispatcher()
    trail = AuditTrail(PCI, storage=MemoryStorage(), alert_dispatcher=recorder)
    await begun(trail, mode)
    [alert] = recorder.alerts
    assert (alert.event.event_type, alert.severity) == (AuditEventType.AUDIT_LOG_LIFECYCLE, "security")
    assert alert.event.sequence_number


async def test_a_beginning_is_no_nuisance(caplog: pytest.LogCaptureFixture) -> None:
    """Under another level a trail that begins has no other record or alert for it, and a line in the log at info."""
    recorder = RecordingDispatcher()
    caplog.set_level("INFO", logger="fapilog")
    for level in ComplianceLevel:
        if level is not ComplianceLevel.PCI_DSS:
            async with AuditTrail(CompliancePolicy(level), storage=MemoryStorage(), alert_dispatcher=recorder) as trail:
                await log(trail)
                assert len(await trail.get_events()) == 1
    assert recorder.alerts == []
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert all("a trail begins at record 1 in " in line for line in caplog.messages)
    assert len(caplog.messages) == len(ComplianceLevel) - 1


async def test_a_policy_may_ask_for_beginnings() -> None:
    """A policy under which the type alerts, at whatever log level, has the beginning recorded and announced."""

    class Asking(CompliancePolicy):
        def alerts_on(self, event: AuditEvent) -> bool:
            return event.event_type is AuditEventType.AUDIT_LOG_LIFECYCLE

    recorder = RecordingDispatcher()
    async with AuditTrail(Asking(), storage=MemoryStorage(), alert_dispatcher=recorder) as trail:
        await log(trail)
        assert len(await trail.get_events()) == 2
    assert [alert.event.event_type for alert in recorder.alerts] == [AuditEventType.AUDIT_LOG_LIFECYCLE]


async def test_no_alert_about_a_beginning_without_alerts() -> None:
    """With `real_time_alerts` off the beginning is recorded, and does not alert."""
    recorder = RecordingDispatcher()
    policy = CompliancePolicy(ComplianceLevel.PCI_DSS, real_time_alerts=False)
    async with AuditTrail(policy, storage=MemoryStorage(), alert_dispatcher=recorder) as trail:
        await log(trail)
        assert len(await of_type(trail, AuditEventType.AUDIT_LOG_LIFECYCLE)) == 1
        assert (await trail.get_statistics())["alerts"] == {"dispatched": 0, "failed": 0, "waiting": 0}
    assert recorder.alerts == []


async def test_somebody_elses_storage_is_not_printed(caplog: pytest.LogCaptureFixture) -> None:
    """The repr of a storage of your own, which may have a password, is neither logged nor recorded."""

    class Database(MemoryStorage):
        def __repr__(self) -> str:
            return "postgres://audit:hunter2@db"

    caplog.set_level("INFO", logger="fapilog")
    async with AuditTrail(PCI, storage=Database()) as trail:
        await log(trail)
        [event] = await of_type(trail, AuditEventType.AUDIT_LOG_LIFECYCLE)
    assert event.message.endswith("Database")
    assert "hunter2" not in caplog.text


# -- the trail that was asked for


async def test_a_trail_that_must_exist(tmp_path: Path) -> None:
    """Where no trail is, `start` and `log_event` raise, nothing is made there, and the failure alerts."""
    directory = tmp_path / "volume" / "audit"
    recorder = RecordingDispatcher()
    trail = AuditTrail(storage_path=directory, alert_dispatcher=recorder, must_exist=True)
    with pytest.raises(AuditStorageError, match=r"expected a trail, .* found no record; is its volume mounted"):
        await trail.start()
    assert not trail.is_started
    for _ in range(2):
        with pytest.raises(AuditStorageError, match="must_exist"):
            await trail.log_event(LOGIN, "m")
    assert not await anyio.Path(directory.parent).exists()
    assert kinds(recorder) == [("component_failure", "storing events")]
    await log(AuditTrail(storage_path=directory))
    await log(trail)
    assert kinds(recorder)[1:] == [("component_recovery", "storing events")]


async def test_a_trail_that_must_exist_without_a_loop(tmp_path: Path) -> None:
    """Synchronous code is refused in the same way."""
    trail = AuditTrail(storage_path=tmp_path, must_exist=True)
    with pytest.raises(AuditStorageError, match="must_exist"):
        await anyio.to_thread.run_sync(lambda: trail.sync.log_event(LOGIN, "m"))
    assert [path async for path in anyio.Path(tmp_path).iterdir()] == []


async def test_a_trail_is_asked_for_again_after_a_stop(tmp_path: Path) -> None:
    """A volume that is gone between a stop and the next start, or the next event, is found to be gone."""
    directory = tmp_path / "audit"
    await log(AuditTrail(storage_path=directory))
    trail = AuditTrail(storage_path=directory, must_exist=True)
    async with trail:
        await log(trail)
    await anyio.to_thread.run_sync(directory.rename, tmp_path / "gone")
    with pytest.raises(AuditStorageError, match="must_exist"):
        await trail.log_event(LOGIN, "m")
    with pytest.raises(AuditStorageError, match="must_exist"):
        await trail.start()
    assert not await anyio.Path(directory).exists()


@pytest.mark.slow_on_trio
async def test_a_restored_backup_is_refused(tmp_path: Path) -> None:
    """A trail that lacks the expected head, or has another record in its place, takes no event."""
    whole, backup = tmp_path / "whole", tmp_path / "backup"
    trail = AuditTrail(storage_path=whole)
    await log(trail, "1")
    await anyio.to_thread.run_sync(shutil.copytree, whole, backup)
    await log(trail, "2")
    head = await trail.head()
    await log(trail, "3")
    for path, expected in [(backup, head), (whole, head._replace(checksum="f" * 64)), (tmp_path / "none", head)]:
        other = AuditTrail(storage_path=path, expected_head=expected)
        with pytest.raises(AuditStorageError, match="expected the trail with record 2, as expected_head has it"):
            await other.start()
        with pytest.raises(AuditStorageError, match="restored from an older backup"):
            await other.log_event(LOGIN, "m")
    assert len(await AuditTrail(storage_path=backup).get_events()) == 1
    async with AuditTrail(storage_path=whole, expected_head=head, must_exist=True) as trail:
        await log(trail, "4")
    assert (await trail.head()).sequence_number == 4


def test_a_head_whose_record_was_removed_is_refused_in_words(tmp_path: Path) -> None:
    """A head from before a removal can't be checked, which the error says; the head of a record that stayed can."""
    trail = AuditTrail(CompliancePolicy(retention_days=7), aged_trail(tmp_path, [20, 10]))
    removed = ChainHead(3, trail.sync.get_events(before=4)[0].checksum)
    trail.sync.log_event(LOGIN, "today")
    head = trail.sync.head()
    trail.sync.apply_retention()
    with pytest.raises(AuditStorageError, match="or has retention removed that record"):
        AuditTrail(storage_path=tmp_path, expected_head=removed).sync.log_event(LOGIN, "m")
    AuditTrail(storage_path=tmp_path, expected_head=head).sync.log_event(LOGIN, "m")


async def test_a_head_of_an_empty_trail_expects_nothing(tmp_path: Path) -> None:
    """Every trail holds the head of an empty one."""
    head = await AuditTrail(storage_path=tmp_path).head()
    await log(AuditTrail(storage_path=tmp_path, expected_head=head))


@pytest.mark.parametrize("options", [{"expected_head": (3, "f" * 64)}, {"must_exist": "yes"}])
def test_what_is_asked_for_is_checked(tmp_path: Path, options: dict[str, Any]) -> None:
    """A head that is none, and a switch that is neither True nor False, are refused at once."""
    with pytest.raises(TypeError, match=f"^{next(iter(options))}: expected"):
        AuditTrail(storage_path=tmp_path, **options)


async def test_a_disabled_trail_need_not_exist(tmp_path: Path) -> None:
    """A policy that is disabled stores nothing, and asks for nothing."""
    trail = AuditTrail(CompliancePolicy(enabled=False), tmp_path, must_exist=True, expected_head=ChainHead(1, "f" * 64))
    async with trail:
        assert await trail.log_event(LOGIN, "m") == ""


# -- the clock


@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize("step", [5.0, -5.0, 86_400 * 365 * 73.0, -3_600.0])
async def test_a_step_of_the_clock_is_recorded(clock: Clock, step: float) -> None:
    """That the clock was set is one event with both times and the size, forwards and backwards, and it alerts."""
    recorder = RecordingDispatcher()
    async with AuditTrail(storage=MemoryStorage(), alert_dispatcher=recorder) as trail:
        await log(trail)
        clock.passes(3_600)
        await log(trail)
        assert recorder.alerts == []
        clock.wall += step
        await log(trail)
        await log(trail)
        [event] = await of_type(trail, AuditEventType.TIME_STEP)
    way = "forward" if step > 0 else "back"
    assert event.message.startswith(f"the clock was set {way} by {abs(step):.1f} s, from 2026-01-01T01:00:00.000+00:00")
    assert event.metadata["from"] == "2026-01-01T01:00:00.000+00:00"
    assert event.metadata["seconds"] == step
    assert event.metadata["to"] in event.message
    assert [(alert.event.event_id, alert.severity) for alert in recorder.alerts] == [(event.event_id, "security")]


@pytest.mark.usefixtures("_always")
async def test_small_steps_add_up(clock: Clock) -> None:
    """A leap second is no step, and neither is what NTP does; many of them in one direction are."""
    async with AuditTrail(storage=MemoryStorage()) as trail:
        for _ in range(2):
            clock.wall += 1
            await log(trail)
        assert await of_type(trail, AuditEventType.TIME_STEP) == []
        clock.wall += 1
        await log(trail)
        assert [event.metadata["seconds"] for event in await of_type(trail, AuditEventType.TIME_STEP)] == [3]


@pytest.mark.usefixtures("_always")
async def test_a_step_that_can_not_be_stored_is_not_forgotten(clock: Clock) -> None:
    """Where the storage refuses the event about a step, the next look records it."""

    class Full(MemoryStorage):
        is_full = False

        async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
            if self.is_full and event.event_type is AuditEventType.TIME_STEP:
                raise AuditStorageError("full")
            return await super().append(event, once=once)

    storage = Full()
    async with AuditTrail(storage=storage) as trail:
        clock.wall += 60
        storage.is_full = True
        await log(trail)
        storage.is_full = False
        await log(trail)
        assert [event.metadata["seconds"] for event in await of_type(trail, AuditEventType.TIME_STEP)] == [60]


def test_the_clocks_of_this_machine_agree() -> None:
    """The real clocks are read, and a trail that nobody sets the clock of has no step."""
    trail = AuditTrail(storage=MemoryStorage())
    for _ in range(3):
        trail.sync.log_event(LOGIN, "m")
    assert len(trail.sync.get_events()) == 3


# -- what the storage says


@pytest.mark.usefixtures("_always")
@pytest.mark.parametrize("name", ["capacity", "files", "clock"])
@pytest.mark.parametrize("started", [True, False])
async def test_a_concern_is_one_incident(name: str, *, started: bool) -> None:
    """What a storage says is wrong is an incident, opened once with the storage's words, and resolved once."""
    parts = {"capacity": "room for events", "files": "the files of the trail", "clock": "the clock"}
    storage, recorder = Concerned(), RecordingDispatcher()
    trail = AuditTrail(storage=storage, alert_dispatcher=recorder)
    if started:
        await trail.start()
    await log(trail)
    for found in ({name: "3 % are free"}, {name: "2 % are free"}, {}, {}):
        storage.found = found
        await log(trail)
        await log(trail)
    await trail.stop()
    assert kinds(recorder) == [("component_failure", parts[name]), ("component_recovery", parts[name])]
    failure, recovery = [alert.event for alert in recorder.alerts]
    assert "3 % are free" in failure.message
    assert failure.metadata["incident"] == recovery.metadata["incident"]
    assert recovery.sequence_number


async def test_a_start_looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is told at the start, before any event, and the looks at events are seconds apart."""
    # A busy machine may take more seconds for this test than are between two looks.
    monkeypatch.setattr("fapilog.core._watch._EVERY", 3600.0)
    storage, recorder = Concerned(), RecordingDispatcher()
    storage.found = {"capacity": "3 % are free"}
    async with AuditTrail(storage=storage, alert_dispatcher=recorder) as trail:
        await trail.drain()
        assert kinds(recorder) == [("component_failure", "room for events")]
        for _ in range(100):
            await log(trail)
    assert storage.looks == 1


def test_a_script_looks_at_its_first_event() -> None:
    """A trail that is not started, in code without a loop, looks once in ten seconds, at an event."""
    storage = Concerned()
    storage.runs_anywhere = True
    trail = AuditTrail(storage=storage)
    for _ in range(100):
        trail.sync.log_event(LOGIN, "m")
    assert storage.looks == 1
    assert not trail.is_started


@pytest.mark.usefixtures("_always")
async def test_a_look_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A storage that raises when it is asked is logged once, opens and resolves nothing, and loses no event."""
    storage, recorder = Concerned(), RecordingDispatcher()
    async with AuditTrail(storage=storage, alert_dispatcher=recorder) as trail:
        storage.found = {"files": "gone"}
        await log(trail)
        for storage.error in (OSError("no"), GeneratorExit(), cast("BaseException", None)):
            await log(trail)
            await log(trail)
            assert kinds(recorder) == [("component_failure", "the files of the trail")]
        assert len(await trail.get_events()) == 7
    assert [line for line in caplog.messages if "cannot check" in line] == [
        "cannot check the clock and the storage: OSError"
    ]


@pytest.mark.usefixtures("_always")
async def test_a_look_that_hangs_holds_nobody_up() -> None:
    """A storage that never answers keeps a started trail from nothing, and is asked again."""
    storage = Concerned()
    storage.gate = anyio.sleep_forever
    async with AuditTrail(storage=storage, stop_timeout=1) as trail:
        for _ in range(5):
            await trail.log_event(LOGIN, "m")
        storage.gate = None
        await trail.drain()
        assert len(await trail.get_events()) == 5
    assert storage.looks > 1


@pytest.mark.usefixtures("_always")
async def test_a_look_that_took_longer_than_the_next_says_nothing() -> None:
    """Of two looks the later one counts, whichever ends first: an incident that goes on is not resolved."""
    storage, recorder, slow = Concerned(), RecordingDispatcher(), anyio.Event()
    async with AuditTrail(storage=storage, alert_dispatcher=recorder) as trail:
        await trail.drain()
        storage.gate = slow.wait
        before = storage.looks
        await trail.log_event(LOGIN, "m")
        while storage.looks == before:
            await anyio.lowlevel.checkpoint()
        storage.gate, storage.found = None, {"files": "gone"}
        await trail.log_event(LOGIN, "m")
        await recorder.wait_for(1)
        slow.set()
        await trail.drain()
    assert kinds(recorder) == [("component_failure", "the files of the trail")]


@pytest.mark.usefixtures("_always")
async def test_a_caller_is_cancelled_while_it_looks() -> None:
    """Cancellation passes a look of a trail that is not started; the event is stored."""
    storage = Concerned()
    storage.gate = anyio.sleep_forever
    trail = AuditTrail(storage=storage)
    with anyio.move_on_after(1) as scope:
        await trail.log_event(LOGIN, "m")
    assert scope.cancelled_caught
    assert len(await trail.get_events()) == 1


@pytest.mark.real_time
@pytest.mark.usefixtures("_always")
async def test_a_volume_that_fills_up(tmp_path: Path) -> None:
    """A small volume that is nearly full is an incident before an event is lost, and room ends it."""
    ballast = tmp_path / "ballast"
    recorder = RecordingDispatcher()
    with mounted(tmp_path, "10m"):
        trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=recorder)
        async with trail:
            await log(trail)
            ballast.write_bytes(bytes(9_600_000))
            await log(trail)
            ballast.unlink()
            await log(trail)
    [failure, recovery] = [alert.event for alert in recorder.alerts]
    assert failure.message.startswith(f"there is little room left for the audit trail: {tmp_path}: ")
    assert (recovery.event_type.value, recovery.operation) == ("component_recovery", "room for events")


@pytest.mark.real_time
async def test_a_packed_file_is_one_incident_over_a_restart(tmp_path: Path) -> None:
    """What logrotate renamed and packed is told at the next start; the start after it is put back ends the incident."""
    await log(AuditTrail(storage_path=tmp_path))
    [path] = [Path(each) async for each in anyio.Path(tmp_path).glob("audit_*.jsonl")]
    packed = path.with_name(f"{path.name}.1.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    recorder = RecordingDispatcher()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=recorder) as trail:
        await trail.drain()
    assert kinds(recorder) == [("component_failure", "the files of the trail")]
    assert packed.name in recorder.alerts[0].event.message
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=recorder) as trail:
        await trail.drain()
    assert kinds(recorder)[1:] == [("component_recovery", "the files of the trail")]


@pytest.mark.usefixtures("_always")
def test_many_threads_look_one_at_a_time() -> None:
    """Of threads that log at the same time, whoever finds a look under way goes on; none waits or fails."""
    storage = Concerned()
    storage.runs_anywhere = True
    trail = AuditTrail(storage=storage)
    threads = [threading.Thread(target=lambda: [trail.sync.log_event(LOGIN, "m") for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trail.sync.get_events(limit=1_000)) == 160


def test_files_are_looked_at_by_default(tmp_path: Path) -> None:
    """A `FileStorage` says its concerns, under the names that a trail knows."""
    storage = FileStorage(tmp_path, min_free=1e18)
    recorder = RecordingDispatcher()
    trail = AuditTrail(storage=storage, alert_dispatcher=recorder)
    trail.sync.log_event(LOGIN, "m")
    trail.sync.stop()
    assert kinds(recorder) == [("component_failure", "room for events")]
