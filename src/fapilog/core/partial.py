"""One alert for several receivers: which of them have the alert, and one error for all that do not."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Final

from ..record.errors import (
    AmbiguousDeliveryError,
    BrokenRouteError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
    reason,
)
from ..record.privacy import Uncopied
from ..tasks.fork import call_in_child
from .alerting import Alert, pause_of

__all__ = ["PartialDelivery", "combined"]

# Alerts that only some of the receivers have; an alert takes a hundred bytes. A retry of a forgotten alert goes to all.
_MOST_ALERTS: Final = 1000


class PartialDelivery(Uncopied):
    """
    Remembers which receivers have an alert, so that a retry goes only to the receivers that lack it.

    The memory ends with the process: after a restart, a retry goes to all, with the key that the alert had before. Its
    methods may be called from any thread.

    Args:
        name: The name of the target in messages: "alertmanager".
        receivers: The word for the receivers: "replicas".
        kinds: The kinds of the receivers, where they differ; named in messages.
    """

    def __init__(self, name: str, receivers: str, *, kinds: Sequence[str] = ()) -> None:
        self._name = name
        self._receivers = receivers
        self._kinds = kinds
        self._having: OrderedDict[Hashable, set[int]] = OrderedDict()
        self._lock = threading.RLock()
        call_in_child(self, PartialDelivery._renew_lock)

    def receivers_without(self, alert: Alert, receivers: Collection[int]) -> list[int]:
        """Return the *receivers*, by the numbers of their places, that do not have *alert*."""
        with self._lock:
            having = self._having.get(alert.key, set[int]())
            return [number for number in receivers if number not in having]

    def delivered(self, alert: Alert, receiver: int) -> None:
        """Note at once that *receiver* has *alert*: the call may be cancelled while other receivers take their time."""
        with self._lock:
            self._having.setdefault(alert.key, set()).add(receiver)
            while len(self._having) > _MOST_ALERTS:
                self._having.popitem(last=False)

    def finish(self, alert: Alert, failures: Mapping[int, Exception], total: int) -> None:
        """
        Forget *alert* if there are no *failures*; else raise one error for all of them.

        Args:
            alert: The alert that was sent.
            failures: The receivers that did not take the alert, and why.
            total: How many receivers should have the alert.

        Raises:
            DeliveryError: The error that `combined` returns.
        """
        if failures:
            raise combined(self._name, self._receivers, failures, total, kinds=self._kinds)
        with self._lock:
            self._having.pop(alert.key, None)

    def _renew_lock(self) -> None:
        # A thread that the child does not have may hold the lock.
        self._lock = threading.RLock()


def combined(
    name: str, receivers: str, failures: Mapping[int, Exception], total: int, *, kinds: Sequence[str] = ()
) -> DeliveryError:
    """
    Return one error for all *failures*.

    A single receiver's `DeliveryError` is returned as it is. Otherwise the error counts the receivers that have the
    alert and names the failed ones: it is transient if any failure is, with the longest pause of all; else permanent if
    all are; else ambiguous. An exception that is no `DeliveryError` counts as ambiguous: the alert may have arrived. Of
    permanent ones, a `BrokenRouteError` stays one if all receivers raised it, and is transient otherwise. An ambiguous
    error is `repeatable` if it is for every receiver that may have the alert.

    Args:
        name: As for `PartialDelivery`.
        receivers: As for `PartialDelivery`.
        failures: The receivers that did not take the alert, by the numbers of their places, and why; at least one.
        total: How many receivers should have the alert.
        kinds: As for `PartialDelivery`.
    """
    errors = list(failures.values())
    if total == 1 and isinstance(errors[0], DeliveryError):
        return errors[0]
    words = [f"{total - len(failures)} of {total} {receivers} have the alert"]
    if kinds and len(failures) < total:
        words[0] += f", number {_listed([number for number in range(total) if number not in failures], kinds)}"
    numbers: dict[str, list[int]] = {}
    for number, error in sorted(failures.items()):
        numbers.setdefault(reason(error).removeprefix(f"{name}: "), []).append(number)
    words += [f"not number {_listed(lacking, kinds)}: {why}" for why, lacking in numbers.items()]
    message = f"{name}: {'; '.join(words)}"
    if any(isinstance(error, TransientDeliveryError) for error in errors):
        pauses = [pause for error in errors if (pause := pause_of(error, math.inf)) is not None]
        return TransientDeliveryError(message, retry_after=max(pauses, default=None))
    if all(isinstance(error, PermanentDeliveryError) for error in errors):
        broken = sum(isinstance(error, BrokenRouteError) for error in errors)
        if not broken:
            return PermanentDeliveryError(message)
        # A route that is broken for one receiver must not keep the alerts from the other receivers.
        return BrokenRouteError(message) if broken == total else TransientDeliveryError(message)
    unknown = [error for error in errors if not isinstance(error, PermanentDeliveryError)]
    repeatable = all(isinstance(error, AmbiguousDeliveryError) and error.repeatable for error in unknown)
    return AmbiguousDeliveryError(message, repeatable=repeatable)


def _listed(numbers: Collection[int], kinds: Sequence[str]) -> str:
    return ", ".join(f"{number + 1} ({kinds[number]})" if kinds else f"{number + 1}" for number in numbers)
