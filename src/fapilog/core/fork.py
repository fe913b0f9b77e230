"""What must not outlive a fork: locks and tasks that belong to the parent."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any, Final

__all__ = ["call_in_child"]

_methods: Final[set[weakref.WeakMethod[Callable[[], Any]]]] = set()


def call_in_child(method: Callable[[], Any]) -> None:
    """Call *method*, which is bound, in every child that is forked from now on, as long as its object lives."""
    _methods.add(weakref.WeakMethod(method, _methods.discard))


def _call_all() -> None:
    for reference in tuple(_methods):
        method = reference()
        if method is not None:
            method()


os.register_at_fork(after_in_child=_call_all)
