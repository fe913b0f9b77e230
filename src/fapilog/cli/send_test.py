"""Send one test alert to a destination that the environment describes, and return the outcome in words."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from importlib import import_module
from typing import Any, Final, Literal, NamedTuple

from .. import (
    AlertDispatcher,
    AmbiguousDeliveryError,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from .._extras import how_to_get

__all__ = ["CannotSendError", "Destination", "Severity", "dispatcher_for", "send"]

Destination = Literal["webhook", "slack", "pagerduty", "opsgenie", "alertmanager", "email", "apprise", "console"]
Severity = Literal["debug", "info", "warning", "error", "critical", "security"]


class CannotSendError(Exception):
    """Raised when there is nothing to send with. The text is one sentence, and holds no secret."""


def _needed(*names: str, instead: str = "") -> list[str]:
    """Return the values of environment variables that must be there."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise CannotSendError(f"set {instead}{' and '.join(missing)} in the environment")
    return [os.environ[name] for name in names]


def _given(**names: str) -> dict[str, Any]:
    """Return the values of environment variables that are there, by their options."""
    return {option: os.environ[name] for option, name in names.items() if os.environ.get(name)}


def _split(text: str) -> list[str]:
    return re.findall(r"[^\s,]+", text)


def _webhook() -> dict[str, Any]:
    url, secret = _needed("FAPILOG_WEBHOOK_URL", "FAPILOG_WEBHOOK_SECRET")
    return {"url": url, "secret": secret.split()}


def _slack() -> dict[str, Any]:
    by_address = _given(webhook_url="FAPILOG_SLACK_WEBHOOK_URL")
    if by_address:
        return by_address
    token, channel = _needed("FAPILOG_SLACK_TOKEN", "FAPILOG_SLACK_CHANNEL", instead="FAPILOG_SLACK_WEBHOOK_URL, or ")
    return {"token": token, "channel": channel}


def _pagerduty() -> dict[str, Any]:
    [routing_key] = _needed("FAPILOG_PAGERDUTY_ROUTING_KEY")
    return {"routing_key": routing_key, **_given(base_url="FAPILOG_PAGERDUTY_BASE_URL")}


def _opsgenie() -> dict[str, Any]:
    [api_key] = _needed("FAPILOG_OPSGENIE_API_KEY")
    return {"api_key": api_key, **_given(base_url="FAPILOG_OPSGENIE_BASE_URL")}


def _alertmanager() -> dict[str, Any]:
    [urls] = _needed("FAPILOG_ALERTMANAGER_URLS")
    return {"urls": _split(urls)}


def _email() -> dict[str, Any]:
    host, sender, recipients = _needed("FAPILOG_EMAIL_HOST", "FAPILOG_EMAIL_SENDER", "FAPILOG_EMAIL_RECIPIENTS")
    options = _given(
        port="FAPILOG_EMAIL_PORT",
        username="FAPILOG_EMAIL_USERNAME",
        password="FAPILOG_EMAIL_PASSWORD",  # noqa: S106  the name of a variable
        tls="FAPILOG_EMAIL_TLS",
    )
    if "port" in options:
        if not re.fullmatch(r"[0-9]{1,5}", options["port"]):
            raise CannotSendError("FAPILOG_EMAIL_PORT: expected a number")
        options["port"] = int(options["port"])
    return {"host": host, "sender": sender, "recipients": _split(recipients), **options}


def _apprise() -> dict[str, Any]:
    [urls] = _needed("FAPILOG_APPRISE_URLS")
    # A comma may be part of such an address.
    return {"urls": urls.split()}


class _Provider(NamedTuple):
    """
    How to make the dispatcher of a destination.

    Attributes:
        name: Its module in `fapilog.providers`, and its class.
        options: Reads its options from the environment.
        returned: The meaning of a return of `send_alert`, in words.
    """

    name: str
    options: Callable[[], dict[str, Any]]
    returned: str


_LATER: Final = "accepted, which is not yet delivered: look there whether it comes"

_PROVIDERS: Final[Mapping[Destination, _Provider]] = {
    "webhook": _Provider("webhook.WebhookDispatcher", _webhook, "delivered: the receiver has taken it"),
    "slack": _Provider("slack.SlackDispatcher", _slack, "delivered: Slack has taken it for the channel"),
    "pagerduty": _Provider("pagerduty.PagerDutyDispatcher", _pagerduty, _LATER),
    "opsgenie": _Provider("opsgenie.OpsgenieDispatcher", _opsgenie, _LATER),
    "alertmanager": _Provider("alertmanager.AlertmanagerDispatcher", _alertmanager, _LATER),
    "email": _Provider("smtp.EmailDispatcher", _email, _LATER),
    "apprise": _Provider("apprise.AppriseDispatcher", _apprise, "delivered, as far as Apprise tells"),
    "console": _Provider("console.ConsoleDispatcher", dict, "delivered: it is printed"),
}
_OVER_HTTP: Final = {"webhook", "slack", "pagerduty", "opsgenie", "alertmanager"}


def dispatcher_for(to: Destination, *, allow_http: bool = False) -> AlertDispatcher:
    """
    Return the dispatcher that the environment describes.

    Args:
        to: The destination; only its module is imported.
        allow_http: Whether an address may begin with ``http:`` and not be this machine's.

    Raises:
        CannotSendError: A variable or a library is missing, or a value is not valid.
    """
    options = _PROVIDERS[to].options()
    if allow_http and to in _OVER_HTTP:
        options["allow_http"] = True
    module, _, name = _PROVIDERS[to].name.partition(".")
    try:
        provider = getattr(import_module(f"fapilog.providers.{module}"), name)
        dispatcher: AlertDispatcher = provider(**options)
    except ModuleNotFoundError as missing:
        raise CannotSendError(how_to_get(missing, to)) from None
    except ValueError as error:
        # A provider's message names the option, and holds no secret.
        raise CannotSendError(f"the environment does not describe {to}: {error}") from None
    return dispatcher


async def send(dispatcher: AlertDispatcher, to: Destination, severity: Severity) -> tuple[bool, str]:
    """Send the test alert; return whether the other side has it, and the outcome in words."""
    event = AuditEvent(
        event_type=AuditEventType.COMPLIANCE_CHECK,
        log_level=AuditLogLevel(severity),
        message="TEST: this is a test alert, sent by the command fapilog send-test. There is nothing to do.",
        component="fapilog send-test (TEST)",
        operation="send-test",
        metadata={"test": True},
    )
    manager = dispatcher if isinstance(dispatcher, AbstractAsyncContextManager) else nullcontext()
    try:
        async with manager:
            await dispatcher.send_alert(event, severity=severity)
    except TransientDeliveryError as error:
        when = "later" if error.retry_after is None else f"in {error.retry_after:.0f} s or later"
        return False, f"not delivered; try again {when}. {error}"
    except PermanentDeliveryError as error:
        return False, f"refused. {error}"
    except AmbiguousDeliveryError as error:
        return False, f"may have arrived; look there before you try again. {error}"
    except DeliveryError as error:
        return False, f"not delivered. {error}"
    except Exception as error:
        # The text may hold the address, which is a secret.
        return False, f"not delivered. {to}: {type(error).__qualname__}"
    return True, _PROVIDERS[to].returned
