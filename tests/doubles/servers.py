"""Real servers, as programs that are run, asked and ended."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["free_port", "running", "wait_for", "wait_until", "wait_until_said"]

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def running(
    command: list[str], directory: Path, cwd: Path = ROOT, /, **env: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """
    Run a program until the end of the block, in *cwd*, then end it by SIGTERM, which it must obey in time.

    Processes that it leaves behind are killed.
    """
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env={**os.environ, "TRAIL": str(directory / "audit"), **env},
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            yield process
            process.terminate()
            process.wait(60)
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(port: int, process: "subprocess.Popen[bytes]", directory: Path) -> None:
    """Return when something listens on *port*."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)  # the program needs the processor to start
    raise AssertionError((directory / "log").read_text())


def wait_until_said(process: "subprocess.Popen[bytes]", directory: Path, words: str) -> None:
    """Return when the program has said *words*."""
    end = time.monotonic() + 60
    while words not in (log := (directory / "log").read_text()):
        assert time.monotonic() < end, log
        assert process.poll() is None, log
        time.sleep(0.02)  # the program needs the processor


def wait_until(is_so: Callable[[], bool], directory: Path) -> None:
    """Return when it is so."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, (directory / "log").read_text()
        time.sleep(0.02)  # the program needs the processor


def free_port() -> int:
    """Return a port that nothing listens on, and that is given to no other program until a server listens on it."""
    # Below the ports that a kernel chooses by itself, 32768 to 60999 on Linux: until a server has started it would give
    # one of those to whichever socket asks next. https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html
    # Each worker of pytest-xdist has two thousand of its own.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 10_000 + 2_000 * (worker % 10) + secrets.randbelow(2_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
