"""From a call of any logger to an event: which calls become one, and with which fields."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

from ..core.audit import AuditTrail
from ..record.containers import as_dict
from ..record.freezing import Walk, plain
from ..record.intake import FIELDS, TEXT_FIELDS
from ..record.values import given_tags, given_text, kind_of
from ._backlog import Backlog, is_storing

__all__ = ["AUDIT", "Recording", "exception_of", "level_number", "read"]

AUDIT: Final = "audit"
"""The name under which a call gives the fields of its event."""

_TEXTS: Final = TEXT_FIELDS | {"message", "event_id"}
# All other values of a call belong into the metadata.
_KNOWN: Final = FIELDS | {"event_type", "message"}


def level_number(level: int | str) -> int:
    """
    Return the number of a level of the standard library's logging.

    Raises:
        TypeError: *level* is neither a number nor a name.
        ValueError: There is no level of that name.
    """
    if isinstance(level, int) and not isinstance(level, bool):
        return level
    if not isinstance(level, str):
        raise TypeError(f"level: expected a number or a name; got {kind_of(level)}")
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"level: expected one of {', '.join(logging.getLevelNamesMapping())}; got {level[:100]!r}")
    return number


def exception_of(exc_info: Any) -> BaseException | None:
    """Return the exception that a call gave as ``exc_info``, which may be true, a tuple or the exception itself."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if len(exc_info) > 1 and isinstance(exc_info[1], BaseException) else None
    # Not whether it is true: it may be anything.
    return None if exc_info is None or exc_info is False else sys.exc_info()[1]


class Recording:
    """
    Makes events of log calls; the common part of the handler and the processor.

    Args:
        trail: Stores the events.
        level: The least level of a call that gives nothing for its event: a number, or a name.
        buffer: Calls that may wait to be stored.
        flush_timeout: Seconds that `flush` and `close` wait.
    """

    def __init__(
        self,
        trail: AuditTrail,
        level: int | str = logging.WARNING,
        *,
        buffer: int = 10_000,
        flush_timeout: float = 5.0,
    ) -> None:
        self._threshold = level_number(level)
        self._trail = trail
        self._backlog = Backlog(trail, size=buffer, flush_timeout=flush_timeout)
        super().__init__()

    @property
    def dropped(self) -> int:
        """
        How many calls were not stored, since too many waited or the trail could not store them.

        A series of dropped calls is itself an event, of type COMPONENT_FAILURE, as soon as there is room again.
        """
        return self._backlog.dropped

    def flush(self) -> None:
        """Wait until the calls so far are stored, for *flush_timeout* seconds at most."""
        self._backlog.flush()

    def close(self) -> None:
        """Flush, and end the thread. A call that comes later is stored too."""
        self._backlog.close()

    def _read(self, given: object) -> dict[str, Any]:
        return read(given, room=self._trail.policy.max_record_bytes)

    def _is_audited(self, logger: str | None, level: int, given: object) -> bool:
        """Return whether a call at *level* that gives *given* for its event becomes one; none of our own does."""
        if (logger or "").partition(".")[0] == "fapilog" or is_storing():
            return False
        return level >= self._threshold if given is None else given is not False


def read(given: object, *, room: int) -> dict[str, Any]:
    """
    Return the keywords that a call has *given* for its event, in a mapping; another value becomes one of the metadata.

    Texts, tags and metadata are read now: later changes by the application do not change the event. The caller waits,
    hence *room*, the bytes of a record: a pair takes five at least.
    """
    if given is None or given is True:
        return {}
    fields = as_dict(given, room // 5)
    return {"metadata": _frozen({AUDIT: given}, room)} if fields is None else _keywords(fields, room)


def _keywords(given: dict[str, Any], room: int) -> dict[str, Any]:
    read: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    for name, value in given.items():
        if value is None and name in _KNOWN:
            continue
        if name in _TEXTS:
            read[name] = given_text(value)
        elif name == "regulatory_tags":
            read[name] = tuple(given_tags(value))
        elif name == "metadata" and (values := as_dict(value, room // 5)) is not None:
            metadata.update(values)
        elif name == "changes" and (values := as_dict(value, room // 5)) is not None:
            read[name] = _frozen(values, room)
        elif name in _KNOWN and name != "metadata":
            read[name] = value
        else:
            metadata[name] = value
    if metadata:
        read["metadata"] = _frozen(metadata, room)
    return read


def _frozen(metadata: dict[str, Any], room: int) -> dict[str, Any]:
    frozen = plain(metadata)
    return Walk(room=room).root(metadata) if frozen is None else frozen
