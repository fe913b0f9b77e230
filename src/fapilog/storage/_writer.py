"""Writing to the files of a trail, one writer at a time in all threads and processes."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from ..record import chain
from ..record.chain import EMPTY, ChainError, ChainHead, ChainStatus, Seal
from ..record.errors import AuditStorageError
from ..tasks.strangers import Log
from ._directory import (
    cannot,
    closing,
    file_of_day,
    identity,
    locked,
    make_directory,
    names,
    reading,
    sync,
    sync_directory,
    write_all,
)
from ._lines import Lines

__all__ = ["TrailWriter", "utc_now"]

# How much of the trail's end a writer reads before its first append: all of a small trail, and of a large one so much
# that a start does not take longer every day.
_CHECKED_BYTES: Final = 16 << 20

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

    name: str
    size: int
    directory: tuple[int, int, int]
    # The head in two fields: as one made for each record, it would add three percent to an append.
    sequence_number: int
    checksum: str | None

    @property
    def head(self) -> ChainHead:
        return ChainHead(self.sequence_number, self.checksum)


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
                with locked(self._lock_fd, fcntl.LOCK_EX):
                    if not self._is_up_to_date():
                        self._catch_up()
                    self._begin_day()
                    return self._write(bodies)
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
            # Spelled out, as `locked` would take a tenth of the time of an append.
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self._write([body])[0] if self._is_up_to_date() else None
            finally:
                fcntl.flock(lock_fd, fcntl.LOCK_UN)
        except BlockingIOError:
            return None
        except OSError as error:
            self._release()
            raise cannot("append to", self._directory, error) from error

    def _is_up_to_date(self) -> bool:
        """Return whether, since the last look, no other writer appended and no file or directory was made or moved."""
        if self._fd is None or self._end is None:
            return False
        return os.lseek(self._fd, 0, os.SEEK_END) == self._end.size and identity(self._path) == self._end.directory

    def _catch_up(self) -> None:
        """Check the records appended since the last look, or at first the trail's end, and open its last file."""
        self._close_file()
        directory = os.stat(self._directory)
        if self._lock_fd is not None and not os.path.samestat(directory, os.fstat(self._lock_fd)):
            raise OSError(errno.ESTALE, "the directory was replaced by another")
        files = names(self._directory)
        first, offset, head = self._where_to_check(files)
        size = 0
        for index in range(first, len(files)):
            name, later = files[index], files[index + 1 :]
            fd = self._fd = os.open(self._directory / name, os.O_RDWR | os.O_APPEND)
            lines = Lines(fd, name)
            head, size, rest = lines.follow(offset, head)
            if rest:
                if any(os.stat(self._directory / each).st_size for each in later):
                    raise lines.torn_in_the_middle(size, head)
                if last := lines.follow_rest(size, head, rest):
                    write_all(fd, b"\n")
                    head, size = last, size + len(rest) + 1
                else:
                    self._set_aside(fd, name, size, rest)
                sync(fd)
            if later:
                self._close_file()
            offset = 0
        name = files[-1] if files else ""
        if name and (self._end is None or self._end.name != name):
            # The process that made the file may have died before it synced the directory.
            sync_directory(self._directory)
        self._end = _End(name, size, identity(self._path), *head)

    def _where_to_check(self, files: list[str]) -> tuple[int, int, ChainHead]:
        """Return the index of the file to check first, the offset in it, and the head of the chain up to there."""
        known = self._end
        if known is not None and known.name:
            if known.name not in files:
                message = f"{known.name} is gone; it held records up to {known.head.sequence_number}"
                raise ChainError(ChainStatus.GAP, message)
            index = files.index(known.name)
            sizes = [os.stat(self._directory / name).st_size for name in files[index:]]
            if sizes[0] < known.size:
                message = f"{known.name} was cut: it has {sizes[0]} bytes, and {known.size} were stored"
                raise ChainError(ChainStatus.GAP, message)
            if sum(sizes) - known.size <= _CHECKED_BYTES:
                return index, known.size, known.head
        return _start_of_end(self._directory, files, _CHECKED_BYTES)

    def _set_aside(self, fd: int, name: str, offset: int, rest: bytes) -> None:
        """Move *rest*, which a crash left at *offset* of a file, into a file of its own."""
        # Named by its content: after a crash in here, the next attempt writes the same file again.
        aside = f"{name}.torn-{offset}-{sha256(rest).hexdigest()[:16]}"
        with closing(os.open(self._directory / aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)) as aside_fd:
            write_all(aside_fd, rest)
            os.fsync(aside_fd)
        sync_directory(self._directory)
        os.ftruncate(fd, offset)
        _log.warning("an incomplete record of %d bytes in %s was set aside in %s", len(rest), name, aside)

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
            self._fd = os.open(self._directory / today, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            # Another process was faster, within one tick of the clock that tells when the directory changed.
            self._catch_up()
            return
        sync_directory(self._directory)
        self._end = _End(today, 0, identity(self._path), *end.head)

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
        self._end = _End(end.name, end.size + len(data), end.directory, sequence_number, checksum)
        return seals

    def _today(self) -> str:
        """Return the name of today's file; made once a day, since `strftime` takes as long as writing a record."""
        day = self._now().toordinal()
        if day != self._day:
            self._day = day
            self._day_name = file_of_day(day)
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


def _start_of_end(directory: Path, files: list[str], size: int) -> tuple[int, int, ChainHead]:
    """
    Return where to begin, to check the last *size* bytes of *files*: the index of a file, an offset in it, and a head.

    Short of the whole trail, the first record that begins there is believed. If none does, since a power cut left zeros
    for all of these bytes, more are checked.
    """
    while True:
        index, beyond = len(files), -size
        while index > 0 and beyond < 0:
            index -= 1
            beyond += os.stat(directory / files[index]).st_size
        if index == 0 and beyond <= 0:
            return 0, 0, EMPTY
        offset, begin = max(0, beyond), None
        for name in files[index:]:
            with reading(directory, name) as fd:
                lines = Lines(fd, name)
                end = lines.end()
                first = lines.first_from(offset, end)
                if begin is None:
                    begin = end if first is None else first[0]
                if first is not None:
                    return index, begin, lines.head_before(*first)
            offset = 0
        size *= 2
