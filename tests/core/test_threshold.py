"""Rules: which are refused, and what the events of one have in common."""

import functools
import operator
from typing import Any

import pytest

from fapilog import Actor, AuditEvent, AuditEventType, AuditLogLevel, Target, Threshold
from fapilog.record.kinds import RULE_MET


def rule(event_type: Any = "data_access", **options: Any) -> Threshold:
    """Return a rule with *options*."""
    return Threshold(event_type, **{"count": 5, "within": 600, **options})


async def asynchronous(_: AuditEvent) -> bool:
    return True


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"event_type": "data_acess"}, ValueError, "event_type: expected one of .*; did you mean data_access"),
        ({"event_type": []}, ValueError, "event_type: expected types other than .*; got \\[]"),
        ({"event_type": ["data_access", RULE_MET]}, ValueError, "event_type: expected types other than rule.threshold"),
        ({"event_type": 7}, TypeError, "event_type: expected one text, or a list; got an int"),
        ({"count": 0}, ValueError, "count: expected a number of at least 1 and of at most 1000; got 0"),
        ({"count": 1001}, ValueError, "count: expected a number of at least 1"),
        ({"count": 2.5}, TypeError, "count: expected a whole number; got a float"),
        ({"within": 0}, ValueError, "within: expected a number above 0 .*; got 0"),
        ({"within": float("nan")}, ValueError, "within: expected a number above 0"),
        ({"within": float("inf")}, ValueError, "within: .* of at most 31536000; got inf"),
        ({"within": "600"}, TypeError, "within: expected a number; got a str"),
        ({"by": 3}, TypeError, "by: expected text; got an int"),
        ({"by": ""}, ValueError, "by: expected user_id, .*; got ''"),
        ({"by": "userid"}, ValueError, "by: expected user_id, .*; got 'userid'; did you mean user_id"),
        ({"by": "message"}, ValueError, "by: expected user_id, .*; got 'message'$"),
        ({"where": "admin"}, TypeError, "where: expected a function of an event; got a str"),
        ({"where": asynchronous}, TypeError, "where: expected a function .*; got an asynchronous one"),
        ({"where": lambda: True}, TypeError, "where: expected a function .*; got one that can.t be called with 1 arg"),
        ({"name": 3}, TypeError, "name: expected text; got an int"),
        ({"log_level": "high"}, ValueError, "log_level: expected one of .*; got 'high'"),
    ],
)
def test_what_makes_no_rule(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """What can't be a rule is refused when it is made, in words."""
    with pytest.raises(error, match=message):
        rule(**options)


def test_names() -> None:
    """A rule has a name of its options, unless it is given one; one that is too long is cut."""
    assert rule(["data_access", "billing.refund"], by="actor").name == (
        "5 data_access or billing.refund within 600 s by actor"
    )
    assert rule(count=1, within=0.5).name == "1 data_access within 0.5 s"
    assert rule(name="guessing").name == "guessing"
    assert len(rule(name="x" * 1000).name) == 200


def test_its_level() -> None:
    """The event about a rule is at level security, or at the one that is given."""
    assert rule().log_level is AuditLogLevel.SECURITY
    assert rule(log_level="critical").log_level is AuditLogLevel.CRITICAL


def test_its_repr_shows_no_predicate() -> None:
    """The repr of a rule does not show its predicate, which may hold anything."""
    assert "hunter2" not in repr(rule(where=functools.partial(operator.eq, "hunter2")))


@pytest.mark.parametrize(
    ("by", "fields", "value"),
    [
        (None, {}, ""),
        ("user_id", {"user_id": "a"}, "a"),
        ("user_id", {}, None),
        ("client_ip", {"client_ip": "192.0.2.1"}, "192.0.2.1"),
        ("actor", {"actor": Actor(id="cron", type="service"), "user_id": "a"}, "cron"),
        ("actor", {"actor": Actor(type="service"), "user_id": "a"}, "a"),
        ("actor", {"user_id": "a"}, "a"),
        ("actor", {}, None),
        ("target", {"target": Target(type="patient", id="42")}, "patient/42"),
        ("target", {"target": Target()}, None),
        ("target", {}, None),
        ("tenant", {"metadata": {"tenant": 7}}, 7),
        ("http.status", {"metadata": {"http": {"status": 403}}}, 403),
        ("metadata.user", {"metadata": {"user": "b"}, "user_id": "a"}, "b"),
        ("tenant", {}, None),
    ],
)
def test_what_the_events_have_in_common(by: str | None, fields: dict[str, Any], value: object) -> None:
    """Events are told apart by a member, the actor, the target, or a value in the metadata."""
    event = AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="read", **fields)
    assert rule(by=by).value_of(event) == value
