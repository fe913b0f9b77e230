"""A Starlette service whose events know their user too."""

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    BaseUser,
    SimpleUser,
    requires,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from fapilog import AuditTrail, bind_audit_context
from fapilog.integrations.asgi import AuditMiddleware, Scope

WARDS = {7: "Surgery", 8: "Oncology"}

trail = AuditTrail(storage_path="audit")


class Bearer(AuthenticationBackend):
    """Believes everyone."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        """Return the user that the header names."""
        user = conn.headers.get("authorization", "").removeprefix("Bearer ")
        if not user:
            return None
        return AuthCredentials(["authenticated"]), SimpleUser(user)


def user_of(scope: Scope) -> str | None:
    """Return the user that AuthenticationMiddleware has found."""
    user = scope.get("user")
    return user.display_name if user and user.is_authenticated else None


@requires("authenticated", status_code=401)
def read_ward(request: Request) -> JSONResponse:
    """Read a ward, in a thread of the framework."""
    number = request.path_params["number"]
    trail.sync.log_data_access(f"ward/{number}", "read")
    return JSONResponse({"ward": WARDS[number]})


async def watch(websocket: WebSocket) -> None:
    """Record what is watched, until the client leaves."""
    await websocket.accept()
    async for ward in websocket.iter_text():
        bind_audit_context(ward=ward)
        event_id = await trail.log_data_access(f"ward/{ward}", "watch")
        await websocket.send_text(event_id)


app = Starlette(
    lifespan=trail.lifespan,
    routes=[
        Route("/wards/{number:int}", read_ward),
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
