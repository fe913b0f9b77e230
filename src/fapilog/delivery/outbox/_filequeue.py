"""The outboxes in a file, as the seam `Queue` has them; the SQL of the alerts that wait is in `_queue`."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from ...core.alerting import Alert
from ...record.chain import ChainHead
from ...record.events import AuditEvent
from ...record.values import text
from . import _queue
from ._claims import Claim
from ._place import Answer, Request
from ._rows import OutboxAlert, OutboxAttempt, Status, alert_of, attempt_of

__all__ = ["FileQueue"]

# Only the event's id is known where an operator asks: an index has it, which is much smaller than the table.
_ABOUT: Final = "id IN (SELECT id FROM alerts WHERE event_id = ?)"


class FileQueue:
    """
    The outboxes in a file, in one transaction of its *connection*; see `Queue`.

    Attributes:
        connection: As given.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection: sqlite3.Connection = connection

    def put(self, outbox: str, alert: Alert, now: float, /) -> None:
        _queue.put(self.connection, outbox, alert, now)

    def put_delivered(self, outbox: str, alert: Alert, began_at: float, took: float, _now: float, /) -> None:
        _queue.put_delivered(self.connection, outbox, alert, began_at, took)

    def touch(self, outbox: str, /) -> None:
        self.connection.execute(
            "INSERT INTO outboxes (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET pending = pending", (outbox,)
        )

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
        retried_at = _queue.retried_at(connection, outbox)
        return Answer(claims, renewed, None if due is None else due - now, retried_at, state, more_to_prune)

    def claim(self, outbox: str, event: AuditEvent, lease: str, now: float, lasts: float, /) -> list[Claim]:
        return _queue.claim(self.connection, outbox, lease, now, now + lasts, limit=1, event=event)

    def mark(self, outbox: str, /) -> ChainHead | None:
        query = "SELECT sequence_number, checksum FROM outboxes WHERE name = ?"
        row = self.connection.execute(query, (outbox,)).fetchone()
        if row is None or not isinstance(row[0], int):
            return None
        return ChainHead(row[0], None if row[1] is None else text(row[1]))

    def set_mark(self, outbox: str, mark: ChainHead, /, *, back: bool = False) -> None:
        self.connection.execute(
            "INSERT INTO outboxes (name, sequence_number, checksum) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET sequence_number = excluded.sequence_number, checksum = excluded.checksum"
            " WHERE ? OR typeof(sequence_number) <> 'integer' OR sequence_number < excluded.sequence_number",
            (outbox, *mark, back),
        )

    def lacking(self, outbox: str, alerts: Sequence[Alert], /) -> list[Alert]:
        return _queue.lacking(self.connection, outbox, alerts)

    def outboxes(self) -> list[str]:
        rows = self.connection.execute("SELECT name FROM outboxes UNION SELECT outbox FROM alerts ORDER BY 1")
        return [text(name) for (name,) in rows]

    def alerts(
        self,
        outbox: str | None = None,
        statuses: Sequence[Status] = (),
        *,
        event_id: str | None = None,
        limit: int = 100,
    ) -> list[OutboxAlert]:
        conditions = {"outbox = ?": outbox, _ABOUT: event_id}
        given = {condition: [value] for condition, value in conditions.items() if value is not None}
        if statuses:
            given[f"status IN ({', '.join('?' * len(statuses))})"] = list(statuses)
        where = " AND ".join(given) or "TRUE"
        rows = self.connection.execute(
            "SELECT outbox, event_id, sequence_number, event_type, severity, channel, status, came_at, due_at,"  # noqa: S608
            f" ended_at, attempts, reason FROM alerts WHERE {where} ORDER BY came_at, id LIMIT ?",
            (*itertools.chain(*given.values()), limit),
        )
        return [alert_of(rows.description, row) for row in rows]

    def attempts(self, outbox: str, event_id: str, /) -> list[OutboxAttempt]:
        rows = self.connection.execute(
            "SELECT number, began_at, took, outcome, a.reason FROM attempts AS a JOIN alerts ON alerts.id = alert"  # noqa: S608
            f" WHERE outbox = ? AND alerts.{_ABOUT} ORDER BY number",
            (outbox, event_id),
        )
        return [attempt_of(rows.description, row) for row in rows]

    def oldest_pending(self, outbox: str | None = None, /) -> int | None:
        where = "" if outbox is None else " AND outbox = ?"
        found: int | None = self.connection.execute(
            # The numbers of alerts without one are 0.
            "SELECT min(sequence_number) FROM alerts"  # noqa: S608
            f" WHERE status IN ('pending', 'dead') AND sequence_number > 0{where}",
            () if outbox is None else (outbox,),
        ).fetchone()[0]
        return found

    def retry(self, outbox: str | None, event_ids: Iterable[str] | None, now: float, /) -> int:
        new = (
            "UPDATE alerts SET status = 'pending', due_at = ?, noted_at = ?, failures = 0, spent = 0, ended_at = NULL,"
            " reason = NULL WHERE event IS NOT NULL AND"
        )
        if event_ids is None:
            count = self._in_outbox(outbox, f"{new} status = 'dead'", now, now)
        else:
            which = f"{_ABOUT} AND lease IS NULL"
            count = sum(self._in_outbox(outbox, f"{new} {which}", now, now, each) for each in event_ids)
        noted = "" if outbox is None else " WHERE name = ?"
        self.connection.execute(
            f"UPDATE outboxes SET retried_at = ?{noted}",  # noqa: S608
            (now,) if outbox is None else (now, outbox),
        )
        return count

    def discard(self, outbox: str | None, event_ids: Iterable[str], reason: str, now: float, /) -> int:
        # Without its lease: the process that is sending it may find it discarded, and it can be retried.
        done = "UPDATE alerts SET status = 'discarded', lease = NULL, ended_at = ?, reason = ?"
        which = f"WHERE {_ABOUT} AND status IN ('dead', 'pending')"
        return sum(self._in_outbox(outbox, f"{done} {which}", now, text(reason), each) for each in event_ids)

    def _in_outbox(self, outbox: str | None, statement: str, *values: object) -> int:
        """Change alerts of *outbox*, or of every outbox in the file if it is None; return how many."""
        if outbox is not None:
            statement, values = f"{statement} AND outbox = ?", (*values, outbox)
        return self.connection.execute(statement, values).rowcount
