"""
Record log calls of structlog.

    import structlog

    from fapilog.integrations.structlog import AuditProcessor

    structlog.configure(processors=[AuditProcessor(trail), structlog.processors.JSONRenderer()])
    structlog.get_logger().info("exported", audit={"event_type": "data_export", "user_id": "alice"})
"""

from __future__ import annotations

import logging
import time
from typing import Final

from structlog.processors import NAME_TO_LEVEL
from structlog.typing import EventDict, WrappedLogger

from ..record.values import given_text
from ..tasks.strangers import Log, tamed
from ._backlog import Waiting
from ._logrecords import AUDIT, Recording, exception_of

__all__ = ["AuditProcessor"]

_log: Final = Log("fapilog")


class AuditProcessor(Recording):
    """
    A processor that records log calls as events, and passes every event dict on unchanged.

    A call becomes an event if it has at least *level*, or if it gives ``audit={...}``; ``audit=False`` leaves a call
    out. The fields of the event come from that mapping, as for `fapilog.integrations.logging.AuditHandler`. Otherwise
    the event has the call's message and level, the logger's name as its component, and the exception of ``exc_info``.
    No other value of the event dict is recorded.

    Put it behind a filter such as `structlog.stdlib.filter_by_level`, and before
    `structlog.processors.format_exc_info`, which makes text of an exception. A call of a logger never waits for the
    trail, and nothing is raised into it. The docstring of `AuditHandler` about the thread that stores, the exit and
    forks is true of a processor too.

    Args:
        trail: Stores the events.
        level: The least level of a call without ``audit=...``: a number, or a name such as "ERROR".
        buffer: Calls that may wait to be stored; the events of further ones are dropped. See `dropped`.
        flush_timeout: Seconds that `flush` and `close` wait.

    Raises:
        TypeError: A number is none, or *trail* is no trail.
        ValueError: A number is out of range, or there is no such level.
    """

    def __call__(self, logger: WrappedLogger, method_name: str, event_dict: EventDict) -> EventDict:
        """Store the call soon, if it is to become an event, and return *event_dict*."""
        try:
            self._record(logger, method_name, event_dict)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # Of a value that can't be read, for example: the line of the log is not to be lost with the event.
            _log.error("a call of structlog was not recorded: %s", type(error).__qualname__)
        return event_dict

    def _record(self, logger: WrappedLogger, method_name: str, event_dict: EventDict) -> None:
        component = _name(logger, event_dict.get("logger"))
        level = _level(event_dict.get("level_number"), event_dict.get("level"), method_name)
        given = event_dict.get(AUDIT)
        if self._is_audited(component, level, given):
            message, error = given_text(event_dict.get("event")), exception_of(event_dict.get("exc_info"))
            self._backlog.add(Waiting(message, self._read(given), level, error, time.time(), component))


def _name(logger: object, given: object) -> str | None:
    """Return the name of the logger that a processor has added, or that the logger itself has."""
    try:
        name = getattr(logger, "name", None) if given is None else given
    except BaseException as error:
        tamed(error)
        return None
    return None if name is None else given_text(name) or None


def _level(number: object, name: object, method: str) -> int:
    """Return the number of the level that a processor has added, or that the name of the method says."""
    if isinstance(number, int):
        return number
    for each in (name, method):
        if isinstance(each, str) and (level := NAME_TO_LEVEL.get(each.lower())) is not None:
            return level
    return logging.CRITICAL if method == "fatal" else logging.INFO
