"""A mistyped keyword is seen and loses nothing, and an event is in the trace that it is logged in."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fapilog import (
    AuditEventType,
    AuditTrail,
    CompliancePolicy,
    MemoryStorage,
    _typos,
    audit_context,
    bind_audit_context,
)
from fapilog.record.intake import FIELDS


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_typos, "_told", set())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "fapilog.core.audit"]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("contain_phi", "contains_phi"),
        ("level", "log_level"),
        ("severity", "log_level"),
        ("userid", "user_id"),
        ("clientip", "client_ip"),
        ("ip", "client_ip"),
        ("user_agnet", "user_agent"),
        ("exc", "error"),
        ("timestamp", "occurred"),
        ("resource", "target"),
    ],
)
async def test_a_typo_is_told_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, meant: str
) -> None:
    """The event is stored with the value, and the log says once for each place which field was meant."""
    trail = AuditTrail(storage_path=tmp_path)
    given: dict[str, Any] = {name: "x"}
    for _ in range(3):
        await trail.log_event(AuditEventType.DATA_ACCESS, "m", **given)
    await trail.log_error(ValueError(), **given)
    assert [event.metadata for event in await trail.get_events()] == [given] * 4
    here, there = warnings(caplog)
    for line in (here, there):
        assert f"{name}: did you mean {meant}?" in line
        assert line.startswith(__file__)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["rows", "resource_name", "patient", "table", "x", "invoice", "Ü"])
async def test_what_is_no_typo_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """Other keywords are metadata without a word, as with the earlier fapilog, also under a strict policy."""
    trail = AuditTrail(CompliancePolicy(strict=True), tmp_path)
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", **{name: 1})  # type: ignore[arg-type]
    await trail.log_data_access("patient/42", "read")
    await trail.log_data_access(None, "read")  # type: ignore[arg-type]
    assert caplog.records == []


def test_a_strict_policy_refuses_a_typo(tmp_path: Path) -> None:
    """Under a strict policy it is an error that names the field, and nothing is stored."""
    trail = AuditTrail(CompliancePolicy(strict=True), tmp_path)
    with pytest.raises(TypeError, match=r"^clientip: did you mean client_ip\? .*metadata=\{...\}"):
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "m", clientip="10.0.0.1")  # type: ignore[call-arg]
    assert trail.sync.get_events() == []


@pytest.mark.parametrize("enter", [audit_context, bind_audit_context])
@pytest.mark.parametrize(
    ("name", "meant"), [("user", "user_id"), ("ip", "client_ip"), ("extra", "metadata"), ("resource", "target")]
)
async def test_a_typo_in_a_context_is_told_where_it_is(
    caplog: pytest.LogCaptureFixture, enter: Callable[..., object], name: str, meant: str
) -> None:
    """A block, or a binding, with a mistyped name is told of once, and its events are stored with the value."""
    storage = MemoryStorage()
    with audit_context():
        for _ in range(3):
            block = enter(**{name: "x"})
        with block or audit_context():  # type: ignore[attr-defined]
            await AuditTrail(storage=storage).log_event(AuditEventType.DATA_ACCESS, "m")
    assert [event.metadata for event in storage.events] == [{name: "x"}]
    [line] = warnings(caplog)
    assert f"{name}: did you mean {meant}?" in line
    assert line.startswith(__file__)


@pytest.mark.parametrize("name", ["tenant", "enqueued_in", "level"])
async def test_a_name_that_no_context_fills_is_no_typo_of_it(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A name in a block that is near no field, or near one that a block does not fill, is metadata without a word."""
    storage = MemoryStorage()
    with audit_context(**{name: "x"}):
        await AuditTrail(CompliancePolicy(strict=True), storage=storage).log_event(AuditEventType.DATA_ACCESS, "m")
    assert [event.metadata for event in storage.events] == [{name: "x"}]
    assert caplog.records == []


def test_a_strict_policy_refuses_a_typo_in_a_context() -> None:
    """Under a strict policy no event is logged in a block with a mistyped name; the error names it and the field."""
    trail = AuditTrail(CompliancePolicy(strict=True), storage=MemoryStorage())
    with audit_context(user="alice"), pytest.raises(TypeError, match=r"^audit_context: user: did you mean user_id\?"):
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
    assert trail.sync.get_events() == []


def test_places_are_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many places have typos, no more are kept than there is room for."""
    monkeypatch.setattr(_typos, "_MAX_PLACES", 3)
    for name in ("ip", "level", "user", "tags", "exc", "id"):
        _typos.look_for_typos([name])
    assert len(warnings(caplog)) == 3


async def test_an_event_is_in_its_trace(tmp_path: Path) -> None:
    """The ids of OpenTelemetry's current span are those of the event, unless the caller gives others."""
    trace, sdk = (pytest.importorskip(f"opentelemetry.{name}") for name in ("trace", "sdk.trace"))
    trail = AuditTrail(storage_path=tmp_path)
    with sdk.TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        context = span.get_span_context()
        await trail.log_event(AuditEventType.DATA_ACCESS, "in")
        await trail.log_event(AuditEventType.DATA_ACCESS, "other", trace_id="t")
    await trail.log_event(AuditEventType.DATA_ACCESS, "out")
    out, other, inside = await trail.get_events()
    ids = (trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id))
    assert (inside.trace_id, inside.span_id) == ids
    assert other.trace_id == "t"
    assert (out.trace_id, out.span_id) == (None, None)
    assert await trail.get_events(trace_id=ids[0]) == [inside]


async def test_an_event_of_another_trace_is_in_no_span_of_this_one() -> None:
    """A trace that is given has not the span that the call happens to be in; one that is the same has it."""
    storage = MemoryStorage()
    trail = AuditTrail(storage=storage)
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    with sdk.TracerProvider().get_tracer("test").start_as_current_span("request") as span:
        here = f"{span.get_span_context().trace_id:032x}"
        await trail.log_event(AuditEventType.DATA_ACCESS, "m", trace_id="0" * 31 + "1")
        await trail.log_event(AuditEventType.DATA_ACCESS, "m", trace_id=here)
    assert [event.span_id for event in storage.events] == [None, f"{span.get_span_context().span_id:016x}"]


@pytest.mark.parametrize("name", ["user_id\nforged line", "user id", "x" * (1 << 20)], ids=["line", "space", "long"])
async def test_names_out_of_data_are_neither_logged_nor_kept(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """What a client sent as the name of a value is stored, and can't forge a line of the log or fill the memory."""
    before = set(_typos._innocent)
    storage = MemoryStorage()
    given: dict[str, Any] = {name: "x"}
    await AuditTrail(storage=storage).log_event(AuditEventType.DATA_ACCESS, "m", **given)
    assert list(storage.events[0].metadata.values()) == ["x"]
    assert (warnings(caplog), _typos._innocent) == ([], before)


def test_names_without_end_fill_no_memory() -> None:
    """Of names that are near no field, as many are remembered as an application has; fields are never forgotten."""
    for number in range(1_500):
        _typos.look_for_typos([f"zq{number}"], strict=True)
    assert len(_typos._innocent) < 1_100
    _typos.look_for_typos(FIELDS, strict=True)


async def test_a_broken_tracer_breaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the current span can't be read, the event is stored without, and the log says so."""
    trace = pytest.importorskip("opentelemetry.trace")

    def fail() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(trace, "get_current_span", fail)
    trail = AuditTrail(storage_path=tmp_path)
    with caplog.at_level(logging.WARNING):
        await trail.log_event(AuditEventType.DATA_ACCESS, "m")
    [event] = await trail.get_events()
    assert event.trace_id is None
    told = [record.getMessage() for record in caplog.records if record.name == "fapilog.context"]
    assert told == ["OpenTelemetry's current span can't be read: RuntimeError"]
