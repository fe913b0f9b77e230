"""A process of Celery's pool is killed in a task: Celery itself notices that only after ten seconds."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fapilog import AuditEvent, AuditTrail
from tests.doubles.servers import ROOT, running

APP = "tests.integrations.apps.celery_app"


@pytest.mark.torture
def test_a_task_whose_process_is_killed_is_a_failure(tmp_path: Path) -> None:
    """The worker's main process records the failure of a task whose own process could not."""
    pytest.importorskip("celery")
    (tmp_path / "broker").mkdir()
    env = {"BROKER": str(tmp_path / "broker")}
    caller = {**os.environ, "TRAIL": str(tmp_path / "unused"), **env}
    subprocess.run([sys.executable, "-m", APP, "die:1"], check=True, timeout=60, env=caller, cwd=ROOT)

    def failures() -> list[AuditEvent]:
        return AuditTrail(storage_path=tmp_path / "audit").sync.get_events(component="shop.die")

    with running(["celery", "-A", APP, "worker", "--concurrency", "2", "--loglevel", "ERROR"], tmp_path, **env):
        end = time.monotonic() + 60
        while not failures() and time.monotonic() < end:
            time.sleep(0.1)
    (event,) = failures()
    assert event.request_id == "die-0"
    assert event.error is not None
    assert "SIGKILL" in event.error.message
