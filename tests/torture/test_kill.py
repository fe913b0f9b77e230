"""Writing processes are killed with SIGKILL wherever they happen to be: what they said was stored is, and is valid."""

import fcntl
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.doubles.trail_files import TrailFiles
from tests.doubles.trail_oracle import lines, records
from tests.doubles.trail_writers import Writer, listen, writer

WRITERS = 4
KILLED_AT_ONCE = 2
KILLINGS = 2

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
durabilities = pytest.mark.parametrize("durability", ["fsync", "write"])


def check(directory: Path, writers: list[Writer]) -> None:
    """Verify the trail beside whoever is writing, and find in it once what any of *writers* has stored."""
    stored = [event_id for each in writers for event_id in each.stored]
    files = TrailFiles(directory, durable=False)
    result = files.verify()
    assert result.valid, result
    found = Counter(event.event_id for event in files.newest_first())
    assert not [event_id for event_id in stored if found[event_id] != 1]


def leave_fragment(directory: Path, size: int) -> None:
    """Leave what a writer leaves that is killed in the midst of a write: *size* bytes of a record, and no lock."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        newest = max(directory.glob("audit_*.jsonl"))
        record = lines(directory)[-1]
        with newest.open("ab") as file:
            file.write(record[: min(size, len(record) - 1)])
    finally:
        os.close(fd)


def run_round(directory: Path, backend: str, durability: str, number: int) -> None:
    """Let four write; kill two, start two more, and so on; then let all come to their end."""
    chance = random.Random(number)  # noqa: S311
    with ExitStack() as stack:
        alive: list[Writer] = []
        everyone: list[Writer] = []
        for killing in range(KILLINGS + 1):
            new = [stack.enter_context(writer(directory, backend, durability)) for _ in range(WRITERS - len(alive))]
            alive += new
            everyone += new
            before = {each: len(each.stored) for each in alive}
            listen(alive, lambda: all(len(each.stored) > before[each] for each in alive))  # noqa: B023
            check(directory, everyone)
            if killing == KILLINGS:
                break
            for victim in chance.sample(alive, KILLED_AT_ONCE):
                enough = len(victim.stored) + chance.randrange(50)
                listen(alive, lambda: len(victim.stored) >= enough)  # noqa: B023
                victim.kill()
                alive.remove(victim)
            leave_fragment(directory, chance.randrange(1, 600))
        for each in alive:
            each.stop()
    check(directory, everyone)
    assert len(list(directory.glob("*.torn-*"))) >= KILLINGS
    counted = Counter(record["event_id"] for record in records(directory))
    assert all(counted[event_id] == 1 for each in everyone for event_id in each.stored)


@backends
@durabilities
def test_killed_writers_lose_nothing(tmp_path: Path, backend: str, durability: str, rounds: Iterator[int]) -> None:
    """Of four writers two at a time are killed: each event whose id was returned is there once, and all is valid."""
    for number in rounds:
        run_round(tmp_path / str(number), backend, durability, number)
        shutil.rmtree(tmp_path / str(number))
