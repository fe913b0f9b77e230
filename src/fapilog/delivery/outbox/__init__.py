"""
Lose no alert: keep all in a file until they are delivered, however long that takes.

    from fapilog.delivery.outbox import Outbox

    trail = AuditTrail(alert_dispatcher=Outbox(slack, Path("alerts.db"), name="slack"))
"""

from ._breaker import SCHEDULE
from ._outbox import Outbox
from ._rows import OutboxAlert, OutboxAttempt, OutboxState

__all__ = ["SCHEDULE", "Outbox", "OutboxAlert", "OutboxAttempt", "OutboxState"]
