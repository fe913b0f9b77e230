"""The tables of the trails in PostgreSQL, the values in them, the rights on them, their installation and migration."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

import psycopg

from ...record.errors import AuditStorageError
from ...record.events import AuditEvent
from ...record.privacy import without_frames
from .._rows.table import COLUMNS, SCATTERED, STRETCH, values_of
from .connection import Connection, Server, words

__all__ = ["COLUMN_TYPES", "VERSION", "install_schema", "installed_version", "key_of", "keys_of", "schema_sql"]

_NUMBERS: Final = frozenset({"timestamp"})
# An entry of an index has 2,704 bytes at most, and a character four:
# https://www.postgresql.org/docs/current/btree.html
_LONGEST: Final = 200
_KEPT: Final = 100

COLUMN_TYPES: Final = {name: "int8" if name in _NUMBERS else "text" for name in COLUMNS}
"""The types of the columns that are searched."""

# Of the C locale, whose order no update of the operating system changes, which damages other indices:
# https://wiki.postgresql.org/wiki/Locale_data_changes
_COLUMNS: Final = ",\n    ".join(
    f"{name} bigint" if kind == "int8" else f'{name} text COLLATE "C"' for name, kind in COLUMN_TYPES.items()
)
_INDICES: Final = "\n".join(
    f"CREATE INDEX by_{name} ON fapilog.records (trail, {STRETCH}, {name}, sequence_number) WHERE {name} IS NOT NULL;"
    for name in SCATTERED
)

# Names of columns alone are put into it.
_TRAILS: Final = f"""\
-- In another encoding an event could not be stored for a character of its texts.
DO $$
BEGIN
    IF current_setting('server_encoding') <> 'UTF8' THEN
        RAISE EXCEPTION 'expected a database whose encoding is UTF8; got %', current_setting('server_encoding');
    END IF;
END $$;
CREATE SCHEMA fapilog;

CREATE TABLE fapilog.schema_version (version integer NOT NULL);

-- A row for each trail: its newest record. Writers of a trail wait for each other at this row.
CREATE TABLE fapilog.heads (
    trail text COLLATE "C" PRIMARY KEY CHECK (length(trail) BETWEEN 1 AND 200),
    sequence_number bigint NOT NULL DEFAULT 0,
    checksum text COLLATE "C"
) WITH (fillfactor = 20);  -- a new version of the row has room beside the old one, and no index changes

-- "line" is the record as it was stored; the columns before it are taken from it, to be searched. "repeated" is not 0
-- in a record that was copied, and has the id of one before it: its number. A trail in files knows the newest ids only,
-- and stores an older one again. No record that is appended has the id of another.
CREATE TABLE fapilog.records (
    trail text COLLATE "C" NOT NULL,
    sequence_number bigint NOT NULL,
    {_COLUMNS},
    line bytea NOT NULL,
    repeated bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (trail, sequence_number)
);
CREATE UNIQUE INDEX by_event_id ON fapilog.records (trail, event_id, repeated);
{_INDICES}
CREATE INDEX by_event_type ON fapilog.records (trail, event_type, sequence_number);
CREATE INDEX by_timestamp ON fapilog.records (trail, "timestamp", sequence_number);

CREATE FUNCTION fapilog.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'fapilog: % of % is refused: an audit trail is only appended to', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON fapilog.records
    FOR EACH STATEMENT EXECUTE FUNCTION fapilog.refuse();
CREATE TRIGGER is_kept BEFORE DELETE OR TRUNCATE ON fapilog.heads
    FOR EACH STATEMENT EXECUTE FUNCTION fapilog.refuse();
CREATE TRIGGER only_grows BEFORE UPDATE ON fapilog.heads FOR EACH ROW
    WHEN (NEW.trail <> OLD.trail OR NEW.sequence_number <= OLD.sequence_number)
    EXECUTE FUNCTION fapilog.refuse();
"""

_OUTBOXES: Final = """
-- A row for each outbox of a trail.
CREATE TABLE fapilog.outboxes (
    trail text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    sequence_number bigint,  -- the mark: alerts about records up to here are in the outbox
    checksum text COLLATE "C",
    paused_until timestamptz NOT NULL DEFAULT '-infinity',
    retried_at timestamptz NOT NULL DEFAULT '-infinity',  -- when people last retried alerts
    PRIMARY KEY (trail, name)
);

-- An alert is put in by the transaction that stores its record.
CREATE TABLE fapilog.alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trail text COLLATE "C" NOT NULL,
    outbox text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    sequence_number bigint NOT NULL,  -- 0: it has none
    event_type text NOT NULL,
    severity text NOT NULL,
    channel text,
    event bytea,  -- JSON, as it is sent; gone once it is delivered
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'dead', 'discarded')),
    came_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease text,  -- who is sending it
    leased_at timestamptz,  -- when the attempt that is under way began
    leased_until timestamptz,  -- when others may take it over
    attempts integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,  -- the attempts that count against the schedule
    spent double precision NOT NULL DEFAULT 0,  -- the seconds of waiting that count against it instead
    reason text,
    ended_at timestamptz,
    -- A trail in files may have an id again after a while.
    UNIQUE (trail, event_id, outbox, sequence_number)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
-- A row is in few of them at a time, since it is written twice for each attempt. What a lease changes is in none, so
-- that a claim writes to no index: https://www.postgresql.org/docs/current/storage-hot.html
CREATE INDEX due ON fapilog.alerts (trail, outbox, due_at, id) WHERE status = 'pending';
CREATE INDEX dead ON fapilog.alerts (trail, outbox, came_at) WHERE status = 'dead';
CREATE INDEX delivered ON fapilog.alerts (trail, outbox, ended_at) WHERE status = 'delivered';

-- The attempts that have ended.
CREATE TABLE fapilog.attempts (
    alert bigint NOT NULL REFERENCES fapilog.alerts ON DELETE CASCADE,
    number integer NOT NULL,
    began_at timestamptz NOT NULL,
    took double precision,  -- seconds
    outcome text NOT NULL,
    reason text,
    PRIMARY KEY (alert, number)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
"""

_RIGHTS: Final = """
-- Roles belong to all databases of the server: they may be there already.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['fapilog_writer', 'fapilog_reader', 'fapilog_sender'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
END $$;
REVOKE ALL ON SCHEMA fapilog FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA fapilog FROM PUBLIC;
GRANT USAGE ON SCHEMA fapilog TO fapilog_writer, fapilog_reader, fapilog_sender;
GRANT SELECT ON ALL TABLES IN SCHEMA fapilog TO fapilog_writer, fapilog_reader;
GRANT INSERT ON fapilog.records, fapilog.heads, fapilog.alerts TO fapilog_writer;
GRANT UPDATE (sequence_number, checksum) ON fapilog.heads TO fapilog_writer;
GRANT SELECT ON fapilog.schema_version TO fapilog_sender;
GRANT SELECT, INSERT, UPDATE, DELETE ON fapilog.outboxes, fapilog.alerts, fapilog.attempts TO fapilog_sender;
"""

# A migration turns the version before it into the next one. Released migrations stay as they are.
_MIGRATIONS: Final = (_TRAILS + _OUTBOXES + _RIGHTS,)

VERSION: Final = len(_MIGRATIONS)
"""The version of the tables that this version of fapilog works with."""


def key_of(value: Any) -> Any:
    """
    Return the key of *value* in a column: the value itself, unless PostgreSQL can't index it.

    A text that is too long is its beginning and its hash, and so is one with a NUL, which no text of PostgreSQL has.
    """
    if not isinstance(value, str) or (len(value) <= _LONGEST and "\0" not in value):
        return value
    return f"{value[:_KEPT].replace(chr(0), '')}\u2026{sha256(value.encode()).hexdigest()}"


def keys_of(event: AuditEvent) -> tuple[Any, ...]:
    """Return the values of the columns for *event*."""
    values = values_of(event)
    # Checked all at once: most texts are short, and checking every one costs more than all the rest of an event.
    texts = [value for value in values if isinstance(value, str)]
    if max(map(len, texts), default=0) <= _LONGEST and "\0" not in "".join(texts):
        return values
    return tuple(map(key_of, values))


def schema_sql(after: int = 0) -> str:
    """
    Return the SQL that makes the tables, the triggers and the roles, or migrates them.

    It is one transaction, to be run once, in a database whose encoding is UTF8, by a role that may create schemas and
    roles; in a database of another encoding it fails. The role owns the tables then, and can switch the triggers off:
    it should not be the one of a service.

    Args:
        after: The version of the tables that are there; 0 if there are none.
    """
    steps = [
        f"-- Version {number}.\n{sql}TRUNCATE fapilog.schema_version;\n"
        f"INSERT INTO fapilog.schema_version VALUES ({number});\n"
        for number, sql in enumerate(_MIGRATIONS, 1)
        if number > after
    ]
    return "\n".join(["BEGIN;", *steps, "COMMIT;"]) + "\n"


@without_frames
def install_schema(dsn: str, *, timeout: float = 60.0) -> bool:
    """
    Make or migrate the tables, the triggers and the roles in a database; blocks.

    Args:
        dsn: The database, as libpq has it: ``postgresql://host/database`` or ``host=... dbname=...``, with a role that
            may create schemas and roles.
        timeout: Seconds to wait for the server, and for other transactions. The work itself may take longer: an index
            of many records does.

    Returns:
        Whether anything was to be done.

    Raises:
        ValueError: *dsn* is not one.
        AuditStorageError: It had no effect. The message names the database and the reason.
    """
    server = Server(dsn)
    problem = ""
    try:
        connection = server.connect(timeout)
        try:
            return _migrate(connection, server, timeout)
        finally:
            connection.close()
    except psycopg.Error as error:
        # Raised below, without an error behind it that may show personal data.
        problem = words(error)
    raise AuditStorageError(f"cannot make the tables in {server}: {problem}")


def _migrate(connection: Connection, server: Server, timeout: float) -> bool:
    with connection.transaction():
        # Of two that migrate at once, one waits for the other. The number is "faps".
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [0x66617073])
        found = installed_version(connection)
        if found > VERSION:
            raise AuditStorageError(f"{server}: its tables are of version {found}; this fapilog knows {VERSION}")
        if found < VERSION:
            connection.wait_for_locks(timeout)
            inner = schema_sql(found).removeprefix("BEGIN;\n").removesuffix("COMMIT;\n")
            connection.execute(inner.encode())
    return found < VERSION


def installed_version(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """Return the version of the tables that are there; 0 if there are none."""
    row = connection.execute("SELECT to_regclass('fapilog.schema_version')").fetchone()
    if row is None or row[0] is None:
        return 0
    version = connection.execute("SELECT version FROM fapilog.schema_version").fetchone()
    return 0 if version is None else int(str(version[0]))
