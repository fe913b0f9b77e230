"""PgBouncer before a PostgreSQL server, in transaction mode."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.postgres import Server
from tests.doubles.servers import free_port

__all__ = ["pgbouncer"]

# Of Debian, which puts it where only root looks.
_PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

# Fewer connections to the server than there are clients, so that no client has one for itself.
_SETTINGS = """\
[databases]
postgres = host={host} port={port} dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = trust
auth_file = users
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
"""


@contextlib.contextmanager
def pgbouncer(server: Server, user: str) -> Iterator[str]:
    """Run it until the end of the block, and yield a DSN through it for *user*; skip the test where there is none."""
    if _PROGRAM is None:
        pytest.skip("the Debian package pgbouncer is missing")
    directory = Path(tempfile.mkdtemp(prefix="fapilog-pgb-"))
    # It refuses to run as root, as PostgreSQL does.
    runs_as = "nobody" if os.geteuid() == 0 else None
    try:
        listen, host = free_port(), server.dsn().split()[0].removeprefix("host=")
        (directory / "ini").write_text(_SETTINGS.format(host=host, port=server.port, listen=listen))
        (directory / "users").write_text(f'"{user}" ""\n')
        directory.chmod(0o755)
        with subprocess.Popen(
            [_PROGRAM, "ini"], cwd=directory, user=runs_as, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                _wait_for(listen, process)
                yield server.dsn(user=user, port=listen)
            finally:
                process.kill()
    finally:
        shutil.rmtree(directory)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None, "PgBouncer ended by itself"
        assert time.monotonic() < end, "PgBouncer does not start"
        time.sleep(0.02)
