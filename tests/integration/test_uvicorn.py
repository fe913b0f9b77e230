"""A real service with four worker processes that share one trail, under load from a real client."""

import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from fapilog.core.audit import AuditEventType, AuditTrail
from tests.doubles.trail_oracle import records

if TYPE_CHECKING:
    import httpx2
else:
    httpx2 = pytest.importorskip("httpx2")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

WORKERS = 4
REQUESTS = 400
CALLERS = 50


@contextmanager
def service(trail: Path, alerts: Path) -> Generator[str]:
    """Run the service; yield its address when all workers have started, and wait until they have stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--workers", str(WORKERS), "--fd", str(listener.fileno())),
                *("--no-access-log", "tests.programs.starlette_app:app"),
            ],
            env={**os.environ, "TRAIL": str(trail), "ALERTS": str(alerts)},
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        host, port = listener.getsockname()
    with process:
        assert process.stderr is not None
        try:
            started = 0
            for line in process.stderr:
                started += "Application startup complete" in line
                if started == WORKERS:
                    break
            assert started == WORKERS
            yield f"http://{host}:{port}"
        finally:
            process.terminate()
            log = process.stderr.read()
    assert process.returncode == 0, log
    assert "Traceback" not in log, log


class Client:
    """Sends requests, and keeps what became of each by its request id."""

    def __init__(self) -> None:
        self.events: dict[str, str] = {}
        self.refused: set[str] = set()

    async def call(self, address: str, numbers: Iterator[int], connections: int) -> None:
        """Send requests, with others, over as many *connections* as are kept open, until *numbers* are used up."""
        limits = httpx2.Limits(max_keepalive_connections=connections)
        trust = httpx2.create_ssl_context()  # one for all tests: see the tests' conftest
        async with httpx2.AsyncClient(base_url=address, timeout=60, limits=limits, verify=trust) as http:
            for number in numbers:
                await self._send(http, number)

    async def _send(self, http: httpx2.AsyncClient, number: int) -> None:
        request_id = f"request-{number}"
        headers = {"x-request-id": request_id}
        if number % 4:
            response = await http.get(f"/records/{number}", headers=headers)
        else:
            password = "wrong" if number % 8 else "right"
            response = await http.post("/login", headers=headers, json={"user": "alice", "password": password})
        expected = 401 if number % 8 == 4 else 200
        assert response.status_code == expected
        self.events[request_id] = response.json()["event"]
        if expected == 401:
            self.refused.add(self.events[request_id])


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)  # of the client; uvicorn has no other
async def test_four_workers_share_a_trail(tmp_path: Path) -> None:
    """Of 400 requests to four workers each is in the one chain once, and each refused login was announced once."""
    client = Client()
    numbers = iter(range(REQUESTS))
    with service(tmp_path / "trail", tmp_path / "alerts") as address:
        async with anyio.create_task_group() as tasks:
            for caller in range(CALLERS):
                # A worker takes all connections that wait; of a thousand that come one by one it can't take all.
                tasks.start_soon(client.call, address, numbers, caller % 2)
    async with AuditTrail(storage_path=tmp_path / "trail") as trail:
        result = await trail.verify_chain_from_storage()
    assert result.valid
    assert result.events_checked == REQUESTS + 2 * WORKERS
    found = records(tmp_path / "trail")
    requests = [record for record in found if record.get("request_id") is not None]
    assert len(requests) == REQUESTS
    assert {record["request_id"]: record["event_id"] for record in requests} == client.events
    kinds = Counter(record["event_type"] for record in found)
    assert kinds[AuditEventType.SYSTEM_STARTUP.value] == kinds[AuditEventType.SYSTEM_SHUTDOWN.value] == WORKERS
    assert len({record["process_id"] for record in requests}) > 1
    alerts = (tmp_path / "alerts").read_text().splitlines()
    assert sorted(alerts) == sorted(f"security {event_id}" for event_id in client.refused)
    assert len(client.refused) == REQUESTS // 8
