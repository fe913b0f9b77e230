"""
An audit trail that proves itself, and tells the right people at once.

`AuditTrail` stores events in a hash chain, and announces those that meet its `CompliancePolicy` on the signal
`compliance_alert`. From there each goes to the `AlertDispatcher`, and to whoever else listens.
"""

from __future__ import annotations

from .core.alerting import (
    AlertDispatcher,
    Announcement,
    DeliveryReport,
    NoopAlertDispatcher,
    Resumable,
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
from .core.chain import ChainHead
from .core.errors import (
    AlertBufferFullError,
    AlertCancelledError,
    AlertStoppedError,
    AlertTimeoutError,
    AmbiguousDeliveryError,
    AuditStorageError,
    DeliveryError,
    FapilogError,
    OutboxError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from .core.events import ErrorDetails
from .core.files import FileStorage
from .core.storage import AuditStorage

__all__ = [
    "AlertBufferFullError",
    "AlertCancelledError",
    "AlertDispatcher",
    "AlertStoppedError",
    "AlertTimeoutError",
    "AmbiguousDeliveryError",
    "Announcement",
    "AuditChainVerificationResult",
    "AuditEvent",
    "AuditEventType",
    "AuditLogLevel",
    "AuditStorage",
    "AuditStorageError",
    "AuditTrail",
    "ChainHead",
    "ChainStatus",
    "ComplianceLevel",
    "CompliancePolicy",
    "DeliveryError",
    "DeliveryReport",
    "ErrorDetails",
    "FapilogError",
    "FileStorage",
    "NoopAlertDispatcher",
    "OutboxError",
    "PermanentDeliveryError",
    "Resumable",
    "TransientDeliveryError",
    "alert_attempted",
    "alert_dispatched",
    "alert_failed",
    "compliance_alert",
]
