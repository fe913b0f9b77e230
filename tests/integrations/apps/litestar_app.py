"""A small Litestar service whose events know their request."""

from litestar import Litestar, get
from litestar.params import FromPath

from fapilog import AuditTrail
from fapilog.integrations.asgi import AuditMiddleware

trail = AuditTrail(storage_path="audit")


@get("/patients/{number:int}")
async def read_patient(number: FromPath[int]) -> dict[str, int]:
    """Read a patient."""
    await trail.log_data_access(f"patient/{number}", "read")
    return {"patient": number}


app = AuditMiddleware(
    Litestar([read_patient], lifespan=[trail.lifespan]),
    trusted_proxies=1,
)
