"""
For your tests: checks of dispatchers, storages, archives and providers against their contracts, and recorders.

All of it works on asyncio and on trio, with any test runner. pytest finds the fixture `audit_trail` by itself.
"""

from __future__ import annotations

from ._archive import check_archive
from ._contract import check_dispatcher
from ._origin import Answer, Fault, Origin, Request
from ._provider import Limit, check_provider
from ._recording import RecordedAlert, RecordingDispatcher
from ._storage import check_storage
from ._trail import RecordedEvents, RecordedTrail

__all__ = [
    "Answer",
    "Fault",
    "Limit",
    "Origin",
    "RecordedAlert",
    "RecordedEvents",
    "RecordedTrail",
    "RecordingDispatcher",
    "Request",
    "check_archive",
    "check_dispatcher",
    "check_provider",
    "check_storage",
]
