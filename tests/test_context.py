"""The values that the code around a call gives to its event."""

from __future__ import annotations

import asyncio
import contextvars
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import anyio
import pytest
from anyio import to_thread

from fapilog import Actor, AuditEvent, AuditEventType, AuditTrail, CompliancePolicy, Target, context
from fapilog.context import audit_context, bind_audit_context, current_audit_context
from fapilog.testing import RecordingDispatcher

KIND = AuditEventType.DATA_ACCESS
FIELDS = {
    "user_id": "alice",
    "session_id": "s-1",
    "request_id": "r-1",
    "client_ip": "192.0.2.7",
    "user_agent": "curl",
    "component": "patients",
    "operation": "read",
    "data_classification": "internal",
    "reason": "treatment",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "span_id": "00f067aa0ba902b7",
    "target": Target(type="patient", id="42"),
}


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """Return a trail, not started."""
    return AuditTrail(storage_path=tmp_path / "audit")


class Hostile:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("the session is gone")

    __str__ = __bool__ = __hash__ = __iter__ = __len__ = __repr__  # type: ignore[assignment]


async def logged(trail: AuditTrail, **given: Any) -> AuditEvent:
    """Log an event, and return it as it was stored."""
    event_id = await trail.log_event(KIND, "m", **given)
    [event] = await trail.get_events(event_id=event_id)
    return event


async def test_events_are_filled_in(trail: AuditTrail) -> None:
    """An event in a block has the block's fields, its other values in the metadata, and a later event has neither."""
    with audit_context(**FIELDS, contains_phi=True, regulatory_tags="164.312", tenant="north", metadata={"shift": 2}):
        event = await logged(trail, other=1)
    assert {name: getattr(event, name) for name in FIELDS} == FIELDS
    assert event.contains_phi
    assert not event.contains_pii
    assert event.regulatory_tags == ("164.312",)
    assert event.metadata == {"other": 1, "tenant": "north", "shift": 2}
    event = await logged(trail)
    assert {getattr(event, name) for name in FIELDS} == {None}
    assert not event.contains_phi
    assert event.metadata == {}


@pytest.mark.may_block  # without await, in a loop
async def test_every_method_is_filled_in(trail: AuditTrail) -> None:
    """All recording methods, with and without await, take the values of the block around them."""
    with audit_context(user_id="alice", tenant="north"):
        await trail.log_error(ValueError("m"))
        await trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, "m")
        await trail.log_data_access("patient/42", "read")
        trail.sync.log_error(ValueError("m"))
        trail.sync.log_data_access("patient/42", "read")
    events = await trail.get_events()
    assert {(event.user_id, event.metadata["tenant"]) for event in events} == {("alice", "north")}
    assert len(events) == 5


async def test_what_is_of_one_event_alone_is_no_field_of_a_block(trail: AuditTrail) -> None:
    """An id, a level or a time for all events of a block is in their metadata, and none of them is lost or refused."""
    own = {"event_id": "e-1", "log_level": "nonsense", "outcome": "nonsense", "occurred": "now", "message": "other"}
    with audit_context(**own):
        events = [await logged(trail), await logged(trail)]
    assert len({event.event_id for event in events}) == 2
    assert {event.message for event in events} == {"m"}
    assert [event.metadata for event in events] == [own, own]


async def test_user_and_actor_are_one(trail: AuditTrail) -> None:
    """A call, or a block, that gives one of the two does not get the other from further out."""
    service = Actor(id="cron", type="service")
    with audit_context(user_id="alice", trace_id="4bf92f3577b34da6a3ce929d0e0e4736", span_id="00f067aa0ba902b7"):
        event = await logged(trail, actor=service, trace_id="0af7651916cd43dd8448eb211c80319c")
        assert (event.user_id, event.actor, event.span_id) == ("cron", service, None)
        with audit_context(actor=service):
            event = await logged(trail)
            assert (event.user_id, event.actor) == ("cron", service)
            event = await logged(trail, user_id="bob")
            assert (event.user_id, event.actor) == ("bob", None)
            bind_audit_context(user_id="carol")
            event = await logged(trail)
            assert (event.user_id, event.actor) == ("carol", None)


@pytest.mark.one_backend
@pytest.mark.parametrize("name", sorted(context._FILLED))
async def test_every_field_takes_every_value(trail: AuditTrail, name: str) -> None:
    """Whatever a block gives to a field, its events are stored."""
    for value in (Hostile(), 7, b"a", {"id": Hostile()}, [Hostile()], "a\udcff", "A" * 100_000, Hostile):
        with audit_context(**{name: value}):
            await logged(trail)
    assert (await trail.verify_chain_from_storage()).events_checked == 8


async def test_the_values_of_the_call_win(trail: AuditTrail) -> None:
    """What a call gives itself stays, and a function of the block that is not needed is not called."""

    def unneeded() -> NoReturn:
        raise AssertionError

    with audit_context(user_id=unneeded, tenant=unneeded, metadata={"shift": 2}):
        event = await logged(trail, user_id="bob", tenant=None, metadata={"shift": 3})
    assert event.user_id == "bob"
    assert event.metadata == {"tenant": None, "shift": 3}


async def test_blocks_nest(trail: AuditTrail) -> None:
    """An inner block adds to the outer one and wins, takes a value away with None, and leaves no trace behind."""
    with audit_context(user_id="alice", client_ip="192.0.2.7", tenant="north", ward=4):
        with audit_context(user_id="bob", client_ip=None, ward=None):
            inner = await logged(trail)
        outer = await logged(trail)
    assert (inner.user_id, inner.client_ip, inner.metadata) == ("bob", None, {"tenant": "north"})
    assert (outer.user_id, outer.client_ip, outer.metadata) == ("alice", "192.0.2.7", {"tenant": "north", "ward": 4})


async def test_what_is_bound_ends_with_the_block(trail: AuditTrail) -> None:
    """A value that is bound in a block holds behind an inner block too, and not behind the block itself."""
    with audit_context(request_id="r-1"):
        bind_audit_context(user_id="alice")
        with audit_context(tenant="north"):
            bind_audit_context(user_id="bob")
        assert current_audit_context() == {"request_id": "r-1", "user_id": "alice"}
        event = await logged(trail)
    assert (event.request_id, event.user_id) == ("r-1", "alice")
    assert current_audit_context() == {}


async def test_what_is_bound_without_a_block_ends_with_its_task(trail: AuditTrail) -> None:
    """A value that a task binds fills in the events of the task, and of no other."""
    users: list[str | None] = []

    async def work(user: str) -> None:
        bind_audit_context(user_id="nobody")
        bind_audit_context(user_id=user)
        users.append((await logged(trail)).user_id)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(work, f"{number}")
    assert sorted(filter(None, users)) == ["0", "1", "2", "3", "4"]
    assert (await logged(trail)).user_id is None


def test_binding_again_and_again_keeps_one_value() -> None:
    """A worker that binds for each of its jobs, in a context without end, keeps the last values alone."""

    def work() -> object:
        for number in range(1000):
            bind_audit_context(request_id=number)
        [blocks] = [value for variable, value in contextvars.copy_context().items() if variable.name == "audit_context"]
        return blocks

    assert contextvars.Context().run(work) == ((None, {"request_id": 999}),)


async def test_functions_are_called_when_an_event_is_logged(trail: AuditTrail) -> None:
    """A function in a block says for each event anew what its value is, as does one in the metadata."""
    users: list[object] = [None, "alice", 42]
    with audit_context(user_id=lambda: users[0], tenant=lambda: users[0]):
        events = [await logged(trail)]
        for _ in range(2):
            users.pop(0)
            events.append(await logged(trail))
    assert [event.user_id for event in events] == [None, "alice", "42"]
    assert [event.metadata for event in events] == [{}, {"tenant": "alice"}, {"tenant": 42}]


class PanicError(BaseException):
    """As of an extension module."""


@pytest.mark.parametrize("error", [LookupError("s3cret"), PanicError("s3cret"), asyncio.CancelledError("s3cret")])
async def test_a_function_that_raises_is_named(trail: AuditTrail, error: BaseException) -> None:
    """Whatever a function raises, the event is stored, with a text in the place of the value that hides the error's."""

    def user() -> NoReturn:
        raise error

    with audit_context(user_id=user, tenant=user, contains_pii=user):
        event = await logged(trail)
    name = "LookupError" if isinstance(error, LookupError) else "PanicError"
    assert event.user_id == event.metadata["tenant"] == f"<function, unreadable: {name}>"
    assert event.contains_pii


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_exit_in_a_function_is_an_exit(trail: AuditTrail, error: type[BaseException]) -> None:
    """Ctrl-C and `sys.exit` pass out of a function in a block, and of `log_event`."""

    def user() -> NoReturn:
        raise error

    with audit_context(user_id=user), pytest.raises(error):
        await trail.log_event(KIND, "m")


async def test_a_coroutine_function_is_refused(trail: AuditTrail) -> None:
    """A coroutine function in a block is named in the record, and its coroutine is not left behind without await."""

    async def user() -> str:
        return "alice"

    with audit_context(user_id=user):
        assert (await logged(trail)).user_id == "<function, unreadable: TypeError>"


@pytest.mark.may_block  # without await, in a loop
async def test_a_function_may_log(trail: AuditTrail) -> None:
    """What a function logs itself is stored without the context, and does not call the function again."""

    def user() -> str:
        trail.sync.log_event(KIND, "looked up")
        return "alice"

    with audit_context(user_id=user, tenant="north"):
        assert (await logged(trail)).user_id == "alice"
    inner, outer = await trail.get_events()
    assert (inner.message, inner.user_id, inner.metadata) == ("m", "alice", {"tenant": "north"})
    assert (outer.message, outer.user_id, outer.metadata) == ("looked up", None, {})


async def test_every_value_is_recorded(trail: AuditTrail) -> None:
    """A value that can't be read is named, and one that may say that the event is personal counts so."""
    with audit_context(user_id=Hostile(), tenant=Hostile(), contains_phi=Hostile(), metadata=Hostile()):
        event = await logged(trail)
    assert event.user_id == "<Hostile, unreadable: RuntimeError>"
    assert event.contains_phi
    assert set(event.metadata) == {"tenant", "metadata"}


async def test_threads_of_anyio_have_the_context(trail: AuditTrail) -> None:
    """A thread of `to_thread` has the context of the code that waits for it, and what it binds stays in it."""

    def work() -> None:
        trail.sync.log_event(KIND, "m")
        bind_audit_context(user_id="bob")

    with audit_context(user_id="alice"):
        await to_thread.run_sync(work)
        await trail.log_event(KIND, "m")
    assert [event.user_id for event in await trail.get_events()] == ["alice", "alice"]


def test_threads_of_your_own_begin_without_a_context(trail: AuditTrail) -> None:
    """A plain thread has no context, unless it is started by a copy of the caller's."""

    def log() -> None:
        trail.sync.log_event(KIND, "m")

    with audit_context(user_id="alice"):
        for target in (contextvars.Context().run, contextvars.copy_context().run):
            thread = threading.Thread(target=target, args=[log])
            thread.start()
            thread.join()
    assert [event.user_id for event in trail.sync.get_events()] == ["alice", None]


class Overriding(AuditTrail):
    """A subclass whose methods `trail.sync` runs in the background thread."""

    async def log_event(self, *args: Any, **given: Any) -> str:
        return await super().log_event(*args, **given)


def test_the_context_crosses_to_the_background_thread(tmp_path: Path) -> None:
    """An event that is logged in the background thread has the context of the code that waits for it."""
    trail = Overriding(storage_path=tmp_path)
    with audit_context(user_id="alice"):
        trail.sync.log_event(KIND, "m")
    trail.sync.log_event(KIND, "m")
    assert [event.user_id for event in trail.sync.get_events()] == [None, "alice"]
    trail.sync.stop()


class Logging(RecordingDispatcher):
    """Logs an event when it is entered, and one for each alert."""

    trail: AuditTrail

    async def __aenter__(self) -> None:
        await self.trail.log_event(KIND, "entered")

    async def __aexit__(self, *_: object) -> None:
        await self.trail.log_event(KIND, "left")

    async def send_alert(self, *args: Any, **given: Any) -> None:
        await super().send_alert(*args, **given)
        await self.trail.log_event(KIND, "sent")


async def test_the_request_that_starts_the_trail_does_not_stay(tmp_path: Path) -> None:
    """The trail's own tasks do not have the context of the code that starts it, and an alert has that of its event."""
    pager = Logging()
    trail = pager.trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=pager)
    with audit_context(user_id="alice"):
        await trail.start()
    with audit_context(user_id="bob"):
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "refused")
    await trail.drain()
    await trail.stop()
    users = {event.message: event.user_id for event in await trail.get_events()}
    assert users == {"entered": None, "refused": "bob", "sent": "bob", "left": None}


@contextmanager
def as_alice() -> Iterator[None]:
    """Stand for a dependency of FastAPI, which enters and leaves it in two threads."""
    with audit_context(user_id="alice"):
        yield


def test_a_block_may_be_left_in_another_context() -> None:
    """To leave a block elsewhere than where it was entered raises nothing and takes nothing away there."""
    block = as_alice()
    with ThreadPoolExecutor(1) as thread, audit_context(user_id="bob"):
        thread.submit(contextvars.copy_context().run, block.__enter__).result()
        thread.submit(contextvars.copy_context().run, block.__exit__, None, None, None).result()
        assert current_audit_context() == {"user_id": "bob"}


def test_blocks_that_are_left_crosswise_leave_nothing() -> None:
    """A block that is left before the one inside of it ends that one too, which brings nothing back."""
    outer, inner = audit_context(user_id="alice"), audit_context(user_id="bob")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert current_audit_context() == {}
    inner.__exit__(None, None, None)
    assert current_audit_context() == {}


def test_a_block_can_be_entered_again() -> None:
    """One block holds for two uses of it, one inside of the other as well."""
    block = audit_context(user_id="alice")
    with block:
        with block, audit_context(user_id="bob"):
            pass
        assert current_audit_context() == {"user_id": "alice"}
    assert current_audit_context() == {}


async def test_a_disabled_trail_asks_nothing(tmp_path: Path) -> None:
    """No function is called for an event that is not stored."""
    trail = AuditTrail(CompliancePolicy(enabled=False), tmp_path)
    calls: list[None] = []
    with audit_context(user_id=lambda: calls.append(None)):
        assert await trail.log_event(KIND, "m") == ""
    assert not calls


async def test_a_lifespan_starts_and_stops_the_trail(tmp_path: Path) -> None:
    """The trail is started inside of `lifespan`, whether that is given an application or not, and stopped behind."""
    trail = AuditTrail(storage_path=tmp_path)
    for lifespan in (trail.lifespan(object()), trail.lifespan(app=object()), trail.lifespan()):
        seen = [trail.is_started]
        async with lifespan:
            seen.append(trail.is_started)
        assert [*seen, trail.is_started] == [False, True, False]


async def test_every_call_of_a_decorated_function_is_a_block(trail: AuditTrail) -> None:
    """Functions under `@audit_context`, asynchronous or not, also called in parallel and by themselves, have values."""

    @audit_context(component="exports")
    async def export(depth: int) -> list[str | None]:
        await anyio.lowlevel.checkpoint()
        event = await logged(trail)
        with audit_context(component="inside"):
            deeper = await export(depth - 1) if depth else []
        again = await logged(trail)
        return [event.component, *deeper, again.component]

    @audit_context(component="counts", user_id="alice")
    def count(*, number: int) -> tuple[int, dict[str, Any]]:
        """Count."""
        return number, current_audit_context()

    assert await export(1) == ["exports"] * 4
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(export, 0)
    assert count(number=2) == (2, {"component": "counts", "user_id": "alice"})
    assert (count.__name__, count.__doc__) == ("count", "Count.")
    assert current_audit_context() == {}


async def test_a_decorated_function_may_have_another_decorator() -> None:
    """An asynchronous function has the values behind a decorator too, whose result is no asynchronous function."""

    def logged_in(function: Callable[[], Awaitable[dict[str, Any]]]) -> Callable[[], Awaitable[dict[str, Any]]]:
        def call() -> Awaitable[dict[str, Any]]:
            return function()

        return call

    @audit_context(component="exports")
    @logged_in
    async def export() -> dict[str, Any]:
        await anyio.lowlevel.checkpoint()
        return current_audit_context()

    assert await export() == {"component": "exports"}
    assert current_audit_context() == {}


def test_a_decorated_function_that_raises_ends_its_block() -> None:
    """The values of a call are gone when it has raised."""

    @audit_context(component="exports")
    def fails() -> NoReturn:
        raise LookupError

    with pytest.raises(LookupError):
        fails()
    assert current_audit_context() == {}


async def _letters() -> AsyncIterator[str]:
    yield "a"


def _numbers() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("enter", [audit_context, bind_audit_context])
@pytest.mark.parametrize(("given", "kind"), [(print, "a builtin_function_or_method"), ({"user_id": "alice"}, "a dict")])
def test_a_value_without_a_name_is_refused_with_words(enter: Any, given: Any, kind: str) -> None:
    """A decorator without parentheses, and a mapping without `**`, are told what they should be."""
    words = f'{enter.__name__}: expected values by name, as in {enter.__name__}(user_id="alice"); got {kind}'
    with pytest.raises(TypeError, match=re.escape(words)):
        enter(given)


@pytest.mark.parametrize("function", [_letters, _numbers, dict, 1])
def test_only_a_function_is_decorated(function: Any) -> None:
    """A generator, which would run outside of the block, and anything but a function, is refused in words."""
    with pytest.raises(TypeError, match=r"^expected a function; got "):
        audit_context(component="exports")(function)
