"""The Django site under real servers, with a real client: many requests at once, and SIGTERM amid them."""

from __future__ import annotations

import http.client
import importlib
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fapilog
from fapilog import AuditEvent, AuditTrail, ChainStatus
from tests.doubles import django_site
from tests.doubles.servers import free_port, running, wait_for

__all__ = ["COMMANDS", "check_served"]

ROOT = Path(__file__).parents[2]
CLIENTS = 4

_GUNICORN = ["gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--graceful-timeout", "10"]
_UVICORN = ["uvicorn", "--port", "{port}", "--timeout-graceful-shutdown", "10"]
# uvicorn ends its process by the signal itself: the alerts that wait are sent where the application has a lifespan.
_WITH_LIFESPAN = "tests.integrations.apps.django_site.asgi:application"
COMMANDS = {
    "sync": [*_GUNICORN, f"{django_site.SERVERS}:wsgi"],
    "gthread": [*_GUNICORN, "-k", "gthread", "--threads", "8", f"{django_site.SERVERS}:wsgi"],
    "preload": [*_GUNICORN, "-k", "gthread", "--threads", "8", "--preload", f"{django_site.SERVERS}:wsgi"],
    "uvicorn": [*_UVICORN, _WITH_LIFESPAN],
    "workers": [*_UVICORN, "--workers", "2", _WITH_LIFESPAN],
    "gunicorn asgi": [*_GUNICORN, "-k", "asgi", f"{django_site.SERVERS}:asgi"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", f"{django_site.SERVERS}:asgi"],
}

# What a client asks for, the status of the answer, and the operations of the records.
_ASKED = (
    ("/patients/{number}", 200, ("read",)),
    ("/patients/{number}/watch", 200, ("watch",)),
    ("/patients/{number}/break", 500, ("break",)),
    ("/export/2", 200, ("export", "export")),
    ("/patients/{number}/visit", 200, ("create", "update")),
)


@dataclass
class _Client:
    """
    Someone who asks, one request after the other.

    Attributes:
        number: Which one; it is in the name, in the address and in the requests.
        cookie: Of the session; None for nobody.
        asked: For each request id, the operations that its records must have.
        answered: The request ids that were answered.
    """

    number: int
    cookie: str | None
    asked: dict[str, tuple[str, ...]] = field(default_factory=dict)
    answered: list[str] = field(default_factory=list)

    @property
    def user(self) -> str | None:
        return None if self.cookie is None else f"user-{self.number}"

    @property
    def address(self) -> str:
        return f"192.0.2.{self.number}"

    def ask(self, port: int, count: int) -> bool:
        """Send a request; return whether the server is still there."""
        path, status, operations = _ASKED[count % len(_ASKED)]
        request_id = f"r-{self.number}-{count}"
        self.asked[request_id] = operations
        headers = {"x-request-id": request_id, "x-forwarded-for": f"203.0.113.9, {self.address}"}
        if self.cookie is not None:
            headers["cookie"] = f"sessionid={self.cookie}"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            # Of a patient who is not in the database yet.
            connection.request("GET", path.format(number=(self.number + 1) * 1_000_000 + count), headers=headers)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if response.status == 503:  # of a server that is ending
            return False
        assert response.status == status, (path, response.status)
        assert response.headers["x-request-id"] == request_id
        self.answered.append(request_id)
        return True


def check_served(name: str, directory: Path, *, requests: int) -> None:
    """
    Ask a server *requests* times by several clients at once, end it amid more, and check what is recorded.

    Every request that was answered has its records, with its own context, and no other has more than a few; each alert
    was sent once; the chain is whole; the server has ended in time.
    """
    command = COMMANDS[name]
    pytest.importorskip(command[0])
    clients = _clients(directory)
    port = free_port()
    path = os.pathsep.join([str(Path(fapilog.__file__).parents[1]), str(ROOT)])
    env = {"PYTHONPATH": path, "SITE": str(directory), "DJANGO_SETTINGS_MODULE": django_site.SETTINGS}
    enough = threading.Semaphore(0)

    def ask(client: _Client) -> None:
        for count in range(100_000):
            if not client.ask(port, count):
                return
            enough.release()

    with (
        running([part.format(port=port) for part in command], directory, **env) as process,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        wait_for(port, process, directory)
        asking = [threads.submit(ask, client) for client in clients]
        for _ in range(requests):
            assert enough.acquire(timeout=60), (directory / "log").read_text()
        process.terminate()
        process.wait(60)
        for each in asking:
            each.result(60)
    _check(directory, clients)


def _clients(directory: Path) -> list[_Client]:
    """Return clients, all but the first with a session in a database in *directory*."""
    django_site.set_up()
    auth: Any = importlib.import_module("django.contrib.auth.models")
    testing: Any = importlib.import_module("django.test")
    clients = [_Client(0, None)]
    users = [auth.User(username=f"user-{number}") for number in range(1, CLIENTS)]
    auth.User.objects.bulk_create(users)
    with django_site.audit_settings(directory / "unused"):
        for number, user in enumerate(users, 1):
            client = testing.Client()
            client.force_login(user)
            clients.append(_Client(number, client.session.session_key))
    django_site.copy_database(directory)
    auth.User.objects.filter(username__in=[user.username for user in users]).delete()
    return clients


def _check(directory: Path, clients: list[_Client]) -> None:
    log = (directory / "log").read_text()
    trail = AuditTrail(storage_path=directory / "audit")
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK, log
    events = trail.sync.get_events(limit=1_000_000)
    assert not [line for line in log.splitlines() if "fapilog" in line and "Error" in line], log
    by_request: dict[str, list[AuditEvent]] = {}
    for event in events:
        by_request.setdefault(event.request_id or "", []).append(event)
    for client in clients:
        sessions = set()
        for request_id, operations in client.asked.items():
            found = by_request.pop(request_id, [])
            if request_id in client.answered:
                assert Counter(event.operation for event in found) == Counter(operations), log
            assert {(event.user_id, event.client_ip) for event in found} <= {(client.user, client.address)}
            assert {event.metadata.get("tenant") is not None for event in found} <= {operations == ("break",)}
            sessions |= {event.session_id for event in found}
        assert len(sessions) == 1
        assert (sessions == {None}) == (client.cookie is None)
    assert by_request == {}
    alerts = sorted((directory / "alerts").read_text().split())
    assert alerts == sorted(event.event_id for event in events if event.contains_phi), log
