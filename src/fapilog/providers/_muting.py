"""
Keep the addresses of alerts out of logs, breadcrumbs and traces: an address may be a secret, and headers are.

Other libraries log every request. Sentry, once initialized, adds the address of every request to all later events, by
patches of httpx2 and of `http.client` that it applies by itself; OpenTelemetry's instrumentors put it into a span.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["mute", "muted"]

_muted: ContextVar[bool] = ContextVar("fapilog_muted", default=False)


def mute(loggers: Iterable[str]) -> None:
    """
    Make *loggers* log nothing from within `muted`, at the root's handlers too; outside they log as before.

    All loggers are named, since a filter does not count for the loggers below its own.
    """
    for name in loggers:
        logging.getLogger(name).addFilter(_is_not_muted)


@contextmanager
def muted() -> Generator[None]:
    """
    Mute the loggers of `mute`, Sentry and OpenTelemetry in this task, and in the threads that it waits for.

    Sentry and OpenTelemetry are looked for, and never imported.
    """
    token = _muted.set(True)
    watchers = [(name, unseen) for name, unseen in _WATCHERS.items() if sys.modules.get(name) is not None]
    try:
        if not watchers:
            yield
            return
        with ExitStack() as stack:
            for name, unseen in watchers:
                # A release of Sentry or OpenTelemetry without these functions must not cost the alert.
                with suppress(Exception):
                    stack.enter_context(unseen(sys.modules[name]))
            yield
    finally:
        _muted.reset(token)


def _is_not_muted(_: logging.LogRecord) -> bool:
    return not _muted.get()


@contextmanager
def _unseen_by_sentry(sentry_sdk: Any) -> Generator[None]:
    """Put a client in charge that records nothing: the functions that Sentry has patched ask the current client."""
    if not sentry_sdk.is_initialized():
        yield
        return
    with sentry_sdk.new_scope() as scope:
        scope.set_client(_blind_client(sentry_sdk.Client))
        yield


@functools.cache
def _blind_client(make: Any) -> Any:
    """Return a client of Sentry without integrations that sends nothing and ignores the environment."""
    # Without a release, it would start git to find one.
    return make(dsn="", release="", spotlight=False, default_integrations=False, auto_enabling_integrations=False)


@contextmanager
def _unseen_by_opentelemetry(context: Any) -> Generator[None]:
    # Both are in use: `is_instrumentation_enabled` in opentelemetry/instrumentation/utils.py.
    values = context.get_current()
    for key in ("suppress_instrumentation", getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", None)):
        if key is not None:
            values = context.set_value(key, True, values)  # noqa: FBT003
    token = context.attach(values)
    try:
        yield
    finally:
        context.detach(token)


_WATCHERS: Final = {"sentry_sdk": _unseen_by_sentry, "opentelemetry.context": _unseen_by_opentelemetry}
