"""Close a storage that may be a stranger's, whose `aclose` may never return."""

from __future__ import annotations

from typing import Final

import anyio

from ..tasks.loops import is_without_loop
from ..tasks.strangers import Log, contained
from .protocol import AuditStorage

__all__ = ["close_in_time"]

_log: Final = Log("fapilog")

_SECONDS_TO_CLOSE: Final = 5.0


async def close_in_time(storage: AuditStorage) -> None:
    """
    Close *storage*; after five seconds cancel that, and log it.

    A call that can't be cancelled, such as one that waits for a thread, is waited for. So is every call without an
    event loop, which blocks this thread.

    Raises:
        Exception: The exception of the storage.
    """
    if is_without_loop():
        await storage.aclose()
        return
    with anyio.move_on_after(_SECONDS_TO_CLOSE) as scope, contained():
        await storage.aclose()
    if scope.cancelled_caught:
        kind = type(storage).__qualname__
        _log.error("a %s may still be open: closing it took more than %g s", kind, _SECONDS_TO_CLOSE)
