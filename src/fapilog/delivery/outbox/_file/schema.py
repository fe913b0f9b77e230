"""The tables of an outbox: its alerts, the attempts to deliver them, and how many there are."""

from __future__ import annotations

from typing import Final

__all__ = ["COUNT_ANEW", "SCHEMA", "VERSION"]

VERSION: Final = 1

SCHEMA: Final = {
    "outboxes": """
CREATE TABLE outboxes (
    name TEXT PRIMARY KEY,
    sequence_number INTEGER,  -- the mark: what is about events up to here has come
    checksum TEXT,
    paused_until REAL NOT NULL DEFAULT 0,
    paused_at REAL NOT NULL DEFAULT 0,  -- when that was written: a clock that was ahead then is seen by it
    pending INTEGER NOT NULL DEFAULT 0,  -- how many there are, since counting takes a while
    dead INTEGER NOT NULL DEFAULT 0,
    retried_at REAL NOT NULL DEFAULT 0  -- when people last retried alerts
) WITHOUT ROWID
    """,
    "alerts": """
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
    due_at REAL NOT NULL,  -- of one that is being sent: when somebody else may take it
    noted_at REAL NOT NULL,  -- when that was written: a clock that was ahead then is seen by it
    lease TEXT,  -- who is sending it
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,  -- the attempts that count against the schedule
    spent REAL NOT NULL DEFAULT 0,  -- the seconds of waiting that count against it instead
    reason TEXT,
    ended_at REAL,
    -- An event has one number, and new ones have the highest: their place in the index is at its end, and not anywhere,
    -- as that of a random id would be.
    UNIQUE (outbox, sequence_number, event_id)
)
    """,
    "due": "CREATE INDEX due ON alerts (outbox, due_at, id) WHERE status = 'pending'",
    "by_status": "CREATE INDEX by_status ON alerts (outbox, status, came_at)",
    "attempts": """
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
    "came": """
CREATE TRIGGER came AFTER INSERT ON alerts BEGIN
    INSERT INTO outboxes (name, pending) VALUES (new.outbox, 1)
        ON CONFLICT (name) DO UPDATE SET pending = pending + 1;
END
    """,
    "changed": """
CREATE TRIGGER changed AFTER UPDATE OF status ON alerts WHEN old.status <> new.status BEGIN
    UPDATE outboxes SET
        pending = pending + (new.status = 'pending') - (old.status = 'pending'),
        dead = dead + (new.status = 'dead') - (old.status = 'dead')
    WHERE name = new.outbox;
END
    """,
}
"""The SQL that makes each table, index and trigger, by its name."""

COUNT_ANEW: Final = """
INSERT INTO outboxes (name, pending, dead)
    SELECT name, count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'dead')
    FROM (SELECT name FROM outboxes UNION SELECT outbox FROM alerts) LEFT JOIN alerts ON outbox = name
    WHERE TRUE GROUP BY name
    ON CONFLICT (name) DO UPDATE SET pending = excluded.pending, dead = excluded.dead
"""
