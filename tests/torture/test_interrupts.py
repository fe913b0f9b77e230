"""Exceptions that come from outside, at random moments: of signal handlers, and of other threads."""

import contextlib
import ctypes
import functools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import FrameType

import pytest

from fapilog import (
    AuditEventType,
    AuditStorage,
    AuditTrail,
    DeliveryReport,
    FileStorage,
    MemoryStorage,
    Outbox,
    SQLiteStorage,
    StoringInterruptedError,
    alert_dispatched,
    alert_failed,
)
from fapilog.testing import RecordingDispatcher
from tests.doubles.alarms import Ended, TimeUp


class Alarm:
    """Raises an exception in this thread, by the handler of a signal."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = error
        self.has_come = False
        signal.signal(signal.SIGALRM, self._raise)

    def set(self, seconds: float) -> None:
        """Raise it in so many seconds."""
        self.has_come = False
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _raise(self, _: int, __: FrameType | None) -> None:
        self.has_come = True
        raise self._error


class Stopper:
    """Raises an exception in this thread from another one, as dramatiq does."""

    def __init__(self, error: type[BaseException]) -> None:
        self._error = ctypes.py_object(error)
        self._thread = ctypes.c_ulong(threading.get_ident())
        self.has_come = False

    def set(self, seconds: float) -> None:
        """Raise it in so many seconds."""
        self.has_come = False
        threading.Timer(seconds, self._raise).start()

    def _raise(self) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, self._error)
        self.has_come = True


STORAGES: list[Callable[[Path], AuditStorage]] = [
    FileStorage,
    functools.partial(FileStorage, durability="write"),
    lambda directory: SQLiteStorage(directory / "trail.db"),
    lambda _: MemoryStorage(),
]
WAYS: list[tuple[type[Alarm | Stopper], type[BaseException]]] = [
    (Alarm, TimeUp),
    (Alarm, Ended),
    (Alarm, TimeoutError),
    (Alarm, KeyboardInterrupt),
    (Stopper, TimeUp),
    (Stopper, Ended),
]
CASES = list(product(WAYS, [False, True], STORAGES, [0, 2]))


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Leave the signal as it was."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.mark.real_time
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
def test_an_exception_from_outside_ends_its_call_alone(tmp_path: Path, rounds: Iterator[int]) -> None:
    """It opens no incident, and hurts no later call; what is stored is announced, and every alert has a report."""
    for number in rounds:
        # Another case in each round, and all kinds of cases in a few.
        (way, error), is_kept, storage, others = CASES[number * 37 % len(CASES)]
        outcome = Outcome(tmp_path / str(number), storage, is_kept=is_kept, others=others)
        alarm, chance = way(error), random.Random(number)  # noqa: S311  repeatable
        for _ in range(100):
            with contextlib.suppress(error):
                alarm.set(1e-6 + chance.random() * outcome.took)
                outcome.log()
                while not alarm.has_come:
                    time.sleep(0)
                # Raised by now, unless the call has contained it.
                time.sleep(0)
            outcome.log()
        outcome.check()


class Outcome:
    """A trail with what it has acknowledged, and the reports about its alerts."""

    def __init__(self, directory: Path, storage: Callable[[Path], AuditStorage], *, is_kept: bool, others: int) -> None:
        self.dispatcher = RecordingDispatcher()
        outbox = Outbox(self.dispatcher, directory / "alerts.db") if is_kept else self.dispatcher
        self.trail = AuditTrail(storage=storage(directory / "trail"), alert_dispatcher=outbox)
        self.acknowledged: set[str] = set()
        self.reported: set[str] = set()
        alert_dispatched.connect(self.note, sender=self.trail)
        alert_failed.connect(self.note, sender=self.trail)
        self.is_over = threading.Event()
        self.others = [threading.Thread(target=self.log_others) for _ in range(others)]
        self.trail.sync.start()
        self.log()
        for each in self.others:
            each.start()
        began = time.perf_counter()
        for _ in range(10):
            self.log()
        # Seconds of a call.
        self.took = (time.perf_counter() - began) / 10

    def note(self, _: object, *, report: DeliveryReport) -> None:
        self.reported.add(report.event.event_id)

    def log(self) -> None:
        self.acknowledged.add(self.trail.sync.log_event(AuditEventType.AUTHENTICATION_FAILED, "m"))

    def log_others(self) -> None:
        """Log events that do not alert, some of which are stored together with those that do."""
        while not self.is_over.is_set():
            with contextlib.suppress(StoringInterruptedError):
                self.trail.sync.log_event(AuditEventType.DATA_ACCESS, "m")

    def check(self) -> None:
        """Compare all that must agree."""
        self.is_over.set()
        for each in self.others:
            each.join()
        self.trail.sync.drain()
        self.trail.sync.stop()
        events = list(self.trail.sync.events())
        kinds = {AuditEventType.AUTHENTICATION_FAILED} | ({AuditEventType.DATA_ACCESS} if self.others else set())
        assert {event.event_type for event in events} == kinds
        stored = {event.event_id for event in events if event.event_type is AuditEventType.AUTHENTICATION_FAILED}
        assert self.acknowledged <= stored
        assert self.reported == stored
        assert {alert.event.event_id for alert in self.dispatcher.alerts} == stored
        assert self.trail.sync.verify_chain_from_storage().valid
