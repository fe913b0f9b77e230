"""Answers that end just at their limit in time."""

import random
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from fapilog.record import limit
from fapilog.record.values import given_text

_LIMIT = 0.002


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let an answer take one look, and the threads take turns as often as they can."""
    monkeypatch.setattr(limit, "_LOOK_EVERY", _LIMIT)
    monkeypatch.setattr(limit, "_LOOKS", 1)
    monkeypatch.setattr(limit, "_IDLE_LOOKS", 3)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.00002)
    yield
    sys.setswitchinterval(interval)
    if limit._watcher is not None:
        limit._watcher.join()
    assert not limit._open


class Slow:
    """Answers after a time, in Python or in C."""

    def __init__(self, seconds: float, *, is_in_c: bool) -> None:
        self._seconds = seconds
        self._is_in_c = is_in_c

    def __str__(self) -> str:
        if self._is_in_c:
            time.sleep(self._seconds)
        else:
            end = time.perf_counter() + self._seconds
            while time.perf_counter() < end:
                pass
        return "done"


@pytest.mark.real_time
def test_no_exception_is_raised_outside_of_an_answer(rounds: Iterator[int]) -> None:
    """An exception for a late answer is raised in its midst, or not at all; however close to the limit it ends."""
    texts: set[str] = set()
    outside: list[BaseException] = []

    def ask(seed: str) -> None:
        random_ = random.Random(seed)  # noqa: S311
        try:
            for _ in range(300):
                # Each of a class of its own: after a late one, others of the class are not asked for a while.
                kind = type("Kind", (Slow,), {})
                texts.add(given_text(kind(random_.uniform(0, 2.2 * _LIMIT), is_in_c=random_.random() < 0.5)))
                for _ in range(random_.randrange(200)):
                    pass
        except BaseException as error:
            outside.append(error)

    for number in rounds:
        threads = [threading.Thread(target=ask, args=(f"{number} {each}",)) for each in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (outside, texts) == ([], {"done", "<Kind, unreadable: TookTooLongError>"}), f"round {number}"
