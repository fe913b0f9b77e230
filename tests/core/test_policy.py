"""Which events alert, and where they go."""

import hashlib
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, ComplianceLevel, CompliancePolicy, ErrorDetails


def event(**fields: Any) -> AuditEvent:
    """Return an event with *fields*."""
    return AuditEvent(**{"event_type": AuditEventType.DATA_ACCESS, "message": "read", **fields})


@pytest.mark.parametrize(
    ("policy", "fields", "alerts"),
    [
        ({}, {"log_level": "critical"}, True),
        ({}, {"log_level": "security"}, True),
        ({}, {"log_level": "error"}, False),
        ({}, {"contains_pii": True, "contains_phi": True}, False),
        ({"alert_on_critical_errors": False}, {"log_level": "critical"}, False),
        ({"alert_on_security_events": False}, {"log_level": "security"}, False),
        ({"alert_on_critical_errors": False}, {"log_level": "security"}, True),
        ({"alert_on_security_events": False}, {"log_level": "critical"}, True),
        ({"level": "gdpr"}, {"contains_pii": True}, True),
        ({"level": "gdpr"}, {"contains_phi": True}, False),
        ({"level": "hipaa"}, {"contains_phi": True}, True),
        ({"level": "hipaa"}, {"contains_pii": True}, False),
        ({"real_time_alerts": False}, {"log_level": "critical"}, False),
        ({"real_time_alerts": False, "level": "hipaa"}, {"contains_phi": True}, False),
        ({}, {"event_type": "error_recovered", "metadata": {"incident": "db-1"}}, True),
        ({}, {"event_type": "component_recovery", "metadata": {"incident": 0}, "log_level": "debug"}, True),
        ({"alert_on_critical_errors": False}, {"event_type": "error_recovered", "metadata": {"incident": "1"}}, True),
        ({}, {"event_type": "error_recovered"}, False),
        ({}, {"event_type": "error_recovered", "metadata": {"incident": ""}}, False),
        ({}, {"event_type": "error_recovered", "metadata": {"incident": True}}, False),
        ({}, {"event_type": "component_failure", "metadata": {"incident": "db-1"}}, False),
        ({"real_time_alerts": False}, {"event_type": "error_recovered", "metadata": {"incident": "db-1"}}, False),
    ],
)
def test_which_events_alert(policy: dict[str, Any], fields: dict[str, Any], *, alerts: bool) -> None:
    """An event alerts by its level, by the data it contains under the regulation about them, or as a recovery."""
    fields = {
        **fields,
        "event_type": AuditEventType(fields.get("event_type", "data_access")),
        "log_level": AuditLogLevel(fields.get("log_level", "info")),
    }
    assert CompliancePolicy(**policy).alerts_on(event(**fields)) is alerts


def test_channels() -> None:
    """A severity's own channel comes before the general one."""
    policy = CompliancePolicy(alert_channel="#audit", alert_channels={"critical": "#on-call"})
    assert policy.channel_for("critical") == "#on-call"
    assert policy.channel_for("security") == "#audit"
    assert CompliancePolicy().channel_for("critical") is None


def test_channels_cannot_be_changed_afterwards() -> None:
    """A policy keeps a copy of its channels, and shows one that can't be changed."""
    channels = {"critical": "#a"}
    policy = CompliancePolicy(alert_channels=channels)
    channels["critical"] = "#b"
    assert policy.channel_for("critical") == "#a"
    with pytest.raises(TypeError):
        policy.alert_channels["critical"] = "#b"  # type: ignore[index]


def test_level_may_be_given_by_its_value() -> None:
    """The level may be given as text, and first."""
    assert CompliancePolicy("pci_dss").level is ComplianceLevel.PCI_DSS  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": "pci-dss"}, "level: expected one of none, basic, sox, .*; got 'pci-dss'"),
        ({"alert_channels": {"high": "#x"}}, "alert_channels: expected one of debug, info, .*; got 'high'"),
    ],
)
def test_unknown_names_are_refused(arguments: dict[str, Any], message: str) -> None:
    """An unknown level or severity is an error that says what was expected."""
    with pytest.raises(ValueError, match=message):
        CompliancePolicy(**arguments)


def test_minimum_necessary() -> None:
    """With `hipaa_minimum_necessary` a dispatcher gets no more than it takes to find the record."""
    whole = event(
        message="Alice was treated for X",
        user_id="alice",
        session_id="s",
        request_id="r",
        client_ip="192.0.2.1",
        user_agent="ua",
        hostname="h",
        process_id=7,
        component="ward",
        operation="read",
        error=ErrorDetails.of(ValueError("Alice")),
        contains_phi=True,
        regulatory_tags=["alice"],
        metadata={"patient": "Alice"},
        sequence_number=5,
        previous_hash="a" * 64,
        checksum="b" * 64,
    )
    assert CompliancePolicy().for_dispatch(whole) is whole
    cut = CompliancePolicy(hipaa_minimum_necessary=True).for_dispatch(whole)
    assert (cut.event_id, cut.timestamp, cut.event_type, cut.log_level) == (
        whole.event_id,
        whole.timestamp,
        whole.event_type,
        whole.log_level,
    )
    assert (cut.sequence_number, cut.previous_hash, cut.checksum) == (5, "a" * 64, "b" * 64)
    assert (cut.component, cut.operation, cut.contains_phi) == ("ward", "read", True)
    text = repr(cut).lower()
    assert not any(private in text for private in ("alice", "192.0.2.1", "'ua'", "'s'", "'r'"))


def test_minimum_necessary_keeps_the_incident_hashed() -> None:
    """Of the metadata the incident alone is left, as a hash, and stays the same if it is taken again."""
    policy = CompliancePolicy(hipaa_minimum_necessary=True)
    cut = policy.for_dispatch(event(metadata={"incident": "patient-42", "patient": "Alice"}))
    assert cut.metadata == {"incident": f"sha256:{hashlib.sha256(b'patient-42').hexdigest()}"}
    assert policy.for_dispatch(cut) == cut
    assert policy.for_dispatch(event(metadata={"incident": ["patient-42"]})).metadata == {}
