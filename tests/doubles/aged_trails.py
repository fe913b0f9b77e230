"""Trails that are some days old."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from fapilog import AuditEvent, AuditEventType, ComplianceLevel
from fapilog.record import chain
from fapilog.storage._files.names import file_of_day
from tests.doubles.trail_files import TrailFiles

__all__ = ["aged_trail", "day_file", "today"]


def today() -> date:
    """Return the day, in UTC."""
    return datetime.now(UTC).date()


def day_file(age: int) -> str:
    """Return the name of the file of so many days ago."""
    return file_of_day(today().toordinal() - age)


def aged_trail(
    directory: Path, ages: Iterable[int], *, count: int = 3, level: ComplianceLevel = ComplianceLevel.BASIC
) -> Path:
    """Store *count* events on each of the days that are so many days ago, and return the directory."""
    for age in sorted(ages, reverse=True):
        then = datetime.now(UTC) - timedelta(age)
        files = TrailFiles(directory, durable=False, now=lambda then=then: then)  # type: ignore[misc]
        events = [
            AuditEvent(
                event_id=f"{age}-{number}",
                timestamp=then,
                event_type=AuditEventType.DATA_ACCESS,
                message=f"record {number} was read",
                user_id=f"user-{age}",
                compliance_level=level,
            )
            for number in range(count)
        ]
        files.append([chain.body(event) for event in events])
        files.close()
    return directory
