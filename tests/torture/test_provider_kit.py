"""Our providers pass the kit that strangers use, and whoever breaks a clause of it is told which."""

import base64
import gc
import hashlib
import json
import logging
import math
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest

from fapilog import (
    AlertDispatcher,
    AmbiguousDeliveryError,
    AuditEvent,
    AuditLogLevel,
    DeliveryError,
    NoopAlertDispatcher,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.providers.console import ConsoleDispatcher
from fapilog.testing import Answer, Fault, Limit, Origin, Request, check_dispatcher, check_provider

pytestmark = [
    pytest.mark.real_time,
    # A provider that is made to fail in every way may leave a socket behind.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let what is left behind be found in the test that left it."""
    yield
    gc.collect()


SECRET = "s3cr3t-0f-ours-and-long-enough-0"
WHSEC = "whsec_" + base64.b64encode(SECRET.encode()).decode()
LEVELS = [level.value for level in AuditLogLevel]


# -- ours


async def test_webhook() -> None:
    """The webhook dispatcher passes."""
    webhook = pytest.importorskip("fapilog.providers.webhook", exc_type=ImportError)
    standardwebhooks = pytest.importorskip("standardwebhooks")

    def valid(request: Request) -> None:
        assert len(request.body) < 20_000
        standardwebhooks.Webhook(WHSEC).verify(request.body, request.headers)

    await check_provider(
        lambda url: webhook.WebhookDispatcher(url=f"{url}/{SECRET}", secret=WHSEC, timeout=1.5),
        key=lambda request: request.headers["webhook-id"],
        severity=lambda request: LEVELS.index(request.json()["data"]["severity"]),
        valid=valid,
        secrets=[SECRET, WHSEC[6:]],
        timeout=5.0,
    )


def slack_text(request: Request) -> str:
    text: str = request.json()["blocks"][1]["text"]["text"]
    return text


def valid_for_slack(request: Request) -> None:
    message = request.json()
    assert not [mark for mark in ("<!", "<@", "</", "<s") if mark in message["text"]]
    assert len(message["text"]) <= 4000
    for block in message.get("blocks", ()):
        for text in (block.get("text"), *block.get("fields", ())):
            assert text is None or text["type"] == "plain_text"


@pytest.mark.parametrize("as_bot", [False, True])
async def test_slack(*, as_bot: bool) -> None:
    """The Slack dispatcher passes as a webhook and as a bot."""
    slack = pytest.importorskip("fapilog.providers.slack", exc_type=ImportError)

    def make(url: str) -> AlertDispatcher:
        options = {"token": SECRET, "channel": "C1", "base_url": url} if as_bot else {"webhook_url": f"{url}/{SECRET}"}
        return slack.SlackDispatcher(**options, timeout=1.5)  # type: ignore[no-any-return]

    def says(word: str, status: int = 200) -> Answer:
        return Answer(status, json.dumps({"ok": False, "error": word}).encode() if as_bot else word.encode())

    await check_provider(
        make,
        accepts=Answer(200, b'{"ok":true,"ts":"1.2"}' if as_bot else b"ok"),
        outcomes=[
            (says("ratelimited"), TransientDeliveryError),
            (says("fatal_error"), AmbiguousDeliveryError),
            (says("invalid_auth"), PermanentDeliveryError),
            (says("channel_is_archived", 410), PermanentDeliveryError),
        ],
        severity=lambda request: LEVELS.index(request.json()["blocks"][0]["text"]["text"].split()[0].lower()),
        limits=[
            Limit(field="message", most=3000, read=slack_text),
            Limit(field="message", most=6000, read=lambda request: slack_text(request).encode(), letter="\U0001f9d1"),
        ],
        valid=valid_for_slack,
        secrets=[SECRET],
        timeout=5.0,
    )


async def test_pagerduty() -> None:
    """The PagerDuty dispatcher passes."""
    pagerduty = pytest.importorskip("fapilog.providers.pagerduty", exc_type=ImportError)

    def valid(request: Request) -> None:
        assert request.path == "/v2/enqueue"
        assert len(request.body) <= 512_000
        assert request.json().keys() == {"routing_key", "event_action", "dedup_key", "payload"}

    await check_provider(
        lambda url: pagerduty.PagerDutyDispatcher(routing_key=SECRET, base_url=url, timeout=1.5),
        accepts=Answer(202, b'{"status":"success","message":"Event processed","dedup_key":"k"}'),
        outcomes=[(Answer(200, b"a captive portal"), PermanentDeliveryError)],
        key=lambda request: request.json()["dedup_key"],
        severity=lambda request: ["info", "warning", "error", "critical"].index(request.json()["payload"]["severity"]),
        limits=[
            Limit(field="message", most=1024, read=lambda request: request.json()["payload"]["summary"], letter=letter)
            for letter in ("q", "\U0001f9d1")
        ],
        valid=valid,
        secrets=[SECRET],
        timeout=5.0,
    )


async def test_opsgenie() -> None:
    """The Opsgenie dispatcher passes."""
    opsgenie = pytest.importorskip("fapilog.providers.opsgenie", exc_type=ImportError)

    def valid(request: Request) -> None:
        alert = request.json()
        assert request.headers["authorization"] == f"GenieKey {SECRET}"
        assert len(alert["message"]) <= 130
        assert len(alert["alias"]) <= 512
        assert all(len(tag) <= 50 for tag in alert["tags"])

    await check_provider(
        lambda url: opsgenie.OpsgenieDispatcher(api_key=SECRET, base_url=url, timeout=1.5),
        accepts=Answer(202, b'{"result":"Request will be processed","took":0.1,"requestId":"r"}'),
        key=lambda request: request.json()["alias"],
        severity=lambda request: ["P5", "P4", "P3", "P2", "P1"].index(request.json()["priority"]),
        limits=[
            Limit(field="component", most=130, read=lambda request: request.json()["message"]),
            Limit(field="message", most=15_000, read=lambda request: request.json()["description"]),
        ],
        valid=valid,
        secrets=[SECRET],
        timeout=5.0,
    )


async def test_alertmanager() -> None:
    """The Alertmanager dispatcher passes."""
    alertmanager = pytest.importorskip("fapilog.providers.alertmanager", exc_type=ImportError)

    def valid(request: Request) -> None:
        [alert] = request.json()
        assert request.path.endswith("/api/v2/alerts")
        assert alert["labels"]["alertname"]
        assert alert["startsAt"] < alert["endsAt"]

    await check_provider(
        lambda url: alertmanager.AlertmanagerDispatcher(urls=[f"{url}/{SECRET}"], timeout=1.5),
        accepts=Answer(200, b""),
        key=lambda request: request.json()[0]["labels"],
        severity=lambda request: LEVELS.index(request.json()[0]["labels"]["severity"]),
        limits=[Limit(field="component", most=200, read=lambda request: request.json()[0]["labels"]["component"])],
        valid=valid,
        secrets=[SECRET],
        timeout=5.0,
    )


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # as it is first used
async def test_apprise() -> None:
    """The Apprise dispatcher passes, but that it is not told whether a retry may help."""
    apprise = pytest.importorskip("fapilog.providers.apprise", exc_type=ImportError)
    answers = [*(Answer(status) for status in (301, 302, 303, 307, 308, 400, 401, 403, 404, 410, 413, 429, 503))]
    faults: list[Fault] = ["reset_before_answering", "close_before_answering", "half_closed", "not_http"]
    faults += ["reset_in_body", "close_in_body"]

    def valid(request: Request) -> None:
        sent = request.json()
        assert "\n" not in sent["title"]
        assert len(request.body) < 100_000
        assert not [mark for mark in ("<!", "<@", "@everyone") if mark in sent["title"] + sent["message"]]

    await check_provider(
        lambda url: apprise.AppriseDispatcher(urls=[f"{url.replace('http', 'json')}/{SECRET}"], timeout=0.5),
        outcomes=[(answer, TransientDeliveryError) for answer in [*answers, *(Answer(fault=each) for each in faults)]],
        severity=lambda request: ["info", "warning", "failure"].index(request.json()["type"]),
        valid=valid,
        secrets=[SECRET],
        timeout=3.0,
    )


async def test_email() -> None:
    """The email dispatcher keeps the contract of a dispatcher."""
    controller = pytest.importorskip("aiosmtpd.controller")
    smtp = pytest.importorskip("fapilog.providers.smtp")

    class Sink:
        async def handle_DATA(self, *_: object) -> str:  # noqa: N802
            return "250 OK"

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = controller.Controller(Sink(), hostname="127.0.0.1", port=port)
    server.start()
    try:
        await check_dispatcher(
            lambda: smtp.EmailDispatcher(
                host="127.0.0.1",
                port=port,
                sender="fapilog@example.com",
                recipients=["ops@example.com"],
                tls="none",
                timeout=5.0,
            )
        )
    finally:
        server.stop()


async def test_console(capfd: pytest.CaptureFixture[str]) -> None:
    """The console dispatcher keeps the contract of a dispatcher."""
    await check_dispatcher(ConsoleDispatcher)
    assert capfd.readouterr().out


# -- a stranger's, without a library, and what breaks it


class Careful:
    """Keeps all promises by hand, over one connection for each alert."""

    says: ClassVar[str]
    time_limit: float | None = 1.5
    most = 50

    def __init__(self, url: str) -> None:
        self.host, _, port = url.removeprefix("http://").partition(":")
        self.port = int(port)

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        content = json.dumps(self.content(event)).encode()
        headers = f"POST /{SECRET} HTTP/1.1\r\nhost: {self.host}\r\ncontent-length: {len(content)}\r\n\r\n"
        error: DeliveryError | None = TransientDeliveryError("no connection")
        with anyio.move_on_after(math.inf if self.time_limit is None else self.time_limit):
            try:
                async with await anyio.connect_tcp(self.host, self.port) as stream:
                    error = AmbiguousDeliveryError("sent, but there was no answer")
                    await stream.send(headers.encode() + content)
                    answer = b""
                    while b"\r\n\r\n" not in answer:
                        answer += await stream.receive()
                    error = await self.judged(answer.decode())
            except (OSError, ValueError, IndexError, anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        if error is not None:
            raise self.error(error)

    def error(self, error: DeliveryError) -> DeliveryError:
        # A new one, with nothing behind it.
        if isinstance(error, TransientDeliveryError):
            return TransientDeliveryError(str(error), retry_after=error.retry_after)
        return type(error)(str(error))

    def content(self, event: AuditEvent) -> dict[str, Any]:
        text = event.message if len(event.message) <= self.most else event.message[: self.most - 1] + "…"
        return {"id": self.key(event), "text": text, "rank": self.rank(event.log_level.value)}

    def key(self, event: AuditEvent) -> str:
        return hashlib.sha256(event.event_id.encode()).hexdigest()

    def rank(self, severity: str) -> int:
        return LEVELS.index(severity)

    async def judged(self, answer: str) -> DeliveryError | None:
        first, *lines = answer.partition("\r\n\r\n")[0].split("\r\n")
        status = int(first.split()[1])
        headers = dict(line.split(": ", 1) for line in lines)
        if status == 200:
            return None
        if status in {408, 429} or status >= 500:
            return TransientDeliveryError(f"status {status}", retry_after=self.pause(headers.get("retry-after")))
        return PermanentDeliveryError(f"status {status}")

    def pause(self, given: str | None) -> float | None:
        if given is None:
            return None
        try:
            return float(given)
        except ValueError:
            return parsedate_to_datetime(given).timestamp() - time.time()


class OneLine(Careful):
    """Can't say what has two lines."""

    says = "contract: send_alert should deliver an alert that says 'one.*; it raised RuntimeError"

    def content(self, event: AuditEvent) -> dict[str, Any]:
        if "\n" in event.message:
            raise RuntimeError("a header has one line")
        return super().content(event)


class Swallowing(Careful):
    """Takes a cancellation for an answer."""

    says = "contract: send_alert should let a cancellation pass, and not return as if the alert were delivered"

    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        try:
            await super().send_alert(event, severity=severity)
        except anyio.get_cancelled_exc_class():
            pass


class Believing(Careful):
    """Never looks at the answer."""

    says = "outcome: send_alert should raise TransientDeliveryError after status 408; it returned"

    async def judged(self, answer: str) -> None:
        return None


class Hasty(Careful):
    """Gives up where it should be tried again."""

    says = "outcome: send_alert should raise TransientDeliveryError after status 408; it raised PermanentDeliveryError"

    def error(self, error: DeliveryError) -> DeliveryError:
        return PermanentDeliveryError("failed")


class Sure(Careful):
    """Takes silence for a no."""

    says = "outcome: .* raise AmbiguousDeliveryError after the fault 'reset_before_answering'"

    def error(self, error: DeliveryError) -> DeliveryError:
        if isinstance(error, AmbiguousDeliveryError):
            return TransientDeliveryError("failed")
        return super().error(error)


class Gloomy(Careful):
    """Takes nobody there for a no that lasts."""

    says = "outcome: .* raise TransientDeliveryError after a connection that was refused"

    def error(self, error: DeliveryError) -> DeliveryError:
        if str(error) == "no connection":
            return PermanentDeliveryError("failed")
        return super().error(error)


class Following(Careful):
    """Goes where a redirect leads."""

    says = "outcome: a redirect should not be followed"

    async def judged(self, answer: str) -> DeliveryError | None:
        _, found, rest = answer.partition("location: ")
        if found and " 307 " in answer:
            with suppress(OSError):
                await anyio.to_thread.run_sync(urllib.request.urlopen, rest.split("\r\n")[0])
        return await super().judged(answer)


class OwnWord(Careful):
    """Does not know the vendor's word for no."""

    says = "outcome: .* raise PermanentDeliveryError after status 200 and b'no'; it returned"


class Impatient(Careful):
    """Does not read how long to wait."""

    says = "retry-after: .* retry_after of 7 s after status (429|503) with Retry-After: 7; got None"

    def pause(self, given: str | None) -> float | None:
        return None


class NumbersOnly(Careful):
    """Reads no dates."""

    says = "retry-after: .* retry_after of 90 s after .* GMT; got None"

    def pause(self, given: str | None) -> float | None:
        return float(given) if given and given.replace(".", "").isdigit() else None


class Patient(Careful):
    """Waits for the answer as long as it takes."""

    says = "deadline: send_alert should return within 5 s"
    time_limit = None


class NewKeys(Careful):
    """Makes up a key for each attempt."""

    says = "key: it should be the same for the same event"

    def key(self, event: AuditEvent) -> str:
        return str(id(self)) + str(anyio.current_time())


class OwnKeys(Careful):
    """Makes a key that only this dispatcher makes."""

    says = "key: it should be the same for the same event, from another dispatcher too"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.salt = url + str(anyio.current_time())

    def key(self, event: AuditEvent) -> str:
        return self.salt + event.event_id


class OneKey(Careful):
    """Makes the key of what happened, and so drops what happens again."""

    says = "key: it should be another one for another event"

    def key(self, event: AuditEvent) -> str:
        return event.event_type.value


class UpsideDown(Careful):
    """Believes that 1 is the least."""

    says = "severity: the order should be kept"

    def rank(self, severity: str) -> int:
        return -super().rank(severity)


class AllTheSame(Careful):
    """Sends everything with one severity."""

    says = "severity: the order should be kept"

    def rank(self, severity: str) -> int:
        return 1


class TooLong(Careful):
    """Is one off."""

    says = "limit: message should have at most 50 over there; it has 51"
    most = 51


class TooShort(Careful):
    """Is one off, to the other side."""

    says = "limit: message should be whole with 50 of 50"
    most = 49


class Malformed(Careful):
    """Sends what the other side does not take."""

    says = "valid: a request should be as expected; AssertionError"

    def content(self, event: AuditEvent) -> dict[str, Any]:
        return {**super().content(event), "user": event.user_id}


class Shown(Careful):
    """Shows the secret to who asks what it is."""

    says = "contract: secrets should stay hidden; the repr"

    def __repr__(self) -> str:
        return SECRET


class Echoing(Careful):
    """Repeats what the answer repeats."""

    says = "outcome: secrets should stay hidden; an exception"

    async def judged(self, answer: str) -> DeliveryError | None:
        return None if " 200 " in answer else TransientDeliveryError(answer)


class Logging(Careful):
    """Logs the answer at DEBUG."""

    says = "outcome: secrets should stay hidden; a record of the logger careful"

    async def judged(self, answer: str) -> DeliveryError | None:
        logging.getLogger("careful").debug("answer: %s", answer)
        return await super().judged(answer)


def valid(request: Request) -> None:
    assert request.json().keys() == {"id", "text", "rank"}


async def check(make: Callable[[str], AlertDispatcher], *outcomes: tuple[Answer, type[DeliveryError] | None]) -> None:
    await check_provider(
        make,
        outcomes=outcomes,
        key=lambda request: request.json()["id"],
        severity=lambda request: int(request.json()["rank"]),
        limits=[Limit(field="message", most=50, read=lambda request: str(request.json()["text"]))],
        valid=valid,
        secrets=["not this one", SECRET],
        timeout=5.0,
    )


async def test_a_stranger_passes() -> None:
    """A provider that shares no code with ours passes."""
    await check(Careful)


@pytest.mark.parametrize("broken", Careful.__subclasses__())
async def test_what_is_broken_is_named(broken: type[Careful]) -> None:
    """A provider that breaks a clause fails with the clause's name, what was expected, and no secret."""
    with pytest.raises(AssertionError, match=broken.says) as failure:
        await check(broken, *([(Answer(200, b"no"), PermanentDeliveryError)] if broken is OwnWord else []))
    assert SECRET not in str(failure.value)


async def test_who_sends_nothing_fails() -> None:
    """A provider that returns and has sent nothing fails."""
    with pytest.raises(AssertionError, match="outcome: send_alert should raise TransientDeliveryError"):
        await check_provider(lambda _: NoopAlertDispatcher())


async def test_what_cannot_be_read_fails() -> None:
    """A request that lacks what is looked for fails with the clause's name."""
    with pytest.raises(AssertionError, match="key: a request should be as expected; KeyError"):
        await check_provider(Careful, key=lambda request: request.headers["x-key"], timeout=5.0)


async def test_a_limit_needs_its_field() -> None:
    """A limit of a text in which the field is not fails."""
    limit = Limit(field="hostname", most=50, read=lambda request: str(request.json()["id"]))
    with pytest.raises(AssertionError, match="limit: hostname should be in the text that is read"):
        await check_provider(Careful, limits=[limit], timeout=5.0)


async def test_outcomes_of_ones_own_come_first() -> None:
    """What a provider makes of a status or of a fault on purpose replaces the table."""

    class Teapot(Careful):
        async def judged(self, answer: str) -> DeliveryError | None:
            return TransientDeliveryError("not yet") if " 404 " in answer else await super().judged(answer)

    with pytest.raises(AssertionError, match=r"outcome: .* after status 404"):
        await check(Teapot)
    await check(Teapot, (Answer(404), TransientDeliveryError))


# -- the origin


def exchange(origin: Origin, request: bytes) -> bytes:
    """Send *request* over a connection of its own, and return all that comes until it is closed or for 0.3 s."""
    host, _, port = origin.base_url.removeprefix("http://").partition(":")
    got = b""
    with socket.create_connection((host, int(port)), timeout=1.5) as connection:
        connection.sendall(request)
        try:
            while part := connection.recv(65_536):
                got += part
        except OSError as error:
            got += f"<{type(error).__name__}>".encode()
    return got


POST = b"POST /a?b HTTP/1.1\r\nX-Name: value\r\ncontent-length: 2\r\n\r\n{}"


def test_an_origin_answers_in_turn() -> None:
    """The answers of a script come in turn, the last one again and again, and the requests are kept."""
    with Origin() as origin:
        origin.script(Answer(503, b"no", {"retry-after": "1"}), Answer(202))
        answers = [exchange(origin, POST) for _ in range(3)]
    assert answers[0] == b"HTTP/1.1 503 Whatever\r\ncontent-length: 2\r\nretry-after: 1\r\n\r\nno<TimeoutError>"
    assert [answer.split()[1] for answer in answers] == [b"503", b"202", b"202"]
    assert origin.connections == 3
    assert origin.requests[2] == Request("POST", "/a?b", {"x-name": "value", "content-length": "2"}, b"{}", 3)
    assert origin.requests[2].json() == {}


FAULTS: dict[Fault, bytes] = {
    "hang_before_reading": b"<TimeoutError>",
    "hang_before_answering": b"<TimeoutError>",
    "hang_in_body": b"ab<TimeoutError>",
    "reset_before_reading": b"<ConnectionResetError>",
    "reset_before_answering": b"<ConnectionResetError>",
    "reset_in_body": b"ab<ConnectionResetError>",
    "close_before_answering": b"",
    "close_in_body": b"ab",
    "half_closed": b"",
    "drip": b"abcd",
    "not_http": b"220 mail.example.com ESMTP\r\n",
}


@pytest.mark.parametrize(("fault", "seen"), FAULTS.items())
def test_an_origin_fails_as_told(fault: Fault, seen: bytes) -> None:
    """Each fault looks as its name says from the other side."""
    with Origin() as origin:
        origin.script(Answer(body=b"abcd", fault=fault))
        assert exchange(origin, POST).rpartition(b"\r\n\r\n")[2] == seen
    assert len(origin.requests) == (0 if fault.endswith("before_reading") else 1)
