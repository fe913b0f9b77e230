"""Locks and tasks must not outlive a fork: they belong to the parent."""

from __future__ import annotations

import os
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


os.register_at_fork(after_in_child=_call_all)
