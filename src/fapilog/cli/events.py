"""`fapilog show`, `fapilog tail` and `fapilog count`: the questions that a trail is asked."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import Annotated, Final

import typer
from rich.table import Table

from .. import AuditEvent, DamagedRecord
from ..core._reading import member_of_events
from ..storage._files.places import Place as _Place
from ..storage._files.reader import TrailReader
from ..storage._holes import up_to
from ..storage.archive import Archive
from ..storage.earlier import is_of_earlier
from ..storage.protocol import Conditions, EventFilter
from ._conditions import with_conditions
from ._output import INTERRUPTED, Output, bad_parameters, headed, in_json, plain, storage_failures
from ._place import Place, Where, WithArchive, WithName, directory_at, named, opened, require_trail

__all__ = ["count", "show", "tail"]

_PAGE: Final = 500
# Seconds.
_LOOK_EVERY: Final = 0.5


def _field(given: str) -> str:
    with bad_parameters("field"):
        member_of_events(given)
    return given


def _directory(given: Path | str) -> Path:
    # With -f it may come later.
    path = directory_at(given)
    if path.is_file():
        raise typer.BadParameter(f"{str(path)!r} is a file.")
    return path


_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Where the trail is.", parser=_directory)]
_AsJson = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each event.")]
_Id = Annotated[str | None, typer.Option("--id", metavar="EVENT_ID", help="The event with this id.")]


@with_conditions
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
    where, left = named(place, name), limit
    is_empty, rows = True, list[AuditEvent | DamagedRecord]()
    with storage_failures():
        with _found(where, archive, wanted, limit, oldest_first=oldest_first) as found:
            for item in up_to(limit + 1, found):
                left -= isinstance(item, AuditEvent)
                if left < 0:
                    break
                is_empty = False
                if as_json:
                    # At once: a million lines fill no memory, and with `| head` they end early.
                    typer.echo(_json(item))
                else:
                    rows.append(item)
        if is_empty:
            require_trail(where)
    if rows:
        output = Output()
        output.show(_table(rows, wide=not output.is_terminal))
    elif not as_json:
        typer.echo("no events")
    if left < 0:
        typer.echo(f"fapilog: there are more than {limit}; --limit shows them", err=True)


@contextmanager
def _found(
    where: Where, archive: Archive | None, wanted: Conditions, limit: int, *, oldest_first: bool
) -> Generator[Iterator[AuditEvent | DamagedRecord]]:
    """Give the events that are wanted, and the holes between them."""
    is_short = archive is None and limit < _PAGE and not oldest_first
    if is_short and isinstance(where, Path) and not is_of_earlier(where):
        # No more records are read than are shown: `events` reads pages.
        yield iter(TrailReader(where.absolute(), durable=False).page(EventFilter(**wanted), limit + 1).items)
    else:
        with opened(where, archive) as trail:
            yield trail.sync.events(oldest_first=oldest_first, on_damage="yield", **wanted)


@with_conditions
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
        with storage_failures():
            found = False
            for item in _tail(directory, EventFilter(**wanted), last, follow=follow):
                found = True
                typer.echo(_json(item) if as_json else _line(item))
            if not found:
                require_trail(directory)
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


@with_conditions
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
    with storage_failures():
        with opened(where, archive) as trail:
            # Records that are left out are logged, which without handlers goes to the standard error.
            counts = trail.sync.count_by(by, **wanted)
        if not counts:
            require_trail(where)
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
        _time(item),
        f"{item.log_level.value:8}",
        item.event_type.value,
        *(each for each in known if each),
        item.message,
    )
    return plain(f"{item.sequence_number}  {'  '.join(map(str, cells))}")


def _time(event: AuditEvent) -> str:
    # With its zone: beside it, perhaps, are the lines of a log in local time, and --since takes it.
    return f"{event.timestamp:%Y-%m-%d %H:%M:%SZ}"


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
            _time(event),
            event.log_level.value,
            event.event_type.value,
            event.user_id,
            *more,
            event.message,
        )
        table.add_row(*(plain("" if cell is None else str(cell)) for cell in cells))
    return table
