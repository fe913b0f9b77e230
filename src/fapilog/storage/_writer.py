"""Writing to the files of a trail, one writer at a time in all threads and processes."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from ..record import chain
from ..record.chain import ChainError, ChainHead, ChainStatus, Seal
from ..record.errors import AuditStorageError
from ..tasks.strangers import Log
from ._directory import (
    cannot,
    close,
    closing,
    file_of_day,
    identity,
    is_named,
    make_directory,
    names,
    open_file,
    reading,
    sync,
    sync_directory,
    write_all,
)
from ._lines import Lines
from ._reader import start_of_end

__all__ = ["TrailWriter", "utc_now"]

# How much of the trail's end a writer reads before its first append: all of a small trail, and of a large one so much
# that a start does not take longer every day.
_CHECKED_BYTES: Final = 16 << 20
# The last bytes of a record, from the digits of its checksum on: no other record ends like it.
_TAIL_BYTES: Final = len('"}\n') + 64
# Nanoseconds that two changes of a directory may be apart, and have the same time. Kernels before 6.13 tell the time in
# ticks of a clock of at least 100 Hz: https://docs.kernel.org/filesystems/multigrain-ts.html
_TICK: Final = 20_000_000

_log: Final = Log("fapilog")


def utc_now() -> datetime:
    """Return the time that decides which day's file is written to."""
    return datetime.now(UTC)


class _End(msgspec.Struct, frozen=True):
    """
    The end of the trail, as far as this process knows.

    Replaced as a whole, so that a `KeyboardInterrupt` can't leave the size of a later record beside the head of an
    earlier one.
    """

    # The file that is written to, its size, and its last bytes.
    name: str
    size: int
    tail: bytes
    directory: tuple[int, int, int]
    # The head in two fields: as one made for each record, it would add three percent to an append.
    sequence_number: int
    checksum: str | None
    # While the file is empty: the one with the newest record, and the offset behind that record.
    older: tuple[str, int] | None

    @property
    def head(self) -> ChainHead:
        return ChainHead(self.sequence_number, self.checksum)

    @property
    def record(self) -> tuple[str, int]:
        return self.older or (self.name, self.size)


class TrailWriter:
    """
    Appends records to the files of one trail.

    All methods block, and may be called by any thread of any process. Writers exclude each other with a lock on the
    directory itself, so there is no lock file that could be deleted, and a process that dies gives the lock up.

    Args:
        directory: Where the files are; absolute. Made when the first record is stored.
        durable: Whether `append` returns only after the records are on the disk.
        now: Tells the time.
    """

    def __init__(self, directory: Path, *, durable: bool, now: Callable[[], datetime] = utc_now) -> None:
        self._directory = directory
        self._path = os.fspath(directory)
        self._durable = durable
        self._now = now
        self._day = 0
        self._day_name = ""
        # The lock on the directory keeps processes apart, and the mutex the threads of a process: to the kernel they
        # are one holder, since they share the open directory.
        self._mutex = threading.Lock()
        self._lock_fd: int | None = None
        self._fd: int | None = None
        self._end: _End | None = None
        # When the directory was found as it is, and whether its files were listed so much later that each change since
        # then has another time.
        self._seen = 0
        self._is_settled = False

    def append(self, bodies: list[bytes]) -> list[Seal]:
        """
        Store a record for each of *bodies* and return their seals.

        Raises:
            AuditStorageError: No record is stored. The next append continues the chain where it was.
        """
        with self._mutex:
            try:
                if self._lock_fd is None:
                    make_directory(self._directory)
                    self._lock_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
                lock_fd = self._lock_fd
                try:
                    fcntl.flock(lock_fd, fcntl.LOCK_EX)
                    if not self._is_up_to_date():
                        self._catch_up()
                    self._begin_day()
                    return self._write(bodies)
                finally:
                    self._unlock(lock_fd)
            except ChainError as damage:
                self._release()
                raise AuditStorageError(f"{self._directory}: {damage}; nothing is appended") from damage
            except OSError as error:
                self._release()
                raise cannot("append to", self._directory, error) from error

    def append_at_once(self, body: bytes) -> Seal | None:
        """
        Store a record for *body* if that takes nothing but a write to the operating system, else return None.

        Raises:
            AuditStorageError: The record is not stored.
        """
        mutex = self._mutex
        taken: list[bool] = []
        try:
            # One call into C takes the mutex and notes it: `KeyboardInterrupt` can't come between the two, and leave
            # the mutex taken for ever.
            taken.extend(map(mutex.acquire, (False,)))
            return self._append_at_once(body) if taken[0] else None
        finally:
            if True in taken:
                mutex.release()

    def close(self) -> None:
        """Close the files and forget where the trail ends; the next append looks again."""
        with self._mutex:
            self._release()
            self._end = None

    def forget(self) -> None:
        """
        Become as new, in a forked child, whose parent may hold the mutex and the lock.

        The lock belongs to the open directory, which parent and child have in common: closed without being unlocked,
        it stays the parent's.
        """
        self._mutex = threading.Lock()
        self._release()
        self._end = None

    def __del__(self) -> None:
        self._release()

    # The mutex is held by the callers of the methods below, and from `_is_up_to_date` on the lock on the directory too.

    def _append_at_once(self, body: bytes) -> Seal | None:
        lock_fd = self._lock_fd
        if lock_fd is None or self._end is None or self._today() > self._end.name:
            return None
        try:
            # Not a context manager, which would take a tenth of the time of an append.
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._write([body])[0] if self._is_up_to_date() else None
            finally:
                self._unlock(lock_fd)
        except BlockingIOError:
            return None
        except OSError as error:
            self._release()
            raise cannot("append to", self._directory, error) from error

    def _is_up_to_date(self) -> bool:
        """Return whether, since the last look, nobody appended, cut the file, or made, moved or removed one."""
        fd, end = self._fd, self._end
        if fd is None or end is None:
            return False
        # Its bytes, and not its size alone, for a file that was cut may have been filled up again; and one byte more,
        # which is there if the file has grown.
        if os.pread(fd, len(end.tail) + 1, end.size - len(end.tail)) != end.tail:
            return False
        if identity(self._path) != end.directory:
            return False
        if self._is_settled:
            return True
        is_newest = self._files(end.directory)[-1:] == [end.name] and is_named(f"{self._path}/{end.name}", fd)
        self._is_settled &= is_newest
        return is_newest

    def _files(self, directory: tuple[int, int, int]) -> list[str]:
        """Return the names of the trail's files, or the last alone while *directory* is as it was when listed."""
        known, now = self._end, time.monotonic_ns()
        if known is None or known.directory != directory:
            self._seen, self._is_settled = now, False
        elif self._is_settled and known.older is None:
            # Years of days take longer to list than a record to write.
            return [known.name]
        else:
            self._is_settled = now - self._seen > _TICK
        return names(self._directory)

    def _catch_up(self) -> None:
        """Check the records appended since the last look, or at first the trail's end, and open its last file."""
        self._close_file()
        assert self._lock_fd is not None  # noqa: S101 - opened by the callers
        if not os.path.samestat(os.stat(self._directory), os.fstat(self._lock_fd)):
            raise OSError(errno.ESTALE, "the directory was replaced by another")
        known, directory = self._end, identity(self._path)
        files = self._files(directory)
        first, offset, head = _where_to_check(self._directory, known, files)
        size, record = 0, ("", 0) if known is None else known.record
        for index in range(first, len(files)):
            name, later = files[index], files[index + 1 :]
            fd = self._fd = open_file(self._directory, name, os.O_RDWR | os.O_APPEND)
            if known is not None and (name, offset) == known.record:
                _check_newest(fd, known)
            lines = Lines(fd, name)
            head, size, rest = lines.follow(offset, head)
            if rest:
                if any(os.stat(self._directory / each).st_size for each in later):
                    raise lines.torn_in_the_middle(size, head)
                if last := lines.follow_rest(size, head, rest):
                    write_all(fd, b"\n")
                    head, size = last, size + len(rest) + 1
                else:
                    _set_aside(self._directory, fd, name, size, rest)
                sync(fd)
            if size:
                record = name, size
            if later:
                self._close_file()
            offset = 0
        name = files[-1] if files else ""
        if name and (known is None or known.name != name):
            # The process that made the file may have died before it synced the directory.
            sync_directory(self._directory)
        self._end = _end_of(directory, name, size, head, record)

    def _begin_day(self) -> None:
        """Begin today's file if the newest is older; an older file is never written to, whatever the clock does."""
        end, today = self._end, self._today()
        if end is None or today <= end.name:
            return
        if self._fd is not None:
            # Also if nothing else is durable: a power cut must not take the end of one file and leave the next.
            sync(self._fd)
        self._close_file()
        try:
            # It is made here, and by nobody else: it is a regular file, whatever has that name.
            self._fd = os.open(self._directory / today, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            # Another process was faster, within one tick of the clock that tells when the directory changed.
            self._is_settled = False
            self._catch_up()
            return
        sync_directory(self._directory)
        self._seen, self._is_settled = time.monotonic_ns(), False
        self._end = _end_of(identity(self._path), today, 0, end.head, end.record)

    def _write(self, bodies: list[bytes]) -> list[Seal]:
        fd, end = self._fd, self._end
        assert fd is not None  # noqa: S101 - opened by the callers
        assert end is not None  # noqa: S101
        sequence_number, checksum = end.sequence_number, end.checksum
        lines: list[bytes] = []
        seals: list[Seal] = []
        for body in bodies:
            line, seal = chain.seal(body, sequence_number + 1, checksum)
            sequence_number, _, checksum = seal
            lines.append(line)
            seals.append(seal)
        data = b"".join(lines)
        try:
            write_all(fd, data)
            if self._durable:
                sync(fd)
        except OSError as error:
            # The part that was written must not be taken for stored. That goes for a failed sync too: the pages count
            # as clean after it, and only writing them anew makes them dirty again.
            # https://wiki.postgresql.org/wiki/Fsync_Errors
            try:
                os.ftruncate(fd, end.size)
            except OSError as second:
                both = f"{error.strerror}; whether it is stored all the same shows later, for taking it back failed too"
                raise OSError(second.errno, both) from error
            raise
        size, tail = end.size + len(data), data[-_TAIL_BYTES:]
        self._end = _End(end.name, size, tail, end.directory, sequence_number, checksum, None)
        return seals

    def _today(self) -> str:
        """Return the name of today's file; made once a day, since `strftime` takes as long as writing a record."""
        day = self._now().toordinal()
        if day != self._day:
            self._day = day
            self._day_name = file_of_day(day)
        return self._day_name

    def _unlock(self, lock_fd: int) -> None:
        """Give up the lock, whatever fails: that says nothing of the records, and nobody must wait for ever."""
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_UN)
        except OSError:
            # The kernel gives it up when the directory is closed; the next append opens it again.
            self._release()

    def _close_file(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            close(fd)

    def _release(self) -> None:
        self._close_file()
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            close(fd)


def _tail(head: ChainHead) -> bytes:
    """Return the last bytes of the record that is the newest of *head*."""
    return f'{head.checksum}"}}\n'.encode()


def _end_of(directory: tuple[int, int, int], name: str, size: int, head: ChainHead, record: tuple[str, int]) -> _End:
    tail, older = (_tail(head), None) if size else (b"", record)
    return _End(name, size, tail, directory, *head, older)


def _where_to_check(directory: Path, known: _End | None, files: list[str]) -> tuple[int, int, ChainHead]:
    """Return the index of the file to check first, the offset in it, and the head of the chain up to there."""
    if known is None or not known.sequence_number:
        return start_of_end(directory, files, _CHECKED_BYTES)
    name, behind = known.record
    if name not in files:
        raise ChainError(ChainStatus.GAP, f"{name} is gone; it held records up to {known.sequence_number}")
    index = files.index(name)
    sizes = [os.stat(f"{directory}/{each}").st_size for each in files[index:]]
    if sizes[0] < behind:
        message = f"{name} was cut: it has {sizes[0]} bytes, and {behind} were stored"
        raise ChainError(ChainStatus.GAP, message)
    start = index, behind, known.head
    if sum(sizes) - behind <= _CHECKED_BYTES:
        return start
    with reading(directory, name) as fd:
        _check_newest(fd, known)
    # Not from an earlier record than the newest that is known, whatever the records say.
    return max(start_of_end(directory, files, _CHECKED_BYTES), start, key=lambda each: each[:2])


def _check_newest(fd: int, known: _End) -> None:
    """Raise `ChainError` if the newest record that is *known* is not where it was stored in its file."""
    name, behind = known.record
    if behind and os.pread(fd, _TAIL_BYTES, behind - _TAIL_BYTES) != _tail(known.head):
        message = f"{name} was cut or replaced: record {known.sequence_number} is not where it was stored"
        raise ChainError(ChainStatus.BROKEN_LINK, message)


def _set_aside(directory: Path, fd: int, name: str, offset: int, rest: bytes) -> None:
    """Move *rest*, which a crash left at *offset* of the file *name*, into a file of its own."""
    # Named by its content: after a crash in here, the next attempt writes the same file again.
    aside = f"{name}.torn-{offset}-{sha256(rest).hexdigest()[:16]}"
    with closing(open_file(directory, aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)) as aside_fd:
        write_all(aside_fd, rest)
        os.fsync(aside_fd)
    sync_directory(directory)
    os.ftruncate(fd, offset)
    _log.warning("an incomplete record of %d bytes in %s was set aside in %s", len(rest), name, aside)
