"""
Writes records whose clock jumps, over three days, asks for some of their times, and compresses the first day.

    python noting_times.py DIRECTORY SEED

The index of times is written all the time, since its parts are small. Prints a line when some records are stored.
"""

import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fapilog.record import chain
from fapilog.record.events import AuditEvent
from fapilog.record.kinds import AuditEventType
from fapilog.storage._archive.day import compress_day, tidy
from fapilog.storage._files import lines
from fapilog.storage._files import times as _times
from fapilog.storage._files.names import names
from fapilog.storage._files.reader import TrailReader
from fapilog.storage._files.writer import TrailWriter
from fapilog.storage.protocol import EventFilter

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
BATCHES_A_DAY = 8


def small_parts() -> None:
    """Have parts of a record or two, and the index written after some of them."""
    vars(lines)["_BLOCK_BYTES"], vars(_times)["_MOST_UNSAVED"] = 700, 2


def main(directory: Path, seed: int) -> None:
    """Write, ask and compress."""
    small_parts()
    chance = random.Random(seed)  # noqa: S311
    today = BEGAN
    for day in range(3):
        today = BEGAN + timedelta(days=day)
        # A process that has just started, which knows no times but those of the index.
        writer = TrailWriter(directory, durable=False, now=lambda: today)  # noqa: B023
        for _ in range(BATCHES_A_DAY):
            times = [BEGAN + timedelta(seconds=chance.randrange(100)) for _ in range(4)]
            events = [AuditEvent(timestamp=each, event_type=AuditEventType.DATA_ACCESS, message="m") for each in times]
            writer.append([chain.body(event) for event in events])
            print("stored", flush=True)  # noqa: T201
            since = BEGAN + timedelta(seconds=chance.randrange(100))
            TrailReader(directory, durable=False).page(EventFilter(start_time=since, end_time=since), 10)
        writer.close()
    # As retention does.
    compress_day(directory, names(directory)[0])
    tidy(directory)
    TrailReader(directory, durable=False).page(EventFilter(start_time=BEGAN - timedelta(1), end_time=BEGAN), 10)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
