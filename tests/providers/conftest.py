"""An event that says much, and a record of everything that anyone says."""

import logging
from collections.abc import Callable, Iterator

import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, ErrorDetails
from fapilog.testing._contract import printed

__all__ = ["an_event"]


def an_event(**changes: object) -> AuditEvent:
    """Return a stored event in which every field says something, with *changes*."""
    fields: dict[str, object] = {
        "event_id": "0b0e1c1a-9c5e-4f5c-8a55-3f6f2a8f7d11",
        "event_type": AuditEventType.AUTHENTICATION_FAILED,
        "log_level": AuditLogLevel.SECURITY,
        "message": "five wrong passwords in a row",
        "component": "auth",
        "operation": "login",
        "user_id": "u-17",
        "session_id": "s-23",
        "request_id": "r-42",
        "client_ip": "203.0.113.9",
        "user_agent": "curl/8.0",
        "hostname": "web-1",
        "process_id": 4711,
        "error": ErrorDetails(type="PermissionError", message="no such user", traceback="Traceback: secret frames"),
        "data_classification": "confidential",
        "regulatory_tags": ("AC-7",),
        "metadata": {"attempts": 5},
        "sequence_number": 12,
        "previous_hash": "1" * 64,
        "checksum": "2" * 64,
    }
    return AuditEvent(**fields | changes)  # type: ignore[arg-type]


class _ToList(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said += [self.format(record), repr(vars(record))]


@pytest.fixture
def everything_said(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """
    Record what all loggers say at DEBUG, and what is printed.

    Call it for all of that as one text; an exception that is given adds whatever a report of it may print.
    """
    handler = _ToList()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)

    def said(*errors: BaseException) -> str:
        captured = capfd.readouterr()
        handler.said += [captured.out, captured.err]
        return "\n".join([*handler.said, *(each for error in errors for each in printed(error))])

    yield said
    root.setLevel(level)
    root.removeHandler(handler)
