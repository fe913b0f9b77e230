"""Why there is no connection, in words for the operator who has to mend it, without an address or a secret."""

from __future__ import annotations

import errno
import socket
import ssl
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import anyio

from ..record.privacy import behind

__all__ = ["cause_of", "waited_for"]


def cause_of(error: BaseException, handled: BaseException | None = None) -> str:
    """
    Return the cause of an error of the network, by the types and codes of the errors that led to it.

    An error without a known cause is named by its type: its text may hold an address.

    Args:
        error: The exception of the request, or of the talk.
        handled: The error that the caller was handling before, which Python chains to all later ones, and which is not
            the cause: a service logs an event just when its database has refused a connection.
    """
    # httpcore2 wraps the error of the socket, and raises the wrapper "from None".
    for each in behind(error, handled):
        words = _words(each)
        if words is not None:
            return words
    return type(error).__name__


async def waited_for(cancelled: BaseException, seconds: float) -> str:
    """
    Return the step that took more than *seconds*, by where *cancelled*, a cancellation, ended the wait.

    A connection on which TLS did not begin is closed: httpcore2 leaves it open when it is cancelled there.
    """
    # `start_tls` is a name of httpcore2's interface for streams. Its extension "trace" would show the same, at 3 % of
    # the time of every request.
    frames = [frame for frame, _ in traceback.walk_tb(cancelled.__traceback__) if frame.f_code.co_name == "start_tls"]
    with anyio.CancelScope(shield=True):
        for frame in frames:
            # Of a client that was given, it may be anything.
            with suppress(Exception):
                await frame.f_locals["self"].aclose()
    return f"{'connected, but TLS did not begin' if frames else 'not'} within {seconds:g} s"


def _words(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        code = getattr(error, "verify_code", 0)
        return _CERTIFICATE.get(code, f"the certificate is not accepted, code {code} of OpenSSL")
    if isinstance(error, ssl.SSLError):
        # The name of OpenSSL's reason, such as TLSV1_ALERT_PROTOCOL_VERSION, and not its text. An error that other code
        # raised has none.
        reason = getattr(error, "reason", None)
        if reason in _NO_TLS:
            return "the other side does not speak TLS; check the port"
        is_closed = isinstance(error, ssl.SSLEOFError) or not reason
        return "the connection was closed" if is_closed else f"TLS failed with {reason}"
    if isinstance(error, OSError) and error.errno in _NO_WAY:
        return "there is no way to the host"
    return next((words for kind, words in _BY_TYPE.items() if isinstance(error, kind)), None)


_BY_TYPE: Final[Mapping[type[Exception], str]] = {
    socket.gaierror: "the name of the host does not resolve",
    ConnectionRefusedError: "the connection was refused; nothing listens at the port",
    ConnectionError: "the connection was reset",
    TimeoutError: "no answer in time",
}
_NO_WAY: Final = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}
# OpenSSL's reasons for an answer in clear text.
_NO_TLS: Final = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"}
_NOT_TRUSTED: Final = "the certificate is not trusted; set SSL_CERT_FILE to the certificates of its authority"
_OTHER_NAME: Final = "the certificate is for another name"
# https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
_CERTIFICATE: Final = {
    2: _NOT_TRUSTED,
    9: "the certificate is not valid yet; check the clock",
    10: "the certificate has expired",
    18: _NOT_TRUSTED,
    19: _NOT_TRUSTED,
    20: _NOT_TRUSTED,
    21: _NOT_TRUSTED,
    23: "the certificate was revoked",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
