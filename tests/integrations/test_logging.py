"""The handler for the standard library's logging, also as loguru's sink."""

import logging
import logging.config
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, AuditTrail, ChainStatus, FileStorage
from fapilog.context import audit_context
from fapilog.integrations.logging import AuditHandler
from fapilog.record.chain import Seal
from fapilog.testing import RecordingDispatcher
from tests.doubles.failing_storage import FailingStorage

ROOT = Path(__file__).parents[2]
log = logging.getLogger("shop.login")


class Gated(FileStorage):
    """Stores nothing before its gate is open, and tells when it was first asked to."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, durability="write")
        self.gate = threading.Event()
        self.asked = threading.Event()

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        self.asked.set()
        assert self.gate.wait(60)
        return await super().append(event, once=once)


Attach = Callable[[AuditHandler], AuditHandler]


@pytest.fixture
def attach() -> Iterator[Attach]:
    """Add handlers to the logger, and close them in the end."""
    attached: list[AuditHandler] = []

    def add(handler: AuditHandler) -> AuditHandler:
        attached.append(handler)
        log.addHandler(handler)
        return handler

    log.setLevel(logging.DEBUG)
    log.propagate = False
    yield add
    log.propagate = True
    log.setLevel(logging.NOTSET)
    for handler in attached:
        log.removeHandler(handler)
        handler.close()


@pytest.fixture
def handler(trail: AuditTrail, attach: Attach) -> AuditHandler:
    return attach(AuditHandler(trail))


def stored(trail: AuditTrail, *handlers: AuditHandler) -> list[AuditEvent]:
    """Return the events, the oldest first."""
    for handler in handlers:
        handler.flush()
    return trail.sync.get_events(limit=100_000)[::-1]


class Unreadable(dict[str, Any]):
    """A mapping that raises whatever it is asked."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError

    keys = items = __iter__ = __getitem__ = __len__ = __hash__ = __eq__ = _raise  # type: ignore[assignment]
    __class__ = property(_raise)


def test_fields_that_cannot_be_read_lose_no_event(trail: AuditTrail, handler: AuditHandler) -> None:
    """A call whose fields, or whose metadata, are a mapping that raises is stored with what is really in it."""
    fields = Unreadable(user_id="alice", metadata=Unreadable(tenant=7), changes=Unreadable(role=("a", "b")))
    log.warning("changed", extra={"audit": fields})
    (event,) = stored(trail, handler)
    assert (event.user_id, event.metadata["tenant"], event.changes) == ("alice", 7, {"role": ["a", "b"]})


@pytest.mark.parametrize(
    ("level", "extra", "expected"),
    [
        (logging.DEBUG, {}, None),
        (logging.INFO, {}, None),
        (logging.WARNING, {}, "warning"),
        (35, {}, "warning"),
        (logging.ERROR, {}, "error"),
        (logging.CRITICAL, {}, "critical"),
        (99, {}, "critical"),
        (logging.WARNING, {"audit": False}, None),
        (logging.INFO, {"order": 1}, None),
        (5, {"audit": True}, "debug"),
        (logging.DEBUG, {"audit": {}}, "debug"),
        (logging.INFO, {"audit": {"user_id": "alice"}}, "info"),
        (logging.INFO, {"audit": {"log_level": "security"}}, "security"),
    ],
)
def test_what_becomes_an_event(
    trail: AuditTrail, handler: AuditHandler, level: int, extra: dict[str, Any], expected: str | None
) -> None:
    """A record becomes an event from WARNING on, or if its extra says so, with the level of the record."""
    log.setLevel(1)
    log.log(level, "m", extra=extra)
    assert [event.log_level.value for event in stored(trail, handler)] == ([] if expected is None else [expected])


def test_an_event_says_what_was_logged(trail: AuditTrail, handler: AuditHandler) -> None:
    """The message with its arguments, the logger, the function and the time of the call are in the event."""
    before = datetime.now(UTC)
    log.warning("wrong password, try %d", 3, extra={"order": "not recorded"})
    (event,) = stored(trail, handler)
    assert (event.message, event.component) == ("wrong password, try 3", "shop.login")
    assert event.operation == "test_an_event_says_what_was_logged"
    assert event.event_type == "log.warning"
    assert event.process_id == os.getpid()
    assert "not recorded" not in str(event.metadata)
    assert event.occurred is not None
    assert before <= event.occurred <= event.timestamp


def test_extra_fills_the_fields(trail: AuditTrail, handler: AuditHandler) -> None:
    """The names of fields fill the fields, and all others become metadata."""
    audit = {
        "event_type": "data_export",
        "user_id": 42,
        "client_ip": None,
        "operation": "export",
        "contains_pii": True,
        "regulatory_tags": {"PCI-10.2.1"},
        "metadata": {"rows": 7},
        "file": Path("all.csv"),
    }
    log.info("exported", extra={"audit": audit})
    log.info("counted", extra={"audit": ["a", "b"]})
    event, other = stored(trail, handler)
    assert event.event_type is AuditEventType.DATA_EXPORT
    assert (event.user_id, event.client_ip, event.operation, event.contains_pii) == ("42", None, "export", True)
    assert event.regulatory_tags == ("PCI-10.2.1",)
    assert event.metadata["rows"] == 7
    assert "all.csv" in event.metadata["file"]
    assert other.metadata["audit"] == ["a", "b"]


@pytest.mark.parametrize(
    "audit", [{"event_type": "no such"}, {"log_level": 7}, {"log_level": "loud", "event_type": "data_export"}], ids=str
)
def test_what_is_refused_is_kept_beside(trail: AuditTrail, handler: AuditHandler, audit: dict[str, Any]) -> None:
    """A field that the trail refuses does not lose the event, whose metadata keep everything that was given."""
    log.error("m", extra={"audit": {**audit, "user_id": "alice"}})
    (event,) = stored(trail, handler)
    assert (event.message, event.log_level) == ("m", AuditLogLevel.ERROR)
    assert event.metadata["refused"] == {**audit, "user_id": "alice"}
    assert handler.dropped == 0


def test_an_exception_is_the_error_of_the_event(trail: AuditTrail, handler: AuditHandler) -> None:
    """The exception is recorded with its traceback, whatever the level is; without one there is no error."""
    try:
        raise LookupError("no such door")
    except LookupError as error:
        log.exception("failed")
        log.warning("failed", exc_info=error)
    log.error("failed", exc_info=True)  # noqa: LOG014  as it is often seen
    first, second, third = stored(trail, handler)
    for event in (first, second):
        assert event.error is not None
        assert (event.error.type, event.error.message) == ("LookupError", "no such door")
        assert "test_an_exception_is_the_error_of_the_event" in event.error.traceback
    assert third.error is None


class Hostile:
    """Raises what is no exception, whatever is asked of it."""

    def __str__(self) -> str:
        raise BaseExceptionGroup("no", [GeneratorExit()])

    __repr__ = __str__


def test_nothing_is_raised_into_the_caller(trail: AuditTrail, handler: AuditHandler) -> None:
    """Arguments that do not fit, and values that can't be read, raise nothing and lose no event."""

    def record(message: Any, *args: object, **extra: object) -> None:
        # Handed to this handler alone: pytest's raises what it meets.
        handler.handle(log.makeRecord(log.name, logging.WARNING, "", 0, message, args, None, extra=extra))

    record("%d %s", "no number")
    record(Hostile())
    record("%s", Hostile())
    record("m", audit={"user_id": Hostile(), Hostile(): 1, "deep": {"er": Hostile()}})
    events = stored(trail, handler)
    assert [event.message for event in events][::3] == ["%d %s", "m"]
    assert len(events) == 4
    assert "unreadable" in str(events[3].user_id)
    assert handler.dropped == 0


def test_an_event_is_as_it_was_logged(tmp_path: Path, attach: Attach) -> None:
    """What the application changes after the call does not change the event."""
    storage = Gated(tmp_path)
    trail = AuditTrail(storage=storage)
    handler = attach(AuditHandler(trail))
    log.warning("keeps the thread busy")
    assert storage.asked.wait(60)
    items = [1]
    audit: dict[str, Any] = {"items": items, "user_id": items, "changes": {"items": ([], items)}, "session_id": "a"}
    log.warning("%s", items, extra={"audit": audit})
    items.append(2)
    audit["session_id"] = "b"
    storage.gate.set()
    _, event = stored(trail, handler)
    assert (event.message, event.metadata["items"], event.user_id, event.session_id) == ("[1]", [1], "[1]", "a")
    assert event.changes is not None
    assert event.changes["items"] == [[], [1]]


def test_an_event_has_the_context_of_its_call(tmp_path: Path, attach: Attach) -> None:
    """The context is that of the call, whose functions are asked at once, and a field of the call itself wins."""
    storage = Gated(tmp_path)
    trail = AuditTrail(storage=storage)
    handler = attach(AuditHandler(trail))
    users: list[str | None] = [None, "alice", "too late"]
    for number in range(2):
        with audit_context(user_id=lambda: users.pop(0), request_id=f"r{number}", tenant="acme"):
            log.warning("m", extra={"audit": {"client_ip": "192.0.2.7", "request_id": "own"} if number else {}})
    log.warning("outside")
    assert users == ["too late"]
    storage.gate.set()
    found = [
        (event.user_id, event.request_id, event.client_ip, event.metadata.get("tenant"))
        for event in stored(trail, handler)
    ]
    assert found == [
        (None, "r0", None, "acme"),
        ("alice", "own", "192.0.2.7", "acme"),
        (None, None, None, None),
    ]


def test_before_and_after_the_trail_lives(tmp_path: Path, attach: Attach) -> None:
    """Records are stored before the trail is started, while it is, and after it was stopped."""
    dispatcher = RecordingDispatcher()
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher)
    handler = attach(AuditHandler(trail))
    log.critical("before")
    handler.flush()
    with trail.sync:
        log.critical("while")
        handler.flush()
    log.critical("after")
    handler.close()
    log.critical("closed")
    assert [event.message for event in stored(trail, handler)] == ["before", "while", "after", "closed"]
    trail.sync.stop()
    assert [alert.event.message for alert in dispatcher.alerts] == ["before", "while", "after", "closed"]


@pytest.mark.real_time
async def test_the_loop_is_never_blocked(tmp_path: Path, attach: Attach) -> None:
    """A call in an event loop returns while the storage hangs, and the record is stored when it no longer does."""
    storage = Gated(tmp_path)
    trail = AuditTrail(storage=storage)
    handler = attach(AuditHandler(trail))
    async with trail:
        for number in range(3):
            log.warning("%d", number)
        assert not (await trail.get_events())
        storage.gate.set()
        handler.flush()
        assert [event.message for event in await trail.get_events()] == ["2", "1", "0"]


def test_overflow_is_counted_and_said(tmp_path: Path, attach: Attach, caplog: pytest.LogCaptureFixture) -> None:
    """More records than the buffer takes are dropped, counted, and said by one event when there is room again."""
    storage = Gated(tmp_path)
    trail = AuditTrail(storage=storage)
    handler = attach(AuditHandler(trail, buffer=2))
    log.warning("0")
    assert storage.asked.wait(60)
    for number in range(1, 6):
        log.warning("%d", number)
    assert handler.dropped == 3
    storage.gate.set()
    handler.flush()
    *events, said = stored(trail)
    assert [event.message for event in events] == ["0", "1", "2"]
    assert said.event_type is AuditEventType.COMPONENT_FAILURE
    assert said.metadata["dropped"] == 3
    errors = [record for record in caplog.records if record.name == "fapilog" and record.levelno >= logging.ERROR]
    assert [record.getMessage() for record in errors] == [said.message]


def test_threads_keep_their_order(trail: AuditTrail, handler: AuditHandler) -> None:
    """Of eight threads that log at once, each one's records are all there, in their order."""

    def work(name: int) -> None:
        for number in range(50):
            log.warning("%d %d", name, number)

    threads = [threading.Thread(target=work, args=[name]) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = stored(trail, handler)
    for name in range(8):
        mine = [event.message.split()[1] for event in events if event.message.split()[0] == str(name)]
        assert mine == [str(number) for number in range(50)]
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK


class Told(FileStorage):
    """Releases a semaphore for each event that it stores."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, durability="write")
        self.stored = threading.Semaphore(0)

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        seal = await super().append(event, once=once)
        self.stored.release()
        return seal


@pytest.mark.real_time
def test_a_call_that_meets_the_end_of_the_thread_is_stored(
    tmp_path: Path, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has nothing left to store ends; the calls that come right then get another, without a flush."""
    monkeypatch.setattr("fapilog.integrations._backlog._LINGER", 0)
    storage = Told(tmp_path)
    attach(AuditHandler(AuditTrail(storage=storage)))

    def call() -> None:
        for _ in range(100):
            log.warning("m")
            assert storage.stored.acquire(timeout=20)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(AuditTrail(storage_path=tmp_path).sync.events())) == 200


class Talkative(FileStorage):
    """Logs a warning for each record; if it does not run anywhere, in an event loop of the trail's."""

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        log.warning("storing")
        return await super().append(event, once=once)


@pytest.mark.parametrize("runs_anywhere", [True, False])
def test_what_is_logged_while_storing_is_left_out(tmp_path: Path, attach: Attach, *, runs_anywhere: bool) -> None:
    """A storage that logs does not feed the handler, in whatever thread it runs; fapilog's own loggers never do."""
    storage = Talkative(tmp_path, durability="write")
    storage.runs_anywhere = runs_anywhere
    trail = AuditTrail(storage=storage)
    handler = attach(AuditHandler(trail))
    for number in range(5):
        log.warning("%d", number)
    for name in ("fapilog", "fapilog.alerts"):
        handler.handle(logging.LogRecord(name, logging.ERROR, "", 0, "m", None, None))
    assert [event.message for event in stored(trail, handler)] == ["0", "1", "2", "3", "4"]
    trail.sync.stop()


class Complaining:
    """Logs at the level that alerts, for each alert."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        log.critical("about %s", event.message)


def test_an_alert_does_not_feed_itself(tmp_path: Path, attach: Attach) -> None:
    """What a dispatcher logs is recorded, and not announced again."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=Complaining())
    handler = attach(AuditHandler(trail))
    with trail.sync:
        log.critical("down")
        handler.flush()
        trail.sync.drain()
        handler.flush()
        trail.sync.drain()
    assert [event.message for event in stored(trail, handler)] == ["down", "about down"]


def test_a_failing_storage_is_counted_and_said(attach: Attach, caplog: pytest.LogCaptureFixture) -> None:
    """What can't be stored is counted, said once in the log, and once in the trail when that works again."""
    storage = FailingStorage(refuses=lambda _: True)
    trail = AuditTrail(storage=storage)
    handler = attach(AuditHandler(trail))
    log.warning("private: %d", 4711)
    log.warning("lost")
    handler.flush()
    assert handler.dropped == 2
    lines = [record.getMessage() for record in caplog.records if "log record" in record.getMessage()]
    assert lines == ["a log record was not recorded: AuditStorageError"]
    assert "4711" not in lines[0]
    storage.refuses = lambda _: False
    log.warning("kept")
    messages = [event.message for event in stored(trail, handler)]
    assert messages[0] == "kept"
    assert [message for message in messages if message.startswith("2 log records")]
    trail.sync.stop()


def test_a_value_may_log_by_itself(trail: AuditTrail, handler: AuditHandler) -> None:
    """A value that logs when it is read is no deadlock, and neither is a signal handler that comes in between."""

    class Logging:
        def __str__(self) -> str:
            log.warning("inner")
            return "outer"

    handler.handle(log.makeRecord(log.name, logging.WARNING, "", 0, "%s", (Logging(),), None))
    assert [event.message for event in stored(trail, handler)] == ["inner", "outer"]


def test_where_no_thread_can_be_started(
    trail: AuditTrail, handler: AuditHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records wait without a thread, and the next flush stores them."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    log.warning("a")
    log.warning("b")
    assert not stored(trail)
    assert [event.message for event in stored(trail, handler)] == ["a", "b"]


def test_a_forked_child_stores_its_own(tmp_path: Path, attach: Attach) -> None:
    """A child that is forked while records wait stores its own records, and the parent's are stored once."""
    storage = Gated(tmp_path)
    trail = AuditTrail(storage=storage)
    handler = attach(AuditHandler(trail))
    log.warning("parent")
    log.warning("parent")
    child = os.fork()
    if child == 0:
        storage.gate.set()
        log.warning("child")
        handler.flush()
        os._exit(0 if handler.dropped == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    storage.gate.set()
    assert [event.message for event in stored(trail, handler)] == ["child", "parent", "parent"]
    assert trail.sync.verify_chain_from_storage().status is ChainStatus.OK


# Logs while the interpreter takes its modules apart, when asyncio's and aiohttp's destructors do.
LATE = """
import logging, sys
from fapilog import AuditTrail
from fapilog.integrations.logging import AuditHandler

class Late:
    def __del__(self):
        self.log.warning("late", extra={"audit": {"value": [object()]}})
        self.handler.flush()
        print("over", flush=True)

sys.modules["late"] = late = Late()
late.log, late.handler = logging.getLogger("shop"), AuditHandler(AuditTrail(storage_path=sys.argv[1]))
late.log.addHandler(late.handler)
"""


@pytest.mark.slow
def test_a_destructor_may_log_at_the_very_end(tmp_path: Path) -> None:
    """A record that comes when no thread can be started any more does not keep the process from its end."""
    ended = subprocess.run(
        [sys.executable, "-c", LATE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "over\n"


@pytest.mark.slow
@pytest.mark.parametrize(("hangs", "count"), [("", 300), ("hangs", 0)])
def test_the_exit_flushes_within_its_limit(tmp_path: Path, hangs: str, count: int) -> None:
    """At the exit the records that wait are stored; a storage that hangs does not keep it, and the log says so."""
    program = [sys.executable, "-m", "tests.programs.logging_script", str(tmp_path), hangs]
    ended = subprocess.run(program, check=True, timeout=60, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    trail = AuditTrail(storage_path=tmp_path / "audit")
    assert [event.message for event in stored(trail)] == [str(number) for number in range(count)]
    assert ("300 log records may be lost: the process ends" in ended.stderr) is bool(hangs)
    alerts = tmp_path / "alerts"
    assert (alerts.read_text().split() if alerts.exists() else []) == [str(number) for number in range(0, count, 100)]


def test_configured_by_a_mapping(tmp_path: Path, trail: AuditTrail) -> None:
    """`dictConfig` makes the handler, and its level is the least level of a record that says nothing of audit."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "audit": {"()": "fapilog.integrations.logging.AuditHandler", "trail": trail, "level": "ERROR"},
            },
            "loggers": {"shop.login": {"handlers": ["audit"], "level": "DEBUG", "propagate": False}},
        }
    )
    log.warning("no")
    log.error("yes")
    log.debug("said", extra={"audit": True})
    (handler,) = log.handlers
    log.removeHandler(handler)
    log.propagate = True
    log.setLevel(logging.NOTSET)
    handler.close()
    assert [event.message for event in stored(trail)] == ["yes", "said"]


def test_a_filter_decides_first(trail: AuditTrail, handler: AuditHandler) -> None:
    """The handler's filters keep records out, as for every handler."""
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    log.warning("a secret")
    log.warning("b")
    assert [event.message for event in stored(trail, handler)] == ["b"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"level": "LOUD"}, ValueError, "level: expected one of CRITICAL"),
        ({"level": None}, TypeError, "level: expected a number or a name; got None"),
        ({"buffer": 0}, ValueError, "buffer"),
        ({"flush_timeout": -1}, ValueError, "flush_timeout"),
    ],
    ids=str,
)
def test_options_that_are_refused(
    trail: AuditTrail, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """An option that can't be is an error that names it."""
    with pytest.raises(error, match=message):
        AuditHandler(trail, **options)


@pytest.mark.parametrize("created", [math.nan, 1e300, -1e15, None, "now"])
def test_a_record_without_a_time_is_stored(trail: AuditTrail, handler: AuditHandler, created: Any) -> None:
    """As one that was made by hand, or that came over a network."""
    handler.handle(logging.makeLogRecord({"msg": "m", "levelno": logging.ERROR, "created": created}))
    [event] = stored(trail, handler)
    assert (event.message, event.occurred) == ("m", None)


@pytest.mark.parametrize("error", [ValueError("no"), ExceptionGroup("many", [ValueError("no")])])
def test_the_values_of_variables_stay_out_of_messages(trail: AuditTrail, error: Exception) -> None:
    """Loguru puts the traceback behind the message, and the values of variables into the traceback."""
    loguru = pytest.importorskip("loguru")
    number = loguru.logger.add(AuditHandler(trail), format="{message}")

    def sign_in(password: str) -> None:
        try:
            int(password)
        except ValueError:
            raise error  # noqa: B904  with its context

    try:
        sign_in("s3cret")
    except Exception:
        loguru.logger.exception("failed\nin two lines")
    finally:
        loguru.logger.remove(number)
    [event] = stored(trail)
    assert event.message == "failed\nin two lines"
    assert event.error is not None


def test_loguru_logs_to_the_handler(trail: AuditTrail) -> None:
    """The handler is a sink of loguru: bound fields, exceptions, levels and the logging module are in the event."""
    loguru = pytest.importorskip("loguru")
    handler = AuditHandler(trail)
    number = loguru.logger.add(handler, format=lambda _: "{message}")
    try:
        loguru.logger.info("no")
        loguru.logger.bind(audit={"user_id": "alice", "event_type": "data_export"}).success("exported {}", 3)
        try:
            raise LookupError("no such door")
        except LookupError:
            loguru.logger.exception("failed")
    finally:
        loguru.logger.remove(number)  # closes the handler
    exported, failed = stored(trail)
    assert (exported.message, exported.user_id, exported.log_level) == ("exported 3", "alice", AuditLogLevel.INFO)
    assert exported.component == __name__
    assert (failed.message, failed.log_level) == ("failed", AuditLogLevel.ERROR)
    assert failed.error is not None
    assert failed.error.type == "LookupError"
