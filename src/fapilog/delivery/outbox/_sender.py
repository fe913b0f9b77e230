"""Sending what is in an outbox: when, how much at once, and what to make of each attempt."""

from __future__ import annotations

import logging
import math
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import anyio

from ...core.alerting import AlertDispatcher, DeliveryReport, Reporter
from ...record.errors import AmbiguousDeliveryError, FapilogError, PermanentDeliveryError, TransientDeliveryError
from ...record.events import AuditEvent
from ...tasks.background import Background
from ...tasks.loops import Event
from ._rows import AttemptOutcome, Claim, Ending, OutboxState, Status
from ._table import Table

__all__ = ["Sender", "Terms"]

_logger: Final = logging.getLogger("fapilog.delivery")

# What asks for more, such as a clock that is wrong, would stop all alerts for as long.
_LONGEST_PAUSE: Final = 86_400.0
# So many attempts that fail one after the other mean that the other side is down, and not that it dislikes an alert.
_DOWN: Final = 3
# Alerts that are claimed for each that is being sent, so that none waits for the file.
_AHEAD: Final = 16
# Seconds that the file waits for how attempts ended, as long as there are others to make.
_UNHURRIED: Final = 0.05
# Seconds until a file that can't be used is tried again.
_MENDING: Final = 5.0
# Seconds between two looks at how much is in the outbox, and two at what may be pruned.
_STATE_EVERY: Final = 1.0
_PRUNE_EVERY: Final = 3600.0


class Terms(NamedTuple):
    """On what terms an outbox sends; all are explained at `Outbox`."""

    schedule: tuple[float, ...]
    concurrency: int
    timeout: float
    keep: float
    old_after: float
    lease: float
    now: Callable[[], float]


class Sender:
    """
    Takes alerts out of an outbox, sends them, and notes what became of them.

    Args:
        name: Which outbox.
        inner: Makes one attempt each time it is called.
        terms: When it is called, and how often.
        do: Makes a call in a transaction on the file.
        tell: Tells the trail that something fails, and why, or that it works.

    Attributes:
        state: How much was in the outbox when it was last looked at.
        reporter: Is told of each attempt.
        passed_by: The events whose alerts are sent past the file, and so not from there.
    """

    def __init__(
        self,
        name: str,
        inner: AlertDispatcher,
        terms: Terms,
        *,
        do: Callable[[Callable[[Table], Any]], Awaitable[Any]],
        tell: Callable[[str, str | None], None],
    ) -> None:
        self._name = name
        self._inner = inner
        self._terms = terms
        self._do = do
        self._tell = tell
        self._now = terms.now
        self.forget()

    def forget(self) -> None:
        """Become as new, in a forked child: what the parent is sending, it sends."""
        self.state: OutboxState = OutboxState()
        self.reporter: Reporter | None = None
        self.passed_by: set[str] = set()
        self._lease = uuid.uuid4().hex
        self._side = _Breaker(self._terms.concurrency)
        self._claimed: deque[Claim] = deque()
        self._held: dict[str, Claim] = {}
        self._returned: list[Claim] = []
        self._endings: list[Ending] = []
        self._paused_until = -math.inf
        self._lanes = 0
        self._wake: Event | None = None
        self._all_begun = anyio.Event()
        self._leaving = False
        self._is_stale = False
        self._next_state = self._next_renewal = self._next_pruning = -math.inf

    def poke(self) -> None:
        """Look again: something has changed."""
        self._is_stale = True
        if self._wake is not None:
            self._wake.set()

    def enter(self) -> None:
        """Let `work` go on until `leave` is called."""
        self._leaving = False
        # What was left behind the last time is taken over like that of any other process.
        self._lease = uuid.uuid4().hex

    def leave(self) -> None:
        """Let `work` end when nothing is due."""
        self._leaving = True
        self.poke()

    async def work(self, background: Background) -> None:
        """Send what is due, in tasks of *background*, until `leave` is called and nothing is due."""
        while True:
            # Made before the exchange, so that nothing that happens meanwhile is missed.
            wake = self._wake = Event()
            try:
                wait = await self._exchange(background)
            except FapilogError:
                wait = _MENDING
            except Exception:
                _logger.exception("the outbox %s goes on after what should not happen", self._name)
                wait = _MENDING
            # What came during the exchange is not in its answer.
            if self._leaving and not self._held and wait > 0 and not wake.is_set:
                return
            with anyio.move_on_after(wait):
                await wake.wait()
            await self._let_lanes_work()

    async def attempt_at_once(self, event: AuditEvent) -> None:
        """Send the alert about *event* here and now, if it is due."""
        now = self._now()
        until = now + max(self._terms.timeout, self._terms.lease)
        name, lease = self._name, self._lease
        try:
            for claim in await self._do(lambda table: table.claim(name, lease, now, until, 1, event=event)):
                await self._attempt(claim)
        finally:
            with anyio.CancelScope(shield=True):
                await self.put_back()

    async def put_back(self) -> None:
        """Note what has ended, and give back what was not begun."""
        while self._claimed:
            self._return(self._claimed.popleft())
        try:
            await self._say(self._work_at(self._now(), room=0))
        except FapilogError:
            # Whoever comes next takes them over when the leases are over.
            _logger.warning("the outbox %s can't note how %d attempts ended", self._name, len(self._endings))

    # -- what there is to do

    async def _exchange(self, background: Background) -> float:
        """
        Note what has ended, claim what is due, start sending it, and return the seconds until there may be more.

        Raises:
            FapilogError: The file can't be used; nothing is forgotten.
        """
        answer = await self._say(self._work_at(self._now(), room=self._room()))
        for claim in answer.claims:
            self._held[claim.event_id] = claim
            self._claimed.append(claim)
        while self._lanes < min(self._side.lanes, len(self._claimed)) and background.entered:
            self._lanes += 1
            background.start_soon(self._lane)
        # Other processes may leave something behind, and what is held must be kept.
        look = self._terms.lease / (3 if self._held else 1)
        if self._is_stale:
            look = min(look, _STATE_EVERY)
        if answer.due is None or self._room() <= 0:
            return look
        return max(0.0, min(answer.due - self._now(), look))

    def _room(self) -> int:
        lanes = self._side.lanes
        return lanes * (_AHEAD if lanes > 1 else 1) - len(self._held)

    def _work_at(self, now: float, *, room: int) -> _Work:
        return _Work(
            outbox=self._name,
            lease=self._lease,
            now=now,
            until=now + self._terms.lease,
            endings=self._endings,
            returned=self._returned,
            held=self._held.keys() | self.passed_by,
            renewed=list(self._held.values()) if now >= self._next_renewal else [],
            paused_until=self._paused_until,
            recovered=self._side.recovered,
            wants_state=now >= self._next_state,
            pruned_before=now - self._terms.keep if now >= self._next_pruning else None,
            longest_wait=1.5 * max(_LONGEST_PAUSE, self._terms.lease, *self._terms.schedule),
            room=room,
        )

    async def _say(self, work: _Work) -> _Answer:
        """Tell the file all that is to be told, and note what need not be told again."""
        self._endings, self._returned = [], []
        try:
            answer: _Answer = await self._do(work.do)
        except BaseException:
            self._endings[:0], self._returned[:0] = work.endings, work.returned
            raise
        if work.recovered:
            self._side.recovered = False
        if work.renewed:
            self._next_renewal = work.now + self._terms.lease / 3
            for event_id in self._held.keys() & answer.renewed:
                self._held[event_id] = self._held[event_id]._replace(until=work.until)
        if work.pruned_before is not None:
            self._next_pruning = work.now + (0.0 if answer.more_to_prune else _PRUNE_EVERY)
        if answer.state is not None:
            self._notice(answer.state, work.now)
        return answer

    def _notice(self, state: OutboxState, now: float) -> None:
        self.state = state
        self._is_stale = False
        self._next_state = now + _STATE_EVERY
        age = 0.0 if state.oldest is None else now - state.oldest
        is_old = age > self._terms.old_after
        cause = f"the oldest of {state.pending} alerts has waited for {age:.0f} s" if is_old else None
        self._tell(f"the age of the outbox {self._name}", cause)
        if not state.dead and all(ending.status != "dead" for ending in self._endings):
            self._tell(f"dead alerts in the outbox {self._name}", None)

    async def _let_lanes_work(self) -> None:
        """Wait a little while all of them have something to send: SQLite's thread and theirs slow each other down."""
        self._all_begun = anyio.Event()
        if self._claimed and self._lanes >= self._side.lanes:
            with anyio.move_on_after(_UNHURRIED):
                await self._all_begun.wait()

    # -- sending

    async def _lane(self) -> None:
        """Send one after the other, as long as there are any and the other side bears so many at once."""
        try:
            while self._claimed and self._lanes <= self._side.lanes:
                claim = self._claimed.popleft()
                if not self._claimed:
                    self._all_begun.set()
                if self._paused_until <= self._now() < self._held[claim.event_id].until:
                    await self._attempt(claim)
                else:
                    self._return(claim)
        finally:
            self._lanes -= 1
            self.poke()

    def _return(self, claim: Claim) -> None:
        self._held.pop(claim.event_id, None)
        self._returned.append(claim)

    async def _attempt(self, claim: Claim) -> None:
        """Send it once; whatever happens, how it ended is noted in `_endings`."""
        event, severity, channel = claim.alert
        began_at, began = self._now(), anyio.current_time()
        interrupted = AmbiguousDeliveryError("nobody knows: the attempt was stopped before there was an outcome")
        error: Exception | None = interrupted
        try:
            with anyio.move_on_after(self._terms.timeout):
                await self._inner.send_alert(event, severity=severity, channel=channel)
                error = None
            if error is not None:
                error = AmbiguousDeliveryError(f"no outcome within {self._terms.timeout:g} s")
        except Exception as raised:
            error = raised
        finally:
            # Also where the attempt is cancelled: by who leaves the outbox, or by the dispatcher itself.
            self._held.pop(claim.event_id, None)
            took = anyio.current_time() - began
            if error is not interrupted:
                verdict = self._verdict(claim, error)
            elif self._leaving:
                verdict = _Verdict("interrupted", "pending", 0.0, claim.failures)
            else:
                verdict = self._verdict(claim, error)._replace(outcome="interrupted")
            self._note(claim, began_at, took, error, verdict)

    def _note(self, claim: Claim, began_at: float, took: float, error: Exception | None, verdict: _Verdict) -> None:
        """Remember how an attempt ended until the file is told, and tell the reporter."""
        event, severity, channel = claim.alert
        report = DeliveryReport(
            event=event,
            severity=severity,
            channel=channel,
            waited=max(0.0, began_at - claim.came_at),
            took=took,
            error=error,
            target=self._name,
            attempt=claim.attempt,
        )
        outcome, status, wait, failures = verdict
        due_at = self._now() + wait
        self._endings.append(Ending(claim, began_at, took, outcome, report.reason, status, due_at, failures))
        self._tell_of(report, status, wait)
        self.poke()

    def _verdict(self, claim: Claim, error: Exception | None) -> _Verdict:
        """Return what becomes of an alert after an attempt, and learn from it how the other side does."""
        if error is None:
            self._side.succeeded()
            return _Verdict("delivered", "delivered", 0.0, claim.failures)
        if isinstance(error, PermanentDeliveryError):
            return _Verdict("permanent", "dead", 0.0, claim.failures)
        pause = _asked_pause(error)
        if pause is not None:
            self._side.throttled()
            self._paused_until = max(self._paused_until, self._now() + pause)
            is_over = self._now() - claim.since > sum(self._terms.schedule)
            wait = pause + random.uniform(0, max(1.0, pause / 10))  # noqa: S311  spreads load
            return _Verdict("throttled", "dead" if is_over else "pending", wait, claim.failures)
        self._side.failed()
        if claim.failures >= len(self._terms.schedule):
            return _Verdict(_outcome(error), "dead", 0.0, claim.failures + 1)
        # Never less than the schedule: whoever can do without alerts for all of it is to lose none.
        wait = self._terms.schedule[claim.failures] * random.uniform(1.0, 1.2)  # noqa: S311  spreads load
        return _Verdict(_outcome(error), "pending", wait, claim.failures + 1)

    def _tell_of(self, report: DeliveryReport, status: Status, wait: float) -> None:
        event_id = report.event.event_id
        if status == "dead":
            message = "the outbox %s gives up the alert about event %s after attempt %d: %s"
            _logger.error(message, self._name, event_id, report.attempt, report.reason)
            self._tell(f"dead alerts in the outbox {self._name}", f"event {event_id}: {report.reason}")
        elif status == "pending":
            message = (
                "the outbox %s could not deliver the alert about event %s in attempt %d, the next is in %.0f s: %s"
            )
            _logger.warning(message, self._name, event_id, report.attempt, wait, report.reason)
        if self.reporter is not None:
            self.reporter.attempted(report)


class _Verdict(NamedTuple):
    """What becomes of an alert after an attempt."""

    outcome: AttemptOutcome
    status: Status
    wait: float
    failures: int


class _Answer(NamedTuple):
    """What the file has to say."""

    claims: list[Claim]
    renewed: set[str]
    due: float | None
    state: OutboxState | None
    more_to_prune: bool


class _Work(NamedTuple):
    """What there is to say to the file and to ask of it, in one transaction."""

    outbox: str
    lease: str
    now: float
    until: float
    endings: list[Ending]
    returned: list[Claim]
    held: set[str]
    renewed: list[Claim]
    paused_until: float
    recovered: bool
    wants_state: bool
    pruned_before: float | None
    longest_wait: float
    room: int

    def do(self, table: Table) -> _Answer:
        for ending in self.endings:
            table.end(self.outbox, ending, self.lease, self.now)
        table.give_back(self.outbox, self.returned, self.lease, self.now)
        renewed = table.renew(self.outbox, self.renewed, self.lease, self.until)
        if self.paused_until > self.now:
            table.pause(self.outbox, self.paused_until)
        if self.recovered:
            table.bring_forward(self.outbox, self.now)
        more_to_prune = False
        if self.pruned_before is not None:
            table.mend_times(self.outbox, self.now, self.longest_wait)
            more_to_prune = table.prune(self.outbox, self.pruned_before)
        claims = table.claim(self.outbox, self.lease, self.now, self.until, self.room, held=self.held)
        state = table.state(self.outbox) if self.wants_state else None
        due = table.next_due(self.outbox, self.held.union(claim.event_id for claim in claims))
        return _Answer(claims, renewed, due, state, more_to_prune)


class _Breaker:
    """
    How the other side does, as far as the last attempts tell.

    Attributes:
        lanes: How many alerts may be sent at once.
        recovered: Whether it works again after it was down, and nobody has acted on it yet.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._failures = 0
        self.lanes = most
        self.recovered = False

    def failed(self) -> None:
        self._failures += 1
        if self._failures >= _DOWN:
            self.lanes = 1

    def throttled(self) -> None:
        self.lanes = 1

    def succeeded(self) -> None:
        self.recovered |= self._failures >= _DOWN
        self._failures = 0
        # One more for each success is twice as many for each round.
        self.lanes = min(self._most, self.lanes + 1)


def _asked_pause(error: Exception) -> float | None:
    """Return the seconds that the other side asks to be left alone for."""
    asked = error.retry_after if isinstance(error, TransientDeliveryError) else None
    # Whatever a stranger's dispatcher put there: NaN is not at least 0.
    return min(asked, _LONGEST_PAUSE) if asked is not None and asked >= 0 else None


def _outcome(error: Exception) -> AttemptOutcome:
    if isinstance(error, TransientDeliveryError):
        return "transient"
    return "ambiguous" if isinstance(error, AmbiguousDeliveryError) else "error"
