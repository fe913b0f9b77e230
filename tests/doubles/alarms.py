"""A time limit that arrives in the midst of a call, by a signal."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Ended", "TimeUp", "alarming"]


class TimeUp(Exception):
    """Raised by the handler of a signal, as Celery's `SoftTimeLimitExceeded` and RQ's `JobTimeoutException`."""


class Ended(BaseException):
    """Raised by the handler of a signal, as dramatiq's `TimeLimitExceeded`."""


@contextmanager
def alarming(error: type[BaseException] = TimeUp) -> Iterator[Callable[[], None]]:
    """Yield a function that has the time limit arrive: the handler of a signal raises *error*."""

    def expire(_: int, __: FrameType | None) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, expire)
    try:
        yield lambda: signal.raise_signal(signal.SIGALRM)
    finally:
        signal.signal(signal.SIGALRM, before)
