"""Dispatchers that do as they are told, for the tests of what is put around them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self

import anyio
import anyio.lowlevel

from fapilog import AuditEvent, AuditEventType, AuditLogLevel
from fapilog.core.alerting import Alert
from fapilog.record.chain import ChainHead
from fapilog.testing import RecordingDispatcher


def event(number: int = 1, /, **fields: object) -> AuditEvent:
    """Return a stored event with that sequence number, that many seconds after the year began."""
    given: dict[str, object] = {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
        "event_type": AuditEventType.SECURITY_VIOLATION,
        "log_level": AuditLogLevel.SECURITY,
        "message": "someone opened the safe",
        "component": "vault",
        "sequence_number": number,
        "checksum": f"{number:064x}",
    }
    return AuditEvent(**given | fields)  # type: ignore[arg-type]


class Managed(RecordingDispatcher):
    """Counts how often it is entered and left; may refuse."""

    def __init__(self, *, refuses: bool = False, error: BaseException | None = None) -> None:
        super().__init__(error=error)
        self.refuses = refuses
        self.entered = 0
        self.left = 0

    async def __aenter__(self) -> Self:
        if self.refuses:
            raise OSError("no")
        self.entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left += 1


class Keeping(RecordingDispatcher):
    """Keeps what it takes, as an outbox does, in memory; *missed* is lost on the way."""

    def __init__(self, mark: int | None = None, *, resumes: bool = True) -> None:
        super().__init__()
        self.mark = None if mark is None else ChainHead(mark, f"{mark:064x}")
        self.resumes = resumes

    async def resume_from(self, head: ChainHead, *, anew: bool = False) -> ChainHead:
        await anyio.lowlevel.checkpoint()
        self.mark = self.mark or head
        return self.mark

    async def lacking(self, alerts: Sequence[Alert]) -> list[Alert]:
        await anyio.lowlevel.checkpoint()
        assert self.mark is not None
        taken = {alert.event.event_id for alert in self.alerts}
        return [
            alert
            for alert in alerts
            if (alert.event.sequence_number or 0) > self.mark.sequence_number and alert.event.event_id not in taken
        ]

    async def resumed_to(self, mark: ChainHead) -> None:
        await anyio.lowlevel.checkpoint()
        assert self.mark is not None
        self.mark = max(self.mark, mark, key=lambda each: each.sequence_number)

    @property
    def numbers(self) -> list[int | None]:
        """The sequence numbers of what came."""
        return [alert.event.sequence_number for alert in self.alerts]
