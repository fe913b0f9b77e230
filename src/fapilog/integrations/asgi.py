"""
A middleware for Starlette, FastAPI, Litestar and every other ASGI application: events know their request.

    app = FastAPI(lifespan=trail.lifespan)
    app.add_middleware(AuditMiddleware, trail=trail, user=lambda scope: scope.get("state", {}).get("user_id"))
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Final, cast

from ..context import audit_context
from ..core.audit import AuditTrail
from ..record.errors import reason
from ..record.options import require_callable, require_kind
from ..record.values import kind_of
from ._headers import RECORDED, REQUEST_ID, request_id
from ._requests import GONE, RequestOptions, of_request, unstored

__all__ = ["AuditMiddleware", "Scope", "with_lifespan"]

Scope = Mapping[str, Any]
"""The description of a connection by an ASGI server: https://asgi.readthedocs.io/en/latest/specs/www.html."""

# Wide enough for Starlette's types, which are mappings, and for Litestar's, which are typed dicts.
_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]
_App = Callable[[Any, Any, Any], Awaitable[None]]

# The messages that begin an answer and have headers.
_STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
# The messages that say that the client has left.
_ENDS: Final = frozenset({"http.disconnect", "websocket.disconnect"})


class AuditMiddleware:
    """
    Fills in the events of an ASGI application with the request that they belong to.

    Every event that is logged while a request is handled, or a WebSocket is open, has its request id, the address of
    the client and its user agent, and if you say how, the user and the session. They end with the request, even if it
    raises. Values that a call gives itself win; see `audit_context`, which you may use in your views as well.

    The request id is the client's, if that has at most 128 letters, digits and characters of ``._:/+=@-``, and else a
    new one. The response carries it. Views find it in ``scope["fapilog.request_id"]``. A client can choose it freely:
    it groups events, and proves nothing.

    All other kinds of connections, such as the lifespan, pass unchanged.

    Args:
        app: The application. It may be another middleware.
        trail: Stores the events of *log_requests*; not needed without.
        user: Called with the scope when an event is logged; returns the user's id, or None. By then the application has
            authenticated the user: ``lambda scope: scope.get("state", {}).get("user_id")``. It must not wait.
        session: Likewise for the id of the session. Never return a cookie by which a session can be taken over.
        trusted_proxies: How many proxies of your own a request comes through. All must append the address that they
            were asked from to *proxy_header*. The entries are counted from the right, so that a client can't forge its
            address. With 0, the client is the peer that the server names.
        proxy_header: The header with these addresses: "x-forwarded-for", "forwarded" (RFC 7239), or another list of
            addresses. Only this header is read, since a client can send any other.
        request_id_header: The header with the request id, in requests and responses.
        log_requests: True stores an event for every request; a function is called with the method, the path and the
            status, and returns whether to store one: ``lambda method, path, status: method != "GET" or status >= 400``.
            The event is stored before the response begins. If it can't be stored, this is logged (logger "fapilog") and
            the response is sent all the same. A WebSocket has the method "WEBSOCKET", and the status 101 if it is
            accepted and 403 if it is closed instead. One that the application gives up, as the client has left, has
            the status 499. A function that raises counts as true.

            The event is a read, change or deletion of data, by the method; with status 401, 403 or 429 a failed
            authorization, denied and at level warning; with 500 and more an error. It has the method as *operation*,
            and the path without the query as *target*, with stars for the parameters in ``scope["path_params"]`` that
            are secrets by their names, such as "token". Headers and bodies are not recorded.

    Raises:
        TypeError: *user*, *session* or *log_requests* can't be called, takes other arguments or is asynchronous,
            *trail* is no trail, or a header is no text.
        ValueError: *trusted_proxies* is negative, a header has no name of one, *log_requests* is given without a
            *trail*, or a *proxy_header* of your own without *trusted_proxies*.
    """

    def __init__(
        self,
        app: _App,
        *,
        trail: AuditTrail | None = None,
        user: Callable[[Scope], object] | None = None,
        session: Callable[[Scope], object] | None = None,
        trusted_proxies: int = 0,
        proxy_header: str = "x-forwarded-for",
        request_id_header: str = "x-request-id",
        log_requests: bool | Callable[[str, str, int], object] = False,
    ) -> None:
        _require_app(app)
        require_callable("user", user, expected="a function of the scope", takes=1, or_none=True)
        require_callable("session", session, expected="a function of the scope", takes=1, or_none=True)
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
        self._proxy_header = proxy_header.lower().encode("ascii")
        self._id_header = request_id_header.lower().encode("ascii")

    async def __call__(self, scope: Scope, receive: _Receive, send: _Send) -> None:
        """Handle one connection: ASGI's own interface."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        # One that a middleware around this one has given stays: the response can have but one.
        this = scope.get(REQUEST_ID) or request_id(_header(scope, self._id_header))
        # Not in a copy: middleware around this one may look for values that the application puts into the scope.
        cast("MutableMapping[str, Any]", scope)[REQUEST_ID] = this
        values: dict[str, object] = {
            "request_id": this,
            "client_ip": lambda: self._client(scope),
            "user_agent": lambda: _header(scope, b"user-agent"),
        }
        # One function per value, so that an unreadable value is not named a partial.
        if (user := self._user) is not None:
            values["user_id"] = lambda: user(scope)
        if (session := self._session) is not None:
            values["session_id"] = lambda: session(scope)
        with audit_context(**values):
            if self._options.log_requests:
                await self._handle_and_log(scope, receive, self._sending(send, this))
            else:
                await self._app(scope, receive, self._sending(send, this))

    def _client(self, scope: Scope) -> str | None:
        forwarded: list[str] = []
        if self._options.trusted_proxies:
            forwarded = [value.decode("latin-1") for key, value in scope["headers"] if key == self._proxy_header]
        # A pair of the host and the port; none for a Unix socket.
        peer = scope.get("client")
        return self._options.client((peer and peer[0]) or None, forwarded)

    def _sending(self, send: _Send, this: str) -> _Send:
        """Return *send* with the request id among the headers."""
        header = self._id_header
        pair = (header, this.encode("ascii"))

        async def send_with_id(message: dict[str, Any]) -> None:
            if message["type"] in _STARTS:
                others = [each for each in message.get("headers") or () if each[0].lower() != header]
                message = {**message, "headers": [*others, pair]}
            await send(message)

        return send_with_id

    async def _handle_and_log(self, scope: Scope, receive: _Receive, send: _Send) -> None:
        """Handle a connection, and store its event before the answer begins."""
        # Inside of the application, a router may change the scope.
        method, path = scope["method"] if scope["type"] == "http" else "WEBSOCKET", scope["path"]
        recorded = cast("MutableMapping[str, Any]", scope).setdefault(RECORDED, {})
        log = partial(self._log, scope, recorded, method, path)
        is_answered = is_gone = False

        async def receive_and_note() -> Any:
            nonlocal is_gone
            message = await receive()
            is_gone = is_gone or message["type"] in _ENDS
            return message

        async def log_and_send(message: dict[str, Any]) -> None:
            nonlocal is_answered
            kind = message["type"]
            if not is_answered and (kind in _STARTS or kind == "websocket.close"):
                is_answered = True
                await log(message.get("status") or (101 if kind == "websocket.accept" else 403))
            await send(message)

        try:
            await self._app(scope, receive_and_note, log_and_send)
        except Exception as error:
            if not is_answered:
                # The server, or a middleware around this one, answers so.
                await log(500, error=error)
            raise
        if not is_answered:
            await log(GONE if is_gone else 500)

    async def _log(
        self,
        scope: Scope,
        recorded: dict[int, object],
        method: str,
        path: str,
        status: int,
        *,
        error: Exception | None = None,
    ) -> None:
        trail = self._options.trail_for(self, recorded, method, path, status)
        if trail is None:
            return
        with unstored():
            # Starlette, FastAPI and Litestar leave them here.
            kind, message, fields = of_request(method, path, status, error, parameters=scope.get("path_params"))
            await trail.log_event(kind, message, **fields)


def with_lifespan(app: _App, trail: AuditTrail) -> _App:
    """
    Start *trail* with an application that has no lifespan, and stop it with that.

        application = with_lifespan(get_asgi_application(), trail)

    uvicorn ends a process by the signal itself, so that nothing is done at the exit of the interpreter. Without a
    lifespan, the alerts that wait there would be lost.

    Args:
        app: An ASGI application, such as that of Django. It is never asked for its lifespan.
        trail: Started before the first request, and stopped after the last one. If it can't be started, the server
            says so and ends.

    Raises:
        TypeError: *app* can't be called, or *trail* is no trail.
    """
    _require_app(app)
    require_kind("trail", trail, AuditTrail)

    async def application(scope: Any, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for phase, call in (("startup", trail.start), ("shutdown", trail.stop)):
            await receive()
            try:
                await call()
            except Exception as error:
                # Raised, it would mean that there is no lifespan.
                await send({"type": f"lifespan.{phase}.failed", "message": f"the trail: {reason(error)}"})
                return
            await send({"type": f"lifespan.{phase}.complete"})

    return application


def _require_app(app: object) -> None:
    if not callable(app):
        raise TypeError(f"app: expected an ASGI application; got {kind_of(app)}")


def _header(scope: Scope, name: bytes) -> str | None:
    """Return the first value of a header."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
