"""`fapilog copy`: a trail from one storage to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from .. import ChainHead
from ..storage._archive.addresses import is_address
from ..storage.copying import copy as copied
from ..storage.protocol import AuditStorage, head_of
from ._output import INTERRUPTED, counted, failed, plain, progress, storage_failures
from ._place import WithName, is_dsn, place_of, storage_at

__all__ = ["copy"]


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The trail.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Where to; made if it is not there.")],
    *,
    trail: WithName = None,
) -> None:
    """
    Copy a trail, byte for byte, and check the copy.

    Only the records that TO lacks are copied; then all of TO is checked.

    FROM and TO are directories with the files of a trail, or files of SQLite: a path is one if it is a file, or is not
    there and ends in .db, .sqlite or .sqlite3. Or trails in PostgreSQL: postgresql://clinic@host/audit with --trail
    NAME, and the tables of `fapilog storage init`; a password is best in ~/.pgpass or in PGPASSWORD. FROM may be an
    archive too, a directory or s3://BUCKET/PREFIX: copied first, and then its trail, TO is whole again. Interrupted, it
    continues where it was when it is called again. The trail may be written to meanwhile; a last call, when its
    services have stopped, copies the rest.

    Exit code: 0 if TO has all records and is intact, 1 if FROM is damaged or TO is another trail, 2 if one of the two
    can't be read or written or FROM has no records, 130 if it was interrupted.
    """
    for argument, given in (("FROM", source), ("TO", target)):
        if not given:
            raise typer.BadParameter("expected a path or an address; got an empty text", param_hint=argument)
    if source == target or (not is_dsn(source) and Path(source).resolve() == Path(target).resolve()):
        raise typer.BadParameter("expected another place than FROM", param_hint="TO")
    if is_address(target) and not is_dsn(target):
        words = "expected a directory, a file of SQLite or postgresql://"
        raise typer.BadParameter(f"{words}; got {target.partition(':')[0]}:", param_hint="TO")
    if not is_address(source) and not Path(source).exists():
        raise typer.BadParameter(f"there is no {plain(source)}", param_hint="FROM")
    if trail is not None and not (is_dsn(source) or is_dsn(target)):
        raise typer.BadParameter("expected FROM or TO in PostgreSQL", param_hint="--trail")
    origin, there = storage_at(source, trail, "FROM"), storage_at(target, trail, "TO")
    try:
        with storage_failures():
            count, head = anyio.run(_copy, origin, there)
    except KeyboardInterrupt:
        raise failed("interrupted; the same command goes on from here", INTERRUPTED) from None
    if not head.sequence_number:
        raise failed(f"there is no trail in {place_of(source, origin)}")
    copies, place = counted(count, "record"), place_of(target, there)
    typer.echo(f"copied {copies}; {place} is intact up to record {head.sequence_number}: {head.checksum}")


async def _copy(source: AuditStorage, target: AuditStorage) -> tuple[int, ChainHead]:
    columns = BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("records")
    try:
        with progress(*columns, total=(await head_of(source)).sequence_number) as reached:
            return await copied(source, target, reached)
    finally:
        with anyio.CancelScope(shield=True):
            await source.aclose()
            await target.aclose()
