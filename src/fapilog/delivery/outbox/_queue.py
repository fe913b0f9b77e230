"""
The alerts that wait in a file: put in, claimed and ended.

Every function is a part of a transaction on *connection*. Times are seconds since 1970.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from ...core.alerting import Alert
from ...record.events import AuditEvent
from ...record.formats import encoded
from ...record.values import text
from ...tasks.strangers import Log
from ._claims import Claim, Ending
from ._rows import (
    FIRST_TIME,
    LAST_TIME,
    OutboxState,
    event_in,
    is_count,
    is_time,
    sequence_number_of,
    sound,
)

__all__ = [
    "bring_forward",
    "claim",
    "end",
    "give_back",
    "lacking",
    "mend_times",
    "next_due",
    "pause",
    "prune",
    "put",
    "put_delivered",
    "renew",
    "retried_at",
    "state",
]

_log: Final = Log("fapilog.delivery")

# The attempts that are kept of one alert; one that is throttled for days makes thousands.
_MOST_ATTEMPTS: Final = 100
_PRUNED_AT_ONCE: Final = 1000
# Seconds by which two processes may read the clock differently.
_UNSURE: Final = 1.0


def put(connection: sqlite3.Connection, outbox: str, alert: Alert, now: float) -> None:
    """Keep *alert*, due at once; an event is taken once."""
    event = alert.event
    connection.execute(
        "INSERT INTO alerts (outbox, event_id, sequence_number, event_type, severity, channel, event, came_at,"
        " due_at, noted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            outbox,
            event.event_id,
            sequence_number_of(event),
            text(getattr(event.event_type, "value", event.event_type)),
            text(alert.severity),
            None if alert.channel is None else text(alert.channel),
            encoded(event),
            now,
            now,
            now,
        ),
    )


def put_delivered(connection: sqlite3.Connection, outbox: str, alert: Alert, began_at: float, took: float) -> None:
    """Note that *alert* was delivered past the outbox, unless that is over for it."""
    put(connection, outbox, alert, began_at)
    found = connection.execute(
        "SELECT id, attempts + 1 FROM alerts WHERE id = ? AND status = 'pending'",
        (_find(connection, outbox, alert.event),),
    ).fetchone()
    if found is not None:
        id_, number = found
        connection.execute(
            "UPDATE alerts SET status = 'delivered', lease = NULL, ended_at = ?, attempts = ?, event = NULL,"
            " reason = NULL WHERE id = ?",
            (began_at + took, number, id_),
        )
        connection.execute(
            "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, 'dispatched', ?)",
            (id_, number, began_at, took, "sent directly, for the outbox could not be used"),
        )


def claim(
    connection: sqlite3.Connection,
    outbox: str,
    lease: str,
    now: float,
    until: float,
    *,
    limit: int,
    event: AuditEvent | None = None,
    held: Collection[str] = (),
) -> list[Claim]:
    """
    Claim alerts that are due, the longest due first.

    Args:
        connection: To the file.
        outbox: The name of the outbox.
        lease: Marks the sender's claims in the file.
        now: The time.
        until: When other processes may take the claims over.
        limit: The number of alerts to claim at most.
        event: Claim only the alert about this event.
        held: Events whose alerts are not claimed, however late they are: the sender has them already.
    """
    if limit <= 0 or _paused_until(connection, outbox) > now:
        return []
    due = connection.execute(
        "SELECT id, event_id, sequence_number, event, lease, severity, channel, came_at, attempts, failures, spent"
        " FROM alerts"
        " WHERE outbox = ? AND status = 'pending' AND due_at <= ? AND id = coalesce(?, id) ORDER BY due_at, id",
        (outbox, now, None if event is None else _find(connection, outbox, event) or 0),
    )
    # The sender knows its claims by the id of the event, which a trail in files may have again after a while.
    rows: dict[str, tuple[Any, ...]] = {}
    for row in due:
        if row[1] not in held:
            rows.setdefault(row[1], row)
        if len(rows) == limit:
            break
    due.close()
    claims: list[Claim] = []
    ids: list[int] = []
    for id_, event_id, number, stored, left, *found in rows.values():
        if left is not None:
            _interrupt(connection, id_)
        event_or_why = event_in(stored, event_id, number)
        if isinstance(event_or_why, str):
            # It must not stand in the way of other alerts for ever.
            _give_up(connection, id_, event_or_why, now)
            _log.error("the outbox %s gives up the alert about event %r: %s", outbox, event_id, event_or_why)
            continue
        severity, channel, came_at, attempts, failures, spent = _mended(connection, id_, found, now)
        if attempts >= _MOST_ATTEMPTS:
            last = attempts + 1 - _MOST_ATTEMPTS
            connection.execute("DELETE FROM attempts WHERE alert = ? AND number <= ?", (id_, last))
        ids.append(id_)
        alert = Alert(event_or_why, severity, channel)
        claims.append(Claim(alert, came_at, attempts + 1, failures, spent))
    if ids:
        _take_out(connection, ids, lease, now, until)
    return claims


def give_back(connection: sqlite3.Connection, outbox: str, claims: Iterable[Claim], lease: str, now: float) -> None:
    """Make *claims*, none of which was begun, due again, as if they had never been claimed."""
    for claim in claims:
        id_ = _place(connection, outbox, claim)
        done = connection.execute(
            "UPDATE alerts SET lease = NULL, due_at = ?, noted_at = ?, attempts = attempts - 1"
            " WHERE id = ? AND lease = ?",
            (now, now, id_, lease),
        )
        if done.rowcount:
            connection.execute("DELETE FROM attempts WHERE alert = ? AND number = ?", (id_, claim.attempt))


def renew(
    connection: sqlite3.Connection, outbox: str, claims: Iterable[Claim], lease: str, now: float, *, until: float
) -> set[str]:
    """Keep *claims* until then; return the events of the claims that no other process has taken over."""
    statement = "UPDATE alerts SET due_at = ?, noted_at = ? WHERE id = ? AND lease = ?"
    return {
        claim.event_id
        for claim in claims
        if connection.execute(statement, (until, now, _find(connection, outbox, claim.alert.event), lease)).rowcount
    }


def end(connection: sqlite3.Connection, outbox: str, ending: Ending, lease: str, now: float, *, due_at: float) -> None:
    """
    Note how an attempt ended; an alert that another process has taken over stays with that, unless it is delivered.

    Args:
        connection: To the file.
        outbox: The name of the outbox.
        ending: The end of the attempt.
        lease: The lease given to `claim`.
        now: The time.
        due_at: When to try again, if it is pending.
    """
    claim = ending.claim
    id_ = _place(connection, outbox, claim)
    connection.execute(
        "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?)",
        (id_, claim.attempt, ending.began_at, ending.took, ending.outcome, ending.reason),
    )
    if ending.status == "delivered":
        connection.execute(
            "UPDATE alerts SET status = 'delivered', lease = NULL, event = NULL, reason = NULL, ended_at = ?,"
            " attempts = max(attempts, ?), failures = ? WHERE id = ? AND status <> 'delivered'",
            (now, claim.attempt, ending.failures, id_),
        )
    else:
        ended_at = None if ending.status == "pending" else now
        connection.execute(
            "UPDATE alerts SET status = ?, due_at = ?, noted_at = ?, lease = NULL, failures = ?, spent = ?, reason = ?,"
            " ended_at = ? WHERE id = ? AND status = 'pending' AND lease = ?",
            (ending.status, due_at, now, ending.failures, ending.spent, ending.reason, ended_at, id_, lease),
        )


def pause(connection: sqlite3.Connection, outbox: str, now: float, until: float) -> None:
    """Let no process claim anything before *until*."""
    connection.execute(
        "INSERT INTO outboxes (name, paused_until, paused_at) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET paused_until = excluded.paused_until, paused_at = excluded.paused_at"
        " WHERE paused_until < excluded.paused_until",
        (outbox, until, now),
    )


def bring_forward(connection: sqlite3.Connection, outbox: str, now: float) -> None:
    """Make all that wait for their next attempt due now."""
    connection.execute(
        "UPDATE alerts SET due_at = ?, noted_at = ?"
        " WHERE outbox = ? AND status = 'pending' AND lease IS NULL AND due_at > ?",
        (now, now, outbox, now),
    )


def mend_times(connection: sqlite3.Connection, outbox: str, now: float, longest: float) -> None:
    """
    Put right the times that were written while the clock was ahead, and are in the future now.

    An alert that was to wait for so many seconds then, waits for as many from now on; if that is longer than *longest*,
    it is due now. An alert that has come in the future comes now, so that its age counts from now on.
    """
    # As the clock tells it, which is not read at the moment of writing.
    ahead = now + _UNSURE
    for table, due, noted, which in (
        ("alerts", "due_at", "noted_at", "outbox = ? AND status = 'pending'"),
        ("outboxes", "paused_until", "paused_at", "name = ?"),
    ):
        connection.execute(
            f"UPDATE {table} SET {noted} = ?, {due} = ? + CASE WHEN typeof({noted}) = 'real'"  # noqa: S608
            f" AND {due} - {noted} BETWEEN 0 AND ? THEN {due} - {noted} ELSE 0 END"
            f" WHERE {which} AND ({noted} > ? OR {due} > ?)",
            (now, now, longest, outbox, ahead, now + longest),
        )
    connection.execute(
        "UPDATE alerts SET came_at = ? WHERE outbox = ? AND status = 'pending' AND came_at > ?", (now, outbox, ahead)
    )


def next_due(connection: sqlite3.Connection, outbox: str, held: Collection[str]) -> float | None:
    """Return when there is something to claim beside *held*; None if nothing else is pending."""
    pending = connection.execute(
        "SELECT due_at, event_id FROM alerts WHERE outbox = ? AND status = 'pending' ORDER BY due_at", (outbox,)
    )
    due = next((due_at for due_at, event_id in pending if event_id not in held and is_time(due_at)), None)
    pending.close()
    return None if due is None else max(due, _paused_until(connection, outbox))


def state(connection: sqlite3.Connection, outbox: str) -> OutboxState:
    """Return how much is in it."""
    counts = connection.execute("SELECT pending, dead FROM outboxes WHERE name = ?", (outbox,)).fetchone()
    if counts is None:
        return OutboxState()
    (oldest,) = connection.execute(
        "SELECT min(came_at) FROM alerts WHERE outbox = ? AND status = 'pending' AND came_at BETWEEN ? AND ?",
        (outbox, FIRST_TIME, LAST_TIME),
    ).fetchone()
    pending, dead = (count if is_count(count) else 0 for count in counts)
    return OutboxState(pending=pending, oldest=oldest, dead=dead)


def prune(connection: sqlite3.Connection, outbox: str, before: float) -> bool:
    """Remove some of the alerts that were delivered before that time; return whether there may be more."""
    done = connection.execute(
        "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts"
        # An alert that was delivered before came before, and that column has an index.
        " WHERE outbox = ? AND status = 'delivered' AND came_at < ? AND ended_at < ? LIMIT ?)",
        (outbox, before, before, _PRUNED_AT_ONCE),
    )
    return done.rowcount == _PRUNED_AT_ONCE


def retried_at(connection: sqlite3.Connection, outbox: str) -> float:
    """Return when an operator last retried alerts, in seconds since 1970."""
    row = connection.execute("SELECT retried_at FROM outboxes WHERE name = ?", (outbox,)).fetchone()
    return float(row[0]) if row is not None and is_time(row[0]) else 0.0


def lacking(connection: sqlite3.Connection, outbox: str, alerts: Sequence[Alert]) -> list[Alert]:
    """Return the *alerts* that have not come."""
    return [alert for alert in alerts if _find(connection, outbox, alert.event) is None]


def _take_out(connection: sqlite3.Connection, ids: list[int], lease: str, now: float, until: float) -> None:
    # All at once: with every statement the thread gives up the interpreter's lock, and waits for it again.
    which = f"IN ({', '.join('?' * len(ids))})"
    connection.execute(
        f"UPDATE alerts SET lease = ?, due_at = ?, noted_at = ?, attempts = attempts + 1 WHERE id {which}",  # noqa: S608
        (lease, until, now, *ids),
    )
    connection.execute(
        "INSERT OR REPLACE INTO attempts (alert, number, began_at)"  # noqa: S608
        f" SELECT id, attempts, ? FROM alerts WHERE id {which}",
        (now, *ids),
    )


def _interrupt(connection: sqlite3.Connection, id_: int) -> None:
    """Note that the outcome of an attempt is unknown."""
    connection.execute(
        "UPDATE attempts SET outcome = 'stopped', reason = ? WHERE alert = ? AND outcome IS NULL",
        ("unknown: the process ended, or lost its lease, before there was an outcome", id_),
    )


def _give_up(connection: sqlite3.Connection, id_: int, why: str, now: float) -> None:
    connection.execute(
        "UPDATE alerts SET status = 'dead', lease = NULL, ended_at = ?, reason = ? WHERE id = ?", (now, why, id_)
    )


def _mended(
    connection: sqlite3.Connection, id_: int, found: list[Any], now: float
) -> tuple[str, str | None, float, int, int, float]:
    """Return the values *found* of an alert, impossible ones replaced, in the file too."""
    mended = sound(found, now)
    if mended != tuple(found):
        connection.execute(
            "UPDATE alerts SET severity = ?, channel = ?, came_at = ?, attempts = ?, failures = ?, spent = ?"
            " WHERE id = ?",
            (*mended, id_),
        )
    return mended


def _place(connection: sqlite3.Connection, outbox: str, claim: Claim) -> int:
    """Return the number of the claimed alert; in a file that was made since, insert it."""
    id_ = _find(connection, outbox, claim.alert.event)
    if id_ is None:
        put(connection, outbox, claim.alert, claim.came_at)
        id_ = _find(connection, outbox, claim.alert.event)
    assert id_ is not None  # noqa: S101 - put there
    return id_


def _find(connection: sqlite3.Connection, outbox: str, event: AuditEvent) -> int | None:
    """Return the number of the alert about *event*; None if there is none."""
    row = connection.execute(
        "SELECT id FROM alerts WHERE outbox = ? AND sequence_number = ? AND event_id = ?",
        (outbox, sequence_number_of(event), event.event_id),
    ).fetchone()
    return None if row is None else int(row[0])


def _paused_until(connection: sqlite3.Connection, outbox: str) -> float:
    row = connection.execute("SELECT paused_until FROM outboxes WHERE name = ?", (outbox,)).fetchone()
    return float(row[0]) if row is not None and is_time(row[0]) else 0.0
