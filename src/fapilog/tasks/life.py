"""A context manager that any task may enter, and any other task, loop or thread may leave."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Final

import anyio
import anyio.lowlevel

from .background import own_context
from .loops import Event, Loop, LoopClosedError, uninterrupted
from .portal import flush_at_exit
from .strangers import Log, tamed

__all__ = ["Life", "enter_all", "leave_all"]

_log: Final = Log("fapilog")


class Life:
    """
    An asynchronous context manager, entered and left in a task of its own.

    Cancel scopes and task groups belong to the task that entered them. Frameworks start and stop a service in two tasks
    (pytest-asyncio's fixtures, Sanic's listeners, notebook cells), and a manager that the first task entered can't be
    left in the second. So a task of its own, which belongs to the event loop, enters the manager, waits, and leaves it.

    A life is lived once. When its loop ends first, asyncio and trio cancel the task, and the manager is left with no
    time to lose: `within` returns at once from then on. The context variables of the task that called `enter` are not
    the life's: it may be the task of a request.

    Args:
        manager: Entered by `enter`, left by `leave`.
        leave_within: Seconds after which leaving the manager is cancelled, or at once when it is hurried. None if the
            manager limits itself, by `within`.
        owner: Named in a `ResourceWarning` if the loop ends before `leave` was called; None for no warning, and for
            nothing at the exit.

    Attributes:
        is_hurried: Whether `hurry` was called, or the loop is ending.
    """

    def __init__(
        self,
        manager: AbstractAsyncContextManager[object],
        *,
        leave_within: float | None = None,
        owner: object = None,
    ) -> None:
        self._manager = manager
        self._leave_within = leave_within
        self._owner = owner
        self._loop: Loop | None = None
        self._scope: anyio.CancelScope | None = None
        # The scope of a call of `within`.
        self._within: anyio.CancelScope | None = None
        self.is_hurried: bool = False
        # Entered, or ended before it was.
        self._settled = Event()
        self._leave = Event()
        self._ended = Event()
        self._was_entered = False
        # The callers that wait for it to be entered, and the callers that know that it is.
        self._callers: dict[object, None] = {}
        self._error: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether the manager was left, or could not be entered, or the loop was closed around it."""
        return self._ended.is_set or self.is_lost

    @property
    def is_lost(self) -> bool:
        """Whether the loop was closed around it: no task of it runs any more, and the manager is never left."""
        loop = self._loop
        return loop is not None and not self._ended.is_set and loop.is_closed

    @property
    def is_leaving(self) -> bool:
        """Whether `leave` was called."""
        return self._leave.is_set

    @property
    def is_called_off(self) -> bool:
        """Whether nothing was entered, and no error is the reason: the caller of `enter` was cancelled, or the loop."""
        return self._ended.is_set and not self._was_entered and self._error is None

    async def enter(self) -> None:
        """
        Enter the manager.

        If a caller is cancelled meanwhile, the manager is left again, as far as it was entered, unless another task
        waits for it by `settled`.

        Raises:
            Exception: The manager can't be entered: its own exception.
            RuntimeError: Entering it was cancelled, by itself or since the loop ended.
        """
        self._loop = Loop.current()
        self._loop.spawn(self._run, ended=self._end, context=own_context())
        if self._owner is not None:
            flush_at_exit(self, functools.partial(Life._leave_at_exit, process=os.getpid()))
        await self.settled()

    async def settled(self, *, patience: float = math.inf) -> None:
        """
        Wait until the manager is entered, by another task; raises as `enter`.

        The manager is left again only if all callers of both methods are cancelled.

        Args:
            patience: Seconds to wait for another loop than this one, before a `RuntimeError` says that it does not run.
        """
        caller = object()
        self._callers[caller] = None
        is_here = self._loop is not None and self._loop.is_here
        try:
            with anyio.move_on_after(None if is_here else patience) as waiting:
                await self._settled.wait()
        except BaseException:
            del self._callers[caller]
            if not self._callers:
                self._leave.set()
                self.hurry()
                await uninterrupted(self._ended.wait)
            raise
        if waiting.cancelled_caught:
            del self._callers[caller]
            raise _no_answer(patience)
        self._raise_unless(entered=True)

    async def leave(self, *, patience: float = 60.0, hurried: bool = False) -> None:
        """
        Leave the manager, and return when it is left. May be called again, and in any loop.

        A caller that is cancelled meanwhile hurries the leaving, waits for its end, and is cancelled then. A caller
        that was cancelled before does not hurry it.

        Args:
            patience: Seconds to wait for another loop than this one.
            hurried: Whether to hurry the leaving at once.

        Raises:
            Exception: The manager's own, on leaving.
            LoopClosedError: The loop was closed before the manager was left.
            RuntimeError: The loop of the manager does not run.
        """
        self._leave.set()
        if self._ended.is_set:
            # Nothing to wait for; and a caller without an event loop could not wait.
            self._raise_unless(entered=False)
            return
        loop = self._loop  # None for a moment, if another thread is about to enter
        if loop is not None and loop.is_closed:
            raise LoopClosedError("the event loop was closed first")
        outer = _current.get()
        if hurried or (outer is not None and outer.is_hurried):
            self.hurry()
        is_here = loop is not None and loop.is_here
        # A caller that is cancelled already, and leaves on its way out, has all the time that leaving may take: its
        # scope stays cancelled, and would cancel every wait. A cancellation that comes now is another one.
        cancelled = await _pending_cancellation()
        with anyio.CancelScope(shield=cancelled is not None):
            with anyio.move_on_after(None if is_here else patience) as waiting:
                try:
                    await self._ended.wait()
                except anyio.get_cancelled_exc_class():
                    if waiting.cancel_called:
                        raise
                    self.hurry()
                    if is_here:
                        await uninterrupted(self._ended.wait)
                    raise
            if waiting.cancelled_caught:
                raise _no_answer(patience)
        self._raise_unless(entered=False)
        if cancelled is not None:
            raise cancelled

    def hurry(self) -> None:
        """Make `within` return at once, and cancel the leaving if its time is limited; from any thread."""
        self.is_hurried = True
        if self._loop is not None:
            with contextlib.suppress(LoopClosedError):
                self._loop.call_soon(self._cut_short)

    def _leave_at_exit(self, *, process: int) -> None:
        """Leave the manager if its loop stands still, and is not closed, as that of a notebook and of a shell does."""
        loop = self._loop
        # A forked child has the loop of its parent; and only asyncio's can be stopped.
        if loop is None or self.is_over or process != os.getpid() or not loop.is_asyncio:
            return
        if loop.native.is_running() or loop.runs_here():
            return
        from ._ownloop import run_again  # noqa: PLC0415  with it comes asyncio

        try:
            run_again(loop.native, self.leave)
        except Exception as error:
            _log.error("leaving %s at the exit raised %s", type(self._manager).__qualname__, type(error).__qualname__)

    def _cut_short(self) -> None:
        if self._within is not None:
            self._within.cancel()
        is_limited = self._leave_within is not None or not (self._was_entered or self._callers)
        if is_limited and self._leave.is_set and self._scope is not None:
            self._scope.cancel()

    async def within(self, seconds: float, call: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Await ``call()`` for *seconds* at most, or until the leaving is hurried; no other cancellation reaches it."""
        with anyio.move_on_after(0 if self.is_hurried else seconds, shield=True) as self._within:
            await call()
        self._within = None

    async def _run(self) -> None:
        _current.set(self)
        with anyio.CancelScope() as self._scope:
            if self._leave.is_set:
                self._scope.cancel()
            try:
                async with self._manager:
                    self._was_entered = True
                    self._settled.set()
                    try:
                        await self._leave.wait()
                    except anyio.get_cancelled_exc_class():
                        self.is_hurried = True
                    # From here on only the time that leaving may take ends it.
                    self._scope.shield = True
                    if self._leave_within is not None:
                        self._scope.deadline = anyio.current_time() + self._leave_within
                if self._owner is not None and not self._leave.is_set:
                    message = f"{self._owner!r} was not stopped before its event loop ended"
                    warnings.warn(message, ResourceWarning, source=self._owner, stacklevel=1)
            except BaseException as error:
                self._error = tamed(error)

    def _end(self) -> None:
        self._ended.set()
        self._settled.set()

    def _raise_unless(self, *, entered: bool) -> None:
        if self._error is not None and self._was_entered is not entered:
            raise self._error
        if entered and not self._was_entered:
            raise RuntimeError(f"entering {type(self._manager).__qualname__} was cancelled")


# The life whose manager is entered or left in this task: if it is hurried, so are the lives inside of it.
_current: Final[ContextVar[Life | None]] = ContextVar("fapilog_life", default=None)


def _no_answer(patience: float) -> RuntimeError:
    return RuntimeError(f"the event loop that it was started in has not answered for {patience:g} s")


async def _pending_cancellation() -> BaseException | None:
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
    except anyio.get_cancelled_exc_class() as cancelled:
        return cancelled
    return None


async def enter_all(managers: Iterable[AbstractAsyncContextManager[object]]) -> list[Life]:
    """Enter all, one after the other; when one can't be entered, leave the entered ones and raise its exception."""
    lives: list[Life] = []
    try:
        for manager in managers:
            life = Life(manager, leave_within=math.inf)
            await life.enter()
            lives.append(life)
    except BaseException:
        await leave_all(lives)
        raise
    return lives


async def leave_all(lives: Sequence[Life], *, hurried: bool = False) -> None:
    """
    Leave all, the last entered first, even if one of them raises; then raise its exception.

    A caller that is cancelled while it leaves one hurries the others as well.
    """
    if lives:
        try:
            await lives[-1].leave(hurried=hurried)
        finally:
            await leave_all(lives[:-1], hurried=lives[-1].is_hurried)
