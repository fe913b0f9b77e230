"""The storages in the rows of a database, SQLite's and PostgreSQL's: what is asked of both in the same way."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail
from fapilog.core._reading import intact
from fapilog.record.damage import DamagedRecord
from fapilog.record.parties import Actor, Target
from fapilog.storage._rows import reader
from fapilog.storage._rows.storage import RowStorage
from fapilog.storage.protocol import EventFilter
from fapilog.storage.sqlite import SQLiteStorage
from fapilog.tasks.loops import without_loop
from tests.doubles.postgres import Server


class Rows(NamedTuple):
    """
    A trail in rows.

    Attributes:
        storage: Its storage.
        name: The name that its holes have.
        change: Executes statements behind the back of the storage: RECORDS is its table, OURS the condition for its
            rows there, and BYTES the type of its lines.
    """

    storage: RowStorage
    name: str
    change: Callable[..., None]

    def append(self, *messages: str, **fields: Any) -> None:
        """Store an event for each of *messages*, of a user of that name unless *fields* have another."""
        for message in messages:
            event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message, **{"user_id": message, **fields})
            without_loop(self.storage.append(event))


@pytest.fixture(params=["sqlite", "postgres"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rows]:
    """Return an empty trail."""
    made = in_sqlite(tmp_path) if request.param == "sqlite" else in_postgres(request)
    yield made
    without_loop(made.storage.aclose())


def in_sqlite(directory: Path) -> Rows:
    def change(*statements: str) -> None:
        with contextlib.closing(sqlite3.connect(directory / "audit.db")) as connection, connection:
            for each in statements:
                connection.execute(each.replace("RECORDS", "records").replace("OURS", "true").replace("BYTES", "blob"))

    return Rows(SQLiteStorage(directory / "audit.db", durability="write"), "audit.db", change)


def in_postgres(request: pytest.FixtureRequest) -> Rows:
    psycopg = pytest.importorskip("psycopg")
    # Behind that, since it needs the library.
    from fapilog.storage.postgres import PostgresStorage  # noqa: PLC0415

    database: Server = request.getfixturevalue("database")
    trail: str = request.getfixturevalue("name")

    def change(*statements: str) -> None:
        with psycopg.connect(database.dsn()) as connection:
            connection.execute("SET session_replication_role = replica")  # the triggers are off
            for each in statements:
                ours = each.replace("RECORDS", "fapilog.records").replace("OURS", f"trail = '{trail}'")
                connection.execute(ours.replace("BYTES", "bytea"))

    return Rows(PostgresStorage(database.dsn(user="service"), trail), f"trail {trail}", change)


def test_a_row_that_is_no_record_hides_no_other(rows: Rows) -> None:
    """What can't be read stands in its place as a hole, several rows in a row as one, and all others are read."""
    rows.append("alice", "bob", "carol", "dave")
    rows.change(
        "UPDATE RECORDS SET line = CAST('{}' AS BYTES) WHERE OURS AND sequence_number = 2",
        # In SQLite, a text.
        "UPDATE RECORDS SET line = '{}' WHERE OURS AND sequence_number = 3",
    )
    storage = rows.storage
    assert [type(item) for item in without_loop(storage.find(EventFilter(user_id="alice"), 10))] == [AuditEvent]
    found = without_loop(storage.find(EventFilter(), 10))
    assert [type(item) for item in found] == [AuditEvent, DamagedRecord, AuditEvent]
    hole = found[1]
    assert isinstance(hole, DamagedRecord)
    assert (hole.file, hole.offset, hole.lines) == (rows.name, 2, 2)
    assert without_loop(storage.read(0, 10)) == found[::-1]
    assert len(without_loop(storage.read_lines(0, 10))) == 2


@pytest.mark.parametrize("page", [1, 2, 10])
def test_rows_that_are_missing_or_changed_places_are_holes(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    """A deleted row is a hole, in either order and however the pages fall, and so is the record of another row."""
    monkeypatch.setattr("fapilog.core._reading._PAGE", page)
    rows.append(*"abcdefg")
    rows.change(
        "DELETE FROM RECORDS WHERE OURS AND sequence_number IN (1, 2, 5)",
        "UPDATE RECORDS SET sequence_number = -7 WHERE OURS AND sequence_number = 7",
        "UPDATE RECORDS SET sequence_number = 7 WHERE OURS AND sequence_number = 6",
        "UPDATE RECORDS SET sequence_number = 6 WHERE OURS AND sequence_number = -7",
    )
    reading = AuditTrail(storage=rows.storage)
    for oldest_first in (True, False):
        found = list(reading.sync.events(oldest_first=oldest_first, on_damage="yield"))
        events = [item.message for item in found if isinstance(item, AuditEvent)]
        assert events == list("cdgf")[:: 1 if oldest_first else -1]
        holes = [item.problem for item in found if isinstance(item, DamagedRecord)]
        assert sorted(holes) == [
            "record 5 is missing in front of record 6",
            "record 6 is in the row of record 7",
            "record 7 is in the row of record 6",
            "records 1 to 2 are missing in front of record 3",
        ]


@pytest.mark.parametrize("oldest_first", [True, False])
def test_a_hole_among_newer_records_is_not_asked_for(rows: Rows, *, oldest_first: bool) -> None:
    """A question for records before another one does not meet what is missing behind that."""
    rows.append(*"abcde")
    rows.change("DELETE FROM RECORDS WHERE OURS AND sequence_number = 4")
    found = AuditTrail(storage=rows.storage).sync.events(before=3, oldest_first=oldest_first, on_damage="raise")
    assert sorted(event.message for event in found) == ["a", "b"]


def test_long_records_are_read_page_by_page(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the records are, a page has few bytes, and every record is found, read and verified."""
    rows.append(*(f"{number} {'x' * 300}" for number in range(20)))
    monkeypatch.setattr(reader, "PAGE_BYTES", 1500)
    monkeypatch.setattr(reader, "PAGE", 3)
    storage = rows.storage
    assert [event.message[:2].strip() for event in intact(without_loop(storage.read(5, 7)))] == list(
        map(str, range(5, 12))
    )
    found = without_loop(storage.find(EventFilter(message="x"), 100))
    assert [event.sequence_number for event in intact(found)] == list(range(20, 0, -1))
    told: list[int] = []
    assert without_loop(storage.verify(told.append)).events_checked == 20
    assert told[-1] == 20
    with pytest.raises(AuditStorageError, match="an event of at most 1048576 bytes can be stored"):
        rows.append("x" * (1 << 20))


def test_an_actor_is_found_in_each_part(rows: Rows) -> None:
    """Who acted is found as the user, as the actor, and as the one on whose behalf something was done, once each."""
    for actor in (None, Actor(id="alice"), Actor(id="cron", on_behalf_of="alice"), Actor(id="bob")):
        rows.append("m", actor=actor, user_id=None if actor else "alice", target=Target(id="4"))
    rows.append("m", actor=Actor(id="alice", on_behalf_of="alice"), user_id="alice")
    storage = rows.storage
    numbers = [event.sequence_number for event in intact(without_loop(storage.find(EventFilter(actor="alice"), 10)))]
    assert numbers == [5, 3, 2, 1]
    assert len(without_loop(storage.find(EventFilter(actor="alice"), 2))) == 2
    assert len(without_loop(storage.find(EventFilter(actor="alice", user_id="alice"), 9))) == 2
