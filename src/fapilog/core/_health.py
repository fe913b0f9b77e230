"""
The trail's own failures: people are told once when something of it stops working, and once when it works again.

PCI DSS 10.7.3 asks for the time from the start to the end of such a failure, and for its cause: the recovery has both.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import uuid
import weakref
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from types import MethodType
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ..record.chain import AuditChainVerificationResult
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent, AuditEventType, AuditLogLevel
from ..record.values import text
from ..tasks.background import Background
from ..tasks.loops import in_thread
from ._incidentfiles import LONGEST_TEXT, IncidentFiles, OpenIncident
from .alerting import DeliveryReport
from .policy import CompliancePolicy
from .signals import Announcer, alert_attempted

__all__ = [
    "DISPATCHING",
    "END",
    "MOST_OPEN",
    "RESUMING",
    "STORING",
    "VERIFICATION",
    "Episodes",
    "Part",
    "TrailReporter",
    "is_own",
]

_logger: Final = logging.getLogger("fapilog")

# What dispatchers call their parts is theirs to choose; a name that changes all the time must not fill the memory.
MOST_OPEN: Final = 100
# What a dispatcher once called a part may be gone with the configuration, and then nobody says that it works.
_LONGEST: Final = timedelta(days=30)


class Part(NamedTuple):
    """
    What can fail, and recover.

    Attributes:
        component: "audit_trail" or "alert_delivery".
        what: What it does, or the name of a part; becomes the operation of the events.
    """

    component: Literal["audit_trail", "alert_delivery"]
    what: str


STORING: Final = Part("audit_trail", "storing events")
VERIFICATION: Final = Part("audit_trail", "verification")
END: Final = Part("audit_trail", "the end of the trail")
DISPATCHING: Final = Part("alert_delivery", "dispatching alerts")
RESUMING: Final = Part("alert_delivery", "handing over alerts from the trail")

_COMPONENTS: Final = ("audit_trail", "alert_delivery")
_TYPES: Final = (AuditEventType.COMPONENT_FAILURE, AuditEventType.COMPONENT_RECOVERY)
_WORDS: Final = {
    STORING: ("the audit trail can't store events", "the audit trail stores events again"),
    VERIFICATION: ("the audit trail can't be verified", "the audit trail is verified again"),
    END: ("the end of the audit trail was changed", "the end of the audit trail is known again"),
    DISPATCHING: ("an alert was not delivered", "alerts are delivered again"),
    RESUMING: ("alerts can't be handed over from the trail", "alerts are handed over from the trail again"),
}


class _Episode(NamedTuple):
    """What an episode's events tell, its beginning on the clock, and whether a failure that goes on is no news."""

    incident: str
    cause: str
    started: datetime
    clock: float
    is_known: bool = True


class Episodes:
    """
    What of the trail is failing at the moment.

    An episode begins with the first failure of a part and ends when the part works. At its beginning a
    `component_failure` is announced, which is not stored: it may be the storage that fails. At its end a
    `component_recovery` is stored, where the storage takes it, and announced. Both name the same ``incident``. What
    becomes of these alerts neither begins nor ends an episode.

    With *files*, what is open outlives the process: the next one goes on with it, tells of no second beginning if the
    first was told, and ends it when the part works there.

    Nothing here raises, and nothing but `enter` and `leave` waits. Nothing is told unless the policy is enabled, with
    `real_time_alerts`.

    Args:
        policy: Says whether anything is told.
        background: Runs the storing of the recoveries.
        announce: Announces an event; a bound method, which is held weakly, as its object holds this one.
        store: Stores an event and returns it with its place in the chain; likewise.
        files: Keep for the next process what is open while this is entered; None if nothing does.
        clock: Tells the seconds that an episode lasts.
    """

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
        self._policy = policy
        self._background = background
        self._announce = _weak(announce)
        self._store = _weak(store)
        self._files = files
        self._clock = clock
        # There may be several of a part: processes that are gone had one each.
        self._open: dict[Part, tuple[_Episode, ...]] = {}
        # What the next process is to know of, by its id: until the recovery is told, it may have to tell it.
        self._incidents: dict[str, OpenIncident] = {}
        self._is_keeping = self._is_saving = False
        self._last_undelivered = 0.0

    async def enter(self) -> None:
        """Go on with what processes that are gone have left open, and keep what is open for the next one."""
        if self._files is not None and self._is_told:
            found = await in_thread(self._files.take_over)
            self._adopt(found)
            self._is_keeping = True
            if found or self._incidents:
                self._keep()

    async def leave(self) -> None:
        """Leave what is open to the next process, which may be this one; what can't be left stays here."""
        if self._files is None:
            return
        if self._is_keeping:
            left = tuple(self._incidents.values())
            self._become_new()
            if not await in_thread(self._files.save, lambda: left):
                self._adopt(left)
        await in_thread(self._files.close)

    def failing(self, part: Part, cause: str) -> None:
        """Begin an episode of *part* unless one has begun. *cause* holds no secret."""
        former = self._open.get(part, ())
        if any(each.is_known for each in former) or not self._is_told:
            return
        if len(self._open) >= MOST_OPEN and not former:
            _logger.error("%d episodes are open; nobody is told that %s is failing: %s", MOST_OPEN, part.what, cause)
            return
        # The recovery repeats it, and has to fit into a record.
        cause = cause[:LONGEST_TEXT]
        failure = self._event(
            part, AuditEventType.COMPONENT_FAILURE, f"{_words(part)[0]}: {cause}", log_level=AuditLogLevel.CRITICAL
        )
        if former and part != VERIFICATION:
            # It goes on, and who should have been told may not have been.
            episode = former[0]._replace(is_known=True)
            self._open[part] = (episode, *former[1:])
        else:
            episode = _Episode(failure.event_id, cause, failure.timestamp, self._clock())
            self._open[part] = (*former, episode)
        self._tell(msgspec.structs.replace(failure, metadata=_metadata(episode)))
        if part != END:  # no start of a process proves that it is over, and another cut is to be told of
            self._incidents.setdefault(episode.incident, _open_incident(part, episode))
            self._keep()

    def working(self, part: Part) -> None:
        """End the episode of *part*, if there is one."""
        # The second look is for a thread that was faster.
        if self._open and (episodes := self._open.pop(part, None)):
            self._background.start_soon(functools.partial(self._recover, part, episodes))

    def storing_failed(self, error: Exception) -> None:
        """Note that the storage did not take an event."""
        self.failing(STORING, _printable(error))

    def verified(self, result: AuditChainVerificationResult) -> None:
        """Note what a verification found."""
        if result.valid:
            self.working(VERIFICATION)
        else:
            first = result.first_invalid_sequence
            where = "" if first is None else f" (the first invalid record is {first})"
            self.failing(VERIFICATION, f"{text(result.error_message)}{where}")

    def verifying_failed(self, error: Exception) -> None:
        """Note that a verification could not be made."""
        self.failing(VERIFICATION, _printable(error))

    def reported(self, report: DeliveryReport, announced: float) -> None:
        """
        Note what became of an alert that was *announced* then.

        Alerts are delivered again when one is that was announced after the last that was not: those that already wait
        when the buffer is full, say, prove nothing, and would have an episode end and begin with every alert.
        """
        if is_own(report.event):
            if report.error is None:
                self._was_told(report.event)
            return
        if self._background.leaving:
            return
        if report.error is None:
            if announced >= self._last_undelivered:
                self.working(DISPATCHING)
        elif self._is_the_dispatchers(report):
            self._last_undelivered = announced + report.waited + report.took
            event = report.event
            self.failing(
                DISPATCHING, f"{report.reason} (event {event.event_id}, record {event.sequence_number or 'not stored'})"
            )

    def forget(self) -> None:
        """Forget all episodes, in a forked child: they are the parent's."""
        self._become_new()
        if self._files is not None:
            self._files.forget()

    @property
    def _is_told(self) -> bool:
        return self._policy.enabled and self._policy.real_time_alerts

    def _was_told(self, event: AuditEvent) -> None:
        incident = str(event.metadata["incident"])
        if kept := self._incidents.get(incident):
            self._incidents[incident] = msgspec.structs.replace(kept, told=True)
            self._keep()

    def _become_new(self) -> None:
        self._open.clear()
        self._incidents.clear()
        self._is_keeping = self._is_saving = False

    def _adopt(self, found: Iterable[OpenIncident]) -> None:
        """Go on with the newest of *found*, as many as may be open."""
        now = datetime.now(UTC)
        for each in sorted(found, key=lambda each: each.started, reverse=True):
            part, incident = Part(each.component, each.what), str(each.incident)
            if part == END or incident in self._incidents:
                continue
            if abs(now - each.started) > _LONGEST or len(self._incidents) >= MOST_OPEN:
                _logger.warning(
                    "incident %s is left open: since %s, %s has not worked: %s",
                    *(incident, each.started, part.what, each.cause),
                )
                continue
            # On this clock it began before the process did.
            clock = self._clock() - max(0.0, (now - each.started).total_seconds())
            # Whoever has tampered with the records may have put a file beside them which says that this is known.
            is_known = each.told and part != VERIFICATION
            episode = _Episode(incident, each.cause, each.started, clock, is_known)
            self._open[part] = (*self._open.get(part, ()), episode)
            self._incidents[incident] = each

    def _keep(self) -> None:
        """Have the files say soon what is open now."""
        if self._files is not None and self._is_keeping and not self._is_saving:
            self._is_saving = True
            self._background.start_soon(functools.partial(self._save, self._files))

    async def _save(self, files: IncidentFiles) -> None:
        # What changes from here on is saved by another call.
        self._is_saving = False
        await in_thread(files.save, lambda: tuple(self._incidents.values())[:MOST_OPEN])

    def _is_the_dispatchers(self, report: DeliveryReport) -> bool:
        # Not started, it is the caller of `log_event` who was cancelled.
        return report.outcome != "stopped" and (report.outcome != "cancelled" or self._background.entered)

    async def _recover(self, part: Part, episodes: tuple[_Episode, ...]) -> None:
        for number, episode in enumerate(episodes):
            recovery = self._recovery(part, episode)
            store = self._store()
            try:
                if store is not None:
                    recovery = await store(recovery)
            except Exception as error:
                if part == STORING and part not in self._open:
                    # It is not over: another event was taken, and this one is not.
                    self._open[part] = episodes[number:]
                    return
                self.storing_failed(error)
            except BaseException:
                self._tell_recovery(recovery, episode)
                raise
            self._tell_recovery(recovery, episode)

    def _tell_recovery(self, recovery: AuditEvent, episode: _Episode) -> None:
        self._tell(recovery)
        self._incidents.pop(episode.incident, None)
        self._keep()

    def _recovery(self, part: Part, episode: _Episode) -> AuditEvent:
        seconds = round(self._clock() - episode.clock, 3)
        words = f"{_words(part)[1]}, after {seconds:.0f} s; it had failed because of this: {episode.cause}"
        recovery = self._event(part, AuditEventType.COMPONENT_RECOVERY, words)
        ended = {"ended": recovery.timestamp.isoformat(), "seconds": seconds}
        return msgspec.structs.replace(recovery, metadata=_metadata(episode) | ended)

    def _event(
        self, part: Part, event_type: AuditEventType, message: str, log_level: AuditLogLevel = AuditLogLevel.INFO
    ) -> AuditEvent:
        return AuditEvent(
            event_type=event_type,
            log_level=log_level,
            message=message,
            component=part.component,
            operation=part.what,
            hostname=os.uname().nodename,
            process_id=os.getpid(),
            compliance_level=self._policy.level,
        )

    def _tell(self, event: AuditEvent) -> None:
        announce = self._announce()
        if announce is not None:
            announce(event)


class TrailReporter:
    """
    The trail, as an `Reporter` that its dispatcher may talk to.

    Args:
        sender: The trail; held weakly.
        announcer: Sends the reports.
        episodes: Take what is failing and what works.
    """

    def __init__(self, sender: object, announcer: Announcer, episodes: Episodes) -> None:
        self._sender = weakref.ref(sender)
        self._announcer = announcer
        self._episodes = episodes

    def attempted(self, report: DeliveryReport) -> None:
        """Announce *report* on `alert_attempted`."""
        sender = self._sender()
        if sender is not None:
            self._announcer.announce(alert_attempted, sender, report=report)

    def failing(self, what: str, cause: str) -> None:
        """Begin an episode of *what*, unless one has begun."""
        self._episodes.failing(_part(what), text(cause))

    def working(self, what: str) -> None:
        """End the episode of *what*, if there is one."""
        self._episodes.working(_part(what))


def is_own(event: AuditEvent) -> bool:
    """Return whether *event* is about an episode."""
    return event.event_type in _TYPES and event.component in _COMPONENTS and "incident" in event.metadata


def _part(what: str) -> Part:
    """Return what a dispatcher calls *what*."""
    return Part("alert_delivery", text(what)[:LONGEST_TEXT])


def _words(part: Part) -> tuple[str, str]:
    return _WORDS.get(part) or (f"{part.what} does not work", f"{part.what} works again")


def _metadata(episode: _Episode) -> dict[str, Any]:
    return {"incident": episode.incident, "cause": episode.cause, "started": episode.started.isoformat()}


def _open_incident(part: Part, episode: _Episode) -> OpenIncident:
    incident = uuid.UUID(episode.incident)
    return OpenIncident(part.component, part.what, incident, episode.cause, episode.started, told=False)


def _printable(error: Exception) -> str:
    """Return why, without what a foreign error may say."""
    return text(error) if isinstance(error, AuditStorageError) else type(error).__qualname__


def _weak(method: Callable[..., Any]) -> Callable[[], Callable[..., Any] | None]:
    return weakref.WeakMethod(method) if isinstance(method, MethodType) else lambda: method
