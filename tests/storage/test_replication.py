"""Edge mode: a trail in files is replicated, once and in order, whatever is away and for however long."""

import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    CompliancePolicy,
    FileStorage,
    TrailMismatchError,
)
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import head_of
from fapilog.storage.replication import Replication, ReplicationState
from fapilog.testing import RecordingDispatcher
from tests.doubles.aged_trails import aged_trail, day_file

MARK = "audit_replica.json"


class Target(MemoryStorage):
    """A target that may be away, and knows when it was asked for what."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.asked: list[float] = []
        self.pages: list[int] = []

    def __str__(self) -> str:
        return "the target"

    def _answer(self) -> None:
        self.asked.append(anyio.current_time())
        if self.is_away:
            raise AuditStorageError("the target is away")

    async def find(self, wanted: Any, limit: int) -> list[Any]:
        self._answer()
        return await super().find(wanted, limit)

    async def append_lines(self, after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
        self._answer()
        self.pages.append(len(lines))
        return await super().append_lines(after, lines)


Target.__module__ = "fapilog.tests"  # whose words may be shown


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def trail(tmp_path: Path) -> FileStorage:
    return FileStorage(tmp_path / "audit")


async def append(storage: FileStorage, count: int) -> None:
    for _ in range(count):
        await storage.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"))


async def until(condition: Any) -> None:
    """Let the time pass until *condition* holds."""
    with anyio.fail_after(10_000):
        while not condition():  # noqa: ASYNC110  the clock jumps
            await anyio.sleep(1)


async def require_same(trail: FileStorage, target: Target) -> None:
    """Find the same lines and the same head in both, which are valid."""
    assert await target.read_lines(0, 100_000) == await trail.read_lines(0, 100_000)
    for each in (trail, target):
        assert (await each.verify()).valid
    await trail.aclose()


async def test_new_records_are_copied(trail: FileStorage, target: Target) -> None:
    """What is there and what comes is copied, the last records on leaving, and both have the same head all the time."""
    await append(trail, 3)
    async with Replication(trail.directory, target) as replication:
        await until(lambda: len(target.events) == 3)
        await append(trail, 2)
        await until(lambda: len(target.events) == 5)
        await until(lambda: replication.state == ReplicationState(0, None))
        assert await head_of(target) == await head_of(trail)
        await append(trail, 1)
    assert len(target.events) == 6
    await require_same(trail, target)


@pytest.mark.slow_on_trio
async def test_nothing_is_there_yet(trail: FileStorage, target: Target) -> None:
    """A directory that is not there is no problem, and is not made."""
    async with Replication(trail.directory, target) as replication:
        await anyio.sleep(10)
        assert replication.problem is None
        assert not trail.directory.exists()
        await append(trail, 1)
        await until(lambda: target.events)
    await require_same(trail, target)


@pytest.mark.slow
async def test_in_pages(trail: FileStorage, target: Target) -> None:
    """Many records are copied in pages, and between two of them the state says how many are left."""
    await append(trail, 1203)
    replication = Replication(trail.directory, target)
    seen: list[int] = []
    original = target.append_lines

    async def watched(after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
        seen.append(replication.state.pending)
        return await original(after, lines)

    target.append_lines = watched  # type: ignore[method-assign]
    assert await replication.catch_up() == await head_of(trail)
    assert target.pages == [64, 500, 500, 139]
    assert seen == [1203, 1139, 639, 139]
    await require_same(trail, target)


@pytest.mark.slow
async def test_the_target_is_away_for_hours(
    trail: FileStorage, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    """A target that is away is tried ever less often; the state tells what waits, and the log says it once."""
    await append(trail, 1)
    async with Replication(trail.directory, target, interval=5) as replication:
        await until(lambda: target.events)
        target.is_away = True
        target.asked.clear()
        await append(trail, 2)
        with caplog.at_level(logging.WARNING, "fapilog"):
            await anyio.sleep(3600)
            assert "the target is away" in str(replication.problem)
            assert replication.state.pending == 2
            assert replication.state.oldest is not None
            # It is asked for its head, too, when it has taken no records.
            asked = sorted(set(target.asked))
            pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
            assert 1 <= pauses[0] <= 10
            assert 60 <= max(pauses) <= 95
            assert len(pauses) < 70
            await append(trail, 1)
            await anyio.sleep(10)
            assert replication.state.pending == 3
            target.is_away = False
            await until(lambda: replication.state == ReplicationState())
        assert [record.getMessage() for record in caplog.records] == [
            "the replication replica can't continue: the target is away",
            "the replication replica continues",
        ]
        assert replication.problem is None
    await require_same(trail, target)


@pytest.mark.slow_on_trio
async def test_another_process_knows_how_far_it_is(trail: FileStorage, target: Target) -> None:
    """A process that begins while the target is away knows how many records it lacks."""
    await append(trail, 5)
    await Replication(trail.directory, target).catch_up()
    await append(trail, 2)
    target.is_away = True
    async with Replication(trail.directory, target) as replication:
        await until(lambda: replication.state.pending == 2)
    target.is_away = False
    await Replication(trail.directory, target).catch_up()
    await require_same(trail, target)


def of_replica(recorder: RecordingDispatcher) -> list[tuple[str, str]]:
    """Return the alerts about the replica: the type and the message."""
    events = [alert.event for alert in recorder.alerts]
    return [
        (event.event_type.value, event.message) for event in events if event.operation == "the replica of the trail"
    ]


async def log(trail: AuditTrail) -> None:
    await trail.log_event(AuditEventType.DATA_ACCESS, "m")
    await trail.drain()


@pytest.fixture
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after the trail at every event."""
    monkeypatch.setattr("fapilog.core._watch._EVERY", 0.0)


@pytest.mark.slow_on_trio
@pytest.mark.usefixtures("_always")
async def test_waiting_for_too_long_is_an_incident(trail: FileStorage, target: Target, tmp_path: Path) -> None:
    """A record that waits for longer than the limit opens an incident, with the cause, and its arrival resolves it."""
    recorder = RecordingDispatcher()
    target.is_away = True
    replication = Replication(trail.directory, target, lag_limit=1e-9)
    async with AuditTrail(storage=trail, alert_dispatcher=recorder) as audit:
        await log(audit)
        assert of_replica(recorder) == []
        async with replication:
            await until(lambda: replication.problem)
            await log(audit)
            [(kind, message)] = of_replica(recorder)
            assert kind == "component_failure"
            assert message.startswith(
                f"the replica of the audit trail is behind: {trail.directory}: record 1 has waited for "
            )
            assert message.endswith(" s to be in the target: the target is away")
            target.is_away = False
            await until(lambda: replication.state == ReplicationState() and target.events)
            await until(lambda: replication.problem is None)
        # The event that is looked at may not be replicated yet: it waits, and no longer than the limit.
        async with Replication(trail.directory, target, lag_limit=60):
            await until(lambda: '"lag_limit":60.0' in (trail.directory / MARK).read_text())
            await log(audit)
    assert [kind for kind, _ in of_replica(recorder)] == ["component_failure", "component_recovery"]


async def test_a_target_that_hangs_is_behind(trail: FileStorage, target: Target) -> None:
    """Records wait for a target that does not answer, and has never taken one: for the gauge and the trail."""
    await append(trail, 1)
    target.append_lines = hang  # type: ignore[method-assign]
    async with Replication(trail.directory, target, lag_limit=1e-9, stop_timeout=0) as replication:
        await until(lambda: replication.state.pending == 1)
        assert replication.state.oldest is not None
        assert "record 1 has waited for" in (await trail.concerns())["replica"]


async def hang(after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
    await anyio.sleep_forever()
    raise AssertionError


async def test_a_record_may_wait_for_ever(trail: FileStorage, target: Target) -> None:
    """Without a limit a record that waits is no concern."""
    await append(trail, 1)
    replication = Replication(trail.directory, target, lag_limit=math.inf)
    await replication.catch_up()
    await append(trail, 1)
    assert "replica" not in await trail.concerns()


@pytest.mark.slow_on_trio
@pytest.mark.usefixtures("_always")
async def test_another_trail_in_the_target_is_an_incident_at_once(trail: FileStorage, target: Target) -> None:
    """Where somebody else has written into the target, it is said what was found, and nothing is changed there."""
    recorder = RecordingDispatcher()
    await append(trail, 1)
    await Replication(trail.directory, target).catch_up()
    await target.append(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="somebody else"))
    async with (
        Replication(trail.directory, target, lag_limit=1e9) as replication,
        AuditTrail(storage=trail, alert_dispatcher=recorder) as audit,
    ):
        await log(audit)
        found = (await head_of(target)).checksum
        words = f"the target ends with record 2, checksum {found}, which the source does not have: two trails"
        await until(lambda: replication.problem == words)
        await log(audit)
    [(_, message)] = of_replica(recorder)
    assert message.endswith(f" s to be in the target: {words}")
    assert [event.message for event in target.events] == ["m", "somebody else"]
    with pytest.raises(TrailMismatchError, match="two trails"):
        await Replication(trail.directory, target).catch_up()


async def test_damage_is_not_replicated(trail: FileStorage, target: Target) -> None:
    """Of a trail that was altered nothing is copied from the altered page on, and the message is about the source."""
    await append(trail, 2)
    [file] = trail.directory.glob("audit_*.jsonl")
    file.write_bytes(file.read_bytes().replace(b'"m"', b'"n"', 1))
    words = r"^in the source, record 1 was altered: .*; nothing is copied behind record 0$"
    with pytest.raises(TrailMismatchError, match=words):
        await Replication(trail.directory, target).catch_up()
    assert target.events == []


async def test_it_is_entered_once_at_a_time(trail: FileStorage, target: Target) -> None:
    """To enter it while it is entered is refused; when it is left, nothing is copied any more."""
    async with Replication(trail.directory, target) as replication:
        with pytest.raises(ValueError, match=r"^replication replica: expected one that is not entered; got one that"):
            await replication.__aenter__()
    await append(trail, 1)
    await anyio.sleep(100)
    assert target.events == []
    async with replication:
        await until(lambda: target.events)


@pytest.mark.slow_on_trio
async def test_several_at_once_copy_each_record_once(
    trail: FileStorage, target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever comes second finds the records there, and returns the same head."""
    await append(trail, 150)
    one, other = Replication(trail.directory, target), Replication(trail.directory, target)
    heads: set[ChainHead] = set()

    async def catch_up(replication: Replication) -> None:
        heads.add(await replication.catch_up())

    async with anyio.create_task_group() as tasks:
        for replication in (one, one, other):
            tasks.start_soon(catch_up, replication)
    assert heads == {await head_of(trail)}
    assert caplog.records == []
    await require_same(trail, target)
    # Each knows the head by now, and one of them no longer the newest.
    for replication in (one, other):
        await append(trail, 1)
        assert await replication.catch_up() == await head_of(trail)


@pytest.mark.slow
async def test_several_replicate_one_directory(trail: FileStorage, target: Target) -> None:
    """Of several processes that replicate the same files, one copies each record."""
    replications = [Replication(trail.directory, target, name=f"worker {number}") for number in range(4)]
    async with replications[0], replications[1], replications[2], replications[3]:
        for _ in range(20):
            await append(trail, 5)
            await anyio.sleep(1)
        await until(lambda: len(target.events) == 100)
        await until(lambda: all(each.state == ReplicationState() for each in replications))
    assert (
        f'"sequence_number":100,"checksum":"{(await head_of(trail)).checksum}"' in (trail.directory / MARK).read_text()
    )
    await require_same(trail, target)


@pytest.mark.slow_on_trio
async def test_cancelled_anywhere_it_goes_on(trail: FileStorage, target: Target) -> None:
    """Wherever it is cancelled, the next one copies the rest, and nothing twice."""
    await append(trail, 7)
    original = target.append_lines

    async def slow(after: ChainHead, lines: Sequence[bytes]) -> ChainHead:
        await anyio.sleep(1)
        head = await original(after, lines[:2])
        await anyio.sleep(1)
        return head

    target.append_lines = slow  # type: ignore[method-assign]
    replication = Replication(trail.directory, target)
    for tenths in range(1, 60):
        with anyio.move_on_after(tenths / 10):
            await replication.catch_up()
    assert len(target.events) == 7
    await require_same(trail, target)


@pytest.mark.one_backend
async def test_a_forked_child_replicates_too(trail: FileStorage, target: Target) -> None:
    """A child finds by itself where the target ends, and has none of the parent's tasks."""
    await append(trail, 2)
    replication = Replication(trail.directory, target)
    await replication.catch_up()
    replication._forget()
    await append(trail, 1)
    assert (await replication.catch_up()).sequence_number == 3
    await require_same(trail, target)


@pytest.mark.slow_on_trio
@pytest.mark.may_block
async def test_retention_keeps_all_while_the_replica_is_stuck(tmp_path: Path, target: Target) -> None:
    """A target that was restored from before the days that are removed costs no further day."""
    directory = aged_trail(tmp_path / "trail", (50, 40, 39, 1))
    restored = Target()
    await restored.append_lines(ChainHead(0, None), await FileStorage(directory).read_lines(0, 2))
    await Replication(directory, target).catch_up()
    await AuditTrail(CompliancePolicy(retention_days=45), directory).apply_retention()
    checksum = (await head_of(restored)).checksum
    words = f"the target ends with record 2, checksum {checksum}, and the source begins behind record 3"
    with pytest.raises(TrailMismatchError, match=f"^{words}$"):
        await Replication(directory, restored).catch_up()
    audit = AuditTrail(CompliancePolicy(retention_days=30), directory)
    report = await audit.apply_retention()
    assert [(day.removed, day.kept) for day in report.days] == [
        (False, f"its replica can't continue: {words}"),
        (False, "an older day is kept"),
    ]
    # Once the target has what it lacks, from the archive for example.
    await Replication(directory, target).catch_up()
    assert [day.removed for day in (await audit.apply_retention()).days] == [True, True]


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_retention_keeps_what_is_not_replicated(tmp_path: Path, target: Target) -> None:
    """A day with a record that the target lacks stays, and so does the one with which the target ends."""
    directory = aged_trail(tmp_path / "trail", (40, 39, 38, 1))
    trail = FileStorage(directory)
    await target.append_lines(ChainHead(0, None), await trail.read_lines(0, 5))
    lines, target.is_away = trail.read_lines, False

    async def some(after: int, limit: int) -> list[bytes]:
        return [] if after >= 5 else await lines(after, limit)

    replication = Replication(directory, target)
    replication._source.read_lines = some  # type: ignore[method-assign]
    await replication.catch_up()
    audit = AuditTrail(CompliancePolicy(retention_days=30), directory)
    report = await audit.apply_retention(dry_run=True)
    assert [(day.file, day.removed, day.kept) for day in report.days] == [
        (day_file(40), True, None),
        (day_file(39), False, "the target ends with record 5"),
        (day_file(38), False, "an older day is kept"),
    ]
    await Replication(directory, target).catch_up()
    report = await audit.apply_retention()
    assert [day.removed for day in report.days] == [True, True, True]
    assert await Replication(directory, target).catch_up() == await head_of(trail)
    await audit.stop()


async def test_a_file_that_is_no_mark(trail: FileStorage, target: Target, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file beside the trail holds something else, it is told, until the target is reached."""
    await append(trail, 1)
    (trail.directory / MARK).write_text("{}")
    words = f"{trail.directory / MARK}: expected how far the trail is replicated; got something else"
    assert await trail.concerns() == {"replica": words}
    await Replication(trail.directory, target).catch_up()
    assert await trail.concerns() == {}
    await trail.aclose()


async def test_what_can_not_be_kept_stops_nothing(
    trail: FileStorage, target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Records are copied although the file that says so can't be written."""

    def full(*_: object, **__: object) -> None:
        raise AuditStorageError("no space left on device")

    monkeypatch.setattr("fapilog.storage.replication.keep_replica", full)
    await append(trail, 2)
    await Replication(trail.directory, target).catch_up()
    assert "can't say how far it is: no space left on device" in caplog.text
    await require_same(trail, target)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lag_limit": 0}, ValueError, "lag_limit: expected a number above 0"),
        ({"interval": -1}, ValueError, "interval: "),
        ({"interval": float("inf")}, ValueError, "interval: "),
        ({"stop_timeout": -1}, ValueError, "stop_timeout: "),
        ({"name": "a\n"}, ValueError, "name: expected printable text"),
        ({"name": 7}, TypeError, "name: "),
        ({"target": FileStorage}, TypeError, "target: .*; got the class FileStorage"),
        ({"directory": "/x/y", "target": FileStorage("/x/y")}, ValueError, "target: expected another directory than"),
        ({"directory": 7}, TypeError, "directory: "),
    ],
)
async def test_options_are_checked(tmp_path: Path, options: dict[str, Any], error: type[Exception], words: str) -> None:
    """An option that is not valid is refused, in words that name it."""
    with pytest.raises(error, match=words):
        Replication(**{"directory": tmp_path, "target": MemoryStorage(), **options})


@pytest.mark.one_backend
async def test_its_repr_has_no_words_of_a_stranger(tmp_path: Path) -> None:
    """Of a target that is somebody else's, the type alone is shown."""

    class Stranger(MemoryStorage):
        def __repr__(self) -> str:
            return "password"

    made = repr(Replication(tmp_path, Stranger()))
    assert made.startswith(f"<Replication 'replica' of <FileStorage {str(tmp_path)!r}> to ")
    assert "password" not in made
    assert "without append_lines" not in made
