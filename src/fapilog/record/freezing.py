"""
Any object as JSON values that can't be changed.

A walk copies the values that it reads, contains their exceptions, and is bounded in depth and in bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Final

import msgspec

from .containers import (
    MAX_BYTES,
    SCALARS,
    Found,
    free_name,
    items_of,
    key_of,
    mapping_of,
    members_of,
    read_mapping,
    sequence_of,
)
from .values import (
    LEAST_TEXT,
    MAX_INT_BITS,
    MAX_MADE,
    FrozenDict,
    FrozenList,
    UnreadableError,
    ask,
    name_of,
    not_read,
    shown,
    text,
    unreadable,
)

__all__ = ["MAX_DEPTH", "Walk", "frozen_mapping", "plain"]

# Deeper than any hand-written metadata; readers such as jq and browsers still follow.
MAX_DEPTH: Final = 64
_LONG: Final = 1 << 63
_LEAVES: Final = (float, int, str, *SCALARS)
# Not the classes: compared with another one, its metaclass may have an `__eq__`.
_OURS: Final = frozenset(map(id, SCALARS))
# The most values of metadata that count as small, and are copied without a `Walk`.
_MAX_PLAIN: Final = 64
_encode: Final = msgspec.json.Encoder().encode


def frozen_mapping(given: object) -> FrozenDict:
    """Return *given*, a mapping, as JSON values that can't be changed."""
    # As many as the longest record has: a `Walk` takes three times as long for them.
    frozen = plain(given, MAX_BYTES)
    if frozen is not None:
        with suppress(UnicodeEncodeError):
            _encode(frozen)
            return frozen
    return Walk(lambda each, _: (text(each), False)).root(given)


def plain(given: object, most: int = _MAX_PLAIN) -> FrozenDict | None:
    """Return *given*, texts as they are, if it is a dict of nothing but *most* of JSON's own types; else None."""
    try:
        return _plain_dict(given, [most], 1) if type(given) is dict else None
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # by a key that can't be compared, too
        return None


class _NotPlainError(Exception):
    pass


def _plain_dict(given: dict[Any, Any], room: list[int], depth: int) -> FrozenDict:
    # Before it is copied: it may be very large. A container that holds itself has no end either.
    room[0] -= len(given) + 1
    if room[0] < 0 or depth > MAX_DEPTH:
        raise _NotPlainError
    # A copy: another thread may change the original.
    frozen = FrozenDict(given)
    for key, value in frozen.items():
        if type(key) is not str:
            raise _NotPlainError
        kind = type(value)
        if not (kind is str or value is None or kind is bool or (kind is int and -_LONG <= value < _LONG)):
            dict.__setitem__(frozen, key, _plain(value, kind, room, depth))
    return frozen


def _plain(value: Any, kind: type, room: list[int], depth: int) -> Any:
    if kind is dict:
        return _plain_dict(value, room, depth + 1)
    if kind is float and math.isfinite(value):
        return value
    if kind is not list:
        raise _NotPlainError
    room[0] -= len(value) + 1
    if room[0] < 0 or depth >= MAX_DEPTH:
        raise _NotPlainError
    frozen = FrozenList(value)
    for place, each in enumerate(frozen):
        kind = type(each)
        if not (kind is str or each is None or kind is bool or (kind is int and -_LONG <= each < _LONG)):
            list.__setitem__(frozen, place, _plain(each, kind, room, depth + 1))
    return frozen


class Walk:
    """
    One walk through the metadata of one event.

    Args:
        storable: Makes any text and name storable, with so many characters at most, and returns whether it was cut.
            None leaves them as they are.
        max_text: The most characters of a text.
        max_name: The most characters of a name in a mapping.
        room: The most bytes of JSON that the values take at the very least: with no character escaped, and with texts
            cut to `LEAST_TEXT`. A count stands in the place of the omitted values. So the time for a walk is bounded
            too, whatever holds what how often; and so is that for values that are read, and then omitted.
        counts: The `counts` of an earlier walk, through whose result this one goes.

    Attributes:
        room: The bytes that are left of it.
        more: The characters that the longer texts, as far as they are kept, have beyond `LEAST_TEXT`, in all.
        cut: The names of the root, as far as something was cut there.
        counts: How many values the containers had in which some were left out, by the id of the result.
    """

    __slots__ = (
        "_cuts",
        "_known",
        "_long",
        "_made",
        "_max_name",
        "_max_text",
        "_parents",
        "_storable",
        "_unread",
        "counts",
        "cut",
        "more",
        "room",
    )

    def __init__(
        self,
        storable: Callable[[str, int], tuple[str, bool]] | None = None,
        *,
        max_text: int = sys.maxsize,
        max_name: int = sys.maxsize,
        room: int = MAX_BYTES,
        counts: Mapping[int, int] | None = None,
    ) -> None:
        self._storable = storable
        self._max_text = max_text
        self._max_name = max_name
        self._unread = room
        self._made = 0
        self._known = counts
        self._long: dict[int, tuple[object, str]] = {}
        self._cuts = 0
        self._parents: list[int] = []
        self.room: int = room
        self.more: int = 0
        self.cut: list[str] = []
        self.counts: dict[int, int] = {}

    def root(self, given: object) -> FrozenDict:
        """Return *given*, a mapping, as JSON values; if it is none, or can't be read, it is the value of "metadata"."""
        found = read_mapping(given, self._most_pairs)
        if found is None:
            return self._frozen_dict(([("metadata", given)], 1), None, self.cut)
        self._parents.append(id(given))
        return self._frozen_dict(found, given, self.cut)

    # -- containers

    @property
    def _most(self) -> int:
        """The most values for which there is room, and one more."""
        return max(0, min(self.room // 2, self._unread)) + 1

    @property
    def _most_pairs(self) -> int:
        """The same for pairs, each of which has five bytes at least."""
        return max(0, min(self.room // 5, self._unread)) + 1

    def _frozen_dict(self, found: Found, given: object, cuts: list[str] | None = None) -> FrozenDict:
        pairs, size = found
        self._unread -= len(pairs)
        is_whole = len(pairs) == size
        if self._known and id(given) in self._known:
            pairs, size, is_whole = list(pairs)[:-1], self._known[id(given)], False
        frozen: dict[str, Any] = {}
        taken: dict[str, int] = {}
        for number, (key, value) in enumerate(pairs, 1):
            if self._is_full(number, value, pairs):
                is_whole = False
                break
            before = self._cuts
            name = key if type(key) is str else self._name_of(key)
            if self._storable is not None:
                name = self._limited(name, self._max_name)
            if name in frozen:
                name = free_name(name, frozen, taken)
            length = len(name)
            self.room -= length + 3
            if length > LEAST_TEXT:
                self._may_be_cut(length, self._max_name)
            frozen[name] = self._value(value)
            if self._cuts != before and cuts is not None:
                cuts.append(name)
        if is_whole:
            self.room -= not frozen
            return FrozenDict(frozen)
        name = free_name("…", frozen, taken)
        if cuts is not None:
            cuts.append(name)
        result = FrozenDict({**frozen, name: _words(size)})
        self._left_out(result, size)
        return result

    def _frozen_list(self, found: Found, given: object) -> FrozenList:
        values, size = found
        self._unread -= len(values)
        is_whole = len(values) == size
        if self._known and id(given) in self._known:
            values, size, is_whole = list(values)[:-1], self._known[id(given)], False
        kept = FrozenList()
        add = list.append
        for number, each in enumerate(values, 1):
            if self._is_full(number, each, values):
                is_whole = False
                break
            add(kept, self._value(each))
        self.room -= not kept
        if not is_whole:
            add(kept, f"… {_words(size)}")
            self._left_out(kept, size)
        return kept

    def _is_full(self, number: int, value: object, values: Collection[Any]) -> bool:
        # A last text has no more room than a count in its place has, and may be one.
        return self.room <= 0 and not (number == len(values) and type(value) is str)

    def _left_out(self, result: object, count: int) -> None:
        self._cuts += 1
        self.counts[id(result)] = count

    # -- values

    def _value(self, value: Any) -> Any:
        # The value and a comma, or a bracket.
        self.room -= 2
        kind = type(value)
        if kind is str:
            return self._text(value)
        if value is None or kind is bool or (kind is int and -_LONG <= value < _LONG):
            return value
        try:
            return self._other(value, kind)
        except UnreadableError as error:
            return self._text(str(error))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # of a stack or a memory that is nearly full
            return self._text(unreadable(value, error))

    def _other(self, value: Any, kind: type) -> Any:
        if self._long and (long := self._long.get(id(value))) is not None:
            return self._text(long[1])
        # Not by `isinstance`, which trusts an object's own `__class__`.
        if kind is not dict and kind is not list and issubclass(kind, _LEAVES):
            return self._leaf(value, kind)
        parents = self._parents
        is_too_deep = len(parents) >= MAX_DEPTH
        if is_too_deep or id(value) in parents:
            self._cuts += is_too_deep
            # No `repr`, which may go round in the whole circle, for each value that leads back into it.
            return self._text(f"<{name_of(kind)}, {'too deep' if is_too_deep else 'circular'}>")
        parents.append(id(value))
        try:
            if kind is dict or kind is FrozenDict:
                most = _MAX_PLAIN if len(value) <= _MAX_PLAIN else self._most_pairs
                return self._frozen_dict(items_of(value, most), value)
            if kind is list or kind is FrozenList:
                # Of the most common ones the room need not be looked at twice.
                read = value[: _MAX_PLAIN if len(value) <= _MAX_PLAIN else self._most]
                return self._frozen_list((read, max(len(read), len(value))), value)
            return self._container(value, kind)
        finally:
            parents.pop()

    def _container(self, value: Any, kind: type) -> Any:
        # Reading one of these runs no code of others, and asking costs more than reading.
        is_plain = kind is tuple or kind is set or kind is frozenset
        most, pairs = self._most, self._most_pairs
        shape, found = _read(value, kind, most, pairs) if is_plain else ask(_read, value, kind, most, pairs)
        if shape is list:
            return self._frozen_list(found, value)
        if shape is dict:
            return self._frozen_dict(found, value)
        if shape is str:
            return self._made_text(value, ask(shown, value) if self._made <= MAX_MADE else None)
        return self._value(found)

    def _leaf(self, value: Any, kind: type) -> Any:
        if issubclass(kind, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else self._text(repr(number))
        if issubclass(kind, int):
            # Python refuses to make decimal text of very long ones, and most readers of JSON can't take them.
            whole = int.__int__(value)
            bits = whole.bit_length()
            if bits <= MAX_INT_BITS:
                # A digit has less than four.
                self.room -= bits // 4
                return whole
            return self._made_text(value, hex(whole) if self._made <= MAX_MADE else None)
        if issubclass(kind, str):
            return self._text(str.__str__(value))
        # Only a class, or a time zone, of others has code of others.
        is_ours = id(kind) in _OURS and getattr(value, "tzinfo", None) is None
        if self._made > MAX_MADE and not (is_ours and sys.getsizeof(value) <= LEAST_TEXT):
            return self._made_text(value, None)
        found = _builtin(value) if is_ours else ask(_builtin, value)
        return self._made_text(value, found) if type(found) is str else self._value(found)

    # -- texts that are made here

    def _made_text(self, value: object, found: str | None) -> str:
        """Store *found*, the text of *value*; a long one is made once, and not for each value that shares it."""
        if found is None:
            self._cuts += 1
            found = not_read(value)
        elif len(found) > LEAST_TEXT:
            self._made += len(found)
            self._long[id(value)] = value, found
        return self._text(found)

    def _name_of(self, key: object) -> str:
        if self._made > MAX_MADE:
            self._cuts += 1
            return not_read(key)
        name = key_of(key)
        if len(name) > LEAST_TEXT:
            self._made += len(name)
        return name

    # -- texts

    def _text(self, given: str) -> str:
        length = len(given)
        self.room -= length + 1
        if length > LEAST_TEXT:
            self._may_be_cut(length, self._max_text)
        return given if self._storable is None else self._limited(given, self._max_text)

    def _may_be_cut(self, length: int, limit: int) -> None:
        self.room += length - LEAST_TEXT
        self.more += min(length, limit) - LEAST_TEXT

    def _limited(self, given: str, limit: int) -> str:
        if self._storable is not None and (len(given) > limit or "\\ud" in given or not given.isascii()):
            given, is_cut = self._storable(given, limit)
            self._cuts += is_cut
        return given


def _read(value: Any, kind: type, most: int, pairs: int) -> tuple[type, Any]:
    """Return what is in *value*: `list` or `dict` with what was found, `Enum` with its value, or `str` for nothing."""
    if (sequence := sequence_of(value, kind, most)) is not None:
        return list, sequence
    if issubclass(kind, Enum):
        return Enum, value.value
    if (mapping := mapping_of(value, kind, pairs) or members_of(value, kind, pairs)) is not None:
        return dict, mapping
    return str, None


def _builtin(value: object) -> object:
    return msgspec.to_builtins(value, enc_hook=repr)


def _words(size: int) -> str:
    return f"({f'more than {-size}' if size < 0 else size} values)"
