"""
The seam of an outbox, between the class that takes alerts, the sender, and the place that keeps the alerts.

There are two places, a file (`_file`) and a PostgreSQL database (`_postgres`). The schedule, the breaker and the sender
are above this seam, and know neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol, TypeVar

from ...core.alerting import Alert, Outcome
from ...record.chain import ChainHead
from ...record.events import AuditEvent
from ._rows import OutboxAlert, OutboxAttempt, OutboxState, Status

__all__ = ["Answer", "Claim", "Ending", "Place", "Queue", "Request", "Verdict"]

T = TypeVar("T")


class Claim(NamedTuple):
    """
    An alert that was claimed to be sent; a process claims no two about the same id of an event at a time.

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


class Request(NamedTuple):
    """
    All that a sender stores in the place, and reads from it, in one transaction.

    Attributes:
        lease: Marks the sender's claims, as other processes have claims too.
        now: The time of day.
        clock: The same on the event loop's clock.
        lasts: Seconds after which other processes may take over the sender's claims.
        longest_wait: No wait is longer than so many seconds: a time that is further away is of a wrong clock.
        endings: How attempts ended.
        returned: Claims of which no attempt was begun.
        held: Events whose alerts are not to be claimed: the sender has them, or they are sent directly.
        renewed: Claims to renew.
        pause: Seconds until the target may be called again.
        recovered: Whether to make all alerts due now, since the target works again.
        wants_state: Whether to count the alerts.
        mends: Whether to put right the times that a wrong clock of this machine has written. A place with a clock of
            its own needs no such word.
        keep: Receipts of alerts that were delivered so many seconds ago are removed; None: remove none.
        room: How many alerts to claim at most.
        event: Claim no alert but the one about this event; None: any alerts.
    """

    lease: str
    now: float
    clock: float
    lasts: float
    longest_wait: float
    endings: Sequence[Ending] = ()
    returned: Sequence[Claim] = ()
    held: AbstractSet[str] = frozenset()
    renewed: Sequence[Claim] = ()
    pause: float = 0.0
    recovered: bool = False
    wants_state: bool = False
    mends: bool = False
    keep: float | None = None
    room: int = 0
    event: AuditEvent | None = None


class Answer(NamedTuple):
    """
    The answer to a `Request`.

    Attributes:
        claims: Alerts to send, the longest due first.
        renewed: The events of the claims that were renewed.
        wait: Seconds until the next alert is due; None if no other is pending.
        retried_at: When an operator last retried alerts, by the clock of the place; None if it was not asked.
        state: How many alerts there are; None if that was not asked for.
        more_to_prune: Whether there may be more receipts to remove.
    """

    claims: list[Claim]
    renewed: set[str]
    wait: float | None
    retried_at: float | None
    state: OutboxState | None
    more_to_prune: bool


class Queue(Protocol):
    """
    The outboxes of a place, in one transaction.

    Every method takes the name of an outbox; where it may be None, that means all outboxes of the place. *now* is the
    time of the caller's clock, in seconds since 1970. A place that has a clock of its own goes by that, and translates.
    """

    def put(self, outbox: str, alert: Alert, now: float, /) -> None:
        """Keep *alert*, due at once; an event is taken once."""
        ...

    def put_delivered(self, outbox: str, alert: Alert, began_at: float, took: float, now: float, /) -> None:
        """Note that *alert* was delivered past the outbox, unless the outbox has its end already."""
        ...

    def touch(self, outbox: str, /) -> None:
        """Change nothing, and write that to the disk."""
        ...

    def exchange(self, outbox: str, request: Request, /) -> Answer:
        """Note everything in *request*, then claim the alerts that are due."""
        ...

    def mark(self, outbox: str, /) -> ChainHead | None:
        """Return up to where in the trail everything has come; None for an outbox that is new."""
        ...

    def set_mark(self, outbox: str, mark: ChainHead, /, *, back: bool = False) -> None:
        """Move the mark forward, and back only if *back*."""
        ...

    def lacking(self, outbox: str, alerts: Sequence[Alert], /) -> list[Alert]:
        """Return the *alerts* that have not come."""
        ...

    def outboxes(self) -> list[str]:
        """Return the names of the outboxes, sorted."""
        ...

    def alerts(
        self,
        outbox: str | None = None,
        statuses: Sequence[Status] = (),
        *,
        event_id: str | None = None,
        limit: int = 100,
    ) -> list[OutboxAlert]:
        """Return alerts of one of *statuses*, or of any, in the order in which they came, *limit* at most."""
        ...

    def attempts(self, outbox: str, event_id: str, /) -> list[OutboxAttempt]:
        """Return the attempts to deliver the alert about an event, the first of them first."""
        ...

    def oldest_pending(self, outbox: str | None = None, /) -> int | None:
        """Return the number of the first event about which an alert is pending or dead; None if there is none."""
        ...

    def retry(self, outbox: str | None, event_ids: Iterable[str] | None, now: float, /) -> int:
        """
        Make alerts that are dead, discarded or waiting due now, on a new schedule; return how many.

        Also note the retry: a sender then tries a broken route.

        Args:
            outbox: The outbox.
            event_ids: The events of the alerts; None: all dead alerts.
            now: The time.
        """
        ...

    def discard(self, outbox: str | None, event_ids: Iterable[str], reason: str, now: float, /) -> int:
        """Give up alerts that are dead or pending, which are kept, with the *reason*; return how many."""
        ...


class Place(Protocol):
    """
    Keeps the alerts of outboxes. All methods block, and any thread may call them.

    Its text names it in messages, and has no secret.

    Attributes:
        kind: The kind of place, in a word.
    """

    @property
    def kind(self) -> str: ...

    def identity(self) -> str:
        """Return the same text for the same place, however it is named."""
        ...

    def run(self, calls: Sequence[Callable[[Queue], T]], *, writes: bool = True) -> list[T]:
        """
        Make *calls* in one transaction, perhaps several times, and return their results when it is on the disk.

        Args:
            calls: Called with the queue.
            writes: Whether they may change anything.

        Raises:
            OutboxError: The place can't be used; the message names it and the reason.
        """
        ...

    def close(self) -> None:
        """Close the connection or file; the next call opens it again."""
        ...
