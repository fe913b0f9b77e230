"""What `fapilog.testing` gives to the tests of others."""

import asyncio
import functools
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec.structs
import pytest

from fapilog import AlertDispatcher, AuditEvent, AuditEventType, AuditTrail, DeliveryError, NoopAlertDispatcher
from fapilog.testing import Origin, RecordedAlert, RecordedTrail, RecordingDispatcher, check_dispatcher

EVENT = AuditEvent(event_type=AuditEventType.SECURITY_VIOLATION, message="the door is open")
SECRET = "xoxb-1234"


# -- RecordingDispatcher


async def test_records_every_call() -> None:
    """Each call is recorded as it was made, in its order."""
    dispatcher = RecordingDispatcher()
    await dispatcher.send_alert(EVENT, severity="critical", channel="#on-call")
    await dispatcher.send_alert(EVENT, severity="info")
    assert dispatcher.alerts == [
        RecordedAlert(event=EVENT, severity="critical", channel="#on-call"),
        RecordedAlert(event=EVENT, severity="info", channel=None),
    ]


async def test_fails_as_told() -> None:
    """A call that is told to fail is recorded, then raises; told otherwise, the next one returns."""
    dispatcher = RecordingDispatcher(error=DeliveryError("refused"))
    with pytest.raises(DeliveryError, match="refused"):
        await dispatcher.send_alert(EVENT, severity="info")
    dispatcher.error = None
    await dispatcher.send_alert(EVENT, severity="info")
    assert len(dispatcher.alerts) == 2


async def test_hangs_as_told() -> None:
    """A call that is told to hang is recorded, and lasts until it is cancelled."""
    dispatcher = RecordingDispatcher(wait=anyio.sleep_forever)
    with anyio.move_on_after(3600) as limit:
        await dispatcher.send_alert(EVENT, severity="info")
    assert limit.cancelled_caught
    assert len(dispatcher.alerts) == 1


async def test_waits_for_you() -> None:
    """A call that is told to wait for an event returns after it was set."""
    go_on = anyio.Event()
    dispatcher = RecordingDispatcher(wait=go_on.wait)
    returned: list[bool] = []

    async def send() -> None:
        await dispatcher.send_alert(EVENT, severity="info")
        returned.append(go_on.is_set())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await dispatcher.wait_for(1)
        go_on.set()
    assert returned == [True]


async def test_wait_for_returns_when_enough_came() -> None:
    """Waiting for three alerts ends with the third, and not before."""
    dispatcher = RecordingDispatcher()
    seen: list[int] = []

    async def wait() -> None:
        seen.append(len(await dispatcher.wait_for(3)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait)
        for count in range(4):
            await anyio.wait_all_tasks_blocked()
            assert seen == ([3, 3] if count == 3 else [])
            await dispatcher.send_alert(EVENT, severity="info")


async def test_wait_for_returns_at_once_if_all_came() -> None:
    """Waiting for what has come already does not wait."""
    dispatcher = RecordingDispatcher()
    await dispatcher.send_alert(EVENT, severity="info")
    with anyio.fail_after(0):
        assert await dispatcher.wait_for(1) == dispatcher.alerts


def test_one_dispatcher_on_several_event_loops() -> None:
    """A dispatcher that was waited on in one event loop can be waited on in another."""
    dispatcher = RecordingDispatcher()

    async def send_and_wait(count: int) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatcher.wait_for, count)
            await anyio.wait_all_tasks_blocked()
            await dispatcher.send_alert(EVENT, severity="info")

    anyio.run(send_and_wait, 1, backend="asyncio")
    anyio.run(send_and_wait, 2, backend="trio")
    assert len(dispatcher.alerts) == 2


@pytest.mark.real_time
async def test_wait_for_hears_of_alerts_of_another_thread() -> None:
    """An alert that the thread of `sync` sends ends the waiting in any loop, and is delivered."""
    trail = RecordedTrail()

    async def log() -> None:
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(
            lambda: trail.sync.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password")
        )

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log)
        [alert] = await trail.dispatcher.wait_for(1)
    await anyio.to_thread.run_sync(trail.sync.stop)
    assert alert.event.message == "wrong password"
    assert (await trail.get_statistics())["alerts"] == {"dispatched": 1, "failed": 0, "waiting": 0}


def test_an_origin_ends_whatever_its_clients_do() -> None:
    """A client that connects and says nothing keeps no thread of an origin, over TLS neither."""
    before = set(threading.enumerate())
    for tls in (None, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)):
        with Origin(tls) as origin:
            client = socket.create_connection(("127.0.0.1", int(origin.base_url.rpartition(":")[2])))
            while not origin.connections:
                time.sleep(0)
        client.close()
    # A thread of an earlier test may have ended meanwhile.
    assert set(threading.enumerate()) <= before


@pytest.mark.real_time
async def test_records_what_a_trail_sends(tmp_path: Path) -> None:
    """As a trail's dispatcher it has the stored event, its severity, and its channel."""
    dispatcher = RecordingDispatcher()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=dispatcher) as trail:
        event_id = await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "wrong password")
        (alert,) = await dispatcher.wait_for(1)
    assert (alert.event.event_id, alert.event.sequence_number) == (event_id, 1)
    assert (alert.severity, alert.channel) == ("security", None)


# -- check_dispatcher: what keeps the contract


class Careful:
    """Opens a connection, waits a few times in each call, one call at a time, and lets go when cancelled."""

    def __init__(self) -> None:
        self.open = False
        self._lock = anyio.Lock()

    async def __aenter__(self) -> Self:
        self.open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.open = False

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        assert self.open
        async with self._lock:
            await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep, 0.1)
                tasks.start_soon(anyio.sleep, 0.2)
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.1)


class Refusing(NoopAlertDispatcher):
    """Refuses what it can't say."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        if len(event.message) > 1000:
            raise DeliveryError("too long")


class ClosingByForce:
    """Cancels what it has begun itself, behind a shield, as `anyio.aclose_forcefully` is often used."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        with anyio.CancelScope(shield=True), anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(1)


def partial() -> AlertDispatcher:
    """Return an object whose `send_alert` is a partial."""
    dispatcher = NoopAlertDispatcher()
    dispatcher.send_alert = functools.partial(RecordingDispatcher().send_alert)  # type: ignore[method-assign]
    return dispatcher


@pytest.mark.parametrize("make", [NoopAlertDispatcher, RecordingDispatcher, Careful, Refusing, ClosingByForce, partial])
async def test_keeps_the_contract(make: Callable[[], AlertDispatcher]) -> None:
    """What keeps the contract passes, with its context entered."""
    await check_dispatcher(make, secrets=[SECRET])


async def test_each_part_has_a_fresh_dispatcher() -> None:
    """Every dispatcher that is made is entered once, and left."""
    made: list[Careful] = []

    def make() -> Careful:
        made.append(Careful())
        return made[-1]

    await check_dispatcher(make)
    assert len(made) > 1
    assert not any(dispatcher.open for dispatcher in made)


async def test_failing_may_fail() -> None:
    """A dispatcher that raises what the other side said passes as one that fails."""
    await check_dispatcher(NoopAlertDispatcher, failing=lambda: RecordingDispatcher(error=OSError("503")))


async def test_logging_is_as_before(caplog: pytest.LogCaptureFixture) -> None:
    """The check leaves the root logger with the level and the handlers that it had."""
    caplog.set_level(logging.ERROR)
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    await check_dispatcher(NoopAlertDispatcher, secrets=[SECRET])
    assert (root.level, root.handlers) == before


async def test_logging_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Without secrets the root logger keeps its level during the check too."""
    caplog.set_level(logging.ERROR)
    levels: set[int] = set()

    class Asking(NoopAlertDispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            levels.add(logging.getLogger().level)

    await check_dispatcher(Asking)
    assert levels == {logging.ERROR}


# -- check_dispatcher: what breaks it, one clause each


class Broken:
    """Takes every alert; what is derived from it breaks one clause."""

    says: ClassVar[str]

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> Any:
        await self.send(event, severity)

    async def send(self, event: AuditEvent, severity: str) -> object:
        await anyio.lowlevel.checkpoint()
        return None


class Synchronous(Broken):
    """Is no coroutine function."""

    says = "expected an object with `async def send_alert"

    def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> Any:
        pass


class Nameless(Broken):
    """Does not know the name *channel*."""

    says = "send_alert takes .* got an unexpected keyword argument 'channel'"

    async def send_alert(self, event: AuditEvent, *, severity: str, where: str | None = None) -> Any:  # type: ignore[override]
        pass


class Demanding(Broken):
    """Must have a channel."""

    says = "given severity: missing a required .*'channel'"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None) -> Any:  # type: ignore[override]
        pass


class Telling(Broken):
    """Returns a word for how it went."""

    says = "return None, and not a str"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> Any:
        return "ok"


class FewSeverities(Broken):
    """Knows four of the severities."""

    says = "deliver an alert of type .* and severity (debug|security); it raised KeyError"

    async def send(self, event: AuditEvent, severity: str) -> None:
        {"info": 1, "warning": 2, "error": 3, "critical": 4}[severity]


class FewTypes(Broken):
    """Knows all types of events but the last."""

    says = "deliver an alert of type time_step .*; it raised KeyError"

    async def send(self, event: AuditEvent, severity: str) -> None:
        {each: each.value for each in list(AuditEventType)[:-1]}[event.event_type]


class OnlyOurTypes(Broken):
    """Knows no type of the user's own."""

    says = "deliver an alert of type billing.refund .*; it raised KeyError"

    async def send(self, event: AuditEvent, severity: str) -> None:
        {each: each.value for each in AuditEventType}[event.event_type]


class NeedsAUser(Broken):
    """Takes a user who is not known for granted."""

    says = "deliver an alert about an event that says nothing but its message; it raised AttributeError"

    async def send(self, event: AuditEvent, severity: str) -> None:
        event.user_id.upper()  # type: ignore[union-attr]


class NeedsAChannel(Broken):
    """Takes a channel that is not there for granted."""

    says = "deliver an alert of type .*; it raised AttributeError"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> Any:
        channel.upper()  # type: ignore[union-attr]


class OneLine(Broken):
    """Puts the message into a header."""

    says = "deliver an alert that says .*, or refuse it with a DeliveryError; it raised ValueError"

    async def send(self, event: AuditEvent, severity: str) -> None:
        if "\n" in event.message:
            raise ValueError("a header has one line")


class Short(Broken):
    """Takes no long message."""

    says = "deliver an alert that says 'long long .*; it raised OverflowError"

    async def send(self, event: AuditEvent, severity: str) -> None:
        if len(event.message) > 40_000:
            raise OverflowError


class Panicking(Broken):
    """Ends the process at a NUL."""

    says = "raise nothing but exceptions of class Exception; it raised SystemExit"

    async def send(self, event: AuditEvent, severity: str) -> None:
        if "\x00" in event.message:
            sys.exit(1)


class Cancelling(Broken):
    """Raises what another of its tasks was cancelled with."""

    says = "raise nothing but exceptions of class Exception; it raised CancelledError"

    async def send(self, event: AuditEvent, severity: str) -> None:
        raise asyncio.CancelledError


class Changing(Broken):
    """Blanks the message of the event."""

    says = "leave the event as it is"

    async def send(self, event: AuditEvent, severity: str) -> None:
        msgspec.structs.force_setattr(event, "message", "")


class DeepChanging(Broken):
    """Adds to the metadata of the event."""

    says = "leave the event as it is"

    async def send(self, event: AuditEvent, severity: str) -> None:
        dict.__setitem__(event.metadata, "seen", 1)  # type: ignore[index]


class Hanging(Broken):
    """Never returns."""

    says = "return within 10 s"

    async def send(self, event: AuditEvent, severity: str) -> None:
        await anyio.sleep_forever()


class OneAtATime(Broken):
    """Refuses a second call while the first is under way."""

    says = "calls should overlap; of 8 at once one failed"
    busy = False

    async def send(self, event: AuditEvent, severity: str) -> None:
        if self.busy:
            raise RuntimeError("busy")
        self.busy = True
        try:
            await anyio.sleep(1)
        finally:
            self.busy = False


class Swallowing(Broken):
    """Returns when it is cancelled, so that a lost alert counts as delivered."""

    says = "let a cancellation pass, and not return as if the alert were delivered"

    async def send(self, event: AuditEvent, severity: str) -> None:
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            pass


class SwallowingLate(Swallowing):
    """Swallows the cancellation at its third wait only."""

    async def send(self, event: AuditEvent, severity: str) -> None:
        await anyio.sleep(1)
        await anyio.sleep(1)
        await super().send(event, severity)


class Translating(Broken):
    """Makes an error of its own out of a cancellation."""

    says = "let a cancellation pass; it raised DeliveryError"

    async def send(self, event: AuditEvent, severity: str) -> None:
        try:
            await anyio.sleep(1)
        except BaseException as error:
            raise DeliveryError("failed") from error


class Deaf(Broken):
    """Goes on for long when it is cancelled."""

    says = "end within 10 s when it is cancelled"

    async def send(self, event: AuditEvent, severity: str) -> None:
        for _ in range(200):
            try:
                await anyio.sleep(0.001)
            except anyio.get_cancelled_exc_class():
                pass


class Shielded(Broken):
    """Takes a minute, and can't be cancelled meanwhile."""

    says = "return within 10 s"

    async def send(self, event: AuditEvent, severity: str) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(60)


class Slow(Broken):
    """Cleans up for a minute when it is cancelled."""

    says = "end within 10 s when it is cancelled"

    async def send(self, event: AuditEvent, severity: str) -> None:
        try:
            await anyio.sleep(1)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)
            raise


class KeepsItsLock(Broken):
    """Does not let go of its lock when it is cancelled."""

    says = "return within 10 s"

    def __init__(self) -> None:
        self._lock = anyio.Semaphore(1)

    async def send(self, event: AuditEvent, severity: str) -> None:
        await self._lock.acquire()
        await anyio.sleep(1)
        self._lock.release()


class Shown(Broken):
    """Shows a secret in its repr."""

    says = "the repr or str of the dispatcher shows number 1"

    def __repr__(self) -> str:
        return f"Shown(token={SECRET!r})"


class Named(Broken):
    """Shows a secret as text."""

    says = "the repr or str of the dispatcher shows number 1"

    def __str__(self) -> str:
        return f"to {SECRET}"

    def __repr__(self) -> str:
        return "Named()"


class Logged(Broken):
    """Logs a secret at DEBUG."""

    says = "a record of the logger vendor.http shows number 1"

    async def send(self, event: AuditEvent, severity: str) -> None:
        logging.getLogger("vendor.http").debug("POST %s", SECRET)


class LoggedInExtra(Broken):
    """Logs a secret where only structured logs show it."""

    says = "a record of the logger vendor.http shows number 1"

    async def send(self, event: AuditEvent, severity: str) -> None:
        logging.getLogger("vendor.http").debug("POST", extra={"url": SECRET})


class LoggedInTraceback(Broken):
    """Logs a traceback whose cause shows a secret."""

    says = "a record of the logger vendor.http shows number 1"

    async def send(self, event: AuditEvent, severity: str) -> None:
        try:
            await Chained(hide=False).send_alert(event, severity=severity)
        except DeliveryError:
            logging.getLogger("vendor.http").exception("failed")


BROKEN = Broken.__subclasses__() + Swallowing.__subclasses__()


@pytest.mark.one_backend
@pytest.mark.parametrize("broken", BROKEN)
async def test_breaks_the_contract(broken: type[Broken]) -> None:
    """What breaks a clause fails, and the message says which clause."""
    with pytest.raises(AssertionError, match=broken.says):
        await check_dispatcher(broken, secrets=[SECRET])


async def test_a_failure_is_not_wrapped() -> None:
    """A failure is a plain AssertionError, even if the dispatcher runs a task group."""

    class WithTasks(OneLine):
        async def __aenter__(self) -> None:
            self._tasks = anyio.create_task_group()
            await self._tasks.__aenter__()

        async def __aexit__(self, *error: object) -> bool | None:
            return await self._tasks.__aexit__(*error)  # type: ignore[arg-type]

    with pytest.raises(AssertionError, match="refuse it with a DeliveryError"):
        await check_dispatcher(WithTasks)


async def test_failing_must_raise() -> None:
    """A dispatcher that returns although the other side refuses fails."""
    with pytest.raises(AssertionError, match="raise if the other side does not take the alert"):
        await check_dispatcher(NoopAlertDispatcher, failing=NoopAlertDispatcher)


def refuse() -> NoReturn:
    raise OSError(f"https://hooks.example.com/{SECRET}")


class Chained:
    """Raises an error that has the vendor's behind it, as its cause or, hidden by ``from None``, as its context."""

    def __init__(self, *, hide: bool) -> None:
        self._hide = hide

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        try:
            refuse()
        except OSError as error:
            if self._hide:
                raise DeliveryError("refused") from None
            raise DeliveryError("refused") from error


class Grouped:
    """Raises the vendor's error as one of several."""

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        raise ExceptionGroup("all failed", [OSError(SECRET), OSError("other")])


class Quiet(Exception):
    """Says nothing as text, and everything as a repr."""

    def __str__(self) -> str:
        return "refused"


@pytest.mark.parametrize(
    "failing",
    [
        lambda: RecordingDispatcher(error=OSError(SECRET)),
        lambda: RecordingDispatcher(error=Quiet(SECRET)),
        lambda: Chained(hide=False),
        lambda: Chained(hide=True),
        Grouped,
    ],
    ids=["text", "repr", "cause", "context", "group"],
)
async def test_exceptions_hide_secrets(failing: Callable[[], AlertDispatcher]) -> None:
    """A secret in an exception, or in anything behind it, fails, and the failure does not repeat it."""
    with pytest.raises(AssertionError, match="an exception shows number 2") as failure:
        await check_dispatcher(NoopAlertDispatcher, failing=failing, secrets=["not this one", SECRET])
    assert SECRET not in str(failure.value)
    assert failure.value.__cause__ is None
    assert failure.value.__context__ is None


async def test_cancelling_the_check() -> None:
    """Cancelling the check itself cancels the call that is under way, and passes."""
    with anyio.move_on_after(1) as limit:
        await check_dispatcher(Hanging)
    assert limit.cancelled_caught


async def test_a_keyboard_interrupt_passes() -> None:
    """An interrupt is none of the dispatcher's errors."""
    with pytest.raises(KeyboardInterrupt):
        await check_dispatcher(lambda: RecordingDispatcher(error=KeyboardInterrupt()))


async def test_a_test_that_travels_in_time_sets_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trail for tests stores no step of the clock, whatever a test replaces."""
    trail = RecordedTrail()
    clock_gettime = time.clock_gettime
    travelled = {time.CLOCK_REALTIME: 86400.0}
    monkeypatch.setattr(time, "clock_gettime", lambda clock: clock_gettime(clock) + travelled.get(clock, 0.0))
    await trail.log_event(AuditEventType.DATA_ACCESS, "tomorrow")
    async with trail:
        await trail.drain()
    assert [event.message for event in trail.events] == ["tomorrow"]


def test_needs_only_the_core() -> None:
    """Importing it loads neither pytest nor trio."""
    script = "import sys, fapilog.testing; print(*{name.partition('.')[0] for name in sys.modules})"
    child = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"pytest", "_pytest", "trio", "hypothesis"} & set(child.stdout.split())


async def test_native_code_of_asyncio(anyio_backend_name: str) -> None:
    """On asyncio a dispatcher may use asyncio itself."""
    if anyio_backend_name != "asyncio":
        return

    class Native(Broken):
        async def send(self, event: AuditEvent, severity: str) -> None:
            await asyncio.sleep(0)
            async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.sleep(0.1))
            await asyncio.wait_for(asyncio.sleep(0.1), 5)

    await check_dispatcher(Native)
