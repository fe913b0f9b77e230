"""The middleware: every event of a request has the request's id, the client's address, and the user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Any, Final

import anyio
from asgiref.sync import iscoroutinefunction as is_async
from asgiref.sync import markcoroutinefunction, sync_to_async
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.http import FileResponse
from django.utils.crypto import salted_hmac

from ...context import KeptContext, audit_context
from ...tasks.strangers import Log
from .._headers import RECORDED, REQUEST_ID, environ_name, request_id
from .._requests import GONE
from .._requests import of_request as event_of
from ._settings import OfRequest, begin, has_begun, of_request, recording, trail

__all__ = ["AuditMiddleware"]

_Request = Any  # Django's HttpRequest, which has no types, and gets its user by a middleware
_log: Final = Log("fapilog")

_APP: Final = "fapilog.integrations.django"
_ERROR: Final = "fapilog.error"
_SESSION_ID_LENGTH: Final = 32


class AuditMiddleware:
    """
    Fills in the events of a Django site with the request that they belong to; `MIDDLEWARE` has its path.

    Every event that is logged while a request is handled has its request id, the address of the client, its user agent,
    the user, and an id of the session that does not let a reader take it over. They are found when the event is logged,
    so that the user is known wherever in `MIDDLEWARE` this stands, also a user that Django REST framework finds in the
    view. It should stand first: only then it sees the requests that other middleware answers. Values that a call gives
    itself win; see `audit_context`, which you may use in your views as well.

    The request id is the client's, if that has at most 128 letters, digits and characters of ``._:/+=@-``, and else a
    new one. The response carries it. Views find it in ``request.META["fapilog.request_id"]``. A client can choose it
    freely: it groups events, and proves nothing.

    With ``log_requests`` in the setting AUDIT, requests have an event of their own, as for the middleware for ASGI; it
    is stored before the response begins. One that Django REST framework refuses has the code of the error in its
    metadata: "not_authenticated", "authentication_failed", "permission_denied" or "throttled".

    The first request of a process starts the trail. It is for WSGI and for ASGI; the setting AUDIT has its options.

    Args:
        get_response: The rest of the site, synchronous or not.

    Raises:
        ImproperlyConfigured: Something is wrong with the setting AUDIT, or `INSTALLED_APPS` lacks the app.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[_Request], Any]) -> None:
        self._get_response = get_response
        if not apps.is_installed(_APP):
            # Without it no sign-in and no change would be recorded, and nobody would notice.
            raise ImproperlyConfigured(
                f"INSTALLED_APPS: expected {_APP!r} there too, since MIDDLEWARE has its middleware"
            )
        self._options = of_request()
        # Here, where an error in the setting AUDIT keeps the server from starting. Nothing is opened by that.
        _ = trail.policy
        self._is_async = is_async(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        # Called by Django just before the view, when all middleware has seen the request.
        self.process_view: Callable[..., Any] = self._load_user_soon if self._is_async else self._load_user

    def __call__(self, request: _Request) -> Any:
        """Handle one request: Django's own interface; a coroutine if the rest of the site is asynchronous."""
        if self._is_async:
            return self._handle(request)
        begin()
        with self._block(request):
            response = self._get_response(request)
            self._log(request, response.status_code, _code(response))
            return self._finished(request, response)

    async def _handle(self, request: _Request) -> Any:
        if not has_begun():
            # In a thread: a dispatcher that is entered may wait for its network.
            await sync_to_async(begin, thread_sensitive=False)()
        with self._block(request):
            try:
                response = await self._get_response(request)
            except anyio.get_cancelled_exc_class():
                # The client has left, and Django gives the request up. The view may have done its work by then.
                await self._log_soon(request, GONE)
                raise
            await self._log_soon(request, response.status_code, _code(response))
            return self._finished(request, response)

    def process_exception(self, request: _Request, exception: Exception) -> None:
        """Note the exception of a view for the event of its request: Django's own interface."""
        request.META[_ERROR] = exception

    async def _log_soon(self, request: _Request, status: int, code: str | None = None) -> None:
        if self._options.log_requests:
            # In a thread, where Django may ask the database for the user.
            await sync_to_async(self._log)(request, status, code)

    def _log(self, request: _Request, status: int, code: str | None = None) -> None:
        error = request.META.pop(_ERROR, None)
        method, path = request.method, request.path
        # Around the whole site may be our middleware for ASGI or WSGI, in whose scope or environment this is.
        recorded = getattr(request, "scope", request.META).setdefault(RECORDED, {})
        if self._options.trail_for(self, recorded, method, path, status) is None:
            return
        # Of other exceptions, such as Http404, the status says it all.
        shown = error if status >= HTTPStatus.INTERNAL_SERVER_ERROR else None
        # None where no route fits the path.
        parameters = getattr(request.resolver_match, "kwargs", None)
        kind, message, fields = event_of(method, path, status, shown, parameters=parameters)
        if code is not None:
            fields["metadata"]["code"] = code
        with recording():
            trail.sync.log_event(kind, message, **fields)

    def _block(self, request: _Request) -> AbstractContextManager[None]:
        options, meta = self._options, request.META
        # The id that our middleware for ASGI has given stays, where that is around the whole site.
        given = getattr(request, "scope", {}).get(REQUEST_ID)
        this = given or request_id(request.headers.get(options.request_id_header))
        meta[REQUEST_ID] = this
        return audit_context(
            request_id=this,
            client_ip=lambda: _address(request, options),
            user_agent=meta.get("HTTP_USER_AGENT"),
            user_id=lambda: _user(request, options),
            session_id=lambda: _session(request),
        )

    def _finished(self, request: _Request, response: Any) -> Any:
        response.headers[self._options.request_id_header] = request.META[REQUEST_ID]
        # The server runs a generator of the view later; a file runs no code of the site.
        if response.streaming and not isinstance(response, FileResponse):
            chunks, block = response.streaming_content, KeptContext()
            response.streaming_content = _streaming(chunks, block) if response.is_async else _yielding(chunks, block)
            # A client that leaves early ends the generator.
            response.close = _inside(block, response.close)
        return response

    def _load_user(self, request: _Request, view: Any, *_: object) -> None:
        """Find the user of an asynchronous view by now: in an event loop, Django refuses to ask the database."""
        if is_async(view):
            _evaluate(request)

    async def _load_user_soon(self, request: _Request, view: Any, *_: object) -> None:
        # Without a credential there is no user, and nothing to wait for.
        if is_async(view) and (request.COOKIES or "HTTP_AUTHORIZATION" in request.META):
            await sync_to_async(_evaluate)(request)


def _code(response: Any) -> str | None:
    """Return the code of an error of Django REST framework: https://www.django-rest-framework.org/api-guide/exceptions/."""
    data = getattr(response, "data", None)
    code = getattr(data.get("detail"), "code", None) if isinstance(data, dict) else None
    return code if isinstance(code, str) else None


def _evaluate(request: _Request) -> None:
    try:
        bool(request.user.is_authenticated)
    except Exception as error:
        # The site has no users, or fails to find this one: it will say so itself, if it needs to know.
        if hasattr(request, "user"):
            _log.error("the user of a request can't be read: %s", type(error).__qualname__)


def _address(request: _Request, options: OfRequest) -> str | None:
    meta = request.META
    # A server joins several headers of a name by commas: PEP 3333 for WSGI, and Django for ASGI.
    forwarded = meta.get(environ_name(options.proxy_header))
    return options.client(meta.get("REMOTE_ADDR") or None, [] if forwarded is None else [forwarded])


def _user(request: _Request, options: OfRequest) -> object:
    user = getattr(request, "user", None)
    try:
        is_known = user is not None and user.is_authenticated
    except SynchronousOnlyOperation:
        # In asynchronous middleware, before the view is called.
        return None
    return options.user_id(user) if is_known else None


def _session(request: _Request) -> str | None:
    key = getattr(getattr(request, "session", None), "session_key", None)
    # The key itself would let a reader of the trail take the session over.
    return salted_hmac("fapilog.session", key, algorithm="sha256").hexdigest()[:_SESSION_ID_LENGTH] if key else None


def _yielding(chunks: Iterator[bytes], block: AbstractContextManager[None]) -> Iterator[bytes]:
    while True:
        with block:
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


async def _streaming(chunks: AsyncIterator[bytes], block: AbstractContextManager[None]) -> AsyncIterator[bytes]:
    while True:
        with block:
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


def _inside(block: AbstractContextManager[None], close: Callable[[], None]) -> Callable[[], None]:
    """Return *close*, to be called in *block*."""

    def close_inside() -> None:
        with block:
            close()

    return close_inside
