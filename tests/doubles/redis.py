"""A Redis server of its own, that keeps nothing."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.servers import free_port, wait_for

__all__ = ["redis"]

_PROGRAM = shutil.which("redis-server")


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Run it until the end of the block, and yield its URL; skip the test where there is none."""
    if _PROGRAM is None:
        pytest.skip("the Debian package redis-server is missing")
    with tempfile.TemporaryDirectory(prefix="fapilog-redis-") as directory, contextlib.ExitStack() as stack:
        port = free_port()
        settings = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        log = stack.enter_context((Path(directory) / "log").open("wb"))
        process = stack.enter_context(subprocess.Popen([_PROGRAM, *settings], cwd=directory, stdout=log, stderr=log))
        stack.callback(process.kill)
        wait_for(port, process, Path(directory))
        yield f"redis://127.0.0.1:{port}/0"
