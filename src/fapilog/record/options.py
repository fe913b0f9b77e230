"""The checks of options: one rule per kind of value, and one sentence for a value that breaks it."""

from __future__ import annotations

import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature
from numbers import Number
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .later import imported_later
from .values import UnreadableError, ask, kind_of, one_of

if TYPE_CHECKING:
    from pathlib import Path
else:
    Path = imported_later("pathlib", "Path")

__all__ = [
    "close_matches",
    "did_you_mean",
    "flag",
    "is_async",
    "nearest",
    "require",
    "require_bool",
    "require_callable",
    "require_decorated",
    "require_kind",
    "require_kind_or_none",
    "require_mapping",
    "require_path",
    "require_text",
    "several",
]

_Number = TypeVar("_Number", bound=float)
_Kind = TypeVar("_Kind")
# Characters of a name that are compared.
_LONGEST_NAME: Final = 100
# Of the letters, as difflib counts them: with fewer, "crit" would bring "security" to mind.
_LIKENESS: Final = 0.7


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
    Return *value* if it is a number within the limits that are given; a number that is no int or float, as a float.

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
    # True counts as 1 in Python, but not to the reader of a configuration.
    if _is_bool(value) or (whole and not isinstance(value, int)):
        raise TypeError(f"{name}: expected a {'whole ' if whole else ''}number; got {kind_of(value)}")
    try:
        value = _as_number(value)
        # An int may be larger than any float, and then no clock counts with it.
        finite = finite or sys.float_info.max < abs(value) != math.inf
        # True for a number in range, and so false for NaN.
        is_in_range = (
            (value > above if above is not None else value >= (-math.inf if at_least is None else at_least))
            and value <= (math.inf if at_most is None else at_most)
            and not (finite and abs(value) > sys.float_info.max)
        )
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: expected a number; got {kind_of(value)}") from None
    if not is_in_range:
        limits = (("above", above), ("of at least", at_least), ("of at most", at_most))
        words = " and ".join(f"{word} {limit}" for word, limit in limits if limit is not None)
        raise ValueError(f"{name}: expected a {'finite ' if finite else ''}number {words}; got {value!r}")
    return value


def require_bool(name: str, value: object) -> bool:
    """
    Return *value* if it is True or False; the truth of any other value is a guess: "no" would count as true.

    Raises:
        TypeError: It is neither; the message begins with *name*.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False; got {kind_of(value)}")
    return value


def require_text(name: str, value: object, *, expected: str = "text") -> str:
    """
    Return *value* if it is text.

    Raises:
        TypeError: It is none; the message begins with *name*, and says that *expected* was.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {expected}; got {kind_of(value)}")
    return value


def require_path(name: str, value: object) -> Path:
    """
    Return *value* as a path, with the home directory for a ``~`` at its beginning.

    Raises:
        TypeError: It is neither text nor a path; the message begins with *name*.
        ValueError: It is empty or an address, has a character that no name has, or begins with the home directory of an
            unknown user.
    """
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str):
        raise TypeError(f"{name}: expected a path; got {kind_of(value)}")
    if not given:
        raise ValueError(f"{name}: expected a path; got an empty text")
    if not _can_be_named(given):
        raise ValueError(f"{name}: expected a path; got {given[:100]!r}, which no file can be called")
    # It would be a directory named "postgresql:", and the password of the address the name of another one in it; or a
    # file named ":memory:".
    if address := re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/+|file:|:memory:", given):
        raise ValueError(f"{name}: expected a path; got an address, {address[0]}...")
    from pathlib import Path  # noqa: PLC0415  it loads much, for trails that are in files

    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise ValueError(f"{name}: expected a path in a home directory that is known; got {given!r}") from None


def _can_be_named(path: str) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def require_mapping(name: str, value: object, *, expected: str) -> Mapping[Any, Any]:
    """
    Return *value* if it is a mapping.

    Raises:
        TypeError: It is none; the message begins with *name*, and says that *expected* was.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: expected {expected}; got {kind_of(value)}")
    return value


def require_kind(name: str, value: object, kind: type[_Kind]) -> _Kind:
    """
    Return *value* if it is a *kind*.

    Raises:
        TypeError: It is none; the message begins with *name*.
    """
    if isinstance(value, kind):
        return value
    raise TypeError(f"{name}: expected {one_of(kind)}; got {kind_of(value)}")


def require_kind_or_none(name: str, value: object, kind: type[Any], *, expected: str) -> None:
    """
    Check that *value* is None, or a *kind*.

    Raises:
        TypeError: It is neither; the message begins with *name*, and says that *expected* was, and where the class is.
    """
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name}: expected {expected}; got {kind_of(value)} of {type(value).__module__}")


def require_callable(
    name: str, value: object, *, expected: str, takes: int | None = None, or_none: bool = False
) -> None:
    """
    Check that *value* can be called, and returns its answer, and not a coroutine: that would count as true.

    Args:
        name: The option, with which the message begins.
        value: The value of the option.
        expected: Words on the function that is expected.
        takes: With how many arguments it must be callable; None if that does not matter.
        or_none: Whether None will do.

    Raises:
        TypeError: It can't be called so, or is asynchronous.
    """
    if value is None and or_none:
        return
    if not callable(value):
        raise TypeError(f"{name}: expected {expected}; got {kind_of(value)}")
    if is_async(value):
        raise TypeError(f"{name}: expected {expected}; got an asynchronous one")
    if takes is not None and not _can_take(takes, value):
        words = f"{takes or 'no'} argument{'' if takes == 1 else 's'}"
        raise TypeError(f"{name}: expected {expected}; got one that can't be called with {words}")


def _can_take(number: int, function: Callable[..., object]) -> bool:
    try:
        taken = signature(function)
    except Exception:  # as of some functions in C, which have no signature
        return True
    try:
        taken.bind(*[None] * number)
    except TypeError:
        return False
    return True


def is_async(function: object) -> bool:
    """Return whether *function*, or an object that is called like one, is asynchronous, as far as can be seen."""
    while isinstance(function, functools.partial):
        function = function.func
    return iscoroutinefunction(function) or (callable(function) and iscoroutinefunction(type(function).__call__))


def require_decorated(function: object) -> None:
    """
    Check that a block can be made of every call of *function*.

    Raises:
        TypeError: It is a class, or can't be called; or it is a generator, whose call runs nothing yet.
    """
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"expected a function; got {kind_of(function)}")
    if isgeneratorfunction(function) or isasyncgenfunction(function):
        name = getattr(function, "__qualname__", "")
        raise TypeError(f"expected a function; got the generator {name}: use `with` inside of it")


def several(name: str, value: Any, *, expected: str = "one text, or a list") -> tuple[Any, ...]:
    """
    Return the values of the iterable *value* as a tuple; a text is one value, and not its letters.

    Raises:
        TypeError: It is no iterable, or bytes; the message begins with *name*, and says that *expected* was.
    """
    if isinstance(value, str):
        return (value,)
    if isinstance(value, bytes | bytearray) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected {expected}; got {kind_of(value)}")
    return tuple(value)


def did_you_mean(given: str, possible: Iterable[str]) -> str:
    """Return the end of a message about the name *given*, with the nearest of the *possible* names; else ""."""
    found = nearest(given, possible)
    return "" if found is None else f"; did you mean {found}?"


def nearest(given: str, possible: Iterable[str]) -> str | None:
    """Return which of the *possible* names is nearly the one *given*; None if none is."""
    names, name = {each.lower(): each for each in possible}, str.lower(given)[:_LONGEST_NAME]
    begun = [each for each in names if len(name) > 2 and each.startswith(name)]  # noqa: PLR2004  "a" is no hint
    found = begun or close_matches(name, names, likeness=_LIKENESS)
    return names[found[0]] if found else None


def close_matches(name: str, possible: Iterable[str], *, likeness: float) -> list[str]:
    """Return the nearest of the *possible* names, if it is near enough to *name*."""
    try:
        import difflib  # noqa: PLC0415  it loads much, for errors alone
    except (OSError, ImportError):
        # No file descriptor is left to read it from, or the interpreter exits. An event is not lost for a hint.
        return []
    return difflib.get_close_matches(name, possible, 1, likeness)


def _is_bool(value: object) -> bool:
    # In a function, since type checkers take no float for a bool, and the question for a mistake.
    return isinstance(value, bool)


def _as_number(value: Any) -> Any:
    """Return *value* as a number that can be added to the time: a Decimal can only be compared with it."""
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Number):
        return float(value)  # type: ignore[arg-type]
    raise TypeError


def flag(name: str, value: object) -> bool:
    """
    Return whether *value*, which is to be recorded, is true.

    Raises:
        TypeError: It does not say, or is a text: "false" would be true. The message begins with *name*.
    """
    if value is True or value is False:
        return value
    if not issubclass(type(value), str | bytes):
        with suppress(UnreadableError):
            return ask(bool, value)
    raise TypeError(f"{name}: expected a bool; got {kind_of(value)}")
