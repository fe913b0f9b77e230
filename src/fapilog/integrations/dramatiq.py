"""
Record the workers and actors of dramatiq, and the users that actors run for.

    import dramatiq

    from fapilog.integrations.dramatiq import AuditMiddleware

    broker.add_middleware(AuditMiddleware(trail))
"""

from __future__ import annotations

import os
import threading
from typing import Any

from dramatiq import Broker, Message, MessageProxy, Middleware, Worker
from dramatiq.errors import RateLimitExceeded, Retry

from ..core.audit import AuditTrail
from ..record.options import require_kind
from ..tasks.green import refuse_green_threads
from ._tasks import HEADER, Entered, carried, recording, task_context, worker_ended, worker_started

__all__ = ["AuditMiddleware"]


class _Last(threading.local):
    """The user and the request of the message that was processed last in this thread."""

    def __init__(self) -> None:
        self.carried: dict[str, str] = {}


class AuditMiddleware(Middleware):
    """
    A middleware that gives the events of actors their context, and records failures.

    - Events of an actor have the actor's name as their component, the message's id as their request id, and as their
      user the user of the `audit_context` in which the message was sent; the acting party is the actor, on behalf of
      that user. The message's options carry the user and the request id, which the events have as ``enqueued_in`` in
      their metadata. An actor that is called by an actor, or follows it in a pipeline or as a callback, has the same
      user.
    - An attempt that fails is an event (ERROR_OCCURRED) with the exception and the number of the attempt, but not with
      the arguments. `dramatiq.errors.Retry` and `RateLimitExceeded`, after which it is tried again, are no failures.
    - The start and the stop of a worker are events (SYSTEM_STARTUP, SYSTEM_SHUTDOWN). When it stops, alerts that wait
      are sent, and `AuditHandler` is flushed.

    Use ``trail.sync`` in actors. An event that can't be stored is logged, and never fails a message. Every service that
    may write to the broker can forge the options.

    Args:
        trail: Stores the events.

    Raises:
        RuntimeError: gevent or eventlet has replaced the threads of this process.
        TypeError: *trail* is no trail.
    """

    def __init__(self, trail: AuditTrail) -> None:
        refuse_green_threads()
        require_kind("trail", trail, AuditTrail)
        self._trail = trail
        self._entered = Entered()
        self._last = _Last()

    def before_enqueue(self, broker: Broker, message: Message[Any], delay: int) -> None:  # noqa: ARG002
        """Put the user and the request into the message; a retry keeps the first attempt's."""
        # Middleware behind this one sends the next message of a pipeline, and the messages of callbacks, when this one
        # has left the context.
        if values := carried() or self._last.carried:
            message.options.setdefault(HEADER, values)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        """Enter the context of the message."""
        self._last.carried = {}
        context = task_context(message.actor_name, message.message_id, message.options.get(HEADER))
        self._entered.enter(message.message_id, context)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: Any = None,  # noqa: ARG002
        exception: BaseException | None = None,
    ) -> None:
        """Record a failure, and leave the context."""
        self._last.carried = carried()
        try:
            if exception is not None and not isinstance(exception, Retry | RateLimitExceeded):
                with recording():
                    self._failed(message, exception)
        finally:
            # Also if dramatiq interrupts this thread meanwhile, since the time limit of the message has passed: the
            # next message in this thread must not have the user of this one.
            self.after_skip_message(broker, message)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        """Leave the context, which was not entered if a middleware before this one has skipped the message."""
        self._entered.leave(message.message_id)

    def _failed(self, message: MessageProxy, exception: BaseException) -> None:
        # Other services may write to the broker, so the number may be none.
        retries = message.options.get("retries", 0)
        metadata = {"attempt": retries + 1 if isinstance(retries, int) else retries}
        self._trail.sync.log_error(exception, operation="task", outcome="failure", metadata=metadata)

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        """Record that the worker takes messages from now on, before it takes the first."""
        worker_started(self._trail, "dramatiq", os.getpid())

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        """Record that the worker takes no more messages, and send the alerts that wait."""
        worker_ended(self._trail, "dramatiq", os.getpid())
