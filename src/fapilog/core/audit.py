"""
The audit trail: stores events in a hash chain, and announces those that someone must be told of.

    async with AuditTrail(CompliancePolicy(level=ComplianceLevel.HIPAA), Path("audit"), dispatcher) as trail:
        await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password", user_id="alice")
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, Self

import anyio
import anyio.lowlevel

from ..record import chain
from ..record.chain import AuditChainVerificationResult, ChainError, ChainHead, ChainStatus, Seal
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent, AuditEventType, AuditLogLevel, ComplianceLevel, ErrorDetails, member
from ..record.options import require
from ..record.values import text
from ..storage.files import FileStorage
from ..storage.protocol import AuditStorage, EventFilter, head_of, holds
from ..tasks.fork import call_in_child
from ..tasks.loops import LoopClosedError, finished, is_without_loop
from ._alerts import Alerts
from ._fields import keywords, merged
from ._incidentfiles import IncidentFiles
from ._incidents import STORING, VERIFICATION
from .alerting import AlertDispatcher, NoopAlertDispatcher, require_dispatcher
from .policy import CompliancePolicy
from .signals import compliance_alert

if TYPE_CHECKING:
    from .sync import SyncAuditTrail

__all__ = [
    "AuditChainVerificationResult",
    "AuditEvent",
    "AuditEventType",
    "AuditLogLevel",
    "AuditTrail",
    "ChainStatus",
    "ComplianceLevel",
    "CompliancePolicy",
]

_logger: Final = logging.getLogger("fapilog")

_ERROR_LEVELS: Final = (AuditLogLevel.ERROR, AuditLogLevel.CRITICAL)
_SECURITY_TYPES: Final = (
    AuditEventType.AUTHENTICATION_FAILED,
    AuditEventType.AUTHORIZATION_FAILED,
    AuditEventType.SECURITY_VIOLATION,
)
_DATA_TYPES: Final = {
    "read": AuditEventType.DATA_ACCESS,
    "write": AuditEventType.DATA_MODIFICATION,
    "update": AuditEventType.DATA_MODIFICATION,
    "delete": AuditEventType.DATA_DELETION,
    "export": AuditEventType.DATA_EXPORT,
}


class AuditTrail:
    """
    Records events, and announces those that meet the policy.

    An event's id is returned when the event is stored, and only then. An alert never delays, stops or changes that:
    what a dispatcher or a receiver does wrong is logged (logger "fapilog") and reported on `alert_failed`.

    Use it as an asynchronous context manager, or call `start` and `stop`. While it is started, alerts are sent in the
    background, in the event loop that it was started in. Without that, each is sent before `log_event` returns,
    contained and timed all the same. Any task, thread and event loop may call it, and `sync` has the same methods for
    code without an event loop.

    When storing, verifying or alerting itself fails, an alert about that goes out, once until it works again. In the
    directory of the trail that outlives a restart.

    Args:
        policy: Which events alert; by default `CompliancePolicy()`.
        storage_path: The directory of the trail; by default ``audit_logs``.
        alert_dispatcher: Gets the alerts; by default they go nowhere. If it is an asynchronous context manager, it is
            entered on start, and left on stop after the last alert.
        storage: Keeps the events, instead of files in *storage_path*.
        durability: "fsync": stored means on the disk. "write": in the operating system's hands. See `FileStorage`.
        alert_timeout: Seconds that the dispatcher, or an asynchronous receiver, may take for one alert.
        alert_concurrency: Alerts that are sent at once.
        alert_buffer: Alerts that may wait; more fail at once. Also the number of calls of asynchronous receivers that
            may be under way.
        stop_timeout: Seconds that `stop` waits for the alerts, and then for the dispatcher to be left.

    Attributes:
        policy: As given.
        storage_path: The directory of the trail; None if it is kept by a storage of your own.

    Raises:
        TypeError: *alert_dispatcher* has no asynchronous `send_alert`, or *policy* is no policy.
        ValueError: A number is out of range, or both *storage* and *storage_path* are given.
    """

    def __init__(
        self,
        policy: CompliancePolicy | None = None,
        storage_path: Path | str | None = None,
        alert_dispatcher: AlertDispatcher | None = None,
        *,
        storage: AuditStorage | None = None,
        durability: Literal["fsync", "write"] = "fsync",
        alert_timeout: float = 30.0,
        alert_concurrency: int = 8,
        alert_buffer: int = 1000,
        stop_timeout: float = 10.0,
    ) -> None:
        if policy is not None and not isinstance(policy, CompliancePolicy):
            raise TypeError(f"policy: expected a CompliancePolicy; got {type(policy).__qualname__}")
        if storage is not None and storage_path is not None:
            raise ValueError("storage, storage_path: expected one of them; got both")
        require("alert_timeout", alert_timeout, above=0)
        require("alert_concurrency", alert_concurrency, at_least=1)
        require("alert_buffer", alert_buffer, at_least=1)
        require("stop_timeout", stop_timeout, at_least=0)
        self.policy: CompliancePolicy = CompliancePolicy() if policy is None else policy
        path = None if storage_path is None else Path(storage_path)
        if storage is None:
            path = Path("audit_logs") if path is None else path
            storage = FileStorage(path, durability=durability)
        self.storage_path: Path | None = path
        self._storage: AuditStorage = storage
        self._stop_timeout = stop_timeout
        self._alert_timeout = alert_timeout
        self._alerts = Alerts(
            NoopAlertDispatcher()
            if alert_dispatcher is None
            else require_dispatcher("alert_dispatcher", alert_dispatcher),
            policy=self.policy,
            storage=storage,
            files=None if path is None else IncidentFiles(path),
            announce=self._announce,
            store=self._store,
            timeout=alert_timeout,
            concurrency=alert_concurrency,
            buffer=alert_buffer,
            stop_timeout=stop_timeout,
        )
        self._hostname = os.uname().nodename
        # Guards the counters.
        self._lock = threading.Lock()
        self._total_events = self._error_events = self._security_events = 0
        # Connected weakly, and kept by the trail: a strong connection would never be given up when the trail is gone.
        compliance_alert.connect(self._alerts.forwarder.receive, sender=self)
        call_in_child(self, AuditTrail._forget)

    # -- life

    async def start(self) -> None:
        """
        Send alerts in the background, in this event loop, and take over the open incidents of earlier processes.

        The background belongs to a task of its own: any task may call `start`, and any other `stop`. Nothing happens if
        the trail is started already, in this loop or in another. Damage of the storage is raised by the first
        `log_event`, and not here. A caller that is cancelled meanwhile has not started the trail.

        Raises:
            Exception: What entering the dispatcher raised; the trail is then not started.
        """
        await self._alerts.start(self, self._announce_again)

    async def stop(self) -> None:
        """
        Send the alerts that wait, for `stop_timeout` seconds at most, report the rest as failed, and close the files.

        From any task, loop or thread with a loop. Nothing happens if it is stopped already. It may be started again. A
        caller that is cancelled meanwhile stops the waiting: the alerts that are not sent are reported as failed, the
        dispatcher is left, and then the cancellation is raised.

        Raises:
            RuntimeError: The trail was started in another event loop, which does not run.
        """
        await self._alerts.stop()

    async def cleanup(self) -> None:
        """Do what `stop` does; the earlier fapilog had this name for it as well."""
        await self.stop()

    async def drain(self) -> None:
        """Wait until every alert has been sent or has failed, and every asynchronous receiver has returned."""
        await self._alerts.drain()

    @property
    def is_started(self) -> bool:
        """Whether the trail is started, or is being started, and not stopped."""
        return self._alerts.is_started

    @property
    def sync(self) -> SyncAuditTrail:
        """The same methods without ``await``, for synchronous code; see `SyncAuditTrail`."""
        # It is built on this class.
        from .sync import SyncAuditTrail  # noqa: PLC0415

        return SyncAuditTrail(self, self._storage, self._alerts.background, stop_timeout=self._stop_timeout)

    def __enter__(self) -> NoReturn:
        """Refuse with words: ``async with`` starts and stops a trail, and ``with trail.sync`` does without a loop."""
        raise TypeError("an AuditTrail is entered by `async with trail`, or in synchronous code by `with trail.sync`")

    def __exit__(self, *_: object) -> None:
        """Never called."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def __repr__(self) -> str:
        return f"<AuditTrail in {self._storage!r}>"

    # -- recording

    async def log_event(
        self,
        /,
        event_type: AuditEventType,
        message: str,
        *,
        log_level: AuditLogLevel = AuditLogLevel.INFO,
        component: str | None = None,
        operation: str | None = None,
        error: BaseException | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        request_id: str | None = None,
        client_ip: str | None = None,
        user_agent: str | None = None,
        contains_pii: bool = False,
        contains_phi: bool = False,
        data_classification: str | None = None,
        regulatory_tags: Iterable[str] | None = None,
        **metadata: Any,
    ) -> str:
        """
        Store an event, announce it if the policy says so, and return its id.

        Returning means that it is stored. A caller that is cancelled while it waits may find its event stored or not;
        if it is stored and alerts, it is announced.

        Args:
            event_type: What happened.
            message: What happened, in words.
            log_level: How severe it is.
            component: The part of the service that it happened in.
            operation: What that part was doing.
            error: The exception behind it.
            user_id: Who did it.
            session_id: In which session.
            request_id: In which request.
            client_ip: From which address.
            user_agent: With which program.
            contains_pii: Whether the event contains personal data.
            contains_phi: Whether the event contains health data.
            data_classification: For example "confidential".
            regulatory_tags: Tags of your own.
            **metadata: Anything else. ``metadata={...}`` is merged into it; of a key that is given both ways, the value
                from there is kept under "metadata".

        Returns:
            The event id, or "" if the policy is disabled.

        Raises:
            AuditStorageError: The event is not stored.
            ValueError: An unknown event type or log level.
        """
        if not self.policy.enabled:
            return ""
        event = AuditEvent(
            event_type=member(AuditEventType, event_type, "event_type"),
            log_level=member(AuditLogLevel, log_level, "log_level"),
            message=message,
            component=component,
            operation=operation,
            user_id=user_id,
            session_id=session_id,
            request_id=request_id,
            client_ip=client_ip,
            user_agent=user_agent,
            hostname=self._hostname,
            process_id=os.getpid(),
            error=None if error is None else ErrorDetails.of(error),
            data_classification=data_classification,
            contains_pii=bool(contains_pii),
            contains_phi=bool(contains_phi),
            compliance_level=self.policy.level,
            regulatory_tags=() if regulatory_tags is None else tuple(regulatory_tags),
            metadata=merged(metadata) if "metadata" in metadata else metadata,
        )
        if self.policy.alerts_on(event):
            await self._store_and_announce(event)
        else:
            await self._store_quietly(event)
        return event.event_id

    async def log_error(
        self, /, error: BaseException, *, operation: str | None = None, component: str | None = None, **metadata: Any
    ) -> str:
        """
        Record that *error* happened, with its type, text and traceback, at level error.

        Args:
            error: Any exception.
            operation: What was being done.
            component: By which part of the service.
            **metadata: As of `log_event`; a keyword of that method, such as *user_id* or *log_level*, means the same.

        Returns:
            The event id, or "" if the policy is disabled.

        Raises:
            AuditStorageError: The event is not stored.
        """
        return await self.log_event(
            AuditEventType.ERROR_OCCURRED,
            f"Error occurred: {text(error)}",
            **keywords(metadata, log_level=AuditLogLevel.ERROR, error=error, operation=operation, component=component),
        )

    async def log_security_event(
        self,
        /,
        event_type: AuditEventType,
        message: str,
        *,
        user_id: str | None = None,
        client_ip: str | None = None,
        user_agent: str | None = None,
        **metadata: Any,
    ) -> str:
        """
        Record a security event, at level security.

        Args:
            event_type: What happened.
            message: What happened, in words.
            user_id: Who did it.
            client_ip: From which address.
            user_agent: With which program.
            **metadata: As of `log_event`; a keyword of that method, such as *component*, means the same.

        Returns:
            The event id, or "" if the policy is disabled.

        Raises:
            AuditStorageError: The event is not stored.
            ValueError: An unknown event type.
        """
        return await self.log_event(
            event_type,
            message,
            **keywords(
                metadata,
                log_level=AuditLogLevel.SECURITY,
                user_id=user_id,
                client_ip=client_ip,
                user_agent=user_agent,
            ),
        )

    async def log_data_access(
        self,
        /,
        resource: str,
        operation: str,
        *,
        user_id: str | None = None,
        data_classification: str | None = None,
        contains_pii: bool = False,
        contains_phi: bool = False,
        **metadata: Any,
    ) -> str:
        """
        Record that data were read, changed, deleted or exported.

        Args:
            resource: Which data; kept in the metadata.
            operation: "read", "write", "update", "delete" or "export" decide on the event type; anything else is an
                access.
            user_id: Who did it.
            data_classification: For example "confidential".
            contains_pii: Whether the event contains personal data.
            contains_phi: Whether the event contains health data.
            **metadata: As of `log_event`; a keyword of that method, such as *client_ip*, means the same.

        Returns:
            The event id, or "" if the policy is disabled.

        Raises:
            AuditStorageError: The event is not stored.
        """
        return await self.log_event(
            _DATA_TYPES.get(text(operation).lower(), AuditEventType.DATA_ACCESS),
            f"Data {text(operation)} on resource: {text(resource)}",
            **keywords(
                metadata,
                operation=operation,
                user_id=user_id,
                data_classification=data_classification,
                contains_pii=contains_pii,
                contains_phi=contains_phi,
                resource=resource,
            ),
        )

    # -- reading

    async def get_events(
        self,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        event_type: AuditEventType | None = None,
        log_level: AuditLogLevel | None = None,
        user_id: str | None = None,
        component: str | None = None,
        limit: int = 100,
    ) -> list[AuditEvent]:
        """
        Return stored events that meet all conditions, the newest first.

        Args:
            start_time: Not before this time; with a time zone.
            end_time: Not after this time; with a time zone.
            event_type: Of this type.
            log_level: Of this level.
            user_id: By this user.
            component: In this component.
            limit: At most so many.

        Raises:
            AuditStorageError: The trail can't be read.
            ValueError: A time without zone, an unknown type or level, or a negative limit.
        """
        for name, time in (("start_time", start_time), ("end_time", end_time)):
            if time is not None and time.tzinfo is None:
                raise ValueError(f"{name}: expected a datetime with a time zone; got {time!r}")
        require("limit", limit, at_least=0)
        wanted = EventFilter(
            start_time=start_time,
            end_time=end_time,
            event_type=None if event_type is None else member(AuditEventType, event_type, "event_type"),
            log_level=None if log_level is None else member(AuditLogLevel, log_level, "log_level"),
            user_id=None if user_id is None else text(user_id),
            component=None if component is None else text(component),
        )
        return await self._storage.find(wanted, limit)

    async def head(self) -> ChainHead:
        """
        Return the number and the checksum of the newest stored event.

        Kept where nobody who can write to the trail can write, they prove later that it was not cut or made anew; see
        `holds`.

        Raises:
            AuditStorageError: The trail can't be read.
        """
        return await head_of(self._storage)

    async def holds(self, head: ChainHead) -> bool:
        """
        Return whether the record that was the newest when *head* was taken is there, and as it was.

        If so, and if a verification finds the trail valid, every record up to that one is as it was then: its checksum
        depends on all that come before. If not, the trail was cut off before that record, or made anew.

        Args:
            head: As `head` returned it at some time; that of an empty trail is in every trail.

        Raises:
            AuditStorageError: The trail can't be read.
        """
        return await holds(self._storage, head)

    async def get_statistics(self) -> dict[str, Any]:
        """
        Return what this trail did since it was made.

        Returns:
            ``total_events`` that were stored, with ``error_events`` and ``security_events`` among them. ``alerts`` that
            were ``dispatched``, have ``failed``, or are ``waiting``. Of the ``policy`` its ``compliance_level`` and
            whether it is ``enabled``.
        """
        return {
            "total_events": self._total_events,
            "error_events": self._error_events,
            "security_events": self._security_events,
            "alerts": {
                "dispatched": self._alerts.forwarder.dispatched,
                "failed": self._alerts.forwarder.failed,
                "waiting": len(self._alerts.outstanding),
            },
            "policy": {"compliance_level": self.policy.level.value, "enabled": self.policy.enabled},
        }

    @classmethod
    def verify_chain(cls, events: Iterable[AuditEvent]) -> AuditChainVerificationResult:
        """
        Check *events*, given from the first of the trail on and in order, as `verify_chain_from_storage` would.

        What is wrong is returned, not raised. The newest events may be missing: a chain can't tell.
        """
        try:
            head = chain.follow_events(chain.EMPTY, events)
        except ChainError as damage:
            first_invalid = damage.head.sequence_number + 1
            return AuditChainVerificationResult(
                valid=False,
                events_checked=first_invalid,
                first_invalid_sequence=first_invalid,
                error_message=str(damage),
                status=damage.status,
            )
        return AuditChainVerificationResult(valid=True, events_checked=head.sequence_number)

    async def verify_chain_from_storage(
        self, progress: Callable[[int], None] | None = None
    ) -> AuditChainVerificationResult:
        """
        Check every stored event, beside whatever is being written.

        What is wrong is returned, not raised. Events cut off the very end can't be seen from inside a chain.

        Args:
            progress: Called now and then, in a worker thread, with how many events were checked so far.
        """
        with self._alerts.background.collecting() as calls:
            try:
                result = await self._storage.verify(progress)
                self._alerts.health.verified(result)
            except Exception as error:
                self._alerts.health.failing(VERIFICATION, error)
                raise
            finally:
                await self._alerts.background.run(calls)
        return result

    # -- announcing

    async def _send_compliance_alert(self, event: AuditEvent) -> None:
        """
        Announce *event* on `compliance_alert`.

        A subclass may override it. The override is then called for each alert instead; it is contained and timed like
        an asynchronous receiver, and nothing is announced unless it awaits this one.
        """
        self._emit(event)

    def _announce(self, event: AuditEvent) -> None:
        """Call `_send_compliance_alert`: at once, or in the background if it was overridden."""
        try:
            if getattr(self._send_compliance_alert, "__func__", None) is AuditTrail._send_compliance_alert:
                self._emit(event)
            else:
                self._alerts.announcer.call(self._send_compliance_alert, event)
        finally:
            self._alerts.outstanding.announced(event.event_id)

    def _emit(self, event: AuditEvent) -> None:
        self._alerts.announcer.announce(compliance_alert, self, **self.policy.alert_about(event)._asdict())

    async def _store_and_announce(self, event: AuditEvent) -> None:
        if not is_without_loop():
            await anyio.lowlevel.checkpoint_if_cancelled()
        self._alerts.forget_closed_loop()
        with self._alerts.background.collecting() as calls:
            try:
                # Whatever happens to the caller meanwhile: an event that is stored must be announced.
                await finished(functools.partial(self._store_then_announce, event))
            except LoopClosedError as error:
                raise AuditStorageError("interrupted while storing: the event may be stored or not") from error
            except Exception:
                await self._alerts.background.run(calls)
                raise
            await self._alerts.background.run(calls)

    async def _store_then_announce(self, event: AuditEvent) -> None:
        self._announce(chain.sealed(event, await self._append(event, announced=True)))
        home = self._alerts.background.home
        if home is not None and not is_without_loop() and home.is_here:
            # Lets the forwarder run, so that a tight loop does not fill its buffer.
            await anyio.lowlevel.checkpoint()

    async def _store_quietly(self, event: AuditEvent) -> None:
        background = self._alerts.background
        try:
            await self._append(event, announced=False)
        finally:
            if background.kept and background.home is None:
                # The alerts of an incident that was opened or resolved.
                await background.run([])

    async def _append(self, event: AuditEvent, *, announced: bool) -> Seal:
        """Store and count *event*; people are told when that fails, and when it works again."""
        try:
            seal = await self._append_silently(event, announced=announced)
        except Exception as error:
            self._alerts.health.failing(STORING, error)
            raise
        self._alerts.health.working(STORING)
        return seal

    async def _append_silently(self, event: AuditEvent, *, announced: bool) -> Seal:
        """Store and count *event*; *announced*: whether `_announce` is called next."""
        if announced:
            self._alerts.outstanding.expect(event.event_id)
        try:
            seal = await self._storage.append(event)
        except BaseException:
            self._alerts.outstanding.announced(event.event_id)
            raise
        self._count(event)
        if self._alerts.catch_up is not None:
            self._alerts.catch_up.stored(seal.sequence_number)
        return seal

    async def _store(self, event: AuditEvent) -> AuditEvent:
        """Store *event*, which is announced next, and return it with its place in the chain."""
        return chain.sealed(event, await self._append_silently(event, announced=True))

    async def _announce_again(self, event: AuditEvent) -> None:
        """Announce an event of an earlier run."""
        try:
            with anyio.move_on_after(self._alert_timeout):
                await self._send_compliance_alert(event)
        except Exception as error:
            # Of a subclass.
            _logger.error("announcing event %s raised %s", event.event_id, type(error).__qualname__)  # noqa: TRY400

    def _count(self, event: AuditEvent) -> None:
        with self._lock:
            self._total_events += 1
            self._error_events += event.event_type is AuditEventType.ERROR_OCCURRED or event.log_level in _ERROR_LEVELS
            self._security_events += event.log_level is AuditLogLevel.SECURITY or event.event_type in _SECURITY_TYPES

    def _forget(self) -> None:
        # In a forked child.
        self._lock = threading.Lock()
        self._alerts.forget()
