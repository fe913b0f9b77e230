"""`fapilog hold`: legal holds, which retention respects."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from .. import AuditEventType, AuditStorageError
from ..storage.holds import Hold, add_hold, holds_on, remove_hold
from ._operator import operator
from ._output import NO, Output, bad_parameters, failed, headed, in_json, plain, storage_failures
from ._place import Directory, require_trail, to_write

__all__ = ["add", "hold", "list_", "remove"]


_Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, in your words; it is recorded.", show_default=False)]


def _day(given: str) -> date:
    try:
        return date.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter(f"expected a day such as 2026-03-01; got {given!r}") from None


_Day = Annotated[date | None, typer.Option(metavar="DAY", parser=_day, show_default=False)]

hold: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@hold.callback()
def _hold() -> None:
    """
    Set, list and lift legal holds.

    Retention does not remove the days of a hold, whatever their age. Setting and lifting one is
    recorded in the trail.
    """


@hold.command()
def add(directory: Directory, *, reason: _Reason, since: _Day = None, until: _Day = None) -> None:
    """
    Set a hold on days, or on the whole trail.

    The days are those from --since to --until, both included; without them, all are held.

    Exit code: 0 if it is set and recorded; 2 if not, or if it is set alone, which is then said.
    """
    with bad_parameters(), storage_failures():
        # Set on another directory, it would hold nothing.
        require_trail(directory)
        added = add_hold(directory.absolute(), reason, since=since, until=until)
    # In force before it is recorded, so that there is no moment in which it is believed and not in force.
    try:
        _record(directory, "a legal hold was set", added, reason)
    except AuditStorageError as error:
        raise failed(f"hold {added.id} is set, but not recorded: {error}") from None
    typer.echo(f"hold {added.id} is set")


@hold.command("list")
def list_(
    directory: Directory, *, as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False
) -> None:
    """
    List the holds.

    Exit code: 0, whatever there is; 2 if they can't be read.
    """
    with storage_failures():
        require_trail(directory)
        found = holds_on(directory.absolute())
    if as_json:
        typer.echo(in_json(found))
        return
    if not found:
        typer.echo("no holds")
        return
    table = headed("hold", "since", "until", "set", "reason")
    for each in found:
        days = (str(each.since or ""), str(each.until or ""))
        table.add_row(plain(each.id), *days, f"{each.set_at:%Y-%m-%d}", plain(each.reason))
    Output().show(table)


@hold.command()
def remove(
    directory: Directory,
    hold_id: Annotated[str, typer.Argument(metavar="HOLD", help="As `list` shows it.")],
    *,
    reason: _Reason,
) -> None:
    """
    Lift a hold.

    Exit code: 0 if it is recorded and lifted, 1 if there is none of that id, 2 if it can't be done.
    """
    if not reason.strip():
        raise typer.BadParameter("expected the reason in words", param_hint="--reason")
    try:
        with storage_failures():
            found = next((each for each in holds_on(directory.absolute()) if each.id == hold_id), None)
            if found is None:
                raise failed(f"there is no hold {hold_id}", NO)
            # Recorded before it is lifted.
            _record(directory, "a legal hold was lifted", found, reason)
            remove_hold(directory.absolute(), hold_id)
    except LookupError as error:
        # Another operator was faster.
        raise failed(error, NO) from None
    typer.echo(f"hold {hold_id} is lifted")


def _record(directory: Path, message: str, changed: Hold, reason: str) -> None:
    metadata: dict[str, Any] = {"fapilog.hold": msgspec.to_builtins(changed)}
    trail = to_write(directory)
    try:
        trail.sync.log_event(
            AuditEventType.AUDIT_LOG_LIFECYCLE,
            message,
            operation="hold",
            user_id=operator(),
            reason=reason,
            metadata=metadata,
        )
    finally:
        trail.sync.stop()
