"""Real log shippers beside a trail whose file system fills up again and again."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from fapilog import AuditEventType, AuditStorageError, AuditTrail, FileStorage
from tests.doubles.file_systems import mounted

RSYSLOG = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin")
BALLAST, LARGE = 40, 16 << 10


def tail(directory: Path, target: Path) -> list[str]:
    """Return the command of tail, which sends a file again from its beginning when it becomes shorter."""
    [today] = directory.glob("audit_*.jsonl")
    return ["sh", "-c", f"exec tail -n +1 -F {today} > {target} 2> {target}.err"]


def rsyslog(directory: Path, target: Path) -> list[str]:
    """Return the command of rsyslog, whose imfile goes on where it was when a file becomes shorter."""
    (target.parent / "rsyslog.conf").write_text(
        f'global(workDirectory="{target.parent}" maxMessageSize="512k" parser.escapeControlCharactersOnReceive="off")\n'
        'module(load="imfile" mode="inotify")\n'
        'template(name="line" type="string" string="%msg%\\n")\n'
        f'ruleset(name="ship") {{ action(type="omfile" file="{target}" template="line") }}\n'
        f'input(type="imfile" file="{directory}/audit_*.jsonl" tag="audit" ruleset="ship")\n'
    )
    return [str(RSYSLOG), "-n", "-f", f"{target.parent}/rsyslog.conf", "-i", f"{target.parent}/rsyslog.pid"]


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[None]:
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.terminate()


def fill(trail: AuditTrail, directory: Path) -> list[str]:
    """Log events until no room is left, and again each time when some is made; return the ids."""
    stored = []
    for number in range(BALLAST):
        for size in (3_000, 500, 60_000) * 20:
            try:
                stored.append(trail.sync.log_event(AuditEventType.DATA_ACCESS, "m" * size, metadata={"turn": number}))
            except AuditStorageError:
                break
        (directory / f"ballast-{number}").unlink()
    return stored


@pytest.mark.parametrize("durability", ["write", "fsync"])
@pytest.mark.parametrize("shipper", [tail, rsyslog])
def test_every_record_is_shipped_once(
    tmp_path: Path,
    shipper: Callable[[Path, Path], list[str]],
    durability: Literal["fsync", "write"],
    rounds: Iterator[int],
) -> None:
    """Whatever does not fit, a shipper sends on the records of the trail, each once, and nothing else."""
    if shipper is rsyslog and RSYSLOG is None:
        pytest.skip("needs rsyslog")
    for number in rounds:
        here = tmp_path / str(number)
        directory = here / "audit"
        directory.mkdir(parents=True)
        with mounted(directory, "2m"):
            for each in range(BALLAST):
                (directory / f"ballast-{each}").write_bytes(bytes(LARGE))
            trail = AuditTrail(storage=FileStorage(directory, durability=durability))
            trail.sync.log_event(AuditEventType.SYSTEM_STARTUP, "ready")
            with running(shipper(directory, here / "shipped")):
                with trail.sync:
                    stored = fill(trail, directory)
                [file] = directory.glob("audit_*.jsonl")
                lines = file.read_bytes().splitlines()
                end = time.monotonic() + 60
                while time.monotonic() < end and shipped(here)[-1:] != lines[-1:]:
                    time.sleep(0.02)  # the shipper has its own pace
        assert len(stored) > BALLAST
        assert shipped(here) == lines


def shipped(here: Path) -> list[bytes]:
    with contextlib.suppress(FileNotFoundError):
        return (here / "shipped").read_bytes().splitlines()
    return []
