"""
Send alerts by email, through a mail server that takes it from there.

Needs no extra.
"""

from __future__ import annotations

import functools
import html
import quopri
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from email import policy
from email.header import Header
from email.utils import formatdate
from typing import Final, Literal

import anyio
import anyio.to_thread

from ..core.alerting import Alert
from ..core.partial import PartialDelivery
from ..record.errors import AmbiguousDeliveryError, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from ..record.events import AuditEvent
from ..record.options import require
from ..record.privacy import Uncopied, without_frames
from ..record.values import text
from ._rendering import Disclosure, Rendered, Renderer, clean, cut, dedup_key, fit, in_words, one_line
from ._secret import Secret, SecretSource, is_loopback

__all__ = ["EmailDispatcher"]

_PORTS: Final = {"starttls": 587, "implicit": 465, "none": 25}
# Of the fields; with both parts, their markup and their encoding, in which a byte becomes six, a mail is under 110 kB.
_MAX_BYTES: Final = 15_000
# RFC 5322, 2.1.1: a line should be no longer than 78 characters; readers show less of a subject.
_MAX_SUBJECT: Final = 150
# RFC 5321, 4.5.3.1.3, less the angle brackets.
_MAX_ADDRESS: Final = 254
# Of RFC 5321, 4.1.2, what is in use: no quotes, no spaces, no address literals, ASCII.
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*")


class EmailDispatcher(Uncopied):
    """
    Sends each alert as one mail, in plain text and in HTML, to all recipients.

    Returning means that the server has taken it for every recipient (250), and so the duty to deliver it or to send a
    report of failure to *sender* (RFC 5321, 6.1); nobody need have seen it.

    If the server takes some recipients and refuses others, one error is raised that tells of both, and when the same
    dispatcher is called again for the event, the mail goes only to those that lack it. ``Message-ID`` is the same for
    the same event, sender and recipients, whenever and by whichever process it is sent: many mailboxes show such a mail
    once. Where the server's answer to the whole mail is lost, nobody knows; that is an `AmbiguousDeliveryError`.

    Args:
        host: The name of the mail server: one that takes mail of your own for anyone, not the recipients'.
        port: None is 587 for "starttls", 465 for "implicit", 25 for "none".
        sender: The address that it comes from, and that failures are reported to.
        recipients: The addresses that it goes to; each sees the others.
        username: To log in with; None does not log in.
        password: To log in with; ASCII.
        tls: "starttls" asks the server to encrypt, and sends nothing if it can't; "implicit" encrypts from the start;
            "none" does not, and logs in only on this machine.
        tls_context: With your certificates; None trusts those of the system.
        disclosure: How much of an event is sent.
        link: The way to a record, for example ``https://audit.example.com/{event_id}``.
        timeout: Seconds for one attempt.

    Raises:
        ValueError: An option is not valid. No secret is in the message.
    """

    @without_frames
    def __init__(
        self,
        *,
        host: str,
        port: int | None = None,
        sender: str,
        recipients: Sequence[str],
        username: SecretSource | None = None,
        password: SecretSource | None = None,
        tls: Literal["starttls", "implicit", "none"] = "starttls",
        tls_context: ssl.SSLContext | None = None,
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        if not host or not re.fullmatch(r"[A-Za-z0-9.:_-]+", host):
            raise ValueError(f"host: expected the name of a mail server; got {host!r}")
        if tls not in _PORTS:
            raise ValueError(f"tls: expected one of {', '.join(_PORTS)}; got {tls!r}")
        if isinstance(recipients, str) or not recipients:
            raise ValueError("recipients: expected a list of at least one address")
        for name, address in (("sender", sender), *(("recipients", each) for each in recipients)):
            if len(address) > _MAX_ADDRESS or not _ADDRESS.fullmatch(address):
                raise ValueError(f"{name}: expected an address such as ops@example.com, in ASCII; got {address!r}")
        if (username is None) != (password is None):
            raise ValueError("username, password: expected both or neither")
        if username is not None and tls == "none" and not is_loopback(host):
            raise ValueError("tls: expected starttls or implicit, since a password would be sent in the clear")
        self._host = host
        self._port = _PORTS[tls] if port is None else require("port", port, at_least=1, at_most=65_535)
        self._sender = sender
        # In order, without those that are there twice.
        self._recipients = tuple(dict.fromkeys(recipients))
        self._addresses = _header("From", sender) + _header("To", ", ".join(self._recipients))
        # smtplib sends ASCII alone; it would raise with the password in its text.
        self._username = None if username is None else Secret(username, "username", check=_ascii)
        self._password = None if password is None else Secret(password, "password", check=_ascii)
        self._tls = tls
        self._tls_context = tls_context
        self._render = Renderer(disclosure, link)
        self._timeout = require("timeout", timeout, above=0)
        self._partial = PartialDelivery("smtp", "recipients")

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Send the mail once to each recipient that lacks it."""
        alert = Alert(event, severity, channel)
        content = self._content(self._render(event, severity), self._message_id(event), channel)
        lacking = self._partial.receivers_without(alert, range(len(self._recipients)))
        answers = await self._send({number: self._recipients[number] for number in lacking}, content)
        failures = {number: error for number, error in answers.items() if error is not None}
        for number in answers.keys() - failures.keys():
            self._partial.delivered(alert, number)
        self._partial.finish(alert, failures, len(self._recipients))

    async def _send(self, recipients: Mapping[int, str], content: bytes) -> _Answers:
        login = None
        if self._username is not None and self._password is not None:
            login = self._username.reveal(), self._password.reveal()
        session = _Session(recipients)
        # Not this machine's name, which may not leave, and takes a while to be found.
        domain = self._sender.rpartition("@")[2]
        address = self._host, self._port, domain, self._timeout
        connect = functools.partial(_connect, self._tls, self._tls_context, address)
        try:
            with anyio.move_on_after(self._timeout):
                await anyio.to_thread.run_sync(
                    session.run, connect, login, self._sender, content, abandon_on_cancel=True
                )
        finally:
            session.abandon()
        return session.answers(f"not within {self._timeout:g} s")

    def _message_id(self, event: AuditEvent) -> str:
        key = dedup_key(event.event_id, self._sender, *self._recipients)
        return f"<{key}@{self._sender.rpartition('@')[2]}>"

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


# `EmailMessage` takes twenty times as long for the same, since it parses each header, and folds it, several times. The
# boundary is in no part: quoted-printable text can't have "=_" in it (RFC 2045, 6.7). "Auto-Submitted" keeps the mail
# from being answered by who is absent (RFC 3834).
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


# Replies, and the kinds of them: RFC 5321, 4.2.
_OK: Final = 250
_START_MAIL: Final = 354
_TRANSIENT: Final = 4
_PERMANENT: Final = 5
_KINDS: Final = {2, 3, _TRANSIENT, _PERMANENT}

_Answers = Mapping[int, DeliveryError | None]


class _Session:
    """One talk with the server, in a thread that may be left behind: then nothing more is sent."""

    def __init__(self, recipients: Mapping[int, str]) -> None:
        self._recipients = recipients
        self._lock = threading.Lock()
        self._smtp: smtplib.SMTP | None = None
        self._abandoned = False
        self._sent = False
        self._refusals: dict[int, DeliveryError | None] = {}
        self._answers: _Answers | None = None

    def abandon(self) -> None:
        """Let the thread end, and send nothing that has not begun to be sent."""
        with self._lock:
            self._abandoned = True
            sock = self._smtp and self._smtp.sock
        if sock:
            with suppress(OSError):
                # What TLS would do here is not for two threads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def answers(self, otherwise: str) -> _Answers:
        """Return for each recipient why it lacks the mail, or None; *otherwise* tells why nobody knows."""
        with self._lock:
            if self._answers is not None:
                return self._answers
            failure = (
                _lost(otherwise) if self._sent else TransientDeliveryError(f"smtp: nothing was sent ({otherwise})")
            )
            return self._failed(failure)

    def run(
        self, connect: Callable[[], smtplib.SMTP], login: tuple[str, str] | None, sender: str, content: bytes
    ) -> None:
        """Send *content*."""
        try:
            with closing(connect()) as smtp:
                self._smtp = smtp
                smtp.ehlo_or_helo_if_needed()
                if login is not None:
                    smtp.login(*login)
                _expect(_OK, smtp.mail(sender), "MAIL", "check the sender, and whether it has to log in")
                for number, recipient in self._recipients.items():
                    self._refusals[number] = _refusal(_OK, smtp.rcpt(recipient), "RCPT", "check the address")
                if None in self._refusals.values():
                    self._data(smtp, content)
                self._settle(self._refusals)
                # What becomes of the connection now changes nothing. An SMTPException is an OSError.
                with suppress(OSError):
                    smtp.quit()
        except DeliveryError as error:
            failure = error
        except Exception as error:
            failure = _translated(error)
        else:
            return
        self._settle(self._failed(failure))

    def _failed(self, failure: DeliveryError) -> _Answers:
        """Return *failure* for each recipient that was not refused already."""
        return {number: self._refusals.get(number) or failure for number in self._recipients}

    def _settle(self, answers: _Answers) -> None:
        with self._lock:
            if self._answers is None:
                self._answers = answers

    def _data(self, smtp: smtplib.SMTP, content: bytes) -> None:
        _expect(_START_MAIL, smtp.docmd("DATA"), "DATA", "check the options, and report it if they are right")
        with self._lock:
            if self._abandoned:
                raise TransientDeliveryError("smtp: nothing was sent (cancelled)")
            self._sent = True
        # RFC 5321, 4.5.2. If this fails, the final dot is not out, and the server drops the mail.
        smtp.send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
        try:
            reply = smtp.getreply()
        except OSError:
            reply = (-1, b"")
        if reply[0] // 100 not in _KINDS:
            raise _lost("the connection was lost")
        _expect(_OK, reply, "the mail", "check the options, and what the server's log says of it")


def _connect(tls: str, context: ssl.SSLContext | None, address: tuple[str, int, str, float]) -> smtplib.SMTP:
    host, port, domain, timeout = address
    if tls == "implicit":
        return smtplib.SMTP_SSL(host, port, domain, timeout=timeout, context=context or ssl.create_default_context())
    smtp = smtplib.SMTP(host, port, domain, timeout)
    try:
        if tls == "starttls":
            smtp.starttls(context=context or ssl.create_default_context())
    except BaseException:
        smtp.close()
        raise
    return smtp


def _lost(why: str) -> AmbiguousDeliveryError:
    return AmbiguousDeliveryError(f"smtp: sent, but there was no answer ({why})")


def _refusal(expected: int, reply: tuple[int, bytes], what: str, advice: str) -> DeliveryError | None:
    """Return what *reply* means if its kind is not the expected one: RFC 5321, 4.2.1. Its text may repeat anything."""
    kind = reply[0] // 100
    if kind == expected // 100:
        return None
    if kind == _PERMANENT:
        return PermanentDeliveryError(f"smtp: {what} was refused for good (status {reply[0]}); {advice}")
    if kind == _TRANSIENT:
        return TransientDeliveryError(f"smtp: {what} was refused for now (status {reply[0]})")
    return TransientDeliveryError(f"smtp: {what} was answered as no mail server answers; check host and port")


def _expect(expected: int, reply: tuple[int, bytes], what: str, advice: str) -> None:
    refusal = _refusal(expected, reply, what, advice)
    if refusal is not None:
        raise refusal


def _translated(error: Exception) -> DeliveryError:
    """Return what *error* of smtplib, ssl or socket means before the mail was sent, in words that give nothing away."""
    name = type(error).__name__
    match error:
        case smtplib.SMTPAuthenticationError(smtp_code=int(code)) if code // 100 == _PERMANENT:
            words = f"the login was refused for good (status {code}); check username and password"
        case smtplib.SMTPResponseException(smtp_code=int(code)) if code // 100 == _PERMANENT:
            words = f"the server refuses to talk (status {code}); check the host"
        case smtplib.SMTPResponseException(smtp_code=int(code)):
            return TransientDeliveryError(f"smtp: the server refuses to talk for now (status {code})")
        case smtplib.SMTPNotSupportedError():
            words = "the server offers no STARTTLS, or no login; check tls, port and username"
        case smtplib.SMTPException() if type(error) is smtplib.SMTPException:
            words = "the server offers no way to log in that is known here"
        case OSError():
            return TransientDeliveryError(f"smtp: no connection, or it was lost before the mail was sent ({name})")
        case _:
            words = f"the mail can't be sent ({name})"
    return PermanentDeliveryError(f"smtp: {words}")


def _ascii(value: str) -> str | None:
    return None if value.isascii() else "ASCII"
