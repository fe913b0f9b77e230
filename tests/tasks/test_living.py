"""The objects of a kind that are alive, added by any thread while another one asks."""

import gc
import threading

from fapilog.tasks.living import Living


class Thing:
    pass


def test_who_is_gone_or_was_discarded_is_not_there() -> None:
    """An object is there from `add` until `discard`, or until nothing else refers to it."""
    living: Living[Thing] = Living()
    kept, discarded = Thing(), Thing()
    for each in (kept, discarded, Thing()):
        living.add(each)
    del each
    living.discard(discarded)
    living.discard(Thing())
    gc.collect()
    assert living.all() == [kept]


def test_threads_add_while_another_asks() -> None:
    """Whoever asks meanwhile gets an answer, with everything that was there before."""
    living: Living[Thing] = Living()
    first = Thing()
    living.add(first)
    kept: list[Thing] = []
    is_over = threading.Event()

    def add() -> None:
        while not is_over.is_set():
            kept.append(Thing())
            living.add(kept[-1])
            living.add(Thing())

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        while len(kept) < 20_000:
            assert first in living.all()
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert set(living.all()) == {first, *kept}
