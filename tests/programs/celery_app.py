"""A Celery worker: the task ``log`` logs an event that alerts. The broker is a directory, ``$BROKER``."""

from __future__ import annotations

import os

from celery import Celery  # type: ignore[import-untyped]

from tests.programs.served import KIND, trail

app = Celery("tests", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": os.environ["BROKER"],
    "data_folder_out": os.environ["BROKER"],
    "control_folder": os.environ["BROKER"] + "-control",
    "polling_interval": 0.02,  # seconds; 1 by default
}


@app.task(name="log")  # type: ignore[untyped-decorator]
def log(number: int) -> None:
    """Log without await."""
    trail.sync.log_security_event(KIND, f"{number}")
