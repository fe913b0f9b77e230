"""When the target is called: by the terms of the outbox, and by how the attempts before have ended."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final, NamedTuple

from ...core.alerting import outcome_of, pause_of
from ...record.errors import BrokenRouteError, PermanentDeliveryError
from ...record.options import require, several
from ._place import Claim, Verdict

__all__ = ["SCHEDULE", "Breaker", "Terms"]

SCHEDULE: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds between the attempts, over three days in all; much as the Standard Webhooks specification has it."""

# Seconds, a century: longer, or without an end, means the same, and a database knows no such times.
_LONGEST: Final = 100 * 365 * 86_400.0
# A target that asks for a longer pause, perhaps since its clock is wrong, would stop all alerts for as long.
_LONGEST_PAUSE: Final = 86_400.0
# "Retry-After: 0", or a date that is over, would have the target called as fast as it refuses. So a pause is a second
# at least, and doubles with every refusal in a row, up to five minutes.
_SHORTEST_PAUSE: Final = 1.0
_LONGEST_FLOOR: Final = 300.0
# A broken route is tried as the schedule says, and every quarter of an hour at least: the operator who mends it waits.
_LONGEST_PROBE: Final = 900.0
# So many failures one after the other mean that the target is down, and not that it dislikes an alert.
_DOWN: Final = 3
# Alerts that are claimed per lane, so that no lane waits for the store.
_AHEAD: Final = 16


class Terms(NamedTuple):
    """The options of an outbox's sending; `Outbox` explains them."""

    schedule: Sequence[float]
    concurrency: int
    timeout: float
    keep: float
    old_after: float
    lease: float
    stop_timeout: float

    @property
    def longest_wait(self) -> float:
        """More seconds than an alert may have to wait: a longer time in the place was written by a wrong clock."""
        return 1.5 * max(_LONGEST_PAUSE, self.lease, *self.schedule)

    def checked(self) -> Terms:
        """Return them with an end; raise TypeError or ValueError, as `Outbox` does, if one is not as it must be."""
        schedule = several("schedule", self.schedule, expected="a list of numbers")
        return Terms(
            schedule=tuple(min(require("schedule", wait, at_least=0, finite=True), _LONGEST) for wait in schedule),
            concurrency=require("concurrency", self.concurrency, at_least=1, whole=True),
            timeout=min(require("timeout", self.timeout, above=0), _LONGEST),
            keep=min(require("keep", self.keep, above=0), _LONGEST),
            old_after=min(require("old_after", self.old_after, above=0), _LONGEST),
            lease=min(require("lease", self.lease, above=0), _LONGEST),
            stop_timeout=require("stop_timeout", self.stop_timeout, at_least=0, finite=True),
        )


class Breaker:
    """
    Judges attempts, and slows the sender down while the target fails.

    It opens after three failures in a row, when the target asks for a pause, or when the route to it is broken: then
    one alert is sent at a time. While the route is broken none is sent but one now and then. Every success opens one
    more lane, so that the lanes double with every round.

    Args:
        terms: Say how many alerts may be sent at once while it is closed, and when to try again.

    Attributes:
        lanes: Alerts that may be sent at once now.
        paused_until: When the target may be called again, on the event loop's clock.
        asked_until: Likewise, by its own wish alone, which other processes learn from the file.
        probes: How often the route to the target was tried in a row, and found broken.
        recovered: Whether a success has followed on an outage, and the alerts that wait are to be made due.
    """

    def __init__(self, terms: Terms) -> None:
        self._most = terms.concurrency
        self._schedule = terms.schedule
        # In a row.
        self._failures = self._refusals = 0
        self.probes: int = 0
        self.lanes: int = terms.concurrency
        self.paused_until: float = -math.inf
        self.asked_until: float = -math.inf
        self.recovered: bool = False

    def room(self, held: int, now: float) -> int:
        """Return how many alerts may be claimed beside *held*: several per lane, but one in all to probe with."""
        if now < self.paused_until:
            return 0
        return self.lanes * (_AHEAD if self.lanes > 1 else 1) - held

    def try_route(self, now: float) -> bool:
        """Let a broken route be tried now, as an operator wants; return whether that is earlier than it would be."""
        if not self.probes or not self.asked_until <= now < self.paused_until:
            return False
        self.paused_until = now
        return True

    def judge(self, claim: Claim, error: Exception | None, now: float) -> Verdict:
        """
        Return the consequence of an attempt, and learn from it.

        Args:
            claim: The alert that was attempted.
            error: Why the attempt failed; None if it succeeded.
            now: The time on the event loop's clock.
        """
        failures, spent = claim.failures, claim.spent
        if error is None:
            self._succeed()
            return Verdict("dispatched", "delivered", 0.0, failures, spent)
        outcome = outcome_of(error)
        if isinstance(error, BrokenRouteError):
            wait = self._break(now) * random.uniform(1.0, 1.2)  # noqa: S311  spreads load
            return self._waiting(Verdict(outcome, "pending", wait, failures, spent + wait))
        if isinstance(error, PermanentDeliveryError):
            # The target works, and does not want this alert.
            self.recovered |= self.probes > 0
            self.probes = 0
            return Verdict(outcome, "dead", 0.0, failures, spent)
        pause = pause_of(error, _LONGEST_PAUSE)
        if pause is not None:
            pause = self._pause(pause, now)
            wait = pause + random.uniform(0, max(1.0, pause / 10))  # noqa: S311  spreads load
            return self._waiting(Verdict(outcome, "pending", wait, failures, spent + wait))
        self._fail()
        if failures >= len(self._schedule):
            return Verdict(outcome, "dead", 0.0, failures + 1, spent)
        # Never less than the schedule: a target that comes back within all of it is to miss no alert.
        wait = self._schedule[failures] * random.uniform(1.0, 1.2)  # noqa: S311  spreads load
        return Verdict(outcome, "pending", wait, failures + 1, spent)

    def acted_on_recovery(self) -> None:
        """Forget that the target has recovered: the alerts that waited are due."""
        self.recovered = False

    def _waiting(self, verdict: Verdict) -> Verdict:
        # The waits are summed up, and no clock is read: it may be set meanwhile.
        is_over = verdict.spent > max(sum(self._schedule), verdict.wait)
        return verdict._replace(status="dead") if is_over else verdict

    def _succeed(self) -> None:
        self.recovered |= self._failures >= _DOWN or self.probes > 0
        self._failures = self._refusals = self.probes = 0
        self.lanes = min(self._most, self.lanes + 1)

    def _fail(self) -> None:
        self._failures += 1
        if self._failures >= _DOWN:
            self.lanes = 1

    def _pause(self, asked: float, now: float) -> float:
        """Let nothing be sent for as long as the target *asked*, and no less than the floor; return the seconds."""
        # Alerts that were under way at the first refusal are refused as well, and say nothing new.
        if now >= self.asked_until or not self._refusals:
            self._refusals += 1
        floor = min(_LONGEST_FLOOR, _SHORTEST_PAUSE * 2.0 ** min(self._refusals - 1, 30))
        self.lanes = 1
        pause = max(asked, floor)
        self.paused_until = self.asked_until = max(self.paused_until, now + pause)
        return pause

    def _break(self, now: float) -> float:
        """Let nothing be sent until the next try of the broken route; return the seconds."""
        if now >= self.paused_until or not self.probes:
            self.probes += 1
        wait = self._schedule[min(self.probes, len(self._schedule)) - 1] if self._schedule else _LONGEST_PROBE
        wait = min(_LONGEST_PROBE, max(_SHORTEST_PAUSE, wait))
        self.lanes = 1
        self.paused_until = max(self.paused_until, now + wait)
        return wait
