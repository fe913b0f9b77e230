"""The Quart application of the docs under a real server."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.doubles.asgi_servers import serving

if TYPE_CHECKING:
    import httpx2
else:
    httpx2 = pytest.importorskip("httpx2")


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.one_backend  # Quart runs on asyncio alone
async def test_every_record_has_the_context_of_its_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of concurrent sessions every record has the user of its session, and the address and the id of its request."""
    quart: Any = pytest.importorskip("quart")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tests.integrations.apps.quart_app", raising=False)
    module: Any = importlib.import_module("tests.integrations.apps.quart_app")

    async def log_in(name: str) -> str:
        quart.session["user"] = name
        return name

    module.app.add_url_rule("/login/<name>", methods=["POST"], view_func=log_in)

    async def client(number: int) -> None:
        trust = httpx2.create_ssl_context()  # one for all tests: see the tests' conftest
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, verify=trust) as http:
            await http.post(f"/login/user-{number}")
            for count in range(4):
                headers = {"x-request-id": f"r-{number}-{count}", "x-forwarded-for": f"203.0.113.9, 192.0.2.{number}"}
                response = await http.get("/patients/42", headers=headers)
                assert response.headers["x-request-id"] == f"r-{number}-{count}"

    async with serving(module.app, "hypercorn", "asyncio") as port, anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(client, number)
    assert not module.trail.is_started
    events = await module.trail.get_events()
    assert sorted((event.request_id, event.user_id, event.client_ip) for event in events) == [
        (f"r-{number}-{count}", f"user-{number}", f"192.0.2.{number}") for number in range(4) for count in range(4)
    ]
