"""The objects of a kind that are alive, added by any thread while another one asks."""

import gc
import threading
import time

import pytest

from fapilog.tasks.weakset import SharedWeakSet


class Thing:
    pass


def test_who_is_gone_or_was_discarded_is_not_there() -> None:
    """An object is there from `add` until `discard`, or until nothing else refers to it."""
    objects: SharedWeakSet[Thing] = SharedWeakSet()
    kept, discarded = Thing(), Thing()
    for each in (kept, discarded, Thing()):
        objects.add(each)
    del each
    objects.discard(discarded)
    objects.discard(Thing())
    gc.collect()
    assert objects.all() == [kept]


def test_threads_add_while_another_asks() -> None:
    """Whoever asks meanwhile gets an answer, with everything that was there before."""
    objects: SharedWeakSet[Thing] = SharedWeakSet()
    first = Thing()
    objects.add(first)
    kept: list[Thing] = []
    is_over = threading.Event()

    def add() -> None:
        while not is_over.is_set():
            mine = Thing()
            objects.add(mine)
            kept.append(mine)
            objects.add(Thing())

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        while len(kept) < 20_000:
            assert first in objects.all()
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert set(objects.all()) == {first, *kept}


@pytest.mark.slow
def test_threads_add_while_the_garbage_collector_calls_back() -> None:
    """Whoever asks gets an answer, though the collector's callbacks let other threads in at each object made."""
    objects: SharedWeakSet[Thing] = SharedWeakSet()
    kept = [Thing() for _ in range(100)]
    for each in kept:
        objects.add(each)
    is_over = threading.Event()

    def add() -> None:
        while not is_over.is_set():
            objects.add(Thing())

    def let_others_in(_phase: str, _info: dict[str, int]) -> None:
        time.sleep(0)

    thresholds = gc.get_threshold()
    thread = threading.Thread(target=add)
    thread.start()
    gc.callbacks.append(let_others_in)
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(10):
            assert set(kept) <= set(objects.all())
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_others_in)
        is_over.set()
        thread.join()
