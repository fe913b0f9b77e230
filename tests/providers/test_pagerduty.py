"""Events for PagerDuty, compared with what PagerDuty's own client sends."""

import json
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec
import pytest

from fapilog import (
    AmbiguousDeliveryError,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditTrail,
    BrokenRouteError,
    ComplianceLevel,
    CompliancePolicy,
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

httpx2 = pytest.importorskip("httpx2")

from fapilog.providers.pagerduty import PagerDutyDispatcher, _trigger  # noqa: E402  needs httpx2

pytestmark = pytest.mark.real_time

KEY = "s3cr3t".ljust(32, "0")
OK = Answer(202, b'{"status":"success","message":"Event processed","dedup_key":"k"}')


@pytest.fixture
def pagerduty(origin: Origin) -> Origin:
    """Run a server that takes events as PagerDuty does."""
    origin.script(OK)
    return origin


@pytest.fixture
def pagerduty_tls() -> Iterator[tuple[Origin, ssl.SSLContext]]:
    """Run it over TLS, which is all that PagerDuty's own client speaks, with the context of a client."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    with Origin(tls=server) as origin:
        origin.script(OK)
        yield origin, client


def to(origin: Origin, **options: Any) -> PagerDutyDispatcher:
    return PagerDutyDispatcher(**{"routing_key": KEY, "base_url": origin.base_url} | options)


async def sent(origin: Origin, event: AuditEvent, severity: str = "security", **options: Any) -> dict[str, Any]:
    """Send an alert, and return what has arrived."""
    await to(origin, **options).send_alert(event, severity=severity)
    body: dict[str, Any] = json.loads(origin.requests[-1].body)
    return body


@pytest.mark.slow_on_trio
async def test_it_sends_what_the_vendors_client_sends(pagerduty_tls: tuple[Origin, ssl.SSLContext]) -> None:
    """Path and body are those of PagerDuty's own client for the same event."""
    origin, trust = pagerduty_tls
    client = pytest.importorskip("pagerduty").EventsApiV2Client(KEY, base_url=origin.base_url, verify=trust)
    event = an_event(timestamp=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC))
    async with httpx2.AsyncClient(verify=trust) as own:
        ours = await sent(origin, event, link="https://audit/{sequence_number}", client=own)

    def trigger() -> None:
        client.trigger(
            summary="SECURITY authentication_failed in auth: five wrong passwords in a row",
            source="web-1",
            severity="critical",
            dedup_key=ours["dedup_key"],
            payload={"timestamp": "2026-02-03T04:05:06Z", "component": "auth", "class": "authentication_failed"},
            custom_details=ours["payload"]["custom_details"],
            links=[{"href": "https://audit/12", "text": "The record"}],
        )

    await anyio.to_thread.run_sync(trigger)
    client.close()
    one, other = origin.requests
    assert (one.method, one.path) == (other.method, other.path) == ("POST", "/v2/enqueue")
    assert one.headers["content-type"] == other.headers["content-type"]
    assert ours == json.loads(other.body)


async def test_it_resolves_as_the_vendors_client_does(pagerduty_tls: tuple[Origin, ssl.SSLContext]) -> None:
    """A recovery has the body of the client's resolve."""
    origin, trust = pagerduty_tls
    client = pytest.importorskip("pagerduty").EventsApiV2Client(KEY, base_url=origin.base_url, verify=trust)
    event = an_event(event_type=AuditEventType.ERROR_RECOVERED, metadata={"incident": "db-1"})
    async with httpx2.AsyncClient(verify=trust) as own:
        ours = await sent(origin, event, client=own)
    await anyio.to_thread.run_sync(client.resolve, ours["dedup_key"])
    client.close()
    assert ours == json.loads(origin.requests[-1].body)


@pytest.mark.one_backend
async def test_details_are_those_of_the_level(pagerduty: Origin) -> None:
    """The details have what the disclosure level allows, and the channel."""
    await to(pagerduty).send_alert(an_event(), severity="security", channel="#on-call")
    details = json.loads(pagerduty.requests[0].body)["payload"]["custom_details"]
    assert details["channel"] == "#on-call"
    assert details["sequence_number"] == 12
    assert not {"user_id", "metadata", "error", "client_ip"} & details.keys()
    full = await sent(pagerduty, an_event(), disclosure=Disclosure.FULL)
    assert full["payload"]["custom_details"]["metadata"] == {"attempts": 5}


@pytest.mark.one_backend
async def test_any_channel_can_be_sent(pagerduty: Origin) -> None:
    """A lone surrogate in a policy's channel is sent as its escape."""
    await to(pagerduty).send_alert(an_event(), severity="security", channel="#\ud83d")
    assert json.loads(pagerduty.requests[0].body)["payload"]["custom_details"]["channel"] == "#\\ud83d"


@pytest.mark.one_backend
async def test_minimal_has_no_host_to_name(pagerduty: Origin) -> None:
    """Where the machine may not be told, the component is the source; without one it is fapilog."""
    body = await sent(pagerduty, an_event(), disclosure=Disclosure.MINIMAL)
    assert body["payload"]["source"] == "auth"
    assert "web-1" not in json.dumps(body)
    body = await sent(pagerduty, an_event(component=None), disclosure=Disclosure.MINIMAL)
    assert body["payload"]["source"] == "fapilog"
    assert "component" not in body["payload"]


RANKS = ["info", "warning", "error", "critical"]


@pytest.mark.one_backend
async def test_severities_keep_their_order(pagerduty: Origin) -> None:
    """All six severities become one that PagerDuty knows, none below a lesser one."""
    ranks = [
        RANKS.index((await sent(pagerduty, an_event(log_level=level), level.value))["payload"]["severity"])
        for level in AuditLogLevel
    ]
    assert len(ranks) == 6
    assert ranks == sorted(ranks) == [0, 0, 1, 2, 3, 3]


@pytest.mark.one_backend
async def test_the_key_is_of_the_event(pagerduty: Origin) -> None:
    """The same event has the same key whenever it is sent, another event another."""
    keys = [(await sent(pagerduty, an_event(event_id=name)))["dedup_key"] for name in ("a", "a", "b")]
    assert keys[0] == keys[1] != keys[2]
    # printf 71:sha256:$(printf a | sha256sum | cut -c -64) | sha256sum
    assert keys[0] == "753331af2a9b21487af89b0271fc101e"
    assert len(keys[0]) <= 255


@pytest.mark.parametrize("kind", [AuditEventType.ERROR_RECOVERED, AuditEventType.COMPONENT_RECOVERY])
@pytest.mark.parametrize("incident", ["db-1", 4711])
async def test_a_recovery_resolves_its_incident(pagerduty: Origin, kind: AuditEventType, incident: object) -> None:
    """A recovery resolves what another event with the same incident has opened."""
    opened = await sent(pagerduty, an_event(metadata={"incident": incident}))
    closed = await sent(pagerduty, an_event(event_id="other", event_type=kind, metadata={"incident": incident}))
    assert (opened["event_action"], closed["event_action"]) == ("trigger", "resolve")
    assert opened["dedup_key"] == closed["dedup_key"]
    assert closed.keys() == {"routing_key", "event_action", "dedup_key"}


@pytest.mark.one_backend
async def test_a_recovery_can_name_the_event(pagerduty: Origin) -> None:
    """The id of the event that failed will do as the incident."""
    opened = await sent(pagerduty, an_event())
    event = an_event(
        event_id="other",
        event_type=AuditEventType.COMPONENT_RECOVERY,
        metadata={"incident": an_event().event_id},
    )
    assert (await sent(pagerduty, event))["dedup_key"] == opened["dedup_key"]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "metadata", [{}, {"incident": ""}, {"incident": None}, {"incident": True}, {"incident": ["a"]}]
)
async def test_a_recovery_of_nothing_is_an_alert(pagerduty: Origin, metadata: dict[str, object]) -> None:
    """A recovery that names no incident is not lost, but sent as any alert."""
    event = an_event(event_type=AuditEventType.ERROR_RECOVERED, metadata=metadata)
    assert (await sent(pagerduty, event))["event_action"] == "trigger"


@pytest.mark.one_backend
async def test_an_incident_stays_at_home(pagerduty: Origin) -> None:
    """The name of an incident is metadata, and only its hash leaves."""
    await sent(pagerduty, an_event(metadata={"incident": "patient-42"}))
    await sent(pagerduty, an_event(event_type=AuditEventType.ERROR_RECOVERED, metadata={"incident": "patient-42"}))
    assert not [each for each in pagerduty.requests if b"patient-42" in each.body]


@pytest.mark.parametrize("incident", ["archive-7", None])
@pytest.mark.parametrize("minimum", [True, False])
async def test_a_trail_opens_and_resolves(
    pagerduty: Origin, tmp_path: Path, *, incident: str | None, minimum: bool
) -> None:
    """A recovery logged as information resolves what its failure has opened, though a dispatcher gets the minimum."""
    policy = CompliancePolicy(level=ComplianceLevel.HIPAA, hipaa_minimum_necessary=minimum)
    async with AuditTrail(policy, tmp_path / "audit", to(pagerduty)) as trail:
        failure = await trail.log_event(
            AuditEventType.COMPONENT_FAILURE,
            "the archive is down",
            log_level=AuditLogLevel.CRITICAL,
            metadata={"incident": incident} if incident else {},
        )
        await trail.drain()
        await trail.log_event(
            AuditEventType.COMPONENT_RECOVERY, "it is back", metadata={"incident": incident or failure}
        )
    opened, closed = (json.loads(request.body) for request in pagerduty.requests)
    assert (opened["event_action"], closed["event_action"]) == ("trigger", "resolve")
    assert opened["dedup_key"] == closed["dedup_key"]
    assert not [each for each in pagerduty.requests if b"archive-7" in each.body]


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [1023, 1024, 1025])
async def test_a_summary_has_1024_characters(pagerduty: Origin, length: int) -> None:
    """A summary of 1024 characters is whole; a longer one ends in an ellipsis, and the details have the rest."""
    title = "SECURITY authentication_failed in auth: "
    words = "\u00e9" * (length - len(title))
    payload = (await sent(pagerduty, an_event(message=words)))["payload"]
    expected = title + words
    assert payload["summary"] == (expected if length <= 1024 else expected[:1023] + "…")
    assert payload["custom_details"]["message"] == words


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "letter", ["\U0001f600", "\x00", *(pytest.param(each, marks=pytest.mark.slow) for each in ("a", "\u20ac", '"'))]
)
async def test_an_event_has_512_kilobytes(pagerduty: Origin, letter: str) -> None:
    """However long its texts are, an event is no larger than PagerDuty takes, and still names the record."""
    words = letter * 200_000
    event = an_event(message=words, component=words, hostname=words, request_id=words, data_classification=words)
    payload = (await sent(pagerduty, event))["payload"]
    assert len(pagerduty.requests[0].body) <= 512_000
    assert payload["custom_details"]["event_id"] == event.event_id
    assert len(payload["source"]) == len(payload["component"]) == 255


@pytest.mark.one_backend
async def test_large_metadata_are_cut(pagerduty: Origin) -> None:
    """Metadata that are too large become text that is cut."""
    metadata = {str(number): "m" * 1000 for number in range(1000)}
    body = await sent(pagerduty, an_event(metadata=metadata), disclosure=Disclosure.FULL)
    assert len(pagerduty.requests[0].body) <= 512_000
    assert body["payload"]["custom_details"]["metadata"].endswith("…")


@pytest.mark.one_backend
async def test_hostile_text_is_text(pagerduty: Origin) -> None:
    """Controls and what turns the direction of text are replaced, in names and deep inside, too."""
    words = "\x1b[31m\u202eabc\x00"
    event = an_event(message=words, component=words, metadata={words: [{words: words}]})
    body = await sent(pagerduty, event, disclosure=Disclosure.FULL)
    said = json.dumps(body, ensure_ascii=False)
    assert "abc" in said
    assert not {"\x1b", "\u202e", "\x00"} & set(said)
    assert "\\u001b" not in said
    assert "\n" not in body["payload"]["summary"]


ANSWERS = [
    (Answer(202, b'{"status":"failure"}'), BrokenRouteError, "not PagerDuty's"),
    (Answer(200, b"<html>login</html>"), BrokenRouteError, "a web page"),
    (Answer(202, b""), BrokenRouteError, "not PagerDuty's"),
    (Answer(200, b"\xff", {"content-encoding": "br"}), PermanentDeliveryError, "is not sent again"),
    (
        Answer(
            400,
            b'{"status":"invalid event","message":"Event object is invalid",'
            b'"errors":["Length of \'routing_key\' is incorrect (should be 32 characters)"]}',
        ),
        BrokenRouteError,
        "the routing key was refused; use the integration key",
    ),
    (
        Answer(400, b'{"status":"invalid event","errors":["\'payload.summary\' is missing or blank s3cr3t"]}'),
        PermanentDeliveryError,
        "status 400",
    ),
    (Answer(400, b'{"errors":7}'), PermanentDeliveryError, "status 400"),
    (Answer(404), BrokenRouteError, "status 404"),
    (Answer(302), BrokenRouteError, "redirect"),
    (Answer(429), TransientDeliveryError, "status 429"),
    (Answer(500), TransientDeliveryError, "status 500"),
    (Answer(503), TransientDeliveryError, "status 503"),
    (Answer(fault="reset_before_answering"), AmbiguousDeliveryError, "no answer"),
    (Answer(202, OK.body, fault="close_in_body"), AmbiguousDeliveryError, "cut off"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("answer", "kind", "words"), ANSWERS)
async def test_what_pagerduty_answers(origin: Origin, answer: Answer, kind: type[DeliveryError], words: str) -> None:
    """Each answer is the failure that PagerDuty's reference says, in our words."""
    origin.script(answer)
    async with to(origin) as dispatcher:
        with pytest.raises(DeliveryError) as caught:
            await dispatcher.send_alert(an_event(), severity="security")
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("headers", "seconds"), [({}, 30.0), ({"retry-after": "90"}, 90.0)])
async def test_too_many_events_pause(origin: Origin, headers: dict[str, str], seconds: float) -> None:
    """Two events a second are too many, and the pause is told."""
    origin.script(Answer(429, headers=headers))
    with pytest.raises(TransientDeliveryError) as caught:
        await to(origin).send_alert(an_event(), severity="security")
    assert caught.value.retry_after == seconds


@pytest.mark.one_backend
async def test_a_202_is_enough(origin: Origin) -> None:
    """A 202 says that PagerDuty has the event, whatever packed the rest."""
    origin.script(Answer(202, b"\xff", {"content-encoding": "br"}))
    await to(origin).send_alert(an_event(), severity="security")


async def test_entered_it_keeps_the_connection(pagerduty: Origin) -> None:
    """Entered, it sends all by one connection, and asks for the key each time."""
    keys = iter(["1" * 32, "2" * 32])
    async with to(pagerduty, routing_key=lambda: next(keys)) as dispatcher:
        for _ in range(2):
            await dispatcher.send_alert(an_event(), severity="security")
    assert [json.loads(each.body)["routing_key"][0] for each in pagerduty.requests] == ["1", "2"]
    assert pagerduty.connections == 1


@pytest.mark.one_backend
async def test_a_slash_at_the_end_is_no_matter(pagerduty: Origin) -> None:
    """The base address may end in a slash."""
    await sent(pagerduty, an_event(), base_url=pagerduty.base_url + "/")
    assert pagerduty.requests[0].path == "/v2/enqueue"


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [0, 31, 33])
async def test_a_routing_key_has_32_characters(length: int) -> None:
    """A key of another length is refused when it is given, or when it is asked for."""
    key = "s3cr3t".ljust(length, "0")[:length]
    with pytest.raises(ValueError, match="routing_key: expected") as refused:
        PagerDutyDispatcher(routing_key=key)
    with pytest.raises(PermanentDeliveryError, match="routing_key: expected") as late:
        await PagerDutyDispatcher(routing_key=lambda: key).send_alert(an_event(), severity="security")
    assert "s3cr3t" not in f"{refused.value} {late.value}"


@pytest.mark.parametrize("url", ["http://events.pagerduty.com", "events.pagerduty.com", "ftp://x", ""])
def test_the_base_address_is_checked(url: str) -> None:
    """An address that is not https is refused."""
    with pytest.raises(ValueError, match="base_url: expected"):
        PagerDutyDispatcher(routing_key=KEY, base_url=url)


@pytest.mark.slow_on_trio
async def test_it_keeps_the_contract(pagerduty: Origin, everything_said: Callable[..., str]) -> None:
    """It passes the check that every dispatcher should pass, and its key is in no log."""
    with Origin() as down:
        down.script(Answer(400, b'{"errors":["routing_key"]}'))
        await check_dispatcher(
            lambda: to(pagerduty, disclosure=Disclosure.FULL), failing=lambda: to(down), secrets=[KEY, "s3cr3t"]
        )
    assert "s3cr3t" not in everything_said()


def check_hostile(rendered: Rendered, channel: str | None) -> None:
    """Fail unless the event is within all limits, and its texts are clean."""
    content = msgspec.json.encode(_trigger(rendered, channel))
    assert len(content) <= 511_000  # the keys come to it
    trigger = json.loads(content)
    payload = trigger["payload"]
    assert 0 < len(payload["summary"]) <= 1024
    assert 0 < len(payload["source"]) <= 255
    assert payload["severity"] in {"info", "warning", "error", "critical"}
    assert all(is_clean(payload[name], set()) for name in ("summary", "source", "class"))
    assert all(map(is_clean, texts_in(trigger)))


def test_hostile_alerts() -> None:
    """Thirty hostile alerts become what the other side takes; `make torture` tries 10,000."""
    check_many(check_hostile, 30)
