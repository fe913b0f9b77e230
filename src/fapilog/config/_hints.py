"""The annotations of our constructors, read for plain values such as those of a configuration file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, NamedTuple, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

from ..core.alerting import AlertDispatcher
from ..delivery.route import Condition
from ..record.options import nearest
from ..record.privacy import ADDRESS

__all__ = [
    "DISPATCHER",
    "KEYS",
    "STORAGE",
    "Accepted",
    "Hint",
    "accepted",
    "arms",
    "expected",
    "in_table",
    "inside_many",
    "is_enum",
    "is_plain",
    "is_routes",
    "is_secret",
    "is_storage",
    "is_text",
    "meant",
    "origin",
]

KEYS: Final = {"storage_path": "path", "alert_dispatcher": "dispatcher"}
"""The keys of a trail's arguments that are shorter: in its table, nothing else has a path or a dispatcher."""

Hint: TypeAlias = Any
"""An annotation, as `typing` returns it."""

_SCALARS: Final = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
_MANY: Final = (Sequence, Collection, Iterable)
DISPATCHER: Final = 'a table with a "type", or the name of one of the dispatchers'
STORAGE: Final = 'a table with a "type"'


class Accepted(NamedTuple):
    """
    One option of a constructor.

    Attributes:
        name: The name of the argument.
        hint: Its annotation.
        required: Whether it has no default.
        public: Whether it may be text though it takes a secret: its default is a text, or it is marked as an address.
    """

    name: str
    hint: Hint
    required: bool
    public: bool


def accepted(make: Callable[..., Any], names: Mapping[str, str] | None = None) -> dict[str, Accepted]:
    """
    Return the options of *make* that plain values can say, by their keys in a configuration.

    Args:
        make: A class, or a function.
        names: The keys of arguments whose key is not their name.
    """
    function = cast(Any, make).__init__ if isinstance(make, type) else make
    hints = get_type_hints(function)
    marked = get_type_hints(function, include_extras=True)
    found: dict[str, Accepted] = {}
    for name, parameter in signature(make).parameters.items():
        if parameter.kind in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} or not is_plain(hints[name]):
            continue
        default = parameter.default
        is_public = isinstance(default, str) or ADDRESS in getattr(marked[name], "__metadata__", ())
        found[(names or {}).get(name, name)] = Accepted(name, hints[name], default is Parameter.empty, is_public)
    return found


def arms(hint: Hint) -> list[Hint]:
    """Return the alternatives of a union, None left out; of another hint, itself."""
    return [arm for arm in get_args(hint) if arm is not NoneType] if _is_union(hint) else [hint]


def origin(hint: Hint) -> Any:
    """Return the generic type of *hint*; None if it has none."""
    return get_origin(hint)


def _is_union(hint: Hint) -> bool:
    return origin(hint) in {Union, UnionType}


def is_secret(hint: Hint) -> bool:
    """Return whether *hint* is that of a secret: text, or a function that returns it."""
    return str in arms(hint) and any(get_args(arm) == ([], str) for arm in arms(hint))


def inside_many(hint: Hint) -> Hint | None:
    """Return the hint of the items, if *hint* takes a list of them; None if it takes none."""
    return next((get_args(arm)[-1] for arm in arms(hint) if origin(arm) in _MANY), None)


def is_text(hint: Hint) -> bool:
    """Return whether *hint* takes a text that is written like one, and not like a number."""
    arm = next(arm for arm in arms(hint) if is_plain(arm))
    return arm in {str, Path} or origin(arm) is Literal or is_enum(arm)


def is_enum(hint: Hint) -> bool:
    """Return whether *hint* is an enum."""
    return isinstance(hint, type) and issubclass(hint, Enum)


def meant(key: str, possible: Mapping[str, Accepted]) -> tuple[str, ...]:
    """Return the keys, one in the table of the other, that lead to the option that *key* may stand for; () for none."""
    # Some keys are shorter than the arguments that they stand for.
    named = next((each for each, option in possible.items() if option.name == key), key)
    if (near := nearest(named, possible)) is not None:
        return (near,)
    return in_table(key, possible)


def in_table(key: str, possible: Mapping[str, Accepted]) -> tuple[str, ...]:
    """Return the key of a table among the *possible* options, and the *key* that is an option in there; () for none."""
    tables = ((each, arm) for each, option in possible.items() for arm in arms(option.hint) if is_dataclass(arm))
    return next(((table, key) for table, arm in tables if key in accepted(cast(type, arm))), ())


def is_plain(hint: Hint) -> bool:
    """Return whether *hint* takes plain values: no function, and no object that we can't make."""
    return any(
        arm in {*_SCALARS, AlertDispatcher}
        or is_dataclass(arm)
        or is_enum(arm)
        or is_storage(arm)
        or origin(arm) is Literal
        or (origin(arm) in {*_MANY, Mapping} and is_plain(get_args(arm)[-1]))
        for arm in arms(hint)
    )


def expected(hint: Hint) -> str:
    """Return the words for the values that *hint* takes."""
    arm = next(arm for arm in arms(hint) if is_plain(arm))
    if origin(arm) is Literal:
        return f"one of {', '.join(get_args(arm))}"
    if origin(arm) in _MANY:
        return f"a list of: {expected(get_args(arm)[-1])}"
    if origin(arm) is Mapping:
        return "a list of tables" if is_routes(arm) else "a table"
    kinds = {**_SCALARS, AlertDispatcher: DISPATCHER}
    return STORAGE if is_storage(arm) else kinds.get(arm, "a table")


def is_storage(hint: Hint) -> bool:
    """Return whether *hint* is that of a storage: `AuditStorage`, or a class that is one."""
    return isinstance(hint, type) and all(hasattr(hint, name) for name in ("append", "read_lines"))


def is_routes(hint: Hint) -> bool:
    """Return whether *hint* is that of dispatchers by conditions."""
    return bool(get_args(hint) == (Condition, AlertDispatcher))
