"""
The trail for synchronous code: the same methods without ``await``.

    trail = AuditTrail(storage_path="audit", alert_dispatcher=pager)
    trail.sync.log_event(AuditEventType.DATA_EXPORT, "nightly export", user_id="cron")
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType, TracebackType
from typing import Any, Concatenate, Final, Literal, ParamSpec, Self, TypeVar, Unpack, overload

from ..record.damage import DamagedRecord
from ..record.errors import StoringInterruptedError, reason
from ..record.events import AuditEvent
from ..record.privacy import Uncopied, without_frames
from ..storage.protocol import AuditStorage, Conditions
from ..tasks.background import Background
from ..tasks.loops import Loop, without_loop
from ..tasks.portal import Portal, run_in
from ..tasks.strangers import Log
from ._reading import Events
from .audit import AuditTrail
from .audited import Audited

__all__ = ["SyncAuditTrail", "exit_on_sigterm"]

P = ParamSpec("P")
T = TypeVar("T")

_log: Final = Log("fapilog")
# The names of the methods that `_without_await` has made.
_made: Final[list[str]] = []


def _without_await(
    method: Callable[Concatenate[AuditTrail, P], Coroutine[Any, Any, T]],
) -> Callable[[Callable[..., object]], Callable[Concatenate[Any, P], T]]:
    """Make a function, of which only the name counts, the *method* of a trail without ``await``."""
    # A decorator, since an attribute that is only assigned has no declared type for the checkers of our users.
    _made.append(method.__name__)

    def decorate(_: Callable[..., object]) -> Callable[Concatenate[Any, P], T]:
        @without_frames
        @functools.wraps(method)
        def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
            # By its name: a subclass of the trail may override it.
            result: T = self._call(functools.partial(getattr(self._trail, method.__name__), *args, **kwargs))
            return result

        return call

    return decorate


class SyncAuditTrail(Uncopied):
    """
    The methods of a trail without ``await``, for Django, Flask, Celery, scripts and any other synchronous code.

    Found as `AuditTrail.sync`; any thread may use it. A record is committed in the calling thread, together with the
    records of the callers that wait at the same time. An alert goes to the event loop that the trail is started in. If
    it is not started, the first alert starts it, or the first call if the trail has a replica, in one background thread
    that serves the whole process; there the dispatcher is entered and retries are made. When the interpreter exits, the
    trail is stopped, which takes `stop_timeout` seconds at most. Until then the process keeps it, and its open files: a
    trail that is made for one test or one request needs ``with trail.sync``, or `stop`. SIGTERM ends a plain script at
    once, without stopping: see `exit_on_sigterm`.

    Called in a thread whose event loop runs, the methods that record and read block that loop for as long as they take;
    the methods that wait for alerts raise.

    With a storage of your own, whose `runs_anywhere` is not true, and with a subclass that overrides a method, the
    methods run in the event loop of the background thread while the calling thread waits.
    """

    def __init__(
        self, trail: AuditTrail, storage: AuditStorage, background: Background, *, stop_timeout: float
    ) -> None:
        self._trail = trail
        self._storage = storage
        self._background = background
        self._stop_timeout = stop_timeout

    def __repr__(self) -> str:
        return f"<{self._trail!r} without await>"

    @_without_await(AuditTrail.log_event)
    def log_event(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.log_event`."""

    @_without_await(AuditTrail.log_error)
    def log_error(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.log_error`."""

    @_without_await(AuditTrail.log_security_event)
    def log_security_event(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.log_security_event`."""

    @_without_await(AuditTrail.log_data_access)
    def log_data_access(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.log_data_access`."""

    @_without_await(AuditTrail.log_authentication)
    def log_authentication(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.log_authentication`."""

    @_without_await(AuditTrail.log_change)
    def log_change(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.log_change`."""

    @_without_await(AuditTrail.log_admin_action)
    def log_admin_action(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.log_admin_action`."""

    def audited(self, operation: str, **fields: Any) -> Audited:
        """Return the same as `AuditTrail.audited`: after ``with`` and ``@``, it records without ``await``."""
        return self._trail.audited(operation, **fields)

    @_without_await(AuditTrail.get_events)
    def get_events(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.get_events`."""

    @_without_await(AuditTrail.count_by)
    def count_by(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.count_by`."""

    @overload
    def events(
        self,
        *,
        oldest_first: bool = False,
        on_damage: Literal["log", "raise"] = "log",
        **conditions: Unpack[Conditions],
    ) -> Iterator[AuditEvent]: ...

    @overload
    def events(
        self, *, oldest_first: bool = False, on_damage: Literal["yield"], **conditions: Unpack[Conditions]
    ) -> Iterator[AuditEvent | DamagedRecord]: ...

    def events(self, **options: Any) -> Iterator[Any]:
        """Do as `AuditTrail.events`, for ``for``; raises `AuditStorageError` where the trail can't be read."""
        pages: Events[Any] = self._trail.events(**options)
        # Checked by now, and not at the first step.
        return itertools.chain.from_iterable(iter(lambda: self._call(pages.next_page), []))

    @_without_await(AuditTrail.get_statistics)
    def get_statistics(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.get_statistics`."""

    @_without_await(AuditTrail.head)
    def head(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.head`."""

    @_without_await(AuditTrail.holds)
    def holds(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.holds`."""

    @_without_await(AuditTrail.verify_chain_from_storage)
    def verify_chain_from_storage(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.verify_chain_from_storage`."""

    @_without_await(AuditTrail.apply_retention)
    def apply_retention(self, *args: Any, **kwargs: Any) -> object:
        """Do as `AuditTrail.apply_retention`."""

    def start(self) -> None:
        """
        Send alerts in the background from now on. Nothing happens if the trail is started already.

        Raises:
            Exception: The dispatcher can't be entered: its own exception.
            RuntimeError: The interpreter is exiting, or no thread can be started.
        """
        if self._background.home is None:
            self._portal().run(self._trail.start)

    def stop(self) -> None:
        """
        Stop the trail, as `AuditTrail.stop` does, in the event loop that it is started in.

        Raises:
            RuntimeError: This thread runs that event loop, which would wait for itself; use ``await trail.stop()``. Or
                that loop does not answer.
        """
        self._wait_for(self._trail.stop)

    def drain(self) -> None:
        """
        Wait until every alert has been sent or has failed.

        Raises:
            RuntimeError: This thread runs the event loop that sends the alerts; use ``await trail.drain()``. Or
                that loop does not answer.
        """
        self._wait_for(self._trail.drain)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _call(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a recording or reading method here, or in the background thread if it can't run without a loop."""
        if not self._runs_here:
            self.start()
            return self._portal().run(call)
        try:
            return without_loop(call())
        except (ImportError, NameError) as error:
            if not sys.is_finalizing():
                raise
            # A finalizer calls at the very end: the interpreter has taken `open` and modules away.
            words = "the interpreter ends: nothing can be read, and an event may be stored or not"
            raise StoringInterruptedError(words) from error
        finally:
            if (self._background.kept or self._lacks_replication) and not self._trail.is_started:
                self._start_soon()

    @property
    def _runs_here(self) -> bool:
        kind = type(self._trail)
        return getattr(self._storage, "runs_anywhere", False) and (
            kind is AuditTrail or all(getattr(kind, name) is getattr(AuditTrail, name) for name in _made)
        )

    @property
    def _lacks_replication(self) -> bool:
        """Whether the records are to be copied, and nothing in this process has begun that."""
        replication = self._trail.replication
        return replication is not None and not replication.was_entered

    @property
    def _may_be_starting(self) -> bool:
        """Whether the trail was started for its replica, and that may not be over yet."""
        if self._trail.replication is None:
            return False
        return self._trail.is_started or (self._lacks_replication and Portal.serves(self._trail))

    def _start_soon(self) -> None:
        """Start the trail in the background thread, which sends the waiting alerts, and do not wait for it."""
        portal = Portal.of_process()
        if portal is None:
            # The interpreter is exiting, or no thread can be started: send the alerts here and now.
            if not Loop.runs_here():
                try:
                    from ..tasks._ownloop import run  # noqa: PLC0415  with it comes asyncio

                    run(self._background.settle)
                except Exception as error:
                    # A loop needs file descriptors. The caller has its event, or the error of the storage.
                    _log.error("alerts can't be sent now, and are with the next event: %s", reason(error))
            return
        portal.stop_at_exit(self._trail, within=self._stop_timeout)
        portal.start_soon(self._trail.start)

    def _wait_for(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._background.kept or self._may_be_starting:
            self.start()
        home = self._background.home
        if home is not None:
            run_in(home, call)
        elif self._trail.is_started or Portal.serves(self._trail):
            self._portal().run(call)
        else:
            without_loop(call())

    def _portal(self) -> Portal:
        portal = Portal.of_process()
        if portal is None:
            raise RuntimeError("the trail can't be started: the interpreter is exiting, or no thread can be started")
        portal.stop_at_exit(self._trail, within=self._stop_timeout)
        return portal


def exit_on_sigterm() -> None:
    """
    Make SIGTERM end the interpreter as `sys.exit` does, so that trails are stopped and no alert in memory is lost.

    For a script or a worker that you run yourself, under systemd, Docker or Kubernetes: by default SIGTERM ends Python
    at once, and no exit handler runs. Call it once, in the main thread, early. A handler that the application or its
    server has installed stays, and nothing happens. The exit code is 143, as of a process that SIGTERM has ended.

    Not for a program that is at work in an event loop of its own, which would end in the midst of that: there wait for
    the signal by `anyio.open_signal_receiver`, and leave the trail.

    Raises:
        ValueError: This is not the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("exit_on_sigterm() must be called in the main thread")
    import signal  # noqa: PLC0415  for the processes that call this alone

    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _: FrameType | None) -> None:
    import signal  # noqa: PLC0415

    # A second signal, during the exit, ends the process at once.
    signal.signal(number, signal.SIG_DFL)
    sys.exit(128 + number)
