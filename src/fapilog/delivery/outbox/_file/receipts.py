"""The alerts in a file as an operator asks for them, and as he retries and discards them."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from ....record.values import text
from .._rows import OutboxAlert, OutboxAttempt, Status, alert_of, attempt_of

__all__ = ["FileReceipts"]

# Only the event's id is known where an operator asks: an index has it, which is much smaller than the table.
_ABOUT: Final = "id IN (SELECT id FROM alerts WHERE event_id = ?)"


class FileReceipts:
    """
    The part of `FileQueue` for operators.

    Args:
        connection: To the file, in a transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

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
