"""Locks and tasks must not outlive a fork: they belong to the parent, and so does a half of a module."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

__all__ = ["call_in_child"]

T = TypeVar("T")

_methods: Final[weakref.WeakKeyDictionary[Any, Callable[[Any], object]]] = weakref.WeakKeyDictionary()


def call_in_child(owner: T, method: Callable[[T], object]) -> None:
    """Call ``method(owner)`` in every child that is forked from now on, as long as *owner* lives."""
    _methods[owner] = method


def _call_all() -> None:
    for owner, method in list(_methods.items()):
        method(owner)


def _finish_imports() -> None:
    """
    Import the parts of anyio for the event loops that may run here, as the first call in a loop does; or wait for that.

    A module that a thread has half imported at a fork stays so in the child, which waits for ever for that thread.
    """
    for library in ("asyncio", "trio"):
        spec = getattr(sys.modules.get(library), "__spec__", None)
        # Not where another thread imports the library itself: it may wait for a lock of logging, which the fork has.
        if spec is not None and not getattr(spec, "_initializing", False):
            with contextlib.suppress(Exception):
                importlib.import_module(f"anyio._backends._{library}")


os.register_at_fork(before=_finish_imports, after_in_child=_call_all)
