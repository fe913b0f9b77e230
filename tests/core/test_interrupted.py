"""A signal handler or a destructor that logs an event while its own thread logs one, or that raises in its midst."""

import functools
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Literal

import pytest

import fapilog
from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditStorage,
    AuditStorageError,
    AuditTrail,
    ChainStatus,
    CompliancePolicy,
    FileStorage,
    MemoryStorage,
    Outbox,
    SQLiteStorage,
    Threshold,
    compliance_alert,
)
from fapilog.record.kinds import RULE_MET
from fapilog.testing import RecordingDispatcher
from tests.doubles.alarms import Ended, TimeUp
from tests.doubles.interrupting import interrupted_at, moments

OURS = Path(fapilog.__file__).parent

# Raised between the call of a coroutine function and its `await`, an exception has Python complain of the coroutine;
# from Python 3.13 on also of a list of files, between the call that opens it and the block that closes it. Where it is
# collected while a NamedTuple is made, whose code has no builtins, the complaint itself fails, and is one of that.
INTERRUPTED = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning",
    "ignore:Exception ignored .*<coroutine object AuditTrail:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed scandir iterator:ResourceWarning",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AuditEventType.DATA_ACCESS, AuditEventType.AUTHENTICATION_FAILED], ids=str)
@pytest.mark.parametrize("durability", ["write", "fsync"])
def test_whoever_interrupts_an_event_is_answered(
    durability: Literal["write", "fsync"], kind: AuditEventType, tmp_path: Path
) -> None:
    """Before any line of ours, its event is stored and alerts, or is refused; the one of the thread does both."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path, durability=durability, alert_dispatcher=dispatcher)
    stored = {trail.sync.log_event(kind, "this one opens the files")}
    refused: list[str] = []

    def interrupt() -> None:
        try:
            stored.add(trail.sync.log_event(kind, "within"))
        except AuditStorageError as error:
            refused.append(str(error))

    for line in itertools.count(1):
        answers = len(stored) + len(refused)
        with interrupted_at(line, OURS, interrupt):
            event_id = trail.sync.log_event(kind, "whole")
        if len(stored) + len(refused) == answers:
            break  # it has not so many lines
        stored.add(event_id)
    trail.sync.stop()
    stored.add(event_id)
    assert {event.event_id for event in trail.sync.events() if event.event_type is kind} == stored
    alerts = [alert.event.event_id for alert in dispatcher.alerts if alert.event.event_type is kind]
    assert sorted(alerts) == (sorted(stored) if kind is AuditEventType.AUTHENTICATION_FAILED else [])
    assert refused
    assert all("called from within" in each for each in refused)
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK


def interruptions(trail: AuditTrail) -> Iterator[None]:
    """Log an event that alerts, and raise a KeyboardInterrupt at one moment of that after the other."""
    for moment in moments(OURS, KeyboardInterrupt):
        # A look at the clock and the storage is a part of it.
        trail._alerts.watch.due = 0.0
        with suppress(KeyboardInterrupt), moment:
            trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "interrupted")
        yield


@pytest.mark.slow
@pytest.mark.real_time
@INTERRUPTED
@pytest.mark.parametrize("is_started", [True, False], ids=["started", "not_started"])
@pytest.mark.parametrize(
    ("durability", "is_kept"),
    [
        ("write", True),
        ("fsync", False),
        pytest.param("write", False, marks=pytest.mark.torture),
        pytest.param("fsync", True, marks=pytest.mark.torture),
    ],
    ids=["write-outbox", "fsync-dispatcher", "write-dispatcher", "fsync-outbox"],
)
def test_a_thread_that_is_interrupted_can_go_on(
    durability: Literal["write", "fsync"], tmp_path: Path, *, is_kept: bool, is_started: bool
) -> None:
    """A program that goes on after Ctrl-C, or after the time limit of its task, has all its alerts sent, each once."""
    dispatcher = RecordingDispatcher()
    outbox = Outbox(dispatcher, tmp_path / "alerts.db") if is_kept else dispatcher
    trail = AuditTrail(storage_path=tmp_path / "trail", durability=durability, alert_dispatcher=outbox)
    with trail.sync if is_started else nullcontext():
        for _ in interruptions(trail):
            trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "whole")
        trail.sync.drain()
    trail.sync.stop()
    stored = [
        event.event_id for event in trail.sync.events() if event.event_type is AuditEventType.AUTHENTICATION_FAILED
    ]
    assert sorted(alert.event.event_id for alert in dispatcher.alerts) == sorted(stored)
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK


STORAGES: dict[str, Callable[[Path], AuditStorage]] = {
    "fsync": FileStorage,
    "write": functools.partial(FileStorage, durability="write"),
    "sqlite": lambda directory: SQLiteStorage(directory / "trail.db"),
    "memory": lambda _: MemoryStorage(),
}


@pytest.mark.slow
@pytest.mark.real_time
@INTERRUPTED
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        # Each storage with an exception of one kind; `make torture` takes them all.
        pytest.param(kind, error, marks=() if number % 3 == place % 3 else pytest.mark.torture)
        for place, kind in enumerate(STORAGES)
        for number, error in enumerate((TimeUp, Ended, TimeoutError))
    ],
)
def test_a_time_limit_is_no_failure_of_the_storage(
    kind: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exception reaches the code that is to end, the trail opens no incident, and what is stored is sent."""
    # Whatever comes while its span is read is contained.
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    dispatcher, raised, caught = RecordingDispatcher(), list[BaseException](), list[BaseException]()
    trail = AuditTrail(storage=STORAGES[kind](tmp_path), alert_dispatcher=dispatcher)

    def time_is_up() -> BaseException:
        raised.append(error())
        return raised[-1]

    with trail.sync:
        for moment in moments(OURS, time_is_up):
            try:
                with moment:
                    trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "interrupted")
            except error as reached:
                caught.append(reached)
            trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "whole")
        trail.sync.drain()
    # A few errors of a call that may fail are ignored.
    assert error is TimeoutError or caught == raised
    stored = [event.event_id for event in trail.sync.events()]
    assert sorted(alert.event.event_id for alert in dispatcher.alerts) == sorted(stored)
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK


@pytest.mark.slow
@pytest.mark.real_time
@INTERRUPTED
@pytest.mark.parametrize("error", [TimeUp, KeyboardInterrupt])
def test_the_first_call_of_a_trail_may_be_interrupted(error: type[BaseException]) -> None:
    """A trail whose first call is interrupted anywhere, while it starts itself, alerts of all that is stored."""
    for moment in moments(OURS, error):
        dispatcher, storage = RecordingDispatcher(), MemoryStorage()
        trail = AuditTrail(storage=storage, alert_dispatcher=dispatcher)
        with suppress(error), moment:
            trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "first")
        trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "second")
        trail.sync.drain()
        assert {alert.event.event_id for alert in dispatcher.alerts} == {event.event_id for event in storage.events}
        trail.sync.stop()


@pytest.mark.slow
@pytest.mark.real_time
@INTERRUPTED
def test_an_incident_that_is_interrupted_can_end(tmp_path: Path) -> None:
    """Interrupted wherever it opens an incident of the storage, the next event that is stored resolves it."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=RecordingDispatcher())
    # Otherwise it would have failed and worked in turns.
    trail._alerts.health._clock = itertools.count(0, 600).__next__
    append = trail._storage.append

    async def refuse(*_: object, **__: object) -> None:
        raise AuditStorageError("no room")

    with trail.sync:
        for moment in moments(OURS, KeyboardInterrupt):
            trail._storage.append = refuse  # type: ignore[method-assign]
            with suppress(KeyboardInterrupt, AuditStorageError), moment:
                trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "refused")
            trail._storage.append = append  # type: ignore[method-assign]
            trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "stored")
            trail.sync.drain()
            assert not trail._alerts.health._open
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK


async def test_receivers_that_exit_keep_the_alert_from_nobody(tmp_path: Path) -> None:
    """The caller gets the exit when every receiver, and the dispatcher, has been called once."""
    dispatcher, calls = RecordingDispatcher(), list[int]()

    def exits(number: int, _: object, **__: object) -> None:
        calls.append(number)
        raise SystemExit(3)

    # blinker calls them in any order; of many, some surely come before the forwarder.
    receivers = [functools.partial(exits, number) for number in range(20)]
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher) as trail:
        for receiver in receivers:
            compliance_alert.connect(receiver, sender=trail)
        with pytest.raises(SystemExit):
            await trail.log_event(AuditEventType.AUTHENTICATION_FAILED, "m")
        await trail.drain()
    assert sorted(calls) == list(range(20))
    assert len(dispatcher.alerts) == 1


async def test_an_event_that_is_only_counted_is_not_announced(tmp_path: Path) -> None:
    """An event of a rule whose call a signal handler has ended is counted, and there is one alert: that of the rule."""
    dispatcher = RecordingDispatcher()
    policy = CompliancePolicy(rules=[Threshold("data_access", count=3, within=60)])
    async with AuditTrail(policy, tmp_path, dispatcher) as trail:
        for _ in range(2):
            await trail.log_event(AuditEventType.DATA_ACCESS, "m")
        event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m")
        trail._alerts.forwarder.expect(event.event_id)
        await trail._storage.append(event)
        trail._interrupted(event)
        await trail.drain()
    assert [str(alert.event.event_type) for alert in dispatcher.alerts] == [str(RULE_MET)]


async def test_a_receiver_that_exits_in_the_background_does_not_end_the_loop(tmp_path: Path) -> None:
    """An event whose call a signal handler has ended is announced from the background, from where no exit passes."""
    calls = list[object]()

    def exits(_: object, **details: object) -> None:
        calls.append(details["event"])
        raise SystemExit(3)

    trail = AuditTrail(storage_path=tmp_path)
    compliance_alert.connect(exits, sender=trail)
    async with trail:
        with suppress(SystemExit):
            await trail.log_event(AuditEventType.AUTHENTICATION_FAILED, "m")
        (event,) = await trail.get_events(event_type=AuditEventType.AUTHENTICATION_FAILED)
        trail._alerts.forwarder.expect(event.event_id)
        trail._interrupted(event)
        await trail.drain()
    assert len(calls) == 2
