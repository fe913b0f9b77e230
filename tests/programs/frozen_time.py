"""
Records, reads and fails while the time stands still as in a test with freezegun, and afterwards.

    python -m tests.programs.frozen_time before|after DIRECTORY

freezegun puts classes of its own in place of `datetime.datetime` and `datetime.date`, in the modules that are there,
here *before* or *after* fapilog is imported.
"""

from __future__ import annotations

import datetime as dt
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WHEN, DIRECTORY = sys.argv[1], Path(sys.argv[2])
REAL = {"datetime": dt.datetime, "date": dt.date}


class _Like(type):
    """As freezegun's metaclass: a time of the standard library is one of its own."""

    def __instancecheck__(cls, each: object) -> bool:
        return isinstance(each, cls.__mro__[1])

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, cls.__mro__[1])


class FrozenDate(dt.date, metaclass=_Like):
    """Another class than that of the standard library."""


class FrozenDateTime(dt.datetime, metaclass=_Like):
    """Another class than that of the standard library, in which it is always the same time."""

    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> Any:
        """Return an hour of 2020."""
        return cls(2020, 1, 1, 12, tzinfo=tz)


def put(kinds: Mapping[str, type], others: Mapping[str, type]) -> None:
    """Put the classes *kinds* in place of the *others* in all modules."""
    for name in kinds:
        setattr(dt, name, kinds[name])
    for module in [*sys.modules.values()]:
        for attribute, value in [*vars(module).items()]:
            for name, other in others.items():
                if value is other and module is not sys.modules["__main__"]:
                    setattr(module, attribute, kinds[name])


FROZEN: dict[str, type] = {"datetime": FrozenDateTime, "date": FrozenDate}
if WHEN == "after":
    importlib.import_module("fapilog")
put(FROZEN, REAL)

from fapilog import AuditEventType, AuditStorageError, AuditTrail  # noqa: E402
from fapilog.storage.holds import add_hold, holds_on  # noqa: E402
from fapilog.testing import RecordingDispatcher  # noqa: E402


def main() -> None:
    """Log, with time that stands still and with time that goes on."""
    pager = RecordingDispatcher()
    trail = AuditTrail(storage_path=DIRECTORY / "audit", alert_dispatcher=pager)
    with trail.sync:
        trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, "frozen", occurred=FrozenDateTime.now(dt.UTC))
        assert [str(event.timestamp) for event in trail.sync.get_events()] == ["2020-01-01 12:00:00+00:00"]
        (DIRECTORY / "audit").rename(DIRECTORY / "away")
        (DIRECTORY / "audit").touch()
        try:
            trail.sync.log_event(AuditEventType.DATA_ACCESS, "lost")
        except AuditStorageError:
            (DIRECTORY / "audit").unlink()
            (DIRECTORY / "away").rename(DIRECTORY / "audit")
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "frozen")
        trail.sync.drain()
    add_hold(DIRECTORY / "audit", "a case", since=None, until=None)
    assert len(holds_on(DIRECTORY / "audit")) == 1
    put(REAL, FROZEN)
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "real")
    assert trail.sync.verify_chain_from_storage().valid
    lines = [event.message.partition(",")[0] for event in trail.sync.get_events()]
    lines += [alert.event.message.partition(":")[0].partition(",")[0] for alert in pager.alerts]
    sys.stdout.write("\n".join(lines))


main()
