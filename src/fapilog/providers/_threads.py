"""A thread for calls that may wait for a socket, and that must not keep the process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

import anyio

from ..record.errors import TransientDeliveryError
from ..tasks.threads import begun_in_thread

__all__ = ["in_daemon_thread"]

T = TypeVar("T")


async def in_daemon_thread(name: str, call: Callable[[], T]) -> T:
    """
    Run *call* in a daemon thread of its own, in the caller's context variables, and return its result.

    Cancelled, this leaves the thread behind. anyio would join it: on asyncio its worker threads are no daemons, so the
    interpreter does not exit before a silent server's time is over.

    Args:
        name: The target in messages: "smtp".
        call: May block. An exception that it raises is raised here.

    Raises:
        TransientDeliveryError: The system has no thread left, and nothing was called.
    """
    begun: tuple[anyio.Event, Callable[[], T]] | None = None
    with contextlib.suppress(RuntimeError):
        begun = begun_in_thread(call, name=f"fapilog {name}")
    # Raised out here, where the foreign error is not behind it.
    if begun is None:
        raise TransientDeliveryError(f"{name}: nothing was sent, since no thread can be started")
    ended, outcome = begun
    await ended.wait()
    return outcome()
