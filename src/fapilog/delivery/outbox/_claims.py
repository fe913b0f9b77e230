"""The claims of a process: the alerts that it is sending or about to send, and how its attempts ended."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from ...core.alerting import Alert, Outcome
from ._rows import Status

__all__ = ["Claim", "Claims", "Ending", "Verdict"]


class Claim(NamedTuple):
    """
    An alert that was claimed to be sent.

    Attributes:
        alert: The alert to send.
        came_at: When the alert came, in seconds since 1970.
        attempt: Which attempt this is.
        failures: How many attempts have counted against its schedule.
        spent: How many seconds of waiting have counted against it instead.
    """

    alert: Alert
    came_at: float
    attempt: int
    failures: int
    spent: float

    def __repr__(self) -> str:
        return f"<Claim of {self.alert!r}, attempt {self.attempt}>"

    @property
    def event_id(self) -> str:
        """The id of its event: a process claims no two alerts about one id at a time."""
        return self.alert.event.event_id


class Verdict(NamedTuple):
    """
    The consequence of an attempt.

    Attributes:
        outcome: The outcome of the attempt.
        status: The status of the alert from now on.
        wait: Seconds until the next attempt, if the alert is pending.
        failures: The attempts that have counted against the schedule of the alert.
        spent: The seconds of waiting that have counted against it instead.
    """

    outcome: Outcome
    status: Status
    wait: float
    failures: int
    spent: float


class Ending(NamedTuple):
    """
    The end of an attempt.

    Attributes:
        claim: The claim of the attempt.
        verdict: The consequence of the attempt.
        began_at: When, in seconds since 1970.
        took: Seconds.
        reason: See `OutboxAttempt`.
        next_at: When to try again, if the alert is pending, on the event loop's clock.
    """

    claim: Claim
    verdict: Verdict
    began_at: float
    took: float
    reason: str | None
    next_at: float

    def __repr__(self) -> str:
        return f"<Ending {self.verdict.outcome} of {self.claim!r}>"


class Claims:
    """
    The alerts that a process has claimed, from the claim until the end of the attempt is stored.

    Attributes:
        lease: Marks these claims in the store, where other processes have claims too.
        held: The claims whose attempt has not ended, by the id of their event.
        until: When another process may take these over, on the event loop's clock.
        waiting: The held claims of which no attempt was begun, the longest due first.
        returned: Claims of which no attempt is to be made; not stored yet.
        endings: How attempts ended; not stored yet.
    """

    def __init__(self) -> None:
        self.new_lease()
        self.returned: list[Claim] = []
        self.endings: list[Ending] = []

    def new_lease(self) -> None:
        """Claim as a new process would: earlier claims are taken over like the claims of any other."""
        self.lease: str = uuid.uuid4().hex
        self.held: dict[str, Claim] = {}
        self.until: dict[str, float] = {}
        self.waiting: deque[Claim] = deque()

    def add(self, claims: Iterable[Claim], until: float) -> None:
        """Hold *claims* until then, and let them wait for a lane."""
        for claim in claims:
            self.held[claim.event_id] = claim
            self.until[claim.event_id] = until
            self.waiting.append(claim)

    def renew(self, event_ids: Iterable[str], until: float) -> None:
        """Hold the claims for these events until then."""
        self.until.update(dict.fromkeys(self.held.keys() & event_ids, until))

    def give_back(self, claim: Claim) -> None:
        """Hold *claim* no longer, without an attempt."""
        self._drop(claim)
        self.returned.append(claim)

    def end(self, ending: Ending) -> None:
        """Hold the claim no longer: its attempt has ended."""
        self._drop(ending.claim)
        self.endings.append(ending)

    def _drop(self, claim: Claim) -> None:
        self.held.pop(claim.event_id, None)
        self.until.pop(claim.event_id, None)
