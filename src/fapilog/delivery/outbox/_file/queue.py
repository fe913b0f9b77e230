"""
The outboxes in a file, as the seam `Queue` has them: alerts come, are claimed, and end.

Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from ....core.alerting import Alert
from ....record.chain import ChainHead
from ....record.events import AuditEvent
from ....record.formats import encoded
from ....record.values import text
from ....tasks.strangers import Log
from .._place import Answer, Claim, Ending, Request
from .._rows import (
    FIRST_TIME,
    LAST_TIME,
    OutboxState,
    count_or_0,
    event_in,
    is_time,
    sequence_number_of,
    sound,
    time_or_0,
)
from .receipts import FileReceipts

__all__ = ["FileQueue"]

_log: Final = Log("fapilog.delivery")

# The attempts that are kept of one alert; one that is throttled for days makes thousands.
_MOST_ATTEMPTS: Final = 100
_PRUNED_AT_ONCE: Final = 1000
# Seconds by which two processes may read the clock differently.
_UNSURE: Final = 1.0


class FileQueue(FileReceipts):
    """The outboxes in a file, in one transaction of its *connection*; see `Queue`."""

    # -- alerts that come

    def put(self, outbox: str, alert: Alert, now: float, /) -> None:
        event = alert.event
        self.connection.execute(
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

    def put_delivered(self, outbox: str, alert: Alert, began_at: float, took: float, _now: float, /) -> None:
        self.put(outbox, alert, began_at)
        found = self.connection.execute(
            "SELECT id, attempts + 1 FROM alerts WHERE id = ? AND status = 'pending'",
            (self._find(outbox, alert.event),),
        ).fetchone()
        if found is not None:
            id_, number = found
            self.connection.execute(
                "UPDATE alerts SET status = 'delivered', lease = NULL, ended_at = ?, attempts = ?, event = NULL,"
                " reason = NULL WHERE id = ?",
                (began_at + took, number, id_),
            )
            self.connection.execute(
                "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, 'dispatched', ?)",
                (id_, number, began_at, took, "sent directly, for the outbox could not be used"),
            )

    def touch(self, outbox: str, /) -> None:
        self.connection.execute(
            "INSERT INTO outboxes (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET pending = pending", (outbox,)
        )

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
        return [alert for alert in alerts if self._find(outbox, alert.event) is None]

    # -- sending

    def exchange(self, outbox: str, request: Request, /) -> Answer:
        now, lease, until = request.now, request.lease, request.now + request.lasts
        if request.mends:
            self._mend_times(outbox, now, request.longest_wait)
        for ending in request.endings:
            self._end(outbox, ending, lease, now, now + max(0.0, ending.next_at - request.clock))
        for claim in request.returned:
            self._give_back(outbox, claim, lease, now)
        kept = [claim for claim in request.renewed if self._renew(outbox, claim, lease, now, until)]
        if request.pause > 0:
            self._pause(outbox, now, now + request.pause)
        if request.recovered:
            self.connection.execute(
                "UPDATE alerts SET due_at = ?, noted_at = ?"
                " WHERE outbox = ? AND status = 'pending' AND lease IS NULL AND due_at > ?",
                (now, now, outbox, now),
            )
        more_to_prune = request.keep is not None and self._prune(outbox, now - request.keep)
        paused_until, retried_at = self._times(outbox)
        room = request.room if paused_until <= now else 0
        claims = self._claim(outbox, request, room)
        state = self._state(outbox) if request.wants_state else None
        due = self._next_due(outbox, request.held | _ids_of(claims))
        wait = None if due is None else max(due, paused_until) - now
        return Answer(claims, _ids_of(kept), wait, retried_at, state, more_to_prune)

    def _mend_times(self, outbox: str, now: float, longest: float) -> None:
        """
        Put right the times that were written while the clock was ahead, and are in the future now.

        An alert that was to wait for so many seconds then, waits for as many from now on; if that is longer than
        *longest*, it is due now. An alert that has come in the future comes now, so that its age counts from now on.
        """
        # As the clock tells it, which is not read at the moment of writing.
        ahead = now + _UNSURE
        for table, due, noted, which in (
            ("alerts", "due_at", "noted_at", "outbox = ? AND status = 'pending'"),
            ("outboxes", "paused_until", "paused_at", "name = ?"),
        ):
            self.connection.execute(
                f"UPDATE {table} SET {noted} = ?, {due} = ? + CASE WHEN typeof({noted}) = 'real'"  # noqa: S608
                f" AND {due} - {noted} BETWEEN 0 AND ? THEN {due} - {noted} ELSE 0 END"
                f" WHERE {which} AND ({noted} > ? OR {due} > ?)",
                (now, now, longest, outbox, ahead, now + longest),
            )
        self.connection.execute(
            "UPDATE alerts SET came_at = ? WHERE outbox = ? AND status = 'pending' AND came_at > ?",
            (now, outbox, ahead),
        )

    def _end(self, outbox: str, ending: Ending, lease: str, now: float, due_at: float) -> None:
        """Note how an attempt ended; an alert that another process has taken over stays there, unless delivered."""
        claim, verdict = ending.claim, ending.verdict
        id_ = self._found_or_put(outbox, claim)
        self.connection.execute(
            "INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?)",
            (id_, claim.attempt, ending.began_at, ending.took, verdict.outcome, ending.reason),
        )
        if verdict.status == "delivered":
            self.connection.execute(
                "UPDATE alerts SET status = 'delivered', lease = NULL, event = NULL, reason = NULL, ended_at = ?,"
                " attempts = max(attempts, ?), failures = ? WHERE id = ? AND status <> 'delivered'",
                (now, claim.attempt, verdict.failures, id_),
            )
        else:
            ended_at = None if verdict.status == "pending" else now
            self.connection.execute(
                "UPDATE alerts SET status = ?, due_at = ?, noted_at = ?, lease = NULL, failures = ?, spent = ?,"
                " reason = ?, ended_at = ? WHERE id = ? AND status = 'pending' AND lease = ?",
                (verdict.status, due_at, now, verdict.failures, verdict.spent, ending.reason, ended_at, id_, lease),
            )

    def _give_back(self, outbox: str, claim: Claim, lease: str, now: float) -> None:
        """Make *claim*, of which no attempt was begun, due again, as if it had never been made."""
        id_ = self._found_or_put(outbox, claim)
        done = self.connection.execute(
            "UPDATE alerts SET lease = NULL, due_at = ?, noted_at = ?, attempts = attempts - 1"
            " WHERE id = ? AND lease = ?",
            (now, now, id_, lease),
        )
        if done.rowcount:
            self.connection.execute("DELETE FROM attempts WHERE alert = ? AND number = ?", (id_, claim.attempt))

    def _renew(self, outbox: str, claim: Claim, lease: str, now: float, until: float) -> bool:
        """Keep *claim* until then; return False if another process has taken it over."""
        done = self.connection.execute(
            "UPDATE alerts SET due_at = ?, noted_at = ? WHERE id = ? AND lease = ?",
            (until, now, self._find(outbox, claim.alert.event), lease),
        )
        return done.rowcount > 0

    def _pause(self, outbox: str, now: float, until: float) -> None:
        """Let no process claim anything before *until*."""
        self.connection.execute(
            "INSERT INTO outboxes (name, paused_until, paused_at) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET paused_until = excluded.paused_until, paused_at = excluded.paused_at"
            " WHERE paused_until < excluded.paused_until",
            (outbox, until, now),
        )

    def _prune(self, outbox: str, before: float) -> bool:
        """Remove some of the alerts that were delivered before that time; return whether there may be more."""
        done = self.connection.execute(
            "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts"
            # An alert that was delivered before came before, and that column has an index.
            " WHERE outbox = ? AND status = 'delivered' AND came_at < ? AND ended_at < ? LIMIT ?)",
            (outbox, before, before, _PRUNED_AT_ONCE),
        )
        return done.rowcount == _PRUNED_AT_ONCE

    def _claim(self, outbox: str, request: Request, limit: int) -> list[Claim]:
        """Claim *limit* of the alerts that are due, the longest due first."""
        now = request.now
        claims: list[Claim] = []
        ids: list[int] = []
        for id_, event_id, number, stored, left, *found in self._due(outbox, request, limit):
            if left is not None:
                self.connection.execute(
                    "UPDATE attempts SET outcome = 'stopped', reason = ? WHERE alert = ? AND outcome IS NULL",
                    ("unknown: the process ended, or lost its lease, before there was an outcome", id_),
                )
            event_or_why = event_in(stored, event_id, number)
            if isinstance(event_or_why, str):
                # It must not stand in the way of other alerts for ever.
                self.connection.execute(
                    "UPDATE alerts SET status = 'dead', lease = NULL, ended_at = ?, reason = ? WHERE id = ?",
                    (now, event_or_why, id_),
                )
                _log.error("the outbox %s gives up the alert about event %r: %s", outbox, event_id, event_or_why)
                continue
            severity, channel, came_at, attempts, failures, spent = self._mended(id_, found, now)
            if attempts >= _MOST_ATTEMPTS:
                last = attempts + 1 - _MOST_ATTEMPTS
                self.connection.execute("DELETE FROM attempts WHERE alert = ? AND number <= ?", (id_, last))
            ids.append(id_)
            claims.append(Claim(Alert(event_or_why, severity, channel), came_at, attempts + 1, failures, spent))
        if ids:
            self._take(ids, request.lease, now, now + request.lasts)
        return claims

    def _due(self, outbox: str, request: Request, limit: int) -> Iterable[tuple[Any, ...]]:
        """Return the rows of *limit* alerts that may be claimed, the longest due first."""
        if limit <= 0:
            return []
        due = self.connection.execute(
            "SELECT id, event_id, sequence_number, event, lease, severity, channel, came_at, attempts, failures, spent"
            " FROM alerts"
            " WHERE outbox = ? AND status = 'pending' AND due_at <= ? AND id = coalesce(?, id) ORDER BY due_at, id",
            (outbox, request.now, None if request.event is None else self._find(outbox, request.event) or 0),
        )
        # The sender knows its claims by the id of the event, which a trail in files may have again after a while.
        rows: dict[str, tuple[Any, ...]] = {}
        for row in due:
            if row[1] not in request.held:
                rows.setdefault(row[1], row)
            if len(rows) == limit:
                break
        due.close()
        return rows.values()

    def _mended(self, id_: int, found: list[Any], now: float) -> tuple[str, str | None, float, int, int, float]:
        """Return the values *found* of an alert, impossible ones replaced, in the file too."""
        mended = sound(found, now)
        if mended != tuple(found):
            self.connection.execute(
                "UPDATE alerts SET severity = ?, channel = ?, came_at = ?, attempts = ?, failures = ?, spent = ?"
                " WHERE id = ?",
                (*mended, id_),
            )
        return mended

    def _take(self, ids: list[int], lease: str, now: float, until: float) -> None:
        # All at once: with every statement the thread gives up the interpreter's lock, and waits for it again.
        which = f"IN ({', '.join('?' * len(ids))})"
        self.connection.execute(
            f"UPDATE alerts SET lease = ?, due_at = ?, noted_at = ?, attempts = attempts + 1 WHERE id {which}",  # noqa: S608
            (lease, until, now, *ids),
        )
        self.connection.execute(
            "INSERT OR REPLACE INTO attempts (alert, number, began_at)"  # noqa: S608
            f" SELECT id, attempts, ? FROM alerts WHERE id {which}",
            (now, *ids),
        )

    def _state(self, outbox: str) -> OutboxState:
        counts = self.connection.execute("SELECT pending, dead FROM outboxes WHERE name = ?", (outbox,)).fetchone()
        if counts is None:
            return OutboxState()
        (oldest,) = self.connection.execute(
            "SELECT min(came_at) FROM alerts WHERE outbox = ? AND status = 'pending' AND came_at BETWEEN ? AND ?",
            (outbox, FIRST_TIME, LAST_TIME),
        ).fetchone()
        pending, dead = map(count_or_0, counts)
        return OutboxState(pending=pending, oldest=oldest, dead=dead)

    def _next_due(self, outbox: str, held: AbstractSet[str]) -> float | None:
        """Return when the next alert beside *held* is due; None if no other is pending."""
        pending = self.connection.execute(
            "SELECT due_at, event_id FROM alerts WHERE outbox = ? AND status = 'pending' ORDER BY due_at", (outbox,)
        )
        due: float | None = next((at for at, event_id in pending if event_id not in held and is_time(at)), None)
        pending.close()
        return due

    def _times(self, outbox: str) -> tuple[float, float]:
        """Return until when the target is not to be called, and when an operator last retried alerts; or else 0."""
        query = "SELECT paused_until, retried_at FROM outboxes WHERE name = ?"
        row = self.connection.execute(query, (outbox,)).fetchone() or (None, None)
        paused_until, retried_at = map(time_or_0, row)
        return paused_until, retried_at

    def _found_or_put(self, outbox: str, claim: Claim) -> int:
        """Return the number of the claimed alert; in a file that was made since, insert it."""
        id_ = self._find(outbox, claim.alert.event)
        if id_ is None:
            self.put(outbox, claim.alert, claim.came_at)
            id_ = self._find(outbox, claim.alert.event)
        assert id_ is not None  # noqa: S101 - put there
        return id_

    def _find(self, outbox: str, event: AuditEvent) -> int | None:
        """Return the number of the alert about *event*; None if there is none."""
        row = self.connection.execute(
            "SELECT id FROM alerts WHERE outbox = ? AND sequence_number = ? AND event_id = ?",
            (outbox, sequence_number_of(event), event.event_id),
        ).fetchone()
        return None if row is None else int(row[0])


def _ids_of(claims: Sequence[Claim]) -> set[str]:
    return {claim.alert.event.event_id for claim in claims}
