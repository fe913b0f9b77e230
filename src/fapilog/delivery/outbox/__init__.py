"""
Lose no alert: keep all in a file until they are delivered, however long that takes.

    from fapilog.delivery.outbox import Outbox

    trail = AuditTrail(alert_dispatcher=Outbox(slack, Path("alerts.db"), name="slack"))
"""

from ._outbox import Outbox
from ._rows import OutboxAlert, OutboxAttempt, OutboxState
from ._sender import SCHEDULE

__all__ = ["SCHEDULE", "Outbox", "OutboxAlert", "OutboxAttempt", "OutboxState"]
