"""What a caller gives to the trail, and what becomes of it."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from fapilog import Actor, AuditEvent, AuditEventType, AuditTrail, CompliancePolicy, MemoryStorage
from fapilog.record.chain import body
from fapilog.record.texts import original
from fapilog.testing import RecordingDispatcher

LONG = "A" * (1 << 20)


class Hostile:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("the session is gone")

    __str__ = __bool__ = __hash__ = __iter__ = __len__ = __repr__  # type: ignore[assignment]


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """Return a trail, not started."""
    return AuditTrail(storage_path=tmp_path / "audit")


async def test_a_long_header_loses_no_event_and_opens_no_incident(tmp_path: Path) -> None:
    """Refused logins with a header of a mebibyte are stored and announced, and the storage has not failed."""
    pager = RecordingDispatcher()
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=pager) as trail:
        for _ in range(5):
            await trail.log_security_event(
                AuditEventType.AUTHENTICATION_FAILED, "wrong password", user_id="mallory", user_agent=LONG
            )
            await trail.log_event(AuditEventType.DATA_ACCESS, "somebody else's request")
        await trail.drain()
        assert {alert.event.event_type for alert in pager.alerts} == {AuditEventType.AUTHENTICATION_FAILED}
        events = await trail.get_events(user_id="mallory")
        assert [event.truncated for event in events] == [("user_agent",)] * 5
        assert (await trail.verify_chain_from_storage()).valid


@pytest.mark.one_backend
@pytest.mark.parametrize("method", ["log_event", "log_error", "log_security_event", "log_data_access"])
@pytest.mark.parametrize(
    "value", [LONG, Hostile(), {"a": Hostile()}, "a\udcff"], ids=["long", "hostile", "in", "broken"]
)
async def test_every_method_records_every_value(trail: AuditTrail, method: str, value: Any) -> None:
    """In whichever place a value is given, the event is stored."""
    positional = {"log_error": [value], "log_data_access": [value, value]}.get(
        method, [AuditEventType.AUTHENTICATION_FAILED, value]
    )
    others = {} if method == "log_data_access" else {"operation": value}
    fields = dict.fromkeys(["user_id", "component", "client_ip", "user_agent", "session_id", "regulatory_tags"], value)
    await getattr(trail, method)(*positional, **others, **fields, more=value, metadata={"deep": [value]})
    [event] = await trail.get_events()
    assert {"more", "deep"} <= event.metadata.keys()
    assert (await trail.verify_chain_from_storage()).valid


@pytest.mark.parametrize("value", [Hostile(), LONG])
async def test_the_arguments_of_the_trail_are_refused_in_words(trail: AuditTrail, value: Any) -> None:
    """What is no event type or level, and what is neither true nor false, is an error that names the argument."""
    with pytest.raises(ValueError, match=r"^event_type: expected one of .{,900}\n"):
        await trail.log_event(value, "m")
    with pytest.raises(ValueError, match=r"^log_level: expected one of .{,900}\n"):
        await trail.log_event(AuditEventType.DATA_ACCESS, "m", log_level=value)
    if isinstance(value, Hostile):
        with pytest.raises(TypeError, match=r"^contains_phi: expected a bool; got a Hostile\n"):
            await trail.log_event(AuditEventType.DATA_ACCESS, "m", contains_phi=value)  # type: ignore[arg-type]
    assert await trail.get_events() == []


async def test_metadata_that_can_not_be_read_are_named(trail: AuditTrail) -> None:
    """Metadata given as an object that raises have its type in their place."""
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", metadata=Hostile(), other=1)  # type: ignore[arg-type, call-arg]
    [event] = await trail.get_events()
    assert event.metadata == {"metadata": "<Hostile, unreadable: RuntimeError>", "other": 1}


async def test_a_user_is_found_as_given(trail: AuditTrail) -> None:
    """A user whose name is no UTF-8 is found by that name, and no other user is."""
    broken, written = os.fsdecode(b"a\xff"), "a\\udcff"
    for name in (broken, written):
        await trail.log_event(AuditEventType.DATA_ACCESS, "m", user_id=name)
    for name in (broken, written):
        [event] = await trail.get_events(user_id=name)
        assert event.user_id is not None
        assert original(event.user_id) == name


async def test_a_long_error_is_stored_once(trail: AuditTrail) -> None:
    """The long text of an error is whole in one place, and the record has not three times its length."""
    await trail.log_error(ValueError("v" * 60_000))
    [event] = await trail.get_events()
    assert event.error is not None
    assert event.error.message == "v" * 60_000
    assert len(event.message) + len(event.error.traceback) < 3_000
    assert event.message.startswith("Error occurred: vvv")


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"max_text_characters": 255}, ValueError),
        ({"max_message_characters": 0}, ValueError),
        ({"max_record_bytes": 65_535}, ValueError),
        ({"max_record_bytes": (1 << 20) + 1}, ValueError),
        ({"max_text_characters": 300.5}, TypeError),
        ({"max_record_bytes": "1 MiB"}, TypeError),
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any], error: type[Exception]) -> None:
    """A limit that would leave no room, or that no reader takes, is an error that names it."""
    with pytest.raises(error, match=f"^{next(iter(limits))}: expected"):
        CompliancePolicy(**limits)


async def test_the_policy_has_the_limits(tmp_path: Path) -> None:
    """The limits of the policy are those that hold."""
    policy = CompliancePolicy(max_text_characters=256, max_message_characters=1_000, max_record_bytes=65_536)
    trail = AuditTrail(policy, tmp_path)
    await trail.log_event(AuditEventType.DATA_ACCESS, LONG, user_agent=LONG, metadata={"rows": ["x" * 900] * 200})
    [event] = await trail.get_events()
    assert (len(event.message), len(event.user_agent or "")) == (256, 256)
    assert len(body(event)) <= 65_536


class SaysItIsOther:
    """Raises when it is asked for its class, as a proxy of an object that is gone does."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("the session is gone")


class _NoName(type):
    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError("the session is gone")


class NoName(metaclass=_NoName):
    """Has a class that raises whatever it is asked for."""


class Zone(tzinfo):
    """A zone that raises, or has no offset."""

    def __init__(self, *, raises: bool) -> None:
        self._raises = raises

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Return no offset."""
        if self._raises:
            raise LookupError("no such zone")
        return None

    def tzname(self, moment: datetime | None) -> str:
        """Return a name."""
        return "nowhere"

    def dst(self, moment: datetime | None) -> None:
        """Return nothing."""


class Moment(datetime):
    """A time of somebody's own, as pandas and pendulum have."""

    def astimezone(self, zone: tzinfo | None = None) -> Any:
        """Return what is no time."""
        return "noon"


class Kinds(str, Enum):
    """Types of the application's own."""

    REFUND = "billing.refund"


NOON = datetime(2026, 1, 31, 12)  # noqa: DTZ001
# Made by the tests themselves: pytest looks at what it is given.
REFUSED: list[tuple[str, Callable[[], object]]] = [
    *((name, SaysItIsOther) for name in ("outcome", "log_level", "occurred")),
    *((name, NoName) for name in ("outcome", "log_level", "occurred")),
    ("occurred", lambda: NOON.replace(tzinfo=Zone(raises=True))),
    ("occurred", lambda: NOON.replace(tzinfo=Zone(raises=False))),
    ("occurred", lambda: datetime.min.replace(tzinfo=timezone(timedelta(hours=5)))),
    ("occurred", lambda: datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("name", "made"), REFUSED, ids=map(str, range(len(REFUSED))))
async def test_what_a_member_can_not_be_is_refused_in_words(name: str, made: Callable[[], Any]) -> None:
    """Whatever a value does that is no outcome, level, time or flag, the caller is told so, and nothing else."""
    storage = MemoryStorage()
    with pytest.raises((ValueError, TypeError), match=f"^{name}: ") as raised:
        await AuditTrail(storage=storage).log_event(AuditEventType.DATA_ACCESS, "m", **{name: made()})
    assert raised.type in (ValueError, TypeError)
    assert not storage.events


async def test_a_time_of_another_class_is_the_time_that_it_is() -> None:
    """Times of pandas, pendulum and freezegun are stored, whatever their methods make of them."""
    storage = MemoryStorage()
    moment = Moment(2026, 1, 31, 13, 0, 0, 7, tzinfo=timezone(timedelta(hours=1)))
    await AuditTrail(storage=storage).log_event(AuditEventType.DATA_ACCESS, "m", occurred=moment)
    assert storage.events[0].occurred == datetime(2026, 1, 31, 12, 0, 0, 7, tzinfo=UTC)


async def test_values_of_a_class_that_raises_are_stored() -> None:
    """An event is stored whose tags can't even be asked whether they are several, nor its flag for its name."""
    storage = MemoryStorage()
    given: dict[str, Any] = {"regulatory_tags": NoName(), "contains_pii": NoName()}
    await AuditTrail(storage=storage).log_event(AuditEventType.DATA_ACCESS, "m", **given)
    [event] = storage.events
    assert (event.regulatory_tags, event.contains_pii) == (("<NoName, unreadable: RuntimeError>",), True)


async def test_a_type_may_be_a_member_of_an_enum_of_the_application() -> None:
    """A type of one's own that is a text in an enum is the text."""
    storage = MemoryStorage()
    await AuditTrail(storage=storage).log_event(Kinds.REFUND, "m")
    assert storage.events[0].event_type == AuditEventType("billing.refund")


class Employee(Actor, frozen=True, kw_only=True):
    """An actor with more than the trail knows."""

    department: str


async def test_an_actor_of_a_class_of_ones_own_is_an_actor() -> None:
    """Its members are those of an actor, and what it has besides is in the metadata."""
    storage = MemoryStorage()
    employee = Employee(id="alice", type="user", department="X")
    await AuditTrail(storage=storage).log_event(AuditEventType.DATA_ACCESS, "m", actor=employee)
    [event] = storage.events
    assert (event.actor, event.user_id) == (Actor(id="alice", type="user"), "alice")
    assert event.metadata["actor"]["department"] == "X"


class Asked(MemoryStorage):
    """A storage that keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bool] = []

    async def append(self, event: AuditEvent, *, once: bool = False) -> Any:
        """Note *once*."""
        self.asked.append(once)
        return await super().append(event, once=once)


async def test_only_an_id_that_is_given_is_looked_for() -> None:
    """A wrapper that always gives *event_id*, and mostly None, does not make the storage look through old records."""
    storage = Asked()
    trail = AuditTrail(storage=storage)
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", event_id=None)
    await trail.log_event(AuditEventType.DATA_ACCESS, "m", event_id="a")
    assert storage.asked == [False, True]
