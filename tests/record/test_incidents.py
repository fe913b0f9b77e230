"""Which events are about one incident, whole and cut to the minimum."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import AuditEvent, AuditEventType, CompliancePolicy
from fapilog.record.incidents import incident_of, is_recovery, subject_of


def event(**fields: Any) -> AuditEvent:
    """Return an event with *fields*."""
    return AuditEvent(**{"event_type": AuditEventType.COMPONENT_FAILURE, "message": "down", **fields})


def seen(given: AuditEvent) -> tuple[AuditEvent, AuditEvent]:
    """Return what dispatchers get of *given*: all of it, and the minimum."""
    return given, CompliancePolicy(hipaa_minimum_necessary=True).for_dispatch(given)


@given(st.text(st.characters(), min_size=1) | st.integers())
def test_failure_and_recovery_meet(incident: str | int) -> None:
    """Whatever an incident is called, all that name it are about the same, cut or whole."""
    failure = event(metadata={"incident": incident})
    recovery = event(event_type=AuditEventType.ERROR_RECOVERED, metadata={"incident": str(incident)})
    subjects = {subject_of(each) for each in (*seen(failure), *seen(recovery))}
    assert len(subjects) == 1
    assert all(map(is_recovery, seen(recovery)))
    assert not any(map(is_recovery, seen(failure)))


@pytest.mark.parametrize("kind", [AuditEventType.COMPONENT_FAILURE, AuditEventType.ERROR_RECOVERED])
def test_an_event_can_be_the_incident(kind: AuditEventType) -> None:
    """An event that names no incident is met by the recovery that names its id, cut or whole."""
    failure = event(event_type=kind)
    recovery = event(event_type=AuditEventType.COMPONENT_RECOVERY, metadata={"incident": failure.event_id})
    for one, other in itertools.product(seen(failure), seen(recovery)):
        assert subject_of(one) == subject_of(other)
        assert incident_of(one) is None
        assert not is_recovery(one)
        assert is_recovery(other)


def test_events_are_about_themselves() -> None:
    """Two events that name no incident, or not the same, are about different things."""
    events = [event(), event(), event(metadata={"incident": "a"}), event(metadata={"incident": "b"})]
    assert len({subject_of(cut) for each in events for cut in seen(each)}) == 4


@pytest.mark.parametrize("incident", ["", None, True, 1.5, ["a"], {"a": 1}])
def test_what_is_no_incident(incident: object) -> None:
    """Only text that is not empty, and a whole number, name an incident."""
    given = event(event_type=AuditEventType.ERROR_RECOVERED, metadata={"incident": incident})
    for each in seen(given):
        assert incident_of(each) is None
        assert not is_recovery(each)
