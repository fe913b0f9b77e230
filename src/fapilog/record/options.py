"""The check of a number that an option was given: one rule, and one sentence about the number that breaks the rule."""

from __future__ import annotations

import math
from typing import TypeVar

__all__ = ["flag", "require"]

_Number = TypeVar("_Number", bound=float)


def require(
    name: str,
    value: _Number,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    finite: bool = False,
    whole: bool = False,
) -> _Number:
    """
    Return *value* if it is a number within the limits that are given.

    Args:
        name: The option, with which the message begins.
        value: The value of the option.
        above: The number that *value* must exceed; None for no such limit.
        at_least: The smallest *value*, where there is no *above*; None for no such limit.
        at_most: The largest *value*; None for no such limit.
        finite: Whether *value* must not be infinite.
        whole: Whether *value* must be an int.

    Raises:
        TypeError: *value* is no number, or no whole one.
        ValueError: *value* is out of range, as NaN always is.
    """
    if whole and not isinstance(value, int):
        raise TypeError(f"{name}: expected a whole number; got a {type(value).__qualname__}")
    try:
        # True for a number in range, and so false for NaN.
        is_in_range = (
            (value > above if above is not None else value >= (-math.inf if at_least is None else at_least))
            and value <= (math.inf if at_most is None else at_most)
            and not (finite and value in {-math.inf, math.inf})
        )
    except TypeError:
        raise TypeError(f"{name}: expected a number; got a {type(value).__qualname__}") from None
    if not is_in_range:
        limits = (("above", above), ("of at least", at_least), ("of at most", at_most))
        words = " and ".join(f"{word} {limit}" for word, limit in limits if limit is not None)
        raise ValueError(f"{name}: expected a {'finite ' if finite else ''}number {words}; got {value!r}")
    return value


def flag(name: str, value: object) -> bool:
    """
    Return whether *value* is true.

    Raises:
        TypeError: It does not say; the message begins with *name*.
    """
    try:
        return bool(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        raise TypeError(f"{name}: expected a bool; got a {type(value).__qualname__}") from None
