"""Processes that write to one file of SQLite: side by side, and on a disk that is full."""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from fapilog.core._reading import intact
from fapilog.storage.protocol import EventFilter
from fapilog.storage.sqlite import SQLiteStorage
from fapilog.tasks.loops import without_loop
from tests.doubles.trail_writers import listen, writer


@pytest.mark.slow
def test_processes_make_one_chain(tmp_path: Path) -> None:
    """Processes on asyncio and on trio write to one file, one is killed, and all that they stored is in one chain."""
    path = tmp_path / "audit.db"
    with ExitStack() as stack:
        writers = [stack.enter_context(writer(path, backend, "fsync")) for backend in ("asyncio", "trio")]
        listen(writers, lambda: all(len(each.stored) >= 20 for each in writers))
        writers[0].kill()
        enough = len(writers[1].stored) + 5
        listen(writers[1:], lambda: len(writers[1].stored) >= enough)
        writers[1].stop()
    storage = SQLiteStorage(path)
    assert without_loop(storage.verify()).valid
    found = [event.event_id for event in intact(without_loop(storage.find(EventFilter(), 1_000_000)))]
    assert len(found) == len(set(found))
    assert {event_id for each in writers for event_id in each.stored} <= set(found)
    without_loop(storage.aclose())


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """What does not fit is refused and leaves nothing behind, and the chain goes on when there is room again."""
    command = [sys.executable, "-m", "tests.programs.limited_sqlite", str(tmp_path / "audit.db"), "write"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=60)
