"""A dispatcher that answers by a script, and events for it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio

from fapilog import AuditEvent, AuditEventType

__all__ = ["Call", "Scripted", "an_event"]


@dataclass(frozen=True)
class Call:
    """One call: about which event, and when by the event loop's clock."""

    event_id: str
    at: float


class Scripted:
    """
    Raises one of its outcomes after the other, and takes the alert where there is None; the last one stays.

    `answer`, if there is one, decides instead, from the event.
    """

    def __init__(
        self, *outcomes: BaseException | None, answer: Callable[[AuditEvent], BaseException | None] | None = None
    ) -> None:
        self.outcomes = list(outcomes) or [None]
        self.answer = answer
        self.calls: list[Call] = []
        self.entered = 0
        self.at_once = 0
        self.most_at_once = 0
        self.delay = 0.0

    async def __aenter__(self) -> Self:
        self.entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.entered -= 1

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        # Decided as it is called: a test that has seen the call may write the next part of the script.
        if self.answer is not None:
            outcome = self.answer(event)
        else:
            outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        self.calls.append(Call(event.event_id, anyio.current_time()))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(self.delay)
        finally:
            self.at_once -= 1
        if outcome is not None:
            raise outcome

    @property
    def ids(self) -> list[str]:
        """The events that it was called about."""
        return [call.event_id for call in self.calls]

    @property
    def waits(self) -> list[float]:
        """Seconds between the calls."""
        return [round(later.at - earlier.at, 6) for earlier, later in itertools.pairwise(self.calls)]

    def times(self, event_id: str) -> list[float]:
        """When it was called about an event."""
        return [call.at for call in self.calls if call.event_id == event_id]


def an_event(number: int = 1, **fields: Any) -> AuditEvent:
    """Return a stored event."""
    defaults: dict[str, Any] = {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "event_type": AuditEventType.SECURITY_VIOLATION,
        "message": "someone opened the safe",
        "sequence_number": number,
        "checksum": f"{number:064x}",
    }
    return AuditEvent(**defaults | fields)
