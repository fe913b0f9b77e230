"""
Record the workers and tasks of Celery, and the users that tasks run for.

    from fapilog.integrations.celery import instrument

    app = Celery("shop")
    instrument(trail)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from celery import signals  # type: ignore[import-untyped]
from celery.exceptions import TimeLimitExceeded  # type: ignore[import-untyped]

from ..core.audit import AuditTrail
from ..record.options import require_kind
from ..tasks.green import GREEN_THREADS, refuse_green_threads
from ._tasks import (
    HEADER,
    Entered,
    carried,
    process_ends,
    recording,
    task_context,
    worker_ended,
    worker_started,
)

__all__ = ["instrument"]

_GREEN: Final = ("gevent", "eventlet")


def instrument(trail: AuditTrail) -> Callable[[], None]:
    """
    Record Celery's workers, and the code that calls tasks, in *trail*. Call it where the app is made.

    - Events of a task have the task's name as their component, its id as their request id, and as their user the user
      of the `audit_context` in which the task was called; the actor is the task, on behalf of that user. The message
      carries the user and the request id, which the events have as ``enqueued_in`` in their metadata. A task that is
      called by a task has the same user.
    - A task that fails is an event (ERROR_OCCURRED) with the exception, but not with the arguments. A retry is none,
      until the last one fails.
    - The start and the stop of a worker are events (SYSTEM_STARTUP, SYSTEM_SHUTDOWN).
    - A child of the prefork pool sends the alerts that wait, and flushes `AuditHandler`, when it ends.

    Use ``trail.sync`` in tasks. Any pool of processes or of threads works; gevent and eventlet end the worker at its
    start, with a message that says why. Every service that may write to the broker can forge a header.

    An event that can't be stored is logged, and never fails a task. A second call with the same trail has no effect.

    Returns:
        A function that undoes it.

    Raises:
        RuntimeError: gevent or eventlet has replaced the threads of this process.
        TypeError: *trail* is no trail.
    """
    refuse_green_threads()
    require_kind("trail", trail, AuditTrail)
    receivers = _Receivers(trail)
    connected = [
        (signals.before_task_publish, receivers.enqueued),
        (signals.task_prerun, receivers.task_started),
        (signals.task_postrun, receivers.task_ended),
        (signals.task_failure, receivers.task_failed),
        (signals.worker_init, receivers.check_pool),
        (signals.worker_ready, receivers.worker_started),
        (signals.worker_shutdown, receivers.worker_ended),
        (signals.worker_process_shutdown, receivers.process_ended),
    ]
    # Celery connects one receiver per name. Without names, Celery before 5.7 takes those of all trails for the same.
    name = f"fapilog {id(trail)}"
    for signal, receiver in connected:
        signal.connect(receiver, weak=False, dispatch_uid=name)

    def undo() -> None:
        for signal, receiver in connected:
            signal.disconnect(receiver, dispatch_uid=name)

    return undo


class _Receivers:
    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail
        self._entered = Entered()
        # The task that was over its hard time limit last.
        self._over_time = ""

    def task_started(self, *, task_id: str, task: Any, **_: object) -> None:
        # A task that is called eagerly has no message, and runs in the context in which it is called.
        is_eager = task.request.is_eager
        given = carried() if is_eager else getattr(task.request, HEADER, None)
        self._entered.enter(task_id, task_context(task.name, task_id, given), is_inside=is_eager)

    def task_ended(self, *, task_id: str, **_: object) -> None:
        self._entered.leave(task_id)

    def task_failed(self, *, sender: Any, task_id: str, exception: BaseException, **_: object) -> None:
        fields = {"operation": "task", "outcome": "failure", "component": sender.name, "request_id": task_id}
        log = functools.partial(self._trail.sync.log_error, exception, **fields)
        if self._entered.has(task_id):
            with recording():
                log()
            return
        # Where a process of the pool was killed, this is the worker's main process, without the context of the task.
        # From Celery 5.7 on, its request is at hand here; and a hard time limit is told of a second time, without it.
        is_at_hand = sender.request.id == task_id
        is_told_again = not is_at_hand and self._over_time == task_id
        self._over_time = task_id if is_at_hand and isinstance(exception, TimeLimitExceeded) else ""
        if not is_told_again:
            given = getattr(sender.request, HEADER, None) if is_at_hand else None
            with task_context(sender.name, task_id, given), recording():
                log()

    def worker_started(self, *, sender: Any, **_: object) -> None:
        worker_started(self._trail, "celery", sender.hostname)

    def worker_ended(self, *, sender: Any, **_: object) -> None:
        worker_ended(self._trail, "celery", sender.hostname)

    def process_ended(self, **_: object) -> None:
        process_ends(self._trail)

    def enqueued(self, *, headers: dict[str, Any] | None = None, **_: object) -> None:
        # A retry has the header of the first try.
        if headers is not None and (values := carried()):
            headers.setdefault(HEADER, values)

    def check_pool(self, *, sender: Any, **_: object) -> None:
        # The name, or the class, of the pool. Celery logs an exception of a receiver and continues; an exit ends it.
        pool = sender.pool_cls
        if any(name in (pool if isinstance(pool, str) else pool.__module__) for name in _GREEN):
            raise SystemExit(f"{GREEN_THREADS} (celery worker --pool prefork, or --pool threads)")
