"""Each alert to one of several: which, what decides, and resuming."""

import re
from pathlib import Path

import pytest

from fapilog import AuditEvent, AuditEventType, AuditLogLevel, NoopAlertDispatcher, PermanentDeliveryError
from fapilog.core.alerting import Alert, DurableDispatcher
from fapilog.delivery.outbox import Outbox
from fapilog.delivery.route import Condition, Route, when
from fapilog.record.chain import ChainHead
from fapilog.testing import RecordingDispatcher, check_dispatcher
from tests.doubles.dispatchers import Keeping, Managed, event


async def goes(condition: Condition, given: AuditEvent, channel: str | None = None) -> bool:
    """Return whether the alert about that event takes a route with that condition, and not the default."""
    way, default = RecordingDispatcher(), RecordingDispatcher()
    await Route({condition: way}, default=default).send_alert(given, severity=given.log_level.value, channel=channel)
    assert len(way.alerts) + len(default.alerts) == 1
    return bool(way.alerts)


SEVERE, MILD = event(log_level=AuditLogLevel.CRITICAL), event(log_level=AuditLogLevel.INFO)
EXPORT = event(event_type=AuditEventType.DATA_EXPORT, component="db")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("condition", "given", "channel", "expected"),
    [
        (when(severity="critical"), SEVERE, None, True),
        (when(severity="critical"), MILD, None, False),
        (when(severity=["critical", "info"]), MILD, None, True),
        (when(severity=AuditLogLevel.CRITICAL), SEVERE, None, True),
        (when(event_type=AuditEventType.DATA_EXPORT), EXPORT, None, True),
        (when(event_type=AuditEventType.DATA_EXPORT), SEVERE, None, False),
        (when(event_type={AuditEventType.DATA_EXPORT, AuditEventType.DATA_ACCESS}), EXPORT, None, True),
        (when(component="db"), EXPORT, None, True),
        (when(component=("cache", "vault")), EXPORT, None, False),
        (when(component="db"), event(component=None), None, False),
        (when(channel="#dba"), EXPORT, "#dba", True),
        (when(channel="#dba"), EXPORT, None, False),
        (when(component="db", event_type=AuditEventType.DATA_EXPORT, channel="#dba"), EXPORT, "#dba", True),
        (when(component="db", channel="#dba"), EXPORT, "#other", False),
        (lambda event, severity, channel: severity == "info" and channel == "#dba", MILD, "#dba", True),
        (lambda event, severity, channel: event.user_id == "root", MILD, "#dba", False),
    ],
)
async def test_an_alert_takes_a_route_whose_condition_it_meets(
    condition: Condition,
    given: AuditEvent,
    channel: str | None,
    expected: bool,  # noqa: FBT001
) -> None:
    """All kinds that a condition names must fit, and of each kind one of the values."""
    assert await goes(condition, given, channel) is expected


async def test_the_first_condition_that_is_met_wins() -> None:
    """Conditions are asked in the order written, also two that ask for the same, and only one dispatcher is called."""
    inner = [RecordingDispatcher() for _ in range(4)]
    route = Route(
        {
            when(channel="#dba"): inner[0],
            when(severity="critical"): inner[1],
            when(severity=["critical"]): inner[2],
        },
        default=inner[3],
    )
    await route.send_alert(SEVERE, severity="critical")
    await route.send_alert(SEVERE, severity="critical", channel="#dba")
    await route.send_alert(MILD, severity="info")
    assert [len(each.alerts) for each in inner] == [1, 1, 0, 1]
    assert (inner[0].alerts[0].event, inner[0].alerts[0].severity, inner[0].alerts[0].channel) == (
        SEVERE,
        "critical",
        "#dba",
    )


async def test_what_the_dispatcher_raises_is_raised() -> None:
    """The error is the one of the dispatcher whose route it was, and no other gets the alert."""
    error, default = PermanentDeliveryError("gone"), RecordingDispatcher()
    route = Route({when(severity="info"): RecordingDispatcher(error=error)}, default=default)
    with pytest.raises(PermanentDeliveryError) as caught:
        await route.send_alert(MILD, severity="info")
    assert caught.value is error
    assert not default.alerts


async def test_a_condition_that_raises_counts_as_not_met(caplog: pytest.LogCaptureFixture) -> None:
    """The alert goes on to the next condition, and the log names the type and nothing of the text."""

    def fails(event: AuditEvent, severity: str, channel: str | None) -> bool:
        raise RuntimeError("t0k3n")

    way = RecordingDispatcher()
    route = Route(
        {fails: RecordingDispatcher(error=ValueError()), when(severity="info"): way}, default=NoopAlertDispatcher()
    )
    await route.send_alert(MILD, severity="info")
    assert len(way.alerts) == 1
    [record] = caplog.records
    assert (record.name, record.getMessage()) == (
        "fapilog.delivery",
        f"condition 1 of a route raised RuntimeError for event {MILD.event_id}, and counts as not met",
    )
    assert record.exc_info is None


async def test_a_condition_that_has_to_be_awaited_is_not_met() -> None:
    """An asynchronous condition in disguise, whose coroutine would count as true, takes no alert."""

    async def later() -> bool:
        raise AssertionError

    default = RecordingDispatcher()
    routes = {lambda event, severity, channel: later(): RecordingDispatcher(error=ValueError())}
    await Route(routes, default=default).send_alert(MILD, severity="info")  # type: ignore[arg-type]
    assert len(default.alerts) == 1


async def test_all_are_entered_once_and_left() -> None:
    """A dispatcher of several routes is entered once, and the default is entered too."""
    shared, default = Managed(), Managed()
    async with Route({when(severity="info"): shared, when(channel="#dba"): shared}, default=default):
        assert (shared.entered, default.entered) == (1, 1)
    assert (shared.left, default.left) == (1, 1)


async def test_each_is_asked_for_the_alerts_of_its_own_routes() -> None:
    """What is routed to one that keeps nothing is not asked for, and the order is that of the alerts."""
    odd, even, plain = Keeping(1), Keeping(4), RecordingDispatcher()
    route = Route(
        {
            when(channel="#plain"): plain,
            lambda event, severity, channel: (event.sequence_number or 0) % 2 == 1: odd,
        },
        default=even,
    )
    assert isinstance(route, DurableDispatcher)
    assert route.resumes
    assert not Route({when(channel="#plain"): plain}, default=NoopAlertDispatcher()).resumes
    assert (await route.resume_from(ChainHead(8, "8"))).sequence_number == 1
    alerts = [Alert(event(number), "security", "#plain" if number > 6 else None) for number in range(2, 9)]
    wanted = await route.lacking(alerts)
    assert [alert.event.sequence_number for alert in wanted] == [3, 5, 6]
    for alert in wanted:
        await route.send_alert(alert.event, severity=alert.severity, channel=alert.channel)
    assert (odd.numbers, even.numbers) == ([3, 5], [6])
    await route.resumed_to(ChainHead(8, "8"))
    assert (odd.mark, even.mark) == (ChainHead(8, "8"), ChainHead(8, "8"))
    assert await route.lacking([]) == []


def test_it_shows_its_conditions_and_what_is_in_it() -> None:
    """Its repr says which alerts go where."""
    route = Route(
        {when(severity=["critical", "error"], event_type=AuditEventType.DATA_EXPORT): NoopAlertDispatcher()},
        default=RecordingDispatcher(),
    )
    assert re.fullmatch(
        r"<Route when\(severity=critical\|error, event_type=data_export\): <.*NoopAlertDispatcher.*>, default: <.*>>",
        repr(route),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"severity": "critcal"},
        {"event_type": "nothing"},
        {"severity": [], "channel": "#dba"},
    ],
)
def test_values_are_checked(wrong: dict[str, str]) -> None:
    """A condition without a value, or with a severity or type that does not exist, is refused."""
    with pytest.raises(ValueError, match=r"^\w+: expected"):
        when(**wrong)  # type: ignore[arg-type]


def test_routes_are_checked() -> None:
    """What can't be a condition is refused at construction, and so is having no default."""
    with pytest.raises(TypeError, match=r"^routes: expected"):
        Route({"critical": NoopAlertDispatcher()}, default=NoopAlertDispatcher())  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"^default: expected"):
        Route({}, default=None)  # type: ignore[arg-type]


def test_two_outboxes_of_one_name_are_refused(tmp_path: Path) -> None:
    """Two outboxes with one name in one place are refused when the route is made, and one in several routes is not."""
    one, other = (Outbox(NoopAlertDispatcher(), tmp_path / "alerts.db") for _ in range(2))
    Route({when(severity="critical"): one, when(severity="security"): one}, default=one)
    with pytest.raises(ValueError, match=r"^routes, default: expected one name for each outbox in a place; got two"):
        Route({when(severity="critical"): one}, default=other)


@pytest.mark.real_time
async def test_it_keeps_the_contract() -> None:
    """It is a dispatcher as the contract says."""
    await check_dispatcher(
        lambda: Route({when(severity="info", channel="#on-call"): NoopAlertDispatcher()}, default=Managed()),
        failing=lambda: Route({when(severity="info"): Managed()}, default=Managed(error=ValueError())),
    )
