"""`fapilog copy`: a trail from one storage to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import anyio
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import AuditStorageError, ChainHead, FileStorage
from ..storage.copying import copy as copied
from ..storage.protocol import AuditStorage, head_of
from ..storage.sqlite import SQLiteStorage
from .receipts import plain

__all__ = ["copy"]

_NOT_DONE: Final = 1
_CANNOT: Final = 2
_INTERRUPTED: Final = 130
_FILES: Final = (".db", ".sqlite", ".sqlite3")


def copy(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="The trail.", exists=True)],
    target: Annotated[Path, typer.Argument(metavar="TO", help="Where to; made if it is not there.")],
) -> None:
    """
    Copy a trail, byte for byte: the records that TO lacks, and then check all of TO.

    FROM and TO are directories with the files of a trail, or files of SQLite: a path is one if it is a file, or is not
    there and ends in .db, .sqlite or .sqlite3. Interrupted, it goes on where it was when it is called again. The trail
    may be written to meanwhile; a last call, when its services have stopped, copies the rest.

    Exit code: 0 if TO has all records and is intact, 1 if FROM is damaged or TO is another trail, 2 if one of the two
    can't be read or written, 130 if it was interrupted.
    """
    if source.resolve() == target.resolve():
        raise typer.BadParameter("expected another place than FROM", param_hint="TO")
    try:
        count, head = anyio.run(_copy, _storage(source), _storage(target))
    except AuditStorageError as error:
        typer.echo(f"fapilog: {plain(str(error))}", err=True)
        raise typer.Exit(_CANNOT if isinstance(error.__cause__, OSError) else _NOT_DONE) from None
    except KeyboardInterrupt:
        typer.echo("fapilog: interrupted; the same command goes on from here", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    words = "1 record" if count == 1 else f"{count} records"
    typer.echo(f"copied {words}; {plain(str(target))} is intact up to record {head.sequence_number}: {head.checksum}")


def _storage(path: Path) -> AuditStorage:
    is_file = path.is_file() or (not path.exists() and path.suffix in _FILES)
    return SQLiteStorage(path) if is_file else FileStorage(path)


async def _copy(source: AuditStorage, target: AuditStorage) -> tuple[int, ChainHead]:
    # Not on the standard output, which may be piped while the terminal shows the progress.
    console = Console(stderr=True)
    columns = BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("records")
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
            task = progress.add_task("", total=(await head_of(source)).sequence_number)
            return await copied(source, target, lambda number: progress.update(task, completed=number))
    finally:
        with anyio.CancelScope(shield=True):
            await source.aclose()
            await target.aclose()
