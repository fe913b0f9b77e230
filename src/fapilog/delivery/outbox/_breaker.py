"""How the target does: the consequence of each attempt, for the alert and for the attempts after it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Final, NamedTuple

from ...record.errors import AmbiguousDeliveryError, PermanentDeliveryError, TransientDeliveryError
from ._claims import Claim
from ._rows import AttemptOutcome, Status

__all__ = ["LONGEST_PAUSE", "Breaker", "Verdict", "judge"]

# A target that asks for a longer pause, perhaps since its clock is wrong, would stop all alerts for as long.
LONGEST_PAUSE: Final = 86_400.0
# So many failures one after the other mean that the target is down, and not that it dislikes an alert.
_DOWN: Final = 3
# Alerts that are claimed for each lane, so that no lane waits for the file.
_AHEAD: Final = 16


class Verdict(NamedTuple):
    """
    The consequence of an attempt.

    Attributes:
        outcome: How the attempt ended.
        status: The status of the alert from now on.
        wait: Seconds until the next attempt, if the alert is pending.
        failures: The attempts that have counted against the schedule of the alert.
        pause: Seconds in which the target wants no alert at all; None if it did not ask for a pause.
    """

    outcome: AttemptOutcome
    status: Status
    wait: float
    failures: int
    pause: float | None = None


def judge(claim: Claim, error: Exception | None, schedule: Sequence[float], now: float) -> Verdict:
    """
    Return the consequence of an attempt.

    Args:
        claim: The alert that was attempted.
        error: Why the attempt failed; None if it succeeded.
        schedule: Seconds between the attempts.
        now: The time.
    """
    if error is None:
        return Verdict("delivered", "delivered", 0.0, claim.failures)
    if isinstance(error, PermanentDeliveryError):
        return Verdict("permanent", "dead", 0.0, claim.failures)
    pause = error.pause(LONGEST_PAUSE) if isinstance(error, TransientDeliveryError) else None
    if pause is not None:
        is_over = now - claim.since > sum(schedule)
        wait = pause + random.uniform(0, max(1.0, pause / 10))  # noqa: S311  spreads load
        return Verdict("throttled", "dead" if is_over else "pending", wait, claim.failures, pause)
    if claim.failures >= len(schedule):
        return Verdict(_outcome(error), "dead", 0.0, claim.failures + 1)
    # Never less than the schedule: a target that comes back within all of it is to miss no alert.
    wait = schedule[claim.failures] * random.uniform(1.0, 1.2)  # noqa: S311  spreads load
    return Verdict(_outcome(error), "pending", wait, claim.failures + 1)


class Breaker:
    """
    Slows the sender down while the target fails.

    It opens after three failures in a row, or when the target asks for a pause: then one alert is sent at a time. Each
    success closes it by one lane, which is twice as many for each round.

    Args:
        most: Alerts that may be sent at once while it is closed.

    Attributes:
        lanes: Alerts that may be sent at once now.
        paused_until: When the target may be called again, in seconds since 1970.
        recovered: Whether a success has followed on an outage, and the alerts that wait are to be made due.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._failures = 0
        self.lanes: int = most
        self.paused_until: float = -math.inf
        self.recovered: bool = False

    def room(self, held: int) -> int:
        """Return how many alerts may be claimed beside *held*: several for each lane, but one in all to probe with."""
        return self.lanes * (_AHEAD if self.lanes > 1 else 1) - held

    def note(self, verdict: Verdict, now: float) -> None:
        """Learn from an attempt."""
        if verdict.status == "delivered":
            self.recovered |= self._failures >= _DOWN
            self._failures = 0
            self.lanes = min(self._most, self.lanes + 1)
        elif verdict.pause is not None:
            self.lanes = 1
            self.paused_until = max(self.paused_until, now + verdict.pause)
        elif verdict.outcome != "permanent":  # the target works, and does not want this alert
            self._failures += 1
            if self._failures >= _DOWN:
                self.lanes = 1

    def acted_on_recovery(self) -> None:
        """Forget that the target has recovered: the alerts that waited are due."""
        self.recovered = False


def _outcome(error: Exception) -> AttemptOutcome:
    if isinstance(error, TransientDeliveryError):
        return "transient"
    return "ambiguous" if isinstance(error, AmbiguousDeliveryError) else "error"
