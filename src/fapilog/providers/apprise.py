"""
Send alerts to a hundred services by Apprise, with one address per service.

Needs the extra ``apprise``. For a service that has a module here, use that: it knows whether to retry.
"""

from __future__ import annotations

import logging
import re
import string
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, NamedTuple
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import anyio

from .._extras import needs

with needs("apprise"):
    import apprise

from ..core.alerting import Alert
from ..core.partial import PartialDelivery
from ..record.errors import (
    AmbiguousDeliveryError,
    BrokenRouteError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from ..record.events import AuditEvent
from ..record.options import require
from ..record.privacy import Uncopied, without_frames
from ..record.values import text
from ._muting import mute, muted
from ._rendering import Disclosure, Rendered, Renderer, clean, cut, fit, in_words, one_line
from ._secret import Secret, SecretSource, is_loopback, sources
from ._threads import in_daemon_thread

__all__ = ["AppriseDispatcher"]

_MAX_BYTES: Final = 15_000

# Loads the plugins, a third of a second, now and not with the first alert. Apprise imports modules that Python
# deprecates.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    apprise.Apprise.instantiate("json://localhost")

# Apprise logs addresses, and urllib3 the path of every request at DEBUG; other libraries of its plugins do the like.
# Lines about our requests are kept out of the logs, at the root's handlers too; other lines are not.
_LOGGERS: Final = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib", "paho", "slixmpp", "gntp")


def _mute_plugins() -> None:
    # Before every request, since plugins load their libraries late.
    mute(name for name in [*_LOGGERS, *logging.Logger.manager.loggerDict] if name.partition(".")[0] in _LOGGERS)


# The lines that Apprise logs for this attempt, which are muted afterwards.
_lines: ContextVar[list[str] | None] = ContextVar("fapilog_apprise_lines", default=None)


def _keep(record: logging.LogRecord) -> bool:
    lines = _lines.get()
    if lines is not None and record.levelno >= logging.WARNING:
        with suppress(Exception):
            lines.append(record.getMessage())
    return True


# A filter, as `mute` is, and before it; Apprise's own capture in its result is a handler, which a muted line never
# reaches.
logging.getLogger("apprise").addFilter(_keep)


@contextmanager
def _kept_lines() -> Generator[list[str]]:
    lines: list[str] = []
    before = _lines.set(lines)
    try:
        with muted():
            yield lines
    finally:
        _lines.reset(before)


class _Target(NamedTuple):
    tags: frozenset[str]
    url: str


class AppriseDispatcher(Uncopied):
    """
    Sends every alert, as plain text, to every address of Apprise that its channel selects, to all at the same time.

    Returning means that Apprise says it is sent: that the services of all addresses answered, most often with 2xx.
    Apprise does not say whether a failure will happen again, so every failure is a `TransientDeliveryError`; it names
    the reason in the words of Apprise's own log, without the parts of your address and of the alert. A retry may
    deliver the alert twice.

    If only some addresses took the alert, one error is raised that names both kinds, and when the same dispatcher is
    called again for the event, the alert goes only to the addresses that lack it. Give every address one target:
    Apprise does not say which of several failed. ``retry=``, ``optional=`` and ``redirect=`` in an address are ignored.

    Args:
        urls: Addresses as on https://github.com/caronc/apprise/wiki, with their tags before them if they have any, as
            in Apprise's own configuration files: ``slack://...``, ``on-call,night=pover://...``. An alert with a
            channel goes to the addresses with that tag and to the addresses without tags, an alert without a channel to
            all.
        disclosure: How much of an event is sent.
        link: The way to a record, for example ``https://audit.example.com/{event_id}``.
        timeout: Seconds for one attempt.

    Raises:
        TypeError: An option is not of its type.
        ValueError: An option is not valid. No secret is in the message.
    """

    @without_frames
    def __init__(
        self,
        *,
        urls: SecretSource | Sequence[SecretSource],
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        urls = sources("urls", urls)
        self._urls = [Secret(url, f"urls[{number}]", check=_check_url) for number, url in enumerate(urls)]
        for number, url in enumerate(urls):
            if isinstance(url, str) and not _is_known(url.strip()):
                raise ValueError(f"urls[{number}]: expected {_EXPECTED}")
        self._render = Renderer(disclosure, link)
        self._timeout = require("timeout", timeout, above=0)
        self._partial = PartialDelivery("apprise", "addresses")

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Send the alert once to every address that lacks it."""
        alert = Alert(event, severity, channel)
        rendered = self._render(event, severity)
        failures: dict[int, DeliveryError] = {}
        targets: dict[int, _Target] = {}
        lacking = self._partial.receivers_without(alert, range(len(self._urls)))
        for number, url in enumerate(self._urls):
            try:
                target = _parsed(url.reveal())
            except DeliveryError as error:
                if number in lacking:
                    failures[number] = error
            else:
                if target and (channel is None or not target.tags or channel in target.tags):
                    targets[number] = target
        total = len(targets) + len(failures)
        if not total:
            raise PermanentDeliveryError(
                "apprise: no address has the channel as a tag; add the tag, or one without tags"
            )

        async def send(number: int) -> None:
            failure = await self._send(targets[number].url, rendered)
            if failure is not None:
                failures[number] = failure
            else:
                self._partial.delivered(alert, number)

        async with anyio.create_task_group() as tasks:
            for number in targets.keys() & lacking:
                tasks.start_soon(send, number)
        self._partial.finish(alert, failures, total)

    async def _send(self, url: str, rendered: Rendered) -> DeliveryError | None:
        """Return why the alert was not sent, or None."""
        with anyio.move_on_after(self._timeout):
            return await in_daemon_thread("apprise", lambda: _notify(url, rendered))
        return AmbiguousDeliveryError(f"apprise: not within {self._timeout:g} s; it may still be sent")


def _notify(url: str, rendered: Rendered) -> DeliveryError | None:
    _mute_plugins()
    try:
        with _kept_lines() as lines:
            service = _service(url)
            if service is None:
                return BrokenRouteError("apprise: it does not know such an address; check it")
            if _would_leave(service):
                return BrokenRouteError(
                    "apprise: a proxy of the environment would get what is for this machine; set NO_PROXY to the host"
                )
            one = apprise.Apprise(asset=service.asset)
            one.add(service)
            title = _defused(one_line(text(rendered.title)))
            body = cut(_body(rendered), "body", max_characters=max(service.body_maxlen - len(title), 1))
            kind = _KINDS.get(rendered.severity, apprise.NotifyType.WARNING)
            result = one.notify(body, title, kind, body_format=apprise.NotifyFormat.TEXT)
    except (KeyboardInterrupt, SystemExit):
        raise
    # A plugin may raise anything: a panic of an extension in Rust is no `Exception`.
    except BaseException as error:
        return PermanentDeliveryError(f"apprise: it can't be sent ({type(error).__name__}); check the address")
    return None if result else _failure(result.status, _cleaned(lines, url, f"{title} {body}"))


def _would_leave(service: Any) -> bool:
    """Return whether requests, which the plugins use, would send to a proxy what is for this machine."""
    host = getattr(service, "host", None)
    if not isinstance(host, str) or not is_loopback(host):
        return False
    scheme = "https" if getattr(service, "secure", False) else "http"
    return not {scheme, "all"}.isdisjoint(getproxies()) and not proxy_bypass(host)


def _failure(status: apprise.AppriseResultStatus, said: str) -> DeliveryError:
    """Return the error that Apprise's result means: https://github.com/caronc/apprise/pull/1664."""
    why = f": {said}" if said else "; Apprise does not say why: check the address and the network"
    match status:
        case apprise.AppriseResultStatus.TIMEOUT:
            return AmbiguousDeliveryError(f"apprise: not in Apprise's own time; it may still be sent{why}")
        case apprise.AppriseResultStatus.NOMATCH:
            return BrokenRouteError("apprise: it has no service for the address; check it")
        case apprise.AppriseResultStatus.PARTIAL:
            return TransientDeliveryError(f"apprise: only some targets of the address have the alert{why}")
        case _:
            return TransientDeliveryError(f"apprise: not sent{why}")


# Words that Apprise says of most failures; that an alert has them too does not hide them.
_APPRISE_WORDS: Final = frozenset(
    ["connection", "error", "failed", "notification", "occurred", "request", "send", "sending", "server"]
)
_MAX_SAID: Final = 200


def _cleaned(lines: Sequence[str], url: str, sent: str) -> str:
    """
    Return *lines* as one line without the words that are in the address or in the alert.

    A plugin may log the host, the recipient and the service's own words, which may repeat the token and the alert.
    """
    # Not "to", "in", "a", which would hide the message.
    private = {part for part in _parts(url.partition("://")[2]) if len(part) > 2}  # noqa: PLR2004
    private |= {part for part in _parts(sent) if len(part) > 3} - _APPRISE_WORDS  # noqa: PLR2004
    words = one_line(clean("; ".join(dict.fromkeys(lines)))[:2000]).split()
    said = " ".join("…" if _is_private(word, private) else word for word in words)
    return re.sub(r"…( …)+", "…", said)[:_MAX_SAID].removesuffix(".")


def _parts(given: str) -> set[str]:
    """Return the words of *given*, whole and in parts, as they are and unquoted."""
    folded = f"{given} {unquote(given)}".lower()
    wholes = re.split(r"[\s/?&=:@;,]+", folded)
    return {*re.split(r"[\W_]+", folded), *(whole.strip(string.punctuation) for whole in wholes)}


def _is_private(word: str, private: set[str]) -> bool:
    # Numbers of telephones and addresses, keys and tokens are long; the status 400 is not.
    if len(word) > 30 or len(re.findall(r"\d", word)) > 3 or "@" in word or "://" in word:  # noqa: PLR2004
        return True
    folded = unquote(word.lower())
    return not private.isdisjoint(_parts(word)) or any(len(part) > 5 and part in folded for part in private)  # noqa: PLR2004


def _service(url: str) -> Any:
    """Return a new plugin for *url*, or None: two threads must not share one."""
    # In the thread that it is called in.
    asset = apprise.AppriseAsset(async_mode=False, service_timeout=0)
    service: Any = apprise.Apprise.instantiate(url, asset=asset)
    if service is not None:
        # Whether to try again is not Apprise's to decide, a failure is a failure, and an alert goes where it is sent.
        service.retry, service.optional, service.redirects = 0, False, False
        if service.overflow_mode == apprise.OverflowMode.UPSTREAM:
            service.overflow_mode = apprise.OverflowMode.TRUNCATE
    return service


_KINDS: Final = {
    "debug": apprise.NotifyType.INFO,
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "error": apprise.NotifyType.FAILURE,
    "critical": apprise.NotifyType.FAILURE,
    "security": apprise.NotifyType.FAILURE,
}


def _body(rendered: Rendered) -> str:
    details = fit(dict(rendered.details), _MAX_BYTES)
    message = clean(details.pop("message", ""))
    rows = "\n".join(f"{name}: {one_line(in_words(value))}" for name, value in details.items())
    # The link is ours; in the event's own text, nothing becomes a link.
    return "\n\n".join(filter(None, (_defused(message), rendered.link, _defused(rows))))


def _defused(given: str) -> str:
    """
    Return *given* with a space of no width after every "@" and "<".

    The meaning of these differs from service to service, and the plugins do not escape all that their service
    understands: Discord notifies all members about an "@everyone" in a text.
    """
    return re.sub(r"[@<](?=\S)", "\\g<0>\u200b", given)


def _parsed(given: str) -> _Target | None:
    found = re.fullmatch(r"(?:([^=:/?]*)=)?\s*([A-Za-z0-9_-]{1,50}://.*)", given, re.DOTALL)
    return found and _Target(frozenset(re.split(r"[\s,]+", found[1] or "")) - {""}, found[2])


def _check_url(given: str) -> str | None:
    return _EXPECTED if _parsed(given) is None else None


_EXPECTED: Final = "an address that Apprise knows, such as slack://..., or tag=slack://..."


def _is_known(given: str) -> bool:
    target = _parsed(given)
    _mute_plugins()
    with muted():
        try:
            return target is not None and _service(target.url) is not None
        except Exception:
            return False
