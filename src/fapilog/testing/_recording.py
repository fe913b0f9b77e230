"""A dispatcher that remembers its alerts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..record.events import AuditEvent
from ..tasks.loops import Condition

__all__ = ["RecordedAlert", "RecordingDispatcher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAlert:
    """
    One call of a `RecordingDispatcher`.

    Attributes:
        event: The event of the call.
        severity: The severity of the call.
        channel: The channel of the call; None if it was left out.
    """

    event: AuditEvent
    severity: str
    channel: str | None


class RecordingDispatcher:
    """
    Remembers every alert when it is called, then waits and raises as its options say.

    Args:
        wait: Awaited in every call: ``anyio.sleep_forever`` makes it hang, the `wait` of an `anyio.Event` makes it wait
            for you.
        error: Raised by every call, after the wait.

    Attributes:
        alerts: The alerts, in the order of the calls.
        wait: As above; it may be changed between calls.
        error: As above; it may be changed between calls.
    """

    def __init__(
        self, *, wait: Callable[[], Awaitable[object]] | None = None, error: BaseException | None = None
    ) -> None:
        self.alerts: list[RecordedAlert] = []
        self.wait = wait
        self.error = error
        # For waiters in any loop: the thread of `AuditTrail.sync` sends alerts too.
        self._came = Condition()

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Remember the alert, then wait and raise as the options say."""
        self.alerts.append(RecordedAlert(event=event, severity=severity, channel=channel))
        self._came.notify()
        if self.wait is not None:
            await self.wait()
        if self.error is not None:
            raise self.error

    async def wait_for(self, count: int) -> list[RecordedAlert]:
        """
        Wait until *count* alerts have come since this dispatcher was made, and return all that have.

        They may come from any thread and event loop. There is no limit in time; `anyio.fail_after` sets one.
        """
        await self._came.until(lambda: len(self.alerts) >= count)
        return list(self.alerts)
