"""`fapilog show`, `fapilog tail` and `fapilog count`: the questions that a trail is asked."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from inspect import Signature, signature
from pathlib import Path
from time import sleep
from typing import Annotated, Any, Final, cast

import typer
from rich.table import Table

from .. import AuditEvent, AuditEventType, AuditLogLevel, AuditOutcome, AuditStorageError, DamagedRecord
from ..core._reading import member_of_events
from ..record.kinds import member
from ..storage._files.places import Place as _Place
from ..storage._files.reader import TrailReader
from ..storage._holes import up_to
from ..storage.earlier import is_of_earlier
from ..storage.protocol import Conditions, EventFilter
from ._output import INTERRUPTED, Output, failed, headed, in_json, plain
from ._place import Place, WithArchive, WithName, directory_at, named, opened, require_trail

__all__ = ["count", "show", "tail"]

_PAGE: Final = 500
# Seconds.
_LOOK_EVERY: Final = 0.5
_AGO: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _moment(given: str) -> datetime:
    """Return a time: 2026-03-01, 2026-03-01T12:00:00Z, or 15m, 2h, 7d for so long ago; UTC unless it says otherwise."""
    ago = _AGO.fullmatch(given)
    if ago is not None:
        try:
            return datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
        except OverflowError:  # before the year 1
            return datetime.min.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        words = "expected a time such as 2026-03-01, 2026-03-01T12:00:00Z or 2h"
        raise typer.BadParameter(f"{words}; got {given!r}") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _last_moment(given: str) -> datetime:
    """Return a time as `_moment` does; of a day its last moment: March until the 31st has the 31st in it."""
    try:
        day = date.fromisoformat(given)
    except ValueError:
        return _moment(given)
    return datetime.combine(day, time.max, UTC)


def _type(given: str) -> AuditEventType:
    try:
        return member(AuditEventType, given, "type")
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix("type: ")) from None


def _value(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"expected NAME=VALUE; got {given!r}")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):  # nested too deeply, say
        return name, value


def _field(given: str) -> str:
    try:
        member_of_events(given)
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix("field: ")) from None
    return given


def _directory(given: Path | str) -> Path:
    # With -f it may come later.
    path = directory_at(given)
    if path.is_file():
        raise typer.BadParameter(f"{str(path)!r} is a file.")
    return path


_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Where the trail is.", parser=_directory)]
_Since = Annotated[
    datetime | None,
    typer.Option(metavar="TIME", parser=_moment, help="Not before: 2026-03-01, 2026-03-01T12:00:00Z, 15m, 2h, 7d."),
]
_Until = Annotated[
    datetime | None, typer.Option(metavar="TIME", parser=_last_moment, help="Not after; a day includes all of it.")
]
_User = Annotated[str | None, typer.Option(metavar="ID", help="Of this user.")]
_Actor = Annotated[str | None, typer.Option(metavar="ID", help="By this user, service or job, or on behalf of it.")]
_Target = Annotated[str | None, typer.Option(metavar="TYPE/ID", help="On this target.")]
_Types = Annotated[
    list[Any] | None, typer.Option("--type", metavar="TYPE", parser=_type, help="Of this type; may be repeated.")
]
_Outcome = Annotated[AuditOutcome | None, typer.Option(case_sensitive=False, help="With this outcome.")]
_Level = Annotated[AuditLogLevel | None, typer.Option(case_sensitive=False, help="Of this level or a higher one.")]
_Session = Annotated[str | None, typer.Option(metavar="ID", help="In this session.")]
_Request = Annotated[str | None, typer.Option(metavar="ID", help="In this request.")]
_Trace = Annotated[str | None, typer.Option(metavar="ID", help="In this distributed trace.")]
_Address = Annotated[str | None, typer.Option("--address", metavar="IP", help="From this address.")]
_Component = Annotated[str | None, typer.Option(metavar="NAME", help="In this component.")]
_Operation = Annotated[str | None, typer.Option(metavar="NAME", help="In this operation.")]
_Tag = Annotated[str | None, typer.Option(metavar="TAG", help="With this regulatory tag.")]
_Words = Annotated[str | None, typer.Option("--message", metavar="WORDS", help="With these words in the message.")]
_Metadata = Annotated[
    list[Any] | None,
    typer.Option(
        metavar="NAME=VALUE",
        parser=_value,
        help="With this value in the metadata: NAME=42 a number, NAME='\"42\"' a text; may be repeated.",
    ),
]
_After = Annotated[int | None, typer.Option(metavar="NUMBER", min=0, help="Behind the record with this number.")]
_Before = Annotated[int | None, typer.Option(metavar="NUMBER", min=0, help="Before the record with this number.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each event.")]
_Id = Annotated[str | None, typer.Option("--id", metavar="EVENT_ID", help="The event with this id.")]


def _conditions(
    *,
    since: _Since = None,
    until: _Until = None,
    user: _User = None,
    actor: _Actor = None,
    target: _Target = None,
    types: _Types = None,
    outcome: _Outcome = None,
    level: _Level = None,
    session: _Session = None,
    request: _Request = None,
    trace: _Trace = None,
    address: _Address = None,
    component: _Component = None,
    operation: _Operation = None,
    tag: _Tag = None,
    message: _Words = None,
    metadata: _Metadata = None,
    after: _After = None,
    before: _Before = None,
) -> Conditions:
    """Return the conditions that the options of the command line say."""
    if since is not None and until is not None and until < since:
        # "no events" would be taken for an answer.
        raise typer.BadParameter(f"expected no time before --since, {since}; got {until}", param_hint="--until")
    given = {
        "start_time": since,
        "end_time": until,
        "after": after,
        "before": before,
        "user_id": user,
        "actor": actor,
        "target": target,
        "event_type": types or None,
        "outcome": outcome,
        "min_level": level,
        "session_id": session,
        "request_id": request,
        "trace_id": trace,
        "client_ip": address,
        "component": component,
        "operation": operation,
        "tag": tag,
        "message": message,
        "metadata": dict(metadata) if metadata else None,
    }
    return cast(Conditions, {name: value for name, value in given.items() if value is not None})


def _with_conditions(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options of `_conditions`, in place of its argument *wanted*, which gets their values."""
    options = list(signature(_conditions, eval_str=True).parameters.values())
    own = [each for each in signature(command, eval_str=True).parameters.values() if each.name != "wanted"]

    @functools.wraps(command)
    def ask(**given: Any) -> None:
        command(wanted=_conditions(**{each.name: given.pop(each.name) for each in options}), **given)

    # For typer, which reads the options off the signature: first the directory, and last the command's own.
    vars(ask)["__signature__"] = Signature([*own[:1], *options, *own[1:]])
    return ask


@_with_conditions
def show(
    place: Place,
    *,
    wanted: Conditions,
    archive: WithArchive = None,
    name: WithName = None,
    event_id: _Id = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Begin with the oldest.")] = False,
    as_json: _AsJson = False,
) -> None:
    """
    Show the events that meet all conditions, the newest first.

    A record that can't be read, and may be one of them, is shown as damaged, with its place. With --archive, records
    that retention has removed are found there. The trail may be written to meanwhile. Nothing that is printed can drive
    a terminal.

    Exit code: 0, whatever the trail has; 2 if it can't be read, or there is none.
    """
    if event_id is not None:
        wanted["event_id"] = event_id
    where = named(place, name)
    try:
        if isinstance(where, Path) and archive is None and not oldest_first and not is_of_earlier(where):
            # No more records are read than are shown: `events` reads pages.
            found = TrailReader(where.absolute(), durable=False).page(EventFilter(**wanted), limit + 1).items
        else:
            with opened(where, archive) as trail:
                events = trail.sync.events(oldest_first=oldest_first, on_damage="yield", **wanted)
                found = list(up_to(limit + 1, events))
        if not found:
            require_trail(where)
    except AuditStorageError as error:
        raise failed(error) from None
    shown = list(up_to(limit, found))
    if as_json:
        for item in shown:
            typer.echo(_json(item))
    elif shown:
        output = Output()
        output.show(_table(shown, wide=not output.is_terminal))
    else:
        typer.echo("no events")
    if len(shown) < len(found) and isinstance(found[-1], AuditEvent):
        typer.echo(f"fapilog: there are more than {limit}; --limit shows them", err=True)


@_with_conditions
def tail(
    directory: _Directory,
    *,
    wanted: Conditions,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, until Ctrl-C.")] = False,
    last: Annotated[int, typer.Option("--last", "-n", min=0, help="Begin with so many that are there.")] = 10,
    as_json: _AsJson = False,
) -> None:
    """
    Show the newest events, one per line; with -f, new ones too.

    They meet all conditions, and the oldest of them is the first. It continues over midnight, into the next file.
    Nothing that is printed can drive a terminal.

    Exit code: 0; 2 if the trail can't be read, or without -f if there is none; 130 after Ctrl-C.
    """
    if not (follow or directory.exists()):
        raise typer.BadParameter(f"{str(directory)!r} does not exist.", param_hint="DIR")
    try:
        found = False
        for item in _tail(directory, EventFilter(**wanted), last, follow=follow):
            found = True
            typer.echo(_json(item) if as_json else _line(item))
        if not found:
            require_trail(directory)
    except AuditStorageError as error:
        raise failed(error) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _tail(directory: Path, wanted: EventFilter, last: int, *, follow: bool) -> Iterator[AuditEvent | DamagedRecord]:
    reader = TrailReader(directory.absolute(), durable=False)
    # First the end and then the events before it: an event that comes in between is shown as a new one.
    newest = reader.page(EventFilter(), 1)
    place = _behind(reader, 1, newest.place) if newest.place is not None else None
    hole = next((item for item in newest.items if isinstance(item, DamagedRecord)), None)
    found = reader.page(wanted, last, place).items
    yield from reversed(found)
    if hole is not None and last and hole not in found:
        yield hole
    while follow:
        items, _ = reader.oldest_page(EventFilter(), _PAGE, place)
        for item in items:
            if isinstance(item, AuditEvent):
                if wanted.matches(item):
                    yield item
            elif item != hole:
                # A hole behind the last event is in every page.
                hole = item
                yield item
        if count := sum(isinstance(item, AuditEvent) for item in items):
            place = _behind(reader, count, place)
        else:
            sleep(_LOOK_EVERY)


def _behind(reader: TrailReader, count: int, place: _Place | None) -> _Place | None:
    """Return the place behind the next *count* events, not by their numbers: lines may have been moved."""
    return reader.oldest_page(EventFilter(), count, place).place


@_with_conditions
def count(
    place: Place,
    *,
    wanted: Conditions,
    archive: WithArchive = None,
    name: WithName = None,
    by: Annotated[
        str,
        typer.Option(
            metavar="FIELD", parser=_field, help="A member of events; metadata.NAME or metadata.NAME.NAME; target.type."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """
    Count the events by user, type, address or another member.

    They meet all conditions. Members are user_id, event_type, client_ip and the like.

    Exit code: 0, whatever the trail has; 2 if it can't be read, or there is none.
    """
    where = named(place, name)
    try:
        with opened(where, archive) as trail:
            # Records that are left out are logged, which without handlers goes to the standard error.
            counts = trail.sync.count_by(by, **wanted)
        if not counts:
            require_trail(where)
    except AuditStorageError as error:
        raise failed(error) from None
    if as_json:
        typer.echo(in_json(counts))
        return
    table = headed()
    table.add_column("events", justify="right")
    table.add_column(plain(by), overflow="fold")
    for value, number in counts.items():
        table.add_row(str(number), plain(value) or "-")
    Output().show(table)


def _json(item: AuditEvent | DamagedRecord) -> str:
    return in_json(item if isinstance(item, AuditEvent) else {"damaged_record": item})


def _line(item: AuditEvent | DamagedRecord) -> str:
    if isinstance(item, DamagedRecord):
        return plain(f"damaged: {item}")
    known = (item.user_id, item.target, item.client_ip)
    cells = (
        f"{item.timestamp:%Y-%m-%d %H:%M:%S}",
        f"{item.log_level.value:8}",
        item.event_type.value,
        *(each for each in known if each),
        item.message,
    )
    return plain(f"{item.sequence_number}  {'  '.join(map(str, cells))}")


def _table(items: list[AuditEvent | DamagedRecord], *, wide: bool) -> Table:
    others = ("component", "target", "address") if wide else ()
    table = headed()
    for head in ("record", "time", "level", "type", "user", *others, "message"):
        # The others keep their width: a stranger who tries to sign in with a long name must not crowd them out.
        may_shrink = head in {"user", "message"}
        table.add_column(head, no_wrap=not may_shrink, overflow="fold" if head == "message" else "ellipsis")
    for event in items:
        if isinstance(event, DamagedRecord):
            table.add_row("damaged", *[""] * (4 + len(others)), plain(str(event)), style="yellow")
            continue
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
        table.add_row(*(plain("" if cell is None else str(cell)) for cell in cells))
    return table
