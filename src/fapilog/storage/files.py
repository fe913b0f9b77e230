"""The chain in files: JSON Lines, one file for each UTC day, shared by all processes that write to the directory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

import anyio.lowlevel

from ..record import chain
from ..record.chain import AuditChainVerificationResult, Seal
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ..record.options import require_path
from ..record.privacy import without_frames
from ..tasks.fork import call_in_child
from ..tasks.groupcommit import GroupCommit
from ..tasks.loops import is_without_loop
from ..tasks.threads import in_thread
from ._directory import sync_directory, why_not_writable
from ._lines import MAX_RECORD_BYTES
from ._reader import TrailReader
from ._writer import TrailWriter, utc_now
from .protocol import EventFilter

__all__ = ["MAX_RECORD_BYTES", "FileStorage", "sync_directory", "utc_now"]

# How often a caller that appends without ever waiting lets other tasks run, and can be cancelled.
_APPENDS_PER_YIELD: Final = 32

_INTERRUPTED: Final = AuditStorageError("interrupted while storing: the event may be stored or not")


class FileStorage:
    """
    The chain in JSON Lines files: ``audit_YYYY-MM-DD.jsonl`` in one directory, for one process or many.

    Args:
        directory: Where the files are; made (mode 0700) when the first event is stored. ``~`` is the home directory. A
            local file system: the lock and the order of writes are not to be relied on over NFS.
        durability: "fsync": an event counts as stored when it is on the disk. All callers that wait share one sync.
            "write": when the operating system has it; a crash of the process loses nothing, one of the machine may
            lose the last events. The write is then made where `append` is called, which takes microseconds; a
            call that may take longer is made in a worker thread.
        now: Tells the time, which decides on the day's file.

    Raises:
        TypeError: *directory* is no path.
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
        # A daemon that changes to another directory does not take the trail with it.
        self._directory = require_path("directory", directory).absolute()
        self._reader = TrailReader(self._directory, durable=durability == "fsync")
        self._writer = TrailWriter(self._directory, durable=durability == "fsync", now=now)
        self._at_once = durability == "write"
        self._commits = GroupCommit(self._writer.append, interrupted=_INTERRUPTED)
        self._appends = 0
        call_in_child(self, FileStorage._forget)

    def __repr__(self) -> str:
        return f"<FileStorage {str(self._directory)!r}>"

    @without_frames
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
            if not self._commits.busy and (seal := self._writer.append_at_once(body)):
                return seal
        return await self._commits.submit(body)

    @without_frames
    async def find(self, wanted: EventFilter, limit: int) -> list[AuditEvent]:
        """
        Return the newest *limit* events that are wanted, the newest first.

        Reads backwards from the end and stops when it has them; memory does not grow with the trail. Waits until a
        commit that is under way in any process is over.

        Raises:
            AuditStorageError: A file can't be read, or a line on the way is no record.
        """
        return await in_thread(self._reader.find, wanted, limit)

    @without_frames
    async def read(self, after: int, limit: int) -> list[AuditEvent]:
        """
        Return the oldest *limit* events whose sequence number is greater than *after*, the oldest first.

        Finds its way to them without reading the trail from the beginning; memory does not grow with the trail. Waits
        until a commit that is under way in any process is over.

        Raises:
            AuditStorageError: A file can't be read, or a line on the way is no record.
        """
        return await in_thread(self._reader.read, after, limit)

    @without_frames
    async def verify(self, progress: Callable[[int], None] | None = None) -> AuditChainVerificationResult:
        """
        Check the whole chain, reading it in blocks; may run beside writers in any process.

        Args:
            progress: Called in a worker thread, every few hundred records, with how many were checked so far.
        """
        return await in_thread(self._reader.verify, progress)

    async def trouble(self) -> str | None:
        """Return why no event can be stored, as far as the directory shows; None if nothing speaks against it."""
        return await in_thread(why_not_writable, self._directory)

    async def aclose(self) -> None:
        """Close the files; the next append opens them again."""
        await in_thread(self._writer.close)

    def _forget(self) -> None:
        self._writer.forget()
        self._commits = GroupCommit(self._writer.append, interrupted=_INTERRUPTED)
