"""
The audit trail: stores events in a hash chain, and announces the events that meet the policy.

    async with AuditTrail(CompliancePolicy(level=ComplianceLevel.HIPAA), Path("audit"), dispatcher) as trail:
        await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password", user_id="alice")
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, Unpack, cast

from .._typos import look_for_typos
from ..context import completed
from ..record import chain
from ..record.chain import AuditChainVerificationResult, ChainHead, ChainStatus, Seal
from ..record.errors import AuditStorageError, StoringInterruptedError
from ..record.events import AuditEvent
from ..record.intake import FIELDS, CommonFields, EventFields, recorded
from ..record.kinds import RULE_MET, AuditEventType, AuditLogLevel, ComplianceLevel, member
from ..record.later import imported_later, loading
from ..record.options import require, require_kind_or_none
from ..record.parties import Target
from ..record.privacy import Uncopied, leave_frames_out, without_frames
from ..storage.protocol import AuditStorage, EventFilter

# Loaded with the trail, in this order, for the exit of the interpreter: the portal is closed before the commits are
# finished. What they would register during the exit, for a trail that is first used then, would not be called.
from ..tasks import groupcommit, portal  # noqa: F401  # isort: skip  # pyright: ignore[reportUnusedImport]
from ..tasks.fork import call_in_child
from ..tasks.loops import LoopClosedError, finished
from ._alerts import Alerts
from ._keeping import Expected, Keeping, archive_of
from ._ownrecords import OwnRecords
from ._recording import Recorder
from .alerting import AlertDispatcher, NoopAlertDispatcher
from .configured import Configured
from .everyday import EverydayEvents
from .policy import CompliancePolicy
from .questions import Questions
from .signals import compliance_alert, noted

if TYPE_CHECKING:
    from pathlib import Path

    from ..storage.archive import Archive
    from ..storage.replication import Replication
    from ..storage.retention import RetentionReport
    from ._rules import Rules
    from .audited import Audited
    from .sync import SyncAuditTrail
else:
    Path = imported_later("pathlib", "Path")
    Archive = imported_later("fapilog.storage.archive", "Archive")
    Audited = imported_later("fapilog.core.audited", "Audited")
    RetentionReport = imported_later("fapilog.storage.retention", "RetentionReport")
    SyncAuditTrail = imported_later("fapilog.core.sync", "SyncAuditTrail")

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


class AuditTrail(Configured, EverydayEvents, Questions, Uncopied):
    """
    Records events, and announces the events that meet the policy.

    The id of an event is returned when the event is stored, and only then. An alert never delays, stops or changes
    that: a failure of a dispatcher or a receiver is logged (logger "fapilog") and reported on `alert_failed`.

    Use a trail as an asynchronous context manager, or call `start` and `stop`. Started, it sends its alerts in the
    background, in the event loop that started it; else before `log_event` returns, contained and timed all the same.
    Any task, thread and event loop may call a trail; `sync` has the same methods for code without an event loop. A
    failure to store, verify or alert is an incident, announced once, and once when it ends.

    Args:
        policy: Which events alert; by default `CompliancePolicy()`.
        storage_path: The directory of the trail; by default ``audit_logs``. ``~`` is the home directory.
        alert_dispatcher: Gets the alerts; by default a dispatcher that drops them. An asynchronous context manager is
            entered on start, and left on stop after the last alert.
        storage: Keeps the events, instead of files in *storage_path*.
        durability: "fsync": stored means on the disk. "write": in the operating system's hands. See `FileStorage`. A
            *storage* has its own.
        alert_timeout: Seconds that the dispatcher may take to be entered; and it, or an asynchronous receiver, for one
            alert.
        alert_concurrency: Alerts that are sent at once.
        alert_buffer: Alerts that may wait; more fail at once. Also the number of calls of asynchronous receivers that
            may be under way.
        stop_timeout: Seconds that `stop` waits for the alerts, and then for the dispatcher to be left.
        must_exist: Whether a trail must be there already. If there is none, for the volume is not mounted, say, `start`
            and recording raise `AuditStorageError`.
        expected_head: A former result of `head` that the trail must hold, or else the same: after a restored backup.
        archive: Keeps the days that `apply_retention` archives, and answers questions about removed days: a directory,
            ``s3://bucket/prefix``, or an `Archive` such as `S3Archive`.
        replica: A storage, such as `PostgresStorage`, into which the records are copied while the trail is started; see
            `Replication`. The trail has to be in files.
        lag_limit: Seconds that a record may wait to be in the *replica*, 300 by default; longer is an incident.

    Attributes:
        policy: As given.
        replication: Copies the records into the *replica*; None without one.
        storage_path: The directory of the trail; None with a storage other than files.

    Raises:
        ImportError: The library of the *archive* is missing; the message says how to get it.
        TypeError: *alert_dispatcher* has no asynchronous `send_alert`, a trail that is not in files has an *archive* or
            a *replica*, or another option is not of its type.
        ValueError: A number is out of range, both *storage* and *storage_path* are given, or an option would have no
            effect: *durability* with a *storage*, or *lag_limit* without a *replica*.
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
        must_exist: bool = False,
        expected_head: ChainHead | None = None,
        archive: Archive | Path | str | None = None,
        replica: AuditStorage | None = None,
        lag_limit: float | None = None,
    ) -> None:
        words = "a CompliancePolicy; a path goes to storage_path="
        require_kind_or_none("policy", policy, CompliancePolicy, expected=words)
        policy = CompliancePolicy() if policy is None else policy
        self.policy: CompliancePolicy = policy
        keeping = Keeping(
            storage, storage_path, durability=durability, archive=archive, replica=replica, lag_limit=lag_limit
        )
        self.storage_path: Path | None = keeping.path
        self.replication: Replication | None = keeping.replication
        self._storage = keeping.storage
        self._asked = keeping.asked
        self._archive = keeping.archive
        self._stop_timeout = stop_timeout
        expected = Expected(self._storage, must_exist=must_exist, head=expected_head)
        self._alerts = Alerts(
            NoopAlertDispatcher() if alert_dispatcher is None else alert_dispatcher,
            policy=policy,
            keeping=keeping,
            announce=self._announce,
            store=self._store_recovery,
            record=self._record,
            expected=expected,
            timeout=require("alert_timeout", alert_timeout, above=0),
            concurrency=require("alert_concurrency", alert_concurrency, at_least=1, whole=True),
            buffer=require("alert_buffer", alert_buffer, at_least=1, whole=True),
            stop_timeout=require("stop_timeout", stop_timeout, at_least=0),
        )
        # Not at their first use: the process may have no file descriptor left by then, to read them from.
        from .audited import Audited  # noqa: PLC0415
        from .sync import SyncAuditTrail  # noqa: PLC0415  it is built on this class

        self._audited: type[Audited] = Audited
        self._sync: type[SyncAuditTrail] = SyncAuditTrail
        # Kept, as every event has them: asking for the process is a call of the operating system.
        self._known: dict[str, Any] = {
            "hostname": os.uname().nodename,
            "process_id": os.getpid(),
            "compliance_level": policy.level,
            "log_level": AuditLogLevel.INFO,
        }
        self._limits = (policy.max_text_characters, policy.max_message_characters, policy.max_record_bytes)
        self._recorder = Recorder(self._storage, expected, self._alerts)
        self._own_records = OwnRecords(policy)
        self._rules: Rules | None = None
        if policy.rules and policy.enabled:
            from ._rules import Rules  # noqa: PLC0415

            self._rules = Rules(
                policy.rules,
                storage=self._storage,
                background=self._alerts.background,
                health=self._alerts.health,
                aftermath=self._alerts.aftermath,
                record=self._record_rule,
            )
        # The types of the events that the rules count.
        self._counted: tuple[AuditEventType, ...] = () if self._rules is None else self._rules.kinds
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
            AuditStorageError: The trail is not there that *must_exist* or *expected_head* asks for.
            Exception: The dispatcher can't be entered: its own exception, or a `TimeoutError` after `alert_timeout`
                seconds; the trail is then not started.
            RuntimeError: It is being started in another event loop, which does not run.
        """
        # First of all: a `stop` that is called while something else is awaited must find the alerts started.
        await self._alerts.start(self, self._send_compliance_alert)
        if self._rules is not None:
            self._rules.start()
        if self.is_started:
            await self._own_records.started(self.log_event)

    async def stop(self) -> None:
        """
        Send the alerts that wait, for `stop_timeout` seconds at most, report the rest as failed, and close the files.

        From any task, loop or thread with a loop. Nothing happens if it is stopped already. It may be started again. A
        caller that is cancelled meanwhile stops the waiting: the alerts that are not sent are reported as failed, the
        dispatcher is left, and then the cancellation is raised. A storage that is not closed within five seconds is
        left as it is, and the log says so.

        Raises:
            Exception: The storage can't be closed: its own exception.
            RuntimeError: The trail was started in another event loop, which does not run.
        """
        try:
            await self._own_records.stopping(self.log_event)
        finally:
            await self._alerts.stop()

    async def cleanup(self) -> None:
        """Do as `stop`; the earlier fapilog had both names."""
        await self.stop()

    async def drain(self) -> None:
        """Wait until every alert was sent or failed, and every asynchronous receiver has returned; raises as `stop`."""
        await self._alerts.drain()

    @property
    def is_started(self) -> bool:
        """Whether the trail is started, or is being started, and not stopped."""
        return self._alerts.is_started

    @property
    def sync(self) -> SyncAuditTrail:
        """The same methods without ``await``, for synchronous code; see `SyncAuditTrail`."""
        return self._sync(self, self._storage, self._alerts.background, stop_timeout=self._stop_timeout)

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

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:  # noqa: ARG002  the shape of a lifespan
        """
        Start the trail with an application, and stop it with that: ``FastAPI(lifespan=trail.lifespan)``.

        For Starlette, FastAPI, Litestar and FastStream. In a lifespan of your own, enter it:
        ``async with trail.lifespan(app):``.

        Args:
            app: The application, which frameworks give, some of them by this name; it is not used.

        Raises as `start` and `stop`.
        """
        async with self:
            yield

    # -- recording

    async def log_event(self, /, event_type: AuditEventType | str, message: str, **fields: Unpack[EventFields]) -> str:
        """
        Store an event, announce it if the policy says so, and return its id.

        Any value is recorded: a text that is too long for the policy is cut, and a value that can't be read is named.
        Members that the call does not give come from the `audit_context` around it.

        Returning means that the event is stored. If the caller is cancelled while it waits, or ended by the exception
        of a signal handler, the event may be stored or not; a stored event that alerts is announced all the same.
        An event that is logged by a receiver of an alert, by the dispatcher, or by a task that one of them started, is
        stored with a note and not announced: the alerts would feed themselves.

        Args:
            event_type: The kind of event; one of your own has a dot: "billing.refund".
            message: The event in words.
            **fields: The members of the event, as `EventFields` explains them; *metadata* takes all other values.

        Returns:
            The event id, or "" if the policy is disabled.

        Raises:
            AuditStorageError: The event is not stored.
            TypeError: *contains_pii* or *contains_phi* is neither true nor false, or *occurred* is no datetime. With a
                strict policy also: a keyword is none of the fields, and near one.
            ValueError: An unknown event type, level or outcome, a time without zone, or an *event_id* that is none.
        """
        handled = sys.exception()
        try:
            policy = self.policy
            if not policy.enabled:
                return ""
            given = cast("dict[str, Any]", fields)
            if not FIELDS.issuperset(given):
                look_for_typos(given, strict=policy.strict)
            known = {"event_type": member(AuditEventType, event_type, "event_type"), "message": message, **self._known}
            event, record = recorded(known, completed(given, strict=policy.strict), limits=self._limits)
            once = given.get("event_id") is not None
            if not (policy.alerts_on(event) or event.event_type in self._counted):
                await self._recorder.record(event, record, once=once, quietly=True)
            elif self._alerts.aftermath.is_here:
                event = noted(event)
                await self._recorder.record(event, chain.body(event), once=once, quietly=True)
            else:
                await self._store_and_send(event, record, once=once)
        except BaseException as error:
            # As `without_frames`, without a second coroutine.
            leave_frames_out(error, handled)
            raise
        return event.event_id

    def audited(
        self, /, operation: str, *, target: Target | str | None = None, **fields: Unpack[CommonFields]
    ) -> Audited:
        """
        Record how a block of code, or every call of a function, ends: use it after ``with``, ``async with``, or ``@``.

        The event has the operation, its duration in seconds, and the outcome: success; failure, with the exception; or
        denied, for a `PermissionError`. The exception is raised on. See `Audited`.

        Args:
            operation: The operation, "export"; it decides on the event type, as for `log_data_access`.
            target: The object of the operation.
            **fields: As for `log_event`.

        Raises:
            TypeError: The operation is missing: the function under ``@`` stands in its place.
        """
        return self._audited(self, operation, {**fields, "target": target})

    # -- reading

    async def get_statistics(self) -> dict[str, Any]:
        """
        Return the counts of this trail since it was made.

        Returns:
            ``total_events`` stored, with ``error_events`` and ``security_events`` among them; ``alerts`` that were
            ``dispatched``, have ``failed``, or are ``waiting``; the ``compliance_level`` of the ``policy``, and whether
            it is ``enabled``.
        """
        policy = {"compliance_level": self.policy.level.value, "enabled": self.policy.enabled}
        return {**self._recorder.counts, "alerts": self._alerts.counts, "policy": policy}

    @without_frames
    async def apply_retention(
        self, *, archive: Archive | Path | str | None = None, keep_from: int | None = None, dry_run: bool = False
    ) -> RetentionReport:
        """
        Compress, archive and remove days of the trail that are old enough, as the policy says.

        Beyond `archive_after_days` a day is compressed, and copied to *archive*; beyond `retention_days` it is removed,
        after the archive, if there is one, was read back. Never today's day or the newest; never one with a record that
        this trail's durable dispatcher has an alert about that is pending, one that a legal hold names, one that is
        damaged, or one with records that their level asks to keep longer. Every removal is recorded before it is made.
        The rest of the trail verifies as `ChainStatus.FRONT_PRUNED`.

        A caller that is cancelled, and a process that dies, leave a valid trail; the next call continues.

        Args:
            archive: The archive; None for that of the trail, if it has one. A directory is made if it is not there.
            keep_from: The number of the first record that stays, whatever its age: since another process's outbox has
                an alert about it, say.
            dry_run: Whether to change nothing, and only to report the days that would be compressed, archived and
                removed.

        Raises:
            AuditStorageError: A file can't be read or written; the archive is away, has another file of a day, or does
                not prove that it keeps the day; another process applies retention; or the dispatcher can't say which
                alerts are pending. The days done until then stay done. The failure is an incident of the trail, unless
                another process applies retention.
            ImportError: The library of the *archive* is missing; the message names the extra.
            TypeError: The trail is not in files, or *archive* is neither a place nor an `Archive`.
            ValueError: The policy is disabled, or *archive* is the directory of the trail, or no address in S3.
        """
        with loading():
            from ._retaining import retained  # noqa: PLC0415  for the processes that remove days alone

        return await retained(
            self._storage,
            self.policy,
            self._alerts,
            self.log_event,
            archive=self._archive if archive is None else archive_of(self._storage, archive),
            keep_from=None if keep_from is None else require("keep_from", keep_from, at_least=1, whole=True),
            dry_run=dry_run,
        )

    # -- announcing

    async def _send_compliance_alert(self, event: AuditEvent) -> None:
        """
        Announce *event* on `compliance_alert`.

        A subclass may override it. The override is then called for every alert; it is contained and timed like an
        asynchronous receiver, and nothing is announced unless it awaits this method.
        """
        self._emit(event)

    def _announce(self, event: AuditEvent) -> None:
        """Call `_send_compliance_alert`: at once, or in the background if it was overridden."""
        try:
            if self._announces_all:
                self._emit(event)
            else:
                self._alerts.announcer.call(self._send_compliance_alert, event)
        except BaseException:
            self._interrupted(event)
            raise
        self._alerts.forwarder.announced(event.event_id)

    def _interrupted(self, event: AuditEvent) -> None:
        """Have *event* announced if it is stored: a signal handler has ended the call that would have done so."""
        if self._alerts.forwarder.interrupted(event.event_id):
            self._alerts.background.start_soon(functools.partial(self._announce_if_stored, event))

    async def _announce_if_stored(self, event: AuditEvent) -> None:
        from ._reading import intact  # noqa: PLC0415  most processes only record

        found = await self._storage.find(EventFilter(event_id=event.event_id, start_time=event.timestamp), 1)
        for stored in intact(found):
            # A receiver that exits has done so in the call. From here, trio would end with Ctrl-C, and that exit code.
            with suppress(SystemExit):
                self._follow(stored)

    @property
    def _announces_all(self) -> bool:
        """Whether no subclass decides which alerts are announced."""
        return getattr(self._send_compliance_alert, "__func__", None) is AuditTrail._send_compliance_alert

    def _emit(self, event: AuditEvent) -> None:
        self._alerts.announcer.announce(compliance_alert, self, **self.policy.alert_about(event)._asdict())

    async def _store_and_send(self, event: AuditEvent, record: bytes, *, once: bool) -> None:
        """Store and announce an event, and send its alert here if the trail is not started."""
        self._alerts.forget_closed_loop()
        with self._alerts.background.collecting() as calls:
            try:
                # Even if the caller is cancelled meanwhile: an event that is stored must be announced.
                await finished(functools.partial(self._store_then_announce, event, record, once=once))
            except LoopClosedError as error:
                raise StoringInterruptedError from error
            except AuditStorageError:
                await self._alerts.background.run(calls)
                raise
            await self._alerts.background.run(calls)

    async def _store_then_announce(self, event: AuditEvent, record: bytes, *, once: bool = False) -> None:
        try:
            stored = await self._stored(event, record, self._recorder.record, once=once)
            if stored is None:
                return
            self._follow(stored)
        except BaseException as error:
            if not isinstance(error, AuditStorageError) or isinstance(error, StoringInterruptedError):
                self._interrupted(event)
            raise
        await self._alerts.forwarder.make_room()

    def _follow(self, stored: AuditEvent) -> None:
        """Announce an event that is stored if the policy says so, and have the rules count it."""
        if self.policy.alerts_on(stored):
            self._announce(stored)
        else:
            self._alerts.forwarder.announced(stored.event_id)
        if self._rules is not None and stored.event_type in self._counted:
            self._rules.apply(stored)

    async def _stored(
        self, event: AuditEvent, record: bytes, store: Callable[..., Awaitable[Seal | None]], *, once: bool = False
    ) -> AuditEvent | None:
        """Return *event* with its place when it is stored, which is announced next; None if it is stored already."""
        kept = self._alerts.kept(event) if self._announces_all else ()
        forwarder = self._alerts.forwarder
        forwarder.expect(event.event_id)
        try:
            seal = await store(event, record, once=once, alerts=kept)
        except StoringInterruptedError:
            raise
        except AuditStorageError:
            forwarder.announced(event.event_id)
            raise
        if seal is None:
            forwarder.announced(event.event_id)
            return None
        return chain.sealed(event, seal)

    async def _record_rule(self, message: str, **fields: Any) -> None:
        """Store an event about a rule, and announce it; once, even if several processes do so."""
        known = {"event_type": RULE_MET, "message": message, **self._known}
        event, record = recorded(known, fields, limits=self._limits)
        await self._store_then_announce(event, record, once=True)

    async def _record(self, event: AuditEvent) -> None:
        """Store an event of the trail about itself, and announce it if the policy says so."""
        await self._store_then_announce(event, chain.body_to_store(event))

    async def _store_recovery(self, event: AuditEvent) -> AuditEvent:
        """Store the recovery of a part of the trail, which is announced next."""
        return await self._stored(event, chain.body_to_store(event), self._recorder.store) or event

    def _forget(self) -> None:
        # In a forked child.
        self._known["process_id"] = os.getpid()
        self._recorder.forget()
        if self._rules is not None:
            self._rules.forget()
        self._own_records.forget()
        self._alerts.forget()
