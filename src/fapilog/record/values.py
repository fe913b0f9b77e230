"""
Any value as a JSON value that can't be changed.

A value that JSON can't express becomes text when the event is made, not when it is written: every event can be stored.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

__all__ = [
    "MAX_DEPTH",
    "MAX_INT_BITS",
    "MAX_VALUES",
    "NO_METADATA",
    "FrozenDict",
    "FrozenList",
    "frozen_mapping",
    "keywords",
    "merged",
    "tags",
    "text",
]

# Deeper than any hand-written metadata; readers such as jq and browsers still follow.
MAX_DEPTH: Final = 64
# More than fit into a record that can be stored.
MAX_VALUES: Final = 500_000
# As many as the exponent of a JSON number that others read as a double may say.
MAX_INT_BITS: Final = 1024


def _refuse(*_: object, **__: object) -> NoReturn:
    raise TypeError("this can't be changed; change a copy of it")


# Subclasses of dict and list, and not a mapping proxy and tuples, so that every JSON library takes them as they are
# and they equal the logged values.


class FrozenDict(dict[str, Any]):
    """A dict that refuses to change."""

    if not TYPE_CHECKING:  # to type checkers it is a dict like any other
        __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


class FrozenList(list[Any]):
    """A list that refuses to change."""

    if not TYPE_CHECKING:
        __setitem__ = __delitem__ = __iadd__ = __imul__ = append = clear = extend = insert = pop = _refuse
        remove = reverse = sort = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenList, (list(self),)


NO_METADATA: Final = FrozenDict()


def text(value: object) -> str:
    """Return *value* as text that UTF-8 can carry, whatever its `str` does."""
    try:
        # Of a subclass of str, an enum for example, the text that it is and not the one that its __str__ makes.
        given = str.__str__(value) if isinstance(value, str) else str(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        given = f"<{type(value).__qualname__} without text>"
    return given.encode("utf-8", "backslashreplace").decode() if not given.isascii() else given


def tags(given: Iterable[object]) -> tuple[str, ...]:
    """Return *given* as a tuple of texts; a single text is a single tag."""
    return (text(given),) if isinstance(given, str) else tuple(text(each) for each in given)


def frozen_mapping(given: Mapping[Any, Any]) -> FrozenDict:
    """
    Return *given* as JSON values that can't be changed.

    Raises:
        ValueError: It holds more values than an event can, or a container that holds itself so often that it would.
    """
    return _Freezer().mapping(given) if given else NO_METADATA


class _Freezer:
    """One walk through one event's metadata; the number of values is counted, since references may share them."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._values = 0

    def mapping(self, given: Mapping[Any, Any]) -> FrozenDict:
        self._parents.append(id(given))
        frozen: dict[str, Any] = {}
        for key, value in given.items():
            name = key if type(key) is str and key.isascii() else _key(key)
            while name in frozen:  # the number 1 and the text "1", say
                name += "_"
            frozen[name] = self._value(value)
        self._parents.pop()
        return FrozenDict(frozen)

    def _sequence(self, given: Iterable[Any]) -> FrozenList:
        self._parents.append(id(given))
        frozen = FrozenList([self._value(each) for each in given])
        self._parents.pop()
        return frozen

    def _value(self, value: object) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise ValueError(f"metadata: expected at most {MAX_VALUES} values; got more")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return text(value)
        if isinstance(value, int):
            # Python refuses to make decimal text of very long ones, and most readers of JSON can't take them.
            return int(value) if value.bit_length() <= MAX_INT_BITS else hex(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else repr(float(value))
        return self._container(value)

    def _container(self, value: object) -> Any:
        if len(self._parents) >= MAX_DEPTH or id(value) in self._parents:
            return text(reprlib.repr(value))
        if isinstance(value, dict):
            return self.mapping(value)
        if isinstance(value, list | tuple | set | frozenset):
            return self._sequence(value)
        try:
            plain = msgspec.to_builtins(value, enc_hook=_repr)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            return _repr(value)
        self._parents.append(id(value))
        frozen = self._value(plain)
        self._parents.pop()
        return frozen


def _key(key: object) -> str:
    return text(key) if isinstance(key, str | int | float) else _repr(key)


def _repr(value: object) -> str:
    try:
        return text(repr(value))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return f"<{type(value).__qualname__} without repr>"


def merged(given: dict[str, Any]) -> dict[str, Any]:
    """Merge the keyword *metadata* into the others, without losing a value."""
    mapping = given.get("metadata")
    if not isinstance(mapping, Mapping):
        return given
    others = {key: value for key, value in given.items() if key != "metadata"}
    taken = {key: value for key, value in mapping.items() if key in others}
    if taken and "metadata" in mapping:
        taken["metadata"] = mapping["metadata"]
    return {**mapping, **others, **({"metadata": taken} if taken else {})}


def keywords(given: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the keywords for `log_event`: *fields*, or the values *given* in their place, and the rest as metadata."""
    found = {**fields, **given}
    clashing = {key: found.pop(key) for key in ("event_type", "message") if key in found}
    if clashing:
        nested = {"metadata": found["metadata"]} if "metadata" in found else {}
        found["metadata"] = merged(clashing | nested)
    return found
