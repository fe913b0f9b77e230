"""`fapilog replicate`: the records of a machine go to a database, all the time."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import anyio
import typer

from ..storage.replication import Replication
from ._output import bad_parameters, failed, storage_failures
from ._place import directory_at, in_postgres, is_dsn, place_of, require_trail

__all__ = ["replicate"]


def replicate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the trail is.", parser=directory_at)],
    dsn: Annotated[str, typer.Argument(metavar="DSN", help="The database, as in postgresql://clinic@host/audit.")],
    *,
    trail: Annotated[
        str, typer.Option(metavar="NAME", help="The name of the trail there: one for each machine.", show_default=False)
    ],
    lag_limit: Annotated[
        float, typer.Option(metavar="SECONDS", min=1, help="An incident if a record waits for longer.")
    ] = 300.0,
    once: Annotated[bool, typer.Option("--once", help="Copy what there is, and end.")] = False,
) -> None:
    """
    Replicate a trail in files to PostgreSQL while this runs.

    Every record is copied as it is, byte for byte.

    For a service that must work while the database is away: it stores in files, and this command copies its records as
    they come, once and in order. While the database is away, it retries by itself. It may be ended and started at any
    time. A service that writes to DIR has an incident when a record waits for too long, also if this does not run. A
    password is best in ~/.pgpass or in PGPASSWORD.

    Exit code: 0 if it was ended by SIGTERM or Ctrl-C, or with --once if all is copied; 1 with --once if the database
    has another trail, or a record is damaged; 2 if DIR or the database can't be used.
    """
    if not is_dsn(dsn):
        raise typer.BadParameter("expected the database, as in postgresql://clinic@host/audit", param_hint="DSN")
    target = in_postgres(dsn, trail, "DSN")
    with bad_parameters(), storage_failures():
        replication = Replication(directory, target, name=trail, lag_limit=lag_limit)
        if not once:
            anyio.run(_follow, replication, place_of(dsn, target))
            return
        require_trail(directory)
        head = anyio.run(replication.catch_up)
    if not head.sequence_number:
        raise failed(f"there is no trail in {directory}")
    typer.echo(f"{place_of(dsn, target)} has all records up to record {head.sequence_number}: {head.checksum}")


async def _follow(replication: Replication, place: str) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with replication:
            # Problems are logged: to the error output, if logging is not set up.
            typer.echo(f"replicating to {place}")
            async for _ in signals:
                return
