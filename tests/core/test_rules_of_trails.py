"""The rules of a trail: what is recorded, announced and refused, and what can't go wrong for the caller."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import AuditEvent, AuditTrail, CompliancePolicy, FileStorage, Target, Threshold
from fapilog.record.kinds import RULE_MET
from fapilog.storage.memory import MemoryStorage
from fapilog.testing import RecordingDispatcher
from tests.doubles.failing_storage import FailingStorage

PROGRAM = Path(__file__).parents[1] / "programs" / "guessing.py"
GUESSING = Threshold("authentication_failed", count=5, within=600, by="user_id", name="guessing", log_level="critical")


def policy(*rules: Threshold, **options: Any) -> CompliancePolicy:
    """Return a policy under which nothing alerts but its rules."""
    return CompliancePolicy(rules=rules or (GUESSING,), alert_on_security_events=False, **options)


async def fail(trail: AuditTrail, times: int, user: str = "alice") -> None:
    for _ in range(times):
        await trail.log_authentication(success=False, user_id=user)


@pytest.mark.parametrize("is_started", [False, True])
async def test_the_fifth_alerts(tmp_path: Path, *, is_started: bool) -> None:
    """The fifth event is followed by one of the trail's own, which is announced with the severity of the rule."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(policy(alert_channels={"critical": "#on-call"}), tmp_path, dispatcher)
    if is_started:
        await trail.start()
    await fail(trail, 4)
    await fail(trail, 4, "bob")
    await trail.drain()
    assert not dispatcher.alerts
    await fail(trail, 7)
    await trail.drain()
    (alert,) = dispatcher.alerts
    assert (alert.severity, alert.channel) == ("critical", "#on-call")
    assert (alert.event.event_type, alert.event.user_id) == (RULE_MET, "alice")
    fifth = await trail.get_events(event_id=alert.event.metadata["events"][-1])
    assert [event.sequence_number for event in fifth] == [9]
    assert alert.event.occurred == fifth[0].timestamp
    assert await trail.get_events(event_type=RULE_MET, user_id="alice") == [alert.event]
    await trail.stop()
    assert (await trail.verify_chain_from_storage()).valid


@pytest.mark.slow_on_trio
async def test_a_restart_in_between(tmp_path: Path) -> None:
    """Events before a restart count, and what was reported before it is not reported again."""
    dispatcher = RecordingDispatcher()
    for _ in range(4):
        async with AuditTrail(policy(), tmp_path, dispatcher) as trail:
            await fail(trail, 2)
    assert [alert.event.metadata["record"] for alert in dispatcher.alerts] == [5]


def test_without_a_loop(tmp_path: Path) -> None:
    """The rules of synchronous code alert too."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(policy(), tmp_path, dispatcher)
    for _ in range(6):
        trail.sync.log_authentication(success=False, user_id="alice")
    trail.sync.stop()
    assert [alert.event.metadata["record"] for alert in dispatcher.alerts] == [5]


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Of two processes that log failed logins at the same time, one reports the fifth."""
    command = [sys.executable, str(PROGRAM), str(tmp_path), "8"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait() for process in processes] == [0, 0]
    events = AuditTrail(storage_path=tmp_path).sync.get_events()[::-1]
    failures = [event.event_id for event in events if event.event_type is not RULE_MET and event.user_id == "alice"]
    (met,) = [event for event in events if event.event_type == RULE_MET]
    assert list(met.metadata["events"]) == failures[:5]


async def test_without_alerts() -> None:
    """Without alerts in real time a rule that is met is recorded all the same."""
    storage, dispatcher = MemoryStorage(), RecordingDispatcher()
    await fail(AuditTrail(policy(real_time_alerts=False), storage=storage, alert_dispatcher=dispatcher), 5)
    assert [event.event_type for event in storage.events][5:] == [RULE_MET]
    assert not dispatcher.alerts


async def test_a_policy_that_is_disabled() -> None:
    """A policy that stores nothing applies no rules."""
    storage = MemoryStorage()
    async with AuditTrail(policy(enabled=False), storage=storage) as trail:
        await fail(trail, 5)
    assert not storage.events


async def test_what_no_rule_counts_costs_nothing() -> None:
    """The trail is not read for an event of a type that no rule counts."""
    storage = FailingStorage()
    trail = AuditTrail(policy(), storage=storage)
    await trail.log_data_access("patient/42", "read", user_id="alice")
    assert storage.asked == 0
    await fail(trail, 1)
    assert storage.asked > 0


async def test_a_storage_that_cannot_be_read() -> None:
    """The caller has an id of an event that is stored; that it can't be counted is an incident, and then resolved."""
    storage, dispatcher = FailingStorage(), RecordingDispatcher()
    trail = AuditTrail(policy(), storage=storage, alert_dispatcher=dispatcher)
    storage.is_unreadable = True
    await fail(trail, 5)
    storage.is_unreadable = False
    await fail(trail, 1, "bob")
    assert [alert.event.event_type for alert in dispatcher.alerts] == [
        "component_failure",
        RULE_MET,
        "component_recovery",
    ]
    assert [alert.event.operation for alert in dispatcher.alerts][::2] == ["applying rules", "applying rules"]


async def test_a_storage_that_refuses_the_event_about_a_rule() -> None:
    """An event about a rule that can't be stored raises nothing, is one incident, and comes with the next event."""
    storage, dispatcher = FailingStorage(), RecordingDispatcher()
    trail = AuditTrail(policy(), storage=storage, alert_dispatcher=dispatcher)
    storage.refuses = lambda event: event.event_type == RULE_MET
    await fail(trail, 5)
    storage.refuses = lambda _: False
    await fail(trail, 1, "bob")
    kinds = [alert.event.event_type.value for alert in dispatcher.alerts]
    assert sorted(kinds) == ["component_failure", "component_recovery", "rule.threshold"]
    assert {alert.event.operation for alert in dispatcher.alerts} == {"storing events", None}


async def test_no_rule_feeds_itself() -> None:
    """What a dispatcher logs when it is told of a rule does not count."""
    storage = MemoryStorage()

    class Logging(RecordingDispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            await super().send_alert(event, severity=severity, channel=channel)
            await fail(trail, 5)

    dispatcher = Logging()
    trail = AuditTrail(policy(), storage=storage, alert_dispatcher=dispatcher)
    await fail(trail, 5)
    assert len(dispatcher.alerts) == 1
    await fail(AuditTrail(policy(), storage=storage), 1, "bob")
    assert [event.event_type for event in storage.events].count(RULE_MET) == 1


async def test_a_predicate_that_logs() -> None:
    """What a predicate logs does not count, and is stored."""
    storage = MemoryStorage()

    def logs(_: AuditEvent) -> bool:
        trail.sync.log_event("data_export", "seen")
        return True

    trail = AuditTrail(policy(Threshold("data_export", count=2, within=60, where=logs)), storage=storage)
    await trail.log_event("data_export", "an export")
    await trail.log_event("data_export", "another")
    assert [event.metadata["record"] for event in storage.events if event.event_type == RULE_MET] == [3]


async def test_a_caller_that_is_cancelled(tmp_path: Path) -> None:
    """A caller that is cancelled while its event is counted loses no report: the next event brings it."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(policy(), storage=FileStorage(tmp_path), alert_dispatcher=dispatcher)
    await fail(trail, 4)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await fail(trail, 1)
    await fail(trail, 2)
    assert [alert.event.metadata["record"] for alert in dispatcher.alerts] == [5]


async def test_long_and_odd_values() -> None:
    """Whatever the events have in common, the event about the rule can be stored, and says which value it is."""
    storage = MemoryStorage()
    trail = AuditTrail(policy(Threshold("data_export", count=2, within=60, by="tenant")), storage=storage)
    for value in ("x" * 1_000_000, {"a": list(range(100))}, "\ud800\x1b[31m", 7, object()):
        for _ in range(2):
            await trail.log_event("data_export", "an export", metadata={"tenant": value})
    found = [event for event in storage.events if event.event_type == RULE_MET]
    assert [event.metadata["record"] for event in found] == [2, 5, 8, 11, 14]
    assert all(event.metadata["value"] is not None for event in found)
    assert (await trail.verify_chain_from_storage()).valid


@pytest.mark.parametrize(
    ("by", "asked"),
    [
        ("user_id", {"user_id": "a\udcff"}),
        ("actor", {"actor": "a\udcff"}),
        ("target", {"target": Target(type="patient", id="a\udcff")}),
        ("target", {"target": Target(id="a/b")}),
        ("target", {"target": Target(name="the ward")}),
    ],
)
async def test_who_asks_for_the_events_finds_the_one_about_them(by: str, asked: dict[str, Any]) -> None:
    """An event about a rule has the user or the target of the events behind it, as they were given."""
    trail = AuditTrail(policy(Threshold("data_export", count=2, within=60, by=by)), storage=MemoryStorage())
    for _ in range(2):
        await trail.log_event("data_export", "an export", **asked)
    await trail.drain()
    newest, *others = await trail.get_events(**asked)
    assert newest.event_type == RULE_MET
    assert len(others) == 2


async def test_the_value_is_the_one_of_the_events() -> None:
    """The value in an event about a rule is that in the events behind it: its texts are not escaped once more."""
    trail = AuditTrail(policy(Threshold("data_export", count=1, within=60, by="tenant")), storage=MemoryStorage())
    await trail.log_event("data_export", "an export", metadata={"tenant": {"a\udcff": ["\\udcff"]}})
    await trail.drain()
    about, event = await trail.get_events()
    assert about.metadata["value"] == event.metadata["tenant"]
