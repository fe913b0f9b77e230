"""Calls of a function that are made as ever, and measured."""

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["measured_calls"]


def measured_calls(
    patch: pytest.MonkeyPatch, owner: object, name: str, size: Callable[..., int] = lambda *_: 1
) -> list[int]:
    """Return a list that gets, for each call of *name*, the *size* of its arguments."""
    real = getattr(owner, name)
    sizes: list[int] = []

    def measured(*given: Any) -> Any:
        sizes.append(size(*given))
        return real(*given)

    patch.setattr(owner, name, measured)
    return sizes
