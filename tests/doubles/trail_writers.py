"""Processes that run `writing_trail.py`, `alerting_trail.py`, `failing_trail.py` or `guessing_on.py`."""

import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

__all__ = ["Writer", "alerter", "failing", "guesser", "listen", "writer"]

PROGRAMS = Path(__file__).parents[1] / "programs"


class Writer:
    """A process that writes, and the ids of the events that it says are stored."""

    def __init__(self, script: str, *arguments: str) -> None:
        # Coverage would make it slow, and is lost with the kill.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        command = [sys.executable, str(PROGRAMS / script), *arguments]
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.stored: list[str] = []
        self._partial = b""

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def read(self) -> bool:
        """Take what it has printed; return whether there may be more."""
        data = os.read(self.output, 1 << 16)
        *ids, self._partial = (self._partial + data).split(b"\n")
        self.stored += [event_id.decode() for event_id in ids]
        return bool(data)

    def kill(self) -> None:
        self.process.kill()
        self._finish()

    def stop(self) -> None:
        """Let it end by itself, with nothing to complain about."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._finish()
        assert self.process.returncode == 0

    def _finish(self) -> None:
        while self.read():
            pass
        self.process.wait()


@contextmanager
def _started(script: str, *arguments: str) -> Generator[Writer]:
    started = Writer(script, *arguments)
    with started.process:
        try:
            yield started
        finally:
            started.process.kill()


def writer(directory: Path | str, backend: str, durability: str) -> AbstractContextManager[Writer]:
    """Start a process that writes to a trail."""
    return _started("writing_trail.py", str(directory), backend, durability)


def alerter(directory: Path | str, backend: str, url: str, mode: str) -> AbstractContextManager[Writer]:
    """Start a process that alerts through an outbox."""
    return _started("alerting_trail.py", str(directory), backend, url, mode)


def failing(directory: Path, backend: str) -> AbstractContextManager[Writer]:
    """Start a process that can't store events, and prints the incident."""
    return _started("failing_trail.py", str(directory), backend)


def guesser(directory: Path, seed: int) -> AbstractContextManager[Writer]:
    """Start a process that logs failed logins."""
    return _started("guessing_on.py", str(directory), str(seed))


def listen(writers: list[Writer], until: Callable[[], bool]) -> None:
    """Read what *writers* print, as it comes."""
    with selectors.DefaultSelector() as selector:
        for each in writers:
            selector.register(each.output, selectors.EVENT_READ, each)
        while not until():
            for key, _ in selector.select():
                assert key.data.read(), "a writer ended by itself"
