"""Time that another library has replaced, as freezegun does in the tests of an application."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trail_works_in_a_test_in_which_time_stands_still(tmp_path: Path, when: str) -> None:
    """Whether fapilog is imported before or after: events are stored and read, incidents announced, holds kept."""
    command = [sys.executable, "-m", "tests.programs.frozen_time", when, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        *("real", "the audit trail stores events again", "frozen", "frozen"),
        *("frozen", "the audit trail can't store events", "the audit trail stores events again"),
    ]
