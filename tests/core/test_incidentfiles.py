"""An incident that is open when a process ends is resolved by the next one."""

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import anyio
import anyio.lowlevel
import msgspec
import pytest

from fapilog import (
    Alert,
    AuditChainVerificationResult,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    CompliancePolicy,
    DeliveryError,
    FileStorage,
)
from fapilog.core import _incidentfiles
from fapilog.core._health import TrailReporter
from fapilog.core._incidentfiles import IncidentFiles
from fapilog.core._incidents import (
    DISPATCHING,
    END,
    LONGEST_TEXT,
    MOST_OPEN,
    STORING,
    VERIFICATION,
    Incident,
    Part,
    new_id,
)
from fapilog.record.incidents import subject_of
from fapilog.storage.memory import MemoryStorage
from fapilog.testing import RecordingDispatcher
from tests.doubles.health import Rig
from tests.doubles.outboxes import glob
from tests.doubles.running_background import Running
from tests.doubles.trail_files import TrailFiles

T = TypeVar("T")

FAILURE, RECOVERY = AuditEventType.COMPONENT_FAILURE, AuditEventType.COMPONENT_RECOVERY
FULL = AuditStorageError("cannot append: No space left on device")


class Disk(FileStorage):
    """
    Files that fail to be written or verified when a test says so.

    Attributes:
        failure: Raised by the next appends, if any.
        verdict: Returned by verifications instead of their own, if any.
    """

    failure: Exception | None = None
    verdict: AuditChainVerificationResult | None = None

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        if self.failure is not None:
            raise self.failure
        return await super().append(event, once=once)

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        return self.verdict or await super().verify(progress)


class Run:
    """One run of a service: its trail, and what its dispatcher was told of the trail itself."""

    def __init__(self, directory: Path, policy: CompliancePolicy | None = None, dispatcher: Any = None) -> None:
        self.dispatcher = RecordingDispatcher() if dispatcher is None else dispatcher
        self.disk = Disk(directory)
        self.trail = AuditTrail(policy, alert_dispatcher=self.dispatcher, storage=self.disk)
        # A part that fails soon after it has failed has an incident that lasts for seconds.
        self.trail._alerts.health._clock = anyio.current_time

    @property
    def own(self) -> list[AuditEvent]:
        return [alert.event for alert in self.dispatcher.alerts if alert.event.event_type in (FAILURE, RECOVERY)]

    @property
    def kinds(self) -> list[tuple[str, str | None]]:
        return [(event.event_type.value.removeprefix("component_"), event.operation) for event in self.own]

    async def log(self, *, alerts: bool = False) -> None:
        """Log an event, stored or not, and wait for what comes of it."""
        level = AuditLogLevel.SECURITY if alerts else AuditLogLevel.INFO
        with contextlib.suppress(AuditStorageError):
            await self.trail.log_event(AuditEventType.DATA_ACCESS, "m", log_level=level)
        await self.trail.drain()

    async def fail_to_store(self) -> None:
        self.disk.failure = FULL
        await self.log()
        self.disk.failure = None


@asynccontextmanager
async def run_of(directory: Path, policy: CompliancePolicy | None = None, dispatcher: Any = None) -> AsyncIterator[Run]:
    """Yield a run that is started."""
    run = Run(directory, policy, dispatcher)
    async with run.trail:
        yield run


def kept(directory: Path) -> list[Path]:
    """Return the files of incidents, finished or not."""
    return sorted(directory.glob("incidents-*"))


def killed(directory: Path, target: Path) -> Path:
    """Copy *directory* as it is when its process is killed now: nobody holds a lock on the copy."""
    shutil.copytree(directory, target)
    return target


def an_id(number: int, part: Part = STORING) -> uuid.UUID:
    return new_id(part, uuid.UUID(int=number))


def an_incident(
    part: Part = STORING, number: int = 1, ago: timedelta = timedelta(minutes=5), *, is_delivered: bool = True
) -> Incident:
    alert: Literal["announced", "delivered"] = "delivered" if is_delivered else "announced"
    return Incident(part, an_id(number, part), "full", datetime.now(UTC) - ago, alert)


def leave_behind(directory: Path, *incidents: Incident) -> None:
    """Write a file as a process does, and leave it as one that is gone."""
    directory.mkdir(exist_ok=True)
    files = IncidentFiles(directory)
    assert in_thread(lambda: files.save(lambda: incidents))
    files.close()


def found_in(directory: Path) -> list[Incident]:
    """Take over what is in *directory*, and leave it there."""
    files = IncidentFiles(directory)
    try:
        return in_thread(files.take_over)
    finally:
        files.close()


def in_thread(call: Callable[[], T]) -> T:
    """Make a call that may not be made where a loop runs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


# -- what is failing, from one run to the next


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_a_storage_that_fails_in_one_run_and_works_in_the_next(tmp_path: Path, end: str) -> None:
    """One run tells that storing fails, and the next that it is over, with the start, the cause and the incident."""
    directory = tmp_path / "audit"
    async with run_of(directory) as first:
        await first.log()
        await first.fail_to_store()
        if end == "killed":
            directory = killed(directory, tmp_path / "killed")
    async with run_of(directory) as second:
        await second.log()
        [recovery] = second.own
        stored = await second.trail.get_events()
        assert kept(directory) == []
    [failure] = first.own
    assert (failure.event_type, recovery.event_type) == (FAILURE, RECOVERY)
    told = {**failure.metadata, "ended": recovery.timestamp.isoformat(), "seconds": recovery.metadata["seconds"]}
    assert recovery.metadata == told
    assert failure.metadata["incident"] == failure.event_id
    assert failure.metadata["cause"] == str(FULL)
    assert [event for event in stored if event.event_type is RECOVERY] == [recovery]


async def test_the_seconds_count_from_the_first_run(tmp_path: Path) -> None:
    """The recovery tells the time from the start of the failure, which was before the process was there."""
    leave_behind(tmp_path, an_incident(ago=timedelta(hours=2)))
    async with run_of(tmp_path) as run:
        await run.log()
    [recovery] = run.own
    assert recovery.metadata["seconds"] == pytest.approx(7200, abs=60)


async def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    """A failure that seems to begin in the future has lasted for no time."""
    leave_behind(tmp_path, an_incident(ago=-timedelta(hours=2)))
    async with run_of(tmp_path) as run:
        await run.log()
    assert run.own[0].metadata["seconds"] == pytest.approx(0, abs=60)


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_a_dispatcher_that_fails_in_one_run_and_works_in_the_next(tmp_path: Path, end: str) -> None:
    """The next run tells that alerts are delivered again when one is, and not before."""
    directory = tmp_path / "audit"
    async with run_of(directory) as first:
        first.dispatcher.error = DeliveryError("slack: invalid_auth")
        await first.log(alerts=True)
        if end == "killed":
            directory = killed(directory, tmp_path / "killed")
    async with run_of(directory) as second:
        await second.log()
        assert second.own == []
        await second.log(alerts=True)
    [failure], [recovery] = first.own, second.own
    assert second.kinds == [("recovery", "dispatching alerts")]
    assert recovery.metadata.items() >= failure.metadata.items()
    assert failure.metadata["cause"].startswith("slack: invalid_auth")


async def test_what_nobody_could_be_told_of_is_announced_again(tmp_path: Path) -> None:
    """A failure of which the alert was not delivered is announced in the next run too, if it goes on, as it began."""
    part = Part("alert_delivery", "slack")
    async with run_of(tmp_path) as first:
        await first.log()
        first.dispatcher.error = DeliveryError("down")
        first.trail._alerts.health.failing(part, "busy")
    async with run_of(tmp_path) as second:
        for _ in range(2):
            second.trail._alerts.health.failing(part, "busy")
            await second.trail.drain()
    async with run_of(tmp_path) as third:
        third.trail._alerts.health.failing(part, "busy")
        third.trail._alerts.health.working(part)
        await third.trail.drain()
    assert (first.kinds, second.kinds) == ([("failure", "slack")], [("failure", "slack")])
    assert first.own[0].metadata == second.own[0].metadata
    assert third.kinds == [("recovery", "slack")]
    assert third.own[0].metadata.items() >= first.own[0].metadata.items()


async def test_a_verification_that_fails_in_one_run_and_passes_in_the_next(tmp_path: Path) -> None:
    """A verification that finds the trail valid ends what one in an earlier run has begun."""
    async with run_of(tmp_path) as first:
        await first.log()
        first.disk.verdict = AuditChainVerificationResult(valid=False, events_checked=1, error_message="altered")
        await first.trail.verify_chain_from_storage()
    async with run_of(tmp_path) as second:
        await second.log()
        assert second.own == []
        await second.trail.verify_chain_from_storage()
    assert second.kinds == [("recovery", "verification")]
    assert second.own[0].metadata.items() >= first.own[0].metadata.items()


async def test_no_file_hushes_up_that_nothing_is_stored(tmp_path: Path) -> None:
    """That events can't be stored is told in each run, whatever a file says is known; what it says ends as well."""
    leave_behind(tmp_path, an_incident())
    async with run_of(tmp_path) as run:
        for _ in range(3):
            await run.fail_to_store()
        [failure] = run.own
        await run.log()
    incidents = {event.metadata["incident"] for event in run.own if event.event_type is RECOVERY}
    assert incidents == {str(an_id(1)), failure.event_id}
    assert kept(tmp_path) == []


async def test_no_file_leaves_no_room(tmp_path: Path) -> None:
    """However many incidents a file says are open, those of the trail itself are announced."""
    parts = [Part("alert_delivery", f"part {number}") for number in range(MOST_OPEN)]
    leave_behind(tmp_path, *(an_incident(part, number) for number, part in enumerate(parts)))
    async with run_of(tmp_path) as run:
        await run.fail_to_store()
        run.disk.verdict = AuditChainVerificationResult(valid=False, events_checked=1, error_message="altered")
        await run.trail.verify_chain_from_storage()
        await run.trail.drain()
    assert run.kinds == [("failure", "storing events"), ("failure", "verification")]


async def test_no_file_resolves_the_alert_about_another_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An incident in a file with the id of an event is none: its recovery would resolve the alert about the event."""
    planted = msgspec.structs.replace(an_incident(), id=uuid.uuid4())
    leave_behind(tmp_path, planted)
    async with run_of(tmp_path) as run:
        await run.log()
    assert run.own == []
    assert "it names an incident of another part" in caplog.text


async def test_no_file_hushes_up_a_change(tmp_path: Path) -> None:
    """That a trail is found changed is told in each run, whatever a file says is known; what it says ends as well."""
    leave_behind(tmp_path, an_incident(VERIFICATION))
    async with run_of(tmp_path) as run:
        run.disk.verdict = AuditChainVerificationResult(valid=False, events_checked=1, error_message="altered")
        for _ in range(3):
            await run.trail.verify_chain_from_storage()
        await run.trail.drain()
        [failure] = run.own
        run.disk.verdict = None
        await run.trail.verify_chain_from_storage()
    incidents = {event.metadata["incident"] for event in run.own if event.event_type is RECOVERY}
    assert incidents == {str(an_id(1, VERIFICATION)), failure.event_id}
    assert kept(tmp_path) == []


class Keeper(RecordingDispatcher):
    """Keeps alerts, and its mark; refuses to tell it if it has an `error_at_mark`."""

    def __init__(self) -> None:
        super().__init__()
        self.error_at_mark: Exception | None = None
        self.resumes = True

    async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
        if self.error_at_mark is not None:
            raise self.error_at_mark
        return head

    async def lacking(self, alerts: Sequence[Alert]) -> list[Alert]:
        return []

    async def resumed_to(self, mark: ChainHead) -> None: ...


async def test_a_handing_over_that_fails_in_one_run_and_has_nothing_to_do_in_the_next(tmp_path: Path) -> None:
    """A start that finds that the dispatcher lacks nothing ends what an earlier run has begun."""
    keeper = Keeper()
    keeper.error_at_mark = ValueError()
    async with run_of(tmp_path, dispatcher=keeper) as first:
        await first.log()
    assert first.kinds == [("failure", "resending alerts from the trail")]
    keeper.error_at_mark = None
    async with run_of(tmp_path, dispatcher=keeper) as second:
        await second.trail.drain()
    assert second.kinds == [
        ("failure", "resending alerts from the trail"),
        ("recovery", "resending alerts from the trail"),
    ]
    assert second.own[1].metadata.items() >= second.own[0].metadata.items()


async def test_the_end_of_the_trail_is_not_remembered(tmp_path: Path) -> None:
    """That the end of the trail was changed is told again when it happens again: no start proves anything."""

    class Elsewhere(Keeper):
        async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
            return head if anew else ChainHead(9, "f" * 64)

    leave_behind(tmp_path, an_incident(END))
    for _ in range(2):
        async with run_of(tmp_path, dispatcher=Elsewhere()) as run:
            await run.log()
            assert run.kinds == [("failure", "the end of the trail")]
            assert kept(tmp_path) == []


async def test_the_same_trail_is_started_again(tmp_path: Path) -> None:
    """A trail that is stopped and started again is as another process: it announces anew, and resolves both."""
    run = Run(tmp_path)
    async with run.trail:
        await run.log()
        await run.fail_to_store()
    async with run.trail:
        await run.fail_to_store()
        await run.log()
    assert run.kinds == [("failure", "storing events")] * 2 + [("recovery", "storing events")] * 2


async def test_what_began_before_the_start_is_kept(tmp_path: Path) -> None:
    """What fails in a trail that is not started is kept from the start on."""
    run = Run(tmp_path)
    await run.log()
    await run.fail_to_store()
    assert kept(tmp_path) == []
    async with run.trail:
        await run.trail.drain()
        assert len(kept(tmp_path)) == 1
    assert len(found_in(tmp_path)) == 1


async def test_minimum_necessary(tmp_path: Path) -> None:
    """A dispatcher that gets the minimum alone can tell which failure of an earlier run is over."""
    policy = CompliancePolicy(hipaa_minimum_necessary=True)
    async with run_of(tmp_path, policy) as first:
        await first.log()
        await first.fail_to_store()
    async with run_of(tmp_path, policy) as second:
        await second.log()
    assert subject_of(first.own[0]) == subject_of(second.own[0])
    assert "No space left" not in repr(second.own)


# -- several processes


async def test_a_healthy_trail_makes_no_file(tmp_path: Path) -> None:
    """Nothing is there until something fails, then a file for its owner's eyes, and nothing when all works again."""
    async with run_of(tmp_path) as run:
        await run.log(alerts=True)
        assert kept(tmp_path) == []
        await run.fail_to_store()
        [path] = kept(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
        await run.log()
        assert kept(tmp_path) == []


@pytest.mark.slow_on_trio
async def test_what_another_process_holds_is_its_own(tmp_path: Path) -> None:
    """A trail that starts beside another takes nothing from it, and each tells of its own failure and recovery."""
    async with run_of(tmp_path) as first:
        await first.log()
        await first.fail_to_store()
        async with run_of(tmp_path) as second:
            await second.log()
            assert second.own == []
            await second.fail_to_store()
            assert len(kept(tmp_path)) == 2
        await first.log()
        assert first.kinds == [("failure", "storing events"), ("recovery", "storing events")]
    async with run_of(tmp_path) as third:
        await third.log()
    assert [event.metadata["incident"] for event in third.own] == [second.own[0].event_id]


async def test_each_of_several_processes_had_an_incident(tmp_path: Path) -> None:
    """Where several processes failed to store, each of their incidents ends; what can't be stored goes on."""
    for number in (1, 2, 3):
        leave_behind(tmp_path, an_incident(number=number))
    async with run_of(tmp_path) as run:
        append = run.trail._storage.append
        stored: list[AuditEvent] = []

        async def take_two(event: AuditEvent, *, once: bool = False) -> Any:
            if len(stored) == 2:
                raise FULL
            stored.append(event)
            return await append(event, once=once)

        run.trail._storage.append = take_two  # type: ignore[method-assign]
        await run.log()
        assert len(run.own) == 1
        assert len(kept(tmp_path)) == 1
        assert len(found_in(killed(tmp_path, tmp_path / "killed"))) == 2
        run.trail._storage.append = append  # type: ignore[method-assign]
        await run.log()
    assert len({event.metadata["incident"] for event in run.own}) == 3
    assert kept(tmp_path) == []


def test_each_file_is_taken_over_by_one(tmp_path: Path) -> None:
    """Of four that start at once, exactly one takes over each file."""
    for number in range(40):
        leave_behind(tmp_path, an_incident(number=number))
    all_files = [IncidentFiles(tmp_path) for _ in range(4)]
    found: list[Incident] = []
    together = threading.Barrier(4)

    def take_over(files: IncidentFiles) -> None:
        together.wait()
        taken = files.take_over()
        found.extend(taken)
        assert files.save(lambda: taken)

    threads = [threading.Thread(target=take_over, args=(files,)) for files in all_files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.id.int & 0xFF for each in found) == list(range(40))
    for files in all_files:
        files.close()
    assert sorted(each.id.int & 0xFF for each in found_in(tmp_path)) == list(range(40))


@pytest.mark.parametrize("fate", ["removed", "replaced"])
def test_one_that_was_faster_is_done(tmp_path: Path, fate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that another has removed, or replaced, between looking and locking is not taken over."""
    leave_behind(tmp_path, an_incident())
    [path] = kept(tmp_path)
    flock = fcntl.flock

    def late(fd: int, how: int) -> None:
        path.unlink()
        if fate == "replaced":
            path.write_text("[]")
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert found_in(tmp_path) == []


async def test_a_child_leaves_the_parents_incidents_alone(tmp_path: Path) -> None:
    """Forgotten as in a forked child, the file stays, and what was open in the parent is not the child's to end."""
    async with run_of(tmp_path) as run:
        await run.log()
        await run.fail_to_store()
        run.trail._alerts.health.forget()
        await run.log()
        assert len(kept(tmp_path)) == 1
    assert run.kinds == [("failure", "storing events")]
    assert len(found_in(tmp_path)) == 1


# -- what is not taken over


async def test_thirty_days(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What began more than thirty days ago, or is to begin in thirty, is dropped, and the log says so once."""
    day = timedelta(days=1)
    ages = (31 * day, -31 * day, 29 * day)
    leave_behind(tmp_path, *(an_incident(number=number, ago=age) for number, age in enumerate(ages)))
    for _ in range(2):
        async with run_of(tmp_path) as run:
            await run.trail.drain()
    assert caplog.text.count("will not be resolved, being too old") == 2
    async with run_of(tmp_path) as run:
        await run.log()
    assert [event.metadata["incident"] for event in run.own] == [str(an_id(2))]


async def test_no_more_than_may_be_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of more incidents than may be open the newest are taken over."""
    for number in range(3):
        parts = [Part("alert_delivery", f"part {each}") for each in range(number * 50, number * 50 + 50)]
        leave_behind(tmp_path, *(an_incident(part, uuid.uuid4().int, timedelta(days=number + 1)) for part in parts))
    async with run_of(tmp_path) as run:
        await run.trail.drain()
    assert caplog.text.count("will not be resolved, being too old") == 50
    assert {each.part.operation for each in found_in(tmp_path)} == {f"part {number}" for number in range(MOST_OPEN)}


@pytest.mark.parametrize("policy", [CompliancePolicy(real_time_alerts=False), CompliancePolicy(enabled=False)])
async def test_a_policy_under_which_nothing_is_told(tmp_path: Path, policy: CompliancePolicy) -> None:
    """A run in which nobody may be told leaves the incident to a later one."""
    leave_behind(tmp_path, an_incident())
    async with run_of(tmp_path, policy) as run:
        await run.log()
    assert run.own == []
    assert len(found_in(tmp_path)) == 1


async def test_a_storage_of_ones_own(tmp_path: Path) -> None:
    """With a storage that has no directory nothing is kept, and nothing is taken over."""
    leave_behind(tmp_path, an_incident())
    trail = AuditTrail(storage=MemoryStorage(), alert_dispatcher=(dispatcher := RecordingDispatcher()))
    async with trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")
    assert dispatcher.alerts == []
    assert len(kept(tmp_path)) == 1


GOOD = json.loads(
    '{"part": ["audit_trail", "storing events"], "id": "ID",'
    ' "cause": "full", "started": "2026-01-01T00:00:00Z", "alert": "delivered"}'.replace("ID", str(an_id(1)))
)


WRITTEN = json.dumps([GOOD]).encode()
HOSTILE = {
    "empty": b"",
    "cut at once": b"[",
    "cut": WRITTEN[:-5],
    "zeros": b"\0" * 4096,
    "object": b"{}",
    "null": b"[null]",
    "deep": b"[" * 100_000,
    "one more byte": WRITTEN + b"x",
    "not UTF-8": WRITTEN.replace(b"full", b"\xff\xfe"),
    "escaped surrogate": WRITTEN.replace(b"full", b"\\ud800"),
    "surrogate": WRITTEN.replace(b"full", b"\xed\xa0\x80"),
    "huge": WRITTEN + b" " * (3 << 20),
    "second is empty": json.dumps([GOOD, {}]).encode(),
    "one more than a process opens": json.dumps([GOOD] * (MOST_OPEN + 1)).encode(),
} | {
    f"{name} {str(value)[:30]}": json.dumps([GOOD | {name: value}]).encode()
    for name, value in [
        ("part", ["payments", "storing events"]),
        ("part", [None, "storing events"]),
        ("part", ["audit_trail", 7]),
        ("part", ["audit_trail", "dispatching alerts"]),
        ("part", ["audit_trail", "\x1b[2Jstoring events"]),
        ("part", ["audit_trail", "w" * (LONGEST_TEXT + 1)]),
        ("part", ["audit_trail"]),
        ("part", "storing events"),
        ("cause", "c" * (LONGEST_TEXT + 1)),
        ("id", "1"),
        ("id", ["x"]),
        ("id", "00000000-0000-0000-0000-000000000001"),
        ("id", str(an_id(1, VERIFICATION))),
        ("started", "2026-01-01T00:00:00"),
        ("started", 1e300),
        ("started", "0000-00-00T00:00:00Z"),
        ("alert", True),
        ("alert", "told"),
        ("alert", "\x1b[2J\u202etold\n"),
        ("since", "0"),
    ]
}


@pytest.mark.one_backend
@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
async def test_a_file_that_no_process_has_written(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is in a file of that name, the trail starts and works; the log says so, and the file is left alone."""
    path = tmp_path / f"incidents-{'a' * 32}.json"
    path.write_bytes(content)
    async with run_of(tmp_path) as run:
        [line] = (record.getMessage() for record in caplog.records)
        assert line.startswith(f"cannot read open incidents from {path}: ")
        assert line.isprintable()
        assert len(line) < 2 * LONGEST_TEXT
        await run.fail_to_store()
        await run.log()
    assert run.kinds == [("failure", "storing events"), ("recovery", "storing events")]
    assert path.read_bytes() == content


@pytest.mark.parametrize("started", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59"])
async def test_the_edges_of_time(tmp_path: Path, started: str) -> None:
    """The first and the last time that there can be do not stop a start."""
    (tmp_path / f"incidents-{'a' * 32}.json").write_text(json.dumps([GOOD | {"started": started}, GOOD]))
    async with run_of(tmp_path) as run:
        await run.log()
    assert run.own == []


def put_directory(path: Path) -> None:
    path.mkdir()
    (path / "inside").touch()


def put_link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_text(json.dumps([GOOD | {"started": datetime.now(UTC).isoformat()}]))
    path.symlink_to(elsewhere)


def put_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "put",
    [put_directory, put_link, os.mkfifo, put_socket, put_device],
    ids=["directory", "link", "pipe", "socket", "device"],
)
async def test_what_is_no_file(tmp_path: Path, put: Callable[[Path], None], caplog: pytest.LogCaptureFixture) -> None:
    """A directory, a link or a pipe of that name is neither followed, waited for nor removed."""
    path = tmp_path / f"incidents-{'a' * 32}.json"
    put(path)
    async with run_of(tmp_path) as run:
        await run.log()
    assert run.own == []
    assert f"cannot read open incidents from {path}" in caplog.text
    assert path.is_symlink() or path.exists()


# Erases the screen, sets the title of the terminal, rings, turns the text around, and begins a line of its own.
OBEYED = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2066\u200f\r\n2026-01-01 CRITICAL all is well\u2028\x00\x7f\ufeff"


@pytest.mark.one_backend
@pytest.mark.parametrize("part", [STORING, VERIFICATION, DISPATCHING, Part("alert_delivery", f"slack{OBEYED}")])
@pytest.mark.parametrize("ago", [timedelta(minutes=5), timedelta(days=31)], ids=["fresh", "too old"])
async def test_what_a_planted_text_reaches(
    tmp_path: Path, part: Part, ago: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing in a file makes a terminal, a log or a message do anything: not in the log, nor in alerts, nor stored."""
    planted = msgspec.structs.replace(an_incident(part, ago=ago), cause=f"{OBEYED} {OBEYED * 5}")
    leave_behind(tmp_path, planted)
    async with run_of(tmp_path) as run:
        await run.log(alerts=True)
        await run.trail.verify_chain_from_storage()
        for each in tuple(run.trail._alerts.health._open):
            run.trail._alerts.health.working(each)
        await run.trail.drain()
        own = [*run.own, *await run.trail.get_events(event_type=RECOVERY)]
    assert len(own) == (2 if ago < timedelta(days=30) else 0)
    assert bool(caplog.records) is (ago > timedelta(days=30))
    texts = [record.getMessage() for record in caplog.records]
    for event in own:
        texts += [event.message, event.operation or "", *map(str, event.metadata.values())]
    assert [each for each in texts if not each.isprintable()] == []
    assert "CRITICAL all is well" in "".join(texts)


@pytest.mark.parametrize("fate", ["group may write", "all may write", "another's"])
async def test_a_file_that_another_user_may_have_written(
    tmp_path: Path, fate: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that belongs to another user, or that others may write to, keeps no failure from being announced."""
    leave_behind(tmp_path, an_incident())
    [path] = kept(tmp_path)
    if fate == "another's":
        real = os.fstat

        def foreign(fd: int) -> os.stat_result:
            mode, ino, dev, nlink, uid, *others = real(fd)
            return os.stat_result((mode, ino, dev, nlink, uid + 1, *others))

        monkeypatch.setattr(os, "fstat", foreign)
    else:
        path.chmod(0o620 if fate == "group may write" else 0o602)
    async with run_of(tmp_path) as run:
        assert f"cannot read open incidents from {path}: another user may have written it" in caplog.text
        await run.fail_to_store()
        await run.log()
    assert run.kinds == [("failure", "storing events"), ("recovery", "storing events")]
    assert path in kept(tmp_path)


def test_useless_files_do_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However many useless files there are, some are named and the others counted, and a bounded number is read."""
    for number in range(50):
        (tmp_path / f"incidents-{number:032x}.json").write_text("x")
    leave_behind(tmp_path, an_incident())
    assert len(found_in(tmp_path)) == 1
    assert len(caplog.records) == 11
    assert caplog.messages[-1] == "cannot read open incidents from 40 more files"
    caplog.clear()
    monkeypatch.setattr(_incidentfiles, "_MOST_LOOKS", 20)
    assert len(found_in(tmp_path)) == 0
    assert "there are 51 files of open incidents; the first 20 are read" in caplog.text
    assert caplog.messages[-1] == "cannot read open incidents from 10 more files"


def test_no_more_incidents_are_taken_over_than_the_log_can_take(tmp_path: Path) -> None:
    """A start takes over about a thousand incidents, and leaves the files with more to the next one."""
    for number in range(12):
        leave_behind(tmp_path, *(an_incident(number=1 + 100 * number + each) for each in range(100)))
    files = IncidentFiles(tmp_path)
    assert len(in_thread(files.take_over)) == 1000
    assert len(found_in(tmp_path)) == 200
    files.close()


def test_other_names_are_not_looked_at(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only files that are called as a process calls them are read."""
    leave_behind(tmp_path, an_incident())
    [path] = kept(tmp_path)
    for name in (f"{path.name}.bak", f".{path.name}", "incidents-1.json", path.name.upper()):
        shutil.copy(path, tmp_path / name)
    path.unlink()
    assert found_in(tmp_path) == []
    assert caplog.text == ""


def test_the_number_of_files_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more files are held open than a process can do without; the next start takes the others."""
    monkeypatch.setattr("fapilog.core._incidentfiles._MOST_FILES", 3)
    for number in range(5):
        leave_behind(tmp_path, an_incident(number=number))
    files = IncidentFiles(tmp_path)
    taken = files.take_over()
    assert len(taken) == 3
    assert len(found_in(tmp_path)) == 2
    files.close()


def test_an_unfinished_file(tmp_path: Path) -> None:
    """What a crash left unfinished is removed once nobody can be writing it any more."""
    old, young, held = (tmp_path / f"incidents-{letter * 32}.new" for letter in "abc")
    for path in (old, young, held):
        path.write_text("[")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    os.utime(held, (hour_ago, hour_ago))
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert found_in(tmp_path) == []
    assert kept(tmp_path) == [young, held]


# -- a disk that fails


def refuse(number: int) -> Callable[..., NoReturn]:
    def refusing(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return refusing


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Fill up the disk as far as files of incidents are concerned, until it is undone."""
    with monkeypatch.context() as patch:
        make = os.open

        def no_space(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if flags & os.O_CREAT and "incidents-" in str(path):
                refuse(errno.ENOSPC)()
            return make(path, flags, *args, **options)

        patch.setattr(os, "open", no_space)
        yield patch


async def test_a_full_disk(tmp_path: Path, full: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On a full disk people are told as ever, the log says once that it is not remembered, and `stop` tries again."""
    async with run_of(tmp_path) as run:
        await run.log()
        for _ in range(3):
            await run.fail_to_store()
            run.trail._alerts.health.failing(Part("alert_delivery", "x"), "c")
            await run.trail.drain()
        assert run.kinds == [("failure", "storing events"), ("failure", "x")]
        assert caplog.text.count("recovery will not be reported after a restart") == 1
        assert kept(tmp_path) == []
        full.undo()
    assert {each.part.operation for each in found_in(tmp_path)} == {"storing events", "x"}


async def test_a_disk_that_stays_full(tmp_path: Path, full: pytest.MonkeyPatch) -> None:
    """A trail that can't leave its incidents to the next process still has them when it is started again itself."""
    run = Run(tmp_path)
    async with run.trail:
        await run.log()
        await run.fail_to_store()
    async with run.trail:
        full.undo()
        await run.log()
    assert run.kinds == [("failure", "storing events"), ("recovery", "storing events")]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.rename", "fcntl.flock"])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever fails while a file is replaced, the former one stays, and nothing else; it is told again next time."""
    first, second = an_incident(number=1), an_incident(VERIFICATION, number=2)
    files = IncidentFiles(tmp_path)
    assert files.save(lambda: [first])
    before = kept(tmp_path)
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(call, refuse(errno.EIO))
            assert not files.save(lambda: [first, second])
            assert not files.save(lambda: [first, second])
        assert kept(tmp_path) == before
        assert files.save(lambda: [first])
        assert files.save(lambda: [first, second])
        assert files.save(lambda: [first])
        before = kept(tmp_path)
    assert caplog.text.count("cannot save open incidents") == 2
    files.close()
    assert found_in(tmp_path) == [first]


async def test_a_directory_that_can_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing can be made or removed, what was taken over still ends, and nothing raises."""
    leave_behind(tmp_path, an_incident())
    monkeypatch.setattr(Path, "unlink", refuse(errno.EROFS))
    async with run_of(tmp_path) as run:
        await run.log()
    assert run.kinds == [("recovery", "storing events")]
    assert "Read-only file system" in caplog.text


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
async def test_a_directory_that_can_not_be_read(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A trail starts where its directory can't be listed, or a file in it not be read; the log says so."""
    leave_behind(tmp_path, an_incident())
    for call in ("pathlib.Path.iterdir", "os.fstat"):
        with monkeypatch.context() as patch:
            patch.setattr(call, refuse(number))
            rig = Rig(IncidentFiles(tmp_path))
            running = Running(rig.background)
            await running.enter()
            await rig.health.enter()
            await running.leave(timeout=1)
            await rig.health.leave()
    assert caplog.text.count(os.strerror(number)) == 2


@pytest.mark.parametrize("where", ["missing", "file", "file/below"])
async def test_no_directory(tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture) -> None:
    """A trail starts where there is no directory, and none is made by that; that storing fails there is told."""
    (tmp_path / "file").touch()
    async with run_of(tmp_path / where) as run:
        assert not (tmp_path / "missing").exists()
        await run.log()
    told = where != "missing"
    assert run.kinds == [("failure", "storing events")] * told
    assert ("cannot list the files of open incidents" in caplog.text) is told


async def test_what_fails_before_the_first_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failure in a trail that has no directory yet is kept: in one that is made as the trail would make it."""
    directory = tmp_path / "missing"
    trail = AuditTrail(storage=FileStorage(directory, mode=0o640))
    async with trail:
        trail._alerts.health.failing(Part("alert_delivery", "x"), "c")
        await trail.drain()
        [left] = found_in(killed(directory, tmp_path / "killed"))
    assert left.part.operation == "x"
    assert directory.stat().st_mode & 0o777 == 0o750
    assert not caplog.text


async def test_a_directory_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The directory of a trail that was there is not made anew: it may be that of a file system that is unmounted."""
    (tmp_path / "trail").mkdir()
    async with run_of(tmp_path / "trail") as run:
        (tmp_path / "trail").rmdir()
        run.trail._alerts.health.failing(Part("alert_delivery", "x"), "c")
        await run.trail.drain()
    assert not (tmp_path / "trail").exists()
    assert "cannot save open incidents" in caplog.text


def test_a_close_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A descriptor that is closed with an error is closed: everything is taken over, saved and left as without it."""
    for number in (1, 2):
        leave_behind(tmp_path, an_incident(number=number))
    (tmp_path / f"incidents-{'f' * 32}.new").write_text("[")
    real = os.close

    def close(fd: int) -> None:
        real(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", close)
    files = IncidentFiles(tmp_path)
    taken = files.take_over()
    assert len(taken) == 2
    for incidents in (taken[:1], [], taken):
        assert files.save(lambda: incidents)  # noqa: B023
        assert len(kept(tmp_path)) == bool(incidents) + 1
    files.close()
    assert found_in(tmp_path) == taken
    assert caplog.text == ""


def test_no_crash_loses_what_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever step of a write the process dies, the next one finds all that was failing before and after it."""
    first, second, third = (an_incident(number=number) for number in (1, 2, 3))
    directory = tmp_path / "audit"
    for each in (first, second):
        leave_behind(directory, each)
    copies: list[Path] = []

    def dying_in(name: str, call: Callable[..., Any]) -> None:
        def copy_and_call(*args: Any, **options: Any) -> Any:
            copies.append(killed(directory, tmp_path / str(len(copies))))
            return call(*args, **options)

        monkeypatch.setattr(name, copy_and_call)

    files = IncidentFiles(directory)
    assert files.take_over() == sorted([first, second], key=lambda each: kept_in(directory, each))
    dying_in("os.fsync", os.fsync)
    dying_in("fcntl.flock", fcntl.flock)
    dying_in("pathlib.Path.rename", Path.rename)
    dying_in("pathlib.Path.unlink", Path.unlink)
    assert files.save(lambda: [second, third])
    assert files.save(lambda: [second])
    files.close()
    monkeypatch.undo()
    assert len(copies) >= 9
    for copy in (*copies, directory):
        found = set(found_in(copy))
        assert second in found
        assert found <= {first, second, third}
    assert found_in(directory) == [second]


def kept_in(directory: Path, incident: Incident) -> int:
    return [str(incident.id) in path.read_text() for path in kept(directory)].index(True)


async def test_a_crash_between_two_files(tmp_path: Path) -> None:
    """An incident that is in two files, since a process died before it removed the first, ends once."""
    for _ in range(2):
        leave_behind(tmp_path, an_incident())
    async with run_of(tmp_path) as run:
        await run.log()
    assert run.kinds == [("recovery", "storing events")]
    assert kept(tmp_path) == []


# -- life


async def test_a_start_that_is_cancelled(tmp_path: Path) -> None:
    """A start that is cancelled holds nothing any more, and the next one takes over."""
    leave_behind(tmp_path, an_incident())

    class Waiting(RecordingDispatcher):
        async def __aenter__(self) -> None:
            await anyio.sleep_forever()

        async def __aexit__(self, *_: object) -> None: ...

    run = Run(tmp_path, dispatcher=Waiting())
    with anyio.move_on_after(1) as scope:
        await run.trail.start()
    assert scope.cancelled_caught
    with anyio.CancelScope() as scope:
        scope.cancel()
        await Run(tmp_path).trail.start()
    assert scope.cancelled_caught
    async with run_of(tmp_path) as other:
        await other.log()
    assert other.kinds == [("recovery", "storing events")]


async def test_a_start_that_fails(tmp_path: Path) -> None:
    """A trail whose dispatcher can't be entered leaves what it has taken over to the next one."""
    leave_behind(tmp_path, an_incident())

    class Unusable(RecordingDispatcher):
        async def __aenter__(self) -> None:
            raise ValueError("no")

        async def __aexit__(self, *_: object) -> None: ...

    with pytest.raises(ValueError, match="no"):
        await Run(tmp_path, dispatcher=Unusable()).trail.start()
    assert len(found_in(tmp_path)) == 1


async def test_an_event_that_looks_like_ours(tmp_path: Path) -> None:
    """An event of the application that is made like one of the trail's own, whatever it calls its incident, is sent."""
    async with run_of(tmp_path) as run:
        incidents: list[Any] = [["x"], {}, None, 7, "x"]
        for incident in incidents:
            await run.trail.log_event(
                FAILURE, "m", log_level=AuditLogLevel.CRITICAL, component="audit_trail", metadata={"incident": incident}
            )
        await run.trail.drain()
        assert (await run.trail.get_statistics())["alerts"] == {"dispatched": 5, "failed": 0, "waiting": 0}


async def test_parts_that_go_on_are_not_counted_twice(tmp_path: Path) -> None:
    """Where as many incidents are open as may be, one whose alert was not delivered is still announced."""
    parts = [Part("alert_delivery", f"part {number}") for number in range(MOST_OPEN)]
    leave_behind(tmp_path, *(an_incident(part, uuid.uuid4().int, is_delivered=False) for part in parts))
    async with run_of(tmp_path) as run:
        run.trail._alerts.health.failing(parts[0], "c")
        run.trail._alerts.health.failing(STORING, "c")
        await run.trail.drain()
        assert run.kinds == [("failure", "part 0"), ("failure", "storing events")]


async def test_nobody_waits_for_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the file takes, `log_event` returns at once, and what changes meanwhile is written next."""
    writing, gate = threading.Event(), threading.Event()
    save = IncidentFiles._write
    writes: list[int] = []

    def slow(files: IncidentFiles, incidents: Sequence[Incident]) -> None:
        writing.set()
        gate.wait()
        writes.append(len(incidents))
        save(files, incidents)

    monkeypatch.setattr(IncidentFiles, "_write", slow)
    async with run_of(tmp_path) as run:
        await run.log()
        run.disk.failure = FULL
        with pytest.raises(AuditStorageError):
            await run.trail.log_event(AuditEventType.DATA_ACCESS, "m")
        while not writing.is_set():
            await anyio.lowlevel.checkpoint()
        for number in range(50):
            run.trail._alerts.health.failing(Part("alert_delivery", f"part {number}"), "c")
        gate.set()
        await run.trail.drain()
        assert writes[:2] == [1, 51]
        run.disk.failure = None
        assert len(found_in(killed(tmp_path, tmp_path / "killed"))) == 51


@pytest.mark.slow_on_trio
async def test_long_texts_are_cut(tmp_path: Path) -> None:
    """However long a cause is, and whatever is in it, the next run can tell of it."""
    cause = "\x00\N{SNOWMAN}" * LONGEST_TEXT
    async with run_of(tmp_path) as first:
        await first.log()
        owner = TrailReporter(first.trail, first.trail._alerts.announcer, first.trail._alerts.health)
        for number in range(MOST_OPEN):
            owner.failing(f"{number:03}{cause}", cause)
    found = found_in(tmp_path)
    assert len({each.part.operation for each in found}) == MOST_OPEN
    assert {each.cause for each in found} == {"\ufffd\N{SNOWMAN}" * (LONGEST_TEXT // 2)}


def test_a_trail_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    """The file of one that was neither stopped nor killed is free when its object is gone."""
    files = IncidentFiles(tmp_path)
    assert files.save(lambda: [an_incident()])
    assert found_in(tmp_path) == []
    del files
    assert len(found_in(tmp_path)) == 1


async def test_the_chain_takes_no_notice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files of incidents in its directory change nothing about reading, verifying and appending to a trail."""
    async with run_of(tmp_path) as run:
        for _ in range(3):
            await run.fail_to_store()
            with caplog.at_level(logging.INFO):
                await run.log()
        (tmp_path / f"incidents-{'a' * 32}.json").write_text("x")
        result = await run.trail.verify_chain_from_storage()
        # Three events, and the recovery of the first failure; the part has relapsed since.
        assert (result.valid, result.events_checked, result.set_aside) == (True, 4, ())
        assert len(await run.trail.get_events()) == 4
    assert in_thread(TrailFiles(tmp_path, durable=False).verify).valid


async def test_files_given_as_a_storage_keep_incidents_too(tmp_path: Path) -> None:
    """A trail whose `FileStorage` was given keeps its open incidents in the directory, as one given a path does."""
    trail = AuditTrail(storage=FileStorage(tmp_path, mode=0o640))
    assert trail.storage_path == tmp_path
    async with trail:
        trail._alerts.health.failing(STORING, OSError("full"))
        await trail.drain()
        assert glob(tmp_path, "incidents-*.json")
