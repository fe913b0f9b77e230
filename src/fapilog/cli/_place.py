"""The place of a trail, as a command gets it: a directory, a file of SQLite, a database, or an archive."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from .. import AuditStorageError, AuditTrail, CompliancePolicy, FileStorage
from .._extras import MissingExtraError
from ..record.options import require_path
from ..storage._archive.addresses import is_address, require_archive
from ..storage._files.access import OWNER, cannot
from ..storage._files.directory import newest_file
from ..storage._files.names import SUFFIX, day_of, is_name
from ..storage.archive import Archive
from ..storage.archived import ArchiveStorage
from ..storage.earlier import EarlierStorage, is_of_earlier
from ..storage.protocol import AuditStorage
from ..storage.sqlite import SQLiteStorage
from ._output import bad_parameters, failed, plain

if TYPE_CHECKING:
    from ..storage.postgres import PostgresStorage

__all__ = [
    "Directory",
    "Place",
    "Where",
    "WithArchive",
    "WithName",
    "archive_at",
    "directory_at",
    "directory_there",
    "in_postgres",
    "is_dsn",
    "named",
    "opened",
    "place_of",
    "require_trail",
    "storage_at",
    "to_write",
]

# With which a DSN of libpq's other syntax may begin; as a path such a name is ./host=...
_KEYWORD: Final = re.compile(r"\s*(host|hostaddr|port|dbname|user|password|service|sslmode)\s*=")
_FILES: Final = (".db", ".sqlite", ".sqlite3")
_PLACES: Final = "a directory, a file of SQLite, postgresql://HOST/DATABASE or s3://BUCKET/PREFIX"

Where: TypeAlias = "Path | AuditStorage"
"""The directory of a trail, or its storage."""


def archive_at(given: Archive | Path | str) -> Archive:
    """Return the archive given to a command."""
    try:
        return require_archive(given)
    except (ImportError, ValueError) as error:
        raise typer.BadParameter(str(error).removeprefix("archive: ")) from None


def directory_at(given: Path | str) -> Path:
    """Return the directory given to a command; it need not be there. An address, which may have a password, is none."""
    with bad_parameters("directory"):
        return require_path("directory", given)


def directory_there(given: Path | str) -> Path:
    """Do as `directory_at`, for one that must be there."""
    path = directory_at(given)
    if not path.is_dir():
        raise typer.BadParameter(f"{str(path)!r} is a file." if path.exists() else f"{str(path)!r} does not exist.")
    return path


Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Where the trail is.", parser=directory_there)]


def _archived(address: str) -> ArchiveStorage:
    scheme, _, _ = address.partition("://")
    if scheme.lower() != "s3":
        raise typer.BadParameter(f"expected {_PLACES}; got {scheme}://...")
    return ArchiveStorage(archive_at(address))


def _place(given: Where | str) -> Where | str:
    if not isinstance(given, str):  # by code that runs the command: ``manage.py audit``
        return given
    if is_dsn(given):
        return given
    if is_address(given):
        return _archived(given)
    if not given:  # a variable of the shell that is not set: pathlib would take the current directory
        raise typer.BadParameter(f"expected {_PLACES}; got an empty text")
    path = directory_at(given)
    if not path.exists():
        raise typer.BadParameter(f"Directory {given!r} does not exist.")
    if path.is_file() and is_name(path.name.removesuffix(SUFFIX)):
        raise typer.BadParameter(f"{given!r} is a file of a trail; expected its directory, {str(path.parent)!r}.")
    return SQLiteStorage(path) if path.is_file() else path


Place = Annotated[
    Any,
    typer.Argument(
        metavar="DIR",
        help="Where the trail is: a directory, a file of SQLite, postgresql://HOST/DATABASE with --trail,"
        " or s3://BUCKET/PREFIX for an archive.",
        parser=_place,
    ),
]
WithName = Annotated[
    str | None, typer.Option("--trail", metavar="NAME", help="The name of the trail in PostgreSQL.", show_default=False)
]
WithArchive = Annotated[
    Any,
    typer.Option("--archive", metavar="PLACE", help="Its archive, for days that were removed.", parser=archive_at),
]


def named(place: Where | str, trail: str | None) -> Where:
    """Return *place*, in which a database has a *trail* of that name; raises as `storage_at`."""
    if isinstance(place, str):
        return in_postgres(place, trail, "DIR")
    if trail is not None:
        raise typer.BadParameter("expected a trail in PostgreSQL as DIR", param_hint="--trail")
    return place


def require_trail(place: Where) -> None:
    """Raise AuditStorageError if there is no trail at *place*: that another place has no such event is no answer."""
    if isinstance(place, Path):
        # Nor do files say anything that were emptied, or moved by logrotate.
        is_there = any(_has_bytes(path) for path in place.glob("audit_*.jsonl*") if day_of(path.name))
    else:
        with opened(place) as trail:
            is_there = trail.sync.head().sequence_number > 0
    if not is_there:
        raise AuditStorageError(f"there is no trail in {place}")


def _has_bytes(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # compressed or removed by retention, this moment
        return True


def to_write(directory: Path, policy: CompliancePolicy | None = None) -> AuditTrail:
    """
    Return the trail in *directory*, whose new files have the mode and the group of its newest.

    A command may be the first to write on a day, and would lock a log shipper out of that day.

    Raises:
        AuditStorageError: The newest file can't be opened.
    """
    try:
        with newest_file(directory) as fd:
            found = None if fd is None else os.fstat(fd)
    except OSError as error:
        raise cannot("read", directory, error) from None
    if found is None:
        return AuditTrail(policy, directory)
    mode = stat.S_IMODE(found.st_mode) & 0o664 | OWNER.mode
    # A group that this process is no member of can't be given.
    group = found.st_gid if os.geteuid() == 0 or found.st_gid in os.getgroups() else None
    return AuditTrail(policy, storage=FileStorage(directory, mode=mode, group=group))


@contextmanager
def opened(place: Where, archive: Archive | None = None) -> Generator[AuditTrail]:
    """
    Give the trail at *place*, together with its *archive*, to be read; its files and connections are closed at the end.

    One of the earlier fapilog can be read too.

    Nothing is written, and no failure is an incident: its file would be left in the directory that is examined, for the
    service to read, and with this user as the owner.
    """
    if archive is not None and not isinstance(place, Path):
        raise typer.BadParameter(f"expected the directory of the trail as DIR; got {place}", param_hint="--archive")
    off = CompliancePolicy(enabled=False)
    if isinstance(place, Path) and archive is None and is_of_earlier(place):
        place = EarlierStorage(place)
    trail = AuditTrail(off, place, archive=archive) if isinstance(place, Path) else AuditTrail(off, storage=place)
    try:
        yield trail
    finally:
        trail.sync.stop()


def is_dsn(given: str) -> bool:
    """Return whether *given* is the address of a database: postgresql://clinic@host/audit, or host=... dbname=..."""
    # A path would be made as a directory, with a password in its name.
    return given.startswith(("postgresql://", "postgres://")) or (
        _KEYWORD.match(given) is not None and not Path(given).exists()
    )


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
    if is_address(given):
        return _archived(given)
    with bad_parameters("path", hint):
        path = require_path("path", given)
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
    # The error contains nothing of the DSN, which may have a password.
    with bad_parameters(hint=hint):
        return PostgresStorage(dsn, trail)


def place_of(given: str, storage: AuditStorage) -> str:
    """Return the place of *storage*, which the argument *given* names, to be printed."""
    return plain(str(storage) if is_dsn(given) else given)
