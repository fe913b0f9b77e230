"""`fapilog alerts`: show, retry and discard the alerts in the file or database of an outbox."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import typer

from .. import OutboxError
from ..delivery.outbox._file.place import OutboxFile
from ..delivery.outbox._place import Place, Queue
from ..delivery.outbox._rows import Status
from ..record.values import text
from ._output import NO, Output, failed, plain
from ._place import WithName, in_postgres, is_dsn
from .receipts import as_json, listing, receipts

__all__ = ["alerts", "discard", "list_", "retry", "show"]

T = TypeVar("T")

# Reasons why an alert could not be retried or discarded.
_WHY_NOT: Final[dict[str, str]] = {
    "pending": "it is being sent",
    "dead": "its event is not in the outbox",
    "delivered": "it was delivered",
    "discarded": "it was discarded already",
}

_Where = Annotated[
    str,
    typer.Argument(
        metavar="FILE|DSN",
        help="The file of the outbox, or the database, as in postgresql://host/database.",
        show_default=False,
    ),
]
# Bytes that are no text come as lone surrogates, which the file can't be asked for.
_Outbox = Annotated[
    str | None,
    typer.Option(metavar="NAME", parser=text, help="Only this outbox, where a file has several.", show_default=False),
]
_Json = Annotated[bool, typer.Option("--json", help="Print a line of JSON for each alert.")]

alerts: Final = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@alerts.callback()
def _alerts() -> None:
    """
    Show, retry and discard the alerts of an outbox.

    The service may run meanwhile.
    """


@alerts.command("list")
def list_(
    where: _Where,
    *,
    status: Annotated[
        Literal[Status, "all"] | None, typer.Option(help="Which alerts.", show_default="pending and dead")
    ] = None,
    trail: WithName = None,
    outbox: _Outbox = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most: the oldest ones.")] = 100,
    as_lines_of_json: _Json = False,
) -> None:
    """
    List the alerts that are not delivered, or by status.

    Exit code: 0, whatever there is; 2 if the outbox can't be used.
    """
    statuses = _statuses(status)
    # One more, to see whether there are more.
    found = _transact(_opened(where, trail), outbox, lambda queue: queue.alerts(outbox, statuses, limit=limit + 1))
    shown = found[:limit]
    if as_lines_of_json:
        for alert in shown:
            typer.echo(as_json(alert))
    elif shown:
        output = Output()
        output.show(listing(shown, datetime.now(UTC), wide=not output.is_terminal))
    else:
        typer.echo(f"no alerts are {' or '.join(statuses)}" if status != "all" else "no alerts")
    if len(found) > limit:
        typer.echo(f"fapilog: there are more than {limit}; --limit shows them", err=True)


@alerts.command()
def show(
    where: _Where,
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID", parser=text, help="The event that it is about.")],
    *,
    trail: WithName = None,
    as_lines_of_json: _Json = False,
) -> None:
    """
    Show the alert about an event, and all attempts.

    It is looked for in every outbox of the file or trail.

    Exit code: 0 if there is one, 1 if not, 2 if the outbox can't be used.
    """
    found = _transact(
        _opened(where, trail),
        None,
        lambda queue: [(each, queue.attempts(each.outbox, event_id)) for each in queue.alerts(event_id=event_id)],
    )
    if not found:
        raise failed(f"{event_id}: there is no such alert", NO)
    if as_lines_of_json:
        for alert, attempts in found:
            typer.echo(as_json(alert, attempts))
    else:
        Output().show(receipts(found, datetime.now(UTC)))


@alerts.command()
def retry(
    where: _Where,
    event_ids: Annotated[
        list[str] | None, typer.Argument(metavar="EVENT_ID", parser=text, help="The events that they are about.")
    ] = None,
    *,
    all_dead: Annotated[bool, typer.Option("--all-dead", help="All alerts that are dead.")] = False,
    trail: WithName = None,
    outbox: _Outbox = None,
) -> None:
    """
    Make alerts due now, on a new schedule.

    The named alerts may be dead, discarded or waiting. The service sends them, within seconds if it runs; an alert that
    may have arrived already is sent again.

    Exit code: 0 if it is done, 1 if a named alert can't be retried, 2 if the outbox can't be used.
    """
    if bool(event_ids) == all_dead:
        raise typer.BadParameter("expected either EVENT_ID or --all-dead")
    now = time.time()

    def retry_one(queue: Queue, event_id: str) -> int:
        return queue.retry(outbox, [event_id], now)

    if event_ids:
        _change(_opened(where, trail), outbox, event_ids, retry_one, "due now")
    else:
        count = _transact(_opened(where, trail), outbox, lambda queue: queue.retry(outbox, None, now), writes=True)
        _say(count, "due now")


@alerts.command()
def discard(
    where: _Where,
    event_ids: Annotated[
        list[str], typer.Argument(metavar="EVENT_ID", parser=text, help="The events that they are about.")
    ],
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; it is kept with them.", show_default=False)],
    trail: WithName = None,
    outbox: _Outbox = None,
) -> None:
    """
    Give up alerts that are dead or pending.

    They stay in the outbox, with the reason, and can be retried.

    Exit code: 0 if it is done, 1 if one of them can't be discarded, 2 if the outbox can't be used.
    """
    if not reason.strip():
        raise typer.BadParameter("expected words", param_hint="--reason")
    now = time.time()

    def discard_one(queue: Queue, event_id: str) -> int:
        return queue.discard(outbox, [event_id], reason, now)

    _change(_opened(where, trail), outbox, event_ids, discard_one, "discarded")


def _statuses(status: Literal[Status, "all"] | None) -> list[Status]:
    if status is None:
        return ["pending", "dead"]
    # For a damaged file also the alerts without a valid status.
    return [] if status == "all" else [status]


def _opened(where: str, trail: str | None) -> Place:
    """Return the place that an argument names; nothing is opened."""
    if not is_dsn(where):
        if trail is not None:
            raise typer.BadParameter("expected an outbox in PostgreSQL", param_hint="--trail")
        return OutboxFile(Path(where), must_exist=True)
    storage = in_postgres(where, trail, "DSN")
    from ..delivery.outbox._postgres.place import Database  # noqa: PLC0415  an extra of its own

    return Database(storage)


def _transact(place: Place, outbox: str | None, call: Callable[[Queue], T], *, writes: bool = False) -> T:
    """Return the result of *call*, made in a transaction; where the outbox can't be used, say why and exit with 2."""

    def checked(queue: Queue) -> T:
        names = queue.outboxes()
        if not names:
            # Of a trail whose name is mistaken, say: that it has no alerts would be no answer.
            raise OutboxError(f"{place}: there is no outbox")
        if outbox is not None and outbox not in names:
            raise OutboxError(f"{place}: there is no outbox {outbox}; there is: {', '.join(names)}")
        return call(queue)

    try:
        [result] = place.run([checked], writes=writes)
    except OutboxError as error:
        raise failed(error) from None
    finally:
        place.close()
    return result


def _change(
    place: Place,
    outbox: str | None,
    event_ids: Sequence[str],
    change: Callable[[Queue, str], int],
    done: str,
) -> None:
    """Make *change* to the alerts that are named, and say how many there were; exit with 1 if one was left out."""

    def change_all(queue: Queue) -> tuple[int, dict[str, str]]:
        counts = {each: change(queue, each) for each in dict.fromkeys(event_ids)}
        return sum(counts.values()), {each: _why_not(queue, outbox, each) for each in counts if not counts[each]}

    count, failures = _transact(place, outbox, change_all, writes=True)
    _say(count, done)
    for event_id, why in failures.items():
        typer.echo(f"fapilog: {plain(event_id)}: {why}", err=True)
    if failures:
        raise typer.Exit(NO)


def _why_not(queue: Queue, outbox: str | None, event_id: str) -> str:
    found = queue.alerts(outbox, event_id=event_id, limit=1)
    if not found:
        return "there is no such alert"
    status = found[0].status
    return _WHY_NOT.get(status, f"its status is {plain(status)}")


def _say(count: int, done: str) -> None:
    typer.echo(f"1 alert is {done}" if count == 1 else f"{count} alerts are {done}")
