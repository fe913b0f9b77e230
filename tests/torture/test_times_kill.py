"""Processes are killed while they write the index of times: no question misses a record because of what they left."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from fapilog import AuditEvent
from fapilog.storage._files.reader import TrailReader
from fapilog.storage._files.times import INDEX, Times
from fapilog.storage.protocol import EventFilter
from tests.programs.noting_times import BEGAN, small_parts

PROGRAM = Path(__file__).parents[1] / "programs" / "noting_times.py"


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    # As in the program; put back by these.
    monkeypatch.setattr("fapilog.storage._files.lines._BLOCK_BYTES", 0)
    monkeypatch.setattr("fapilog.storage._files.times._MOST_UNSAVED", 0)
    small_parts()


def command(directory: Path, seed: int) -> list[str]:
    return [sys.executable, str(PROGRAM), str(directory), str(seed)]


def environment() -> dict[str, str]:
    # Coverage would write files of its own.
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def check(directory: Path) -> None:
    """Ask for each second, by the index and without it; ask again when what was asked is in the index."""
    everything = TrailReader(directory, durable=False).page(EventFilter(), 1000).items
    events = [item for item in everything if isinstance(item, AuditEvent)]
    assert len(events) == len(everything)
    assert Times(directory).check() is None
    for _ in range(2):
        reader = TrailReader(directory, durable=False)
        for second in range(0, 100, 7):
            since, until = BEGAN + timedelta(seconds=second), BEGAN + timedelta(seconds=second + 2)
            expected = [event for event in events if since <= event.timestamp <= until]
            assert reader.page(EventFilter(start_time=since, end_time=until), 1000).items == expected


@pytest.mark.parametrize("call", ["openat", "write", "pread64", "rename"])
def test_killed_in_each_call_for_the_index(strace: str, tmp_path: Path, call: str) -> None:
    """Killed in any call that opens, reads, writes or replaces the index, a process leaves one that hides no record."""
    directory, log = tmp_path / "trail", tmp_path / "log"
    tracing = [strace, "-f", "-qq", "-s", "0", "-o", str(log), "-e", f"trace={call}"]
    for name in (INDEX, f"{INDEX}.part"):
        tracing += ["-P", str(directory / name)]
    subprocess.run([*tracing, *command(directory, 0)], env=environment(), check=True, capture_output=True)
    count = len(re.findall(rf"^\d+ +{call}\(", log.read_text(), re.MULTILINE))
    assert count >= (1 if call == "rename" else 10)
    # The calls are much alike: the first ones, the last ones, and some between.
    for number in sorted({1, 2, 3, *range(4, count, 1 + count // 6), count - 1, count} & set(range(1, count + 1))):
        shutil.rmtree(directory)
        played = [*tracing, "-e", f"inject={call}:signal=KILL:when={number}", *command(directory, 0)]
        done = subprocess.run(played, env=environment(), capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
        check(directory)


def test_killed_at_any_moment(tmp_path: Path, rounds: Iterator[int]) -> None:
    """One process after the other is killed at a random moment; the next continues with the index that it left."""
    for number in rounds:
        directory, chance = tmp_path / str(number), random.Random(number)  # noqa: S311
        for seed in range(4):
            with subprocess.Popen(command(directory, seed), env=environment(), stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                for _ in range(chance.randrange(1, 30)):
                    process.stdout.readline()
                process.kill()
            check(directory)
        shutil.rmtree(directory)
