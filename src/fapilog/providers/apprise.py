"""
Send alerts to whatever Apprise knows: a hundred services, each by an address of its own.

Needs the extra ``apprise``. For the services that have a module here, use that: it knows why a delivery failed.
"""

from __future__ import annotations

import functools
import logging
import re
import warnings
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import anyio
import anyio.to_thread
import apprise

from ..core.alerting import Alert
from ..core.partial import PartialDelivery
from ..record.errors import AmbiguousDeliveryError, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from ..record.events import AuditEvent
from ..record.options import require
from ..record.privacy import Uncopied, without_frames
from ..record.values import text
from ._muting import mute, muted
from ._rendering import Disclosure, Rendered, Renderer, clean, cut, fit, in_words, one_line
from ._secret import Secret, SecretSource

__all__ = ["AppriseDispatcher"]

_MAX_BYTES: Final = 15_000

# Loads the plugins, a third of a second, now and not with the first alert. Apprise imports what Python deprecates.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    apprise.Apprise.instantiate("json://localhost")

# Apprise logs addresses, and urllib3 the path of each request at DEBUG; other libraries of its plugins do the like.
# What is said on our behalf is kept out of the logs, at the root's handlers too; the rest is not.
_LOGGERS: Final = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib", "paho", "slixmpp", "gntp")


def _mute_plugins() -> None:
    # Before each request, since plugins load their libraries late.
    mute(name for name in [*_LOGGERS, *logging.Logger.manager.loggerDict] if name.partition(".")[0] in _LOGGERS)


class _Target(NamedTuple):
    tags: frozenset[str]
    url: str


class AppriseDispatcher(Uncopied):
    """
    Sends each alert, as plain text, to every address of Apprise that its channel selects, to all at the same time.

    Returning means that Apprise says it is sent: that the service of each address answered, most often with 2xx.
    Apprise does not say why something failed, nor whether it will again; every failure is a `TransientDeliveryError`,
    and trying again may show people the alert twice.

    If some addresses took the alert and others did not, one error is raised that tells of both, and when the same
    dispatcher is called again for the event, it goes only to those that lack it. Give each address one target: Apprise
    does not tell which of several failed. ``retry=``, ``optional=`` and ``redirect=`` in an address are ignored.

    Args:
        urls: Addresses as on https://github.com/caronc/apprise/wiki, each with its tags before it if it has any, as in
            Apprise's own configuration files: ``slack://...``, ``on-call,night=pover://...``. An alert with a channel
            goes to the addresses with that tag and to those without tags, an alert without a channel to all.
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
        urls: Sequence[SecretSource],
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 30.0,
    ) -> None:
        if isinstance(urls, str) or not urls:
            raise ValueError("urls: expected a list of at least one address")
        self._urls = [Secret(url, f"urls[{number}]", check=_check_url) for number, url in enumerate(urls)]
        for number, url in enumerate(urls):
            if isinstance(url, str) and not _is_known(url.strip()):
                raise ValueError(f"urls[{number}]: expected {_EXPECTED}")
        self._render = Renderer(disclosure, link)
        self._timeout = require("timeout", timeout, above=0)
        self._partial = PartialDelivery("apprise", "addresses")

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Send the alert once to each address that lacks it."""
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
            send = functools.partial(_notify, url, rendered)
            return await anyio.to_thread.run_sync(send, abandon_on_cancel=True)
        return AmbiguousDeliveryError(f"apprise: not within {self._timeout:g} s; it may still be sent")


def _notify(url: str, rendered: Rendered) -> DeliveryError | None:
    _mute_plugins()
    try:
        with muted():
            service = _service(url)
            if service is None:
                return PermanentDeliveryError("apprise: it does not know such an address; check it")
            one = apprise.Apprise(asset=service.asset)
            one.add(service)
            title = _defused(one_line(text(rendered.title)))
            body = cut(_body(rendered), "body", max_characters=max(service.body_maxlen - len(title), 1))
            kind = _KINDS.get(rendered.severity, apprise.NotifyType.WARNING)
            is_sent = one.notify(body, title, kind, body_format=apprise.NotifyFormat.TEXT)
    except Exception as error:
        return PermanentDeliveryError(f"apprise: it can't be sent ({type(error).__name__}); check the address")
    if is_sent:
        return None
    return TransientDeliveryError("apprise: not sent; Apprise does not say why: check the address and the network")


def _service(url: str) -> Any:
    """Return a plugin for *url*, or None; each attempt has its own, since no two threads may share one."""
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
    # The link is ours; in what an event says, nothing is one.
    return "\n\n".join(filter(None, (_defused(message), rendered.link, _defused(rows))))


def _defused(given: str) -> str:
    """
    Return *given* with a space of no width after each "@" and "<".

    What these mean differs from service to service, and the plugins do not escape all that theirs understands: Discord
    tells everyone of an "@everyone" in a text.
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
