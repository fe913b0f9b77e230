"""Databases in memory, for tests of what an application stores."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["memory_engine"]


def memory_engine() -> Any:
    """
    Return an engine of SQLite, of which every session sees the same database, with savepoints and foreign keys.

    https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#serializable-isolation-savepoints-transactional-ddl
    """
    sa: Any = pytest.importorskip("sqlalchemy")
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})

    def without_own_transactions(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    sa.event.listen(engine, "connect", without_own_transactions)
    sa.event.listen(engine, "begin", begin)
    return engine
