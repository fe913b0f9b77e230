"""The storage in PostgreSQL, beyond what every storage must do."""

from collections.abc import Iterator

import pytest

pytest.importorskip("psycopg")

import psycopg

from fapilog.storage.postgres import PostgresStorage, install_schema
from fapilog.testing import check_storage
from tests.doubles.postgres import Server, server


@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    """Run a server with the tables; it need not survive a power cut."""
    with server(fsync="off") as started:
        install_schema(started.dsn())
        yield started


@pytest.mark.real_time
async def test_it_keeps_the_contract(database: Server) -> None:
    """A `PostgresStorage` passes."""

    def damage(place: str) -> None:
        with psycopg.connect(database.dsn()) as connection:
            connection.execute("SET session_replication_role = replica")
            connection.execute(
                """UPDATE fapilog.records SET line = overlay(line PLACING 'x' FROM position('"3"' IN line) + 1)"""
                """ WHERE trail = %s AND position('"3"' IN line) > 0""",
                [place],
            )

    await check_storage(lambda place: PostgresStorage(database.dsn(), place), damage=damage)
