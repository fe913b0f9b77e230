"""Writing to the files of a trail, one writer at a time in all threads and processes."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from ...record import chain
from ...record.chain import EMPTY, ChainError, ChainHead, Seal
from ...record.errors import AuditStorageError
from ..copying import elsewhere
from .access import OWNER, Access, cannot, require_number
from .descriptors import close, sync, write_until_error
from .directory import identity, make_directory, open_to_append, size_of, sync_directory
from .end import TAIL_BYTES, End, Listing, Today, check_newest, utc_now, where_to_check
from .lines import Lines
from .locking import close_locked, is_locked_here, lock, lock_at_once, unlock
from .names import day_after
from .recent import Once, RecentIds
from .reserving import Reserving
from .times import Times
from .torn import Torn
from .unsynced import Unsynced

__all__ = ["Result", "TrailWriter"]

Result: TypeAlias = Seal | AuditStorageError | None
"""The result for a record: its seal; the reason why it is not stored; or None for a `Once` whose id the trail has."""


class TrailWriter:
    """
    Appends records to the files of one trail.

    All methods block, and may be called by any thread of any process. Writers are kept apart by a lock on the directory
    itself, so there is no lock file that could be deleted, and a process that dies gives the lock up.

    Args:
        directory: The directory of the files; absolute. Made when the first record is stored.
        durable: Whether `append` returns only after the records are on the disk.
        now: Returns the time.
        access: For the files and directories that are made.
    """

    def __init__(
        self, directory: Path, *, durable: bool, now: Callable[[], datetime] = utc_now, access: Access = OWNER
    ) -> None:
        self._directory = directory
        self._path = os.fspath(directory)
        self._durable = durable
        self._access = access
        self._today = Today(now)
        # The lock on the directory keeps processes apart, and the mutex the threads of a process: to the kernel they
        # are one holder, since they share the open directory.
        self._mutex: Any = threading.RLock()
        self._lock_fd: int | None = None
        self._fd: int | None = None
        self._end: End | None = None
        self._unsynced: Unsynced | None = None
        self._recent = RecentIds(directory)
        self._listing = Listing(directory)
        self.times: Times = Times(directory)  # of the records; kept up to date
        self._reserving = Reserving(directory)

    def append(self, bodies: Iterable[bytes], after: ChainHead | None = None) -> list[Result]:
        """
        Store the records *bodies*, and return their results, in order.

        Records that a reader could see are never taken back. Where the disk is full, the records that fit are stored.
        Where a sync fails, the records stay in the chain, but count as not stored: their error says that they may be.

        Args:
            bodies: Records without their seals; a `Once` is stored only if no newer record has its id. They are asked
                for when the lock is held and the files are checked, right before the write.
            after: The head that the trail must have; None for any.

        Raises:
            AuditStorageError: No record is stored. The next append continues the chain where it was.
        """
        with self._mutex:
            try:
                if self._lock_fd is None:
                    if self._end is None or not self._end.sequence_number:
                        # Else it was there, and another file system may have been mounted over it.
                        make_directory(self._directory, self._access)
                    self._lock_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
                lock_fd = self._lock_fd
                try:
                    lock(self._path, lock_fd, fcntl.LOCK_EX)
                    if self._unsynced is not None:
                        self._unsynced.store(self._directory)
                    end = self._end if self._is_up_to_date() else self._catch_up()
                    self._unsynced = None
                    if after is not None and after != (EMPTY if end is None else end.head):
                        raise elsewhere(self._directory, after)
                    # An older file is never written to, even if the clock goes back.
                    if end is None or self._today() > end.name:
                        self._begin(self._today())
                    # All callers may have left while the lock was waited for.
                    results = self._write(taken) if (taken := list(bodies)) else []
                finally:
                    self._unlock(lock_fd)
            except ChainError as damage:
                self._release()
                raise AuditStorageError(f"{self._directory}: {damage}; nothing is appended") from damage
            except OSError as error:
                self._release()
                raise cannot("append to", self._directory, error) from error
        refusals = [result for result in results if isinstance(result, AuditStorageError)]
        if refusals and len(refusals) == len(results):
            raise refusals[0]
        return list(results)

    def append_at_once(self, body: bytes) -> Seal | None:
        """
        Store a record for *body* if that takes nothing but a write, and its sync, else return None.

        Raises:
            AuditStorageError: The record is not stored.
        """
        mutex = self._mutex
        taken: list[bool] = []
        try:
            # One call into C takes the mutex and notes it: `KeyboardInterrupt` can't come between the two, and leave
            # the mutex taken for ever.
            taken.extend(map(mutex.acquire, (False,)))
            result = self._append_at_once(body) if taken[0] else None
        finally:
            if True in taken:
                mutex.release()
        if isinstance(result, AuditStorageError):
            raise result
        return result

    def refuse_nested(self) -> None:
        """Raise `AuditStorageError` in a signal handler or a destructor that interrupts a call of its thread."""
        # Asks the mutex as `threading.Condition` does; the lock may be that of a reader, or of another trail.
        if self._mutex._is_owned() or is_locked_here(self._path, but=self._lock_fd):  # noqa: SLF001
            raise AuditStorageError("not stored: called from within a call of the same thread")

    def close(self) -> None:
        """Close the files and forget where the trail ends; the next append looks again."""
        with self._mutex:
            self._release()
            self._end = None
            self._recent.forget()

    def forget(self) -> None:
        """
        Become as new, in a forked child, whose parent may hold the mutex and the lock.

        The lock belongs to the open directory, which both have in common: closed without being unlocked, it stays.
        """
        self._mutex = threading.RLock()
        self._release()
        self._end = None
        # The parent's to write again.
        self._unsynced = None
        self._recent.forget()

    def __del__(self) -> None:
        self._release()

    # The callers of the methods below hold the mutex, and from `_is_up_to_date` on the lock on the directory too.
    def _append_at_once(self, body: bytes) -> Result:
        lock_fd, end = self._lock_fd, self._end
        if lock_fd is None or end is None or self._today() > end.name:
            return None
        try:
            # Not a context manager, which would take a tenth of the time of an append.
            try:
                lock_at_once(lock_fd, fcntl.LOCK_EX)
                if not self._is_up_to_date():
                    return None
                line, seal = chain.seal(body, end.sequence_number + 1, end.checksum)
                return self._put([line], [seal])[0]
            finally:
                self._unlock(lock_fd)
        except BlockingIOError:
            return None
        except OSError as error:
            self._release()
            raise cannot("append to", self._directory, error) from error

    def _is_up_to_date(self) -> bool:
        """Return whether no process has appended, cut the file, or made, moved or removed one since the last look."""
        fd, end = self._fd, self._end
        if fd is None or end is None:
            return False
        # Its bytes, and not its size alone, for a file that was cut may have been filled up again; and one byte more,
        # which is there if the file has grown.
        if os.pread(fd, len(end.tail) + 1, end.size - len(end.tail)) != end.tail:
            return False
        if identity(self._path) != end.directory:
            return False
        return self._listing.ends_with(end, fd)

    def _catch_up(self) -> End | None:
        try:
            return self._look(behind_seal=False)
        except ChainError:
            return self._look(behind_seal=True)

    def _look(self, *, behind_seal: bool) -> End | None:
        """Check the records appended since the last look, or at first the trail's end, and open its last file."""
        self._close_file()
        assert self._lock_fd is not None  # noqa: S101 - opened by the callers
        if not os.path.samestat(os.stat(self._directory), os.fstat(self._lock_fd)):
            raise OSError(errno.ESTALE, "the directory was replaced by another")
        known, directory = self._end, identity(self._path)
        files = self._listing.names(known, directory)
        first, offset, head = where_to_check(self._directory, known, files, behind_seal=behind_seal)
        size, record = 0, ("", 0) if known is None else known.record
        can_grow = True
        for index in range(first, len(files)):
            name, later = files[index], files[index + 1 :]
            fd, can_grow = open_to_append(self._directory, name)
            self._fd = fd
            # With another head the chain resumes there, behind damage that has taken the newest record.
            if known is not None and ((name, offset), head) == (known.record, known.head):
                check_newest(fd, known)
            head, size, rest = Lines(fd, name).follow(offset, head)
            if rest:
                is_followed = any(size_of(self._directory, each) for each in later)
                torn = Torn(self._directory, name, size, rest)
                if not (can_grow or is_followed):
                    raise OSError(errno.EINVAL, f"{name} is compressed, and ends in an incomplete record")
                head, size, can_grow = torn.mend(fd, head, self._access, is_followed=is_followed)
            if size:
                record = name, size
            if later:
                self._close_file()
            offset = 0
        name = files[-1] if files else ""
        if name and (known is None or known.name != name):
            # The process that made the file may have died before it synced the directory.
            sync_directory(self._directory)
        self._end = End.of(directory, name, size, head, record)
        if not can_grow:
            self._begin(max(self._today(), day_after(name)))
        return self._end

    def _begin(self, name: str) -> None:
        """Begin the file *name*, which is newer than all files before."""
        end = self._end
        assert end is not None  # noqa: S101 - set by the callers
        if self._fd is not None:
            # Also if nothing else is durable: a power cut must not take the end of one file and leave the next.
            sync(self._fd)
            self.times.note(self._fd, end.name, end.size, end.size, is_over=True)
        self._close_file()
        path = f"{self._path}/{name}"
        try:
            # It is made here, and only here: so it is a regular file.
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, OWNER.mode)
        except FileExistsError:
            # Another process was faster, within one tick of the clock that tells when the directory changed.
            self._listing.doubt()
            self._catch_up()
            return
        try:
            self._access.give(self._fd, self._path)
        except OSError:
            # Else the next attempt would find it, and leave it as it is.
            os.unlink(path)
            raise
        sync_directory(self._directory)
        self._listing.begin()
        self._end = End.of(identity(self._path), name, 0, end.head, end.record)

    def _write(self, bodies: list[bytes]) -> Sequence[Result]:
        fd, end = self._fd, self._end
        assert fd is not None and end is not None  # noqa: PT018, S101 - opened by the callers
        if Once not in map(type, bodies):
            return self._put(*end.sealed(bodies))
        new, places = self._recent.new_among(bodies, end.name, end.size)
        if self._durable and any(index < 0 for index, _ in places):
            # A writer that was killed may have written that record without syncing it.
            sync(fd)
        results = self._put(*end.sealed(new)) if new else []
        return [
            None if index < 0 or (not is_own and isinstance(results[index], Seal)) else results[index]
            for index, is_own in places
        ]

    def _put(self, lines: list[bytes], seals: list[Seal]) -> Sequence[Result]:
        """Write *lines*, the records that have these *seals*, and return the result of every one."""
        fd, end = self._fd, self._end
        assert fd is not None and end is not None  # noqa: PT018, S101 - opened by the callers
        lines, failure = self._reserving.fitting(fd, end.size, lines)
        data = b"".join(lines)
        try:
            written = os.write(fd, data)
        except OSError as error:
            return self._keep_whole(end, b"", seals, error, is_cut=True)
        if written < len(data):
            more, stopped_by = write_until_error(fd, data[written:])
            written, failure = written + more, stopped_by or failure
        if failure is not None:
            return self._keep_whole(end, data[:written], seals, failure, is_cut=written < len(data))
        if self._durable:
            try:
                sync(fd)
            except OSError as error:
                return self._keep_whole(end, data, seals, error, is_cut=False)
        size, (sequence_number, _, checksum) = end.size + len(data), seals[-1]
        self._end = End(end.name, size, data[-TAIL_BYTES:], end.directory, sequence_number, checksum, None)
        self.times.note(fd, end.name, end.size, size)
        return seals

    def _keep_whole(self, end: End, data: bytes, seals: list[Seal], failure: OSError, *, is_cut: bool) -> list[Result]:
        """
        Keep the records of *data* that are whole, as readers may have seen them, and take back the one that is cut.

        Args:
            end: The end of the trail before *data*.
            data: The bytes that were written.
            seals: The seals of the records.
            failure: The error of reserving room, of the write, or of the sync.
            is_cut: Whether a piece of a record may stand behind the whole ones.

        Returns:
            Per record, its seal if it is stored, or else the reason.
        """
        fd = self._fd
        assert fd is not None  # noqa: S101 - opened by the callers
        refusal = cannot("append to", self._directory, failure)
        count, whole = data.count(b"\n"), data[: data.rfind(b"\n") + 1]
        if is_cut:
            self._reserving.was_full()
            try:
                os.ftruncate(fd, end.size + len(whole))
            except OSError as error:
                words = f"{failure.strerror}; whether it is stored all the same shows later, for taking it back failed"
                refusal = cannot("append to", self._directory, OSError(error.errno, words))
        if count:
            last = seals[count - 1]
            size, tail = end.size + len(whole), whole[-TAIL_BYTES:]
            self._end = End(end.name, size, tail, end.directory, last.sequence_number, last.checksum, None)
        if count and self._durable:
            unsynced: Unsynced | None = None
            try:
                unsynced = Unsynced.of(end.name, fd, end.size, whole)
                if count == len(seals):
                    unsynced.store(self._directory)
                else:
                    sync(fd)
            except OSError as error:
                self._unsynced = unsynced
                words = (
                    f"{error.strerror}; it may be stored all the same: its record is written, and could not be synced"
                )
                refusal = cannot("append to", self._directory, OSError(error.errno, words))
                count = 0
        # The next append looks at the file anew.
        self._close_file()
        return [*seals[:count], *[refusal] * (len(seals) - count)]

    def _unlock(self, lock_fd: int) -> None:
        """Release the lock. If that fails, the records are stored all the same, and no process must wait for ever."""
        try:
            unlock(lock_fd)
        except OSError as error:
            # The kernel gives it up when the directory is closed; the next append opens it again.
            self._release()
            require_number(error)

    def _close_file(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            close(fd)

    def _release(self) -> None:
        self._close_file()
        fd, self._lock_fd = self._lock_fd, None
        if fd is not None:
            close_locked(fd)
