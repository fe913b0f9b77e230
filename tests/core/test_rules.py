"""Counting the events of a trail: exact, once, the same after a restart and with several processes, and bounded."""

from collections import Counter
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import AuditEvent, AuditStorageError, Threshold
from fapilog.core import _counts
from fapilog.record.kinds import RULE_MET
from fapilog.storage.memory import MemoryStorage
from tests.doubles.counted_rules import Process, expected, met
from tests.doubles.failing_storage import FailingStorage

GUESSING = Threshold("authentication_failed", count=5, within=600, by="user_id", name="guessing")


async def test_the_fifth(process: Process, storage: MemoryStorage) -> None:
    """The fifth event within the time meets the rule, and names the events behind it; the others do not."""
    events = [await log_and_count(process, 10 * number, user_id="alice") for number in range(9)]
    assert met(storage) == [5]
    (event,) = [event for event in storage.events if event.event_type == RULE_MET]
    assert event.message == "Threshold reached: guessing"
    assert (event.user_id, event.log_level.value, event.occurred) == ("alice", "security", events[4].timestamp)
    assert event.metadata["events"] == [each.event_id for each in events[:5]]
    assert {name: event.metadata[name] for name in ("rule", "by", "value", "count", "within", "record")} == {
        "rule": "guessing",
        "by": "user_id",
        "value": "alice",
        "count": 5,
        "within": 600,
        "record": 5,
    }


@pytest.fixture
def storage() -> MemoryStorage:
    """Return an empty trail."""
    return MemoryStorage()


@pytest.fixture
def process(storage: MemoryStorage) -> Process:
    """Return a process that counts for one rule."""
    return Process(storage, [GUESSING])


async def log_and_count(
    process: Process, seconds: float, kind: str = "authentication_failed", **fields: Any
) -> AuditEvent:
    event = await process.log(seconds, kind, **fields)
    await process.count()
    return event


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("times", "numbers"),
    [
        ([0, 150, 300, 450, 600], [5]),
        ([0, 150, 300, 450, 601], []),
        ([0, 200, 400, 600, 601, 700], [6]),
        # Once a window: the next five count from the end of the window in which the first five did.
        ([*range(5), *range(100, 601, 100), 604, 605], [5, 14]),
        ([*range(5), *range(700, 705)], [5, 11]),
        ([*range(5), 590, 595, 605, 610, 615], [5, 11]),
    ],
)
async def test_the_window(process: Process, storage: MemoryStorage, times: list[int], numbers: list[int]) -> None:
    """Events count that are no further apart than the window, which begins anew after it was reported."""
    for time in times:
        await log_and_count(process, time, user_id="alice")
    assert met(storage) == numbers


async def test_values_are_apart(process: Process, storage: MemoryStorage) -> None:
    """Each value is counted for itself; events of another type, or without a value, are not counted."""
    for time in range(4):
        for user in ("alice", "bob"):
            await log_and_count(process, time, user_id=user)
        await log_and_count(process, time, "authorization_failed", user_id="alice")
        await log_and_count(process, time)
    assert met(storage) == []
    await log_and_count(process, 5, user_id="bob")
    await log_and_count(process, 5)
    assert met(storage) == [17]


async def test_without_a_value(storage: MemoryStorage) -> None:
    """A rule without *by* counts all events of its types together."""
    process = Process(storage, [Threshold(["authentication_failed", "billing.refund"], count=3, within=60)])
    await log_and_count(process, 0, user_id="alice")
    await log_and_count(process, 1, "billing.refund")
    await log_and_count(process, 2, "billing.charge")
    await log_and_count(process, 3)
    assert met(storage) == [4]


async def test_several_rules(storage: MemoryStorage) -> None:
    """Each rule is met for itself, by the same event too."""
    process = Process(storage, [GUESSING, Threshold("authentication_failed", count=2, within=60, by="client_ip")])
    for time in range(5):
        await log_and_count(process, time, user_id="alice", client_ip=f"192.0.2.{time // 2}")
    assert met(storage) == [2, 5, 7]


async def test_many_rules_read_the_trail_once() -> None:
    """An event costs one search for all rules; beginning costs two for each type and window, however many rules."""
    storage = FailingStorage()
    rules = [
        Threshold(
            ["authentication_failed", f"billing.n{number % 3}"], count=2, within=60, by="user_id", name=f"{number}"
        )
        for number in range(30)
    ]
    process = Process(storage, rules)
    await log_and_count(process, 0, user_id="alice")
    assert storage.asked == len(["authentication_failed", "n0", "n1", "n2", "rule.threshold"])
    for number in range(3):
        await log_and_count(process, number, f"billing.n{number}", user_id=f"user {number}")
    assert storage.asked == 5 + 3
    await log_and_count(process, 3, "billing.n1", user_id="alice")
    assert len(met(storage)) == 10
    # One for the span, and two for each rule that is met: whether that is recorded, and by which value.
    assert storage.asked == 5 + 3 + 1 + 10 * 2


@pytest.mark.slow_on_trio
async def test_many_at_once(process: Process, storage: MemoryStorage) -> None:
    """Events that are stored before the first of them is counted are counted in the order of the chain."""
    for number in range(250):
        await process.log(number / 1_000, user_id=f"user {number % 20}")
    await process.count()
    assert met(storage) == list(range(81, 101))


async def test_a_restart(storage: MemoryStorage) -> None:
    """A new process goes on counting where the one before has stopped, and does not report twice."""
    for time in range(12):
        await log_and_count(Process(storage, [GUESSING]), 10 * time, user_id="alice")
    assert met(storage) == [5]


@pytest.mark.parametrize("idle", [0, 300, 599])
async def test_a_kill(storage: MemoryStorage, idle: int) -> None:
    """What a killed process did not come to count is counted by the next, on start, or by another that goes on."""
    killed = Process(storage, [GUESSING])
    for time in range(5):
        await killed.log(time, user_id="alice")
    other = Process(storage, [GUESSING])
    if idle:
        await log_and_count(other, idle, user_id="bob")
    else:
        await other.start()
    assert met(storage) == [5]
    await Process(storage, [GUESSING]).start()
    assert met(storage) == [5]


async def test_a_new_rule_tells_of_no_old_events(process: Process, storage: MemoryStorage) -> None:
    """A process that begins to count does not report what would have met the rule long ago."""
    rule = Threshold("authentication_failed", count=5, within=86_400, by="user_id")
    for time in range(5):
        await process.log(time, user_id="alice")
    await process.log(3_600, user_id="bob")
    new = Process(storage, [rule])
    await new.start()
    assert met(storage) == []
    await log_and_count(new, 3_601, user_id="alice")
    assert met(storage) == [7]


async def test_two_processes_find_it_at_once(storage: MemoryStorage) -> None:
    """Two processes that find the same event to meet the rule store one event about that."""
    one, other = Process(storage, [GUESSING]), Process(storage, [GUESSING])
    for time in range(3):
        await one.log(time, user_id="alice")
        await other.log(time, user_id="alice")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.count)
        tasks.start_soon(other.count)
    assert met(storage) == [5]
    assert one.recorded + other.recorded >= 1


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),  # the process
            st.sampled_from("ab"),
            st.integers(0, 40),  # tenths of a second, a window is ten seconds
            st.sampled_from(["count", "count", "count", "wait", "restart", "kill"]),
        ),
        max_size=80,
    ),
    count=st.integers(1, 4),
)
def test_a_model(steps: list[tuple[int, str, int, str]], count: int) -> None:
    """Several processes that are slow, restart and are killed report what one that looks at all events would."""
    rule = Threshold("authentication_failed", count=count, within=10, by="user_id", name="by user")
    rules = [rule, Threshold("authentication_failed", count=2, within=1, name="all")]
    storage = MemoryStorage()

    async def run() -> None:
        processes = [Process(storage, rules) for _ in range(3)]
        now = 0.0
        for number, user, tenths, then in steps:
            now += tenths / 10
            await processes[number].log(now, user_id=user)
            if then in ("count", "restart"):
                await processes[number].count()
            if then in ("restart", "kill"):
                processes[number] = Process(storage, rules)
                await processes[number].start()
        for process in processes:
            await process.count()
        await Process(storage, rules).start()

    anyio.run(run)
    for each in rules:
        assert sorted(met(storage, each)) == expected(storage, each)


JUMP = st.sampled_from([0, 0, 0, 1, 5, -1, -5, 11, -11, 700, -700, 1e6, -1e6, 2e9, -1.7e9])


@pytest.mark.slow
@given(steps=st.lists(st.tuples(JUMP, st.sampled_from("ab"), st.booleans()), max_size=60))
def test_jumping_clocks(steps: list[tuple[float, str, bool]]) -> None:
    """However a clock jumps, no event is reported twice, and as soon as it is steady the rule is met."""
    rule = Threshold("authentication_failed", count=3, within=10, by="user_id")
    storage = MemoryStorage()

    async def run() -> None:
        process, now = Process(storage, [rule]), 0.0
        for jump, user, restarts in steps:
            now = max(-1.7e9, min(now + jump, 4e9))
            await log_and_count(process, now, user_id=user)
            if restarts:
                process = Process(storage, [rule])
                await process.start()
        before = len(met(storage))
        for number in range(3):
            await log_and_count(process, 5e9 + number, user_id="a")
        assert len(met(storage)) == before + 1
        assert not process.incidents

    anyio.run(run)
    assert not [number for number, times in Counter(met(storage)).items() if times > 1]


async def test_memory_is_bounded(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many values there are, a bounded number of events is kept: those of the newest values."""
    monkeypatch.setattr(_counts, "MOST_COUNTED", 20)
    process = Process(storage, [GUESSING])
    for number in range(60):
        await log_and_count(process, number / 10, user_id=f"user {number}")
    (counts,) = process.rules._counts
    assert (counts._size, len(counts._runs)) == (20, 20)
    for _ in range(4):
        await log_and_count(process, 20, user_id="user 59")
    assert met(storage) == [64]


async def test_what_is_over_is_forgotten(process: Process) -> None:
    """A value without an event for long takes no memory."""
    for number in range(10):
        await log_and_count(process, 3_600 * number, user_id=f"user {number}")
    (counts,) = process.rules._counts
    assert list(counts._runs) == list(counts._runs)[-1:]


@pytest.mark.parametrize(
    "values",
    [
        [1, "1", True, 1.0, [1], {"a": 1}, {"a": [1]}, "\ud800", "x" * 60_000, -(2**70)],
    ],
)
async def test_hostile_values(storage: MemoryStorage, values: list[object]) -> None:
    """Any value in the metadata can be counted by, and no two of them are taken for one."""
    process = Process(storage, [Threshold("data_access", count=2, within=60, by="tenant.id")])
    for value in values:
        await log_and_count(process, 0, "data_access", metadata={"tenant": {"id": value}})
        await log_and_count(process, 0, "data_access", metadata={"tenant": value})
        await log_and_count(process, 0, "data_access", metadata={"tenant.id": None})
    assert met(storage) == []
    for value in values:
        await log_and_count(process, 1, "data_access", metadata={"tenant": {"id": value}})
    assert len(met(storage)) == len(values)


def raises(_: AuditEvent) -> bool:
    raise KeyError("hunter2")


def asynchronous(_: AuditEvent) -> object:
    """Does not look asynchronous."""

    async def later() -> bool:
        raise AssertionError

    return later()


class Panic(BaseException):
    """What an extension module raises."""


def panics(_: AuditEvent) -> bool:
    raise Panic


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("where", "complaint"),
    [
        (raises, "raised KeyError"),
        (panics, "raised Panic"),
        (asynchronous, "raised TypeError"),
        (lambda _: None, None),
        (lambda _: 0, None),
    ],
    ids=["raises", "panics", "coroutine", "none", "zero"],
)
async def test_bad_predicates(
    storage: MemoryStorage, where: Any, complaint: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A predicate that raises, or is asynchronous, counts nothing, and that is logged once, without its words."""
    process = Process(storage, [Threshold("data_access", count=1, within=60, where=where, name="r"), GUESSING])
    for _ in range(3):
        await log_and_count(process, 0, "data_access")
    for _ in range(5):
        await log_and_count(process, 0, user_id="alice")
    assert met(storage) == [8]
    lines = [f"the predicate of the rule 'r' {complaint}: such events are not counted"] if complaint else []
    assert [record.getMessage() for record in caplog.records] == lines


async def test_predicates(storage: MemoryStorage) -> None:
    """A predicate sees each stored event of the type, and says which of them count."""
    seen: list[int | None] = []

    def is_night(event: AuditEvent) -> bool:
        seen.append(event.sequence_number)
        return event.timestamp.hour < 6

    process = Process(storage, [Threshold("data_export", count=1, within=60, where=is_night)])
    for hour in (5, 6, 25):
        await log_and_count(process, hour * 3_600, "data_export")
    assert met(storage) == [1, 4]
    assert set(seen) == {1, 3, 4}


async def test_a_storage_that_cannot_be_read() -> None:
    """A storage that can't be read is an incident, until it can; then the events meanwhile are counted."""
    storage = FailingStorage()
    process = Process(storage, [GUESSING])
    storage.is_unreadable = True
    for _ in range(5):
        await log_and_count(process, 0, user_id="alice")
    storage.is_unreadable = False
    assert [event.event_type.value for event in process.incidents] == ["component_failure"]
    await log_and_count(process, 1, user_id="bob")
    assert met(storage) == [5]
    assert process.incidents[-1].event_type.value == "component_recovery"


async def test_an_event_about_a_rule_that_cannot_be_stored(
    process: Process, storage: MemoryStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """An event about a rule that can't be stored is stored with the next event, whoever that is about."""
    process.error = AuditStorageError("disk full")
    for _ in range(5):
        await log_and_count(process, 0, user_id="alice")
    assert met(storage) == []
    assert "disk full" in caplog.text
    process.error = None
    await log_and_count(process, 1, user_id="bob")
    assert met(storage) == [5]
    # That incident is the storage's.
    assert not process.incidents
