"""The questions that a trail is asked: what is found by its bytes is what is found by its values."""

import tempfile
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, AuditTrail, FileStorage
from fapilog.core._reading import counted, member_of_events
from fapilog.record.kinds import AuditOutcome
from fapilog.record.parties import Actor, Target
from fapilog.storage._files import lines
from fapilog.storage._files.needles import needles_of
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.protocol import EventFilter

BEGAN = datetime(2026, 3, 1, tzinfo=UTC)
words = st.sampled_from(
    [
        "",
        "a",
        "alice",
        "al",
        '"',
        "\\",
        'a","user_id":"b',
        "\u2028",
        "\x85",
        "é",
        "\x00",
        "{}",
        "a.b",
        "10.0.0.1",
        "null",
    ]
) | st.text(max_size=5)
plain_values = words | st.integers(-5, 5) | st.booleans() | st.none()
moments = st.integers(0, 100).map(lambda tenths: BEGAN + timedelta(seconds=tenths / 10))
events = st.builds(
    AuditEvent,
    timestamp=moments,
    event_type=st.sampled_from(list(AuditEventType)[:4]),
    log_level=st.sampled_from(AuditLogLevel),
    message=words,
    component=st.none() | words,
    operation=st.none() | words,
    user_id=st.none() | words,
    session_id=st.none() | words,
    request_id=st.none() | words,
    client_ip=st.none() | words,
    outcome=st.none() | st.sampled_from(AuditOutcome),
    actor=st.none() | st.builds(Actor, id=st.none() | words, on_behalf_of=st.none() | words),
    target=st.none() | st.builds(Target, type=st.none() | words, id=st.none() | words),
    regulatory_tags=st.lists(words, max_size=2).map(tuple),
    metadata=st.dictionaries(
        st.sampled_from(["resource", "a", "b", "a.b"]),
        plain_values | st.dictionaries(st.sampled_from(["b", "c"]), plain_values, max_size=2),
        max_size=3,
    ),
)
conditions = st.fixed_dictionaries(
    {},
    optional={
        "start_time": moments,
        "end_time": moments,
        "after": st.integers(0, 12),
        "before": st.integers(0, 12),
        "event_type": st.lists(st.sampled_from(list(AuditEventType)[:4]), min_size=1, max_size=2),
        "log_level": st.sampled_from(AuditLogLevel),
        "min_level": st.sampled_from(AuditLogLevel),
        "message": words,
        "component": words,
        "user_id": words,
        "tag": words,
        "target": words,
        "actor": words,
        "outcome": st.sampled_from(AuditOutcome),
        "metadata": st.dictionaries(st.sampled_from(["a", "b", "a.b", "a.c"]), plain_values, max_size=2),
    },
)


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[AuditEvent], dict[str, Any]]:
    """Draw events, and conditions that are drawn at random or that one of the events meets."""
    stored = draw(st.lists(events, max_size=10))
    asked = draw(conditions)
    if stored and asked.keys() != {"before"}:
        event = draw(st.sampled_from(stored))
        members = ("message", "component", "operation", "user_id", "session_id", "request_id", "client_ip")
        for name in draw(st.lists(st.sampled_from(members), max_size=3)):
            asked[name] = getattr(event, name)
        if event.target is not None:
            asked["target"] = event.target
        if event.actor is not None:
            asked["actor"] = event.actor.id
        if event.regulatory_tags:
            asked["tag"] = event.regulatory_tags[0]
        asked["metadata"] = dict(event.metadata)
    return stored, asked


@pytest.mark.slow
@given(questions())
def test_what_is_found_by_its_bytes_is_what_is_found_by_its_values(
    question: tuple[list[AuditEvent], dict[str, Any]],
) -> None:
    """Whatever is stored, and whatever is asked, the answer is that of a look at each event."""
    stored, asked = question
    with tempfile.TemporaryDirectory() as directory:
        trail = AuditTrail(storage=FileStorage(directory, durability="write"))
        for event in stored:
            anyio.run(trail._storage.append, event)
        everything = trail.sync.get_events(limit=1000)
        wanted = EventFilter(**asked)
        expected = [event.event_id for event in everything if wanted.matches(event)]
        assert [event.event_id for event in trail.sync.get_events(limit=1000, **asked)] == expected
        assert [event.event_id for event in trail.sync.events(**asked)] == expected
        assert [event.event_id for event in trail.sync.events(oldest_first=True, **asked)] == expected[::-1]
        assert sum(trail.sync.count_by("user_id", **asked).values()) == len(expected)


async def test_names_of_metadata_are_asked_for_as_they_were_given() -> None:
    """A name that is no text, or has what is stored as an escape, is the text that the trail has made of it."""
    trail = AuditTrail(storage=MemoryStorage())
    odd: dict[Any, Any] = {1: "one", "\udcff": {"\udcfe": 2}}
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", metadata=odd)
    names: list[dict[Any, Any]] = [{1: "one"}, {"1": "one"}, {"\udcff.\udcfe": 2}]
    for asked in names:
        assert len(await trail.get_events(metadata=asked)) == 1
    assert await trail.get_events(metadata={2: "one"}) == []  # type: ignore[dict-item]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"metadata": "x"}, r"^metadata: expected a mapping of names to values; got a str"),
        ({"limit": 1.5}, r"^limit: expected a whole number; got a float"),
    ],
)
async def test_what_can_not_be_asked_is_refused(asked: Any, message: str) -> None:
    """A question of another type is an error at once, which names the condition, in every storage."""
    with pytest.raises(TypeError, match=message):
        await AuditTrail(storage=MemoryStorage()).get_events(**asked)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_BLOCK_BYTES", 700)


@pytest.mark.slow_on_trio
@pytest.mark.usefixtures("small_blocks")
async def test_over_days_and_blocks(tmp_path: Path) -> None:
    """Over several files and many blocks the numbers, the conditions and the pages hold."""
    days = iter([BEGAN + timedelta(days=number // 40) for number in range(200)])
    trail = AuditTrail(storage=FileStorage(tmp_path, durability="write", now=lambda: next(days, BEGAN + timedelta(9))))
    for number in range(200):
        await trail.log_data_access(f"patient/{number % 10}", "read", user_id=f"u{number % 3}")
    numbers = [number for number in range(1, 201) if (number - 1) % 10 == 4 and (number - 1) % 3 == 1]
    asked: dict[str, Any] = {"target": "patient/4", "user_id": "u1"}
    assert [each.sequence_number async for each in trail.events(**asked)] == numbers[::-1]
    assert [each.sequence_number async for each in trail.events(oldest_first=True, **asked)] == numbers
    for after, before in ((0, 201), (55, 120), (80, 82), (150, 500), (300, 400), (10, 5)):
        expected = [number for number in numbers if after < number < before]
        found = await trail.get_events(after=after, before=before, **asked)
        assert [each.sequence_number for each in found] == expected[::-1]
        found = [each async for each in trail.events(oldest_first=True, after=after, before=before)]
        assert [each.sequence_number for each in found] == list(range(after + 1, min(before, 201)))


async def test_counts_are_of_any_member(tmp_path: Path) -> None:
    """Events are counted by a member, by one of its own, or by a path in the metadata; without a value, under ""."""
    trail = AuditTrail(storage_path=tmp_path)
    for status in (200, 403, 200):
        await trail.log_event(AuditEventType.DATA_ACCESS, "m", metadata={"http": {"status": status}})
    await trail.log_event(AuditEventType.COMPLIANCE_CHECK, "m", user_id="root")
    await trail.log_data_access("patient/42", "read", metadata={"a.b": {"c.d": 1}, "metadata": {"x": 2}, "": 3})
    assert await trail.count_by("metadata.http.status") == {"200": 2, "403": 1, "": 2}
    for field, value in (("a.b", '{"c.d":1}'), ("metadata.x", "2"), ("", "3"), ("http.status.x", None)):
        expected = {"": 5} if value is None else {"": 4, value: 1}
        assert await trail.count_by(f"metadata.{field}") == expected, field
    assert await trail.count_by("target.type") == {"": 4, "patient": 1}
    assert await trail.count_by("error.type") == {"": 5}
    assert await trail.count_by("user_id", event_type=AuditEventType.COMPLIANCE_CHECK) == {"root": 1}
    assert await trail.count_by("event_type") == {"data_access": 4, "compliance_check": 1}


async def test_no_two_values_are_counted_as_one(tmp_path: Path) -> None:
    """A label has all of the value, as JSON: two actors are two; what is asked for by TYPE/ID is under that."""
    trail = AuditTrail(storage_path=tmp_path)
    for name in ("backup", "billing", "billing"):
        actor = Actor(id=name, type="service")
        await trail.log_data_access("patient/42", "read", actor=actor, regulatory_tags="PCI", metadata={"paid": True})
    expected = {"actor": ['{"id":"billing","type":"service"}', '{"id":"backup","type":"service"}']}
    expected |= {"target": ["patient/42"], "regulatory_tags": ['["PCI"]'], "metadata.paid": ["true"]}
    expected |= {"log_level": ["info"], "contains_pii": ["false"]}
    for field, labels in expected.items():
        assert list(await trail.count_by(field)) == labels


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    "value",
    [UUID(int=7), Decimal("1.50"), date(2026, 3, 1), b"ab", Colour.RED, (1, "x\udcff"), float("nan"), {"n": {2: 3}}],
    ids=repr,
)
@pytest.mark.parametrize("place", ["files", "memory"])
async def test_a_value_is_found_by_itself(tmp_path: Path, place: str, value: Any) -> None:
    """What was recorded in the metadata is what can be asked for, whatever it is stored as."""
    trail = AuditTrail(storage=MemoryStorage() if place == "memory" else FileStorage(tmp_path))
    event_id = await trail.log_event(AuditEventType.DATA_ACCESS, "m", metadata={"of": {"it": value}})
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", metadata={"of": {"it": "another"}})
    for asked in ({"of.it": value}, {"of": {"it": value}}):
        assert [each.event_id for each in await trail.get_events(metadata=asked)] == [event_id]


NUMBERS: Final = [7, 7.0, "7", 70, -7, 7.5, 0, 1, -0.0, 1.0, False, True, 10**15, 1e15, 10**16, 1e16, 2**60, 2.0**60]


@pytest.mark.one_backend
@pytest.mark.parametrize("asked", NUMBERS, ids=repr)
async def test_a_number_is_found_by_all_that_are_equal(tmp_path: Path, asked: object) -> None:
    """A number in the metadata is asked for by its value, however it is written."""
    trail = AuditTrail(storage=FileStorage(tmp_path, durability="write"))
    for number in NUMBERS:
        await trail.log_event(AuditEventType.DATA_ACCESS, "m", metadata={"http": {"status": number}})
    found = await trail.get_events(metadata={"http.status": asked})
    assert [each.sequence_number for each in found][::-1] == [
        number for number, each in enumerate(NUMBERS, 1) if each == asked
    ]


def test_a_number_is_looked_for_before_records_are_decoded() -> None:
    """A whole number has bytes by which its records are found, but for those that are equal to others."""
    for number, needles in ((403, [b'status":403']), (-2, [b'status":-2']), (1, []), (10**16, []), (0.5, [])):
        assert needles_of(EventFilter.of({"metadata": {"http.status": number}})) == needles


@pytest.mark.slow
@pytest.mark.one_backend
async def test_a_count_takes_no_memory_for_each_event() -> None:
    """However many events are counted, memory is for the values that differ."""

    async def events() -> AsyncIterator[AuditEvent]:
        for number in range(5000):
            yield AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", metadata={"x": 10_000 + number % 10})

    tracemalloc.start()
    try:
        counts = await counted(events(), member_of_events("metadata.x"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert set(counts.values()) == {500}
    assert peak < 5000 * 16


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("field", "error", "says"),
    [
        ("user", ValueError, "^field: expected one of .*, user_id, .*; got 'user'; did you mean user_"),
        ("target.typ", ValueError, "; got 'target.typ'; did you mean target.type."),
        ("http.status", ValueError, "or metadata. and a path, as in metadata.http.status; got 'http.status'"),
        ("user_id.x", ValueError, "got 'user_id.x'; did you mean user_id."),
        ("", ValueError, "got ''"),
        (None, TypeError, "^field: expected .*; got None"),
    ],
)
async def test_a_count_by_nothing_that_events_have(
    tmp_path: Path, field: Any, error: type[Exception], says: str
) -> None:
    """A field that no event can have is refused before the trail is read; the words say how to name what is meant."""
    with pytest.raises(error, match=says):
        await AuditTrail(storage_path=tmp_path).count_by(field)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("asked", "error", "says"),
    [
        ({"after": "1"}, TypeError, "^after: expected"),
        ({"after": 1.5}, TypeError, "^after: expected a whole number; got a float"),
        ({"user_id": ["alice", "bob"]}, TypeError, "^user_id: expected a text; got a list"),
        ({"actor": Actor(id="alice")}, TypeError, "^actor: expected a text; got an Actor"),
        ({"before": -1}, ValueError, "^before: expected"),
        ({"min_level": "loud"}, ValueError, "^min_level: expected one of debug"),
        ({"event_type": ["nonsense"]}, ValueError, "^event_type: expected one of"),
        ({"userid": "x"}, TypeError, "^there is no condition userid; did you mean user_id"),
        ({"xyzzy": "x"}, TypeError, "^there is no condition xyzzy(?!;)"),
        ({"metadata": "status=403"}, TypeError, "^metadata: expected a mapping"),
    ],
)
async def test_a_question_that_makes_no_sense(tmp_path: Path, asked: Any, error: type[Exception], says: str) -> None:
    """A condition that is none, or has a wrong value, is refused at once, whoever asks."""
    trail = AuditTrail(storage_path=tmp_path)
    with pytest.raises(error, match=says):
        await trail.get_events(**asked)
    with pytest.raises(error, match=says):
        trail.events(**asked)
    with pytest.raises(error, match=says):
        trail.sync.events(**asked)


LONE, ITS_ESCAPE = "x\udcff", "x\\udcff"


@pytest.mark.one_backend
@pytest.mark.parametrize("given", [LONE, ITS_ESCAPE, "x\\\\udcff"], ids=ascii)
async def test_an_odd_text_is_found_as_it_was_given(tmp_path: Path, given: str) -> None:
    """A lone surrogate and the characters of its escape are two texts, in whatever member they are asked for."""
    trail = AuditTrail(storage_path=tmp_path)
    for each in (LONE, ITS_ESCAPE, "x\\\\udcff"):
        target = Target(type="file", id=each)
        event_id = each if each.isprintable() else None
        metadata = {"k": each}
        await trail.log_data_access(
            target, "read", user_id=each, event_id=event_id, actor={"id": each}, metadata=metadata
        )
    asked: list[dict[str, Any]] = [
        {"user_id": given},
        {"actor": given},
        {"target": f"file/{given}"},
        {"target": {"type": "file", "id": given}},
        {"target": Target(id=given)},
        {"metadata": {"k": given}},
    ]
    if given.isprintable():
        asked.append({"event_id": given})
    for conditions in asked:
        assert len(await trail.get_events(**conditions)) == 1, conditions


def test_a_party_in_an_event_is_storable() -> None:
    """What is given to an event itself, and not by way of a trail, has texts that UTF-8 can carry."""
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", actor=Actor(id=LONE), target=Target(id=LONE))
    assert event.actor == Actor(id=ITS_ESCAPE)
    assert event.target == Target(id=ITS_ESCAPE)


def test_a_time_beyond_the_calendar_in_utc_is_its_end() -> None:
    """The first and the last moment of another zone are no error, but the first and the last one in UTC."""
    for moment, hours in ((datetime.min, 9), (datetime.max, -9)):  # noqa: DTZ901
        given_so = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
        assert EventFilter(start_time=given_so).start_time == moment.replace(tzinfo=UTC)
