"""A target that says nothing keeps neither a thread nor the process."""

import subprocess
import sys
import threading
from contextvars import ContextVar
from pathlib import Path

import anyio
import pytest

from fapilog.providers._threads import in_daemon_thread

pytestmark = pytest.mark.real_time

PROGRAM = Path(__file__).parents[1] / "programs" / "silent_target.py"

where: ContextVar[str] = ContextVar("where", default="nowhere")


@pytest.mark.slow
@pytest.mark.parametrize(("target", "backend"), [("email", "trio"), ("apprise", "asyncio")])
def test_a_silent_target_does_not_keep_the_process(tmp_path: Path, target: str, backend: str) -> None:
    """A process ends soon after the stop of its trail, while its target would have ten minutes."""
    if target == "apprise":
        pytest.importorskip("apprise")
    command = [sys.executable, str(PROGRAM), str(tmp_path), backend, target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "stopped\n"
            assert process.wait(60) == 0
        finally:
            process.kill()


async def test_a_result_comes_back() -> None:
    """The call runs in another thread and in the caller's context, and its result or its exception comes back."""
    where.set("here")
    here = threading.current_thread()
    assert await in_daemon_thread("test", lambda: (where.get(), threading.current_thread() is here)) == ("here", False)
    with pytest.raises(ZeroDivisionError):
        await in_daemon_thread("test", lambda: 1 // 0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_the_end_of_the_process_passes(error: type[BaseException]) -> None:
    """A call that ends the process ends it in the task that waits for it."""

    def leave() -> None:
        raise error

    with pytest.raises(error):
        await in_daemon_thread("test", leave)


async def test_a_cancelled_call_is_left_behind() -> None:
    """A task that is cancelled does not wait for its thread, which may end later without harm."""
    gate, ended = threading.Event(), threading.Event()

    def wait() -> None:
        gate.wait(60)
        ended.set()

    with anyio.move_on_after(0.05) as limit:
        await in_daemon_thread("test", wait)
    assert limit.cancelled_caught
    gate.set()
    assert await in_daemon_thread("test", lambda: ended.wait(60))
