"""What a crash reporter, a debugger or a log shows of an event, an alert or a report."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, ErrorDetails, PermanentDeliveryError
from fapilog.core.alerting import Alert, DeliveryReport
from fapilog.delivery.outbox import OutboxAlert, OutboxAttempt
from fapilog.delivery.outbox._place import Claim, Ending, Verdict
from fapilog.storage.protocol import EventFilter

EVENT_ID = "0b0e1c1a-9c5e-4f5c-8a55-3f6f2a8f7d11"
# In every field in which a person, or the words about one, can be.
PERSON = "JOHN-Q-PATIENT"
EVENT = AuditEvent(
    event_id=EVENT_ID,
    event_type=AuditEventType.DATA_ACCESS,
    log_level=AuditLogLevel.CRITICAL,
    message=PERSON,
    component=PERSON,
    operation=PERSON,
    user_id=PERSON,
    session_id=PERSON,
    request_id=PERSON,
    client_ip=PERSON,
    user_agent=PERSON,
    hostname=PERSON,
    error=ErrorDetails(type="ValueError", message=PERSON, traceback=PERSON),
    data_classification=PERSON,
    regulatory_tags=(PERSON,),
    metadata={PERSON: PERSON},
    sequence_number=12,
    checksum="2" * 64,
)
ALERT = Alert(EVENT, "critical", None)
CLAIM = Claim(ALERT, came_at=0.0, attempt=2, failures=1, spent=0.0)
NOW = datetime(2026, 2, 3, tzinfo=UTC)
SHOWN = f"<AuditEvent {EVENT_ID} data_access critical 12>"
REPORT = DeliveryReport(
    event=EVENT, severity="critical", channel=None, waited=0.0, took=0.0, error=PermanentDeliveryError(PERSON)
)

REPRS = {
    SHOWN: EVENT,
    "<ErrorDetails ValueError>": EVENT.error,
    f"<Alert critical about {SHOWN}>": ALERT,
    f"<DeliveryReport permanent critical {SHOWN}>": REPORT,
    f"<Claim of <Alert critical about {SHOWN}>, attempt 2>": CLAIM,
    f"<Ending permanent of <Claim of <Alert critical about {SHOWN}>, attempt 2>>": Ending(
        CLAIM, Verdict("permanent", "dead", 0.0, 2, 0.0), 0.0, took=0.0, reason=None, next_at=0.0
    ),
    f"<OutboxAlert {EVENT_ID} data_access critical 12 dead>": OutboxAlert(
        outbox="slack",
        event_id=EVENT_ID,
        sequence_number=12,
        event_type="data_access",
        severity="critical",
        channel=None,
        status="dead",
        came_at=NOW,
        due_at=None,
        ended_at=None,
        attempts=2,
        reason=PERSON,
        unreadable={"channel": PERSON},
    ),
    "<OutboxAttempt 2 error>": OutboxAttempt(
        number=2, began_at=NOW, took=None, outcome="error", reason=PERSON, unreadable={"took": PERSON}
    ),
    "<EventFilter None None>": EventFilter(user_id=PERSON),
}


@pytest.mark.parametrize(("shown", "value"), REPRS.items(), ids=lambda each: type(each).__name__)
def test_a_repr_shows_what_and_where_and_not_who(shown: str, value: object) -> None:
    """The `repr` of all that carries an event shows id, type, severity and number, and no person."""
    assert {repr(value), str(value), f"{value}"} == {shown}


@pytest.mark.parametrize("value", REPRS.values(), ids=lambda each: type(each).__name__)
def test_rich_shows_no_more(value: Any) -> None:
    """Rich, which asks structs for their fields, and tuples for their items, finds no person either."""
    pretty = pytest.importorskip("rich.pretty")
    assert PERSON not in pretty.pretty_repr(value)


@pytest.mark.parametrize("value", REPRS.values(), ids=lambda each: type(each).__name__)
def test_sentry_shows_no_more(value: object) -> None:
    """Sentry, which prints the items of a tuple one by one, finds no person either."""
    serializer = pytest.importorskip("sentry_sdk.serializer")
    assert PERSON not in json.dumps(serializer.serialize({"vars": {"value": value}}))
