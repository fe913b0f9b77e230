"""The alerts in an outbox as the command shows them; the file may hold any text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..delivery.outbox._rows import OutboxAlert, OutboxAttempt
from ._output import counted, headed, in_json, plain

__all__ = ["as_json", "duration", "listing", "receipts"]

_COLOURS: Final = {"pending": "yellow", "delivered": "green", "dead": "bold red", "discarded": "dim"}
_MAY_WRAP: Final = {"event", "outbox", "reason"}
_EVENT_ID: Final = 36  # characters
_UNITS: Final = ((86_400, "day"), (3600, "hour"), (60, "minute"))


def duration(seconds: float) -> str:
    """Return how long that is, in words: "3 minutes"."""
    size, unit = next((each for each in _UNITS if seconds >= each[0]), (1, "second"))
    return counted(max(0, int(seconds // size)), unit)


def listing(alerts: Iterable[OutboxAlert], now: datetime, *, wide: bool) -> Table:
    """
    Return a table of alerts.

    Args:
        alerts: The alerts to show.
        now: The time.
        wide: Whether there is room for all of an alert in one line; else some of it stands below.
    """
    others = ("severity", "attempts", "reason") if wide else ()
    table = _table("event", "outbox", "status", "age", *others)
    for alert in alerts:
        event = _text(alert.event_id)
        table.add_row(
            event if wide else Text("\n").join([event, _text(_below(alert), style="dim")]),
            _text(alert.outbox),
            _status(alert),
            _text(_or_unknown(alert, "came_at", duration((now - alert.came_at).total_seconds()))),
            *((_text(alert.severity), _text(_or_unknown(alert, "attempts")), _text(_why(alert))) if wide else ()),
        )
    return table


def receipts(found: Iterable[tuple[OutboxAlert, Sequence[OutboxAttempt]]], now: datetime) -> Group:
    """Return all that is known about alerts and the attempts to deliver them."""
    first, *others = (_receipt(alert, attempts, now) for alert, attempts in found)
    return Group(first, *(Group("", other) for other in others))


def _receipt(alert: OutboxAlert, attempts: Sequence[OutboxAttempt], now: datetime) -> Group:
    fields = Table.grid(padding=(0, 2))
    for name, value in _fields(alert, attempts, now):
        fields.add_row(_text(name, style="dim"), value)
    if not attempts:
        return Group(fields, "\nnever attempted")
    table = _table("attempt", "began", "seconds", "outcome", "reason")
    for attempt in attempts:
        table.add_row(
            _text(_or_unknown(attempt, "number")),
            _text(_or_unknown(attempt, "began_at", _time(attempt.began_at))),
            _text("unknown" if attempt.took is None else f"{attempt.took:.3f}"),
            _text(_or_unknown(attempt, "outcome", attempt.outcome or "under way")),
            _text(_why(attempt)),
        )
    return Group(fields, "", table)


def as_json(alert: OutboxAlert, attempts: Iterable[OutboxAttempt] | None = None) -> str:
    """Return an alert and its *attempts*, if given, as one line of JSON, in ASCII, which no terminal obeys."""
    history = {} if attempts is None else {"history": list(attempts)}
    return in_json(msgspec.to_builtins(alert) | history)


def _below(alert: OutboxAlert) -> str:
    number = _or_unknown(alert, "attempts")
    attempts = "1 attempt" if number == "1" else f"{number} attempts"
    return ": ".join([f"{alert.severity}, {attempts}", *filter(None, [_why(alert)])])


def _or_unknown(shown: OutboxAlert | OutboxAttempt, name: str, value: str | None = None) -> str:
    """Return *value*, or without one the member *name*; "unknown" if the file is damaged there."""
    return "unknown" if name in shown.unreadable else str(getattr(shown, name)) if value is None else value


def _why(shown: OutboxAlert | OutboxAttempt) -> str:
    """Return the reason, and the names of the members that can't be read."""
    damage = f"can't be read: {_damage(shown)}" if shown.unreadable else None
    return "; ".join(filter(None, [shown.reason, damage]))


def _damage(shown: OutboxAlert | OutboxAttempt) -> str:
    return ", ".join(f"{name} ({found})" for name, found in shown.unreadable.items())


def _fields(alert: OutboxAlert, attempts: Sequence[OutboxAttempt], now: datetime) -> Iterator[tuple[str, Text]]:
    yield "event", _text(alert.event_id)
    yield "type", _text(alert.event_type)
    yield "severity", _text(alert.severity)
    if alert.channel is not None:
        yield "channel", _text(alert.channel)
    if alert.sequence_number is not None:
        yield "record", _text(alert.sequence_number)
    yield "outbox", _text(alert.outbox)
    yield "came", _text(_or_unknown(alert, "came_at", _time_and_age(alert.came_at, now)))
    yield "status", _status(alert)
    if alert.ended_at is not None:
        yield "since", _text(_time_and_age(alert.ended_at, now))
    if alert.due_at is not None:
        yield "next", _text(_next(alert.due_at, attempts, now))
    if alert.reason is not None:
        yield "reason", _text(alert.reason)
    if alert.unreadable:
        yield "can't be read", _text(_damage(alert))


def _next(due_at: datetime, attempts: Sequence[OutboxAttempt], now: datetime) -> str:
    if attempts and attempts[-1].outcome is None:
        return "an attempt is under way"
    return f"due at {_time(due_at)}, in {duration((due_at - now).total_seconds())}" if due_at > now else "due now"


def _text(value: object, style: str = "") -> Text:
    return Text(plain(str(value)), style=style)


def _status(alert: OutboxAlert) -> Text:
    return _text(alert.status, style=_COLOURS.get(alert.status, ""))


def _table(*heads: str) -> Table:
    table = headed()
    for head in heads:
        # An event's id is there to be copied.
        least = _EVENT_ID if head == "event" else None
        table.add_column(head, no_wrap=head not in _MAY_WRAP, min_width=least, overflow="fold")
    return table


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _time_and_age(moment: datetime, now: datetime) -> str:
    return f"{_time(moment)}, {duration((now - moment).total_seconds())} ago"
