"""Group commit: callers that come while a commit runs share the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from .background import in_own_task, in_thread

__all__ = ["GroupCommit"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Place(Generic[Item, Result]):
    """One caller's place in a commit."""

    __slots__ = ("error", "item", "results", "woken")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.results: list[Result] = []
        self.error: Exception | None = None
        self.woken = anyio.Event()


class GroupCommit(Generic[Item, Result]):
    """
    Commits items in a worker thread, one batch at a time.

    There is no background task and no queue but the callers themselves. One of them leads: it commits the items of all
    that wait, wakes them, and makes the first that came meanwhile the next leader.

    Args:
        commit: Called in a worker thread with a batch; returns the result of each item, in order, or raises for all.
        interrupted: Raised to the callers whose commit was interrupted: their items may be committed or not.
    """

    def __init__(self, commit: Callable[[list[Item]], list[Result]], *, interrupted: Exception) -> None:
        self._interrupted = interrupted
        self._commit = commit
        self._waiting: dict[_Place[Item, Result], None] = {}
        self._leader: _Place[Item, Result] | None = None

    @property
    def busy(self) -> bool:
        """Whether a commit runs or anyone waits for one."""
        return self._leader is not None

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
        if self._leader is None:
            self._leader = place
        try:
            if self._leader is not place:
                await place.woken.wait()
            if self._leader is place:
                await in_own_task(self._lead)
        finally:
            self._waiting.pop(place, None)
            if self._leader is place:
                self._leader = next(iter(self._waiting), None)
                if self._leader is not None:
                    self._leader.woken.set()
        if place.error is not None:
            # A new one for each caller: an exception collects the traceback of every place that raises it.
            raise type(place.error)(*place.error.args) from place.error
        return place.results[0]

    async def _lead(self) -> None:
        batch = list(self._waiting)
        self._waiting.clear()
        try:
            # The thread can't be stopped, and its results are other callers' too.
            with anyio.CancelScope(shield=True):
                results = await in_thread(self._commit, [place.item for place in batch])
                for place, result in zip(batch, results, strict=True):
                    place.results.append(result)
        except Exception as error:
            for place in batch:
                place.error = error
        except BaseException:
            for place in batch:
                place.error = self._interrupted
            raise
        finally:
            for place in batch:
                place.woken.set()
