"""Green threads, of gevent and eventlet, which are none."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["GREEN_THREADS", "refuse_green_threads"]

GREEN_THREADS: Final = (
    "fapilog needs real threads, and gevent and eventlet replace them: a call that waits for the disk, or for an event "
    "loop, would stop all others; use processes or threads"
)


def refuse_green_threads() -> None:
    """
    Refuse to work where threads are none.

    Raises:
        RuntimeError: gevent or eventlet has replaced the standard library's threads.
    """
    # gevent names modules of the standard library, the first of which `patch_thread(threading=False)` replaces alone:
    # https://www.gevent.org/api/gevent.monkey.html. eventlet names the parts that `monkey_patch` takes:
    # https://eventlet.readthedocs.io/en/latest/patching.html.
    monkey, patcher = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    by_gevent = monkey is not None and any(map(monkey.is_module_patched, ("_thread", "threading")))
    if by_gevent or (patcher is not None and patcher.is_monkey_patched("thread")):
        raise RuntimeError(GREEN_THREADS)
