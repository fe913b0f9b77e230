"""An application of the docs as a process of its own."""

import urllib.request
from pathlib import Path

import pytest

from tests.doubles.ended_servers import check_ended
from tests.doubles.servers import free_port, running, wait_for


@pytest.mark.slow
def test_a_server_that_is_ended_has_recorded_what_it_answered(tmp_path: Path) -> None:
    """By SIGTERM amid requests a server ends in time, and each request that it answered is in the chain once."""
    check_ended("starlette", "trio", tmp_path)


@pytest.mark.slow
def test_an_application_without_a_lifespan_loses_no_alert(tmp_path: Path) -> None:
    """Under uvicorn, which dies of the SIGTERM it got, the trail is stopped first, and sends the alert that waits."""
    pytest.importorskip("uvicorn")
    port = free_port()
    with running(["uvicorn", "--port", str(port), "tests.programs.bare_asgi_app:app"], tmp_path) as server:
        wait_for(port, server, tmp_path)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as response:
            event_id = response.read().decode()
    assert (tmp_path / "alerts").read_text().split() == [event_id]
