"""
Processes that send the alerts of one outbox in PostgreSQL, beside processes that only claim the same rows.

A process of either kind: ``python -m benchmarks.outboxfleet send|claim BACKEND DSN TRAIL``. It begins when it reads a
line, and prints when it began and ended, and the ids of its alerts, as JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from time import perf_counter
from typing import Any, Final

import anyio
import psycopg

from fapilog.core.audit import AuditEvent
from fapilog.delivery.outbox.postgres import PostgresOutbox
from fapilog.storage.postgres import PostgresStorage, install_schema
from fapilog.storage.postgres.alerts import put_alerts
from fapilog.storage.postgres.connection import Server
from fapilog.storage.protocol import KeptAlert
from tests.doubles.postgres import server

from .providing import an_event_each

__all__ = ["claimed", "sent"]

_TRAILS: Final = count()
# As many as a sender claims at once.
_CLAIMED: Final = 128
_CLAIM: Final = """\
UPDATE fapilog.alerts SET lease = 'x', due_at = now() + interval '15 s' FROM (
    SELECT id FROM fapilog.alerts WHERE trail = %s AND outbox = 'alerts' AND status = 'pending' AND due_at <= now()
    ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
) AS due WHERE alerts.id = due.id RETURNING alerts.id, event_id
"""
_END: Final = "UPDATE fapilog.alerts SET status = 'delivered', event = NULL, lease = NULL WHERE id = ANY(%s)"


def sent(backend: str, _directory: str, *, processes: int, alerts: int) -> Iterator[float]:
    """Yield the alerts a second that processes send to a target that takes each at once, each alert by one of them."""
    yield from _measured("send", backend, processes, alerts)


def claimed(backend: str, _directory: str, *, processes: int, alerts: int) -> Iterator[float]:
    """Yield the rows a second of processes that do no more than claim them, and note that they are delivered."""
    yield from _measured("claim", backend, processes, alerts)


def _measured(what: str, backend: str, processes: int, alerts: int) -> Iterator[float]:
    with server() as started:
        install_schema(started.dsn())
        while True:
            trail = f"t{next(_TRAILS)}"
            _fill(started.dsn(), trail, alerts)
            command = [sys.executable, "-m", "benchmarks.outboxfleet", what, backend, started.dsn(), trail]
            workers = [
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(processes)
            ]
            for each in workers:
                assert each.stdout is not None
                each.stdout.readline()
            for each in workers:
                assert each.stdin is not None
                each.stdin.write("\n")
                each.stdin.flush()
            found = [json.loads(each.communicate()[0]) for each in workers]
            ids = [event_id for each in found for event_id in each["ids"]]
            assert len(ids) == len(set(ids)) == alerts, "an alert was sent twice, or not at all"
            took: float = max(each["ended"] for each in found) - min(each["began"] for each in found)
            yield alerts / took


def _fill(dsn: str, trail: str, alerts: int) -> None:
    connection = Server(dsn).connect(60)
    for first in range(1, alerts + 1, 1000):
        events = an_event_each(min(1000, alerts + 1 - first), first=first)
        put_alerts(connection, trail, [KeptAlert("alerts", "security", None, event) for event in events])
    connection.close()


class _Taking:
    """Takes each alert at once."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    async def send_alert(self, event: AuditEvent, **_: str | None) -> None:
        self.ids.append(event.event_id)


async def _send(dsn: str, trail: str) -> dict[str, Any]:
    target = _Taking()
    outbox = PostgresOutbox(target, PostgresStorage(dsn, trail, timeout=60), stop_timeout=3600)
    await outbox.pending(1)
    _wait()
    began = perf_counter()
    async with outbox:
        pass  # leaving sends what is due
    return {"began": began, "ended": perf_counter(), "ids": target.ids}


def _claim(dsn: str, trail: str) -> dict[str, Any]:
    ids: list[str] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        _wait()
        began = perf_counter()
        while rows := connection.execute(_CLAIM, [trail, _CLAIMED]).fetchall():
            ids += [event_id for _, event_id in rows]
            connection.execute(_END, [[id_ for id_, _ in rows]])
        return {"began": began, "ended": perf_counter(), "ids": ids}


def _wait() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def _main(what: str, backend: str, dsn: str, trail: str) -> None:
    print(json.dumps(anyio.run(_send, dsn, trail, backend=backend) if what == "send" else _claim(dsn, trail)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
