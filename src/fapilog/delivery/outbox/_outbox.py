"""The outbox whose alerts are in a file: `Outbox`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ...core.alerting import AlertDispatcher
from ...record.options import require_path
from ._any import AnyOutbox
from ._breaker import SCHEDULE, Terms
from ._file.place import OutboxFile

__all__ = ["Outbox"]


class Outbox(AnyOutbox):
    """
    Takes alerts into a file, and sends them from there until they are delivered or refused.

    `send_alert` returns when the alert is on the disk; the same event is taken once. While the outbox is entered, as an
    asynchronous context manager, up to *concurrency* alerts are sent at once, the oldest first. In an `AuditTrail` that
    is done for you. Not entered, `send_alert` also makes the first attempt before it returns.

    The outcome of an attempt decides on the next:

    - `TransientDeliveryError`, `AmbiguousDeliveryError`, any other exception, and no outcome within *timeout*: again
      after the next wait of the *schedule*, and up to a fifth more. When that is used up, the alert is dead: by default
      after three days at the earliest.
    - `TransientDeliveryError` with `retry_after`: again after that many seconds and a little more, and no other alert
      goes to *inner* before. The wait is at least a second, even if the target asks for less, and doubles with every
      refusal in a row, up to five minutes. This does not use up the schedule, unless an alert has waited for longer
      than all of it.
    - `BrokenRouteError`: no alert is dead. One is tried now and then, as the schedule says and every quarter of an hour
      at least, and no other goes to *inner* until one arrives, or is refused for its content. An incident alerts at
      once, by the trail's other routes.
    - Any other `PermanentDeliveryError`: the alert is dead.

    A dead alert is kept with its history until it is retried or discarded. While three attempts in a row have failed,
    one is made at a time; when one succeeds, all that wait are due, the oldest first, and more are sent at once again.

    An alert arrives at least once. It may arrive twice after an attempt whose outcome is unknown: it was ambiguous, or
    the process died in it, or stood still for longer than *lease*. Its event, and so the key that a provider derives
    from it, is the same every time.

    It is a `DurableDispatcher`: when the trail is started, or more alerts came than its buffer holds, the trail sends
    every alert that the outbox lacks since it was first used. So no alert is lost whose event is stored, whenever the
    process is killed. Alerts from before the outbox was first used are not sent. One name is for one trail.

    Several processes may share the file; an alert is sent by one of them. Several outboxes may, with different names.

    A file that can't be used does not stop an alert: it is sent directly, once, by the call that brought it, which
    raises if that fails. The failure is logged and reported to the trail's `Reporter`. The file is never deleted; a
    damaged one is renamed to ``NAME.corrupt-…``.

    Order matters: a wrapper around an outbox sees alerts as taken when they are on the disk; a wrapper inside sees
    every attempt. ``Outbox(FanOut([a, b]))`` retries both until both have the alert, and
    ``FanOut([Outbox(a, path, name="a"), Outbox(b, path, name="b")])`` gives a and b schedules, histories and pauses of
    their own.

    Args:
        inner: Makes one attempt per call. If it is an asynchronous context manager, it is entered and left with this.
        path: The file, made when it is first used: mode 0600, on a local file system. ``~`` is the home directory. It
            holds the events, as *inner* gets them, of all alerts that are not delivered.
        name: The name of this outbox, in the file, in logs and metrics.
        schedule: Seconds between the attempts.
        concurrency: Alerts that are sent at once, by this process.
        timeout: Seconds for one attempt.
        keep: Seconds that receipts of delivered alerts are kept.
        old_after: Seconds after which an alert that waits is a reason to alert.
        lease: Seconds after which another process takes over the alerts that a dead process was sending.
        stop_timeout: Seconds that leaving it waits for alerts that are due.
        now: Returns the time, in seconds since 1970.

    Attributes:
        name: The name of the outbox.
        path: The path of its file.
        resumes: True: the outbox keeps the alerts that it has taken.

    Raises:
        TypeError: *inner* is no dispatcher, or another option is not of its type.
        ValueError: An option is out of range. On entering: the outbox is entered already, or its trail has another one
            of the same name in the same file. An outbox belongs to one trail.
    """

    def __init__(
        self,
        inner: AlertDispatcher,
        path: Path | str,
        *,
        name: str = "alerts",
        schedule: Sequence[float] = SCHEDULE,
        concurrency: int = 8,
        timeout: float = 30.0,
        keep: float = 90 * 86_400.0,
        old_after: float = 900.0,
        lease: float = 15.0,
        stop_timeout: float = 5.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path: Path = require_path("path", path)
        super().__init__(
            inner,
            OutboxFile(self.path),
            name,
            Terms(schedule, concurrency, timeout, keep, old_after, lease, stop_timeout).checked(),
            now,
        )
