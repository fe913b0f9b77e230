"""
Reading the values of containers and objects of any kind, with all values of a name.

No method is called that a subclass of a dict, a list, a tuple or a set has in the place of theirs, unless it keeps its
values elsewhere. All other reading may raise anything.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec

from .values import MAX_INT_BITS, MAX_MADE, UnreadableError, ask, not_read, shown

__all__ = [
    "MAX_BYTES",
    "MAX_PAIRS",
    "SCALARS",
    "Found",
    "as_dict",
    "free_name",
    "items_of",
    "key_of",
    "mapping_of",
    "members_of",
    "named",
    "read_mapping",
    "sequence_of",
]

# Of the longest record.
MAX_BYTES: Final = 1 << 20
# Types that msgspec converts to text.
SCALARS: Final = (datetime, date, time, timedelta, UUID, Decimal, bytes, bytearray, memoryview)

Found: TypeAlias = tuple[Collection[Any], int]
"""The values read from a container, and how many it has; negative if it has more than so many."""

# As many pairs as a record holds by default: each takes five bytes at least.
MAX_PAIRS: Final = 262_144 // 5
# To read a container that another thread changes.
_ATTEMPTS: Final = 20
# How multi-dicts give all values of a name: Django, Werkzeug and Starlette; multidict (aiohttp); email and wsgiref.
_ALL_OF_A_NAME: Final = ("getlist", "getall", "get_all")


# *most*, in all these functions, are the values that are read at most.


def read_mapping(given: object, most: int = MAX_PAIRS) -> Found | None:
    """Read the pairs of a mapping of any kind; return None if *given* is none, or can't be read."""
    kind = type(given)
    if kind is str:
        return None
    try:
        return ask(mapping_of, given, kind, most)
    except UnreadableError:
        return None


def as_dict(given: object, most: int = MAX_PAIRS) -> dict[str, Any] | None:
    """Return *given*, a mapping of any kind, with its keys as texts; None if it is none, too large, or unreadable."""
    pairs, size = read_mapping(given, most) or ((), -1)
    return named(pairs) if len(pairs) == size else None


def named(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return *pairs* as a dict with their keys as texts."""
    found: dict[str, Any] = {}
    taken: dict[str, int] = {}
    made = 0
    for key, value in pairs:
        is_text = issubclass(type(key), str)
        name = key_of(key) if is_text or made <= MAX_MADE else not_read(key)
        made += 0 if is_text else len(name)
        found[free_name(name, found, taken)] = value
    return found


def free_name(name: str, used: Mapping[str, Any], taken: dict[str, int]) -> str:
    """Return *name*, with a suffix if it is *used*: by the number 1 and the text "1", say. *taken* counts suffixes."""
    found = name
    while found in used:
        number = taken[name] = taken.get(name, 0) + 1
        found = f"{name}_" if number == 1 else f"{name}_{number}"
    return found


def _at_most(values: Iterable[Any], most: int) -> Found:
    read = list(itertools.islice(values, most + 1))
    return (read, len(read)) if len(read) <= most else (read[:most], -most)


def _undisturbed(read: Callable[[Any], Iterable[Any]], given: Any, most: int) -> list[Any]:
    """Read a built-in container, which the interpreter does in one step, unless a finalizer lets other threads run."""
    for _ in range(_ATTEMPTS):
        try:
            return list(itertools.islice(read(given), most))
        except RuntimeError:  # it changed meanwhile
            continue
    return list(itertools.islice(read(given), most))


def items_of(given: dict[Any, Any], most: int) -> Found:
    """Read the pairs that are really in a dict."""
    size = dict.__len__(given)
    read = _undisturbed(dict.items, given, most)
    return read, max(len(read), size) if len(read) == most else len(read)


def sequence_of(value: Any, kind: type, most: int) -> Found | None:
    """Read the values of a list, tuple or set; return None if *value* is none of them."""
    if issubclass(kind, list):
        read = list.__getitem__(value, slice(most))
        if not read and getattr(kind, "__iter__", None) is not list.__iter__:
            # A lazy one, with nothing inside.
            return _at_most(iter(value), most)
        return read, max(len(read), list.__len__(value)) if len(read) == most else len(read)
    if issubclass(kind, tuple):
        return list(tuple.__getitem__(value, slice(most))), tuple.__len__(value)
    for base in (set, frozenset):
        if issubclass(kind, base):
            read = _undisturbed(base.__iter__, value, most)
            return read, max(len(read), base.__len__(value)) if len(read) == most else len(read)
    return None


def mapping_of(value: Any, kind: type, most: int) -> Found | None:
    """Read the pairs of a mapping of any kind; return None if *value* is none."""
    found: Found | None = None
    if issubclass(kind, dict):
        found = items_of(value, most)
    looks_like_one = hasattr(kind, "keys") and hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    all_of = next((name for name in _ALL_OF_A_NAME if hasattr(kind, name)), None)
    if looks_like_one and all_of:
        return _at_most(_multiple(value, getattr(value, all_of), most), most)
    # Its own `items` might raise, or leave out values. A lazy one, with nothing inside, is asked.
    if found is not None and (found[0] or getattr(kind, "items", None) is dict.items):
        return found
    is_mapping = issubclass(kind, Mapping)
    if is_mapping or (looks_like_one and hasattr(kind, "items")):
        # In one step, as another thread may change the dict behind a view of it; then the pairs are looked at.
        read, size = _at_most(value.items(), most)
        found = [(key, each) for key, each in read], size
        if not is_mapping and not _has_names(value, read):
            return None
    elif looks_like_one:
        # sqlite3.Row, for example, whose iterator yields the values.
        found = _at_most(((key, value[key]) for key in value.keys()), most)  # noqa: SIM118
    elif hasattr(kind, "_mapping") and hasattr(kind, "_fields"):
        # A row of SQLAlchemy, whose attributes are its columns, except for names with an underscore.
        found = _at_most(((key, each) for key, each in value._mapping.items()), most)  # noqa: SLF001
    return found


def _has_names(value: Any, pairs: Iterable[tuple[Any, Any]]) -> bool:
    """Return whether *value* has what the names in *pairs* say; in an element of XML they are those of attributes."""
    try:
        return bool([value[name] for name, _ in itertools.islice(pairs, 1)])
    except Exception:
        return False


def _multiple(value: Any, all_of: Callable[[Any], Iterable[Any]], most: int) -> Iterator[tuple[Any, list[Any]]]:
    # Always a list, as `urllib.parse.parse_qs` has it: one value and two must not have two shapes.
    for name in dict.fromkeys(itertools.islice(value.keys(), most + 1)):
        values = all_of(name)
        yield name, values if type(values) is list else list(itertools.islice(values, most + 1))


def members_of(value: Any, kind: Any, most: int) -> Found | None:
    """Read the fields of an object whose class says which it has; return None for any other."""
    if issubclass(kind, msgspec.Struct):
        names = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    elif hasattr(kind, "__dataclass_fields__"):
        names = {field.name: field.name for field in dataclasses.fields(kind)}
    elif hasattr(kind, "__attrs_attrs__"):
        names = {field.name: field.name for field in kind.__attrs_attrs__}
    elif hasattr(kind, "__pydantic_validator__"):
        # Fields that pydantic never dumps are often secrets.
        names = {name: name for name, field in kind.model_fields.items() if not field.exclude}
        extra = value.__pydantic_extra__
        return _at_most([*((name, _attribute(value, name)) for name in names), *(extra.items() if extra else ())], most)
    else:
        return None
    return _at_most(((label, _attribute(value, name)) for label, name in names.items()), most)


def _attribute(value: object, name: str) -> Any:
    try:
        return ask(getattr, value, name)
    except UnreadableError as error:
        return str(error)


def key_of(key: Any) -> str:
    """Return the text that stands for *key*, which may have lone surrogates; as a value reads, where there is one."""
    kind = type(key)
    if issubclass(kind, str):
        return str.__str__(key)
    if kind is int:
        return _words_of(key)
    try:
        return ask(_words_of, key)
    except UnreadableError as error:
        return str(error)


def _words_of(key: Any) -> str:
    kind = type(key)
    if issubclass(kind, Enum) and not issubclass(kind, int):
        return key_of(key.value)
    if issubclass(kind, int) and kind is not bool:
        number = int.__int__(key)
        return str(number) if number.bit_length() <= MAX_INT_BITS else hex(number)
    if issubclass(kind, SCALARS):
        return str(msgspec.to_builtins(key, enc_hook=repr))
    return shown(key)
