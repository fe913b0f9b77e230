"""
From a caller's values to an event that can be stored.

Nothing raises but a level, an outcome, a flag, a time or an id that is none, and nothing is too long.

A text that is too long is cut. Its length and hash stand in its place, and `truncated` names the member.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, TypedDict

import msgspec

from .containers import read_mapping
from .errordetails import MAX_TRACEBACK, Described, ErrorDetails, described
from .events import AuditEvent, Draft, in_utc
from .formats import printable
from .freezing import Walk, plain
from .keywords import merged
from .kinds import AuditLogLevel, AuditOutcome, member
from .options import flag
from .parties import Actor, Target, actor_parts, target_parts
from .texts import cut, mark_of, storable
from .values import LEAST_TEXT, MAX_TAGS, FrozenDict, given_tags, given_text

__all__ = [
    "CHECKS",
    "FIELDS",
    "LEAST_RECORD",
    "TEXT_FIELDS",
    "CommonFields",
    "EventFields",
    "LevelName",
    "OutcomeName",
    "recorded",
]

_encode: Final = msgspec.json.Encoder().encode

LEAST_RECORD: Final = 65_536
"""The fewest bytes that hold a record with every text cut to `LEAST_TEXT`, whatever its characters are."""

_MAX_NAMES: Final = 16
_LONGEST_NAME: Final = 128
_LONGEST_ID: Final = 128
# Characters of the texts of an event that are hashed; a further one that is cut has its length alone.
_MAX_HASHED: Final = 1 << 25
# For the place in the chain, and a note that the trail adds.
_ROOM: Final = 1024

LevelName: TypeAlias = Literal["debug", "info", "warning", "error", "critical", "security"]
"""The names that are accepted for an `AuditLogLevel`."""
OutcomeName: TypeAlias = Literal["success", "failure", "denied", "unknown"]
"""The names that are accepted for an `AuditOutcome`."""


class CommonFields(TypedDict, total=False):
    """
    The keywords that all recording methods take.

    A further keyword is stored in the metadata, whatever it is. Type checkers refuse it, and the trail warns, once per
    place in the code, if it is near one of these: other values belong into *metadata*.

    Attributes:
        log_level: The severity; info by default. A level of the standard library, `logging.WARNING`, is taken too.
        outcome: The outcome of the attempt: "success", "failure", "denied" or "unknown".
        reason: Why it was done, or was denied.
        component: The part of the service.
        actor: The user, service or job that acted, where more than the user's id is known: an `Actor`, or a mapping of
            its members.
        user_id: The user; by default the id of the actor.
        session_id: The user's session.
        request_id: The request.
        trace_id: The distributed trace; by default that of OpenTelemetry's current span, if it is used.
        span_id: The span in that trace, likewise.
        client_ip: The user's address.
        user_agent: The user's program.
        occurred: When it happened, if it is recorded later; aware.
        contains_pii: Whether the event contains personal data.
        contains_phi: Whether the event contains health data.
        data_classification: For example "confidential".
        regulatory_tags: Tags of your own; a single text is a single tag.
        event_id: An id of your own, at most 128 characters: of a message that may be delivered twice, say. An event
            whose id is that of a recent record is not stored again. By default a random UUID.
        metadata: Further values.
    """

    log_level: AuditLogLevel | LevelName | int
    outcome: AuditOutcome | OutcomeName | None
    reason: str | None
    component: str | None
    actor: Actor | Mapping[str, str] | str | None
    user_id: str | None
    session_id: str | None
    request_id: str | None
    trace_id: str | None
    span_id: str | None
    client_ip: str | None
    user_agent: str | None
    occurred: datetime | None
    contains_pii: bool
    contains_phi: bool
    data_classification: str | None
    regulatory_tags: Iterable[str] | None
    event_id: str | None
    metadata: Mapping[str, Any] | None


class EventFields(CommonFields, total=False):
    """
    The keywords that `AuditTrail.log_event` takes: `CommonFields`, and these.

    Attributes:
        operation: The operation in the part of the service.
        target: The object of the action: a `Target`, "TYPE/ID", another text, or a mapping of its members.
        changes: The changed fields, with the old value and the new one: ``{"role": ("user", "admin")}``.
        error: The exception behind the event.
    """

    operation: str | None
    target: Target | Mapping[str, str] | str | None
    changes: Mapping[str, tuple[Any, Any] | list[Any]] | None
    error: BaseException | None


FIELDS: Final = frozenset(EventFields.__annotations__)
"""The names of the keywords that are no metadata."""

_TEXTS: Final = (
    "message",
    "reason",
    "component",
    "operation",
    "user_id",
    "session_id",
    "request_id",
    "trace_id",
    "span_id",
    "client_ip",
    "user_agent",
    "hostname",
    "data_classification",
)
TEXT_FIELDS: Final = FIELDS.intersection(_TEXTS)
"""The names of the keywords that are texts, of any length."""


def _event_id(name: str, value: object) -> str:
    given = given_text(value)
    if not 0 < len(given) <= _LONGEST_ID or not given.isprintable():
        raise ValueError(f"{name}: expected a printable text of 1 to {_LONGEST_ID} characters; got one of {len(given)}")
    return given


CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "log_level": lambda name, value: member(AuditLogLevel, value, name),
    "outcome": lambda name, value: member(AuditOutcome, value, name),
    "occurred": in_utc,
    "contains_pii": flag,
    "contains_phi": flag,
    "event_id": _event_id,
}
"""The converters of members that are neither texts nor of several values: they return the value to store, or raise."""


def recorded(given: dict[str, Any], fields: dict[str, Any], *, limits: tuple[int, int, int]) -> tuple[Draft, bytes]:
    """
    Return the event that is stored for a caller's values, and its record in the form of `body`.

    Args:
        given: The members that the trail knows, and the message.
        fields: The keywords of the caller: `EventFields`; all further ones are metadata.
        limits: The most characters of a member, a tag, or a name in the metadata, at least `LEAST_TEXT`; the most
            characters of a message, or a text in the metadata, likewise; the most bytes of the record, at least
            `LEAST_RECORD`.

    Raises:
        TypeError: A flag is neither true nor false, or a time is no datetime.
        ValueError: An unknown level or outcome, an event id that is none, or a time without zone.
    """
    if type(given["message"]) is not str:
        given["message"] = given_text(given["message"])
    taken = _Taken(given, fields, limits)
    # No text is too long in a record so short, nor is that with its characters escaped, which takes six bytes for each.
    short = min(limits[0], limits[1], limits[2] // 8)
    if taken.least + taken.more <= short:
        try:
            event = taken.whole()
            record = _encode(event)[:-1]
            # And none was escaped without a backslash, which JSON doubles.
            if len(record) <= short and b"\\\\ud" not in record:
                return event, printable(record)
        except UnicodeEncodeError:
            pass
    event = taken.fitting()
    return event, printable(_encode(event)[:-1])


class _Taken:
    """A caller's values, with the texts unchanged; events are made of them with storable texts, cut to the limits."""

    def __init__(self, given: dict[str, Any], fields: dict[str, Any], limits: tuple[int, int, int]) -> None:
        self._max_text, self._max_message, self._max_record = limits
        self._members = given
        self._parts: dict[str, dict[str, str]] = {}
        self._error: Described | None = None
        self._tags: tuple[str, ...] = ()
        # The values of a mapping, as JSON, how many it had where some were left out, and the names of what was cut.
        self._values: dict[str, Any] = {}
        self._counts: dict[int, int] = {}
        self._cuts: list[str] = []
        # The bytes that they take at least, with their texts cut; and the characters of longer texts, of tags and of
        # members beyond that, as far as they are kept.
        self.least = 0
        self.more = min(len(given["message"]), self._max_message)
        self._marks: dict[int, tuple[str, str]] = {}
        self._hashed = 0
        metadata: dict[str, Any] = {}
        for name, value in fields.items():
            # The most common kind first.
            if name in TEXT_FIELDS:
                if value is not None:
                    given[name] = value if type(value) is str and len(value) <= LEAST_TEXT else self._text(value)
            elif name not in FIELDS or (name == "metadata" and value is not None):
                metadata[name] = value
            elif value is not None:
                self._take(name, value, metadata)
        if self._parts and (actor := self._parts.get("actor")):
            # The same id in both members, also for a search by the user alone.
            self._members.setdefault("user_id", actor.get("id"))
            if (user := self._members["user_id"]) is not None:
                actor.setdefault("id", user)
        if metadata:
            given_so = metadata
            if "metadata" in metadata:
                given_so = merged(metadata, self._max_record // 5) if len(metadata) > 1 else metadata["metadata"]
            self._values["metadata"] = self._as_json("metadata", given_so)

    def _text(self, value: object) -> str:
        whole = given_text(value)
        self.more += min(len(whole), self._max_text)
        return whole

    def _take(self, name: str, value: Any, metadata: dict[str, Any]) -> None:
        if name in CHECKS:
            self._members[name] = CHECKS[name](name, value)
        elif name == "error":
            self._error = described(value)
            self.more += sum(min(len(part), self._max_text) for part in self._error if len(part) > LEAST_TEXT)
        elif name == "regulatory_tags":
            self._tags = tuple(given_tags(value))
            self.more += sum(min(len(tag), self._max_text) for tag in self._tags)
            if len(self._tags) > MAX_TAGS:
                self._cuts.append(name)
        elif name == "changes":
            given = value if read_mapping(value, 1) is not None else {"changes": value}
            self._values[name] = self._as_json(name, given)
        else:
            parts, is_whole = (actor_parts if name == "actor" else target_parts)(value)
            self._parts[name] = parts
            self.more += sum(map(len, parts.values()))
            if not is_whole:
                metadata[name] = value

    def _as_json(self, name: str, given: Any) -> FrozenDict:
        frozen = plain(given)
        if frozen is None:
            walk = Walk(
                max_text=min(self._max_message, self._max_record),
                max_name=min(self._max_text, self._max_record),
                room=self._max_record,
            )
            frozen = walk.root(given)
            self.least += self._max_record - walk.room
            self.more += walk.more
            self._counts |= walk.counts
            self._cuts += [f"{name}.{storable(each, self._max_text, mark=self._mark)[0]}" for each in walk.cut]
        return frozen

    def whole(self) -> Draft:
        """Return the event with its texts as they are, some of which may not be storable."""
        others: dict[str, Any] = _parties(self._parts) if self._parts else {}
        if self._error is not None:
            others["error"] = ErrorDetails(**self._error._asdict())
        if self._cuts:
            others["truncated"] = _names(self._cuts)
        return Draft(**self._members, **self._values, **others, regulatory_tags=self._tags)

    def fitting(self) -> Draft:
        """Return the event with as much of the texts, and of the values, as the record has room for."""
        longest = min(max(self._max_message, self._max_text), self._max_record)
        # Several events are made until one fits.
        room = self._max_record
        if self.least >= room:
            # The message and escapes need some too.
            room //= 2
        elif self.least + self.more <= room and self._fits(event := self._cut(longest, room)):
            return event
        # First as many values as fit with the shortest texts; then as much of the texts as fit with these values.
        while not self._fits(event := self._cut(LEAST_TEXT, room)) and room > 1:
            room //= 2
        # No event is made that is certainly too long. Where a text is whole, its mark and its name are not there.
        left = self._max_record + 2 * _ROOM - len(_encode(event))
        sizes = [size for each in range(32) if (size := longest >> each) > LEAST_TEXT]
        sizes = [size for size in sizes if sum(min(size, each) - LEAST_TEXT - 2 for each in self._shortened) <= left]
        while sizes and self._shortened:
            middle = len(sizes) // 2
            if self._fits(longer := self._cut(sizes[middle], room)):
                event, sizes = longer, sizes[:middle]
            else:
                sizes = sizes[middle + 1 :]
        return event

    def _mark(self, whole: str) -> str:
        # By the id, since Python's own hash of a very long text takes as long as all else.
        if id(whole) not in self._marks:
            mark = mark_of(whole) if self._hashed <= _MAX_HASHED else f"({len(whole)} characters)"
            self._hashed += len(whole)
            self._marks[id(whole)] = whole, mark
        return self._marks[id(whole)][1]

    def _fits(self, event: AuditEvent) -> bool:
        room, record = self._max_record - _ROOM, _encode(event)
        # Escapes make the record longer, and take time.
        return len(record) <= room and len(printable(record)) <= room

    def _stored(self, given: str, limit: int, *, keep_end: bool = False) -> tuple[str, bool]:
        found = storable(given, limit, keep_end=keep_end, mark=self._mark)
        if found[1]:
            self._shortened.append(min(len(given), self._max_text, self._max_message))
        return found

    def _cut(self, longest: int, room: int) -> Draft:
        cuts = list(self._cuts)
        # How many characters each text that is cut here may have at least.
        self._shortened: list[int] = []

        def limited(name: str, whole: str, limit: int, *, keep_end: bool = False) -> str:
            kept, is_cut = self._stored(whole, min(limit, longest), keep_end=keep_end)
            if is_cut:
                cuts.append(name)
            return kept

        members: dict[str, Any] = {
            name: limited(name, value, self._max_message if name == "message" else self._max_text)
            for name in _TEXTS
            if (value := self._members.get(name)) is not None
        }
        members |= _parties(
            {
                party: {name: limited(f"{party}.{name}", part, self._max_text) for name, part in parts.items()}
                for party, parts in self._parts.items()
            }
        )
        if self._error is not None:
            kind, message, traceback = self._error
            members["error"] = ErrorDetails(
                type=limited("error.type", kind, self._max_text),
                message=limited("error.message", message, self._max_message),
                traceback=limited("error.traceback", traceback, MAX_TRACEBACK, keep_end=True),
            )
        most = room // LEAST_TEXT
        tags = [limited("regulatory_tags", tag, self._max_text) for tag in self._tags[:most]]
        if len(self._tags) > most:
            tags.append(f"… ({len(self._tags)} tags)")
            cuts.append("regulatory_tags")
        for name, given in self._values.items():
            walk = Walk(
                self._stored,
                max_text=min(self._max_message, longest),
                max_name=min(self._max_text, longest),
                room=room,
                counts=self._counts,
            )
            members[name] = walk.root(given)
            cuts += [f"{name}.{each}" for each in walk.cut]
        return Draft(**self._members | members, regulatory_tags=tuple(tags), truncated=_names(cuts))


def _parties(parts: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return the actor and the target that have these parts."""
    members: dict[str, Any] = {}
    if "target" in parts:
        members["target"] = Target(**parts["target"])
    if "actor" in parts:
        members["actor"] = Actor(**parts["actor"])
    return members


def _names(cuts: list[str]) -> tuple[str, ...]:
    names = list(dict.fromkeys(cuts))
    more = [f"… ({len(names)} names)"] if len(names) > _MAX_NAMES else []
    return (*(cut(name, _LONGEST_NAME) for name in names[:_MAX_NAMES]), *more)
