"""
The border to values of others, any value as text, and JSON values that can't be changed.

A value that can't be read has its type and the type of its error in its place.
"""

from __future__ import annotations

import gc
import itertools
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from .limit import within_limit

__all__ = [
    "LEAST_TEXT",
    "MAX_INT_BITS",
    "MAX_MADE",
    "MAX_TAGS",
    "NO_METADATA",
    "FrozenDict",
    "FrozenList",
    "UnreadableError",
    "args_length",
    "ask",
    "given_tags",
    "given_text",
    "kind_of",
    "name_of",
    "not_read",
    "one_of",
    "shown",
    "tags",
    "text",
    "unreadable",
]

T = TypeVar("T")

# Characters of the name of a class; more are never needed.
_MAX_NAME: Final = 100
# The fewest characters to which a text is cut; a hash takes a hundred of them.
LEAST_TEXT: Final = 256
# More tags than any event has; an endless iterator must end.
MAX_TAGS: Final = 1000
# Characters of the texts that are made of the values of one event, each of which may be long; then no more are made.
MAX_MADE: Final = 1 << 24
# As many as fit into a double, as which other programs read the numbers of JSON.
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


class UnreadableError(Exception):
    """Raised for a value that can't be read; its text is that of `unreadable`."""


def ask(question: Callable[..., T], value: object, *more: object) -> T:
    """
    Return the answer of *question*, called with *value* and *more*: the border to code of others in a value.

    Raises:
        UnreadableError: It raised anything else than `KeyboardInterrupt` and `SystemExit`, or took ten seconds.
    """
    try:
        return within_limit(question, value, *more)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        words = unreadable(value, error)
    raise UnreadableError(words)


def unreadable(value: object, error: BaseException) -> str:
    """Return the text for a *value* that raised *error* when it was read."""
    return f"<{name_of(type(value))}, unreadable: {name_of(type(error))}>"


def not_read(value: object) -> str:
    """Return the text for a *value* that is not asked, since values before it made very long texts."""
    return f"<{name_of(type(value))}, not read>"


def text(value: object) -> str:
    """
    Return *value* as text that UTF-8 can carry, whatever its `str` does.

    A lone surrogate becomes its escape, which can't be distinguished from the same six characters in a text; see
    `escaped`, which the trail uses for recorded values.
    """
    given = given_text(value)
    return given if given.isascii() else given.encode("utf-8", "backslashreplace").decode()


def given_text(value: Any) -> str:
    """Return *value* as text, which may have lone surrogates, whatever its `str` does."""
    kind = type(value)
    # Of a subclass of str, an enum for example, the text that it is and not the one that its __str__ makes.
    if issubclass(kind, str):
        return str.__str__(value)
    # The ids of most tables.
    if kind is int and 0 <= value < 1 << 63:
        return str(value)
    try:
        return ask(_text_of, value)
    except UnreadableError as error:
        return str(error)


def _text_of(value: Any) -> str:
    kind = type(value)
    if _values_in(kind) and _method(kind, "__str__") is object.__str__:
        return shown(value)
    if kind is int:
        return _digits(value)
    # The text of most exceptions is that of their arguments, which may be any containers.
    if issubclass(kind, BaseException):
        args, method = _ARGS.__get__(value), _method(kind, "__str__")
        if method is BaseException.__str__ and args:
            return _text_of(args[0]) if len(args) == 1 else shown(args)
        if method is KeyError.__str__ and len(args) == 1:
            return shown(args[0])
    if kind is MappingProxyType:
        return _text_of(*gc.get_referents(value))
    return str.__str__(str(value))


def _digits(number: int) -> str:
    # Python takes very long for the digits of a long one, or refuses.
    return str(number) if number.bit_length() <= _MAX_DIGITS_BITS else hex(number)


def shown(value: object) -> str:
    """
    Return what `repr` makes of *value*, or a name in its place if it is a container with more than `_MAX_SHOWN` in it.

    Where containers share others, and those again, no memory might hold the text that the interpreter makes.
    """
    try:
        return _Shown().text_of(value)
    except _TooLargeError:
        return f"<{name_of(type(value))}{_TOO_LARGE}"


_TOO_LARGE: Final = ", too large>"


def args_length(value: Any) -> int:
    """Return the characters of the text of *value*, an exception or its notes, as far as Python makes it of values."""
    kind, args = type(value), value
    if issubclass(kind, BaseException):
        # The text of a group has its message alone.
        args = _ARGS.__get__(value)[: 1 if issubclass(kind, BaseExceptionGroup) else None]
    if type(args) is str:
        return len(args)
    read = _values_in(type(args))
    if read is None:
        return 0
    parts = list(itertools.islice(read(args), _MAX_PARTS + 1))
    try:
        length = sum(map(_length, parts))
    except _TooLargeError:
        return sys.maxsize
    return length if len(parts) <= _MAX_PARTS else sys.maxsize


_MAX_PARTS: Final = 1000


def _length(value: Any) -> int:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is int:
        return int.bit_length(value) // 3
    # An object of others is not asked once more.
    is_ours = _values_in(kind) or issubclass(kind, BaseException)
    return len(_Shown().text_of(value)) if is_ours else 0


class _TooLargeError(Exception):
    pass


# Characters of a container's text; as many as a message has by default.
_MAX_SHOWN: Final = 1 << 16
# Of the numbers that Python shows in decimal digits: https://docs.python.org/3/library/stdtypes.html#int-max-str-digits
_MAX_DIGITS_BITS: Final = 14_000
# As Python reads them: a subclass may have a property of this name.
_ARGS: Final = vars(BaseException)["args"]
# Past a metaclass that answers by itself.
_method: Final[Callable[[type, str], object]] = type.__getattribute__


def _is_container(kind: type) -> bool:
    return kind is list or kind is dict or kind is tuple or kind is set or kind is frozenset


def _flat(mapping: dict[Any, Any]) -> Iterable[Any]:
    return itertools.chain.from_iterable(dict.items(mapping))


# How the values are read of which the interpreter makes the text of a container. It makes no step of Python between
# them, so that no limit in time ends it. By the ids of the methods, which those of others might claim to equal.
_VALUES_IN: Final[dict[int, Callable[[Any], Iterable[Any]]]] = {
    **{id(kind.__repr__): kind.__iter__ for kind in (list, tuple, set, frozenset, deque)},
    **{id(kind.__repr__): _flat for kind in (dict, OrderedDict, defaultdict)},
    **{id(type(view).__repr__): iter for view in (NO_METADATA.keys(), NO_METADATA.values(), NO_METADATA.items())},
    **{id(kind.__repr__): gc.get_referents for kind in (MappingProxyType, SimpleNamespace)},
    id(BaseException.__repr__): _ARGS.__get__,
}


def _values_in(kind: type) -> Callable[[Any], Iterable[Any]] | None:
    return _VALUES_IN.get(id(_method(kind, "__repr__")))


def _least_length(value: Any, most: int, known: dict[int, int]) -> int:
    """
    Return how many characters the text of *value* has at least, wherever a container in it stands how often.

    Args:
        value: The value.
        most: The most characters.
        known: The lengths of the containers that were looked at.

    Raises:
        _TooLargeError: It has more than *most*.
    """
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    read = _values_in(kind)
    if read is None:
        return 1
    if id(value) not in known:
        # In itself it is shown as "...".
        known[id(value)] = length = 1
        for each in read(value):
            # And a comma and a space.
            length += _least_length(each, most, known) + 2
            if length > most + 2:
                raise _TooLargeError
        known[id(value)] = length
    return known[id(value)]


class _Shown:
    """The text of a container, or of an exception with one in its arguments; every value in it is asked once."""

    def __init__(self) -> None:
        self._left = _MAX_SHOWN
        self._around: list[int] = []

    def text_of(self, value: Any) -> str:
        kind = type(value)
        if _is_container(kind):
            return self._container(value, kind)
        if issubclass(kind, BaseException) and _method(kind, "__repr__") is BaseException.__repr__:
            args = self._container(_ARGS.__get__(value), tuple)
            return f"{name_of(kind).rpartition('.')[2]}{args[:-2] + ')' if args.endswith(',)') else args}"
        if self._around and (kind is str or kind is bytes):
            self._take(len(value))
        if _values_in(kind):
            _least_length(value, self._left, {})
        text = _digits(value) if kind is int else str.__str__(repr(value))
        if self._around:
            self._take(len(text))
        return text

    def _take(self, characters: int) -> None:
        self._left -= characters
        if self._left < 0:
            raise _TooLargeError

    def _container(self, value: Any, kind: type) -> str:
        first, last = _BRACKETS[kind]
        if id(value) in self._around:
            return f"{first}...{last}"
        self._around.append(id(value))
        # A comma and a space at least for each.
        most = self._left // 2 + 1
        if kind is dict:
            pairs = list(itertools.islice(value.items(), most))
            found = [f"{self.text_of(key)}: {self.text_of(each)}" for key, each in pairs]
        else:
            found = [self.text_of(each) for each in list(itertools.islice(value, most))]
        self._around.pop()
        self._take(len(found) * 2 + 2)
        if not found and (kind is set or kind is frozenset):
            return f"{kind.__name__}()"
        return f"{first}{', '.join(found)}{',' if kind is tuple and len(found) == 1 else ''}{last}"


_BRACKETS: Final[dict[type, Any]] = {list: "[]", dict: "{}", tuple: "()", set: "{}", frozenset: ("frozenset({", "})")}


def name_of(kind: type) -> str:
    """Return the qualified name of the class *kind*, without its module."""
    try:
        # Not by `kind.__qualname__`, which a metaclass may answer.
        name = type.__dict__["__qualname__"].__get__(kind)
        return str.__str__(name)[:_MAX_NAME].encode("utf-8", "backslashreplace").decode()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return "object"


def kind_of(value: object) -> str:
    """Return the words for a wrong *value* in a message: "a str", "an int", "the class Pager", "None"."""
    if value is None:
        return "None"
    kind = type(value)
    if issubclass(kind, type):  # not isinstance, which asks the value, and runs its code
        named: Any = value
        return f"the class {name_of(named)}"
    return one_of(kind)


def one_of(kind: type) -> str:
    """Return the words for a value of the class *kind* in a message: "a str", "an AuditTrail"."""
    name = name_of(kind)
    return f"{'an' if name[:1] in set('AEIOaeiou') else 'a'} {name}"


def tags(given: object) -> tuple[str, ...]:
    """Return *given*, an iterable of texts, as a tuple of texts; anything else, a text too, is a single tag."""
    return tuple(map(text, given_tags(given)))


def given_tags(given: object) -> list[str]:
    """Return the tags of *given* as `tags` does, with the lone surrogates that they have."""
    try:
        found = ask(_first_tags, given)
    except UnreadableError as error:
        return [str(error)]
    texts: list[str] = []
    made = 0
    for tag in found[:MAX_TAGS]:
        is_text = issubclass(type(tag), str)
        if made > MAX_MADE and not is_text:
            texts.append(not_read(tag))
            continue
        texts.append(given_text(tag))
        if not is_text:
            # As much is looked at before a container is too large.
            made += _MAX_SHOWN if texts[-1].endswith(_TOO_LARGE) else len(texts[-1])
    return [*texts, f"… (more than {MAX_TAGS} tags)"] if len(found) > MAX_TAGS else texts


def _first_tags(given: Any) -> list[object]:
    # A text may be no str: a lazy translation of Django, for example.
    if hasattr(type(given), "splitlines") or not hasattr(type(given), "__iter__"):
        return [given]
    return list(itertools.islice(given, MAX_TAGS + 1))
