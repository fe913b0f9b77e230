"""`sys.exit` and Ctrl-C, raised in every place where a trail calls strangers' code."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.doubles.exits import ends

pytestmark = pytest.mark.torture

PLACES = ["dispatcher", "receiver", "coroutine", "storage", "entering", "leaving"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("what", ["exit", "interrupt"])
def test_an_exit_ends_the_process(tmp_path: Path, rounds: Iterator[int], backend: str, what: str) -> None:
    """Wherever strangers' code exits, with an outbox and without, the process ends at once, with its exit code."""
    cases = list(product(PLACES, ["started", "not_started"], ["plain", "outbox"]))
    for number, (place, started, kept) in zip(rounds, cases, strict=False):
        if started == "started" or place not in ("entering", "leaving"):
            ends(tmp_path / str(number), backend, what, place=place, started=started, kept=kept)
