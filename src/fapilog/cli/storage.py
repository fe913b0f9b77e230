"""Prepare the place where trails are kept."""

from typing import Annotated, Final

import typer

from .. import AuditStorageError
from .._extras import MissingExtraError
from ._output import NO, bad_parameters, failed

__all__ = ["init", "storage"]


storage: Final = typer.Typer(no_args_is_help=True, help="Prepare the place where trails are kept.")


@storage.callback()
def _storage() -> None:
    """Prepare the place where trails are kept."""


@storage.command()
def init(
    dsn: Annotated[
        str | None,
        typer.Argument(
            metavar="DSN",
            help="The database, as in postgresql://admin@host/database.",
        ),
    ] = None,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL, and connect to nothing.")] = False,
) -> None:
    """
    Make or migrate the tables for trails in PostgreSQL.

    Their triggers and roles are made too. Run it with a role that may create schemas and roles, and not with that of
    your service. Doing it again does no harm. A password is best in ~/.pgpass or in PGPASSWORD: other users of the
    machine can see the arguments of a command.

    Exit code: 0 if the tables are there, 1 if they could not be made, 2 if psycopg is missing or there is no DSN.
    """
    try:
        from ..storage.postgres import install_schema, schema_sql  # noqa: PLC0415  an extra of its own
    except MissingExtraError as missing:
        raise failed(missing) from None
    if sql:
        typer.echo(schema_sql(), nl=False)
        return
    if not dsn:
        raise typer.BadParameter("expected the database, as in postgresql://admin@host/database", param_hint="DSN")
    try:
        with bad_parameters(hint="DSN"):
            is_new = install_schema(dsn)
    except AuditStorageError as error:
        raise failed(error, NO) from None
    typer.echo("the tables, triggers and roles are made" if is_new else "the tables, triggers and roles are there")
