"""
A Celery worker with its trail in ``$TRAIL``. Its broker is a directory, ``$BROKER``.

Run as a program, it calls the tasks, each in a context of its own.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from celery import Celery  # type: ignore[import-untyped]

from fapilog import AuditEventType, AuditTrail
from fapilog.context import audit_context
from fapilog.integrations.celery import instrument
from tests.programs.served import KIND, Slow

trail = AuditTrail(storage_path=os.environ["TRAIL"], alert_dispatcher=Slow())
app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": os.environ["BROKER"],
    "data_folder_out": os.environ["BROKER"],
    "control_folder": os.environ["BROKER"] + "-control",
    "polling_interval": 0.01,  # seconds; 1 by default
}
# A worker that is stopped leaves the tasks that it has not begun.
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
instrument(trail)


@app.task(name="shop.export")  # type: ignore[untyped-decorator]
def export(number: int) -> None:
    """Record an event that alerts."""
    trail.sync.log_security_event(KIND, f"export {number}")


@app.task(name="shop.fail")  # type: ignore[untyped-decorator]
def fail(number: int) -> None:
    """Fail."""
    raise LookupError(f"fail {number}")


@app.task(name="shop.die")  # type: ignore[untyped-decorator]
def die(number: int) -> None:
    """Have the process of the pool killed, as where there is no memory left."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="shop.hang", time_limit=1)  # type: ignore[untyped-decorator]
def hang(number: int) -> None:
    """Work until the process of the pool is killed."""
    while True:
        time.sleep(0.1)


@app.task(name="shop.again", bind=True, max_retries=1)  # type: ignore[untyped-decorator]
def again(self: object, number: int) -> None:
    """Fail, and be run again once."""
    raise self.retry(exc=LookupError(f"again {number}"), countdown=0)  # type: ignore[attr-defined]


@app.task(name="shop.nested")  # type: ignore[untyped-decorator]
def nested(number: int) -> None:
    """Record an event, and call another task."""
    trail.sync.log_event(AuditEventType.DATA_EXPORT, f"nested {number}", user_id="of the call itself")
    export.delay(number)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        kind, _, count = name.partition(":")
        for number in range(int(count)):
            with audit_context(user_id=f"{kind} user {number}", request_id=f"{kind} request {number}", tenant="no"):
                app.tasks[f"shop.{kind}"].apply_async([number], task_id=f"{kind}-{number}")
