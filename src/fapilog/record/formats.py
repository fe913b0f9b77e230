"""
An event as the bytes of a record, and back: of this format, of the earlier one, and as far as it goes of later ones.

A trail is written by several versions of fapilog, a rolled back one among them. The seal of a record is the same in all
formats: a record of an unknown format is verified, and chained, like any other.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, Final, TypeVar, get_args

import msgspec

from .errordetails import ErrorDetails
from .errors import AuditStorageError
from .events import FORMAT_VERSION, AuditEvent, in_utc
from .kinds import AuditEventType, AuditLogLevel, ComplianceLevel, unlisted
from .parties import Target
from .times import Moment

__all__ = [
    "AS_THEY_ARE",
    "EARLIER",
    "decoded",
    "encoded",
    "from_json",
    "is_earlier",
    "no_record",
    "printable",
    "taken",
    "target_in",
]

_T = TypeVar("_T")

EARLIER: Final = b'{"checksum":"'
"""The first bytes of a record of the earlier fapilog, up to 0.3.5; the module `storage.earlier` reads these."""

AS_THEY_ARE: Final = r"[ !#-\[\]-~]*"
"""The texts that the encoder of records writes unescaped, and did in every version; a regular expression."""


class _Format1(msgspec.Struct, frozen=True, kw_only=True, tag_field="v", tag=1, forbid_unknown_fields=True):
    """A record of format 1, whose members are all there."""

    event_id: str
    timestamp: Moment
    event_type: AuditEventType
    log_level: AuditLogLevel
    message: str
    component: str | None
    operation: str | None
    user_id: str | None
    session_id: str | None
    request_id: str | None
    client_ip: str | None
    user_agent: str | None
    hostname: str | None
    process_id: int | None
    error: ErrorDetails | None
    data_classification: str | None
    contains_pii: bool
    contains_phi: bool
    compliance_level: ComplianceLevel
    regulatory_tags: tuple[str, ...]
    metadata: Mapping[str, Any]
    sequence_number: int | None
    previous_hash: str | None
    checksum: str | None


_encode: Final = msgspec.json.Encoder().encode


# Held while the decoder is made. msgspec shows its description of a class to other threads before that is whole, and a
# thread that decodes by it crashes the process; so would a child that was forked in that moment.
_making: Final = threading.RLock()
_is_making: Final[list[bool]] = []
os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release)


@cache
def _decoder() -> msgspec.json.Decoder[AuditEvent | _Format1]:
    # Made when the first record is read, since it takes long: msgspec evaluates the annotations of all members.
    with _making:
        if _is_making:  # by this thread, which a signal handler has interrupted
            raise AuditStorageError("a record can't be read: called from within the first such call of the same thread")
        _is_making.append(True)
        try:
            return msgspec.json.Decoder(AuditEvent | _Format1)
        finally:
            _is_making.clear()


def encoded(event: AuditEvent) -> bytes:
    """Return *event* as JSON: the record that it was read from, or is to be stored as, but for characters escaped."""
    if event.line is not None:
        return event.line
    if event.format_version == 1:
        return _encode(_Format1(**{name: getattr(event, name) for name in _Format1.__struct_fields__}))
    return _encode(event)


def printable(record: bytes) -> bytes:
    r"""Return *record* with the characters that drive a terminal, or end a line, as JSON escapes (`\u0085`)."""
    return record if record.isascii() and b"\x7f" not in record else _tricky().sub(_as_escape, record)


def _as_escape(found: re.Match[bytes]) -> bytes:
    return _escape_of(found[0])


# There are few such characters, and a text may be full of them.
@cache
def _escape_of(character: bytes) -> bytes:
    return b"\\u%04x" % ord(character.decode())


# Regular expressions and decoders are made when they are first used: `import fapilog` shall not wait for them.
@cache
def _tricky() -> re.Pattern[bytes]:
    # JSON lets these characters stand in a string as they are. A terminal obeys the C1 controls (U+0080 to U+009F) as
    # it obeys ESC, shows a line that has bidirectional controls in another order (https://trojansource.codes), and a
    # program that reads by `splitlines` ends a line at U+0085, U+2028 and U+2029. In UTF-8, where no character is a
    # part of another one.
    return re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]")


def decoded(record: bytes | str) -> AuditEvent:
    """
    Return the event in *record*.

    Of a format that is not known, and with members or values that are not known, as much of it as can be taken; the
    event's `line` is then the record.

    Raises:
        AuditStorageError: The first call of the process was interrupted by a signal handler that makes another one.
        msgspec.MsgspecError: It is no record.
        UnicodeDecodeError: It is no UTF-8.
    """
    try:
        return _decoded(record)
    except RecursionError:
        raise msgspec.ValidationError("a record is not nested so deeply") from None


def from_json(data: bytes, kind: type[_T]) -> _T:
    """Return the value of that *kind* in *data*; raise `msgspec.MsgspecError` if it has none, whatever else it has."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        raise msgspec.ValidationError("nested too deeply") from None
    except UnicodeDecodeError:
        raise msgspec.ValidationError("no UTF-8") from None


def _decoded(record: bytes | str) -> AuditEvent:
    record = record.encode() if isinstance(record, str) else record
    try:
        event = _decoder().decode(record)
    except msgspec.ValidationError:
        event = None
    if event is None or (
        isinstance(event, AuditEvent) and (event.line is not None or event.format_version != FORMAT_VERSION)
    ):
        # Also where a program has written members that an event has and a record has not.
        return _as_far_as_known(record)
    if isinstance(event, AuditEvent):
        # A new event gets a new id and the current time; a record must have its own.
        if _beginning().match(record) is None:
            _require(_members(record))
        return event
    members = {name: getattr(event, name) for name in _Format1.__struct_fields__}
    return AuditEvent(**members, target=target_in(event.metadata), format_version=1)


def target_in(metadata: Mapping[str, Any]) -> Target | None:
    """Return the target that records had as the resource in their *metadata* before format 2."""
    resource = metadata.get("resource")
    return Target.of(resource) if isinstance(resource, str) else None


def _as_far_as_known(record: bytes) -> AuditEvent:
    members = _members(record)
    version = members.pop("v", None)
    if type(version) is not int or version < 1:
        raise msgspec.ValidationError("a record begins with the number of its format")
    return AuditEvent(**taken(members), format_version=version, line=record)


def taken(members: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return as much of *members*, those of a record of any version, as an event can take.

    Raises:
        msgspec.ValidationError: A member that every record has is missing, or is of another kind.
    """
    found: dict[str, Any] = {}
    for field in _fields():
        if field.name in _OURS or field.name not in members:
            continue
        given = members[field.name]
        kinds = [kind for kind in (field.type, *get_args(field.type)) if isinstance(kind, type)]
        for kind in kinds:
            if issubclass(kind, msgspec.Struct) and type(given) is dict:
                # Of a target with a member more, the id is still asked for.
                given = {name: given[name] for name in kind.__struct_fields__ if name in given}
        try:
            value = msgspec.convert(given, field.type)
            found[field.name] = in_utc(field.name, value) if isinstance(value, datetime) else value
        except (msgspec.ValidationError, ValueError) as error:
            enums = [kind for kind in kinds if issubclass(kind, Enum)]
            if enums and type(given) is str:
                found[field.name] = unlisted(enums[0], given)
            elif field.required or field.name in _SEAL:
                raise msgspec.ValidationError(f"{error} - at `$.{field.name}`") from None
    _require(found)
    return found


@cache
def _fields() -> tuple[msgspec.structs.FieldInfo, ...]:
    # It evaluates the annotations of all members.
    return msgspec.structs.fields(AuditEvent)


def _members(record: bytes) -> dict[str, Any]:
    return msgspec.json.decode(record, type=dict[str, Any])


def _require(members: Mapping[str, Any]) -> None:
    if missing := _NEEDED - members.keys():
        raise msgspec.ValidationError(f"a record has the members {', '.join(sorted(missing))}")


@cache
def _beginning() -> re.Pattern[bytes]:
    # As the encoder of records writes it. Another program may have spaced or sorted the members.
    return re.compile(rb'\{"v":[0-9]+,"event_id":"(?:[^"\\]|\\.)*+","timestamp":"')


_OURS: Final = frozenset({"format_version", "line"})
_SEAL: Final = frozenset({"event_id", "timestamp", "sequence_number", "previous_hash", "checksum"})
_NEEDED: Final = frozenset({"event_id", "timestamp", "event_type", "message"})


def is_earlier(line: bytes) -> bool:
    """Return whether *line* is a record of the earlier fapilog, which had sorted members and none of the name "v"."""
    # So ends a record of ours that `jq -S` has sorted.
    return line.startswith(EARLIER) and re.search(rb',"v":[0-9]+\}\s*\Z', line[-_LONGEST_END:]) is None


_LONGEST_END: Final = 32


def no_record(line: bytes) -> str:
    """Return the words that *line*, in which nothing could be decoded, is no record of the trail."""
    if is_earlier(line):
        return "this is a record of the earlier fapilog: `fapilog continue` begins a trail that continues its trail"
    return "this is not a record of the trail"
