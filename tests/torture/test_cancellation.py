"""A service that is cancelled in every way, with every dispatcher, after every step of its event loop."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clock import stop_clock_in_threads
from tests.doubles.cancelled_service import DISPATCHERS, cancel_after, cases

pytestmark = pytest.mark.torture

# More than any of these services takes.
MOST_STEPS = 1000


@pytest.mark.parametrize("started", [True, False], ids=["started", "not_started"])
@pytest.mark.parametrize("dispatcher", DISPATCHERS)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_every_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounds: Iterator[int],
    backend: str,
    dispatcher: str,
    *,
    started: bool,
) -> None:
    """Nothing hangs, no event or report is lost, no task is left, the dispatcher is left, and a new start works."""
    stop_clock_in_threads(monkeypatch)
    # In an order that has few gaps after a few of them: whoever has less time tries less.
    steps = sorted(range(MOST_STEPS), key=lambda step: f"{step:010b}"[::-1])
    tried = [(step, way) for step in steps for way in cases(backend)]
    ends: dict[str, int] = {}
    waiting = iter(tried)
    for number in rounds:
        chance = random.Random(number)  # noqa: S311
        case = next((each for each in waiting if each[0] < ends.get(each[1], MOST_STEPS)), None)
        if case is None:
            break
        step, way = case
        print(f"{way} after step {step}")  # noqa: T201  shown when the test fails
        directory = tmp_path / "service"
        gap = chance.choice([1, 1, 2, 3, 5, 20])
        durable = chance.random() < 0.5
        if not cancel_after(step, directory, backend, dispatcher, way, started=started, gap=gap, durable=durable):
            ends[way] = min(step, ends.get(way, MOST_STEPS))
        shutil.rmtree(directory)
