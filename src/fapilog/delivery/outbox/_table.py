"""The tables of an outbox: what waits, what was delivered, what could not be, and each attempt."""

from __future__ import annotations

import itertools
import logging
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from ...core.alerting import Alert
from ...record.chain import ChainHead
from ...record.events import AuditEvent
from ...record.values import text
from ._rows import (
    FIRST_TIME,
    LAST_TIME,
    Claim,
    Ending,
    OutboxAlert,
    OutboxAttempt,
    OutboxState,
    Status,
    alert_of,
    attempt_of,
    event_in,
    is_count,
    is_time,
    sequence_number_of,
    sound,
)

__all__ = ["SCHEMA", "Table"]

_logger: Final = logging.getLogger("fapilog.delivery")

# The attempts that are kept of one alert; one that is throttled for days makes thousands.
_MOST_ATTEMPTS: Final = 100
_PRUNED_AT_ONCE: Final = 1000

SCHEMA: Final = (
    """
CREATE TABLE outboxes (
    name TEXT PRIMARY KEY,
    sequence_number INTEGER,  -- the mark: what is about events up to here has come
    checksum TEXT,
    paused_until REAL NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0,  -- how many there are, since counting takes a while
    dead INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
    """,
    """
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY,
    outbox TEXT NOT NULL,
    event_id TEXT NOT NULL,
    sequence_number INTEGER NOT NULL,  -- 0: it has none
    event_type TEXT NOT NULL,
    severity TEXT NOT NULL,
    channel TEXT,
    event BLOB,  -- JSON; gone once it is delivered
    status TEXT NOT NULL DEFAULT 'pending',
    came_at REAL NOT NULL,
    since REAL NOT NULL,  -- when its schedule began
    due_at REAL NOT NULL,  -- of one that is being sent: when somebody else may take it
    lease TEXT,  -- who is sending it
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,  -- the attempts that count against the schedule
    reason TEXT,
    ended_at REAL,
    -- An event has one number, and new ones have the highest: their place in the index is at its end, and not anywhere,
    -- as that of a random id would be.
    UNIQUE (outbox, sequence_number, event_id)
)
    """,
    "CREATE INDEX due ON alerts (outbox, due_at, id) WHERE status = 'pending'",
    "CREATE INDEX by_status ON alerts (outbox, status, came_at)",
    """
CREATE TABLE attempts (
    alert INTEGER NOT NULL REFERENCES alerts ON DELETE CASCADE,
    number INTEGER NOT NULL,
    began_at REAL NOT NULL,
    took REAL,
    outcome TEXT,  -- NULL while it is under way
    reason TEXT,
    PRIMARY KEY (alert, number)
) WITHOUT ROWID
    """,
    """
CREATE TRIGGER came AFTER INSERT ON alerts BEGIN
    INSERT INTO outboxes (name, pending) VALUES (new.outbox, 1)
        ON CONFLICT (name) DO UPDATE SET pending = pending + 1;
END
    """,
    """
CREATE TRIGGER changed AFTER UPDATE OF status ON alerts WHEN old.status <> new.status BEGIN
    UPDATE outboxes SET
        pending = pending + (new.status = 'pending') - (old.status = 'pending'),
        dead = dead + (new.status = 'dead') - (old.status = 'dead')
    WHERE name = new.outbox;
END
    """,
)

# Where only the id of an event is known: looked for in an index, which is much smaller than the table.
_ABOUT: Final = "id IN (SELECT id FROM alerts WHERE event_id = ?)"


class Table:
    """
    What is in a file, within one transaction.

    Times are seconds since 1970. Where *outbox* may be None, that is every outbox in the file.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def put(self, outbox: str, alert: Alert, now: float) -> bool:
        """Keep *alert*, due at once; return whether it is new: each event is taken once."""
        event = alert.event
        done = self._connection.execute(
            "INSERT INTO alerts (outbox, event_id, sequence_number, event_type, severity, channel, event, came_at,"
            " since, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                outbox,
                event.event_id,
                sequence_number_of(event),
                text(getattr(event.event_type, "value", event.event_type)),
                text(alert.severity),
                None if alert.channel is None else text(alert.channel),
                msgspec.json.encode(event),
                now,
                now,
                now,
            ),
        )
        return done.rowcount == 1

    def put_delivered(self, outbox: str, alert: Alert, began_at: float, took: float) -> None:
        """Note that *alert* was delivered past the outbox, unless that is over for it."""
        self.put(outbox, alert, began_at)
        found = self._connection.execute(
            "SELECT id, attempts + 1 FROM alerts WHERE id = ? AND status = 'pending'",
            (self._find(outbox, alert.event),),
        ).fetchone()
        if found is not None:
            id_, number = found
            self._connection.execute(
                "UPDATE alerts SET status = 'delivered', lease = NULL, ended_at = ?, attempts = ?, event = NULL,"
                " reason = NULL WHERE id = ?",
                (began_at + took, number, id_),
            )
            self._connection.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, 'delivered', ?)",
                (id_, number, began_at, took, "sent directly, for the outbox could not be used"),
            )

    def claim(
        self,
        outbox: str,
        lease: str,
        now: float,
        until: float,
        limit: int,
        *,
        event: AuditEvent | None = None,
        held: Collection[str] = (),
    ) -> list[Claim]:
        """
        Take out up to *limit* alerts that are due, the longest due first; nobody else gets them before *until*.

        Args:
            outbox: Whose.
            lease: Who takes them.
            now: The time.
            until: When others may take them.
            limit: How many at most.
            event: Only the alert about this event.
            held: The events whose alerts they have already: these are not taken over, however late they are.
        """
        if limit <= 0 or self._paused_until(outbox) > now:
            return []
        due = self._connection.execute(
            "SELECT id, event_id, sequence_number, event, lease, severity, channel, came_at, since, attempts, failures"
            " FROM alerts"
            " WHERE outbox = ? AND status = 'pending' AND due_at <= ? AND id = coalesce(?, id) ORDER BY due_at, id",
            (outbox, now, None if event is None else self._find(outbox, event) or 0),
        )
        rows = list(islice((row for row in due if row[1] not in held), limit))
        due.close()
        claims: list[Claim] = []
        ids: list[int] = []
        for id_, event_id, number, stored, left, *found in rows:
            if left is not None:
                self._interrupt(id_)
            event_or_why = event_in(stored, event_id, number)
            if isinstance(event_or_why, str):
                # It must not stand in the way of the others for ever.
                self._give_up(id_, event_or_why, now)
                _logger.error("the outbox %s gives up the alert about event %r: %s", outbox, event_id, event_or_why)
                continue
            severity, channel, came_at, since, attempts, failures = self._mended(id_, found, now)
            if attempts >= _MOST_ATTEMPTS:
                last = attempts + 1 - _MOST_ATTEMPTS
                self._connection.execute("DELETE FROM attempts WHERE alert = ? AND number <= ?", (id_, last))
            ids.append(id_)
            alert = Alert(event_or_why, severity, channel)
            claims.append(Claim(alert, came_at, since, attempts + 1, failures, until))
        if ids:
            self._take_out(ids, lease, now, until)
        return claims

    def give_back(self, outbox: str, claims: Iterable[Claim], lease: str, now: float) -> None:
        """Make *claims*, none of which was begun, due again, as if they had not been taken out."""
        for claim in claims:
            id_ = self._place(outbox, claim)
            done = self._connection.execute(
                "UPDATE alerts SET lease = NULL, due_at = ?, attempts = attempts - 1 WHERE id = ? AND lease = ?",
                (min(now, claim.until), id_, lease),
            )
            if done.rowcount:
                self._connection.execute("DELETE FROM attempts WHERE alert = ? AND number = ?", (id_, claim.attempt))

    def renew(self, outbox: str, claims: Iterable[Claim], lease: str, until: float) -> set[str]:
        """Keep *claims* from others until then; return the events of those that others have not got already."""
        statement = "UPDATE alerts SET due_at = ? WHERE id = ? AND lease = ?"
        return {
            claim.event_id
            for claim in claims
            if self._connection.execute(statement, (until, self._find(outbox, claim.alert.event), lease)).rowcount
        }

    def end(self, outbox: str, ending: Ending, lease: str, now: float) -> None:
        """Note how an attempt ended; an alert that somebody else has taken over is theirs, unless it is delivered."""
        claim = ending.claim
        id_ = self._place(outbox, claim)
        self._connection.execute(
            "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?)",
            (id_, claim.attempt, ending.began_at, ending.took, ending.outcome, ending.reason),
        )
        if ending.status == "delivered":
            self._connection.execute(
                "UPDATE alerts SET status = 'delivered', lease = NULL, event = NULL, reason = NULL, ended_at = ?,"
                " attempts = max(attempts, ?), failures = ? WHERE id = ? AND status <> 'delivered'",
                (now, claim.attempt, ending.failures, id_),
            )
        else:
            ended_at = None if ending.status == "pending" else now
            self._connection.execute(
                "UPDATE alerts SET status = ?, due_at = ?, lease = NULL, failures = ?, reason = ?, ended_at = ?"
                " WHERE id = ? AND status = 'pending' AND lease = ?",
                (ending.status, ending.due_at, ending.failures, ending.reason, ended_at, id_, lease),
            )

    def touch(self, outbox: str) -> None:
        """Change nothing, and write that to the disk."""
        self._connection.execute(
            "INSERT INTO outboxes (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET pending = pending", (outbox,)
        )

    def pause(self, outbox: str, until: float) -> None:
        """Let nobody claim anything before *until*."""
        self._connection.execute(
            "INSERT INTO outboxes (name, paused_until) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET paused_until = max(paused_until, excluded.paused_until)",
            (outbox, until),
        )

    def bring_forward(self, outbox: str, now: float) -> None:
        """Make all that wait for their next attempt due now."""
        self._connection.execute(
            "UPDATE alerts SET due_at = ? WHERE outbox = ? AND status = 'pending' AND lease IS NULL AND due_at > ?",
            (now, outbox, now),
        )

    def mend_times(self, outbox: str, now: float, longest: float) -> None:
        """Make due now what is due later than any wait is long: the clock was wrong when that was written."""
        self._connection.execute(
            "UPDATE alerts SET due_at = ? WHERE outbox = ? AND status = 'pending' AND due_at > ?",
            (now, outbox, now + longest),
        )
        self._connection.execute(
            "UPDATE outboxes SET paused_until = ? WHERE name = ? AND paused_until > ?", (now, outbox, now + longest)
        )

    def next_due(self, outbox: str, held: Collection[str] = ()) -> float | None:
        """Return when there is something to claim for one who has *held*; None if nothing else is pending."""
        pending = self._connection.execute(
            "SELECT due_at, event_id FROM alerts WHERE outbox = ? AND status = 'pending' ORDER BY due_at", (outbox,)
        )
        due = next((due_at for due_at, event_id in pending if event_id not in held and is_time(due_at)), None)
        pending.close()
        return None if due is None else max(due, self._paused_until(outbox))

    def state(self, outbox: str) -> OutboxState:
        """Return how much is in it."""
        counts = self._connection.execute("SELECT pending, dead FROM outboxes WHERE name = ?", (outbox,)).fetchone()
        if counts is None:
            return OutboxState()
        (oldest,) = self._connection.execute(
            "SELECT min(came_at) FROM alerts WHERE outbox = ? AND status = 'pending' AND came_at BETWEEN ? AND ?",
            (outbox, FIRST_TIME, LAST_TIME),
        ).fetchone()
        pending, dead = (count if is_count(count) else 0 for count in counts)
        return OutboxState(pending=pending, oldest=oldest, dead=dead)

    def prune(self, outbox: str, before: float) -> bool:
        """Remove some of what was delivered before that time; return whether there may be more."""
        done = self._connection.execute(
            "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts"
            # What was delivered before came before: that has an index.
            " WHERE outbox = ? AND status = 'delivered' AND came_at < ? AND ended_at < ? LIMIT ?)",
            (outbox, before, before, _PRUNED_AT_ONCE),
        )
        return done.rowcount == _PRUNED_AT_ONCE

    def mark(self, outbox: str) -> ChainHead | None:
        """Return up to where in the trail everything has come; None for an outbox that is new."""
        row = self._connection.execute(
            "SELECT sequence_number, checksum FROM outboxes WHERE name = ?", (outbox,)
        ).fetchone()
        if row is None or not isinstance(row[0], int):
            return None
        return ChainHead(row[0], None if row[1] is None else text(row[1]))

    def set_mark(self, outbox: str, mark: ChainHead, *, back: bool = False) -> None:
        """Move the mark on, and never back unless *back*."""
        self._connection.execute(
            "INSERT INTO outboxes (name, sequence_number, checksum) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET sequence_number = excluded.sequence_number, checksum = excluded.checksum"
            " WHERE ? OR typeof(sequence_number) <> 'integer' OR sequence_number < excluded.sequence_number",
            (outbox, *mark, back),
        )

    def having(self, outbox: str, events: Iterable[AuditEvent]) -> set[str]:
        """Return the ids of those of *events* that have come, whatever became of them."""
        return {event.event_id for event in events if self._find(outbox, event) is not None}

    def outboxes(self) -> list[str]:
        """Return the names of the outboxes in the file, sorted."""
        rows = self._connection.execute("SELECT name FROM outboxes UNION SELECT outbox FROM alerts ORDER BY 1")
        return [text(name) for (name,) in rows]

    def alerts(
        self,
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
        rows = self._connection.execute(
            "SELECT outbox, event_id, sequence_number, event_type, severity, channel, status, came_at, due_at,"  # noqa: S608
            f" ended_at, attempts, reason FROM alerts WHERE {where} ORDER BY came_at, id LIMIT ?",
            (*itertools.chain(*given.values()), limit),
        )
        return [alert_of(rows.description, row) for row in rows]

    def attempts(self, outbox: str, event_id: str) -> list[OutboxAttempt]:
        """Return the attempts to deliver the alert about an event, the first of them first."""
        rows = self._connection.execute(
            "SELECT number, began_at, took, outcome, a.reason FROM attempts AS a JOIN alerts ON alerts.id = alert"  # noqa: S608
            f" WHERE outbox = ? AND alerts.{_ABOUT} ORDER BY number",
            (outbox, event_id),
        )
        return [attempt_of(rows.description, row) for row in rows]

    def retry(self, outbox: str | None, event_ids: Iterable[str] | None, now: float) -> int:
        """Make alerts that are dead, discarded or waiting due now, on a new schedule; None: all that are dead."""
        new = (
            "UPDATE alerts SET status = 'pending', due_at = ?, since = ?, failures = 0, ended_at = NULL, reason = NULL"
            " WHERE event IS NOT NULL AND"
        )
        if event_ids is None:
            return self._in_outbox(f"{new} status = 'dead'", (now, now), outbox)
        which = f"{_ABOUT} AND lease IS NULL"
        return sum(self._in_outbox(f"{new} {which}", (now, now, each), outbox) for each in event_ids)

    def discard(self, outbox: str | None, event_ids: Iterable[str], reason: str, now: float) -> int:
        """Give up alerts that are dead or pending; they are kept, with the *reason*."""
        # Without its lease: whoever is sending it may find it discarded, and it can be retried.
        done = "UPDATE alerts SET status = 'discarded', lease = NULL, ended_at = ?, reason = ?"
        which = f"WHERE {_ABOUT} AND status IN ('dead', 'pending')"
        return sum(self._in_outbox(f"{done} {which}", (now, text(reason), each), outbox) for each in event_ids)

    def _take_out(self, ids: list[int], lease: str, now: float, until: float) -> None:
        # All at once: with each statement the thread gives up the interpreter's lock, and waits for it again.
        which = f"IN ({', '.join('?' * len(ids))})"
        self._connection.execute(
            f"UPDATE alerts SET lease = ?, due_at = ?, attempts = attempts + 1 WHERE id {which}",  # noqa: S608
            (lease, until, *ids),
        )
        self._connection.execute(
            "INSERT OR REPLACE INTO attempts (alert, number, began_at)"  # noqa: S608
            f" SELECT id, attempts, ? FROM alerts WHERE id {which}",
            (now, *ids),
        )

    def _interrupt(self, id_: int) -> None:
        """Note that nobody knows how an attempt ended."""
        self._connection.execute(
            "UPDATE attempts SET outcome = 'interrupted', reason = ? WHERE alert = ? AND outcome IS NULL",
            ("nobody knows: the process ended, or lost its lease, before there was an outcome", id_),
        )

    def _give_up(self, id_: int, why: str, now: float) -> None:
        self._connection.execute(
            "UPDATE alerts SET status = 'dead', lease = NULL, ended_at = ?, reason = ? WHERE id = ?", (now, why, id_)
        )

    def _mended(self, id_: int, found: list[Any], now: float) -> tuple[str, str | None, float, float, int, int]:
        """Return what was *found* of an alert, and put right what can't be."""
        mended = sound(found, now)
        if mended != tuple(found):
            self._connection.execute(
                "UPDATE alerts SET severity = ?, channel = ?, came_at = ?, since = ?, attempts = ?, failures = ?"
                " WHERE id = ?",
                (*mended, id_),
            )
        return mended

    def _place(self, outbox: str, claim: Claim) -> int:
        """Return the number of the alert that was taken out; in a file that was made since, put it in."""
        id_ = self._find(outbox, claim.alert.event)
        if id_ is None:
            self.put(outbox, claim.alert, claim.came_at)
            id_ = self._find(outbox, claim.alert.event)
        assert id_ is not None  # noqa: S101 - put there
        return id_

    def _find(self, outbox: str, event: AuditEvent) -> int | None:
        """Return the number of the alert about *event*; None if there is none."""
        row = self._connection.execute(
            "SELECT id FROM alerts WHERE outbox = ? AND sequence_number = ? AND event_id = ?",
            (outbox, sequence_number_of(event), event.event_id),
        ).fetchone()
        return None if row is None else int(row[0])

    def _in_outbox(self, statement: str, values: tuple[object, ...], outbox: str | None) -> int:
        if outbox is not None:
            statement, values = f"{statement} AND outbox = ?", (*values, outbox)
        return self._connection.execute(statement, values).rowcount

    def _paused_until(self, outbox: str) -> float:
        row = self._connection.execute("SELECT paused_until FROM outboxes WHERE name = ?", (outbox,)).fetchone()
        return float(row[0]) if row is not None and is_time(row[0]) else 0.0
