"""
A middleware for Falcon, Bottle, Pyramid and every other WSGI application: events know their request.

    app = AuditMiddleware(app, trail=trail, user=lambda environ: environ.get("REMOTE_USER"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ..context import audit_context
from ..core.audit import AuditTrail
from ..record.options import require_callable
from ._headers import RECORDED, REQUEST_ID, ROUTING_ARGS, environ_name, request_id
from ._requests import RequestOptions, of_request, unstored

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

__all__ = ["AuditMiddleware", "note_error"]
_ERROR: Final = "fapilog.error"


def note_error(environ: dict[str, Any], error: BaseException) -> None:
    """Note the exception that the application answers with an error page, for the event of the request."""
    environ[_ERROR] = error


class AuditMiddleware:
    """
    Fills in the events of a WSGI application with the request that they belong to.

    A request, with the body of its response, is handled in a copy of the context variables: every event that is logged
    meanwhile has its request id, the address of the client and its user agent, and if you say how, the user and the
    session. They end with the request, even if it raises; a response that is streamed has them too, though the
    application has returned by then. Values that a call gives itself win; see `audit_context`, which you may use in
    your views as well. A view records by `trail.sync`.

    The request id is the client's, if that has at most 128 letters, digits and characters of ``._:/+=@-``, and else a
    new one. The response carries it. Views find it in ``environ["fapilog.request_id"]``. A client can choose it freely:
    it groups events, and proves nothing.

    Args:
        app: The application. It may be another middleware.
        trail: Stores the events of *log_requests*; not needed without.
        user: Called with the environment of the request when an event is logged; returns the user's id, or None:
            ``lambda environ: environ.get("REMOTE_USER")``.
        session: Likewise for the id of the session. Never return a cookie by which a session can be taken over.
        trusted_proxies: How many proxies of your own a request comes through; as for the middleware for ASGI.
        proxy_header: The header with the addresses: "x-forwarded-for", "forwarded" (RFC 7239), or another list.
        request_id_header: The header with the request id, in requests and responses.
        log_requests: True stores an event for every request; a function is called with the method, the path and the
            status, and returns whether to store one. The event is stored before the response begins. If it can't be
            stored, this is logged (logger "fapilog") and the response is sent all the same. An error page that takes
            the place of an answer has an event of its own. A parameter of the path that is a secret by its name, such
            as "token", is not recorded if the application has it in ``environ["wsgiorg.routing_args"]``, as Flask has.

    Raises:
        TypeError: *user*, *session* or *log_requests* can't be called, takes other arguments or is asynchronous,
            *trail* is no trail, or a header is no text.
        ValueError: *trusted_proxies* is negative, a header has no name of one, *log_requests* is given without a
            *trail*, or a *proxy_header* of your own without *trusted_proxies*.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        trail: AuditTrail | None = None,
        user: Callable[[WSGIEnvironment], object] | None = None,
        session: Callable[[WSGIEnvironment], object] | None = None,
        trusted_proxies: int = 0,
        proxy_header: str = "x-forwarded-for",
        request_id_header: str = "X-Request-ID",
        log_requests: bool | Callable[[str, str, int], object] = False,
    ) -> None:
        require_callable("app", app, expected="a WSGI application")
        require_callable("user", user, expected="a function of the environment", takes=1, or_none=True)
        require_callable("session", session, expected="a function of the environment", takes=1, or_none=True)
        self._options = RequestOptions(
            trail=trail,
            trusted_proxies=trusted_proxies,
            proxy_header=proxy_header,
            request_id_header=request_id_header,
            log_requests=log_requests,
        )
        self._app = app
        self._user = user
        self._session = session

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request: WSGI's own interface."""
        context = copy_context()
        return context.run(self._handle, environ, start_response, context)

    def _handle(self, environ: WSGIEnvironment, start_response: StartResponse, context: Context) -> Iterable[bytes]:
        # One that a middleware around this one has given stays: the response can have but one.
        this = environ.get(REQUEST_ID) or request_id(environ.get(environ_name(self._options.request_id_header)))
        environ[REQUEST_ID] = this
        values: dict[str, object] = {
            "request_id": this,
            "client_ip": lambda: self._client(environ),
            "user_agent": lambda: environ.get("HTTP_USER_AGENT"),
        }
        # One function per value, so that an unreadable value is not named a partial.
        if (user := self._user) is not None:
            values["user_id"] = lambda: user(environ)
        if (session := self._session) is not None:
            values["session_id"] = lambda: session(environ)
        # Never left: it ends with the copy of the context variables.
        audit_context(**values).__enter__()
        # Inside of the application, a router may change the environment.
        method, path = environ["REQUEST_METHOD"], _path(environ)
        recorded = environ.setdefault(RECORDED, {})
        is_answered = False

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /
        ) -> Callable[[bytes], object]:
            nonlocal is_answered
            name = self._options.request_id_header
            pairs = [*(pair for pair in headers if pair[0].lower() != name.lower()), (name, this)]
            # Nothing is sent by that yet. With an exception, it takes the place of an answer that has not begun, or
            # raises: https://peps.python.org/pep-3333/#the-start-response-callable.
            write = start_response(status, pairs) if exc_info is None else start_response(status, pairs, exc_info)
            if not is_answered or exc_info is not None:
                is_answered = True
                error = environ.pop(_ERROR, None) or (exc_info and exc_info[1])
                self._log(environ, recorded, method, path, _number(status), error=error)
            return write

        def failed(error: Exception) -> None:
            environ.pop(_ERROR, None)
            if not is_answered:
                # The server, or a middleware around this one, answers so.
                self._log(environ, recorded, method, path, 500, error=error)

        try:
            body = self._app(environ, start)
            # Of a list or a tuple, whose parts are made already, a server finds out the length:
            # https://peps.python.org/pep-3333/#handling-the-content-length-header. A file it sends by itself.
            file = environ.get("wsgi.file_wrapper")
            is_made = type(body) in {list, tuple} or (isinstance(file, type) and isinstance(body, file))
            return body if is_made else _Body(body, context, failed)
        except Exception as error:
            failed(error)
            raise

    def _client(self, environ: WSGIEnvironment) -> str | None:
        # The server has joined all values of the header.
        joined = environ.get(environ_name(self._options.proxy_header))
        return self._options.client(environ.get("REMOTE_ADDR") or None, [joined] if joined else [])

    def _log(
        self,
        environ: WSGIEnvironment,
        recorded: dict[int, object],
        method: str,
        path: str,
        status: int,
        *,
        error: BaseException | None,
    ) -> None:
        trail = self._options.trail_for(self, recorded, method, path, status)
        if trail is None:
            return
        with unstored():
            _, parameters = environ.get(ROUTING_ARGS) or ((), None)
            kind, message, fields = of_request(method, path, status, error, parameters=parameters)
            trail.sync.log_event(kind, message, **fields)


class _Body:
    """The body of a response, whose parts are made in the context of its request; made in that context, too."""

    def __init__(self, body: Iterable[bytes], context: Context, failed: Callable[[Exception], None]) -> None:
        self._body = body
        self._context = context
        self._failed = failed
        self._parts: Iterator[bytes] = iter(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return self._context.run(next, self._parts)
        except StopIteration:
            raise
        except Exception as error:
            # An application that is a generator begins with the first part, and may not have answered yet.
            self._context.run(self._failed, error)
            raise

    def close(self) -> None:
        close: Callable[[], object] | None = getattr(self._body, "close", None)
        if close is not None:
            self._context.run(close)


def _path(environ: WSGIEnvironment) -> str:
    # Bytes, as one character per byte: https://peps.python.org/pep-3333/#unicode-issues.
    path: str = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def _number(status: str) -> int:
    number = status[:3]
    return int(number) if number.isdecimal() else 500
