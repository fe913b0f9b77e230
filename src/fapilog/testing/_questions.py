"""Events that differ in everything that a storage can be asked for, and the questions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome
from ..record.parties import Actor, Target
from ..storage.protocol import EQUAL, EventFilter

__all__ = ["COUNTS_OF_SEARCHED", "an_event_with", "events_of_all_kinds", "questions_about", "searched_events"]

_WORDS: Final = (
    "",
    "\x00 and \x1b[31m and \x7f",
    "one\r\nand another\n",
    "\u202eright to left, \u2028 and \x85 and \ufeff",
    "\"quoted\" and 'quoted'; -- ]]> */ \\",
    '"}\n{"v":1,"event_id":"forged"}',
    "%s %(name)s {0} ${name} $1 ? :1 @1",
    "\U0001f9d1\u200d\U0001f692 e\u0301 \uffff",
    "long " * 2_000,
)


def an_event_with(message: str = "m", **fields: Any) -> AuditEvent:
    """Return an event that is not stored yet."""
    given: dict[str, Any] = {"event_type": AuditEventType.DATA_ACCESS, **fields}
    return AuditEvent(message=message, **given)


def events_of_all_kinds() -> list[AuditEvent]:
    """Return an event of every type, and one event per hostile text, which is wherever an event has text."""
    texts = ("component", "operation", "user_id", "session_id", "request_id", "client_ip", "user_agent", "hostname")
    return [
        *(an_event_with("m", event_type=kind) for kind in AuditEventType),
        *(
            an_event_with(
                words,
                **dict.fromkeys(texts, words),
                regulatory_tags=(words,),
                metadata={words: words, "nested": {"list": [words, 1, None, 0.5, True, 2**70]}},
            )
            for words in _WORDS
        ),
    ]


_BEGAN: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
_PEOPLE: Final = ("alice", "al", "Alice", "o'brien", "é", "", "\x00")


def searched_events(count: int) -> list[AuditEvent]:
    """Return events that differ in every condition of a search; their times are not in order."""
    kinds, levels = [*list(AuditEventType)[:4], AuditEventType("billing.refund")], list(AuditLogLevel)
    return [
        an_event_with(
            f"message {number} of {_PEOPLE[number % 7]}",
            timestamp=_BEGAN + timedelta(seconds=number * 7 % 30, microseconds=number),
            event_type=kinds[number % len(kinds)],
            log_level=levels[number % len(levels)],
            component=("web", "worker", None)[number % 3],
            operation=("read", None, "write", "delete")[number % 4],
            user_id=(*_PEOPLE, None)[number % 8],
            session_id=(None, "s1", "s2")[number % 3],
            request_id=f"r{number // 2}",
            client_ip=("10.0.0.1", "10.0.0.10", None)[number % 3],
            regulatory_tags=(("PCI",), ("PCI", "10.2"), ())[number % 3],
            trace_id=(f"{number // 4:032x}", None)[number % 2],
            outcome=(*AuditOutcome, None)[number % 5],
            actor=(None, Actor(id="alice", type="user"), Actor(id="cron", type="service", on_behalf_of="o'brien"))[
                number % 3
            ],
            target=(
                Target(type="patient", id="4"),
                Target(type="patient", id="42", name="someone"),
                Target(id="4"),
                Target(type="patient's", id=""),
                None,
            )[number % 5],
            metadata=(
                {"http": {"status": 403}},
                {"http": {"status": 200}, "a.b": None, "path": "patient/42"},
                {"a": {"b": 1.5}},
                {},
            )[number % 4],
        )
        for number in range(count)
    ]


COUNTS_OF_SEARCHED: Final[dict[str, dict[str, float]]] = {
    "component": {"web": 0.35, "worker": 0.325, "": 0.325},
    "target.type": {"patient": 0.4, "patient's": 0.2, "": 0.4},
    "metadata.http.status": {"200": 0.25, "403": 0.25, "": 0.5},
    "metadata.a.b": {"1.5": 0.25, "": 0.75},
    "metadata.path": {"patient/42": 0.25, "": 0.75},
    "metadata.http.status.code": {"": 1.0},
}
"""The shares of 40 `searched_events` by the value of a field."""


def questions_about(events: list[AuditEvent]) -> list[dict[str, Any]]:
    """Return conditions of every kind: some that one of *events* meets, and some that none does."""
    asked: list[dict[str, Any]] = [{}, {"metadata": {}}]
    members = sorted(set(EventFilter.__struct_fields__) & set(AuditEvent.__struct_fields__) - {"actor", "metadata"})
    values = [(name, getattr(event, name)) for event in events[3:20:8] for name in members]
    asked += [{name: value} for name, value in values if value is not None]
    asked += [{name: "nobody"} for name in EQUAL]
    some, time = events[11], events[17].timestamp
    asked += [
        {"event_type": list(AuditEventType)[1:3]},
        {"event_type": AuditEventType.PLUGIN_LOADED},
        *({"min_level": level} for level in AuditLogLevel),
        *({"user_id": person} for person in _PEOPLE),
        {"message": "message 1"},
        {"message": some.message},
        {"message": ""},
        # Where a database compares less than all, these are found.
        *({"message": like} for like in ("MESSAGE 1", "message_1", "message%")),
        *({"user_id": like} for like in ("ALICE", "al ", " al", "e", "e\u0301")),
        *({"tag": tag} for tag in ("PCI", "10.2", "10")),
        *({"target": target} for target in ("patient/4", "4", "", Target(type="patient"), Target(name="someone"))),
        *({"actor": person} for person in _PEOPLE),
        {"event_type": "billing.refund"},
        {"metadata": {"http.status": 403}},
        {"metadata": {"http.status": 200, "path": "patient/42"}},
        {"metadata": {"a.b": 1.5}},
        {"metadata": {"a.b": None}},
        {"start_time": time},
        {"end_time": time},
        {"start_time": time + timedelta(microseconds=1)},
        {"start_time": time, "end_time": time},
        {"start_time": _BEGAN + timedelta(seconds=5), "end_time": _BEGAN + timedelta(seconds=9)},
        {"end_time": _BEGAN - timedelta(days=1)},
        {"after": 30},
        {"before": 5},
        {"after": 10, "before": 12},
        {"after": 20, "before": 10},
        {"after": len(events) + 5},
        {"after": 2**63},
        {"before": 2**63},
    ]
    return asked
