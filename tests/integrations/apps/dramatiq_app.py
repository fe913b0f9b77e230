"""
A dramatiq worker with its trail in ``$TRAIL``, and its broker in the Redis at ``$REDIS``.

Run as a program, it sends the messages, each in a context of its own.
"""

from __future__ import annotations

import os
import sys
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from fapilog import AuditEventType
from fapilog.context import audit_context
from fapilog.integrations.dramatiq import AuditMiddleware
from tests.programs.served import KIND, trail

broker = RedisBroker(url=os.environ["REDIS"])  # type: ignore[no-untyped-call]
broker.add_middleware(AuditMiddleware(trail))
dramatiq.set_broker(broker)


@dramatiq.actor
def export(number: int) -> None:
    """Record an event that alerts."""
    trail.sync.log_security_event(KIND, f"export {number}")


@dramatiq.actor(max_retries=1, min_backoff=10, max_backoff=20)
def fail(number: int) -> None:
    """Fail, and be run again once."""
    raise LookupError(f"fail {number}")


@dramatiq.actor(time_limit=200, max_retries=0)
def hang(number: int) -> None:
    """Work until the time is over."""
    while True:
        time.sleep(0.01)


@dramatiq.actor
def nested(number: int) -> None:
    """Record an event, and send another message."""
    trail.sync.log_event(AuditEventType.DATA_EXPORT, f"nested {number}")
    export.send(number)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, count = argument.partition(":")
        for number in range(int(count)):
            with audit_context(user_id=f"{name} user {number}", request_id=f"{name} request {number}", tenant="no"):
                broker.get_actor(name).send(number)
