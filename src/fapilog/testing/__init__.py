"""
For your tests: dispatchers against their contract, providers against a scripted server, and a recorder of alerts.

All of it works on asyncio and on trio, with any test runner.
"""

from __future__ import annotations

from ._contract import check_dispatcher
from ._origin import Answer, Fault, Origin, Request
from ._provider import Limit, check_provider
from ._recording import RecordedAlert, RecordingDispatcher

__all__ = [
    "Answer",
    "Fault",
    "Limit",
    "Origin",
    "RecordedAlert",
    "RecordingDispatcher",
    "Request",
    "check_dispatcher",
    "check_provider",
]
