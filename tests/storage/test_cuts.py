"""A running writer whose file is cut or replaced says so with the next append, however much follows the cut."""

import itertools
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, ChainStatus
from fapilog.record import chain
from fapilog.storage._files import end
from fapilog.storage._files import writer as _writer
from tests.doubles.trail_files import TrailFiles

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
TODAY = "audit_2026-01-31.jsonl"
RECORDS = 5

durabilities = pytest.mark.parametrize("durable", [True, False], ids=["fsync", "write"])


def body(message: str) -> bytes:
    return chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message=message, timestamp=NOON))


def append(trail: TrailFiles, message: str) -> chain.Seal:
    """Append as a `FileStorage` does."""
    return trail.append_at_once(body(message)) or trail.append([body(message)])[0]


def running(directory: Path, *, durable: bool, count: int = RECORDS) -> TrailFiles:
    """Return a writer that has stored records of one length, the last by itself."""
    trail = TrailFiles(directory, durable=durable, now=lambda: NOON)
    for number in range(count):
        append(trail, f"message {number}")
    return trail


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def forged(kept: list[bytes], messages: list[str]) -> list[bytes]:
    """Return *kept* and a chain of new records that follow them, as the writer itself would make it."""
    checksum = kept[-1][:-1].rpartition(b':"')[2][:64].decode() if kept else None
    made = [*kept]
    for message in messages:
        line, (_, _, checksum) = chain.seal(body(message), len(made) + 1, checksum)
        made.append(line)
    return made


def rewrite(path: Path, data: bytes) -> None:
    """Change the file that the writer has open."""
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, 0)
    os.write(fd, data)
    os.close(fd)


def replace(path: Path, data: bytes) -> None:
    """Put another file in its place."""
    other = path.with_name("other")
    other.write_bytes(data)
    other.rename(path)


def make_anew(path: Path, data: bytes) -> None:
    """Remove the file, and make another of that name."""
    path.unlink()
    path.write_bytes(data)


def replace_directory(path: Path, data: bytes) -> None:
    """Put another directory in the place of the one that the writer has open."""
    shutil.copytree(path.parent, other := path.parent.with_name("other"))
    (other / path.name).write_bytes(data)
    path.parent.rename(path.parent.with_name("former"))
    other.rename(path.parent)


WAYS = [rewrite, replace, make_anew, replace_directory]
ways = pytest.mark.parametrize("way", WAYS)


def refuses(trail: TrailFiles) -> str:
    """Expect that appending is refused for good, and that nothing is changed by that; return why."""
    before = {path.name: path.read_bytes() for path in trail.directory.iterdir()}
    said = ""
    for _ in range(3):
        with pytest.raises(AuditStorageError) as refusal:
            append(trail, "new")
        said = str(refusal.value)
    assert said.endswith("nothing is appended")
    assert {path.name: path.read_bytes() for path in trail.directory.iterdir()} == before
    return said


@pytest.mark.slow
@durabilities
@given(
    kept=st.integers(0, RECORDS),
    messages=st.lists(st.sampled_from(["message x", "m", "a longer message " * 3]), max_size=12),
    way=st.sampled_from(WAYS),
    checked=st.sampled_from([100, 1000, 16 << 20]),
    is_seen_by_another=st.booleans(),
)
@settings(deadline=None)
def test_a_cut_is_noticed_whatever_a_forger_appends(
    *,
    durable: bool,
    kept: int,
    messages: list[str],
    way: Callable[[Path, bytes], None],
    checked: int,
    is_seen_by_another: bool,
) -> None:
    """A forger who makes a valid chain behind a cut, of any length, is found out; one who cuts nothing is followed."""
    with TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(end, "CHECKED_BYTES", checked)
        trail = running(Path(scratch) / "audit", durable=durable)
        lines = forged(lines_of(trail.directory / TODAY)[:kept], messages)
        way(trail.directory / TODAY, b"".join(lines))
        if is_seen_by_another:
            # Another process, which has no memory of the trail, goes on behind the forged records.
            other = TrailFiles(trail.directory, durable=durable, now=lambda: NOON)
            append(other, "by another")
            other.close()
        if kept < RECORDS:
            refuses(trail)
        elif way is replace_directory:
            with pytest.raises(AuditStorageError, match="replaced by another"):
                append(trail, "new")
            append(trail, "new")
        else:
            assert append(trail, "new").sequence_number == RECORDS + len(messages) + is_seen_by_another + 1
        assert trail.verify().valid
        trail.close()


@durabilities
@ways
def test_a_cut_to_the_byte_is_noticed(tmp_path: Path, way: Callable[[Path, bytes], None], *, durable: bool) -> None:
    """A file that is as long as before, with as many records, and another last one, is not the one that was written."""
    trail = running(tmp_path / "audit", durable=durable)
    path = trail.directory / TODAY
    data = b"".join(forged(lines_of(path)[:-1], ["message x"]))
    assert len(data) == path.stat().st_size
    way(path, data)
    assert f"{TODAY} was cut or replaced: record {RECORDS} is not where it was stored" in refuses(trail)


@pytest.mark.slow
@durabilities
def test_a_cut_at_any_byte_is_noticed(tmp_path: Path, *, durable: bool) -> None:
    """Wherever in its last two records the file ends, also at its very last byte, the cut is named with both sizes."""
    trail = running(tmp_path / "audit", durable=durable)
    path = trail.directory / TODAY
    whole = path.read_bytes()
    for size in range(len(whole) - 700, len(whole)):
        rewrite(path, whole[:size])
        with pytest.raises(AuditStorageError, match=f"was cut: it has {size} bytes, and {len(whole)} were stored"):
            append(trail, "new")
    rewrite(path, whole)
    assert append(trail, "new").sequence_number == RECORDS + 1


@durabilities
def test_more_than_is_checked_hides_no_cut(tmp_path: Path, *, durable: bool) -> None:
    """A writer that skips what others appended, since it is much, looks at its own last record first."""
    trail = running(tmp_path / "audit", durable=durable)
    path = trail.directory / TODAY
    lines = forged(lines_of(path)[:1], [f"forged {'x' * 900_000}"] * 20)
    path.write_bytes(b"".join(lines))
    assert path.stat().st_size > end.CHECKED_BYTES
    assert "was cut or replaced" in refuses(trail)


@durabilities
@pytest.mark.parametrize("elsewhere", ["elsewhere", "../elsewhere"])
def test_a_file_that_is_moved_or_removed_is_missed(tmp_path: Path, elsewhere: str, *, durable: bool) -> None:
    """A file that was moved away is gone, and the writer that still has it open does not write to it."""
    trail = running(tmp_path / "audit", durable=durable)
    path = trail.directory / TODAY
    path.rename(moved := trail.directory / elsewhere)
    assert f"{TODAY} is gone; it held records up to {RECORDS}" in refuses(trail)
    moved.rename(path)
    assert append(trail, "new").sequence_number == RECORDS + 1
    path.unlink()
    assert f"{TODAY} is gone; it held records up to {RECORDS + 1}" in refuses(trail)


@durabilities
def test_what_changes_within_one_tick_of_the_clock_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    """Where the directory's time is too coarse to tell of a change, a file that was just made is looked for by name."""
    monkeypatch.setattr(_writer, "identity", lambda directory: (1, 2, 3))
    monkeypatch.setattr(end, "_TICK", 3600 * 10**9)
    trail = running(tmp_path / "audit", durable=durable)
    path = trail.directory / TODAY
    whole = path.read_bytes()
    data = b"".join(forged(lines_of(path)[:-1], ["message x"]))
    path.rename(tmp_path / "moved")
    assert "is gone" in refuses(trail)
    path.write_bytes(data)
    assert "was cut or replaced" in refuses(trail)
    replace(path, whole)
    append(trail, "new")
    (trail.directory / "audit_2026-02-01.jsonl").touch()
    append(trail, "newer")
    assert len(lines_of(trail.directory / "audit_2026-02-01.jsonl")) == 1


@durabilities
def test_a_cut_of_yesterdays_file_is_noticed_while_todays_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    """A writer that has begun a day, and could not write to its file, still knows where its newest record is."""
    now = NOON
    trail = TrailFiles(tmp_path / "audit", durable=durable, now=lambda: now)
    for number in range(RECORDS):
        append(trail, f"message {number}")
    now += timedelta(days=1)

    def fail(fd: int, data: bytes) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(AuditStorageError, match="No space left"):
            append(trail, "lost")
    path = trail.directory / TODAY
    whole = lines_of(path)
    path.write_bytes(b"".join(forged(whole[:-1], ["message x"])))
    assert "was cut or replaced" in refuses(trail)
    path.write_bytes(b"".join(whole[:-1]))
    assert "was cut: it has" in refuses(trail)
    path.write_bytes(b"".join(whole))
    assert append(trail, "new").sequence_number == RECORDS + 1
    assert trail.verify().status is ChainStatus.OK


@pytest.mark.parametrize("durability", ["fsync", "write"])
@pytest.mark.parametrize("way", [rewrite, replace])
async def test_the_trail_announces_a_cut(tmp_path: Path, way: Callable[[Path, bytes], None], durability: str) -> None:
    """A trail whose file is cut and filled up again raises from the next `log_event` on, and says why."""
    async with AuditTrail(storage_path=tmp_path, durability=durability) as trail:  # type: ignore[arg-type]
        for number in range(RECORDS):
            await trail.log_event(AuditEventType.DATA_ACCESS, f"message {number}")
        (path,) = tmp_path.glob("audit_*.jsonl")  # noqa: ASYNC240
        way(path, b"".join(forged(lines_of(path)[:2], ["forged"] * 10)))
        for _ in range(2):
            with pytest.raises(AuditStorageError, match=r"record 5 is not where it was stored; nothing is appended"):
                await trail.log_event(AuditEventType.DATA_ACCESS, "new")
        assert len(lines_of(path)) == 12


@durabilities
def test_writers_that_take_turns_find_each_others_records(tmp_path: Path, *, durable: bool) -> None:
    """Honest writers, far apart or close, within a day and over midnight, never take each other for forgers."""
    days = [0, 0, 0]
    writers = [
        TrailFiles(tmp_path / "audit", durable=durable, now=lambda n=number: NOON + timedelta(days=days[n]))  # type: ignore[misc]
        for number in range(3)
    ]
    for turn, number in enumerate(itertools.islice(itertools.cycle([0, 1, 1, 2, 0, 0, 2, 1]), 80)):
        days[number] = max(days[number], turn // 20)
        append(writers[number], f"message {turn}")
    assert (writers[0].verify().status, writers[0].verify().events_checked) == (ChainStatus.OK, 80)
    for writer in writers:
        writer.close()


@durabilities
def test_a_commit_that_all_callers_have_left_makes_nobody_blind(tmp_path: Path, *, durable: bool) -> None:
    """Behind a record that was replaced nothing is stored, also after a commit of nothing."""
    trail = running(tmp_path, durable=durable)
    assert trail.writer.append([]) == []
    path = tmp_path / TODAY
    with path.open("r+b") as file:
        file.write(b"x" * (path.stat().st_size - 1) + b"\n")
    with pytest.raises(AuditStorageError):
        append(trail, "more")
    trail.close()
