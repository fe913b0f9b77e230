"""The heartbeat: it comes on time whatever happens, says where the chain ends, and can't be forged."""

import asyncio
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditStorageError,
    AuditTrail,
    ChainHead,
    DamagedRecord,
    DeliveryError,
    FileStorage,
)
from fapilog.proof.heartbeat import MIN_KEY_BYTES, Beat, Heartbeat, verify_heartbeat
from fapilog.testing import RecordingDispatcher

KEY = "SECRET-0123456789"


class Dispatcher:
    """Does what it is told for each alert, and remembers when it was handed which."""

    def __init__(self, *actions: Any) -> None:
        self.actions = list(actions)
        self.handed: list[tuple[float, AuditEvent, str, str | None]] = []
        self.at_once = self.most_at_once = 0

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        self.handed.append((anyio.current_time() - BEGAN.get(), event, severity, channel))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            action = self.actions.pop(0) if self.actions else None
            if isinstance(action, BaseException):
                raise action
            if action is not None:
                await action()
        finally:
            self.at_once -= 1

    @property
    def times(self) -> list[float]:
        return [round(when, 3) for when, *_ in self.handed]

    @property
    def beats(self) -> list[Beat]:
        return [verify_heartbeat(event.message, KEY) for _, event, _, _ in self.handed]


class Began:
    """When a test began, by the clock that jumps."""

    def __init__(self) -> None:
        self._time = 0.0

    def set(self) -> None:
        self._time = anyio.current_time()

    def get(self) -> float:
        return self._time


BEGAN = Began()


class Disk(FileStorage):
    """Raises its `error`, if it has one, when it is read."""

    error: Exception | None = None
    hangs = False

    async def find(self, wanted: Any, limit: int) -> Sequence[AuditEvent | DamagedRecord]:
        if self.error is not None:
            raise self.error
        if self.hangs:
            await anyio.sleep_forever()
        return await super().find(wanted, limit)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Return a storage that can be told to fail."""
    return Disk(tmp_path / "audit")


@pytest.fixture
def trail(disk: Disk) -> AuditTrail:
    """Return a trail that is not started."""
    return AuditTrail(storage=disk)


async def run(trail: AuditTrail, dispatcher: Any, seconds: float, **options: Any) -> None:
    """Let a heartbeat run so long."""
    BEGAN.set()
    async with Heartbeat(trail, dispatcher, **{"key": KEY, "interval": 60, **options}):
        await anyio.sleep(seconds)


async def log(trail: AuditTrail) -> None:
    await trail.log_event(AuditEventType.DATA_ACCESS, "PRIVATE", user_id="PRIVATE", component="PRIVATE")


def later(seconds: float) -> Callable[[], Any]:
    async def wait() -> None:
        await anyio.sleep(seconds)

    return wait


# -- what is sent


async def test_a_heartbeat_says_where_the_chain_ends(trail: AuditTrail) -> None:
    """Each is an event that is not stored, with the head of the chain, and a signed line that says it all."""
    dispatcher = Dispatcher()
    async with trail:
        await log(trail)
        await run(trail, dispatcher, 59, name="billing-7", channel="#life")
        (newest,) = await trail.get_events()
    ((_, event, severity, channel),) = dispatcher.handed
    assert (event.event_type, event.component, severity, channel) == (
        AuditEventType.COMPLIANCE_CHECK,
        "heartbeat",
        "info",
        "#life",
    )
    assert (event.sequence_number, event.checksum) == (newest.sequence_number, newest.checksum) == (1, newest.checksum)
    assert verify_heartbeat(event.message, KEY) == Beat(
        name="billing-7", time=event.timestamp, interval=60.0, head=ChainHead(1, newest.checksum)
    )
    assert "\n" not in event.message
    assert "PRIVATE" not in repr(event)


async def test_an_empty_trail_is_alive_too(trail: AuditTrail) -> None:
    """Before the first event the head has the number 0 and no checksum, and every trail holds it."""
    await run(trail, dispatcher := Dispatcher(), 1)
    ((_, event, _, _),) = dispatcher.handed
    assert (event.sequence_number, event.checksum) == (None, None)
    (beat,) = dispatcher.beats
    assert beat.head == ChainHead(0, None)
    assert await trail.holds(beat.head)


async def test_a_cut_tail_is_proved_from_outside(trail: AuditTrail, tmp_path: Path) -> None:
    """A trail whose newest records were cut off verifies, and does not hold the head of the last heartbeat."""
    for _ in range(3):
        await log(trail)
    await run(trail, dispatcher := Dispatcher(), 1)
    (beat,) = dispatcher.beats
    assert beat.head is not None
    assert await trail.holds(beat.head)
    (file,) = (tmp_path / "audit").iterdir()
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
    assert (await trail.verify_chain_from_storage()).valid
    assert not await trail.holds(beat.head)


# -- when it is sent


async def test_the_first_comes_at_once_and_none_drifts(trail: AuditTrail) -> None:
    """Heartbeats come at multiples of the interval, however long sending takes."""
    await run(trail, dispatcher := Dispatcher(*[later(seconds) for seconds in (0, 10, 59, 0.5)]), 241)
    assert dispatcher.times == [0, 60, 120, 180, 240]


async def test_one_that_hangs_makes_room_for_the_next(trail: AuditTrail, caplog: pytest.LogCaptureFixture) -> None:
    """A dispatcher that does not return is cancelled when the next heartbeat is due, which comes on time."""
    await run(trail, dispatcher := Dispatcher(anyio.sleep_forever, anyio.sleep_forever), 150)
    assert dispatcher.times == [0, 60, 120]
    assert dispatcher.most_at_once == 1
    assert [record.message for record in caplog.records] == [
        "heartbeat audit_trail was not sent, 1 in a row: it took longer than 60 s",
        "heartbeat audit_trail was not sent, 2 in a row: it took longer than 60 s",
        "heartbeat audit_trail is sent again; 2 were not",
    ]


async def test_what_was_missed_is_not_made_up_for(trail: AuditTrail) -> None:
    """After a dispatcher that holds on for long, the heartbeats that were missed do not come all at once."""

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(200)

    await run(trail, dispatcher := Dispatcher(stubborn), 301)
    assert dispatcher.times == [0, 200, 240, 300]
    assert dispatcher.most_at_once == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DeliveryError("webhook: status 503"), "webhook: status 503"),
        (ValueError("SECRET"), "ValueError"),
        (ExceptionGroup("SECRET", [OSError("SECRET")]), "ExceptionGroup"),
    ],
    ids=["DeliveryError", "ValueError", "group"],
)
async def test_one_that_fails_does_not_stop_the_next(
    trail: AuditTrail, error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the dispatcher raises is logged without secrets, and the next heartbeat comes on time."""
    await run(trail, dispatcher := Dispatcher(error, error, None, error), 301)
    assert dispatcher.times == [0, 60, 120, 180, 240, 300]
    assert f"was not sent, 2 in a row: {said}" in caplog.text
    assert re.findall(r"\d in a row|again; \d", caplog.text) == [
        *("1 in a row", "2 in a row", "again; 2"),
        *("1 in a row", "again; 1"),
    ]
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_dispatcher_that_cancels_its_task_does_not_stop_the_next(
    trail: AuditTrail, caplog: pytest.LogCaptureFixture
) -> None:
    """A dispatcher that ends the task it is called in ends one heartbeat."""
    await run(trail, dispatcher := Dispatcher(asyncio.CancelledError()), 61)
    assert dispatcher.times == [0, 60]
    assert "was not sent, 1 in a row: it raised CancelledError, which is no ordinary Exception" in caplog.text


async def test_leaving_ends_it(trail: AuditTrail, caplog: pytest.LogCaptureFixture) -> None:
    """When it is left the heartbeat under way is cancelled, none follows, and nothing is complained about."""
    await run(trail, dispatcher := Dispatcher(anyio.sleep_forever), 10)
    await anyio.sleep(1000)
    assert dispatcher.times == [0]
    assert dispatcher.at_once == 0
    assert caplog.text == ""


async def test_the_code_beside_it_is_left_alone(trail: AuditTrail) -> None:
    """What is raised beside a heartbeat comes out as it is, and so does a cancellation."""

    async def fail() -> None:
        async with Heartbeat(trail, Dispatcher(ValueError("v")), key=KEY):
            await anyio.sleep(1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await fail()
    with anyio.move_on_after(5) as scope:
        async with Heartbeat(trail, Dispatcher(), key=KEY):
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_it_may_be_entered_again(trail: AuditTrail) -> None:
    """A heartbeat that was left can be entered once more."""
    BEGAN.set()
    heartbeat = Heartbeat(trail, dispatcher := Dispatcher(), key=KEY)
    for _ in range(2):
        async with heartbeat:
            await anyio.sleep(1)
    assert dispatcher.times == [0, 1]


async def test_it_is_entered_once_at_a_time(trail: AuditTrail) -> None:
    """To enter it while it is entered is refused, and disturbs nothing."""
    BEGAN.set()
    heartbeat = Heartbeat(trail, dispatcher := Dispatcher(), key=KEY, name="clinic")
    async with heartbeat:
        with pytest.raises(ValueError, match=r"^heartbeat clinic: expected one that is not entered; got one that is$"):
            await heartbeat.__aenter__()
        await anyio.sleep(1)
    await anyio.sleep(100)
    assert dispatcher.times == [0]


def test_a_forked_child_may_enter_it_too(trail: AuditTrail) -> None:
    """In a child that was forked while it is entered it is as new, and can be entered there."""
    heartbeat = Heartbeat(trail, RecordingDispatcher(), key=KEY)

    async def enter() -> None:
        async with heartbeat:
            pass

    async def fork() -> int:
        async with heartbeat:
            child = os.fork()
            if child:
                return child
            # A loop of its own needs a thread without one.
            thread = threading.Thread(target=lambda: os._exit(asyncio.run(enter()) is not None))
            thread.start()
            thread.join()
            os._exit(1)

    _, status = os.waitpid(asyncio.run(fork()), 0)
    assert os.waitstatus_to_exitcode(status) == 0


async def test_the_dispatcher_is_entered_and_left(trail: AuditTrail) -> None:
    """A dispatcher that is a context manager is entered before the first heartbeat, and left after the last."""
    steps: list[str] = []

    class Managed(Dispatcher):
        async def __aenter__(self) -> None:
            steps.append("enter")

        async def __aexit__(self, *_: object) -> None:
            steps.append("leave")

        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            steps.append("send")

    await run(trail, Managed(), 61)
    assert steps == ["enter", "send", "send", "leave"]


async def test_a_dispatcher_that_cannot_be_entered(trail: AuditTrail) -> None:
    """If the dispatcher can't be entered, entering the heartbeat raises why."""

    class Broken(Dispatcher):
        async def __aenter__(self) -> None:
            raise ConnectionError("refused")

        async def __aexit__(self, *_: object) -> None: ...

    with pytest.raises(ConnectionError, match="refused"):
        await run(trail, Broken(), 1)


# -- a trail that can't be read


@pytest.mark.parametrize("how", ["fails", "hangs"])
async def test_a_trail_that_cannot_be_read(
    trail: AuditTrail, disk: Disk, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The heartbeat comes all the same and says that the head can't be read, at first as critical; then it is back."""
    dispatcher = Dispatcher()

    async def mend() -> None:
        disk.error, disk.hangs = None, False

    if how == "fails":
        disk.error = AuditStorageError("cannot read /audit: Input/output error")
    else:
        disk.hangs = True
    dispatcher.actions = [DeliveryError("503"), None, mend]
    await run(trail, dispatcher, 211)
    assert dispatcher.times == ([30, 90, 150, 180] if how == "hangs" else [0, 60, 120, 180])
    assert [severity for _, _, severity, _ in dispatcher.handed] == ["critical", "critical", "info", "info"]
    assert [beat.head for beat in dispatcher.beats] == [None, None, None, ChainHead(0, None)]
    assert {event.sequence_number for _, event, _, _ in dispatcher.handed} == {None}
    reason = "it took longer than 30 s" if how == "hangs" else "cannot read /audit: Input/output error"
    assert caplog.text.count(f"the head of the trail can't be read: {reason}") == 3


async def test_what_a_storage_raises_stays_out_of_the_log(
    trail: AuditTrail, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an error that is not ours the type is logged, and not the text."""
    disk.error = ValueError("SECRET")
    await run(trail, dispatcher := Dispatcher(), 1)
    assert len(dispatcher.handed) == 1
    assert "can't be read: ValueError" in caplog.text
    assert "SECRET" not in caplog.text


# -- the key


async def test_the_key_is_asked_for_each_time(trail: AuditTrail) -> None:
    """A key that is changed meanwhile signs the heartbeats from then on, and one that can't be had sends none."""
    keys: list[Any] = ["first key 0123456789", RuntimeError("SECRET"), b"short", b"second key 0123456789"]

    def key() -> str | bytes:
        given = keys.pop(0)
        if isinstance(given, Exception):
            raise given
        return given  # type: ignore[no-any-return]

    await run(trail, dispatcher := Dispatcher(), 181, key=key)
    assert dispatcher.times == [0, 180]
    first, second = (event.message for _, event, _, _ in dispatcher.handed)
    assert verify_heartbeat(first, " first key 0123456789\n").name == "audit_trail"
    assert verify_heartbeat(second, lambda: b"second key 0123456789").name == "audit_trail"
    with pytest.raises(ValueError, match="the signature is wrong"):
        verify_heartbeat(second, "first key 0123456789")


@pytest.mark.parametrize("kind", [BaseException, GeneratorExit, asyncio.CancelledError])
async def test_no_key_ends_the_heartbeats(trail: AuditTrail, kind: type[BaseException]) -> None:
    """Whatever the function that returns the key raises costs one heartbeat, and not those after it."""
    calls = iter(range(9))

    def key() -> str:
        if next(calls) == 1:
            raise kind
        return KEY

    await run(trail, dispatcher := Dispatcher(), 181, key=key)
    assert dispatcher.times == [0, 120, 180]


async def test_the_key_can_not_be_printed(trail: AuditTrail, caplog: pytest.LogCaptureFixture) -> None:
    """Neither the repr nor a log nor an error nor what is sent shows the key."""
    caplog.set_level(logging.DEBUG)
    heartbeat = Heartbeat(trail, dispatcher := Dispatcher(ValueError("v")), key=KEY, interval=1)
    async with heartbeat:
        await anyio.sleep(2)
    assert repr(heartbeat).startswith("<Heartbeat audit_trail of <AuditTrail in ")
    assert "SECRET" not in repr(heartbeat) + caplog.text + repr(dispatcher.handed)


async def asynchronous() -> str:
    raise AssertionError


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": "SECRET"}, ValueError, f"key: expected at least {MIN_KEY_BYTES} bytes; got 6"),
        (
            {"key": asynchronous},
            TypeError,
            "key: expected .*, or what returns them; got an asynchronous one",
        ),
        ({"key": b" " * 15}, ValueError, "key: expected at least"),
        ({"key": None}, TypeError, "key: expected text or bytes"),
        ({"interval": 0}, ValueError, "interval: expected a finite number above 0; got 0"),
        ({"interval": float("inf")}, ValueError, "interval: expected"),
        ({"interval": float("nan")}, ValueError, "interval: expected"),
        ({"key": 5}, TypeError, "key: expected text or bytes, .*; got an int"),
        ({"name": None}, TypeError, "name: expected text; got None"),
        ({"channel": 5}, TypeError, "channel: expected text; got an int"),
        ({"name": ""}, ValueError, "name: expected 1 to 64"),
        ({"name": "two words"}, ValueError, "name: expected 1 to 64"),
        ({"name": "x" * 65}, ValueError, "name: expected 1 to 64"),
        ({"name": "a\n"}, ValueError, "name: expected 1 to 64"),
    ],
)
def test_options_are_checked(trail: AuditTrail, options: Any, error: type[Exception], message: str) -> None:
    """An option that can't be is refused at construction, with what was expected, and without the key."""
    with pytest.raises(error, match=message) as raised:
        Heartbeat(trail, Dispatcher(), **{"key": KEY, **options})
    assert "SECRET" not in str(raised.value)


def test_a_trail_is_asked_for() -> None:
    """The path of a trail in the place of the trail is refused at construction."""
    path: Any = "audit"
    with pytest.raises(TypeError, match=r"^trail: expected an AuditTrail; got a str"):
        Heartbeat(path, Dispatcher(), key=KEY)


# -- verifying


@pytest.fixture
async def message(trail: AuditTrail) -> str:
    """Return a heartbeat's message."""
    await log(trail)
    await run(trail, dispatcher := Dispatcher(), 1)
    ((_, event, _, _),) = dispatcher.handed
    return event.message


async def test_a_heartbeat_is_found_in_what_it_was_made_into(message: str) -> None:
    """The line may stand anywhere in a text, and more than once, as in a mail with a plain and an HTML part."""
    beat = verify_heartbeat(message, KEY)
    assert verify_heartbeat(f"INFO compliance_check in heartbeat: {message}\n<p>{message}</p>", KEY) == beat
    assert abs(datetime.now(UTC) - beat.time) < timedelta(hours=1)


async def test_any_change_is_noticed(message: str) -> None:
    """Whatever character of a heartbeat is changed or taken away, it is refused."""
    for place, character in enumerate(message):
        other = "0" if character != "0" else "1"
        for changed in (message[:place] + other + message[place + 1 :], message[:place] + message[place + 1 :]):
            with pytest.raises(ValueError, match=r"expected one heartbeat; got 0|the signature is wrong"):
                verify_heartbeat(changed, KEY)


async def test_what_is_no_heartbeat_is_refused(message: str) -> None:
    """A text without a heartbeat, or with two, is refused, and so is a key that is too short."""
    other = message.replace("audit_trail", "billing")
    for text in ("", "alive", message[:-1], message.upper(), f"{message} {other}"):
        with pytest.raises(ValueError, match="expected one heartbeat; got"):
            verify_heartbeat(text, KEY)
    with pytest.raises(ValueError, match="key: expected at least"):
        verify_heartbeat(message, "short")
