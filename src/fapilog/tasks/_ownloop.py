"""Event loops of asyncio that run while the interpreter exits: one that is our own, and one that was stopped."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple, Unpack

import anyio

__all__ = ["run", "run_again"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run(call: Callable[[], Awaitable[T]]) -> T:
    """Run ``await call()`` in a new event loop, also while the interpreter exits, and return its result."""
    return anyio.run(call, backend="asyncio", backend_options={"loop_factory": _OwnLoop})


def run_again(loop: asyncio.AbstractEventLoop, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Run ``await call()`` in *loop*, which was stopped and is not closed, from outside of any loop."""
    task = loop.create_task(call())
    # It may have been told to stop more than once, and stops again as often.
    for is_last in (False, False, False, True):
        try:
            loop.run_until_complete(task)
        except RuntimeError:
            if is_last or task.done():
                raise
        else:
            return


class _OwnLoop(asyncio.SelectorEventLoop):
    """
    Calls have a thread of their own where the default executor refuses them.

    asyncio looks up names of hosts in the default executor. `concurrent.futures.thread` refuses all calls from the
    moment the main thread has ended (https://github.com/python/cpython/issues/86813). That is before `atexit` runs, and
    so before the last alert of a script is sent.
    """

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        try:
            return super().run_in_executor(executor, func, *args)
        except RuntimeError:
            if executor is not None or self.is_closed():
                raise
        future: asyncio.Future[T] = self.create_future()

        def call() -> None:
            try:
                result = func(*args)
            except BaseException as error:
                settle = functools.partial(future.set_exception, error)
            else:
                settle = functools.partial(future.set_result, result)
            # The loop may be closed meanwhile, and the future cancelled.
            with contextlib.suppress(RuntimeError):
                self.call_soon_threadsafe(lambda: None if future.done() else settle())

        try:
            threading.Thread(target=call, name="fapilog call", daemon=True).start()
        except RuntimeError:
            # Python 3.12 starts no thread any more while it exits.
            call()
        return future
