"""The chain in files: JSON Lines, one file per UTC day, shared by all processes that write to the directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import anyio.lowlevel

from ..record import chain
from ..record.chain import AuditChainVerificationResult, ChainError, ChainHead, Seal
from ..record.damage import DamagedRecord
from ..record.errors import AuditStorageError, StoringInterruptedError
from ..record.events import AuditEvent
from ..record.options import require, require_path
from ..record.privacy import Uncopied, without_frames
from ..record.values import kind_of
from ..tasks.fork import call_in_child
from ..tasks.groupcommit import GroupCommit
from ..tasks.loops import is_without_loop
from ..tasks.threads import in_thread
from ._anchor import Anchor
from ._copier import Copier
from ._files.access import OWNER, Access, cannot, why_not_writable
from ._files.care import Care
from ._files.directory import make_directory, sync_directory
from ._files.effort import Effort
from ._files.end import utc_now
from ._files.places import Page, Place
from ._files.reader import TrailReader
from ._files.recent import Once
from ._files.search import Search
from ._files.verifying import verify
from ._files.writer import Result, TrailWriter
from ._replica import waits
from .copying import followed
from .protocol import EventFilter

__all__ = ["OWNER", "Access", "FileStorage", "make_directory", "sync_directory", "utc_now"]

# After so many appends, a caller that never waits lets other tasks run, and can be cancelled.
_APPENDS_PER_YIELD: Final = 32

_NO_GROUP: Final = 2**32 - 1
# Modes with their 0o forgotten.
_DECIMALS: Final = (600, 640, 644, 660, 664)
_INTERRUPTED: Final = StoringInterruptedError()


class FileStorage(Uncopied):
    """
    The chain in JSON Lines files: ``audit_YYYY-MM-DD.jsonl`` in one directory, for one process or many.

    Args:
        directory: The directory of the files; made (mode 0700) when the first event is stored. ``~`` is the home
            directory. A local file system: the lock and the order of writes are not to be relied on over NFS.
        durability: "fsync": an event counts as stored when it is on the disk. All callers that wait share one sync.
            "write": when the operating system has it; a crash of the process loses nothing, one of the machine may
            lose the last events. The write is then made where `append` is called, which takes microseconds; a
            call that may take longer is made in a worker thread.
        now: Returns the time, which decides on the day's file.
        mode: The mode of the files that are made from now on. ``0o640`` lets a group read them, such as that of a log
            shipper or of auditors; a directory that is made can then be entered by the group (0750). Files and
            directories that are there already keep theirs.
        group: The group of these files and directories, by its name or number; None for the group that the system gives
            them. The process must be a member of it, or root.
        min_free: The free space that the file system must have, in bytes, or below 1 as a share of its size; less is an
            incident of the trail. 0 asks for nothing. By default 75 MiB, or a tenth where the file system has less than
            750 MiB.

    Attributes:
        directory: The directory of the files; absolute.
        access: The mode and the group of files and directories that are made from now on.

    Raises:
        TypeError: *directory* is no path, *mode* is no int, *group* is neither a name nor a number, or *min_free* is no
            number.
        ValueError: A *directory* that none can be called, a negative *min_free*, an unknown *durability* or *group*, or
            a *mode* under which the owner may not read and write, or other users may write, or any user may execute.
    """

    #: Without an event loop every method blocks the calling thread, and waits for nothing else.
    runs_anywhere = True

    def __init__(
        self,
        directory: Path | str,
        *,
        durability: Literal["fsync", "write"] = "fsync",
        now: Callable[[], datetime] = utc_now,
        mode: int = OWNER.mode,
        group: str | int | None = None,
        min_free: float | None = None,
    ) -> None:
        if durability not in ("fsync", "write"):
            raise ValueError(f"durability: expected 'fsync' or 'write'; got {durability!r}")
        self.access: Access = Access(_checked_mode(mode), None if group is None else _number_of(group))
        # A daemon that changes to another directory does not take the trail with it.
        self.directory: Path = require_path("directory", directory).absolute()
        is_durable = durability == "fsync"
        self._writer = TrailWriter(self.directory, durable=is_durable, now=now, access=self.access)
        self._reader = TrailReader(self.directory, durable=is_durable, times=self._writer.times)
        least = None if min_free is None else require("min_free", min_free, at_least=0)
        self._care = Care(self.directory, min_free=least, now=now)
        self._now = now
        self._at_once = durability == "write"
        self._commits: GroupCommit[bytes, Result] = GroupCommit(self._writer.append, interrupted=_INTERRUPTED)
        self._appends = 0
        self._copier = Copier(self.directory, self.access)
        call_in_child(self, FileStorage._forget)

    def __repr__(self) -> str:
        return f"<FileStorage {str(self.directory)!r}>"

    @without_frames
    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        """
        Store *event* as the next of the chain.

        A caller that is cancelled while it waits for its turn, or for the lock on the trail, has stored nothing; once
        its write has begun, it may have.

        Args:
            event: The event.
            once: Store nothing if the trail has a record of this event's id, from whichever process: exactly, among the
                newest 65,536 records, as far as these are among the newest 16 MiB. An older one is not found. The first
                such call of a process reads these.

        Returns:
            The event's place in the chain; None if *once* found its id, in a record that is stored as an event is.

        Raises:
            AuditStorageError: It is not stored: the directory can't be written to, the trail is damaged, another
                process holds its lock for ten seconds, or the record would be longer than `MAX_RECORD_BYTES`. Where the
                record is written and could not be synced, or a part of it could not be taken back, the message says
                that it may be stored all the same. The same id given again, with *once*, is stored once in any case.
        """
        return await self.append_record(chain.body_to_store(event), once=once)

    async def append_record(self, record: bytes, *, once: bool) -> Seal | None:
        """
        Store an event by its *record*, as `append` does; the caller leaves the frames out of what is raised.

        Args:
            record: As `record.chain.body_to_store` has it.
            once: As of `append`.

        Returns and raises as `append`.
        """
        waits_here = is_without_loop()
        self._writer.refuse_nested()
        if not once:
            if self._appends >= _APPENDS_PER_YIELD:
                self._appends = 0
                if not waits_here:
                    await anyio.lowlevel.checkpoint()
            # It never waits for another caller, and with durability "fsync" only a thread without a loop waits for the
            # disk.
            if (self._at_once or waits_here) and not self._commits.busy:
                self._appends += 1
                seal = self._writer.append_at_once(record)
                if seal is not None:
                    return seal
        result = await self._commits.submit(Once(record) if once else record)
        if isinstance(result, AuditStorageError):
            # A new one per caller, as an exception collects the traceback of every place that raises it.
            raise AuditStorageError(*result.args) from result
        return result

    @without_frames
    async def append_lines(
        self, after: ChainHead, lines: Sequence[bytes], *, removed: Anchor | None = None
    ) -> ChainHead:
        """
        Append records of another storage as they are, byte for byte, as `read_lines` returns them.

        A record goes into the file of its own day, or into the newest if that is newer. Returning means that they are
        on the disk. Where it is interrupted, the first of them may be stored, in order; `head_of` tells up to which.

        Args:
            after: The head that the first of them follows, and with which this trail ends.
            lines: The records, without their newlines.
            removed: The end of the removed records, for the first ones of an empty trail that begins behind these; it
                becomes the anchor of the trail.

        Returns:
            The head of the trail.

        Raises:
            AuditStorageError: The records do not follow *after*, the trail ends with another head, or it can't be
                written to.
        """
        followed(self.directory, after, lines)
        return await in_thread(self._copier.append, after, lines, removed)

    @without_frames
    async def find(self, wanted: EventFilter, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """
        Return the newest *limit* events that are wanted, the newest first, and the holes between them.

        Reads backwards from the end and stops when it has them; memory does not grow with the trail. Waits until a
        commit that is under way in any process is over. A long search continues in a process of its own, if that can be
        had, and ends soon if the caller is cancelled.

        Raises:
            AuditStorageError: A file can't be read.
        """
        return (await self.page_from(None, wanted, limit)).items

    @without_frames
    async def page_from(
        self, place: Place | None, wanted: EventFilter, limit: int, *, oldest_first: bool = False
    ) -> Page:
        """
        Return the events that `find` finds, or with *oldest_first* those that `read` reads, from a place on.

        Where records were moved to another place of the files, they are returned in the order in which they stand.

        Args:
            place: That of the page before; None for the first page.
            wanted: Which events; with *oldest_first* only the bounds on their numbers count.
            limit: How many at most; a record that stands there twice is returned once.
            oldest_first: Whether to begin with the oldest.

        Returns:
            The events with the holes between them, and the place of the next page; None if there is none.

        Raises:
            AuditStorageError: A file can't be read.
        """
        if not oldest_first:
            search = Search(self._reader, wanted, limit, place)
            return await in_thread(search.run, stop=search.stop)
        effort = Effort()
        return await in_thread(self._reader.oldest_page, wanted, limit, place, effort, stop=effort.end)

    @without_frames
    async def read(self, after: int, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, and the holes between them.

        Finds its way to them without reading the trail from the beginning; memory does not grow with the trail. Waits
        until a commit that is under way in any process is over.

        Raises:
            AuditStorageError: A file can't be read.
        """
        wanted = EventFilter().numbered(after=after, before=None)
        return (await self.page_from(None, wanted, limit, oldest_first=True)).items

    @without_frames
    async def read_lines(self, after: int, limit: int) -> list[bytes]:
        """
        Return the oldest *limit* records whose sequence number is greater than *after*, as they are stored.

        Costs and waits as `read` does.

        Raises:
            AuditStorageError: A file can't be read.
        """
        effort = Effort()
        return await in_thread(self._reader.read_lines, after, limit, effort, stop=effort.end)

    @without_frames
    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """
        Check the whole chain, reading it in blocks; may run beside writers in any process, and ends soon if cancelled.

        Args:
            progress: Called in a worker thread, every few hundred records, with how many were checked so far.
        """
        effort = Effort()
        return await in_thread(verify, self.directory, progress, effort, stop=effort.end)

    async def trouble(self) -> str | None:
        """Return why no event can be stored, as far as the directory shows; None if nothing speaks against it."""
        return await in_thread(why_not_writable, self.directory)

    @without_frames
    async def concerns(self) -> dict[str, str]:
        """
        Return the troubles to mend while events are still stored, in words with advice.

        Returns:
            Under "capacity", that less is free than *min_free*; under "files", that a file is gone, was cut, or was
            packed by another program; under "clock", that a file is of a day to come, or was written in the future;
            under "replica", that a record waits for too long to be replicated, or can't be.

        Raises:
            AuditStorageError: The directory can't be read.
        """
        try:
            return await in_thread(self._concerns)
        except ChainError as damage:
            raise AuditStorageError(f"cannot look after {self.directory}: {damage}") from damage
        except OSError as error:
            raise cannot("look after", self.directory, error) from error

    async def aclose(self) -> None:
        """Close the files; the next append opens them again."""
        await in_thread(self._writer.close)
        await in_thread(self._copier.close)

    def _concerns(self) -> dict[str, str]:
        found = self._care.concerns()
        words = waits(self.directory, self._reader, self._now())
        return found if words is None else {**found, "replica": words}

    def _forget(self) -> None:
        self._writer.forget()
        self._copier.forget()


def _checked_mode(mode: int) -> int:
    if not isinstance(mode, int):
        raise TypeError(f"mode: expected an int such as 0o640; got {kind_of(mode)}")
    if mode & OWNER.mode != OWNER.mode or mode & ~0o664:
        words = "expected one that lets the owner read and write, no other user write, and no one execute"
        meant = f"; did you mean 0o{mode}?" if mode in _DECIMALS else ""
        raise ValueError(f"mode: {words}; got {mode:#o}{meant}")
    return mode


def _number_of(group: str | int) -> int:
    if isinstance(group, int):
        # It need not have a name here: in a container few groups have one. The last number stands for none.
        if not 0 <= group < _NO_GROUP:
            raise ValueError(f"group: expected a name, or a number from 0 to {_NO_GROUP - 1}; got {group!r}")
        return group
    import grp  # noqa: PLC0415  most trails leave the group to the system

    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):  # ValueError: no name can have such a character
        raise ValueError(f"group: expected a group of this system; got {group!r}") from None
    except TypeError:
        raise TypeError(f"group: expected a name or a number; got {kind_of(group)}") from None
