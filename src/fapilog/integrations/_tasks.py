"""Code for all task queues: the user who enqueued a task, the context that it runs in, and its failure."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from ..context import audit_context, current_audit_context
from ..core.audit import AuditTrail
from ..record.kinds import AuditEventType
from ..record.parties import Actor
from ..record.values import text
from ..tasks.portal import flush_all
from ._failures import logged

__all__ = [
    "HEADER",
    "Entered",
    "carried",
    "process_ends",
    "recording",
    "task_context",
    "worker_ended",
    "worker_started",
    "worker_stopped",
]

HEADER: Final = "fapilog"
"""The name under which a message carries the result of `carried`."""

recording: Final = partial(logged, "an event about a task was not recorded")
"""Around code that records something about a task: a failure is logged, and the task goes on."""

# Only these: a message lies in the broker, where other services may read it.
_CARRIED: Final = ("user_id", "request_id")


def carried() -> dict[str, str]:
    """Return the part of the current context that a message carries: the user and the request."""
    values = current_audit_context()
    return {name: text(values[name]) for name in _CARRIED if name in values}


def task_context(name: str, task_id: str, given: object) -> AbstractContextManager[None]:
    """
    Return the context of a task.

    Args:
        name: The name of the task; the component of its events.
        task_id: The request id of its events.
        given: The value that its message carries; anything, since other services may write to the broker.
    """
    values: dict[str, Any] = {"component": name, "request_id": task_id}
    # Unknown values are left out: None would take away the user of the code that calls a task in place.
    if isinstance(given, Mapping) and (user := given.get("user_id")) is not None:
        values["user_id"] = text(user)
        values["actor"] = Actor(id=name, type="service", on_behalf_of=text(user))
    if isinstance(given, Mapping) and (request := given.get("request_id")) is not None:
        values["enqueued_in"] = text(request)
    return audit_context(**values)


class Entered(threading.local):
    """
    The contexts of the tasks that run in this thread, the innermost last.

    A time limit raises between any two lines of a thread, here too; all the same, no task may have the user of the one
    before it.
    """

    def __init__(self) -> None:
        self._contexts: list[tuple[str, AbstractContextManager[None]]] = []

    def enter(self, task_id: str, context: AbstractContextManager[None], *, is_inside: bool = False) -> None:
        """Enter the context of a task; left-over contexts are left before, unless this task *is_inside* of another."""
        if not is_inside:
            self._leave_all_but(0)
        # In this order: to leave a context that was never entered does nothing.
        self._contexts.append((task_id, context))
        context.__enter__()

    def leave(self, task_id: str) -> None:
        """Leave the context of a task, and all inside of it; nothing happens if it was not entered."""
        places = [place for place, (entered, _) in enumerate(self._contexts) if entered == task_id]
        self._leave_all_but(places[-1] if places else len(self._contexts))

    def has(self, task_id: str) -> bool:
        """Return whether the context of a task is entered in this thread, and not left."""
        return any(entered == task_id for entered, _ in self._contexts)

    def _leave_all_but(self, number: int) -> None:
        while len(self._contexts) > number:
            self._contexts[-1][1].__exit__(None, None, None)
            self._contexts.pop()


def worker_started(trail: AuditTrail, component: str, name: object) -> None:
    """Record that a worker takes tasks from now on."""
    with recording():
        trail.sync.log_event(AuditEventType.SYSTEM_STARTUP, f"worker {text(name)} started", component=component)


def worker_stopped(trail: AuditTrail, component: str, name: object) -> None:
    """Record that a worker takes no more tasks."""
    with recording():
        trail.sync.log_event(AuditEventType.SYSTEM_SHUTDOWN, f"worker {text(name)} stopped", component=component)


def worker_ended(trail: AuditTrail, component: str, name: object) -> None:
    """Record that a worker takes no more tasks, and leave nothing for an exit that may not come."""
    worker_stopped(trail, component, name)
    process_ends(trail)


def process_ends(trail: AuditTrail) -> None:
    """Flush the handlers and send the alerts that wait; multiprocessing ends its children without an exit."""
    flush_all()
    with recording():
        trail.sync.stop()
