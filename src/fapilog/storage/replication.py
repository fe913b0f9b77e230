"""
Edge mode: a trail in files, which never waits for a network, and its replica in a database.

    async with (
        Replication("audit", PostgresStorage(dsn, trail="clinic-7")),
        AuditTrail(storage_path="audit") as trail,
    ):
        ...
"""

from __future__ import annotations

import contextlib
import functools
import math
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

import anyio

from ..record.chain import EMPTY, ChainHead
from ..record.errors import AuditStorageError, TrailMismatchError, reason
from ..record.options import require, require_path, require_text
from ..record.privacy import Uncopied, without_frames
from ..record.values import kind_of
from ..tasks.background import Background
from ..tasks.fork import call_in_child
from ..tasks.life import Life
from ..tasks.strangers import Log, contained
from ..tasks.threads import in_thread
from ._replica import Replica, keep_replica, stored_at
from .closing import close_in_time
from .copying import TakesLines, appended, common_head, pages
from .files import FileStorage
from .protocol import AuditStorage, head_of, require_storage

__all__ = ["Replication", "ReplicationState"]

_log: Final = Log("fapilog")

# Seconds: the first pause after a failure, and the longest. Up to half is added at random, so that many machines don't
# come back at once.
_PAUSES: Final = (1.0, 60.0)


class ReplicationState(NamedTuple):
    """
    How far a replica is behind its trail.

    Attributes:
        pending: Records that it lacks.
        oldest: When the oldest of them was stored, in seconds since 1970; None if it lacks none.
    """

    pending: int = 0
    oldest: float | None = None


class Replication(Uncopied):
    """
    Copies a trail in files into another storage, byte for byte, as long as it is entered.

    The service stores in its files and never waits for the target. Every *interval* the new records are appended to
    *target*, in transactions of up to 500. The target takes a record in its place, once, or refuses it; after an
    interruption the head of the target says where to continue. Both chains have the same bytes and the same heads, and
    verify independently.

    Every machine needs a trail of its own in the database. One trail for several machines can't be a copy: a record
    contains the checksum of the record before it, so merged records have to be sealed again, and the heads that a
    machine has published would match no record of the database.

    A target that is away is tried again after a second, then less and less often, about once a minute in the end.
    Memory does not grow: the records are in the files. If a record waits for longer than *lag_limit*, every
    `AuditTrail` that writes to the files opens an incident, whichever process replicates, or none. If the target has
    other records than the files, or the files are damaged, the incident is opened at the next event, and nothing is
    changed. Retention keeps the days that are not replicated, and all days while that is so.

    A trail enters its own by itself: ``AuditTrail(storage_path=..., replica=...)``.

    Several processes may replicate the same directory: one of them copies the record, and the other processes find it
    there. A directory has one replica: use one target.

    Args:
        directory: The directory of the trail; ``~`` is the home directory. Only records that are on the disk are
            copied.
        target: The replica: a storage with `append_lines`, empty or with the first records of the trail.
        name: Names the replica, in logs and metrics.
        lag_limit: Seconds that a record may wait; longer is an incident. It may be infinite.
        interval: Seconds between two looks for new records.
        stop_timeout: Seconds for copying the last records when it is left. A call of the target that is under way is
            waited for, for as long as the target's own limit; its `aclose` for five seconds.

    Attributes:
        name: The name of the replica.

    Raises:
        TypeError: *target* takes no lines, or another option is not of its type.
        ValueError: A number is out of range, *name* is not printable, or *target* is the trail itself. On entering: it
            is entered already.
    """

    def __init__(
        self,
        directory: Path | str,
        target: AuditStorage,
        *,
        name: str = "replica",
        lag_limit: float = 300.0,
        interval: float = 1.0,
        stop_timeout: float = 5.0,
    ) -> None:
        if not require_text("name", name) or not name.isprintable():
            raise ValueError(f"name: expected printable text; got {name!r}")
        if not isinstance(require_storage("target", target), TakesLines):
            raise TypeError(f"target: expected a storage with append_lines; got {kind_of(target)}")
        self.name: str = name
        # Reads synced records only, whatever the durability of the service: after a power cut the replica must not have
        # more records than the files.
        self._source = FileStorage(require_path("directory", directory))
        if isinstance(target, FileStorage) and target.directory == self._source.directory:
            raise ValueError("target: expected another directory than that of the trail")
        self._target = target
        # The text of another class may contain a password.
        is_ours = type(target).__module__.startswith("fapilog.")
        self._place = str(target) if is_ours else type(target).__qualname__
        # JSON has no infinity.
        self._lag_limit = None if require("lag_limit", lag_limit, above=0) == math.inf else float(lag_limit)
        self._interval = float(require("interval", interval, above=0, finite=True))
        self._stop_timeout = require("stop_timeout", stop_timeout, at_least=0)
        self._background = Background()
        self._life: Life | None = None
        # The head of the target, None while it is unknown; and the last one that was known.
        self._head: ChainHead | None = None
        self._mark = EMPTY
        self._state = ReplicationState()
        self._problem: str | None = None
        call_in_child(self, Replication._forget)

    def __repr__(self) -> str:
        return f"<Replication {self.name!r} of {self._source!r} to {self._place}>"

    @property
    def state(self) -> ReplicationState:
        """How far the replica was behind at the last look; a new object after every look."""
        return self._state

    @property
    def was_entered(self) -> bool:
        """Whether this process has entered it, and perhaps left it; not if the event loop was closed around it."""
        return self._life is not None and not self._life.is_lost

    @property
    def problem(self) -> str | None:
        """Why nothing can be copied, in words; None if nothing is known to be wrong."""
        return self._problem

    async def __aenter__(self) -> Self:
        if self._life is not None and not self._life.is_over:
            raise ValueError(f"replication {self.name}: expected one that is not entered; got one that is")
        self._life = Life(self._running(), owner=self)
        await self._life.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._life is not None  # noqa: S101 - entered
        await self._life.leave()

    @without_frames
    async def catch_up(self) -> ChainHead:
        """
        Copy all records that the target lacks, and return the head that both have then.

        A caller that is cancelled, and a process that dies, leave whole transactions; the next call resumes.

        Raises:
            TrailMismatchError: The target has other records than the trail, or one of the two is damaged.
            AuditStorageError: One of the two can't be read or written.
        """
        try:
            with contained():
                return await self._caught_up()
        except Exception as error:
            # For other processes: services have an incident, and retention keeps the records that may be lacking.
            await self._keep(None, problem=reason(error), is_stuck=isinstance(error, TrailMismatchError))
            raise

    async def _caught_up(self) -> ChainHead:
        # Unknown until all is copied: where a call fails, its records may be stored.
        head, self._head = self._head, None
        if head is None:
            head = await self._head_of_target()
        while True:
            try:
                head = await self._copied(head)
            except TrailMismatchError:
                raise
            except AuditStorageError:
                found = await self._head_of_target()
                if found.sequence_number <= head.sequence_number:
                    raise
                # Another task or process has copied these records.
                head = found
            else:
                self._head, self._state = head, ReplicationState()
                return head

    async def _head_of_target(self) -> ChainHead:
        head = await common_head(self._source, self._target)
        await self._keep(head)
        return head

    async def _copied(self, head: ChainHead) -> ChainHead:
        """Copy the records behind *head*, with which the target ends, and return its new head."""
        async with contextlib.aclosing(pages(self._source, head.sequence_number)) as found:
            was_told = False
            async for lines in found:
                if not was_told:
                    # Before anything is appended: the target may take long, or hang, and what it lacks must be known.
                    await self._tell(head)
                    was_told = True
                head = await appended(self._source, cast("TakesLines", self._target), head, lines)
                await self._tell(head)
        return head

    async def _tell(self, head: ChainHead) -> None:
        """Let other processes, and the gauges, know up to where the trail is replicated."""
        await self._keep(head)
        await self._count()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        life = self._life
        assert life is not None  # noqa: S101 - entered by this life
        try:
            async with self._background.open():
                self._background.start_soon(self._run)
                yield
            # The last records of the service. A target that is away is not waited for.
            if self._problem is None:
                await life.within(self._stop_timeout, self._try)
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await self._source.aclose()
                finally:
                    await close_in_time(self._target)

    async def _run(self) -> None:
        pause, due = 0.0, anyio.current_time()
        while True:
            if anyio.current_time() >= due:
                pause = 0.0 if await self._try() else min(max(2 * pause, _PAUSES[0]), _PAUSES[1])
                due = anyio.current_time() + pause * random.uniform(1, 1.5)  # noqa: S311  no secret
            else:
                with contextlib.suppress(AuditStorageError):
                    await self._count()
            await anyio.sleep(self._interval)

    async def _try(self) -> bool:
        """Catch up, and return whether that was possible; log if not."""
        try:
            await self.catch_up()
        except Exception as error:
            problem = reason(error)
            with contextlib.suppress(AuditStorageError):
                await self._count()
            if problem != self._problem:
                _log.error("the replication %s can't continue: %s", self.name, problem)
            self._problem = problem
            return False
        if self._problem is not None:
            _log.warning("the replication %s continues", self.name)
            self._problem = None
        return True

    async def _count(self) -> None:
        """Look how far the replica is behind, as far as this process knows."""
        mark = self._mark.sequence_number
        first = await self._source.read_lines(mark, 1)
        newest = (await head_of(self._source)).sequence_number if first else mark
        at = (stored_at(first[0]) or datetime.now(UTC)).timestamp() if first else None
        self._state = ReplicationState(max(0, newest - mark), at)

    async def _keep(self, head: ChainHead | None, *, problem: str | None = None, is_stuck: bool = False) -> None:
        """Save up to where the trail is replicated, for other processes; None if that is not known. Never raises."""
        head, is_known = head or self._mark, head is not None
        replica = Replica(
            target=self._place,
            sequence_number=head.sequence_number,
            checksum=head.checksum,
            lag_limit=self._lag_limit,
            problem=problem,
            is_stuck=is_stuck,
        )
        try:
            replica = await in_thread(
                functools.partial(keep_replica, self._source.directory, replica, is_known=is_known)
            )
        except AuditStorageError as error:
            # Copying continues. The file then names an older record: retention keeps more days than it has to.
            _log.error("the replication %s can't say how far it is: %s", self.name, error)
        self._mark = replica.head

    def _forget(self) -> None:
        # In a forked child: the tasks are the parent's.
        self._background.forget()
        self._life = self._head = None
