"""A small Flask service whose events know their request."""

from flask import Flask

from fapilog import AuditTrail
from fapilog.integrations.flask import Audit

trail = AuditTrail(storage_path="audit")
app = Flask(__name__)
Audit(app, trail=trail, trusted_proxies=1)


@app.get("/patients/<int:number>")
def read_patient(number: int) -> dict[str, int]:
    """Read a patient."""
    trail.sync.log_data_access(f"patient/{number}", "read")
    return {"patient": number}
