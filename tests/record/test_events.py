"""Events: immutable, and always storable."""

import copy
import json
import math
import pickle
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import (
    Actor,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditOutcome,
    ComplianceLevel,
    ErrorDetails,
    Target,
)
from fapilog.record import errordetails
from fapilog.record.kinds import unlisted

_decode = msgspec.json.Decoder(AuditEvent).decode
_encode = msgspec.json.encode


def event(**fields: Any) -> AuditEvent:
    """Return an event with *fields*."""
    return AuditEvent(**{"event_type": AuditEventType.DATA_ACCESS, "message": "read", **fields})


class Odd:
    """Something no encoder knows."""

    def __repr__(self) -> str:
        return "Odd()"


class Broken:
    """Something that can't even be printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


def test_id_and_time_are_made() -> None:
    """An event has an id of 36 characters, and the time of its making in UTC."""
    before = time.time_ns() // 1_000_000
    made = event()
    assert str(uuid.UUID(made.event_id)) == made.event_id
    # https://www.rfc-editor.org/rfc/rfc9562.html#section-5.7
    assert (uuid.UUID(made.event_id).version, uuid.UUID(made.event_id).variant) == (7, uuid.RFC_4122)
    assert before <= uuid.UUID(made.event_id).int >> 80 <= time.time_ns() // 1_000_000
    assert made.timestamp.tzinfo is UTC
    assert datetime.now(UTC) - made.timestamp < timedelta(minutes=1)


def test_ids_are_in_the_order_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The id of a later millisecond is greater, so that an index grows at its end; and within one all ids differ."""
    ids: list[str] = []
    for now in (1_700_000_000_000, 1_700_000_000_001, 1_700_000_065_536):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now * 1_000_000)
        ids.append(min(made := {event().event_id for _ in range(600)}))
        assert len(made) == 600
        ids.append(max(made))
    assert ids == sorted(ids)
    assert ids[0].startswith("018bcfe5-6800-7")
    # Before 1970 an id is one all the same.
    monkeypatch.setattr(time, "time_ns", lambda: -1)
    assert uuid.UUID(event().event_id).version == 7


def test_other_time_zones_become_utc() -> None:
    """A timestamp in another time zone is the same moment in UTC."""
    noon = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))
    assert event(timestamp=noon).timestamp.isoformat() == "2026-01-31T10:00:00+00:00"


def test_naive_time_is_refused() -> None:
    """A timestamp without a time zone is an error that says what came."""
    with pytest.raises(ValueError, match=r"timestamp: expected a datetime with a time zone; got one without"):
        event(timestamp=datetime(2026, 1, 31, 12))  # noqa: DTZ001


@pytest.mark.parametrize(
    "change",
    [
        "e.message = 'x'",
        "del e.message",
        "e.error.message = 'x'",
        "e.regulatory_tags.append('x')",
        "m.update(a=1)",
        "m['a'] = 1",
        "del m['list']",
        "m |= {'a': 1}",
        "m.pop('list')",
        "m.popitem()",
        "m.clear()",
        "m.setdefault('a', 1)",
        "m['dict'].update(a=1)",
        "m['list'].append(1)",
        "m['list'] += [1]",
        "m['list'] *= 2",
        "m['list'][0] = 1",
        "del m['list'][0]",
        "m['list'].extend([1])",
        "m['list'].insert(0, 1)",
        "m['list'].remove(1)",
        "m['list'].pop()",
        "m['list'].clear()",
        "m['list'].sort()",
        "m['list'].reverse()",
        "m['list'][1].update(a=1)",
    ],
)
def test_nothing_in_an_event_can_be_changed(change: str) -> None:
    """Every way to change an event, at any depth, is refused and changes nothing."""
    made = event(
        metadata={"list": [1, {"x": 1}], "dict": {"y": 2}},
        error=ErrorDetails.of(ValueError("v")),
        regulatory_tags=["pci"],
    )
    before = _encode(made)
    with pytest.raises((TypeError, AttributeError)):
        exec(change, {"e": made, "m": made.metadata})  # noqa: S102
    assert _encode(made) == before


def test_what_was_given_is_copied() -> None:
    """Changing the metadata after the event was made does not change the event."""
    metadata = {"list": [1]}
    made = event(metadata=metadata)
    metadata["list"].append(2)
    assert made.metadata == {"list": [1]}


def test_metadata_are_plain_json_to_others() -> None:
    """Metadata equal what was given and can be handed to any JSON library."""
    metadata = {"list": [1, {"x": None}], "dict": {"y": 2.5}, "text": "ü"}
    made = event(metadata=metadata)
    assert made.metadata == metadata
    assert json.loads(json.dumps(made.metadata)) == metadata


def test_copies_and_pickles() -> None:
    """An event survives copying and pickling, and so do its metadata."""
    made = event(metadata={"list": [1, {"x": 1}]}, error=ErrorDetails.of(ValueError("v")))
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301
    assert copy.deepcopy(made) is made
    assert copy.deepcopy(made.metadata) == made.metadata


@pytest.mark.parametrize("kind", [AuditEventType, AuditLogLevel, AuditOutcome, ComplianceLevel])
def test_kinds_of_a_later_version_are_pickled(kind: Any) -> None:
    """A member that this version does not list, and each one that it does, survives copying and pickling."""
    for member in (*kind, unlisted(kind, "later")):
        again = pickle.loads(pickle.dumps(member))  # noqa: S301
        assert (again, type(again), again.name) == (member, kind, member.name)
        assert copy.copy(member) == member
    assert pickle.loads(pickle.dumps(kind(next(iter(kind)).value))) is next(iter(kind))  # noqa: S301


def test_types_of_ones_own_are_pickled() -> None:
    """An event type with a dot survives pickling, on every release of Python."""
    own = AuditEventType("billing.refund")
    assert pickle.loads(pickle.dumps(own)) == own  # noqa: S301


class Markup(str):
    """A str of somebody's own, as template engines have."""

    __slots__ = ()

    def __str__(self) -> str:
        return "<b>"


class Meters(float):
    """A float of somebody's own, as numpy has."""


class Colour(IntEnum):
    """A number with a name."""

    RED = 1


@dataclass
class Point:
    """What msgspec can encode, with something inside that it can't."""

    x: int
    odd: Odd


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (datetime(2026, 1, 31, tzinfo=UTC), "2026-01-31T00:00:00Z"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.50"), "1.50"),
        (AuditLogLevel.INFO, "info"),
        (b"\x00\xff", "AP8="),
        ((1, (2,)), [1, [2]]),
        (frozenset({1}), [1]),
        (Point(1, Odd()), {"x": 1, "odd": "Odd()"}),
        (Odd(), "Odd()"),
        (Broken(), "<Broken, unreadable: RuntimeError>"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (10**40, 10**40),
        pytest.param(-(10**5000), hex(-(10**5000)), id="endless"),
        ("\ud800", "\\ud800"),
        (Markup("x" * 100), "x" * 100),
        (Meters(1.5), 1.5),
        (Colour.RED, 1),
        ({1: "a", (2, 3): "b", None: "c", "\udfff": "d"}, {"1": "a", "(2, 3)": "b", "None": "c", "\\udfff": "d"}),
        ({1: "a", "1": "b"}, {"1": "a", "1_": "b"}),
    ],
)
def test_any_value_becomes_json(value: object, stored: object) -> None:
    """A value that JSON lacks is stored as msgspec encodes it, or else as its repr, and nothing is lost."""
    made = event(metadata={"key": value})
    assert made.metadata == {"key": stored}
    assert _decode(_encode(made)) == made


def test_metadata_that_contain_themselves_end() -> None:
    """Metadata that contain themselves are stored up to there."""
    loop: list[object] = [1]
    loop.append(loop)
    made = event(metadata={"loop": loop})
    assert made.metadata["loop"][0] == 1
    assert isinstance(made.metadata["loop"][1], str)
    assert _decode(_encode(made)) == made


@pytest.mark.torture
def test_metadata_that_explode_are_cut() -> None:
    """A few lists that share each other and unfold to more values than a record holds end with their number."""
    shared: list[object] = [1]
    for _ in range(60):
        shared = [shared, shared]
    made = event(metadata={"shared": shared})
    assert made.metadata["shared"][-1] == "… (2 values)"
    assert _decode(_encode(made)) == made


def test_deep_metadata_are_cut() -> None:
    """Metadata deeper than readers follow end in text."""
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"d": deep}
    made = event(metadata=deep)
    assert _decode(_encode(made)) == made


@pytest.mark.parametrize("value", [42, uuid.UUID(int=1), "\ud800", Broken(), "", b"x"])
def test_fields_of_text_hold_text(value: Any) -> None:
    """A user id that is a number, a UUID or broken text is stored as text."""
    made = event(user_id=value, message=value)
    assert isinstance(made.user_id, str)
    assert isinstance(made.message, str)
    assert _decode(_encode(made)) == made


def test_what_is_always_there_is_text() -> None:
    """An event without a message, or an id, can be stored and read again."""
    made = event(event_id=None, message=None)
    assert (made.event_id, made.message, made.user_id) == ("None", "None", None)
    assert _decode(_encode(made)) == made


@pytest.mark.parametrize("actor", ["alice", {"id": "alice"}, Actor(id="alice")])
def test_parties_are_taken_as_the_trail_takes_them(actor: Any) -> None:
    """An id, a mapping and an object are the same actor and target in an event that is made by hand."""
    target: Any = "patient/42"
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="read", actor=actor, target=target)
    assert event.actor == Actor(id="alice")
    assert event.target == Target(type="patient", id="42")


def test_a_single_tag_is_not_taken_apart() -> None:
    """Regulatory tags given as one text are one tag."""
    assert event(regulatory_tags="pci").regulatory_tags == ("pci",)
    assert event(regulatory_tags=["pci", 10]).regulatory_tags == ("pci", "10")


def test_an_exception_is_kept_with_its_causes() -> None:
    """The details of an exception hold its type, its text, and the traceback with the cause."""
    try:
        try:
            raise KeyError("k")
        except KeyError as error:
            raise msgspec.ValidationError("bad") from error
    except msgspec.ValidationError as error:
        details = ErrorDetails.of(error)
    assert details.type == "msgspec.ValidationError"
    assert details.message == "bad"
    assert "KeyError: 'k'" in details.traceback
    assert "direct cause" in details.traceback


@pytest.mark.parametrize("error", [ExceptionGroup("g", [ValueError("v")]), KeyboardInterrupt(), Broken(), "text"])
def test_anything_can_be_an_error(error: object) -> None:
    """Groups, exits, and things that are no exceptions at all can be described."""
    details = ErrorDetails.of(error)
    assert details.type.endswith(type(error).__qualname__)
    assert _decode(_encode(event(error=details))).error == details


@pytest.mark.parametrize("name", ["type", "message", "traceback"])
@pytest.mark.parametrize("value", ["a\ud800b", 42, None, Broken(), ""])
def test_details_made_by_hand_hold_text(name: str, value: Any) -> None:
    """Details of an error that somebody fills in are stored as text, whatever they are."""
    details = ErrorDetails(**{"type": "ValueError", "message": "bad", name: value})
    assert isinstance(getattr(details, name), str)
    assert _decode(_encode(event(error=details))).error == details


def test_an_exception_without_text_is_kept() -> None:
    """An exception whose str fails is described all the same."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert (
        ErrorDetails.of(Mute()).message
        == "<test_an_exception_without_text_is_kept.<locals>.Mute, unreadable: RuntimeError>"
    )


def test_of_a_long_traceback_the_end_is_kept() -> None:
    """A traceback of any length keeps its end, and no more than fits."""
    try:
        exec("x = " + "'" + "y" * 100_000 + "'\nraise ValueError('the end')", {})  # noqa: S102
    except ValueError as error:
        error.add_note("n" * 100_000)
        error.add_note("last note")
        details = ErrorDetails.of(error)
    assert len(details.traceback) == errordetails.MAX_TRACEBACK
    assert details.traceback.endswith("last note\n")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec=None)) | st.integers(), inner),
    max_leaves=20,
)


@pytest.mark.slow
@given(st.dictionaries(st.text(st.characters(codec=None)), json_like), st.text(st.characters(codec=None)))
def test_every_event_survives_its_record(metadata: dict[str, Any], message: str) -> None:
    """Whatever is given, the event that is read back is the one that was written, to the byte."""
    made = event(metadata=metadata, message=message)
    record = _encode(made)
    read = _decode(record)
    assert read == made
    assert _encode(read) == record
