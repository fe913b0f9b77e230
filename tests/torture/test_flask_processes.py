"""The Flask applications of the docs under gunicorn, with every kind of its workers."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

from fapilog import AuditTrail, ChainStatus
from tests.doubles.ended_servers import WSGI_COMMANDS, check_ended, serving_app

pytestmark = pytest.mark.torture

CLIENTS = 8


@pytest.mark.parametrize("command", WSGI_COMMANDS)
def test_every_worker_that_is_ended_has_recorded_what_it_answered(command: str, tmp_path: Path) -> None:
    """By SIGTERM amid requests every worker ends in time, and each request that it answered is in the chain once."""
    check_ended("flask", command, tmp_path)


class Browser:
    """A client of its own, with an address and a cookie."""

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self.address = f"192.0.2.{number}"
        self._cookie = ""

    def ask(self, method: str, path: str, request_id: str, **form: str) -> int:
        """Send a request, and return the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {
            "x-request-id": request_id,
            "x-forwarded-for": f"203.0.113.9, {self.address}",
            "content-type": "application/x-www-form-urlencoded",
            "cookie": self._cookie,
        }
        try:
            connection.request(method, path, body=urlencode(form), headers=headers)
            response = connection.getresponse()
            response.read()
        finally:
            connection.close()
        self._cookie = (response.headers["set-cookie"] or self._cookie).partition(";")[0]
        assert response.headers["x-request-id"] == request_id
        return response.status


def session(browser: Browser, user: str, number: int) -> Iterator[tuple[str, str, str | None]]:
    """Sign in, read and fail; yield the request id, the event type and the user of each event that is to be there."""
    password = {"alice": "wonderland", "bob": "builder"}[user]
    asked = 0

    def request_id() -> str:
        return f"r-{number}-{asked}"

    for _ in range(10):
        assert browser.ask("POST", "/login", request_id(), name=user, password="wrong") == 401
        # Of the view, and of the request.
        yield request_id(), "authentication_failed", user
        yield request_id(), "authorization_failed", None
        asked += 1
        assert browser.ask("POST", "/login", request_id(), name=user, password=password) == 200
        yield request_id(), "authentication_succeeded", user
        asked += 1
        assert browser.ask("GET", "/wards/7", request_id()) == 200
        yield request_id(), "data_access", user
        asked += 1
        assert browser.ask("GET", "/wards/13", request_id()) == 500
        yield request_id(), "data_access", user
        yield request_id(), "error_occurred", user
        asked += 1
        assert browser.ask("POST", "/logout", request_id()) == 200
        yield request_id(), "session_ended", user
        asked += 1
        assert browser.ask("GET", "/wards/7", request_id()) == 401
        yield request_id(), "authorization_failed", None
        asked += 1


@pytest.mark.parametrize("command", WSGI_COMMANDS)
def test_every_record_has_the_context_of_its_request(command: str, tmp_path: Path) -> None:
    """Of concurrent sessions that fail, sign in, read and sign out, every record has the user, address and request."""
    pytest.importorskip("flask_login")
    with (
        serving_app("flask_users_app:create_app()", command, tmp_path) as port,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):

        def play(number: int) -> list[tuple[str, str, str | None, str]]:
            browser = Browser(port, number)
            user = ("alice", "bob")[number % 2]
            return [(*event, browser.address) for event in session(browser, user, number)]

        expected = [event for events in clients.map(play, range(CLIENTS)) for event in events]
    trail = AuditTrail(storage_path=tmp_path / "audit")
    found = [
        (event.request_id, event.event_type.value, event.user_id, event.client_ip)
        for event in trail.sync.get_events(limit=100_000)
    ]
    assert sorted(map(str, found)) == sorted(map(str, expected))
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK
