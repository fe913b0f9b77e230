"""A FastAPI service whose events know their user too."""

from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request

from fapilog import AuditTrail
from fapilog.integrations.asgi import AuditMiddleware

WARDS = {7: "Surgery", 8: "Oncology"}

trail = AuditTrail(storage_path="audit")
app = FastAPI(lifespan=trail.lifespan)
app.add_middleware(
    AuditMiddleware,
    trail=trail,
    user=lambda scope: scope.get("state", {}).get("user_id"),
    trusted_proxies=1,
    log_requests=lambda method, path, status: status >= 400,
)


def authenticate(request: Request, authorization: Annotated[str, Header()] = "") -> None:
    """Find out the user, and keep the id where the middleware looks."""
    user = authorization.removeprefix("Bearer ")
    if not user:
        raise HTTPException(401)
    request.state.user_id = user


@app.get("/wards/{number}", dependencies=[Depends(authenticate)])
def read_ward(number: int) -> dict[str, str]:
    """Read a ward, in a thread of the framework."""
    trail.sync.log_data_access(f"ward/{number}", "read")
    return {"ward": WARDS[number]}
