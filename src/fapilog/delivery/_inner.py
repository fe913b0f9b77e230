"""The dispatchers inside of another: entered, called and resumed with it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio

from ..core.alerting import Alert, AlertDispatcher, DurableDispatcher, is_resuming, require_dispatcher
from ..record.chain import ChainHead
from ..record.errors import AmbiguousDeliveryError
from ..record.options import several
from ..tasks.background import alone
from ..tasks.life import Life, enter_all, leave_all
from ..tasks.strangers import contained

__all__ = [
    "Managers",
    "checked",
    "deliver",
    "kept_in",
    "kinds",
    "missing_from",
    "oldest_pending",
    "require_names",
    "resume_from",
    "resumed_to",
    "resuming",
]


class Managers:
    """
    Enters dispatchers that are asynchronous context managers, in order, and leaves them.

    A dispatcher is entered and left in a task of its own, so that any task may enter the wrapper, and any other leave
    it. If entering one fails, the entered ones are left. May be entered again while it is entered, if they may.
    """

    def __init__(self, dispatchers: Iterable[AlertDispatcher]) -> None:
        self._managers: Final = [each for each in dispatchers if isinstance(each, AbstractAsyncContextManager)]
        self._entered: list[list[Life]] = []

    async def enter(self) -> None:
        """Enter them."""
        self._entered.append(await enter_all(self._managers))

    async def leave(self) -> None:
        """Leave all, the last entered first, even if one of them raises."""
        await leave_all(self._entered.pop())


def checked(dispatchers: Iterable[AlertDispatcher]) -> list[AlertDispatcher]:
    """Return *dispatchers* as a list; raise TypeError if one is none, ValueError if there are none, or one twice."""
    listed = several("dispatchers", dispatchers, expected="a list of dispatchers")
    given = [require_dispatcher(f"dispatchers[{number}]", each) for number, each in enumerate(listed)]
    if not given:
        raise ValueError("dispatchers: expected at least one; got none")
    if len({id(each) for each in given}) < len(given):
        raise ValueError("dispatchers: expected every dispatcher once; got one of them twice")
    require_names("dispatchers", given)
    return given


def require_names(options: str, dispatchers: Iterable[AlertDispatcher]) -> None:
    """
    Raise ValueError, whose message begins with *options*, if two outboxes among *dispatchers* are one by their name.

    Only one of them would send an alert, and not both; the second can't be entered.
    """
    places = [
        (place, getattr(each, "name", ""))
        for each in dispatchers
        if (place := getattr(each, "place", None)) is not None
    ]
    for place, name in places:
        if places.count((place, name)) > 1:
            got = f"two outboxes named {name!r}; give each its own name="
            raise ValueError(f"{options}: expected one name for each outbox in a place; got {got}")


def kinds(dispatchers: Iterable[AlertDispatcher]) -> list[str]:
    """Return the names of the types: no more may be logged of a foreign dispatcher."""
    return [type(each).__qualname__ for each in dispatchers]


async def deliver(dispatcher: AlertDispatcher, alert: Alert, timeout: float | None) -> Exception | None:
    """
    Send *alert* to *dispatcher* once, and return the error if it may not have it; None if it has.

    Args:
        dispatcher: Runs in a task of its own, which it may cancel.
        alert: The alert.
        timeout: Seconds that it may take before it is cancelled; None for no limit.
    """
    outcome: Exception | None = AmbiguousDeliveryError("it cancelled its own task")

    async def send() -> None:
        nonlocal outcome
        with anyio.move_on_after(timeout) as limit:
            try:
                with contained():
                    await dispatcher.send_alert(alert.event, severity=alert.severity, channel=alert.channel)
                outcome = None
            except Exception as error:
                outcome = error
        if limit.cancelled_caught:
            outcome = AmbiguousDeliveryError(f"it did not return within {timeout:g} s")

    await alone(send)
    return outcome


def resuming(dispatchers: Iterable[AlertDispatcher]) -> list[DurableDispatcher]:
    """Return the dispatchers that keep alerts."""
    return [each for each in dispatchers if is_resuming(each)]


async def resume_from(dispatchers: Iterable[AlertDispatcher], head: ChainHead, *, anew: bool) -> ChainHead:
    """Ask all that resume for their marks, and return the oldest."""
    marks = [await each.resume_from(head, anew=anew) for each in resuming(dispatchers)]
    return min(marks, key=lambda mark: mark.sequence_number, default=head)


async def resumed_to(dispatchers: Iterable[AlertDispatcher], mark: ChainHead) -> None:
    """Tell all that resume."""
    for each in resuming(dispatchers):
        await each.resumed_to(mark)


async def oldest_pending(dispatchers: Iterable[AlertDispatcher]) -> int | None:
    """Return the number of the first event about which an alert is pending in any that resumes; None without one."""
    asked = [getattr(each, "oldest_pending", None) for each in resuming(dispatchers)]
    numbers = [await each() for each in asked if each is not None]
    return min((number for number in numbers if number is not None), default=None)


def kept_in(dispatchers: Iterable[AlertDispatcher], storage: object, alert: Alert) -> list[str]:
    """Return the names of all outboxes that keep *alert* in *storage*."""
    asked = [getattr(each, "kept_in", None) for each in dispatchers]
    return [name for each in asked if each is not None for name in each(storage, alert)]


async def missing_from(dispatcher: DurableDispatcher, alerts: Sequence[Alert]) -> set[Hashable]:
    """Return the keys of the *alerts* that *dispatcher* lacks."""
    return {alert.key for alert in await dispatcher.lacking(alerts)}
