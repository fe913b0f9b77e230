r"""
Sealing a record into the chain, and checking a chain.

A record is one line of JSON. Its last members are its place in the chain, and the checksum is the SHA-256 of the very
bytes that are stored: the line up to `,"checksum":"`, closed with `}`. So checking needs a hash and a slice, and no
canonical form that two encoders could disagree about. The seal is the same in all formats, later ones included:

    sed -n '3s/,"checksum":"[0-9a-f]*"}$/}/p' audit_2026-01-31.jsonl | tr -d '\n' | sha256sum
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import Enum
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from .containers import MAX_BYTES
from .errors import AuditStorageError
from .events import FORMAT_VERSION, AuditEvent
from .formats import decoded, encoded, no_record, printable

__all__ = [
    "EMPTY",
    "MAX_RECORD_BYTES",
    "AuditChainVerificationResult",
    "ChainError",
    "ChainHead",
    "ChainStatus",
    "Seal",
    "body",
    "body_to_store",
    "follow",
    "follow_events",
    "head_before",
    "head_behind",
    "incomplete",
    "is_intact",
    "seal",
    "sealed",
    "unsealed",
    "verdict",
    "verified",
]

# A record's first bytes: of the formats that are known, and of any.
_STARTS: Final = (b'{"v":2,', b'{"v":1,')
_START: Final = rb'\{"v":[1-9][0-9]{0,8},'
# Of format 1, whose members are all there. Inside a JSON string a quote is escaped, so it can't be part of one.
_UNSEALED_END: Final = b',"sequence_number":null,"previous_hash":null,"checksum":null}'
_SEAL: Final = (
    rb',"sequence_number":([1-9][0-9]*),"previous_hash":(?:null|"([0-9a-f]{64})"),"checksum":"([0-9a-f]{64})"\}'
)
_LONGEST_SEAL: Final = 256

MAX_RECORD_BYTES: Final = MAX_BYTES
"""The longest record that is stored, and so the most that a reader must hold at once."""
# More than a seal takes.
_ROOM: Final = 2 * _LONGEST_SEAL
_encode: Final = msgspec.json.Encoder().encode
_new: Final = tuple.__new__


class Seal(NamedTuple):
    """
    An event's place in the chain.

    Attributes:
        sequence_number: Counted from 1 without gaps.
        previous_hash: The checksum of the record before it; None for the first.
        checksum: SHA-256 of the record up to its checksum, in hex.
    """

    sequence_number: int
    previous_hash: str | None
    checksum: str


class ChainHead(NamedTuple):
    """
    The end of a chain, now or at some time.

    Attributes:
        sequence_number: The number of the newest event; 0 if there is none.
        checksum: The checksum of that event; None if there is none.
    """

    sequence_number: int
    checksum: str | None


EMPTY: Final = ChainHead(0, None)
"""The head of a chain without records."""


class ChainStatus(str, Enum):
    """The kind of damage that a verification found, if any."""

    OK = "ok"
    """Every record is as it was stored, and none is missing between the first and the last."""
    TORN_TAIL = "torn_tail"
    """The chain is intact; a crash left an incomplete record behind it, or did once, and it was set aside."""
    FRONT_PRUNED = "front_pruned"
    """The chain is intact from its first record on; retention removed the records before, and recorded that."""
    ALTERED = "altered"
    """A record's bytes differ from the stored ones."""
    GAP = "gap"
    """A record is missing, or is not in its place."""
    BROKEN_LINK = "broken_link"
    """A record does not follow the one before it, so that one of the two was replaced."""
    CONVERTED = "converted"
    """Another program has rewritten a file; its records are intact once that is undone."""
    RECOVERED = "recovered"
    """Records are damaged, and an operator has sealed the damage as it was found; the rest of the chain is intact."""
    UNREADABLE = "unreadable"
    """Something is no record, has an unknown format, or could not be read."""


class AuditChainVerificationResult(msgspec.Struct, frozen=True, kw_only=True):
    """
    The verdict of a verification.

    Attributes:
        valid: Whether the chain is intact.
        events_checked: How many records were looked at, the invalid one included.
        first_invalid_sequence: The sequence number of the first damaged record; None if there is none.
        error_message: The damage, with its file and line; or the incomplete records that were set aside.
        status: The kind of damage.
        set_aside: Files with the incomplete records that crashes left.
        pruned: The head up to which records were removed by retention; None if none were.
    """

    valid: bool
    events_checked: int
    first_invalid_sequence: int | None = None
    error_message: str | None = None
    status: ChainStatus = ChainStatus.OK
    set_aside: tuple[str, ...] = ()
    pruned: ChainHead | None = None


class ChainError(Exception):
    """
    Raised at the first record that does not belong where it stands.

    Attributes:
        status: The kind of damage.
        head: The last record up to which the chain was followed and holds; `EMPTY` if none was followed.
    """

    def __init__(self, status: ChainStatus, message: str, head: ChainHead = EMPTY) -> None:
        super().__init__(message)
        self.status: ChainStatus = status
        self.head: ChainHead = head


def body(event: AuditEvent) -> bytes:
    """Return the record of *event* up to the place where its seal begins."""
    if (
        event.sequence_number is None
        and event.previous_hash is None
        and event.checksum is None
        and event.line is None
        and event.format_version == FORMAT_VERSION
    ):
        record = _encode(event)[:-1]
    else:
        record = _as_is(event)
    return printable(record)


def body_to_store(event: AuditEvent) -> bytes:
    """
    Return the record of *event* as `body` does.

    Raises:
        AuditStorageError: With its seal it would be longer than `MAX_RECORD_BYTES`.
    """
    record = body(event)
    if len(record) > MAX_RECORD_BYTES - _ROOM:
        raise AuditStorageError(f"an event of at most {MAX_RECORD_BYTES} bytes can be stored; this has {len(record)}")
    return record


def _as_is(event: AuditEvent) -> bytes:
    if event.line is not None:
        found = _seal_in(event.line)
        return event.line[:-1] if found is None else event.line[: found.start()]
    record = encoded(msgspec.structs.replace(event, sequence_number=None, previous_hash=None, checksum=None))
    return record.removesuffix(_UNSEALED_END if event.format_version == 1 else b"}")


@cache
def _sha256() -> Callable[[bytes], Any]:
    # It loads OpenSSL, as asyncio does: a process that only imports fapilog need not.
    from hashlib import sha256  # noqa: PLC0415

    return sha256


@cache
def _seal_at_end() -> re.Pattern[bytes]:
    return re.compile(_SEAL + rb"\Z")


def _seal_in(line: bytes) -> re.Match[bytes] | None:
    return _seal_at_end().search(line, max(0, len(line) - _LONGEST_SEAL))


def _as_stored(event: AuditEvent) -> bytes:
    """Return the record that *event* was read from, with such characters escaped, or as they are in older records."""
    if event.line is not None:
        if decoded(event.line) == event:
            return event.line
        event = msgspec.structs.replace(event, line=None)
    members = _as_is(event)
    if event.sequence_number is None or event.checksum is None:
        return members
    link, checksum = _link(event.sequence_number, event.previous_hash), _checksum(event.checksum)
    escaped = printable(members)
    # Of most records there is only the one form.
    if escaped == members or _sha256()(escaped + link + b"}").hexdigest() == event.checksum:
        return escaped + link + checksum
    return members + link + checksum


def seal(body: bytes, sequence_number: int, previous_hash: str | None) -> tuple[bytes, Seal]:
    """Return the line to store for *body*, its newline included, and its seal."""
    line = body + _link(sequence_number, previous_hash)
    checksum = _sha256()(line + b"}").hexdigest()
    # The same as `_checksum` and `Seal`, without their calls: every event comes by here.
    return line + f',"checksum":"{checksum}"}}\n'.encode(), _new(Seal, (sequence_number, previous_hash, checksum))


def unsealed(line: bytes) -> bytes:
    """
    Return the record *line* up to the place where its seal begins: sealed there again, it is the same line.

    Raises:
        ChainError: *line*, given without its newline, is no record.
    """
    _stated(line)
    found = _seal_in(line)
    assert found is not None  # noqa: S101 - it states its seal
    return line[: found.start()]


def sealed(event: AuditEvent, seal: Seal) -> AuditEvent:
    """Return *event*, which may be a draft, with its place in the chain."""
    return AuditEvent(**msgspec.structs.asdict(event) | seal._asdict())


def _link(sequence_number: int, previous_hash: str | None) -> bytes:
    previous = "null" if previous_hash is None else f'"{previous_hash}"'
    return f',"sequence_number":{sequence_number},"previous_hash":{previous}'.encode()


def _checksum(checksum: str) -> bytes:
    return f',"checksum":"{checksum}"}}'.encode()


_CHECKSUM_SIZE: Final = len(_checksum("0" * 64))


def follow(head: ChainHead, lines: Iterable[bytes]) -> ChainHead:
    """
    Check that *lines*, given without their newlines, are the records that follow *head*, and return the new head.

    Raises:
        ChainError: A line is not the next record. The error's head is the last record that is.
    """
    sequence_number, checksum = head
    sha256 = _sha256()
    for line in lines:
        found = sha256(line[:-_CHECKSUM_SIZE] + b"}").hexdigest()
        # How an intact record ends is known beforehand.
        if not line.endswith(_link(sequence_number + 1, checksum) + _checksum(found)) or not (
            line.startswith(_STARTS) or re.match(_START, line)
        ):
            raise _diagnosis(line, ChainHead(sequence_number, checksum))
        sequence_number += 1
        checksum = found
    return ChainHead(sequence_number, checksum)


def follow_events(head: ChainHead, events: Iterable[AuditEvent]) -> ChainHead:
    """
    Check that *events* follow *head*, by the bytes that they were stored as, and return the new head.

    Raises:
        ChainError: An event is not the next one. The error's head is the last event that is.
    """
    return follow(head, map(_as_stored, events))


def verified(events: Iterable[AuditEvent], after: ChainHead = EMPTY) -> AuditChainVerificationResult:
    """Return the verdict on *events*, of which the first follows the head *after*."""
    try:
        head = follow_events(after, events)
    except ChainError as damage:
        return verdict(damage, str(damage), after)
    return AuditChainVerificationResult(valid=True, events_checked=head.sequence_number - after.sequence_number)


def verdict(damage: ChainError, message: str, after: ChainHead = EMPTY) -> AuditChainVerificationResult:
    """Return the verdict on a chain, checked from behind the head *after* on, that *damage* ends."""
    number = damage.head.sequence_number + 1
    return AuditChainVerificationResult(
        valid=False,
        events_checked=number - after.sequence_number,
        first_invalid_sequence=number,
        error_message=message,
        status=damage.status,
    )


def is_intact(event: AuditEvent) -> bool:
    """Return whether *event* was read from the bytes that its checksum is of, so that its number can be trusted."""
    number = event.sequence_number
    return number is not None and verified([event], ChainHead(number - 1, event.previous_hash)).valid


def head_before(line: bytes) -> ChainHead:
    """
    Return the head that the record *line* claims to follow, to follow a chain from there.

    Raises:
        ChainError: *line* is no record.
    """
    stated = _stated(line)
    return ChainHead(stated.sequence_number - 1, stated.previous_hash)


def head_behind(line: bytes) -> ChainHead | None:
    """Return the head after *line*, given without a newline, if it is a whole record, whatever its place; else None."""
    try:
        # Most lines of damage do not begin like a record, and there may be millions.
        return follow(head_before(line), [line]) if line.startswith(b'{"v":') else None
    except ChainError:
        return None


def _stated(line: bytes) -> Seal:
    """Return the seal that *line* claims to have."""
    found = _seal_in(line)
    if re.match(_START, line) is None or found is None:
        raise ChainError(ChainStatus.UNREADABLE, no_record(line))
    previous = found[2]
    return Seal(int(found[1]), previous.decode() if previous is not None else None, found[3].decode())


def _diagnosis(line: bytes, head: ChainHead) -> ChainError:
    """Return the reason why *line* is not the record that follows *head*."""
    try:
        stated = _stated(line)
    except ChainError as error:
        return ChainError(error.status, str(error), head)
    expected = head.sequence_number + 1
    if _sha256()(line[:-_CHECKSUM_SIZE] + b"}").hexdigest() != stated.checksum:
        return ChainError(ChainStatus.ALTERED, f"record {expected} was altered: its checksum is of other bytes", head)
    if stated.sequence_number != expected:
        message = f"record {expected} should be here, and this is {stated.sequence_number}"
        return ChainError(ChainStatus.GAP, message, head)
    message = (
        "record 1 claims to follow another"
        if expected == 1
        else f"record {expected} does not follow record {head.sequence_number}: one of them was replaced"
    )
    return ChainError(ChainStatus.BROKEN_LINK, message, head)


def incomplete(fragment: bytes) -> bool:
    """
    Return whether *fragment*, which no newline ends, is the rest of a record after a crash, and not a whole record.

    Raises:
        ChainError: It is a whole record and something more, which no crash leaves.
    """
    if head_behind(fragment) is not None:
        return False
    if re.match(_START, fragment) is None:
        return True
    # Hashed once, however many of its bytes look like seals: a client that puts records into its metadata could else
    # make the repair after a crash take seconds, with the lock of the trail held.
    bytes_of, hashed, behind = memoryview(fragment), _sha256()(b""), 0
    for found in re.finditer(_SEAL, fragment):
        covered = found.end() - _CHECKSUM_SIZE
        hashed.update(bytes_of[behind:covered])
        behind = covered
        closed = hashed.copy()
        closed.update(b"}")
        # Some file systems fill with zeros the part that a power cut kept from the disk.
        if closed.hexdigest().encode() == found[3] and fragment[found.end() :].strip(b"\0"):
            raise ChainError(ChainStatus.ALTERED, "the record is whole, but something else than a newline ends it")
    return True
