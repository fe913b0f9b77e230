"""Two checks of a call of a recording method: for mistyped keywords, and for the trace that it belongs to."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Iterable
from typing import Any, Final

from ..record.intake import FIELDS
from ..record.values import given_text
from ..tasks.strangers import Log

__all__ = ["current_span", "look_for_typos"]

_log: Final = Log("fapilog.core.audit")

# Common names for the fields, from other libraries and from everyday use; all without underscores.
_ALIASES: Final = {
    "level": "log_level",
    "severity": "log_level",
    "loglevel": "log_level",
    "user": "user_id",
    "username": "user_id",
    "uid": "user_id",
    "ip": "client_ip",
    "ipaddress": "client_ip",
    "remoteaddr": "client_ip",
    "useragent": "user_agent",
    "exception": "error",
    "exc": "error",
    "excinfo": "error",
    "tags": "regulatory_tags",
    "resource": "target",
    "extra": "metadata",
    "pii": "contains_pii",
    "phi": "contains_phi",
    "id": "event_id",
}
# Metadata that `log_data_access` itself adds, as the earlier fapilog did.
_MEANT: Final = frozenset({"resource"})
_NEAR: Final = 0.8
_LONGEST_NAME: Final = 100
# The places in the code that were warned about; more than any application has, and bounded all the same.
_MAX_PLACES: Final = 1024
_told: Final[set[tuple[str, int, str]]] = set()


def look_for_typos(given: Iterable[str], *, strict: bool) -> None:
    """
    Warn, once per place in the code, about a keyword that is no field but similar to one.

    Args:
        given: The names of the keywords.
        strict: Whether to raise instead.

    Raises:
        TypeError: There is such a keyword, and *strict* is set.
    """
    # A key that is no identifier, or a very long one, comes from data: it is neither logged nor remembered.
    names = [name for name in given if name not in FIELDS and name.isidentifier() and len(name) <= _LONGEST_NAME]
    found = {name: near for name in names if name not in _MEANT and (near := _nearest(name))}
    if not found:
        return
    words = ", ".join(f"{name}: did you mean {near}?" for name, near in found.items())
    if strict:
        raise TypeError(f"{words} Values that are no field belong into metadata={{...}}")
    place = (*_caller(), words)
    if place not in _told and len(_told) < _MAX_PLACES:
        _told.add(place)
        _log.warning("%s, line %s: %s The event is stored, with the value in its metadata.", *place)


@functools.lru_cache(maxsize=1024)
def _nearest(name: str) -> str | None:
    plain = name.lower().replace("_", "")
    if plain in _ALIASES:
        return _ALIASES[plain]
    near = difflib.get_close_matches(plain, _PLAIN, n=1, cutoff=_NEAR)
    return _PLAIN[near[0]] if near else None


_PLAIN: Final = {name.replace("_", ""): name for name in FIELDS}


def _caller() -> tuple[str, int]:
    """Return the file and the line of the first frame that is not of this package."""
    ours = __name__.partition(".")[0]
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001  # as `warnings` does
    while frame.f_back is not None and given_text(frame.f_globals.get("__name__")).partition(".")[0] == ours:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def current_span(trace_id: object) -> dict[str, Any]:
    """
    Return the ids of OpenTelemetry's current span as members of an event; none where there is no span.

    Nor if a *trace_id* is given that is of another trace, in which there is no such span.

    As the W3C writes them: https://www.w3.org/TR/trace-context/#traceparent-header. Nothing is imported: without
    OpenTelemetry in the process there is no span.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    try:
        context = trace.get_current_span().get_span_context()
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context.is_valid else {}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        _log.warning("OpenTelemetry's current span can't be read: %s", type(error).__qualname__)
        return {}
    return ids if trace_id is None or given_text(trace_id) == ids.get("trace_id") else {}
