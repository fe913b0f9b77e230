"""
From what a caller gives to an event that can be stored: nothing raises, and nothing is too long.

What is too long is cut. Its length and hash stand in its place, and the metadata say where: ``fapilog.truncated``.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import msgspec

from .chain import body
from .containers import MAX_VALUES, as_dict, free_name
from .events import MAX_TRACEBACK, AuditEvent, Described, ErrorDetails, described
from .freezing import Walk, plain
from .values import NO_METADATA, FrozenDict, FrozenList, cut, escaped, given_tags, given_text, mark_of

__all__ = ["LEAST_RECORD", "LEAST_TEXT", "NOT_ANNOUNCED", "TRUNCATED", "keywords", "merged", "recorded"]

TRUNCATED: Final = "fapilog.truncated"
"""In the metadata: the names of the members that were cut, those of the metadata as ``metadata.NAME``."""

NOT_ANNOUNCED: Final = "fapilog.not_announced"
"""In the metadata: why an event that meets the policy was not announced, now or by a later process."""

_encode: Final = msgspec.json.Encoder().encode

LEAST_TEXT: Final = 256
"""The fewest characters to which a text is cut; a hash takes a hundred of them."""
LEAST_RECORD: Final = 65_536
"""The fewest bytes that hold a record with every text cut to `LEAST_TEXT`, whatever its characters are."""

# Written by the trail alone.
_RESERVED: Final = frozenset({NOT_ANNOUNCED, TRUNCATED})
_MAX_NAMES: Final = 16
_LONGEST_NAME: Final = 128
# For the place in the chain, and a note that the trail adds.
_ROOM: Final = 1024
_TEXTS: Final = (
    "message",
    "component",
    "operation",
    "user_id",
    "session_id",
    "request_id",
    "client_ip",
    "user_agent",
    "hostname",
    "data_classification",
)


def recorded(
    given: dict[str, Any],
    metadata: dict[str, Any],
    *,
    error: object = None,
    regulatory_tags: object = None,
    limits: tuple[int, int, int],
) -> AuditEvent:
    """
    Return the event that is stored for what a caller gave.

    Args:
        given: Its other members.
        metadata: Its metadata.
        error: The exception behind it, or None.
        regulatory_tags: An iterable of texts, one text, or None.
        limits: The most characters of a member, a tag, or a name in the metadata, at least `LEAST_TEXT`; the most of a
            message, or a text in the metadata, likewise; the most bytes of the record, at least `LEAST_RECORD`.
    """
    max_text, _, max_record = limits
    counts: dict[int, int] = {}
    frozen = plain(metadata) if metadata else NO_METADATA
    if frozen is None:
        walk = Walk(max_values=max_record // 2)
        frozen, counts = walk.root(metadata), walk.counts
    if not _RESERVED.isdisjoint(frozen):
        frozen = _unreserved(frozen, counts)
    details = None if error is None else described(error)
    tags = () if regulatory_tags is None else tuple(given_tags(regulatory_tags))
    if details is None and not tags:
        event = AuditEvent(**given, metadata=frozen)
    else:
        described_error = None if details is None else ErrorDetails(**details._asdict())
        event = AuditEvent(**given, error=described_error, regulatory_tags=tags, metadata=frozen)
    try:
        record = _encode(event)
        # No text is too long in a record so short, and none was escaped without a backslash, which JSON doubles.
        if len(record) <= max_text and b"\\\\ud" not in record:
            return event
    except UnicodeEncodeError:
        pass
    return _Draft(
        given,
        error=details,
        tags=tags,
        metadata=frozen,
        counts=counts,
        limits=limits,
    ).fitting()


class _Draft:
    """An event with its texts as they were given, of which events are made whose texts are storable and cut."""

    def __init__(
        self,
        given: dict[str, Any],
        *,
        error: Described | None,
        tags: tuple[str, ...],
        metadata: FrozenDict,
        counts: dict[int, int],
        limits: tuple[int, int, int],
    ) -> None:
        self._given = given
        self._error = error
        self._tags = tags
        self._metadata = metadata
        self._counts = counts
        self._max_text, self._max_message, self._max_record = limits
        # Several events are made until one fits.
        self._escaped = functools.cache(escaped)
        self._mark = functools.cache(mark_of)

    def fitting(self) -> AuditEvent:
        """Return the event with as much of the texts, and of the values, as the record has room for."""
        longest = max(self._max_message, self._max_text)
        event = self._cut(longest, MAX_VALUES)
        if self._fits(event):
            return event
        # First as many values as fit with the shortest texts, then as much of the texts as fit with these values.
        values = self._max_record // 2
        while not self._fits(event := self._cut(LEAST_TEXT, values)) and values > 1:
            values //= 2
        while longest > LEAST_TEXT:
            longer = self._cut(longest, values)
            if self._fits(longer):
                return longer
            longest //= 2
        return event

    def _fits(self, event: AuditEvent) -> bool:
        room = self._max_record - _ROOM
        # What the trail escapes makes it longer, and takes time.
        return len(_encode(event)) <= room and len(body(event)) <= room

    def _cut(self, longest: int, values: int) -> AuditEvent:
        cuts: list[str] = []

        def limited(name: str, whole: str, limit: int, *, keep_end: bool = False) -> str:
            stored = self._escaped(whole)
            kept = cut(stored, min(limit, longest), keep_end=keep_end, mark=self._mark)
            if kept is not stored:
                cuts.append(name)
            return kept

        texts: dict[str, Any] = {
            name: limited(name, given_text(value), self._max_message if name == "message" else self._max_text)
            for name in _TEXTS
            if (value := self._given[name]) is not None or name == "message"
        }
        error = None
        if self._error is not None:
            kind, message, traceback = self._error
            error = ErrorDetails(
                type=limited("error.type", kind, self._max_text),
                message=limited("error.message", message, self._max_message),
                traceback=limited("error.traceback", traceback, MAX_TRACEBACK, keep_end=True),
            )
        tags = [limited("regulatory_tags", tag, self._max_text) for tag in self._tags[:values]]
        if len(self._tags) > values:
            tags.append(f"… ({len(self._tags)} tags)")
            cuts.append("regulatory_tags")
        walk = Walk(
            self._escaped,
            max_text=min(longest, self._max_message),
            max_name=min(longest, self._max_text),
            max_values=values,
            mark=self._mark,
            counts=self._counts,
        )
        metadata = walk.root(self._metadata)
        cuts += [f"metadata.{name}" for name in walk.cut]
        if cuts:
            metadata = FrozenDict({**metadata, TRUNCATED: _names(cuts)})
        return AuditEvent(**self._given | texts, error=error, regulatory_tags=tuple(tags), metadata=metadata)


def _names(cuts: list[str]) -> FrozenList:
    names = list(dict.fromkeys(cuts))
    more = [f"… ({len(names)} names)"] if len(names) > _MAX_NAMES else []
    return FrozenList([*(cut(name, _LONGEST_NAME) for name in names[:_MAX_NAMES]), *more])


def _unreserved(metadata: FrozenDict, counts: dict[int, int]) -> FrozenDict:
    """Return *metadata* of a caller without the trail's own notes: by one, an alert would not be resent."""
    free: dict[str, Any] = {}
    for name, value in metadata.items():
        taken = {**dict.fromkeys(_RESERVED), **metadata, **free} if name in _RESERVED else free
        free[free_name(name, taken, {})] = value
    result = FrozenDict(free)
    if id(metadata) in counts:
        counts[id(result)] = counts[id(metadata)]
    return result


def merged(given: dict[str, Any]) -> dict[str, Any]:
    """Merge the keyword *metadata* into the others, without losing a value."""
    mapping = as_dict(given.get("metadata"))
    if mapping is None:
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
