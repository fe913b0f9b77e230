"""Whatever has the name of one of the trail's files and is none: a verdict at once, and never a wait for ever."""

import contextlib
import os
import signal
import stat
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import pytest

from fapilog import AuditEvent, AuditEventType, AuditStorageError, AuditTrail, ChainStatus, FileStorage
from fapilog.record import chain
from fapilog.storage._anchor import ANCHOR
from fapilog.storage._archive.day import archive_day, compress_day
from fapilog.storage._files import directory as _directory
from fapilog.storage._replica import replica_of
from fapilog.storage.archive import DirectoryArchive
from fapilog.storage.holds import add_hold, holds_on
from tests.doubles.trail_files import TrailFiles

TODAY = "audit_2026-01-31.jsonl"
OLDER, NEWER = "audit_2026-01-02.jsonl", "audit_2026-02-03.jsonl"
BODY = chain.body(AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m"))
# Deeper than a decoder may go on any Python: 3.13 lets C go ten times as deep as 3.11 does.
_DEEP = 100_000


def put_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_dangling(path: Path) -> None:
    path.symlink_to("nothing")


def put_circle(path: Path) -> None:
    path.symlink_to(path.name)


KINDS = {
    "a named pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a socket": put_socket,
    "a character device": put_device,
    "a symbolic link that leads to no file": put_dangling,
    "a symbolic link that leads to no file, but": put_circle,
}
kinds = pytest.mark.parametrize(("kind", "put"), [(kind.partition(",")[0], put) for kind, put in KINDS.items()])
names = pytest.mark.parametrize("name", [OLDER, TODAY, NEWER], ids=["older", "today", "newer"])


@contextmanager
def at_once() -> Generator[None]:
    """Interrupt a call that waits for ever."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("it waits for ever")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(20)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def trail_in(directory: Path) -> TrailFiles:
    return TrailFiles(directory, durable=True, now=lambda: datetime(2026, 1, 31, 12, tzinfo=UTC))


@pytest.fixture
def trail(tmp_path: Path) -> TrailFiles:
    """A trail of two records, whose writer is running."""
    files = trail_in(tmp_path / "audit")
    files.append([BODY, BODY])
    return files


def refuses(call: Callable[[], object], words: str) -> None:
    with at_once(), pytest.raises(AuditStorageError) as refusal:
        call()
    assert words in str(refusal.value)


def says(trail: TrailFiles, words: str) -> None:
    """Expect that everything that opens the trail's files says *words*, and does nothing."""
    before = {path.name: path.lstat().st_mtime_ns for path in trail.directory.iterdir()}
    for _ in range(2):
        refuses(lambda: trail.append_at_once(BODY) or trail.append([BODY]), words)
        refuses(lambda: trail_in(trail.directory).append([BODY]), words)
        refuses(lambda: list(trail.newest_first()), words)
        refuses(lambda: trail.read(0, 10), words)
        with at_once():
            verdict = trail.verify()
        assert (verdict.valid, verdict.status) == (False, ChainStatus.UNREADABLE)
        assert words in str(verdict.error_message)
    assert {path.name: path.lstat().st_mtime_ns for path in trail.directory.iterdir()} == before


@kinds
@names
def test_no_file_is_named_with_its_kind(trail: TrailFiles, kind: str, put: Callable[[Path], None], name: str) -> None:
    """Writers, readers and the verification say at once which file is none, and what it is; all goes on without it."""
    path = trail.directory / name
    whole = (trail.directory / TODAY).read_bytes()
    path.unlink(missing_ok=True)
    put(path)
    says(trail, f"{name}: expected a regular file, found {kind}")
    path.rmdir() if kind == "a directory" else path.unlink()
    (trail.directory / TODAY).write_bytes(whole)
    trail.append([BODY])
    assert (trail.verify().valid, trail.verify().events_checked) == (True, 3)
    trail.close()


def is_open(path: Path) -> bool:
    """Return whether this process has that file open; threads of other tests may open and close others meanwhile."""
    for opened in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if opened.samefile(path):
                return True
    return False


@kinds
@pytest.mark.parametrize(
    "flags",
    [os.O_RDONLY, os.O_RDWR | os.O_APPEND, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW],
    ids=["read", "append", "create"],
)
def test_what_took_the_name_of_a_file_is_not_waited_for(
    tmp_path: Path, kind: str, put: Callable[[Path], None], flags: int
) -> None:
    """A file that was replaced after the directory had been listed is looked at when it is open, not before."""
    put(tmp_path / TODAY)
    with at_once(), pytest.raises(OSError, match=f"{TODAY}: expected a regular file, found {kind}"):
        _directory.open_file(tmp_path, TODAY, flags)
    assert not is_open(tmp_path)
    assert not is_open(tmp_path / TODAY)


@names
async def test_a_trail_says_so_at_once(tmp_path: Path, name: str) -> None:
    """With a pipe named like a day `log_event`, `get_events` and `head` raise, and the verification says why."""
    os.mkfifo(tmp_path / name)
    words = f"{name}: expected a regular file, found a named pipe"
    with at_once():
        async with AuditTrail(storage_path=tmp_path) as trail:
            for call in (trail.get_events, trail.head, lambda: trail.log_event(AuditEventType.DATA_ACCESS, "m")):
                with pytest.raises(AuditStorageError, match=words):
                    await call()
            verdict = await trail.verify_chain_from_storage()
    assert (verdict.valid, verdict.status) == (False, ChainStatus.UNREADABLE)
    assert words in str(verdict.error_message)


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, Path.touch, put_dangling])
@pytest.mark.parametrize(
    "name",
    [
        "audit_\u0662\u0660\u0662\u0666-\u0660\u0661-\u0663\u0661.jsonl",  # in Arabic-Indic digits
        "audit_2026-0\u0967-31.jsonl",  # with a Devanagari one
        "audit_2026-01-\uff13\uff11.jsonl",  # in full-width ones
        "audit_2026-01-31.jsonl\n",
        "audit_2026-01-31.jsonl.torn-\u0661-ab",
        "AUDIT_2026-01-31.jsonl",
    ],
)
def test_a_name_that_looks_similar_is_no_file_of_the_trail(
    trail: TrailFiles, name: str, put: Callable[[Path], None]
) -> None:
    """Nothing that is not named exactly like a file of the trail is looked at, whatever it is."""
    put(trail.directory / name)
    trail.append([BODY])
    trail.close()
    with at_once():
        assert (trail.verify().status, trail.verify().events_checked) == (ChainStatus.OK, 3)
        assert len(trail.read(0, 10)) == len(list(trail.newest_first())) == 3


def test_a_link_to_a_regular_file_is_followed(trail: TrailFiles, tmp_path: Path) -> None:
    """A day's file may be elsewhere, with a link in its place."""
    (trail.directory / TODAY).rename(tmp_path / "elsewhere")
    (trail.directory / TODAY).symlink_to(tmp_path / "elsewhere")
    trail.append([BODY])
    assert (trail.verify().status, len(trail.read(0, 10))) == (ChainStatus.OK, 3)
    trail.close()


def torn(trail: TrailFiles) -> tuple[Path, bytes, Path]:
    """Tear the newest record; return the file, its bytes before that, and where the fragment will be set aside."""
    path = trail.directory / TODAY
    whole = path.read_bytes()
    path.write_bytes(whole + b"torn")
    trail.append([BODY])
    (aside,) = trail.directory.glob("*.torn-*")
    aside.unlink()
    path.write_bytes(whole + b"torn")
    return path, whole, aside


@kinds
def test_no_file_where_a_fragment_is_set_aside(trail: TrailFiles, kind: str, put: Callable[[Path], None]) -> None:
    """Where the name for a fragment is taken by what is no file, the writer refuses at once, and keeps the fragment."""
    path, whole, aside = torn(trail)
    put(aside)
    again = trail_in(trail.directory)
    with at_once(), pytest.raises(AuditStorageError, match=r"expected a regular file, found|symbolic links"):
        again.append([BODY])
    assert path.read_bytes() == whole + b"torn"
    assert not (trail.directory / "nothing").exists()
    trail.close()


def test_a_link_where_a_fragment_is_set_aside_leads_nowhere(trail: TrailFiles, tmp_path: Path) -> None:
    """A fragment is never written through a link into a file elsewhere."""
    _, _, aside = torn(trail)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    aside.symlink_to(victim)
    with pytest.raises(AuditStorageError, match="symbolic links"):
        trail_in(trail.directory).append([BODY])
    assert victim.read_text() == "precious"
    trail.close()


@pytest.mark.parametrize("put", [os.mkfifo, Path.touch, put_socket, put_device, put_dangling, put_circle])
def test_a_directory_that_is_none(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """Where the directory is something else, everything says so at once."""
    put(tmp_path / "audit")
    trail = trail_in(tmp_path / "audit")
    words = str(tmp_path / "audit")
    began = time.monotonic()
    refuses(lambda: trail.append([BODY]), words)
    refuses(lambda: list(trail.newest_first()), words)
    refuses(lambda: trail.read(0, 10), words)
    verdict = trail.verify()
    assert (verdict.valid, verdict.status) == (False, ChainStatus.UNREADABLE)
    assert words in str(verdict.error_message)
    assert time.monotonic() - began < 60


def put_nested(path: Path) -> None:
    """Put JSON that would take a decoder deeper than it may go."""
    path.write_bytes(b'{"file":' + b"[" * _DEEP + b"]" * _DEEP + b"}")


def put_nested_list(path: Path) -> None:
    """Put the same in a list, as of holds."""
    path.write_bytes(
        b'[{"id":"1","reason":"r","set_at":"2026-01-01T00:00:00Z","x":' + b"[" * _DEEP + b"]" * _DEEP + b"}]"
    )


def put_endless(path: Path) -> None:
    """Put more bytes than fit into memory; none of them takes room on the disk."""
    path.touch()
    os.truncate(path, 1 << 42)


BESIDE = {
    **KINDS,
    "nested JSON": put_nested,
    "a list of nested JSON": put_nested_list,
    "a file without end": put_endless,
}
beside = pytest.mark.parametrize("put", BESIDE.values(), ids=BESIDE)


@beside
def test_what_is_no_anchor(trail: TrailFiles, put: Callable[[Path], None]) -> None:
    """Whatever has the name of the anchor, all that need it say so at once, and go on without it."""
    path = trail.directory / ANCHOR
    trail.close()
    put(path)
    says(trail, ANCHOR)
    path.rmdir() if path.is_dir() else path.unlink()
    trail.append([BODY])
    assert (trail.verify().valid, trail.verify().events_checked) == (True, 3)
    trail.close()


async def test_that_there_is_no_anchor_is_in_the_words_of_a_storage(tmp_path: Path) -> None:
    """Whatever has the name of the anchor, a look at the concerns raises what it documents, with the reason."""
    (tmp_path / ANCHOR).write_text("{}")
    with pytest.raises(AuditStorageError, match=f"{ANCHOR} is damaged"):
        await FileStorage(tmp_path).concerns()


@beside
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("audit_holds.json", holds_on),
        ("audit_holds.json", lambda directory: add_hold(directory, "a trial")),
        ("audit_replica.json", replica_of),
    ],
    ids=["holds", "a new hold", "replica"],
)
def test_what_is_no_file_beside_the_days(
    tmp_path: Path, name: str, read: Callable[[Path], object], put: Callable[[Path], None]
) -> None:
    """Whatever has the name of a file that retention asks, it says so at once: never that nothing is to be kept."""
    put(tmp_path / name)
    refuses(lambda: read(tmp_path), name)


@pytest.mark.parametrize("put", [os.mkfifo, Path.mkdir, put_socket, put_device])
def test_what_is_no_file_of_an_archive(trail: TrailFiles, tmp_path: Path, put: Callable[[Path], None]) -> None:
    """Where something else has the name of an archived day, retention and readers say so, and nothing waits for it."""
    archive = DirectoryArchive(tmp_path / "archive")
    archive.directory.mkdir()
    put(archive.directory / f"{TODAY}.gz")
    compress_day(trail.directory, TODAY)
    with at_once(), pytest.raises(AuditStorageError, match="expected a regular file"):
        archive_day(trail.directory, TODAY, archive, None)
    with at_once(), pytest.raises(AuditStorageError, match="expected a regular file"):
        archive.open(f"{TODAY}.gz")
    trail.close()
