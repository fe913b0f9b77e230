"""
The outboxes of a trail in PostgreSQL, in one transaction, behind the seam `Queue`.

Every time is the server's: leases and waits mean the same on all machines, even if their clocks differ. A statement is
for all alerts of an exchange at once, since every statement is a round trip to the server.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, get_args

from ....core.alerting import Alert
from ....record.chain import ChainHead
from ....storage.postgres.alerts import CHANNEL, put_alerts, told
from ....storage.postgres.connection import Connection
from ....storage.protocol import KeptAlert
from ....tasks.strangers import Log
from .._place import Answer, Claim, Request
from .._rows import OutboxAlert, OutboxAttempt, OutboxState, Status, alert_of, attempt_of, event_in, sequence_number_of
from . import sql

__all__ = ["PostgresQueue"]

_log: Final = Log("fapilog.delivery")

# The attempts that are kept of one alert; one that is throttled for days makes thousands.
_MOST_ATTEMPTS: Final = 100
_PRUNED_AT_ONCE: Final = 1000


class PostgresQueue:
    """
    The outboxes of a trail, in one transaction of a connection; see `Queue`.

    Args:
        connection: In a transaction.
        trail: The name of the trail.
    """

    def __init__(self, connection: Connection, trail: str) -> None:
        self._connection = connection
        self._trail = trail

    # -- alerts that come

    def put(self, outbox: str, alert: Alert, _now: float, /) -> None:
        if put_alerts(self._connection, self._trail, [_kept(outbox, alert)]):
            self._notify()

    def put_delivered(self, outbox: str, alert: Alert, began_at: float, took: float, now: float, /) -> None:
        put_alerts(self._connection, self._trail, [_kept(outbox, alert)])
        self._do(
            sql.DELIVERED,
            outbox,
            event_id=told(alert.event.event_id),
            number=sequence_number_of(alert.event),
            ago=now - began_at,
            took=took,
            reason="sent directly, for the outbox could not be used",
        )

    def touch(self, outbox: str, /) -> None:
        self._do(sql.TOUCH, outbox)

    # -- sending

    def exchange(self, outbox: str, request: Request, /) -> Answer:
        if request.endings:
            self._end(outbox, request)
        if request.returned:
            self._do(sql.GIVE_BACK, outbox, **_columns(request.returned), lease=request.lease)
        renewed = set[str]()
        if request.renewed:
            values = {**_columns(request.renewed), "lease": request.lease, "lasts": request.lasts}
            renewed = {str(event_id) for (event_id,) in self._do(sql.RENEW, outbox, **values)}
        if request.pause > 0:
            self._do(sql.PAUSE, outbox, pause=request.pause)
        if request.recovered:
            self._do(sql.BRING_FORWARD, outbox)
            self._notify()
        more_to_prune = False
        if request.keep is not None:
            pruned = self._do(sql.PRUNE, outbox, keep=request.keep, limit=_PRUNED_AT_ONCE)
            more_to_prune = len(pruned) == _PRUNED_AT_ONCE
        # Before the claims, which take what was put right.
        state = self._state(outbox, request) if request.wants_state else None
        held = list(map(told, request.held))
        claims = self._claim(outbox, request, held)
        if 0 < request.room <= len(claims):
            # There may be more, for which there is no room now.
            return Answer(claims, renewed, wait=0.0, retried_at=None, state=state, more_to_prune=more_to_prune)
        held += (told(claim.alert.event.event_id) for claim in claims)
        [(wait, retried_at)] = self._do(sql.NEXT, outbox, held=held)
        return Answer(claims, renewed, wait, retried_at, state, more_to_prune)

    def _claim(self, outbox: str, request: Request, held: Sequence[str]) -> list[Claim]:
        if request.room <= 0:
            return []
        event = request.event
        values = {
            "lease": request.lease,
            "lasts": request.lasts,
            "room": request.room,
            "held": held,
            "event_id": None if event is None else told(event.event_id),
            "number": None if event is None else sequence_number_of(event),
            "stopped": sql.STOPPED,
        }
        # The sender knows its claims by the id of the event.
        claims: dict[str, Claim] = {}
        for id_, event_id, number, stored, severity, channel, age, attempts, failures, spent in self._do(
            sql.CLAIM, outbox, **values
        ):
            if event_id in claims:
                self._connection.execute(sql.LET_GO, {"id": id_})
                continue
            event_or_why = event_in(stored, event_id, number)
            if isinstance(event_or_why, str):
                # It must not block the other alerts for ever.
                self._connection.execute(sql.GIVE_UP, {"id": id_, "reason": event_or_why})
                _log.error("the outbox %s gives up the alert about event %r: %s", outbox, event_id, event_or_why)
                continue
            if attempts > _MOST_ATTEMPTS:
                self._connection.execute(sql.FORGET_ATTEMPTS, {"id": id_, "number": attempts - _MOST_ATTEMPTS})
            alert = Alert(event_or_why, severity, channel)
            claims[event_id] = Claim(alert, request.now - age, attempts, failures, spent)
        return list(claims.values())

    def _end(self, outbox: str, request: Request) -> None:
        endings = request.endings
        self._do(
            sql.END,
            outbox,
            **_columns([ending.claim for ending in endings]),
            lease=request.lease,
            began=[request.now - ending.began_at for ending in endings],
            took=[ending.took for ending in endings],
            outcome=[ending.verdict.outcome for ending in endings],
            reason=[None if ending.reason is None else told(ending.reason) for ending in endings],
            status=[ending.verdict.status for ending in endings],
            wait=[max(0.0, ending.next_at - request.clock) for ending in endings],
            failures=[ending.verdict.failures for ending in endings],
            spent=[ending.verdict.spent for ending in endings],
        )

    def _state(self, outbox: str, request: Request) -> OutboxState:
        """Return the state of the outbox, whose times are right then, whatever the server's clock was before."""
        longest = request.longest_wait
        [(pending, age, dead, is_ahead)] = self._do(sql.STATE, outbox, longest=longest)
        if is_ahead:
            self._do(sql.MEND, outbox, longest=longest)
            self._do(sql.MEND_PAUSE, outbox, longest=longest)
        return OutboxState(pending=pending, oldest=None if age is None else request.now - age, dead=dead)

    # -- resuming

    def mark(self, outbox: str, /) -> ChainHead | None:
        for number, checksum in self._do(sql.MARK, outbox):
            return ChainHead(number, checksum)
        return None

    def set_mark(self, outbox: str, mark: ChainHead, /, *, back: bool = False) -> None:
        self._do(sql.SET_MARK, outbox, number=mark.sequence_number, checksum=mark.checksum, back=back)

    def lacking(self, outbox: str, alerts: Sequence[Alert], /) -> list[Alert]:
        rows = [(told(alert.event.event_id), sequence_number_of(alert.event)) for alert in alerts]
        found = set(self._do(sql.COME, outbox, event_ids=[event_id for event_id, _ in rows]))
        return [alert for alert, row in zip(alerts, rows, strict=True) if row not in found]

    # -- receipts

    def outboxes(self) -> list[str]:
        return [name for (name,) in self._do(sql.OUTBOXES, None)]

    def alerts(
        self,
        outbox: str | None = None,
        statuses: Sequence[Status] = (),
        *,
        event_id: str | None = None,
        limit: int = 100,
    ) -> list[OutboxAlert]:
        values = {
            "trail": self._trail,
            "outbox": outbox,
            "pending": not statuses or "pending" in statuses,
            "dead": not statuses or "dead" in statuses,
            "others": [each for each in statuses or get_args(Status) if each not in {"pending", "dead"}],
            "event_id": None if event_id is None else told(event_id),
            "limit": limit,
        }
        rows = self._connection.execute(sql.ALERTS, values)
        return [alert_of(rows.description or (), row) for row in rows]

    def attempts(self, outbox: str, event_id: str, /) -> list[OutboxAttempt]:
        values = {"trail": self._trail, "outbox": outbox, "event_id": told(event_id)}
        rows = self._connection.execute(sql.ATTEMPTS, values)
        return [attempt_of(rows.description or (), row) for row in rows]

    def oldest_pending(self, outbox: str | None = None, /) -> int | None:
        [(number,)] = self._do(sql.OLDEST_PENDING, outbox)
        return None if number is None else int(number)

    def retry(self, outbox: str | None, event_ids: Iterable[str] | None, _now: float, /) -> int:
        ids = None if event_ids is None else list(map(told, event_ids))
        count = len(self._do(sql.RETRY, outbox, event_ids=ids))
        self._do(sql.NOTE_RETRY, outbox)
        self._notify()
        return count

    def discard(self, outbox: str | None, event_ids: Iterable[str], reason: str, _now: float, /) -> int:
        ids = list(map(told, event_ids))
        count = len(self._do(sql.DISCARD, outbox, event_ids=ids, reason=told(reason)))
        self._notify()
        return count

    def _do(self, statement: str, outbox: str | None, **values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of *statement*."""
        cursor = self._connection.execute(statement.encode(), {"trail": self._trail, "outbox": outbox, **values})
        return cursor.fetchall() if cursor.description else []

    def _notify(self) -> None:
        # At the end of this transaction, once.
        self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._trail))


def _kept(outbox: str, alert: Alert) -> KeptAlert:
    return KeptAlert(outbox, alert.severity, alert.channel, alert.event)


def _columns(claims: Sequence[Claim]) -> dict[str, list[Any]]:
    """Return the events of *claims*, and the attempt numbers, as arrays."""
    return {
        "event_ids": [told(claim.alert.event.event_id) for claim in claims],
        "sequence_numbers": [sequence_number_of(claim.alert.event) for claim in claims],
        "attempts": [claim.attempt for claim in claims],
    }
