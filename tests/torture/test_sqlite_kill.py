"""Processes that write to one file of SQLite are killed with SIGKILL: what they said was stored is, and is valid."""

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fapilog.core._reading import intact
from fapilog.storage.protocol import EventFilter
from fapilog.storage.sqlite import SQLiteStorage
from fapilog.tasks.loops import without_loop
from tests.doubles.trail_writers import Writer, listen, writer

WRITERS = 4
KILLED_AT_ONCE = 2
KILLINGS = 2


def check(path: Path, writers: list[Writer]) -> None:
    """Verify the trail beside whoever is writing, and find in it once what any of *writers* has stored."""
    stored = [event_id for each in writers for event_id in each.stored]
    storage = SQLiteStorage(path)
    result = without_loop(storage.verify())
    assert result.valid, result
    found = Counter(event.event_id for event in intact(without_loop(storage.find(EventFilter(), 1_000_000))))
    assert not [event_id for event_id in stored if found[event_id] != 1]
    without_loop(storage.aclose())


def run_round(path: Path, backend: str, durability: str, number: int) -> None:
    """Let four write; kill two, start two more, and so on; then let all come to their end."""
    chance = random.Random(number)  # noqa: S311
    with ExitStack() as stack:
        alive: list[Writer] = []
        everyone: list[Writer] = []
        for killing in range(KILLINGS + 1):
            new = [stack.enter_context(writer(path, backend, durability)) for _ in range(WRITERS - len(alive))]
            alive += new
            everyone += new
            before = {each: len(each.stored) for each in alive}
            listen(alive, lambda: all(len(each.stored) > before[each] for each in alive))  # noqa: B023
            check(path, everyone)
            for victim in chance.sample(alive, KILLED_AT_ONCE if killing < KILLINGS else 0):
                enough = len(victim.stored) + chance.randrange(50)
                listen(alive, lambda: len(victim.stored) >= enough)  # noqa: B023
                victim.kill()
                alive.remove(victim)
        for each in alive:
            each.stop()
    check(path, everyone)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("durability", ["fsync", "write"])
def test_killed_writers_lose_nothing(tmp_path: Path, backend: str, durability: str, rounds: Iterator[int]) -> None:
    """Of four writers two at a time are killed: each event whose id was returned is there once, and all is valid."""
    for number in rounds:
        run_round(tmp_path / str(number) / "audit.db", backend, durability, number)
        shutil.rmtree(tmp_path / str(number))
