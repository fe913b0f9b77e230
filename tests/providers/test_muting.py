"""Requests of alerts that no instrumentation sees."""

import sys
import types

import pytest

from fapilog.providers._muting import muted

context = pytest.importorskip("opentelemetry.context")
# Of opentelemetry/instrumentation/utils.py: an instrumentor asks for both.
KEYS = ("suppress_instrumentation", context._SUPPRESS_INSTRUMENTATION_KEY)


def suppressed() -> list[object]:
    return [context.get_value(key) for key in KEYS]


def test_opentelemetry_instruments_nothing_within() -> None:
    """OpenTelemetry's instrumentors are told to leave a request alone, and only that one."""
    with muted():
        assert suppressed() == [True, True]
        with muted():
            assert suppressed() == [True, True]
    assert suppressed() == [None, None]


def test_a_watcher_that_is_another_than_expected_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of Sentry that knows none of this is no reason to lose the alert."""
    monkeypatch.setitem(sys.modules, "sentry_sdk", types.ModuleType("sentry_sdk"))
    with muted():
        assert suppressed() == [True, True]
