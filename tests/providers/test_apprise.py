"""Apprise, by its plugin that posts JSON, to a scripted server."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fapilog import AmbiguousDeliveryError, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from fapilog.providers import Disclosure
from fapilog.record.errors import BrokenRouteError
from fapilog.testing import check_dispatcher
from tests.clock import passing
from tests.doubles.malicious_alerts import check_many, is_clean
from tests.doubles.origin import SECRET_PATH, Answer, Origin
from tests.providers.conftest import an_event

apprise = pytest.importorskip("apprise")
requests = pytest.importorskip("requests")

import fapilog.providers.apprise  # noqa: E402  needs apprise
from fapilog.providers._rendering import Rendered, Renderer  # noqa: E402
from fapilog.providers.apprise import AppriseDispatcher, _body, _cleaned, _service  # noqa: E402  needs apprise

pytestmark = pytest.mark.real_time


def address(origin: Origin, tags: str = "", query: str = "") -> str:
    return tags + origin.url.replace("http:", "json:") + query


@pytest.fixture
def other() -> Iterator[Origin]:
    """Run a second scripted server."""
    with Origin() as server:
        yield server


async def test_what_is_sent(origin: Origin) -> None:
    """A service gets the title, what may leave as text, and whether it is bad news."""
    dispatcher = AppriseDispatcher(urls=[address(origin)], link="https://audit/{sequence_number}")
    await dispatcher.send_alert(an_event(), severity="security")
    [request] = origin.requests
    assert (request.method, request.path) == ("POST", SECRET_PATH)
    sent = json.loads(request.body)
    assert sent["title"] == "SECURITY authentication_failed in auth"
    assert sent["type"] == "failure"
    assert sent["message"].startswith("five wrong passwords in a row\n\nhttps://audit/12\n\nevent_type: ")
    assert '\nregulatory_tags: ["AC-7"]\n' in sent["message"]
    assert "u-17" not in sent["message"]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("severity", "kind"),
    [
        ("debug", "info"),
        ("info", "info"),
        ("warning", "warning"),
        ("error", "failure"),
        ("critical", "failure"),
        ("another", "warning"),
    ],
)
async def test_severities_have_kinds(origin: Origin, severity: str, kind: str) -> None:
    """A severity becomes the kind of notification that Apprise shows in colours."""
    await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(), severity=severity)
    assert json.loads(origin.requests[0].body)["type"] == kind


ROUTES = [
    (None, [1, 1, 1]),
    ("on-call", [1, 0, 1]),
    ("night", [1, 1, 1]),
    ("day", [0, 0, 1]),
    ("", [0, 0, 1]),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("channel", "counts"), ROUTES)
async def test_a_channel_is_a_tag(channel: str | None, counts: list[int]) -> None:
    """An alert with a channel goes to the addresses with that tag and to those without any, one without to all."""
    with Origin() as first, Origin() as second, Origin() as third:
        urls = [address(first, "on-call, night="), address(second, "night="), address(third)]
        await AppriseDispatcher(urls=urls).send_alert(an_event(), severity="info", channel=channel)
        assert [len(origin.requests) for origin in (first, second, third)] == counts


@pytest.mark.one_backend
async def test_a_channel_of_nobody_is_told(origin: Origin) -> None:
    """An alert that goes nowhere is not taken for delivered."""
    with pytest.raises(PermanentDeliveryError, match="no address has the channel as a tag"):
        await AppriseDispatcher(urls=[address(origin, "a=")]).send_alert(an_event(), severity="info", channel="b")
    assert not origin.requests


FAILURES = [
    *(Answer(status, headers={"location": "/other"}) for status in (302, 307, 400, 401, 404, 429, 500, 503)),
    Answer(fault="reset_before_answering"),
    Answer(fault="not_http"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize("answer", FAILURES)
async def test_a_failure_may_be_tried_again(origin: Origin, answer: Answer) -> None:
    """Apprise does not say whether a failure passes; none is hidden, followed or tried again by itself."""
    origin.script(answer)
    url = address(origin, query="?retry=3&wait=0&optional=yes&redirect=yes")
    words = "A Connection error occurred" if answer.fault else f"error={answer.status}"
    with pytest.raises(TransientDeliveryError, match=f"^apprise: not sent: .*{words}") as caught:
        await AppriseDispatcher(urls=[url]).send_alert(an_event(), severity="info")
    assert caught.value.__context__ is None
    assert len(origin.requests) == 1


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        ("TIMEOUT", AmbiguousDeliveryError, "it may still be sent"),
        ("NOMATCH", BrokenRouteError, "no service for the address"),
        ("PARTIAL", TransientDeliveryError, "only some targets of the address"),
        ("FAILURE", TransientDeliveryError, "not sent; Apprise does not say why"),
    ],
)
async def test_every_result_has_a_meaning(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, status: str, kind: type[DeliveryError], words: str
) -> None:
    """Each status of Apprise's result has an error of its own."""
    result = apprise.AppriseResult(status=apprise.AppriseResultStatus[status])
    monkeypatch.setattr(apprise.Apprise, "notify", lambda *_, **__: result)
    with pytest.raises(kind, match=words):
        await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(), severity="info")


@pytest.mark.slow_on_trio
async def test_a_timeout_of_apprise_is_ambiguous(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that Apprise itself gave up waiting for may have the alert."""
    origin.script(Answer(fault="hang_before_answering"))
    service = fapilog.providers.apprise._service

    def impatient(url: str) -> Any:
        made = service(url)
        made.asset._service_timeout = 0.2
        return made

    monkeypatch.setattr(fapilog.providers.apprise, "_service", impatient)
    with pytest.raises(AmbiguousDeliveryError, match="not in Apprise's own time"):
        await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(), severity="info")


URL = "json://u5er:p4ss@host.example.com/path-token/+15551234?to=ops"
CLEANED = [
    ("Failed to send JSON: Bad Request, error=400.", "Failed to send JSON: Bad Request, error=400"),
    ("A Connection error occurred sending JSON to host.example.com.", "A Connection error occurred sending JSON to …"),
    ("no such 'path-token' of p4ss", "no such … of …"),
    ("said: five wrong passwords in a row, sorry", "said: … in a row, sorry"),
    ("to +15559999 and a@b.c by http://x and eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "to … and … by … and …"),
    ("xxPATH%2Dtokenxx path_token u5er", "…"),
    ("a\r\nb\x1b[31m", "a b\ufffd[31m"),
]


@pytest.mark.parametrize(("line", "said"), CLEANED)
def test_a_reason_is_cleaned(line: str, said: str) -> None:
    """The reason has no part of the address and no word of the alert, whatever else a plugin logs."""
    assert _cleaned([line, line], URL, "five wrong passwords in a sorrow, row 400") == said


def test_a_reason_is_short() -> None:
    """Of many long lines the beginning is said."""
    assert len(_cleaned(["so " * 10_000, "x"], URL, "")) == 200


@pytest.mark.one_backend
async def test_a_service_that_repeats_everything_is_not_quoted(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin that logs the service's words does not tell who did what, or the token, by the reason."""
    plugin = type(_service(address(origin)))

    def send(self: Any, body: str, title: str = "", **_: object) -> bool:
        self.logger.warning("Failed to send to %s: %s %s, error=%d.", self.url(), title, body, 422)
        self.logger.warning("Malformed %d", "x")
        return False

    monkeypatch.setattr(plugin, "send", send)
    event = an_event(message="five wrong passwords in a row")
    with pytest.raises(TransientDeliveryError, match="apprise: not sent: Failed to send") as caught:
        await AppriseDispatcher(urls=[address(origin)]).send_alert(event, severity="info")
    said = str(caught.value)
    for private in ("s3cr3t", "wrong", "passwords", "authentication", "web-1", "127.0.0.1"):
        assert private not in said


async def test_a_retry_goes_to_those_that_failed(origin: Origin, other: Origin) -> None:
    """An address that has the alert does not get it again."""
    other.script(Answer(500), Answer())
    dispatcher = AppriseDispatcher(urls=[address(origin), address(other)])
    with pytest.raises(TransientDeliveryError, match="1 of 2 addresses have the alert; not number 2: not sent"):
        await dispatcher.send_alert(an_event(), severity="info")
    await dispatcher.send_alert(an_event(), severity="info")
    assert (len(origin.requests), len(other.requests)) == (1, 2)


async def test_too_late_is_ambiguous(origin: Origin, other: Origin) -> None:
    """What takes too long may still be sent, and does not hold up the others."""
    origin.script(Answer(fault="hang_before_answering"))
    dispatcher = AppriseDispatcher(urls=[address(origin, query="?rto=60"), address(other)], timeout=60.0)

    def is_one_left() -> bool:
        at_work = sum("apprise" in each.name for each in threading.enumerate())
        return bool(origin.hangs.is_set() and other.requests and at_work == 1)

    async with passing(60.0, once=is_one_left):
        with pytest.raises(AmbiguousDeliveryError, match=r"1 of 2 .* not number 1: not within 60 s"):
            await dispatcher.send_alert(an_event(), severity="info")
    assert len(other.requests) == 1


@pytest.mark.slow_on_trio
async def test_cancellation_passes(origin: Origin) -> None:
    """A cancelled call ends at once."""
    origin.script(Answer(fault="hang_before_answering"))
    with anyio.move_on_after(0.3) as limit:
        await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(), severity="info")
    assert limit.cancelled_caught


def broken() -> str:
    raise OSError("s3cr3t-p4th")


SOURCES: list[tuple[Callable[[], Any], type[DeliveryError], str]] = [
    (broken, TransientDeliveryError, r"urls\[1\]: the function that returns it raised OSError"),
    (lambda: "nope://s3cr3t-p4th", TransientDeliveryError, "does not know such an address"),
    (lambda: "s3cr3t-p4th", TransientDeliveryError, r"urls\[1\]: expected an address"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("source", "kind", "words"), SOURCES, ids=range(len(SOURCES)))
async def test_a_bad_address_does_not_stop_the_others(
    origin: Origin, source: Callable[[], Any], kind: type[DeliveryError], words: str
) -> None:
    """An address that is wrong when it is needed is told of, without its text, and the others get the alert once."""
    dispatcher = AppriseDispatcher(urls=[address(origin), source])
    for _ in range(2):
        with pytest.raises(kind, match=f"1 of 2 .* not number 2: .*{words}") as caught:
            await dispatcher.send_alert(an_event(), severity="info")
        assert "s3cr3t" not in str(caught.value)
    assert len(origin.requests) == 1


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_nothing_for_this_machine_goes_to_a_proxy(
    origin: Origin, other: Origin, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Where the environment names a proxy, it gets nothing that is for this machine: the error says how."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv(variable, other.base_url)
    dispatcher = AppriseDispatcher(urls=address(origin))
    with pytest.raises(BrokenRouteError, match=r"^apprise: a proxy of the environment would get .* set NO_PROXY"):
        await dispatcher.send_alert(an_event(), severity="critical")
    assert not origin.requests
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    await dispatcher.send_alert(an_event(), severity="critical")
    assert len(origin.requests) == 1
    assert not other.requests


async def test_what_a_plugin_raises_is_permanent(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that comes out of Apprise is told by its type alone."""

    def notify(*_: object, **__: object) -> None:
        raise LookupError("s3cr3t-p4th")

    monkeypatch.setattr(apprise.Apprise, "notify", notify)
    with pytest.raises(PermanentDeliveryError, match=r"^apprise: it can't be sent \(LookupError\)") as caught:
        await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(), severity="info")
    assert caught.value.__context__ is None


SPILLS = [
    Answer(),
    Answer(302, headers={"location": SECRET_PATH}),
    Answer(400, b"no such path: " + SECRET_PATH.encode()),
    Answer(fault="reset_before_answering"),
    Answer(fault="not_http"),
]


class PanicError(BaseException):
    """What an extension raises that is no Exception."""


@pytest.mark.parametrize("error", [PanicError, asyncio.CancelledError, GeneratorExit])
async def test_no_panic_of_a_plugin_passes(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """What a plugin raises that is no Exception does not end the task, or the service."""

    def notify(*_: object, **__: object) -> None:
        raise error("s3cr3t-p4th")

    monkeypatch.setattr(apprise.Apprise, "notify", notify)
    with pytest.raises(PermanentDeliveryError, match=error.__name__):
        await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(), severity="info")


@pytest.mark.parametrize("answer", SPILLS)
async def test_no_secret_is_said(origin: Origin, answer: Answer, everything_said: Callable[..., str]) -> None:
    """Neither path nor password are in any log at DEBUG, in what is printed, in the error or behind it."""
    origin.script(answer)
    url = address(origin).replace("://", "://user:p4ssw0rd@")
    raised: list[Exception] = []
    try:
        await AppriseDispatcher(urls=[lambda: url, url]).send_alert(an_event(), severity="info")
    except DeliveryError as error:
        raised.append(error)
    said = everything_said(*raised)
    assert origin.requests[0].headers["authorization"] == "Basic dXNlcjpwNHNzdzByZA=="
    assert "s3cr3t" not in said
    assert "p4ssw0rd" not in said
    assert "dXNlcjpwNHNzdzByZA" not in said


# Not written where a traceback would show the line.
UNKNOWN = "discord://s3cr3t-p4th"


def test_no_secret_is_said_of_a_wrong_address(everything_said: Callable[..., str]) -> None:
    """What Apprise says of an address that it does not know is not logged either."""
    with pytest.raises(ValueError, match=r"urls\[0\]") as caught:
        AppriseDispatcher(urls=[UNKNOWN])
    assert "s3cr3t" not in everything_said(caught.value)


async def test_others_are_still_logged(origin: Origin, everything_said: Callable[..., str]) -> None:
    """Only what is sent by a dispatcher is kept out of the logs."""
    await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(), severity="info")

    def own() -> None:
        assert apprise.Apprise.instantiate(address(origin)).notify("mine")

    await anyio.to_thread.run_sync(own)
    said = everything_said()
    assert "Sent JSON POST notification" in said
    assert said.count("urllib3") > 0


@pytest.mark.one_backend
async def test_hostile_text_mentions_nobody(origin: Origin) -> None:
    """What would call everyone, or a link in disguise, is broken up."""
    words = "@everyone <!channel> <@U1> <https://evil.example|bank> a < b @ c"
    dispatcher = AppriseDispatcher(urls=[address(origin)], link="https://audit/@me")
    await dispatcher.send_alert(an_event(message=words, component=words), severity="info")
    sent = json.loads(origin.requests[0].body)
    for text in (sent["title"], sent["message"]):
        assert "@everyone" not in text
        assert "<!" not in text
        assert "<@" not in text
        assert "<https" not in text
        assert "a < b @ c" in text
    assert "\nhttps://audit/@me\n" in sent["message"]


# A service in Markdown, one in its own markup, and one in HTML.
MARKUPS = ["discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"]


@pytest.mark.one_backend
@pytest.mark.parametrize("url", MARKUPS)
async def test_plugins_are_given_plain_text(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plugin makes of the text has no mention and no markup that an event brought."""
    bodies: list[str] = []

    def request(*args: object, data: Any = None, **kwargs: object) -> Any:
        bodies.append(data if isinstance(data, str) else data.decode())
        response = requests.Response()
        response.status_code, response._content = 200, b"ok"
        return response

    for name in ("request", "post"):
        monkeypatch.setattr(requests, name, request)
    words = "@everyone <!channel> <@U123> <https://evil.example|bank>"
    await AppriseDispatcher(urls=[url]).send_alert(an_event(message=words, component=words), severity="info")
    assert bodies
    for body in map(json.dumps, map(json.loads, bodies)):
        for bad in ("@everyone", "<!channel", "<@U123", "<https", "\\u003c!channel"):
            assert bad not in body


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.text(max_size=20_000) | st.text("<!channel>@\r\n\0\x1b", max_size=30))
def test_any_text_fits(words: str) -> None:
    """Whatever an event says, the text stays small, and one line of it can't look like another field."""
    event = an_event(message="m", operation=words, user_id=words, metadata={words: [words] * 20})
    body = _body(Renderer(Disclosure.FULL, None)(event, "info"))
    assert len(body.encode()) < 30_000
    assert len(body.splitlines()) == 2 + len(Renderer(Disclosure.FULL, None)(event, "info").details) - 1


@pytest.mark.one_backend
async def test_a_small_service_gets_the_beginning(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a service takes little, the text is cut with an ellipsis, and sent once."""
    plugin = type(_service(address(origin)))
    monkeypatch.setattr(plugin, "body_maxlen", 100)
    await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(), severity="info")
    [request] = origin.requests
    sent = json.loads(request.body)
    assert len(sent["title"] + sent["message"]) == 100
    assert sent["message"].startswith("five wrong passwords")
    assert sent["message"].endswith("…")


@pytest.mark.one_backend
async def test_what_grows_is_cut_too(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that is within the limit only until Apprise has escaped it is sent in one piece, within the limit."""
    plugin = type(_service(address(origin)))
    monkeypatch.setattr(plugin, "body_maxlen", 100)
    monkeypatch.setattr(plugin, "notify_format", apprise.NotifyFormat.HTML)
    await AppriseDispatcher(urls=[address(origin)]).send_alert(an_event(message="&" * 90), severity="info")
    [request] = origin.requests
    assert len(json.loads(request.body)["message"]) <= 100


BAD = [
    ({"urls": []}, "urls: expected at least one; got none"),
    ({"urls": ["json://localhost", "s3cr3t"]}, r"urls\[1\]: expected an address that Apprise knows"),
    ({"urls": ["nope://s3cr3t"]}, r"urls\[0\]: expected an address that Apprise knows"),
    ({"urls": [""]}, r"urls\[0\]: expected text"),
    ({"timeout": 0}, "timeout: expected"),
    ({"disclosure": "all"}, "disclosure: expected"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    """A wrong option is refused at once, by its name and without its secret."""
    with pytest.raises(ValueError, match=words) as caught:
        AppriseDispatcher(**{"urls": ["json://localhost"], **options})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.slow_on_trio
async def test_it_keeps_the_contract(origin: Origin, other: Origin) -> None:
    """The dispatcher passes the kit, and its addresses stay hidden."""
    other.script(Answer(500))
    await check_dispatcher(
        lambda: AppriseDispatcher(urls=[address(origin)]),
        failing=lambda: AppriseDispatcher(urls=[address(other)]),
        secrets=[SECRET_PATH],
    )


def check_hostile(rendered: Rendered, channel: str | None) -> None:
    """Fail unless the text is small and clean, and mentions nobody."""
    body = _body(rendered)
    # A control and an "@" become three and four bytes.
    assert len(body.encode()) < 62_000
    own = body.replace(rendered.link or "\n\n", "", 1)
    assert not [mark for mark in ("@everyone", "@here", "<!", "<@", "<h", "<s", "<a") if mark in own]
    assert is_clean(body)


def test_hostile_alerts() -> None:
    """Thirty hostile alerts become what the other side takes; `make torture` tries 10,000."""
    check_many(check_hostile, 30)
