"""A thread for calls that may wait for a socket, and that must not keep the process."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from ..record.errors import TransientDeliveryError
from ..tasks.events import Event

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
    ended = Event()
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)
        ended.set()

    has_thread = True
    try:
        threading.Thread(target=contextvars.copy_context().run, args=[run], name=f"fapilog {name}", daemon=True).start()
    except RuntimeError:
        has_thread = False
    # Raised out here, where the foreign error is not behind it.
    if not has_thread:
        raise TransientDeliveryError(f"{name}: nothing was sent, since no thread can be started")
    await ended.wait()
    return result.result()
