"""Work that runs beside the audited code, and has an owner that waits for it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from anyio import to_thread

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

__all__ = ["Background", "in_own_task", "in_thread"]

T = TypeVar("T")

_logger: Final = logging.getLogger("fapilog")


class Background:
    """
    Tasks that can hurt neither the code that starts them nor each other.

    Entered, it runs each call in a task of its own, which the cancellation of the code around it does not reach. Not
    entered, it keeps the calls, and `settle` runs them where it is awaited. A call handles its own exceptions;
    `KeyboardInterrupt` and the like pass through.
    """

    def __init__(self) -> None:
        self._tasks: TaskGroup | None = None
        self._kept: deque[Callable[[], Coroutine[Any, Any, object]]] = deque()
        self._running: set[anyio.CancelScope] = set()
        self._idle: anyio.Event | None = None
        self._held: list[_Held] = []
        self.leaving: bool = False

    @property
    def entered(self) -> bool:
        """Whether calls are run as they come."""
        return self._tasks is not None

    @property
    def kept(self) -> int:
        """How many calls wait for `settle`."""
        return len(self._kept)

    async def enter(self) -> None:
        """Run the calls from now on, those that were kept first. To be left by the task that entered."""
        tasks = anyio.create_task_group()
        await tasks.__aenter__()
        self._tasks = tasks
        while self._kept:
            self.start_soon(self._kept.popleft())

    async def hold(self, manager: AbstractAsyncContextManager[object]) -> None:
        """
        Enter *manager*, in a task of its own, until all calls are done; raise what entering it raises.

        The one that was entered last is left first.
        """
        assert self._tasks is not None  # noqa: S101 - entered first
        held = _Held(manager)
        await self._tasks.start(held.run)
        self._held.append(held)

    async def leave(self, *, timeout: float) -> None:
        """
        Wait until no call is left, cancel those that are after *timeout* seconds, then leave what is held.

        The wait is shielded from cancellation, and each that is held has *timeout* seconds as well. A call that can't
        be cancelled, such as one that waits for a thread, is waited for: no task is left behind.
        """
        if self._tasks is None:
            return
        with anyio.move_on_after(timeout, shield=True):
            await self.settle()
        tasks, self._tasks = self._tasks, None
        self.leaving = True
        try:
            for scope in self._running:
                scope.cancel()
            with anyio.CancelScope(shield=True):
                await self._wait_until_idle()
                while self._held:
                    await self._held.pop().release(timeout)
            await tasks.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            raise _only_one(group) from None
        finally:
            self.leaving = False
            self._held.clear()

    def start_soon(self, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run *call* soon, or keep it for `settle`."""
        if self._tasks is None:
            self._kept.append(call)
        else:
            scope = anyio.CancelScope(shield=True)
            self._running.add(scope)
            self._tasks.start_soon(self._run, call, scope)

    async def settle(self) -> None:
        """Wait until no call is left; not entered, run those that were kept, at once and to their end."""
        if self._tasks is not None:
            await self._wait_until_idle()
        while self._tasks is None and self._kept:
            calls = tuple(self._kept)
            self._kept.clear()
            try:
                async with anyio.create_task_group() as tasks:
                    for call in calls:
                        tasks.start_soon(_alone, call)
            except BaseExceptionGroup as group:
                raise _only_one(group) from None

    def forget(self) -> None:
        """Become as new, in a forked child: its calls are the parent's to run."""
        self.__init__()  # type: ignore[misc]

    async def _wait_until_idle(self) -> None:
        while self._running:
            self._idle = self._idle or anyio.Event()
            await self._idle.wait()

    async def _run(self, call: Callable[[], Coroutine[Any, Any, object]], scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await call()
        except anyio.get_cancelled_exc_class():
            pass  # the call cancelled the task that it runs in, which is this one and ends here, alone
        finally:
            self._running.discard(scope)
            if not self._running and self._idle is not None:
                self._idle.set()
                self._idle = None


class _Held:
    """A context manager and the task that it is entered and left in, since it may own tasks and scopes itself."""

    def __init__(self, manager: AbstractAsyncContextManager[object]) -> None:
        self._manager = manager
        self._scope = anyio.CancelScope()
        self._leave = anyio.Event()
        self._left = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        entered = False
        try:
            with self._scope:
                async with self._manager:
                    entered = self._scope.shield = True
                    task_status.started()
                    await self._leave.wait()
        except Exception as error:
            if not entered:
                raise
            # Not its text or traceback, which may hold secrets.
            _logger.error("leaving %s raised %s", type(self._manager).__qualname__, type(error).__qualname__)  # noqa: TRY400
        finally:
            self._left.set()

    async def release(self, timeout: float) -> None:
        self._leave.set()
        with anyio.move_on_after(timeout):
            await self._left.wait()
        self._scope.cancel()


async def _alone(call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Await *call* in a task group of its own, so that a call which cancels the task it runs in ends alone."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)


async def in_thread(call: Callable[..., T], *args: Any) -> T:
    """
    Return what ``call(*args)`` returns in a worker thread, or raise what it raises.

    The limiter is its own: the tokens of the default one may all be taken by the application.
    """
    return await to_thread.run_sync(call, *args, limiter=anyio.CapacityLimiter(1))


async def in_own_task(call: Callable[..., Awaitable[T]], *args: Any) -> T:
    """
    Return what ``await call(*args)`` returns, or raise what it raises.

    When the caller is cancelled, the call is: but what it shields it has shielded. In the caller's own task it could
    not, since asyncio's `Task.cancel` reaches into a shielded scope.
    """
    results: list[T] = []
    errors: list[Exception] = []

    async def run() -> None:
        try:
            results.append(await call(*args))
        except Exception as error:
            errors.append(error)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
    except BaseExceptionGroup as group:
        raise _only_one(group) from None
    if errors:
        raise errors[0]
    return results[0]


def _only_one(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the exception in *group* if it is the only one, however deep, and *group* otherwise."""
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return group if isinstance(found, BaseExceptionGroup) else found
