"""What fails while an event of the application is recorded: what the application gets of it."""

import asyncio

import anyio
import pytest

from fapilog.integrations._failures import logged
from tests.doubles.alarms import alarming


@pytest.mark.parametrize("error", [LookupError("s3cret"), asyncio.CancelledError("s3cret")])
def test_a_failure_is_logged_by_its_type(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is raised, it is logged without its text, and nothing is raised."""

    def fail() -> None:
        raise error

    with logged("a change of a %s is not recorded", "patient"):
        fail()
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("a change of a patient is not recorded: ")
    assert "s3cret" not in line


@pytest.mark.parametrize("kind", [LookupError, BaseException])
def test_a_time_limit_is_raised(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """The exception of a signal handler passes, whatever its class."""
    with alarming(kind) as expire, pytest.raises(kind), logged("this is not recorded"):
        expire()
    assert not caplog.records


async def test_a_cancellation_passes(caplog: pytest.LogCaptureFixture) -> None:
    """The cancellation of the task that records ends it."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        with logged("this is not recorded"):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not caplog.records
