"""A background that is open, as a trail has its own while it is started."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fapilog.tasks.background import Background
from fapilog.tasks.life import Life

__all__ = ["Running"]


class Running:
    """Opens *background* in a task of its own; leaving waits for its calls, and then cancels those that are left."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._timeout = 0.0
        self._life = Life(self._open())

    async def enter(self) -> None:
        await self._life.enter()

    async def leave(self, *, timeout: float) -> None:
        self._timeout = timeout
        await self._life.leave()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        async with self._background.open():
            yield
            await self._life.within(self._timeout, self._background.settle)
