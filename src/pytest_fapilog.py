"""
The fixtures of fapilog for pytest, which finds them by itself where fapilog is installed.

It is no part of the package `fapilog`, so that pytest loads nothing of that before a test asks for a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fapilog import CompliancePolicy
    from fapilog.testing import RecordedTrail

__all__ = ["audit_policy", "audit_trail"]


@pytest.fixture
def audit_policy() -> CompliancePolicy:
    """
    Return the policy of `audit_trail`; override it in your ``conftest.py``, or in a module or class of tests.

    It is strict: a mistyped keyword, ``clientip=``, is an error in the tests, and a warning in the log elsewhere.
    """
    from fapilog import CompliancePolicy  # noqa: PLC0415  see above

    return CompliancePolicy(strict=True)


@pytest.fixture
def audit_trail(audit_policy: CompliancePolicy) -> Iterator[RecordedTrail]:
    """
    Give a `fapilog.testing.RecordedTrail` to a test, synchronous or not, on any event loop and with any plugin.

    It is an `AuditTrail` in memory, with its ``events`` and ``alerts`` at hand, and not started.
    """
    from fapilog.testing import RecordedTrail  # noqa: PLC0415  see above

    trail = RecordedTrail(audit_policy)
    yield trail
    trail.close()
