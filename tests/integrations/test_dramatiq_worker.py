"""dramatiq's workers as processes, with several threads each, ended and begun anew by signals."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fapilog import AuditEventType, AuditTrail, ChainStatus
from fapilog.record.parties import Actor
from tests.doubles.redis import redis
from tests.doubles.servers import ROOT, running, wait_until

pytest.importorskip("dramatiq")
pytest.importorskip("redis")

APP = "tests.integrations.apps.dramatiq_app"
WORKER = ["dramatiq", APP, "--processes", "2", "--threads", "4"]


@pytest.mark.slow
def test_every_message_is_recorded_for_its_user(tmp_path: Path) -> None:
    """With messages that are over time, and SIGHUP in the middle, each event has its message, user, and alert once."""
    trail = AuditTrail(storage_path=tmp_path / "audit")
    # On SIGHUP dramatiq runs itself anew, as the "python" that is found first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def count(event_type: AuditEventType | None = None) -> int:
        return len(trail.sync.get_events(event_type=event_type, limit=1000))

    with redis() as url:
        subprocess.run(
            [sys.executable, "-m", APP, "export:40", "fail:3", "hang:2", "nested:3"],
            check=True,
            timeout=60,
            env={**os.environ, "TRAIL": str(tmp_path / "unused"), "REDIS": url},
            cwd=ROOT,
        )
        with running(WORKER, tmp_path, REDIS=url, PATH=path) as worker:
            wait_until(lambda: count() > 10, tmp_path)
            worker.send_signal(signal.SIGHUP)
            # Two workers have ended, two others begun, and all messages are done.
            wait_until(lambda: count() == 2 + 2 + 2 + 43 + 3 * 2 + 2 + 3, tmp_path)

    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK
    events = trail.sync.get_events(limit=1000)
    log = (tmp_path / "log").read_text()
    assert Counter(event.component for event in events) == {
        "dramatiq": 2 * 4,
        "export": 43,
        "fail": 2 * 3,
        "hang": 2,
        "nested": 3,
    }, log
    for event in events:
        assert "tenant" not in event.metadata
        if event.component == "dramatiq":
            assert event.user_id is None
            continue
        assert event.user_id is not None
        kind, _, number = event.user_id.split()
        assert event.message in {f"{event.component} {number}", f"Error occurred: {kind} {number}"} or kind == "hang"
        assert event.actor == Actor(id=str(event.component), type="service", on_behalf_of=event.user_id)
        if kind == event.component:
            assert event.metadata["enqueued_in"] == f"{kind} request {number}"
        else:
            [outer] = [each for each in events if each.request_id == event.metadata["enqueued_in"]]
            assert (outer.component, outer.user_id) == ("nested", event.user_id)
    alerts = sorted((tmp_path / "alerts").read_text().split())
    assert alerts == sorted(event.event_id for event in events if event.component == "export"), log
