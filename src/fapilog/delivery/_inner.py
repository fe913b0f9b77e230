"""The dispatchers inside of another: entered, called and resumed with it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final, Self

import anyio

from ..core.alerting import (
    Alert,
    AlertDispatcher,
    DeliveryReport,
    DurableDispatcher,
    Reporter,
    is_resuming,
    reporter,
    require_dispatcher,
)
from ..record.chain import ChainHead
from ..record.errors import AmbiguousDeliveryError
from ..record.options import several
from ..tasks.background import alone
from ..tasks.life import Life, enter_all, leave_all
from ..tasks.strangers import contained

__all__ = [
    "Managers",
    "ResumingWrapper",
    "Wrapper",
    "checked",
    "deliver",
    "kept_in",
    "kinds",
    "missing_from",
    "require_names",
]

# More than anybody writes by hand. A call goes through all of them, on the stack of its caller: hundreds have no room.
_MAX_DEPTH: Final = 32


class Managers:
    """
    Enters dispatchers that are asynchronous context managers, in order, and leaves them.

    A dispatcher is entered and left in a task of its own, so that any task may enter the wrapper, and any other leave
    it. If entering one fails, the entered ones are left. May be entered again while it is entered, if they may.

    Attributes:
        dispatchers: All of them, also those that are no context managers.
        depth: How many of our wrappers are inside of each other, with the one around these.

    Raises:
        ValueError: More wrappers are inside of each other than the stack has room for.
    """

    def __init__(self, dispatchers: Sequence[AlertDispatcher]) -> None:
        self.dispatchers: Final = dispatchers
        self.depth: Final[int] = 1 + max((each.depth for each in map(_managers_of, dispatchers) if each), default=0)
        if self.depth > _MAX_DEPTH:
            raise ValueError(f"expected at most {_MAX_DEPTH} wrappers inside of each other; got more")
        self._managers: Final = [each for each in dispatchers if isinstance(each, AbstractAsyncContextManager)]
        self._entered: list[list[Life]] = []

    async def enter(self) -> None:
        """Enter them."""
        self._entered.append(await enter_all(self._managers))

    async def leave(self) -> None:
        """Leave all, the last entered first, even if one of them raises."""
        await leave_all(self._entered.pop())


class Wrapper:
    """
    A dispatcher around others, which are entered and left with it if they are asynchronous context managers.

    Args:
        dispatchers: The dispatchers inside.
    """

    def __init__(self, dispatchers: Sequence[AlertDispatcher]) -> None:
        self._dispatchers: Final = dispatchers
        self._managers = Managers(dispatchers)
        # The reporter of the trail, while this is entered.
        self._reporter: Reporter | None = None

    async def __aenter__(self) -> Self:
        await self._managers.enter()
        self._reporter = reporter.get()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reporter = None
        await self._managers.leave()

    def _report(
        self, alert: Alert, error: Exception | None, *, target: str, attempt: int, called: float, began: float
    ) -> None:
        """
        Report an attempt, from *began* to now, to the trail; the alert came at *called*, on the event loop's clock.

        The *target* is the name of the dispatcher's type; *error* is None if the dispatcher has taken the alert.
        """
        if self._reporter is not None:
            self._reporter.attempted(
                DeliveryReport(
                    event=alert.event,
                    severity=alert.severity,
                    channel=alert.channel,
                    waited=began - called,
                    took=anyio.current_time() - began,
                    error=error,
                    target=target,
                    attempt=attempt,
                )
            )


class ResumingWrapper(Wrapper):
    """A wrapper that resumes if a dispatcher inside of it does: its mark is the oldest of theirs."""

    @property
    def resumes(self) -> bool:
        """Whether any of the dispatchers does."""
        return any(map(is_resuming, self._dispatchers))

    async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
        """Return the oldest mark of the dispatchers that resume; raises as they do."""
        marks = [await each.resume_from(head, anew=anew) for each in self._resuming()]
        return min(marks, key=lambda mark: mark.sequence_number, default=head)

    async def resumed_to(self, mark: ChainHead) -> None:
        """Tell all that resume."""
        for each in self._resuming():
            await each.resumed_to(mark)

    async def oldest_pending(self) -> int | None:
        """Return the number of the first event about which an alert is pending in any; None if none is."""
        asked = [getattr(each, "oldest_pending", None) for each in self._resuming()]
        numbers = [await each() for each in asked if each is not None]
        return min((number for number in numbers if number is not None), default=None)

    def _resuming(self) -> list[DurableDispatcher]:
        return [each for each in self._dispatchers if is_resuming(each)]


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
    Raise ValueError, whose message begins with *options*, if two outboxes are one by their name.

    Only one of them would send an alert, and not both; the second can't be entered. The outboxes are those among
    *dispatchers* and inside of them, at any depth of our wrappers.
    """
    used = set[tuple[object, str]]()
    for each in _with_inner(dispatchers):
        if (place := getattr(each, "place", None)) is None:
            continue
        name = getattr(each, "name", "")
        if (place, name) in used:
            got = f"two outboxes named {name!r}; give each its own name="
            raise ValueError(f"{options}: expected one name for each outbox in a place; got {got}")
        used.add((place, name))


def _with_inner(dispatchers: Iterable[AlertDispatcher]) -> list[AlertDispatcher]:
    """Return *dispatchers* and all inside of them, each once, wherever it stands."""
    found: dict[int, AlertDispatcher] = {}
    left = list(dispatchers)
    while left:
        each = left.pop()
        if id(each) not in found:
            found[id(each)] = each
            managers = _managers_of(each)
            left += managers.dispatchers if managers else ()
    return list(found.values())


def _managers_of(dispatcher: AlertDispatcher) -> Managers | None:
    """Return what enters the dispatchers inside of *dispatcher*; None if it is no wrapper of ours."""
    managers = getattr(dispatcher, "_managers", None)
    return managers if isinstance(managers, Managers) else None


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


def kept_in(dispatchers: Iterable[AlertDispatcher], storage: object, alert: Alert) -> list[str]:
    """Return the names of all outboxes that keep *alert* in *storage*."""
    asked = [getattr(each, "kept_in", None) for each in dispatchers]
    return [name for each in asked if each is not None for name in each(storage, alert)]


async def missing_from(dispatcher: DurableDispatcher, alerts: Sequence[Alert]) -> set[Hashable]:
    """Return the keys of the *alerts* that *dispatcher* lacks."""
    return {alert.key for alert in await dispatcher.lacking(alerts)}
