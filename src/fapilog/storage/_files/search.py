"""
A long search in a process of its own, so that it does not slow the writers.

All threads of an interpreter take turns. A searching thread gets its turn whenever a writing thread releases the lock,
as every write to a file does, and keeps it until a block is searched: `log_event` took 25 times as long beside it. So a
search that has read some blocks and is not done is begun anew in another process of lower priority. One processor is
left to the other processes.

The start of a process takes as long as a search of 100 MiB. So one that has answered waits for the next question for
some seconds, and a program of one thread, which has nobody to disturb, has none.

Where no process can be had (a limit, a sandbox, an application that is frozen or embeds Python), the search continues
in its thread. The answer is the same.
"""

from __future__ import annotations

import contextlib
import threading
from queue import Empty
from typing import TYPE_CHECKING, Final

from ...record.errors import AuditStorageError
from ..protocol import EventFilter
from .effort import Effort, TooLongError
from .places import Page, Place
from .reader import TrailReader

if TYPE_CHECKING:
    from .searchers import Searcher, Searchers

__all__ = ["Search"]

# The bytes that a search reads in its thread, in a millisecond or two: most searches find enough in them.
_SHORT_BYTES: Final = 2 << 20


class Search:
    """
    One search for the newest events that are wanted.

    Args:
        reader: Reads the trail.
        wanted: Which events.
        limit: How many at most.
        place: That of the page before; None for the first page.
        searchers: The processes for long searches; those of all storages by default.
    """

    def __init__(
        self,
        reader: TrailReader,
        wanted: EventFilter,
        limit: int,
        place: Place | None = None,
        searchers: Searchers | None = None,
    ) -> None:
        self._searchers = searchers
        self._reader = reader
        self._wanted = wanted
        self._limit = limit
        self._place = place
        self._short = Effort(_SHORT_BYTES)
        self._effort = Effort()
        # The process that is asked, for whoever takes it out: `stop` to kill it, or `run` to keep it.
        self._asked: list[Searcher] = []
        self._is_stopped = False

    def run(self) -> Page:
        """
        Return the result of `TrailReader.page`, or raise its exception; blocks.

        Raises:
            TooLongError: The search was stopped.
        """
        if _is_alone():
            return self._here()
        with contextlib.suppress(TooLongError):
            return self._reader.page(self._wanted, self._limit, self._place, self._short)
        self._effort.take(0)
        searchers = self._searchers or _shared()
        if not searchers.is_possible:
            return self._here()
        found = self._in_turn(searchers)
        return self._here() if found is None else found

    def stop(self) -> None:
        """Have `run` end soon; any thread may call it."""
        self._is_stopped = True
        self._short.end()
        self._effort.end()
        with contextlib.suppress(IndexError):
            self._asked.pop().kill()

    def _here(self) -> Page:
        return self._reader.page(self._wanted, self._limit, self._place, self._effort)

    def _in_turn(self, searchers: Searchers) -> Page | None:
        taken: list[None] = []
        turns = searchers.turns
        try:
            while not taken:
                try:
                    # One call into C takes the turn and notes it: no signal handler can raise between the two.
                    taken.extend(map(turns.get, (True,), (0.1,)))
                except Empty:
                    self._effort.take(0)
            found = self._there(searchers)
        finally:
            for turn in taken:
                turns.put(turn)
        return found

    def _there(self, searchers: Searchers) -> Page | None:
        """Return the findings of a process; None if none can be started, or it ends early."""
        try:
            searcher = searchers.taken()
        except OSError:
            return None
        self._asked.append(searcher)
        answer: Page | str | None = None
        try:
            if not self._is_stopped:
                answer = searcher.ask(self._reader, self._wanted, self._limit, self._place)
        finally:
            if self._is_given_back() and answer is not None:
                searchers.keep(searcher)
            else:
                searchers.end(searcher)
        if searcher.is_ours is False and not self._is_stopped:
            searchers.rule_out()
        if isinstance(answer, str):
            raise AuditStorageError(answer)
        return answer

    def _is_given_back(self) -> bool:
        """Return whether the process that is asked is out of the reach of `stop`, which has not killed it."""
        try:
            self._asked.pop()
        except IndexError:
            return False
        return True


def _shared() -> Searchers:
    # It loads `subprocess` and more, of which a service that only records has no use.
    from .searchers import SEARCHERS  # noqa: PLC0415

    return SEARCHERS


def _is_alone() -> bool:
    """Return whether this program has no other thread that the search could slow."""
    return threading.active_count() == 1
