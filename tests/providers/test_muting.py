"""Requests of alerts that no instrumentation sees."""

import sys
import types
from contextlib import nullcontext

import pytest

from fapilog.providers._muting import muted
from tests.doubles.origin import SECRET_PATH, Answer, Origin
from tests.providers.conftest import an_event

httpx2 = pytest.importorskip("httpx2")

from fapilog.providers.slack import SlackDispatcher  # noqa: E402  needs httpx2

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


@pytest.mark.real_time
@pytest.mark.parametrize("entered", [True, False])
async def test_an_agent_that_patches_clients_sees_nothing(
    origin: Origin, monkeypatch: pytest.MonkeyPatch, *, entered: bool
) -> None:
    """An agent that patches the sending of httpx2's clients, as Datadog's and New Relic's do, sees no alert."""

    async def record(*_: object, **__: object) -> None:
        pytest.fail("an agent has seen the address")

    for name in ("send", "_send_single_request"):
        monkeypatch.setattr(httpx2.AsyncClient, name, record)
    origin.script(Answer(200, b"ok"))
    dispatcher = SlackDispatcher(webhook_url=origin.url)
    async with dispatcher if entered else nullcontext():
        await dispatcher.send_alert(an_event(), severity="security")
    assert [request.path for request in origin.requests] == [SECRET_PATH]
