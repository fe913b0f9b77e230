"""Celery's workers, real ones, and tasks that are called eagerly."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fapilog
from fapilog import AuditEvent, AuditEventType, AuditOutcome, AuditTrail, ChainStatus
from fapilog.context import audit_context, current_audit_context
from fapilog.record.parties import Actor
from fapilog.testing import RecordingDispatcher
from tests.doubles.failing_storage import FailingStorage
from tests.doubles.interrupting import interruptions
from tests.doubles.servers import ROOT, running, wait_until

celery = pytest.importorskip("celery")

from celery.app.trace import build_tracer  # type: ignore[import-untyped]  # noqa: E402
from celery.exceptions import SoftTimeLimitExceeded  # type: ignore[import-untyped]  # noqa: E402

from fapilog.integrations.celery import instrument  # noqa: E402  imports celery

APP = "tests.integrations.apps.celery_app"


def stored(directory: Path) -> list[AuditEvent]:
    """Return the events, the oldest first."""
    return AuditTrail(storage_path=directory).sync.get_events(limit=1000)[::-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "stops"), [("prefork", True), pytest.param("threads", False, marks=pytest.mark.torture)]
)
def test_every_task_is_recorded_for_its_user(pool: str, tmp_path: Path, *, stops: bool) -> None:
    """In processes and threads, with SIGTERM in the middle, each event has its task, its user, and its alert once."""
    broker = tmp_path / "broker"
    broker.mkdir()
    env = {"BROKER": str(broker)}
    worker = ["celery", "-A", APP, "worker", "--pool", pool, "--concurrency", "4", "--loglevel", "ERROR"]
    calls = ["export:20", "fail:5", "again:2", "nested:5"]
    program = [sys.executable, "-m", APP, *calls]
    subprocess.run(
        program,
        check=True,
        timeout=60,
        env={**os.environ, "TRAIL": str(tmp_path / "unused"), **env},
        cwd=ROOT,
    )
    trail = tmp_path / "audit"
    # Of the tasks, and the start of a worker.
    expected = 20 + 5 + 2 + 2 * 5 + 1
    if stops:
        with running(worker, tmp_path, **env):
            wait_until(lambda: len(stored(trail)) > 10, tmp_path)
        first = stored(trail)
        assert first[-1].event_type is AuditEventType.SYSTEM_SHUTDOWN
        exports = [event for event in first if event.message.startswith("export")]
        # Nearly always in the middle; where this process did not get the processor for a while, all are done.
        assert (tmp_path / "alerts").read_text().count("\n") == len(exports) > 0
        expected += 2
    with running(worker, tmp_path, **env):
        wait_until(lambda: len(stored(trail)) >= expected, tmp_path)
    events = stored(trail)
    log = (tmp_path / "log").read_text()
    assert AuditTrail(storage_path=trail).sync.verify_chain_from_storage().status is ChainStatus.OK, log
    counts = Counter(event.component for event in events)
    ends = 4 if stops else 2
    assert counts == {"shop.export": 25, "shop.fail": 5, "shop.again": 2, "shop.nested": 5, "celery": ends}, log
    for event in events:
        if event.component == "celery":
            assert event.user_id is None
            continue
        kind, number = event.message.removeprefix("Error occurred: ").split()
        assert "tenant" not in event.metadata
        assert event.request_id is not None
        if event.request_id == f"{kind}-{number}":
            assert event.metadata["enqueued_in"] in {f"{kind} request {number}", event.request_id}
        else:
            # Called by the task "nested", for the same user.
            kind = "nested"
            assert event.metadata["enqueued_in"] == f"nested-{number}"
        own = event.message.startswith("nested")
        assert event.user_id == ("of the call itself" if own else f"{kind} user {number}")
        # A call that names a user of its own is not on behalf of the other.
        acting = Actor(id=event.component, type="service", on_behalf_of=f"{kind} user {number}")
        assert event.actor == (None if own else acting)
    alerts = sorted((tmp_path / "alerts").read_text().split())
    assert alerts == sorted(event.event_id for event in events if event.message.startswith("export")), log


@pytest.mark.slow
def test_a_task_over_its_hard_time_limit_is_one_failure(tmp_path: Path) -> None:
    """The worker's main process, which kills that of the task, records it once, and for the user if Celery says who."""
    broker = tmp_path / "broker"
    broker.mkdir()
    env = {"BROKER": str(broker)}
    caller = {**os.environ, "TRAIL": str(tmp_path / "unused"), **env}
    subprocess.run([sys.executable, "-m", APP, "hang:1"], check=True, timeout=60, env=caller, cwd=ROOT)
    command = ["celery", "-A", APP, "worker", "--concurrency", "1", "--loglevel", "ERROR"]
    with running(command, tmp_path, **env) as worker:
        wait_until(lambda: "exited with" in (tmp_path / "log").read_text(), tmp_path)
        # On a busy machine it may run no other task, and never end: a tenth of a second after SIGTERM billiard kills
        # its process by SIGKILL, which may have a lock of the pool's queues.
        worker.kill()
    [event] = [event for event in stored(tmp_path / "audit") if event.component == "shop.hang"]
    assert event.request_id == "hang-0"
    assert event.user_id == ("hang user 0" if celery.VERSION >= (5, 7) else None)
    assert event.error is not None
    assert event.error.type == "billiard.exceptions.TimeLimitExceeded"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Any:
    # A task of one app is a task of all, and those of other tests have the same names.
    monkeypatch.setattr(celery._state, "_on_app_finalizers", {*celery._state._on_app_finalizers})
    app = celery.Celery("tests", broker="memory://", set_as_current=False)
    app.conf.task_always_eager = True
    return app


@pytest.fixture
def instrumented(trail: AuditTrail) -> Iterator[Callable[[], None]]:
    undo = instrument(trail)
    yield undo
    undo()


@pytest.mark.usefixtures("instrumented")
def test_an_eager_task_has_the_context_of_its_call(trail: AuditTrail, app: Any) -> None:
    """A task that is called eagerly has its own name and id and the caller's user, and leaves no context behind."""

    @app.task(name="inner")  # type: ignore[untyped-decorator]
    def inner() -> None:
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "inner")

    @app.task(name="outer")  # type: ignore[untyped-decorator]
    def outer() -> None:
        inner.apply_async(task_id="2")
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "outer")

    with audit_context(user_id="alice", request_id="r", client_ip="192.0.2.7"):
        outer.apply_async(task_id="1")
        trail.sync.log_event(AuditEventType.DATA_ACCESS, "after")
    trail.sync.log_event(AuditEventType.DATA_ACCESS, "outside")
    found = [
        (event.message, event.component, event.request_id, event.user_id, event.metadata.get("enqueued_in"))
        for event in stored(trail.storage_path or Path())
    ]
    assert found == [
        ("inner", "inner", "2", "alice", "1"),
        ("outer", "outer", "1", "alice", "r"),
        ("after", None, "r", "alice", None),
        ("outside", None, None, None, None),
    ]


@pytest.mark.usefixtures("instrumented")
def test_no_task_has_the_user_of_one_whose_time_is_over(app: Any) -> None:
    """Wherever the soft time limit of a task interrupts this package, the next task has no user."""
    contexts: list[dict[str, Any]] = []

    @app.task(name="looks")  # type: ignore[untyped-decorator]
    def looks() -> None:
        contexts.append(current_audit_context())

    app.finalize()
    trace = build_tracer("looks", app.tasks["looks"], app=app)
    number = 0
    for number, interruption in interruptions(Path(fapilog.__file__).parent, SoftTimeLimitExceeded):
        with interruption:
            trace("1", (), {}, {"id": "1", "delivery_info": {}, "fapilog": {"user_id": "alice"}})
        trace("2", (), {}, {"id": "2", "delivery_info": {}})
        assert contexts[-1] == {"component": "looks", "request_id": "2"}, number
        assert current_audit_context() == {}
    assert number > 20


@pytest.mark.usefixtures("instrumented")
def test_a_failure_says_nothing_of_the_arguments(trail: AuditTrail, app: Any) -> None:
    """The event of a task that fails has the exception and the task, and no argument."""

    @app.task(name="fails")  # type: ignore[untyped-decorator]
    def fails(_: str) -> None:
        raise LookupError("no such door")

    fails.apply_async(["4711"], task_id="1")
    (event,) = stored(trail.storage_path or Path())
    assert (event.event_type, event.component, event.operation) == (AuditEventType.ERROR_OCCURRED, "fails", "task")
    assert event.request_id == "1"
    assert event.outcome is AuditOutcome.FAILURE
    assert event.error is not None
    assert event.error.type == "LookupError"
    assert "4711" not in str(event.metadata)


def test_a_trail_that_fails_fails_no_task(tmp_path: Path, app: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A task ends as it would without a trail, and the log says what was not recorded."""
    trail = AuditTrail(storage=FailingStorage(refuses=lambda _: True), alert_dispatcher=RecordingDispatcher())
    undo = instrument(trail)

    @app.task(name="fails")  # type: ignore[untyped-decorator]
    def fails() -> None:
        raise LookupError("no such door")

    result = fails.delay()
    undo()
    trail.sync.stop()
    assert isinstance(result.result, LookupError)
    assert "an event about a task was not recorded: AuditStorageError" in caplog.text


def test_undone_it_records_nothing(trail: AuditTrail, app: Any, instrumented: Callable[[], None]) -> None:
    """The function that `instrument` returns disconnects everything."""
    instrumented()

    @app.task(name="fails")  # type: ignore[untyped-decorator]
    def fails() -> None:
        raise LookupError("no such door")

    fails.delay()
    assert not stored(trail.storage_path or Path())


@pytest.mark.usefixtures("instrumented")
def test_a_second_call_has_no_effect(trail: AuditTrail, app: Any) -> None:
    """A trail that is given twice records a failure once, and is undone at once."""
    undo = instrument(trail)

    @app.task(name="fails")  # type: ignore[untyped-decorator]
    def fails() -> None:
        raise LookupError("no such door")

    fails.delay()
    assert len(stored(trail.storage_path or Path())) == 1
    undo()
    fails.delay()
    assert len(stored(trail.storage_path or Path())) == 1


@pytest.mark.usefixtures("instrumented")
def test_of_two_trails_one_is_undone(trail: AuditTrail, tmp_path: Path, app: Any) -> None:
    """Each trail records tasks, and a message carries its user as long as one trail is left."""
    carried: list[Any] = []

    @app.task(name="sent", bind=True)  # type: ignore[untyped-decorator]
    def sent(self: Any) -> None: ...

    def note(*, headers: dict[str, Any], **_: object) -> None:
        carried.append(headers.get("fapilog"))

    @app.task(name="fails")  # type: ignore[untyped-decorator]
    def fails() -> None:
        raise LookupError("no such door")

    undo = instrument(AuditTrail(storage_path=tmp_path / "other"))
    fails.delay()
    undo()
    fails.delay()
    assert len(stored(tmp_path / "other")) == 1
    assert len(stored(trail.storage_path or Path())) == 2
    app.conf.task_always_eager = False
    celery.signals.after_task_publish.connect(note)
    with audit_context(user_id="alice"):
        sent.delay()
    celery.signals.after_task_publish.disconnect(note)
    assert carried == [{"user_id": "alice"}]


class Worker:
    """A worker as it is before it has looked for its pool: the name that was given, or the class."""

    def __init__(self, pool: object) -> None:
        self.pool_cls = pool


def a_pool_of(module: str) -> type:
    """Return a class that says it is from *module*."""
    return type("TaskPool", (), {"__module__": module})


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize("pool", ["gevent", "eventlet", a_pool_of("celery.concurrency.gevent")], ids=str)
def test_green_threads_end_the_worker(pool: object) -> None:
    """A worker with a pool of gevent or eventlet ends at once, and says why."""
    with pytest.raises(SystemExit, match="gevent and eventlet replace them"):
        celery.signals.worker_init.send(sender=Worker(pool))


@pytest.mark.usefixtures("instrumented")
def test_other_pools_start() -> None:
    """The name of any other pool, and its class, are no reason to end."""
    for pool in ("prefork", a_pool_of("celery.concurrency.thread")):
        responses = celery.signals.worker_init.send(sender=Worker(pool))
        assert [response for _, response in responses] == [None]


def have_patched(monkeypatch: pytest.MonkeyPatch, library: str, *names: str) -> None:
    """Stand in for gevent, or eventlet, which answers for these names that it has replaced them."""
    module, function = {
        "gevent": ("gevent.monkey", "is_module_patched"),
        "eventlet": ("eventlet.patcher", "is_monkey_patched"),
    }[library]
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{function: names.__contains__}))


@pytest.mark.parametrize(
    ("library", "names"),
    [
        ("gevent", ("time", "_thread", "threading", "socket")),
        ("gevent", ("_thread",)),
        ("eventlet", ("os", "select", "socket", "thread", "time")),
    ],
    ids=["patch_all", "threading=False", "monkey_patch"],
)
def test_replaced_threads_are_refused(
    trail: AuditTrail, monkeypatch: pytest.MonkeyPatch, library: str, names: tuple[str, ...]
) -> None:
    """Where gevent or eventlet has replaced the threads, `instrument` raises an error that says why."""
    have_patched(monkeypatch, library, *names)
    with pytest.raises(RuntimeError, match="real threads"):
        instrument(trail)


@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_real_threads_are_enough(trail: AuditTrail, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """Where gevent or eventlet is loaded, and has left the threads alone, nothing is refused."""
    have_patched(monkeypatch, library, "socket", "time")
    instrument(trail)()
