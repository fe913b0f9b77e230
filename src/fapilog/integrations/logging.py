"""
Record log calls of the standard library's logging, and of loguru.

    import logging

    from fapilog.integrations.logging import AuditHandler

    logging.getLogger("shop").addHandler(AuditHandler(trail))
    logging.getLogger("shop.login").warning("wrong password", extra={"audit": {"user_id": "alice"}})
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Final

from ..record.values import UnreadableError, ask, given_text
from ._backlog import Waiting
from ._logrecords import AUDIT, Recording, exception_of, level_number

__all__ = ["AuditHandler"]

_TRACEBACK: Final = re.compile(r"\s*(\+ Exception Group )?Traceback \(most recent call last\):\n")


class AuditHandler(Recording, logging.Handler):
    """
    Records log records as events.

    The records of the loggers that it is added to become events if they have at least *level*, or if the call gives
    ``extra={"audit": {...}}``; ``extra={"audit": False}`` leaves a record out. The fields of the event come from that
    mapping: *event_type*, *user_id*, *request_id* and all other keywords of `AuditTrail.log_event`; further values
    become metadata. Otherwise the event has the record's message, level and time, the logger's name as its component,
    the function as its operation, and the exception that was logged. No other ``extra`` is recorded.

    A call of a logger never waits for the trail, which may be started, stopped, or neither, and nothing is raised into
    it. The events are stored by a thread, in the order of the calls and in the context variables of their calls. That
    they are stored is certain only when `flush` has returned. The handler is flushed when it is closed and when the
    interpreter exits, but not by SIGTERM, which ends a plain script at once: see `exit_on_sigterm`. A forked child has
    a handler of its own, with nothing waiting in it.

    Lines of fapilog's own loggers, and lines that are logged while the handler stores an event, are left out. That is
    known by the thread and its context. Behind a `logging.handlers.QueueListener`, a handler of yours runs in a thread
    of its own: if it logs for every line of fapilog that it gets, and its lines alert, they feed themselves. Keep the
    logger of such a handler from this one, by ``propagate = False``, or by a level that it does not reach.

    Args:
        trail: Stores the events.
        level: The least level of a record without ``extra={"audit": ...}``: a number, or a name such as "ERROR".
        buffer: Records that may wait to be stored; further ones are dropped. See `dropped`.
        flush_timeout: Seconds that `flush` and `close` wait.

    Raises:
        TypeError: A number is none, or *trail* is no trail.
        ValueError: A number is out of range, or there is no such level.
    """

    def setLevel(self, level: int | str) -> None:  # noqa: N802  as the standard library has it
        """
        Set the least level of a record without ``extra={"audit": ...}``, as the argument *level* does.

        The handler's attribute `level` stays at NOTSET: a logger asks that first, and doesn't see ``extra``.

        Raises:
            ValueError: There is no such level.
        """
        self._threshold = level_number(level)

    def createLock(self) -> None:  # noqa: N802  as the standard library has it
        """Make no lock: `emit` needs none, and a thread that holds one must not wait for the thread that stores."""
        self.lock: Any = None

    def handle(self, record: logging.LogRecord) -> bool:
        """Do as `logging.Handler.handle`, without a lock."""
        # Since Python 3.12 a filter may return another record.
        passed: Any = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Store *record* soon, if it is to become an event. An error goes to `handleError`."""
        try:
            call = _call_of_structlog(record)
            given = _given(record) if call is None else call.get(AUDIT)
            if self._is_audited(record.name, record.levelno, given):
                message = _message(record) if call is None else given_text(call.get("event"))
                error = exception_of(record.exc_info or (None if call is None else call.get("exc_info")))
                fields = self._read(given)
                where = record.name, record.funcName
                self._backlog.add(Waiting(message, fields, record.levelno, error, record.created, *where))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            self.handleError(record)

    def close(self) -> None:
        """Flush, end the thread, and make logging forget the handler. A record that comes later is stored too."""
        super().close()
        logging.Handler.close(self)


def _call_of_structlog(record: logging.LogRecord) -> dict[str, Any] | None:
    """
    Return the event dict that structlog leaves to its `ProcessorFormatter`; None for any other record.

    As a message it would be a text of all its values.
    """
    return record.msg if isinstance(record.msg, dict) and hasattr(record, "_logger") else None


def _given(record: logging.LogRecord) -> object:
    """Return the value that the call gave as "audit"; loguru has its extra values in a mapping of their own."""
    given = getattr(record, AUDIT, None)
    if given is None:
        extra = getattr(record, "extra", None)
        if isinstance(extra, Mapping):
            return extra.get(AUDIT)
    return given


def _message(record: logging.LogRecord) -> str:
    try:
        return ask(_formatted, record)
    except UnreadableError:  # arguments that do not fit, or can't be read: the event is not lost by that
        return given_text(record.msg)


def _formatted(record: logging.LogRecord) -> str:
    # A container or an exception in the place of a text, whose own text may have no end.
    is_text = record.args or type(record.msg) is str or type(record).getMessage is not logging.LogRecord.getMessage
    message = record.getMessage() if is_text else given_text(record.msg)
    # loguru puts the traceback behind the message, unless its format is a function, and the values of variables into
    # it: https://loguru.readthedocs.io/en/stable/api/logger.html#loguru._logger.Logger.add. The event has the exception
    # itself.
    traceback = _TRACEBACK.search(message) if record.exc_info and hasattr(record, "extra") else None
    return message if traceback is None else message[: traceback.start()]
