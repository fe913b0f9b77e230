"""The applications of the docs as processes of their own, ended by SIGTERM under load."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import fapilog
from fapilog import AuditTrail, ChainStatus
from tests.doubles.servers import free_port, running, wait_for

__all__ = ["COMMANDS", "WSGI_COMMANDS", "check_ended", "serving_app"]

ROOT = Path(__file__).parents[2]
CLIENTS = 4
ENOUGH = 40

COMMANDS = {
    "uvicorn": ["uvicorn", "--port", "{port}", "--timeout-graceful-shutdown", "5", "--log-level", "warning"],
    "workers": ["uvicorn", "--port", "{port}", "--timeout-graceful-shutdown", "5", "--workers", "2"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}"],
    "trio": ["hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:{port}"],
}
_GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--graceful-timeout", "10"]
WSGI_COMMANDS = {
    "sync": _GUNICORN,
    "preload": [*_GUNICORN, "--preload"],
    "gthread": [*_GUNICORN, "-k", "gthread", "--threads", "8"],
    "gthread-preload": [*_GUNICORN, "-k", "gthread", "--threads", "8", "--preload"],
}


def _ask_until_refused(port: int, number: int, answered: list[str], enough: threading.Event) -> None:
    """Send requests until the server is gone; note the ids of those that were answered."""
    for count in range(100_000):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
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


@contextlib.contextmanager
def _running_app(app: str, command: str, directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    arguments = {**COMMANDS, **WSGI_COMMANDS}[command]
    pytest.importorskip(arguments[0])
    port = free_port()
    path = os.pathsep.join([str(Path(fapilog.__file__).parents[1]), str(ROOT)])
    whole = [*(part.format(port=port) for part in arguments), f"tests.integrations.apps.{app}"]
    with running(whole, directory, directory, PYTHONPATH=path) as process:
        wait_for(port, process, directory)
        yield process, port


@contextlib.contextmanager
def serving_app(app: str, command: str, directory: Path) -> Iterator[int]:
    """Serve an application until the end of the block; yield the port."""
    with _running_app(app, command, directory) as (_, port):
        yield port


def check_ended(app: str, command: str, directory: Path) -> None:
    """End a server by SIGTERM amid requests: it ends, and each request that it answered is recorded once."""
    pytest.importorskip(app)
    answered: list[str] = []
    enough = threading.Event()
    with (
        _running_app(f"{app}_app:app", command, directory) as (process, port),
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        asking = [clients.submit(_ask_until_refused, port, each, answered, enough) for each in range(CLIENTS)]
        try:
            assert enough.wait(60), (directory / "log").read_text()
        finally:
            # Otherwise the clients would ask for ever.
            process.terminate()
        process.wait(60)
        for each in asking:
            each.result(60)
    log = (directory / "log").read_text()
    assert "Traceback" not in log, log
    trail = AuditTrail(storage_path=directory / "audit")
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK
    ids = [event.request_id for event in trail.sync.get_events(limit=100_000)]
    assert len(ids) == len(set(ids))
    assert set(answered) <= set(ids)
    assert len(ids) <= len(answered) + CLIENTS
