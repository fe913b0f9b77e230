"""Wrappers inside of wrappers: the contract, what is entered, and an alert's way through all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from fapilog import (
    AlertDispatcher,
    AuditEventType,
    AuditTrail,
    NoopAlertDispatcher,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.delivery.digest import Digest
from fapilog.delivery.fallback import Fallback
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.ratelimit import RateLimit
from fapilog.delivery.retry import Retrying
from fapilog.delivery.route import Route, when
from fapilog.testing import RecordingDispatcher, check_dispatcher
from tests.doubles.dispatchers import Managed, event
from tests.doubles.outboxes import make as outbox

Leaf = Callable[[], AlertDispatcher]


def retrying(inner: AlertDispatcher) -> AlertDispatcher:
    """Return one without waits."""
    return Retrying(inner, wait_initial=0, wait_jitter=0)


def limited(inner: AlertDispatcher) -> RateLimit:
    return RateLimit(inner, rate=500.0, burst=2)


def digest(inner: AlertDispatcher) -> Digest:
    return Digest(inner, window=0.02)


def fast(*inner: AlertDispatcher) -> Fallback:
    return Fallback(inner, timeout=2.0)


NESTED: dict[str, Callable[[Leaf], AlertDispatcher]] = {
    "fan-out of all": lambda leaf: FanOut([limited(leaf()), digest(leaf()), fast(leaf(), leaf()), leaf()]),
    "digest of a fan-out": lambda leaf: digest(FanOut([leaf(), leaf()], timeout=2.0)),
    "digest of a limit of a fallback": lambda leaf: digest(limited(fast(leaf(), leaf()))),
    "limit of a digest": lambda leaf: limited(digest(leaf())),
    "digest of a digest": lambda leaf: digest(digest(leaf())),
    "route of all": lambda leaf: Route(
        {when(severity=["critical", "error"]): FanOut([leaf(), limited(leaf())]), when(channel="#on-call"): leaf()},
        default=digest(limited(leaf())),
    ),
    "fallback of a route and a fan-out": lambda leaf: fast(
        Route({when(severity="critical"): leaf()}, default=leaf()), FanOut([leaf(), leaf()])
    ),
    "fan-out of routes": lambda leaf: FanOut(
        [Route({when(channel="#on-call"): leaf()}, default=leaf()), Route({}, default=limited(leaf()))]
    ),
    "tries around a fan-out": lambda leaf: retrying(FanOut([leaf(), leaf()])),
    "fan-out of tries": lambda leaf: FanOut([retrying(leaf()), retrying(limited(leaf()))]),
    "digest of tries of a limit": lambda leaf: digest(retrying(limited(leaf()))),
}


@pytest.mark.one_backend
@pytest.mark.real_time
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name.endswith(" of all") else pytest.mark.slow) for name in NESTED]
)
async def test_nested_wrappers_keep_the_contract(name: str) -> None:
    """Whatever is around what, it is a dispatcher as the contract says."""
    make = NESTED[name]
    inner: list[Managed] = []

    def leaf() -> Managed:
        inner.append(Managed())
        inner[-1].wait = lambda: anyio.sleep(0.001)
        return inner[-1]

    await check_dispatcher(
        lambda: make(leaf), failing=lambda: make(lambda: Managed(error=PermanentDeliveryError("gone")))
    )
    assert all(each.entered == each.left for each in inner)


@pytest.mark.parametrize("make", NESTED.values(), ids=NESTED)
async def test_all_is_entered_and_left_however_deep(make: Callable[[Leaf], AlertDispatcher]) -> None:
    """Every dispatcher in a tree is entered once and left once; where one can't be entered, the others are left."""
    inner: list[Managed] = []

    def leaf() -> Managed:
        inner.append(Managed())
        return inner[-1]

    whole = make(leaf)
    async with whole:  # type: ignore[attr-defined]
        assert [(each.entered, each.left) for each in inner] == [(1, 0)] * len(inner)
    assert [(each.entered, each.left) for each in inner] == [(1, 1)] * len(inner)

    inner.clear()
    broken = make(leaf)
    inner[-1].refuses = True
    with pytest.raises(OSError, match="no"):
        await broken.__aenter__()  # type: ignore[attr-defined]
    assert all(each.entered == each.left for each in inner)
    await broken.send_alert(event(), severity="critical")


class Staying(Managed):
    """Is never left."""

    async def __aexit__(self, *_: object) -> None:
        await anyio.sleep_forever()


KEEPING: dict[str, Callable[[Path, Leaf], AlertDispatcher]] = {
    "outbox": lambda path, leaf: outbox(leaf(), path),
    "outbox of a digest": lambda path, leaf: outbox(digest(leaf()), path),
    "digest of an outbox": lambda path, leaf: digest(outbox(leaf(), path)),
    "fan-out of outboxes": lambda path, leaf: FanOut([outbox(leaf(), path), outbox(leaf(), path / "other")]),
    **{name: lambda _, leaf, make=make: make(leaf) for name, make in NESTED.items()},  # type: ignore[misc]
}


@pytest.mark.parametrize("make", KEEPING.values(), ids=KEEPING)
async def test_one_that_is_never_left_holds_nobody(
    make: Callable[[Path, Leaf], AlertDispatcher], tmp_path: Path
) -> None:
    """However deep it is, a dispatcher that hangs when it is left is cancelled, and the trail is stopped."""
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=make(tmp_path, Staying), stop_timeout=5.0)
    async with trail:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        began = anyio.current_time()
    assert anyio.current_time() - began < 60
    assert not trail.is_started


@pytest.mark.parametrize("depth", ["fan-out", "outbox"])
async def test_one_that_is_never_left_does_not_hold_the_start(depth: str, tmp_path: Path) -> None:
    """Where the next can't be entered, the start fails in time although the one before is never left."""
    both = FanOut([Staying(), Managed(refuses=True)])
    dispatcher = both if depth == "fan-out" else outbox(both, tmp_path)
    trail = AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=dispatcher, alert_timeout=5.0)
    with pytest.raises(TimeoutError, match="was not entered within 5 s"):
        await trail.start()
    assert not trail.is_started


@pytest.mark.slow_on_trio
async def test_an_outbox_in_two_places(tmp_path: Path) -> None:
    """An outbox may be the way of some alerts, and one of several for others; it is left with the last place."""
    here, there = Managed(), RecordingDispatcher()
    pager = outbox(here, tmp_path, name="pager")
    both = FanOut([pager, outbox(there, tmp_path, name="mail")])
    route = Route({when(severity="security"): both, when(component="db"): pager}, default=NoopAlertDispatcher())
    async with AuditTrail(storage_path=tmp_path / "audit", alert_dispatcher=route) as trail:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "m")
        await trail.log_error(ValueError(), component="db", log_level="critical")
        await here.wait_for(2)
        await there.wait_for(1)
        assert (here.entered, here.left) == (1, 0)
    assert (here.entered, here.left) == (1, 1)
    async with AuditTrail(storage_path=tmp_path / "other", alert_dispatcher=pager):
        assert (here.entered, here.left) == (2, 1)


async def test_a_fan_out_inside_of_tries_sends_twice_to_nobody() -> None:
    """Tries around a fan-out reach only those that lack the alert."""
    good, bad = RecordingDispatcher(), RecordingDispatcher(error=TransientDeliveryError("busy"))
    dispatcher = retrying(FanOut([good, bad]))
    with pytest.raises(TransientDeliveryError):
        await dispatcher.send_alert(event(), severity="critical")
    assert (len(good.alerts), len(bad.alerts)) == (1, 4)


async def test_a_digest_sends_its_summary_by_the_route_of_the_alerts() -> None:
    """With a route inside, the summary goes where the alerts that it counts would have gone."""
    dba, others = RecordingDispatcher(), RecordingDispatcher()
    async with Digest(Route({when(component="db"): dba}, default=others)) as digest:
        for number in range(1, 5):
            await digest.send_alert(event(number, component="db"), severity="critical")
            await digest.send_alert(event(number + 10), severity="critical")
    assert [alert.event.metadata.get("count") for alert in dba.alerts] == [None, 3]
    assert [alert.event.metadata.get("count") for alert in others.alerts] == [None, 3]


@pytest.mark.real_time
async def test_a_trail_sends_through_all_of_them(tmp_path: Path) -> None:
    """An `AuditTrail` enters the whole tree, what is in two places twice, and gets out what was counted on stop."""
    pager, chat = Managed(error=PermanentDeliveryError("gone")), Managed()
    tree = FanOut(
        [
            Digest(RateLimit(chat, rate=100.0, burst=10), window=3600.0),
            Route({when(severity="security"): Fallback([pager, chat])}, default=pager),
        ]
    )
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=tree) as trail:
        for number in range(5):
            await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, f"someone opened safe {number}")
        await trail.drain()
        assert (await trail.get_statistics())["alerts"] == {"dispatched": 5, "failed": 0, "waiting": 0}
        assert (len(pager.alerts), len(chat.alerts)) == (5, 6)
    assert [alert.event.metadata.get("count") for alert in chat.alerts] == [None] * 6 + [4]
    assert (pager.entered, pager.left, chat.entered, chat.left) == (2, 2, 2, 2)


@pytest.mark.parametrize(
    "wrap",
    [
        Outbox,
        lambda inner, _: Digest(inner),
        lambda inner, _: RateLimit(inner, rate=1, burst=1),
        lambda inner, _: FanOut([inner]),
        lambda inner, _: Fallback([inner]),
        lambda inner, _: Route({}, default=inner),
        lambda inner, _: Route({when(severity="info"): inner}, default=NoopAlertDispatcher()),
    ],
    ids=["Outbox", "Digest", "RateLimit", "FanOut", "Fallback", "default", "routes"],
)
@pytest.mark.parametrize("wrong", [RecordingDispatcher, None, "slack"], ids=["class", "None", "str"])
def test_no_wrapper_takes_what_is_no_dispatcher(tmp_path: Path, wrap: Any, wrong: Any) -> None:
    """A class, or anything else that has no `send_alert`, is refused at once, with what was expected and what came."""
    expected = r"^\w+(\[0\])?: expected an object with `async def send_alert\(event, .*; got "
    with pytest.raises(TypeError, match=expected):
        wrap(wrong, tmp_path / "alerts.db")


@pytest.mark.parametrize("wrap", [digest, limited, retrying, fast, lambda inner: FanOut([inner])])
async def test_wrappers_in_each_other_have_room_on_the_stack(
    tmp_path: Path, wrap: Callable[[AlertDispatcher], AlertDispatcher]
) -> None:
    """An alert goes through 32 wrappers in each other; one more is refused where it is made."""
    inner = RecordingDispatcher()
    deep: AlertDispatcher = inner
    for _ in range(32):
        deep = wrap(deep)
    with pytest.raises(ValueError, match=r"^expected at most 32 wrappers inside of each other; got more$"):
        Route({}, default=deep)
    async with AuditTrail(storage_path=tmp_path, alert_dispatcher=deep) as trail:
        await trail.log_security_event(AuditEventType.SECURITY_VIOLATION, "someone opened the safe")
        await trail.drain()
    assert len(inner.alerts) == 1
