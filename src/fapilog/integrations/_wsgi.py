"""A WSGI application that handles every request in a context of its own: `WithRequests`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final

from ..context import audit_context
from ..core.audit import AuditTrail
from ..tasks.strangers import Log
from ._headers import client_address, request_id
from ._requests import Choice, is_chosen, of_request

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["REQUEST_ID", "WithRequests", "note_error"]

REQUEST_ID: Final = "fapilog.request_id"
"""Where the environment of a request has its id."""

_ERROR: Final = "fapilog.error"
_log: Final = Log("fapilog")


def note_error(environ: dict[str, Any], error: BaseException) -> None:
    """Note the exception that the application answers with an error page, for the event of the request."""
    environ[_ERROR] = error


class WithRequests:
    """
    A WSGI application around another one, whose events know their request.

    A request, with the body of its response, is handled in a copy of the context variables. Nothing that the
    application sets there outlives the request, however that ends; and a response that is streamed has the context too,
    though the application has returned by then.

    Args:
        app: The application.
        trail: Stores the events of *log_requests*.
        values: Further values of the context of a request: texts, or functions without arguments.
        proxies: How many proxies of our own a request comes through.
        proxy_header: The header in which they keep the addresses, in lower case.
        id_header: The header with the request id.
        log_requests: Which requests have an event.
    """

    def __init__(
        self,
        app: WSGIApplication,
        trail: AuditTrail,
        *,
        values: dict[str, Callable[[], object]],
        proxies: int,
        proxy_header: str,
        id_header: str,
        log_requests: Choice,
    ) -> None:
        self._app = app
        self._trail = trail
        self._values = values
        self._proxies = proxies
        self._proxy_header = proxy_header
        self._id_header = id_header
        self._log_requests = log_requests

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request: WSGI's own interface."""
        context = copy_context()
        body = context.run(self._handle, environ, start_response)
        # The server sends a file by itself, if it is shown one.
        file = environ.get("wsgi.file_wrapper")
        return body if isinstance(file, type) and isinstance(body, file) else _Body(body, context)

    def _handle(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # One that a middleware around this one has given stays: the response can have but one.
        this = environ.get(REQUEST_ID) or request_id(environ.get(_key(self._id_header)))
        environ[REQUEST_ID] = this
        values: dict[str, object] = {
            "request_id": this,
            "client_ip": lambda: self._client(environ),
            "user_agent": lambda: environ.get("HTTP_USER_AGENT"),
        }
        # Never left: it ends with the copy of the context variables.
        audit_context(**values, **self._values).__enter__()
        # Inside of the application, a router may change the environment.
        method, path = environ["REQUEST_METHOD"], _path(environ)
        is_answered = False

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /
        ) -> Callable[[bytes], object]:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                self._log(method, path, _number(status), environ.pop(_ERROR, None))
            name = self._id_header.lower()
            pairs = [*(pair for pair in headers if pair[0].lower() != name), (self._id_header, this)]
            return start_response(status, pairs) if exc_info is None else start_response(status, pairs, exc_info)

        try:
            return self._app(environ, start)
        except Exception as error:
            environ.pop(_ERROR, None)
            if not is_answered:
                # The server, or a middleware around this one, answers so.
                self._log(method, path, 500, error)
            raise

    def _client(self, environ: WSGIEnvironment) -> str | None:
        # The server has joined all values of the header.
        joined = environ.get(_key(self._proxy_header)) if self._proxies else None
        peer = environ.get("REMOTE_ADDR") or None
        return client_address(peer, [joined] if joined else [], proxies=self._proxies, header=self._proxy_header)

    def _log(self, method: str, path: str, status: int, error: BaseException | None) -> None:
        if not is_chosen(self._log_requests, method, path, status):
            return
        kind, message, fields = of_request(method, path, status, error)
        try:
            self._trail.sync.log_event(kind, message, **fields)
        except Exception as failure:
            _log.error("a request is answered without its event, which can't be stored: %s", type(failure).__qualname__)


class _Body:
    """The body of a response, whose parts are made in the context of its request."""

    def __init__(self, body: Iterable[bytes], context: Context) -> None:
        self._body = body
        self._context = context
        self._parts: Iterator[bytes] = context.run(iter, body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(next, self._parts)

    def close(self) -> None:
        close: Callable[[], object] | None = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)


def _key(header: str) -> str:
    """Return the name that the environment has for a header: https://peps.python.org/pep-3333/#environ-variables."""
    return f"HTTP_{header.upper().replace('-', '_')}"


def _path(environ: WSGIEnvironment) -> str:
    # Bytes, as one character per byte: https://peps.python.org/pep-3333/#unicode-issues.
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def _number(status: str) -> int:
    number = status[:3]
    return int(number) if number.isdecimal() else 500
