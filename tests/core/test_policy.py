"""Which events alert, and where they go."""

import hashlib
from typing import Any

import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditOutcome,
    AuditTrail,
    ComplianceLevel,
    CompliancePolicy,
    ErrorDetails,
    Threshold,
)


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
        ({}, {"event_type": "authentication_failed"}, True),
        ({}, {"event_type": "authentication_failed", "log_level": "debug"}, True),
        ({}, {"event_type": "authorization_failed"}, False),
        ({"alert_on_security_events": False}, {"event_type": "authentication_failed"}, False),
        ({"real_time_alerts": False}, {"event_type": "authentication_failed"}, False),
        ({"level": "hipaa", "alert_on_phi_access": False}, {"contains_phi": True}, False),
        ({"level": "hipaa", "alert_on_phi_access": False}, {"contains_phi": True, "log_level": "critical"}, True),
        ({"level": "hipaa", "alert_on_phi_access": False, "alert_on": "data_access"}, {"contains_phi": True}, True),
        ({"alert_on": ["impersonation", "denied"]}, {"event_type": "impersonation"}, True),
        ({"alert_on": ["impersonation", "denied"]}, {"outcome": "denied"}, True),
        ({"alert_on": ["impersonation", "denied"]}, {"outcome": "failure"}, False),
        ({"alert_on": ["impersonation", "denied"]}, {}, False),
        ({"alert_on": {AuditEventType.ADMIN_ACTION, AuditOutcome.FAILURE}}, {"event_type": "admin_action"}, True),
        ({"alert_on": {AuditEventType.ADMIN_ACTION, AuditOutcome.FAILURE}}, {"outcome": "failure"}, True),
        ({"alert_on": "billing.refund"}, {"event_type": "billing.refund"}, True),
        ({"alert_on": "billing.refund"}, {"event_type": "billing.charge"}, False),
        ({"alert_on": "ADMIN_ACTION"}, {"event_type": "admin_action"}, True),
        ({"alert_on": "denied", "real_time_alerts": False}, {"outcome": "denied"}, False),
        ({"severities": {"admin_action": "critical"}}, {"event_type": "admin_action"}, False),
        ({"alert_on_security_events": False}, {"event_type": "rule.threshold"}, True),
        ({"real_time_alerts": False}, {"event_type": "rule.threshold"}, False),
    ],
)
def test_which_events_alert(policy: dict[str, Any], fields: dict[str, Any], *, alerts: bool) -> None:
    """An event alerts by its level, type, outcome, or data, about a rule, or as a recovery, as the policy says."""
    fields = {
        **fields,
        "event_type": AuditEventType(fields.get("event_type", "data_access")),
        "log_level": AuditLogLevel(fields.get("log_level", "info")),
        "outcome": AuditOutcome(fields["outcome"]) if "outcome" in fields else None,
    }
    assert CompliancePolicy(**policy).alerts_on(event(**fields)) is alerts


def test_severities_by_type() -> None:
    """A type's own severity comes in place of the log level, and decides on the channel."""
    policy = CompliancePolicy(
        severities={AuditEventType.ADMIN_ACTION: "critical", "billing.refund": AuditLogLevel.WARNING},
        alert_channel="#audit",
        alert_channels={"critical": "#on-call"},
    )
    for kind, severity, channel in [
        ("admin_action", "critical", "#on-call"),
        ("billing.refund", "warning", "#audit"),
        ("data_access", "security", "#audit"),
    ]:
        about = event(event_type=AuditEventType(kind), log_level=AuditLogLevel.SECURITY)
        assert policy.alert_about(about) == (about, severity, channel)


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
        ({"alert_on": "denid"}, "alert_on: expected some of success, .*; got 'denid'; did you mean denied[?]"),
        ({"alert_on": ["critical"]}, "alert_on: expected some of .*; got 'critical'"),
        ({"severities": {"admin": "critical"}}, "severities: expected one of .*; got 'admin'; did you mean admin_acti"),
        ({"severities": {"admin_action": "high"}}, "severities: expected one of debug, .*; got 'high'"),
        ({"rules": [Threshold("data_export", count=1, within=1)] * 2}, "rules: expected a name= of its own for each"),
    ],
)
def test_unknown_names_are_refused(arguments: dict[str, Any], message: str) -> None:
    """An unknown name, or a second rule of a name, is an error that says what was expected."""
    with pytest.raises(ValueError, match=message):
        CompliancePolicy(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alert_on": 3}, "alert_on: expected one text, or a list; got an int"),
        ({"alert_on": [3]}, "alert_on: expected event types and outcomes; got an int"),
        ({"severities": "admin_action"}, "severities: expected a mapping such as .*; got a str"),
        ({"alert_on_phi_access": "no"}, "alert_on_phi_access: expected True or False; got a str"),
        ({"rules": "authentication_failed"}, "rules: expected a list of Threshold; got one with a str"),
        ({"rules": 5}, "rules: expected a list of Threshold; got an int"),
    ],
)
def test_other_values_are_refused(arguments: dict[str, Any], message: str) -> None:
    """A value of another kind is an error that says what was expected."""
    with pytest.raises(TypeError, match=message):
        CompliancePolicy(**arguments)


def test_in_a_configuration() -> None:
    """Types, outcomes, severities and rules can be said in plain values."""
    trail = AuditTrail.from_config(
        {
            "policy": {
                "alert_on": ["denied", "billing.refund"],
                "alert_on_phi_access": False,
                "severities": {"admin_action": "critical"},
                "rules": [{"event_type": ["data_export", "billing.refund"], "count": 3, "within": 60, "by": "actor"}],
            }
        }
    )
    assert trail.policy == CompliancePolicy(
        alert_on=["denied", "billing.refund"],
        alert_on_phi_access=False,
        severities={"admin_action": "critical"},
        rules=[Threshold(["data_export", "billing.refund"], count=3, within=60, by="actor")],
    )


def test_one_rule_is_a_list_of_one() -> None:
    """A single rule may be given as it is."""
    rule = Threshold("data_export", count=1, within=1)
    assert CompliancePolicy(rules=rule).rules == (rule,)  # type: ignore[arg-type]


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
