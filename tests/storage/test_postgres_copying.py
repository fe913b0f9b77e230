"""Copies of a trail into PostgreSQL and out of it: byte for byte, however often they are interrupted."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("psycopg")

from msgspec.structs import replace

from fapilog import AuditEvent, AuditEventType, AuditStorageError, ChainHead, FileStorage, TrailMismatchError
from fapilog.storage.copying import copy
from fapilog.storage.memory import MemoryStorage
from fapilog.storage.postgres import PostgresStorage
from fapilog.storage.protocol import AuditStorage, EventFilter, head_of
from fapilog.tasks.loops import without_loop
from tests.doubles.commands import Run, runs
from tests.doubles.cutting_proxy import CuttingProxy
from tests.doubles.postgres import Server

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

GOLDEN = Path(__file__).parents[1] / "golden"
EMPTY = ChainHead(0, None)


@pytest.fixture
def there(database: Server, name: str) -> Iterator[PostgresStorage]:
    """Return an empty storage, in the role of a service."""
    made = PostgresStorage(database.dsn(user="service"), name)
    yield made
    without_loop(made.aclose())


def uri(database: Server) -> str:
    """Return the address of the server, with a password that it does not ask for."""
    return f"postgresql://service:hunter2@127.0.0.1:{database.port}/postgres"


def event(number: int) -> AuditEvent:
    return AuditEvent(
        event_id=f"id-{number}",
        event_type=AuditEventType.DATA_ACCESS,
        message="\x85 \u202e \0",
        user_id=f"user-{number % 3}",
    )


async def filled(storage: AuditStorage, count: int) -> AuditStorage:
    for number in range(count):
        await storage.append(event(number))
    return storage


async def files(path: Path, count: int) -> FileStorage:
    """Return a trail of *count* events in files."""
    storage = FileStorage(path)
    await copy(await filled(MemoryStorage(), count), storage)
    return storage


async def digest(storage: AuditStorage) -> str:
    """Return the SHA-256 of all lines."""
    return hashlib.sha256(b"\n".join(await storage.read_lines(0, 1_000_000))).hexdigest()


async def test_every_byte_arrives_both_ways(tmp_path: Path, there: PostgresStorage) -> None:
    """From files into the database and from there into files the lines have one hash, and each of the three goes on."""
    trail, back = await files(tmp_path / "from", 1203), FileStorage(tmp_path / "back")
    seen: list[int] = []
    assert await copy(trail, there, seen.append) == (1203, await head_of(trail))
    assert seen == [64, 564, 1064, 1203]
    assert (await copy(there, back))[0] == 1203
    assert await digest(trail) == await digest(there) == await digest(back)
    assert len(await there.find(EventFilter(user_id="user-1"), 1000)) == 401
    for each in (trail, there, back):
        seal = await each.append(event(9999))
        assert seal is not None
        assert seal.sequence_number == 1204
        assert (await each.verify()).valid
        await each.aclose()


@pytest.mark.parametrize("golden", ["format-1", "format-2"])
async def test_each_format_stays_as_it_is(golden: str, there: PostgresStorage) -> None:
    """The golden trail of each format arrives byte for byte, and verifies."""
    trail = FileStorage(GOLDEN / golden)
    await copy(trail, there)
    assert await digest(there) == await digest(trail)


async def test_a_killed_server_is_gone_on_with(
    tmp_path: Path, database: Server, there: PostgresStorage, name: str
) -> None:
    """Where the server is killed between two pages the copy fails, and goes on from there when it is back."""
    trail = await files(tmp_path / "from", 1203)

    def kill(number: int) -> None:
        if number == 564:
            database.kill()

    hasty = PostgresStorage(database.dsn(user="service"), name, timeout=3.0)
    with pytest.raises(AuditStorageError, match="cannot append to trail") as raised:
        await copy(trail, hasty, kill)
    await hasty.aclose()
    assert not isinstance(raised.value, TrailMismatchError)
    database.start()
    assert (await copy(trail, there))[0] == 639
    assert await digest(there) == await digest(trail)
    await trail.aclose()


def test_a_killed_copy_is_gone_on_with(tmp_path: Path, database: Server, there: PostgresStorage, name: str) -> None:
    """A `fapilog copy` that is killed leaves whole pages, and the next one copies the rest."""
    pytest.importorskip("typer")
    trail = without_loop(files(tmp_path / "from", 5000))
    command = [sys.executable, "-m", "fapilog", "copy", str(tmp_path / "from"), uri(database), "--trail", name]
    with subprocess.Popen(command) as process:
        while without_loop(head_of(there)).sequence_number < 1000:
            assert process.poll() is None
        process.kill()
    left = without_loop(head_of(there)).sequence_number
    assert left % 500 == 64
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"copied {5000 - left} records; PostgreSQL 127.0.0.1:")
    assert "hunter2" not in done.stdout + done.stderr
    assert without_loop(digest(there)) == without_loop(digest(trail))


@pytest.mark.one_backend
@pytest.mark.parametrize("forwards", [True, False])
async def test_every_cut_stores_once(database: Server, there: PostgresStorage, name: str, *, forwards: bool) -> None:
    """Wherever the connection is cut, each page is there once, in its place."""
    source = MemoryStorage()
    for each in range(800):
        # Every second one has an id that is there already, so that the page is sent twice.
        await source.append(event(each % 2 * each))
    proxy = CuttingProxy(database.port)
    dsn = f"{database.dsn(user='service', port=proxy.port)} sslmode=disable gssencmode=disable"
    cut = PostgresStorage(dsn, name)
    head, number, was_cut = EMPTY, 0, True
    while was_cut:
        number += 1
        proxy.arm(number, forwards=forwards)
        head = await cut.append_lines(head, await source.read_lines(head.sequence_number, 5))
        was_cut = proxy.disarm()
    assert number > 5
    assert await head_of(there) == head
    assert (await there.verify()).events_checked == 5 * number
    await cut.aclose()
    proxy.close()


async def test_two_trails_are_not_mixed(there: PostgresStorage) -> None:
    """Nothing is copied into a trail with other records, or behind one that the database does not end with."""
    await there.append(replace(event(0), message="another"))
    source = await filled(MemoryStorage(), 3)
    with pytest.raises(TrailMismatchError, match="two trails"):
        await copy(source, there)
    page = await source.read_lines(0, 3)
    with pytest.raises(AuditStorageError, match="its newest record is not record 0"):
        await there.append_lines(EMPTY, page)
    with pytest.raises(TrailMismatchError, match="nothing is appended"):
        await there.append_lines(await head_of(there), page)
    assert (await there.verify()).events_checked == 1


async def test_no_lines(there: PostgresStorage) -> None:
    """No lines are none, wherever they are to follow."""
    assert await there.append_lines(EMPTY, []) == EMPTY == await head_of(there)


async def test_an_id_that_is_there_again(there: PostgresStorage) -> None:
    """A record with the id of another one, of its page or before it, is copied, and found; none is appended."""
    source = MemoryStorage()
    for number in (0, 1, 0, 2, 1, 0):
        await source.append(event(number))
    lines = await source.read_lines(0, 6)
    head = await there.append_lines(EMPTY, lines[:4])
    assert await there.append_lines(head, lines[4:]) == await head_of(source)
    assert await digest(there) == await digest(source)
    found = await there.find(EventFilter(event_id="id-0"), 10)
    assert found == await source.find(EventFilter(event_id="id-0"), 10)
    assert len(found) == 3
    with pytest.raises(AuditStorageError, match="a record has the id of this event already"):
        await there.append(event(1))
    assert await there.append(event(1), once=True) is None
    assert (await there.append(event(3))).sequence_number == 7
    assert (await there.verify()).valid


def test_the_command(
    tmp_path: Path, database: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It copies into a trail of a database and out of it, tells what is wrong, and never shows the password."""
    pytest.importorskip("typer")
    monkeypatch.setattr(PostgresStorage.__init__, "__kwdefaults__", {"timeout": 3.0, "password": None})
    run: Run = runs(monkeypatch, capsys)
    without_loop(files(tmp_path / "from", 3))
    into = ("copy", tmp_path / "from", uri(database))
    code, out, err = run(*into, "--trail", "commanded")
    assert (code, err) == (0, "")
    place = f"PostgreSQL 127.0.0.1:{database.port}/postgres, trail 'commanded'"
    assert out.startswith(f"copied 3 records; {place} is intact up to record 3: ")
    assert run("copy", uri(database), tmp_path / "to", "--trail", "commanded")[0] == 0
    assert without_loop(digest(FileStorage(tmp_path / "to"))) == without_loop(digest(FileStorage(tmp_path / "from")))
    without_loop(FileStorage(tmp_path / "to").append(event(4)))
    without_loop(FileStorage(tmp_path / "from").append(event(3)))
    assert run(*into, "--trail", "commanded")[0] == 0
    for arguments, words, expected in (
        (("copy", tmp_path / "to", uri(database), "--trail", "commanded"), "two trails", 1),
        (into, "expected the name of one", 2),
        ((*into, "--trail", ""), "expected 1 to 200 characters", 2),
        ((*into[:2], "postgresql://u:hunter2@h:x y/", "--trail", "t"), "expected postgresql://", 2),
        ((*into[:2], "postgresql://u:hunter2@127.0.0.1:1/d", "--trail", "t"), "127.0.0.1:1/d", 2),
        (("copy", uri(database), uri(database), "--trail", "t"), "another place", 2),
        (("copy", tmp_path / "none", uri(database), "--trail", "t"), "there is no", 2),
        (("copy", tmp_path / "from", tmp_path / "other", "--trail", "t"), "in PostgreSQL", 2),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (expected, "")
        assert words in " ".join(err.replace("│", "").split())
        assert "hunter2" not in err


def test_a_dsn_of_keywords_is_a_database(
    tmp_path: Path, database: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A DSN of keywords, as `storage init` takes it, names a database everywhere, and is never shown or made a path."""
    pytest.importorskip("typer")
    monkeypatch.chdir(tmp_path)
    run: Run = runs(monkeypatch, capsys)
    without_loop(files(tmp_path / "from", 3))
    dsn = f"host=127.0.0.1 port={database.port} user=postgres dbname=postgres password=hunter2"
    code, out, err = run("copy", "from", dsn, "--trail", "by keywords")
    assert (code, err, "hunter2" in out) == (0, "", False)
    assert run("verify", dsn, "--trail", "by keywords") == run("verify", "from")
    code, out, err = run("copy", "from", dsn)
    assert (code, out, "expected the name of one" in " ".join(err.split()), "hunter2" in err) == (2, "", True, False)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]
    # Directories of a data lake have such names.
    (tmp_path / "from").rename("host=web")
    assert run("verify", "host=web")[0] == 0


def test_a_copy_is_asked_by_the_same_commands(
    tmp_path: Path, database: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fapilog show`, `count` and `verify` say of a trail in the database what they say of the files."""
    pytest.importorskip("typer")
    run: Run = runs(monkeypatch, capsys)
    without_loop(files(tmp_path / "from", 7))
    there = (uri(database), "--trail", "asked")
    assert run("copy", tmp_path / "from", *there)[0] == 0
    for command, *options in (
        ("show", "--user", "user-1"),
        ("show", "--oldest-first", "--limit", 2, "--json"),
        ("count", "--by", "user_id"),
        ("verify",),
    ):
        assert run(command, *there, *options) == run(command, tmp_path / "from", *options)
    code, out, err = run("show", uri(database), "--trail", "another")
    assert (code, out, "there is no trail in PostgreSQL" in err, "hunter2" in err) == (2, "", True, False)
