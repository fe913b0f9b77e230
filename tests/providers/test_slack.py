"""Slack messages, held against the block models and the client of Slack's own SDK."""

import json
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from fapilog.testing import check_dispatcher
from tests.doubles.malicious_alerts import check_many, is_clean
from tests.doubles.malicious_alerts import texts as texts_in
from tests.doubles.origin import Answer, Origin
from tests.providers.conftest import an_event

pytest.importorskip("httpx2")
slack_sdk = pytest.importorskip("slack_sdk")

from slack_sdk.models.blocks import Block  # noqa: E402

from fapilog.providers._rendering import Rendered, Renderer  # noqa: E402
from fapilog.providers.slack import _ADVICE, SlackDispatcher, _message, _text_alone  # noqa: E402  needs httpx2

pytestmark = pytest.mark.real_time

TOKEN = "xoxb-1-s3cr3t"
OK = Answer(200, b'{"ok":true,"channel":"C1","ts":"1.2"}')


def as_bot(origin: Origin, **options: Any) -> SlackDispatcher:
    return SlackDispatcher(**{"token": TOKEN, "channel": "C1", "base_url": origin.base_url + "/api"} | options)


def message(**changes: object) -> dict[str, Any]:
    """Return the message about an event with *changes*, as it is sent."""
    alert = Renderer(Disclosure.FULL, "https://audit/{event_id}")(an_event(**changes), "security")
    sent: dict[str, Any] = json.loads(json.dumps(_message(alert)))
    return sent


def texts(sent: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every text object of a message."""
    return [each for block in sent["blocks"] for each in ([block["text"]] if "text" in block else block["fields"])]


def check(sent: dict[str, Any]) -> None:
    """Fail unless Slack's models take the blocks as they are, and all other limits are kept."""
    blocks = Block.parse_all(sent["blocks"])
    for block in blocks:
        block.validate_json()
    assert [block.to_dict() for block in blocks] == sent["blocks"]
    assert len(blocks) <= 50
    assert all(len(field["text"]) <= 2000 for block in sent["blocks"] for field in block.get("fields", []))
    assert all(each["text"] for each in texts(sent))
    assert sum(len(each["text"]) for each in texts(sent)) < 13_200
    assert 0 < len(sent["text"]) <= 1000


async def failure(dispatcher: SlackDispatcher) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        await dispatcher.send_alert(an_event(), severity="security")
    assert caught.value.__context__ is None
    return caught.value


async def test_a_webhook_gets_the_message(origin: Origin) -> None:
    """The message goes to the webhook's address, with header, message, fields and link, and names no channel."""
    async with SlackDispatcher(webhook_url=origin.url, link="https://audit/{sequence_number}?a=1&b=|") as dispatcher:
        await dispatcher.send_alert(an_event(), severity="security", channel="#elsewhere")
    [request] = origin.requests
    sent = json.loads(request.body)
    check(sent)
    assert request.path.startswith("/services/")
    assert "authorization" not in request.headers
    assert "channel" not in sent
    assert sent["text"] == "SECURITY authentication_failed in auth\nfive wrong passwords in a row"
    header, words, *fields, link = sent["blocks"]
    assert header["text"]["text"] == "SECURITY authentication_failed in auth"
    assert words["text"]["text"] == "five wrong passwords in a row"
    assert {"component\nauth", "hostname\nweb-1", "sequence_number\n12"} <= {
        field["text"] for block in fields for field in block["fields"]
    }
    assert link["text"] == {"type": "mrkdwn", "text": "<https://audit/12?a=1&amp;b=%7C|The record>"}


@pytest.mark.one_backend
async def test_links_are_not_unfolded(origin: Origin) -> None:
    """Slack is told not to visit what is linked."""
    async with SlackDispatcher(webhook_url=origin.url) as dispatcher:
        await dispatcher.send_alert(an_event(), severity="security")
    sent = json.loads(origin.requests[0].body)
    assert (sent["unfurl_links"], sent["unfurl_media"], sent["mrkdwn"]) == (False, False, False)


@pytest.mark.parametrize(("given", "expected"), [(None, "C1"), ("#security", "#security"), ("\ud83d", "\\ud83d")])
async def test_a_bot_posts_to_the_channel_of_the_policy(origin: Origin, given: str | None, expected: str) -> None:
    """The channel of the alert comes first, then the dispatcher's."""
    origin.script(OK)
    await as_bot(origin).send_alert(an_event(), severity="security", channel=given)
    [request] = origin.requests
    assert request.path == "/api/chat.postMessage"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert json.loads(request.body)["channel"] == expected


async def test_a_bot_sends_what_the_sdk_sends(origin: Origin) -> None:
    """Path, token and body are those of Slack's own client."""
    origin.script(OK)
    await as_bot(origin).send_alert(an_event(), severity="security")
    sent = json.loads(origin.requests[0].body)
    client = slack_sdk.WebClient(TOKEN, base_url=origin.base_url + "/api/")
    await anyio.to_thread.run_sync(lambda: client.chat_postMessage(**sent))
    ours, theirs = origin.requests
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    assert ours.headers["authorization"] == theirs.headers["authorization"]
    types = (each.headers["content-type"].replace(" ", "") for each in (ours, theirs))
    assert len(set(types)) == 1
    assert json.loads(ours.body) == json.loads(theirs.body)


async def test_a_secret_is_asked_for_each_time(origin: Origin) -> None:
    """A token that comes from a callable may change between two alerts."""
    origin.script(OK)
    tokens = iter(["xoxb-one", "xoxb-two"])
    async with as_bot(origin, token=lambda: next(tokens)) as dispatcher:
        for _ in range(2):
            await dispatcher.send_alert(an_event(), severity="security")
    assert [each.headers["authorization"] for each in origin.requests] == ["Bearer xoxb-one", "Bearer xoxb-two"]
    assert origin.connections == 1


@pytest.mark.one_backend
@pytest.mark.parametrize("body", [b"ok", b"ok\n", b'{"ok":true}'])
async def test_a_webhook_agrees_in_two_ways(origin: Origin, body: bytes) -> None:
    """A webhook says that it has the message in text, or in JSON."""
    origin.script(Answer(200, body))
    await SlackDispatcher(webhook_url=origin.url).send_alert(an_event(), severity="security")


@pytest.mark.one_backend
@pytest.mark.parametrize("body", [b"", b"okay", b"<html>ok</html>", b'{"ok":"true"}', b"{}", b"[]", b"\xff"])
async def test_a_200_that_slack_did_not_write_is_no_success(origin: Origin, body: bytes) -> None:
    """What answers 200 without Slack's words, such as a proxy's page, has not delivered it."""
    origin.script(Answer(200, body))
    for dispatcher in (SlackDispatcher(webhook_url=origin.url), as_bot(origin)):
        error = await failure(dispatcher)
        assert type(error) is BrokenRouteError
        assert ("a web page" if b"<" in body else "not Slack's") in str(error)


@pytest.mark.one_backend
async def test_a_bot_needs_json(origin: Origin) -> None:
    """The text by which a webhook agrees is not what the API answers."""
    origin.script(Answer(200, b"ok"))
    assert type(await failure(as_bot(origin))) is BrokenRouteError


@pytest.mark.one_backend
async def test_a_packed_answer_is_enough_for_a_webhook_alone(origin: Origin) -> None:
    """A 200 that can't be read says that a webhook took the message; the API says its failures with a 200 too."""
    origin.script(Answer(200, b"\x0b\x00\x80ok\x03", {"content-encoding": "br"}))
    await SlackDispatcher(webhook_url=origin.url).send_alert(an_event(), severity="security")
    error = await failure(as_bot(origin))
    assert type(error) is PermanentDeliveryError
    assert "may have arrived, and is not sent again" in str(error)
    assert len(origin.requests) == 2


@pytest.mark.one_backend
@pytest.mark.parametrize("word", ["channel_not_found", "not_in_channel"])
async def test_a_channel_of_the_policy_s_is_not_the_route(origin: Origin, word: str) -> None:
    """Where only the alert's own channel is not there, the alerts for other channels still have their way."""
    origin.script(Answer(200, json.dumps({"ok": False, "error": word}).encode()))
    with pytest.raises(PermanentDeliveryError, match=word) as caught:
        await as_bot(origin).send_alert(an_event(), severity="security", channel="#gone")
    assert type(caught.value) is PermanentDeliveryError
    assert caught.value.__context__ is None
    with pytest.raises(BrokenRouteError, match=word):
        await SlackDispatcher(webhook_url=origin.url).send_alert(an_event(), severity="security", channel="#gone")


WEBHOOK_ANSWERS = [
    (400, "invalid_payload", PermanentDeliveryError),
    (400, "user_not_found", BrokenRouteError),
    (400, "invalid_token", BrokenRouteError),
    (400, "invalid_blocks", PermanentDeliveryError),
    (400, "missing_text_or_fallback_or_attachments", PermanentDeliveryError),
    (400, "no_text", PermanentDeliveryError),
    (403, "action_prohibited", BrokenRouteError),
    (403, "invalid_token", BrokenRouteError),
    (404, "channel_not_found", BrokenRouteError),
    (404, "no_service", BrokenRouteError),
    (404, "no_active_hooks", BrokenRouteError),
    (404, "no_team", BrokenRouteError),
    (403, "team_disabled", BrokenRouteError),
    (410, "channel_is_archived", BrokenRouteError),
    (500, "rollup_error", TransientDeliveryError),
    (429, "rate_limited", TransientDeliveryError),
    (200, "rate_limited", TransientDeliveryError),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("status", "word", "kind"), WEBHOOK_ANSWERS)
async def test_what_a_webhook_answers(origin: Origin, status: int, word: str, kind: type[DeliveryError]) -> None:
    """Each word of a webhook is transient, of this content or of the route, and one that lasts says what to do."""
    origin.script(Answer(status, word.encode()))
    error = await failure(SlackDispatcher(webhook_url=origin.url))
    assert type(error) is kind
    if issubclass(kind, PermanentDeliveryError):
        assert str(error).removesuffix("; with less in it, it was refused again") == f"slack: {word}: {_ADVICE[word]}"


API_ANSWERS = [
    *((word, TransientDeliveryError) for word in ("ratelimited", "rate_limited", "message_limit_exceeded")),
    *((word, TransientDeliveryError) for word in ("service_unavailable", "request_timeout", "team_added_to_org")),
    *((word, AmbiguousDeliveryError) for word in ("internal_error", "fatal_error")),
    *((word, BrokenRouteError) for word in ("account_inactive", "token_revoked", "invalid_auth", "not_authed")),
    *((word, BrokenRouteError) for word in ("channel_not_found", "is_archived", "not_in_channel")),
    *((word, BrokenRouteError) for word in ("restricted_action", "missing_scope")),
    *((word, PermanentDeliveryError) for word in ("invalid_blocks", "msg_too_long", "msg_blocks_too_long")),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("word", "kind"), API_ANSWERS)
async def test_what_the_api_answers(origin: Origin, word: str, kind: type[DeliveryError]) -> None:
    """A 200 with `ok` false is a failure, of the kind that its word tells."""
    origin.script(Answer(200, json.dumps({"ok": False, "error": word}).encode()))
    error = await failure(as_bot(origin))
    assert type(error) is kind
    assert word in str(error)
    if isinstance(error, TransientDeliveryError):
        assert error.retry_after == (30 if "limit" in word else None)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("word", "said"),
    [("accesslimited", "accesslimited"), ("s3cr3t_word", "a word that is not known here"), ("", "a word that is not")],
)
async def test_a_word_that_nobody_knows_kills_no_alert(origin: Origin, word: str, said: str) -> None:
    """An unknown word breaks the route unless less is taken, and gets into the text if it is of letters alone."""
    refused = Answer(200, json.dumps({"ok": False, "error": word}).encode())
    origin.script(refused)
    error = await failure(as_bot(origin))
    assert isinstance(error, BrokenRouteError)
    assert str(error).startswith(f"slack: {said}")
    assert str(error).endswith("with less in it, it was refused again")
    origin.script(refused, Answer(200, b'{"ok":true}'))
    await as_bot(origin).send_alert(an_event(), severity="security")


@pytest.mark.one_backend
async def test_a_word_beside_another_status_is_not_repeated(origin: Origin) -> None:
    """The body of a 404 that is not Slack's does not get into the error's text."""
    origin.script(Answer(404, b"s3cr3t_word"))
    error = await failure(as_bot(origin))
    assert type(error) is BrokenRouteError
    assert "status 404" in str(error)
    assert "s3cr3t" not in str(error)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, b""),
        (429, b'{"retry_after":1,"ok":false,"error":"rate_limited"}'),
        (200, b'{"ok":false,"error":"ratelimited"}'),
    ],
)
async def test_retry_after_is_heeded(origin: Origin, status: int, body: bytes) -> None:
    """However Slack says that it is too much, its Retry-After counts."""
    origin.script(Answer(status, body, {"retry-after": "7"}))
    error = await failure(as_bot(origin))
    assert isinstance(error, TransientDeliveryError)
    assert error.retry_after == 7


@pytest.mark.slow_on_trio
async def test_the_answer_repeats_the_message(origin: Origin) -> None:
    """The largest message is delivered, although Slack answers with the whole of it, escaped."""
    for letter in ("&", "\u20ac", "\U0001f600", "/", '"'):
        words = letter * 20_000
        event = an_event(message=words, metadata={"k": words}, user_agent=words, component=words)
        sent = _message(Renderer(Disclosure.FULL, None)(event, "security"))
        for each in texts(sent):
            each["text"] = each["text"].replace("&", "&amp;")
        echo = json.dumps({"ok": True, "ts": "1.2", "message": sent}).replace("/", "\\/") + " " * 4000
        origin.script(Answer(200, echo.encode()))
        await as_bot(origin, disclosure=Disclosure.FULL).send_alert(event, severity="security")


HOSTILE = "<!channel> <!here|x> <!everyone> <!subteam^S1> <@U1> <https://evil|click> *b* `c` & &lt;!channel&gt; :fire:"


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["message", "component", "operation", "user_id", "hostname", "user_agent"])
async def test_nobody_is_mentioned(name: str) -> None:
    """Whatever a text says, blocks show it as plain text, and the notification shows it escaped."""
    sent = message(**{name: HOSTILE})
    check(sent)
    *own, link = texts(sent)
    assert all(each["type"] == "plain_text" and each["emoji"] is False for each in own)
    assert any(HOSTILE[:40] in each["text"] for each in own)
    assert link["text"].count("<") == link["text"].count(">") == 1
    for raw in "<>":
        assert raw not in sent["text"]
    assert "&lt;!channel&gt; &lt;!here" in sent["text"] or name not in {"message", "component"}


@pytest.mark.one_backend
async def test_keys_of_metadata_are_text() -> None:
    """Names that came from outside are as plain as their values."""
    sent = message(metadata={HOSTILE: {HOSTILE: [HOSTILE]}})
    check(sent)
    assert [each["type"] for each in texts(sent)].count("mrkdwn") == 1


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [2999, 3000, 3001])
async def test_a_message_has_3000_characters(length: int) -> None:
    """A message of 3000 characters is whole; a longer one ends in an ellipsis."""
    sent = message(message="m" * length)
    check(sent)
    shown = sent["blocks"][1]["text"]["text"]
    assert shown == ("m" * length if length <= 3000 else "m" * 2999 + "…")


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [1999, 2000, 2001])
async def test_a_field_has_2000_characters(length: int) -> None:
    """A field is cut with its name at 2000 characters."""
    sent = message(user_agent="u" * (length - len("user_agent\n")))
    check(sent)
    [shown] = [each["text"] for each in texts(sent) if each["text"].startswith("user_agent")]
    assert (len(shown), shown.endswith("…")) == (min(length, 2000), length > 2000)


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [999, 1000, 1001])
async def test_the_notification_has_1000_characters(length: int) -> None:
    """The text for notifications is cut at 1000 characters."""
    title = "SECURITY authentication_failed in auth\n"
    text = message(message="t" * (length - len(title)))["text"]
    assert (len(text), text.endswith("…")) == (min(length, 1000), length > 1000)


@pytest.mark.one_backend
@pytest.mark.parametrize("length", range(990, 1000))
async def test_the_cut_splits_no_entity(length: int) -> None:
    """Where the text for notifications is cut, no half of an escaped character is left."""
    title = "SECURITY authentication_failed in auth\n"
    text = message(message="t" * (length - len(title)) + "&<>&<>")["text"]
    assert "&" not in text.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")
    assert len(text) <= 1000


@pytest.mark.one_backend
async def test_what_fits_is_said_whole() -> None:
    """An ordinary event shows every field of its disclosure level."""
    shown = {each["text"].partition("\n")[0] for each in texts(message())}
    assert {"user_id", "session_id", "client_ip", "user_agent", "metadata", "error", "checksum"} <= shown


@pytest.mark.one_backend
@pytest.mark.parametrize("level", AuditLogLevel)
async def test_the_severity_comes_first(level: AuditLogLevel) -> None:
    """The first word of header and notification is the severity."""
    sent = _message(Renderer(Disclosure.STANDARD, None)(an_event(log_level=level), level.value))
    assert sent["text"].startswith(level.value.upper() + " ")
    assert sent["blocks"][0]["text"]["text"].startswith(level.value.upper() + " ")


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    words=st.text(max_size=80), times=st.integers(1, 200), where=st.sampled_from(["message", "component", "user_id"])
)
def test_any_text_makes_a_valid_message(words: str, times: int, where: str) -> None:
    """Slack's models take the message about any event."""
    sent = message(**{where: words * times}, metadata={words: [words]})
    check(sent)
    assert "<" not in sent["text"]


BAD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"token": TOKEN},
    {"token": TOKEN, "channel": ""},
    {"channel": "C1"},
    {"webhook_url": "https://hooks.slack.com/services/s3cr3t", "token": TOKEN, "channel": "C1"},
    {"webhook_url": "https://hooks.slack.com/services/s3cr3t", "channel": "C1"},
    {"webhook_url": "https://hooks.slack.com/services/s3cr3t", "base_url": "https://slack-gov.com/api"},
    {"webhook_url": "http://hooks.slack.com/services/s3cr3t"},
    {"webhook_url": ""},
    {"token": "xoxb s3cr3t", "channel": "C1"},
    {"token": "xoxb-s3cr3t\u00e9", "channel": "C1"},
    {"token": TOKEN, "channel": "C1", "base_url": "slack.com/api"},
    {"token": TOKEN, "channel": "C1", "timeout": 0},
    {"token": TOKEN, "channel": "C1", "disclosure": "some"},
]


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_options_are_checked(options: dict[str, Any]) -> None:
    """What can't work is refused at once, without a secret in the message."""
    with pytest.raises(ValueError, match="expected") as caught:
        SlackDispatcher(**options)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.slow_on_trio
async def test_it_keeps_the_contract(origin: Origin) -> None:
    """A webhook's dispatcher passes the check that every dispatcher should pass."""
    with Origin() as down:
        down.script(Answer(403, b"invalid_token s3cr3t"))
        await check_dispatcher(
            lambda: SlackDispatcher(webhook_url=origin.url, disclosure=Disclosure.FULL),
            failing=lambda: SlackDispatcher(webhook_url=down.url),
            secrets=["s3cr3t"],
        )


@pytest.mark.slow_on_trio
async def test_it_keeps_the_contract_as_a_bot(origin: Origin, everything_said: Callable[..., str]) -> None:
    """A bot's dispatcher passes it too, and its token is in no log."""
    origin.script(OK)
    with Origin() as down:
        down.script(Answer(200, b'{"ok":false,"error":"invalid_auth"}'))
        await check_dispatcher(lambda: as_bot(origin), failing=lambda: as_bot(down), secrets=["s3cr3t"])
    assert "s3cr3t" not in everything_said()


def test_an_event_without_words_is_a_message() -> None:
    """An event that says nothing but its type is a valid message."""
    event = AuditEvent(event_type=AuditEventType.SYSTEM_STARTUP, log_level=AuditLogLevel.INFO, message=" ")
    sent = _message(Renderer(Disclosure.STANDARD, None)(event, "info"))
    check(sent)


def check_hostile(rendered: Rendered, channel: str | None) -> None:
    """Fail unless Slack takes the message, all is plain text but the link, and the text is escaped."""
    message: dict[str, Any] = json.loads(json.dumps(_message(rendered)))
    check(message)
    assert [each["type"] for each in texts(message)].count("mrkdwn") == (rendered.link is not None)
    for each in (message, _text_alone(rendered)):
        assert not {"<", ">"} & set(each["text"])
        assert "&" not in each["text"].replace("&amp;", "").replace("&lt;", "").replace("&gt;", "")
        assert 0 < len(each["text"]) <= 1000
        assert all(map(is_clean, texts_in(each)))


def test_hostile_alerts() -> None:
    """Thirty hostile alerts become what the other side takes; `make torture` tries 10,000."""
    check_many(check_hostile, 30)
