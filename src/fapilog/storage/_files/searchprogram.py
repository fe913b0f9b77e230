"""
The program of a process that searches the files of trails for another process.

It answers one question after the other, which come by its standard input, and ends when that is closed, as the kernel
does when the other process dies. It imports no more than it needs: its start is paid by a question.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any, Final

from msgspec.structs import force_setattr

from ...record.errors import AuditStorageError
from ..protocol import EventFilter
from .reader import TrailReader

__all__ = ["READY", "main"]

READY: Final = b"fapilog\n"
"""Written first of all, by which the program is told from another one that runs in its place."""

_LESS_URGENT: Final = 5


def main() -> None:
    """
    Answer questions until the standard input is closed.

    A question is the directory, the conditions, the limit and the place. An answer is the events and holes that are
    found, None behind the last one, and the place from which to go on; or a text instead, the words of an error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_LESS_URGENT)
    questions: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
    Thread(target=_listen, args=[sys.stdin.buffer, questions], daemon=True).start()
    answer = sys.stdout.buffer
    answer.write(READY)
    while True:
        answer.flush()
        directory, conditions, limit, place = questions.get()
        wanted = EventFilter()
        for name, value in conditions.items():
            # The values were checked and converted by the other process; doing that twice would change them.
            force_setattr(wanted, name, value)
        try:
            page = TrailReader(directory, durable=False).page(wanted, limit, place)
            for item in (*page.items, None, page.place):
                pickle.dump(item, answer)
        except AuditStorageError as error:
            pickle.dump(str(error), answer)


def _listen(pipe: IO[bytes], questions: SimpleQueue[tuple[Any, ...]]) -> None:
    """Put every question into *questions*, and end this process with the last one."""
    try:
        while True:
            questions.put(pickle.load(pipe))  # noqa: S301 - from the other process
    finally:
        os._exit(0)
