"""Alerts for Jira Service Management and Opsgenie, held against their reference."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fapilog import (
    AmbiguousDeliveryError,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    BrokenRouteError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.providers import Disclosure
from fapilog.providers._rendering import Rendered
from fapilog.testing import check_dispatcher
from tests.doubles.malicious_alerts import check_many, is_clean
from tests.doubles.malicious_alerts import texts as texts_in
from tests.doubles.origin import Answer, Origin
from tests.providers.conftest import an_event

pytest.importorskip("httpx2")

from fapilog.providers.opsgenie import OpsgenieDispatcher, _create

pytestmark = pytest.mark.real_time

KEY = "eb243592-s3cr3t"
OK = Answer(202, b'{"result":"Request will be processed","took":0.302,"requestId":"43a29c5c"}')


@pytest.fixture
def opsgenie(origin: Origin) -> Origin:
    """Run a server that takes alerts as Opsgenie does."""
    origin.script(OK)
    return origin


def to(origin: Origin, **options: Any) -> OpsgenieDispatcher:
    return OpsgenieDispatcher(**{"api_key": KEY, "base_url": origin.base_url} | options)


async def sent(
    origin: Origin, event: AuditEvent, severity: str = "security", channel: str | None = None, **options: Any
) -> dict[str, Any]:
    """Send an alert, and return what has arrived."""
    await to(origin, **options).send_alert(event, severity=severity, channel=channel)
    body: dict[str, Any] = json.loads(origin.requests[-1].body)
    return body


async def test_an_alert_is_created(opsgenie: Origin) -> None:
    """The request has the path, the key and the fields of the reference."""
    body = await sent(opsgenie, an_event(), channel="#on-call", link="https://audit/{sequence_number}?a&b")
    [request] = opsgenie.requests
    assert (request.method, request.path) == ("POST", "/v2/alerts")
    assert request.headers["authorization"] == f"GenieKey {KEY}"
    assert request.headers["content-type"] == "application/json"
    details = body.pop("details")
    assert len(body.pop("alias")) == 32
    assert body == {
        "message": "SECURITY authentication_failed in auth",
        "description": "five wrong passwords in a row",
        "priority": "P1",
        "tags": ["authentication_failed", "security", "#on-call", "AC-7"],
        "entity": "auth",
        "source": "fapilog",
    }
    assert details["link"] == "https://audit/12?a&b"
    assert (details["sequence_number"], details["regulatory_tags"]) == ("12", '["AC-7"]')
    assert all(isinstance(value, str) for value in details.values())
    assert not {"user_id", "metadata", "message"} & details.keys()


@pytest.mark.one_backend
@pytest.mark.parametrize("path", ["/jsm/ops/integration", "/jsm/ops/integration/", ""])
async def test_each_base_address_takes_the_same(opsgenie: Origin, path: str) -> None:
    """JSM and Opsgenie differ in what comes before the path alone."""
    await sent(opsgenie, an_event(), base_url=opsgenie.base_url + path)
    assert opsgenie.requests[0].path == path.rstrip("/") + "/v2/alerts"


@pytest.mark.one_backend
async def test_what_may_not_leave_stays(opsgenie: Origin) -> None:
    """An event with personal data has neither description, tags nor details of more than the minimum."""
    body = await sent(opsgenie, an_event(contains_pii=True))
    assert "description" not in body
    assert body["tags"] == ["authentication_failed", "security"]
    assert "hostname" not in body["details"]
    assert body["details"]["contains_pii"] == "true"
    full = await sent(opsgenie, an_event(contains_pii=True), disclosure=Disclosure.FULL)
    assert full["details"]["metadata"] == '{"attempts":5}'


@pytest.mark.one_backend
async def test_priorities_keep_their_order(opsgenie: Origin) -> None:
    """All six severities have a priority, none a lower one than a lesser severity, and P1 is the highest."""
    priorities = [(await sent(opsgenie, an_event(log_level=level), level.value))["priority"] for level in AuditLogLevel]
    assert priorities == sorted(priorities, reverse=True) == ["P5", "P5", "P3", "P2", "P1", "P1"]


@pytest.mark.one_backend
async def test_the_alias_is_of_the_event_and_the_key(opsgenie: Origin) -> None:
    """The same event has the same alias whenever it is sent; another event or another team's key has another."""
    one, again, other = [(await sent(opsgenie, an_event(event_id=name)))["alias"] for name in ("a", "a", "b")]
    assert one == again != other
    assert (await sent(opsgenie, an_event(event_id="a"), api_key="another"))["alias"] not in {one, other}
    assert KEY not in one


@pytest.mark.parametrize("kind", [AuditEventType.ERROR_RECOVERED, AuditEventType.COMPONENT_RECOVERY])
async def test_a_recovery_closes_its_incident(opsgenie: Origin, kind: AuditEventType) -> None:
    """A recovery closes what another event with the same incident has created."""
    alias = (await sent(opsgenie, an_event(metadata={"incident": "db-1"})))["alias"]
    event = an_event(event_id="other", event_type=kind, metadata={"incident": "db-1"})
    body = await sent(opsgenie, event)
    closing = opsgenie.requests[-1]
    assert (closing.method, closing.path) == ("POST", f"/v2/alerts/{alias}/close?identifierType=alias")
    assert closing.headers["authorization"] == f"GenieKey {KEY}"
    assert body == {"source": "fapilog", "note": f"SECURITY {kind.value} in auth"}


@pytest.mark.one_backend
async def test_a_recovery_can_name_the_event(opsgenie: Origin) -> None:
    """The id of the event that failed will do as the incident."""
    alias = (await sent(opsgenie, an_event()))["alias"]
    metadata = {"incident": an_event().event_id}
    await sent(opsgenie, an_event(event_id="other", event_type=AuditEventType.ERROR_RECOVERED, metadata=metadata))
    assert f"/{alias}/close" in opsgenie.requests[-1].path


@pytest.mark.one_backend
async def test_a_recovery_of_nothing_is_an_alert(opsgenie: Origin) -> None:
    """A recovery that names no incident is not lost, but creates an alert."""
    assert "alias" in await sent(opsgenie, an_event(event_type=AuditEventType.ERROR_RECOVERED))


@pytest.mark.one_backend
async def test_an_incident_stays_at_home(opsgenie: Origin) -> None:
    """The name of an incident is metadata, and only its hash leaves."""
    await sent(opsgenie, an_event(metadata={"incident": "patient-42"}))
    await sent(opsgenie, an_event(event_type=AuditEventType.ERROR_RECOVERED, metadata={"incident": "patient-42"}))
    assert not [each for each in opsgenie.requests if "patient-42" in each.path or b"patient-42" in each.body]


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [14_999, 15_000, 15_001])
async def test_a_description_has_15000_characters(opsgenie: Origin, length: int) -> None:
    """A description of 15 000 characters is whole; a longer one ends in an ellipsis."""
    words = "\u00e9" * length
    body = await sent(opsgenie, an_event(message=words))
    assert body["description"] == (words if length <= 15_000 else words[:14_999] + "…")


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [129, 130, 131])
async def test_a_message_has_130_characters(opsgenie: Origin, length: int) -> None:
    """A message of 130 characters is whole; a longer one ends in an ellipsis."""
    title = "SECURITY retention_policy_applied in "
    words = "\u00e9" * (length - len(title))
    event = an_event(event_type=AuditEventType.RETENTION_POLICY_APPLIED, component=words)
    body = await sent(opsgenie, event)
    assert body["message"] == (title + words if length <= 130 else (title + words)[:129] + "…")


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [511, 512, 513])
async def test_an_entity_has_512_characters(opsgenie: Origin, length: int) -> None:
    """An entity of 512 characters is whole; a longer one ends in an ellipsis."""
    body = await sent(opsgenie, an_event(component="c" * length))
    assert (len(body["entity"]), body["entity"].endswith("…")) == (min(length, 512), length > 512)


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [49, 50, 51])
@pytest.mark.parametrize("count", [19, 20, 21])
async def test_tags_are_20_of_50_characters(opsgenie: Origin, length: int, count: int) -> None:
    """No more than 20 tags are sent, and none is longer than 50 characters."""
    given = tuple(f"{number:02}".ljust(length, "t") for number in range(count - 2))
    tags = (await sent(opsgenie, an_event(regulatory_tags=given)))["tags"]
    assert len(tags) == min(count, 20)
    assert {len(tag) for tag in tags[2:]} == {min(length, 50)}
    assert tags[2].endswith("…") == (length > 50)


@pytest.mark.one_backend
@pytest.mark.parametrize("letter", ["a", "\u20ac", "\U0001f600", '"', "<"])
async def test_details_have_8000_characters(opsgenie: Origin, letter: str) -> None:
    """However long the fields are, all names and values have 8000 characters together, and name the record."""
    words = letter * 9000
    event = an_event(user_agent=words, component=words, hostname=words, metadata={words: [words]})
    details = (await sent(opsgenie, event, disclosure=Disclosure.FULL))["details"]
    assert 2000 < sum(len(name) + len(value) for name, value in details.items()) <= 8000
    assert details["event_id"] == event.event_id


HOSTILE = "<script>alert(1)</script><a href='https://evil'>click</a>\x1b[31m\u202e"


@pytest.mark.one_backend
async def test_hostile_text_is_text(opsgenie: Origin) -> None:
    """Nothing is markup in any field of a new alert or of a note, and controls are replaced."""
    event = an_event(
        message=HOSTILE, component=HOSTILE, hostname=HOSTILE, regulatory_tags=(HOSTILE,), metadata={HOSTILE: HOSTILE}
    )
    await sent(opsgenie, event, disclosure=Disclosure.FULL, channel=HOSTILE)
    metadata = {"incident": "x"}
    await sent(opsgenie, an_event(component=HOSTILE, event_type=AuditEventType.ERROR_RECOVERED, metadata=metadata))
    for request in opsgenie.requests:
        said = json.dumps(json.loads(request.body), ensure_ascii=False)
        assert "\u2039script\u203a" in said
        assert not {"<", ">", "\x1b", "\u202e"} & set(said)


ANSWERS = [
    (Answer(202, b'{"result":"Request will be processed"}'), BrokenRouteError, "not Opsgenie's"),
    (Answer(200, b"<html>login</html>"), BrokenRouteError, "a web page"),
    (Answer(202, b""), BrokenRouteError, "not Opsgenie's"),
    (Answer(200, b"\xff", {"content-encoding": "br"}), PermanentDeliveryError, "is not sent again"),
    (Answer(400, b'{"message":"s3cr3t"}'), PermanentDeliveryError, "status 400"),
    (Answer(401, b'{"message":"Could not authenticate"}'), BrokenRouteError, "check the key"),
    (Answer(403), BrokenRouteError, "status 403"),
    (Answer(404), BrokenRouteError, "status 404"),
    (Answer(422, b'{"message":"s3cr3t","errors":{"message":"s3cr3t"}}'), PermanentDeliveryError, "status 422"),
    (Answer(301), BrokenRouteError, "redirect"),
    (Answer(429), TransientDeliveryError, "in 30 s"),
    (Answer(429, headers={"retry-after": "0.5"}), TransientDeliveryError, "in 0.5 s"),
    (Answer(500), TransientDeliveryError, "status 500"),
    (Answer(503), TransientDeliveryError, "status 503"),
    (Answer(fault="close_before_answering"), AmbiguousDeliveryError, "no answer"),
    (Answer(202, OK.body, fault="close_in_body"), AmbiguousDeliveryError, "cut off"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("answer", "kind", "words"), ANSWERS)
async def test_what_opsgenie_answers(origin: Origin, answer: Answer, kind: type[DeliveryError], words: str) -> None:
    """Each answer is a failure of its kind, in our words."""
    origin.script(answer)
    async with to(origin) as dispatcher:
        with pytest.raises(DeliveryError) as caught:
            await dispatcher.send_alert(an_event(), severity="security")
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None


OWN_WORDS = [(401, "turned off"), (402, "plan"), (403, "allow it in its integration"), (404, "check base_url")]


@pytest.mark.one_backend
@pytest.mark.parametrize(("status", "words"), OWN_WORDS)
async def test_opsgenie_itself_refuses_the_key(origin: Origin, status: int, words: str) -> None:
    """An answer that has Opsgenie's `requestId` is about the key, and nothing is sent a second time."""
    origin.script(Answer(status, b'{"message":"s3cr3t","took":0.001,"requestId":"1-2"}'))
    with pytest.raises(BrokenRouteError, match=words) as caught:
        await to(origin).send_alert(an_event(), severity="security")
    assert "s3cr3t" not in str(caught.value)
    assert len(origin.requests) == 1


@pytest.mark.one_backend
async def test_a_202_is_enough(origin: Origin) -> None:
    """A 202 says that the request was taken, whatever packed the rest."""
    origin.script(Answer(202, b"\xff", {"content-encoding": "br"}))
    await to(origin).send_alert(an_event(), severity="security")


async def test_entered_it_keeps_the_connection(opsgenie: Origin) -> None:
    """Entered, it sends all by one connection, and asks for the key each time."""
    keys = iter(["one", "two"])
    async with to(opsgenie, api_key=lambda: next(keys)) as dispatcher:
        for _ in range(2):
            await dispatcher.send_alert(an_event(), severity="security")
    assert [each.headers["authorization"] for each in opsgenie.requests] == ["GenieKey one", "GenieKey two"]
    assert opsgenie.connections == 1


@pytest.mark.one_backend
@pytest.mark.parametrize("key", ["", " ", "s3cr3t key", "s3cr3t\u00e9", "s3cr3t\nx"])
async def test_a_key_is_checked(key: str) -> None:
    """A key that no header can hold is refused when it is given, or when it is asked for."""
    with pytest.raises(ValueError, match="api_key: expected") as refused:
        OpsgenieDispatcher(api_key=key)
    with pytest.raises(PermanentDeliveryError, match="api_key: expected") as late:
        await OpsgenieDispatcher(api_key=lambda: key).send_alert(an_event(), severity="security")
    assert "s3cr3t" not in f"{refused.value} {late.value}"


@pytest.mark.parametrize("url", ["http://api.opsgenie.com", "api.opsgenie.com", ""])
def test_the_base_address_is_checked(url: str) -> None:
    """An address that is not https is refused."""
    with pytest.raises(ValueError, match="base_url: expected"):
        OpsgenieDispatcher(api_key=KEY, base_url=url)


@pytest.mark.slow_on_trio
async def test_it_keeps_the_contract(opsgenie: Origin, everything_said: Callable[..., str]) -> None:
    """It passes the check that every dispatcher should pass, and its key is in no log."""
    with Origin() as down:
        down.script(Answer(401, b"s3cr3t"))
        await check_dispatcher(
            lambda: to(opsgenie, disclosure=Disclosure.FULL), failing=lambda: to(down), secrets=[KEY, "s3cr3t"]
        )
    assert "s3cr3t" not in everything_said()


def check_hostile(rendered: Rendered, channel: str | None) -> None:
    """Fail unless the request is within all limits, and its texts are clean and have no markup."""
    request = json.loads(msgspec.json.encode(_create(rendered, channel)))
    assert 0 < len(request["message"]) <= 130
    assert len(request.get("description", "")) <= 15_000
    assert len(request.get("entity", "")) <= 512
    assert len(request["tags"]) <= 20
    assert all(0 < len(tag) <= 50 for tag in request["tags"])
    assert sum(len(name) + len(value) for name, value in request["details"].items()) <= 8000
    assert request["priority"] in {"P1", "P2", "P3", "P4", "P5"}
    assert all(is_clean(words) and not {"<", ">"} & set(words) for words in texts_in(request))


def test_hostile_alerts() -> None:
    """Thirty hostile alerts become what the other side takes; `make torture` tries 10,000."""
    check_many(check_hostile, 30)
