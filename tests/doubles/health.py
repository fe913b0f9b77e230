"""The health of a trail, with the events that it announces and stores."""

from collections.abc import Callable

import anyio
import anyio.lowlevel

from fapilog import (
    AuditEvent,
    CompliancePolicy,
)
from fapilog.core._health import Health
from fapilog.core._incidentfiles import IncidentFiles
from fapilog.tasks.background import Background

__all__ = ["Rig"]


class Rig:
    """A book of incidents with a clock that jumps, and the events that were announced."""

    def __init__(self, files: IncidentFiles | None = None, clock: Callable[[], float] = anyio.current_time) -> None:
        self.background = Background()
        self.announced: list[AuditEvent] = []
        self.health = Health(
            CompliancePolicy(),
            self.background,
            announce=self.announce,
            store=self.store,
            files=files,
            clock=clock,
        )

    def announce(self, event: AuditEvent) -> None:
        self.announced.append(event)

    async def store(self, event: AuditEvent) -> AuditEvent:
        return event
