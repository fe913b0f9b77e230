"""`fapilog send-test`: one test alert goes to a destination, and the outcome is printed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Annotated, Final, Literal

import anyio
import typer

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
from ..config import ConfigError, dispatcher_from_env
from ._output import CANNOT, NO, plain

__all__ = ["Destination", "Severity", "send", "send_test"]

Destination = Literal["webhook", "slack", "pagerduty", "opsgenie", "alertmanager", "email", "apprise", "console"]
Severity = Literal["debug", "info", "warning", "error", "critical", "security"]

_LATER: Final = "accepted, which is not yet delivered: look there whether it comes"

# The meaning of a `send_alert` that returned.
_RETURNED: Final[Mapping[Destination, str]] = {
    "webhook": "delivered: the receiver has taken it",
    "slack": "delivered: Slack has taken it for the channel",
    "pagerduty": _LATER,
    "opsgenie": _LATER,
    "alertmanager": _LATER,
    "email": _LATER,
    "apprise": "delivered, as far as Apprise tells",
    "console": "delivered: it is printed",
}


def send_test(
    *,
    to: Annotated[Destination, typer.Option(help="Where to.", show_default=False)],
    severity: Annotated[Severity, typer.Option(help="How severe it claims to be.")] = "info",
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Let an address be http: and not loopback.")] = False,
) -> None:
    """
    Send one test alert, and print the outcome.

    Addresses and credentials come from environment variables, such as FAPILOG_SLACK_WEBHOOK_URL; the reference of the
    command line lists them. It is sent once: nothing tries again.

    Exit code: 0 if the other side has it, 1 if not, or if that is unknown, 2 if it could not be tried.
    """
    try:
        dispatcher = dispatcher_from_env(to, allow_http=allow_http)
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(plain(f"fapilog: {problem.replace('allow_http=True', '--allow-http')}"), err=True)
        raise typer.Exit(CANNOT) from None
    has_it, words = anyio.run(send, dispatcher, to, severity)
    typer.echo(words)
    raise typer.Exit(0 if has_it else NO)


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
    return True, _RETURNED[to]
