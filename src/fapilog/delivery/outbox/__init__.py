"""
Lose no alert: keep all in a file until they are delivered, however long that takes.

    from fapilog.delivery.outbox import Outbox

    trail = AuditTrail(alert_dispatcher=Outbox(slack, Path("alerts.db"), name="slack"))

From the top: `_outbox` takes the alerts, and answers for them; `_sender` sends them, when `_breaker` lets it. Both are
above `_store`, which makes one transaction of the calls that meet. `_place` is the seam below it, and `_file` and
`_postgres` are the two places; `_rows` has what these share. `postgres` is the outbox in the database of a trail, and
`deposit` puts alerts into one.
"""

from ._breaker import SCHEDULE
from ._outbox import Outbox
from ._rows import OutboxAlert, OutboxAttempt, OutboxState

__all__ = ["SCHEDULE", "Outbox", "OutboxAlert", "OutboxAttempt", "OutboxState"]
