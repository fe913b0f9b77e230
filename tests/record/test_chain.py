"""Sealing and checking records."""

import json
import unicodedata
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fapilog import AuditEvent, AuditEventType, ChainStatus
from fapilog.record import chain
from fapilog.record.chain import EMPTY, ChainError
from fapilog.record.formats import decoded


def line(number: int, previous: str | None = None, **fields: Any) -> bytes:
    """Return a sealed record, without its newline."""
    event = AuditEvent(**{"event_type": AuditEventType.DATA_ACCESS, "message": "m", **fields})
    return chain.seal(chain.body(event), number, previous)[0].removesuffix(b"\n")


def lines(count: int) -> list[bytes]:
    """Return the first records of a chain."""
    found: list[bytes] = []
    for number in range(1, count + 1):
        found.append(line(number, json.loads(found[-1])["checksum"] if found else None, metadata={"checksum": "x"}))
    return found


def test_the_record() -> None:
    """A record is JSON whose first member is the version, and whose last two are the link and the checksum."""
    first, second = lines(2)
    names = list(json.loads(second))
    assert (names[0], names[-3:]) == ("v", ["sequence_number", "previous_hash", "checksum"])
    assert json.loads(first)["previous_hash"] is None
    assert json.loads(second)["previous_hash"] == json.loads(first)["checksum"]


def test_the_checksum_is_of_the_stored_bytes() -> None:
    """The checksum is the SHA-256 of the line up to the checksum, closed with a brace."""
    record = line(1)
    content, _, rest = record.rpartition(b',"checksum":"')
    assert sha256(content + b"}").hexdigest().encode() == rest.removesuffix(b'"}')


def test_an_intact_chain() -> None:
    """A chain can be followed in parts, and its head is its last record."""
    records = lines(5)
    middle = chain.follow(EMPTY, records[:2])
    head = chain.follow(middle, records[2:])
    assert head.sequence_number == 5
    assert head.checksum == json.loads(records[-1])["checksum"]
    assert (EMPTY, middle.sequence_number) == ((0, None), 2)


def test_a_chain_can_be_followed_from_anywhere() -> None:
    """A chain can be followed from before any record on."""
    records = lines(5)
    assert chain.follow(chain.head_before(records[2]), records[2:]).sequence_number == 5


def resealed(record: bytes) -> bytes:
    content = record.rpartition(b',"checksum":"')[0]
    return content + b',"checksum":"' + sha256(content + b"}").hexdigest().encode() + b'"}'


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda r: [r[0], r[1].replace(b'"m"', b'"n"'), r[2]], ChainStatus.ALTERED, "record 2 was altered"),
        (lambda r: [r[0], r[2]], ChainStatus.GAP, "record 2 should be here, and this is 3"),
        (lambda r: [r[0], r[0], r[1]], ChainStatus.GAP, "record 2 should be here, and this is 1"),
        (lambda r: [r[0], line(2, "0" * 64)], ChainStatus.BROKEN_LINK, "record 2 does not follow record 1"),
        (lambda r: [r[0], line(2)], ChainStatus.BROKEN_LINK, "record 2 does not follow record 1"),
        (lambda r: [line(1, "0" * 64)], ChainStatus.BROKEN_LINK, "record 1 claims to follow another"),
        (lambda r: [r[0], b""], ChainStatus.UNREADABLE, "not a record"),
        (lambda r: [r[0], b"\xff\x00"], ChainStatus.UNREADABLE, "not a record"),
        (lambda r: [r[0], r[1] + b" "], ChainStatus.UNREADABLE, "not a record"),
        (lambda r: [r[0], r[1] + b"\r"], ChainStatus.UNREADABLE, "not a record"),
        (lambda r: [r[0], b" " + r[1]], ChainStatus.UNREADABLE, "not a record"),
        (lambda r: [r[0], r[1].replace(b'{"v":2,', b"{")], ChainStatus.UNREADABLE, "not a record"),
        (lambda r: [r[0], r[1].replace(b'{"v":2,', b'{"v":3,'), r[2]], ChainStatus.ALTERED, "record 2 was altered"),
        (lambda r: [r[0], resealed(r[1].replace(b'{"v":2,', b'{"v":0,'))], ChainStatus.UNREADABLE, "not a record"),
    ],
    ids=[
        "altered",
        "removed",
        "repeated",
        "other_previous",
        "no_previous",
        "false_first",
        "empty",
        "binary",
        "space_behind",
        "carriage_return",
        "space_before",
        "no_version",
        "other_version",
        "version_0",
    ],
)
def test_what_is_wrong_is_told(change: Any, status: ChainStatus, message: str) -> None:
    """Each kind of damage has its status and a message, and the head up to which the chain holds."""
    changed = change(lines(3))
    with pytest.raises(ChainError, match=message) as caught:
        chain.follow(EMPTY, changed)
    assert caught.value.status is status
    good = len(changed) - (2 if status is ChainStatus.ALTERED or len(changed) == 3 else 1)
    assert caught.value.head == chain.follow(EMPTY, changed[:good])
    assert caught.value.head.sequence_number == good


def test_a_chain_cannot_begin_at_what_is_no_record() -> None:
    """What is no record can't be where a chain is taken up."""
    with pytest.raises(ChainError, match="not a record"):
        chain.head_before(b"{}")


@pytest.mark.parametrize("no_record", [b"", b"x", line(1) + b"x"])
def test_what_is_no_record_has_no_body(no_record: bytes) -> None:
    """No part of a line that is no record can be sealed again."""
    with pytest.raises(ChainError):
        chain.unsealed(no_record)


def test_what_a_crash_leaves() -> None:
    """Every part of a record is incomplete; a record without its newline is whole; zeros behind it are a crash's."""
    (record,) = lines(1)
    assert all(chain.incomplete(record[:length]) for length in range(len(record)))
    assert not chain.incomplete(record)
    assert chain.incomplete(record + b"\0" * 4096)
    assert chain.incomplete(b"\0" * 4096)


@pytest.mark.parametrize("rest", [b"\x0b", b" ", b"}", b"\0x"])
def test_a_whole_record_with_more_behind_is_no_crash(rest: bytes) -> None:
    """No crash replaces the newline of a record."""
    (record,) = lines(1)
    with pytest.raises(ChainError, match="something else than a newline") as caught:
        chain.incomplete(record + rest)
    assert caught.value.status is ChainStatus.ALTERED


class Counted:
    """SHA-256 that counts the bytes that it is given."""

    total = 0

    def __init__(self, data: bytes = b"", hashed: Any = None) -> None:
        self._hashed = hashed or sha256()
        self.update(data)

    def update(self, data: bytes) -> None:
        type(self).total += len(data)
        self._hashed.update(data)

    def copy(self) -> "Counted":
        return Counted(hashed=self._hashed.copy())

    def hexdigest(self) -> str:
        return str(self._hashed.hexdigest())


@pytest.mark.parametrize("rest", [b"", b"more"])
def test_what_looks_like_seals_is_hashed_once(monkeypatch: pytest.MonkeyPatch, rest: bytes) -> None:
    """A torn record with thousands of copies of records in it takes no longer than one without, and is judged alike."""
    copies = [{"n": 0, "sequence_number": 7, "previous_hash": "a" * 64, "checksum": "b" * 64} for _ in range(4000)]
    record = line(1, metadata={"rows": copies})
    monkeypatch.setattr(chain, "_sha256", lambda: Counted)
    monkeypatch.setattr(Counted, "total", 0)
    assert chain.incomplete(record[:-40])
    assert Counted.total < 3 * len(record)
    if rest:
        with pytest.raises(ChainError, match="something else than a newline"):
            chain.incomplete(record + rest)
    else:
        assert not chain.incomplete(record)
        assert chain.incomplete(record + b"\0" * 512)


def test_a_stored_event_can_be_stored_again() -> None:
    """An event that was read from a trail is sealed anew, with its new place only."""
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m")
    _, seal = chain.seal(chain.body(event), 7, "0" * 64)
    assert chain.body(chain.sealed(event, seal)) == chain.body(event)


# Unicode's names of what drives a terminal, or its order of reading, or ends a line of `str.splitlines`.
TRICKY = [
    each
    for each in map(chr, range(0x7F, 0x3000))
    if unicodedata.category(each) in {"Cc", "Zl", "Zp"}
    or unicodedata.bidirectional(each) in {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    or each in "\u061c\u200e\u200f"
]


@pytest.mark.parametrize(
    "part", [{"sequence_number": 7}, {"previous_hash": "a" * 64}, {"checksum": "a" * 64}], ids=list
)
def test_a_part_of_a_seal_is_not_in_the_body(part: dict[str, Any]) -> None:
    """An event that has any part of a seal has the body that it has without."""
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m")
    assert chain.body(msgspec.structs.replace(event, **part)) == chain.body(event)


def test_a_record_drives_no_terminal() -> None:
    """C1 and bidirectional controls and line separators are stored as JSON escapes, and read back as they were."""
    assert len(TRICKY) == 33 + 2 + 9 + 3
    given = "".join(f"a{each}b" for each in TRICKY) + "é€\u200b\u2030\u2070\U0001f9d1"
    record = line(1, message=given, metadata={given: [given]})
    shown = record.decode()
    assert not set(TRICKY) & set(shown)
    assert shown.splitlines() == [shown]
    read = msgspec.json.decode(record, type=AuditEvent)
    assert (read.message, read.metadata) == (given, {given: [given]})
    assert "é€\u200b\u2030\u2070\U0001f9d1" in shown


def test_escapes_are_under_the_checksum() -> None:
    """The events that were read are checked by the bytes that they were stored as."""
    first = line(1, message="a\u2028b")
    read = msgspec.json.decode(first, type=AuditEvent)
    assert chain.follow(EMPTY, [first]) == chain.follow_events(EMPTY, [read])
    altered = msgspec.structs.replace(read, message="a\u2029b")
    assert chain.verified([altered]).status is ChainStatus.ALTERED


GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("*/*.jsonl"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.parent.name)
def test_golden_trails_stay_valid(path: Path) -> None:
    """A trail of each version verifies from its file and as events; format 1 has such characters as they are."""
    stored = path.read_bytes().removesuffix(b"\n").split(b"\n")
    assert any(each.encode() in path.read_bytes() for each in TRICKY) is (path.parent.name == "format-1")
    head = chain.follow(EMPTY, stored)
    assert head.sequence_number == len(stored)
    read = [decoded(each) for each in stored]
    assert chain.follow_events(EMPTY, read) == head
