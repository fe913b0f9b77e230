"""A weak set, for any thread to add to and to ask."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

__all__ = ["SharedWeakSet"]

T = TypeVar("T")


class SharedWeakSet(Generic[T]):
    """
    Objects, held weakly. Any thread may add one while another asks, where `weakref.WeakSet` raises RuntimeError.

    The objects have the equality and the hash of their identity.
    """

    def __init__(self) -> None:
        self._references: set[weakref.ref[T]] = set()

    def add(self, each: T) -> None:
        """Add an object until it is discarded or gone."""
        self._references.add(weakref.ref(each, self._references.discard))

    def discard(self, each: T) -> None:
        """Take an object out, if it is there."""
        self._references.discard(weakref.ref(each))

    def all(self) -> list[T]:
        """Return the objects that are alive."""
        # No other thread runs while a set copies itself. While a tuple is made of one, the garbage collector may
        # start (until Python 3.11), whose callbacks (`gc.callbacks`: profilers, Hypothesis) let other threads in.
        return [each for reference in self._references.copy() if (each := reference()) is not None]
