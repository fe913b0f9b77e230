"""The applications of the docs as processes of their own, ended by SIGTERM under load."""

from __future__ import annotations

import http.client
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fapilog
from fapilog import AuditTrail, ChainStatus
from tests.doubles.servers import free_port, running, wait_for

__all__ = ["COMMANDS", "check_ended"]

ROOT = Path(__file__).parents[2]
CLIENTS = 4
ENOUGH = 40

COMMANDS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "--timeout-graceful-shutdown", "5", "--log-level", "warning"],
    "workers": ["uvicorn", "--port", "{port}", "--timeout-graceful-shutdown", "5", "--workers", "2"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}"],
    "trio": ["hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:{port}"],
}


def _ask_until_refused(port: int, number: int, answered: list[str], enough: threading.Event) -> None:
    """Send requests until the server is gone; note the ids of those that were answered."""
    for count in range(100_000):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        request_id = f"r-{number}-{count}"
        try:
            connection.request("GET", "/patients/42", headers={"x-request-id": request_id})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()
        if response.status == 200:
            assert response.headers["x-request-id"] == request_id
            answered.append(request_id)
        if len(answered) >= ENOUGH:
            enough.set()


def check_ended(app: str, command: str, directory: Path) -> None:
    """End a server by SIGTERM amid requests: it ends in time, and each request that it answered is recorded once."""
    pytest.importorskip(app)
    pytest.importorskip(COMMANDS[command][0])
    port = free_port()
    path = os.pathsep.join([str(Path(fapilog.__file__).parents[1]), str(ROOT)])
    arguments = [part.format(port=port) for part in COMMANDS[command]]
    target = f"tests.integrations.apps.{app}_app:app"
    answered: list[str] = []
    enough = threading.Event()
    with (
        running([*arguments, target], directory, directory, PYTHONPATH=path) as process,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        wait_for(port, process, directory)
        asking = [clients.submit(_ask_until_refused, port, each, answered, enough) for each in range(CLIENTS)]
        assert enough.wait(20), (directory / "log").read_text()
        process.terminate()
        began = time.monotonic()
        process.wait(20)
        for each in asking:
            each.result(20)
    log = (directory / "log").read_text()
    assert time.monotonic() - began < 15
    assert "Traceback" not in log, log
    trail = AuditTrail(storage_path=directory / "audit")
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK
    ids = [event.request_id for event in trail.sync.get_events(limit=100_000)]
    assert len(ids) == len(set(ids))
    assert set(answered) <= set(ids)
    assert len(ids) <= len(answered) + CLIENTS
