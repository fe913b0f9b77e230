"""Group commit: callers that come while a commit runs share the next one, from any thread and any loop."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio.lowlevel

from ..record.errors import FapilogError
from .fork import call_in_child
from .loops import Loop, Waiter, is_without_loop, wake
from .threads import Latch, started
from .weakset import SharedWeakSet

if TYPE_CHECKING:
    from queue import SimpleQueue

__all__ = ["GroupCommit"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Seconds that the exit of the interpreter waits for a commit that has begun.
_PATIENCE: Final = 2.0


class _Place(Generic[Item, Result]):
    """One caller's place in a commit; *waiter* is None for a thread that commits by itself."""

    __slots__ = ("error", "has_begun", "is_left", "item", "results", "waiter")

    def __init__(self, item: Item, waiter: Waiter | None = None) -> None:
        self.item = item
        self.waiter = waiter
        self.results: list[Result] = []
        self.error: Exception | None = None
        self.has_begun = self.is_left = False

    @property
    def is_done(self) -> bool:
        return bool(self.results) or self.error is not None

    def result(self) -> Result:
        if self.error is not None:
            # A new exception per caller: an exception collects the traceback of every place that raises it.
            raise type(self.error)(*self.error.args) from self.error
        return self.results[0]


class GroupCommit(Generic[Item, Result]):
    """
    Commits items, one batch at a time, for callers in any thread and in any event loop.

    The thread that holds the lock commits for all callers that wait. Callers in an event loop wait for one thread,
    which is started when it is first needed and sleeps between the commits. Callers without a loop commit in their own
    thread. A caller that is cancelled, or whose loop or thread ends while it waits, stops no other. When the
    interpreter exits, it waits for a commit that has begun, for two seconds at most. Where no thread can be had (a
    limit on processes is reached, or the interpreter is shutting down), the callers of a loop commit in the loop's
    thread. A forked child begins with none of its parent's callers.

    Args:
        commit: Called with a batch, by one thread at a time; returns the results of the items, in order, or raises for
            all that wait. The batch is taken when the first item is asked for: until then, while a lock is waited for,
            say, callers can still join it and leave it, so that it may come to be empty. Items that it does not ask
            for, since it has enough, are the first of the next batch.
        interrupted: Raised to the callers whose commit was interrupted in another caller's thread, by any exception
            other than a `FapilogError`: their items may be committed or not.
    """

    def __init__(self, commit: Callable[[Iterable[Item]], list[Result]], *, interrupted: Exception) -> None:
        self._commit = commit
        self._interrupted = interrupted
        self._begin()
        call_in_child(self, GroupCommit._begin)
        _all.add(self)

    def _begin(self) -> None:
        # Anew in a forked child: the callers, the locks and the thread are the parent's.
        from queue import SimpleQueue  # noqa: PLC0415  asyncio and trio import it: `import fapilog` alone need not

        # Held while a commit runs. A signal handler, or a destructor, can call at any moment, also between the lock and
        # the commit: it then commits first, in the same thread.
        self._turn = threading.RLock()
        # The thread whose commit runs.
        self._committer: int | None = None
        # The callers that wait, in a dict, of which one that is cancelled leaves at once.
        self._waiting: dict[_Place[Item, Result], None] = {}
        # The callers whose turn is next, in their order, for the thread that has the lock.
        self._taken: deque[_Place[Item, Result]] = deque()
        self._is_awake = False
        # Calls for the thread to make; None ends it.
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._starting = threading.RLock()
        self._thread: threading.Thread | None = None
        # Between two commits the thread holds nothing but its queue, so that it does not keep this alive.
        weakref.finalize(self, self._calls.put, None).atexit = False

    @property
    def busy(self) -> bool:
        """Whether a commit runs or a caller waits for one."""
        return self._committer is not None or bool(self._waiting or self._taken)

    async def submit(self, item: Item) -> Result:
        """
        Return the result of *item* when it is committed.

        A caller that is cancelled while it waits takes its item back; once the commit has begun, the item may be
        committed all the same.

        Raises:
            Exception: The exception of the commit.
        """
        if is_without_loop():
            return self._submit_here(item)
        await anyio.lowlevel.checkpoint_if_cancelled()
        loop = Loop.current()
        woken = loop.make_event()
        place: _Place[Item, Result] = _Place(item, (loop, woken))
        self._waiting[place] = None
        if not self._is_awake:
            # Until the thread looks again, one call is enough for all that come.
            self._is_awake = True
            try:
                if not self._call_thread():
                    self._commit_waiting()
            except BaseException:
                # Interrupted by Ctrl-C in between: the next caller has to call the thread.
                self._is_awake = False
                self._leave(place)
                raise
        try:
            await woken.wait()
        except BaseException:
            self._leave(place)
            raise
        return place.result()

    def finish(self) -> None:
        """Wait until the thread has made the commits that it was called for, but not for long."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            done = Latch()
            self._calls.put(done.open)
            done.wait(_PATIENCE)

    def _submit_here(self, item: Item) -> Result:
        if self._committer == threading.get_ident():
            # A signal handler, or a handler of a log line of the commit itself: it would wait for its own thread.
            raise type(self._interrupted)("not committed: called from within a commit of the same thread")
        place: _Place[Item, Result] = _Place(item)
        self._waiting[place] = None
        try:
            with self._turn:
                # Unless a caller that had its turn before has committed it; with the callers that came before, if a
                # batch is not for all of them.
                while not place.is_done and (self._waiting or self._taken):
                    self._commit_batch()
        except BaseException:
            self._leave(place)
            if place.has_begun:
                # Another thread commits it: when that is over, the caller can look whether it is there.
                with self._turn:
                    pass
            raise
        return place.result()

    def _leave(self, place: _Place[Item, Result]) -> None:
        """Take back the item of a caller that is interrupted, unless its commit has begun."""
        self._waiting.pop(place, None)
        place.is_left = True

    def _call_thread(self) -> bool:
        """Ask the thread to commit for the callers; return False if there is no thread and none can be started."""
        if self._thread is None and not self._start_thread():
            return False
        self._calls.put(self._commit_waiting)
        return True

    def _start_thread(self) -> bool:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=_make_calls, args=[self._calls], name="fapilog commit", daemon=True)
                try:
                    self._thread = started(thread)
                except RuntimeError:
                    return False
        return True

    def _commit_waiting(self) -> None:
        with self._turn:
            self._commit_batch()
            while self._taken:
                self._commit_batch()

    def _commit_batch(self) -> None:
        # Before the batch is taken: a caller that comes from here on finds the thread asleep, and wakes it.
        self._is_awake = False
        if not (self._waiting or self._taken):
            return
        batch: list[_Place[Item, Result]] = []
        results: list[Result] | None = None
        error: Exception = self._interrupted
        try:
            self._committer = threading.get_ident()
            try:
                results = self._commit(self._items(batch))
            except Exception as raised:
                # Any other one has come from outside, to the thread of a caller: of a signal handler, for one.
                if not isinstance(raised, FapilogError) and threading.current_thread() is not self._thread:
                    raise
                error = raised
            self._settle(batch, results, error)
        except BaseException:
            self._settle(batch, results, error)
            raise

    def _settle(self, batch: list[_Place[Item, Result]], results: list[Result] | None, error: Exception) -> None:
        """Give the callers in *batch* their *results*, or else all that wait the *error*; once more does no harm."""
        self._committer = None
        if results is None:
            if not batch:
                self._take()
            batch += self._taken
            self._taken.clear()
        results = results or []
        for place, result in zip(batch, results, strict=False):
            place.results.append(result)
        for place in batch[len(results) :]:
            # An interruption may have left it among those that wait: where it is not to begin, or is done already.
            place.has_begun = True
            if not place.results:
                place.error = error
        wake([place.waiter for place in batch if place.waiter is not None])

    def _items(self, batch: list[_Place[Item, Result]]) -> Iterator[Item]:
        """Take the callers that wait, when the first item is asked for; move them to *batch*, and yield their items."""
        self._take()
        while self._taken:
            place = self._taken[0]
            is_next = not place.has_begun
            # In this order: a caller that leaves looks at this after it has said so.
            place.has_begun = True
            is_next &= not place.is_left
            if is_next:
                batch.append(place)
            self._taken.popleft()
            if is_next:
                yield place.item

    def _take(self) -> None:
        """Move the places of the callers that wait, in their order, behind those that are taken."""
        for place in list(self._waiting):
            # An interruption in between leaves it in both, and it is begun once.
            self._taken.append(place)
            self._waiting.pop(place, None)


def _make_calls(calls: SimpleQueue[Callable[[], object] | None]) -> None:
    while (call := calls.get()) is not None:
        # The callers of an interrupted commit get its exception.
        with contextlib.suppress(BaseException):
            call()
        del call


_all: Final[SharedWeakSet[GroupCommit[Any, Any]]] = SharedWeakSet()


def _finish_all() -> None:
    for each in _all.all():
        each.finish()


# Finalizers close the resources of a commit: the outbox its SQLite connection, which crashes the process if the thread
# is in a call of it. The function that was registered last is called first, and the first finalizer of a process
# registers them all.
weakref.finalize(_finish_all, _finish_all).atexit = False
atexit.register(_finish_all)
