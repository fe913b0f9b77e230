"""
An answer over HTTP: the reading of its body, and the meaning of its status.

Bodies are read as other clients read them, since servers and gateways pack and label them as they like.
"""

from __future__ import annotations

import codecs
import email.utils
import re
import time
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import httpx2
import msgspec

from ..record.errors import BrokenRouteError, DeliveryError, PermanentDeliveryError, TransientDeliveryError

__all__ = ["MOST_READ", "Answer", "FilteredError", "Judge", "PayloadRefusedError", "by_proxy", "by_status", "unpacked"]

# No vendor answers with more than a few hundred bytes.
_MAX_BODY: Final = 65_536
MOST_READ: Final = _MAX_BODY + 1
"""Bytes of a body that are kept, to see that it is too long."""
# Seconds. "Retry 3 times, 30 seconds apart", PagerDuty's Events API, Rate Limits; other vendors give no number.
_PAUSE_AFTER_429: Final = 30.0


class Answer(NamedTuple):
    """
    The other side's answer.

    Attributes:
        status: For example 200.
        headers: Names, in any case, and values.
        body: The first 64 KiB, unpacked, and without a mark of UTF-8 at its beginning. It may repeat a secret: look for
            words that you know, and print no other.
        whole: Whether *body* is all of the body.
        unreadable: Why *body* is not all of it, although all of it came: "is longer than 64 KiB"; else None.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool
    unreadable: str | None = None

    def __repr__(self) -> str:
        return f"<answer with status {self.status}>"

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return httpx2.codes.is_success(self.status)

    @property
    def is_page(self) -> bool:
        """
        Whether the body is a web page, which no vendor answers with: something in between did.

        The type alone says little: Slack's "ok" is text/html, and so is the answer of a plain Flask or Django view.
        """
        start = self.body.lstrip()[:20].lower()
        kind = self.headers.get("content-type", "").lower()
        return start.startswith((b"<!doctype html", b"<html")) or (
            start.startswith(b"<") and ("html" in kind or not kind)
        )

    @property
    def found(self) -> str:
        """Return the status, and which product answered, if the header Server names one: "status 403, server nginx"."""
        # Letters alone: a header may repeat a secret, and keys and tokens have digits.
        product = re.match(r"[A-Za-z][A-Za-z-]{1,23}(?=$|[/ ])", self.headers.get("server", ""))
        return f"status {self.status}" if product is None else f"status {self.status}, server {product[0]}"

    def json(self) -> dict[str, Any]:
        """Return the body's JSON object; an empty one if it is anything else."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return {}

    def later(self, seen: str, *, throttled: bool) -> TransientDeliveryError:
        """
        Return an error that asks for another try, after the pause that the answer asks for.

        Args:
            seen: The vendor and the part of the answer that asks: "slack: ratelimited".
            throttled: Whether too many alerts came: an answer without a pause then asks for 30 s.
        """
        retry_after = _retry_after(self.headers)
        if retry_after is None and throttled:
            retry_after = _PAUSE_AFTER_429
        pause = "" if retry_after is None else f", to be tried again in {retry_after:g} s"
        return TransientDeliveryError(f"{seen}{pause}", retry_after=retry_after)


Judge = Callable[[Answer], DeliveryError | None]
"""
Returns the error that an answer means by more than its status; None lets the status decide.

A web page is not judged, and neither is a 2xx without a whole body.
"""


class PayloadRefusedError(PermanentDeliveryError):
    """Means that the other side refused the content, and neither the sender nor the address."""


class FilteredError(BrokenRouteError):
    """
    Means that the alert was refused, and not why: it is a firewall that dislikes its words, or a broken route.

    A firewall searches every request for the words of attacks, which an alert about an attack quotes.

    Args:
        message: The advice, if the route is broken.
        found: What refused it, if less is taken: "something between refused the content: status 403, server nginx".
    """

    def __init__(self, message: str, found: str) -> None:
        super().__init__(message)
        self.found = found


def unpacked(status: int, headers: Mapping[str, str], raw: bytes, *, ended: bool) -> Answer:
    """
    Return the answer with its body, unpacked within bounds.

    Args:
        status: For example 200.
        headers: Names, in any case, and values.
        raw: The body, or the first `MOST_READ` bytes.
        ended: Whether the body came to its end.
    """
    body, unreadable = _unpacked(raw, headers.get("content-encoding", ""))
    # Some servers begin a text with a mark that says it is UTF-8.
    body = body.removeprefix(codecs.BOM_UTF8)
    if ended and len(body) > _MAX_BODY:
        unreadable = f"is longer than {_MAX_BODY // 1024} KiB"
    whole = ended and unreadable is None
    return Answer(status, headers, body[:_MAX_BODY], whole, unreadable if ended else None)


def _unpacked(raw: bytes, labels: str) -> tuple[bytes, str | None]:
    """Return the body, at most the bound and one byte, and the reason why it can't be read; None if it can."""
    names = [name.strip().lower() for name in labels.split(",")]
    # Labels without a packing, such as "utf-8" and "none", are common, and so is a body that was unpacked on the way.
    if _NOT_PACKED.issuperset(names) or _is_text(raw):
        return raw, None
    body = raw
    for name in reversed(names):
        if name in _ZIPPED:
            body, whole = _unzipped(body)
            if not whole:
                return body, "can't be unpacked"
        elif name not in _NOT_PACKED:
            return body, "is packed in a way that was not asked for"
    return body, None


_ZIPPED: Final = {"gzip", "x-gzip", "deflate"}
_NOT_PACKED: Final = frozenset({"", "identity", "none", "utf-8", "utf8"})


def _is_text(raw: bytes) -> bool:
    """Return whether *raw* is text: packed bytes have controls in them, or are no UTF-8."""
    try:
        return raw.decode().translate(_SPACES).isprintable()
    except UnicodeDecodeError:
        return False


_SPACES: Final = {ord(space): " " for space in "\t\r\n\f\ufeff"}


def _unzipped(raw: bytes) -> tuple[bytes, bool]:
    """Return the unpacked content of *raw*, at most the bound and one byte, and whether it is all."""
    # gzip and zlib by their first bytes; then deflate without any, as some send: RFC 9110, 8.4.1.2.
    for bits in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        unzip = zlib.decompressobj(bits)
        try:
            return unzip.decompress(raw, MOST_READ), unzip.eof
        except zlib.error:
            pass
    return b"", False


def by_status(name: str, answer: Answer) -> DeliveryError | None:
    """Return the error that *answer* means by its status, or by being a web page; None if the alert was taken."""
    status = answer.status
    where = f"{name}: status {status}"
    if status in _TRANSIENT or httpx2.codes.is_server_error(status):
        return answer.later(where, throttled=status == HTTPStatus.TOO_MANY_REQUESTS)
    if answer.is_success and not answer.is_page:
        return None
    if httpx2.codes.is_redirect(status):
        return BrokenRouteError(f"{where}: a redirect, which is not followed; configure the new address")
    advice = _ADVICE.get(status, "the alert was refused; check the address, and any proxy or firewall in between")
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return BrokenRouteError(f"{where}: {advice}")
    if status in _REFUSED and not answer.is_page:
        return PayloadRefusedError(f"{where}: {advice}")
    if answer.is_page:
        where = f"{name}: {answer.found}"
        advice = "a web page, such as a sign-in, a firewall's or a notice of maintenance; check the systems in between"
    return FilteredError(f"{where}: {advice}", f"something between refused the content: {answer.found}")


def by_proxy(name: str, status: int | None) -> DeliveryError:
    """
    Return the error for a proxy that opened no way to the other side.

    Args:
        name: The vendor.
        status: The status of the proxy's answer; None if it gave none.
    """
    found = f"{name}: no connection (the proxy refused it" + ("" if status is None else f", status {status}")
    if status is None or status in _TRANSIENT or httpx2.codes.is_server_error(status):
        return TransientDeliveryError(f"{found})")
    is_locked = status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
    return BrokenRouteError(f"{found}: {_ADVICE[status] if is_locked else 'ask its operator'})")


_TRANSIENT: Final = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_REFUSED: Final = {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}

_ADVICE: Final = {
    400: "the alert was refused as malformed; check the options, and report it if they are right",
    401: "the credentials were refused; check the key, token or secret",
    403: "it is not allowed; check the key, token or secret, its permissions, and any proxy or firewall in between",
    404: "there is nothing at the address; check it, or create it anew on the other side",
    405: "the address takes no alerts; check it",
    407: "the proxy wants a password; put it into the proxy's address",
    410: "the address is gone for good; create a new one on the other side, and configure it here",
    413: "the alert is too large for it",
    422: "the alert was refused as invalid; check the options, and report it if they are right",
}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that Retry-After asks for, from a number, or from a date by the other side's own clock."""
    given = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,10})?", given):
        return float(given)
    until = _date(given)
    if until is None:
        return None
    now = _date(headers.get("date", "")) or datetime.fromtimestamp(time.time(), UTC)
    return max(0.0, (until - now).total_seconds())


def _date(given: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(given)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)
