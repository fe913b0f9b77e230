"""
An audit trail that proves itself, and alerts the right team at once.

`AuditTrail` stores events in a hash chain, and announces the events that meet its `CompliancePolicy` on the signal
`compliance_alert`. Every announcement goes to the `AlertDispatcher`, and to all other receivers of the signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .context import audit_context, bind_audit_context, current_audit_context
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
    StoringInterruptedError,
    TrailMismatchError,
    TransientDeliveryError,
)
from .record.kinds import AuditOutcome
from .record.parties import Actor, Target
from .storage.protocol import AuditStorage

if TYPE_CHECKING:
    from .config import ConfigError as ConfigError
    from .core.rules import Threshold as Threshold
    from .core.sync import SyncAuditTrail as SyncAuditTrail
    from .core.sync import exit_on_sigterm as exit_on_sigterm
    from .delivery.digest import Digest as Digest
    from .delivery.fallback import Fallback as Fallback
    from .delivery.fanout import FanOut as FanOut
    from .delivery.outbox import Outbox as Outbox
    from .delivery.outbox.deposit import PostgresDeposit as PostgresDeposit
    from .delivery.outbox.postgres import PostgresOutbox as PostgresOutbox
    from .delivery.ratelimit import RateLimit as RateLimit
    from .delivery.retry import Retrying as Retrying
    from .delivery.route import Route as Route
    from .delivery.route import when as when
    from .proof.heartbeat import Heartbeat as Heartbeat
    from .providers import Disclosure as Disclosure
    from .providers.alertmanager import AlertmanagerDispatcher as AlertmanagerDispatcher
    from .providers.apprise import AppriseDispatcher as AppriseDispatcher
    from .providers.console import ConsoleDispatcher as ConsoleDispatcher
    from .providers.opsgenie import OpsgenieDispatcher as OpsgenieDispatcher
    from .providers.pagerduty import PagerDutyDispatcher as PagerDutyDispatcher
    from .providers.slack import SlackDispatcher as SlackDispatcher
    from .providers.smtp import EmailDispatcher as EmailDispatcher
    from .providers.webhook import WebhookDispatcher as WebhookDispatcher
    from .storage.archive import DirectoryArchive as DirectoryArchive
    from .storage.archived import ArchiveStorage as ArchiveStorage
    from .storage.earlier import EarlierStorage as EarlierStorage
    from .storage.files import FileStorage as FileStorage
    from .storage.memory import MemoryStorage as MemoryStorage
    from .storage.postgres import PostgresStorage as PostgresStorage
    from .storage.replication import Replication as Replication
    from .storage.s3 import S3Archive as S3Archive
    from .storage.sqlite import SQLiteStorage as SQLiteStorage

__version__ = "1.0.0a1"

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
    "StoringInterruptedError",
    "SyncAuditTrail",
    "Target",
    "Threshold",
    "TrailMismatchError",
    "TransientDeliveryError",
    "alert_attempted",
    "alert_dispatched",
    "alert_failed",
    "audit_context",
    "bind_audit_context",
    "compliance_alert",
    "current_audit_context",
    "exit_on_sigterm",
]

# Imported when they are asked for, since they bring the library of an extra, a file to keep, or a part that not every
# process uses. Those of the core are in `__all__` too; not the rest: a star would import them all.
_ON_DEMAND: Final = {
    "AlertmanagerDispatcher": "providers.alertmanager",
    "AppriseDispatcher": "providers.apprise",
    "ArchiveStorage": "storage.archived",
    "ConfigError": "config",
    "ConsoleDispatcher": "providers.console",
    "Digest": "delivery.digest",
    "DirectoryArchive": "storage.archive",
    "Disclosure": "providers",
    "EarlierStorage": "storage.earlier",
    "EmailDispatcher": "providers.smtp",
    "Fallback": "delivery.fallback",
    "FanOut": "delivery.fanout",
    "FileStorage": "storage.files",
    "Heartbeat": "proof.heartbeat",
    "MemoryStorage": "storage.memory",
    "OpsgenieDispatcher": "providers.opsgenie",
    "Outbox": "delivery.outbox",
    "PagerDutyDispatcher": "providers.pagerduty",
    "PostgresDeposit": "delivery.outbox.deposit",
    "PostgresOutbox": "delivery.outbox.postgres",
    "PostgresStorage": "storage.postgres",
    "RateLimit": "delivery.ratelimit",
    "Replication": "storage.replication",
    "Retrying": "delivery.retry",
    "Route": "delivery.route",
    "S3Archive": "storage.s3",
    "SQLiteStorage": "storage.sqlite",
    "SlackDispatcher": "providers.slack",
    "SyncAuditTrail": "core.sync",
    "Threshold": "core.rules",
    "WebhookDispatcher": "providers.webhook",
    "exit_on_sigterm": "core.sync",
    "when": "delivery.route",
}


# Not the rest here either: freezegun and `help` ask for every name that is listed, and would import all libraries, or
# fail where one is missing.
_listed: Final = set(__all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *_listed})


if not TYPE_CHECKING:  # to type checkers it would make every name an attribute

    def __getattr__(name: str) -> object:
        from importlib import import_module  # noqa: PLC0415  for these names alone

        if name not in _ON_DEMAND:
            if not name.startswith("_"):
                # It is mistyped, and Python looks through the list for the nearest name.
                _listed.update(_ON_DEMAND)
            raise AttributeError(
                f"module {__name__!r} has no attribute {name!r}", name=name, obj=import_module(__name__)
            )
        from ._extras import MissingExtraError  # noqa: PLC0415

        try:
            found = getattr(import_module(f".{_ON_DEMAND[name]}", __name__), name)
        except MissingExtraError as missing:
            raise ImportError(f"{__name__}.{name}: {missing}", name=missing.name) from missing
        globals()[name] = found
        return found
