"""
An audit trail that proves itself, and tells the right people at once.

`AuditTrail` stores events in a hash chain, and announces those that meet its `CompliancePolicy` on the signal
`compliance_alert`. From there each goes to the `AlertDispatcher`, and to whoever else listens.
"""

from __future__ import annotations

from .core.alerting import (
    Alert,
    AlertDispatcher,
    DeliveryReport,
    DurableDispatcher,
    NoopAlertDispatcher,
    alert_attempted,
    alert_dispatched,
    alert_failed,
    compliance_alert,
)
from .core.audit import (
    AuditChainVerificationResult,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditTrail,
    ChainStatus,
    ComplianceLevel,
    CompliancePolicy,
)
from .core.sync import SyncAuditTrail, exit_on_sigterm
from .record.chain import ChainHead
from .record.damage import DamagedRecord
from .record.errordetails import ErrorDetails
from .record.errors import (
    AlertBufferFullError,
    AlertCancelledError,
    AlertStoppedError,
    AlertTimeoutError,
    AmbiguousDeliveryError,
    AuditStorageError,
    BrokenRouteError,
    DeliveryError,
    FapilogError,
    OutboxError,
    PanicError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from .record.events import AuditOutcome
from .record.parties import Actor, Target
from .storage.files import FileStorage
from .storage.protocol import AuditStorage

__all__ = [
    "Actor",
    "Alert",
    "AlertBufferFullError",
    "AlertCancelledError",
    "AlertDispatcher",
    "AlertStoppedError",
    "AlertTimeoutError",
    "AmbiguousDeliveryError",
    "AuditChainVerificationResult",
    "AuditEvent",
    "AuditEventType",
    "AuditLogLevel",
    "AuditOutcome",
    "AuditStorage",
    "AuditStorageError",
    "AuditTrail",
    "BrokenRouteError",
    "ChainHead",
    "ChainStatus",
    "ComplianceLevel",
    "CompliancePolicy",
    "DamagedRecord",
    "DeliveryError",
    "DeliveryReport",
    "DurableDispatcher",
    "ErrorDetails",
    "FapilogError",
    "FileStorage",
    "NoopAlertDispatcher",
    "OutboxError",
    "PanicError",
    "PermanentDeliveryError",
    "SyncAuditTrail",
    "Target",
    "TransientDeliveryError",
    "alert_attempted",
    "alert_dispatched",
    "alert_failed",
    "compliance_alert",
    "exit_on_sigterm",
]
