"""Resuming: a dispatcher that keeps alerts gets from the trail whatever it lacks."""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fapilog import (
    Alert,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    CompliancePolicy,
    DamagedRecord,
    DeliveryReport,
    MemoryStorage,
    TransientDeliveryError,
    alert_dispatched,
    alert_failed,
    compliance_alert,
)
from fapilog.core import _catchup
from fapilog.core._incidents import is_own
from fapilog.record.events import Identity, identity_of
from fapilog.storage.files import FileStorage
from fapilog.storage.protocol import EventFilter


class Keeper:
    """A dispatcher that keeps alerts, in memory and across restarts."""

    def __init__(self) -> None:
        self.kept: dict[Identity, Alert] = {}
        self.mark: ChainHead | None = None
        self.resumes = True
        self.calls = 0
        self.error: Exception | None = None
        self.gate: anyio.Event | None = None
        self.asked = 0

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        if not is_own(event):
            self.calls += 1
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
        self.kept.setdefault(identity_of(event), Alert(event, severity, channel))

    async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
        self.asked += 1
        if self.mark is None or anew:
            self.mark = head
        return self.mark

    async def lacking(self, alerts: Sequence[Alert]) -> list[Alert]:
        assert self.mark is not None
        return [
            alert
            for alert in alerts
            if identity_of(alert.event) not in self.kept
            and (alert.event.sequence_number or 0) > self.mark.sequence_number
        ]

    async def resumed_to(self, mark: ChainHead) -> None:
        if self.mark is None or mark.sequence_number > self.mark.sequence_number:
            self.mark = mark

    @property
    def messages(self) -> list[str]:
        return [alert.event.message for alert in self.kept.values() if not is_own(alert.event)]

    @property
    def own(self) -> list[tuple[str, str | None]]:
        """What the trail said of itself."""
        return [
            (alert.event.event_type.value, alert.event.operation) for alert in self.kept.values() if is_own(alert.event)
        ]


class Seen:
    """What the signals of a trail have said."""

    def __init__(self, trail: AuditTrail) -> None:
        self.announced: list[str] = []
        self.reports: list[DeliveryReport] = []
        compliance_alert.connect(self._announced, sender=trail)
        alert_dispatched.connect(self._finished, sender=trail)
        alert_failed.connect(self._finished, sender=trail)

    def _announced(self, _: object, *, event: AuditEvent, **__: object) -> None:
        self.announced.append(event.message)

    def _finished(self, _: object, *, report: DeliveryReport) -> None:
        self.reports.append(report)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        return [(report.event.message, report.outcome) for report in self.reports]


async def alarm(trail: AuditTrail, message: str) -> None:
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, message)


async def log(trail: AuditTrail, *messages: str) -> None:
    """Log an event that alerts, with one that does not after it, for each message."""
    for message in messages:
        await alarm(trail, message)
        await trail.log_event(AuditEventType.DATA_ACCESS, f"beside {message}")


async def killed(path: Path, *messages: str, **options: Any) -> None:
    """Log as a process does that is killed before any alert comes to its dispatcher."""
    await log(AuditTrail(storage_path=path, **options), *messages)


async def test_a_new_dispatcher_replays_nothing(tmp_path: Path) -> None:
    """A dispatcher that is new to a trail gets what happens from then on."""
    await killed(tmp_path, "old")
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        assert keeper.mark == await trail.head()
        await log(trail, "new")
        await trail.drain()
    assert keeper.messages == ["new"]


async def test_alerts_that_arrive_do_not_wake_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no alert is missed, none makes the catch-up look for work."""
    looks: list[_catchup.CatchUp] = []
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=Keeper()) as trail:
        await anyio.wait_all_tasks_blocked()
        with monkeypatch.context() as patched:
            patched.setattr(_catchup.CatchUp, "_want", looks.append)
            await log(trail, "1", "2", "3")
            await trail._alerts.background.settle()
        assert trail._alerts.counts["dispatched"] == 3
    assert not looks


async def test_a_call_that_is_interrupted_while_a_new_dispatcher_gets_its_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alert of an event is sent whose call is interrupted before the event becomes the mark of a new dispatcher."""

    class Storage(MemoryStorage):
        async def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent | DamagedRecord]:
            if wanted == EventFilter():
                await anyio.to_thread.run_sync(interrupted)
            return await super().find(wanted, limit)

    interrupted_threads: set[int] = set()

    def interrupted() -> None:
        interrupted_threads.add(threading.get_ident())
        with contextlib.suppress(KeyboardInterrupt):
            trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "interrupted")
        interrupted_threads.remove(threading.get_ident())

    def announce(event: AuditEvent) -> None:
        """Meanwhile the loop announces what it catches up with: it is not interrupted."""
        if threading.get_ident() in interrupted_threads:
            raise KeyboardInterrupt
        announced(event)

    keeper = Keeper()
    trail = AuditTrail(storage=Storage(), alert_dispatcher=keeper)
    announced = trail._announce
    monkeypatch.setattr(trail, "_announce", announce)
    await trail.start()
    await trail.drain()
    assert keeper.mark is not None
    assert keeper.mark.sequence_number
    assert len(keeper.messages) == keeper.mark.sequence_number
    await trail.stop()


async def test_what_a_crash_took_is_handed_over(tmp_path: Path) -> None:
    """What was stored, and did not come to the dispatcher, is handed over after the next start, and the mark moves."""
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await log(trail, "one")
    await killed(tmp_path, "two", "three")
    policy = CompliancePolicy(alert_channel="#on-call")
    async with AuditTrail(policy, tmp_path, keeper) as trail:
        seen = Seen(trail)
        await trail.drain()
        assert keeper.messages == ["one", "two", "three"]
        assert keeper.mark == await trail.head()
        assert seen.announced == ["two", "three"]
        assert seen.outcomes == [("two", "dispatched"), ("three", "dispatched")]
    assert list(keeper.kept.values())[-1].channel == "#on-call"
    assert keeper.calls == 3


async def test_an_id_that_is_there_again(tmp_path: Path) -> None:
    """Of two events with one id, which a trail in files may have after a while, both alerts are handed over."""
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    for message in ("one", "two"):
        await FileStorage(tmp_path).append(
            AuditEvent(
                event_id="again",
                event_type=AuditEventType.SECURITY_VIOLATION,
                log_level=AuditLogLevel.SECURITY,
                message=message,
            )
        )
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
        assert keeper.mark == await trail.head()
    assert keeper.messages == ["one", "two"]


async def test_a_trail_that_was_empty(tmp_path: Path) -> None:
    """What is stored after a start with an empty trail is handed over after a crash."""
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    assert keeper.mark == ChainHead(0, None)
    await killed(tmp_path, "first")
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
    assert keeper.messages == ["first"]


@pytest.mark.slow_on_trio
@pytest.mark.parametrize("count", [1, 24, 25, 26, 51])
async def test_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """However many events there are, each alert is handed over once, the oldest first, through any small buffer."""
    monkeypatch.setattr("fapilog.core._catchup._PAGE", 25)
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    await killed(tmp_path, *map(str, range(count)), durability="write")
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper, alert_buffer=3, durability="write") as trail:
        seen = Seen(trail)
        await trail.drain()
        assert [int(message) for message in keeper.messages] == list(range(count))
        assert seen.outcomes == [(str(number), "dispatched") for number in range(count)]
    assert keeper.calls == count


@pytest.mark.parametrize("place", [0, 1, 3])
async def test_an_altered_record_keeps_no_alert_from_being_resent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Whatever number a record was given by somebody who wants the later ones to be passed over."""
    monkeypatch.setattr(_catchup, "_PAGE", 2)
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    trail = AuditTrail(storage_path=tmp_path)
    for number in range(4):
        await trail.log_event(AuditEventType.DATA_ACCESS, f"m{number}", log_level="critical")
    [file] = list(tmp_path.glob("*.jsonl"))  # noqa: ASYNC240
    old = b'"sequence_number":%d,' % (place + 1)
    file.write_bytes(file.read_bytes().replace(old, b'"sequence_number":1000000000,'))
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
    assert {"m0", "m1", "m2", "m3"} <= set(keeper.messages)


@pytest.mark.parametrize(("number", "place"), [(6, 1), (6, 2), (1, 3), (2, 4)])
async def test_a_moved_record_keeps_no_alert_from_being_resent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, place: int
) -> None:
    """Wherever a record was put by somebody, the alerts of all others are resent."""
    monkeypatch.setattr(_catchup, "_PAGE", 2)
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    trail = AuditTrail(storage_path=tmp_path)
    for message in range(1, 8):
        await trail.log_event(AuditEventType.DATA_ACCESS, f"m{message}", log_level="critical")
    [file] = list(tmp_path.glob("*.jsonl"))  # noqa: ASYNC240
    lines = file.read_bytes().splitlines(keepends=True)
    lines.insert(place, lines.pop(number - 1))
    file.write_bytes(b"".join(lines))
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
    assert {f"m{message}" for message in range(1, 8) if message != number} <= set(keeper.messages)


@pytest.mark.slow_on_trio
async def test_a_full_buffer_loses_nothing(tmp_path: Path) -> None:
    """Alerts that find the buffer full are handed over from the trail, and each has one announcement and one report."""
    keeper = Keeper()
    keeper.gate = anyio.Event()
    async with AuditTrail(
        storage_path=tmp_path, alert_dispatcher=keeper, alert_buffer=5, alert_concurrency=2, durability="write"
    ) as trail:
        seen = Seen(trail)
        await log(trail, *map(str, range(60)))
        assert not keeper.kept
        keeper.gate.set()
        await trail.drain()
        assert sorted(keeper.messages, key=int) == list(map(str, range(60)))
        assert sorted(seen.announced, key=int) == list(map(str, range(60)))
        assert sorted(message for message, _ in seen.outcomes) == sorted(map(str, range(60)))
        assert {outcome for _, outcome in seen.outcomes} == {"dispatched"}
        assert (await trail.get_statistics())["alerts"] == {"dispatched": 60, "failed": 0, "waiting": 0}


@pytest.mark.slow_on_trio
async def test_callers_at_once_and_a_full_buffer(tmp_path: Path) -> None:
    """With many callers at once and a buffer for one alert, each alert has one announcement and one report."""
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper, alert_buffer=1, alert_concurrency=1) as trail:
        seen = Seen(trail)
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(alarm, trail, str(number))
        await trail.drain()
        for found in (keeper.messages, seen.announced, [message for message, _ in seen.outcomes]):
            assert sorted(found, key=int) == list(map(str, range(200)))


@pytest.mark.slow_on_trio
async def test_what_failed_is_handed_over_later(tmp_path: Path) -> None:
    """An alert that the dispatcher could not take is handed over again, less and less often, until it takes it."""
    keeper = Keeper()
    keeper.error = TransientDeliveryError("busy")
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await log(trail, "one")
        await trail.drain()
        await anyio.sleep(3600)
        assert 10 <= keeper.calls <= 20
        keeper.error = None
        await anyio.sleep(300)
        assert keeper.messages == ["one"]
        calls = keeper.calls
        await anyio.sleep(3600)
        assert keeper.calls == calls


@pytest.mark.slow_on_trio
async def test_a_stop_leaves_the_rest_for_the_next_start(tmp_path: Path) -> None:
    """What does not get to the dispatcher before the trail is stopped is handed over after the next start."""
    keeper = Keeper()
    keeper.gate = anyio.Event()
    async with AuditTrail(
        storage_path=tmp_path, alert_dispatcher=keeper, alert_buffer=5, alert_concurrency=2, stop_timeout=5
    ) as trail:
        await log(trail, *map(str, range(20)))
        began = anyio.current_time()
    assert anyio.current_time() - began <= 10
    assert not keeper.kept
    keeper.gate = None
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
    assert sorted(keeper.messages, key=int) == list(map(str, range(20)))


@pytest.mark.slow_on_trio
async def test_the_mark_moves_on_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After many events, ten thousand outside of this test, the mark moves on, also where none of them alerts."""
    monkeypatch.setattr("fapilog.core._catchup._MARK_EVERY", 1_000)
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper, durability="write") as trail:
        for _ in range(1_000):
            await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        await trail.drain()
        assert keeper.mark is not None
        assert keeper.mark.sequence_number == 1_000
    assert not keeper.calls


async def test_a_dispatcher_gets_no_more_than_the_policy_says(tmp_path: Path) -> None:
    """What is handed over from the trail is the minimum necessary where the policy wants that."""
    policy = CompliancePolicy(hipaa_minimum_necessary=True)
    keeper = Keeper()
    async with AuditTrail(policy, tmp_path, keeper):
        pass
    await killed(tmp_path, "patient 42")
    async with AuditTrail(policy, tmp_path, keeper) as trail:
        await trail.drain()
    assert keeper.messages == [""]


class Choosy(AuditTrail):
    """Announces some of its alerts only, as code for the earlier fapilog may."""

    async def _send_compliance_alert(self, event: AuditEvent) -> None:
        await anyio.sleep(1)
        if event.message != "not this":
            await super()._send_compliance_alert(event)


async def test_a_subclass_decides(tmp_path: Path) -> None:
    """What a subclass does not announce is not handed over either, and does not stand in the way."""
    keeper = Keeper()
    async with Choosy(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    await killed(tmp_path, "this", "not this", "this too")
    async with Choosy(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
        assert keeper.messages == ["this", "this too"]
        assert keeper.mark == await trail.head()


async def test_a_subclass_that_fails(tmp_path: Path) -> None:
    """An announcement of a subclass that raises is logged, and the dispatcher gets the alert all the same."""

    class Fails(AuditTrail):
        async def _send_compliance_alert(self, event: AuditEvent) -> None:
            if event.message == "bad":
                raise ValueError("t0k3n")
            await super()._send_compliance_alert(event)

    keeper = Keeper()
    async with Fails(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    await killed(tmp_path, "bad", "good")
    async with Fails(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
    assert sorted(keeper.messages) == ["bad", "good"]


async def test_while_the_signal_is_muted_the_mark_stays(tmp_path: Path) -> None:
    """What a start under a muted signal could not announce is announced when the signal is heard again."""
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    await killed(tmp_path, "one")
    with compliance_alert.muted():
        async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
            await trail.drain()
    assert keeper.messages == []
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
    assert keeper.messages == ["one"]


async def test_one_that_does_not_resume_is_like_any_other(tmp_path: Path) -> None:
    """A dispatcher that says it keeps nothing is not asked for a mark."""
    keeper = Keeper()
    keeper.resumes = False
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await log(trail, "one")
        await trail.drain()
    assert (keeper.asked, keeper.messages) == (0, ["one"])


async def test_a_mark_that_cannot_be_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A dispatcher that can't tell its mark does not stop the trail from starting, and is asked again later."""

    class Fails(Keeper):
        async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
            if not self.asked:
                self.asked += 1
                raise RuntimeError("t0k3n")
            return await super().resume_from(head, anew=anew)

    keeper = Fails()
    keeper.mark = ChainHead(0, None)
    await killed(tmp_path, "one")
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await log(trail, "two")
        await trail.drain()
        await anyio.sleep(100)
        assert sorted(keeper.messages) == ["one", "two"]
        assert {what for _, what in keeper.own} == {"resending alerts from the trail"}
    assert "alerts can't be resent from the trail: RuntimeError" in caplog.text
    assert "t0k3n" not in caplog.text


@pytest.mark.slow_on_trio
async def test_a_first_mark_that_cannot_be_had(tmp_path: Path) -> None:
    """A new dispatcher that can't tell its mark at the start gets every alert since then that it could not take."""

    class Fails(Keeper):
        async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
            if self.error is not None:
                raise self.error
            return await super().resume_from(head, anew=anew)

    keeper = Fails()
    keeper.error = TransientDeliveryError("no file descriptor is left")
    await killed(tmp_path, "before it was there")
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper)
    seen = Seen(trail)
    async with trail:
        await log(trail, "one", "two")
        await trail.drain()
        assert keeper.messages == []
        keeper.error = None
        await anyio.sleep(100)
        assert keeper.messages == ["one", "two"]
        assert seen.announced.count("one") == 1


@pytest.mark.slow_on_trio
async def test_a_trail_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the trail can't be read nothing is handed over and the mark stays; later all is."""
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    await killed(tmp_path, "one")
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper)
    read = trail._storage.read

    async def fail(after: int, limit: int) -> list[AuditEvent]:
        raise AuditStorageError("the disk is gone")

    monkeypatch.setattr(trail._storage, "read", fail)
    async with trail:
        await trail.drain()
        assert keeper.messages == []
        assert keeper.own == [("component_failure", "resending alerts from the trail")]
        monkeypatch.setattr(trail._storage, "read", read)
        await anyio.sleep(100)
        assert keeper.messages == ["one"]
        assert keeper.own[1:] == [("component_recovery", "resending alerts from the trail")]


@pytest.mark.slow_on_trio
async def test_another_trail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the event at the mark is another, or gone, that is logged as critical, and the dispatcher begins anew."""
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path / "one", alert_dispatcher=keeper) as trail:
        await log(trail, "a", "b", "c")
        await trail.drain()
    keeper.mark = ChainHead(5, "0" * 64)
    await killed(tmp_path / "two", "x")
    async with AuditTrail(storage_path=tmp_path / "two", alert_dispatcher=keeper) as trail:
        assert keeper.mark == await trail.head()
        await log(trail, "y")
        await trail.drain()
    await killed(tmp_path / "two", "z")
    async with AuditTrail(storage_path=tmp_path / "two", alert_dispatcher=keeper) as trail:
        await trail.drain()
    assert keeper.messages == ["a", "b", "c", "y", "z"]
    assert keeper.own == [("component_failure", "the end of the trail")]
    [record] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert "record 5 is not the one that the dispatcher knows" in record.getMessage()


async def test_events_that_do_not_alert(tmp_path: Path) -> None:
    """What does not meet the policy is not handed over."""
    keeper = Keeper()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper):
        pass
    trail = AuditTrail(storage_path=tmp_path)
    await trail.log_event(AuditEventType.ERROR_OCCURRED, "error", log_level=AuditLogLevel.ERROR)
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper) as trail:
        await trail.drain()
        assert keeper.mark == await trail.head()
    assert not keeper.calls


async def test_starting_again_and_again(tmp_path: Path) -> None:
    """One trail may be started and stopped many times, and hands over what came between."""
    keeper = Keeper()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=keeper)
    for number in range(3):
        async with trail:
            await trail.drain()
            await alarm(trail, f"while {number}")
        await killed(tmp_path, f"between {number}")
    assert keeper.messages == ["while 0", "between 0", "while 1", "between 1", "while 2"]
