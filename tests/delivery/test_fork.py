"""What waits in a wrapper when the process forks is the parent's."""

import subprocess
import sys

import pytest

# A child goes on in the coroutine that forked, which no event loop runs there.
SCRIPT = """
import os, sys
import anyio
import anyio.lowlevel
from fapilog.delivery.digest import Digest
from fapilog.delivery.ratelimit import RateLimit
from fapilog.testing import RecordingDispatcher
from tests.doubles.dispatchers import event

inner = RecordingDispatcher()

def sends_at_once(dispatcher, number):
    sent = len(inner.alerts)
    call = dispatcher.send_alert(event(number), severity="security")
    for _ in range(10):
        try:
            call.send(None)
        except StopIteration:
            return len(inner.alerts) == sent + 1
    return False

async def main():
    limit = RateLimit(inner, rate=0.001, burst=1, max_wait=10_000.0)
    async with Digest(inner) as digest, anyio.create_task_group() as tasks:
        for number in (1, 2, 3):
            await digest.send_alert(event(number), severity="security")
        for number in (4, 5):
            tasks.start_soon(lambda number=number: limit.send_alert(event(number), severity="security"))
        while len(inner.alerts) < 2 or not limit._waiting:
            await anyio.lowlevel.checkpoint()
        assert len(inner.alerts) == 2
        child = os.fork()
        if not child:
            os._exit(0 if sends_at_once(digest, 6) and sends_at_once(digest, 7) and not limit._waiting else 1)
        assert os.waitpid(child, 0)[1] == 0
        tasks.cancel_scope.cancel()
    assert [alert.event.metadata.get("count") for alert in inner.alerts] == [None, None, 2]

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_forked_child_begins_anew(backend: str) -> None:
    """A child sends what it is given at once, waits for nobody's turn, and leaves what was counted to its parent."""
    subprocess.run([sys.executable, "-c", SCRIPT, backend], check=True, timeout=60)
