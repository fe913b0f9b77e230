"""
The trail's own failures: one alert when a part of the trail stops working, and one when the part works again.

PCI DSS 10.7.3 asks for the time from the start to the end of such a failure, and for its cause: the recovery has both.
"""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ..record.chain import AuditChainVerificationResult
from ..record.errors import reason
from ..record.events import AuditEvent
from ..record.times import standard_now
from ..record.values import text
from ..tasks.background import Background, own_context
from ..tasks.strangers import Log
from ..tasks.threads import in_thread
from ._incidents import (
    DISPATCHING,
    END,
    LONGEST_TEXT,
    MOST_OPEN,
    OWN,
    STORING,
    UNTRUSTED,
    VERIFICATION,
    Incident,
    Part,
    Relapses,
    is_own,
    new_id,
)
from .alerting import DeliveryReport
from .policy import CompliancePolicy
from .signals import Announcer, alert_attempted

if TYPE_CHECKING:
    from ._incidentfiles import IncidentFiles

__all__ = ["Health", "TrailReporter", "weakly"]

_log: Final = Log("fapilog")

# A part of a dispatcher may be gone with the configuration: then nothing ever reports that it works.
_LONGEST: Final = 30 * 86_400.0


class Health:
    """
    The book of the trail's own incidents.

    An incident is opened by the first failure of a part and resolved when the part works. Opening it announces a
    `component_failure`, which is not stored: the storage may be the part that fails. Resolving it stores a
    `component_recovery`, if the storage takes it, and announces it. Both events name the same ``incident``. The
    delivery of these alerts neither opens nor resolves an incident. A part that fails and works in turns has to work
    for a while before its incident is resolved: see `Relapses`.

    With *files*, open incidents outlive the process: the next one takes them over, announces a failure again only if
    its alert was not delivered, and resolves the incident when the part works there.

    Any thread may call any method. None raises, and none but `enter` and `leave` waits. Nothing is announced unless the
    policy is enabled, with `real_time_alerts`.

    Args:
        policy: Says whether anything is announced.
        background: Runs the storing of the recoveries, and the saving of the files.
        announce: Announces an event. A bound method is held weakly, since its object holds the book.
        store: Stores an event and returns it with its place in the chain. Held likewise.
        files: Keep the open incidents for the next process, from `enter` to `leave`; None if no file does.
        clock: Returns the seconds that the length of an incident is measured in.
    """

    # Why `announce` and `store` are functions, and not results on which the caller acts: failures are noticed in many
    # places, from the recorder to a dispatcher, and all would need a function to pass the event on to the trail. And
    # the recovery is stored in the background, after the call that noticed it.
    #
    # How threads are kept apart: a transition (a part fails, a part works, an alert was delivered) only changes the
    # three dictionaries, with the lock held. If 20 threads report the same failure, one opens the incident; if 20
    # report success, one takes the incident out of `_open`. Announcing, storing, saving and logging come after the lock
    # is released: they run foreign code, which may wait for other locks, or call back. The lock is reentrant for the
    # foreign code that can't be kept out: a signal handler or a finalizer which records an event in the middle of a
    # transition of its own thread. At worst it opens an incident twice; with a plain lock it would wait for ever.
    #
    # How the announcements stay in order: while one thread announces a failure, another may report success. A recovery
    # that overtakes its failure would leave the incident open at PagerDuty for good. So success is only noted in
    # `_announcing`, and the announcing thread resolves the incident afterwards, unless the part has failed again.

    def __init__(
        self,
        policy: CompliancePolicy,
        background: Background,
        *,
        announce: Callable[[AuditEvent], None],
        store: Callable[[AuditEvent], Coroutine[Any, Any, AuditEvent]],
        files: IncidentFiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._level = policy.level
        self._is_on = policy.enabled and policy.real_time_alerts
        self._background = background
        self._announce = weakly(announce)
        self._store = weakly(store)
        self._files = files
        self._clock = clock
        self._lock = threading.RLock()
        # By id, the incidents whose recovery is not announced yet: the next process may have to announce it.
        self._incidents: dict[str, Incident] = {}
        # By part, the ids of its open incidents: several, if several earlier processes left one.
        self._open: dict[Part, tuple[str, ...]] = {}
        # Whether a part has worked, since it failed and while that is being announced.
        self._announcing: dict[Part, bool] = {}
        self._last_undelivered = 0.0
        self._clear()

    async def enter(self) -> None:
        """Take over the incidents of processes that are gone, and keep open incidents for the next process."""
        if self._files is not None and self._is_on:
            found = await in_thread(self._files.take_over)
            self._adopt(found)
            self._is_keeping = True
            if found or self._incidents:
                self._keep()

    async def leave(self) -> None:
        """Leave the open incidents to the next process, which may be this one; if that fails, they stay here."""
        if self._files is None:
            return
        if self._is_keeping:
            with self._lock:
                left = self._snapshot()
                self._clear()
            if not await in_thread(self._files.save, lambda: left):
                self._adopt(left)
        await in_thread(self._files.close)

    def failing(self, part: Part, cause: str | Exception) -> None:
        """
        Open an incident of *part*, unless one is open.

        Args:
            part: The part that does not work.
            cause: The error, or words without a secret.
        """
        if not self._is_on:
            return
        # The recovery repeats the cause, and has to fit into a record.
        words = (cause if isinstance(cause, str) else reason(cause))[:LONGEST_TEXT]
        failure = None
        # Around all of it: a signal handler may raise as soon as the incident is opened.
        try:
            with self._lock:
                if part in self._announcing:
                    self._relapses.failed(part, self._clock())
                    self._announcing[part] = False
                    return
                former = [self._incidents[key] for key in self._open.get(part, ()) if key in self._incidents]
                if any(incident.alert != "due" for incident in former):
                    self._relapses.failed(part, self._clock())
                    return
                if former or part in OWN or len(self._open) < MOST_OPEN:
                    failure = self._opened(part, words, former)
            if failure is None:
                _log.error("%d incidents are open, and none is opened for %s: %s", MOST_OPEN, part.operation, words)
                return
            self._keep()
            # An incident is not the request's that happened to notice it.
            own_context().run(_call, self._announce, failure)
        finally:
            if failure is not None:
                with self._lock:
                    works = self._announcing.pop(part, False)
                if works:
                    self.working(part)

    def working(self, part: Part | str) -> None:
        """Resolve the incidents of *part* (a dispatcher's, by its name), and of others that have worked long enough."""
        # Called for every stored event, and the book is nearly always empty: no lock for that.
        if self._open:
            part = _part(part)
            with self._lock:
                taken = self._taken(part)
            self._resolve_soon(taken)

    def verified(self, result: AuditChainVerificationResult) -> None:
        """Take the result of a verification: the trail is valid, or an incident."""
        if result.valid:
            self.working(VERIFICATION)
        else:
            first = result.first_invalid_sequence
            where = "" if first is None else f" (the first invalid record is {first})"
            self.failing(VERIFICATION, f"{text(result.error_message)}{where}")

    def reported(self, report: DeliveryReport, announced: float) -> None:
        """
        Take the report of an alert that was *announced* at that time.

        A delivered alert resolves the incident only if it was announced after the last undelivered one had failed. The
        alerts that wait in a full buffer prove nothing: one would resolve the incident, and the next open it anew.
        """
        event = report.event
        if report.error is None and not self._incidents:
            return  # as after nearly every alert
        if is_own(event):
            if report.error is None:
                self._delivered(str(event.metadata["incident"]))
        elif self._background.leaving:
            return
        elif report.error is None:
            with self._lock:
                taken = self._taken(DISPATCHING) if announced >= self._last_undelivered else {}
            self._resolve_soon(taken)
        # Without a background the caller of `log_event` was cancelled, not the dispatcher.
        elif report.outcome != "stopped" and (report.outcome != "cancelled" or self._background.home is not None):
            with self._lock:
                self._last_undelivered = max(self._last_undelivered, announced + report.waited + report.took)
            self.failing(
                DISPATCHING, f"{report.reason} (event {event.event_id}, record {event.sequence_number or 'not stored'})"
            )

    def forget(self) -> None:
        """Become as new, in a forked child: the incidents are the parent's."""
        # Another thread of the parent may have held the lock.
        self._lock = threading.RLock()
        self._clear()
        if self._files is not None:
            self._files.forget()

    def _opened(self, part: Part, cause: str, former: list[Incident]) -> AuditEvent:
        """Enter an incident of *part*, with the lock held, and return the event to announce."""
        # The failure that an earlier process could not have delivered is announced again, and the incident stays the
        # same. A damaged trail, however, is a new incident after every start: the attacker who damaged the trail may
        # have written the file that says that the incident is known.
        again = bool(former) and part not in UNTRUSTED
        if again:
            incident = msgspec.structs.replace(former[0], alert="announced")
        else:
            incident = Incident(part, new_id(part), cause, standard_now(), "announced", self._clock())
        self._relapses.opened(part, self._clock())
        failure, key, before = incident.failure(self._level, again=again), str(incident.id), self._open.get(part, ())
        self._incidents[key] = incident
        self._open[part] = before if again else (*before, key)
        self._announcing[part] = False
        return failure

    def _taken(self, part: Part) -> dict[Part, tuple[str, ...]]:
        """Note that *part* works, with the lock held; take the incidents that are over, and return their ids."""
        if part in self._announcing:
            self._announcing[part] = True
            return {}
        now = self._clock()
        if part in self._open:
            self._relapses.worked(part)
        return {each: self._open.pop(each) for each in tuple(self._open) if self._relapses.is_over(each, now)}

    def _resolve_soon(self, taken: Mapping[Part, tuple[str, ...]]) -> None:
        for part, keys in taken.items():
            own_context().run(self._background.start_soon, functools.partial(self._resolve, part, keys))

    def _delivered(self, key: str) -> None:
        """Note that the dispatcher has taken the alert about an incident."""
        with self._lock:
            incident = self._incidents.get(key)
            if incident is not None:
                self._incidents[key] = msgspec.structs.replace(incident, alert="delivered")
        if incident is not None:
            self._keep()

    def _clear(self) -> None:
        self._incidents.clear()
        self._open.clear()
        self._announcing.clear()
        self._relapses = Relapses()
        self._is_keeping = self._is_saving = False

    def _adopt(self, found: Iterable[Incident]) -> None:
        """Open the newest of the incidents *found*, as many as may be open."""
        now, clock = standard_now(), self._clock()
        dropped: list[Incident] = []
        with self._lock:
            for each in sorted(found, key=lambda each: each.started, reverse=True):
                key = str(each.id)
                if each.part == END or key in self._incidents:
                    continue
                if abs((now - each.started).total_seconds()) > _LONGEST or len(self._incidents) >= MOST_OPEN:
                    dropped.append(each)
                    continue
                is_due = each.alert != "delivered" or each.part in UNTRUSTED
                self._incidents[key] = msgspec.structs.replace(
                    each,
                    alert="due" if is_due else "delivered",
                    # Before this process began, on its clock; and not in the future, if the time of day was set back.
                    since=clock - max(0.0, (now - each.started).total_seconds()),
                )
                self._open[each.part] = (*self._open.get(each.part, ()), key)
        for each in dropped:
            _log.warning(
                "incident %s will not be resolved, being too old or one too many: %s, failing since %s: %s",
                *(each.id, each.part.operation, each.started, each.cause),
            )

    def _keep(self) -> None:
        """Save the open incidents soon, in the background."""
        with self._lock:
            if self._files is None or not self._is_keeping or self._is_saving:
                return
            self._is_saving = True
        self._background.start_soon(functools.partial(in_thread, self._files.save, self._snapshot))

    def _snapshot(self) -> tuple[Incident, ...]:
        """Return the incidents for the next process; a change from here on is saved by another call."""
        with self._lock:
            self._is_saving = False
            # No start of a process proves the end of the trail right again, and another cut is another incident.
            return tuple(incident for incident in tuple(self._incidents.values()) if incident.part != END)[:MOST_OPEN]

    async def _resolve(self, part: Part, keys: tuple[str, ...]) -> None:
        """Store and announce the recoveries of the incidents *keys*."""
        for number, key in enumerate(keys):
            incident = self._incidents.get(key)
            if incident is None:  # left to the next process in the meantime
                continue
            recovery = incident.recovery(self._level, self._clock())
            is_over = True
            try:
                store = self._store()
                if store is not None:
                    recovery = await store(recovery)
            except Exception as error:
                with self._lock:
                    if part == STORING and part not in self._open:
                        # Not resolved: the storage took another event, and refuses this one.
                        self._open[part] = keys[number:]
                        self._relapses.failed(part, self._clock())
                        is_over = False
                if not is_over:
                    return
                self.failing(STORING, error)
            finally:
                if is_over:
                    _call(self._announce, recovery)
                    with self._lock:
                        self._incidents.pop(key, None)
                    self._keep()


class TrailReporter:
    """
    The `Reporter` of a trail, for its dispatcher.

    Args:
        sender: The trail; held weakly.
        announcer: Sends the reports.
        health: Takes the parts that fail and the parts that work.
    """

    def __init__(self, sender: object, announcer: Announcer, health: Health) -> None:
        self._sender = weakref.ref(sender)
        self._announcer = announcer
        self._health = health

    def attempted(self, report: DeliveryReport) -> None:
        """Announce *report* on `alert_attempted`."""
        sender = self._sender()
        if sender is not None:
            self._announcer.announce(alert_attempted, sender, report=report)

    def failing(self, part: str, cause: str) -> None:
        """Open an incident of the dispatcher's *part*, unless one is open."""
        self._health.failing(_part(part), text(cause))

    def working(self, part: str) -> None:
        """Resolve the incident of the dispatcher's *part*, if there is one."""
        self._health.working(part)


def _part(named: Part | str) -> Part:
    """Return the part that is *named*, by a dispatcher if it is by a text."""
    return named if isinstance(named, Part) else Part("alert_delivery", text(named)[:LONGEST_TEXT])


def weakly(method: Callable[..., Any]) -> Callable[[], Callable[..., Any] | None]:
    """Return a function that returns *method*, or None once the object that it is bound to is gone."""
    return weakref.WeakMethod(method) if isinstance(method, MethodType) else lambda: method


def _call(function: Callable[[], Callable[..., Any] | None], event: AuditEvent) -> None:
    """Call *function* with *event*, unless its object is gone."""
    call = function()
    if call is not None:
        call(event)
