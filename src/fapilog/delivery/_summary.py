"""The summary of many alerts that a digest has counted."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256, shake_256
from typing import Final

import msgspec

from ..core.alerting import Alert
from ..record.events import AuditEvent
from ..record.kinds import AuditLogLevel

__all__ = ["COMPONENT_LENGTH", "Counted", "digest_of"]

# Ids that a summary spells out; its digest is of all.
_IDS_SHOWN: Final = 20
# Characters of a component that count: longer ones, ten thousand times, would fill the memory.
COMPONENT_LENGTH: Final = 200
# Of the ids that summaries have.
_NAMESPACE: Final = uuid.UUID("5b8f1c0e-6a0c-5c43-9a37-6d1d1f3e7a52")
# Bytes of the numbers that are summed up. With the 32 of a SHA-256 other ids with the same sum could be found:
# Wagner, "A Generalized Birthday Problem", 2002.
_WIDTH: Final = 256


def digest_of(event_ids: Iterable[str]) -> str:
    """
    Return the digest of a set of event ids, the same for every order: 64 hexadecimal digits.

    It is the SHA-256 of a sum: the SHAKE-256 hashes of the ids, 256 bytes long, taken as big-endian numbers, added up
    modulo 2 ** 2048. So every alert updates it, in constant memory, and alerts need not come in the order in which
    their events were stored.
    """
    return _digest(sum(map(_number, event_ids)))


def _number(event_id: str) -> int:
    return int.from_bytes(shake_256(event_id.encode()).digest(_WIDTH), "big")


def _digest(total: int) -> str:
    return sha256((total % 256**_WIDTH).to_bytes(_WIDTH, "big")).hexdigest()


class Counted:
    """
    Alerts, in memory that does not grow with their number: of the events, only the values of a summary.

    Args:
        first: The first alert, for the values that all have in common. `add` counts it, as all alerts.

    Attributes:
        number: How many alerts were counted.
    """

    def __init__(self, first: Alert) -> None:
        event = first.event
        self._like = AuditEvent(
            event_id="",
            timestamp=event.timestamp,
            event_type=event.event_type,
            message="",
            component=event.component and event.component[:COMPONENT_LENGTH],
            hostname=event.hostname,
            process_id=event.process_id,
            compliance_level=event.compliance_level,
        )
        self._level = event.log_level
        self._severity = first.severity
        self._channel = first.channel
        self._times: tuple[datetime, datetime] = (event.timestamp, event.timestamp)
        self._first_record: int | None = None
        self._last_record: int | None = None
        self._checksum: str | None = None
        self._ids: list[str] = []
        self._total = 0
        self.number: int = 0

    def add(self, alert: Alert) -> None:
        """Count *alert*."""
        event = alert.event
        self.number += 1
        self._total += _number(event.event_id)
        if len(self._ids) < _IDS_SHOWN:
            self._ids.append(event.event_id)
        self._level = max(self._level, event.log_level, key=_rank)
        self._severity = max(self._severity, alert.severity, key=_rank)
        self._times = (min(self._times[0], event.timestamp), max(self._times[1], event.timestamp))
        record = event.sequence_number
        if record is not None:
            self._first_record = record if self._first_record is None else min(self._first_record, record)
            if self._last_record is None or record >= self._last_record:
                self._last_record, self._checksum = record, event.checksum

    def __str__(self) -> str:
        return f"{self.number} {'alerts' if self.number > 1 else 'alert'}, {self._records}"

    @property
    def _records(self) -> str:
        known = self._first_record is not None
        return f"records {self._first_record} to {self._last_record}" if known else "not in the trail"

    def summary(self, window: float, *, others: bool) -> Alert:
        """Return the alert that stands for all; *others* says that they are of several kinds."""
        digest = _digest(self._total)
        event = msgspec.structs.replace(
            self._like,
            component=None if others else self._like.component,
            event_id=str(uuid.uuid5(_NAMESPACE, digest)),
            timestamp=self._times[1],
            log_level=self._level,
            message=self._words(window, digest, others=others),
            metadata={
                "count": self.number,
                "first_time": self._times[0],
                "last_time": self._times[1],
                "first_sequence_number": self._first_record,
                "last_sequence_number": self._last_record,
                "event_ids": self._ids,
                "ids_sha256": digest,
            },
            sequence_number=self._last_record,
            checksum=self._checksum,
        )
        return Alert(event, self._severity, self._channel)

    def _words(self, window: float, digest: str, *, others: bool) -> str:
        several = self.number > 1
        kind = "of kinds for which there was no room" if others else "of this kind"
        first, last = (f"{time:%Y-%m-%d %H:%M:%S}" for time in self._times)
        more = self.number - len(self._ids)
        return (
            f"{self.number} more {'alerts' if several else 'alert'} {kind} within {window:g} s, counted and not sent "
            f"{'one by one' if several else 'by itself'}: {first} to {last} UTC, {self._records}. "
            f"Events: {', '.join(self._ids)}{f' and {more} more' if more else ''}. Digest of their ids: {digest}"
        )


_SEVERITIES: Final = [level.value for level in AuditLogLevel]


def _rank(severity: str) -> int:
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else -1
