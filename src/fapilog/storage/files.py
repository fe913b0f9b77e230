"""
The chain in files: JSON Lines, one file for each UTC day, shared by all processes that write to the directory.

`TrailFiles` does the work, with calls that block; `FileStorage` makes them where they can't block the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import re
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Generator
from datetime import UTC, date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import anyio
import anyio.lowlevel
import msgspec

from ..record import chain
from ..record.chain import AuditChainVerificationResult, Chain, ChainError, ChainStatus, Seal
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..tasks.fork import call_in_child
from ..tasks.groupcommit import GroupCommit
from ..tasks.loops import in_thread, is_without_loop
from ._lines import MAX_RECORD_BYTES, Lines
from .protocol import EventFilter

__all__ = ["MAX_RECORD_BYTES", "FileStorage", "TrailFiles", "sync_directory", "utc_now"]

# How much of the trail's end a writer reads before its first append: all of a small trail, and of a large one so much
# that a start does not take longer every day.
_CHECKED_BYTES: Final = 16 << 20
# How often a caller that appends without ever waiting lets other tasks run, and can be cancelled.
_APPENDS_PER_YIELD: Final = 32

_NAME: Final = re.compile(r"audit_\d{4}-\d\d-\d\d\.jsonl")
_SET_ASIDE: Final = re.compile(_NAME.pattern + r"\.torn-\d+-[0-9a-f]+")

_INTERRUPTED: Final = AuditStorageError("interrupted while storing: the event may be stored or not")

_logger: Final = logging.getLogger("fapilog")
_decode: Final = msgspec.json.Decoder(AuditEvent).decode


def utc_now() -> datetime:
    """Return the time that decides which day's file is written to."""
    return datetime.now(UTC)


class _End(msgspec.Struct):
    """Where the trail ends, as far as this process knows."""

    name: str
    size: int
    chain: Chain
    directory: tuple[int, int, int]


class TrailFiles:
    """
    The files of one trail.

    All methods block, and may be called by any thread of any process. Writers exclude each other with a lock on the
    directory itself, so there is no lock file that someone could delete, and a process that dies gives it up. Readers
    run beside them; but they ask under the lock up to where the records are there to stay.

    Args:
        directory: Where the files are; made when the first record is stored.
        durable: Whether `append` returns only after the records are on the disk.
        now: Tells the time.
    """

    def __init__(self, directory: Path, *, durable: bool, now: Callable[[], datetime] = utc_now) -> None:
        # A daemon that changes to another directory does not take the trail with it.
        self.directory: Path = directory.absolute()
        self._path = os.fspath(self.directory)
        self._durable = durable
        self._now = now
        self._day = 0
        self._day_name = ""
        # The lock on the directory keeps processes apart, and this one the threads of a process: an event loop that
        # ends may leave a thread behind in the middle of a write.
        self._mutex = threading.Lock()
        self._lock_fd: int | None = None
        self._fd: int | None = None
        self._end: _End | None = None

    def append(self, bodies: list[bytes]) -> list[Seal]:
        """
        Store a record for each of *bodies* and return their seals.

        Raises:
            AuditStorageError: None of them is stored. The next append continues the chain where it was.
        """
        with self._mutex:
            try:
                if self._lock_fd is None:
                    _make_directory(self.directory)
                    self._lock_fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
                with _locked(self._lock_fd, fcntl.LOCK_EX):
                    if not self._is_up_to_date():
                        self._catch_up()
                    self._begin_day()
                    return self._write(bodies)
            except ChainError as damage:
                self._release()
                raise AuditStorageError(f"{self.directory}: {damage}; nothing is appended") from damage
            except OSError as error:
                self._release()
                raise self._cannot("append to", error) from error

    def append_at_once(self, body: bytes) -> Seal | None:
        """
        Store a record for *body* if that takes nothing but handing it to the operating system, else return None.

        Raises:
            AuditStorageError: It is not stored.
        """
        if self._mutex.locked():
            return None
        with self._mutex:
            lock_fd = self._lock_fd
            if lock_fd is None or self._end is None or self._today() > self._end.name:
                return None
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._write([body])[0] if self._is_up_to_date() else None
            except BlockingIOError:
                return None
            except OSError as error:
                self._release()
                raise self._cannot("append to", error) from error
            finally:
                if self._lock_fd == lock_fd:  # else it is closed
                    fcntl.flock(lock_fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files and forget where the trail ends; the next append looks again."""
        with self._mutex:
            self._release()
            self._end = None

    def forget(self) -> None:
        """
        Become as new, in a forked child.

        The lock belongs to the open directory, which parent and child have in common: closed without being unlocked,
        it stays the parent's.
        """
        self._mutex = threading.Lock()
        self._release()
        self._end = None

    def __del__(self) -> None:
        self._release()

    def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """Check every record, telling *progress* how many so far; what is wrong is returned, not raised."""
        walk = Chain()
        aside: tuple[str, ...] = ()
        try:
            names = self._names()
            aside = tuple(sorted(filter(_SET_ASIDE.fullmatch, os.listdir(self.directory)))) if names else ()
            for name in names:
                self._verify_file(name, walk, progress, is_last=name == names[-1])
        except ChainError as damage:
            torn = damage.status is ChainStatus.TORN_TAIL
            return AuditChainVerificationResult(
                valid=torn,
                events_checked=walk.sequence_number + (not torn),
                first_invalid_sequence=None if torn else walk.sequence_number + 1,
                error_message=str(damage),
                status=damage.status,
                set_aside=aside,
            )
        except OSError as error:
            return AuditChainVerificationResult(
                valid=False,
                events_checked=walk.sequence_number,
                error_message=str(self._cannot("read", error)),
                status=ChainStatus.UNREADABLE,
            )
        return AuditChainVerificationResult(
            valid=True,
            events_checked=walk.sequence_number,
            error_message=f"incomplete records were set aside in {', '.join(aside)}" if aside else None,
            status=ChainStatus.TORN_TAIL if aside else ChainStatus.OK,
            set_aside=aside,
        )

    def newest_first(self) -> Generator[AuditEvent, None, None]:
        """
        Yield the events from the last that is there to stay to the first, reading no more than is asked for.

        Raises:
            AuditStorageError: A file can't be read, or a line is no record.
        """
        try:
            names, end = self._stored()
            for name in reversed(names):
                with self._reading(name) as fd:
                    lines = Lines(fd, name)
                    for record in lines.backwards(end if name == names[-1] else lines.end()):
                        yield _event(lines, *record)
        except ChainError as damage:
            raise AuditStorageError(f"{self.directory}: {damage}") from damage
        except OSError as error:
            raise self._cannot("read", error) from error

    def read(self, after: int, limit: int) -> list[AuditEvent]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        Raises:
            AuditStorageError: A file can't be read, or a line on the way is no record.
        """
        found: list[AuditEvent] = []
        try:
            names, end = self._stored()
            first = bisect_right(range(len(names)), after + 1, key=lambda index: self._first_number(names[index:])) - 1
            for name in names[max(0, first) :]:
                if len(found) >= limit:
                    break
                with self._reading(name) as fd:
                    lines = Lines(fd, name)
                    is_last = name == names[-1]
                    records = lines.after(after, end if is_last else lines.end())
                    found += (_event(lines, *record) for record in itertools.islice(records, limit - len(found)))
                    if is_last and self._durable:
                        # A writer that was killed has left this to the next one.
                        _sync(fd)
        except ChainError as damage:
            raise AuditStorageError(f"{self.directory}: {damage}") from damage
        except OSError as error:
            raise self._cannot("read", error) from error
        return found

    # What follows is called with the lock held.

    def _is_up_to_date(self) -> bool:
        """Return whether nobody else appended, made or removed a file, or moved the directory, since we looked."""
        if self._fd is None or self._end is None:
            return False
        return os.lseek(self._fd, 0, os.SEEK_END) == self._end.size and self._state() == self._end.directory

    def _state(self) -> tuple[int, int, int]:
        """Return what is another when a file is made or removed, or the directory, or one above it, is moved."""
        found = os.stat(self._path)
        return found.st_dev, found.st_ino, found.st_ctime_ns

    def _catch_up(self) -> None:
        """Check what was appended since we looked, or at first the end of the trail, and open its last file."""
        self._close_file()
        directory = os.stat(self.directory)
        if self._lock_fd is not None and not os.path.samestat(directory, os.fstat(self._lock_fd)):
            raise OSError(errno.ESTALE, "the directory was replaced by another")
        names = self._names()
        first, offset, walk = self._where_to_check(names)
        size = 0
        for index in range(first, len(names)):
            name, later = names[index], names[index + 1 :]
            fd = self._fd = os.open(self.directory / name, os.O_RDWR | os.O_APPEND)
            lines = Lines(fd, name)
            walk, size, rest = lines.follow(offset, walk)
            if rest:
                if any(os.stat(self.directory / each).st_size for each in later):
                    raise lines.placed(_torn_in_the_middle(), size)
                if lines.lack_only_newline(size, rest, walk):
                    _write_all(fd, b"\n")
                    size += len(rest) + 1
                else:
                    self._set_aside(fd, name, size, rest)
                _sync(fd)
            if later:
                self._close_file()
            offset = 0
        if walk is None:
            raise ChainError(ChainStatus.UNREADABLE, "no record was found")
        name = names[-1] if names else ""
        if name and (self._end is None or self._end.name != name):
            # Whoever made the file may have died before this.
            sync_directory(self.directory)
        self._end = _End(name, size, walk, self._state())

    def _where_to_check(self, names: list[str]) -> tuple[int, int, Chain | None]:
        """Return the index of a file, the offset in it to check from, and the chain up to there if that is known."""
        known = self._end
        if known is not None and known.name:
            if known.name not in names:
                raise ChainError(
                    ChainStatus.GAP, f"{known.name} is gone; it held records up to {known.chain.sequence_number}"
                )
            index = names.index(known.name)
            sizes = [os.stat(self.directory / name).st_size for name in names[index:]]
            if sizes[0] < known.size:
                raise ChainError(
                    ChainStatus.GAP, f"{known.name} was cut: it has {sizes[0]} bytes, and {known.size} were stored"
                )
            if sum(sizes) - known.size <= _CHECKED_BYTES:
                return index, known.size, Chain(known.chain.sequence_number, known.chain.checksum)
        index, beyond = len(names), -_CHECKED_BYTES
        while index > 0 and beyond < 0:
            index -= 1
            beyond += os.stat(self.directory / names[index]).st_size
        return index, max(0, beyond), Chain() if index == 0 and beyond <= 0 else None

    def _set_aside(self, fd: int, name: str, offset: int, rest: bytes) -> None:
        """Put *rest*, which a crash left at *offset* of a file, into a file of its own, and cut it off."""
        # Named by what it holds: should we crash here too, the next attempt writes the same file again.
        aside = f"{name}.torn-{offset}-{sha256(rest).hexdigest()[:16]}"
        with _closing(os.open(self.directory / aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)) as aside_fd:
            _write_all(aside_fd, rest)
            os.fsync(aside_fd)
        sync_directory(self.directory)
        os.ftruncate(fd, offset)
        _logger.warning("an incomplete record of %d bytes in %s was set aside in %s", len(rest), name, aside)

    def _begin_day(self) -> None:
        """Go on to today's file; never back to an older one, whatever the clock does."""
        end, today = self._end, self._today()
        if end is None or today <= end.name:
            return
        if self._fd is not None:
            # Also if nothing else is durable: a power cut must not take the end of one file and leave the next.
            _sync(self._fd)
        self._close_file()
        try:
            self._fd = os.open(self.directory / today, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            # Another process was faster, within one tick of the clock that tells when the directory changed.
            self._catch_up()
            return
        sync_directory(self.directory)
        self._end = _End(today, 0, end.chain, self._state())

    def _write(self, bodies: list[bytes]) -> list[Seal]:
        fd, end = self._fd, self._end
        assert fd is not None  # noqa: S101 - opened by the callers
        assert end is not None  # noqa: S101
        sequence_number, checksum = end.chain.sequence_number, end.chain.checksum
        lines: list[bytes] = []
        seals: list[Seal] = []
        for body in bodies:
            line, seal = chain.seal(body, sequence_number + 1, checksum)
            sequence_number, _, checksum = seal
            lines.append(line)
            seals.append(seal)
        data = b"".join(lines)
        try:
            _write_all(fd, data)
            if self._durable:
                _sync(fd)
        except OSError as error:
            # What is there of it must not be taken for stored. That goes for a failed sync too: the pages count as
            # clean after it, and only writing them anew makes them dirty again.
            # https://wiki.postgresql.org/wiki/Fsync_Errors
            try:
                os.ftruncate(fd, end.size)
            except OSError as second:
                both = f"{error.strerror}; whether it is stored all the same shows later, for taking it back failed too"
                raise OSError(second.errno, both) from error
            raise
        end.size += len(data)
        end.chain.sequence_number, end.chain.checksum = sequence_number, checksum
        return seals

    # What follows needs no lock.

    def _verify_file(self, name: str, walk: Chain, progress: Callable[[int], None] | None, *, is_last: bool) -> None:
        start = Chain(walk.sequence_number, walk.checksum)
        with self._reading(name) as fd:
            lines = Lines(fd, name)
            size, rest = 0, b""
            try:
                _, size, rest = lines.follow(0, walk, progress)
                if not rest:
                    return
            except ChainError:
                if not is_last:
                    raise
                walk.go_back_to(start)
            # A record may be being written, or records may have been taken back under our eyes since their sync failed:
            # look again without writers, if need be from the beginning of the file.
            with self._without_writers():
                try:
                    _, size, rest = lines.follow(size, walk, progress)
                except ChainError:
                    if not size:
                        raise
                    walk.go_back_to(start)
                    _, size, rest = lines.follow(0, walk, progress)
                if rest and not is_last:
                    raise lines.placed(_torn_in_the_middle(), size)
                if rest and not lines.lack_only_newline(size, rest, walk):
                    raise ChainError(
                        ChainStatus.TORN_TAIL, f"{name} ends with {len(rest)} bytes of an incomplete record"
                    )

    def _stored(self) -> tuple[list[str], int]:
        """
        Return the names of the files up to the last that holds records, and the offset behind those in that one.

        They are there to stay. What a writer has written and not synced is not among them, for it may take that back.
        """
        if not self._names():
            return [], 0
        with self._without_writers():
            names = self._names()
            while names:
                with self._reading(names[-1]) as fd:
                    end = Lines(fd, names[-1]).end()
                if end:
                    return names, end
                names.pop()
        return [], 0

    def _first_number(self, names: list[str]) -> int:
        """Return the sequence number of the first record in the files with *names*; a large one if there is none."""
        for name in names:
            with self._reading(name) as fd:
                lines = Lines(fd, name)
                for record in lines.forwards(0, lines.end()):
                    return lines.number(*record)
        return sys.maxsize

    @contextlib.contextmanager
    def _without_writers(self) -> Generator[None, None, None]:
        with _closing(os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)) as fd, _locked(fd, fcntl.LOCK_SH):
            yield

    def _reading(self, name: str) -> contextlib.AbstractContextManager[int]:
        return _closing(os.open(self.directory / name, os.O_RDONLY))

    def _names(self) -> list[str]:
        """Return the names of the trail's files, the oldest first."""
        try:
            return sorted(filter(_NAME.fullmatch, os.listdir(self.directory)))
        except FileNotFoundError:
            return []

    def _today(self) -> str:
        """Return the name of today's file; made once a day, since `strftime` takes as long as writing a record."""
        day = self._now().toordinal()
        if day != self._day:
            self._day = day
            self._day_name = date.fromordinal(day).strftime("audit_%Y-%m-%d.jsonl")
        return self._day_name

    def _close_file(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _release(self) -> None:
        self._close_file()
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            os.close(fd)

    def _cannot(self, what: str, error: OSError) -> AuditStorageError:
        if isinstance(error, FileExistsError | NotADirectoryError):
            return AuditStorageError(f"cannot {what} {self.directory}: expected a directory, found something else")
        return AuditStorageError(f"cannot {what} {self.directory}: {error.strerror or error}")


class FileStorage:
    """
    The chain in JSON Lines files: ``audit_YYYY-MM-DD.jsonl`` in one directory, for one process or many.

    Args:
        directory: Where the files are; made (mode 0700) when the first event is stored. A local file system: the lock
            and the order of writes are not to be relied on over NFS.
        durability: "fsync": an event counts as stored when it is on the disk. All callers that wait share one sync.
            "write": when the operating system has it; a crash of the process loses nothing, one of the machine may
            lose the last events. The write is then made where `append` is called, which takes microseconds; what may
            take longer is done in a worker thread.
        now: Tells the time, which decides on the day's file.

    Raises:
        ValueError: An unknown *durability*.
    """

    #: Without an event loop every method blocks the calling thread, and waits for nothing else.
    runs_anywhere = True

    def __init__(
        self,
        directory: Path | str,
        *,
        durability: Literal["fsync", "write"] = "fsync",
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        if durability not in ("fsync", "write"):
            raise ValueError(f"durability: expected 'fsync' or 'write'; got {durability!r}")
        self._files = TrailFiles(Path(directory), durable=durability == "fsync", now=now)
        self._at_once = durability == "write"
        self._commits = GroupCommit(self._files.append, interrupted=_INTERRUPTED)
        self._appends = 0
        call_in_child(self, FileStorage._forget)

    def __repr__(self) -> str:
        return f"<FileStorage {str(self._files.directory)!r}>"

    async def append(self, event: AuditEvent) -> Seal:
        """
        Store *event* as the next of the chain.

        A caller that is cancelled while it waits for its turn has stored nothing; later, it may have.

        Raises:
            AuditStorageError: It is not stored: the directory can't be written to, the trail is damaged, or the record
                would be longer than `MAX_RECORD_BYTES`.
        """
        body = chain.body(event)
        if len(body) > MAX_RECORD_BYTES - 512:
            raise AuditStorageError(f"an event of at most {MAX_RECORD_BYTES} bytes can be stored; this has {len(body)}")
        if self._at_once:
            self._appends += 1
            if self._appends % _APPENDS_PER_YIELD == 0 and not is_without_loop():
                await anyio.lowlevel.checkpoint()
            if not self._commits.busy and (seal := self._files.append_at_once(body)):
                return seal
        return await self._commits.submit(body)

    async def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent]:
        """
        Return the newest *limit* events that are wanted, the newest first.

        Reads backwards from the end and stops when it has them; memory does not grow with the trail. Waits until a
        commit that is under way in any process is over.

        Raises:
            AuditStorageError: A file can't be read, or a line on the way is no record.
        """
        return await in_thread(self._find, wanted, limit)

    async def read(self, after: int, limit: int) -> list[AuditEvent]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        Finds its way to them without reading the trail from the beginning; memory does not grow with the trail. Waits
        until a commit that is under way in any process is over.

        Raises:
            AuditStorageError: A file can't be read, or a line on the way is no record.
        """
        return await in_thread(self._files.read, after, limit)

    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """
        Check the whole chain, reading it in blocks; may run beside writers in any process.

        Args:
            progress: Called in a worker thread, every few hundred records, with how many were checked so far.
        """
        return await in_thread(self._files.verify, progress)

    async def aclose(self) -> None:
        """Close the files; the next append opens them again."""
        await in_thread(self._files.close)

    def _find(self, wanted: EventFilter, limit: int) -> list[AuditEvent]:
        found: list[AuditEvent] = []
        if limit > 0:
            with contextlib.closing(self._files.newest_first()) as events:
                for event in filter(wanted.matches, events):
                    found.append(event)
                    if len(found) == limit:
                        break
        return found

    def _forget(self) -> None:
        self._files.forget()
        self._commits = GroupCommit(self._files.append, interrupted=_INTERRUPTED)


def _event(lines: Lines, offset: int, line: bytes) -> AuditEvent:
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        damage = ChainError(ChainStatus.UNREADABLE, f"this is not a record of the trail: {error}")
        raise lines.placed(damage, offset) from error


def _torn_in_the_middle() -> ChainError:
    return ChainError(ChainStatus.UNREADABLE, "the record is incomplete, and others follow")


def sync_directory(directory: Path) -> None:
    """Have a power cut not take away what was made in *directory*, or renamed there."""
    with _closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as fd:
        os.fsync(fd)


def _make_directory(directory: Path) -> None:
    """Make *directory*, mode 0700, and what is missing above it, so that a power cut does not take it away again."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        if not directory.is_dir():  # else another process was faster
            raise
    sync_directory(directory.parent)


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _sync(fd: int) -> None:
    """Return when the data of a file, and its size, are on the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        # On macOS fsync leaves the data in the drive's cache: "man 2 fsync".
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


@contextlib.contextmanager
def _locked(fd: int, how: int) -> Generator[None, None, None]:
    fcntl.flock(fd, how)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


@contextlib.contextmanager
def _closing(fd: int) -> Generator[int, None, None]:
    try:
        yield fd
    finally:
        os.close(fd)
