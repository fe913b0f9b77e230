"""
The border to values of others, any value as text, and JSON values that can't be changed.

A value that can't be read has its type and the type of its error in its place.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from .limit import within_limit

__all__ = [
    "LEAST_TEXT",
    "MAX_TAGS",
    "NO_METADATA",
    "FrozenDict",
    "FrozenList",
    "UnreadableError",
    "ask",
    "cut",
    "escaped",
    "given_tags",
    "given_text",
    "kind_of",
    "mark_of",
    "name_of",
    "one_of",
    "original",
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
        return str.__str__(ask(_of_container if _is_container(kind) else str, value))
    except UnreadableError as error:
        return str(error)


# Far more values than any text that is kept shows.
_MAX_SHOWN: Final = 200_000


def _is_container(kind: type) -> bool:
    return kind is list or kind is dict or kind is tuple or kind is set or kind is frozenset


def _of_container(value: Any) -> str:
    """Return the text of a container; where containers share others, and those again, no memory might hold it."""
    left, waiting = _MAX_SHOWN, [value]
    while waiting:
        container = waiting.pop()
        inner = [*container, *container.values()] if type(container) is dict else container
        left -= len(inner)
        if left < 0:
            return f"<{name_of(type(value))}, too large>"
        waiting += [each for each in inner if _is_container(type(each))]
    return str(value)


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


def escaped(given: str) -> str:
    r"""
    Return *given* with lone surrogates as escapes, from which `original` makes *given* again.

    A lone surrogate, as `os.fsdecode` makes of a byte that is no UTF-8, becomes `\udcff`. Backslashes in front of it
    are doubled, and so are backslashes in front of the characters `udcff`: no two texts become one. All else stays.
    """
    if "\\" in given:
        # With a call for each, a text full of them would take seconds.
        parts = _doubled().split(given)
        parts[1::2] = [slashes * 2 for slashes in parts[1::2]]
        given = "".join(parts)
    return given.encode("utf-8", "backslashreplace").decode()


@cache
def _doubled() -> re.Pattern[str]:
    # All backslashes in front of a lone surrogate, or of the characters that its escape has. Possessive, and only from
    # the first of them, so that every backslash is looked at once.
    return re.compile(r"(?<!\\)(\\++)(?=ud[89a-f][0-9a-f]{2}|[\ud800-\udfff])")


def original(stored: str) -> str:
    """Return the text that was given to the trail, lone surrogates included, from the one that it *stored*."""
    return re.sub(r"(\\++)(?:u(d[89a-f][0-9a-f]{2}))?", _original, stored)


def _original(found: re.Match[str]) -> str:
    slashes, digits = found.groups()
    if digits is None:
        return slashes
    return slashes[: len(slashes) // 2] + (chr(int(digits, 16)) if len(slashes) % 2 else f"u{digits}")


def mark_of(given: str) -> str:
    """Return the length and hash of *given*, a text that is cut."""
    from hashlib import sha256  # noqa: PLC0415  as in `chain`

    return f"({len(given)} characters, sha256 {sha256(given.encode('utf-8', 'surrogatepass')).hexdigest()})"


def cut(given: str, limit: int, *, keep_end: bool = False, mark: Callable[[str], str] = mark_of) -> str:
    """
    Return *given*, or as much of it as has *limit* characters together with its length and hash.

    Args:
        given: A text without lone surrogates.
        limit: The most characters to return; at least 128.
        keep_end: Whether the end is kept, and not the beginning.
        mark: Returns the length and hash: `mark_of`, or a cache of it.
    """
    if len(given) <= limit:
        return given
    words = mark(given)
    kept = limit - len(words) - 2
    return f"{words} …{given[-kept:]}" if keep_end else f"{given[:kept]}… {words}"


def tags(given: object) -> tuple[str, ...]:
    """Return *given*, an iterable of texts, as a tuple of texts; anything else, a text too, is a single tag."""
    return tuple(map(text, given_tags(given)))


def given_tags(given: object) -> list[str]:
    """Return the tags of *given* as `tags` does, with the lone surrogates that they have."""
    try:
        found = ask(_first_tags, given)
    except UnreadableError as error:
        return [str(error)]
    more = [f"… (more than {MAX_TAGS} tags)"] if len(found) > MAX_TAGS else []
    return [*map(given_text, found[:MAX_TAGS]), *more]


def _first_tags(given: Any) -> list[object]:
    if issubclass(type(given), str | bytes) or not hasattr(type(given), "__iter__"):
        return [given]
    return list(itertools.islice(given, MAX_TAGS + 1))
