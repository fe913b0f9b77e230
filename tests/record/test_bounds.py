"""How much is looked at of values that are very large, or hold others very often: counted, and not timed."""

import logging
import threading
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

import pytest

from fapilog import AuditEventType, _typos
from fapilog.context import audit_context, completed
from fapilog.integrations import _logrecords
from fapilog.integrations.logging import _message as message_of
from fapilog.record import intake, texts
from fapilog.record.errordetails import MAX_TRACEBACK, described
from fapilog.record.events import AuditEvent, handed_out
from fapilog.record.freezing import Walk, frozen_mapping
from fapilog.record.intake import recorded
from fapilog.record.keywords import names_in
from fapilog.record.texts import cut
from fapilog.record.values import MAX_MADE, FrozenDict, FrozenList, given_text
from tests.doubles.measured_calls import measured_calls

MEGABYTE = 1 << 20
MAX_RECORD = 262_144


def made(message: Any = "m", **fields: Any) -> AuditEvent:
    """Return the event for what is given, with the limits of a policy that says nothing of them."""
    known = {"event_type": AuditEventType.DATA_ACCESS, "message": message}
    draft, body = recorded(known, fields, limits=(8_192, 65_536, MAX_RECORD))
    assert len(body) <= MAX_RECORD
    return handed_out(draft)


class Long:
    """An object with a `repr` of a megabyte."""

    asked = 0

    def __repr__(self) -> str:
        type(self).asked += 1
        return "x" * MEGABYTE


@pytest.fixture(autouse=True)
def _nothing_is_asked() -> None:
    Long.asked = 0


class Numbers(Mapping[str, Any]):
    """A mapping of so many numbers, made as they are read; the value of each name is *value*."""

    read = 0

    def __init__(self, size: int, value: Any = 1) -> None:
        self.size, self.value = size, value

    def __getitem__(self, name: str) -> Any:
        return self.value

    def __iter__(self) -> Iterator[str]:
        for number in range(self.size):
            type(self).read += 1
            yield f"{'n' * 250}{number}"

    def __len__(self) -> int:
        return self.size


# -- texts that are made of values


@pytest.mark.parametrize("name", ["message", "user_id", "actor", "target"])
@pytest.mark.parametrize("container", [list, tuple, set, dict.fromkeys])
def test_the_text_of_a_container_asks_as_many_values_as_it_has_room_for(name: str, container: Any) -> None:
    """Of three thousand objects with a `repr` of a megabyte in a container that is to be a text, one is asked."""
    value = container([Long() for _ in range(3_000)])
    event = made(**{name: {"id": value} if name in {"actor", "target"} else value})
    assert Long.asked == 1
    named = event.message if name == "message" else getattr(getattr(event, name), "id", event.user_id)
    assert named == f"<{type(value).__name__}, too large>"


@pytest.mark.parametrize("inside", [list, dict.fromkeys])
def test_no_more_text_is_made_than_could_be_kept(inside: Any) -> None:
    """Of three thousand objects with a long `repr`, values or keys, some are asked; the others are named."""
    event = made(metadata={"values": inside([Long() for _ in range(3_000)])})
    assert Long.asked <= MAX_MADE // MEGABYTE + 1
    assert str(event.metadata).count("<Long, not read>") > 100
    assert event.truncated[0] == "metadata.values"
    assert event.metadata["values"]


def test_a_short_value_is_read_behind_long_ones() -> None:
    """After bytes of many megabytes the times, numbers, texts and ids are still read."""
    blobs = [b"x" * MEGABYTE + bytes([number]) for number in range(20)]
    event = made(metadata={"blobs": blobs, "small": b"ab", "number": 1.5, "rows": [(1, "a")]})
    assert event.metadata["small"] == "YWI="
    assert event.metadata["number"] == 1.5
    assert event.metadata["rows"] == [[1, "a"]]
    assert event.metadata["blobs"][-1] == "<bytes, not read>"
    assert event.metadata["blobs"][0].endswith(" characters, sha256 " + event.metadata["blobs"][0][-65:])


def test_a_long_number_takes_the_room_of_a_text() -> None:
    """A number of a million digits is cut, as a text is, and costs the values behind it nothing."""
    number = 1 << 4_000_000
    event = made(metadata={"number": number, "user": "alice"}, user_id=number)
    assert event.metadata["user"] == "alice"
    assert event.metadata["number"] == cut(hex(number), 65_536)
    assert event.user_id == cut(hex(number), 8_192)


def test_tags_are_read_as_far_as_there_is_room() -> None:
    """Of a thousand tags with long texts some are asked; a tag that is a text is never left out for them."""
    tags = made(regulatory_tags=[*(Long() for _ in range(999)), "gdpr"]).regulatory_tags
    assert Long.asked <= MAX_MADE // MEGABYTE + 1
    assert tags[-1] == "gdpr"
    assert tags[-2] == "<Long, not read>"


# -- texts that are cut


def test_a_long_text_is_escaped_as_far_as_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of megabytes of lone surrogates, only the part that is kept is escaped; the hash is that of the given text."""
    given = "\ud800" * (4 * MEGABYTE)
    escaped = measured_calls(monkeypatch, texts, "escaped", len)
    event = made(message=given, reason=given, metadata={"a": given, "b": [given] * 10})
    assert 0 < sum(escaped) < 40 * 65_536
    digest = sha256(given.encode("utf-8", "surrogatepass")).hexdigest()
    assert event.message.endswith(f"… ({len(given)} characters, sha256 {digest})")
    assert event.message.startswith(r"\ud800\ud800")
    assert event.message[-110:] == event.metadata["a"][-110:]


def test_no_more_is_hashed_than_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the texts that are cut are very many, the last of them have their lengths alone."""
    hashed = measured_calls(monkeypatch, intake, "mark_of", len)
    event = made(metadata={"texts": [f"{'x' * MEGABYTE}{number}" for number in range(50)]})
    kept = event.metadata["texts"]
    assert 0 < sum(hashed) <= intake._MAX_HASHED + MEGABYTE + 2
    assert kept[0].endswith(f"({MEGABYTE + 1} characters, sha256 {kept[0][-65:]}")
    assert kept[-1].endswith(f"… ({MEGABYTE + 2} characters)")


def test_no_event_is_made_that_is_certainly_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """While as much of many long texts is kept as fits, no event is made that is many times as long as that."""
    tried = measured_calls(monkeypatch, intake._Taken, "_fits", lambda _, event: len(intake._encode(event)))
    event = made(metadata={"texts": ["x" * 60_000] * 500})
    assert len(event.metadata["texts"]) == 500
    assert len(intake._encode(event)) > MAX_RECORD // 2
    assert max(tried) < 2 * MAX_RECORD


# -- values that are read


@pytest.mark.parametrize("name", ["actor", "target"])
def test_a_party_is_looked_for_among_some_members(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mapping of a hundred thousand names, the first are looked at for an actor; what fits is in the metadata."""
    monkeypatch.setattr(Numbers, "read", 0)
    party: Any = {"id": "alice"} | {f"n{number}": number for number in range(100_000)}
    event = made(**{name: party})
    assert getattr(event, name).id == "alice"
    assert event.metadata[name]["…"] == "(100001 values)"
    made(**{name: Numbers(100_000)})
    assert Numbers.read < 3_000 + MAX_RECORD // 5


@pytest.mark.slow
def test_mappings_in_mappings_are_read_once_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each of many values is a mapping with more than there is room for, not all of each is read."""
    monkeypatch.setattr(Numbers, "read", 0)
    value: Any = 1
    for _ in range(60):
        value = Numbers(200_000, value)
    event = made(metadata={"value": value})
    assert Numbers.read < 2 * MAX_RECORD
    assert event.truncated[0] == "metadata.value"


def test_a_large_mapping_is_no_reason_to_read_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata that have more values than a record, with another value beside them, are not merged with that."""
    monkeypatch.setattr(Numbers, "read", 0)
    event = made(metadata=Numbers(500_000), other=1)
    assert Numbers.read < MAX_RECORD
    assert event.metadata["metadata"]["…"] == "(more than 52427 values)"


def test_changes_are_named_as_far_as_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the message about a change, seventeen names are read."""
    monkeypatch.setattr(Numbers, "read", 0)
    assert names_in(Numbers(500_000))[-1] == "…"
    assert Numbers.read == 17


# -- errors


class Counted(Exception):
    """An exception that counts how often its text is asked for."""

    asked = 0

    def __str__(self) -> str:
        type(self).asked += 1
        return "counted"


@pytest.fixture(autouse=True)
def _no_text_is_asked() -> None:
    Counted.asked = 0


def multiplied(depth: int, times: int = 2) -> Exception:
    """Return a group that holds the same group *times*, which again does so."""
    error: Exception = Counted()
    for _ in range(depth):
        error = ExceptionGroup("group", [error] * times)
    return error


@pytest.mark.parametrize(("depth", "times"), [(30, 2), (3, 100), pytest.param(1, 100_000, marks=pytest.mark.slow)])
def test_a_group_that_multiplies_is_short(depth: int, times: int) -> None:
    """Of a group with the same exception a thousand million times, none is asked; the group is recorded."""
    error = made(error=multiplied(depth, times)).error
    assert error is not None
    assert error.type == "ExceptionGroup"
    assert error.message == f"group ({times} sub-exceptions)"
    assert error.traceback.endswith(f"ExceptionGroup: group ({times} sub-exceptions)\n")
    assert Counted.asked == 0
    given_text([multiplied(depth, times)])
    made(metadata={"error": multiplied(depth, times)})
    assert Counted.asked == 0


def test_of_a_long_chain_the_end_is_kept() -> None:
    """Of exceptions that led to exceptions, five thousand times, those at the end are asked and printed."""
    error = Counted()
    for _ in range(5_000):
        try:
            raise Counted from error
        except Counted as caught:
            error = caught
    trace = described(error).traceback
    assert trace.startswith("… (more exceptions)\n")
    assert trace.endswith("test_bounds.Counted: counted\n")
    assert "\nThe above exception was the direct cause of the following exception:\n" in trace
    assert len(trace) < 2 * MAX_TRACEBACK
    assert Counted.asked < 1_000


@pytest.mark.parametrize("kind", [ValueError, pytest.param(KeyError, marks=pytest.mark.slow)])
def test_an_error_with_arguments_that_multiply_is_recorded(kind: type[Exception]) -> None:
    """The text of an exception is that of its arguments: where they have no end, they are named, in a note too."""
    value: Any = (1,)
    for _ in range(60):
        value = (value, value)
    raised = kind(value)
    raised.__notes__ = value
    error = made(error=raised, metadata={"error": raised}).error
    assert error is not None
    assert error.message == "<tuple, too large>"
    assert f"{kind.__name__}: <tuple, too large>\n" in error.traceback


def test_notes_without_end_are_counted() -> None:
    """Of a hundred thousand notes the first are kept, each in short, with their number."""
    error = ValueError("x")
    error.__notes__ = ["n" * 2_000] * 100_000
    trace = described(error).traceback
    assert len(trace) < 20_000
    assert trace.endswith("… (100000 notes)\n")


# -- keywords


def test_new_names_are_looked_at_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose keywords come from data, ten thousand of them, compares a few with those of the trail."""
    compared = measured_calls(monkeypatch, _typos, "_nearest")
    _typos.look_for_typos({f"column_{number}_{threading.get_ident()}": 1 for number in range(10_000)})
    assert 0 < len(compared) <= 64


def test_what_a_log_call_gives_is_read_as_far_as_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The values of a log call, which are read while it waits, are bounded by what a record holds."""
    read = measured_calls(monkeypatch, Walk, "_value")
    found = _logrecords.read({"rows": [[]] * 1_000_000}, room=65_536)
    assert 0 < len(read) < 65_536
    assert found["metadata"]["rows"][-1] == "… (1000000 values)"


def test_a_log_call_asks_as_many_values_as_it_has_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list in the place of a message, and of a mapping with half a million fields, only a part is read."""
    monkeypatch.setattr(Numbers, "read", 0)
    record = logging.LogRecord("shop", logging.WARNING, "", 0, [Long() for _ in range(3_000)], (), None)
    assert message_of(record) == "<list, too large>"
    assert Long.asked == 1
    _logrecords.read(Numbers(500_000), room=65_536)
    assert Numbers.read < 65_536 // 2


@pytest.mark.slow
def test_the_values_of_a_record_are_copied_without_a_look_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is read holds nothing but JSON: as many values as it may have take no walk."""
    read = measured_calls(monkeypatch, Walk, "_value")
    rows: Any = {"rows": [[], {}, 1.5, None] * 80_000}
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="m", metadata=rows)
    assert read == []
    assert event.metadata == rows
    assert {type(each) for each in event.metadata["rows"]} == {FrozenList, FrozenDict, float, type(None)}


@pytest.mark.parametrize("kind", [list, dict])
@pytest.mark.parametrize("depth", [62, 63, 64, 65, 2_000])
def test_small_values_end_at_the_depth_at_which_all_do(kind: type, depth: int) -> None:
    """Values that are copied without a walk are as deep at most as those of a walk."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    assert frozen_mapping({"value": value}) == Walk().root({"value": value})


def test_no_actor_is_encoded_that_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor with an id of a megabyte is cut before its record is made."""
    longest = 0
    real = intake._encode

    def measured(event: Any) -> bytes:
        nonlocal longest
        longest = max(longest, len(record := real(event)))
        return record

    monkeypatch.setattr(intake, "_encode", measured)
    assert made(actor={"id": "a" * MEGABYTE, "type": "user"}).truncated == ("user_id", "actor.id")
    assert longest < MAX_RECORD


@pytest.mark.parametrize("name", ["log_level", "outcome"])
def test_an_error_about_a_value_shows_as_much_as_it_has_room_for(name: str) -> None:
    """The error about a level that is none shows a container as far as its text has an end."""
    with pytest.raises(ValueError, match="got <list, too large>"):
        made(**{name: [Long() for _ in range(3_000)]})
    assert Long.asked == 1


def test_metadata_of_a_context_are_merged_as_far_as_a_record_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata with more values than a record are not read as a whole, to be completed from the context."""
    monkeypatch.setattr(Numbers, "read", 0)
    with audit_context(tenant="a"):
        found = completed({"metadata": Numbers(500_000)}, strict=False)
    assert found["metadata"].keys() == {"metadata", "tenant"}
    assert Numbers.read < MAX_RECORD // 4
