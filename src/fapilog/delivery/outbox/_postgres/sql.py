"""
The statements of an outbox in PostgreSQL.

All take the names of the trail and the outbox as ``trail`` and ``outbox``. `statement_timestamp()` is the server's
clock, and is read once per statement, so that an index on times can be used.
"""

# Names of columns and conditions alone are put into them.
# ruff: noqa: S608

from __future__ import annotations

from typing import Final

_MINE: Final = "trail = %(trail)s AND outbox = %(outbox)s"
_ANY: Final = "trail = %(trail)s AND (%(outbox)s::text IS NULL OR outbox = %(outbox)s)"
_ONE: Final = f"{_MINE} AND event_id = %(event_id)s"
# A trail in files may have an id again after a while: an alert is found by the id of its event and the number of its
# record. One after the other, by the index: tables that change so much have statistics that mislead.
_FIND: Final = """\
found AS (
    SELECT alert.id, given.* FROM given CROSS JOIN LATERAL (
        SELECT id FROM fapilog.alerts
        WHERE trail = %(trail)s AND outbox = %(outbox)s AND event_id = given.event_id
            AND sequence_number = given.sequence_number
        FOR UPDATE
    ) AS alert
)"""
_FOUND: Final = f"""\
WITH given AS (
    SELECT * FROM unnest(%(event_ids)s::text[], %(sequence_numbers)s::int8[], %(attempts)s::int4[])
        AS given (event_id, sequence_number, number)
), {_FIND}"""

_UNHELD: Final = "event_id <> ALL(%(held)s::text[])"
_FREE: Final = "(leased_until IS NULL OR leased_until <= statement_timestamp())"

_LET_GO: Final = "lease = NULL, leased_at = NULL, leased_until = NULL"

STOPPED: Final = "unknown: the process ended, or lost its lease, before there was an outcome"

TOUCH: Final = """\
INSERT INTO fapilog.outboxes (trail, name) VALUES (%(trail)s, %(outbox)s)
ON CONFLICT (trail, name) DO UPDATE SET paused_until = outboxes.paused_until
"""

DELIVERED: Final = f"""\
WITH found AS (
    UPDATE fapilog.alerts SET status = 'delivered', {_LET_GO}, event = NULL, reason = NULL,
        attempts = attempts + 1, ended_at = statement_timestamp() - make_interval(secs => %(ago)s - %(took)s)
    WHERE {_ONE} AND sequence_number = %(number)s AND status = 'pending'
    RETURNING id, attempts
)
INSERT INTO fapilog.attempts (alert, number, began_at, took, outcome, reason)
SELECT id, attempts, statement_timestamp() - make_interval(secs => %(ago)s), %(took)s, 'dispatched', %(reason)s
FROM found ON CONFLICT DO NOTHING
"""

# A server whose clock was ahead, this one or the one before it, has written times that are too far in the future now. A
# second is none: a row may be seen by a statement that began a moment before it came.
_AHEAD: Final = """\
(greatest(due_at, leased_until) > statement_timestamp() + make_interval(secs => %(longest)s)
    OR came_at > statement_timestamp() + interval '1 second')"""
MEND: Final = f"""\
UPDATE fapilog.alerts SET
    due_at = CASE WHEN due_at > statement_timestamp() + make_interval(secs => %(longest)s)
        THEN statement_timestamp() ELSE due_at END,
    leased_until = CASE WHEN leased_until <= statement_timestamp() + make_interval(secs => %(longest)s)
        THEN leased_until END,
    came_at = least(came_at, statement_timestamp())
WHERE {_MINE} AND status = 'pending' AND {_AHEAD}
"""
MEND_PAUSE: Final = """\
UPDATE fapilog.outboxes SET paused_until = statement_timestamp()
WHERE trail = %(trail)s AND name = %(outbox)s
    AND paused_until > statement_timestamp() + make_interval(secs => %(longest)s)
"""

# An alert that another process has taken over stays with that process, unless it is delivered.
END: Final = f"""\
WITH given AS (
    SELECT * FROM unnest(
        %(event_ids)s::text[], %(sequence_numbers)s::int8[], %(attempts)s::int4[], %(began)s::float8[],
        %(took)s::float8[], %(outcome)s::text[], %(reason)s::text[], %(status)s::text[], %(wait)s::float8[],
        %(failures)s::int4[], %(spent)s::float8[]
    ) AS given (event_id, sequence_number, number, began, took, outcome, reason, status, wait, failures, spent)
), {_FIND}, noted AS (
    INSERT INTO fapilog.attempts (alert, number, began_at, took, outcome, reason)
    SELECT id, number, statement_timestamp() - make_interval(secs => began), took, outcome, reason FROM found
    ON CONFLICT (alert, number) DO UPDATE SET
        began_at = excluded.began_at, took = excluded.took, outcome = excluded.outcome, reason = excluded.reason
)
UPDATE fapilog.alerts SET
    status = found.status,
    {_LET_GO},
    event = CASE WHEN found.status = 'delivered' THEN NULL ELSE event END,
    due_at = statement_timestamp() + make_interval(secs => found.wait),
    attempts = greatest(attempts, found.number),
    failures = found.failures,
    spent = found.spent,
    reason = CASE WHEN found.status = 'delivered' THEN NULL ELSE found.reason END,
    ended_at = CASE WHEN found.status = 'pending' THEN NULL ELSE statement_timestamp() END
FROM found WHERE alerts.id = found.id AND alerts.status <> 'delivered'
    AND (found.status = 'delivered' OR (alerts.status = 'pending' AND alerts.lease = %(lease)s))
"""

GIVE_BACK: Final = f"""\
{_FOUND}
UPDATE fapilog.alerts SET {_LET_GO}, attempts = attempts - 1
FROM found WHERE alerts.id = found.id AND lease = %(lease)s
"""

RENEW: Final = f"""\
{_FOUND}
UPDATE fapilog.alerts SET leased_until = statement_timestamp() + make_interval(secs => %(lasts)s)
FROM found WHERE alerts.id = found.id AND lease = %(lease)s
RETURNING alerts.event_id
"""

PAUSE: Final = """\
INSERT INTO fapilog.outboxes (trail, name, paused_until)
VALUES (%(trail)s, %(outbox)s, statement_timestamp() + make_interval(secs => %(pause)s))
ON CONFLICT (trail, name) DO UPDATE SET paused_until = excluded.paused_until
WHERE outboxes.paused_until < excluded.paused_until
"""

BRING_FORWARD: Final = f"""\
UPDATE fapilog.alerts SET due_at = statement_timestamp()
WHERE {_MINE} AND status = 'pending' AND lease IS NULL AND due_at > statement_timestamp()
"""

PRUNE: Final = f"""\
DELETE FROM fapilog.alerts WHERE id IN (
    SELECT id FROM fapilog.alerts WHERE {_MINE} AND status = 'delivered'
        AND ended_at < statement_timestamp() - make_interval(secs => %(keep)s)
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) RETURNING id
"""

CLAIM: Final = f"""\
WITH due AS MATERIALIZED (
    SELECT id, due_at AS was_due, lease AS left_behind, leased_at AS left_at, attempts AS left_number
    FROM fapilog.alerts
    WHERE {_MINE} AND status = 'pending' AND due_at <= statement_timestamp() AND {_FREE} AND {_UNHELD}
        AND (%(event_id)s::text IS NULL OR event_id = %(event_id)s AND sequence_number = %(number)s)
        AND NOT EXISTS (
            SELECT FROM fapilog.outboxes WHERE outboxes.trail = %(trail)s AND name = %(outbox)s
                AND paused_until > statement_timestamp()
        )
    ORDER BY due_at, id LIMIT %(room)s FOR UPDATE SKIP LOCKED
), interrupted AS (
    INSERT INTO fapilog.attempts (alert, number, began_at, outcome, reason)
    SELECT id, left_number, left_at, 'stopped', %(stopped)s FROM due WHERE left_behind IS NOT NULL
    ON CONFLICT DO NOTHING
), taken AS (
    UPDATE fapilog.alerts SET
        lease = %(lease)s,
        leased_at = statement_timestamp(),
        leased_until = statement_timestamp() + make_interval(secs => %(lasts)s),
        attempts = attempts + 1
    FROM due WHERE alerts.id = due.id
    RETURNING alerts.*, was_due
)
SELECT id, event_id, sequence_number, event, severity, channel,
    extract(epoch FROM statement_timestamp() - came_at)::float8, attempts, failures, spent
FROM taken ORDER BY was_due, id
"""

# Of several alerts about one id, which a sender does not claim together.
LET_GO: Final = f"UPDATE fapilog.alerts SET {_LET_GO}, attempts = attempts - 1 WHERE id = %(id)s"

GIVE_UP: Final = f"""\
UPDATE fapilog.alerts SET status = 'dead', {_LET_GO}, ended_at = statement_timestamp(), reason = %(reason)s
WHERE id = %(id)s
"""

FORGET_ATTEMPTS: Final = "DELETE FROM fapilog.attempts WHERE alert = %(id)s AND number <= %(number)s"

STATE: Final = f"""\
SELECT pending.count, extract(epoch FROM statement_timestamp() - oldest)::float8, dead.count, is_ahead OR EXISTS (
    SELECT FROM fapilog.outboxes WHERE trail = %(trail)s AND name = %(outbox)s
        AND paused_until > statement_timestamp() + make_interval(secs => %(longest)s)
) FROM (
    SELECT count(*), min(came_at) AS oldest, coalesce(bool_or({_AHEAD}), false) AS is_ahead
    FROM fapilog.alerts WHERE {_MINE} AND status = 'pending'
) AS pending, (SELECT count(*) FROM fapilog.alerts WHERE {_MINE} AND status = 'dead') AS dead
"""

NEXT: Final = f"""\
SELECT
    CASE WHEN least(free.due_at, taken.due_at) IS NOT NULL THEN
        extract(epoch FROM greatest(least(free.due_at, taken.due_at), paused_until) - statement_timestamp())::float8
    END,
    extract(epoch FROM retried_at)::float8
FROM (SELECT) AS one
LEFT JOIN fapilog.outboxes ON trail = %(trail)s AND name = %(outbox)s
LEFT JOIN LATERAL (
    SELECT due_at FROM fapilog.alerts WHERE {_MINE} AND status = 'pending' AND {_FREE} AND {_UNHELD}
    ORDER BY due_at LIMIT 1
) AS free ON true
-- Leases matter where nothing else is due: then few alerts are, which are those with a lease.
LEFT JOIN LATERAL (
    SELECT min(leased_until) AS due_at FROM fapilog.alerts
    WHERE {_MINE} AND status = 'pending' AND due_at <= statement_timestamp() AND NOT {_FREE} AND {_UNHELD}
        AND (free.due_at IS NULL OR free.due_at > statement_timestamp())
) AS taken ON true
"""

MARK: Final = """\
SELECT sequence_number, checksum FROM fapilog.outboxes
WHERE trail = %(trail)s AND name = %(outbox)s AND sequence_number IS NOT NULL
"""

SET_MARK: Final = """\
INSERT INTO fapilog.outboxes (trail, name, sequence_number, checksum)
VALUES (%(trail)s, %(outbox)s, %(number)s, %(checksum)s)
ON CONFLICT (trail, name) DO UPDATE SET sequence_number = excluded.sequence_number, checksum = excluded.checksum
WHERE %(back)s OR outboxes.sequence_number IS NULL OR outboxes.sequence_number < excluded.sequence_number
"""

COME: Final = f"""\
SELECT event_id, sequence_number FROM fapilog.alerts WHERE {_MINE} AND event_id = ANY(%(event_ids)s::text[])
"""

OUTBOXES: Final = """\
SELECT name FROM fapilog.outboxes WHERE trail = %(trail)s
UNION SELECT outbox FROM fapilog.alerts WHERE trail = %(trail)s ORDER BY 1
"""

ALERTS: Final = f"""\
SELECT outbox, event_id, sequence_number, event_type, severity, channel, status,
    extract(epoch FROM came_at)::float8 AS came_at, attempts, reason,
    extract(epoch FROM coalesce(leased_until, due_at))::float8 AS due_at,
    extract(epoch FROM ended_at)::float8 AS ended_at
FROM fapilog.alerts
WHERE {_ANY} AND (
        status = 'pending' AND %(pending)s OR status = 'dead' AND %(dead)s OR status = ANY(%(others)s::text[])
    )
    AND (%(event_id)s::text IS NULL OR event_id = %(event_id)s)
ORDER BY came_at, id LIMIT %(limit)s
"""

ATTEMPTS: Final = f"""\
SELECT number, extract(epoch FROM began_at)::float8 AS began_at, took, outcome, attempts.reason
FROM fapilog.attempts JOIN fapilog.alerts ON alerts.id = alert WHERE {_ONE}
UNION ALL
SELECT attempts, extract(epoch FROM leased_at)::float8, NULL, NULL, NULL
FROM fapilog.alerts WHERE {_ONE} AND lease IS NOT NULL
ORDER BY number
"""

OLDEST_PENDING: Final = f"""\
SELECT min(sequence_number) FROM fapilog.alerts
WHERE {_ANY} AND (status = 'pending' OR status = 'dead') AND sequence_number > 0
"""

RETRY: Final = f"""\
UPDATE fapilog.alerts SET status = 'pending', due_at = statement_timestamp(), failures = 0, spent = 0, ended_at = NULL,
    reason = NULL
WHERE {_ANY} AND event IS NOT NULL AND CASE WHEN %(event_ids)s::text[] IS NULL
    THEN status = 'dead' ELSE event_id = ANY(%(event_ids)s) AND lease IS NULL END
RETURNING id
"""

NOTE_RETRY: Final = """\
UPDATE fapilog.outboxes SET retried_at = statement_timestamp()
WHERE trail = %(trail)s AND (%(outbox)s::text IS NULL OR name = %(outbox)s)
"""

# Without its lease: a process that is sending it may find it discarded, and it can be retried.
DISCARD: Final = f"""\
UPDATE fapilog.alerts SET status = 'discarded', {_LET_GO}, ended_at = statement_timestamp(), reason = %(reason)s
WHERE {_ANY} AND status IN ('dead', 'pending') AND event_id = ANY(%(event_ids)s)
RETURNING id
"""
