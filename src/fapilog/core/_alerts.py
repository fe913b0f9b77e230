"""The alerts of one trail, from the announcement to the report: all that is started and stopped with the trail."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio

from ..record.events import AuditEvent, handed_out
from ..storage.closing import close_in_time
from ..storage.protocol import KeptAlert
from ..tasks.background import Background
from ..tasks.life import Life
from ..tasks.loops import LoopClosedError, is_without_loop
from ..tasks.portal import flush_at_exit, run_in
from ..tasks.strangers import Log, answer
from ..tasks.threads import in_thread
from ._forwarding import AlertForwarder
from ._health import Health, TrailReporter
from ._keeping import Expected, Keeping
from ._watch import Watch
from .alerting import Alert, AlertDispatcher, is_resuming, reporter, require_dispatcher
from .policy import CompliancePolicy
from .signals import Aftermath, Announcer, compliance_alert

if TYPE_CHECKING:
    from ._catchup import CatchUp

__all__ = ["Alerts"]

_log: Final = Log("fapilog")

# Seconds that the aftermath of an alert lasts at most: alerts that feed themselves once a minute do no harm, and a task
# whose events are never announced again does.
_AFTERMATH: Final = 60.0
# Seconds beyond the time to enter the dispatcher, or to stop, that another event loop has to start or stop the alerts.
_PATIENCE: Final = 20.0
_Announce: TypeAlias = Callable[[AuditEvent], Awaitable[None]]


class Alerts:
    """
    The background of a trail, its forwarder, its health and its dispatcher, with one life.

    Args:
        dispatcher: Gets the alerts.
        policy: The trail's policy.
        keeping: The trail's storage, with its replica and the files for its incidents.
        announce: Announces an event of the trail's own; a bound method, held weakly.
        store: Stores an event of the trail's own; likewise.
        record: Stores an event of the trail about itself, and announces it if the policy says so; likewise.
        expected: The trail that has to be in the storage already.
        timeout: Seconds that the dispatcher may take to be entered; and it, or an asynchronous receiver, for one alert.
        concurrency: Alerts that are sent at once.
        buffer: Alerts that may wait.
        stop_timeout: Seconds that stopping waits for the alerts, and then for the dispatcher to be left.

    Raises:
        TypeError: *dispatcher* can't be one.

    Attributes:
        dispatcher: As given.
        background: Runs the sends and the asynchronous receivers.
        aftermath: Knows which events are logged by receivers and dispatchers.
        announcer: Sends the signals.
        health: The trail's own incidents.
        watch: Looks at the clock and at the storage.
        forwarder: Receives the signal.
        was_stopped: Whether the trail was stopped, and has recorded no event since.
        catch_up: Resends the alerts that a durable dispatcher lacks; None without one, and while not started.
    """

    def __init__(
        self,
        dispatcher: AlertDispatcher,
        *,
        policy: CompliancePolicy,
        keeping: Keeping,
        announce: Callable[[AuditEvent], None],
        store: Callable[[AuditEvent], Coroutine[Any, Any, AuditEvent]],
        record: Callable[[AuditEvent], Coroutine[Any, Any, None]],
        expected: Expected,
        timeout: float,
        concurrency: int,
        buffer: int,
        stop_timeout: float,
    ) -> None:
        self.dispatcher: AlertDispatcher = require_dispatcher("alert_dispatcher", dispatcher)
        self._kept_in: Callable[[object, Alert], Sequence[str]] | None = getattr(dispatcher, "kept_in", None)
        self._policy = policy
        self._storage = keeping.storage
        self._expected = expected
        self._replication = keeping.replication
        self._timeout = timeout
        self._stop_timeout = stop_timeout
        self.background: Background = Background()
        self.aftermath: Aftermath = Aftermath(min(timeout, _AFTERMATH))
        self.announcer: Announcer = Announcer(
            self.background, self.aftermath, ours=AlertForwarder.receive, timeout=timeout, limit=buffer
        )
        self.health: Health = Health(
            policy, self.background, announce=announce, store=store, files=keeping.incident_files
        )
        self.watch: Watch = Watch(
            keeping.storage, policy=policy, background=self.background, health=self.health, record=record
        )
        self.forwarder: AlertForwarder = AlertForwarder(
            dispatcher,
            policy=policy,
            background=self.background,
            announcer=self.announcer,
            health=self.health,
            aftermath=self.aftermath,
            timeout=timeout,
            concurrency=concurrency,
            buffer=buffer,
        )
        self._lock = threading.RLock()
        self._life: Life | None = None
        self.was_stopped: bool = False
        self.catch_up: CatchUp | None = None
        if is_resuming(dispatcher):
            # Not in the thread that starts the alerts: a child that is forked meanwhile would have half of it.
            from . import _catchup  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport]

    @property
    def counts(self) -> dict[str, int]:
        """How many alerts were dispatched, have failed, and wait."""
        forwarder = self.forwarder
        return {"dispatched": forwarder.dispatched, "failed": forwarder.failed, "waiting": forwarder.waiting}

    @property
    def is_started(self) -> bool:
        """Whether the alerts are started, or are being started, and not stopped."""
        life = self._life
        return life is not None and not life.is_over

    async def start(self, trail: object, announce: _Announce) -> None:
        """
        Start, in a task of its own in this loop; if another call has begun that, in any loop, wait for its end.

        Args:
            trail: The sender of the alerts, and the owner that a warning names.
            announce: Announces an event of an earlier run.

        Raises:
            AuditStorageError: The trail is not there that must be.
            Exception: The dispatcher can't be entered: its own exception, or a `TimeoutError`.
            RuntimeError: Another loop has begun to start them, and does not run.
        """
        self.was_stopped = False
        while True:
            self.forget_closed_loop()
            with self._lock:
                life, is_new = self._life, False
                if life is None or life.is_over:
                    life, is_new = Life(self._started(trail, announce), owner=trail), True
                    self._life = life
            if is_new:
                flush_at_exit(self, Alerts.forget_closed_loop)
                await life.enter()
                return
            if life.is_leaving:
                await life.leave(patience=self._stop_timeout + _PATIENCE)
                continue
            try:
                await life.settled(patience=self._timeout + _PATIENCE)
            except RuntimeError:
                # The caller that began the start was cancelled; this caller was not.
                if not life.is_called_off:
                    raise
            else:
                return

    async def stop(self) -> None:
        """
        Stop, from any task and loop: send waiting alerts as long as there is time, and report the rest as failed.

        Raises:
            Exception: The storage can't be closed: its own exception.
            RuntimeError: The loop in which the alerts were started does not run.
        """
        life = self._life
        if life is None:
            await self._end()
            return
        try:
            await life.leave(patience=self._stop_timeout + _PATIENCE)
        except LoopClosedError:
            self.forget_closed_loop()
            await self._end()
            self.was_stopped = True
        finally:
            with self._lock:
                if self._life is life and life.is_over:
                    self._life = None
        # A thread that recorded an event at the very end found the trail started, and left the alert to it.
        await self._send_kept()

    def kept(self, event: AuditEvent) -> list[KeptAlert]:
        """Return the alerts about *event* that the storage is to keep in the transaction that stores the event."""
        if self._kept_in is None or compliance_alert.is_muted or not self._policy.alerts_on(event):
            return []
        _, severity, channel = alert = self._policy.alert_about(self._policy.for_dispatch(handed_out(event)))
        try:
            names = answer(self._kept_in, self._storage, alert)
            return [KeptAlert(name, severity, channel, alert.event) for name in names]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # It gets the alert by `send_alert` all the same.
            _log.error("%s.kept_in raised %s", type(self.dispatcher).__qualname__, type(error).__qualname__)
            return []

    def warn_of_late_event(self) -> None:
        """Warn, for the first event that is recorded after `stop`, how its alert is sent."""
        self.was_stopped = False
        _log.warning(
            "an event is recorded after its trail was stopped: its alert is sent as if the trail had never been started"
        )

    async def drain(self) -> None:
        """
        Wait until every alert has a report, and every asynchronous receiver has returned.

        Raises:
            RuntimeError: The loop in which the alerts were started does not run, or is blocked.
        """
        home = self.background.home
        if home is None or home.is_here:
            await self._settle()
            return
        try:
            # In a thread, which notices if that loop stands still or is closed.
            await in_thread(run_in, home, self._settle, is_left=True)
        except LoopClosedError:
            self.forget_closed_loop()
            await self._settle()

    async def _settle(self) -> None:
        if self.catch_up is not None:
            await self.catch_up.idle()
        await self.background.settle()

    async def send_own(self) -> None:
        """Send the alerts about the trail itself here, if it is not started."""
        if self.background.kept and self.background.home is None:
            await self.background.run([])

    def forget_closed_loop(self) -> None:
        """Report the alerts that wait as failed, if the loop was closed before `stop`."""
        life = self._life
        if life is None or not life.is_lost:
            return
        with self._lock:
            if self._life is not life:
                return  # another thread is at it
            self._life = None
        copies = "" if self._replication is None else ", and nothing copies its records, until it is started again"
        _log.error(
            "a trail was not stopped before its event loop was closed: log_event itself sends its alerts%s", copies
        )
        if self.background.home is not None:
            self.background.forget()
        self.catch_up = None
        self.forwarder.resend_missed(None)
        self.forwarder.give_up()
        self.announcer.give_up()

    def forget(self) -> None:
        """Become as new, in a forked child: the parent's tasks and alerts stay the parent's."""
        self._lock = threading.RLock()
        self._life = self.catch_up = None
        self.was_stopped = False
        self.background.forget()
        self.announcer.forget()
        self.forwarder.forget()
        self.health.forget()

    @asynccontextmanager
    async def _started(self, trail: object, announce: _Announce) -> AsyncGenerator[None]:
        """
        Be started, in the task of a `Life`.

        The order matters. The open incidents are known before the dispatcher can say that it fails or works; the
        dispatcher is entered before an alert is sent, and left after the last. On leaving, alerts have `stop_timeout`
        seconds, or none if the caller of `stop` was cancelled or the loop ends. The replication is left last of all, so
        that it copies the records about the end too.
        """
        life, began = self._life, None
        assert life is not None  # noqa: S101 - entered by this life
        async with self._replication or contextlib.nullcontext():
            try:
                await self.watch.warn_if_in_trouble()
                if self._policy.enabled:
                    await self._expected.find()
                await self.health.enter()
                async with self._dispatcher_entered(trail, life), self.background.open():
                    await self.watch.look_soon()
                    async with self._catching_up(trail, announce):
                        yield
                        began = anyio.current_time()
                        if self.catch_up is not None:
                            await life.within(self._stop_timeout, self.catch_up.idle)
                    left = max(0.0, self._stop_timeout - (anyio.current_time() - began))
                    await life.within(left, self.background.settle)
            finally:
                with anyio.CancelScope(shield=True):
                    if began is None:
                        self.forwarder.give_up("the trail could not be started")
                    await self._end()
                # By `stop`, or with the event loop; not if it was never started, since its dispatcher can't be entered.
                self.was_stopped = began is not None

    async def _end(self) -> None:
        """Report the alerts that are left, run the receivers of the reports, and close the files."""
        self.forwarder.give_up()
        await self._send_kept()
        self.announcer.give_up()
        await self.health.leave()
        # Nothing that was seen counts any more: at the next start or event, look again.
        self._expected.doubt()
        self.watch.doubt()
        await close_in_time(self._storage)

    async def _send_kept(self) -> None:
        if self.background.kept and not is_without_loop():
            with anyio.move_on_after(self._stop_timeout, shield=True):
                await self.background.settle()

    @asynccontextmanager
    async def _dispatcher_entered(self, trail: object, life: Life) -> AsyncGenerator[None]:
        if not isinstance(self.dispatcher, AbstractAsyncContextManager):
            yield
            return
        # In a task of its own: a dispatcher that fails there, or cancels the task it is in, does not end the trail.
        own = Life(self.dispatcher, leave_within=self._stop_timeout)
        token = reporter.set(TrailReporter(trail, self.announcer, self.health))
        # The tasks that the dispatcher starts here log in the aftermath of alerts until it is left.
        with self.aftermath.begun():
            try:
                with anyio.move_on_after(self._timeout) as entering:
                    await own.enter()
            finally:
                reporter.reset(token)
            if entering.cancelled_caught:
                name = type(self.dispatcher).__qualname__
                raise TimeoutError(f"alert_dispatcher: {name} was not entered within {self._timeout:g} s")
            try:
                yield
            finally:
                try:
                    await life.within(math.inf, own.leave)
                except Exception as error:
                    # Not its text or traceback, which may hold secrets.
                    _log.error("leaving %s raised %s", type(self.dispatcher).__qualname__, type(error).__qualname__)

    @asynccontextmanager
    async def _catching_up(self, trail: object, announce: _Announce) -> AsyncGenerator[None]:
        if not is_resuming(self.dispatcher):
            yield
            return
        from ._catchup import CatchUp  # noqa: PLC0415  few dispatchers are durable

        async with CatchUp(
            self.dispatcher,
            sender=trail,
            storage=self._storage,
            policy=self._policy,
            forwarder=self.forwarder,
            announce=announce,
            timeout=self._timeout,
            health=self.health,
        ) as catch_up:
            self.catch_up = catch_up
            try:
                yield
            finally:
                self.catch_up = None
