"""What an alert says: how much leaves, in which words, and within which limits."""

import logging
import string
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import AuditEvent, AuditEventType, AuditTrail, CompliancePolicy, ErrorDetails
from fapilog.providers import Disclosure
from fapilog.providers._rendering import FIELDS, Renderer, clean, cut, dedup_key, disclosure_table, fit, least, one_line
from fapilog.record.errordetails import in_short
from fapilog.record.values import text
from tests.providers.conftest import an_event

PRIVATE = {"user_id", "session_id", "client_ip", "user_agent", "error", "metadata", "process_id", "previous_hash"}
STANDARD = {"message", "operation", "hostname", "request_id", "data_classification", "compliance_level"}


def shown(disclosure: Disclosure, event: AuditEvent) -> set[str]:
    return set(Renderer(disclosure, None)(event, "security").details)


def test_every_field_has_a_level() -> None:
    """No field of an event can be added without saying when it leaves."""
    assert FIELDS.keys() == set(AuditEvent.__struct_fields__) - {"format_version", "line"}


def test_minimal_is_what_and_where() -> None:
    """MINIMAL shows what, how severe, when, where, and the place in the chain."""
    minimal = shown(Disclosure.MINIMAL, an_event())
    assert minimal == {
        "event_type",
        "log_level",
        "timestamp",
        "component",
        "event_id",
        "sequence_number",
        "checksum",
    }


def test_standard_adds_the_message() -> None:
    """STANDARD adds message, machine, request and classification, and nothing of a person."""
    standard = shown(Disclosure.STANDARD, an_event())
    assert standard - shown(Disclosure.MINIMAL, an_event()) == STANDARD | {"regulatory_tags"}


def test_full_adds_the_rest() -> None:
    """FULL alone shows who, from where, metadata and error, and never the traceback."""
    full = Renderer(Disclosure.FULL, None)(an_event(contains_pii=True), "security")
    assert set(full.details) - shown(Disclosure.STANDARD, an_event()) == PRIVATE | {"contains_pii"}
    assert full.details["error"] == {"type": "PermissionError", "message": "no such user"}
    assert "frames" not in str(full)


@pytest.mark.parametrize("flag", ["contains_pii", "contains_phi"])
@pytest.mark.parametrize("disclosure", [Disclosure.MINIMAL, Disclosure.STANDARD])
def test_a_flagged_event_is_cut_to_minimal(flag: str, disclosure: Disclosure) -> None:
    """Of an event flagged PII or PHI only the minimum leaves, with the flag that says why."""
    rendered = Renderer(disclosure, None)(an_event(**{flag: True}), "security")
    assert set(rendered.details) == shown(Disclosure.MINIMAL, an_event()) | {flag}
    assert rendered.message is None


LONG = "no such user: " + "alice, " * 500


@pytest.mark.parametrize(
    ("message", "text", "shown"),
    [
        # That of `log_error`, which cuts a long text, and may get another one of an exception that changes.
        ("Error occurred: no such user", "no such user", "Error occurred: PermissionError"),
        (f"Error occurred: {in_short(LONG)}", LONG, "Error occurred: PermissionError"),
        ("Error occurred: 3 users", "4 users", "Error occurred: PermissionError"),
        ("Error occurred: ", "", "Error occurred: PermissionError"),
        # That of the application, which may repeat the text.
        ("refused (no such user), again", "no such user", "refused (PermissionError), again"),
        (f"refused: {LONG}"[:1000], LONG, "refused: PermissionError"),
        ("user 7 of 77 was refused", "7", "user PermissionError of 77 was refused"),
        ("refused", "", "refused"),
    ],
)
def test_the_text_of_an_error_is_not_in_a_message(message: str, text: str, shown: str) -> None:
    """A message names the error's type in the place of its text, whole or cut; at FULL it is as it was recorded."""
    event = an_event(message=message, error=ErrorDetails(type="PermissionError", message=text))
    assert Renderer(Disclosure.STANDARD, None)(event, "error").message == shown
    assert Renderer(Disclosure.FULL, None)(event, "error").message == message


async def test_a_long_error_shows_no_more_than_its_type(tmp_path: Path) -> None:
    """Recorded by `log_error`, the text of an error is in no alert below FULL, however long it is."""
    trail = AuditTrail(storage_path=tmp_path, durability="write")
    await trail.log_error(ValueError("alice " * 10_000))
    [event] = await trail.get_events()
    assert "alice" not in str(Renderer(Disclosure.STANDARD, None)(event, "error"))


def test_a_redacted_event_can_be_shown() -> None:
    """What the policy hands on with `hipaa_minimum_necessary` makes an alert, at any level."""
    event = CompliancePolicy(hipaa_minimum_necessary=True).for_dispatch(an_event())
    for disclosure in Disclosure:
        rendered = Renderer(disclosure, None)(event, "security")
        assert rendered.message is None
        assert not {"user_id", "message", "metadata"} & set(rendered.details)


def test_the_title_says_what_and_where() -> None:
    """The title is severity, type and component, in one line of a length that fits anywhere."""
    render = Renderer(Disclosure.STANDARD, None)
    assert render(an_event(), "security").title == "SECURITY authentication_failed in auth"
    assert render(an_event(component=None), "info").title == "INFO authentication_failed"
    longest = max(AuditEventType, key=lambda each: len(each.value))
    assert len(render(an_event(event_type=longest, component="x\n\u2028" * 1000), "y" * 100).title) <= 160


def test_a_link_has_2000_characters() -> None:
    """A link that an id made longer is left out; cut, it would lead nowhere."""
    render = Renderer(Disclosure.STANDARD, "https://audit.example.com/{event_id}")
    room = 2000 - len("https://audit.example.com/")
    assert render(an_event(event_id="i" * room), "info").link == "https://audit.example.com/" + "i" * room
    assert render(an_event(event_id="i" * (room + 1)), "info").link is None


def test_the_least_says_where_to_look() -> None:
    """The least that can be said is what MINIMAL says, without the link, whatever else is allowed."""
    event = an_event()
    rendered = least(event, "security")
    assert rendered == Renderer(Disclosure.MINIMAL, None)(event, "security")
    assert (rendered.message, rendered.link) == (None, None)


def test_the_link_leads_to_the_record() -> None:
    """The template is filled in with the event's id and number, whatever the id holds."""
    render = Renderer(Disclosure.STANDARD, "https://audit.example.com/{sequence_number}?id={event_id}")
    assert render(an_event(event_id="a&b=/c"), "info").link == "https://audit.example.com/12?id=a%26b%3D%2Fc"
    assert Renderer(Disclosure.STANDARD, None)(an_event(), "info").link is None


BAD_LINKS = [
    "",
    "audit/{event_id}",
    "javascript:alert({event_id})",
    "https://x/{user_id}",
    "https://x/{}",
    "https://x/{event_id!r}",
    "https://x/{event_id:>99999999}",
    "https://x/{event_id.__class__}",
    "https://x/{event_id",
    "https://[x/{event_id}",
    "https://x/ {event_id}",
    "https://x/\n{event_id}",
]


@pytest.mark.parametrize("link", BAD_LINKS)
def test_a_link_is_checked(link: str) -> None:
    """A template with other fields, or that is no web address, is refused at construction."""
    with pytest.raises(ValueError, match=r"^link: expected"):
        Renderer(Disclosure.STANDARD, link)


def test_a_link_that_is_no_text_is_refused() -> None:
    """The error names the option."""
    with pytest.raises(TypeError, match="link: expected an https or http address; got an int"):
        Renderer(Disclosure.STANDARD, 5)  # type: ignore[arg-type]


def test_a_disclosure_is_checked() -> None:
    """A disclosure may be given by its value, and an unknown one is refused."""
    assert Renderer("full", None)(an_event(), "info").details["user_id"] == "u-17"  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="disclosure: expected one of minimal, standard, full"):
        Renderer("all", None)  # type: ignore[arg-type]


def test_the_table_of_the_docs() -> None:
    """The table "what leaves the process" has a row for each field."""
    table = disclosure_table().splitlines()
    assert table[0] == "| field | minimal | standard | full |"
    assert len(table) == 2 + len(FIELDS)
    assert "| `message` |  | yes | yes |" in table
    assert "| `user_id` |  |  | yes |" in table


def test_a_key_is_always_the_same() -> None:
    """The key is made of the event's id and the target alone, as it was in every process before."""
    assert dedup_key("e-1", "https://x") == "462a34083317991e95e8144994575026"
    keys = {
        dedup_key("e-1"),
        dedup_key("e-2"),
        dedup_key("e-1", "a"),
        dedup_key("e-1", "a", "b"),
        dedup_key("e-1", "ab"),
    }
    assert len(keys) == 5
    assert set("".join(keys)) <= set(string.hexdigits)
    assert len(dedup_key("\ud800")) == 32


anything = st.text(st.characters(), max_size=60)


@given(anything, st.integers(0, 50), st.integers(0, 200))
def test_cut_keeps_to_both_limits(words: str, characters: int, size: int) -> None:
    """Whatever the text, the result is within both limits, and is its beginning with an ellipsis if it was too long."""
    whole = text(words)
    kept = cut(words, "words", max_characters=characters, max_bytes=size)
    assert len(kept) <= characters
    assert len(kept.encode()) <= size
    if len(whole) <= characters and len(whole.encode()) <= size:
        assert kept == whole
    else:
        assert kept == "" or kept[-1] == "…"
        assert whole.startswith(kept.removesuffix("…"))


@pytest.mark.parametrize(("size", "kept"), [(5, "abcd…"), (6, "abcdef"), (7, "abcdef")])
def test_cut_at_the_limit(size: int, kept: str) -> None:
    """A text of exactly the limit is whole; one of a character more has an ellipsis."""
    assert cut("abcdef", "words", max_characters=size) == kept
    assert cut("abcdef", "words", max_bytes=size) == kept if size > 5 else "ab…"


def test_a_cut_is_logged_without_the_text(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which field was cut and how long it was, and nothing of it; what fits is not logged."""
    cut("fits", "message", max_characters=4, max_bytes=4)
    fit({"message": "fits"}, 100)
    assert not caplog.records
    cut("s3cr3t" * 10, "message", max_characters=20)
    fit({"metadata": {"key": "s3cr3t" * 10}}, 40)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert caplog.messages[0] == "message is too long for an alert and was cut; it has 60 characters"
    assert "s3cr3t" not in caplog.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | anything,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
)


@given(anything, anything, json_values, st.integers(150, 400))
def test_details_fit(message: str, component: str, value: object, size: int) -> None:
    """Whatever the details hold, their JSON keeps to the limit, and no field is missing."""
    event = an_event(message=message * 20, component=component, metadata={"value": value})
    details = {name: getattr(event, name) for name in ("message", "component", "metadata")}
    fitting = fit(details, size)
    assert len(msgspec.json.encode(fitting)) <= size
    assert fitting.keys() == details.keys()


def test_what_cannot_fit_ends() -> None:
    """A limit that no text can keep to leaves an ellipsis."""
    assert fit({"message": "x" * 50, "component": "y"}, 1) == {"message": "…", "component": "…"}


@given(anything)
def test_a_cleaned_text_controls_nothing(words: str) -> None:
    """No control, separator or change of direction is left but line feeds and tabs, and in one line not even these."""
    hidden = {chr(code) for code in (*range(32), *range(127, 160), 0x061C, 0x200E, 0x200F, 0xFEFF)}
    hidden |= {chr(code) for code in (*range(0x2028, 0x202F), *range(0x2066, 0x206A))}
    assert not set(clean(words)) & (hidden - {"\n", "\t"})
    assert not set(one_line(words)) & hidden
    assert clean(clean(words)) == clean(words)
    assert one_line(one_line(words)) == one_line(words)


@given(anything, anything, anything)
def test_any_event_makes_an_alert(words: str, severity: str, event_id: str) -> None:
    """Whatever an event says, its alert has a title and a link of one line, and details that are JSON."""
    render = Renderer(Disclosure.FULL, "https://x/{event_id}")
    event = an_event(
        message=words, component=words, event_id=event_id, metadata={words: [words]}, regulatory_tags=[words]
    )
    rendered = render(event, severity)
    assert rendered.title == one_line(rendered.title)
    assert rendered.link is not None
    assert rendered.link.isascii()
    assert rendered.link == one_line(rendered.link)
    assert msgspec.json.decode(msgspec.json.encode(rendered.details)) == rendered.details
