"""Storages that another process can make, by functions that can be pickled, and what is stored in them."""

from collections.abc import Iterable
from pathlib import Path

import anyio

from fapilog import AuditEvent, AuditStorageError, FileStorage
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import AuditStorage
from fapilog.storage.sqlite import SQLiteStorage

__all__ = ["in_files", "in_memory", "in_postgres", "in_sqlite", "stored_at_once"]


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


async def stored_at_once(storage: AuditStorage, events: Iterable[AuditEvent]) -> tuple[list[int], list[str]]:
    """Store *events* at the same time; return the numbers of those that are stored, and why others are not."""
    numbers: list[int] = []
    failures: list[str] = []

    async def store(event: AuditEvent) -> None:
        try:
            seal = await storage.append(event)
        except AuditStorageError as error:
            failures.append(str(error))
        else:
            assert seal is not None
            numbers.append(seal.sequence_number)

    async with anyio.create_task_group() as tasks:
        for event in events:
            tasks.start_soon(store, event)
    return numbers, failures
