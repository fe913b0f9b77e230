"""The handle that every `connect` returns."""

import gc
import importlib
from typing import Any

import pytest

from fapilog import AuditTrail, alert_attempted, alert_dispatched, alert_failed, compliance_alert
from fapilog.observers import logs
from fapilog.observers._connection import Connection
from tests.doubles.observed_alerts import announce, attempt, finish

SIGNALS = (compliance_alert, alert_attempted, alert_dispatched, alert_failed)


def receivers() -> list[dict[Any, Any]]:
    """Return what each signal has connected, without what only waits to be collected."""
    gc.collect()
    return [dict(signal.receivers) for signal in SIGNALS]


class Heard(list[str]):
    """What an observer was told, by its name."""

    def connect(self, sender: AuditTrail | None = None) -> Connection:
        # Made here, so that nothing but the signals refers to them.
        def announced(_sender: object, **_alert: Any) -> None:
            self.append("announced")

        def attempted(_sender: object, **_alert: Any) -> None:
            self.append("attempted")

        def finished(_sender: object, **_alert: Any) -> None:
            self.append("finished")

        return Connection(
            sender,
            announced=announced,
            attempted=attempted,
            finished=finished,
            disconnected=lambda: self.append("disconnected"),
        )


@pytest.fixture
def heard() -> Heard:
    """Return what nobody has been told yet."""
    return Heard()


def test_hears_all_four_signals(heard: Heard) -> None:
    """An announcement, an attempt, a success and a failure are heard, in their order."""
    with heard.connect():
        announce()
        attempt()
        finish()
        finish(error=OSError())
    assert heard == ["announced", "attempted", "finished", "finished", "disconnected"]


def test_lasts_without_its_handle(heard: Heard) -> None:
    """A connection whose handle nobody keeps is not garbage collected."""
    trail = AuditTrail()
    heard.connect(trail)
    gc.collect()
    announce(trail)
    finish(trail)
    assert heard == ["announced", "finished"]


def test_hears_nothing_after_disconnect(heard: Heard) -> None:
    """After `disconnect` nothing is heard, and disconnecting again changes nothing."""
    connection = heard.connect()
    connection.disconnect()
    announce()
    finish()
    connection.disconnect()
    assert heard == ["disconnected"]


def test_leaves_nothing_behind(heard: Heard) -> None:
    """The signals keep no receiver of a connection that has ended, whether or not it was for one sender."""
    trail = AuditTrail()
    before = receivers()
    with heard.connect(), heard.connect(trail):
        assert [len(signal.receivers) - len(old) for signal, old in zip(SIGNALS, before, strict=True)] == [2] * 4
    assert receivers() == before


def test_ends_with_an_error(heard: Heard) -> None:
    """An exception in the ``with`` block ends the connection, and passes."""
    with pytest.raises(KeyError), heard.connect():
        raise KeyError
    assert heard == ["disconnected"]


def test_hears_one_trail(heard: Heard) -> None:
    """Connected to one trail, alerts of others are not heard."""
    mine, other = AuditTrail(), AuditTrail()
    with heard.connect(mine):
        for sender in (other, mine):
            announce(sender)
            attempt(sender)
            finish(sender)
    assert heard == ["announced", "attempted", "finished", "disconnected"]


def test_connections_are_apart(heard: Heard) -> None:
    """Ending one connection leaves the others."""
    other = Heard()
    with other.connect():
        heard.connect().disconnect()
        announce()
    assert other == ["announced", "disconnected"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logs", "metrics", "otel"])
def test_importing_is_not_connecting(name: str) -> None:
    """Importing an observer connects nothing."""
    module = pytest.importorskip(f"fapilog.observers.{name}")
    before = receivers()
    importlib.reload(module)
    assert receivers() == before


def test_the_handle_is_public() -> None:
    """The type of the handle is found where `connect` is."""
    assert logs.Connection is Connection
