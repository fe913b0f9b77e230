"""
Lose no alert: keep each in a file until it is delivered, however long that takes.

    from fapilog.delivery.outbox import Outbox

    trail = AuditTrail(alert_dispatcher=Outbox(slack, Path("alerts.db"), name="slack"))
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

import anyio

from ...core.alerting import Alert, AlertDispatcher, reporter, require_dispatcher
from ...record.chain import ChainHead
from ...record.errors import FapilogError
from ...record.events import AuditEvent
from ...record.options import require, require_path, require_text, several
from ...tasks.background import Background
from ...tasks.fork import call_in_child
from ...tasks.life import Life
from ...tasks.strangers import Log
from .._inner import Managers
from . import _queue, _receipts
from ._rows import OutboxAlert, OutboxAttempt, OutboxState
from ._sender import Sender, Terms
from ._store import Store

__all__ = ["SCHEDULE", "Outbox", "OutboxAlert", "OutboxAttempt", "OutboxState"]

_log: Final = Log("fapilog.delivery")

SCHEDULE: Final = (5.0, 30.0, 120.0, 600.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds between the attempts, over three days in all; much as the Standard Webhooks specification has it."""


class Outbox:
    """
    Takes each alert into a file, and sends it from there until it is delivered or refused.

    `send_alert` returns when the alert is on the disk; the same event is taken once. While the outbox is entered, as an
    asynchronous context manager, up to *concurrency* alerts are sent at once, the oldest first. In an `AuditTrail` that
    is done for you. Not entered, `send_alert` also makes the first attempt before it returns.

    The outcome of an attempt decides on the next:

    - `TransientDeliveryError`, `AmbiguousDeliveryError`, any other exception, and no outcome within *timeout*: again
      after the next wait of the *schedule*, and up to a fifth more. When that is used up, the alert is dead: by default
      after three days at the earliest.
    - `TransientDeliveryError` with `retry_after`: again after that many seconds and a little more, and no other alert
      goes to *inner* before. However little the other side asks for, it is a second at least, and twice as long with
      each refusal in a row, up to five minutes. This does not use up the schedule, unless an alert has waited for
      longer than all of it.
    - `BrokenRouteError`: no alert is dead. One is tried now and then, as the schedule says and every quarter of an hour
      at least, and no other goes to *inner* until one arrives, or is refused for its content. An incident tells people
      at once, by the trail's other routes.
    - Any other `PermanentDeliveryError`: the alert is dead.

    A dead alert is kept with its history until it is retried or discarded. While three attempts in a row have failed,
    one is made at a time; when one succeeds, all that wait are due, the oldest first, and more are sent at once again.

    An alert arrives at least once. It may arrive twice after an attempt of which nobody knows the outcome: it was
    ambiguous, or the process died in it, or stood still for longer than *lease*. Its event, and so the key that a
    provider derives from it, is the same each time.

    It is a `DurableDispatcher`: when the trail is started, or more alerts came than its buffer holds, the trail sends
    every alert that the outbox lacks since it was first used. So no alert is lost whose event is stored, whenever the
    process is killed. Alerts from before the outbox was first used are not sent. One name is for one trail.

    Several processes may share the file; each alert is sent by one of them. Several outboxes may, with a name each.

    A file that can't be used does not stop an alert: it is sent directly, once, by the call that brought it, which
    raises if that fails. That is logged, and the trail's `Reporter` is told. The file is never deleted; a damaged one
    is renamed to ``NAME.corrupt-…``.

    Order matters: what is around an outbox sees alerts as taken when they are on the disk; what is in it sees each
    attempt. ``Outbox(FanOut([a, b]))`` tries both again until both have the alert, and
    ``FanOut([Outbox(a, path, name="a"), Outbox(b, path, name="b")])`` gives each its own schedule, history and pauses.

    Args:
        inner: Makes one attempt each time it is called. If it is an asynchronous context manager, it is entered and
            left with this.
        path: The file, made when it is first used: mode 0600, on a local file system. ``~`` is the home directory. It
            holds what *inner* is given of each event that is not delivered.
        name: The name of this outbox, in the file, in logs and metrics.
        schedule: Seconds between the attempts.
        concurrency: Alerts that are sent at once, by this process.
        timeout: Seconds for one attempt.
        keep: Seconds that receipts of delivered alerts are kept.
        old_after: Seconds after which an alert that waits is a reason to alert.
        lease: Seconds after which another process takes over the alerts that a dead process was sending.
        stop_timeout: Seconds that leaving it waits for alerts that are due.
        now: Tells the time, in seconds since 1970.

    Attributes:
        name: As given.
        path: As given.
        resumes: True: the outbox keeps the alerts that it has taken.

    Raises:
        TypeError: *inner* is no dispatcher, or another option is not of its type.
        ValueError: An option is out of range. On entering: the outbox is entered already, or its trail has another one
            of the same name in the same file. An outbox belongs to one trail.
    """

    resumes: Final = True

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
        if not require_text("name", name) or not name.isprintable():
            raise ValueError(f"name: expected printable text; got {name!r}")
        require("concurrency", concurrency, at_least=1, whole=True)
        schedule = several("schedule", schedule, expected="a list of numbers")
        for option, value in (("timeout", timeout), ("keep", keep), ("old_after", old_after), ("lease", lease)):
            require(option, value, above=0)
        for option, value in (("stop_timeout", stop_timeout), *(("schedule", wait) for wait in schedule)):
            require(option, value, at_least=0, finite=True)
        self.name: str = name
        self.path: Path = require_path("path", path)
        self._inner = require_dispatcher("inner", inner)
        self._managers = Managers([inner])
        self._stop_timeout = stop_timeout
        self._now = now
        self._store = Store(name, self.path)
        terms = Terms(schedule, concurrency, timeout, keep, old_after, lease, now)
        self._sender = Sender(self._store, inner, terms)
        self._background = Background()
        self._life: Life | None = None
        call_in_child(self._background, Background.forget)
        self._mark: ChainHead | None = None

    @property
    def state(self) -> OutboxState:
        """How much is in it, as it was about a second ago, or when this process last did something with it."""
        return self._sender.state

    def __repr__(self) -> str:
        return f"<Outbox {self.name!r} around {self._inner!r}>"

    # -- life

    async def __aenter__(self) -> Self:
        self._store.enter(reporter.get())
        self._life = Life(self._running(), owner=self)
        await self._life.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._life is not None  # noqa: S101 - entered
        await self._life.leave()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        life = self._life
        assert life is not None  # noqa: S101 - entered by this life
        try:
            await self._managers.enter()
            try:
                async with self._background.open():
                    self._sender.enter()
                    self._background.start_soon(lambda: self._sender.work(self._background))
                    yield
                    self._sender.leave()
                    await life.within(self._stop_timeout, self._background.settle)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._sender.put_back()
                await self._managers.leave()
        finally:
            with anyio.CancelScope(shield=True):
                await self._store.leave()

    # -- taking alerts

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """
        Keep the alert; return when it is on the disk.

        A caller that is cancelled meanwhile may find it kept or not.

        Raises:
            Exception: The file can't be used, and what sending the alert directly raised.
        """
        alert, now, name = Alert(event, severity, channel), self._now(), self.name
        with self._store.taking(event.event_id):
            try:
                await self._store.run(lambda connection: _queue.put(connection, name, alert, now))
            except FapilogError:
                self._store.note_sent_directly(await self._sender.send_directly(alert))
                return
            except Exception as error:
                # Not noted later: an alert that the file can't take would stand in the way of all others.
                _log.error("the outbox %s can't keep an alert (%s)", name, type(error).__qualname__)
                await self._sender.send_directly(alert)
                return
        if self._background.entered:
            self._store.wake()
        else:
            await self._sender.attempt_at_once(event)

    # -- resuming

    async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
        """
        Return the mark; that of a new outbox, or for another trail *anew*, is *head*.

        Raises:
            OutboxError: The file can't be used.
        """
        # That of this process, if a damaged file took its own along.
        first = self._mark or head

        def begin(connection: sqlite3.Connection) -> ChainHead:
            if anew or _queue.mark(connection, self.name) is None:
                _queue.set_mark(connection, self.name, head if anew else first, back=anew)
            return cast(ChainHead, _queue.mark(connection, self.name))

        self._mark = await self._store.run(begin)
        return self._mark

    async def lacking(self, alerts: Sequence[Alert]) -> list[Alert]:
        """
        Return those of *alerts* that are after the mark and have not come.

        Raises:
            OutboxError: The file can't be used.
        """
        events = [alert.event for alert in alerts]
        mark, having = await self._store.run(
            lambda connection: (_queue.mark(connection, self.name), _queue.having(connection, self.name, events))
        )
        had = having | self._store.sent_directly
        first = 0 if mark is None else mark.sequence_number
        return [
            alert
            for alert in alerts
            if (alert.event.sequence_number or math.inf) > first and alert.event.event_id not in had
        ]

    async def resumed_to(self, mark: ChainHead) -> None:
        """
        Move the mark on.

        Raises:
            OutboxError: The file can't be used.
        """
        await self._store.run(lambda connection: _queue.set_mark(connection, self.name, mark))
        if self._mark is None or mark.sequence_number > self._mark.sequence_number:
            self._mark = mark

    async def oldest_pending(self) -> int | None:
        """
        Return the number of the first event about which an alert is pending or dead; None if there is none.

        Raises:
            OutboxError: The file can't be used.
        """
        return await self._store.read(lambda connection: _receipts.oldest_pending(connection, self.name))

    # -- receipts

    async def pending(self, limit: int = 100) -> list[OutboxAlert]:
        """
        Return the oldest *limit* alerts that wait or are being sent.

        Raises:
            OutboxError: The file can't be used; so for all methods here.
        """
        return await self._store.read(
            lambda connection: _receipts.alerts(connection, self.name, ["pending"], limit=limit)
        )

    async def dead(self, limit: int = 100) -> list[OutboxAlert]:
        """Return the oldest *limit* alerts that were refused or given up on."""
        return await self._store.read(lambda connection: _receipts.alerts(connection, self.name, ["dead"], limit=limit))

    async def find(self, event_id: str) -> OutboxAlert | None:
        """Return the alert about an event; None if there is none, or no longer."""
        found = await self._store.read(lambda connection: _receipts.alerts(connection, self.name, event_id=event_id))
        return found[0] if found else None

    async def history(self, event_id: str) -> list[OutboxAttempt]:
        """Return the attempts to deliver the alert about an event, the first of them first; of very many the last."""
        return await self._store.read(lambda connection: _receipts.attempts(connection, self.name, event_id))

    async def retry(self, event_ids: str | Iterable[str] | None = None) -> int:
        """
        Make alerts due now, on a new schedule, and return how many.

        Args:
            event_ids: The events that they are about, one or several; they may be dead, discarded or waiting. None: all
                that are dead.
        """
        now, ids = self._now(), None if event_ids is None else _ids(event_ids)
        count = await self._store.run(lambda connection: _receipts.retry(connection, self.name, ids, now))
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
        now, ids = self._now(), _ids(event_ids)
        count = await self._store.run(lambda connection: _receipts.discard(connection, self.name, ids, reason, now))
        self._store.wake()
        return count


def _ids(given: str | Iterable[str]) -> list[str]:
    return [require_text("event_ids", each) for each in several("event_ids", given)]
