"""arq's jobs, run by arq's own worker from a real Redis."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditOutcome, AuditTrail
from fapilog.context import audit_context
from fapilog.record.parties import Actor
from fapilog.testing import RecordingDispatcher
from tests.doubles.failing_storage import FailingStorage
from tests.doubles.redis import redis

pytest.importorskip("arq")

from arq import ArqRedis, Retry, create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker

from fapilog.integrations.arq import AuditMiddleware, carried

# arq runs on asyncio, and waits with timeouts of its own.
pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.real_time,
    pytest.mark.slow,
    # By arq's own `Worker.close`.
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Return the URL of a Redis."""
    with redis() as url:
        yield url


@pytest.fixture
async def queue(server: str) -> AsyncIterator[ArqRedis]:
    """Return an empty queue."""
    async with await create_pool(RedisSettings.from_dsn(server)) as pool:
        await pool.flushall()
        yield pool


async def run(
    queue: ArqRedis,
    middleware: AuditMiddleware,
    job: Any,
    *args: object,
    time_limit: float = 60.0,
    **kwargs: Any,
) -> None:
    """Have a worker of arq run one job until it is done, with its hooks at the start and the end."""
    function = func(middleware.job(job), timeout=time_limit)
    await queue.enqueue_job(function.name, *args, _job_id="id of the job", **kwargs)
    worker = Worker(
        [function],
        redis_pool=queue,
        on_startup=middleware.on_startup,
        on_shutdown=middleware.on_shutdown,
        burst=True,
        poll_delay=0.01,
        handle_signals=False,
    )
    await worker.main()
    await worker.close()


@pytest.fixture
def dispatcher() -> RecordingDispatcher:
    return RecordingDispatcher()


@pytest.fixture
def trail(tmp_path: Path, dispatcher: RecordingDispatcher) -> AuditTrail:
    return AuditTrail(storage_path=tmp_path, durability="write", alert_dispatcher=dispatcher)


async def stored(trail: AuditTrail) -> list[AuditEvent]:
    """Return the events, the oldest first."""
    return (await trail.get_events(limit=1000))[::-1]


async def test_a_job_is_recorded_for_its_user(
    queue: ArqRedis, trail: AuditTrail, dispatcher: RecordingDispatcher
) -> None:
    """The events of a job have its name, its id and the user who enqueued it, between the worker's start and stop."""

    async def export(ctx: dict[Any, Any], number: int, *, to: str) -> None:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, f"{number} {to}")

    with audit_context(user_id="alice", request_id="r", tenant="not carried"):
        values = carried()
    await run(queue, AuditMiddleware(trail), export, 42, to="disk", **values)
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


@pytest.mark.parametrize("job", [len, "export", None, functools.partial(asyncio.sleep, 0)])
async def test_a_job_must_be_asynchronous(trail: AuditTrail, job: Any) -> None:
    """Another function is refused when the worker's settings are read, and not with the first job."""
    with pytest.raises(TypeError, match=r"^coroutine: expected an asynchronous function; got "):
        AuditMiddleware(trail).job(job)


async def test_without_a_context_nothing_is_carried(queue: ArqRedis, trail: AuditTrail) -> None:
    """A job that is enqueued by nobody gets no argument, and its events have no user."""

    async def export(ctx: dict[Any, Any]) -> None:
        await trail.log_event(AuditEventType.DATA_EXPORT, "m")

    assert carried() == {}
    await run(queue, AuditMiddleware(trail), export)
    _, event, _ = await stored(trail)
    assert (event.message, event.user_id, event.actor) == ("m", None, None)


async def test_each_try_that_fails_is_recorded(queue: ArqRedis, trail: AuditTrail) -> None:
    """A job that raises is an event without its arguments; one that asks to be retried is none."""

    async def fails(ctx: dict[Any, Any], _: str) -> None:
        if ctx["job_try"] == 1:
            raise Retry
        raise LookupError("no such door")

    await run(queue, AuditMiddleware(trail), fails, "4711")
    _, event, _ = await stored(trail)
    assert event.error is not None
    assert (event.error.type, event.outcome, event.operation) == ("LookupError", AuditOutcome.FAILURE, "task")
    assert event.metadata == {"attempt": 2}


async def test_a_job_that_is_wrapped_twice_fails_once(queue: ArqRedis, trail: AuditTrail) -> None:
    """A failure is recorded once, also where a job has the decorator and is wrapped in the settings too."""
    audit = AuditMiddleware(trail)

    @audit.job
    async def fails(ctx: dict[Any, Any]) -> None:
        raise LookupError("no such door")

    await run(queue, audit, fails)
    assert len(await stored(trail)) == 3


async def test_a_job_whose_time_is_over_is_recorded(queue: ArqRedis, trail: AuditTrail) -> None:
    """A job that arq cancels is an event, and is cancelled."""
    ended: list[str] = []

    async def hangs(ctx: dict[Any, Any]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    await run(queue, AuditMiddleware(trail), hangs, time_limit=0.2)
    _, event, _ = await stored(trail)
    assert event.error is not None
    assert event.error.type == "asyncio.exceptions.CancelledError"
    assert ended == ["cancelled"]


async def test_a_trail_that_fails_fails_no_job(
    queue: ArqRedis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A job ends as it would without a trail, and the log says what was not recorded."""

    async def fails(ctx: dict[Any, Any]) -> None:
        raise LookupError("no such door")

    with caplog.at_level(logging.ERROR):
        await run(queue, AuditMiddleware(AuditTrail(storage=FailingStorage(refuses=lambda _: True))), fails)
    assert "an event about a job was not recorded: AuditStorageError" in caplog.text
    assert "failed, LookupError: no such door" in caplog.text
