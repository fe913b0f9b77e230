"""A Flask service: ``/N`` logs an event that alerts, and answers with its id."""

from __future__ import annotations

import asyncio

from flask import Flask

from fapilog import exit_on_sigterm
from tests.programs.served import KIND, trail

app = Flask(__name__)
exit_on_sigterm()  # for Flask's development server; gunicorn has handlers of its own


@app.get("/<int:number>")
def view(number: int) -> str:
    """Log without await, or by an event loop of the view's own."""
    if number % 5 == 0:
        return asyncio.run(trail.log_security_event(KIND, f"{number}"))
    return trail.sync.log_security_event(KIND, f"{number}")
