"""arq's jobs, run by arq's own worker from a queue that is no Redis."""

import asyncio
import logging
from pathlib import Path
from typing import Any, Self

import pytest

from fapilog import AuditEvent, AuditEventType, AuditOutcome, AuditStorageError, AuditTrail, FileStorage
from fapilog.context import audit_context
from fapilog.record.chain import Seal
from fapilog.record.parties import Actor
from fapilog.testing import RecordingDispatcher

pytest.importorskip("arq")

from arq import Retry, func
from arq.jobs import serialize_job
from arq.worker import Worker

from fapilog.integrations.arq import AuditMiddleware, carried

# arq runs on asyncio, and waits with timeouts of its own.
pytestmark = [pytest.mark.one_backend, pytest.mark.real_time]


class Queue:
    """As much of Redis as `Worker.run_job` asks for: the message of one job, and how often it was tried."""

    def __init__(self, function: str, *args: object, **kwargs: object) -> None:
        self.message = serialize_job(function, args, kwargs, None, 0)
        self.tries = 0

    def pipeline(self, *, transaction: bool) -> "Queue":
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __getattr__(self, _: str) -> Any:
        return lambda *args, **kwargs: None

    def incr(self, _: str) -> None:
        self.tries += 1

    async def execute(self) -> tuple[bytes, int, None]:
        return self.message, self.tries, None


async def run(
    middleware: AuditMiddleware, job: Any, *args: object, tries: int = 1, time_limit: float = 60.0, **kwargs: object
) -> None:
    """Have arq's worker run one job, with its hooks at the start and the end."""
    function = func(middleware.job(job), timeout=time_limit)
    queue: Any = Queue(function.name, *args, **kwargs)
    worker = Worker(
        [function],
        redis_pool=queue,
        on_startup=middleware.on_startup,
        on_shutdown=middleware.on_shutdown,
        handle_signals=False,
    )
    worker.ctx = {"redis": queue}
    await middleware.on_startup(worker.ctx)
    for _ in range(tries):
        await worker.run_job("id of the job", 0)
    await middleware.on_shutdown(worker.ctx)


@pytest.fixture
def dispatcher() -> RecordingDispatcher:
    return RecordingDispatcher()


@pytest.fixture
def trail(tmp_path: Path, dispatcher: RecordingDispatcher) -> AuditTrail:
    return AuditTrail(storage_path=tmp_path, durability="write", alert_dispatcher=dispatcher)


async def stored(trail: AuditTrail) -> list[AuditEvent]:
    """Return the events, the oldest first."""
    return (await trail.get_events(limit=1000))[::-1]


async def test_a_job_is_recorded_for_its_user(trail: AuditTrail, dispatcher: RecordingDispatcher) -> None:
    """The events of a job have its name, its id and the user who enqueued it, between the worker's start and stop."""

    async def export(ctx: dict[Any, Any], number: int, *, to: str) -> None:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, f"{number} {to}")

    with audit_context(user_id="alice", request_id="r", tenant="not carried"):
        values = carried()
    await run(AuditMiddleware(trail), export, 42, to="disk", **values)
    first, event, last = await stored(trail)
    assert (first.event_type, last.event_type) == (AuditEventType.SYSTEM_STARTUP, AuditEventType.SYSTEM_SHUTDOWN)
    assert event.message == "42 disk"
    assert event.component is not None
    assert event.component.endswith("export")
    assert (event.request_id, event.user_id) == ("id of the job", "alice")
    assert event.actor == Actor(id=event.component, type="service", on_behalf_of="alice")
    assert event.metadata == {"enqueued_in": "r"}
    assert [alert.event.event_id for alert in dispatcher.alerts] == [event.event_id]
    assert not trail.is_started


@pytest.mark.parametrize("job", [len, "export", None])
async def test_a_job_must_be_asynchronous(trail: AuditTrail, job: Any) -> None:
    """Another function is refused when the worker's settings are read, and not with the first job."""
    with pytest.raises(TypeError, match=r"^coroutine: expected an asynchronous function; got "):
        AuditMiddleware(trail).job(job)


async def test_without_a_context_nothing_is_carried(trail: AuditTrail) -> None:
    """A job that is enqueued by nobody gets no argument, and its events have no user."""

    async def export(ctx: dict[Any, Any]) -> None:
        await trail.log_event(AuditEventType.DATA_EXPORT, "m")

    assert carried() == {}
    await run(AuditMiddleware(trail), export)
    _, event, _ = await stored(trail)
    assert (event.message, event.user_id, event.actor) == ("m", None, None)


async def test_each_try_that_fails_is_recorded(trail: AuditTrail) -> None:
    """A job that raises is an event without its arguments; one that asks to be retried is none."""

    async def fails(ctx: dict[Any, Any], _: str) -> None:
        if ctx["job_try"] == 1:
            raise Retry
        raise LookupError("no such door")

    await run(AuditMiddleware(trail), fails, "4711", tries=2)
    _, event, _ = await stored(trail)
    assert event.error is not None
    assert (event.error.type, event.outcome, event.operation) == ("LookupError", AuditOutcome.FAILURE, "task")
    assert event.metadata == {"attempt": 2}


async def test_a_job_whose_time_is_over_is_recorded(trail: AuditTrail) -> None:
    """A job that arq cancels is an event, and is cancelled."""
    ended: list[str] = []

    async def hangs(ctx: dict[Any, Any]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    await run(AuditMiddleware(trail), hangs, time_limit=0.2)
    _, event, _ = await stored(trail)
    assert event.error is not None
    assert event.error.type == "asyncio.exceptions.CancelledError"
    assert ended == ["cancelled"]


class Broken(FileStorage):
    """Stores nothing."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        raise AuditStorageError("no room")


async def test_a_trail_that_fails_fails_no_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A job ends as it would without a trail, and the log says what was not recorded."""

    async def fails(ctx: dict[Any, Any]) -> None:
        raise LookupError("no such door")

    with caplog.at_level(logging.ERROR):
        await run(AuditMiddleware(AuditTrail(storage=Broken(tmp_path))), fails)
    assert "an event about a job was not recorded: AuditStorageError" in caplog.text
    assert "failed, LookupError: no such door" in caplog.text
