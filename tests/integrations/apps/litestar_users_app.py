"""A Litestar service whose events know their user too."""

from typing import Any

from litestar import Litestar, get
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException
from litestar.middleware import (
    AbstractAuthenticationMiddleware,
    AuthenticationResult,
)
from litestar.params import FromPath

from fapilog import AuditTrail
from fapilog.integrations.asgi import AuditMiddleware

WARDS = {7: "Surgery", 8: "Oncology"}

trail = AuditTrail(storage_path="audit")


class Bearer(AbstractAuthenticationMiddleware):
    """Believes everyone."""

    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        """Return the user that the header names."""
        authorization = connection.headers.get("authorization", "")
        user = authorization.removeprefix("Bearer ")
        if not user:
            raise NotAuthorizedException
        return AuthenticationResult(user=user, auth=None)


@get("/wards/{number:int}", middleware=[Bearer], sync_to_thread=True)
def read_ward(number: FromPath[int]) -> dict[str, str]:
    """Read a ward, in a thread of the framework."""
    trail.sync.log_data_access(f"ward/{number}", "read")
    return {"ward": WARDS[number]}


app = AuditMiddleware(
    Litestar([read_ward], lifespan=[trail.lifespan]),
    trail=trail,
    user=lambda scope: scope.get("user"),
    trusted_proxies=1,
    log_requests=lambda method, path, status: status >= 400,
)
