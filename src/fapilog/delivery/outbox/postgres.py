"""
Lose no alert in a fleet: alerts are kept in the database of the trail, by the transaction that stores their records.

    from fapilog.delivery.outbox.postgres import PostgresOutbox

    storage = PostgresStorage("postgresql://service@db.example/audit", trail="clinic")
    trail = AuditTrail(storage=storage, alert_dispatcher=PostgresOutbox(slack, storage, name="slack"))

It needs psycopg, which comes with the extra ``postgres``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from ...core.alerting import Alert, AlertDispatcher, Reporter
from ...record.values import kind_of
from ...storage.postgres import PostgresStorage
from ...storage.postgres.alerts import require_name
from ._breaker import SCHEDULE, Terms
from ._outbox import AnyOutbox
from ._postgres.place import Database, Listener

__all__ = ["PostgresOutbox"]


class PostgresOutbox(AnyOutbox):
    """
    Takes an alert in the transaction that stores its event, and sends it until it is delivered or refused.

    It works like `Outbox`, for any number of processes on any number of machines. If an event is stored, its alert is
    in the outbox: a process that is killed after the commit leaves nothing to be resent, and any other process that has
    entered the outbox sends the alert. That holds where this is the dispatcher of the trail, or in a `FanOut` that is.
    Inside any other dispatcher, and for a trail with another storage, the alert comes by `send_alert` after its event
    was stored, and the trail's catch-up resends it, as for an `Outbox`.

    An alert is claimed by one process, for *lease* seconds of the server's clock, and again before these are over while
    it is being sent. When a process dies, another one takes its alerts over within the lease. An alert arrives at least
    once. It may arrive twice where an `Outbox` would send it twice: after an attempt whose outcome is unknown, also
    since it could not be noted before the lease was over, as the server was away.

    A process learns at once, by LISTEN, of alerts that other processes have stored; behind a pooler such as PgBouncer,
    it looks when an alert is due, and after every *lease*.

    While the server is away no event can be stored, and an alert that comes by `send_alert` is sent directly, once.
    That is reported to the trail's `Reporter`.

    Args:
        inner: Makes one attempt whenever it is called. If it is an asynchronous context manager, it is entered and left
            with this.
        storage: The storage of the trail. The tables hold the events of undelivered alerts, as *inner* gets them. The
            role needs ``fapilog_sender`` beside ``fapilog_writer``.
        name: The name of this outbox, in the database, in logs and metrics; a trail has one for every target.
        schedule: Seconds between the attempts.
        concurrency: Alerts that are sent at once, by this process.
        timeout: Seconds for one attempt.
        keep: Seconds that receipts of delivered alerts are kept.
        old_after: Seconds after which an alert that waits is a reason to alert.
        lease: Seconds after which another process takes over the alerts that a dead process was sending.
        stop_timeout: Seconds that leaving it waits for alerts that are due.

    Attributes:
        name: The name of the outbox.
        resumes: True: the outbox keeps the alerts that it has taken.

    Raises:
        TypeError: *inner* is no dispatcher, *storage* no `PostgresStorage`, or another option is not of its type.
        ValueError: An option is out of range. On entering: the outbox is entered already, or its trail has another one
            of the same name. An outbox belongs to one trail.
    """

    def __init__(
        self,
        inner: AlertDispatcher,
        storage: PostgresStorage,
        *,
        name: str = "alerts",
        schedule: Sequence[float] = SCHEDULE,
        concurrency: int = 8,
        timeout: float = 30.0,
        keep: float = 90 * 86_400.0,
        old_after: float = 900.0,
        lease: float = 15.0,
        stop_timeout: float = 5.0,
    ) -> None:
        if not isinstance(storage, PostgresStorage):
            raise TypeError(f"storage: expected the PostgresStorage of the trail; got {kind_of(storage)}")
        super().__init__(
            inner,
            Database(storage),
            name,
            Terms(schedule, concurrency, timeout, keep, old_after, lease, stop_timeout).checked(),
            time.time,
        )
        require_name("name", name)
        self._storage = storage

    def kept_in(self, storage: object, alert: Alert) -> Sequence[str]:  # noqa: ARG002  all are kept
        """Return the name of this outbox if it keeps its alerts in *storage*."""
        return [self.name] if storage is self._storage else []

    @asynccontextmanager
    async def _running(self, told: Reporter | None) -> AsyncGenerator[None]:
        listener = Listener(self._storage.server, self._storage.trail, self._store.wake)
        listener.start()
        try:
            async with super()._running(told):
                yield
        finally:
            listener.stop()
