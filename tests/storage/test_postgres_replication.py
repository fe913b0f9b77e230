"""Edge mode with a real server: it is killed under writers, machines have a trail each, and nothing is lost."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

import anyio

from fapilog import AuditEventType, AuditTrail, FileStorage
from fapilog.storage.postgres import PostgresStorage
from fapilog.storage.protocol import AuditStorage, EventFilter, head_of
from fapilog.storage.replication import Replication, ReplicationState
from fapilog.tasks.loops import without_loop
from tests.doubles.commands import Run, runs
from tests.doubles.postgres import Server, followed

pytestmark = [pytest.mark.real_time, pytest.mark.slow]


def target(database: Server, trail: str) -> PostgresStorage:
    return PostgresStorage(database.dsn(user="service"), trail)


async def until(condition: Any) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110  of another process
            await anyio.sleep(0.01)


async def digest(storage: AuditStorage) -> str:
    """Return the SHA-256 of all lines."""
    return hashlib.sha256(b"\n".join(await storage.read_lines(0, 1_000_000))).hexdigest()


async def require_same(directory: Path, replica: PostgresStorage) -> None:
    """Find the same bytes and heads in both, which are valid."""
    trail = FileStorage(directory)
    assert await digest(trail) == await digest(replica)
    assert await head_of(trail) == await head_of(replica)
    for each in (trail, replica):
        assert (await each.verify()).valid
        await each.aclose()


async def test_the_service_goes_on_without_the_database(tmp_path: Path, database: Server, name: str) -> None:
    """While the server is killed every event is stored at once, and all of them are in the database in the end."""
    # So that a server that is away is noticed soon.
    hasty = PostgresStorage(database.dsn(user="service"), name, timeout=0.5)
    replica = target(database, name)
    async with (
        Replication(tmp_path / "audit", hasty, interval=0.01) as replication,
        AuditTrail(storage_path=tmp_path / "audit") as trail,
    ):
        for number in range(60):
            if number == 20:
                await until(lambda: replication.state == ReplicationState())
                database.kill()
            if number == 40:
                await until(lambda: replication.problem)
                assert replication.state.pending >= 20
                database.start()
            await trail.log_event(AuditEventType.DATA_ACCESS, "m", user_id="alice")
        await until(lambda: replication.state == ReplicationState() and replication.problem is None)
        assert len(await replica.find(EventFilter(user_id="alice"), 100)) == 60
    await require_same(tmp_path / "audit", replica)


async def test_machines_have_a_trail_each(tmp_path: Path, database: Server, name: str) -> None:
    """Machines that replicate to one database at once keep their order, and each chain verifies with its head."""
    places = [tmp_path / f"machine-{number}" for number in range(3)]

    async def machine(place: Path) -> None:
        replica = target(database, f"{name} {place.name}")
        async with Replication(place, replica, interval=0.01), AuditTrail(storage_path=place) as trail:
            for number in range(50):
                await trail.log_event(AuditEventType.DATA_ACCESS, f"{place.name} {number}")

    async with anyio.create_task_group() as tasks:
        for place in places:
            tasks.start_soon(machine, place)
    for place in places:
        replica = target(database, f"{name} {place.name}")
        lines = await replica.read_lines(0, 100)
        assert [f"{place.name} {number}".encode() in line for number, line in enumerate(lines)] == [True] * 50
        await require_same(place, replica)


def test_the_page_can_be_followed(
    tmp_path: Path, database: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first example in the docs prints what the page says."""
    monkeypatch.chdir(tmp_path)
    output = followed("keep-a-replica.md", database.dsn(user="service"))
    assert capsys.readouterr().out == output


def command(directory: Path, database: Server, trail: str, *more: str) -> list[str]:
    dsn = f"postgresql://service:hunter2@127.0.0.1:{database.port}/postgres"
    return [sys.executable, "-m", "fapilog", "replicate", str(directory), dsn, "--trail", trail, *more]


def test_a_process_of_its_own(tmp_path: Path, database: Server, name: str) -> None:
    """`fapilog replicate` may be killed at any time and begun again, is ended by SIGTERM, and shows no password."""
    pytest.importorskip("typer")
    replica, trail = target(database, name), AuditTrail(storage_path=tmp_path / "audit")
    env = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    for number, end in enumerate((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM), 1):
        with subprocess.Popen(
            command(tmp_path / "audit", database, name),
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            place = f"PostgreSQL 127.0.0.1:{database.port}/postgres, trail {name!r}"
            assert process.stdout.readline() == f"replicating to {place}\n"
            for _ in range(10):
                trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
            while without_loop(head_of(replica)).sequence_number < 10 * number:
                assert process.poll() is None
            process.send_signal(end)
            out, err = process.communicate(timeout=60)
            assert process.returncode == (0 if end == signal.SIGTERM else -end)
            assert (out, err) == ("", "")
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")
    done = subprocess.run(
        command(tmp_path / "audit", database, name, "--once"), env=env, check=True, capture_output=True, text=True
    )
    head = trail.sync.head()
    assert done.stdout == f"{place} has all records up to record 31: {head.checksum}\n"
    trail.sync.stop()
    anyio.run(require_same, tmp_path / "audit", replica)


def test_what_the_command_says(
    tmp_path: Path, database: Server, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --once another trail is 1, and a database or an argument that can't be used 2, without the password."""
    pytest.importorskip("typer")
    monkeypatch.setattr(PostgresStorage.__init__, "__kwdefaults__", {"timeout": 3.0, "password": None})
    run: Run = runs(monkeypatch, capsys)
    AuditTrail(storage_path=tmp_path / "audit").sync.log_event(AuditEventType.DATA_ACCESS, "m")
    AuditTrail(storage=target(database, name)).sync.log_event(AuditEventType.DATA_ACCESS, "another")
    given = command(tmp_path / "audit", database, name, "--once")[3:]
    earlier = shutil.copytree(Path(__file__).parents[1] / "golden" / "earlier" / "0.3.5", tmp_path / "earlier")
    for arguments, words, expected in (
        (given, "two trails", 1),
        ([*given[:2], "postgresql://u:hunter2@127.0.0.1:1/d", *given[3:]], "127.0.0.1:1/d", 2),
        ([*given[:2], str(tmp_path), *given[3:]], "expected the database", 2),
        ([given[0], str(tmp_path), *given[2:]], "there is no trail in", 2),
        ([given[0], str(earlier), *given[2:-2], "empty", given[-1]], "there is no trail in", 2),
        ([*given, "--lag-limit", "0"], "--lag-limit", 2),
        (given[:3], "--trail", 2),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (expected, "")
        assert words in " ".join(err.replace("│", "").split())
        assert "hunter2" not in err
