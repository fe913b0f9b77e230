"""The counts of one rule: which events it has seen, and where it was met."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias

import msgspec

from ..record.events import AuditEvent
from ..record.kinds import RULE_MET
from ..tasks.strangers import Log, answer
from .rules import Threshold
from .signals import Aftermath

__all__ = ["MOST_COUNTED", "Counts", "Found", "Met"]

_log: Final = Log("fapilog")

MOST_COUNTED: Final = 50_000
"""The events of a rule that are counted; an event takes a few hundred bytes."""
# Events about a rule that can't be stored, and wait.
_MOST_OWED: Final = 1_000
# Seconds. A process that begins to count records the rules that were met up to this long ago, if no record says so yet:
# the process that saw it may have been killed. It records no older ones: the rule may be new, and the trail a year old.
_OWED: Final = 600.0


class _Counted(NamedTuple):
    """An event that counts: its number, its time in seconds, and its id."""

    number: int
    time: float
    event_id: str


Found: TypeAlias = tuple[int, bool, str, _Counted]
"""By number, and then where a rule was met: whether it is known that it was; the value; and the event."""


class Met(NamedTuple):
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


class Counts:
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
        self._owed: deque[Met] = deque(maxlen=_MOST_OWED)
        self._forget(math.inf)

    def _forget(self, since: float) -> None:
        # Counted are all events that were recorded since that time, up to that number, of that time.
        self._since = since
        self.number, self._time = 0, math.inf
        # By value, the one whose newest event is the oldest first.
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._size = 0

    @property
    def owed(self) -> Met | None:
        """Where the rule was met, if there may be no event about that; the oldest."""
        return self._owed[0] if self._owed else None

    def settle(self, met: Met) -> None:
        """Note that there is an event about *met*."""
        if self.owed is met:
            self._owed.popleft()

    def since(self, now: float) -> float:
        """Return the time back to which the trail is read for the first time."""
        # The events that can bear on a rule met that long ago; and as much again, for clocks that differ or are set
        # back.
        return now - _OWED - 2 * self.rule.within

    def begins_anew(self, now: float) -> bool:
        """Return whether the events between those that are counted and *now* were not all counted."""
        within = self.rule.within
        return not self._since + within <= now <= self._time + _OWED + within

    def found(self, event: AuditEvent) -> Found | None:
        """Return what *event* tells of this rule: it counts, or it is the event about the rule; None for nothing."""
        if event.event_type == RULE_MET:
            about = event.metadata
            key, number = about.get("key"), about.get("record")
            if about.get("rule") != self.rule.name or event.occurred is None:
                return None
            if not isinstance(key, str) or not isinstance(number, int):
                return None
            return number, True, key, _Counted(number, event.occurred.timestamp(), event.event_id)
        if (key := self._key(event)) is None:
            return None
        counted = _Counted(event.sequence_number or 0, event.timestamp.timestamp(), event.event_id)
        return counted.number, False, key, counted

    def count(self, found: list[Found], number: int, now: float, *, is_new: bool) -> None:
        """Count what was *found* up to that *number*, which was recorded *now*."""
        since = self.since(now)
        if is_new:
            self._forget(since)
        for _, is_known, key, event in sorted(found):
            if is_known:
                self._run(key).met = event.time
            elif event.number > self.number and event.time >= since:
                self._add(key, event, decides=not is_new or abs(now - event.time) <= _OWED)
        self._since, self.number, self._time = max(self._since, since), number, now
        self._trim(since)

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
            self._owed.append(Met(key, event.number, event.time, [each.event_id for each in run.events]))

    def _trim(self, since: float) -> None:
        """Forget the values without an event *since* then, and the oldest if there are too many."""
        while self._runs:
            key, run = next(iter(self._runs.items()))
            if self._size <= MOST_COUNTED and run.events and run.events[-1].time >= since:
                return
            self._size -= len(run.events)
            del self._runs[key]
