"""A small FastAPI service whose events know their request."""

from fastapi import FastAPI

from fapilog import AuditTrail
from fapilog.integrations.asgi import AuditMiddleware

trail = AuditTrail(storage_path="audit")
app = FastAPI(lifespan=trail.lifespan)
app.add_middleware(AuditMiddleware, trusted_proxies=1)


@app.get("/patients/{number}")
async def read_patient(number: int) -> dict[str, int]:
    """Read a patient."""
    await trail.log_data_access(f"patient/{number}", "read")
    return {"patient": number}
