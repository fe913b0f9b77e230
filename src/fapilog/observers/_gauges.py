"""The gauges of observers: the contents of outboxes, and the lag of replicas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from ..record.values import kind_of

__all__ = ["ALL", "Backlog", "Gauge", "HasBacklog", "HasState", "Measured", "State", "measured"]


class Backlog(Protocol):
    """The alerts or records that wait."""

    @property
    def pending(self) -> int:
        """Alerts that are not delivered yet, or records that are not replicated yet."""
        ...

    @property
    def oldest(self) -> float | None:
        """When the oldest one came, in seconds since 1970; None if there is none."""
        ...


class State(Backlog, Protocol):
    """How much is in an outbox."""

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
        The contents of the outbox; reading it at any time, from any thread, neither waits nor raises.

        A new object after every count, even with the same numbers: so an observer knows that they are new.
        """
        ...


class HasBacklog(Protocol):
    """A replication, as far as observers see it: `fapilog.storage.replication.Replication`, or one of your own."""

    @property
    def name(self) -> str:
        """The name of the replica."""
        ...

    @property
    def state(self) -> Backlog:
        """How far the replica is behind; read and renewed as the state of an outbox."""
        ...


class Gauge(NamedTuple):
    """
    A number to measure.

    Attributes:
        of: "outbox" or "replication"; in the name of the metric, and the name of its label.
        name: The part after that in the name of the metric.
        unit: The unit in OpenTelemetry's form.
        description: One sentence, shown with the metric.
        read: Reads the number from a state.
    """

    of: str
    name: str
    unit: str
    description: str
    read: Callable[[Any], float]


def _pending(state: Backlog) -> float:
    return state.pending


def _dead(state: State) -> float:
    return state.dead


def _age(state: Backlog) -> float:
    return 0.0 if state.oldest is None else max(0.0, time.time() - state.oldest)


_OUTBOX: Final = (
    Gauge("outbox", "pending", "{alert}", "Alerts that are not delivered yet.", _pending),
    Gauge("outbox", "oldest_pending", "s", "Time since the oldest alert that is not delivered yet came.", _age),
    Gauge("outbox", "dead", "{alert}", "Alerts that were refused or given up on.", _dead),
)
_REPLICATION: Final = (
    Gauge("replication", "pending", "{record}", "Records that are not replicated yet.", _pending),
    Gauge(
        "replication", "oldest_pending", "s", "Time since the oldest record that is not replicated was stored.", _age
    ),
)

ALL: Final = (*_OUTBOX, *_REPLICATION)
"""The gauges of both."""


class Measured(NamedTuple):
    """
    An outbox or a replication, and its gauges.

    Attributes:
        item: Has a name and a state.
        gauges: Read from the state.
    """

    item: HasState | HasBacklog
    gauges: tuple[Gauge, ...]


def measured(outboxes: Iterable[HasState], replications: Iterable[HasBacklog]) -> list[Measured]:
    """
    Return *outboxes* and *replications* with their gauges.

    Raises:
        TypeError: They are no list, or one of them has no name and state.
        ValueError: Two outboxes, or two replications, have the same name.
    """
    return [
        *(Measured(outbox, _OUTBOX) for outbox in _with_unique_names("outboxes", outboxes)),
        *(Measured(replication, _REPLICATION) for replication in _with_unique_names("replications", replications)),
    ]


def _with_unique_names(option: str, items: Iterable[HasState | HasBacklog]) -> list[HasState | HasBacklog]:
    if not isinstance(items, Iterable):
        raise TypeError(f"{option}: expected a list; got {kind_of(items)}")
    given = list(items)
    for item in given:
        if not (hasattr(item, "name") and hasattr(item, "state")):
            raise TypeError(f"{option}: expected objects with a name and a state; got {kind_of(item)} among them")
    names = [item.name for item in given]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{option}: expected names of their own; got several that are called {', '.join(twice)}")
    return given
