"""The fixtures that pytest finds by itself, with each of the plugins that run asynchronous tests."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import fapilog
from fapilog import AuditEventType
from fapilog.testing import RecordedTrail, _trail

CONFTEST = """
import sys

# Plugins come first.
assert "pytest_fapilog" in sys.modules
assert not [name for name in sys.modules if name.partition(".")[0] == "fapilog"]
"""

TESTS = """
import anyio
import anyio.to_thread
import pytest

from fapilog import AuditEventType, AuditLogLevel, ComplianceLevel, CompliancePolicy
from fapilog.testing import RecordedTrail


def refuse_login(trail):
    trail.sync.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password", user_id="mallory")


def test_sync(audit_trail: RecordedTrail):
    refuse_login(audit_trail)
    [event] = audit_trail.events
    [alert] = audit_trail.alerts
    assert (alert.event, alert.severity, event.user_id) == (event, "security", "mallory")
    assert [each.event_id for each in audit_trail.sync.events(user_id="mallory")] == [event.event_id]


async def test_async(audit_trail: RecordedTrail):
    assert not audit_trail.events
    assert not audit_trail.alerts
    await audit_trail.log_event(AuditEventType.DATA_ACCESS, "read")
    await audit_trail.log_event(AuditEventType.ERROR_OCCURRED, "broken", log_level=AuditLogLevel.CRITICAL)
    assert [event.message for event in audit_trail.events] == ["read", "broken"]
    assert [event.message async for event in audit_trail.events(before=2)] == ["read"]
    [alert] = audit_trail.alerts
    assert alert.event == audit_trail.events[1]


async def test_started(audit_trail: RecordedTrail):
    async with audit_trail:
        await anyio.to_thread.run_sync(refuse_login, audit_trail)
        await audit_trail.dispatcher.wait_for(1)
    assert len(audit_trail.alerts) == len(audit_trail.events) == 1


class TestWithAPolicy:
    @pytest.fixture
    def audit_policy(self):
        return CompliancePolicy(level=ComplianceLevel.HIPAA, alert_channel="#privacy")

    async def test_async(self, audit_trail):
        await audit_trail.log_data_access("patient/42", "read", contains_phi=True)
        assert [alert.channel for alert in audit_trail.alerts] == ["#privacy"]
"""

# Each with how many tests are run: the plugin of anyio runs asynchronous ones on both backends.
PLUGINS = {
    "anyio": (7, ["anyio_mode=auto"], ["asyncio", "trio"]),
    "asyncio": (4, ["asyncio_mode=auto", "asyncio_default_fixture_loop_scope=function"], ["anyio", "trio"]),
    "trio": (4, ["trio_mode=true"], ["anyio", "asyncio"]),
}
# Other plugins of this environment, which take longer to load than these tests to run.
OTHERS = ["faker", "xdist", "hypothesispytest", "cacheprovider"]


@pytest.mark.slow
@pytest.mark.parametrize("plugin", PLUGINS)
def test_the_fixture_serves_every_plugin(tmp_path: Path, plugin: str) -> None:
    """Synchronous tests and those of each plugin get a fresh trail, and before that nothing of fapilog is loaded."""
    if plugin != "anyio":
        pytest.importorskip(f"pytest_{plugin}")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    count, settings, without = PLUGINS[plugin]
    options = [*(f"-o{each}" for each in settings), *(f"-pno:{each}" for each in [*without, *OTHERS])]
    env = {"PYTHONPATH": str(Path(fapilog.__file__).parents[1]), "PYTHONDONTWRITEBYTECODE": "1"}
    # By its name, since it need not be installed; the entry point has the same one.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "pytest_fapilog", *options]
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{count} passed" in ended.stdout


def test_a_loop_that_stands_still_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trail that an asynchronous fixture has started can be asked, and closed, while its loop does not run."""
    monkeypatch.setattr(_trail, "_PATIENCE", 0.01)
    trail = RecordedTrail()
    with asyncio.Runner() as runner:
        runner.run(trail.start())
        trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        assert not trail.alerts
        trail.close()
        # Its turn comes when the loop runs again.
        runner.run(trail.stop())
        assert len(trail.alerts) == 1
    trail.close()
    assert not trail.is_started


async def test_in_a_loop_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread of an event loop neither the alerts nor the end are waited for."""
    async with RecordedTrail() as trail:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        assert not trail.alerts
        trail.close()
        assert trail.is_started
        assert len(await trail.dispatcher.wait_for(1)) == 1
    assert [event.message for event in trail.events] == ["m"]


def test_a_typo_is_an_error_in_the_tests(audit_trail: RecordedTrail) -> None:
    """The trail of the fixture refuses a mistyped keyword, which the trail of a service stores."""
    with pytest.raises(TypeError, match="did you mean client_ip"):
        audit_trail.sync.log_event(AuditEventType.DATA_ACCESS, "m", clientip="192.0.2.7")  # type: ignore[call-arg]
    assert len(audit_trail.events) == 0
