"""From the trail to the dispatcher: whatever one that keeps alerts lacks of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import anyio

from .alerting import Announcement, Resumable
from .chain import ChainHead
from .errors import DeliveryError, FapilogError
from .events import AuditEvent
from .forwarding import AlertForwarder
from .policy import CompliancePolicy
from .storage import AuditStorage

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["Resumption"]

_logger: Final = logging.getLogger("fapilog")

# Events that are read at once.
_PAGE: Final = 250
# Events after which the mark is moved on, so that a start after a crash has no more than these to look through.
_MARK_EVERY: Final = 10_000
# Seconds until the next attempt to hand over what could not be, the second and so on twice as long.
_WAIT: Final = 15.0
_LONGEST_WAIT: Final = 300.0


class Resumption:
    """
    Hands a dispatcher that keeps alerts what it lacks.

    The trail is the queue: an alert that never came to the dispatcher, for the process was killed or the forwarder's
    buffer was full, is found there again. Up to the dispatcher's mark it has everything; from there on the events are
    read page by page, those that alert and that it lacks are handed over, and the mark is moved on.

    Enter it, as an asynchronous context manager, while the dispatcher is entered.

    Args:
        dispatcher: Keeps alerts.
        storage: Has the events.
        head: Returns up to where they go.
        policy: Says which of them alert.
        forwarder: Hands them over, and tells when it is full.
        announce: Announces an event of an earlier run, which nobody in this process has been told of.
        receive: Gives the forwarder an event that was announced before.
        announced: Waits until all events that are stored so far have been announced.
        failing: Called with the reason when something can't be handed over.
        working: Called when everything has been.
    """

    def __init__(
        self,
        dispatcher: Resumable,
        *,
        storage: AuditStorage,
        head: Callable[[], Awaitable[ChainHead]],
        policy: CompliancePolicy,
        forwarder: AlertForwarder,
        announce: Callable[[AuditEvent], Awaitable[None]],
        receive: Callable[[AuditEvent], None],
        announced: Callable[[], Awaitable[None]],
        failing: Callable[[str], None],
        working: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._storage = storage
        self._read_head = head
        self._policy = policy
        self._forwarder = forwarder
        self._announce = announce
        self._receive = receive
        self._announced = announced
        self._failing = failing
        self._working = working
        self._head: ChainHead | None = None
        self._mark: ChainHead | None = None
        self._wanted = anyio.Event()
        self._done = anyio.Event()
        self._done.set()
        self._page: frozenset[str] = frozenset()
        self._missed: set[str] = set()
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        """Find out where to go on, and hand over in the background from then on. What fails is tried again."""
        self._forwarder.missed = self._miss
        try:
            await self._find_mark()
        except Exception as error:
            self._failing(self._complain(error))
            self._want()
        else:
            if self._mark != self._head:
                self._want()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._tasks is not None  # noqa: S101 - entered
        self.close()
        await self._tasks.__aexit__(None, None, None)

    async def _run(self) -> None:
        wait = _WAIT
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            try:
                await self._catch_up()
            except Exception as error:
                self._failing(self._complain(error))
                self._done.set()
                await anyio.sleep(wait)
                wait = min(wait * 2, _LONGEST_WAIT)
                self._wanted.set()
            else:
                self._working()
                wait = _WAIT
                if not self._wanted.is_set():
                    self._done.set()

    async def idle(self) -> None:
        """Wait until nothing is lacking, or an attempt to hand it over has failed."""
        await self._done.wait()

    def stored(self, sequence_number: int) -> None:
        """Take note of how far the trail has come."""
        if self._mark is not None and sequence_number - self._mark.sequence_number >= _MARK_EVERY:
            self._want()

    def close(self) -> None:
        """Hand nothing over any more."""
        self._forwarder.missed = None
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def _want(self) -> None:
        if self._done.is_set():
            self._done = anyio.Event()
        self._wanted.set()

    def _miss(self, event: AuditEvent) -> None:
        """Take note of an alert that the forwarder could not take, or not deliver."""
        if event.event_id in self._page:
            self._missed.add(event.event_id)
        self._want()

    async def _catch_up(self) -> None:
        if self._mark is None:
            await self._find_mark()
        while await self._hand_over_page():
            pass

    def _complain(self, error: Exception) -> str:
        # Its text only if it is ours: another's may hold a secret.
        reason = str(error) if isinstance(error, FapilogError) else type(error).__qualname__
        _logger.error("alerts can't be handed over from the trail: %s", reason)
        return reason

    async def _find_mark(self) -> None:
        head = await self._read_head()
        mark = await self._dispatcher.resume_from(head)
        if mark.sequence_number:
            found = await self._storage.read(mark.sequence_number - 1, 1)
            if [event.checksum for event in found] != [mark.checksum]:
                message = (
                    "record %d of the trail is not the one that the dispatcher knows: it was cut, or is another trail"
                )
                _logger.critical(message, mark.sequence_number)
                mark = await self._dispatcher.resume_from(head, anew=True)
        self._head, self._mark = head, mark

    async def _hand_over_page(self) -> bool:
        """Hand over what is lacking of the next page, and return whether there may be more."""
        assert self._mark is not None  # noqa: S101 - found first
        page = await self._storage.read(self._mark.sequence_number, _PAGE)
        if not page:
            return False
        # What is stored and not yet announced would be taken for something that was forgotten.
        await self._announced()
        alerts = {event.event_id: event for event in page if self._policy.alerts_on(event)}
        in_hand = self._forwarder.in_hand()
        self._page, self._missed = frozenset(alerts), set()
        for event_id in await self._lacking(alerts.values()):
            if event_id not in in_hand:
                await self._hand_over(alerts[event_id])
        await self._forwarder.until_done(self._page)
        if await self._lacking(alerts[event_id] for event_id in self._missed):
            raise DeliveryError("the dispatcher did not take them")
        self._mark = ChainHead(page[-1].sequence_number or 0, page[-1].checksum)
        await self._dispatcher.resumed_to(self._mark)
        return True

    async def _lacking(self, events: Iterable[AuditEvent]) -> list[str]:
        """Return the ids of those of *events* that the dispatcher lacks."""
        alerts = [
            Announcement(self._policy.for_dispatch(event), severity, self._policy.channel_for(severity))
            for event in events
            for severity in [event.log_level.value]
        ]
        return [alert.event.event_id for alert in await self._dispatcher.lacking(alerts)] if alerts else []

    async def _hand_over(self, event: AuditEvent) -> None:
        await self._forwarder.until_room()
        assert self._head is not None  # noqa: S101 - found first
        if (event.sequence_number or 0) <= self._head.sequence_number:
            await self._announce(event)
        else:
            self._receive(event)
