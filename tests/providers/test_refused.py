"""Alerts that are refused for what is in them, by each provider over HTTP."""

import json
from datetime import UTC, datetime
from itertools import cycle

import pytest

from fapilog import (
    AuditEventType,
    BrokenRouteError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from tests.doubles.http_providers import EACH, PROVIDERS, Provider
from tests.doubles.origin import Answer, Origin
from tests.providers.conftest import an_event

pytest.importorskip("httpx2")

from fapilog.providers.alertmanager import AlertmanagerDispatcher
from fapilog.providers.slack import SlackDispatcher

pytestmark = pytest.mark.real_time

CASES = [
    pytest.param(each, answer, id=f"{name}, {number}")
    for name, each in PROVIDERS.items()
    for number, answer in enumerate(each.refusals, 1)
]


async def failure(provider: Provider, origin: Origin) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await provider.make(origin.base_url).send_alert(an_event(), severity="security", channel="#on-call")
    assert caught.value.__context__ is None
    return caught.value


@pytest.mark.one_backend
@pytest.mark.parametrize(("provider", "refusal"), CASES)
async def test_less_is_taken(
    origin: Origin, provider: Provider, refusal: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """What is refused for its content is sent once more, with the same key and little in it, and that is logged."""
    origin.script(refusal, provider.taken)
    await provider.make(origin.base_url).send_alert(an_event(), severity="security", channel="#on-call")
    whole, less = origin.requests
    assert whole.path == less.path
    assert provider.key(whole) == provider.key(less)
    for words in ("five wrong passwords", "web-1", "audit.example.com"):
        assert words in whole.body.decode()
        assert words not in less.body.decode()
    for words in ("SECURITY authentication_failed in auth", an_event().event_id, "2" * 64, "12"):
        assert words in less.body.decode()
    [record] = [each for each in caplog.records if each.name == "fapilog.providers"]
    assert "has only the event type and the place in the trail" in record.getMessage()


@pytest.mark.one_backend
@pytest.mark.parametrize(("provider", "refusal"), CASES)
async def test_less_is_refused(origin: Origin, provider: Provider, refusal: Answer) -> None:
    """What is refused again is not sent a third time, and the error says so."""
    origin.script(refusal)
    error = await failure(provider, origin)
    assert type(error) is PermanentDeliveryError
    assert str(error).endswith("; with less in it, it was refused again")
    assert len(origin.requests) == 2


@pytest.mark.one_backend
@pytest.mark.parametrize("provider", EACH)
async def test_the_second_fails_as_it_fails(origin: Origin, provider: Provider) -> None:
    """If the second meets anything else, that is what is raised."""
    origin.script(provider.refusals[0], Answer(503, headers={"retry-after": "7"}))
    error = await failure(provider, origin)
    assert isinstance(error, TransientDeliveryError)
    assert error.retry_after == 7
    assert len(origin.requests) == 2


FILTERS = [
    Answer(401),
    Answer(403, b"<html><body>Not Acceptable! An appropriate representation ...", {"server": "nginx/1.26 s3cr3t"}),
    Answer(400, b"<html>Request blocked", {"server": "CloudFront"}),
    Answer(403, b'{"message":"Forbidden"}'),
    Answer(404, b"default backend - 404"),
    *map(Answer, (405, 406, 410, 411, 414, 415, 418, 451)),
    # Some block with a page and a 200.
    Answer(200, b"<html><head><title>Request Rejected</title>", {"content-type": "text/html"}),
]
# Each with one provider, and each provider with two: one code judges for all.
FILTERED = pytest.mark.parametrize(
    ("provider", "answer"),
    [
        pytest.param(PROVIDERS[name], answer, id=f"{place}-{name}")
        for place, (name, answer) in enumerate(zip(cycle(PROVIDERS), FILTERS, strict=False))
    ],
)


@pytest.mark.one_backend
@FILTERED
async def test_what_something_refuses_is_sent_with_less(
    origin: Origin, provider: Provider, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """What is refused in nobody's words may be refused for its own: less is sent, and what refused it is logged."""
    origin.script(answer, provider.taken)
    await provider.make(origin.base_url).send_alert(an_event(), severity="security", channel="#on-call")
    whole, less = origin.requests
    assert provider.key(whole) == provider.key(less)
    assert "five wrong passwords" in whole.body.decode()
    assert "five wrong passwords" not in less.body.decode()
    [record] = [each for each in caplog.records if each.name == "fapilog.providers"]
    assert f": something between refused the content: status {answer.status}" in record.getMessage()
    assert (", server nginx;" in record.getMessage()) == ("nginx" in str(answer.headers))
    assert "s3cr3t" not in record.getMessage()


@pytest.mark.one_backend
@FILTERED
async def test_what_refuses_less_too_is_a_broken_route(origin: Origin, provider: Provider, answer: Answer) -> None:
    """What is refused whatever is in it says nothing of the alert, which may be sent when the route is mended."""
    origin.script(answer)
    error = await failure(provider, origin)
    assert type(error) is BrokenRouteError
    assert f"status {answer.status}" in str(error)
    assert str(error).endswith("; with less in it, it was refused again")
    assert len(origin.requests) == 2


@pytest.mark.one_backend
@pytest.mark.parametrize("provider", EACH)
async def test_the_second_refusal_decides(origin: Origin, provider: Provider) -> None:
    """A firewall's refusal that is followed by the other side's own is one of the content."""
    origin.script(Answer(403, b"<html>"), provider.refusals[0])
    assert type(await failure(provider, origin)) is PermanentDeliveryError
    origin.script(provider.refusals[0], Answer(403, b"<html>"))
    assert type(await failure(provider, origin)) is BrokenRouteError
    assert len(origin.requests) == 4


@pytest.mark.one_backend
@pytest.mark.parametrize("answer", [Answer(302), Answer(407), Answer(503), Answer(fault="close_before_answering")])
@pytest.mark.parametrize("provider", EACH)
async def test_other_failures_are_not_about_the_content(origin: Origin, provider: Provider, answer: Answer) -> None:
    """What is refused or lost for another reason is sent once."""
    origin.script(answer)
    await failure(provider, origin)
    assert len(origin.requests) == 1


@pytest.mark.parametrize("name", ["pagerduty", "opsgenie"])
async def test_of_a_recovery_there_is_no_less(origin: Origin, name: str) -> None:
    """A recovery says nothing that could be left out, and is sent once."""
    provider = PROVIDERS[name]
    origin.script(provider.refusals[0])
    event = an_event(event_type=AuditEventType.ERROR_RECOVERED, metadata={"incident": "db-1"})
    with pytest.raises(PermanentDeliveryError, match="status 400") as caught:
        await provider.make(origin.base_url).send_alert(event, severity="info")
    assert type(caught.value) is PermanentDeliveryError
    assert len(origin.requests) == 1


async def test_slack_gets_text_alone(origin: Origin) -> None:
    """The second message to Slack has no blocks, which have most of the rules, and its text is escaped."""
    origin.script(Answer(400, b"invalid_blocks"), Answer())
    event = an_event(component="<!channel>", timestamp=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC))
    await SlackDispatcher(webhook_url=origin.url).send_alert(event, severity="security")
    assert json.loads(origin.requests[1].body) == {
        "text": "SECURITY authentication_failed in &lt;!channel&gt;\n"
        "timestamp: 2026-02-03T04:05:06Z\n"
        f"event_id: {event.event_id}\nsequence_number: 12\nchecksum: {'2' * 64}",
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
    }


async def test_each_replica_is_asked_for_itself(origin: Origin) -> None:
    """One Alertmanager that refuses the alert gets less, the other all of it, and both the same labels."""
    with Origin() as strict:
        strict.script(Answer(400), Answer())
        dispatcher = AlertmanagerDispatcher(urls=[origin.url, strict.url], link="https://audit.example.com/{event_id}")
        await dispatcher.send_alert(an_event(), severity="security")
        [whole] = origin.requests
        assert len(strict.requests) == 2
        assert strict.requests[0].body == whole.body
        less = strict.requests[1].json()[0]
    assert less["labels"] == whole.json()[0]["labels"]
    assert "description" not in less["annotations"]
