"""Mail, to a real server with TLS and passwords, and to one that does everything wrong."""

import asyncio
import errno
import html
import re
import smtplib
import socket
import ssl
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from html.parser import HTMLParser
from typing import Any, Literal, cast

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import (
    AmbiguousDeliveryError,
    AuditEventType,
    AuditLogLevel,
    DeliveryError,
    TransientDeliveryError,
)
from fapilog.providers import Disclosure
from fapilog.providers._rendering import Rendered, clean, one_line
from fapilog.providers._smtp_client import _in_turns
from fapilog.providers._smtp_replies import translated
from fapilog.providers.smtp import EmailDispatcher
from fapilog.record import values
from fapilog.record.errors import BrokenRouteError
from fapilog.testing import check_dispatcher
from tests.clock import passing
from tests.doubles.malicious_alerts import check_many
from tests.doubles.servers import free_port
from tests.providers.conftest import an_event

aiosmtpd = pytest.importorskip("aiosmtpd.smtp")
trustme = pytest.importorskip("trustme")

pytestmark = [
    pytest.mark.real_time,
    # It is the server's, on the loopback.
    pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning"),
]

SENDER = "audit@example.com"
OPS, BOSS, GONE = "ops@example.com", "boss@example.com", "gone@example.com"
PASSWORD = "p4ssw0rd"
WRONG_PASSWORD = "n0t-it"
HEADERS = [
    "Subject",
    "From",
    "To",
    "Date",
    "Message-ID",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
]


class Server:
    """
    A real mail server: aiosmtpd, in a thread with an event loop.

    Attributes:
        mails: The recipients and the content of each mail that was taken.
        refusals: The reply to RCPT for a recipient, if it is not 250.
        reply: To the content.
        dislikes: Content without these words is taken all the same.
        port: On the loopback.
    """

    def __init__(self, tls: Literal["starttls", "implicit", "none"], context: ssl.SSLContext, *, login: bool) -> None:
        self.mails: list[tuple[list[str], bytes]] = []
        self.refusals: dict[str, str] = {}
        self.reply = "250 taken"
        self.dislikes = b""
        self.port = 0
        self._implicit = context if tls == "implicit" else None
        self._options = {
            "hostname": "mail.example.com",
            "tls_context": context if tls == "starttls" else None,
            "require_starttls": tls == "starttls",
            "auth_required": login,
            "auth_exclude_mechanism": () if login else ("LOGIN", "PLAIN"),
            "auth_require_tls": tls == "starttls",
            "authenticator": self._authenticate,
        }

    @contextmanager
    def running(self) -> Iterator["Server"]:
        """Serve until this is left."""
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)))
        thread.start()
        try:
            assert started.wait(60)
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(60)
            assert not thread.is_alive()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(
            lambda: aiosmtpd.SMTP(self, **self._options), "127.0.0.1", 0, ssl=self._implicit
        )
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()

    def _authenticate(self, server: object, session: object, envelope: object, mechanism: str, data: Any) -> Any:
        is_right = (data.login, data.password) == (b"user", PASSWORD.encode())
        return aiosmtpd.AuthResult(success=is_right, handled=False)

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, server: object, session: object, envelope: Any, address: str, options: object
    ) -> str:
        if address not in self.refusals:
            envelope.rcpt_tos.append(address)
        return self.refusals.get(address, "250 ok")

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: N802
        reply = self.reply if self.dislikes in envelope.original_content else "250 taken"
        if reply.startswith("2"):
            self.mails.append((list(envelope.rcpt_tos), envelope.original_content))
        return reply


class Certificates:
    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.server)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(self.client)


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Server]:
    """Run a server without TLS or passwords."""
    with Server("none", certificates.server, login=False).running() as running:
        yield running


def to(server: Server, **options: Any) -> EmailDispatcher:
    return EmailDispatcher(
        **{"host": "127.0.0.1", "port": server.port, "tls": "none", "sender": SENDER, "recipients": [OPS], **options}
    )


def parsed(content: bytes) -> EmailMessage:
    return message_from_bytes(content, policy=SMTP)


def parts(mail: EmailMessage) -> tuple[str, str]:
    plain, markup = mail.iter_parts()
    assert (plain.get_content_type(), markup.get_content_type()) == ("text/plain", "text/html")
    return plain.get_content(), markup.get_content()


async def test_what_is_sent(server: Server) -> None:
    """A mail has the headers that it needs, says in plain text and in HTML what may leave, and goes to all."""
    dispatcher = to(server, recipients=[OPS, BOSS, OPS], link="https://audit/{sequence_number}?a=1&b=2")
    await dispatcher.send_alert(an_event(), severity="security", channel="#on-call")
    [(recipients, content)] = server.mails
    assert recipients == [OPS, BOSS]
    mail = parsed(content)
    assert mail.keys() == HEADERS
    assert mail["Subject"] == "SECURITY authentication_failed in auth"
    assert mail["From"] == SENDER
    assert mail["To"] == f"{OPS}, {BOSS}"
    assert mail["Auto-Submitted"] == "auto-generated"
    plain, markup = parts(mail)
    for text in (plain, markup):
        assert "five wrong passwords in a row" in text
        assert "#on-call" in text
        assert "web-1" in text
        assert "u-17" not in text
    assert "https://audit/12?a=1&b=2" in plain
    assert '<a href="https://audit/12?a=1&amp;b=2">' in markup


async def test_the_message_id_is_that_of_the_event(server: Server) -> None:
    """It is the same for the same event, by any dispatcher that writes to the same people, and not for others."""
    for recipients in ([OPS], [OPS], [BOSS]):
        await to(server, recipients=recipients).send_alert(an_event(), severity="info")
    await to(server).send_alert(an_event(event_id="another"), severity="info")
    first, again, other_people, other_event = [parsed(content)["Message-ID"] for _, content in server.mails]
    assert first == again
    assert first.endswith("@example.com>")
    assert len({first, other_people, other_event}) == 3


@pytest.mark.parametrize("tls", ["starttls", "implicit", "none"])
async def test_it_encrypts_and_logs_in(
    certificates: Certificates, tls: Literal["starttls", "implicit", "none"], everything_said: Callable[..., str]
) -> None:
    """With STARTTLS, with TLS from the start, and on this machine without, the mail comes after the login."""
    with Server(tls, certificates.server, login=True).running() as server:
        context = None if tls == "none" else certificates.client
        options = {"tls": tls, "tls_context": context, "username": "user"}
        await to(server, **options, password=lambda: PASSWORD).send_alert(an_event(), severity="info")
        assert len(server.mails) == 1
        with pytest.raises(BrokenRouteError, match=r"login was refused for good \(status 535 5\.7\.8\)") as caught:
            await to(server, **options, password=WRONG_PASSWORD).send_alert(an_event(), severity="info")
        assert len(server.mails) == 1
    said = everything_said(caught.value)
    assert PASSWORD not in said
    assert WRONG_PASSWORD not in said
    assert caught.value.__context__ is None


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_a_stranger_gets_nothing(certificates: Certificates, tls: Literal["starttls", "implicit"]) -> None:
    """A server whose certificate is of nobody we know is told neither the password nor the alert."""
    with Server(tls, certificates.server, login=False).running() as server:
        dispatcher = to(server, tls=tls, username="user", password=PASSWORD)
        with pytest.raises(TransientDeliveryError, match="the certificate is not trusted"):
            await dispatcher.send_alert(an_event(), severity="info")
        assert not server.mails


async def test_it_does_not_go_on_without_tls(server: Server, certificates: Certificates) -> None:
    """A server that offers no STARTTLS gets no mail, and one that offers no login neither."""
    for options in ({"tls": "starttls"}, {"username": "user", "password": PASSWORD}):
        with pytest.raises(BrokenRouteError, match=r"offers no (TLS \(STARTTLS\)|way to log in)"):
            await to(server, **options).send_alert(an_event(), severity="info")
    with (
        Server("starttls", certificates.server, login=True).running() as strict,
        pytest.raises(BrokenRouteError, match=r"MAIL was refused for good \(status 530\)"),
    ):
        await to(strict).send_alert(an_event(), severity="info")
    assert not server.mails


async def test_a_retry_goes_to_those_that_lack_it(server: Server) -> None:
    """Refused recipients do not keep the mail from the others, who do not get it again."""
    server.refusals = {BOSS: "450 later", GONE: "550 no such user"}
    dispatcher = to(server, recipients=[OPS, BOSS, GONE])
    with pytest.raises(TransientDeliveryError) as caught:
        await dispatcher.send_alert(an_event(), severity="info")
    assert str(caught.value) == (
        "smtp: 1 of 3 recipients have the alert; not number 2: RCPT was refused for now (status 450); "
        "not number 3: RCPT was refused for good (status 550); check the address"
    )
    server.refusals = {GONE: "550 no such user"}
    with pytest.raises(TransientDeliveryError, match="2 of 3 recipients have the alert; not number 3"):
        await dispatcher.send_alert(an_event(), severity="info")
    server.refusals = {}
    await dispatcher.send_alert(an_event(), severity="info")
    assert [recipients for recipients, _ in server.mails] == [[OPS], [BOSS], [GONE]]
    mails = [parsed(content) for _, content in server.mails]
    assert len({(mail["Message-ID"], mail["To"]) for mail in mails}) == 1


async def test_all_refused_is_no_mail(server: Server) -> None:
    """If every recipient is refused, no content is sent."""
    server.refusals = dict.fromkeys([OPS, BOSS], "550 no")
    with pytest.raises(BrokenRouteError, match="0 of 2 recipients"):
        await to(server, recipients=[OPS, BOSS]).send_alert(an_event(), severity="info")
    assert not server.mails


async def test_what_failed_alike_is_told_once(server: Server) -> None:
    """Recipients that lack the mail for the same reason are counted together."""
    recipients = [f"user{number}@example.com" for number in range(12)]
    server.refusals = dict.fromkeys(recipients[2:], "550 no") | {recipients[5]: "450 later"}
    with pytest.raises(TransientDeliveryError, match=r"2 of 12 .* not number 3, 4, 5, 7, 8, .*; not number 6: RCPT"):
        await to(server, recipients=recipients).send_alert(an_event(), severity="info")


@pytest.mark.one_backend
@pytest.mark.parametrize(("reply", "kind"), [("451 later", TransientDeliveryError), ("554 no", BrokenRouteError)])
async def test_the_content_is_refused(server: Server, reply: str, kind: type[DeliveryError]) -> None:
    """What the server says to the whole mail counts for every recipient."""
    server.reply = reply
    with pytest.raises(kind, match=f"status {reply[:3]}"):
        await to(server, recipients=[OPS, BOSS]).send_alert(an_event(), severity="info")


class Script:
    """
    A server that answers line for line, and then hangs or closes.

    Attributes:
        heard: What came.
        gate: Must be set before the greeting is said; it is.
        hangs: Is set when the server has nothing more to say, and hangs.
        gone: Is set when the client goes away from a server that hangs.
        port: On the loopback.
    """

    def __init__(self, replies: dict[str, str], *, then_close: bool) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.hangs = threading.Event()
        self.gone = threading.Event()
        self.heard = b""
        self._replies = {"greeting": "220 hi", "ehlo": "250 hi", "mail": "250", "rcpt": "250", "data": "354"} | replies
        self._then_close = then_close
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    @contextmanager
    def running(self) -> Iterator["Script"]:
        thread = threading.Thread(target=self._serve)
        thread.start()
        try:
            yield self
        finally:
            thread.join(60)
            assert not thread.is_alive()

    def _serve(self) -> None:
        # Of a client that goes away in the middle of a reply.
        with suppress(ConnectionError), self._listener, self._listener.accept()[0] as connection:
            self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            self.gate.wait(60)
            step = "greeting"
            while (reply := self._replies.get(step)) is not None:
                connection.sendall(f"{reply}\r\n".encode() if reply else b"")
                line = lines.readline()
                self.heard += line
                step = line[:4].strip().decode().lower()
                if self._replies.get("data") == reply:
                    while (line := lines.readline()) not in (b".\r\n", b""):
                        self.heard += line
                    step = "content"
            if not self._then_close:
                self.hangs.set()
                with suppress(OSError):
                    self.heard += lines.read()
                self.gone.set()


# Half a megabyte, and a server would go on.
ENDLESS = "\r\n".join(["250-" + "x" * 500] * 1000)

SCRIPTS: list[tuple[dict[str, str], type[DeliveryError], str]] = [
    ({"greeting": "421 busy"}, TransientDeliveryError, "status 421"),
    ({"greeting": "554 not for you"}, BrokenRouteError, "status 554"),
    ({"greeting": "HTTP/1.1 400 Bad Request"}, TransientDeliveryError, "the greeting was answered as no mail server"),
    ({"greeting": "2" * 10_000}, BrokenRouteError, "status 500"),
    ({"greeting": ENDLESS}, TransientDeliveryError, "a reply without an end"),
    ({"ehlo": ENDLESS}, TransientDeliveryError, "a reply without an end"),
    ({"mail": "451 later"}, TransientDeliveryError, "MAIL was refused for now"),
    ({"mail": "550 not you"}, BrokenRouteError, "MAIL was refused for good"),
    ({"mail": "what?"}, TransientDeliveryError, "as no mail server"),
    ({"data": "451 later", "quit": "221"}, TransientDeliveryError, "DATA was refused for now"),
    ({"content": "?"}, AmbiguousDeliveryError, "sent, but there was no answer"),
    ({"content": "2" * 10_000}, AmbiguousDeliveryError, "sent, but there was no answer"),
    ({"content": ENDLESS}, AmbiguousDeliveryError, "sent, but there was no answer"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("replies", "kind", "words"), SCRIPTS)
async def test_every_reply_has_a_meaning(replies: dict[str, str], kind: type[DeliveryError], words: str) -> None:
    """4yz is for now, 5yz for good, and what is no reply is neither; after the mail it leaves open what happened."""
    with Script(replies, then_close=True).running() as server:
        with pytest.raises(kind, match=words) as caught:
            await to(cast("Server", server)).send_alert(an_event(), severity="info")
        assert caught.value.__context__ is None


@pytest.mark.slow
async def test_a_server_that_says_no_goodbye_keeps_no_alert() -> None:
    """Once the mail is taken, it does not matter whether the server answers QUIT."""
    with Script({"content": "250 ok"}, then_close=False).running() as server, anyio.fail_after(30):
        await to(cast("Server", server), timeout=600).send_alert(an_event(), severity="info")
    assert server.heard.lower().endswith(b"quit\r\n")


# RFC 5321, 4.2.3, and 454 and 530, 535, 538 of RFC 4954.
FOR_NOW = (421, 450, 451, 452, 454, 455)
NOT_OF_THE_MAIL = (530, 534, 535, 538)
FOR_GOOD = (500, 501, 502, 503, 504, *range(550, 556))


@pytest.mark.one_backend
@pytest.mark.parametrize("step", ["greeting", "mail", "rcpt", "data", "content"])
async def test_every_code_has_a_meaning(step: str) -> None:
    """4yz is for now, and 5yz for good; the words are not repeated."""
    for code in (*FOR_NOW, *NOT_OF_THE_MAIL, *FOR_GOOD):
        script = Script({step: f"{code} s3cr3t"}, then_close=True)
        with script.running() as server, pytest.raises(DeliveryError) as caught:
            # Of which no less can be sent.
            await to(cast("Server", server), disclosure=Disclosure.MINIMAL).send_alert(an_event(), severity="info")
        assert type(caught.value) is (TransientDeliveryError if code in FOR_NOW else BrokenRouteError), code
        assert f"status {code}" in str(caught.value)
        assert "s3cr3t" not in str(caught.value)
        assert caught.value.__context__ is None


SLOW_DOWN = [
    "550 5.4.5 Daily user sending limit exceeded. For more information on Gmail sending limits go to ...",
    "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
    "550 5.7.233 Your message can't be sent because your tenant exceeded its daily limit for sending email",
    "550 5.1.90 Your message can't be sent because you've reached your daily limit for message recipients",
    "552 5.2.2 Mailbox full",
    "554 5.3.2 System not accepting network messages",
    "550-5.7.28 unusual rate of mail\r\n550 5.7.28 more words",
    "554 5.7.1 <ops@example.com>: Recipient address rejected: Quota exceeded",
    "550 Domain example.com has exceeded the max emails per hour (50/50) allowed",
    "550 Too many messages from you, try again later",
]


@pytest.mark.one_backend
@pytest.mark.parametrize("reply", SLOW_DOWN)
async def test_slow_down_is_for_now(reply: str) -> None:
    """A reply that says by its enhanced status code or in words that it passes is transient, although it is 5yz."""
    says = r"refused for now \(status 55\d.*: full, busy, or over a limit\)"
    for step in ("greeting", "mail", "rcpt", "data", "content"):
        script = Script({step: reply}, then_close=True)
        with script.running() as server, pytest.raises(TransientDeliveryError, match=says):
            await to(cast("Server", server)).send_alert(an_event(), severity="info")


async def test_a_server_that_was_over_its_quota_gets_the_mail_later(server: Server) -> None:
    """A recipient whose mailbox is full, and a sender over a quota, get the mail from a retry."""
    dispatcher = to(server)
    server.refusals = {OPS: "552 5.2.2 mailbox full"}
    with pytest.raises(TransientDeliveryError, match=r"RCPT was refused for now \(status 552 5\.2\.2"):
        await dispatcher.send_alert(an_event(), severity="info")
    server.refusals, server.reply = {}, SLOW_DOWN[0]
    with pytest.raises(TransientDeliveryError, match=r"the mail was refused for now \(status 550 5\.4\.5"):
        await dispatcher.send_alert(an_event(), severity="info")
    server.reply = "250 2.0.0 taken"
    await dispatcher.send_alert(an_event(), severity="info")
    assert len(server.mails) == 1


OF_THE_MAIL = [
    "552 5.3.4 message size exceeds the daily limit",
    "550 5.7.1 spam",
    "554 5.6.0 no",
    "550 5.4.1 no",
    "550 x",
]
OF_THE_ROUTE = ["535 5.7.8 log in", "550 5.7.57 not authenticated", "550 5.7.13 disabled", "554 5.2.252 SendAsDenied"]


@pytest.mark.one_backend
@pytest.mark.parametrize("reply", [*OF_THE_MAIL, *OF_THE_ROUTE])
async def test_a_mail_that_is_refused_is_sent_with_less(server: Server, reply: str) -> None:
    """What a server says to the mail, unless about who is sending, may be about its words: the least is sent then."""
    server.reply, server.dislikes = reply, b"wrong passwords"
    refused = []
    try:
        await to(server, recipients=[OPS, BOSS]).send_alert(an_event(), severity="info")
    except BrokenRouteError as error:
        refused.append(str(error))
    assert len(refused) == (reply in OF_THE_ROUTE)
    assert [recipients for recipients, _ in server.mails] == [[OPS, BOSS]] * (reply in OF_THE_MAIL)


async def test_a_mail_that_is_refused_with_less_too_breaks_the_route(server: Server) -> None:
    """A server that refuses the least would refuse any mail: the alert is not dead."""
    server.reply = "550 5.7.26 unauthenticated"
    with pytest.raises(BrokenRouteError, match=r"status 550 5\.7\.26.*; with less in it, it was refused again"):
        await to(server).send_alert(an_event(), severity="info")


async def test_the_least_goes_to_the_recipients_that_are_there(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """A recipient that was refused before gets no mail with less in it, and the log says what was taken."""
    server.reply, server.dislikes, server.refusals = "554 5.7.1 spam", b"wrong passwords", {BOSS: "450 later"}
    dispatcher = to(server, recipients=[OPS, BOSS])
    with pytest.raises(TransientDeliveryError, match=r"1 of 2 recipients .*; not number 2: RCPT was refused for now"):
        await dispatcher.send_alert(an_event(), severity="info")
    assert (
        "(status 554 5.7.1); check the options, and the server's log; the mail that was taken has only" in caplog.text
    )
    [(recipients, content)] = server.mails
    assert recipients == [OPS]
    assert "authentication_failed" in parts(parsed(content))[0]


@pytest.mark.one_backend
async def test_the_severity_comes_first(server: Server) -> None:
    """The subject begins with the severity, each of the six a word of its own."""
    for level in AuditLogLevel:
        await to(server).send_alert(an_event(log_level=level), severity=level.value)
    subjects = [parsed(content)["Subject"] for _, content in server.mails]
    assert subjects == [f"{level.value.upper()} authentication_failed in auth" for level in AuditLogLevel]


@pytest.mark.one_backend
async def test_the_longest_subject_is_whole(server: Server) -> None:
    """A title as long as they come is not cut, and folded so that no line is too long."""
    longest = max(AuditEventType, key=lambda each: len(each.value))
    event = an_event(event_type=longest, component=(words := "\u00e9" * 100))
    await to(server).send_alert(event, severity="s" * 20)
    [(_, content)] = server.mails
    assert parsed(content)["Subject"] == f"{'S' * 20} {longest.value} in {words}"
    assert max(map(len, content.split(b"\r\n"))) <= 78


@pytest.mark.one_backend
@pytest.mark.parametrize("length", [14_000, 15_001])
async def test_fields_have_15000_bytes(server: Server, length: int) -> None:
    """What fits is whole; the longest of what does not ends in an ellipsis, and the rest is still there."""
    await to(server).send_alert(an_event(message="m" * length), severity="info")
    plain, markup = parts(parsed(server.mails[0][1]))
    for said in (plain, markup):
        assert ("m" * length in said) == (length <= 15_000)
        assert ("m…" in said) == (length > 15_000)
        assert an_event().event_id in said


STEPS = ["greeting", "ehlo", "mail", "rcpt", "data"]


@pytest.mark.parametrize("then_close", [True, False])
@pytest.mark.parametrize("step", STEPS)
async def test_lost_before_the_mail(step: str, then_close: bool) -> None:  # noqa: FBT001  a parameter of the test
    """A server that closes or hangs before the content did not get the alert."""
    script = Script({}, then_close=then_close)
    del script._replies[step]
    with script.running() as server:
        dispatcher = to(cast("Server", server), timeout=60.0, recipients=[OPS, BOSS])
        async with nullcontext() if then_close else passing(60.0, once=server.hangs.is_set):
            with pytest.raises(TransientDeliveryError, match="0 of 2"):
                await dispatcher.send_alert(an_event(), severity="info")
    assert b"five wrong" not in script.heard


@pytest.mark.parametrize("then_close", [True, False])
async def test_lost_after_the_mail(then_close: bool) -> None:  # noqa: FBT001
    """A server that closes or hangs after the final dot may have taken the mail."""
    with Script({}, then_close=then_close).running() as server:
        dispatcher = to(cast("Server", server), timeout=60.0)
        async with nullcontext() if then_close else passing(60.0, once=server.hangs.is_set):
            with pytest.raises(AmbiguousDeliveryError):
                await dispatcher.send_alert(an_event(), severity="info")
    assert b"five wrong" in server.heard


async def test_goodbye_does_not_matter() -> None:
    """Once the server has the mail, what it does with the connection changes nothing."""
    with Script({"content": "250 taken"}, then_close=False).running() as server:
        async with passing(60.0, once=server.hangs.is_set):
            await to(cast("Server", server), timeout=60.0).send_alert(an_event(), severity="info")


@pytest.mark.parametrize("step", STEPS)
async def test_a_cancelled_call_leaves_nothing_behind(step: str) -> None:
    """A thread that is left behind while the server is silent loses its connection at once, and sends nothing more."""
    script = Script({}, then_close=False)
    del script._replies[step]
    with script.running() as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: to(cast("Server", server)).send_alert(an_event(), severity="info"))
            assert await anyio.to_thread.run_sync(server.hangs.wait, 60)
            tasks.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(server.gone.wait, 60)
    assert b"five wrong" not in server.heard


# The server knows that the client has come to a step once it has the command; a greeting has none.
@pytest.mark.parametrize("step", STEPS[1:])
async def test_a_limit_in_time_tells_where(step: str) -> None:
    """The error of a call that took too long names the part of the talk that the server did not answer."""
    silent = Script({}, then_close=False)
    del silent._replies[step]
    words = rf"nothing was sent \(not within 60 s, at {step.upper()}\)"
    with silent.running() as server:
        async with passing(60.0, once=server.hangs.is_set):
            with pytest.raises(TransientDeliveryError, match=words):
                await to(cast("Server", server), timeout=60.0).send_alert(an_event(), severity="info")


@contextmanager
def addresses(monkeypatch: pytest.MonkeyPatch, *ports: int, host: str = "127.0.0.1") -> Iterator[None]:
    """Have the name "several.example.com" mean several ports of *host*, and then of this machine."""
    places = [*((host, port) for port in ports), *(("127.0.0.1", port) for port in ports)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in places]
    theirs = socket.getaddrinfo

    def look_up(host: str, *args: Any, **options: Any) -> Any:
        return found if host == "several.example.com" else theirs(host, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", look_up)
        yield


@contextmanager
def silent_port() -> Iterator[int]:
    """Listen on a port where no further connection is taken or refused, since the queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.settimeout(0)
            filling.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.slow_on_trio
async def test_a_silent_address_does_not_hide_the_next(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first address refuses and the second is silent, the third gets the mail a quarter second later."""
    with silent_port() as silent, addresses(monkeypatch, free_port(), silent, server.port, silent):
        begun = anyio.current_time()
        await to(server, host="several.example.com").send_alert(an_event(), severity="info")
        took = anyio.current_time() - begun
    assert len(server.mails) == 1
    assert took >= 0.25


async def test_an_address_that_fails_at_once_does_not_hide_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system refuses to try the first address, the next one gets the mail."""
    with addresses(monkeypatch, server.port, host="255.255.255.255"):
        await to(server, host="several.example.com").send_alert(an_event(), severity="info")
    assert len(server.mails) == 1


REASONS = [
    (OSError(errno.EHOSTUNREACH, "s3cr3t"), TransientDeliveryError, "no way to the host, at the connection"),
    (TimeoutError("s3cr3t"), TransientDeliveryError, "no answer in time, at the connection"),
    (ssl.SSLError("s3cr3t"), TransientDeliveryError, "the connection was closed, at the connection"),
    (UnicodeError("s3cr3t"), BrokenRouteError, r"the mail can't be sent \(UnicodeError at the connection\)"),
    (smtplib.SMTPResponseException(250, "s3cr3t"), TransientDeliveryError, "answered as no mail server answers"),
]


@pytest.mark.parametrize(("error", "kind", "words"), REASONS)
def test_every_error_has_words(error: Exception, kind: type[DeliveryError], words: str) -> None:
    """What a system can raise but a loopback can't has words of its own too, and none of the error's."""
    failure = translated(error, "the connection")
    assert type(failure) is kind
    assert re.search(words, str(failure))
    assert "s3cr3t" not in str(failure)


@pytest.mark.slow_on_trio
async def test_silent_addresses_have_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses are silent, the call ends when its time is over."""
    with silent_port() as silent, addresses(monkeypatch, *[silent] * 5):
        dispatcher = EmailDispatcher(
            host="several.example.com", tls="none", sender=SENDER, recipients=[OPS], timeout=0.6
        )
        with pytest.raises(TransientDeliveryError, match=r"not within 0.6 s, at the connection"):
            await dispatcher.send_alert(an_event(), severity="info")


def test_families_take_turns() -> None:
    """The addresses of two families are tried in turns, however many there are of the first."""
    six, four = socket.AF_INET6, socket.AF_INET
    given = [(family, socket.SOCK_STREAM, 6, "", n) for n, family in enumerate([six, six, six, four, four])]
    assert [each[4] for each in _in_turns(given)] == [0, 3, 1, 4, 2]
    assert _in_turns([]) == []


class Oauth:
    """
    What aiosmtpd needs to take tokens by one mechanism: the token "t0k3n" of "user", and no other.

    Attributes:
        heard: What the client sent.
        mails: How many mails were taken.
    """

    def __init__(self, mechanism: str) -> None:
        self.heard: list[str] = []
        self.mails = 0
        setattr(self, f"auth_{mechanism}", self._authenticate)

    async def _authenticate(self, server: Any, args: list[str]) -> Any:
        said = b64decode(args[1]).decode()
        self.heard.append(said)
        is_right = "user" in said and "\1auth=Bearer t0k3n\1\1" in said
        if not is_right:
            # It says why, and refuses only when that was answered.
            answer = await server.challenge_auth('{"status":"401"}', encode_to_b64=True)
            self.heard.append(answer.decode())
        return aiosmtpd.AuthResult(success=is_right, handled=False)

    async def handle_DATA(self, *_: object) -> str:  # noqa: N802
        self.mails += 1
        return "250 taken"

    @contextmanager
    def running(self) -> Iterator["Oauth"]:
        """Serve until this is left."""
        controller = pytest.importorskip("aiosmtpd.controller")
        self.port = free_port()
        serving = controller.Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            ready_timeout=60.0,
            auth_required=True,
            auth_require_tls=False,
            auth_exclude_mechanism=["LOGIN", "PLAIN"],
            authenticator=lambda *_: None,
        )
        serving.start()
        try:
            yield self
        finally:
            serving.stop()


MECHANISMS = [
    ("XOAUTH2", "user=user\1auth=Bearer t0k3n\1\1", ""),
    ("OAUTHBEARER", "n,a=user,\1host=127.0.0.1\1port={port}\1auth=Bearer t0k3n\1\1", "\1"),
]


@pytest.mark.parametrize(("mechanism", "said", "goodbye"), MECHANISMS)
async def test_it_logs_in_with_a_token(
    mechanism: str, said: str, goodbye: str, everything_said: Callable[..., str]
) -> None:
    """The function that returns the token is called for each connection, in a thread, and a refused token is told."""
    threads: list[threading.Thread] = []
    tokens = iter(["t0k3n", "t0k3n", "0ld-t0k3n"])

    def token() -> str:
        threads.append(threading.current_thread())
        return next(tokens)

    with Oauth(mechanism).running() as server:
        dispatcher = to(cast("Server", server), username="user", token=token)
        for _ in range(2):
            await dispatcher.send_alert(an_event(), severity="info")
        with pytest.raises(BrokenRouteError, match=r"the login was refused for good \(status 535.*or token") as caught:
            await dispatcher.send_alert(an_event(), severity="info")
        assert server.mails == 2
        assert server.heard == [*[said.format(port=server.port)] * 2, *[server.heard[2], goodbye]]
    assert threading.current_thread() not in threads
    assert "t0k3n" not in everything_said(caught.value)


class PanicError(BaseException):
    """What an extension raises that is no Exception."""


@pytest.mark.parametrize("error", [OSError, PanicError, GeneratorExit, asyncio.CancelledError])
async def test_a_token_that_can_not_be_had(error: type[BaseException]) -> None:
    """Whatever the function raises is told by its type alone, and is transient."""

    def token() -> str:
        raise error("s3cr3t")

    with Oauth("XOAUTH2").running() as server:
        dispatcher = to(cast("Server", server), username="user", token=token)
        with pytest.raises(TransientDeliveryError, match=error.__name__) as caught:
            await dispatcher.send_alert(an_event(), severity="info")
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__context__ is None
    assert not server.mails


async def test_a_server_that_takes_no_password() -> None:
    """A server that takes tokens alone is told of, and hears no password."""
    with (
        Oauth("XOAUTH2").running() as server,
        pytest.raises(BrokenRouteError, match="takes no password in a known way; it may want a token"),
    ):
        await to(cast("Server", server), username="user", password=PASSWORD).send_alert(an_event(), severity="info")
    assert not server.heard


async def test_a_server_that_takes_no_token(certificates: Certificates) -> None:
    """A server that offers passwords alone is told of, and hears no token."""
    with (
        Server("none", certificates.server, login=True).running() as server,
        pytest.raises(BrokenRouteError, match="takes no token"),
    ):
        await to(server, username="user", token="t0k3n").send_alert(an_event(), severity="info")
    assert not server.mails


@contextmanager
def other_certificate(kind: str) -> Iterator[tuple[int, ssl.SSLContext]]:
    """Run a server whose certificate is not right, and return its port and a context that trusts the issuer."""
    authority = trustme.CA()
    context, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    name = "127.0.0.1" if kind == "expired" else "mail.example.com"
    expiry = datetime.now(UTC) - timedelta(days=1) if kind == "expired" else None
    authority.issue_cert(name, not_after=expiry).configure_cert(context)
    authority.configure_trust(client)
    with Server("implicit", context, login=False).running() as server:
        yield server.port, client


async def reason(**options: Any) -> str:
    """Return why a mail could not be sent, which is transient."""
    dispatcher = EmailDispatcher(**{"host": "127.0.0.1", "sender": SENDER, "recipients": [OPS], **options})
    with pytest.raises(TransientDeliveryError) as caught:
        await dispatcher.send_alert(an_event(), severity="info")
    assert caught.value.__context__ is None
    return str(caught.value)


@pytest.mark.slow_on_trio
async def test_errors_say_why(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name, a port, a certificate and a protocol that are wrong each have words of their own."""
    assert "the connection was refused" in await reason(port=free_port())
    assert "does not resolve" in await reason(host="no-such-host.invalid")
    assert "the other side does not speak TLS" in await reason(port=server.port, tls="implicit")
    with other_certificate("expired") as (port, context):
        assert "certificate has expired" in await reason(port=port, tls="implicit", tls_context=context)
    with other_certificate("other") as (port, context):
        assert "is for another name, at TLS" in await reason(port=port, tls="implicit", tls_context=context)
        with addresses(monkeypatch, port):
            said = await reason(host="several.example.com", port=port, tls="implicit", tls_context=context)
        assert "is for another name, at TLS" in said
        assert "the certificate is not trusted" in await reason(port=port, tls="implicit")
    with Script({}, then_close=True).running() as script:
        del script._replies["ehlo"]
        assert "no connection (SMTPServerDisconnected, at EHLO)" in await reason(port=script.port, tls="none")


async def test_a_system_without_threads(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be had the alert is not sent, and a retry may send it."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(TransientDeliveryError, match="no thread can be started"):
        await to(server).send_alert(an_event(), severity="info")
    monkeypatch.undo()


async def test_a_single_dot_does_not_end_it(server: Server) -> None:
    """Lines that begin with dots arrive as they are."""
    message = "\n.\n..\n.end\nQUIT\n"
    await to(server).send_alert(an_event(message=f"begin{message}"), severity="info")
    [(_, content)] = server.mails
    assert f"begin{message}".strip() in parts(parsed(content))[0].replace("\r\n", "\n")


HEADER_TRICKS = [
    "x\r\nBcc: everyone@example.com",
    "x\nBcc: everyone@example.com\n\nbody",
    "=?utf-8?q?x=0D=0ABcc:_everyone@example.com?=",
    "=?utf-8?b?DQpCY2M6IGV2ZXJ5b25lQGV4YW1wbGUuY29t?=",
    "=?=?utf-8?q?=0D=0ABcc:_e@example.com?=?=",
    "é\u2028Bcc: everyone@example.com\x85Cc: x\x0bTo: y\x0cFrom: z",
    "x" * 5000,
    "é" * 5000,
]


@pytest.mark.one_backend
@pytest.mark.parametrize("words", HEADER_TRICKS)
async def test_an_event_adds_no_headers(server: Server, words: str) -> None:
    """Line ends, plain or encoded, do not make headers, and the subject has its limit."""
    event = an_event(component=words, message=words)
    await to(server).send_alert(event, severity="info")
    [(recipients, content)] = server.mails
    assert recipients == [OPS]
    mail = parsed(content)
    assert mail.keys() == HEADERS
    assert len(mail["Subject"]) <= 151
    head = content.partition(b"\r\n\r\n")[0]
    assert b"\nBcc" not in head
    assert max(map(len, content.split(b"\r\n"))) <= 998


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}


PLAIN_ELEMENTS = {"meta", "charset", "h3", "p", "style", "table", "tr", "td"}


@given(
    words=st.text(max_size=300) | st.text("=?utf-8qb\r\n:. <>&'\"/script\0\u2028é\U0001f9d1", max_size=60),
    severity=st.sampled_from(["info", "critical"]),
)
def test_hostile_text_is_text(words: str, severity: str) -> None:
    """Whatever an event says, the mail is ASCII in short lines, has the same headers, and its HTML our elements."""
    event = an_event(message=words, component=words, operation=words, user_id=words, metadata={words: words})
    dispatcher = EmailDispatcher(host="mail", sender=SENDER, recipients=[OPS], disclosure=Disclosure.FULL)
    content = dispatcher._content(dispatcher._render(event, severity), "<id@example.com>", words)
    assert content.isascii()
    assert content.replace(b"\r\n", b"").count(b"\r") == content.replace(b"\r\n", b"").count(b"\n") == 0
    assert max(map(len, content.split(b"\r\n"))) <= 998
    mail = parsed(content)
    assert mail.keys() == HEADERS
    assert not mail.defects
    assert mail["Subject"].startswith(f"{severity.upper()} authentication_failed")
    plain, markup = parts(mail)
    assert plain.startswith(f"{severity.upper()} authentication_failed")
    elements = Elements()
    elements.feed(markup)
    assert elements.found <= PLAIN_ELEMENTS


ANY_WORDS = st.text(st.characters(codec=None), max_size=300) | st.text(
    "=?utf-8qb_\r\n\t:. -<>&'\"\0\x85\u2028é\ud800\U0001f9d1", max_size=100
)


def written(message: str, component: str) -> tuple[Rendered, EmailMessage]:
    """Return an alert about an event that says so, and what a parser makes of its mail."""
    dispatcher = EmailDispatcher(host="mail", sender=SENDER, recipients=[OPS, BOSS], disclosure=Disclosure.FULL)
    alert = dispatcher._render(an_event(message=message, component=component), "info")
    return alert, parsed(dispatcher._content(alert, "<id@example.com>", message))


def lines(mail: EmailMessage) -> tuple[str, str]:
    plain, markup = parts(mail)
    return plain.replace("\r\n", "\n"), markup.replace("\r\n", "\n")


@given(message=ANY_WORDS, component=ANY_WORDS)
def test_what_is_read_is_what_was_written(message: str, component: str) -> None:
    """Whatever the words are, a parser reads the subject, the message and the channel that were meant."""
    alert, mail = written(message, component)
    assert not mail.defects
    assert mail["Subject"] == alert.title.replace("=?", "= ?")
    assert mail["Message-ID"] == "<id@example.com>"
    plain, markup = lines(mail)
    said = alert.message or ""
    assert plain.startswith(f"{alert.title}\n\n{said}")
    assert html.escape(said, quote=False) in markup
    if message:
        assert f"\nchannel              {one_line(clean(values.text(message)))}\n" in plain


@pytest.mark.slow
@given(message=ANY_WORDS, component=ANY_WORDS)
def test_it_is_what_the_standard_library_would_write(message: str, component: str) -> None:
    """A mail has the headers and the parts that it has if `EmailMessage` makes it of the same."""
    _, mail = written(message, component)
    plain, markup = lines(mail)
    theirs = EmailMessage(policy=SMTP)
    # Not the subject, in which it loses a space now and then, between words that it encodes.
    headers = HEADERS[1:-2]
    for name in headers:
        theirs[name] = str(mail[name])
    theirs.set_content(plain, cte="quoted-printable")
    theirs.add_alternative(markup, subtype="html", cte="quoted-printable")
    read = parsed(theirs.as_bytes())
    assert parts(read) == parts(mail)
    assert [read[name] for name in headers] == [mail[name] for name in headers]
    assert [part["Content-Type"] for part in read.iter_parts()] == [part["Content-Type"] for part in mail.iter_parts()]


@pytest.mark.one_backend
async def test_a_huge_event_is_cut(server: Server) -> None:
    """A mail stays small, however much an event says."""
    words = "\U0001f9d1" * 300_000
    event = an_event(message=words, metadata={"words": words})
    await to(server, disclosure=Disclosure.FULL).send_alert(event, severity="info")
    assert len(server.mails[0][1]) < 110_000


BAD: list[tuple[dict[str, Any], str]] = [
    ({"host": ""}, "host: expected"),
    ({"host": None}, "host: expected the name of a mail server; got None"),
    ({"tls": ["starttls"]}, "tls: expected one of"),
    ({"tls_context": True}, "tls_context: expected an ssl.SSLContext; got a bool of builtins"),
    (
        {"tls": "none", "tls_context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
        "tls_context: expected starttls or implicit as tls",
    ),
    ({"host": "mail example"}, "host: expected"),
    ({"port": 0}, "port: expected"),
    ({"port": 65_536}, "port: expected"),
    ({"tls": "ssl"}, "tls: expected one of"),
    ({"recipients": []}, "recipients: expected at least one address"),
    *(
        ({name: value if name == "sender" else [value]}, f"{name}: expected an address")
        for name in ("sender", "recipients")
        for value in (
            "ops",
            "a@" + "b." * 126 + "b",
            "a@b\r\nRCPT TO:<c@d>",
            "a@b>",
            "<a@b>",
            "é@b",
            "a@b c@d",
            "@b",
            "a@",
            "a@b,c@d",
            "a@b\n",
        )
    ),
    ({"username": "user"}, "expected a username with a password or a token, or none of them; got a username alone"),
    ({"password": PASSWORD}, "expected a username with a password or a token, or none of them; got no username"),
    ({"token": PASSWORD}, "expected a username with a password or a token, or none of them"),
    ({"username": "user", "password": PASSWORD, "token": PASSWORD}, "expected one of them"),
    ({"username": "user", "token": PASSWORD, "tls": "none"}, "sent in the clear"),
    ({"username": "user", "token": PASSWORD + " x"}, "token: expected printable ASCII"),
    ({"username": "user", "password": PASSWORD, "tls": "none"}, "sent in the clear"),
    ({"username": "user", "password": PASSWORD + "é"}, "password: expected ASCII"),
    ({"port": 25.5}, "port: expected a whole number"),
    ({"timeout": 0}, "timeout: expected"),
    ({"timeout": float("nan")}, "timeout: expected"),
    ({"disclosure": "all"}, "disclosure: expected"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    """A wrong option is refused at once, by its name and without the password."""
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        EmailDispatcher(**{"host": "mail.example.com", "sender": SENDER, "recipients": [OPS], **options})
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(("tls", "port"), [("starttls", 587), ("implicit", 465), ("none", 25)])
def test_the_port_follows_tls(tls: Literal["starttls", "implicit", "none"], port: int) -> None:
    """Each way has the port that is registered for it."""
    assert EmailDispatcher(host="localhost", sender=SENDER, recipients=[OPS], tls=tls)._server.port == port


@pytest.mark.slow
async def test_it_keeps_the_contract(server: Server, certificates: Certificates) -> None:
    """The dispatcher passes the kit, encrypted and logged in, and its password stays hidden."""
    with Server("starttls", certificates.server, login=True).running() as strict:
        options = {"tls": "starttls", "tls_context": certificates.client, "username": "user"}
        await check_dispatcher(
            lambda: to(strict, **options, password=PASSWORD),
            failing=lambda: to(strict, **options, password=WRONG_PASSWORD),
            secrets=[PASSWORD, WRONG_PASSWORD],
        )


def check_hostile(rendered: Rendered, channel: str | None) -> None:
    """Fail unless the mail is ASCII in short lines, with our headers and our elements alone."""
    content = EmailDispatcher(host="mail", sender=SENDER, recipients=[OPS])._content(
        rendered, "<id@example.com>", channel
    )
    assert content.isascii()
    assert len(content) < 110_000
    bare = content.replace(b"\r\n", b"")
    assert not {b"\r"[0], b"\n"[0], 0} & set(bare)
    assert max(map(len, content.split(b"\r\n"))) <= 998
    mail = parsed(content)
    assert mail.keys() == HEADERS
    assert not mail.defects
    elements = Elements()
    elements.feed(parts(mail)[1])
    assert elements.found <= PLAIN_ELEMENTS | {"a", "href"}


def test_hostile_alerts() -> None:
    """Thirty hostile alerts become what the other side takes; `make torture` tries 10,000."""
    check_many(check_hostile, 30)
