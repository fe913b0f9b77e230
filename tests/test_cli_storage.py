"""`fapilog storage init`: the tables of PostgreSQL, made or printed."""

import pytest

typer_testing = pytest.importorskip("typer.testing")
pytest.importorskip("rich")
pytest.importorskip("prometheus_client")
psycopg = pytest.importorskip("psycopg")

from fapilog.cli.commands import app  # noqa: E402  needs the extra
from fapilog.storage.postgres import schema_sql  # noqa: E402


def run(*arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    done = typer_testing.CliRunner().invoke(app, ["storage", "init", *arguments], env=env)
    return done.exit_code, done.stdout, done.stderr


def test_the_sql_is_printed() -> None:
    """With --sql it needs no database, and prints what it would run."""
    assert run("--sql") == (0, schema_sql(), "")


def test_what_can_not_be_done_is_told() -> None:
    """Without a database, with one that can't be read and with one that is away it says so, and shows no password."""
    assert run()[0] == 2
    for dsn, code in (("password hunter2", 2), ("postgresql://u:hunter2@127.0.0.1:1/d", 1)):
        got = run(dsn)
        assert got[0] == code
        assert "hunter2" not in got[1] + got[2]
    assert got[2].startswith("fapilog: cannot make the tables in PostgreSQL 127.0.0.1:1/d: connection")
