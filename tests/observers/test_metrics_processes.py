"""The outboxes of several processes as metrics for Prometheus, in the multiprocess mode of its client."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from fapilog.observers import metrics
from tests.doubles.modules import ROOT
from tests.doubles.observed_outboxes import Counted

PROGRAM = Path(__file__).parents[1] / "programs" / "measured_outbox.py"


class Worker:
    """A process that runs the program."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def expect(self, *lines: str) -> None:
        assert self.process.stdout is not None
        assert [self.process.stdout.readline().strip() for _ in lines] == list(lines)

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    """Start processes that share an outbox and the directory of the metrics; kill them at the end."""
    (tmp_path / "metrics").mkdir()
    env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"), "PYTHONPATH": str(ROOT.parent)}
    with ExitStack() as stack:

        def start(role: str) -> Worker:
            command = [sys.executable, str(PROGRAM), str(tmp_path), role]
            pipe = subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True))
            stack.callback(process.kill)
            return Worker(process)

        yield start


def scraped(directory: Path) -> tuple[float | None, float | None, float | None]:
    """Return how many alerts are pending, the age of the oldest, and how many are dead, as a scrape shows them."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory / "metrics"))  # type: ignore[no-untyped-call]
    pending, age, dead = (
        registry.get_sample_value(f"fapilog_outbox_{name}", {"outbox": "slack"})
        for name in ("pending", "oldest_pending_seconds", "dead")
    )
    return pending, age, dead


def until(condition: Callable[[], object]) -> None:
    """Return when *condition* holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.slow
def test_workers_show_the_newest_count(tmp_path: Path, start: Callable[[str], Worker]) -> None:
    """Of two workers with one outbox a scrape shows the newest count, and not that of a worker that was killed."""
    first, second = start("worker"), start("worker")
    first.expect("ready")
    second.expect("ready")
    until(lambda: scraped(tmp_path) == (0, 0, 0))

    first.tell("take")
    first.expect("take")
    until(lambda: scraped(tmp_path)[::2] == (1, 1))
    _, age, _ = scraped(tmp_path)
    assert age is not None
    assert 0 <= age < 30

    first.kill()
    second.tell("discard")
    second.expect("discard")
    until(lambda: scraped(tmp_path) == (0, 0, 0))

    # As the hook of a server does; that of the last worker leaves nothing to be taken for the present.
    second.kill()
    for worker in (first, second):
        mark_process_dead(worker.process.pid, str(tmp_path / "metrics"))  # type: ignore[no-untyped-call]
    assert scraped(tmp_path) == (None, None, None)


@pytest.mark.slow
def test_a_master_that_forks_hides_no_count(tmp_path: Path, start: Callable[[str], Worker]) -> None:
    """A process that connects, forks a worker and counts nothing itself shows no numbers in place of the worker's."""
    master = start("master")
    master.expect("ready", "take")
    master.tell("look")
    master.expect("look")
    assert {scraped(tmp_path)[::2] for _ in range(200)} == {(1, 1)}
    master.tell("")


class Failing(Counted):
    """An outbox whose state is a new object each time, and that may fail."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.error: Exception | None = None
        self.asked = 0

    @property
    def state(self) -> Counted:
        self.asked += 1
        if self.error is not None:
            raise self.error
        counted = Counted(self.name)
        counted.pending = self.pending
        return counted


def test_a_failure_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the metrics can't be written an error is logged once, without its text, and they are written afterwards."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(metrics, "_LOOK_EVERY", 0.001)
    registry, outbox = CollectorRegistry(), Failing("slack")

    def pending() -> float | None:
        return registry.get_sample_value("fapilog_outbox_pending", {"outbox": "slack"})

    with metrics.connect(registry=registry, outboxes=[outbox]):
        until(lambda: pending() == 0)
        outbox.error = OSError("SECRET")
        asked = outbox.asked
        until(lambda: outbox.asked > asked + 10)
        outbox.error, outbox.pending = None, 3
        until(lambda: pending() == 3)
    asked = outbox.asked
    assert caplog.messages == ["cannot measure the gauges (OSError); tried again every second"]

    # A connection that has ended asks for nothing, whatever its thread is at.
    with metrics.connect(registry=registry, outboxes=[Failing("other")]):
        until(lambda: registry.get_sample_value("fapilog_outbox_pending", {"outbox": "other"}) == 0)
    assert outbox.asked == asked
