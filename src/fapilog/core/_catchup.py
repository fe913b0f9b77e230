"""The catch-up: after a crash or a full buffer, a durable dispatcher gets from the trail the alerts that it lacks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import anyio

from ..record.chain import ChainHead, is_intact
from ..record.errors import DeliveryError, reason
from ..record.events import AuditEvent, Identity, identity_of
from ..storage.protocol import AuditStorage, head_of, holds
from ..tasks.loops import Condition
from ..tasks.strangers import Log, contained
from ._forwarding import AlertForwarder
from ._health import Health
from ._incidents import END, RESUMING
from ._reading import intact
from .alerting import DurableDispatcher
from .policy import CompliancePolicy
from .signals import compliance_alert, is_of_aftermath

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["CatchUp"]

_log: Final = Log("fapilog")

# Events that are read at once.
_PAGE: Final = 250
# Events after which the mark is moved on, so that a start after a crash has no more than these to look through.
_MARK_EVERY: Final = 10_000
# Seconds until the next attempt to resend; they double with every further failure.
_WAIT: Final = 15.0
_LONGEST_WAIT: Final = 300.0


class CatchUp:
    """
    Resends the alerts that a durable dispatcher lacks.

    The trail is the queue. An alert that never reached the dispatcher, since the process was killed or the forwarder's
    buffer was full, can be derived again from its event. The dispatcher keeps a mark: the newest event up to which it
    lacks no alert. From the mark on, the catch-up reads the events page by page, asks the dispatcher which alerts of
    the page it lacks, resends them, waits until all have a report, and moves the mark behind the page.

    Why a page waits for the events that are expected: an event is stored before it is announced. A page that is read in
    between holds an event whose alert is still to come; resent now, the alert would be sent twice. Why an event of an
    earlier run is announced, and a missed alert of this run is not: this process's receivers got that one before.

    Enter it, as an asynchronous context manager, while the dispatcher is entered. A failure is logged, is an incident,
    and is tried again after a wait that grows.

    Args:
        dispatcher: Keeps alerts.
        sender: The trail, as the sender of the alerts.
        storage: Has the events.
        policy: Says which of them alert.
        forwarder: Sends the alerts, knows which events are still to be announced, and says which alerts were missed.
        announce: Announces an event of an earlier run: a subclass of the trail may do so in its own way.
        timeout: Seconds that it may take.
        health: Takes the failures.
    """

    def __init__(
        self,
        dispatcher: DurableDispatcher,
        *,
        sender: object,
        storage: AuditStorage,
        policy: CompliancePolicy,
        forwarder: AlertForwarder,
        announce: Callable[[AuditEvent], Awaitable[None]],
        timeout: float,
        health: Health,
    ) -> None:
        self._dispatcher = dispatcher
        self._sender = sender
        self._storage = storage
        self._policy = policy
        self._forwarder = forwarder
        self._announce = announce
        self._timeout = timeout
        self._health = health
        self._head: ChainHead | None = None
        self._mark: ChainHead | None = None
        self._is_wanted = self._is_running = self._has_failed = False
        # Notified when one of these three changes.
        self._changed = Condition()
        # The events of the page that is being looked at, and whether their alerts were missed meanwhile.
        self._watched: dict[Identity, bool] = {}
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        """Find the mark, and resend in the background from then on."""
        try:
            with contained():
                await self._find_mark()
        except Exception as error:
            self._forwarder.resend_missed(self._resend_soon)
            self._complain(error)
            self._want()
        except BaseException:
            self._forwarder.resend_missed(None)
            raise
        else:
            if self._mark != self._head:
                self._want()
            else:
                self._health.working(RESUMING)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._task = self._run()
        self._tasks.start_soon(lambda: self._task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None  # noqa: S101 - entered
        self._forwarder.resend_missed(None)
        self._tasks.cancel_scope.cancel()
        try:
            # Whatever has ended the block, and is raised as it is: the group would put it into another one.
            await self._tasks.__aexit__(None, None, None)
        finally:
            # Where asyncio cancels the task before its first step, anyio leaves the coroutine behind, "never awaited".
            self._task.close()

    async def _run(self) -> None:
        wait = _WAIT
        while True:
            await self._changed.until(lambda: self._is_wanted)
            self._is_wanted, self._is_running = False, True
            try:
                with contained():
                    await self._catch_up()
            except Exception as error:
                self._complain(error)
                self._end_attempt(failed=True)
                await anyio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
                self._has_failed, self._is_wanted = False, True
            else:
                self._health.working(RESUMING)
                wait = _WAIT
                self._end_attempt(failed=False)

    async def move_on(self) -> None:
        """Look through the newest events, and move the mark behind the events about which no alert is lacking."""
        self._want()
        await self.idle()

    async def idle(self) -> None:
        """Wait until the dispatcher lacks no alert, or an attempt to resend has failed."""
        await self._changed.until(lambda: self._has_failed or not (self._is_running or self._is_wanted))

    def stored(self, sequence_number: int) -> None:
        """Take note, from any thread, of how far the trail has come."""
        if self._mark is not None and sequence_number - self._mark.sequence_number >= _MARK_EVERY:
            self._want()

    def _resend_soon(self, missed: Identity) -> None:
        """Take note, from any thread, that the alert about an event was missed."""
        watched = self._watched
        if missed in watched:
            watched[missed] = True
        self._want()

    def _want(self) -> None:
        self._is_wanted = True
        self._changed.notify()

    def _end_attempt(self, *, failed: bool) -> None:
        self._is_running, self._has_failed = False, failed
        self._changed.notify()

    async def _catch_up(self) -> None:
        if self._mark is None:
            await self._find_mark()
        while await self._resend_page():
            pass

    def _complain(self, error: Exception) -> None:
        why = reason(error)
        _log.error("alerts can't be resent from the trail: %s", why)
        self._health.failing(RESUMING, why)

    async def _find_mark(self) -> None:
        if self._head is None:
            self._head = await head_of(self._storage)
        # That of the first attempt: it is the mark of a new dispatcher, and no alert about an event up to there is
        # resent. While the dispatcher could not say its mark, events were stored whose alerts it may lack.
        head = self._head
        self._forwarder.resend_missed(self._resend_soon)
        mark = await self._dispatcher.resume_from(head)
        if not await holds(self._storage, mark):
            cause = f"record {mark.sequence_number} is not the one that the dispatcher knows; it was cut, or is another"
            _log.critical("the end of the trail: %s", cause)
            self._health.failing(END, cause)
            mark = await self._dispatcher.resume_from(head, anew=True)
        self._mark = mark

    async def _resend_page(self) -> bool:
        """Resend the alerts that the dispatcher lacks of the next page; return whether there may be more pages."""
        assert self._mark is not None  # noqa: S101 - found first
        page = intact(await self._storage.read(self._mark.sequence_number, _PAGE))
        if not page:
            return False
        # An event that is stored and not yet announced would be taken for one that was missed.
        await self._forwarder.until_announced()
        alerts = {
            identity_of(event): event for event in page if self._policy.alerts_on(event) and not is_of_aftermath(event)
        }
        watched = self._watched = dict.fromkeys(alerts, False)
        in_hand = self._forwarder.unreported()
        for identity in await self._lacking(alerts.values()):
            if identity not in in_hand:
                await self._resend(alerts[identity])
        await self._forwarder.until_reported(watched)
        if await self._lacking(alerts[identity] for identity, is_missed in watched.items() if is_missed):
            raise DeliveryError("the dispatcher did not take the alerts")
        index = _last_in_order(page, self._mark.sequence_number)
        if index is None and len(page) < _PAGE:
            # An altered record may have any number: the next intact event shows where to read on.
            return False
        last = page[-1 if index is None else index]
        self._mark = ChainHead(last.sequence_number or 0, last.checksum)
        await self._dispatcher.resumed_to(self._mark)
        return True

    async def _lacking(self, events: Iterable[AuditEvent]) -> list[Identity]:
        """Return those of the *events* whose alerts the dispatcher lacks."""
        alerts = [self._policy.alert_about(self._policy.for_dispatch(event)) for event in events]
        return [identity_of(alert.event) for alert in await self._dispatcher.lacking(alerts)] if alerts else []

    async def _resend(self, event: AuditEvent) -> None:
        await self._forwarder.until_room()
        assert self._head is not None  # noqa: S101 - found first
        if (event.sequence_number or 0) <= self._head.sequence_number:
            if compliance_alert.is_muted:
                # The alert is not announced, so the mark must not move past its event.
                raise DeliveryError("the signal compliance_alert is muted")
            try:
                with anyio.fail_after(self._timeout), contained():
                    await self._announce(event)
            except Exception as error:
                # Of a subclass of the trail, without which the alert is sent.
                _log.error("announcing event %s raised %s", event.event_id, type(error).__qualname__)
            else:
                return
        self._forwarder.receive(self._sender, **self._policy.alert_about(event)._asdict())


def _last_in_order(events: Sequence[AuditEvent], number: int) -> int | None:
    """
    Return the index of the last of *events*, which are behind record *number*, to read on from; None without one.

    An altered record may claim any number, and a record that was moved has that of its old place: so of the intact ones
    it is the last that follows the event before it, if one does.
    """
    numbers = [number, *(event.sequence_number or 0 for event in events)]
    indices = range(len(events) - 1, -1, -1)
    in_order = [index for index in indices if numbers[index] + 1 == numbers[index + 1]]
    return next((index for index in (*in_order, *indices) if is_intact(events[index])), None)
