"""The options of every middleware, and the event of a request: whether it is stored, and its fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ..core.audit import AuditTrail
from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ..record.options import require, require_callable, require_kind
from ..record.values import given_text
from ..tasks.strangers import Log, answer, tamed
from ._failures import logged
from ._headers import client_address, header_name
from ._secrets import MASK, is_secret

__all__ = ["GONE", "Choice", "RequestOptions", "of_request", "unstored"]

Choice = bool | Callable[[str, str, int], object]
"""Which requests have an event: all, none, or as a function of method, path and status says."""

GONE: Final = 499
"""
The status that nginx has for a request whose client has left:
https://github.com/nginx/nginx/blob/master/src/http/ngx_http_request.h (NGX_HTTP_CLIENT_CLOSED_REQUEST).
"""

_log: Final = Log("fapilog")

unstored: Final = partial(logged, "a request is answered without its event, which can't be stored")
"""Around the call that stores the event of a request: a failure is logged, and the request answered all the same."""

_DENIED: Final = frozenset({401, 403, 429})
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY", "TRACE", "WEBSOCKET"})


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """
    The options that the middleware of every framework has.

    Attributes:
        trail: Stores the events of *log_requests*.
        trusted_proxies: How many proxies of one's own a request comes through.
        proxy_header: The header with their addresses.
        request_id_header: The header with the request id.
        log_requests: Which requests have an event.

    Raises:
        TypeError: *log_requests* is neither True, False nor a function of three arguments, or an asynchronous one;
            *trail* is no trail, *trusted_proxies* no whole number, or a header no text.
        ValueError: *trusted_proxies* is negative, a header has no name of one, *log_requests* is given without a
            *trail*, or a *proxy_header* of one's own without *trusted_proxies*.
    """

    trail: AuditTrail | None
    trusted_proxies: int = 0
    proxy_header: str = "x-forwarded-for"
    request_id_header: str = "x-request-id"
    log_requests: Choice = False

    def __post_init__(self) -> None:
        if not isinstance(self.log_requests, bool):
            expected = "True, False or a function of the method, the path and the status"
            require_callable("log_requests", self.log_requests, expected=expected, takes=3)
        if self.trail is not None:
            require_kind("trail", self.trail, AuditTrail)
        if self.log_requests and self.trail is None:
            raise ValueError("log_requests: expected a trail to store the events in; got none")
        require("trusted_proxies", self.trusted_proxies, at_least=0, whole=True)
        given = header_name("proxy_header", self.proxy_header).lower()
        if given != RequestOptions.proxy_header and not self.trusted_proxies:
            raise ValueError("proxy_header: expected trusted_proxies too, their number; got 0, which reads no header")
        header_name("request_id_header", self.request_id_header)

    def client(self, peer: str | None, forwarded: list[str]) -> str | None:
        """Return the address of the client, of these values of the header; see `client_address`."""
        return client_address(peer, forwarded, proxies=self.trusted_proxies, header=self.proxy_header.lower())

    def trail_for(
        self, middleware: object, recorded: dict[int, object], method: str, path: str, status: int
    ) -> AuditTrail | None:
        """
        Return the trail in which *middleware* stores the event of a request; None if it stores none.

        Args:
            middleware: Asks. Of several around an application that have the same trail, the innermost stores the event.
            recorded: The value of the request under `RECORDED`. Take it before the application is called: a framework
                may hand a copy of the scope to the middleware inside.
            method: The method of the request.
            path: Its path, without the query.
            status: The status of the response.
        """
        if self.trail is None or not self._is_logged(method, path, status):
            return None
        return self.trail if recorded.setdefault(id(self.trail), middleware) is middleware else None

    def _is_logged(self, method: str, path: str, status: int) -> bool:
        """Return whether a request has an event; a function that raises counts as true."""
        if isinstance(self.log_requests, bool):
            return self.log_requests
        try:
            return bool(answer(self.log_requests, method, path, status))
        except BaseException as error:
            _log.error("log_requests raised %s: the request is recorded", type(tamed(error)).__qualname__)
            return True


def of_request(
    method: str, path: str, status: int, error: BaseException | None, *, parameters: object = None
) -> tuple[AuditEventType, str, dict[str, Any]]:
    """
    Return type, message and fields of the event of a request.

    Args:
        method: The method of the request.
        path: Its path, without the query.
        status: The status of the response.
        error: The exception of the application.
        parameters: The parts of the path by the names that its route has for them, if it has any. One that is a secret
            by its name is not recorded: with the path of a link that resets a password, a reader could reset it too.
    """
    kind, level, outcome = _kind(method, status)
    for name, value in parameters.items() if isinstance(parameters, Mapping) else ():
        if value is not None and is_secret(str(name)):
            # In any case: of a UUID, the parameter has small letters.
            path = re.sub(re.escape(given_text(value)), MASK, path, flags=re.IGNORECASE)
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
