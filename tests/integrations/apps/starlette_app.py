"""A small Starlette service whose events know their request and their user."""

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    BaseUser,
    SimpleUser,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from fapilog import AuditTrail
from fapilog.context import bind_audit_context
from fapilog.integrations.asgi import AuditMiddleware, Scope

trail = AuditTrail(storage_path="audit")


async def read_patient(request: Request) -> JSONResponse:
    """Read a patient."""
    number = request.path_params["number"]
    await trail.log_data_access(f"patient/{number}", "read")
    return JSONResponse({"patient": number})


# -- users


class Bearer(AuthenticationBackend):
    """Believes everyone."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Return the user that the header names."""
        user = conn.headers.get("authorization", "").removeprefix("Bearer ")
        return (AuthCredentials(), SimpleUser(user)) if user else None


def user_of(scope: Scope) -> str | None:
    """Return the user that the middleware above has found."""
    user = scope.get("user")
    return user.display_name if user and user.is_authenticated else None


async def watch(websocket: WebSocket) -> None:
    """Record what is watched, until the client leaves."""
    await websocket.accept()
    async for ward in websocket.iter_text():
        bind_audit_context(ward=ward)
        event_id = await trail.log_data_access(f"ward/{ward}", "watch")
        await websocket.send_text(event_id)


# -- application

app = Starlette(
    lifespan=trail.lifespan,
    routes=[
        Route("/patients/{number:int}", read_patient),
        WebSocketRoute("/watch", watch),
    ],
    middleware=[
        Middleware(
            AuditMiddleware,
            trail=trail,
            user=user_of,
            trusted_proxies=1,
            log_requests=lambda method, path, status: status >= 400,
        ),
        Middleware(AuthenticationMiddleware, backend=Bearer()),
    ],
)
