"""arq's workers as processes, ended by signals."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEventType, AuditTrail, ChainStatus
from fapilog.record.parties import Actor
from tests.doubles.redis import redis
from tests.doubles.servers import ROOT, running, wait_until

pytest.importorskip("arq")

from arq import ArqRedis, create_pool
from arq.connections import RedisSettings
from arq.constants import in_progress_key_prefix
from arq.jobs import Job

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

APP = "tests.integrations.apps.arq_app"
WORKER = ["arq", f"{APP}.WorkerSettings"]
FAILURE = AuditEventType.ERROR_OCCURRED


@pytest.fixture
def url() -> Iterator[str]:
    """Return the URL of a Redis."""
    with redis() as started:
        yield started


async def with_queue(url: str, call: Callable[[ArqRedis], Any]) -> None:
    async with await create_pool(RedisSettings.from_dsn(url)) as pool:
        await call(pool)


def test_every_job_is_recorded_for_its_user(url: str, tmp_path: Path) -> None:
    """With jobs aborted, over time, and with workers ended by SIGTERM and SIGKILL, each event has its job and user."""
    environment = {"REDIS": url}
    subprocess.run(
        [sys.executable, "-m", APP, "export:20", "fail:3", "again:2", "nested:3", "limited:1", "hang:2"],
        check=True,
        timeout=60,
        env={**os.environ, "TRAIL": str(tmp_path / "unused"), **environment},
        cwd=ROOT,
    )
    trail = AuditTrail(storage_path=tmp_path / "audit")

    def count(**asked: Any) -> int:
        return len(trail.sync.get_events(limit=1000, **asked))

    # Each worker logs its start and cleans once; the other events are those of the jobs, one of which is over its time.
    with running(WORKER, tmp_path, **environment):
        wait_until(lambda: count() >= 2 + 20 + 3 + 2 + 2 * 3 + 2 + 2, tmp_path)
        asyncio.run(with_queue(url, lambda pool: Job("hang-0", pool).abort(timeout=60)))
    assert count(event_type=FAILURE, request_id="hang-1") == 1
    with running(WORKER, tmp_path, **environment) as second:
        wait_until(lambda: (count(request_id="hang-1"), count(component="clean")) == (3, 2), tmp_path)
        second.kill()
        second.wait(60)
    # As if the time of the job, after which arq takes its worker for dead, were over.
    asyncio.run(with_queue(url, lambda pool: pool.delete(f"{in_progress_key_prefix}hang-1")))
    with running(WORKER, tmp_path, **environment):
        wait_until(lambda: (count(request_id="hang-1"), count(component="clean")) == (4, 3), tmp_path)
        asyncio.run(with_queue(url, lambda pool: Job("hang-1", pool).abort(timeout=60)))

    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK
    events = trail.sync.get_events(limit=1000)[::-1]
    log = (tmp_path / "log").read_text()
    counts = Counter((event.component, event.event_type is FAILURE) for event in events)
    assert counts == {
        ("arq", False): 5,  # the second worker has not stopped by itself
        ("clean", False): 3,
        ("export", False): 23,
        ("fail", True): 3,
        ("again", True): 2,
        ("nested", False): 3,
        ("hang", False): 5,
        ("hang", True): 4,  # the try that was killed is not recorded
    }, log
    for event in events:
        assert "tenant" not in event.metadata
        if event.component in {"arq", "clean"}:
            assert event.user_id is None
            continue
        assert event.request_id is not None
        name, number, *by_a_job = event.request_id.split("-")
        assert event.user_id == f"{name} user {number}"
        assert event.actor == Actor(id=str(event.component), type="service", on_behalf_of=event.user_id)
        assert event.metadata["enqueued_in"] == (f"{name}-{number}" if by_a_job else f"{name} request {number}")
    alerts = sorted((tmp_path / "alerts").read_text().split())
    assert alerts == sorted(event.event_id for event in events if event.component == "export"), log


def test_a_worker_that_ends_without_its_hook_stops_its_trail(url: str, tmp_path: Path) -> None:
    """Where a signal finds arq itself at work, which ends with an exception, the alerts that wait are sent."""
    trail = AuditTrail(storage_path=tmp_path / "audit")
    asyncio.run(with_queue(url, lambda pool: pool.enqueue_job("export", 99, _job_id="export-99")))
    with running(WORKER, tmp_path, REDIS=url):
        wait_until(lambda: any(e.message == "behind the job" for e in trail.sync.get_events()), tmp_path)
    events = trail.sync.get_events()[::-1]
    log = (tmp_path / "log").read_text()
    assert [event.component for event in events if event.component != "clean"] == ["arq", "export", None, "arq"], log
    alerts = sorted((tmp_path / "alerts").read_text().split())
    assert alerts == sorted(event.event_id for event in events if event.message in {"export 99", "behind the job"}), log
