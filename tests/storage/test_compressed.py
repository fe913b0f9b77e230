"""Days that are compressed: read, searched, verified and followed as if they were not."""

import gzip
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fapilog import AuditEvent, AuditTrail, ChainStatus, DamagedRecord
from fapilog.storage._archive.day import compress_day
from fapilog.storage._archive.latest import HEADER_BYTES, latest_in
from fapilog.storage._files.times import INDEX
from fapilog.storage.protocol import EventFilter
from tests.doubles.aged_trails import aged_trail, day_file
from tests.doubles.trail_files import TrailFiles
from tests.programs.appending_files import bodies

AGES = (5, 4, 3, 2, 1, 0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A trail of six days with three records each, of which the first four are compressed."""
    aged_trail(tmp_path / "trail", AGES)
    for age in AGES[:4]:
        compress_day(tmp_path / "trail", day_file(age))
    return tmp_path / "trail"


def test_zcat_shows_them(tmp_path: Path) -> None:
    """What gzip finds in a compressed file are the bytes of the file before, and the mode is the same."""
    directory = aged_trail(tmp_path / "trail", (1, 0))
    path = directory / day_file(1)
    path.chmod(0o640)
    before = path.read_bytes()
    compress_day(directory, path.name)
    packed = directory / f"{path.name}.gz"
    assert gzip.decompress(packed.read_bytes()) == before
    if (zcat := shutil.which("zcat")) is not None:
        assert subprocess.run([zcat, packed], check=True, capture_output=True).stdout == before
    assert not path.exists()
    assert packed.stat().st_mode & 0o777 == 0o640
    compress_day(directory, path.name)
    assert [each.name for each in sorted(directory.iterdir())] == [packed.name, day_file(0), INDEX]


def test_nothing_is_seen_of_it(directory: Path, tmp_path: Path) -> None:
    """Verified, searched and read page by page, a trail with compressed days is what it was."""
    plain = TrailFiles(aged_trail(tmp_path / "plain", AGES), durable=True)
    packed = TrailFiles(directory, durable=True)
    assert packed.verify() == plain.verify()
    assert packed.verify().events_checked == 18
    assert [event.event_id for event in packed.newest_first()] == [event.event_id for event in plain.newest_first()]
    for after in range(19):
        found = [event.sequence_number for event in packed.read(after, 4)]
        assert found == list(range(after + 1, min(after + 5, 19)))


def test_questions(directory: Path) -> None:
    """An event of a compressed day is found by its user, by a time and by its number."""
    trail = AuditTrail(storage_path=directory).sync
    assert [event.event_id for event in trail.get_events(user_id="user-4")] == ["4-2", "4-1", "4-0"]
    (first,) = trail.get_events(event_id="5-0")
    assert {event.user_id for event in trail.get_events(end_time=first.timestamp)} == {"user-5"}
    assert [event.sequence_number for event in trail.get_events(after=2, before=5)] == [4, 3]


def test_a_process_that_starts_goes_on(directory: Path) -> None:
    """A new process goes on with the chain, whose newest record is in a compressed file if that was the last."""
    (directory / day_file(0)).unlink()
    (directory / day_file(1)).unlink()
    trail = AuditTrail(storage_path=directory).sync
    trail.log_data_access("patient/1", "read")
    result = trail.verify_chain_from_storage()
    assert (result.valid, result.status, result.events_checked) == (True, ChainStatus.OK, 13)


def test_an_idle_process_goes_on(tmp_path: Path) -> None:
    """A process that was idle while its newest file, and later ones, were compressed goes on with the chain."""
    now = datetime.now(UTC)
    times = [now - timedelta(3), now]
    idle = TrailFiles(tmp_path, durable=False, now=lambda: times[0])
    idle.append(bodies(["a"], now))
    aged_trail(tmp_path, (2, 1))
    compress_day(tmp_path, day_file(3))
    compress_day(tmp_path, day_file(2))
    del times[0]
    assert [seal.sequence_number for seal in idle.append(bodies(["b"], now))] == [8]
    assert TrailFiles(tmp_path, durable=False).verify().events_checked == 8
    idle.close()


def test_both_are_there(directory: Path) -> None:
    """A crash that left the compressed file beside the other one is not seen in the chain."""
    path = directory / f"{day_file(3)}.gz"
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.write_bytes(path.read_bytes()[:50])
    result = TrailFiles(directory, durable=False).verify()
    assert (result.valid, result.events_checked) == (True, 18)


@pytest.mark.parametrize("offset", [3, 10, 40, -12, -6, -1])
def test_a_changed_byte_is_damage(directory: Path, offset: int) -> None:
    """A compressed file with a changed byte, or cut, is damaged, with its name and the first record that is lost."""
    path = directory / f"{day_file(3)}.gz"
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x5A
    path.write_bytes(data)
    result = TrailFiles(directory, durable=False).verify()
    if offset == 3:  # a flag, after which other members of the header would come
        assert not result.valid
        return
    assert (result.valid, result.first_invalid_sequence, result.status) == (False, 7, ChainStatus.UNREADABLE)
    assert f"{path.name} is damaged" in (result.error_message or "")
    reader = TrailFiles(directory, durable=False).reader
    for items in (reader.read(0, 100), reader.page(EventFilter(), 100).items[::-1]):
        kinds = [item.file if isinstance(item, DamagedRecord) else item.sequence_number for item in items]
        assert kinds == [1, 2, 3, 4, 5, 6, path.name.removesuffix(".gz"), *range(10, 19)]
    assert len(reader.read_lines(0, 100)) == 15


@pytest.mark.parametrize("offset", [12, 14, 16, 20, 38])
def test_a_changed_note_counts_for_nothing(directory: Path, offset: int) -> None:
    """The header has the latest time up to the day; where a byte of that is changed, it is not known, and not wrong."""
    path = directory / f"{day_file(2)}.gz"
    data = bytearray(path.read_bytes())
    then = AuditTrail(storage_path=directory).sync.get_events(user_id="user-2")[0].timestamp
    assert latest_in(bytes(data[:HEADER_BYTES])) == then.isoformat()[:19]
    assert latest_in(bytes(data[:38])) is None
    data[offset] ^= 0x5A
    path.write_bytes(data)
    assert latest_in(bytes(data)) is None
    assert gzip.decompress(data)
    # A day after it knows no more than this one.
    compress_day(directory, day_file(1))
    assert latest_in((directory / f"{day_file(1)}.gz").read_bytes()) is None


def test_a_changed_record_is_found(directory: Path) -> None:
    """A record that was changed and compressed again is found as in any other file."""
    path = directory / f"{day_file(3)}.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"user-3", b"user-9", 1)))
    result = TrailFiles(directory, durable=False).verify()
    assert (result.valid, result.first_invalid_sequence, result.status) == (False, 7, ChainStatus.ALTERED)


def test_the_newest_may_be_compressed_by_hand(directory: Path) -> None:
    """If somebody compresses the newest file, the next record begins another one."""
    path = directory / day_file(0)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    trail = AuditTrail(storage_path=directory).sync
    trail.log_data_access("patient/1", "read")
    result = trail.verify_chain_from_storage()
    assert (result.valid, result.events_checked) == (True, 19)
    assert isinstance(trail.get_events(limit=1)[0], AuditEvent)


def test_the_newest_may_be_compressed_and_damaged(directory: Path) -> None:
    """The files before it are read, and it is one hole; the head is that of the newest record that can be read."""
    path = directory / day_file(0)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-9])
    path.unlink()
    trail = AuditTrail(storage_path=directory).sync
    assert [event.sequence_number for event in trail.get_events()] == list(range(15, 0, -1))
    for oldest_first in (True, False):
        found = list(trail.events(oldest_first=oldest_first, on_damage="yield"))
        assert [item.file for item in found if isinstance(item, DamagedRecord)] == [path.name]
    assert trail.head().sequence_number == 15
