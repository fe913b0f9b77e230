"""`fapilog show` and `fapilog count`: the questions that a trail is asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from .. import AuditEvent, AuditEventType, AuditLogLevel, AuditStorageError, AuditTrail
from ..storage.protocol import Conditions
from .receipts import plain
from .screen import Output

__all__ = ["count", "show"]

_CANNOT: Final = 2
_AGO: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _moment(given: str) -> datetime:
    """Return a time: 2026-03-01, 2026-03-01T12:00:00Z, or 15m, 2h, 7d for so long ago; UTC unless it says otherwise."""
    ago = _AGO.fullmatch(given)
    if ago is not None:
        return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise typer.BadParameter("expected a time such as 2026-03-01, 2026-03-01T12:00:00Z or 2h") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _value(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not name or not equals:
        raise typer.BadParameter("expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Where the trail is.", exists=True, file_okay=False)]
_Since = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", parser=_moment, help="Not before: 2026-03-01, 2026-03-01T12:00:00Z, 15m, 2h, 7d."),
]
_Until = Annotated[datetime | None, typer.Option(metavar="TIME", parser=_moment, help="Not after.")]
_User = Annotated[str | None, typer.Option(metavar="ID", help="Of this user.")]
_Target = Annotated[str | None, typer.Option(metavar="TYPE/ID", help="On this target.")]
_Types = Annotated[list[AuditEventType] | None, typer.Option("--type", help="Of this type; may be repeated.")]
_Level = Annotated[AuditLogLevel | None, typer.Option("--level", help="Of this level or a higher one.")]
_Session = Annotated[str | None, typer.Option(metavar="ID", help="In this session.")]
_Request = Annotated[str | None, typer.Option(metavar="ID", help="In this request.")]
_Address = Annotated[str | None, typer.Option("--address", metavar="IP", help="From this address.")]
_Component = Annotated[str | None, typer.Option(metavar="NAME", help="In this component.")]
_Tag = Annotated[str | None, typer.Option(metavar="TAG", help="With this regulatory tag.")]
_Words = Annotated[str | None, typer.Option("--message", metavar="WORDS", help="With these words in the message.")]
_Metadata = Annotated[
    list[Any] | None,
    typer.Option(metavar="NAME=VALUE", parser=_value, help="With this value in the metadata; may be repeated."),
]
_Id = Annotated[str | None, typer.Option("--id", metavar="EVENT_ID", help="The event with this id.")]


def show(
    directory: _Directory,
    *,
    since: _Since = None,
    until: _Until = None,
    user: _User = None,
    target: _Target = None,
    types: _Types = None,
    level: _Level = None,
    session: _Session = None,
    request: _Request = None,
    address: _Address = None,
    component: _Component = None,
    tag: _Tag = None,
    message: _Words = None,
    metadata: _Metadata = None,
    event_id: _Id = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each event.")] = False,
) -> None:
    """
    Show the events that meet all conditions, the newest first.

    The trail may be written to meanwhile. Nothing that is printed can drive a terminal.

    Exit code: 0, whatever there is; 2 if the trail can't be read.
    """
    wanted = _conditions(
        start_time=since,
        end_time=until,
        user_id=user,
        target=target,
        event_type=types or None,
        min_level=level,
        session_id=session,
        request_id=request,
        client_ip=address,
        component=component,
        tag=tag,
        message=message,
        metadata=dict(metadata) if metadata else None,
        event_id=event_id,
    )
    found = list(_first(directory, limit + 1, oldest_first=oldest_first, wanted=wanted))
    if as_json:
        for event in found[:limit]:
            # ASCII, as no terminal obeys that.
            typer.echo(json.dumps(msgspec.to_builtins(event)))
    elif found:
        output = Output()
        output.show(_table(found[:limit], wide=not output.is_terminal))
    else:
        typer.echo("no events")
    if len(found) > limit:
        typer.echo(f"fapilog: there are more than {limit}; --limit shows them", err=True)


def count(
    directory: _Directory,
    *,
    by: Annotated[str, typer.Option(metavar="FIELD", help="A member of events, or a path in the metadata.")],
    since: _Since = None,
    until: _Until = None,
    user: _User = None,
    target: _Target = None,
    types: _Types = None,
    level: _Level = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Count the events that meet all conditions by one of their members, such as user_id, event_type or client_ip.

    Exit code: 0, whatever there is; 2 if the trail can't be read.
    """
    wanted = _conditions(
        start_time=since, end_time=until, user_id=user, target=target, event_type=types or None, min_level=level
    )
    try:
        counts = AuditTrail(storage_path=directory).sync.count_by(by, **wanted)
    except AuditStorageError as error:
        raise _unreadable(error) from None
    if as_json:
        typer.echo(json.dumps(counts))
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("events", justify="right")
    table.add_column(Text(plain(by)), overflow="fold")
    for value, number in counts.items():
        table.add_row(str(number), Text(plain(value) or "-"))
    Output().show(table)


def _conditions(**given: Any) -> Conditions:
    return {name: value for name, value in given.items() if value is not None}  # type: ignore[return-value]


def _first(directory: Path, limit: int, *, oldest_first: bool, wanted: Conditions) -> Iterator[AuditEvent]:
    trail = AuditTrail(storage_path=directory)
    try:
        if not oldest_first:
            yield from trail.sync.get_events(limit=limit, **wanted)
            return
        for number, event in enumerate(trail.sync.events(oldest_first=True, **wanted)):
            if number >= limit:
                return
            yield event
    except AuditStorageError as error:
        raise _unreadable(error) from None


def _unreadable(error: AuditStorageError) -> typer.Exit:
    typer.echo(f"fapilog: {plain(str(error))}", err=True)
    return typer.Exit(_CANNOT)


def _table(events: list[AuditEvent], *, wide: bool) -> Table:
    others = ("component", "target", "address") if wide else ()
    table = Table(box=None, header_style="dim", pad_edge=False)
    for head in ("record", "time", "level", "type", "user", *others, "message"):
        table.add_column(head, no_wrap=head != "message", overflow="fold" if head == "message" else "ellipsis")
    for event in events:
        more = (event.component, event.target, event.client_ip) if wide else ()
        cells = (
            event.sequence_number,
            f"{event.timestamp:%Y-%m-%d %H:%M:%S}",
            event.log_level.value,
            event.event_type.value,
            event.user_id,
            *more,
            event.message,
        )
        # Never a str, in which rich would look for markup.
        table.add_row(*(Text(plain("" if cell is None else str(cell))) for cell in cells))
    return table
