"""Events whose id was given: each id is stored once, whoever brings it how often."""

import errno
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import anyio
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from fapilog import AuditEvent, AuditEventType, AuditStorageError, ChainStatus, FileStorage
from fapilog.record import chain
from fapilog.storage._files import recent
from fapilog.storage._files.recent import Once
from fapilog.storage._files.writer import TrailWriter
from tests.doubles.trail_files import TrailFiles, whole

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
APPENDER = Path(__file__).parents[1] / "programs" / "appending_once.py"


def event(event_id: str, message: str = "m") -> AuditEvent:
    return AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message, event_id=event_id)


def plain(event_id: str, message: str = "m") -> bytes:
    return chain.body(event(event_id, message))


def once(event_id: str, message: str = "m") -> Once:
    return Once(plain(event_id, message))


@pytest.fixture
def trail(tmp_path: Path) -> Iterator[TrailFiles]:
    """Return the files of an empty trail."""
    made = TrailFiles(tmp_path / "audit", durable=True, now=lambda: NOON)
    yield made
    made.close()


def numbers(writer: TrailWriter, *bodies: bytes) -> list[int | None]:
    """Append, and return the sequence numbers, with None for a body whose id the trail has."""
    results = writer.append(bodies)
    assert not any(isinstance(result, AuditStorageError) for result in results)
    return [result.sequence_number if isinstance(result, chain.Seal) else None for result in results]


def ids(trail: TrailFiles) -> list[str]:
    return [each.event_id for each in trail.read(0, 1000)]


@pytest.mark.parametrize("durability", ["fsync", "write"])
async def test_an_id_is_stored_once(tmp_path: Path, durability: Literal["fsync", "write"]) -> None:
    """Of an id that comes again, and at the same time, one event is stored, and each call says so or returns None."""
    storage = FileStorage(tmp_path, durability=durability)
    first = await storage.append(event("7b2f"), once=True)
    assert first is not None
    assert first.sequence_number == 1
    assert await storage.append(event("7b2f", "again"), once=True) is None
    await storage.append(event("other"))
    found: list[object] = []

    async def append() -> None:
        found.append(await storage.append(event("at once"), once=True))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(append)
    assert len(found) == 20
    assert found.count(None) == 19
    assert await FileStorage(tmp_path).append(event("other"), once=True) is None
    assert [whole(each).event_id for each in await storage.read(0, 10)] == ["7b2f", "other", "at once"]
    await storage.aclose()


def test_only_who_asks_gets_it(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that does not ask for it stores its event in any case, and no id is read for it."""

    def read(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(recent.RecentIds, "new_among", read)
        assert numbers(trail.writer, plain("a"), plain("a")) == [1, 2]
    assert numbers(trail.writer, plain("b"), once("b"), once("a"), plain("a"), once("c"), once("c")) == [
        *(3, None, None, 4, 5, None)
    ]
    assert ids(trail) == ["a", "a", "b", "a", "c"]


@pytest.mark.slow
def test_processes_share_the_ids(tmp_path: Path) -> None:
    """Each id that several processes bring at the same time is stored by one of them."""
    command = [sys.executable, str(APPENDER), str(tmp_path), "id", "60"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = Counter(line for process in processes for line in process.communicate()[0].splitlines())
    assert said == {f"new id-{number}": 1 for number in range(60)} | {f"known id-{number}": 2 for number in range(60)}
    trail = TrailFiles(tmp_path, durable=False)
    assert sorted(ids(trail)) == sorted(f"id-{number}" for number in range(60))
    assert trail.verify().status is ChainStatus.OK


@pytest.mark.parametrize("limit", ["records", "bytes"])
def test_how_far_back(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """An id among the newest records is known, and one farther back is not, for a new writer and an old one alike."""
    if limit == "records":
        monkeypatch.setattr(recent, "_RECORDS", 10)
    else:
        monkeypatch.setattr(recent, "CHECKED_BYTES", 10 * len(chain.seal(plain("id-10"), 10, "0" * 64)[0]))
    assert numbers(trail.writer, once("id-00")) == [1]
    for number in range(10, 25):
        trail.append([plain(f"id-{number}")])
    for writer in (trail.writer, TrailWriter(trail.directory, durable=False, now=lambda: NOON)):
        assert numbers(writer, *(once(f"id-{number}") for number in range(16, 25))) == [None] * 9
    assert numbers(trail.writer, once("id-13")) == [17]
    assert len(trail.writer._recent._ids) <= 11


def test_ids_of_other_days_and_of_other_writers(trail: TrailFiles) -> None:
    """An id is known over midnights and restarts, whichever writer stored it, and whatever was torn in between."""
    days = 0
    other = TrailFiles(trail.directory, durable=False, now=lambda: NOON + timedelta(days=days))
    assert numbers(trail.writer, once("a")) == [1]
    for days in range(3):
        assert numbers(other.writer, once(f"day {days}")) == [days + 2]
    with max(trail.directory.glob("*.jsonl")).open("ab") as file:
        file.write(plain("torn")[:-5])
    assert numbers(trail.writer, *(once(each) for each in ("day 0", "day 2", "a", "torn"))) == [None, None, None, 5]
    trail.close()
    assert numbers(trail.writer, *(once(each) for each in ("day 1", "torn", "b"))) == [None, None, 6]
    other.close()


def test_a_day_that_was_archived_takes_its_ids_with_it(tmp_path: Path) -> None:
    """After the file in which ids were last looked for has gone, with a newer one there, the next id is stored."""
    day = [NOON]
    trail = TrailFiles(tmp_path / "audit", durable=True, now=lambda: day[0])
    assert numbers(trail.writer, once("a")) == [1]
    day[0] += timedelta(days=1)
    assert numbers(trail.writer, plain("b")) == [2]
    (tmp_path / "audit" / "audit_2026-01-31.jsonl").unlink()
    assert numbers(trail.writer, once("b"), once("c")) == [None, 3]
    trail.close()


def test_an_id_is_equal_however_it_is_written(trail: TrailFiles) -> None:
    """An id in a record of another version, with characters as they are that are now escaped, is the same id."""
    name = 'a"\\\x85\u2028ä'
    trail.append([plain("first")])
    [seal] = trail.append([plain("second")])
    trail.close()
    raw = plain(name).replace(b"\\u0085", "\x85".encode()).replace(b"\\u2028", "\u2028".encode())
    assert raw != plain(name)
    [path] = trail.directory.iterdir()
    with path.open("ab") as file:
        file.write(chain.seal(raw, 3, seal.checksum)[0])
    assert numbers(trail.writer, once(name), once("first"), once("third")) == [None, None, 4]


def test_a_known_id_is_on_the_disk(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that a killed writer may not have synced is synced before its id is said to be stored."""
    TrailFiles(trail.directory, durable=False, now=lambda: NOON).append([plain("a")])
    synced: list[str] = []
    real = os.fdatasync

    def note(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        real(fd)

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(AuditStorageError, match="Input/output error"):
        trail.writer.append([once("a")])
    monkeypatch.setattr(os, "fdatasync", note)
    assert trail.writer.append([once("a")]) == [None]
    assert synced == ["audit_2026-01-31.jsonl"]


def test_an_id_that_could_not_be_stored_is_not_known(trail: TrailFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers who bring the id of a record that was refused get the same error, and the next one stores it."""

    def fail(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trail.append([plain("a")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        results = trail.writer.append([once("b"), once("a"), once("b")])
        assert [type(result) for result in results] == [AuditStorageError, type(None), AuditStorageError]
    assert numbers(trail.writer, once("b"), once("b")) == [2, None]


class Given(RuleBasedStateMachine):
    """Several writers, restarts, midnights and given ids, against the ids that are stored."""

    @initialize(durable=st.booleans())
    def begin(self, *, durable: bool) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.now = NOON
        self.durable = durable
        self.writers = [self.writer(), self.writer()]
        self.stored: list[str] = []

    def writer(self) -> TrailFiles:
        return TrailFiles(Path(self.scratch.name) / "audit", durable=self.durable, now=lambda: self.now)

    @rule(which=st.integers(0, 1), given=st.lists(st.tuples(st.sampled_from("abcdefghij"), st.booleans()), max_size=4))
    def append(self, which: int, given: list[tuple[str, bool]]) -> None:
        results = self.writers[which].writer.append([once(each) if asks else plain(each) for each, asks in given])
        for (each, asks), result in zip(given, results, strict=True):
            assert (result is None) == (asks and each in self.stored)
            if result is not None:
                self.stored.append(each)

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.writers[which].close()
        self.writers[which] = self.writer()

    @rule()
    def midnight(self) -> None:
        self.now += timedelta(days=1)

    @rule(which=st.integers(0, 1), length=st.integers(1, 200))
    def crash_while_writing(self, which: int, length: int) -> None:
        files = sorted(self.writers[which].directory.glob("*.jsonl"))
        if files:
            with files[-1].open("ab") as file:
                file.write(plain("torn")[:length])

    def teardown(self) -> None:
        if hasattr(self, "writers"):
            assert ids(self.writers[0]) == self.stored
            for writer in self.writers:
                writer.close()
            self.scratch.cleanup()


TestGiven = Given.TestCase
