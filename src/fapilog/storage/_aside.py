"""
A long search in a process of its own, so that it does not slow the writers.

All threads of an interpreter take turns. A searching thread gets its turn whenever a writing thread releases the lock,
as every write to a file does, and keeps it until a block is searched: `log_event` took 25 times as long beside it. So a
search that has read some MiB and is not done is begun anew in another process of lower priority. One processor is left
to the other processes.

Where no process can be had (a limit, a sandbox, an application that is frozen or embeds Python), the search continues
in its thread. The answer is the same.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping
from typing import IO, Final, TypeAlias

from msgspec.structs import force_setattr

from ..record.damage import DamagedRecord
from ..record.errors import AuditStorageError
from ..record.events import AuditEvent
from ._effort import Effort, TooLongError
from ._holes import up_to
from ._reader import TrailReader
from .protocol import EventFilter

__all__ = ["Aside", "Search", "main"]

Found: TypeAlias = list[AuditEvent | DamagedRecord]

# The bytes that a search reads in its thread, in some milliseconds: most searches find enough in them.
_SHORT_BYTES: Final = 8 << 20
_LESS_URGENT: Final = 2
_READY: Final = b"fapilog\n"
# Run without `site`, and without all that `import fapilog` loads, which takes as long as a search of 200 MiB. It finds
# the same modules as this interpreter.
_PROGRAM: Final = """
import pickle, sys, types
sys.path[:], places, module = pickle.load(sys.stdin.buffer)
package = sys.modules[module.partition(".")[0]] = types.ModuleType("package")
package.__path__ = places
__import__(module, fromlist=["main"]).main()
"""
# Types of which another process makes equal values.
_PLAIN: Final = (str, int, float, bool, type(None))


class Aside:
    """
    The processes that search for one storage.

    A forked child needs another one.
    """

    def __init__(self) -> None:
        self.turns: threading.Semaphore = threading.Semaphore(max(1, _processors() - 1))
        # Until the program that is started turns out not to be Python.
        self.is_possible: bool = _is_python(sys.executable)


class Search:
    """
    One search for the newest events that are wanted.

    Args:
        aside: The processes for long searches.
        reader: Reads the trail.
        wanted: Which events.
        limit: How many at most.
    """

    def __init__(self, aside: Aside, reader: TrailReader, wanted: EventFilter, limit: int) -> None:
        self._aside = aside
        self._reader = reader
        self._wanted = wanted
        self._limit = limit
        self._effort = Effort()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self) -> Found:
        """
        Return the result of `TrailReader.find`, or raise its exception; blocks.

        Raises:
            TooLongError: The search was stopped.
        """
        if not self._aside.is_possible or not _is_plain(self._wanted.metadata or {}):
            return self._here()
        with contextlib.suppress(TooLongError):
            return self._reader.find(self._wanted, self._limit, Effort(_SHORT_BYTES))
        with self._turn():
            found = self._there()
        return self._here() if found is None else found

    def stop(self) -> None:
        """Have `run` end soon; any thread may call it."""
        self._is_stopped = True
        self._effort.end()
        if self._process is not None:
            self._process.kill()

    def _here(self) -> Found:
        return self._reader.find(self._wanted, self._limit, self._effort)

    @contextlib.contextmanager
    def _turn(self) -> Generator[None]:
        while not self._aside.turns.acquire(timeout=0.1):
            self._effort.take(0)
        try:
            yield
        finally:
            self._aside.turns.release()

    def _there(self) -> Found | None:
        """Return the findings of the process; None if it can't be started, or ends early."""
        try:
            process = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-I", "-S", "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            return None
        with _ended(process):
            self._process = process
            if self._is_stopped:
                raise TooLongError
            assert process.stdin is not None  # noqa: S101 - a pipe
            assert process.stdout is not None  # noqa: S101
            with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
                self._ask(process.stdin)
                self._aside.is_possible = process.stdout.read(len(_READY)) == _READY or self._is_stopped
                if self._aside.is_possible:
                    return _answer(process.stdout)
        return None

    def _ask(self, pipe: IO[bytes]) -> None:
        # Not as an argument, which every user of the machine can read.
        package = sys.modules[__name__.partition(".")[0]].__path__
        pipe.write(pickle.dumps((sys.path, list(package), __name__)))
        wanted = {
            name: value for name in EventFilter.__struct_fields__ if (value := getattr(self._wanted, name)) is not None
        }
        pipe.write(pickle.dumps((self._reader.directory, wanted, self._limit)))
        pipe.flush()


def main() -> None:
    """Answer the question at the standard input, in a process that was started for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_LESS_URGENT)
    directory, conditions, limit = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer = sys.stdout.buffer
    answer.write(_READY)
    answer.flush()
    wanted = EventFilter()
    for name, value in conditions:
        # The values were checked and converted in the parent; doing that twice would change them.
        force_setattr(wanted, name, value)
    try:
        for item in up_to(limit, TrailReader(directory, durable=False).newest_first(wanted)):
            pickle.dump(item, answer)
        pickle.dump(None, answer)
    except AuditStorageError as error:
        pickle.dump(str(error), answer)
    answer.flush()
    os._exit(0)


def _end_with_parent() -> None:
    """End this process when the other end of its standard input is closed, which the kernel does when that dies."""
    sys.stdin.buffer.read()
    os._exit(1)


def _answer(pipe: IO[bytes]) -> Found:
    found: Found = []
    while (item := pickle.load(pipe)) is not None:  # noqa: S301 - from the child
        if isinstance(item, str):
            raise AuditStorageError(item)
        found.append(item)
    return found


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Generator[None]:
    """On leaving, end *process*, if it has not ended, and leave nothing of it."""
    try:
        yield
    finally:
        process.kill()
        with contextlib.suppress(OSError):  # data not yet written to an ended process
            process.communicate()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_python(executable: str | None) -> bool:
    """Return whether *executable* runs a program in Python, and not an application that has Python in it."""
    return bool(executable) and not getattr(sys, "frozen", False) and "py" in os.path.basename(executable or "")


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(each) for pair in value.items() for each in pair)
    return type(value) in _PLAIN
