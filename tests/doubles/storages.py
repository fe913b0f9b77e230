"""Storages that another process can make: functions that can be pickled."""

from pathlib import Path

from fapilog import FileStorage
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import AuditStorage
from fapilog.storage.sqlite import SQLiteStorage

__all__ = ["in_files", "in_memory", "in_postgres", "in_sqlite"]


def in_files(directory: Path, place: str) -> AuditStorage:
    """Return the storage of a place in *directory*."""
    return FileStorage(directory / place, durability="write")


def in_sqlite(directory: Path, place: str) -> AuditStorage:
    """Return the storage of a place in *directory*."""
    return SQLiteStorage(directory / place, durability="write")


def in_postgres(dsn: str, place: str) -> AuditStorage:
    """Return the storage of a place in a database."""
    # Here, as the other storages are tried where psycopg is not installed, too.
    from fapilog.storage.postgres import PostgresStorage  # noqa: PLC0415

    return PostgresStorage(dsn, place)


def in_memory(place: str) -> AuditStorage:
    """Return an empty storage."""
    return MemoryStorage()
