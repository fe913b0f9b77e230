"""The storage in PostgreSQL, beyond what every storage must do."""

import functools
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("psycopg")

import anyio
import psycopg
from psycopg.conninfo import conninfo_to_dict

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, ChainStatus
from fapilog.core._reading import intact
from fapilog.record.parties import Target
from fapilog.storage._rows import ranges
from fapilog.storage._rows.table import questions
from fapilog.storage.postgres import (
    PostgresStorage,
    _schema,
    _writing,
    connection,
    install_schema,
    schema_sql,
)
from fapilog.storage.postgres._reading import Reader
from fapilog.storage.postgres._schema import _MIGRATIONS, VERSION
from fapilog.storage.postgres.connection import Connection
from fapilog.storage.postgres.connection import Server as ServerAt
from fapilog.storage.protocol import EventFilter
from fapilog.tasks.loops import without_loop
from fapilog.testing import _storage, check_storage
from tests.doubles.cutting_proxy import CuttingProxy
from tests.doubles.postgres import Server, followed, server
from tests.doubles.storages import in_postgres, stored_at_once


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    """Run a server with the tables; it need not survive a power cut."""
    with server(fsync="off", deadlock_timeout="10ms") as started:
        install_schema(started.dsn())
        as_superuser(
            started,
            "CREATE ROLE service LOGIN IN ROLE fapilog_writer",
            "CREATE ROLE auditor LOGIN IN ROLE fapilog_reader",
            "CREATE ROLE stranger LOGIN",
        )
        yield started


@pytest.fixture
def trail(request: pytest.FixtureRequest) -> str:
    """Return the name of a trail of the test's own."""
    return str(request.node.name)


@pytest.fixture
def storage(database: Server, trail: str) -> Iterator[PostgresStorage]:
    """Return a storage for the trail, in the role of a service."""
    made = PostgresStorage(database.dsn(user="service"), trail)
    yield made
    without_loop(made.aclose())


def as_superuser(database: Server, *statements: str, trail: str = "") -> None:
    """Change the tables behind the back of the storage, with the triggers off."""
    with psycopg.connect(database.dsn()) as connection:
        for statement in ("SET session_replication_role = replica", *statements):
            connection.execute(statement.replace("TRAIL", f"trail = '{trail}'").encode())


def an_event(message: str = "m", **fields: Any) -> AuditEvent:
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message, **fields)


def append(storage: PostgresStorage, *messages: str) -> None:
    for message in messages:
        without_loop(storage.append(an_event(message, user_id=message)))


@pytest.mark.slow
@pytest.mark.real_time
async def test_it_keeps_the_contract(database: Server) -> None:
    """A `PostgresStorage` passes, in a role that can only append."""

    def damage(place: str) -> None:
        change = """UPDATE fapilog.records SET line = overlay(line PLACING 'x' FROM position('"3"' IN line) + 1)"""
        as_superuser(database, f"""{change} WHERE TRAIL AND position('"3"' IN line) > 0""", trail=place)

    make = functools.partial(in_postgres, database.dsn(user="service"))
    await check_storage(make, damage=damage, elsewhere=make)


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.parametrize("few", [1, 8])
async def test_times_are_found_wherever_a_clock_was_wrong(
    database: Server, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Questions are answered, whether the records of the wanted times are few, many, or far away from each other."""
    monkeypatch.setattr(ranges, "_FEW", few)
    monkeypatch.setattr(ranges, "_TOGETHER", 2)
    monkeypatch.setattr(_storage, "_CLAUSES", [each for each in _storage._CLAUSES if each[0] == "search"])
    await check_storage(lambda place: PostgresStorage(database.dsn(user="service"), place))


@pytest.mark.real_time
async def test_a_trail_in_postgresql(storage: PostgresStorage, database: Server, trail: str) -> None:
    """A trail keeps its events in the database, from tasks and synchronous code, and goes on in it."""
    for number in (1, 3):
        async with AuditTrail(storage=storage) as audit:
            await audit.log_event(AuditEventType.DATA_ACCESS, "one", user_id="alice")
            audit.sync.log_event(AuditEventType.DATA_ACCESS, "two", target="patient/42")
            assert [event.sequence_number for event in await audit.get_events(limit=2)] == [number + 1, number]
            assert (await audit.verify_chain_from_storage()).events_checked == number + 1
    assert len(await audit.get_events(target="patient/42")) == 2
    place = f"PostgreSQL {database.dsn().split()[0].removeprefix('host=')}:{database.port}/postgres"
    assert repr(audit) == f"<AuditTrail in <PostgresStorage {place}, trail {trail!r}>>"


CHANGES = (
    "UPDATE fapilog.records SET user_id = 'x' WHERE TRAIL",
    "DELETE FROM fapilog.records WHERE TRAIL",
    "TRUNCATE fapilog.records",
    "DELETE FROM fapilog.heads WHERE TRAIL",
    "UPDATE fapilog.heads SET sequence_number = 0 WHERE TRAIL",
    "UPDATE fapilog.heads SET checksum = 'x' WHERE TRAIL",
    "UPDATE fapilog.heads SET trail = 'x' WHERE TRAIL",
)


def test_the_page_can_be_followed(database: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The example in the docs prints what the page says."""
    output = followed("store-in-postgresql.md", database.dsn(user="service"))
    assert capsys.readouterr().out == output


@pytest.mark.parametrize(
    ("role", "more"),
    [
        # The owner of the tables.
        ("postgres", ()),
        ("service", ("ALTER TABLE fapilog.records DISABLE TRIGGER ALL", "DROP TABLE fapilog.records")),
        ("auditor", ("INSERT INTO fapilog.heads (trail) VALUES ('x')",)),
        ("stranger", ("SELECT * FROM fapilog.records",)),
    ],
)
def test_nobody_changes_what_is_stored(
    storage: PostgresStorage, database: Server, trail: str, role: str, more: tuple[str, ...]
) -> None:
    """No role that is not a superuser on purpose changes or deletes a record, or sets a head back."""
    append(storage, "a")
    with psycopg.connect(database.dsn(user=role), autocommit=True) as connection:
        for statement in (*CHANGES, *more):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.replace("TRAIL", f"trail = '{trail}'").encode())


def test_a_reader_reads_and_verifies(storage: PostgresStorage, database: Server, trail: str) -> None:
    """The role of a reader is enough to search and to verify, and not to append."""
    append(storage, "a", "b")
    reader = PostgresStorage(database.dsn(user="auditor"), trail)
    assert len(without_loop(reader.find(EventFilter(user_id="a"), 10))) == 1
    assert without_loop(reader.verify()).valid
    assert without_loop(reader.trouble()) == (
        "the role 'auditor' may not insert into fapilog.records: grant it fapilog_writer"
    )
    with pytest.raises(
        AuditStorageError, match=r"denied for table heads \(42501\); fapilog_reader may .*, fapilog_writer record"
    ):
        append(reader, "c")
    assert without_loop(storage.trouble()) is None
    unchanged = PostgresStorage(f"{database.dsn(user='service')} options='-c default_transaction_read_only=on'", trail)
    assert without_loop(unchanged.trouble()) == "the server takes no changes: default_transaction_read_only is on"
    without_loop(unchanged.aclose())
    without_loop(reader.aclose())


def time_is_over(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Have a link find its time over when it has looked at the clock so often: at first, and before it connects."""
    now = itertools.chain(itertools.repeat(0.0, after), itertools.repeat(math.inf))
    monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: next(now)))


SECRET = "not-shown"


class Panic(BaseException):
    """The panic of an extension module: no `Exception`."""


@pytest.mark.slow
def test_a_password_that_can_t_be_had(database: Server, trail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the function raises, or returns, that gives the password, the error names it, and shows nothing."""

    def panic() -> str:
        raise Panic(SECRET)

    functions: dict[str, Any] = {"Panic": panic, "ValueError": lambda: f"{SECRET}\udcff", "TypeError": SECRET.encode}
    for name, function in functions.items():
        storage = PostgresStorage(database.dsn(user="service"), trail, password=function)
        time_is_over(monkeypatch, after=2)
        with pytest.raises(AuditStorageError, match=rf"the DSN or the password can't be read \({name}\)$") as caught:
            append(storage, "a")
        assert SECRET not in str(caught.getrepr(showlocals=True))


def test_the_tables_are_made_once(database: Server) -> None:
    """Making the tables again does no harm, and the printed SQL makes the same tables."""
    assert install_schema(database.dsn()) is False
    assert schema_sql(VERSION) == "BEGIN;\nCOMMIT;\n"
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        for name, encoding in (("printed", "UTF8"), ("latin", "LATIN1")):
            connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0".encode())
    with psycopg.connect(database.dsn("printed"), autocommit=True) as connection:
        storage = PostgresStorage(database.dsn("printed"), "t")
        with pytest.raises(AuditStorageError, match=f"expected the tables of version {VERSION}; got none: run fapilog"):
            append(storage, "a")
        assert "run fapilog storage init" in (without_loop(storage.trouble()) or "")
        connection.execute(schema_sql().encode())
    assert install_schema(database.dsn("printed")) is False
    append(storage, "a")
    without_loop(storage.aclose())
    with psycopg.connect(database.dsn("printed"), autocommit=True) as connection:
        connection.execute("UPDATE fapilog.schema_version SET version = 7")
    with pytest.raises(AuditStorageError, match=f"its tables are of version 7; this fapilog knows {VERSION}"):
        install_schema(database.dsn("printed"))
    with pytest.raises(AuditStorageError, match=f"tables of version {VERSION}; got version 7: update fapilog$"):
        append(PostgresStorage(database.dsn("printed"), "t"), "a")
    with pytest.raises(AuditStorageError, match="expected a database whose encoding is UTF8; got LATIN1"):
        install_schema(database.dsn("latin"))
    with psycopg.connect(database.dsn("latin"), autocommit=True) as connection:
        with pytest.raises(psycopg.DatabaseError, match="expected a database whose encoding is UTF8; got LATIN1"):
            connection.execute(schema_sql().encode())
        connection.rollback()
        assert connection.execute("SELECT to_regclass('fapilog.records')").fetchone() == (None,)
    with pytest.raises(AuditStorageError, match=r"cannot make the tables in .*: permission denied for database"):
        install_schema(database.dsn("latin").replace("latin", "template1").replace("user=postgres", "user=service"))


def later(monkeypatch: pytest.MonkeyPatch, migration: str) -> None:
    """Let it be a later fapilog, with one more migration."""
    monkeypatch.setattr(_schema, "_MIGRATIONS", (*_MIGRATIONS, migration))
    for module in ("_schema", "_storage"):
        monkeypatch.setattr(f"fapilog.storage.postgres.{module}.VERSION", VERSION + 1)


def test_tables_of_an_earlier_version_are_migrated(database: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trail in tables of an earlier version goes on in those of a later one, and until then nothing is stored."""
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE earlier")
    install_schema(database.dsn("earlier"))
    storage = PostgresStorage(database.dsn("earlier"), "t")
    append(storage, "a")
    without_loop(storage.aclose())
    later(monkeypatch, "ALTER TABLE fapilog.records ADD COLUMN place text;\n")
    with pytest.raises(AuditStorageError, match=f"of version {VERSION + 1}; got version {VERSION}: run fapilog"):
        append(storage, "b")
    assert install_schema(database.dsn("earlier")) is True
    append(storage, "b")
    assert without_loop(storage.verify()).events_checked == 2
    without_loop(storage.aclose())


@pytest.mark.slow
def test_a_migration_may_take_its_time(database: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout is for the server, and for locks of others, and not for the work on a large table."""
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE large")
    install_schema(database.dsn("large"))
    later(monkeypatch, "LOCK TABLE fapilog.records; SELECT pg_sleep(2.5);\n")
    with psycopg.connect(database.dsn("large")) as reader:
        reader.execute("SELECT FROM fapilog.records")
        with pytest.raises(AuditStorageError, match=r"lock timeout \(55P03\)$"):
            install_schema(database.dsn("large"), timeout=2)
    assert install_schema(database.dsn("large"), timeout=2) is True


@pytest.mark.slow
def test_the_command_makes_the_tables(database: Server) -> None:
    """`fapilog storage init` makes the tables once, by an argument or by the variable."""
    typer_testing = pytest.importorskip("typer.testing")
    commands = pytest.importorskip("fapilog.cli.commands")
    with psycopg.connect(database.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE commanded")
    for words in ("made", "there"):
        done = typer_testing.CliRunner().invoke(commands.app, ["storage", "init", database.dsn("commanded")])
        assert (done.exit_code, done.output) == (0, f"the tables, triggers and roles are {words}\n")
    nothing = typer_testing.CliRunner().invoke(commands.app, ["storage", "init"])
    assert (nothing.exit_code, "expected the database" in nothing.output) == (2, True)


def test_an_id_that_is_there_is_refused(storage: PostgresStorage) -> None:
    """The second event of an id is not stored, and keeps no other of its group from being stored."""
    event = an_event()
    stored, refused = anyio.run(stored_at_once, storage, [event, an_event(), event, an_event()])
    assert stored == [1, 2, 3]
    words = f"cannot append to {storage}: a record has the id of this event already"
    assert refused == [words]
    assert anyio.run(stored_at_once, storage, [event]) == ([], [words])
    assert without_loop(storage.verify()).events_checked == 3


CHECKSUM = (
    "SELECT encode(substring(line from octet_length(line) - 65 for 64), 'escape')"
    " FROM fapilog.records WHERE TRAIL AND sequence_number = 2"
)
DAMAGE = {
    "a line": ("UPDATE fapilog.records SET line = overlay(line PLACING 'x' FROM 60) WHERE TRAIL", "altered", 1),
    "no record": ("UPDATE fapilog.records SET line = 'b' WHERE TRAIL AND sequence_number = 2", "not a record", 2),
    "a column": (
        "UPDATE fapilog.records SET user_id = NULL WHERE TRAIL AND sequence_number = 2",
        "its column user_id differs from",
        2,
    ),
    "a number": (
        "UPDATE fapilog.records SET sequence_number = 9 WHERE TRAIL AND sequence_number = 3",
        "in the row of record 9",
        3,
    ),
    "a gap": ("DELETE FROM fapilog.records WHERE TRAIL AND sequence_number = 2", "record 2 should be here", 2),
    "the end": ("DELETE FROM fapilog.records WHERE TRAIL AND sequence_number = 3", "record 3 is missing", 3),
    "all": ("DELETE FROM fapilog.records WHERE TRAIL", "record 1 is missing: the head of the trail is record 3", 1),
    "a head set back": (
        f"UPDATE fapilog.heads SET (sequence_number, checksum) = (2, ({CHECKSUM})) WHERE TRAIL",  # noqa: S608
        "the head was changed",
        3,
    ),
    "a checksum": ("UPDATE fapilog.heads SET checksum = 'x' WHERE TRAIL", "the head was changed", 3),
    "no head": ("DELETE FROM fapilog.heads WHERE TRAIL", "the head was changed", 3),
    "a row before all others": (
        (
            "INSERT INTO fapilog.records (trail, sequence_number, line)"
            " SELECT trail, (-1::bigint) << 63, '' FROM fapilog.heads WHERE TRAIL"
        ),
        "not a record",
        1,
    ),
    "an id that looks repeated": (
        "UPDATE fapilog.records SET repeated = 2 WHERE TRAIL AND sequence_number = 2",
        "its column repeated differs from",
        2,
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found(storage: PostgresStorage, database: Server, trail: str, what: str) -> None:
    """Whatever a superuser changes, the verification names the first record that is not as it was stored."""
    append(storage, "a", "b", "c")
    statement, says, number = DAMAGE[what]
    as_superuser(database, statement, trail=trail)
    result = without_loop(storage.verify())
    assert (result.valid, result.first_invalid_sequence) == (False, number)
    assert f"{storage}: " in (result.error_message or "")
    assert says in (result.error_message or "")


@pytest.mark.parametrize("what", ["the end", "all", "a head set back", "a checksum", "no head"])
@pytest.mark.parametrize("knows", [True, False])
def test_nothing_is_appended_behind_damage(
    storage: PostgresStorage, database: Server, trail: str, what: str, *, knows: bool
) -> None:
    """Where the newest record and the head do not belong together, nothing is stored, whether they are known or not."""
    append(storage, "a", "b", "c")
    if not knows:
        without_loop(storage.aclose())
    as_superuser(database, DAMAGE[what][0], trail=trail)
    with pytest.raises(AuditStorageError, match=r"; nothing is appended$"):
        append(storage, "d")


@pytest.mark.parametrize("text", ["\0", "a\0b", "x" * 5000, "\U0001f9d1" * 199, "\uffff"])
def test_whatever_an_id_is_it_is_found(storage: PostgresStorage, text: str) -> None:
    """Texts that PostgreSQL can't index, or can't store, are found by what they are, and not by their beginning."""
    without_loop(storage.append(an_event(event_id=text, user_id=text, target=Target(id=text))))
    without_loop(storage.append(an_event(event_id=text + "y", user_id=text + "y")))
    for asked in ({"user_id": text}, {"event_id": text}, {"target": Target(id=text)}, {"actor": text}):
        assert len(without_loop(storage.find(EventFilter(**asked), 10))) == 1
    assert without_loop(storage.append(an_event(event_id=text), once=True)) is None
    assert without_loop(storage.verify()).valid


@pytest.mark.parametrize(
    ("asked", "condition"),
    [
        (
            {"user_id": "a"},
            "((trail = 't'::text) AND ((sequence_number >> 20) = 0) AND (user_id = 'a'::text)",
        ),
        ({"request_id": "a"}, "(request_id = 'a'::text)"),
        ({"trace_id": "a"}, "(trace_id = 'a'::text)"),
        ({"session_id": "a", "outcome": "denied"}, "(session_id = 'a'::text)"),
        ({"client_ip": "a"}, "(client_ip = 'a'::text)"),
        ({"target": "patient/42"}, "(target_id = '42'::text)"),
        ({"event_id": "a"}, "(event_id = 'a'::text)"),
        ({"event_type": AuditEventType.ADMIN_ACTION}, "(event_type = 'admin_action'::text)"),
    ],
)
def test_questions_take_an_index(many: Server, asked: dict[str, Any], condition: str) -> None:
    """A question goes the shortest way, and has its answers in order without sorting them."""
    question = questions(EventFilter(**asked), Reader.dialect)[0]
    where = f"trail = 't' AND {question.where}"
    query = f"EXPLAIN SELECT line FROM fapilog.records WHERE {where} ORDER BY sequence_number DESC LIMIT 9"  # noqa: S608
    with psycopg.connect(many.dsn()) as connection, psycopg.ClientCursor(connection) as cursor:
        if "event_id" not in asked:
            cursor.execute("SET enable_sort = off; SET enable_bitmapscan = off; SET enable_seqscan = off")
        plan = "\n".join(row[0] for row in cursor.execute(query.encode(), question.within(0, 9000)))
    index = next(line for line in plan.splitlines() if "Index Cond" in line)
    assert condition in index
    assert "event_id" in asked or "Sort" not in plan


def test_the_sql_of_the_docs_takes_the_index(many: Server) -> None:
    """The query that the docs show looks into each million of the trail, by its index, and finds what is there."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "store-in-postgresql.md").read_text(encoding="utf-8")
    query = page.split("```sql\n")[1].split("```")[0].replace("'clinic'", "'t'").replace("'alice'", "'7'")
    with psycopg.connect(many.dsn()) as connection:
        connection.execute("INSERT INTO fapilog.heads VALUES ('t', 3000, '')")
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {query}".encode()))
        assert "by_user_id" in plan
        assert any("(sequence_number >> 20) = ANY" in line for line in plan.splitlines() if "Index Cond" in line), plan
        assert [row[0] for row in connection.execute(query.encode())] == [31, 30, 29, 28]
        connection.rollback()


@pytest.fixture(scope="module")
def many(database: Server) -> Server:
    """Fill a trail with rows of many users."""
    columns = "user_id, session_id, request_id, trace_id, client_ip, target_id, event_id"
    as_superuser(
        database,
        f"INSERT INTO fapilog.records (trail, sequence_number, event_type, {columns}, line)"  # noqa: S608
        f" SELECT 't', n, 'kind ' || n % 50, {', '.join(['n / 4'] * 6)}, n, '' FROM generate_series(1, 3000) AS n",
        "ANALYZE fapilog.records",
    )
    return database


def test_many_trails_are_apart(database: Server, trail: str) -> None:
    """Trails in one database count for themselves, and may have events of one id."""
    event = an_event()
    for name in (f"{trail} 1", f"{trail} '2' %s"):
        storage = PostgresStorage(database.dsn(), name)
        assert without_loop(storage.append(event)).sequence_number == 1
        assert without_loop(storage.verify()).events_checked == 1
        without_loop(storage.aclose())


def test_a_forked_child_goes_on(storage: PostgresStorage) -> None:
    """Parent and child append to one chain, whoever comes first, and neither ends the other's connections."""
    append(storage, "before")
    without_loop(storage.find(EventFilter(), 1))
    child = os.fork()
    if not child:
        code = 1
        try:
            append(storage, *"abc")
            without_loop(storage.aclose())
            code = 0
        finally:
            os._exit(code)
    append(storage, *"def")
    assert os.waitpid(child, 0)[1] == 0
    append(storage, "after")
    assert without_loop(storage.verify()).events_checked == 8


def test_a_call_within_a_call_is_refused(storage: PostgresStorage) -> None:
    """A signal handler that asks or closes in the midst of a call of its thread does not hang."""
    append(storage, "a")

    def handler(_: object) -> None:
        for call in (storage.find(EventFilter(), 1), storage.aclose()):
            with pytest.raises(AuditStorageError, match="called from within a call of the same thread"):
                without_loop(call)

    storage._reads.call("be interrupted", handler, 60)
    assert len(without_loop(storage.read(0, 10))) == 1


async def test_more_than_a_transaction_takes(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many bytes wait at once, a transaction takes a part of them, and all are stored, in their order."""
    monkeypatch.setattr(_writing, "_MOST_BYTES", 50_000)
    sizes: list[int] = []
    copied = _writing.Batch._copy

    def copy(self: _writing.Batch, connection: Connection, rows: list[tuple[Any, ...]]) -> None:
        sizes.append(len(rows))
        copied(self, connection, rows)

    monkeypatch.setattr(_writing.Batch, "_copy", copy)
    async with anyio.create_task_group() as tasks:
        for number in range(25):
            tasks.start_soon(storage.append, an_event(str(number), metadata={"body": "x" * 20_000}))
    assert sum(sizes) == 25
    assert max(sizes) == 3
    assert (await storage.verify()).events_checked == 25


def test_arguments_are_checked() -> None:
    """What can't be used is named, and no password is shown by any error or text."""
    for dsn in ("postgresql://u:hunter2@h:x/d=%", "password hunter2", "host=h pass word=hunter2"):
        with pytest.raises(ValueError, match=r"^dsn: expected postgresql://") as caught:
            PostgresStorage(dsn, "t")
        assert "hunter2" not in str(caught.value)
        assert caught.value.__context__ is None
    for secret in ("p@hunter2", "p/hunter2", "p@@/hunter2", "p/hunter2@x"):
        for user in ("u", ""):
            with pytest.raises(ValueError, match=r"^dsn: expected %40 for an @ and %2F for a / in a user") as caught:
                PostgresStorage(f"postgresql://{user}:{secret}@h/d", "t")
            assert "hunter2" not in str(caught.value)
    for dsn, password in (("password=hunter2\udcff", None), ("password=hunter2\0", None), ("", "hunter2\udcff")):
        with pytest.raises(ValueError, match=r"^(dsn|password): expected UTF-8 without a NUL; got something") as caught:
            PostgresStorage(dsn, "t", password=password)
        assert caught.value.__context__ is None
    with pytest.raises(ValueError, match=r"^dsn: expected a whole number as connect_timeout; got something else$"):
        PostgresStorage("host=h connect_timeout=hunter2", "t")
    for trail in ("", "x" * 201, "\0", "\ud800", "a\nb"):
        with pytest.raises(ValueError, match=r"^trail: expected 1 to 200 characters that can be printed; got '"):
            PostgresStorage("", trail)
    with pytest.raises(TypeError, match=r"^trail: expected text; got an? int"):
        PostgresStorage("", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^dsn: expected a text"):
        PostgresStorage(None, "t")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^timeout: "):
        PostgresStorage("", "t", timeout=0)
    storage = PostgresStorage("postgresql://u:hunter2@127.0.0.1:1/d", "t", timeout=0.01)
    assert "hunter2" not in repr(storage) + repr(storage.server) + str(storage.server)
    with pytest.raises(
        AuditStorageError, match=r"^cannot append to trail 't' in PostgreSQL 127.0.0.1:1/d: "
    ) as refused:
        append(storage, "a")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("dsn", "timeout", "expected"),
    [
        ("host=a", 10, "10"),
        ("host=a", 0.1, "2"),
        ("host=a", math.inf, "2147484"),
        ("host=a,b,c", 10, "4"),
        ("host=a,b,c", 1, "2"),
        ("hostaddr=127.0.0.1,127.0.0.2", 10, "5"),
        ("host=a connect_timeout=3", 10, "3"),
        ("host=a connect_timeout=30", 10, "10"),
        ("host=a connect_timeout=-1", 10, "10"),
    ],
)
def test_each_host_has_its_share_of_the_time(
    dsn: str, timeout: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is gone without a word leaves time for the next one."""
    asked: list[str] = []

    def connect(conninfo: str, **_: Any) -> Any:
        asked.append(str(conninfo_to_dict(conninfo)["connect_timeout"]))
        raise psycopg.OperationalError

    monkeypatch.setattr(Connection, "connect", connect)
    with pytest.raises(psycopg.OperationalError):
        ServerAt(dsn).connect(timeout)
    assert asked == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("forwards", [True, False])
def test_a_cut_at_any_message_stores_once(database: Server, trail: str, *, forwards: bool) -> None:
    """Wherever the connection is cut while an event is stored, it is there once, and its place is returned."""
    proxy = CuttingProxy(database.port)
    dsn = f"{database.dsn(port=proxy.port)} sslmode=disable gssencmode=disable"
    storage = PostgresStorage(dsn, trail)
    events = [an_event("first")]
    seals = [without_loop(storage.append(events[0]))]
    was_cut = True
    while was_cut:
        proxy.arm(len(events), forwards=forwards)
        events.append(an_event(str(len(events))))
        seals.append(without_loop(storage.append(events[-1])))
        was_cut = proxy.disarm()
    assert len(events) > 15
    found = list(intact(without_loop(storage.read(0, 100))))
    assert [event.event_id for event in found] == [event.event_id for event in events]
    assert [event.checksum for event in found] == [seal.checksum for seal in seals]
    assert without_loop(storage.verify()).valid
    without_loop(storage.aclose())
    proxy.close()


def test_nothing_outlives_a_transaction(database: Server, trail: str) -> None:
    """Nothing is prepared by name or set for the session, so that PgBouncer may give each transaction another one."""
    proxy = CuttingProxy(database.port)
    storage = PostgresStorage(f"{database.dsn(port=proxy.port)} sslmode=disable gssencmode=disable", trail)
    for number in range(12):
        without_loop(storage.append(an_event(event_id=str(number)), once=True))
        without_loop(storage.find(EventFilter(user_id="a"), 1))
    without_loop(storage.verify())
    without_loop(storage.aclose())
    proxy.close()
    assert len(proxy.sent) > 100
    # The name of a statement that is parsed comes first, and ends in a NUL.
    assert not [message for message in proxy.sent if message[:1] == b"P" and message[5:6] != b"\0"]
    texts = b"".join(message for message in proxy.sent if message[:1] in b"PQ")
    assert not re.search(
        rb"(?i)\b(SET (?!LOCAL)|LISTEN|PREPARE|DECLARE|pg_advisory_lock|TEMP)", re.sub(rb"UPDATE \S+ SET", b"", texts)
    )
    assert texts.count(b"set_config(") == texts.count(b", true)")


def test_a_server_that_does_not_answer_is_given_up(
    storage: PostgresStorage, trail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs with the connection open is given up after the time-out, and used again when it answers."""
    append(storage, "a")
    pid = storage._writer.call("ask", lambda connection: connection.info.backend_pid, 60)
    os.kill(pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "timeout", 0.2)
            with pytest.raises(AuditStorageError, match=r"^cannot append .*: no answer in time$"):
                append(storage, "b")
    finally:
        os.kill(pid, signal.SIGCONT)
    append(storage, "c")
    assert [event.message for event in intact(without_loop(storage.read(0, 9)))] == ["a", "c"]


def test_who_has_waited_behind_others_in_vain_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose time is over when its turn comes, and that has no connection, asks for none."""
    link = PostgresStorage("host=127.0.0.1 port=1", "t").link()
    monkeypatch.setattr(ServerAt, "connect", lambda *_: pytest.fail("it asks for a connection"))
    time_is_over(monkeypatch, after=1)
    with pytest.raises(AuditStorageError, match=r"^cannot look in PostgreSQL 127.0.0.1:1/\S+: no answer in time$"):
        link.call("look", lambda _: None, 10)


def test_the_reason_is_told_to_all_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose time is over says why the one before it failed, and not only that there was no answer."""
    link = PostgresStorage("host=127.0.0.1 port=1", "t").link()

    def refuse(*_: object) -> Connection:
        raise psycopg.OperationalError("password authentication failed")

    monkeypatch.setattr(ServerAt, "connect", refuse)
    for looks in (2, 1):
        time_is_over(monkeypatch, after=looks)
        with pytest.raises(AuditStorageError, match=r"^cannot look in .*: password authentication failed$"):
            link.call("look", lambda _: None, 10)


def test_a_wait_is_given_up_by_another_thread(database: Server) -> None:
    """A thread that waits for the server, with no limit, ends when another thread sets one."""
    connection = ServerAt(database.dsn()).connect(60)
    connection.give_up_at(math.inf)
    errors: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(psycopg.OperationalError, match="no answer in time") as raised:
            connection.execute("SELECT pg_sleep(600)")
        errors.append(raised.value)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    with psycopg.connect(database.dsn(), autocommit=True) as watch:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        while watch.execute(waits).fetchone() != (1,):
            time.sleep(0.01)
    connection.give_up_at(0.0)
    thread.join(60)
    assert errors
    connection.close()


def test_a_commit_that_nobody_answers_may_be_stored(storage: PostgresStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the answer to a commit is lost and the server does not come back, the error says that it may be stored."""
    append(storage, "a")
    original = psycopg.Connection.execute

    def lose(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, query, *args, **kwargs)
        if b"COMMIT" in (query.as_bytes(None) if hasattr(query, "as_bytes") else b""):
            self.close()
            monkeypatch.setattr(ServerAt, "connect", refuse)
            raise psycopg.OperationalError("the answer is lost")
        return result

    def refuse(*_: object) -> Connection:
        time_is_over(monkeypatch, after=0)
        raise psycopg.OperationalError("connection refused")

    monkeypatch.setattr(psycopg.Connection, "execute", lose)
    with pytest.raises(AuditStorageError, match=r"a commit was lost: the event may be stored$"):
        append(storage, "b")


def test_another_transaction_at_the_head_is_waited_for(
    storage: PostgresStorage, database: Server, trail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds the head for longer than the time-out is named, and the next event is stored when it is free."""
    append(storage, "a")
    monkeypatch.setattr(storage, "timeout", 0.1)
    with psycopg.connect(database.dsn()) as other:
        other.execute("SELECT 1 FROM fapilog.heads WHERE trail = %s FOR UPDATE", [trail])
        with pytest.raises(AuditStorageError, match=r": (canceling .* lock timeout \(55P03\)|no answer in time)$"):
            append(storage, "b")
    monkeypatch.setattr(storage, "timeout", 10)
    append(storage, "b")
    assert without_loop(storage.verify()).events_checked == 2


def test_a_transaction_that_took_too_long_is_made_again(storage: PostgresStorage, database: Server, trail: str) -> None:
    """Where the server ends a transaction that waits for another one, of whatever limit, the event is stored later."""
    for number, code in enumerate(("25P03", "25P04", "55P03", "57014"), 1):
        raises = f"IF nextval('fapilog.tries') = {number} THEN RAISE EXCEPTION USING ERRCODE = '{code}'; END IF"
        as_superuser(
            database,
            "CREATE SEQUENCE IF NOT EXISTS fapilog.tries",
            f"SELECT setval('fapilog.tries', {number}, false)",
            "GRANT USAGE ON fapilog.tries TO fapilog_writer",
            "CREATE OR REPLACE FUNCTION fapilog.take_too_long() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN {raises}; RETURN NEW; END $$",
            "CREATE OR REPLACE TRIGGER takes_too_long BEFORE INSERT ON fapilog.records FOR EACH ROW"
            f" WHEN (NEW.trail = '{trail}') EXECUTE FUNCTION fapilog.take_too_long()",
        )
        append(storage, code)
    assert [event.message for event in intact(without_loop(storage.read(0, 9)))] == ["25P03", "25P04", "55P03", "57014"]


def test_a_deadlock_is_tried_again(storage: PostgresStorage, database: Server, trail: str) -> None:
    """Where PostgreSQL ends a deadlock by rolling back our transaction, it is made again, and stores the event once."""
    append(storage, "a")
    with psycopg.connect(database.dsn()) as other:
        other.execute("SET deadlock_timeout = '1h'")
        other.execute("INSERT INTO fapilog.records (trail, sequence_number, line) VALUES (%s, 2, '')", [trail])
        thread = threading.Thread(target=append, args=[storage, "b"])
        thread.start()
        with psycopg.connect(database.dsn(), autocommit=True) as watch:
            waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'"
            while watch.execute(waits).fetchone() != (1,):
                time.sleep(0.01)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute("SELECT 1 FROM fapilog.heads WHERE trail = %s FOR UPDATE NOWAIT", [trail])
        other.rollback()
        thread.join()
    assert without_loop(storage.verify()).events_checked == 2


@pytest.mark.slow
def test_a_writer_that_is_stopped_holds_nobody_up(database: Server, trail: str) -> None:
    """A process that stands still with the head in its hands loses it to another one, and stores its event later."""
    program = [sys.executable, "-m", "tests.programs.stopped_postgres", database.dsn(), trail]
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    storage = PostgresStorage(database.dsn(), trail)
    with subprocess.Popen(program, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has the head\n"
        append(storage, "other")
        assert process.communicate("\n", timeout=60)[0] == "stored 2\n"
    assert [event.message for event in intact(without_loop(storage.read(0, 9)))] == ["other", "stopped"]
    without_loop(storage.aclose())


@pytest.mark.slow
def test_the_server_comes_back(database: Server, trail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the server is away an event is refused within the time-out; one that waits is stored when it is back."""
    storage = PostgresStorage(database.dsn(), trail, timeout=60)
    append(storage, "a")
    database.kill()
    with monkeypatch.context() as patch:
        patch.setattr(storage, "timeout", 1.0)
        patch.setattr(storage._reader, "_timeout", 1.0)
        with pytest.raises(AuditStorageError, match=r"^cannot append to trail .* in PostgreSQL /tmp/.*: connection"):
            append(storage, "b")
        result = without_loop(storage.verify())
        assert (result.valid, result.status) == (False, ChainStatus.UNREADABLE)
        assert "PostgreSQL /tmp/" in (without_loop(storage.trouble()) or "")
    thread = threading.Thread(target=append, args=[storage, "c"])
    thread.start()
    database.start()
    thread.join()
    assert [event.message for event in intact(without_loop(storage.read(0, 9)))] == ["a", "c"]
    without_loop(storage.aclose())
