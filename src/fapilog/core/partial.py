"""One alert for several receivers: who has it, and what to say of those who have not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ..record.errors import (
    AmbiguousDeliveryError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
    reason,
)
from ..record.events import AuditEvent

__all__ = ["PartialDelivery", "combined"]

# Alerts that only some of the receivers have; each is a hundred bytes. Of one that fell out, a retry goes to all.
_MOST_ALERTS: Final = 1000

_Alert = tuple[str, str, str | None]


class PartialDelivery:
    """
    Remembers which receivers have an alert that others lack, so that a retry goes only to those.

    It is in memory: after a restart, a retry goes to all, with the key that it had before.

    Args:
        name: What to call the other side in messages: "alertmanager".
        receivers: What to call the receivers: "replicas".
        kinds: What each of the receivers is, where they differ; named in messages.
    """

    def __init__(self, name: str, receivers: str, *, kinds: Sequence[str] = ()) -> None:
        self._name = name
        self._receivers = receivers
        self._kinds = kinds
        self._having: OrderedDict[_Alert, set[int]] = OrderedDict()

    def lacking(self, event: AuditEvent, severity: str, channel: str | None, receivers: Collection[int]) -> list[int]:
        """Return those of *receivers*, which are the numbers of their places, that do not have the alert."""
        having = self._having.get((event.event_id, severity, channel), set[int]())
        return [number for number in receivers if number not in having]

    def delivered(self, event: AuditEvent, severity: str, channel: str | None, receiver: int) -> None:
        """Note at once that *receiver* has the alert: the others may take until the call is cancelled."""
        self._having.setdefault((event.event_id, severity, channel), set()).add(receiver)
        while len(self._having) > _MOST_ALERTS:
            self._having.popitem(last=False)

    def finish(
        self, event: AuditEvent, severity: str, channel: str | None, failures: Mapping[int, Exception], total: int
    ) -> None:
        """
        Forget the alert if there are no *failures*; else raise what they come to.

        Args:
            event: As for `delivered`.
            severity: As for `delivered`.
            channel: As for `delivered`.
            failures: The receivers that did not take it, and why.
            total: How many should have it.

        Raises:
            DeliveryError: What `combined` returns.
        """
        if failures:
            raise combined(self._name, self._receivers, failures, total, kinds=self._kinds)
        self._having.pop((event.event_id, severity, channel), None)


def combined(
    name: str, receivers: str, failures: Mapping[int, Exception], total: int, *, kinds: Sequence[str] = ()
) -> DeliveryError:
    """
    Return one error for all *failures*.

    If there is only one receiver, its own. Otherwise one that counts those who have the alert and tells of the others:
    transient if any is, asking for the longest pause; else permanent if all are; else ambiguous, which is what an
    exception that is no `DeliveryError` counts as, since the alert may have arrived.

    Args:
        name: As for `PartialDelivery`.
        receivers: As for `PartialDelivery`.
        failures: The receivers that did not take it, by the numbers of their places, and why; at least one.
        total: How many should have it.
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
    transient = [error for error in errors if isinstance(error, TransientDeliveryError)]
    if transient:
        pauses = [error.retry_after for error in transient if error.retry_after is not None and error.retry_after >= 0]
        return TransientDeliveryError(message, retry_after=max(pauses, default=None))
    if all(isinstance(error, PermanentDeliveryError) for error in errors):
        return PermanentDeliveryError(message)
    return AmbiguousDeliveryError(message)


def _listed(numbers: Collection[int], kinds: Sequence[str]) -> str:
    return ", ".join(f"{number + 1} ({kinds[number]})" if kinds else f"{number + 1}" for number in numbers)
