"""The sender of an outbox: it claims the alerts that are due, sends several at once, and acts on the outcomes."""

from __future__ import annotations

import math
import random
import uuid
from collections import deque
from collections.abc import Iterable
from typing import Final

import anyio

from ...core.alerting import Alert, AlertDispatcher, DeliveryReport
from ...record.errors import AlertCancelledError, AlertStoppedError, AmbiguousDeliveryError, FapilogError
from ...record.events import AuditEvent
from ...tasks.background import Background
from ...tasks.fork import call_in_child
from ...tasks.strangers import Log, contained
from ._breaker import Breaker, Terms
from ._place import Answer, Claim, Ending, Request, Verdict
from ._rows import OutboxState
from ._store import SentDirectly, Store

__all__ = ["Sender"]

_log: Final = Log("fapilog.delivery")

# Seconds that the ends of attempts wait to be stored, while there are other attempts to make.
_UNHURRIED: Final = 0.05
# Seconds until a place that can't be used is tried again, and up to a fifth more: other processes wait for it too.
_MENDING: Final = 5.0
# Seconds by which two readings of two clocks may differ although neither was set.
_UNSURE: Final = 1.0
# Seconds between two counts of the alerts in the outbox, two removals of old receipts, and two searches for times that
# the wrong clock of another process has written.
_STATE_EVERY: Final = 1.0
_PRUNE_EVERY: Final = 3600.0
_MEND_EVERY: Final = 3600.0


class _Claims:
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
            event_id = claim.alert.event.event_id
            self.held[event_id] = claim
            self.until[event_id] = until
            self.waiting.append(claim)

    def renew(self, event_ids: Iterable[str], until: float) -> None:
        """Hold the claims for these events until then."""
        self.until.update(dict.fromkeys(self.held.keys() & event_ids, until))

    def give_back(self, claim: Claim) -> None:
        """Hold *claim* no longer, without an attempt."""
        self.drop(claim)
        self.returned.append(claim)

    def end(self, ending: Ending) -> None:
        """Hold the claim no longer: its attempt has ended."""
        self.drop(ending.claim)
        self.endings.append(ending)

    def drop(self, claim: Claim) -> None:
        """Hold *claim* no longer, and say nothing of it: it is taken over when its lease ends."""
        event_id = claim.alert.event.event_id
        self.held.pop(event_id, None)
        self.until.pop(event_id, None)


class Sender:
    """
    Claims the alerts in the store that are due, sends them, and notes how the attempts ended.

    One task, `work`, talks to the store; up to *concurrency* lanes send. The task and the lanes meet in `_Claims`: a
    lane takes a claim from there and leaves the ending of the attempt. The next exchange notes all endings in the store
    and claims more alerts, in one transaction. So a slow store delays no attempt, a slow target delays no other alert,
    and a long backlog takes few transactions. An ending stays in `_Claims` until the store has it; if the process dies
    before, the lease of the claim runs out, and another process sends the alert.

    Args:
        store: Stores the alerts.
        inner: Makes one attempt per call.
        terms: When the target is called, and how often.
        background: Runs the task and the lanes.

    Attributes:
        state: How many alerts were in the outbox when they were last counted.
    """

    def __init__(self, store: Store, inner: AlertDispatcher, terms: Terms, background: Background) -> None:
        self._store = store
        self._inner = inner
        self._terms = terms
        self._background = background
        self._forget()
        call_in_child(self, Sender._forget)

    def _forget(self) -> None:
        # In a forked child: the parent sends the alerts that it has claimed.
        self.state: OutboxState = OutboxState()
        self._claims = _Claims()
        self.enter()

    def enter(self) -> None:
        """Let `work` continue until `leave` is called, as in a new process: the event loop, and its clock, may be."""
        self._leaving = False
        # Claims that were left behind the last time are taken over like the claims of any other process.
        self._claims.new_lease()
        self._breaker = Breaker(self._terms)
        self._lanes = 0
        self._all_begun = anyio.Event()
        self._is_stale = False
        self._next_state = self._next_renewal = self._next_mending = self._next_pruning = -math.inf
        # When an operator last retried alerts, as the place told last, and as it had told when a broken route was last
        # tried; None: not yet. If they differ, the route is to be tried now, whatever the clocks say.
        self._retried_at: float | None = None
        self._tried_after: float | None = None
        # By how much the time of day is ahead of the event loop's clock: a change means that it was set.
        self._offset = math.nan

    def leave(self) -> None:
        """Let `work` end when nothing is due."""
        self._leaving = True
        self._store.wake()

    async def work(self) -> None:
        """Send the alerts that are due, until `leave` is called and none is due."""
        while True:
            # Made before the exchange, so that no change during the exchange is missed.
            changed = self._store.watch()
            try:
                wait = await self._exchange_and_send()
            except FapilogError:
                wait = _MENDING * random.uniform(1.0, 1.2)  # noqa: S311  spreads load
            except Exception:
                _log.exception("unexpected error in the outbox %s; its sender continues", self._store.name)
                wait = _MENDING
            # An alert that came during the exchange is not in the answer.
            if self._leaving and not self._claims.held and wait > 0 and not changed.is_set:
                return
            with anyio.move_on_after(wait):
                await changed.wait()
            self._is_stale |= changed.is_set
            await self._let_lanes_work()

    async def attempt_at_once(self, event: AuditEvent) -> None:
        """Send the alert about *event* here and now, if it is due."""
        if self._breaker.room(0, anyio.current_time()) <= 0:
            return
        try:
            for each in (await self._exchange(room=1, event=event)).claims:
                await self._attempt(each)
        finally:
            with anyio.CancelScope(shield=True):
                await self.put_back()

    async def send_directly(self, alert: Alert) -> SentDirectly:
        """Send *alert*, which the store can't take, once; raises as the dispatcher does."""
        began_at, began = self._store.now(), anyio.current_time()
        with contained():
            await self._inner.send_alert(alert.event, severity=alert.severity, channel=alert.channel)
        return SentDirectly(alert, began_at, anyio.current_time() - began)

    async def put_back(self) -> None:
        """Note how attempts ended, and give back the claims of which no attempt was begun."""
        while self._claims.waiting:
            self._claims.give_back(self._claims.waiting.popleft())
        if not (self._claims.endings or self._claims.returned):
            return
        try:
            await self._exchange(room=0)
        except FapilogError:
            # Another process takes the alerts over when the leases end.
            if count := len(self._claims.endings):
                _log.warning("the outbox %s can't note the outcomes of attempts (%d)", self._store.name, count)

    # -- the store

    async def _exchange_and_send(self) -> float:
        """
        Exchange the news, start sending the alerts that are due, and return the seconds until there may be more.

        Raises:
            FapilogError: The store can't be used; nothing is forgotten.
        """
        began = clock = anyio.current_time()
        answer = await self._exchange(room=self._breaker.room(len(self._claims.held), clock))
        self._claims.add(answer.claims, until=clock + self._terms.lease)
        while self._lanes < min(self._breaker.lanes, len(self._claims.waiting)) and self._background.home is not None:
            self._lanes += 1
            self._background.start_soon(self._lane)
        # Other processes may leave claims behind, and leases must be renewed.
        look = self._terms.lease / (3 if self._claims.held else 1)
        if self._is_stale:
            look = min(look, _STATE_EVERY)
        clock = anyio.current_time()
        if self._tried_after is None:
            self._tried_after = self._retried_at
        if self._tried_after != self._retried_at and self._breaker.try_route(clock):
            return 0.0
        if clock < self._breaker.paused_until:
            return min(look, self._breaker.paused_until - clock)
        if answer.wait is None or self._breaker.room(len(self._claims.held), clock) <= 0:
            return look
        return max(0.0, min(answer.wait - (clock - began), look))

    async def _exchange(self, *, room: int, event: AuditEvent | None = None) -> Answer:
        """Tell the store the news and claim up to *room* alerts, or the one about *event*, in one transaction."""
        now, clock, claims = self._store.now(), anyio.current_time(), self._claims
        if not abs(now - clock - self._offset) <= _UNSURE:
            # The clock was set: the times in the place are wrong until an exchange has succeeded.
            self._next_state = self._next_renewal = self._next_mending = -math.inf
        self._offset = now - clock
        request = Request(
            lease=claims.lease,
            now=now,
            clock=clock,
            endings=claims.endings,
            returned=claims.returned,
            held=claims.held.keys() | self._store.withheld,
            renewed=list(claims.held.values()) if clock >= self._next_renewal else [],
            # No task renews the claim of a single alert.
            lasts=self._terms.lease if event is None else max(self._terms.timeout, self._terms.lease),
            pause=self._breaker.asked_until - clock,
            recovered=self._breaker.recovered,
            wants_state=clock >= self._next_state,
            longest_wait=self._terms.longest_wait,
            mends=clock >= self._next_mending,
            keep=self._terms.keep if clock >= self._next_pruning else None,
            room=room,
            event=event,
        )
        claims.endings, claims.returned = [], []
        try:
            answer = await self._store.run(lambda queue: queue.exchange(self._store.name, request))
        except BaseException:
            claims.endings[:0], claims.returned[:0] = request.endings, request.returned
            raise
        if request.recovered:
            self._breaker.acted_on_recovery()
        if request.renewed:
            self._next_renewal = clock + self._terms.lease / 3
            claims.renew(answer.renewed, clock + self._terms.lease)
        if request.mends:
            self._next_mending = clock + _MEND_EVERY
        if request.keep is not None:
            self._next_pruning = clock + (0.0 if answer.more_to_prune else _PRUNE_EVERY)
        if answer.retried_at is not None:
            self._retried_at = answer.retried_at
        if answer.state is not None:
            self._next_state = clock + _STATE_EVERY
            self._note_state(answer.state, now)
        return answer

    def _note_state(self, state: OutboxState, now: float) -> None:
        self.state = state
        self._is_stale = False
        # The alerts were counted before the deaths that are not stored yet.
        if not state.dead and all(ending.verdict.status != "dead" for ending in self._claims.endings):
            self._store.report_part(f"dead alerts in the outbox {self._store.name}", None)
        age = 0.0 if state.oldest is None else now - state.oldest
        is_old = age > self._terms.old_after
        cause = f"the oldest of {state.pending} alerts has waited for {age:.0f} s" if is_old else None
        self._store.report_part(f"the age of the outbox {self._store.name}", cause)

    async def _let_lanes_work(self) -> None:
        """Wait a little while all lanes have alerts to send: the store's thread slows the lanes down."""
        self._all_begun = anyio.Event()
        if self._claims.waiting and self._lanes >= self._breaker.lanes:
            with anyio.move_on_after(_UNHURRIED):
                await self._all_begun.wait()

    # -- the target

    async def _lane(self) -> None:
        """Send one alert after the other, as long as there are any and the breaker allows so many lanes."""
        try:
            while self._claims.waiting and self._lanes <= self._breaker.lanes:
                claim = self._claims.waiting.popleft()
                if not self._claims.waiting:
                    self._all_begun.set()
                until = self._claims.until[claim.alert.event.event_id]
                try:
                    if self._breaker.paused_until <= anyio.current_time() < until:
                        await self._attempt(claim)
                    else:
                        self._claims.give_back(claim)
                finally:
                    # Unless the attempt has ended, for an unexpected error: it would be renewed for ever.
                    self._claims.drop(claim)
                    self._store.wake()
        finally:
            self._lanes -= 1

    async def _attempt(self, claim: Claim) -> None:
        """Send the alert once; the ending of the attempt is always kept in `_claims`."""
        event, severity, channel = claim.alert
        began_at, began, retried_at = self._store.now(), anyio.current_time(), self._retried_at
        error: Exception | None = None
        is_cancelled = True
        try:
            with anyio.move_on_after(self._terms.timeout) as limit, contained():
                await self._inner.send_alert(event, severity=severity, channel=channel)
            if limit.cancelled_caught:
                error = AmbiguousDeliveryError(f"no outcome within {self._terms.timeout:g} s")
            is_cancelled = False
        except Exception as raised:
            error, is_cancelled = raised, False
        finally:
            # Also where the attempt is cancelled: by the caller that leaves the outbox, or by the dispatcher itself.
            clock = anyio.current_time()
            if is_cancelled and self._background.leaving:
                error = AlertStoppedError("unknown: the outbox was left before there was an outcome")
                verdict = Verdict("stopped", "pending", 0.0, claim.failures, claim.spent)
            else:
                if is_cancelled:
                    error = AlertCancelledError("unknown: the attempt was cancelled before there was an outcome")
                verdict = self._breaker.judge(claim, error, clock)
            if self._breaker.probes:
                self._tried_after = retried_at
            report = DeliveryReport(
                event=event,
                severity=severity,
                channel=channel,
                waited=max(0.0, began_at - claim.came_at),
                took=clock - began,
                error=error,
                target=self._store.name,
                attempt=claim.attempt,
            )
            self._note(claim, began_at, report, verdict)

    def _note(self, claim: Claim, began_at: float, report: DeliveryReport, verdict: Verdict) -> None:
        """Keep how an attempt ended until it is stored, log a failure, and report to the trail."""
        next_at = anyio.current_time() + verdict.wait
        reason = None if verdict.status == "delivered" else report.reason
        self._claims.end(Ending(claim, verdict, began_at, report.took, reason, next_at))
        name, event_id = self._store.name, claim.alert.event.event_id
        if verdict.status == "dead":
            message = "the outbox %s gives up the alert about event %s after attempt %d: %s"
            _log.error(message, name, event_id, claim.attempt, reason)
            self._store.report_part(f"dead alerts in the outbox {name}", f"event {event_id}: {reason}")
        elif verdict.status == "pending":
            message = "the outbox %s could not deliver the alert about event %s in attempt %d, %s: %s"
            _log.warning(message, name, event_id, claim.attempt, self._next_attempt(verdict), reason)
        self._store.report_part(f"the route of the outbox {name}", reason if self._breaker.probes > 0 else None)
        self._store.report_attempt(report)

    def _next_attempt(self, verdict: Verdict) -> str:
        if self._background.home is None and not self._background.leaving:
            return "it stays in the outbox, and this process retries it only when the outbox, or its trail, is started"
        if self._leaving:
            return "it stays in the outbox, and may wait until the outbox, or its trail, is started again"
        return f"the next is in {verdict.wait:.0f} s"
