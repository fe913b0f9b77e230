"""
Flask: events know their request and their user, and logins are recorded.

    trail = AuditTrail(storage_path="audit")
    app = Flask(__name__)
    Audit(app, trail=trail, trusted_proxies=1)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from .._extras import needs

with needs("flask"):
    from flask import Flask, Response, appcontext_pushed, got_request_exception, has_request_context, request

from ..context import bind_audit_context, current_audit_context
from ..core.audit import AuditTrail
from ..record.options import require_callable, require_kind
from ..record.values import kind_of
from ._headers import ROUTING_ARGS
from ._logins import Logins, current_user_id
from .wsgi import AuditMiddleware, note_error

__all__ = ["Audit"]


class Audit:
    """
    An extension of Flask: fills in the events of an application with the request that they belong to.

    Every event that is logged while a request is handled, and while its response is streamed, has its request id, the
    address of the client, its user agent and the user. They end with the request, even if a view raises. Values that a
    call gives itself win; see `audit_context`, which you may use in your views as well. A view records by `trail.sync`.

    Where the application uses Flask-Login, signing in and out is recorded; where it uses Flask-Security, failures,
    changed passwords, second factors and accounts are too. No event has a password, a token, or the content of a form.
    A failure to record is logged (logger "fapilog"), and raises nothing into your views.

    The request id is the client's, if that has at most 128 letters, digits and characters of ``._:/+=@-``, and else a
    new one. The response carries it. Views find it in ``request.environ["fapilog.request_id"]``. A client can choose it
    freely: it groups events, and proves nothing.

    Args:
        app: The application. Without one, call `init_app`.
        trail: Stores the events. It needs no start: see `AuditTrail.sync`.
        user: Called when an event is logged in a request, where `g` and `session` are there; returns the user's id, or
            None: ``lambda: g.get("user_id")``. By default it is the *id* of Flask-Login's current user, if the
            application has a login manager.
        session: Likewise for the id of the session. Never return a cookie by which a session can be taken over.
        trusted_proxies: How many proxies of your own a request comes through. All must append the address that they
            were asked from to *proxy_header*. The entries are counted from the right, so that a client can't forge its
            address. With 0, the client is the peer that the server, or werkzeug's `ProxyFix`, names.
        proxy_header: The header with these addresses: "x-forwarded-for", "forwarded" (RFC 7239), or another list of
            addresses. Only this header is read, since a client can send any other.
        request_id_header: The header with the request id, in requests and responses.
        log_requests: True stores an event for every request; a function is called with the method, the path and the
            status, and returns whether to store one: ``lambda method, path, status: status >= 400``. The event is
            stored before the response begins, as for `AuditMiddleware`; of an exception that no error handler of yours
            takes it has type, text and traceback.

    Attributes:
        trail: The trail; in a view ``current_app.extensions["audit"].trail`` has it.

    Raises:
        TypeError: *user*, *session* or *log_requests* can't be called, takes other arguments or is asynchronous,
            *app* is no application, or *trail* is no trail.
        ValueError: *trusted_proxies* is negative, or a *proxy_header* of your own is given without it.
        RuntimeError: The application has an `Audit` already.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        trail: AuditTrail,
        user: Callable[[], object] | None = None,
        session: Callable[[], object] | None = None,
        trusted_proxies: int = 0,
        proxy_header: str = "x-forwarded-for",
        request_id_header: str = "X-Request-ID",
        log_requests: bool | Callable[[str, str, int], object] = False,
    ) -> None:
        require_callable("user", user, expected="a function without arguments", takes=0, or_none=True)
        require_callable("session", session, expected="a function without arguments", takes=0, or_none=True)
        require_kind("trail", trail, AuditTrail)
        self.trail = trail
        find_user = user or current_user_id
        self._middleware = partial(
            AuditMiddleware,
            trail=trail,
            user=lambda _: find_user() if has_request_context() else None,
            session=None if session is None else lambda _: session() if has_request_context() else None,
            trusted_proxies=trusted_proxies,
            proxy_header=proxy_header,
            request_id_header=request_id_header,
            log_requests=log_requests,
        )
        # It checks its options: here already, and not where an application is there at last.
        self._middleware(_nothing)
        self._logins: list[Logins] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """
        Fill in the events of *app*, too; for applications that are made by a function.

        Raises:
            RuntimeError: *app* has an `Audit` already.
            TypeError: *app* is no application.
        """
        if not isinstance(app, Flask):
            raise TypeError(f"app: expected a Flask application; got {kind_of(app)}")
        if "audit" in app.extensions:
            raise RuntimeError(f"the application {app.name!r} has an Audit already")
        app.extensions["audit"] = self
        app.wsgi_app = self._middleware(app.wsgi_app)  # type: ignore[method-assign]
        app.url_value_preprocessor(_route)
        app.after_request(_keep)
        logins = Logins(app, self.trail)
        self._logins.append(logins)
        # For extensions that are imported after this call.
        appcontext_pushed.connect(logins.connect, app)
        got_request_exception.connect(_note, app)


def _nothing(*_: object) -> Iterable[bytes]:
    """Be a WSGI application that is never called."""
    return ()


def _route(_: str | None, parameters: dict[str, Any] | None) -> None:
    """Name the parameters of the path for the event of the request. A copy: the application may take some away."""
    request.environ[ROUTING_ARGS] = ((), dict(parameters or {}))


def _keep(response: Response) -> Response:
    """Keep the user for the events of a response that is streamed: by then Flask's own contexts are gone."""
    if response.is_streamed and not response.direct_passthrough:
        known = current_audit_context()
        bind_audit_context(user_id=known.get("user_id"), session_id=known.get("session_id"))
    return response


def _note(_: Flask, *, exception: BaseException, **__: Any) -> None:
    note_error(request.environ, exception)
