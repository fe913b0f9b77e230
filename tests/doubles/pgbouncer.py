"""PgBouncer before a server, in transaction mode."""

import contextlib
import os
import pwd
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

# Where Debian has it.
_PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


@contextlib.contextmanager
def pgbouncer(server: Server) -> Iterator[int]:
    """Run it until the end of the block, and yield its port; skip the test where there is none."""
    if _PROGRAM is None:
        pytest.skip("PgBouncer is not installed")
    directory = Path(tempfile.mkdtemp(prefix="fapilog-pgbouncer-"))
    port = free_port()
    (directory / "users.txt").write_text('"service" ""\n"postgres" ""\n')
    (directory / "pgbouncer.ini").write_text(
        f"""\
[databases]
* = host=127.0.0.1 port={server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = users.txt
pool_mode = transaction
"""
    )
    # It refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        owner = pwd.getpwnam(user)
        for path in (directory, *directory.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    process = subprocess.Popen([_PROGRAM, "-q", "pgbouncer.ini"], cwd=directory, user=user, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, "PgBouncer ended by itself"
            assert time.monotonic() < end, "PgBouncer does not start"
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(directory)
