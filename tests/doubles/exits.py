"""Running the program that is asked to end in code that a trail calls."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.programs.exiting_trail import CODE

__all__ = ["ends"]

ROOT = Path(__file__).parents[2]


def ends(directory: Path, backend: str, what: str, *, place: str, started: str, kept: str) -> None:
    """Run the program and check that it ends at once, with the code that it should, and without a word of asyncio's."""
    command = [sys.executable, "-m", "tests.programs.exiting_trail", str(directory), backend]
    ended = subprocess.run(
        [*command, what, place, started, kept], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    # A task of trio's system can't end the loop but by Ctrl-C; see `Loop.spawn`.
    in_system_task = started == "started" and place not in ("receiver", "storage")
    is_code = what == "exit" and not (backend == "trio" and in_system_task)
    assert ended.returncode == (CODE if is_code else -signal.SIGINT), ended.stderr
    assert not ended.stdout
    assert "never" not in ended.stderr
    assert "destroyed" not in ended.stderr
