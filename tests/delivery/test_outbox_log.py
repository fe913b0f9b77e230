"""SQLite's write-ahead log beside the file of an outbox, and a reader that keeps it from being emptied."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fapilog.delivery.outbox import Outbox
from fapilog.delivery.outbox._file import place
from tests.doubles.outboxes import make
from tests.doubles.scripted_dispatcher import Scripted, an_event

MIB = 2**20


async def fill(outbox: Outbox, numbers: range) -> None:
    """Have the outbox write half a MiB with each alert."""
    for number in numbers:
        await outbox.send_alert(an_event(number, message="x" * (MIB // 2)), severity="critical")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "the log of the outbox file" in record.getMessage()]


@pytest.mark.slow
@pytest.mark.one_backend
async def test_a_reader_that_stays_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a reader lets the log grow there is one warning, and another when the log is small, and so once more."""
    # More than the 4 MiB at which SQLite empties it.
    monkeypatch.setattr(place, "_LARGE_LOG", 5 * MIB)
    monkeypatch.setattr(place, "_LOOK_EVERY", 0.0)
    outbox, file, log = make(Scripted(), tmp_path), tmp_path / "alerts.db", tmp_path / "alerts.db-wal"
    large = f"the log of the outbox file {file} has 5 MiB: a reader in a transaction keeps it from being emptied"
    small = f"the log of the outbox file {file} is small again"

    await fill(outbox, range(1, 20))
    assert warnings(caplog) == []
    for turn in (1, 2):
        with closing(sqlite3.connect(file, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM alerts").fetchone()
            await fill(outbox, range(100 * turn, 100 * turn + 20))
            assert log.stat().st_size > 5 * MIB
            assert warnings(caplog) == [large, small] * (turn - 1) + [large]
        await fill(outbox, range(100 * turn + 20, 100 * turn + 30))
        assert log.stat().st_size <= 5 * MIB
        assert warnings(caplog) == [large, small] * turn


@pytest.mark.slow_on_trio
async def test_the_log_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a look at the log the next commits do not look again."""
    # A busy machine may take more seconds for this test than are between two looks.
    monkeypatch.setattr(place, "_LOOK_EVERY", 3600.0)
    monkeypatch.setattr(place, "_LARGE_LOG", -1)
    outbox = make(Scripted(), tmp_path)
    await fill(outbox, range(1, 2))
    assert len(warnings(caplog)) == 1
    monkeypatch.setattr(place, "_LARGE_LOG", 64 * MIB)
    await fill(outbox, range(2, 5))
    assert len(warnings(caplog)) == 1
