"""Webhooks, verified by the reference library as a receiver would."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from fapilog import BrokenRouteError, PermanentDeliveryError
from fapilog.record.values import text
from fapilog.testing import check_dispatcher
from tests.doubles.malicious_alerts import check_many
from tests.doubles.origin import SECRET_PATH, Answer, Origin, Request
from tests.providers.conftest import an_event

pytest.importorskip("httpx2")
standardwebhooks = pytest.importorskip("standardwebhooks")

from fapilog.providers._rendering import Rendered  # noqa: E402
from fapilog.providers.webhook import WebhookDispatcher, _content  # noqa: E402  needs httpx2

pytestmark = pytest.mark.real_time

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()


def verified(request: Request, secret: str = SECRET) -> dict[str, Any]:
    """Return the payload, as a receiver with *secret* takes it."""
    payload: dict[str, Any] = standardwebhooks.Webhook(secret).verify(request.body, request.headers)
    return payload


async def test_a_receiver_verifies_it(origin: Origin) -> None:
    """What is posted passes the reference library, and has type, timestamp and data."""
    async with WebhookDispatcher(url=origin.url, secret=SECRET, link="https://audit/{sequence_number}") as dispatcher:
        event = an_event(timestamp=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC))
        await dispatcher.send_alert(event, severity="security", channel="#on-call")
    [request] = origin.requests
    payload = verified(request)
    assert (request.method, request.path) == ("POST", SECRET_PATH)
    assert request.headers["content-type"] == "application/json"
    assert list(payload) == ["type", "timestamp", "data"]
    assert payload["type"] == "audit.authentication_failed"
    assert payload["timestamp"] == "2026-02-03T04:05:06Z"
    assert (
        payload["data"].items()
        >= {
            "severity": "security",
            "channel": "#on-call",
            "title": "SECURITY authentication_failed in auth",
            "link": "https://audit/12",
            "message": "five wrong passwords in a row",
            "sequence_number": 12,
        }.items()
    )
    assert "user_id" not in payload["data"]


@pytest.mark.one_backend
async def test_a_changed_body_is_not_verified(origin: Origin) -> None:
    """The signature covers the body and the id."""
    async with WebhookDispatcher(url=origin.url, secret=SECRET) as dispatcher:
        await dispatcher.send_alert(an_event(), severity="security")
    [request] = origin.requests
    for changed in (request.body + b" ", request.body):
        headers = request.headers | ({} if changed != request.body else {"webhook-id": "other"})
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(SECRET).verify(changed, headers)


@pytest.mark.parametrize("status", [208, 409])
async def test_an_id_that_was_seen_is_delivered(origin: Origin, status: int) -> None:
    """A receiver that says that it knows the id has the alert."""
    origin.script(Answer(status, b'{"seen":true}'))
    await WebhookDispatcher(url=origin.url, secret=SECRET).send_alert(an_event(), severity="security")
    assert len(origin.requests) == 1


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("answers", "words"),
    [
        # The receiver knows the id from what it has just refused.
        ([Answer(422), Answer(409)], "status 409"),
        ([Answer(409, b"<html>")], "a web page"),
        ([Answer(200, b"<html>Sign in", {"content-type": "text/html"})], "a web page"),
        ([Answer(208, b"<html>Sign in", {"content-type": "text/html"})], "a web page"),
    ],
)
async def test_no_other_answer_is_delivered(origin: Origin, answers: list[Answer], words: str) -> None:
    """A 409 to less than was refused, and a page for people, are not the receiver's word that it has the alert."""
    origin.script(*answers)
    with pytest.raises(BrokenRouteError, match=words):
        await WebhookDispatcher(url=origin.url, secret=SECRET).send_alert(an_event(), severity="security")
    assert len(origin.requests) == 2


@pytest.mark.one_backend
async def test_several_secrets_sign(origin: Origin) -> None:
    """While a secret is exchanged, receivers with the old and with the new one verify."""
    async with WebhookDispatcher(url=origin.url, secret=[SECRET, lambda: OTHER_SECRET]) as dispatcher:
        await dispatcher.send_alert(an_event(), severity="security")
    [request] = origin.requests
    assert verified(request, SECRET) == verified(request, OTHER_SECRET)


@pytest.mark.one_backend
async def test_the_id_is_stable(origin: Origin) -> None:
    """The id is that of event and address, whoever sends it and however often."""
    for url in (origin.url, origin.url, origin.base_url):
        for event_id in ("one", "two"):
            async with WebhookDispatcher(url=url, secret=SECRET) as dispatcher:
                await dispatcher.send_alert(an_event(event_id=event_id), severity="security")
    ids = [request.headers["webhook-id"] for request in origin.requests]
    assert ids[:2] == ids[2:4]
    assert len(set(ids)) == 4


async def test_secrets_rotate(origin: Origin) -> None:
    """Address, secret and headers that are callables are asked for each alert."""
    paths, secrets = iter(["/one", "/two"]), iter([SECRET, OTHER_SECRET])
    dispatcher = WebhookDispatcher(
        url=lambda: origin.base_url + next(paths),
        secret=lambda: next(secrets),
        headers={"Authorization": lambda: "Bearer t0k3n", "X-Team": "security"},
    )
    async with dispatcher:
        for _ in range(2):
            await dispatcher.send_alert(an_event(), severity="security")
    first, second = origin.requests
    assert (first.path, second.path) == ("/one", "/two")
    verified(first, SECRET)
    verified(second, OTHER_SECRET)
    assert (first.headers["authorization"], first.headers["x-team"]) == ("Bearer t0k3n", "security")


BAD_URLS = [
    *("http://example.com/s3cr3t", "ftp://x/s3cr3t", "/s3cr3t", "https:///s3cr3t", "https://[s3cr3t", ""),
    *("http://127.0.0.1.example.com/s3cr3t", "http://localhost.example.com/", "http://10.0.0.1/"),
]
BAD_SECRETS = ["s3cr3t", "whsec_s3cr3t", SECRET[6:], "whsec_" + "A" * 28, "whsec_" + "A" * 88]
BAD_HEADERS = ["Webhook-Id", "content-type", "Host", "two words", "x:y", ""]
BAD_OPTIONS: list[dict[str, Any]] = [
    *({"url": url} for url in BAD_URLS),
    *({"secret": secret} for secret in BAD_SECRETS),
    *({"headers": {name: "x"}} for name in BAD_HEADERS),
    {"secret": []},
    *({"headers": {"X-Key": value}} for value in ("", "s3cr3t\r\nX-Other: y", "s3cr3t\N{EURO SIGN}")),
    {"timeout": 0},
    {"link": "audit"},
    {"disclosure": "all"},
]


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_options_are_checked(options: dict[str, Any]) -> None:
    """What is not what is expected is refused at construction, without a secret in the message or behind it."""
    with pytest.raises(ValueError, match=r"^[\w -]+: expected") as caught:
        WebhookDispatcher(**{"url": "https://example.com/hook", "secret": SECRET} | options)
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in repr(caught.value.__context__)


@pytest.mark.parametrize(
    ("secret", "got"),
    [
        ("s3cr3t", "a text without whsec_"),
        ("whsec_s3cr3t!", "no base64 behind it"),
        ("whsec_czNjcjN0", "6 bytes"),
    ],
)
def test_a_wrong_secret_is_described(secret: str, got: str) -> None:
    """How far a secret is from what is expected is said, and nothing of it."""
    with pytest.raises(ValueError, match=f"^secret: expected whsec_ and 24 to 64 bytes in base64; got {got}"):
        WebhookDispatcher(url="https://example.com/hook", secret=secret)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"secret": None}, "secret: expected text, or a function that returns it; got None: is the variable not set?"),
        ({"secret": 5}, "secret: expected text, or a function that returns it; got an int"),
        ({"headers": ["X-Key"]}, "headers: expected a mapping of names and values; got a list"),
        ({"headers": {5: "x"}}, "headers: expected names of further headers; got an int"),
    ],
)
def test_another_kind_of_value_is_refused(options: dict[str, Any], words: str) -> None:
    """A variable that is not set, and what is no mapping, are refused in words."""
    with pytest.raises(TypeError) as caught:
        WebhookDispatcher(**{"url": "https://example.com/hook", "secret": SECRET} | options)
    assert str(caught.value) == words


@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "http://127.1.2.3/x", "http://[::1]:80/x", "http://localhost/x"])
def test_this_machine_needs_no_tls(url: str) -> None:
    """Plain http is allowed to the loopback, and elsewhere if one says so."""
    WebhookDispatcher(url=url, secret=SECRET)
    WebhookDispatcher(url="http://collector.internal/x", secret=SECRET, allow_http=True)


async def test_an_address_that_turns_bad_is_refused(origin: Origin) -> None:
    """What a callable returns is checked like a text."""
    dispatcher = WebhookDispatcher(url=lambda: "http://example.com/s3cr3t", secret=SECRET)
    with pytest.raises(PermanentDeliveryError, match="url: expected https:"):
        await dispatcher.send_alert(an_event(), severity="security")


@pytest.mark.slow_on_trio
async def test_it_keeps_the_contract(origin: Origin) -> None:
    """It is a dispatcher as the contract says, and gives no secret away."""

    def refused() -> WebhookDispatcher:
        return WebhookDispatcher(url=refusing.url, secret=SECRET)

    with Origin() as refusing:
        refusing.script(Answer(410))
        await check_dispatcher(
            lambda: WebhookDispatcher(url=origin.url, secret=SECRET, headers={"Authorization": "Bearer t0k3n"}),
            failing=refused,
            secrets=[SECRET_PATH, SECRET, SECRET[6:], "t0k3n"],
        )


def check_hostile(rendered: Rendered, channel: str | None) -> None:
    """Fail unless the body is JSON of less than 20 kB, of a type that the specification allows."""
    content = _content(rendered, channel and text(channel))
    assert len(content) < 20_000
    payload = json.loads(content)
    assert payload.keys() == {"type", "timestamp", "data"}
    assert payload["type"].replace(".", "").replace("_", "").isalnum()


def test_hostile_alerts() -> None:
    """Thirty hostile alerts become what the other side takes; `make torture` tries 10,000."""
    check_many(check_hostile, 30)
