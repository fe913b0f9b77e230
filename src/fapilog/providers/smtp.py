"""
Send alerts by email, through a mail server that takes it from there.

Needs no extra.
"""

from __future__ import annotations

import html
import quopri
import re
import ssl
from collections.abc import Mapping, Sequence
from email import policy
from email.header import Header
from email.utils import formatdate
from typing import Final, Literal

import anyio

from ..core.alerting import Alert
from ..core.partial import PartialDelivery
from ..record.errors import BrokenRouteError, PermanentDeliveryError
from ..record.events import AuditEvent
from ..record.options import require, require_kind_or_none, require_text, several
from ..record.privacy import Uncopied, without_frames
from ..record.values import text
from ..tasks.strangers import Log
from ._rendering import Disclosure, Rendered, Renderer, clean, cut, dedup_key, fit, in_words, least, one_line
from ._secret import Secret, SecretSource, check_printable, is_loopback
from ._smtp_client import Answers, Login, PasswordLogin, Server, Session, TokenLogin
from ._threads import in_daemon_thread

__all__ = ["EmailDispatcher"]

_log: Final = Log("fapilog.providers")

_PORTS: Final = {"starttls": 587, "implicit": 465, "none": 25}
# Bytes of the fields; with both parts, their markup and their encoding, in which a byte becomes six, a mail is under
# 110 kB.
_MAX_BYTES: Final = 15_000
# RFC 5322, 2.1.1: a line should be no longer than 78 characters; readers show less of a subject.
_MAX_SUBJECT: Final = 150
# RFC 5321, 4.5.3.1.3, less the angle brackets.
_MAX_ADDRESS: Final = 254
# The part of RFC 5321, 4.1.2, that is in use: no quotes, no spaces, no address literals, ASCII.
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


class EmailDispatcher(Uncopied):
    """
    Sends every alert as one mail, in plain text and in HTML, to all recipients.

    Returning means that the server has taken it for every recipient (250), and so the duty to deliver it or to send a
    report of failure to *sender* (RFC 5321, 6.1); it need not have been read.

    If the server takes only some recipients, one error is raised that names both kinds, and when the same dispatcher is
    called again for the event, the mail goes only to the recipients that lack it. ``Message-ID`` is the same for the
    same event, sender and recipients, whenever and by whichever process it is sent: many mailboxes show such a mail
    once. If the server's answer to the whole mail is lost, that is an `AmbiguousDeliveryError`.

    A refusal for now, as 4yz, by its enhanced status code or by a quota, is a `TransientDeliveryError`; a refusal for
    good is a `BrokenRouteError`. A mail that may be refused for its content is sent once more, with the event type and
    the place in the trail alone.

    Args:
        host: The name of your own mail server, which takes mail for any recipient; not the recipients' server.
        port: None is 587 for "starttls", 465 for "implicit", 25 for "none".
        sender: The address that it comes from, and that failures are reported to.
        recipients: The addresses that it goes to; every recipient sees all addresses.
        username: The name to log in with; None does not log in.
        password: The password to log in with; ASCII.
        token: An OAuth 2.0 access token to log in with in the place of a password, by XOAUTH2 or OAUTHBEARER. A
            function that returns it is called for every connection, in a thread: it may ask another server for it.
        tls: "starttls" asks the server to encrypt, and sends nothing if it can't; "implicit" encrypts from the start;
            "none" does not, and logs in only on this machine.
        tls_context: A TLS context with your certificates; None trusts the system's.
        disclosure: How much of an event is sent.
        link: The way to a record, for example ``https://audit.example.com/{event_id}``.
        timeout: Seconds for one attempt, from the name of the server to its answer.

    Raises:
        TypeError: An option is not of its type.
        ValueError: An option is not valid. No secret is in the message.
    """

    @without_frames
    def __init__(
        self,
        *,
        host: str,
        port: int | None = None,
        sender: str,
        recipients: str | Sequence[str],
        username: SecretSource | None = None,
        password: SecretSource | None = None,
        token: SecretSource | None = None,
        tls: Literal["starttls", "implicit", "none"] = "starttls",
        tls_context: ssl.SSLContext | None = None,
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9.:_-]+", require_text("host", host, expected="the name of a mail server")):
            raise ValueError(f"host: expected the name of a mail server; got {host!r}")
        if tls not in list(_PORTS):
            raise ValueError(f"tls: expected one of {', '.join(_PORTS)}; got {tls!r}")
        recipients = several("recipients", recipients)
        if not recipients:
            raise ValueError("recipients: expected at least one address; got none")
        for name, address in (("sender", sender), *(("recipients", each) for each in recipients)):
            require_text(name, address, expected="an address such as ops@example.com")
            if len(address) > _MAX_ADDRESS or not _ADDRESS.fullmatch(address):
                raise ValueError(f"{name}: expected an address such as ops@example.com, in ASCII; got {address!r}")
        if (username is None) != (password is None and token is None):
            got = "no username" if username is None else "a username alone"
            raise ValueError(
                f"username, password, token: expected a username with a password or a token, or none of them; got {got}"
            )
        if password is not None and token is not None:
            raise ValueError("password, token: expected one of them, not both")
        require_kind_or_none("tls_context", tls_context, ssl.SSLContext, expected="an ssl.SSLContext")
        if tls_context is not None and tls == "none":
            raise ValueError("tls_context: expected starttls or implicit as tls; got none, which does not encrypt")
        if username is not None and tls == "none" and not is_loopback(host):
            raise ValueError("tls: expected starttls or implicit, since a secret would be sent in the clear")
        self._server = Server(
            host=host,
            port=_PORTS[tls] if port is None else require("port", port, at_least=1, at_most=65_535, whole=True),
            tls=tls,
            context=tls_context,
            domain=sender.rpartition("@")[2],
            timeout=require("timeout", timeout, above=0),
        )
        self._sender = sender
        # In order, without duplicates.
        self._recipients = tuple(dict.fromkeys(recipients))
        self._addresses = _header("From", sender) + _header("To", ", ".join(self._recipients))
        # smtplib sends ASCII alone; it would raise with the password in its text.
        self._username = None if username is None else Secret(username, "username", check=_ascii)
        self._password = None if password is None else Secret(password, "password", check=_ascii)
        self._token = None if token is None else Secret(token, "token", check=check_printable)
        self._render = Renderer(disclosure, link)
        self._partial = PartialDelivery("smtp", "recipients")

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Send the mail once to every recipient that lacks it; once more with less in it if that is refused."""
        alert = Alert(event, severity, channel)
        lacking = self._partial.receivers_without(alert, range(len(self._recipients)))
        whole = self._render(event, severity)
        answers = dict(await self._send(lacking, alert, whole))
        refused = [number for number, error in answers.items() if type(error) is PermanentDeliveryError]
        if refused:
            answers |= await self._send_less(refused, alert, whole, str(answers[refused[0]]))
        failures = {number: error for number, error in answers.items() if error is not None}
        for number in answers.keys() - failures.keys():
            self._partial.delivered(alert, number)
        self._partial.finish(alert, failures, len(self._recipients))

    async def _send_less(self, numbers: Sequence[int], alert: Alert, whole: Rendered, refusal: str) -> Answers:
        """Send the least of a mail that was refused for its content: filters dislike the words of attacks."""
        less = least(alert.event, alert.severity)
        if less == whole:
            return dict.fromkeys(numbers, BrokenRouteError(refusal))
        answers = await self._send(numbers, alert, less)
        if None in answers.values():
            _log.warning("%s; the mail that was taken has only the event type and the place in the trail", refusal)
        # With nothing in it to dislike, any mail would be refused.
        again = BrokenRouteError(f"{refusal}; with less in it, it was refused again")
        return {number: again if type(error) is PermanentDeliveryError else error for number, error in answers.items()}

    async def _send(self, numbers: Sequence[int], alert: Alert, rendered: Rendered) -> Answers:
        content = self._content(rendered, self._message_id(alert.event), alert.channel)
        session = Session(self._server, self._login(), {number: self._recipients[number] for number in numbers})
        try:
            with anyio.move_on_after(self._server.timeout):
                await in_daemon_thread("smtp", lambda: session.run(self._sender, content))
        finally:
            session.abandon()
        return session.answers(f"not within {self._server.timeout:g} s")

    def _login(self) -> Login | None:
        if self._username is None:
            return None
        if self._token is not None:
            return TokenLogin(self._username.reveal(), self._token, self._server)
        assert self._password is not None  # noqa: S101  checked by the constructor
        return PasswordLogin(self._username.reveal(), self._password.reveal())

    def _message_id(self, event: AuditEvent) -> str:
        key = dedup_key(event.event_id, self._sender, *self._recipients)
        return f"<{key}@{self._server.domain}>"

    def _content(self, rendered: Rendered, message_id: str, channel: str | None) -> bytes:
        """Return the mail as it is sent, but for the dots."""
        details = {**rendered.details, **({"channel": text(channel)} if channel else {})}
        # Cleaned first: a control becomes nine characters in a mail.
        rows = fit(
            {name: clean(value) if name == "message" else one_line(in_words(value)) for name, value in details.items()},
            _MAX_BYTES,
        )
        message = rows.pop("message", "")
        title = one_line(text(rendered.title))
        # Readers decode "=?...?=": an event could hide words in it, and line ends.
        subject = cut(title, "subject", max_characters=_MAX_SUBJECT).replace("=?", "= ?")
        mail = _MAIL.format(
            subject=Header(subject, header_name="Subject").encode(),
            addresses=self._addresses,
            date=formatdate(),
            message_id=message_id,
            plain=_quoted(_plain(title, message, rendered.link, rows)),
            html=_quoted(_html(title, message, rendered.link, rows)),
        )
        return mail.replace("\n", "\r\n").encode("ascii")


# `EmailMessage` takes twenty times as long for the same, since it parses every header, and folds it, several times. The
# boundary is in no part: quoted-printable text can't have "=_" in it (RFC 2045, 6.7). "Auto-Submitted" keeps absent
# recipients from answering the mail automatically (RFC 3834).
_MAIL: Final = """\
Subject: {subject}
{addresses}\
Date: {date}
Message-ID: {message_id}
Auto-Submitted: auto-generated
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="=_fapilog"

--=_fapilog
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: quoted-printable

{plain}
--=_fapilog
Content-Type: text/html; charset="utf-8"
Content-Transfer-Encoding: quoted-printable

{html}
--=_fapilog--
"""


def _header(name: str, value: str) -> str:
    folded: str = policy.default.fold(*policy.default.header_store_parse(name, value))
    return folded


def _quoted(words: str) -> str:
    return quopri.encodestring(words.encode()).decode("ascii")


def _plain(title: str, message: str, link: str | None, rows: Mapping[str, str]) -> str:
    width = max(map(len, rows))
    table = "\n".join(f"{name:<{width}}  {words}" for name, words in rows.items())
    return "\n\n".join(filter(None, (title, message, link, table))) + "\n"


def _html(title: str, message: str, link: str | None, rows: Mapping[str, str]) -> str:
    parts = [f"<h3>{html.escape(title)}</h3>"]
    if message:
        parts.append(f'<p style="white-space: pre-wrap">{html.escape(message, quote=False)}</p>')
    if link:
        parts.append(f'<p><a href="{html.escape(link)}">{html.escape(link)}</a></p>')
    table = "".join(
        f"<tr><td>{name}</td><td>{html.escape(words, quote=False)}</td></tr>\n" for name, words in rows.items()
    )
    return "\n".join(["<!doctype html>", '<meta charset="utf-8">', *parts, f"<table>\n{table}</table>", ""])


def _ascii(value: str) -> str | None:
    return None if value.isascii() else "ASCII"
