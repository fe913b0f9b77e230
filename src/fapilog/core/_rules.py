"""Applying the rules of a policy: the events of a trail are counted in the order of the chain."""

from __future__ import annotations

import functools
import math
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import replace

from ..record.errors import AuditStorageError, reason
from ..record.events import AuditEvent
from ..record.kinds import RULE_MET, AuditEventType
from ..storage.protocol import AuditStorage, EventFilter
from ..tasks.background import Background, own_context
from ..tasks.loops import Loop
from ..tasks.strangers import Log, answer, contained
from ._health import Health
from ._incidents import RULES
from ._reading import Events
from .rules import Threshold
from .signals import Aftermath

__all__ = ["MOST_COUNTED", "Record", "Rules"]

Record = Callable[..., Coroutine[Any, Any, None]]
"""Records the event about a rule: is called with its message and its fields."""

_log: Final = Log("fapilog")

MOST_COUNTED: Final = 50_000
"""The events of a rule that are counted; an event takes a few hundred bytes."""
# The ids that stand in an event about a rule, so that it surely fits into a record.
_MOST_IDS: Final = 100
# Events about a rule that can't be stored, and wait.
_MOST_OWED: Final = 1_000
# Seconds. A process that begins to count records the rules that were met up to this long ago, if no record says so yet:
# the process that saw it may have been killed. It records no older ones: the rule may be new, and the trail a year old.
_OWED: Final = 600.0
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
    ) -> None:
        self._rules = tuple(rules)
        # A tuple, in which a member is found without its hash, which for an enum is slow: every event is looked up.
        self.kinds: tuple[AuditEventType, ...] = tuple({kind: None for rule in self._rules for kind in rule.kinds})
        self._storage = storage
        self._background = background
        self._health = health
        self._aftermath = aftermath
        self.forget()

    def forget(self) -> None:
        """Become as new, in a forked child."""
        self._lock = threading.RLock()
        self._newest: AuditEvent | None = None
        self._is_starting = False
        # The loop in which a task counts.
        self._counting_in: Loop | None = None
        self._counts = [_Counts(rule, self._aftermath) for rule in self._rules]

    def apply(self, event: AuditEvent, record: Record) -> None:
        """Count *event*, which is stored, soon. From any thread; raises nothing."""
        with self._lock:
            self._newest = _later(self._newest, event)
        self._start(record)

    def start(self, record: Record) -> None:
        """Count soon the events of earlier processes, which may have been killed before they counted them."""
        if self._rules:
            self._is_starting = True
            self._start(record)

    def _start(self, record: Record) -> None:
        # The event about a rule does not belong to the request that happened to be the last.
        own_context().run(self._background.start_soon, functools.partial(self._count, record))

    async def _count(self, record: Record) -> None:
        """Count up to the newest event, unless another task is at it, which then does."""
        with self._lock:
            if self._counting_in is not None and not self._counting_in.is_closed:
                return
            self._counting_in = Loop.current()
        is_over = False
        try:
            while not is_over:
                with contained():
                    is_over = not await self._count_on(record)
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

    async def _count_on(self, record: Record) -> bool:
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
        for counts in self._counts:
            await counts.read(self._storage, newest)
            while (met := counts.owed) is not None:
                await self._record(counts.rule, met, record)
                counts.settle(met)
        with self._lock:
            if self._newest is newest:
                self._newest = None
        return True

    async def _record(self, rule: Threshold, met: _Met, record: Record) -> None:
        """Record that *rule* is met, unless the trail has such a record already."""
        known = EventFilter(event_type=RULE_MET, after=met.number, metadata={"rule": rule.name, "key": met.key})
        async for event in _newest_first(self._storage, known):
            if event.metadata.get("record") == met.number:
                return
        value = None
        # Read from the last of the events that met the rule: a value may be large, and is not kept for all counted
        # events.
        for item in await self._storage.find(EventFilter(after=met.number - 1, before=met.number + 1), 1):
            if isinstance(item, AuditEvent):
                value = rule.value_of(item)
        try:
            await record(
                f"Threshold reached: {rule.name}",
                event_id=str(uuid.uuid5(_NAMESPACE, "\0".join([rule.name, met.key, str(met.number), *met.ids]))),
                log_level=rule.log_level,
                occurred=_time(met.time),
                metadata={
                    "rule": rule.name,
                    "by": rule.by,
                    "value": value,
                    "key": met.key,
                    "count": rule.count,
                    "within": rule.within,
                    "record": met.number,
                    "events": met.ids[-_MOST_IDS:],
                },
                **rule.members(value),
            )
        except AuditStorageError as error:
            raise _NotRecordedError(reason(error)) from error


class _NotRecordedError(Exception):
    """Raised when the event about a rule can't be stored."""


class _Counted(NamedTuple):
    """An event that counts: its number, its time in seconds, and its id."""

    number: int
    time: float
    event_id: str


# By number, and then where the rule was met: whether it is known that it was; the value; and the event.
_Found = tuple[int, bool, str, _Counted]


class _Met(NamedTuple):
    """A rule that was met by the event of that number, for the value of that key."""

    key: str
    number: int
    time: float
    ids: list[str]


class _Run:
    """The newest events of one value, as many as meet the rule at most, and the time when it was met."""

    __slots__ = ("events", "met")

    def __init__(self) -> None:
        self.events: list[_Counted] = []
        self.met = math.nan


class _Counts:
    """
    The counts of one rule.

    Args:
        rule: The rule.
        aftermath: The same as for `Rules`.
    """

    def __init__(self, rule: Threshold, aftermath: Aftermath) -> None:
        self.rule = rule
        self._aftermath = aftermath
        self._has_complained = False
        self._owed: deque[_Met] = deque(maxlen=_MOST_OWED)
        self._forget(math.inf)

    def _forget(self, since: float) -> None:
        # Counted are all events that were recorded since that time, up to that number, of that time.
        self._since = since
        self._number, self._time = 0, math.inf
        # By value, the one whose newest event is the oldest first.
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._size = 0

    @property
    def owed(self) -> _Met | None:
        """Where the rule was met, if there may be no event about that; the oldest."""
        return self._owed[0] if self._owed else None

    def settle(self, met: _Met) -> None:
        """Note that there is an event about *met*."""
        if self.owed is met:
            self._owed.popleft()

    async def read(self, storage: AuditStorage, last: AuditEvent) -> None:
        """Count the events of the trail up to *last*."""
        number, now, within = last.sequence_number or 0, last.timestamp.timestamp(), self.rule.within
        if number <= self._number:
            return
        # The events that can bear on a rule met that long ago; and as much again, for clocks that differ or are set
        # back.
        since = now - _OWED - 2 * within
        # Begin anew if the events in between were not all counted.
        is_new = not self._since + within <= now <= self._time + _OWED + within
        after = 0 if is_new else self._number
        span = EventFilter(start_time=_time(since), after=after)
        found = await self._found(storage, span, number)
        if is_new:
            found += await self._known(storage, span.start_time)
        # Nothing is awaited from here on: a cancellation leaves the counts as they were.
        if is_new:
            self._forget(since)
        self._since, self._number, self._time = max(self._since, since), number, now
        for _, is_known, key, event in sorted(found):
            if is_known:
                self._run(key).met = event.time
            else:
                self._add(key, event, decides=not is_new or abs(now - event.time) <= _OWED)
        self._trim(since)

    async def _found(self, storage: AuditStorage, span: EventFilter, last: int) -> list[_Found]:
        """Return the events of a span that count, up to the number *last*."""
        found: list[_Found] = []
        for kind in self.rule.kinds:
            async for event in _newest_first(storage, replace(span, event_type=kind)):
                # Not asked of the storage: a storage in files would look for the place, and not many are beyond it.
                if (event.sequence_number or 0) <= last and (key := self._key(event)) is not None:
                    counted = _Counted(event.sequence_number or 0, event.timestamp.timestamp(), event.event_id)
                    found.append((counted.number, False, key, counted))
                if len(found) >= MOST_COUNTED:
                    break
        return found

    async def _known(self, storage: AuditStorage, since: datetime | None) -> list[_Found]:
        """Return where the rule was met, as the events about that say."""
        found: list[_Found] = []
        wanted = EventFilter(event_type=RULE_MET, start_time=since, metadata={"rule": self.rule.name})
        async for event in _newest_first(storage, wanted):
            key, number = event.metadata.get("key"), event.metadata.get("record")
            if isinstance(key, str) and isinstance(number, int) and event.occurred is not None:
                found.append((number, True, key, _Counted(number, event.occurred.timestamp(), event.event_id)))
            if len(found) >= MOST_COUNTED:
                break
        return found

    def _key(self, event: AuditEvent) -> str | None:
        """Return a hash of the value that *event* is counted by; None if it does not count."""
        if event.not_announced is not None or (value := self.rule.value_of(event)) is None:
            return None
        # As JSON, in which 1, "1" and true are different.
        return sha256(msgspec.json.encode(value)).hexdigest()[:32] if self._is_meant(event) else None

    def _is_meant(self, event: AuditEvent) -> bool:
        where = self.rule.where
        if where is None:
            return True
        try:
            with self._aftermath.begun():
                return bool(answer(where, event))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._complain(error)
        return False

    def _complain(self, error: BaseException) -> None:
        if not self._has_complained:
            self._has_complained = True
            words = "the predicate of the rule %r raised %s: such events are not counted"
            _log.error(words, self.rule.name, type(error).__qualname__)

    def _run(self, key: str) -> _Run:
        run = self._runs.setdefault(key, _Run())
        self._runs.move_to_end(key)
        return run

    def _add(self, key: str, event: _Counted, *, decides: bool) -> None:
        run, count, within = self._run(key), self.rule.count, self.rule.within
        run.events.append(event)
        self._size += 1
        if len(run.events) > count:
            del run.events[0]
            self._size -= 1
        if not decides or len(run.events) < count or abs(event.time - run.met) <= within:
            return
        if all(abs(event.time - each.time) <= within for each in run.events):
            run.met = event.time
            self._owed.append(_Met(key, event.number, event.time, [each.event_id for each in run.events]))

    def _trim(self, since: float) -> None:
        """Forget the values without an event *since* then, and the oldest if there are too many."""
        while self._runs:
            key, run = next(iter(self._runs.items()))
            if self._size <= MOST_COUNTED and run.events and run.events[-1].time >= since:
                return
            self._size -= len(run.events)
            del self._runs[key]


def _newest_first(storage: AuditStorage, wanted: EventFilter) -> Events[AuditEvent]:
    return Events(storage, wanted, oldest_first=False)


def _later(one: AuditEvent | None, other: AuditEvent) -> AuditEvent:
    return one if one is not None and (one.sequence_number or 0) > (other.sequence_number or 0) else other


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(max(0.0, seconds), UTC)
