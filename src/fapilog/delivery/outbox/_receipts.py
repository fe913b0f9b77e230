"""
The receipts of alerts in a file, for an operator, and the operator's two decisions: retry and discard.

Every function is a part of a transaction on *connection*. Where *outbox* may be None, that is every outbox in the file.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from ...record.values import text
from ._rows import OutboxAlert, OutboxAttempt, Status, alert_of, attempt_of

__all__ = ["alerts", "attempts", "discard", "note_retry", "oldest_pending", "outboxes", "retry"]

# Only the event's id is known here: an index has it, which is much smaller than the table.
_ABOUT: Final = "id IN (SELECT id FROM alerts WHERE event_id = ?)"


def outboxes(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the outboxes in the file, sorted."""
    rows = connection.execute("SELECT name FROM outboxes UNION SELECT outbox FROM alerts ORDER BY 1")
    return [text(name) for (name,) in rows]


def alerts(
    connection: sqlite3.Connection,
    outbox: str | None = None,
    statuses: Sequence[Status] = (),
    *,
    event_id: str | None = None,
    limit: int = 100,
) -> list[OutboxAlert]:
    """Return alerts of one of *statuses*, or of any, in the order in which they came, *limit* at most."""
    conditions = {"outbox = ?": outbox, _ABOUT: event_id}
    given = {condition: [value] for condition, value in conditions.items() if value is not None}
    if statuses:
        given[f"status IN ({', '.join('?' * len(statuses))})"] = list(statuses)
    where = " AND ".join(given) or "TRUE"
    rows = connection.execute(
        "SELECT outbox, event_id, sequence_number, event_type, severity, channel, status, came_at, due_at,"  # noqa: S608
        f" ended_at, attempts, reason FROM alerts WHERE {where} ORDER BY came_at, id LIMIT ?",
        (*itertools.chain(*given.values()), limit),
    )
    return [alert_of(rows.description, row) for row in rows]


def attempts(connection: sqlite3.Connection, outbox: str, event_id: str) -> list[OutboxAttempt]:
    """Return the attempts to deliver the alert about an event, the first of them first."""
    rows = connection.execute(
        "SELECT number, began_at, took, outcome, a.reason FROM attempts AS a JOIN alerts ON alerts.id = alert"  # noqa: S608
        f" WHERE outbox = ? AND alerts.{_ABOUT} ORDER BY number",
        (outbox, event_id),
    )
    return [attempt_of(rows.description, row) for row in rows]


def oldest_pending(connection: sqlite3.Connection, outbox: str | None = None) -> int | None:
    """Return the number of the first event about which an alert is pending or dead; None if there is none."""
    where = "" if outbox is None else " AND outbox = ?"
    found: int | None = connection.execute(
        # The numbers of alerts without one are 0.
        f"SELECT min(sequence_number) FROM alerts WHERE status IN ('pending', 'dead') AND sequence_number > 0{where}",  # noqa: S608
        () if outbox is None else (outbox,),
    ).fetchone()[0]
    return found


def retry(connection: sqlite3.Connection, outbox: str | None, event_ids: Iterable[str] | None, now: float) -> int:
    """Make alerts that are dead, discarded or waiting due now, on a new schedule; None: all that are dead."""
    new = (
        "UPDATE alerts SET status = 'pending', due_at = ?, noted_at = ?, failures = 0, spent = 0, ended_at = NULL,"
        " reason = NULL WHERE event IS NOT NULL AND"
    )
    if event_ids is None:
        return _in_outbox(connection, f"{new} status = 'dead'", (now, now), outbox)
    which = f"{_ABOUT} AND lease IS NULL"
    return sum(_in_outbox(connection, f"{new} {which}", (now, now, each), outbox) for each in event_ids)


def note_retry(connection: sqlite3.Connection, outbox: str | None, now: float) -> None:
    """Note that an operator has retried alerts: a sender then tries a broken route."""
    which = "" if outbox is None else " WHERE name = ?"
    connection.execute(
        f"UPDATE outboxes SET retried_at = ?{which}",  # noqa: S608
        (now,) if outbox is None else (now, outbox),
    )


def discard(
    connection: sqlite3.Connection, outbox: str | None, event_ids: Iterable[str], reason: str, now: float
) -> int:
    """Give up alerts that are dead or pending; they are kept, with the *reason*."""
    # Without its lease: the process that is sending it may find it discarded, and it can be retried.
    done = "UPDATE alerts SET status = 'discarded', lease = NULL, ended_at = ?, reason = ?"
    which = f"WHERE {_ABOUT} AND status IN ('dead', 'pending')"
    return sum(_in_outbox(connection, f"{done} {which}", (now, text(reason), each), outbox) for each in event_ids)


def _in_outbox(connection: sqlite3.Connection, statement: str, values: tuple[object, ...], outbox: str | None) -> int:
    if outbox is not None:
        statement, values = f"{statement} AND outbox = ?", (*values, outbox)
    return connection.execute(statement, values).rowcount
