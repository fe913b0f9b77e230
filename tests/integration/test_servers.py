"""Real servers and task queues, synchronous and asynchronous, all with one trail at module level."""

import http.client
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fapilog import AuditTrail, ChainStatus
from tests.doubles.servers import free_port, running, wait_for

ROOT = Path(__file__).parents[2]
REQUESTS = 36
CLIENTS = 12


def ask(port: int, path: str) -> str:
    """Return the answer to one request, which must be an id."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
    finally:
        connection.close()
    assert response.status == 200, body
    return body


def check(directory: Path, ids: list[str], *, others: int = 0) -> None:
    """Check that each id is in the trail once, that each alert was dispatched once, and the chain."""
    trail = AuditTrail(storage_path=directory / "audit")
    log = (directory / "log").read_text()
    stored = [event.event_id for event in trail.sync.get_events(limit=1000)]
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK, log
    assert "Traceback" not in log
    assert len(stored) == len(ids) + others, log
    assert set(ids) <= set(stored)
    assert sorted((directory / "alerts").read_text().split()) == sorted(stored), log


GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--graceful-timeout", "10"]
UVICORN = ["uvicorn", "--port", "{port}", "--log-level", "warning"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "command", "paths", "env"),
    [
        pytest.param("flask", [*GUNICORN, "tests.programs.flask_app:app"], ["/{}"], {}, marks=pytest.mark.torture),
        ("flask", [*GUNICORN, "-k", "gthread", "--threads", "8", "tests.programs.flask_app:app"], ["/{}"], {}),
        ("flask", [*GUNICORN, "--preload", "tests.programs.flask_app:app"], ["/{}"], {"TRAIL_USED_BEFORE_FORK": "1"}),
        ("flask", ["flask", "--app", "tests.programs.flask_app", "run", "--port", "{port}"], ["/{}"], {}),
        ("django", [*GUNICORN, "-k", "gthread", "--threads", "8", "tests.programs.django_app:wsgi"], ["/{}"], {}),
        ("django", [*UVICORN, "--lifespan", "off", "tests.programs.django_app:asgi"], ["/{}", "/async/{}"], {}),
        ("fastapi", [*UVICORN, "tests.programs.fastapi_app:app"], ["/{}", "/def/{}"], {}),
    ],
    ids=["gunicorn", "gthread", "preload", "flask", "django-wsgi", "django-asgi", "fastapi"],
)
def test_every_request_is_answered_stored_and_alerted(
    library: str, command: list[str], paths: list[str], env: dict[str, str], tmp_path: Path
) -> None:
    """Under concurrent requests each is answered with the id of an event that is stored, and alerted, once."""
    pytest.importorskip(library)
    pytest.importorskip(command[0])
    port = free_port()
    with (
        running([part.format(port=port) for part in command], tmp_path, **env) as process,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        wait_for(port, process, tmp_path)
        asked = [paths[number % len(paths)].format(number) for number in range(REQUESTS)]
        ids = list(clients.map(lambda path: ask(port, path), asked))
    assert len(set(ids)) == REQUESTS
    check(tmp_path, ids, others=len(env))


@pytest.mark.torture
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_every_task_is_stored_and_alerted(pool: str, tmp_path: Path) -> None:
    """A hundred Celery tasks, in forked processes or in threads, are stored and alerted once each."""
    pytest.importorskip("celery")
    broker = tmp_path / "broker"
    broker.mkdir()
    command = ["celery", "-A", "tests.programs.celery_app", "worker", "--pool", pool, "--concurrency", "4"]
    env = {"BROKER": str(broker)}
    send = "from tests.programs.celery_app import log\nfor number in range(100): log.delay(number)"
    with running([*command, "--loglevel", "WARNING"], tmp_path, **env):
        subprocess.run(
            [sys.executable, "-c", send],
            cwd=ROOT,
            env={**os.environ, "TRAIL": str(tmp_path / "unused"), **env},
            check=True,
            timeout=60,
        )
        alerts = tmp_path / "alerts"
        end = time.monotonic() + 60
        while time.monotonic() < end and not (alerts.exists() and alerts.read_text().count("\n") >= 100):
            time.sleep(0.02)
    check(tmp_path, [], others=100)
    messages = [event.message for event in AuditTrail(storage_path=tmp_path / "audit").sync.get_events(limit=200)]
    assert sorted(map(int, messages)) == list(range(100))


FIXTURES = """
import unittest
import anyio, pytest, pytest_asyncio
from fapilog import AuditEventType, AuditTrail
from fapilog.testing import RecordingDispatcher

@pytest_asyncio.fixture
async def trail(tmp_path):
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=RecordingDispatcher()) as trail:
        yield trail

@pytest.mark.asyncio
async def test_of_pytest_asyncio(trail):
    await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    await trail.drain()
    assert (await trail.get_statistics())["alerts"]["dispatched"] == 1

@pytest.fixture
async def anyio_trail(tmp_path, anyio_backend):
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=RecordingDispatcher()) as trail:
        yield trail

@pytest.mark.anyio
async def test_of_anyio(anyio_trail):
    await anyio_trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
    await anyio_trail.drain()
    assert (await anyio_trail.get_statistics())["alerts"]["dispatched"] == 1

class TestOfUnittest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        import tempfile
        self.trail = AuditTrail(storage_path=tempfile.mkdtemp(), alert_dispatcher=RecordingDispatcher())
        await self.trail.start()

    async def asyncTearDown(self):
        await self.trail.stop()

    async def test_of_unittest(self):
        await self.trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
"""


@pytest.mark.slow
def test_fixtures_start_and_stop_a_trail(tmp_path: Path) -> None:
    """Fixtures of pytest-asyncio, of anyio on both backends and of unittest start a trail, and stop it."""
    pytest.importorskip("pytest_asyncio")
    (tmp_path / "test_fixtures.py").write_text(FIXTURES)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    # Plugins of this environment that take longer to load than these tests to run.
    without = [f"-pno:{each}" for each in ("cacheprovider", "faker", "hypothesispytest", "xdist")]
    played = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *without, "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert played.returncode == 0, played.stdout
    assert "4 passed" in played.stdout


CELLS = """
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in (
    "from fapilog import AuditEventType, AuditTrail",
    "from fapilog.testing import RecordingDispatcher",
    "pager = RecordingDispatcher()",
    "trail = AuditTrail(storage_path='audit', alert_dispatcher=pager)",
    "await trail.start()",
    "await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, 'm')",
    "trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, 'n')",
    "await trail.stop()",
    "assert len(pager.alerts) == 2, pager.alerts",
):
    shell.run_cell(cell, store_history=False).raise_error()
"""


@pytest.mark.slow
def test_notebook_cells_start_and_stop_a_trail(tmp_path: Path) -> None:
    """In IPython, one cell starts a trail, others use it with await and without, and another stops it."""
    pytest.importorskip("IPython")
    played = subprocess.run(
        [sys.executable, "-c", CELLS], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert played.returncode == 0, played.stdout + played.stderr
