"""A time to come, for an object that several event loops may use, one after the other or at once."""

from __future__ import annotations

import time

import anyio

from .loops import Loop

__all__ = ["Countdown"]


class Countdown:
    """
    Seconds that pass, on the clock of the event loop that asks.

    A time on such a clock says nothing in another loop: the clock of every loop of trio begins anywhere. There the
    seconds since `begin` count. https://trio.readthedocs.io/en/stable/reference-core.html#trio.current_time
    """

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._ends = self._ends_on_any = 0.0

    def begin(self, seconds: float) -> None:
        """Let *seconds* be left from now on."""
        self._loop, self._ends = Loop.current(), anyio.current_time() + seconds
        self._ends_on_any = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """The seconds that are left; 0 if none are, or if it was never begun."""
        is_here = self._loop is not None and self._loop.is_here
        return max(0.0, self._ends - anyio.current_time() if is_here else self._ends_on_any - time.monotonic())
