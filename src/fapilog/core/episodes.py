"""
The trail's own failures: people are told once when something of it stops working, and once when it works again.

PCI DSS 10.7.3 asks for the time from the start to the end of such a failure, and for its cause: the recovery has both.
"""

from __future__ import annotations

import functools
import logging
import os
import time
import weakref
from collections.abc import Callable, Coroutine
from datetime import datetime
from types import MethodType
from typing import Any, Final, NamedTuple

import msgspec

from .alerting import DeliveryReport
from .background import Background
from .chain import AuditChainVerificationResult
from .errors import AuditStorageError
from .events import AuditEvent, AuditEventType, AuditLogLevel
from .policy import CompliancePolicy
from .signals import Announcer, alert_attempted
from .values import text

__all__ = [
    "DISPATCHING",
    "END",
    "MOST_OPEN",
    "RESUMING",
    "STORING",
    "VERIFICATION",
    "DispatcherOwner",
    "Episodes",
    "Part",
    "is_own",
]

_logger: Final = logging.getLogger("fapilog")

# What dispatchers call their parts is theirs to choose; a name that changes all the time must not fill the memory.
MOST_OPEN: Final = 100


class Part(NamedTuple):
    """
    What can fail, and recover.

    Attributes:
        component: "audit_trail" or "alert_delivery".
        what: What it does, or the name of a part; becomes the operation of the events.
    """

    component: str
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
    incident: str
    cause: str
    started: datetime
    clock: float


class Episodes:
    """
    What of the trail is failing at the moment.

    An episode begins with the first failure of a part and ends when the part works. At its beginning a
    `component_failure` is announced, which is not stored: it may be the storage that fails. At its end a
    `component_recovery` is stored, where the storage takes it, and announced. Both name the same ``incident``. What
    becomes of these alerts neither begins nor ends an episode.

    Nothing here waits or raises. Nothing is told unless the policy is enabled, with `real_time_alerts`.

    Args:
        policy: Says whether anything is told.
        background: Runs the storing of the recoveries.
        announce: Announces an event; a bound method, which is held weakly, as its object holds this one.
        store: Stores an event and returns it with its place in the chain; likewise.
        clock: Tells the seconds that an episode lasts.
    """

    def __init__(
        self,
        policy: CompliancePolicy,
        background: Background,
        *,
        announce: Callable[[AuditEvent], None],
        store: Callable[[AuditEvent], Coroutine[Any, Any, AuditEvent]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._background = background
        self._announce = _weak(announce)
        self._store = _weak(store)
        self._clock = clock
        self._open: dict[Part, _Episode] = {}
        self._last_undelivered = 0.0

    def failing(self, part: Part, cause: str) -> None:
        """Begin an episode of *part* unless one has begun. *cause* holds no secret."""
        if part in self._open or not (self._policy.enabled and self._policy.real_time_alerts):
            return
        if len(self._open) >= MOST_OPEN:
            _logger.error("%d episodes are open; nobody is told that %s is failing: %s", MOST_OPEN, part.what, cause)
            return
        failure = self._event(
            part, AuditEventType.COMPONENT_FAILURE, f"{_words(part)[0]}: {cause}", log_level=AuditLogLevel.CRITICAL
        )
        episode = _Episode(failure.event_id, cause, failure.timestamp, self._clock())
        self._open[part] = episode
        self._tell(msgspec.structs.replace(failure, metadata=_metadata(episode)))

    def working(self, part: Part) -> None:
        """End the episode of *part*, if there is one."""
        # The second look is for a thread that was faster.
        if self._open and (episode := self._open.pop(part, None)):
            self._background.start_soon(functools.partial(self._recover, part, episode))

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
        if is_own(report.event) or self._background.leaving:
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
        self._open.clear()

    def _is_the_dispatchers(self, report: DeliveryReport) -> bool:
        # Not started, it is the caller of `log_event` who was cancelled.
        return report.outcome != "stopped" and (report.outcome != "cancelled" or self._background.entered)

    async def _recover(self, part: Part, episode: _Episode) -> None:
        recovery = self._recovery(part, episode)
        store = self._store()
        try:
            if store is not None:
                recovery = await store(recovery)
        except Exception as error:
            if part == STORING and part not in self._open:
                # It is not over: another event was taken, and this one is not.
                self._open[part] = episode
                return
            self.storing_failed(error)
            self._tell(recovery)
        except BaseException:
            self._tell(recovery)
            raise
        else:
            self._tell(recovery)

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


class DispatcherOwner:
    """
    The trail, as an `Owner` that its dispatcher may talk to.

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
        self._episodes.failing(Part("alert_delivery", text(what)), text(cause))

    def working(self, what: str) -> None:
        """End the episode of *what*, if there is one."""
        self._episodes.working(Part("alert_delivery", text(what)))


def is_own(event: AuditEvent) -> bool:
    """Return whether *event* is about an episode."""
    return event.event_type in _TYPES and event.component in _COMPONENTS and "incident" in event.metadata


def _words(part: Part) -> tuple[str, str]:
    return _WORDS.get(part) or (f"{part.what} does not work", f"{part.what} works again")


def _metadata(episode: _Episode) -> dict[str, Any]:
    return {"incident": episode.incident, "cause": episode.cause, "started": episode.started.isoformat()}


def _printable(error: Exception) -> str:
    """Return why, without what a foreign error may say."""
    return text(error) if isinstance(error, AuditStorageError) else type(error).__qualname__


def _weak(method: Callable[..., Any]) -> Callable[[], Callable[..., Any] | None]:
    return weakref.WeakMethod(method) if isinstance(method, MethodType) else lambda: method
