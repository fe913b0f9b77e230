"""A process that appends to a storage until it is killed, and says which appends it begins and which return."""

from __future__ import annotations

import functools
import os
import pickle
import sys
from typing import Final, NoReturn

import anyio

from ..storage.protocol import AuditStorage
from ._questions import an_event_with

__all__ = ["BEGUN", "STORED", "main"]

BEGUN: Final = "begun"
STORED: Final = "stored"
_AT_ONCE: Final = 8


def main() -> NoReturn:
    """Append for ever, to a storage that the pickle on standard input says how to make."""
    make, name, backend = pickle.load(sys.stdin.buffer)  # noqa: S301  of the process that has started this one
    anyio.run(_append, make(name), backend=backend)
    raise AssertionError


async def _append(storage: AuditStorage) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(_AT_ONCE):
            tasks.start_soon(functools.partial(_append_one_by_one, storage))


async def _append_one_by_one(storage: AuditStorage) -> None:
    while True:
        event = an_event_with("before the process is killed")
        _say(BEGUN, event.event_id)
        await storage.append(event, once=True)
        _say(STORED, event.event_id)


def _say(what: str, event_id: str) -> None:
    # In one piece, and at once: nothing is left in a buffer of this process.
    os.write(sys.stdout.fileno(), f"{what} {event_id}\n".encode())
