"""The place of a trail as an argument of a command: a directory, a file of SQLite, or a database of PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from .. import FileStorage
from .._extras import MissingExtraError
from ..storage.protocol import AuditStorage
from ..storage.sqlite import SQLiteStorage
from ._ending import failed, plain

if TYPE_CHECKING:
    from ..storage.postgres import PostgresStorage

__all__ = ["in_postgres", "is_dsn", "place_of", "storage_at"]

_FILES: Final = (".db", ".sqlite", ".sqlite3")


def is_dsn(given: str) -> bool:
    """Return whether *given* is the address of a database, as in postgresql://clinic@host/audit."""
    return given.startswith(("postgresql://", "postgres://"))


def storage_at(given: str, trail: str | None, hint: str) -> AuditStorage:
    """
    Return the storage that an argument names; nothing is opened.

    Args:
        given: The argument.
        trail: The name of the trail, for a database.
        hint: The name of the argument, for messages.

    Raises:
        typer.BadParameter: It names none.
        typer.Exit: psycopg is missing; that is said.
    """
    if is_dsn(given):
        return in_postgres(given, trail, hint)
    path = Path(given)
    is_file = path.is_file() or (not path.exists() and path.suffix in _FILES)
    return SQLiteStorage(path) if is_file else FileStorage(path)


def in_postgres(dsn: str, trail: str | None, hint: str) -> PostgresStorage:
    """Return the storage of a trail in a database; raises as `storage_at`."""
    try:
        from ..storage.postgres import PostgresStorage  # noqa: PLC0415  an extra of its own
    except MissingExtraError as missing:
        raise failed(missing) from None
    if trail is None:
        raise typer.BadParameter("a database holds many trails: expected the name of one", param_hint="--trail")
    try:
        return PostgresStorage(dsn, trail)
    except ValueError as error:
        # It contains nothing of the DSN, which may have a password.
        raise typer.BadParameter(str(error), param_hint=hint) from None


def place_of(given: str, storage: AuditStorage) -> str:
    """Return the place of *storage*, which the argument *given* names, to be printed."""
    return plain(str(storage) if is_dsn(given) else given)
