"""One trail, forty threads, half of whose callers end in the middle."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fapilog import AuditTrail, ChainStatus

pytestmark = pytest.mark.torture

ROOT = Path(__file__).parents[2]


def test_callers_that_end_stop_no_other(tmp_path: Path, rounds: Iterator[int]) -> None:
    """Whatever callers are cancelled or closed, nothing hangs, each id that came back is stored, the chain is whole."""
    for number in rounds:
        directory = tmp_path / str(number)
        command = [sys.executable, "-m", "tests.programs.anywhere", str(directory), str(number), "2"]
        played = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
        assert played.returncode == 0, played.stderr
        ids = played.stdout.split()
        trail = AuditTrail(storage_path=directory)
        assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK
        stored = [event.event_id for event in trail.sync.get_events(limit=10**6)]
        assert len(stored) == len(set(stored))
        assert set(ids) <= set(stored)
        assert stored[0] == ids[-1]
        assert len(ids) > 100
