"""
For your tests: dispatchers and storages against their contracts, providers against a scripted server, recorders.

All of it works on asyncio and on trio, with any test runner. pytest finds the fixture `audit_trail` by itself.
"""

from __future__ import annotations

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
    "check_dispatcher",
    "check_provider",
    "check_storage",
]
