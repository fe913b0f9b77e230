"""The options of the commands that ask a trail for events, and the conditions that they stand for."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from inspect import Signature, signature
from typing import Annotated, Any, Final, cast

import typer

from .. import AuditEventType, AuditLogLevel, AuditOutcome
from ..record.kinds import member
from ..storage.protocol import Conditions
from ._output import bad_parameters

__all__ = ["with_conditions"]

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
    with bad_parameters("type"):
        return member(AuditEventType, given, "type")


def _value(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"expected NAME=VALUE; got {given!r}")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):  # nested too deeply, say
        return name, value


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


def with_conditions(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options of `_conditions`, in place of its argument *wanted*, which gets their values."""
    options = list(signature(_conditions, eval_str=True).parameters.values())
    own = [each for each in signature(command, eval_str=True).parameters.values() if each.name != "wanted"]

    @functools.wraps(command)
    def ask(**given: Any) -> None:
        command(wanted=_conditions(**{each.name: given.pop(each.name) for each in options}), **given)

    # For typer, which reads the options off the signature: first the directory, and last the command's own.
    vars(ask)["__signature__"] = Signature([*own[:1], *options, *own[1:]])
    return ask
