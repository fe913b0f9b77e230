"""
Alerts in the database of a trail: put in by the transaction that stores the record, and announced to the senders.

The outbox in `fapilog.delivery.outbox.postgres` sends them; this module has only the part of a storage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final

import psycopg

from ...record.errors import AuditStorageError
from ...record.formats import encoded
from ...record.options import require_text
from ...record.values import text
from ..protocol import KeptAlert
from .connection import Connection

__all__ = ["CHANNEL", "notify", "put_alerts", "require_name", "told"]

CHANNEL: Final = "fapilog_alerts"
"""The channel that notifies senders of new work; the payload is the name of the trail."""

_LONGEST_NAME: Final = 200

# The events in binary: as texts, psycopg would escape them for a server with standard_conforming_strings off, twice.
_PUT: Final = """\
INSERT INTO fapilog.alerts (trail, outbox, sequence_number, event_id, event_type, severity, channel, event)
SELECT %s, * FROM unnest(%s::text[], %s::int8[], %s::text[], %s::text[], %s::text[], %s::text[], %b::bytea[])
ON CONFLICT (trail, event_id, outbox, sequence_number) DO NOTHING
"""


def put_alerts(connection: Connection, trail: str, alerts: Sequence[KeptAlert]) -> int:
    """
    Put *alerts* into their outboxes, in the transaction of *connection*; return how many were not there yet.

    Raises:
        AuditStorageError: The database gives them numbers that other alerts have.
    """
    if not alerts:
        return 0
    rows = [
        (
            alert.outbox,
            alert.event.sequence_number or 0,
            told(alert.event.event_id),
            told(getattr(alert.event.event_type, "value", alert.event.event_type)),
            told(alert.severity),
            None if alert.channel is None else told(alert.channel),
            encoded(alert.event),
        )
        for alert in alerts
    ]
    with contextlib.suppress(psycopg.errors.UniqueViolation):
        return connection.execute(_PUT, (trail, *map(list, zip(*rows, strict=True)))).rowcount
    # Logical replication copies the rows, and not the sequence of their numbers:
    # https://www.postgresql.org/docs/current/logical-replication-restrictions.html
    raise AuditStorageError("the sequence of fapilog.alerts.id is behind its rows: set it to the greatest id")


def told(value: object) -> str:
    """Return *value* as text that PostgreSQL can keep: without the NUL, which none of its texts has."""
    return text(value).replace("\0", "\ufffd")


def notify(connection: Connection, trail: str) -> None:
    """
    Notify the senders of *trail* of new work; ignore a failure, as they also look by themselves.

    Not in the transaction that stores: a commit with a notification waits for all such commits of the database.
    https://www.postgresql.org/docs/current/sql-notify.html
    """
    with contextlib.suppress(psycopg.Error):
        connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, trail))


def require_name(option: str, name: object) -> str:
    """
    Return *name* if a trail, or an outbox of one, can have it.

    Raises:
        TypeError: It is no text; the message begins with *option*.
        ValueError: It has no characters, more than 200, or one that can't be printed, which PostgreSQL may not have.
    """
    given = require_text(option, name)
    if not (0 < len(given) <= _LONGEST_NAME and given.isprintable()):
        got = repr(given[: _LONGEST_NAME + 1])
        raise ValueError(f"{option}: expected 1 to {_LONGEST_NAME} characters that can be printed; got {got}")
    return given
