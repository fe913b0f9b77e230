"""
The store of an outbox, below the class that takes alerts and the sender: its place, and all that both must know.

A call goes down as one transaction, shared with the calls that wait at the same time, and its result comes back up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from ...core.alerting import Alert, DeliveryReport, Reporter
from ...record.errors import FapilogError, OutboxError
from ...record.events import Identity, identity_of
from ...tasks.fork import call_in_child
from ...tasks.groupcommit import GroupCommit
from ...tasks.loops import Event, Loop
from ...tasks.strangers import Log
from ...tasks.threads import in_thread
from ...tasks.weakset import SharedWeakSet
from ._place import Place, Queue

__all__ = ["SentDirectly", "Store"]

T = TypeVar("T")

_log: Final = Log("fapilog.delivery")

_INTERRUPTED: Final = OutboxError("interrupted while writing to the outbox: it may be written or not")

# Alerts that were sent directly, and are to be noted in the place when it works again.
_MOST_SENT_DIRECTLY: Final = 1000


class SentDirectly(NamedTuple):
    """An alert that was sent directly, since the place could not take it."""

    alert: Alert
    began_at: float
    took: float


class Store:
    """
    The place of one outbox, and the state that the outbox and its sender share.

    It knows whether the place works, logs that and reports to the trail. It remembers the alerts that were sent
    directly while the place did not work: the next transaction begins with their receipts, so that no alert is sent
    from there that has arrived already.

    Args:
        name: The name of the outbox.
        place: Keeps the alerts.
        now: Returns the time, in seconds since 1970.

    Attributes:
        name: The name of the outbox.
        place: Keeps the alerts.
        now: Returns the time, in seconds since 1970.
    """

    def __init__(self, name: str, place: Place, now: Callable[[], float]) -> None:
        self.name: str = name
        self.place: Place = place
        self.now: Callable[[], float] = now
        self._commits: GroupCommit[Callable[[Queue], Any], Any] = GroupCommit(
            partial(_commit, place), interrupted=_INTERRUPTED
        )
        self._forget()
        call_in_child(self, Store._forget)

    def _forget(self) -> None:
        # In a forked child: the parent's alerts and trail are the parent's.
        self._reporter: Reporter | None = None
        # The parts that it was told of last that they work: to say so again for each alert would be no news.
        self._working: set[str] = set()
        # Guards the alerts that do not come from the place: any thread may bring one.
        self._lock = threading.Lock()
        # None: not known yet.
        self._works: bool | None = None
        # The ids of the events whose alerts are being taken, each with the loop of the call.
        self._taking: dict[object, tuple[str, Loop | None]] = {}
        self._sent_directly: dict[Identity, SentDirectly] = {}
        self._changed: Event | None = None
        self._key = self.name, ""

    async def enter(self, reporter: Reporter | None) -> None:
        """
        Report to the trail by *reporter*, until `leave`.

        Raises:
            ValueError: Another outbox of the same name and place is entered, for the same trail: only one of the two
                would send an alert.
        """
        key = self.name, await in_thread(self.place.identity)
        # No other task runs from here on.
        for other in _entered.all() if reporter is not None else ():
            if other._reporter is reporter and other._key == key:  # noqa: SLF001
                raise ValueError(f"name: expected one name for each outbox in {self.place}; got {self.name!r} twice")
        self._reporter, self._key = reporter, key
        # An earlier process may have left incidents open.
        self._working = set()
        _entered.add(self)

    def reports_to(self, reporter: Reporter | None) -> bool:
        """Return whether it reports to the trail by *reporter*."""
        return reporter is not None and reporter is self._reporter

    async def leave(self) -> None:
        """Close the place, which the next call opens again, and tell no trail from now on."""
        try:
            await in_thread(self.place.close)
        finally:
            self.stop_reporting()

    def stop_reporting(self) -> None:
        """Tell no trail from now on, as in `leave`; the place stays open."""
        self._reporter = None
        _entered.discard(self)

    # -- transactions

    async def run(self, call: Callable[[Queue], T]) -> T:
        """
        Return the result of *call*, made in a transaction that it may share.

        Raises:
            OutboxError: The place can't be used.
            Exception: The exception of *call*; other calls in the transaction are not harmed.
        """
        with self._lock:
            sent = list(self._sent_directly.values())
        proves = bool(sent) or not self._works
        call = partial(_prove_and_call, self.name, sent, self.now(), call) if proves else call
        try:
            result: T | _Refused = await self._commits.submit(call)
            if isinstance(result, _Refused):
                raise result.error
        except FapilogError as error:
            self._note(error)
            raise
        with self._lock:
            for each in sent:
                self._sent_directly.pop(identity_of(each.alert.event), None)
        if self._sent_directly:
            # Sent directly since this call was made.
            self.wake()
        if proves or self._works:
            # Not if another call has failed since this one was made, which may have written nothing.
            self._note(None)
        return result

    async def read(self, call: Callable[[Queue], T]) -> T:
        """
        Return the result of *call*, which changes nothing; it says nothing about the place: a full disk can be read.

        Raises:
            OutboxError: The place can't be used.
        """
        return (await in_thread(partial(self.place.run, [call], writes=False)))[0]

    def _note(self, error: FapilogError | None) -> None:
        """Note that the place fails, or that it works; log that if it is new."""
        if error is not None and self._works is not False:
            _log.error("the outbox %s can't use its %s: %s", self.name, self.place.kind, error)
        elif error is None and self._works is False:
            _log.warning("the outbox %s can use its %s again", self.name, self.place.kind)
        self._works = error is None
        part = f"the {self.place.kind} of the outbox {self.name}"
        # Said each time: with that the trail also looks which other parts have worked for long enough.
        self._working.discard(part)
        self.report_part(part, None if error is None else str(error))

    # -- alerts that do not come from the place

    @contextmanager
    def taking(self, event_id: str) -> Generator[None]:
        """Withhold the alert about an event from the sender until it is in the place, or was sent directly."""
        # A commit that is said to have failed may have taken place.
        call = object()
        self._taking[call] = event_id, Loop.here()
        try:
            yield
        finally:
            self._taking.pop(call, None)

    def note_sent_directly(self, sent: SentDirectly) -> None:
        """Remember that an alert was sent directly, until the place has its receipt."""
        with self._lock:
            self._sent_directly[identity_of(sent.alert.event)] = sent
            while len(self._sent_directly) > _MOST_SENT_DIRECTLY:
                del self._sent_directly[next(iter(self._sent_directly))]
        if self._works:
            # The place has come to work again meanwhile.
            self.wake()

    @property
    def sent_directly(self) -> set[Identity]:
        """The events whose alerts were sent directly, and have no receipt in the place yet."""
        with self._lock:
            return set(self._sent_directly)

    @property
    def withheld(self) -> set[str]:
        """The ids of events whose alerts are not to be sent from the place: being taken now, or sent directly."""
        # A call whose loop was closed around it never ends.
        taking = tuple(self._taking.copy().values())
        taken = {event_id for event_id, loop in taking if loop is None or not loop.is_closed}
        with self._lock:
            return taken.union(event_id for event_id, _ in self._sent_directly)

    # -- news, for the sender and for the trail

    def watch(self) -> Event:
        """Return an event that is set when `wake` is called next; it takes the place of the one before."""
        changed = self._changed = Event()
        return changed

    def wake(self) -> None:
        """Make the sender look again: something has changed."""
        changed = self._changed
        if changed is not None and not changed.is_set:
            changed.set()

    def report_part(self, part: str, cause: str | None) -> None:
        """Report to the trail that *part* fails, with the *cause*; or with None, where that is news, that it works."""
        if self._reporter is None:
            return
        if cause is not None:
            self._working.discard(part)
            self._reporter.failing(part, cause)
        elif part not in self._working:
            self._working.add(part)
            self._reporter.working(part)

    def report_attempt(self, report: DeliveryReport) -> None:
        """Tell the trail of an attempt."""
        if self._reporter is not None:
            self._reporter.attempted(report)


_entered: Final[SharedWeakSet[Store]] = SharedWeakSet()


class _Refused(NamedTuple):
    """Instead of a result: the exception that a call raised."""

    error: Exception


def _commit(place: Place, batch: Iterable[Callable[[Queue], Any]]) -> list[Any]:
    """Make the calls of *batch* in one transaction; if a call is at fault and not the place, every call in its own."""
    calls = list(batch)
    try:
        return place.run(calls)
    except FapilogError:
        raise
    except Exception:
        return [_commit_alone(place, call) for call in calls]


def _commit_alone(place: Place, call: Callable[[Queue], Any]) -> Any:
    try:
        return place.run([call])[0]
    except Exception as error:
        return _Refused(error)


def _prove_and_call(outbox: str, sent: list[SentDirectly], now: float, call: Callable[[Queue], T], queue: Queue) -> T:
    # A disk that is full can be read: only a write shows that the place works.
    queue.touch(outbox)
    # First, so that nothing is sent again that was sent directly, and it has its receipt.
    for each in sent:
        queue.put_delivered(outbox, *each, now)
    return call(queue)
