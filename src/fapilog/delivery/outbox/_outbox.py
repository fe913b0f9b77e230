"""Outboxes: how they take alerts, resume from the trail, and give receipts; and the outbox in a file."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import anyio

from ...core.alerting import Alert, AlertDispatcher, Reporter, reporter, require_dispatcher
from ...record.chain import ChainHead
from ...record.errors import FapilogError
from ...record.events import AuditEvent, identity_of
from ...record.options import require, require_path, require_text, several
from ...record.privacy import Uncopied
from ...record.values import text
from ...tasks.background import Background
from ...tasks.fork import call_in_child
from ...tasks.life import Life
from ...tasks.strangers import Log
from .._inner import Managers, require_names
from ._breaker import SCHEDULE, Terms
from ._file.place import OutboxFile
from ._place import Place, Queue
from ._rows import OutboxAlert, OutboxAttempt, OutboxState
from ._sender import Sender
from ._store import Store

__all__ = ["AnyOutbox", "Outbox"]

_log: Final = Log("fapilog.delivery")


class AnyOutbox(Uncopied):
    """
    An outbox for any place of its alerts; see `Outbox`.

    Args:
        inner: As for `Outbox`.
        place: Keeps the alerts.
        name: As for `Outbox`.
        terms: When the target is called, and how often.
        now: Returns the time, in seconds since 1970.

    Attributes:
        name: The name of the outbox.
        resumes: True: the outbox keeps the alerts that it has taken.
    """

    resumes: Final = True

    def __init__(
        self,
        inner: AlertDispatcher,
        place: Place,
        name: str,
        terms: Terms,
        now: Callable[[], float],
    ) -> None:
        if not require_text("name", name) or not name.isprintable():
            raise ValueError(f"name: expected printable text; got {name!r}")
        self.name: str = name
        self._inner = require_dispatcher("inner", inner)
        self._managers = Managers([inner])
        self._stop_timeout = terms.stop_timeout
        self._store = Store(name, place, now)
        self._background = Background()
        self._sender = Sender(self._store, inner, terms, self._background)
        self._life: Life | None = None
        self._times_entered = 0
        call_in_child(self, AnyOutbox._forget)
        self._mark: ChainHead | None = None
        require_names("name", [self])

    @property
    def place(self) -> str:
        """The place of its alerts, in words without a secret."""
        return str(self._store.place)

    @property
    def state(self) -> OutboxState:
        """The numbers of its alerts about a second ago, or when this process last used the outbox."""
        return self._sender.state

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.name!r} around {self._inner!r}>"

    # -- life

    async def __aenter__(self) -> Self:
        self._forget_closed_loop()
        told = reporter.get()
        if self._life is None or self._life.is_over:
            self._times_entered = 0
            self._life = Life(self._running(told), owner=self)
            await self._life.enter()
        elif not self._store.reports_to(told):
            raise ValueError(f"outbox {self.name}: expected one that is not entered; an Outbox belongs to one trail")
        # Twice where it stands in two places of a trail's wrappers: in a `FanOut`, and in the `Route` around that.
        self._times_entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._times_entered -= 1
        # None in a forked child, in which it was not entered.
        if self._times_entered == 0 and self._life is not None:
            await self._life.leave()

    @asynccontextmanager
    async def _running(self, told: Reporter | None) -> AsyncGenerator[None]:
        life = self._life
        assert life is not None  # noqa: S101 - entered by this life
        await self._store.enter(told)
        try:
            await self._managers.enter()
            try:
                async with self._background.open():
                    self._sender.enter()
                    self._background.start_soon(self._sender.work)
                    yield
                    self._sender.leave()
                    await life.within(self._stop_timeout, self._background.settle)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._sender.put_back()
                # A dispatcher that is never left must not keep the caller: hurried, this cancels it.
                await life.within(math.inf, self._managers.leave)
        finally:
            with anyio.CancelScope(shield=True):
                await self._store.leave()

    def _forget(self) -> None:
        # In a forked child: it is entered in the parent.
        self._life = None
        self._background.forget()

    def _forget_closed_loop(self) -> None:
        """Be no longer entered if the event loop was closed before the outbox was left: nothing sends its alerts."""
        if self._life is not None and self._life.is_lost:
            self._forget()
            self._store.stop_reporting()

    # -- taking alerts

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """
        Keep the alert; return when it is on the disk.

        A caller that is cancelled meanwhile may find it kept or not.

        Raises:
            Exception: The place of the alerts can't be used, and sending the alert directly failed with this exception.
        """
        self._forget_closed_loop()
        alert, now, name = Alert(event, severity, channel), self._store.now(), self.name
        with self._store.taking(event.event_id):
            try:
                await self._store.run(lambda queue: queue.put(name, alert, now))
            except FapilogError:
                self._store.note_sent_directly(await self._sender.send_directly(alert))
                return
            except Exception as error:
                # Not noted later: an alert that can't be kept would block all other alerts.
                _log.error("the outbox %s can't keep an alert (%s)", name, type(error).__qualname__)
                await self._sender.send_directly(alert)
                return
        if self._background.home is not None:
            self._store.wake()
        else:
            await self._sender.attempt_at_once(event)

    # -- resuming

    async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
        """
        Return the mark; that of a new outbox, or for another trail *anew*, is *head*.

        Raises:
            OutboxError: The place of the alerts can't be used.
        """
        # The mark of this process, if the mark of the place was lost with a damaged place.
        first = self._mark or head

        def begin(queue: Queue) -> ChainHead:
            # Of two processes that begin at once, one waits here for the other.
            queue.touch(self.name)
            if anew or queue.mark(self.name) is None:
                queue.set_mark(self.name, head if anew else first, back=anew)
            return cast(ChainHead, queue.mark(self.name))

        self._mark = await self._store.run(begin)
        return self._mark

    async def lacking(self, alerts: Sequence[Alert]) -> list[Alert]:
        """
        Return the *alerts* that are after the mark and have not come.

        Raises:
            OutboxError: The place of the alerts can't be used.
        """
        mark, lacking = await self._store.run(lambda queue: (queue.mark(self.name), queue.lacking(self.name, alerts)))
        sent = self._store.sent_directly
        first = 0 if mark is None else mark.sequence_number
        return [
            alert
            for alert in lacking
            if (alert.event.sequence_number or math.inf) > first and identity_of(alert.event) not in sent
        ]

    async def resumed_to(self, mark: ChainHead) -> None:
        """
        Move the mark on.

        Raises:
            OutboxError: The place of the alerts can't be used.
        """
        await self._store.run(lambda queue: queue.set_mark(self.name, mark))
        if self._mark is None or mark.sequence_number > self._mark.sequence_number:
            self._mark = mark

    async def oldest_pending(self) -> int | None:
        """
        Return the number of the first event about which an alert is pending or dead; None if there is none.

        Raises:
            OutboxError: The place of the alerts can't be used.
        """
        return await self._store.read(lambda queue: queue.oldest_pending(self.name))

    # -- receipts

    async def pending(self, limit: int = 100) -> list[OutboxAlert]:
        """
        Return the oldest *limit* alerts that wait or are being sent.

        Raises:
            OutboxError: The place of the alerts can't be used; so for all methods here.
            TypeError: *limit* is no whole number.
            ValueError: *limit* is negative.
        """
        require("limit", limit, at_least=0, whole=True)
        return await self._store.read(lambda queue: queue.alerts(self.name, ["pending"], limit=limit))

    async def dead(self, limit: int = 100) -> list[OutboxAlert]:
        """Return the oldest *limit* alerts that were refused or given up on; raises as `pending`."""
        require("limit", limit, at_least=0, whole=True)
        return await self._store.read(lambda queue: queue.alerts(self.name, ["dead"], limit=limit))

    async def find(self, event_id: str) -> OutboxAlert | None:
        """Return the alert about an event; None if there is none, or no longer."""
        found = await self._store.read(lambda queue: queue.alerts(self.name, event_id=text(event_id)))
        return found[0] if found else None

    async def history(self, event_id: str) -> list[OutboxAttempt]:
        """Return the attempts to deliver the alert about an event, the first of them first; of very many the last."""
        return await self._store.read(lambda queue: queue.attempts(self.name, text(event_id)))

    async def retry(self, event_ids: str | Iterable[str] | None = None) -> int:
        """
        Make alerts due now, on a new schedule, and return how many.

        A broken route is tried at once, in every process. A pause that the target has asked for is kept.

        Args:
            event_ids: The events that they are about, one or several; they may be dead, discarded or waiting. None: all
                that are dead.
        """
        now, ids = self._store.now(), None if event_ids is None else _ids(event_ids)
        count = await self._store.run(lambda queue: queue.retry(self.name, ids, now))
        self._store.wake()
        return count

    async def discard(self, event_ids: str | Iterable[str], *, reason: str) -> int:
        """
        Give up alerts that are dead or pending, and return how many; they are kept, with the *reason*.

        Args:
            event_ids: The events that they are about, one or several.
            reason: Why, in words.

        Raises:
            TypeError: An id, or the reason, is no text.
            ValueError: There is no reason.
        """
        if not require_text("reason", reason).strip():
            raise ValueError("reason: expected words; got none")
        now, ids = self._store.now(), _ids(event_ids)
        count = await self._store.run(lambda queue: queue.discard(self.name, ids, reason, now))
        self._store.wake()
        return count


def _ids(given: str | Iterable[str]) -> list[str]:
    return [text(require_text("event_ids", each)) for each in several("event_ids", given)]


class Outbox(AnyOutbox):
    """
    Takes alerts into a file, and sends them from there until they are delivered or refused.

    `send_alert` returns when the alert is on the disk; the same event is taken once. While the outbox is entered, as an
    asynchronous context manager, up to *concurrency* alerts are sent at once, the oldest first. In an `AuditTrail` that
    is done for you. Not entered, `send_alert` also makes the first attempt before it returns.

    The outcome of an attempt decides on the next:

    - `TransientDeliveryError`, `AmbiguousDeliveryError`, any other exception, and no outcome within *timeout*: again
      after the next wait of the *schedule*, and up to a fifth more. When that is used up, the alert is dead: by default
      after three days at the earliest.
    - `TransientDeliveryError` with `retry_after`: again after that many seconds and a little more, and no other alert
      goes to *inner* before. The wait is at least a second, even if the target asks for less, and doubles with every
      refusal in a row, up to five minutes. This does not use up the schedule, unless an alert has waited for longer
      than all of it.
    - `BrokenRouteError`: no alert is dead. One is tried now and then, as the schedule says and every quarter of an hour
      at least, and no other goes to *inner* until one arrives, or is refused for its content. An incident alerts at
      once, by the trail's other routes.
    - Any other `PermanentDeliveryError`: the alert is dead.

    A dead alert is kept with its history until it is retried or discarded. While three attempts in a row have failed,
    one is made at a time; when one succeeds, all that wait are due, the oldest first, and more are sent at once again.

    An alert arrives at least once. It may arrive twice after an attempt whose outcome is unknown: it was ambiguous, or
    the process died in it, or stood still for longer than *lease*. Its event, and so the key that a provider derives
    from it, is the same every time.

    It is a `DurableDispatcher`: when the trail is started, or more alerts came than its buffer holds, the trail sends
    every alert that the outbox lacks since it was first used. So no alert is lost whose event is stored, whenever the
    process is killed. Alerts from before the outbox was first used are not sent. One name is for one trail.

    Several processes may share the file; an alert is sent by one of them. Several outboxes may, with different names.

    A file that can't be used does not stop an alert: it is sent directly, once, by the call that brought it, which
    raises if that fails. The failure is logged and reported to the trail's `Reporter`. The file is never deleted; a
    damaged one is renamed to ``NAME.corrupt-…``.

    Order matters: a wrapper around an outbox sees alerts as taken when they are on the disk; a wrapper inside sees
    every attempt. ``Outbox(FanOut([a, b]))`` retries both until both have the alert, and
    ``FanOut([Outbox(a, path, name="a"), Outbox(b, path, name="b")])`` gives a and b schedules, histories and pauses of
    their own.

    Args:
        inner: Makes one attempt per call. If it is an asynchronous context manager, it is entered and left with this.
        path: The file, made when it is first used: mode 0600, on a local file system. ``~`` is the home directory. It
            holds the events, as *inner* gets them, of all alerts that are not delivered.
        name: The name of this outbox, in the file, in logs and metrics.
        schedule: Seconds between the attempts.
        concurrency: Alerts that are sent at once, by this process.
        timeout: Seconds for one attempt.
        keep: Seconds that receipts of delivered alerts are kept.
        old_after: Seconds after which an alert that waits is a reason to alert.
        lease: Seconds after which another process takes over the alerts that a dead process was sending.
        stop_timeout: Seconds that leaving it waits for alerts that are due.
        now: Returns the time, in seconds since 1970.

    Attributes:
        name: The name of the outbox.
        path: The path of its file.
        resumes: True: the outbox keeps the alerts that it has taken.

    Raises:
        TypeError: *inner* is no dispatcher, or another option is not of its type.
        ValueError: An option is out of range. On entering: the outbox is entered already, or its trail has another one
            of the same name in the same file. An outbox belongs to one trail.
    """

    def __init__(
        self,
        inner: AlertDispatcher,
        path: Path | str,
        *,
        name: str = "alerts",
        schedule: Sequence[float] = SCHEDULE,
        concurrency: int = 8,
        timeout: float = 30.0,
        keep: float = 90 * 86_400.0,
        old_after: float = 900.0,
        lease: float = 15.0,
        stop_timeout: float = 5.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path: Path = require_path("path", path)
        super().__init__(
            inner,
            OutboxFile(self.path),
            name,
            Terms(schedule, concurrency, timeout, keep, old_after, lease, stop_timeout).checked(),
            now,
        )
