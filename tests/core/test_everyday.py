"""The methods for the everyday events, and the decorator that records how something ends."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditOutcome,
    AuditStorageError,
    AuditTrail,
    CompliancePolicy,
    MemoryStorage,
    Target,
)
from fapilog.core import audited
from fapilog.testing import RecordingDispatcher
from tests.doubles.failing_storage import FailingStorage


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    return AuditTrail(storage_path=tmp_path)


async def test_signing_in(tmp_path: Path) -> None:
    """A success is recorded with its outcome; a failure is a security event, and alerts."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)
    await trail.log_authentication(success=True, user_id="alice", method="oidc")
    await trail.log_authentication(success=False, user_id="bob", reason="wrong password")
    failure, success = await trail.get_events()
    assert (success.event_type, success.log_level, success.outcome, success.operation) == (
        AuditEventType.AUTHENTICATION_SUCCEEDED,
        AuditLogLevel.INFO,
        AuditOutcome.SUCCESS,
        "oidc",
    )
    assert (failure.event_type, failure.log_level, failure.outcome, failure.reason, failure.operation) == (
        AuditEventType.AUTHENTICATION_FAILED,
        AuditLogLevel.SECURITY,
        AuditOutcome.FAILURE,
        "wrong password",
        None,
    )
    assert [alert.event for alert in dispatcher.alerts] == [failure]
    with pytest.raises(TypeError, match=r"^success: expected a bool"):
        await trail.log_authentication(success="no")  # type: ignore[arg-type]


async def test_a_change(trail: AuditTrail) -> None:
    """A change has its target and, of each field, the old value and the new one."""
    await trail.log_change("user/7", {"role": ("user", "admin"), "mail": (None, "a@b")}, user_id="root")
    [event] = await trail.get_events(target="user/7")
    assert event.changes == {"role": ["user", "admin"], "mail": [None, "a@b"]}
    assert event.message == "Changed user/7: role, mail"
    assert (event.outcome, event.event_type) == (AuditOutcome.SUCCESS, AuditEventType.DATA_MODIFICATION)
    await trail.log_change(Target(type="role", id="x"), {str(n): (n, n) for n in range(50)}, log_level="warning")
    [many] = await trail.get_events(limit=1)
    assert (many.message.endswith("14, 15, …"), len(many.changes)) == (True, 50)
    await trail.log_change("a", "no mapping")  # type: ignore[arg-type]
    [odd] = await trail.get_events(limit=1)
    assert (odd.changes, odd.message) == ({"changes": "no mapping"}, "Changed a")
    await trail.log_change("a", {"role": "admin"})  # type: ignore[dict-item]
    [alone] = await trail.get_events(limit=1)
    assert (alone.changes, alone.message) == ({"role": "admin"}, "Changed a: role")


async def test_an_action_of_an_administrator(trail: AuditTrail) -> None:
    """What an administrator did has its action and target."""
    await trail.log_admin_action("restart worker", target="worker/3", actor={"id": "root", "on_behalf_of": "ops"})
    [event] = await trail.get_events(actor="ops")
    assert (event.event_type, event.operation, event.message, str(event.target), event.user_id) == (
        AuditEventType.ADMIN_ACTION,
        "restart worker",
        "Admin action: restart worker",
        "worker/3",
        "root",
    )


@pytest.mark.may_block
async def test_audited_blocks(trail: AuditTrail) -> None:
    """A block, asynchronous or not, is recorded with its outcome, duration and exception when it ends."""
    async with trail.audited("export", target="report/7", user_id="alice") as audit:
        audit.add(rows=3)
    with pytest.raises(ZeroDivisionError), trail.audited("read"):
        _ = 1 // 0
    audit = trail.audited("delete", target="cache")
    audit.add(event_type="cache.clear", message="no", reason="not yours")
    with pytest.raises(PermissionError):
        async with audit:
            raise PermissionError("p")
    denied, failed, succeeded = await trail.get_events()
    assert (succeeded.event_type, succeeded.outcome, str(succeeded.target), succeeded.message, succeeded.user_id) == (
        AuditEventType.DATA_EXPORT,
        AuditOutcome.SUCCESS,
        "report/7",
        "export succeeded",
        "alice",
    )
    assert succeeded.metadata["rows"] == 3
    assert succeeded.metadata["duration_seconds"] >= 0
    assert failed.error is not None
    assert (failed.outcome, failed.log_level, failed.error.type) == (
        AuditOutcome.FAILURE,
        AuditLogLevel.ERROR,
        "ZeroDivisionError",
    )
    assert (denied.outcome, denied.event_type.value, denied.message, denied.reason) == (
        AuditOutcome.DENIED,
        "cache.clear",
        "no",
        "not yours",
    )


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"log_level": "eror"}, ValueError),
        ({"event_type": "exprot"}, ValueError),
        ({"outcome": "succes"}, ValueError),
        ({"contains_pii": "false"}, TypeError),
        ({"occurred": "yesterday"}, TypeError),
        ({"userid": "alice"}, TypeError),
    ],
)
async def test_what_an_audited_block_refuses(fields: dict[str, Any], error: type[Exception]) -> None:
    """A mistake in the fields is raised before the block runs; if made inside, it is the failure that is recorded."""
    trail = AuditTrail(CompliancePolicy(strict=True), storage=MemoryStorage())
    with pytest.raises(error):
        trail.audited("export", **fields)
    with pytest.raises(error):
        async with trail.audited("export") as audit:
            audit.add(**fields)
    [event] = await trail.get_events()
    assert event.outcome is AuditOutcome.FAILURE
    assert event.error is not None
    assert event.error.type == error.__name__


@pytest.mark.may_block
async def test_an_audited_block_is_entered_once(trail: AuditTrail) -> None:
    """What one block adds is in no event of another: entered again, it is refused, and nothing is recorded."""
    audit = trail.audited("export")
    async with audit:
        audit.add(user_id="alice")
        with pytest.raises(RuntimeError, match="entered before"), audit:
            raise AssertionError
    with pytest.raises(RuntimeError, match="entered before"):
        async with audit:
            raise AssertionError
    assert [event.user_id for event in await trail.get_events()] == ["alice"]


@pytest.mark.may_block
def test_the_parentheses_of_audited_are_not_forgotten(trail: AuditTrail) -> None:
    """A decorator without an operation is an error where it stands, and not with the first call."""
    with pytest.raises(TypeError, match=r"expected the name of the operation, as in @trail.audited"):

        @trail.audited  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        def compute() -> None: ...


async def test_audited_functions(trail: AuditTrail) -> None:
    """Each call of a function, asynchronous or not, is an event; calls may overlap."""

    @trail.audited("compute", component="c")
    async def double(number: int) -> int:
        await anyio.lowlevel.checkpoint()
        return number * 2

    @trail.audited("write")
    def fail() -> None:
        raise KeyError("k")

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(double, number)
    assert await double(4) == 8
    assert double.__name__ == "double"
    with pytest.raises(KeyError):
        fail()
    events = await trail.get_events()
    assert [event.operation for event in events] == ["write", *["compute"] * 6]
    assert [event.outcome for event in events] == [AuditOutcome.FAILURE, *[AuditOutcome.SUCCESS] * 6]


@pytest.mark.may_block
def test_a_generator_is_refused(trail: AuditTrail) -> None:
    """The call of a generator runs nothing: its success would be recorded before it began, and no failure ever."""

    def numbers() -> Iterator[int]:
        yield 1

    async def letters() -> AsyncIterator[str]:
        yield "a"

    for generator in (numbers, letters):
        with pytest.raises(TypeError, match=r"expected a function; got the generator .*: use `with` inside of it"):
            trail.audited("export")(generator)


async def test_an_object_that_is_called_like_a_coroutine(trail: AuditTrail) -> None:
    """Its call is over when it was awaited, and not before."""

    class Export:
        async def __call__(self) -> None:
            await anyio.lowlevel.checkpoint()
            raise KeyError("k")

    with pytest.raises(KeyError):
        await trail.audited("export")(Export())()
    assert [event.outcome for event in await trail.get_events()] == [AuditOutcome.FAILURE]


async def test_a_cancelled_block_is_recorded(trail: AuditTrail) -> None:
    """A block that is cancelled has failed, and the cancellation goes on."""
    with anyio.CancelScope() as scope:
        async with trail.audited("wait"):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    [event] = await trail.get_events()
    assert (event.outcome, event.error is not None) == (AuditOutcome.FAILURE, True)


@pytest.mark.may_block
async def test_the_error_of_a_block_goes_before_that_of_the_trail(tmp_path: Path) -> None:
    """If the event can't be stored, the exception of the block goes on; after a success, that of the storage."""
    (tmp_path / "file").write_text("")
    trail = AuditTrail(storage_path=tmp_path / "file")
    with pytest.raises(ZeroDivisionError):
        async with trail.audited("read"):
            _ = 1 // 0
    with pytest.raises(ZeroDivisionError), trail.audited("read"):
        _ = 1 // 0
    with pytest.raises(AuditStorageError):
        async with trail.audited("read"):
            pass
    with pytest.raises(AuditStorageError), trail.audited("read"):
        pass


class Hanging(MemoryStorage):
    """A storage that never answers."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        """Wait for ever."""
        await anyio.sleep_forever()


@pytest.mark.may_block
async def test_an_end_by_an_exception_that_is_not_recorded_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception goes on, and the log says that there is no event about it, with nothing of its fields."""
    monkeypatch.setattr(audited, "_SECONDS_TO_RECORD", 0.01)
    failing = FailingStorage(refuses=lambda _: True)
    with pytest.raises(ZeroDivisionError), AuditTrail(storage=failing).audited("read", reason="JOHN-Q-PATIENT"):
        _ = 1 // 0
    with pytest.raises(ZeroDivisionError):
        async with AuditTrail(storage=failing).audited("read", reason="JOHN-Q-PATIENT"):
            _ = 1 // 0
    with pytest.raises(ZeroDivisionError):
        async with AuditTrail(storage=Hanging()).audited("read"):
            _ = 1 // 0
    words = "the failure of a block under `audited` is not recorded: "
    whys = ["disk full", "disk full", "storing it took more than 0.01 s"]
    logged = [record.getMessage() for record in caplog.records]
    assert [line for line in logged if line.startswith(words)] == [words + why for why in whys]
    assert "JOHN" not in caplog.text


async def test_a_type_that_is_added_is_checked_as_any_is() -> None:
    """What is no type is refused in words, whatever it does when it is asked whether it is true."""

    class Undecided:
        def __bool__(self) -> bool:
            raise RuntimeError("neither")

    audit = AuditTrail(storage=MemoryStorage()).audited("read")
    with pytest.raises(ValueError, match=r"^event_type: expected one of"):
        audit.add(event_type=Undecided())
