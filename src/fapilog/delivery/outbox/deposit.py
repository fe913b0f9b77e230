"""
Leave the sending to other hosts: alerts are kept in the database of the trail, and a `PostgresOutbox` there sends them.

    from fapilog.delivery.outbox.deposit import PostgresDeposit

    storage = PostgresStorage("postgresql://recorder@db.example/audit", trail="clinic")
    trail = AuditTrail(storage=storage, alert_dispatcher=PostgresDeposit(storage, name="pager"))

It needs psycopg, which comes with the extra ``postgres``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...core.alerting import Alert
from ...record.errors import OutboxError, TransientDeliveryError
from ...record.events import AuditEvent
from ...record.privacy import Uncopied, without_frames
from ...record.values import kind_of
from ...storage.postgres import PostgresStorage
from ...storage.postgres.alerts import require_name
from ...tasks.threads import in_thread
from ._place import Queue
from ._postgres.place import Database

__all__ = ["PostgresDeposit"]


class PostgresDeposit(Uncopied):
    """
    Puts an alert into an outbox in the transaction that stores its event, and sends none.

    For a host that only records, has no route to the target and no secret of it: its role needs ``fapilog_writer``
    alone. Processes of other hosts that have entered a `PostgresOutbox` of this name, for the same trail, send the
    alerts. While there is none, the alerts wait.

    An alert about the trail's own failure is in no transaction, and is put in by `send_alert`. While the server is away
    it fails, and is reported so: nothing on this host can send it.

    Args:
        storage: The storage of the trail.
        name: The name of the outbox.

    Attributes:
        name: As given.

    Raises:
        TypeError: *storage* is no `PostgresStorage`, or *name* no text.
        ValueError: *name* has no characters, more than 200, or one that can't be printed.
    """

    def __init__(self, storage: PostgresStorage, *, name: str = "alerts") -> None:
        if not isinstance(storage, PostgresStorage):
            raise TypeError(f"storage: expected the PostgresStorage of the trail; got {kind_of(storage)}")
        self.name: str = require_name("name", name)
        self._storage = storage
        self._database = Database(storage)

    def __repr__(self) -> str:
        return f"<PostgresDeposit {self.name!r} in {self._database}>"

    def kept_in(self, storage: object, alert: Alert) -> Sequence[str]:  # noqa: ARG002  all are kept
        """Return the name of the outbox if the alerts are kept in *storage*."""
        return [self.name] if storage is self._storage else []

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """
        Put the alert into the outbox, unless it is there; return when the server has committed it.

        A caller that is cancelled meanwhile may find it kept or not.

        Raises:
            TransientDeliveryError: The server is away, or refuses; the message says why.
        """
        alert, name = Alert(event, severity, channel), self.name

        def put(queue: Queue) -> None:
            queue.put(name, alert, 0.0)

        try:
            await in_thread(self._database.run, [put])
        except OutboxError as error:
            problem = str(error)
        else:
            return
        raise TransientDeliveryError(problem)
