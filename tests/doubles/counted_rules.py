"""Processes that count the events of one trail for the same rules, at any time of day."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from fapilog import AuditEvent, AuditEventType, CompliancePolicy, Threshold
from fapilog.core._health import Health
from fapilog.core._rules import Rules
from fapilog.core.signals import Aftermath
from fapilog.record.chain import sealed
from fapilog.record.kinds import RULE_MET
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import AuditStorage
from fapilog.tasks.background import Background
from tests.doubles.failing_storage import FailingStorage

__all__ = ["Process", "expected", "met"]

BEGIN = datetime(2026, 3, 1, tzinfo=UTC).timestamp()


class Process:
    """Stores events, and counts them when it is told to."""

    def __init__(self, storage: AuditStorage, rules: Iterable[Threshold]) -> None:
        self.storage = storage
        self.background = Background()
        self.incidents: list[AuditEvent] = []
        self.recorded = 0
        self.error: Exception | None = None
        health = Health(CompliancePolicy(), self.background, announce=self.incidents.append, store=self._keep)
        self.rules = Rules(
            rules,
            storage=storage,
            background=self.background,
            health=health,
            aftermath=Aftermath(seconds=30),
            record=self._record,
        )

    async def log(self, seconds: float, kind: str = "authentication_failed", **fields: Any) -> AuditEvent:
        """Store an event that is recorded so many seconds after the beginning, and have it counted."""
        event = AuditEvent(
            event_type=AuditEventType(kind),
            message="wrong password",
            timestamp=datetime.fromtimestamp(BEGIN + seconds, UTC),
            **fields,
        )
        seal = await self.storage.append(event)
        assert seal is not None
        stored = sealed(event, seal)
        if stored.event_type in self.rules.kinds:
            self.rules.apply(stored)
        return stored

    async def count(self) -> None:
        """Count what waits."""
        await self.background.settle()

    async def start(self) -> None:
        """Count what earlier processes have left."""
        self.rules.start()
        await self.count()

    async def _record(self, message: str, **fields: Any) -> None:
        if self.error is not None:
            raise self.error
        self.recorded += 1
        event = AuditEvent(event_type=RULE_MET, message=message, **fields)
        await self.storage.append(event, once=True)

    async def _keep(self, event: AuditEvent) -> AuditEvent:
        self.incidents.append(event)
        return event


def met(storage: MemoryStorage | FailingStorage, rule: Threshold | None = None) -> list[int]:
    """Return the numbers of the records that met *rule*, or any rule, in the order of the events about that."""
    about = [event.metadata for event in storage.events if event.event_type == RULE_MET]
    return [each["record"] for each in about if rule is None or each["rule"] == rule.name]


def expected(storage: MemoryStorage, rule: Threshold) -> list[int]:
    """Return the numbers of the records that meet *rule*, by the words of its documentation."""
    numbers: list[int] = []
    last: dict[object, float] = {}
    times: dict[object, list[float]] = {}
    for event in storage.events:
        value = rule.value_of(event)
        if event.event_type not in rule.kinds or value is None:
            continue
        time = event.timestamp.timestamp()
        newest = times.setdefault(value, [])
        newest.append(time)
        within = [each for each in newest if time - each <= rule.within]
        if len(within) >= rule.count and not (value in last and time - last[value] <= rule.within):
            last[value] = time
            assert event.sequence_number is not None
            numbers.append(event.sequence_number)
    return numbers
