"""Applying the rules of a policy: the events of a trail are counted in the order of the chain."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from ..record.errors import AuditStorageError, reason
from ..record.events import AuditEvent
from ..record.kinds import RULE_MET, AuditEventType
from ..record.texts import original
from ..storage.protocol import AuditStorage, EventFilter
from ..tasks.background import Background, own_context
from ..tasks.loops import Loop
from ..tasks.strangers import Log, contained
from ._counts import MOST_COUNTED, Counts, Found, Met
from ._health import Health, weakly
from ._incidents import RULES
from ._reading import Events
from .rules import Threshold
from .signals import Aftermath

__all__ = ["Rules"]

_log: Final = Log("fapilog")

# The ids that stand in an event about a rule, so that it surely fits into a record.
_MOST_IDS: Final = 100
_ByRule: TypeAlias = dict[Counts, list[Found]]
# The namespace of the ids of events about rules; any UUID would do.
_NAMESPACE: Final = uuid.UUID("b5a4fb2c-0b5e-4d0a-9a57-5f1c1f2f6a57")


class Rules:
    """
    Counts the events of a trail for the rules of its policy.

    Args:
        rules: The rules.
        storage: Has the events.
        background: Runs the counting.
        health: Takes its failures.
        aftermath: Notes the calls of predicates, whose own events must not be counted.
        record: Records the event about a rule, by its message and its fields. A bound method is held weakly.

    Attributes:
        kinds: The types of the events that a rule counts.
    """

    # Why the trail is read, instead of counting the events that this process records: several processes write to one
    # trail, and after a restart only the trail is known. Every process counts all events in the order of the chain. So
    # all find the same event to be the fifth, whichever process recorded it, and derive the same id for the event about
    # the rule, which the storage stores once. If one of them is killed before that, another stores it.
    #
    # Why counts are kept, and the trail is not searched at every event: that would be a search through all records of
    # the last ten minutes, for every password that an attacker tries. With counts, every record is looked at once.

    def __init__(
        self,
        rules: Iterable[Threshold],
        *,
        storage: AuditStorage,
        background: Background,
        health: Health,
        aftermath: Aftermath,
        record: Callable[..., Coroutine[Any, Any, None]],
    ) -> None:
        self._rules = tuple(rules)
        # A tuple, in which a member is found without its hash, which for an enum is slow: every event is looked up.
        self.kinds: tuple[AuditEventType, ...] = tuple({kind: None for rule in self._rules for kind in rule.kinds})
        self._storage = storage
        self._background = background
        self._health = health
        self._aftermath = aftermath
        self._record = weakly(record)
        self.forget()

    def forget(self) -> None:
        """Become as new, in a forked child."""
        self._lock = threading.RLock()
        self._newest: AuditEvent | None = None
        self._is_starting = False
        # The loop in which a task counts.
        self._counting_in: Loop | None = None
        self._counts = [Counts(rule, self._aftermath) for rule in self._rules]
        # The rules that an event of a type may bear on.
        self._by_kind = {kind.value: [each for each in self._counts if kind in each.rule.kinds] for kind in self.kinds}
        self._by_kind[RULE_MET.value] = self._counts

    def apply(self, event: AuditEvent) -> None:
        """Count *event*, which is stored, soon. From any thread; raises nothing."""
        with self._lock:
            self._newest = _later(self._newest, event)
        self._start()

    def start(self) -> None:
        """Count soon the events of earlier processes, which may have been killed before they counted them."""
        if self._rules:
            self._is_starting = True
            self._start()

    def _start(self) -> None:
        # The event about a rule does not belong to the request that happened to be the last.
        own_context().run(self._background.start_soon, self._count)

    async def _count(self) -> None:
        """Count up to the newest event, unless another task is at it, which then does."""
        with self._lock:
            if self._counting_in is not None and not self._counting_in.is_closed:
                return
            self._counting_in = Loop.current()
        is_over = False
        try:
            while not is_over:
                with contained():
                    is_over = not await self._count_on()
                self._health.working(RULES)
        except _NotRecordedError as error:
            # An incident of the storage by now.
            _log.error("the event about a rule is not stored, and will be with the next event: %s", error)
        except Exception as error:
            why = reason(error)
            _log.error("rules can't be applied: %s", why)
            self._health.failing(RULES, why)
        finally:
            if not is_over:
                with self._lock:
                    self._counting_in = None

    async def _count_on(self) -> bool:
        """Count up to the event that is the newest now; return False if there is none."""
        if self._is_starting:
            for item in await self._storage.find(EventFilter(), 1):
                if isinstance(item, AuditEvent):
                    with self._lock:
                        self._newest = _later(self._newest, item)
            self._is_starting = False
        with self._lock:
            newest = self._newest
            if newest is None:
                # With the lock held: an event that comes from here on begins anew.
                self._counting_in = None
                return False
        await self._read(newest)
        for counts in self._counts:
            while (met := counts.owed) is not None:
                await self._record_met(counts.rule, met)
                counts.settle(met)
        with self._lock:
            if self._newest is newest:
                self._newest = None
        return True

    async def _read(self, last: AuditEvent) -> None:
        """Count the events of the trail up to *last*; what several rules lack is read once."""
        number, now = last.sequence_number or 0, last.timestamp.timestamp()
        behind = [counts for counts in self._counts if counts.number < number]
        new = {counts for counts in behind if counts.begins_anew(now)}
        found: _ByRule = {}
        known: _ByRule = {}
        if continued := [counts for counts in behind if counts not in new]:
            # All types at once: there are few events since the last one.
            span = EventFilter(event_type=self.kinds, after=min(counts.number for counts in continued))
            await self._look(span, number, continued, found)
        # Each type alone, which the storage finds faster, and back to the time that a rule with this window needs.
        windows: dict[tuple[AuditEventType, float], list[Counts]] = {}
        for counts in new:
            for kind in (*counts.rule.kinds, RULE_MET):
                windows.setdefault((kind, counts.since(now)), []).append(counts)
        for (kind, since), rules in windows.items():
            span = EventFilter(event_type=kind, start_time=_time(since))
            await self._look(span, number, rules, known if kind is RULE_MET else found)
        # Nothing is awaited from here on: a cancellation leaves the counts as they were.
        for counts in behind:
            counts.count([*found.get(counts, ()), *known.get(counts, ())], number, now, is_new=counts in new)

    async def _look(self, span: EventFilter, last: int, rules: Iterable[Counts], found: _ByRule) -> None:
        """Add to *found* the events of a span, up to the number *last*, that count for these *rules*."""
        wanting = {counts for counts in rules if len(found.get(counts, ())) < MOST_COUNTED}
        if not wanting:
            return
        async for event in Events[AuditEvent](self._storage, span, oldest_first=False):
            # Not asked of the storage: a storage in files would look for the place, and not many are beyond it.
            if (event.sequence_number or 0) > last:
                continue
            for counts in self._by_kind.get(event.event_type.value, ()):
                if counts in wanting and (one := counts.found(event)) is not None:
                    of_rule = found.setdefault(counts, [])
                    of_rule.append(one)
                    if len(of_rule) >= MOST_COUNTED:
                        wanting.remove(counts)
            if not wanting:
                return

    async def _record_met(self, rule: Threshold, met: Met) -> None:
        """Record that *rule* is met, unless the trail has such a record already."""
        record = self._record()
        if record is None:
            return  # the trail is gone
        known = EventFilter(event_type=RULE_MET, after=met.number, metadata={"rule": rule.name, "key": met.key})
        async for event in Events[AuditEvent](self._storage, known, oldest_first=False):
            if event.metadata.get("record") == met.number:
                return
        value: Any = None
        members: dict[str, Any] = {}
        # Read from the last of the events that met the rule: a value may be large, and is not kept for all counted
        # events.
        for item in await self._storage.find(EventFilter(after=met.number - 1, before=met.number + 1), 1):
            if isinstance(item, AuditEvent):
                value, members = rule.value_of(item), rule.members(item)
        try:
            await record(
                f"Threshold reached: {rule.name}",
                event_id=str(uuid.uuid5(_NAMESPACE, "\0".join([rule.name, met.key, str(met.number), *met.ids]))),
                log_level=rule.log_level,
                occurred=_time(met.time),
                metadata={
                    "rule": rule.name,
                    "by": rule.by,
                    "value": _as_given(value),
                    "key": met.key,
                    "count": rule.count,
                    "within": rule.within,
                    "record": met.number,
                    "events": met.ids[-_MOST_IDS:],
                },
                **_as_given(members),
            )
        except AuditStorageError as error:
            raise _NotRecordedError(reason(error)) from error


class _NotRecordedError(Exception):
    """Raised when the event about a rule can't be stored."""


def _later(one: AuditEvent | None, other: AuditEvent) -> AuditEvent:
    return one if one is not None and (one.sequence_number or 0) > (other.sequence_number or 0) else other


def _as_given(stored: Any) -> Any:
    """Return a value of a record as it was given, since what is recorded is escaped."""
    if isinstance(stored, str):
        return original(stored)
    if isinstance(stored, Mapping):
        return {original(name): _as_given(each) for name, each in stored.items()}
    return [_as_given(each) for each in stored] if isinstance(stored, list) else stored


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(max(0.0, seconds), UTC)
