"""The reading of outboxes for observers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, Protocol

__all__ = ["GAUGES", "Gauge", "HasState", "State", "with_unique_names"]


class State(Protocol):
    """How much is in an outbox."""

    @property
    def pending(self) -> int:
        """Alerts that are not delivered yet."""
        ...

    @property
    def oldest(self) -> float | None:
        """When the oldest of them came, in seconds since 1970; None if there is none."""
        ...

    @property
    def dead(self) -> int:
        """Alerts that were refused or given up on."""
        ...


class HasState(Protocol):
    """An outbox, as far as observers see it: `fapilog.delivery.outbox.Outbox`, or one of your own."""

    @property
    def name(self) -> str:
        """The name of the outbox."""
        ...

    @property
    def state(self) -> State:
        """
        How much is in it; asked for at any time, from any thread, it neither waits nor raises.

        A new object after every count, even with the same numbers: so an observer knows that they are new.
        """
        ...


class Gauge(NamedTuple):
    """
    Something to measure of an outbox.

    Attributes:
        name: The part after "outbox" in the name of the metric.
        unit: As OpenTelemetry writes it.
        description: One sentence, shown with the metric.
        read: Reads it.
    """

    name: str
    unit: str
    description: str
    read: Callable[[State], float]


def _pending(state: State) -> float:
    return state.pending


def _dead(state: State) -> float:
    return state.dead


def _age(state: State) -> float:
    return 0.0 if state.oldest is None else max(0.0, time.time() - state.oldest)


GAUGES: Final = (
    Gauge("pending", "{alert}", "Alerts that are not delivered yet.", _pending),
    Gauge("oldest_pending", "s", "Time since the oldest alert that is not delivered yet came.", _age),
    Gauge("dead", "{alert}", "Alerts that were refused or given up on.", _dead),
)


def with_unique_names(outboxes: Iterable[HasState]) -> list[HasState]:
    """
    Return *outboxes*, whose names all differ.

    Raises:
        ValueError: Two have the same name.
    """
    given = list(outboxes)
    names = [outbox.name for outbox in given]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"outboxes: expected names of their own; got several that are called {', '.join(twice)}")
    return given
