"""
The meaning of a mail server's replies, and of the errors on the way to it, in words that hold no secret.

The words of a reply may repeat a password, an address or the mail, so errors name only the codes.
"""

from __future__ import annotations

import re
import smtplib
from typing import Final

from ..record.errors import BrokenRouteError, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from ._causes import cause_of

__all__ = ["REPLY_KINDS", "refusal", "translated"]

_TRANSIENT: Final = 4
_PERMANENT: Final = 5
# The first digit of a reply: RFC 5321, 4.2.1.
REPLY_KINDS: Final = {2, 3, _TRANSIENT, _PERMANENT}

# The enhanced status code (RFC 2034, 3) begins the text of a reply.
_ENHANCED: Final = re.compile(rb"([245])\.(\d{1,3}\.\d{1,3})(?!\S)")

# Refusals with 5yz that pass by themselves, by the subject and detail of the enhanced status code:
_PASSING: Final = {
    # "Mailbox full ... should be used as a persistent transient failure": RFC 3463, 3.3.
    "2.2",
    # The mail system as a whole is full, busy, closed or wrongly set up: RFC 3463, 3.4. Not 3.4, the mail is too big.
    "3.0",
    "3.1",
    "3.2",
    "3.3",
    "3.5",
    # "Useful only as a persistent transient error": RFC 3463, 3.5. Gmail says "550 5.4.5 Daily user sending limit
    # exceeded": https://support.google.com/a/answer/3726730. Not 4.1, with which Exchange Online refuses a recipient
    # that does not exist.
    "4.2",
    "4.3",
    "4.5",
    "4.7",
    # "Too many recipients ... should normally result in the segmentation of the message": RFC 3463, 3.6. A retry goes
    # to the recipients that were too many.
    "5.3",
    # "Mail flood detected": https://www.iana.org/assignments/smtp-enhanced-status-codes (RFC 5248); Gmail's unusual
    # rate of mail, https://support.google.com/a/answer/3726730.
    "7.28",
    # Hourly and daily limits of recipients, senders and tenants of Exchange Online:
    # https://learn.microsoft.com/exchange/troubleshoot/email-delivery/ndr/non-delivery-reports-in-exchange-online
    "1.90",
    "2.121",
    "2.122",
    "7.232",
    "7.233",
    "7.236",
}
# Such refusals in words, by servers that have no code for them, or a general one: Exchange Online's "554 5.2.0 ...
# SubmissionQuotaExceededException" (the page above), Postfix policies' "554 5.7.1 Quota exceeded", Exim's "550 exceeded
# the max emails per hour", RFC 5321's own "try again later".
_SLOW_DOWN: Final = re.compile(
    rb"quota|rate.?limit|(hourly|daily|sending) [^.]{0,30}limit|per (minute|hour|day)"
    rb"|too many (e-?mails|mails|messages|connections)|(try|send) (it )?again later",
    re.IGNORECASE,
)
_TOO_BIG: Final = "3.4"

# Replies about the sender, which a server may also give after the mail: RFC 4954, 6, and by enhanced status code the
# sender's address (RFC 3463, 3.2), the credentials (the registry above), and the addresses that Exchange Online's users
# may send as (its page above).
_LOG_IN: Final = {530, 534, 535, 538}
_SENDER: Final = {"1.7", "1.8", "7.8", "7.9", "7.11", "7.12", "7.13", "7.14", "7.57", "7.60", "2.252"}


def refusal(
    expected: int, code: int, text: bytes, what: str, advice: str, *, of_content: bool = False
) -> DeliveryError | None:
    """
    Return the error that a reply means, or None if its first digit is the expected one.

    Args:
        expected: A code of the kind that means success.
        code: The code of the reply; -1 if it was none.
        text: The words of the reply; only its enhanced status code is repeated.
        what: The command, or the part of the talk, that was answered: "MAIL".
        advice: The advice for a refusal for good.
        of_content: Whether the server has seen the mail, so that a refusal may be about the mail. Otherwise a refusal
            for good would meet any mail, which is a `BrokenRouteError`.
    """
    kind = code // 100
    if kind == expected // 100:
        return None
    found = _ENHANCED.match(text)
    detail = found[2].decode() if found else ""
    seen = f"status {code}{f' {found[0].decode()}' if found else ''}"
    if kind == _TRANSIENT:
        return TransientDeliveryError(f"smtp: {what} was refused for now ({seen})")
    if kind != _PERMANENT:
        return TransientDeliveryError(f"smtp: {what} was answered as no mail server answers; check host and port")
    if detail in _PASSING or (detail != _TOO_BIG and _SLOW_DOWN.search(text)):
        return TransientDeliveryError(f"smtp: {what} was refused for now ({seen}: full, busy, or over a limit)")
    is_mail = of_content and code not in _LOG_IN and detail not in _SENDER
    error = PermanentDeliveryError if is_mail else BrokenRouteError
    return error(f"smtp: {what} was refused for good ({seen}); {advice}")


def translated(error: Exception, doing: str) -> DeliveryError:
    """
    Return the error that *error* of smtplib, ssl or socket means before the mail was sent.

    Args:
        error: The exception.
        doing: The part of the talk that failed: "the login".
    """
    match error:
        case smtplib.SMTPResponseException():
            return _refused(error, doing)
        case smtplib.SMTPException() if type(error) is smtplib.SMTPException:
            return BrokenRouteError("smtp: the server takes no password in a known way; it may want a token")
        case OSError():
            return TransientDeliveryError(f"smtp: no connection ({cause_of(error)}, at {doing})")
        case _:
            return BrokenRouteError(f"smtp: the mail can't be sent ({type(error).__name__} at {doing})")


_ADVICE: Final = {
    "the login": "check username, and password or token",
    "STARTTLS": "check tls and port",
}


def _refused(error: smtplib.SMTPResponseException, doing: str) -> DeliveryError:
    text = error.smtp_error
    words = text if isinstance(text, bytes) else text.encode(errors="replace")
    advice = _ADVICE.get(doing, "check host and port")
    failure = refusal(250, error.smtp_code, words, doing, advice)
    # smtplib raises it for any reply that it did not expect, such as a 250 where 235 was due.
    return failure or TransientDeliveryError(f"smtp: {doing} was answered as no mail server answers; {advice}")
