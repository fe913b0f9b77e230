"""A small Quart service whose events know their request and their user."""

from collections.abc import AsyncGenerator

from quart import Quart, session

from fapilog import AuditTrail
from fapilog.integrations.asgi import AuditMiddleware

trail = AuditTrail(storage_path="audit")
app = Quart(__name__)
app.secret_key = "from your settings"
app.asgi_app = AuditMiddleware(
    app.asgi_app,
    user=lambda scope: session.get("user"),
    trusted_proxies=1,
)


@app.while_serving
async def trailing() -> AsyncGenerator[None]:
    """Start the trail with the service, and stop it with that."""
    async with trail:
        yield


@app.get("/patients/<int:number>")
async def read_patient(number: int) -> dict[str, int]:
    """Read a patient."""
    await trail.log_data_access(f"patient/{number}", "read")
    return {"patient": number}
