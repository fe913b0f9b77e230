"""
An outbox that is killed, or whose disk fails, in every call to the operating system: no alert is lost.

With strace, where it is installed. A round takes every eighth call, the next round those after them.
"""

import errno
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from fapilog import AuditEvent, AuditEventType, TransientDeliveryError
from fapilog.delivery.outbox import Outbox
from fapilog.testing import RecordingDispatcher
from tests.programs.keeping_outbox import Noting, keep

KEEPER = Path(__file__).parents[1] / "programs" / "keeping_outbox.py"
CALLS = "?mkdir,?mkdirat,openat,flock,pread64,pwrite64,fdatasync,fsync,ftruncate,?unlink,?unlinkat,mmap"
WRITING = {"mkdir", "mkdirat", "pwrite64", "fdatasync", "fsync", "ftruncate"}
EACH = 8
# What is in the outbox at first.
BEGINNINGS = {"new": [], "backlog": ["first", "second"]}
HOUR = 3600.0

beginnings = pytest.mark.parametrize("beginning", BEGINNINGS)


class Call(NamedTuple):
    """The *number*-th call with this *name*, counted from 1."""

    name: str
    number: int
    arguments: str

    def errors(self) -> Iterator[str]:
        """Yield the errors that the operating system may answer it with."""
        yield "EIO"
        if self.name in WRITING or "O_CREAT" in self.arguments:
            yield "ENOSPC"


class Played(NamedTuple):
    """What became of a run: how it ended, the alerts that it took, and whether the fault happened."""

    code: int
    taken: list[str]
    failed: bool


class Stage:
    """
    Plays the keeper, over and over from the same beginning, with strace between it and the operating system.

    Only what is done to the outbox's own files is traced: the interpreter starts undisturbed.
    """

    def __init__(self, strace: str, beginning: str, scratch: Path) -> None:
        self.directory = scratch / "outbox"
        self.sent = scratch / "sent"
        self.beginning = BEGINNINGS[beginning]
        self._log = scratch / "log"
        self._start = scratch / "start"
        self._start.mkdir()
        anyio.run(self._leave_behind)
        self._strace = [strace, "-f", "-qq", "-s", "0", "-o", str(self._log), "-e", f"trace={CALLS}"]
        for path in [self.directory, *(self.directory / f"alerts.db{suffix}" for suffix in ("", "-wal", "-shm"))]:
            self._strace += ["-P", str(path)]
        self.play()
        self.calls = list(self._traced())

    async def _leave_behind(self) -> None:
        async with Outbox(
            RecordingDispatcher(error=TransientDeliveryError("busy")),
            self._start / "alerts.db",
            now=lambda: time.time() - HOUR,
        ) as outbox:
            for event_id in self.beginning:
                event = AuditEvent(event_id=event_id, event_type=AuditEventType.SECURITY_VIOLATION, message="m")
                await outbox.send_alert(event, severity="critical")

    def play(self, fault: str | None = None) -> Played:
        """Run the keeper, perhaps with a *fault*; a minute is more than it may take."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.beginning:
            shutil.copytree(self._start, self.directory)
        else:
            self.directory.mkdir()
        self.sent.unlink(missing_ok=True)
        # Coverage would write files of its own.
        env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        command = [*self._strace, *(() if fault is None else ("-e", f"inject={fault}"))]
        command += [sys.executable, str(KEEPER), str(self.directory), str(self.sent)]
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
        failed = done.returncode == -signal.SIGKILL or "(INJECTED)" in self._log.read_text()
        return Played(done.returncode, done.stdout.split(), failed)

    def follow(self) -> Outbox:
        """Let another process, an hour later, send what is left; return its outbox."""
        outbox = Outbox(Noting(self.sent), self.directory / "alerts.db", now=lambda: time.time() + HOUR)
        anyio.run(keep, outbox)
        return outbox

    def _traced(self) -> Iterator[Call]:
        count: Counter[str] = Counter()
        for name, arguments in re.findall(r"^\d+ +(\w+)\((.*)\) += ", self._log.read_text(), re.MULTILINE):
            count[name] += 1
            yield Call(name, count[name], arguments)


def check(stage: Stage, played: Played) -> None:
    """Let another process do the rest: what was taken is sent, and twice only after an attempt that was cut off."""
    outbox = stage.follow()
    sent = Counter(stage.sent.read_text().split()) if stage.sent.exists() else Counter[str]()
    assert sent.keys() >= {*stage.beginning, *played.taken}
    for event_id, times in sent.items():
        history = anyio.run(outbox.history, event_id)
        unknown = sum(attempt.outcome == "stopped" for attempt in history)
        assert times <= 1 + unknown, history
    outbox._store.place.close()
    with closing(sqlite3.connect(stage.directory / "alerts.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM alerts WHERE status <> 'delivered'").fetchone() == (0,)
    assert {path.name for path in stage.directory.iterdir()} == {"alerts.db"}


def test_the_stage_shows_the_work(strace: str, tmp_path: Path) -> None:
    """The calls that are made to fail are those that keeping alerts takes."""
    stage = Stage(strace, "backlog", tmp_path)
    names = Counter(call.name for call in stage.calls)
    assert names["pwrite64"] >= 20
    assert names["fdatasync"] >= 4
    assert names["openat"] >= 4
    assert names["pread64"] >= 2
    assert sorted(stage.sent.read_text().split()) == ["first", "one", "second", "two"]


@beginnings
def test_killed_in_each_call(strace: str, beginning: str, tmp_path: Path, rounds: Iterator[int]) -> None:
    """Killed in a call to the operating system, an outbox loses no alert that it has taken."""
    stage = Stage(strace, beginning, tmp_path)
    for number in rounds:
        happened = [0]
        for call in stage.calls[number % EACH :: EACH]:
            played = stage.play(f"{call.name}:signal=KILL:when={call.number}")
            assert played.code == (-signal.SIGKILL if played.failed else 0), call
            happened.append(played.failed)
            check(stage, played)
        assert sum(happened) > len(happened) / 2


@beginnings
def test_each_call_fails(strace: str, beginning: str, tmp_path: Path, rounds: Iterator[int]) -> None:
    """Whichever call to the operating system fails, each alert is taken and sent, then or by the next process."""
    stage = Stage(strace, beginning, tmp_path)
    for number in rounds:
        happened = [0]
        for call in stage.calls[number % EACH :: EACH]:
            for error in call.errors():
                played = stage.play(f"{call.name}:error={error}:when={call.number}")
                assert (played.code, played.taken) == (0, ["one", "two"]), (call, error)
                happened.append(played.failed)
                check(stage, played)
        assert sum(happened) > len(happened) / 2


@beginnings
def test_all_calls_fail_from_one_on(strace: str, beginning: str, tmp_path: Path, rounds: Iterator[int]) -> None:
    """From whichever write or sync the disk fails, each alert is taken and sent, then or by the next process."""
    stage = Stage(strace, beginning, tmp_path)
    for number in rounds:
        for call in stage.calls[number % EACH :: EACH]:
            if call.name in WRITING - {"mkdir", "mkdirat"}:
                error = errno.errorcode[errno.EIO if number % 2 else errno.ENOSPC]
                played = stage.play(f"{call.name}:error={error}:when={call.number}+")
                assert (played.code, played.taken) == (0, ["one", "two"]), (call, error)
                check(stage, played)
