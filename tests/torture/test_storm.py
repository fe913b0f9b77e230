"""A storm of alerts through a digest: what goes out, what is accounted for, and how much memory it takes."""

import gc
import random
import tracemalloc
from collections import defaultdict
from itertools import pairwise

import anyio

from fapilog.delivery.digest import Digest, digest_of
from fapilog.testing import RecordedAlert, RecordingDispatcher
from tests.doubles.dispatchers import event


async def test_a_storm_of_a_hundred_thousand() -> None:
    """Of 200 kinds two messages a window go out at most, every event is accounted for, and the memory stays small."""
    total, window = 100_000, 10.0
    chance = random.Random(0)  # noqa: S311  repeatable
    inner = RecordingDispatcher()
    kinds: dict[str | None, list[int]] = defaultdict(list)
    times: list[float] = []

    async def note() -> None:
        times.append(anyio.current_time())

    inner.wait = note
    gc.collect()
    tracemalloc.start()
    try:
        async with Digest(inner, window=window) as digest:
            for number in range(1, total + 1):
                kind = f"part {chance.randrange(200)}"
                kinds[kind].append(number)
                await digest.send_alert(event(number, component=kind), severity="security")
                if number % 25_000 == 0:
                    await anyio.sleep(6)
        _, grown = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 50 * 2**20

    messages: dict[str | None, list[tuple[float, RecordedAlert]]] = defaultdict(list)
    for when, alert in zip(times, inner.alerts, strict=True):
        messages[alert.event.component].append((when, alert))
    assert len(messages) == 200
    accounted = 0
    for part, of_kind in messages.items():
        firsts = [when for when, alert in of_kind if "count" not in alert.event.metadata]
        summaries = [alert.event for _, alert in of_kind if "count" in alert.event.metadata]
        assert all(later - earlier >= window for earlier, later in pairwise(firsts))
        assert len(summaries) <= len(firsts)
        sent = {alert.event.sequence_number for _, alert in of_kind if "count" not in alert.event.metadata}
        for summary in summaries:
            first, last = summary.metadata["first_sequence_number"], summary.metadata["last_sequence_number"]
            found = [number for number in kinds[part] if first <= number <= last and number not in sent]
            assert summary.metadata["count"] == len(found)
            assert summary.metadata["ids_sha256"] == digest_of(event(number).event_id for number in found)
        accounted += len(sent) + sum(summary.metadata["count"] for summary in summaries)
    assert accounted == total
