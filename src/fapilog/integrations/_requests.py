"""The event of a request: whether it is stored, and its fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ..record.options import require_callable
from ..tasks.strangers import Log, answer, tamed
from ._trails import require_trail

__all__ = ["Choice", "check", "is_chosen", "of_request"]

Choice = bool | Callable[[str, str, int], object]
"""Which requests have an event: all, none, or as a function of method, path and status says."""

_log: Final = Log("fapilog")

_DENIED: Final = frozenset({401, 403, 429})
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY", "TRACE", "WEBSOCKET"})


def check(log_requests: object, trail: object) -> None:
    """
    Check the options of a middleware.

    Raises:
        TypeError: *log_requests* is neither True, False nor a function of three arguments, or an asynchronous one; or
            *trail* is no trail.
        ValueError: *log_requests* is given without a *trail*.
    """
    if not isinstance(log_requests, bool):
        expected = "True, False or a function of the method, the path and the status"
        require_callable("log_requests", log_requests, expected=expected, takes=3)
    if trail is not None:
        require_trail(trail)
    if log_requests and trail is None:
        raise ValueError("log_requests: expected a trail to store the events in; got none")


def is_chosen(log_requests: Choice, method: str, path: str, status: int) -> bool:
    """Return whether a request has an event; a function that raises counts as true."""
    if isinstance(log_requests, bool):
        return log_requests
    try:
        return bool(answer(log_requests, method, path, status))
    except BaseException as error:
        _log.error("log_requests raised %s: the request is recorded", type(tamed(error)).__qualname__)
        return True


def of_request(
    method: str, path: str, status: int, error: BaseException | None
) -> tuple[AuditEventType, str, dict[str, Any]]:
    """Return type, message and fields of the event of a request."""
    kind, level, outcome = _kind(method, status)
    fields = {
        "log_level": level,
        "operation": method,
        "error": error,
        "outcome": outcome,
        "target": path,
        "metadata": {"status": status},
    }
    return kind, f"{method} {path}: {status}", fields


def _kind(method: str, status: int) -> tuple[AuditEventType, AuditLogLevel, AuditOutcome]:
    """Return the type, the level and the outcome of the event of a request."""
    if status in _DENIED:
        return AuditEventType.AUTHORIZATION_FAILED, AuditLogLevel.WARNING, AuditOutcome.DENIED
    if status >= 500:  # noqa: PLR2004
        return AuditEventType.ERROR_OCCURRED, AuditLogLevel.ERROR, AuditOutcome.FAILURE
    if method in _READING:
        kind = AuditEventType.DATA_ACCESS
    else:
        kind = AuditEventType.DATA_DELETION if method == "DELETE" else AuditEventType.DATA_MODIFICATION
    return kind, AuditLogLevel.INFO, AuditOutcome.SUCCESS if status < 400 else AuditOutcome.FAILURE  # noqa: PLR2004
