"""Group commit: callers that come while a commit runs share the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel
from anyio import to_thread

from .background import in_own_task
from .errors import AuditStorageError

__all__ = ["GroupCommit"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Place(Generic[Item, Result]):
    """One caller's place in a commit."""

    __slots__ = ("error", "item", "results")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.results: list[Result] = []
        self.error: Exception | None = None


class GroupCommit(Generic[Item, Result]):
    """
    Commits items in a worker thread, one batch at a time.

    There is no background task and no queue but the callers themselves: whoever finds no commit running runs the next
    one, for all that wait.

    Args:
        commit: Called in a worker thread with a batch; returns the result of each item, in order, or raises for all.
    """

    def __init__(self, commit: Callable[[list[Item]], list[Result]]) -> None:
        self._commit = commit
        self._waiting: dict[_Place[Item, Result], None] = {}
        self._finished: anyio.Event | None = None

    @property
    def busy(self) -> bool:
        """Whether a commit runs or anyone waits for one."""
        return self._finished is not None or bool(self._waiting)

    async def submit(self, item: Item) -> Result:
        """
        Return the result of *item* when it is committed.

        A caller that is cancelled while it waits takes its item back; once the commit has begun, the item may be
        committed all the same.

        Raises:
            Exception: What the commit raised.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        place: _Place[Item, Result] = _Place(item)
        self._waiting[place] = None
        try:
            while not place.results:
                if place.error is not None:
                    # A new one for each caller: an exception collects the traceback of each place that raises it.
                    raise type(place.error)(*place.error.args) from place.error
                if self._finished is None:
                    await self._run()
                else:
                    await self._finished.wait()
        finally:
            self._waiting.pop(place, None)
        return place.results[0]

    async def settle(self) -> None:
        """Wait until no commit runs and nobody waits for one."""
        while self._finished is not None:
            await self._finished.wait()

    async def _run(self) -> None:
        batch = list(self._waiting)
        self._waiting.clear()
        self._finished = anyio.Event()
        try:
            await in_own_task(self._run_in_thread, batch)
        finally:
            for place in batch:
                if not place.results and place.error is None:
                    place.error = AuditStorageError("interrupted while storing: the event may be stored or not")
            self._finished.set()
            self._finished = None

    async def _run_in_thread(self, batch: list[_Place[Item, Result]]) -> None:
        try:
            # The thread can't be stopped, and its results are other callers' too. The limiter is its own: the tokens of
            # the default one may all be taken by the application.
            with anyio.CancelScope(shield=True):
                results = await to_thread.run_sync(
                    self._commit, [place.item for place in batch], limiter=anyio.CapacityLimiter(1)
                )
        except Exception as error:
            for place in batch:
                place.error = error
        else:
            for place, result in zip(batch, results, strict=True):
                place.results.append(result)
