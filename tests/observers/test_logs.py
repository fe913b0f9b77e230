"""Alerts in the standard library's logging."""

import io
import json
import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditEventType, AuditTrail, DeliveryError
from fapilog.observers import logs
from tests.doubles.observed_alerts import EVENT, PRIVATE, announce, attempt, finish


@contextmanager
def handled_by(handler: logging.Handler, name: str = "fapilog.alerts") -> Generator[None]:
    """Let *handler*, and no other, handle what is logged on the logger *name*."""
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


class Records(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[tuple[str, str]]:
        return [(record.levelname, record.getMessage()) for record in self.records]

    @property
    def extras(self) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in vars(record).items() if key.startswith("fapilog_")} for record in self.records
        ]


@pytest.fixture
def logged() -> Iterator[Records]:
    """Return what is logged on the default logger."""
    records = Records()
    with handled_by(records):
        yield records


def test_one_record_each(logged: Records) -> None:
    """An announcement, a success and a failure are one record each, with a level and a name of its own."""
    with logs.connect():
        announce()
        finish()
        finish(error=DeliveryError("refused"))
    assert logged.lines == [
        ("DEBUG", "fapilog.alert_announced"),
        ("INFO", "fapilog.alert_dispatched"),
        ("ERROR", "fapilog.alert_failed"),
    ]


def test_what_is_known_is_in_extra(logged: Records) -> None:
    """The extra keys say which event it is about, what became of its alert, and how long that took."""
    with logs.connect():
        announce()
        finish()
    announced = {
        "fapilog_event_id": EVENT.event_id,
        "fapilog_event_type": "authentication_failed",
        "fapilog_sequence_number": 7,
        "fapilog_severity": "security",
        "fapilog_channel": "#on-call",
    }
    assert logged.extras == [
        announced,
        announced
        | {"fapilog_outcome": "dispatched", "fapilog_waited": 0.25, "fapilog_took": 1.5, "fapilog_error": None},
    ]


def test_an_attempt(logged: Records) -> None:
    """Each attempt is a record that says of what, which one it was and how it ended, a warning if it failed."""
    with logs.connect():
        attempt(error=DeliveryError("busy"))
        attempt(number=3)
    assert logged.lines == [("WARNING", "fapilog.alert_attempted"), ("INFO", "fapilog.alert_attempted")]
    assert logged.extras[0] == {
        "fapilog_event_id": EVENT.event_id,
        "fapilog_event_type": "authentication_failed",
        "fapilog_sequence_number": 7,
        "fapilog_severity": "security",
        "fapilog_channel": "#on-call",
        "fapilog_outcome": "error",
        "fapilog_waited": 0.25,
        "fapilog_took": 1.5,
        "fapilog_error": "busy",
        "fapilog_target": "slack",
        "fapilog_attempt": 2,
    }
    assert logged.extras[1] == logged.extras[0] | {
        "fapilog_outcome": "dispatched",
        "fapilog_error": None,
        "fapilog_attempt": 3,
    }


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (DeliveryError("refused with 503"), "refused with 503"),
        (ConnectionError("https://hooks.example.com/SECRET"), "ConnectionError"),
    ],
)
def test_only_our_own_errors_are_quoted(logged: Records, error: Exception, shown: str) -> None:
    """The text of a `DeliveryError` is logged, and only the type of any other exception."""
    with logs.connect():
        finish(error=error)
    assert logged.extras[0]["fapilog_error"] == shown


def test_nothing_private_is_logged(logged: Records) -> None:
    """No record holds what the event says, or the text of an exception that is not ours."""
    with logs.connect():
        announce()
        finish()
        finish(error=ConnectionError("SECRET"))
        attempt(error=ConnectionError("SECRET"))
    everything = "".join(f"{logging.Formatter().format(record)} {vars(record)}" for record in logged.records)
    assert EVENT.event_id in everything
    assert PRIVATE not in everything
    assert "SECRET" not in everything


def test_an_unknown_severity_is_other(logged: Records) -> None:
    """A severity that was made up by hand is not repeated."""
    with logs.connect():
        finish(severity="\nERROR forged line")
    assert logged.extras[0]["fapilog_severity"] == "other"


def test_the_logger_is_yours_to_name() -> None:
    """Records go to the logger that is named."""
    records = Records()
    with handled_by(records, "shop.alerts"), logs.connect(logger="shop.alerts"):
        finish()
    assert [record.name for record in records.records] == ["shop.alerts"]


def test_two_trails_two_loggers() -> None:
    """Each trail's alerts can go to a logger of their own."""
    first, second = AuditTrail(), AuditTrail()
    records = Records()
    with (
        handled_by(records, "first"),
        handled_by(records, "second"),
        logs.connect(sender=first, logger="first"),
        logs.connect(sender=second, logger="second"),
    ):
        finish(second)
        finish(first)
    assert [record.name for record in records.records] == ["second", "first"]


def test_structlog_renders_the_extras() -> None:
    """A formatter of structlog, with its ExtraAdder, turns a record into one flat JSON object."""
    structlog = pytest.importorskip("structlog")
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    with handled_by(handler), logs.connect():
        finish(error=DeliveryError("refused"))
    assert json.loads(output.getvalue()) == {
        "event": "fapilog.alert_failed",
        "level": "error",
        "fapilog_event_id": EVENT.event_id,
        "fapilog_event_type": "authentication_failed",
        "fapilog_sequence_number": 7,
        "fapilog_severity": "security",
        "fapilog_channel": "#on-call",
        "fapilog_outcome": "error",
        "fapilog_waited": 0.25,
        "fapilog_took": 1.5,
        "fapilog_error": "refused",
    }


class RefusesTheSecond:
    """Takes the first alert, and refuses the next."""

    def __init__(self) -> None:
        self.calls = 0

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        self.calls += 1
        if self.calls > 1:
            raise DeliveryError("one is enough")


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_the_alerts_of_a_trail(tmp_path: Path, logged: Records) -> None:
    """What becomes of a trail's alerts is logged, with the id that `log_event` returned."""
    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=RefusesTheSecond())
    with logs.connect(sender=trail):
        async with trail:
            first = await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password")
            await trail.drain()
            second = await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password")
    about = [(record.getMessage(), vars(record)["fapilog_event_id"]) for record in logged.records]
    assert about[:4] == [
        ("fapilog.alert_announced", first),
        ("fapilog.alert_dispatched", first),
        ("fapilog.alert_announced", second),
        ("fapilog.alert_failed", second),
    ]
    # The trail's own, that the second was not delivered.
    assert [message for message, _ in about[4:]] == ["fapilog.alert_announced", "fapilog.alert_failed"]
    assert [extra.get("fapilog_error") for extra in logged.extras[:4]] == [None, None, None, "one is enough"]


def test_a_sender_is_a_trail() -> None:
    """The name of a trail, from which no alert would ever come, is refused, and nothing is connected."""
    name: Any = "clinic"
    with pytest.raises(TypeError, match=r"^sender: expected an AuditTrail; got a str"):
        logs.connect(sender=name)
