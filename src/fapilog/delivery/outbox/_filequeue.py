"""The outboxes in a file, as the seam `Queue` has them; the SQL is in `_queue` and `_receipts`."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from ...core.alerting import Alert
from ...record.chain import ChainHead
from ...record.events import AuditEvent
from . import _queue, _receipts
from ._claims import Claim
from ._place import Answer, Request
from ._rows import OutboxAlert, OutboxAttempt, Status

__all__ = ["FileQueue"]


class FileQueue:
    """
    The outboxes in a file, in one transaction of its *connection*; see `Queue`.

    Attributes:
        connection: As given.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection: sqlite3.Connection = connection

    def put(self, outbox: str, alert: Alert, now: float, /) -> bool:
        return _queue.put(self.connection, outbox, alert, now)

    def put_delivered(self, outbox: str, alert: Alert, began_at: float, took: float, _now: float, /) -> None:
        _queue.put_delivered(self.connection, outbox, alert, began_at, took)

    def touch(self, outbox: str, /) -> None:
        _queue.touch(self.connection, outbox)

    def exchange(self, outbox: str, request: Request, /) -> Answer:
        connection, now = self.connection, request.now
        if request.mends:
            _queue.mend_times(connection, outbox, now, request.longest_wait)
        for ending in request.endings:
            due_at = now + max(0.0, ending.next_at - request.clock)
            _queue.end(connection, outbox, ending, request.lease, now, due_at=due_at)
        _queue.give_back(connection, outbox, request.returned, request.lease, now)
        until = now + request.lasts
        renewed = _queue.renew(connection, outbox, request.renewed, request.lease, now, until=until)
        if request.pause > 0:
            _queue.pause(connection, outbox, now, now + request.pause)
        if request.recovered:
            _queue.bring_forward(connection, outbox, now)
        more_to_prune = request.keep is not None and _queue.prune(connection, outbox, now - request.keep)
        claims = _queue.claim(connection, outbox, request.lease, now, until, limit=request.room, held=request.held)
        state = _queue.state(connection, outbox) if request.wants_state else None
        due = _queue.next_due(connection, outbox, request.held.union(each.event_id for each in claims))
        retried = request.since is not None and now - request.since <= _queue.retried_at(connection, outbox) <= now
        return Answer(claims, renewed, None if due is None else due - now, retried, state, more_to_prune)

    def claim(self, outbox: str, event: AuditEvent, lease: str, now: float, lasts: float, /) -> list[Claim]:
        return _queue.claim(self.connection, outbox, lease, now, now + lasts, limit=1, event=event)

    def mark(self, outbox: str, /) -> ChainHead | None:
        return _queue.mark(self.connection, outbox)

    def set_mark(self, outbox: str, mark: ChainHead, /, *, back: bool = False) -> None:
        _queue.set_mark(self.connection, outbox, mark, back=back)

    def having(self, outbox: str, events: Iterable[AuditEvent], /) -> set[str]:
        return _queue.having(self.connection, outbox, events)

    def outboxes(self) -> list[str]:
        return _receipts.outboxes(self.connection)

    def alerts(
        self,
        outbox: str | None = None,
        statuses: Sequence[Status] = (),
        *,
        event_id: str | None = None,
        limit: int = 100,
    ) -> list[OutboxAlert]:
        return _receipts.alerts(self.connection, outbox, statuses, event_id=event_id, limit=limit)

    def attempts(self, outbox: str, event_id: str, /) -> list[OutboxAttempt]:
        return _receipts.attempts(self.connection, outbox, event_id)

    def oldest_pending(self, outbox: str | None = None, /) -> int | None:
        return _receipts.oldest_pending(self.connection, outbox)

    def retry(self, outbox: str | None, event_ids: Iterable[str] | None, now: float, /) -> int:
        count = _receipts.retry(self.connection, outbox, event_ids, now)
        _receipts.note_retry(self.connection, outbox, now)
        return count

    def discard(self, outbox: str | None, event_ids: Iterable[str], reason: str, now: float, /) -> int:
        return _receipts.discard(self.connection, outbox, event_ids, reason, now)
