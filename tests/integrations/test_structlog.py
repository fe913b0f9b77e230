"""The processor for structlog."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, AuditTrail, FileStorage
from fapilog.record.chain import Seal

structlog = pytest.importorskip("structlog")

from fapilog.integrations.logging import AuditHandler  # noqa: E402
from fapilog.integrations.structlog import AuditProcessor  # noqa: E402  imports structlog


@pytest.fixture
def processor(trail: AuditTrail) -> Iterator[AuditProcessor]:
    processor = AuditProcessor(trail)
    yield processor
    processor.close()


class Passed(list[dict[str, Any]]):
    """The last processor: keeps what the processors before it have passed on."""

    def __call__(self, logger: object, method: str, event_dict: dict[str, Any]) -> str:
        self.append(event_dict)
        return ""


@pytest.fixture
def passed() -> Passed:
    return Passed()


@pytest.fixture
def log(processor: AuditProcessor, passed: Passed) -> Any:
    return structlog.wrap_logger(structlog.PrintLogger(), processors=[processor, passed])


def stored(trail: AuditTrail, processor: AuditProcessor) -> list[AuditEvent]:
    """Return the events, the oldest first."""
    processor.flush()
    return trail.sync.get_events(limit=1000)[::-1]


def test_what_becomes_an_event(trail: AuditTrail, processor: AuditProcessor, log: Any) -> None:
    """Calls from WARNING on become events, and others if they give fields; `audit=False` leaves a call out."""
    log.debug("no")
    log.info("no")
    log.info("info", audit={})
    log.warning("warning")
    log.warning("warning")
    log.warning("no", audit=False)
    log.error("error")
    log.exception("error")  # noqa: LOG004  as it is often seen
    log.critical("critical")
    log.fatal("critical")
    events = stored(trail, processor)
    assert [event.message for event in events] == [event.log_level.value for event in events]
    assert [event.message for event in events] == [
        *("info", "warning", "warning"),
        *("error", "error", "critical", "critical"),
    ]


def test_the_event_dict_passes_unchanged(
    trail: AuditTrail, processor: AuditProcessor, log: Any, passed: Passed
) -> None:
    """The next processor gets all that was logged, and the event the fields of `audit` and nothing else."""
    given = {"audit": {"user_id": "alice", "event_type": "data_export", "rows": 3}, "token": "hidden"}
    log.info("exported", **given)
    assert passed == [given | {"event": "exported"}]
    (event,) = stored(trail, processor)
    assert (event.message, event.user_id, event.event_type) == ("exported", "alice", AuditEventType.DATA_EXPORT)
    assert event.metadata["rows"] == 3
    assert "hidden" not in str(event.metadata)


def failing() -> LookupError:
    """Return an exception that was raised."""
    try:
        raise LookupError("no such door")
    except LookupError as error:
        return error


@pytest.mark.parametrize(
    "exc_info",
    [lambda error: error, lambda error: (type(error), error, None), lambda error: True],
    ids=["exception", "tuple", "true"],
)
def test_an_exception_is_the_error_of_the_event(
    trail: AuditTrail, processor: AuditProcessor, log: Any, exc_info: Callable[[BaseException], object]
) -> None:
    """The exception is recorded however `exc_info` says it."""
    try:
        raise failing()
    except LookupError as error:
        log.error("failed", exc_info=exc_info(error))
    log.error("no error", exc_info=True)  # noqa: LOG014  as it is often seen
    failed, other = stored(trail, processor)
    assert failed.error is not None
    assert (failed.error.type, failed.error.message) == ("LookupError", "no such door")
    assert other.error is None


def test_the_level_and_the_logger_of_the_standard_library(trail: AuditTrail, processor: AuditProcessor) -> None:
    """The level and the name that structlog's own processors add are taken, as is a logger's own name."""
    log = structlog.wrap_logger(
        logging.getLogger("shop"),
        processors=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, processor, lambda *_: "m"],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    log.log(logging.ERROR, "m")
    processor(logging.getLogger("bare"), "msg", {"event": "m", "level_number": 50})
    processor(logging.getLogger("fapilog.alerts"), "error", {"event": "of our own"})
    events = stored(trail, processor)
    assert [(event.component, event.log_level) for event in events] == [
        ("shop", AuditLogLevel.ERROR),
        ("bare", AuditLogLevel.CRITICAL),
    ]


class Unreadable(dict[str, Any]):
    """Raises what is no exception when it is read."""

    def get(self, *_: Any) -> Any:
        raise BaseExceptionGroup("no", [GeneratorExit()])


class Hostile:
    """A value that raises whatever it is asked, as a logger without a name does."""

    def __bool__(self) -> bool:
        raise LookupError("s3cret")

    def __str__(self) -> str:
        raise LookupError("s3cret")

    @property
    def name(self) -> str:
        raise LookupError("s3cret")


@pytest.mark.parametrize("key", ["event", "logger", "level", "exc_info", "audit"])
def test_a_value_that_can_not_be_read_loses_no_event(trail: AuditTrail, processor: AuditProcessor, key: str) -> None:
    """Neither is the one of a logger whose name can't be read."""
    processor(Hostile(), "error", {"event": "m", key: Hostile()})
    [event] = stored(trail, processor)
    assert event.log_level is AuditLogLevel.ERROR


def test_nothing_is_raised_into_the_caller(
    trail: AuditTrail, processor: AuditProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    """A call that can't be recorded is passed on all the same, and the log says that it was not."""
    event_dict = Unreadable(event="m")
    assert processor(None, "error", event_dict) is event_dict
    assert not stored(trail, processor)
    assert "a call of structlog was not recorded: BaseExceptionGroup" in caplog.text


class Talkative(FileStorage):
    """Logs an error for each record."""

    log: Any

    async def append(self, event: AuditEvent, *, once: bool = False) -> Seal | None:
        self.log.error("storing")
        return await super().append(event, once=once)


def test_what_is_logged_while_storing_is_left_out(tmp_path: Path) -> None:
    """A storage that logs does not feed the processor."""
    storage = Talkative(tmp_path, durability="write")
    trail = AuditTrail(storage=storage)
    processor = AuditProcessor(trail)
    storage.log = structlog.wrap_logger(structlog.PrintLogger(), processors=[processor, lambda *_: ""])
    for number in range(3):
        storage.log.error(str(number))
    assert [event.message for event in stored(trail, processor)] == ["0", "1", "2"]
    assert processor.dropped == 0
    processor.close()


def test_the_handler_takes_what_structlog_leaves_to_a_formatter(trail: AuditTrail) -> None:
    """Behind `wrap_for_formatter` a line is the event that it is with the processor, and no text of all its values."""
    handler = AuditHandler(trail)
    logger = logging.Logger("shop")  # noqa: LOG001  for this test alone
    logger.addHandler(handler)
    wrap = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
    log = structlog.wrap_logger(logger, processors=[wrap], wrapper_class=structlog.stdlib.BoundLogger)
    log.error("payment failed", card="4711", audit={"user_id": "alice", "order": 7})
    log.info("no", audit=False)
    log.info("seen", audit=True)
    log.error("failed", exc_info=KeyError("s3cret"))
    handler.flush()
    failed, seen, raised = trail.sync.get_events(limit=9)[::-1]
    assert (failed.message, failed.user_id, dict(failed.metadata)) == ("payment failed", "alice", {"order": 7})
    assert (seen.message, seen.log_level, dict(seen.metadata)) == ("seen", AuditLogLevel.INFO, {})
    assert raised.error is not None
    assert (raised.message, raised.error.type) == ("failed", "KeyError")
    handler.close()
