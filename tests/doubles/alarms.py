"""A time limit that arrives in the midst of a call, by a signal."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["TooLateError", "alarming"]


class TooLateError(Exception):
    """Raised by a signal handler, as Celery's and RQ's time limits are."""


@contextmanager
def alarming() -> Iterator[Callable[[], None]]:
    """Yield a function that has the time limit arrive."""

    def expire(_: int, __: FrameType | None) -> None:
        raise TooLateError

    before = signal.signal(signal.SIGALRM, expire)
    try:
        yield lambda: signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
