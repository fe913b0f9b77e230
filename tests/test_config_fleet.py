"""The configurations of a fleet: a trail in PostgreSQL with its outbox there, and a machine with a replica there."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")
pytest.importorskip("rich")
typer_testing = pytest.importorskip("typer.testing")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx2")

import psycopg  # noqa: E402  an extra

from fapilog import AuditEventType, AuditStorageError, AuditTrail, SQLiteStorage  # noqa: E402
from fapilog.cli.commands import app  # noqa: E402
from fapilog.config import ConfigError, options_from_config, options_from_env  # noqa: E402
from fapilog.delivery.outbox.deposit import PostgresDeposit  # noqa: E402
from fapilog.delivery.outbox.postgres import PostgresOutbox  # noqa: E402
from fapilog.storage.postgres import PostgresStorage  # noqa: E402
from fapilog.storage.protocol import head_of  # noqa: E402
from fapilog.tasks.loops import without_loop  # noqa: E402
from fapilog.testing import RecordingDispatcher  # noqa: E402
from tests.doubles.configurations import SECRET, check_problems, problems_of  # noqa: E402
from tests.doubles.postgres import Server  # noqa: E402

pytestmark = pytest.mark.real_time

POSTGRES = {"type": "postgres", "dsn": "postgresql://clinic@db.example/audit", "trail": "clinic"}
OUTBOX = {"type": "postgres_outbox", "inner": {"type": "console"}}


@pytest.fixture(autouse=True)
def _empty_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def check_config(*lines: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run `fapilog check-config` on a file with these lines."""
    Path("fleet.toml").write_text("\n".join(["[tool.fapilog]", *lines]))
    done = typer_testing.CliRunner().invoke(app, ["check-config", "fleet.toml"], env=env)
    return done.exit_code, done.stdout.replace("fleet.toml: ", "")


@pytest.mark.slow_on_trio
@pytest.mark.may_block
async def test_a_trail_and_its_outbox_are_in_the_database(database: Server, name: str) -> None:
    """The outbox of a trail in PostgreSQL is in the same database, and an alert is kept with its event."""
    pager = RecordingDispatcher()
    storage = {"type": "postgres", "dsn": database.dsn(user="service"), "trail": name, "timeout": 5}
    outbox = {"type": "postgres_outbox", "inner": pager, "name": "pager"}
    async with AuditTrail.from_config({"storage": storage, "dispatcher": outbox}) as trail:
        event_id = await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password")
        await trail.drain()
    with psycopg.connect(database.dsn()) as connection:
        rows = connection.execute("SELECT outbox, event_id FROM fapilog.alerts WHERE trail = %s", [name]).fetchall()
    assert rows == [("pager", event_id)]


@pytest.mark.slow_on_trio
@pytest.mark.may_block
async def test_a_machine_replicates_into_the_database(database: Server, name: str) -> None:
    """A trail in files with a replica copies its records as long as it is started, and the last ones at its end."""
    replica = {"type": "postgres", "dsn": database.dsn(user="service"), "trail": name}
    trail = AuditTrail.from_config({"path": "audit", "replica": replica, "lag_limit": 60})
    async with trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "read")
        head = await trail.head()
    assert trail.replication is not None
    assert trail.replication.state.pending == 0
    target = PostgresStorage(database.dsn(user="service"), name)
    assert await head_of(target) == head
    await target.aclose()


def test_a_script_replicates_without_a_start(database: Server, name: str) -> None:
    """The first call of a synchronous trail begins the copying, and its stop ends it."""
    replica = {"type": "postgres", "dsn": database.dsn(user="service"), "trail": name}
    trail = AuditTrail.from_config({"path": "audit", "replica": replica}).sync
    trail.log_event(AuditEventType.DATA_ACCESS, "read")
    head = trail.head()
    trail.stop()
    target = PostgresStorage(database.dsn(user="service"), name)
    assert without_loop(head_of(target)) == head
    without_loop(target.aclose())


@pytest.mark.slow_on_trio
@pytest.mark.may_block
async def test_a_replica_that_is_away_holds_nothing_up(database: Server, name: str) -> None:
    """Without the database every event is stored, and `stop` waits for it no longer than its time-out."""
    dsn = f"host={database.dsn().split()[0].removeprefix('host=')}-away user=service"
    replica = {"type": "postgres", "dsn": dsn, "trail": name, "timeout": 0.5}
    trail = AuditTrail.from_config({"path": "audit", "replica": replica})
    async with trail:
        await trail.log_event(AuditEventType.DATA_ACCESS, "read")
    result = await trail.verify_chain_from_storage()
    assert (result.valid, result.events_checked) == (True, 1)


@pytest.mark.slow_on_trio
@pytest.mark.may_block
async def test_a_password_may_change_while_the_service_runs(database: Server, name: str, tmp_path: Path) -> None:
    """The password is read for every connection: the next one has the new password."""
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    dsn = database.dsn(user="service")
    storage: Any = options_from_config(
        {"storage": {"type": "postgres", "dsn": dsn, "trail": name, "password": f"file:{file}", "timeout": 0.5}}
    )["storage"]
    trail = AuditTrail(storage=storage)
    assert SECRET not in f"{storage!r} {vars(storage)} {vars(storage.server)}"
    await trail.log_event(AuditEventType.DATA_ACCESS, "read")
    await storage.aclose()
    file.unlink()
    with pytest.raises(AuditStorageError, match=r"password can't be read \(FileNotFoundError\)$"):
        await trail.log_event(AuditEventType.DATA_ACCESS, "read")
    file.write_text("another")
    await trail.log_event(AuditEventType.DATA_ACCESS, "read")
    await trail.stop()


def test_a_whole_dsn_may_be_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """A DSN that is kept elsewhere may have a password; neither a text of the storage nor an error shows it."""
    monkeypatch.setenv("AUDIT_DSN", f"postgresql://clinic:{SECRET}@db.example/audit")
    storage: Any = options_from_config({"storage": {**POSTGRES, "dsn": "env:AUDIT_DSN"}})["storage"]
    assert str(storage) == "PostgreSQL db.example:5432/audit, trail 'clinic'"
    assert SECRET not in repr(storage)
    monkeypatch.setenv("AUDIT_DSN", f"password={SECRET} what")
    assert problems_of({"storage": {**POSTGRES, "dsn": "env:AUDIT_DSN"}}) == [
        "storage.dsn: expected postgresql://HOST/DATABASE or host=HOST dbname=DATABASE"
    ]


def test_an_outbox_may_be_in_another_database(tmp_path: Path) -> None:
    """Where the trail is in files, an outbox in PostgreSQL says in which database."""
    config = {"path": str(tmp_path / "audit"), "dispatcher": {**OUTBOX, "storage": POSTGRES}}
    assert type(options_from_config(config)["alert_dispatcher"]) is PostgresOutbox


def test_a_host_may_only_record() -> None:
    """A deposit needs nothing but the storage of the trail."""
    found = options_from_config({"storage": POSTGRES, "dispatcher": {"type": "postgres_deposit", "name": "pager"}})
    assert type(found["alert_dispatcher"]) is PostgresDeposit


def test_an_object_may_be_the_storage() -> None:
    """A mapping of Python may have a storage of your own in it."""
    own = SQLiteStorage("audit.db")
    assert options_from_config({"storage": own})["storage"] is own


LITERAL = 'storage.dsn: expected a reference to a secret, "env:NAME" or "file:/run/secrets/NAME", and not the secret'
MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    ({"storage": {**POSTGRES, "dsn": f"postgresql://u:{SECRET}@h/d"}}, [LITERAL]),
    ({"storage": {**POSTGRES, "dsn": f"postgresql://u@h/d?pass%77ord={SECRET}"}}, [LITERAL]),
    ({"storage": {**POSTGRES, "dsn": f"host=h password = '{SECRET}'"}}, [LITERAL]),
    ({"storage": {**POSTGRES, "dsn": "what"}}, ["storage.dsn: expected postgresql://HOST/DATABASE or host=HOST"]),
    ({"storage": {**POSTGRES, "password": SECRET}}, [LITERAL.replace("dsn", "password", 1)]),
    ({"storage": {"type": "postgres"}},
        ["storage.dsn: expected text; got nothing", "storage.trail: expected text; got nothing"]),
    ({"storage": {**POSTGRES, "trail": ""}}, ["storage.trail: expected 1 to 200 characters"]),
    ({"storage": {**POSTGRES, "tral": "x"}}, ["storage.tral: there is no such option; did you mean storage.trail?"]),
    ({"dispatcher": OUTBOX}, ['dispatcher.storage: expected a table with a "type"; got nothing']),
    ({"storage": {"type": "sqlite", "path": "a.db"}, "dispatcher": OUTBOX},
        ["dispatcher.storage: expected the PostgresStorage of the trail; got a SQLiteStorage"]),
    # What depends on a storage that is wrong is not said too.
    ({"storage": {"type": "postgres", "dsn": "host=h"}, "dispatcher": OUTBOX},
        ["storage.trail: expected text; got nothing"]),
]  # fmt: skip


@pytest.mark.parametrize(("config", "problems"), MISTAKES)
def test_a_mistake_is_named(config: dict[str, Any], problems: list[str]) -> None:
    """Everything that is wrong is said at once: where, what was expected, and what came; and no secret is."""
    check_problems(config, problems)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage has variables of its own, and an outbox for each destination may be there too."""
    variables = {
        "STORAGE_TYPE": "postgres",
        "STORAGE_DSN": f"postgresql://clinic:{SECRET}@db.example/audit",
        "STORAGE_TRAIL": "42",
        "STORAGE_TIMEOUT": "2.5",
        "OUTBOX": "postgres",
        "EMAIL_HOST": "mx.example",
        "EMAIL_SENDER": "a@b.example",
        "EMAIL_RECIPIENTS": "c@d.example",
    }
    for key, value in variables.items():
        monkeypatch.setenv(f"FAPILOG_{key}", value)
    options = options_from_env()
    assert (str(options["storage"]), options["storage"].timeout) == (
        "PostgreSQL db.example:5432/audit, trail '42'",
        2.5,
    )
    assert type(options["alert_dispatcher"]) is PostgresOutbox
    monkeypatch.setenv("FAPILOG_REPLICA_TYPE", "postgrs")
    monkeypatch.setenv("FAPILOG_REPLICA_DSN", SECRET)
    with pytest.raises(ConfigError) as caught:
        options_from_env()
    assert caught.value.problems == (
        "FAPILOG_REPLICA_TYPE: expected one of postgres, sqlite; got 'postgrs'; did you mean postgres?",
    )


def test_an_outbox_in_postgres_needs_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value "postgres" is no path: without a storage there, the outbox has no place."""
    monkeypatch.setenv("FAPILOG_OUTBOX", "postgres")
    monkeypatch.setenv("FAPILOG_CONSOLE_DISCLOSURE", "minimal")
    with pytest.raises(ConfigError, match=r"^FAPILOG_OUTBOX: expected FAPILOG_STORAGE_TYPE=postgres too, or the path"):
        options_from_env()


def test_check_config_connects_to_nothing() -> None:
    """The command says where the records would be, and asks no server; no file is made."""
    assert check_config(
        "[tool.fapilog.storage]",
        'type = "postgres"',
        'dsn = "host=127.0.0.1 port=1 dbname=audit"',
        'trail = "clinic"',
        'password = "env:PASSWORD"',
        env={"PASSWORD": SECRET},
    ) == (0, "good; records in PostgreSQL 127.0.0.1:1/audit, trail 'clinic', level basic, alerts nowhere\n")
    others = f"replica in {Path.cwd()}/replica.db, archive in s3://clinic-audit/eu?lock_days=2190"
    assert check_config(
        'path = "audit"',
        'archive = "s3://clinic-audit/eu?lock_days=2190"',
        "[tool.fapilog.replica]",
        'type = "sqlite"',
        'path = "replica.db"',
    ) == (0, f"good; records in audit, {others}, level basic, alerts nowhere\n")
    assert [path.name for path in Path().iterdir()] == ["fleet.toml"]
