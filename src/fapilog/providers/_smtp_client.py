"""One talk with a mail server, in a thread that may be left behind at any moment."""

from __future__ import annotations

import re
import selectors
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from itertools import chain, zip_longest
from typing import IO, Any, Final, NamedTuple

from ..record.errors import AmbiguousDeliveryError, BrokenRouteError, DeliveryError, TransientDeliveryError
from ._secret import Secret
from ._smtp_replies import REPLY_KINDS, refusal, translated

__all__ = ["Answers", "Login", "PasswordLogin", "Server", "Session", "TokenLogin"]

# RFC 5321, 4.2.
_OK: Final = 250
_START_MAIL: Final = 354
# Seconds. RFC 8305, 5: the recommended delay between the attempts to connect.
_NEXT_ADDRESS_AFTER: Final = 0.25
# Seconds that a server has to answer QUIT, which an alert that has arrived waits for.
_GOODBYE: Final = 2.0
# Bytes. A reply has a line of 512 for everything that the server can do: RFC 5321, 4.5.3.1.5.
_LONGEST_REPLY: Final = 2**18

Answers = Mapping[int, DeliveryError | None]
"""By the numbers of the recipients, the reason why a recipient lacks the mail, or None."""


class Server(NamedTuple):
    """
    A mail server, and how to talk to it.

    Attributes:
        host: Its name or address.
        port: Its port.
        tls: "starttls", "implicit" or "none".
        context: The TLS context with the certificates; None trusts the system's.
        domain: Our name in EHLO. Not this machine's, which may not leave, and takes a while to be found.
        timeout: Seconds for the whole talk, after which its task has to abandon it.
    """

    host: str
    port: int
    tls: str
    context: ssl.SSLContext | None
    domain: str
    timeout: float


Login = Callable[[smtplib.SMTP], None]
"""Logs in, or raises. An object without a `repr` of its own, since it holds secrets."""


class PasswordLogin:
    """Logs in with a password, in the best way that the server offers."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._password = password

    def __call__(self, smtp: smtplib.SMTP) -> None:
        smtp.login(self._username, self._password)


class TokenLogin:
    """Logs in with an OAuth 2.0 access token, by XOAUTH2 or OAUTHBEARER."""

    def __init__(self, username: str, token: Secret, server: Server) -> None:
        self._username = username
        self._place = f"host={server.host}\1port={server.port}"
        self._token = token

    def __call__(self, smtp: smtplib.SMTP) -> None:
        offered = smtp.esmtp_features["auth"].upper().split()
        if "XOAUTH2" in offered:
            smtp.auth("XOAUTH2", self._xoauth2)
        elif "OAUTHBEARER" in offered:
            smtp.auth("OAUTHBEARER", self._oauthbearer)
        else:
            raise BrokenRouteError("smtp: the server takes no token (XOAUTH2, OAUTHBEARER); log in with a password")

    # smtplib asks once without a challenge. A challenge is the server's reason to refuse the token, which it says with
    # 535 only when that has been answered.

    def _xoauth2(self, challenge: bytes | None = None) -> str:
        # https://developers.google.com/gmail/imap/xoauth2-protocol
        return f"user={self._username}\1auth=Bearer {self._token.reveal()}\1\1" if challenge is None else ""

    def _oauthbearer(self, challenge: bytes | None = None) -> str:
        if challenge is not None:
            # RFC 7628, 3.2.3.
            return "\1"
        # RFC 7628, 3.1, with the name as in RFC 5801, 4.
        name = self._username.replace("=", "=3D").replace(",", "=2C")
        return f"n,a={name},\1{self._place}\1auth=Bearer {self._token.reveal()}\1\1"


class Session:
    """
    One talk with a mail server: `run` in a thread, `abandon` and `answers` in the task that waits for it.

    Args:
        server: The server to talk to.
        login: Logs in; None does not log in.
        recipients: The addresses to send to, by their numbers.
    """

    def __init__(self, server: Server, login: Login | None, recipients: Mapping[int, str]) -> None:
        self.server = server
        self._login = login
        self._recipients = recipients
        self._lock = threading.Lock()
        # A second handle of the connection, since TLS may take the first one over.
        self._lever: socket.socket | None = None
        self._abandoned = False
        self._sent = False
        self._doing = "the name of the server"
        self._refusals: dict[int, DeliveryError | None] = {}
        self._answers: Answers | None = None

    def abandon(self) -> None:
        """Let the thread end, and send nothing that has not begun to be sent."""
        with self._lock:
            self._abandoned = True
            if self._lever is not None:
                # Wakes the thread: it reads the end of the connection.
                with suppress(OSError):
                    self._lever.shutdown(socket.SHUT_RDWR)

    def answers(self, otherwise: str) -> Answers:
        """Return for all recipients why they lack the mail, or None; *otherwise* says why there is no answer yet."""
        with self._lock:
            if self._answers is not None:
                return self._answers
            if self._sent:
                return self._failed(_lost(otherwise))
            return self._failed(TransientDeliveryError(f"smtp: nothing was sent ({otherwise}, at {self._doing})"))

    def run(self, sender: str, content: bytes) -> None:
        """Send *content*, and raise nothing but `SystemExit` and `KeyboardInterrupt` of a function that is called."""
        try:
            with closing(_Connection(self)) as smtp:
                self._talk(smtp, sender, content)
        except DeliveryError as error:
            failure = error
        except Exception as error:
            failure = translated(error, self._doing)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # A function that returns a token may raise anything: a panic of an extension in Rust is no `Exception`.
            failure = TransientDeliveryError(f"smtp: nothing was sent ({type(error).__name__} at {self._doing})")
        else:
            return
        finally:
            with self._lock:
                if self._lever is not None:
                    self._lever.close()
                    self._lever = None
        # Left behind, the thread saw the end of a connection that we have closed ourselves.
        if not self._abandoned:
            self._settle(self._failed(failure))

    def _talk(self, smtp: smtplib.SMTP, sender: str, content: bytes) -> None:
        self._doing = "EHLO"
        smtp.ehlo_or_helo_if_needed()
        if self.server.tls == "starttls":
            self._doing = "STARTTLS"
            if not smtp.has_extn("starttls"):
                raise BrokenRouteError("smtp: the server offers no TLS (STARTTLS); check tls and port")
            smtp.starttls(context=self._context())
            smtp.ehlo_or_helo_if_needed()
        if self._login is not None:
            self._doing = "the login"
            if not smtp.esmtp_features.get("auth", "").split():
                raise BrokenRouteError("smtp: the server offers no way to log in; check tls, port and username")
            self._login(smtp)
        self._doing = "MAIL"
        _expect(_OK, smtp.mail(sender), "MAIL", "check the sender, and whether it has to log in")
        self._doing = "RCPT"
        for number, recipient in self._recipients.items():
            self._refusals[number] = refusal(_OK, *smtp.rcpt(recipient), "RCPT", "check the address")
        if None in self._refusals.values():
            self._doing = "DATA"
            self._data(smtp, content)
        self._settle(self._refusals)
        # The mail is answered, so a failure of the connection changes nothing. An SMTPException is an OSError.
        with suppress(OSError):
            if smtp.sock is not None:
                smtp.sock.settimeout(_GOODBYE)
            smtp.quit()

    def _data(self, smtp: smtplib.SMTP, content: bytes) -> None:
        _expect(_START_MAIL, smtp.docmd("DATA"), "DATA", "check the options, and report it if they are right")
        with self._lock:
            self._check()
            self._sent = True
        # RFC 5321, 4.5.2. If this fails, the final dot is not out, and the server drops the mail.
        smtp.send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")
        try:
            code, text = smtp.getreply()
        except (OSError, DeliveryError):
            code, text = -1, b""
        if code // 100 not in REPLY_KINDS:
            raise _lost("the connection was lost")
        advice = "check the options, and the server's log"
        failure = refusal(_OK, code, text, "the mail", advice, of_content=True)
        if failure is not None:
            raise failure

    def _failed(self, failure: DeliveryError) -> Answers:
        """Return the refusals of the recipients, and *failure* for all others."""
        return {number: self._refusals.get(number) or failure for number in self._recipients}

    def _settle(self, answers: Answers) -> None:
        with self._lock:
            if self._answers is None:
                self._answers = answers

    def _context(self) -> ssl.SSLContext:
        return self.server.context or ssl.create_default_context()

    def connect(self) -> socket.socket:
        """Return a connection to the server, with TLS if that comes first."""
        server = self.server
        addresses = _in_turns(socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM))
        self._doing = "the connection"
        connected = _first_connection(addresses, self._check)
        # The task abandons this in time, and names the step that it had reached. The socket's own limit is for a task
        # that is gone. It is so much longer that it is not over first where the machine stood still.
        connected.settimeout(server.timeout + 10.0)
        try:
            with self._lock:
                self._check()
                self._lever = connected.dup()
            if server.tls == "implicit":
                self._doing = "TLS"
                connected = self._context().wrap_socket(connected, server_hostname=server.host)
        except BaseException:
            connected.close()
            raise
        self._doing = "the greeting"
        return connected

    def _check(self) -> None:
        if self._abandoned:
            raise TransientDeliveryError("smtp: nothing was sent (cancelled)")


class _Connection(smtplib.SMTP):
    """An `smtplib.SMTP` that leaves the connecting to its session; smtplib itself tries one address after the other."""

    def __init__(self, session: Session) -> None:
        self._session = session
        server = session.server
        super().__init__(server.host, server.port, server.domain, server.timeout)

    def _get_socket(self, *_: object) -> socket.socket:
        return self._session.connect()

    def getreply(self) -> tuple[int, bytes]:
        """Return the next reply of the server; one without an end would fill the memory."""
        if self.file is None and self.sock is not None:
            self.file = _Replies(self.sock.makefile("rb"))
        if self.file is not None:
            self.file.left = _LONGEST_REPLY
        try:
            return super().getreply()
        except DeliveryError:
            # As smtplib does: a greeting comes while there is no object yet that could be closed.
            self.close()
            raise


class _Replies:
    """The lines of a server's replies, as smtplib reads them; *left* is how much longer a reply may be."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.left = 0

    def readline(self, size: int) -> bytes:
        line = self._file.readline(size)
        self.left -= len(line)
        if self.left < 0:
            # No `OSError`, which smtplib takes for the end of the connection.
            raise TransientDeliveryError("smtp: a reply without an end, as no mail server gives; check host and port")
        return line

    def close(self) -> None:
        self._file.close()


# Of `socket.getaddrinfo`: the family, the type, the protocol, the canonical name and the socket's address.
_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def _in_turns(addresses: Sequence[_Address]) -> list[_Address]:
    """Return *addresses* with the families taking turns, the first one's first: RFC 8305, 4."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]


def _first_connection(addresses: list[_Address], check: Callable[[], None]) -> socket.socket:
    """Return the first connection that any of *addresses* takes (RFC 8305, 5); *check* raises to give up."""
    left = list(addresses)
    failure = OSError()
    next_at = 0.0
    with selectors.DefaultSelector() as running:
        try:
            while left or running.get_map():
                check()
                if left and time.monotonic() >= next_at:
                    next_at = time.monotonic() + _NEXT_ADDRESS_AFTER
                    try:
                        _begin(left.pop(0), running)
                    except OSError as error:
                        failure, next_at = error, 0.0
                        continue
                for key, _ in running.select(_NEXT_ADDRESS_AFTER):
                    running.unregister(key.fileobj)
                    connection: socket.socket = key.data
                    code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        return connection
                    connection.close()
                    failure = OSError(code, "")
                    next_at = 0.0
        finally:
            for key in running.get_map().values():
                key.data.close()
    raise failure


def _begin(address: _Address, running: selectors.BaseSelector) -> None:
    family, kind, protocol, _, place = address
    connection = socket.socket(family, kind, protocol)
    try:
        connection.settimeout(0)
        with suppress(BlockingIOError):
            connection.connect(place)
        running.register(connection, selectors.EVENT_WRITE, connection)
    except BaseException:
        connection.close()
        raise


def _lost(why: str) -> AmbiguousDeliveryError:
    return AmbiguousDeliveryError(f"smtp: sent, but there was no answer ({why})")


def _expect(expected: int, reply: tuple[int, bytes], what: str, advice: str) -> None:
    failure = refusal(expected, *reply, what, advice)
    if failure is not None:
        raise failure
