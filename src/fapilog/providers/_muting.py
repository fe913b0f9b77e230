"""Keep the addresses of alerts out of the logs: other libraries log each request, and an address may be a secret."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["mute", "muted"]

_muted: ContextVar[bool] = ContextVar("fapilog_muted", default=False)


def mute(loggers: Iterable[str]) -> None:
    """
    Have *loggers* log nothing from within `muted`, at the root's handlers too; all else they log as before.

    Each logger is named, since a filter does not count for the loggers below its own.
    """
    for name in loggers:
        logging.getLogger(name).addFilter(_is_not_muted)


@contextmanager
def muted() -> Generator[None]:
    """Mute the loggers of `mute` in this task, and in the threads that it waits for."""
    before = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(before)


def _is_not_muted(_: logging.LogRecord) -> bool:
    return not _muted.get()
