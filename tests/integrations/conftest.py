"""The trail that most integrations write to."""

from pathlib import Path

import pytest

from fapilog import AuditTrail


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """Return a trail, not started."""
    return AuditTrail(storage_path=tmp_path / "audit", durability="write")
