"""The Django site under each server, with many requests."""

import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fapilog import AuditTrail
from tests.doubles import django_site
from tests.doubles.servers import free_port, running, wait_for

pytest.importorskip("django")

from tests.doubles.django_servers import COMMANDS, check_served

pytestmark = pytest.mark.torture


@pytest.mark.parametrize("server", COMMANDS)
def test_what_every_server_answers_is_recorded_with_its_context(
    server: str, tmp_path: Path, rounds: Iterator[int]
) -> None:
    """Each of many requests, with SIGTERM amid them, has its answer, its records, its context and its alerts."""
    for number in rounds:
        directory = tmp_path / str(number)
        directory.mkdir()
        check_served(server, directory, requests=400)


def ask(port: int) -> str | None:
    """Return the request id of an answer; None if the server does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/patients/42")
        return connection.getresponse().headers["x-request-id"]
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def test_a_reload_of_runserver_loses_nothing(tmp_path: Path) -> None:
    """The server that is started anew, as its code has changed, goes on in the chain, and all alerts were sent."""
    settings = tmp_path / "changed_settings.py"
    settings.write_text(f"from {django_site.SETTINGS} import *\n")
    port = free_port()
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]), "SITE": str(tmp_path)}
    command = ["django", "runserver", "--settings", "changed_settings", "--skip-checks", f"127.0.0.1:{port}"]
    trail = AuditTrail(storage_path=tmp_path / "audit")
    answered: set[str] = set()
    processes: set[int | None] = set()
    with running(command, tmp_path, **env) as process:
        wait_for(port, process, tmp_path)
        end = time.monotonic() + 60
        while len(processes) < 2 and time.monotonic() < end:
            if (request_id := ask(port)) is not None:
                answered.add(request_id)
                processes |= {event.process_id for event in trail.sync.get_events(request_id=request_id)}
                settings.touch()
            # The reloader looks once a second.
            time.sleep(0.1)
        alerts = tmp_path / "alerts"
        while time.monotonic() < end and len(alerts.read_text().split()) < len(answered):
            time.sleep(0.02)
    assert len(processes) == 2, (tmp_path / "log").read_text()
    events = trail.sync.get_events(limit=10_000)
    assert {event.request_id for event in events} == answered
    assert sorted(alerts.read_text().split()) == sorted(event.event_id for event in events)
    assert trail.sync.verify_chain_from_storage().valid
