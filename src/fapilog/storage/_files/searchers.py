"""The processes that search for this process, from their start to their end; `searchprogram` is their program."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import pickle
import subprocess
import sys
import threading
from queue import SimpleQueue
from typing import IO, Final, cast

from ...tasks.fork import call_in_child
from ..protocol import EventFilter
from . import searchprogram
from .places import Item, Page, Place
from .reader import TrailReader

__all__ = ["SEARCHERS", "Searcher", "Searchers"]

# Seconds that a process waits for the next question.
_KEPT: Final = 10.0
# Run without `site`, and without all that `import fapilog` loads, which takes as long as a search of 200 MiB. It finds
# the same modules as this interpreter.
_PROGRAM: Final = """
import pickle, sys, types
sys.path[:], places, module = pickle.load(sys.stdin.buffer)
package = sys.modules[module.partition(".")[0]] = types.ModuleType("package")
package.__path__ = places
__import__(module, fromlist=["main"]).main()
"""


class Searcher:
    """
    A process that answers one question after the other.

    Raises:
        OSError: None can be started.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter
            [sys.executable, "-I", "-S", "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        # A service that gives up its rights has a process with the same rights.
        self._user = os.geteuid()
        # Whether the program turned out to be Python; None until that is known.
        self.is_ours: bool | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended, and has the rights of this one."""
        return self._process.poll() is None and self._user == os.geteuid()

    def ask(
        self, reader: TrailReader, wanted: EventFilter, limit: int, place: Place | None = None
    ) -> Page | str | None:
        """Return the result of ``reader.page(wanted, limit, place)``, or its error's words; None if it has ended."""
        questions, answers = self._pipes()
        conditions = {
            name: value for name in EventFilter.__struct_fields__ if (value := getattr(wanted, name)) is not None
        }
        # Whatever comes of what it answers: after an update under a running service it is of another version.
        with contextlib.suppress(Exception):
            if self.is_ours is None:
                package = sys.modules[__name__.partition(".")[0]].__path__
                pickle.dump((sys.path, list(package), searchprogram.__name__), questions)
            # Not as an argument, which every user of the machine can read.
            pickle.dump((reader.directory, conditions, limit, place), questions)
            questions.flush()
            if self.is_ours is None:
                self.is_ours = answers.read(len(searchprogram.READY)) == searchprogram.READY
            if self.is_ours:
                return _answer(answers)
        return None

    def kill(self) -> None:
        """Have the process end; any thread may call it."""
        self._process.kill()

    def end(self) -> None:
        """End the process, and leave nothing of it."""
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes():
            with contextlib.suppress(OSError):  # data not yet written to an ended process
                pipe.close()

    def forget(self) -> None:
        """Leave the process to the parent, in a forked child."""
        for pipe in self._pipes():
            # Not the pipe itself: the parent's thread that uses it may have its lock.
            pipe.raw.close()
        # Nobody waits for it here.
        self._process.returncode = 0

    def _pipes(self) -> tuple[io.BufferedWriter, io.BufferedReader]:
        return cast("tuple[io.BufferedWriter, io.BufferedReader]", (self._process.stdin, self._process.stdout))


class Searchers:
    """The processes that search for this process."""

    def __init__(self) -> None:
        self.turns: SimpleQueue[None] = _turns()
        self._is_possible: bool = _is_python(sys.executable)
        self._started: set[Searcher] = set()
        # Each with the timer that ends it.
        self._idle: dict[Searcher, threading.Timer] = {}
        call_in_child(self, Searchers._forget)

    @property
    def is_possible(self) -> bool:
        """Whether a process can be started, as far as is known."""
        return self._is_possible

    def rule_out(self) -> None:
        """Start none from now on: the program turned out not to be Python."""
        self._is_possible = False

    def taken(self) -> Searcher:
        """Return a process that waits for a question, or start one; raise OSError if it can't be."""
        # Of two threads that take the same one, one gets it.
        with contextlib.suppress(KeyError):
            searcher, timer = self._idle.popitem()
            timer.cancel()
            if searcher.is_alive:
                return searcher
            self.end(searcher)
        searcher = Searcher()
        self._started.add(searcher)
        return searcher

    def keep(self, searcher: Searcher) -> None:
        """Have *searcher* wait for the next question for some seconds."""
        timer = threading.Timer(_KEPT, self._end_idle, [searcher])
        timer.daemon = True
        self._idle[searcher] = timer
        try:
            timer.start()
        except RuntimeError:  # no thread can be had
            self._end_idle(searcher)

    def end(self, searcher: Searcher) -> None:
        """End *searcher*."""
        searcher.end()
        self._started.discard(searcher)

    def close(self) -> None:
        """End the processes that wait for a question."""
        for searcher in list(self._idle):
            self._end_idle(searcher)

    def _end_idle(self, searcher: Searcher) -> None:
        timer = self._idle.pop(searcher, None)
        if timer is not None:
            timer.cancel()
            self.end(searcher)

    def _forget(self) -> None:
        for searcher in self._started:
            searcher.forget()
        self.turns = _turns()
        self._started, self._idle = set(), {}


def _answer(pipe: IO[bytes]) -> Page | str:
    found: list[Item] = []
    while (item := pickle.load(pipe)) is not None:  # noqa: S301 - from the process
        if isinstance(item, str):
            return item
        found.append(item)
    return Page(found, pickle.load(pipe))  # noqa: S301


def _turns() -> SimpleQueue[None]:
    """Return a queue with as many turns as there may be searches at once."""
    # A semaphore of `threading` may stay locked where a signal handler raises in its midst.
    turns: SimpleQueue[None] = SimpleQueue()
    for _ in range(max(1, _processors() - 1)):
        turns.put(None)
    return turns


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_python(executable: str | None) -> bool:
    """Return whether *executable* runs a program in Python, and not an application that has Python in it."""
    return bool(executable) and not getattr(sys, "frozen", False) and "py" in os.path.basename(executable or "")


SEARCHERS: Final = Searchers()
"""The processes of all storages together: the processors are shared too."""
atexit.register(SEARCHERS.close)
