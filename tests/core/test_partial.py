"""Which of several receivers have an alert: from many threads, and after a fork."""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    BrokenRouteError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.core.alerting import Alert
from fapilog.core.partial import PartialDelivery, combined


def an_alert(number: int) -> Alert:
    event = AuditEvent(event_id=str(number), event_type=AuditEventType.ERROR_OCCURRED, message="")
    return Alert(event, "error", None)


def test_it_is_safe_from_several_threads() -> None:
    """Threads that send different alerts each see their own receivers, while older alerts are forgotten for theirs."""
    partial = PartialDelivery("name", "receivers")
    for number in range(1000):
        partial.delivered(an_alert(-number), 0)
    begin = threading.Barrier(8)

    def run(thread: int) -> None:
        begin.wait()
        for number in range(1 + thread, 1501, 8):
            alert = an_alert(number)
            partial.delivered(alert, 0)
            assert partial.receivers_without(alert, range(3)) == [1, 2]
            partial.delivered(alert, 1)
            with pytest.raises(DeliveryError, match="2 of 3"):
                partial.finish(alert, {2: PermanentDeliveryError("gone")}, 3)
            assert partial.receivers_without(alert, range(3)) == [2]
            if number % 10:
                partial.finish(alert, {}, 3)
                assert partial.receivers_without(alert, range(3)) == [0, 1, 2]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(run, range(8)))
    finally:
        sys.setswitchinterval(before)


def test_an_id_that_is_there_again() -> None:
    """A receiver that has the alert about an event lacks that about a later event with the same id."""
    partial = PartialDelivery("name", "receivers")
    first, second = (
        Alert(
            AuditEvent(event_id="again", event_type=AuditEventType.ERROR_OCCURRED, message="", sequence_number=number),
            "error",
            None,
        )
        for number in (1, 2)
    )
    partial.delivered(first, 0)
    assert partial.receivers_without(first, range(2)) == [1]
    assert partial.receivers_without(second, range(2)) == [0, 1]


def test_a_forked_child_can_use_it() -> None:
    """A child remembers what its parent remembers, also where a thread of the parent was in the middle of a call."""
    partial = PartialDelivery("name", "receivers")
    partial.delivered(an_alert(1), 0)
    with partial._lock:
        child = os.fork()
        if not child:
            os._exit(0 if partial.receivers_without(an_alert(1), range(2)) == [1] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_route_that_is_broken_for_some() -> None:
    """If the route to all is broken, so is the route; if it is to some, the alert is to be tried again for them."""
    broken, refused = BrokenRouteError("gone"), PermanentDeliveryError("no")
    assert isinstance(combined("n", "routes", {0: broken, 1: broken}, 2), BrokenRouteError)
    for failures, total in (({0: broken}, 2), ({0: broken, 1: refused}, 2), ({0: broken, 1: broken}, 3)):
        assert isinstance(combined("n", "routes", failures, total), TransientDeliveryError)
    assert type(combined("n", "routes", {0: refused, 1: refused}, 2)) is PermanentDeliveryError
