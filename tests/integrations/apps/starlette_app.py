"""A small Starlette service whose events know their request."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse

from fapilog import AuditTrail
from fapilog.integrations.asgi import AuditMiddleware

trail = AuditTrail(storage_path="audit")


async def read_patient(request: Request) -> JSONResponse:
    """Read a patient."""
    number = request.path_params["number"]
    await trail.log_data_access(f"patient/{number}", "read")
    return JSONResponse({"patient": number})


app = Starlette(lifespan=trail.lifespan)
app.add_route("/patients/{number:int}", read_patient)
app.add_middleware(AuditMiddleware, trusted_proxies=1)
