"""The applications of the docs under real servers, with a real client: answers, records, and whose they are."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from fapilog import AuditEvent, AuditTrail
from fapilog.context import audit_context, bind_audit_context
from fapilog.integrations.asgi import AuditMiddleware
from tests.doubles.asgi_servers import App, WebSocketClient, serving

if TYPE_CHECKING:
    import httpx2
else:
    httpx2 = pytest.importorskip("httpx2")

APPS = "tests.integrations.apps"
CLIENTS = 4
ROUNDS = 2


@dataclass(frozen=True)
class Call:
    """
    A request, and what is to become of it.

    Attributes:
        path: As asked for.
        user: Who asks; None for nobody.
        status: The answer's.
        records: The resources of the records.
    """

    path: str
    user: str | None
    status: int
    records: tuple[str, ...]


def load(name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[App, AuditTrail]:
    """Import an application anew, in *directory*; return it and its trail."""
    pytest.importorskip(name.partition("_")[0])
    monkeypatch.chdir(directory)
    monkeypatch.delitem(sys.modules, f"{APPS}.{name}_app", raising=False)
    module: Any = importlib.import_module(f"{APPS}.{name}_app")
    return module.app, module.trail


def calls(name: str, user: str) -> list[Call]:
    """Return the requests of one *user* to an application: read, refused, failed, and sent elsewhere."""
    if not name.endswith("_users"):
        return [Call("/patients/42", None, 200, ("patient/42",)), Call("/nowhere", None, 404, ())]
    return [
        Call("/wards/7", user, 200, ("ward/7",)),
        Call("/wards/7", None, 401, ("/wards/7",)),
        Call("/wards/13", user, 500, ("ward/13", "/wards/13")),
        # Only Starlette's own middleware looks for the user of a path that is not there.
        Call("/nowhere", user if name.startswith("starlette") else None, 404, ("/nowhere",)),
    ]


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize(
    ("name", "server"),
    [
        *(("fastapi", "uvicorn"), ("fastapi_users", "uvicorn"), ("fastapi_users", "hypercorn")),
        *(("starlette_users", "uvicorn"), ("starlette_users", "hypercorn")),
        *(("litestar", "hypercorn"), ("litestar_users", "uvicorn"), ("litestar_users", "hypercorn")),
    ],
)
async def test_every_record_has_the_context_of_its_request(
    name: str, server: str, anyio_backend_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of concurrent requests, some refused and some failing, each has its answer, its records, and its own context."""
    app, trail = load(name, tmp_path, monkeypatch)
    expected: dict[str, tuple[Call, str]] = {}

    async def client(number: int) -> None:
        trust = httpx2.create_ssl_context()  # one for all tests: see the tests' conftest
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, verify=trust) as http:
            for count in range(ROUNDS):
                for kind, call in enumerate(calls(name, f"user-{number}")):
                    request_id, address = f"r-{number}-{count}-{kind}", f"192.0.2.{number}"
                    expected[request_id] = call, address
                    headers = {"x-request-id": request_id, "x-forwarded-for": f"203.0.113.9, {address}"}
                    if call.user:
                        headers["authorization"] = f"Bearer {call.user}"
                    response = await http.get(call.path, headers=headers)
                    assert response.status_code == call.status
                    # FastAPI and Starlette answer the error of a view outside of all middleware.
                    if call.status != 500 or name.startswith("litestar"):
                        assert response.headers["x-request-id"] == request_id

    async with serving(app, server, anyio_backend_name) as port, anyio.create_task_group() as tasks:
        for number in range(CLIENTS):
            tasks.start_soon(client, number)
    assert not trail.is_started
    events = await trail.get_events(limit=10_000)
    assert Counter((event.request_id, str(event.target)) for event in events) == Counter(
        (request_id, resource) for request_id, (call, _) in expected.items() for resource in call.records
    )
    for event in events:
        assert event.request_id is not None
        call, address = expected[event.request_id]
        assert (event.user_id, event.client_ip) == (call.user, address)
        assert event.user_agent is not None
        assert event.user_agent.startswith("python-httpx2")
        assert_is_of(event, call)


def assert_is_of(event: AuditEvent, call: Call) -> None:
    """Check the event of a request, or that of the view."""
    if str(event.target) != call.path:
        assert event.log_level.value == "info"
        return
    kinds = {401: ("authorization_failed", "warning"), 404: ("data_access", "info"), 500: ("error_occurred", "error")}
    assert (event.event_type.value, event.log_level.value) == kinds[call.status]
    assert event.metadata["status"] == call.status


@pytest.mark.slow_on_trio
@pytest.mark.real_time
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
async def test_a_websocket_has_its_own_context(
    server: str, anyio_backend_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open WebSockets have their request ids, in the handshakes too, and each record has the values of its own."""
    app, trail = load("starlette_users", tmp_path, monkeypatch)
    ids: dict[str, tuple[str, str]] = {}

    async def watch(number: int) -> None:
        headers = {"authorization": f"Bearer user-{number}", "x-request-id": f"r-{number}"}
        async with WebSocketClient.connected(port, "/watch", headers) as client:
            assert client.headers["x-request-id"] == f"r-{number}"
            for ward in range(3):
                ids[await client.ask(f"{ward}")] = f"r-{number}", f"user-{number}"

    async with serving(app, server, anyio_backend_name) as port:
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(watch, number)
        with pytest.raises(PermissionError):
            async with WebSocketClient.connected(port, "/nowhere", {"x-request-id": "r-refused"}):
                pass
    events = await trail.get_events()
    found = {event.event_id: (event.request_id, event.user_id) for event in events if event.request_id != "r-refused"}
    assert found == ids
    assert len(ids) == 15
    assert {str(event.target) for event in events if event.event_id in ids} == {"ward/0", "ward/1", "ward/2"}
    [refused] = [event for event in events if event.event_id not in ids]
    assert (refused.operation, refused.metadata["status"]) == ("WEBSOCKET", 403)


@pytest.mark.slow_on_trio
async def test_the_context_passes_through_other_middleware(tmp_path: Path) -> None:
    """Behind a middleware of FastAPI's own kind, in threads and in dependencies, events have request, user and more."""
    fastapi: Any = pytest.importorskip("fastapi")
    trail = AuditTrail(storage_path=tmp_path / "audit")
    app = fastapi.FastAPI()

    async def other(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    app.middleware("http")(other)

    async def bound_in_a_task() -> None:
        bind_audit_context(tenant="north")

    def left_in_another_thread() -> Any:
        with audit_context(ward=7):
            yield

    async def kept_for_the_view() -> Any:
        with audit_context(ward=8):
            yield

    def log(request: Any) -> None:
        request.state.user_id = "alice"
        trail.sync.log_data_access("patient/42", "read")

    dependencies = [fastapi.Depends(each) for each in (bound_in_a_task, left_in_another_thread, kept_for_the_view)]
    log.__annotations__["request"] = fastapi.Request
    app.get("/", dependencies=dependencies)(log)
    audited = AuditMiddleware(app, trail=trail, user=lambda scope: scope["state"]["user_id"], log_requests=True)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(audited), base_url="http://service") as http:
        response = await http.get("/")
    assert response.status_code == 200
    of_request, of_view = await trail.get_events()
    assert {event.user_id for event in (of_request, of_view)} == {"alice"}
    assert {event.request_id for event in (of_request, of_view)} == {response.headers["x-request-id"]}
    assert of_view.metadata == {"resource": "patient/42", "tenant": "north", "ward": 8}
