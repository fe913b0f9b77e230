"""dramatiq's worker, with its broker in memory."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

import fapilog
from fapilog import AuditEvent, AuditEventType, AuditOutcome, AuditTrail
from fapilog.context import audit_context, current_audit_context
from fapilog.record.parties import Actor
from fapilog.testing import RecordingDispatcher
from tests.doubles.failing_storage import FailingStorage
from tests.doubles.interrupting import interruptions

pytest.importorskip("dramatiq")

import dramatiq
from dramatiq import MessageProxy
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import Callbacks, Pipelines, Retries, SkipMessage, TimeLimitExceeded

from fapilog.integrations.dramatiq import AuditMiddleware


@pytest.fixture
def dispatcher() -> RecordingDispatcher:
    return RecordingDispatcher()


@pytest.fixture
def trail(tmp_path: Path, dispatcher: RecordingDispatcher) -> AuditTrail:
    return AuditTrail(storage_path=tmp_path, durability="write", alert_dispatcher=dispatcher)


@pytest.fixture
def broker(trail: AuditTrail) -> Iterator[Any]:
    broker = StubBroker(middleware=[Retries(min_backoff=1, max_backoff=2)])
    broker.emit_after("process_boot")
    broker.add_middleware(AuditMiddleware(trail))
    yield broker
    broker.close()


def work(broker: Any) -> None:
    """Have a worker process everything that waits."""
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=4)
    worker.start()
    for queue in list(broker.queues):
        broker.join(queue, fail_fast=False, timeout=60_000)
    worker.join()
    worker.stop()


def stored(trail: AuditTrail) -> list[AuditEvent]:
    """Return the events, the oldest first."""
    return trail.sync.get_events(limit=1000)[::-1]


def test_every_message_is_recorded_for_its_user(
    trail: AuditTrail, broker: Any, dispatcher: RecordingDispatcher
) -> None:
    """Each event has the actor, the message and the user who sent it, and each alert is sent once."""

    @dramatiq.actor(broker=broker)
    def inner(number: int) -> None:
        trail.sync.log_security_event(AuditEventType.SECURITY_VIOLATION, f"{number}")

    @dramatiq.actor(broker=broker)
    def outer(number: int) -> None:
        trail.sync.log_event(AuditEventType.DATA_EXPORT, f"{number}")
        inner.send(number)

    sent = {}
    for number in range(20):
        with audit_context(user_id=f"user {number}", request_id=f"request {number}", tenant="not carried"):
            sent[str(number)] = outer.send(number).message_id
    work(broker)
    first, *events, last = stored(trail)
    assert (first.event_type, last.event_type) == (AuditEventType.SYSTEM_STARTUP, AuditEventType.SYSTEM_SHUTDOWN)
    assert len(events) == 40
    for event in events:
        assert event.component in {"inner", "outer"}
        assert event.user_id == f"user {event.message}"
        assert event.actor == Actor(id=event.component, type="service", on_behalf_of=event.user_id)
        assert "tenant" not in event.metadata
        if event.component == "outer":
            assert event.request_id == sent[event.message]
            assert event.metadata["enqueued_in"] == f"request {event.message}"
        else:
            assert event.metadata["enqueued_in"] == sent[event.message]
    alerted = [alert.event.event_id for alert in dispatcher.alerts]
    assert sorted(alerted) == sorted(event.event_id for event in events if event.component == "inner")


def test_what_follows_a_message_is_for_the_same_user(trail: AuditTrail, broker: Any) -> None:
    """The next actor of a pipeline, and the callback of one that has failed, know for whom they run."""
    broker.add_middleware(Pipelines(), before=AuditMiddleware)
    broker.add_middleware(Callbacks(), before=AuditMiddleware)

    @dramatiq.actor(broker=broker, max_retries=0)
    def step(*of_the_one_before: object) -> str:
        if of_the_one_before:
            raise LookupError
        return "done"

    @dramatiq.actor(broker=broker)
    def clean_up(*_: object) -> None:
        trail.sync.log_event(AuditEventType.DATA_DELETION, "cleaned up")

    with audit_context(user_id="alice"):
        fails = step.message_with_options(args=(), on_failure=clean_up)
        steps: Any = dramatiq.pipeline([step.message(), fails], broker=broker)
        steps.run()
    with audit_context(user_id="bob"):
        clean_up.send()
    work(broker)
    by_user = [event.user_id for event in stored(trail) if event.component in {"step", "clean_up"}]
    assert sorted(map(str, by_user)) == ["alice", "alice", "bob"]


class _Interrupted(AuditTrail):
    """A trail in whose thread the time limit of the message passes while it records."""

    @property
    def sync(self) -> Any:
        raise TimeLimitExceeded


@pytest.mark.parametrize("options", [{}, {"retries": "many"}])
def test_no_message_has_the_context_of_the_one_before(tmp_path: Path, broker: Any, options: dict[str, Any]) -> None:
    """The context of a message ends, also if recording its failure is interrupted, or its number is none."""
    middleware = AuditMiddleware(_Interrupted(storage_path=tmp_path))
    message: Any = MessageProxy(dramatiq.Message("q", "a", (), {}, options | {"fapilog": {"user_id": "alice"}}))
    middleware.before_process_message(broker, message)
    assert current_audit_context()["user_id"] == "alice"
    with suppress(TimeLimitExceeded):
        middleware.after_process_message(broker, message, exception=LookupError())
    assert current_audit_context() == {}


def test_a_failure_is_recorded_whatever_its_message_says(trail: AuditTrail, broker: Any) -> None:
    """Another service may have written the number of retries, and it may be none."""
    message: Any = MessageProxy(dramatiq.Message("q", "a", (), {}, {"retries": "many"}))
    AuditMiddleware(trail).after_process_message(broker, message, exception=LookupError("no such door"))
    [event] = stored(trail)
    assert event.metadata == {"attempt": "many"}


def test_no_message_has_the_user_of_one_whose_time_is_over(trail: AuditTrail, broker: Any) -> None:
    """Wherever the time limit of a message interrupts the middleware, the next message has no user."""
    middleware = AuditMiddleware(trail)
    first, second = (
        cast("Any", MessageProxy(dramatiq.Message("q", "a", (), {}, options)))
        for options in ({"fapilog": {"user_id": "alice"}}, {})
    )
    number = 0
    for number, interruption in interruptions(Path(fapilog.__file__).parent, TimeLimitExceeded):
        # dramatiq logs an exception of `before_process_message`, and goes on.
        with interruption:
            with suppress(TimeLimitExceeded):
                middleware.before_process_message(broker, first)
            with suppress(TimeLimitExceeded):
                middleware.after_process_message(broker, first)
        middleware.before_process_message(broker, second)
        assert current_audit_context() == {"component": "a", "request_id": second.message_id}, number
        middleware.after_process_message(broker, second)
        assert current_audit_context() == {}
    assert number > 20


def test_each_attempt_that_fails_is_recorded(trail: AuditTrail, broker: Any) -> None:
    """An actor that fails is recorded at each attempt, for the same user, and without its arguments."""

    @dramatiq.actor(broker=broker, max_retries=1)
    def fails(_: str) -> None:
        raise LookupError("no such door")

    with audit_context(user_id="alice", request_id="r"):
        fails.send("4711")
    work(broker)
    _, first, second, _ = stored(trail)
    for number, event in enumerate((first, second), 1):
        assert event.error is not None
        assert (event.error.type, event.outcome, event.operation) == ("LookupError", AuditOutcome.FAILURE, "task")
        assert (event.user_id, event.component) == ("alice", "fails")
        assert event.metadata == {"attempt": number, "enqueued_in": "r"}


@pytest.mark.parametrize("error", [Retry("later", delay=1), RateLimitExceeded("later")])  # type: ignore[no-untyped-call]
def test_a_retry_that_is_asked_for_is_no_failure(trail: AuditTrail, broker: Any, error: Exception) -> None:
    """An actor that asks for a retry, or waits for its turn, has not failed, and a message without a user has none."""
    attempts = []

    @dramatiq.actor(broker=broker, max_retries=1)
    def again() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise error
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "done")

    again.send()
    work(broker)
    _, event, _ = stored(trail)
    assert (event.message, event.user_id, event.actor) == ("done", None, None)


class Skips(dramatiq.Middleware):
    """Skips every message."""

    def before_process_message(self, broker: Any, message: Any) -> None:
        raise SkipMessage


@pytest.mark.parametrize("order", ["before", "after"])
def test_a_message_that_is_skipped_leaves_no_context(trail: AuditTrail, broker: Any, order: str) -> None:
    """The context of a message that another middleware skips is left, whether it was entered or not."""
    broker.add_middleware(Skips(), **{order: AuditMiddleware})
    contexts: list[object] = []

    class Looks(dramatiq.Middleware):
        def before_worker_thread_shutdown(self, broker: Any, thread: Any) -> None:
            contexts.append(trail.sync.log_event(AuditEventType.DATA_ACCESS, "of the thread"))

    broker.add_middleware(Looks())

    @dramatiq.actor(broker=broker)
    def skipped() -> None:
        raise AssertionError

    skipped.send()
    work(broker)
    found = [event.component for event in stored(trail) if event.message == "of the thread"]
    assert found == [None] * len(contexts)
    assert contexts


def test_a_trail_that_fails_fails_no_message(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Messages are processed as without a trail, and the log says what was not recorded."""
    broker = StubBroker(middleware=[])
    broker.add_middleware(AuditMiddleware(AuditTrail(storage=FailingStorage(refuses=lambda _: True))))
    done: list[int] = []

    @dramatiq.actor(broker=broker)
    def fine() -> None:
        done.append(1)

    fine.send()
    work(broker)
    assert done == [1]
    assert "an event about a task was not recorded: AuditStorageError" in caplog.text
