"""
Events that wait for the trail, so that the code that logs them does not.

A call of a logger may come from an event loop, a signal handler, a destructor, or the middle of another call. So
`Backlog.add` never waits for a disk: it appends to a queue whose `put` is reentrant, and a thread stores the events.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from contextvars import Context, ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from ..context import settled_context
from ..core.audit import AuditTrail
from ..core.signals import calls_here
from ..record.kinds import AuditEventType, AuditLogLevel
from ..record.options import require, require_kind
from ..record.privacy import Discreet, Uncopied
from ..record.values import text
from ..tasks.fork import call_in_child
from ..tasks.portal import flush_at_exit
from ..tasks.strangers import Log, is_logging
from ..tasks.threads import Latch, started

__all__ = ["Backlog", "Waiting", "is_storing"]

_log: Final = Log("fapilog")
# Seconds that the thread waits for more. To start one takes a tenth of a millisecond, in the code that logs.
_LINGER: Final = 10.0


# From which number on a call has which level, and which type its event has.
_LEVELS: Final = (
    (logging.CRITICAL, AuditLogLevel.CRITICAL, AuditEventType.ERROR_OCCURRED),
    (logging.ERROR, AuditLogLevel.ERROR, AuditEventType.ERROR_OCCURRED),
    (logging.WARNING, AuditLogLevel.WARNING, AuditEventType("log.warning")),
    (logging.INFO, AuditLogLevel.INFO, AuditEventType("log.info")),
    (-math.inf, AuditLogLevel.DEBUG, AuditEventType("log.debug")),
)


class Waiting(Discreet, frozen=True):
    """
    A call of a logger whose event is still to be stored.

    It holds what only the code that logs knows; all that can be made of it later is made by the thread that stores.

    Attributes:
        message: The message that was logged.
        given: The application's values for keywords of `AuditTrail.log_event`, of any kind, which win.
        level: The number of the level.
        error: The exception that was logged.
        occurred: When it was logged, in seconds since the epoch.
        component: The name of the logger.
        operation: The function that logged.
    """

    message: str
    given: dict[str, Any]
    level: float
    error: BaseException | None
    occurred: float
    component: str | None
    operation: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the keywords of `AuditTrail.log_event` without the given ones; it can't refuse them."""
        log_level, event_type = next((mine, kind) for number, mine, kind in _LEVELS if self.level >= number)
        return {
            "event_type": event_type if self.error is None else AuditEventType.ERROR_OCCURRED,
            "message": self.message,
            "log_level": log_level,
            "component": self.component,
            "operation": self.operation,
            "error": self.error,
            "occurred": _time(self.occurred),
        }


def _time(seconds: float) -> datetime | None:
    """Return the time of a call; None if it is none, as of a record that was made by hand or came over a network."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


class _Store:
    """A call that stores an event, for the code below it to know that it is below one."""

    def __init__(self) -> None:
        self.is_running = True
        self._calls = calls_here()

    @property
    def is_here(self) -> bool:
        # The event's alert is sent in the same context, and maybe meanwhile; events of a dispatcher are recorded.
        return self.is_running and calls_here() is self._calls


_store: Final[ContextVar[_Store | None]] = ContextVar("fapilog_backlog_store", default=None)


def is_storing() -> bool:
    """
    Whether this code runs because a backlog stores an event, or because the trail logs a line of its own.

    An event about that would lead to the next one, without end. A dispatcher that is sending the event's alert does
    not count, since its events are not announced, and neither does a task that was started below and outlives the call.
    """
    store = _store.get()
    return is_logging.get() or (store is not None and store.is_here)


class Backlog(Uncopied):
    """
    Events in the order in which they were added, and a thread that stores them one by one.

    The thread is started when it is needed. An event is stored in the context variables of the code that added it. When
    the interpreter exits, the backlog is flushed before any trail is stopped. A forked child begins with an empty one:
    the events that wait in the parent are the parent's to store.

    Args:
        trail: Stores the events; it may be started, stopped, or neither.
        size: Events that may wait; further ones are dropped.
        flush_timeout: Seconds that `flush` waits.

    Attributes:
        dropped: How many events were not stored, since too many waited or the trail could not store them. A series of
            dropped events is an event of its own, when there is room again.
    """

    def __init__(self, trail: AuditTrail, *, size: int, flush_timeout: float) -> None:
        require_kind("trail", trail, AuditTrail)
        self._trail = trail
        self._size = require("buffer", size, at_least=1)
        self._flush_timeout = require("flush_timeout", flush_timeout, at_least=0)
        self.dropped = 0
        self._reported = 0
        self._since_report = 0
        self._is_failing = False
        self._forget()
        call_in_child(self, Backlog._forget)
        flush_at_exit(self, Backlog._finish)

    def add(self, event: Waiting) -> None:
        """
        Store *event* soon, in the context variables of this code. Never waits for the trail, and never raises.

        Functions in the `audit_context` are called now: the request that they ask may be over when the event is stored.
        """
        if self._queue.qsize() >= self._size:
            self._drop()
            return
        self._queue.put((settled_context(), event))
        # A thread that is about to end looks at the queue once more after it has left this.
        if self._thread is None:
            self._wake()

    def flush(self) -> bool:
        """Wait until the events that were added so far are stored; return whether they were, within `flush_timeout`."""
        with self._lock:
            thread = self._thread
        if thread is threading.current_thread():
            return False
        if self._queue.empty() and (thread is None or not thread.is_alive()):
            return True
        done = Latch()
        self._queue.put(done)
        if self._wake():
            return done.wait(self._flush_timeout)
        # No thread can be started, as in Python 3.12 and later while the interpreter exits.
        end = time.monotonic() + self._flush_timeout
        with contextlib.suppress(queue.Empty):
            while not done.wait(0) and time.monotonic() < end:
                self._take(self._queue.get_nowait())
        return done.wait(0)

    def close(self) -> bool:
        """Do as `flush`, and end the thread. An event that is added later starts it again."""
        is_empty = self.flush()
        with self._lock:
            if self._thread is not None:
                self._queue.put(None)
        return is_empty

    def _forget(self) -> None:
        # In a forked child, whose thread is gone: the lock and the queue may be in the hands of a thread of the parent.
        # The lock is reentrant, and so is the queue's `put`: a signal handler, and a destructor that the garbage
        # collector calls in here, may log too.
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[tuple[Context, Waiting] | Latch | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def _finish(self) -> None:
        if not self.flush():
            # The latch is in the queue, and the record that is being stored is not.
            words = "%s log records may be lost: the process ends, and they were not stored within flush_timeout"
            _log.error(words, self._queue.qsize())
            # `logging.shutdown` flushes and closes once more, and the exit must not wait three times.
            self._flush_timeout = 0

    def _drop(self) -> None:
        with self._lock:
            self.dropped += 1

    def _wake(self) -> bool:
        """Start the thread if it does not run; return whether it runs."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return True
            thread = threading.Thread(target=self._run, name="fapilog backlog", daemon=True)
            try:
                self._thread = started(thread)
            except RuntimeError:
                # The events wait for the next call, or for `flush`.
                return False
            return True

    def _run(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=_LINGER)
            except queue.Empty:
                item = None
            if item is not None:
                self._take(item)
                continue
            with self._lock:
                # In this order: an event that is added from here on finds no thread, and waits for the lock to start
                # one; an event that was added before is in the queue.
                thread, self._thread = self._thread, None
                if self._queue.empty():
                    return
                self._thread = thread

    def _take(self, item: tuple[Context, Waiting] | Latch | None) -> None:
        if isinstance(item, tuple):
            context, event = item
            if not context.run(self._stored, event):
                self._drop()
            self._since_report += 1
        # Dropped records are said at the end of a burst, for `flush`, and once in a while when the burst has no end.
        is_time = isinstance(item, Latch) or self._queue.empty() or self._since_report > self._size
        if self.dropped > self._reported and is_time:
            self._report()
        if isinstance(item, Latch):
            item.open()

    def _report(self) -> None:
        self._since_report = 0
        number = self.dropped - self._reported
        message = f"{number} log records were not recorded: too many waited, or the trail could not store them"
        given = {"event_type": AuditEventType.COMPONENT_FAILURE, "metadata": {"dropped": number}}
        if self._stored(Waiting(message, given, logging.ERROR, None, time.time(), "fapilog")):
            self._reported += number
            _log.error("%s", message)

    def _stored(self, event: Waiting) -> bool:
        store = _Store()
        token = _store.set(store)
        try:
            self._store_now(event)
        except BaseException as error:
            # No caller waits for this call: an exit, or an interrupt, that a storage raises here has nowhere to go.
            if not self._is_failing:
                _log.error("a log record was not recorded: %s", type(error).__qualname__)
            self._is_failing = True
            return False
        finally:
            store.is_running = False
            _store.reset(token)
        self._is_failing = False
        return True

    def _store_now(self, event: Waiting) -> None:
        log_event = self._trail.sync.log_event
        fields = event.fields()
        first = {**fields, **event.given}
        try:
            log_event(first.pop("event_type"), first.pop("message"), **first)
        except (TypeError, ValueError) as error:
            # An unknown type or level, for example: the given values are kept in the metadata.
            refused = {"refused": event.given, "refused_because": text(error)}
            log_event(fields.pop("event_type"), fields.pop("message"), **fields, metadata=refused)
