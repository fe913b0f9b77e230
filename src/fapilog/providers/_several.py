"""One alert for several receivers: who has it, and what to say of those who have not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Final

from ..core.errors import AmbiguousDeliveryError, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from ..core.events import AuditEvent

__all__ = ["Several"]

# Alerts that only some of the receivers have; each is a hundred bytes. Of one that fell out, a retry goes to all.
_MOST_ALERTS: Final = 1000

_Alert = tuple[str, str, str | None]


class Several:
    """
    Remembers which receivers have an alert that others lack, so that a retry goes only to those.

    It is in memory: after a restart, a retry goes to all, with the key that it had before.

    Args:
        name: What to call the other side in messages: "alertmanager".
        receivers: What to call the receivers: "replicas".
    """

    def __init__(self, name: str, receivers: str) -> None:
        self._name = name
        self._receivers = receivers
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
        self, event: AuditEvent, severity: str, channel: str | None, failures: Mapping[int, DeliveryError], total: int
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
            DeliveryError: The failure, if there is only one receiver. Otherwise one that counts those who have it and
                tells of the others: transient if that of any is, else ambiguous if that of any is, else permanent.
        """
        if not failures:
            self._having.pop((event.event_id, severity, channel), None)
            return
        errors = list(failures.values())
        if total == 1:
            raise errors[0]
        words = [f"{total - len(failures)} of {total} {self._receivers} have the alert"]
        numbers: dict[str, list[str]] = {}
        for number, error in sorted(failures.items()):
            numbers.setdefault(str(error).removeprefix(f"{self._name}: "), []).append(f"{number + 1}")
        words += [f"not number {', '.join(lacking)}: {reason}" for reason, lacking in numbers.items()]
        message = f"{self._name}: {'; '.join(words)}"
        if any(isinstance(error, TransientDeliveryError) for error in errors):
            pauses = [error.retry_after for error in errors if isinstance(error, TransientDeliveryError)]
            raise TransientDeliveryError(message, retry_after=max(filter(None, pauses), default=None))
        if any(isinstance(error, AmbiguousDeliveryError) for error in errors):
            raise AmbiguousDeliveryError(message)
        raise PermanentDeliveryError(message)
