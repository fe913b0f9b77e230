"""Servers that are told to end at once, in the midst of requests and alerts that never end."""

import contextlib
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fapilog import AuditTrail, ChainStatus
from tests.doubles.servers import free_port, running, wait_for, wait_until_said

# Seconds; the alerts and the requests would take ten minutes.
SOON = 60


@contextlib.contextmanager
def asking(port: int) -> Iterator[str]:
    """Send a request, and keep its connection; yield the id that comes back."""
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while (found := re.search(rb"<(.+)>", answer)) is None:
            answer += (more := client.recv(4096))
            assert more, answer
        yield found.group(1).decode()


def check(directory: Path, event_id: str) -> None:
    trail = AuditTrail(storage_path=directory / "audit")
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK
    assert event_id in {event.event_id for event in trail.sync.get_events()}


@pytest.mark.slow
def test_a_second_interrupt_ends_uvicorn(tmp_path: Path) -> None:
    """After a second Ctrl-C neither an alert that hangs nor `stop` keeps the process; the event is stored."""
    pytest.importorskip("uvicorn")
    port = free_port()
    with running(["uvicorn", "--port", f"{port}", "tests.programs.hanging_app:asgi"], tmp_path) as process:
        wait_for(port, process, tmp_path)
        with asking(port) as event_id:
            process.send_signal(signal.SIGINT)
            # Two signals that come before a process has handled the first are one.
            wait_until_said(process, tmp_path, "CTRL+C to force quit")
            process.send_signal(signal.SIGINT)
        # From Python 3.12 on asyncio's server is closed when its connections are, which uvicorn waits for.
        process.wait(SOON)
    check(tmp_path, event_id)
    log = (tmp_path / "log").read_text()
    assert "never retrieved" not in log
    assert "was destroyed" not in log


@pytest.mark.slow
def test_a_worker_that_is_timed_out_ends(tmp_path: Path) -> None:
    """Gunicorn ends a worker whose request takes too long, and starts another one; the event is stored."""
    pytest.importorskip("gunicorn")
    port = free_port()
    # The time to import the application is not to count.
    options = ["--bind", f"127.0.0.1:{port}", "--preload", "--timeout", "2", "--graceful-timeout", "1"]
    with running(["gunicorn", *options, "tests.programs.hanging_app:wsgi"], tmp_path) as process:
        wait_for(port, process, tmp_path)
        ids = []
        for _ in range(2):
            # The second is answered by the next worker.
            with asking(port) as event_id:
                ids.append(event_id)
    for event_id in ids:
        check(tmp_path, event_id)
