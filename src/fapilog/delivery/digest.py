"""
Turn a storm of alerts into a first alert and a summary.

    from fapilog.delivery.digest import Digest

    trail = AuditTrail(alert_dispatcher=Digest(Outbox(slack, "outbox.db"), window=60.0))
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, NamedTuple, Self

import anyio

from ..core.alerting import Alert, AlertDispatcher, Reporter, pause_of, reporter, require_dispatcher
from ..record.errors import BrokenRouteError, PermanentDeliveryError, reason
from ..record.events import AuditEvent
from ..record.kinds import AuditLogLevel, member
from ..record.options import require, require_callable, several
from ..record.privacy import Uncopied
from ..tasks.background import Background
from ..tasks.fork import call_in_child
from ..tasks.life import Life
from ..tasks.loops import Event
from ..tasks.strangers import Log, answer
from ._inner import Managers, deliver
from ._summary import COMPONENT_LENGTH, Counted, digest_of

__all__ = ["Digest", "digest_of"]

_log: Final = Log("fapilog.delivery")

# Seconds between two tries to send a summary, unless the target asks for more, and the most that it may ask for.
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0
_LONGEST_PAUSE: Final = 3600.0
# The key of the window that all keys share for which there is no room.
_OTHERS: Final = object()


class Digest(Uncopied):
    """
    Sends the first alerts of a kind at once, and counts the rest into one summary.

    The first alert of a key opens a window of *window* seconds. The first *burst* alerts in it go to *inner* as they
    come, and its exceptions are raised; an alert that fails or is cancelled gives its place to the next, or to its own
    retry. All further alerts are counted: `send_alert` returns, which means only that the alert is counted. When the
    window closes, the counted alerts go to *inner* as one summary. The next alert of the key opens a new window. So at
    most *burst* alerts and one summary of a key go out in a window.

    A summary is an `AuditEvent` that is not in the trail. It has the type, component, machine and process of the first
    alert that it counts, the highest level and severity of all, and the sequence number and checksum of the newest
    event; nothing that may be personal is in it. Its message says how many there were, the first and last time and
    record, the ids of the first 20, and `digest_of` all ids. The same is in its metadata, as `count`, `first_time`,
    `last_time`, `first_sequence_number`, `last_sequence_number`, `event_ids` and `ids_sha256`. To prove its count, take
    from the trail the events of that kind and process between the two records, leave out the events whose alerts were
    sent by themselves, and compare `digest_of` their ids. Its own id is made of that digest, and is the same in every
    try.

    Summaries are sent one after the other. A summary that fails is retried, with waits that grow from 1 to 60 seconds,
    until it goes out, is refused by a `PermanentDeliveryError`, or the digest is left. Leaving closes all windows and
    sends summaries for *stop_timeout* seconds at most. A summary that is given up is logged as an error, with its count
    and records. In a trail, failing summaries are an incident, which alerts once.

    The counts are in memory: a crash loses the counts of open windows, and the events are in the trail. An `Outbox`
    inside keeps summaries until they are sent, but the trail can't ask it for missing alerts: it never had the counted
    ones. An outbox outside, ``Outbox(Digest(a))``, can be asked, and keeps no summary. A `Route` or `FanOut` inside
    sends summaries as it sends alerts; ``FanOut([Digest(a), b])`` sums up for a only. A `Retrying` belongs inside.

    Not entered as an asynchronous context manager, it sends every alert, as no task would close a window. If *inner* is
    one, it is entered and left with this.

    Args:
        inner: Gets the alerts and the summaries.
        window: Seconds from the first alert of a key to its summary.
        burst: Alerts of a key in a window that go at once; 0 for summaries only.
        key: Called with event, severity and channel; alerts with equal keys are counted together. None stands for the
            event's type and component, the severity and the channel. It is called in the event loop and must not block;
            where it raises, which is logged by type, or returns a value that can't be hashed and compared, the key is
            that of None.
        bypass: Severities, one or several, whose alerts all go at once, uncounted; for example ``"critical"``.
        max_keys: Windows that are open at a time. Alerts of further keys share one more window; its summary says so,
            and goes where the first of them would have. Also the number of summaries that may wait to be sent.
        timeout: Seconds that *inner* may take for a summary.
        stop_timeout: Seconds for the waiting summaries when this is left. Let a trail's *stop_timeout* be longer.

    Raises:
        TypeError: *inner* is no dispatcher, *key* can't be called or is asynchronous, or a number is none.
        ValueError: A number is out of range, or an unknown severity.
    """

    def __init__(
        self,
        inner: AlertDispatcher,
        *,
        window: float = 60.0,
        burst: int = 1,
        key: Callable[[AuditEvent, str, str | None], Hashable] | None = None,
        bypass: str | Collection[str] = (),
        max_keys: int = 10_000,
        timeout: float = 30.0,
        stop_timeout: float = 5.0,
    ) -> None:
        self._inner = require_dispatcher("inner", inner)
        self._window = require("window", window, above=0, finite=True)
        self._burst = require("burst", burst, at_least=0, whole=True)
        require_callable("key", key, expected="a function of event, severity and channel", or_none=True)
        self._key = key
        self._bypass = frozenset(member(AuditLogLevel, each, "bypass").value for each in several("bypass", bypass))
        self._max_keys = require("max_keys", max_keys, at_least=1, whole=True)
        self._timeout = require("timeout", timeout, above=0)
        self._stop_timeout = require("stop_timeout", stop_timeout, at_least=0)
        self._managers = Managers([inner])
        self._background = Background()
        self._times_entered = 0
        self._life: Life | None = None
        self._counts = False
        self._leaving = False
        # In the order in which they close, since all are open for the same time.
        self._windows: OrderedDict[Hashable, _Window] = OrderedDict()
        # A heap: the next one due first.
        self._waiting: list[_Summary] = []
        self._made = 0
        self._wake = Event()
        self._reporter: Reporter | None = None
        self._name = f"the digest for {type(inner).__qualname__}"
        call_in_child(self, Digest._forget)

    async def __aenter__(self) -> Self:
        self._forget_closed_loop()
        await self._managers.enter()
        self._times_entered += 1
        if self._times_entered == 1:
            self._reporter = reporter.get()
            self._life = Life(self._running())
            try:
                await self._life.enter()
            except BaseException:
                self._times_entered -= 1
                with anyio.CancelScope(shield=True):
                    await self._managers.leave()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._times_entered -= 1
        try:
            if self._times_entered == 0 and self._life is not None:
                await self._life.leave()
        finally:
            await self._managers.leave()

    def __repr__(self) -> str:
        return f"<Digest {self._inner!r}>"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Send the alert to *inner*, and raise its exceptions; or count it, which raises nothing and never waits."""
        self._forget_closed_loop()
        if not self._counts or severity in self._bypass:
            await self._inner.send_alert(event, severity=severity, channel=channel)
            return
        alert = Alert(event, severity, channel)
        window = self._window_of(alert)
        if window.sent >= self._burst:
            window.count(alert)
            return
        window.sent += 1
        try:
            await self._inner.send_alert(event, severity=severity, channel=channel)
        except BaseException:
            # Otherwise its own retry would be counted, and not sent at once.
            window.sent -= 1
            raise

    def _window_of(self, alert: Alert) -> _Window:
        self._close_due()
        key = self._key_of(alert)
        if key not in self._windows and len(self._windows) >= self._max_keys:
            key = _OTHERS
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window(anyio.current_time() + self._window, others=key is _OTHERS)
            if len(self._windows) == 1:
                self._wake.set()
        return window

    def _key_of(self, alert: Alert) -> Hashable:
        if self._key is not None:
            key: _Key | None = None
            try:
                key = _Key(answer(self._key, *alert))
                _ = key in self._windows
                problem = key.problem
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                problem = type(error).__qualname__
            if key is not None and problem is None:
                return key
            # Not its text or traceback, which may hold values of the event.
            _log.error("key raised %s for event %s", problem, alert.event.event_id)
        component = alert.event.component
        return alert.event.event_type, component and component[:COMPONENT_LENGTH], alert.severity, alert.channel

    def _close_due(self) -> None:
        now = anyio.current_time()
        while self._windows and next(iter(self._windows.values())).closes <= now:
            self._close_first()

    def _close_first(self) -> None:
        _, window = self._windows.popitem(last=False)
        if window.counted is None:
            return
        self._made += 1
        summary = _Summary(
            due=anyio.current_time(),
            number=self._made,
            tries=0,
            alert=window.counted.summary(self._window, others=window.others),
            counted=window.counted,
        )
        # One more than there are keys: the window that further keys share. On leaving, all had their room as windows.
        if len(self._waiting) > self._max_keys and not self._leaving:
            self._give_up(window.counted, f"{len(self._waiting)} summaries are waiting already")
        else:
            heapq.heappush(self._waiting, summary)

    async def _keep_closing(self) -> None:
        """Close windows and send summaries when they are due, until all is done and this is left."""
        while self._waiting or not self._leaving:
            self._close_due()
            now = anyio.current_time()
            if self._waiting and self._waiting[0].due <= now:
                await self._send_next()
            else:
                closes = next(iter(self._windows.values())).closes if self._windows else math.inf
                due = self._waiting[0].due if self._waiting else math.inf
                with anyio.move_on_after(min(closes, due) - now):
                    await self._wake.wait()
                self._wake = Event()

    async def _send_next(self) -> None:
        summary = heapq.heappop(self._waiting)
        try:
            error = await deliver(self._inner, summary.alert, self._timeout)
        except BaseException:
            heapq.heappush(self._waiting, summary)
            raise
        if error is None:
            self._say_it_works()
        elif isinstance(error, PermanentDeliveryError) and not isinstance(error, BrokenRouteError):
            self._give_up(summary.counted, reason(error))
            self._say_it_fails(error)
        else:
            self._try_again(summary, error)
            self._say_it_fails(error)

    def _try_again(self, summary: _Summary, error: Exception) -> None:
        # There is no time for a long wait while the digest is left; this summary may have been under way then.
        wait = _FIRST_WAIT if self._leaving else min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(summary.tries, 100))
        wait = max(wait, pause_of(error, _LONGEST_PAUSE) or 0)
        _log.warning(
            "a summary of %s, was not sent; the next try is in %.1f s: %s", summary.counted, wait, reason(error)
        )
        heapq.heappush(self._waiting, summary._replace(due=anyio.current_time() + wait, tries=summary.tries + 1))

    def _give_up(self, counted: Counted, why: str) -> None:
        _log.error("a summary of %s, is lost: %s", counted, why)

    def _say_it_fails(self, error: Exception) -> None:
        if self._reporter is not None:
            self._reporter.failing(self._name, reason(error))

    def _say_it_works(self) -> None:
        # Not while other summaries wait for another try: the incident would be opened and resolved in turns.
        if self._reporter is not None and not any(summary.tries for summary in self._waiting):
            self._reporter.working(self._name)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        """Count alerts; in the end close all windows, send the summaries as long as there is time, and log the rest."""
        life = self._life
        assert life is not None  # noqa: S101 - entered by this life
        self._wake = Event()
        try:
            async with self._background.open():
                self._background.start_soon(self._keep_closing)
                self._counts = True
                yield
                self._counts, self._leaving = False, True
                while self._windows:
                    self._close_first()
                self._waiting = [summary._replace(due=-math.inf) for summary in self._waiting]
                heapq.heapify(self._waiting)
                self._wake.set()
                await life.within(self._stop_timeout, self._background.settle)
        finally:
            self._counts = self._leaving = False
            for summary in self._waiting:
                self._give_up(summary.counted, "the digest was left")
            self._waiting.clear()
            self._reporter = None

    def _forget_closed_loop(self) -> None:
        """Count nothing if the event loop was closed before this was left: no task would ever send the counts."""
        if self._life is not None and self._life.is_lost:
            for counted in (
                *(summary.counted for summary in self._waiting),
                *(window.counted for window in self._windows.values()),
            ):
                if counted is not None:
                    self._give_up(counted, "the event loop was closed")
            self._forget()

    def _forget(self) -> None:
        """Count nothing in a forked child: the parent sends its counts."""
        self._background.forget()
        self._life = None
        self._times_entered = 0
        self._windows.clear()
        self._waiting.clear()
        self._counts = self._leaving = False
        self._reporter = None


class _Key:
    """
    A key of the user's: hashed once, and different from every key that it can't be compared with.

    An exception of the user's out of the table of windows would keep them from closing.

    Attributes:
        problem: The type of the exception that a comparison with another key has raised; None if none has.
    """

    __slots__ = ("_hash", "_value", "problem")

    def __init__(self, value: Hashable) -> None:
        self._value = value
        self._hash = hash(value)
        self.problem: str | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Key):
            return False
        try:
            return bool(self._value == other._value)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.problem = other.problem = type(error).__qualname__
            return False


class _Window:
    """The alerts of one key since its first, until `closes` on the event loop's clock."""

    __slots__ = ("closes", "counted", "others", "sent")

    def __init__(self, closes: float, *, others: bool) -> None:
        self.closes = closes
        self.others = others
        self.sent = 0
        self.counted: Counted | None = None

    def count(self, alert: Alert) -> None:
        """Count *alert*."""
        if self.counted is None:
            self.counted = Counted(alert)
        self.counted.add(alert)


class _Summary(NamedTuple):
    due: float
    number: int
    tries: int
    alert: Alert
    counted: Counted
