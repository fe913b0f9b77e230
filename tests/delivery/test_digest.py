"""Storms: what goes at once, what is counted, what the summary says, and what becomes of it."""

from collections.abc import Hashable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import (
    AmbiguousDeliveryError,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    NoopAlertDispatcher,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.core.alerting import DurableDispatcher
from fapilog.delivery.digest import Digest, digest_of
from fapilog.testing import RecordedAlert, RecordingDispatcher, check_dispatcher
from tests.doubles.dispatchers import Managed, event
from tests.doubles.outboxes import owned

BUSY = TransientDeliveryError("busy")


async def storm(digest: Digest, numbers: range, **fields: object) -> None:
    """Send alerts about events with those sequence numbers."""
    for number in numbers:
        await digest.send_alert(event(number, **fields), severity="security")


def ids(numbers: range) -> list[str]:
    return [event(number).event_id for number in numbers]


def is_summary(alert: RecordedAlert) -> bool:
    return "ids_sha256" in alert.event.metadata


def told(inner: RecordingDispatcher) -> list[int | None]:
    """Return the sequence number of each alert, and of each summary the count, negated."""
    return [
        -alert.event.metadata["count"] if is_summary(alert) else alert.event.sequence_number for alert in inner.alerts
    ]


# -- what goes at once


async def test_the_first_goes_at_once_and_the_rest_as_one_summary() -> None:
    """Within a window one alert of a kind goes as it comes, and when it closes one summary of all others."""
    inner = RecordingDispatcher()
    async with Digest(inner, window=60.0) as digest:
        await storm(digest, range(1, 11))
        assert told(inner) == [1]
        await anyio.sleep(59.9)
        assert told(inner) == [1]
        await anyio.sleep(0.2)
        assert told(inner) == [1, -9]
    assert told(inner) == [1, -9]


async def test_one_alone_gets_no_summary() -> None:
    """Where nothing was counted, nothing is sent when the window closes."""
    inner = RecordingDispatcher()
    async with Digest(inner) as digest:
        await storm(digest, range(1, 2))
        await anyio.sleep(120)
    assert told(inner) == [1]


async def test_a_closed_window_opens_again() -> None:
    """The next alert of a kind after a window goes at once, and opens a window of its own."""
    inner = RecordingDispatcher()
    async with Digest(inner, window=60.0) as digest:
        await storm(digest, range(1, 4))
        await anyio.sleep(100)
        await storm(digest, range(4, 7))
        await anyio.sleep(59)
        assert told(inner) == [1, -2, 4]
        await anyio.sleep(2)
    assert told(inner) == [1, -2, 4, -2]


@pytest.mark.parametrize("burst", [0, 3])
async def test_a_burst_goes_at_once(burst: int) -> None:
    """As many as the burst go as they come; with none, there are only summaries."""
    inner = RecordingDispatcher()
    async with Digest(inner, burst=burst) as digest:
        await storm(digest, range(1, 11))
    assert told(inner) == [*range(1, burst + 1), burst - 10]


@pytest.mark.parametrize(
    ("fields", "severity", "channel"),
    [
        ({"component": "cache"}, "security", None),
        ({"event_type": AuditEventType.DATA_EXPORT}, "security", None),
        ({}, "critical", None),
        ({}, "security", "#dba"),
    ],
)
async def test_kinds_are_counted_apart(fields: dict[str, object], severity: str, channel: str | None) -> None:
    """Another type, component, severity or channel is another kind."""
    inner = RecordingDispatcher()
    async with Digest(inner) as digest:
        await storm(digest, range(1, 4))
        await digest.send_alert(event(4, **fields), severity=severity, channel=channel)
        assert told(inner) == [1, 4]
        assert (inner.alerts[1].severity, inner.alerts[1].channel) == (severity, channel)


async def test_a_key_of_ones_own() -> None:
    """With a key, what has the same key is one kind."""

    def by_user(event: AuditEvent, severity: str, channel: str | None) -> Hashable:
        return event.user_id

    inner = RecordingDispatcher()
    async with Digest(inner, key=by_user) as digest:
        await storm(digest, range(1, 4), user_id="mallory")
        await storm(digest, range(4, 6), user_id="eve")
        await storm(digest, range(6, 8), user_id="mallory", component="cache")
    assert told(inner) == [1, 4, -4, -1]


@pytest.mark.parametrize("broken", ["raises", "unhashable", "asynchronous"])
async def test_a_key_that_fails_is_the_usual_one(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """Where the key raises, can't be hashed or is asynchronous, the log names the type, and the usual key counts."""

    async def later() -> str:
        raise AssertionError

    def key(event: AuditEvent, severity: str, channel: str | None) -> Hashable:
        if broken == "raises":
            raise RuntimeError("t0k3n")
        if broken == "asynchronous":
            return later()  # type: ignore[return-value]
        return ["t0k3n"]  # type: ignore[return-value]

    inner = RecordingDispatcher()
    async with Digest(inner, key=key) as digest:
        await storm(digest, range(1, 4))
    assert told(inner) == [1, -2]
    kind = "RuntimeError" if broken == "raises" else "TypeError"
    assert caplog.records[0].getMessage() == f"key raised {kind} for event {event(1).event_id}"
    assert "t0k3n" not in caplog.text


async def test_a_key_that_can_not_be_compared(caplog: pytest.LogCaptureFixture) -> None:
    """Keys whose comparison raises open windows that close, and the usual key counts the alerts that find one open."""

    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("t0k3n")

    inner = RecordingDispatcher()
    async with Digest(inner, key=lambda *_: Key()) as digest:
        for first in (1, 5):
            await storm(digest, range(first, first + 4))
            await anyio.sleep(100)
    assert told(inner) == [1, 2, -2, 5, 6, -2]
    assert caplog.messages == [
        f"key raised RuntimeError for event {event(each).event_id}" for each in (2, 3, 4, 6, 7, 8)
    ]


async def test_severities_may_bypass() -> None:
    """Alerts of the severities that bypass all go at once, and are not counted."""
    inner = RecordingDispatcher()
    async with Digest(inner, bypass=["security"]) as digest:
        await storm(digest, range(1, 4))
    assert told(inner) == [1, 2, 3]


async def test_not_entered_everything_goes_at_once() -> None:
    """Without a task to close windows nothing is counted; after it is left, too."""
    inner = RecordingDispatcher()
    digest = Digest(inner)
    await storm(digest, range(1, 4))
    async with digest:
        pass
    await storm(digest, range(4, 6))
    assert told(inner) == [1, 2, 3, 4, 5]


async def test_one_that_failed_gives_its_place_to_its_retry() -> None:
    """An alert that could not be sent at once, or was cancelled, is not counted when it comes again, but sent."""
    inner = RecordingDispatcher(error=BUSY)
    async with Digest(inner) as digest:
        with pytest.raises(TransientDeliveryError):
            await storm(digest, range(1, 2))
        inner.error, inner.wait = None, anyio.sleep_forever
        with anyio.move_on_after(1):
            await storm(digest, range(1, 2))
        inner.wait = None
        await storm(digest, range(1, 4))
        assert told(inner) == [1, 1, 1]
    assert told(inner) == [1, 1, 1, -2]


async def test_one_under_way_keeps_its_place() -> None:
    """While the first is being sent, the others are counted and return at once."""
    inner = RecordingDispatcher(wait=lambda: anyio.sleep(5))
    async with Digest(inner) as digest, anyio.create_task_group() as tasks:
        tasks.start_soon(storm, digest, range(1, 2))
        await anyio.sleep(1)
        began = anyio.current_time()
        await storm(digest, range(2, 5))
        assert anyio.current_time() == began
        assert told(inner) == [1]


# -- what the summary says


async def test_what_a_summary_says() -> None:
    """It says how many, from when to when, which records and ids, and where to look; in words and in its metadata."""
    inner = RecordingDispatcher()
    async with Digest(inner, window=60.0) as digest:
        await storm(
            digest,
            range(10, 41),
            hostname="host",
            process_id=7,
            user_id="alice",
            contains_pii=True,
            message="the secret of alice",
            metadata={"card": 4242},
        )
    summary = inner.alerts[-1].event
    counted = ids(range(11, 41))
    assert summary.metadata == {
        "count": 30,
        "first_time": "2026-01-01T00:00:11Z",
        "last_time": "2026-01-01T00:00:40Z",
        "first_sequence_number": 11,
        "last_sequence_number": 40,
        "event_ids": counted[:20],
        "ids_sha256": digest_of(counted),
    }
    assert summary.message == (
        "30 more alerts of this kind within 60 s, counted and not sent one by one: "
        "2026-01-01 00:00:11 to 2026-01-01 00:00:40 UTC, records 11 to 40. "
        f"Events: {', '.join(counted[:20])} and 10 more. Digest of their ids: {digest_of(counted)}"
    )
    assert (summary.sequence_number, summary.checksum, summary.timestamp) == (
        40,
        event(40).checksum,
        event(40).timestamp,
    )
    assert (summary.event_type, summary.component, summary.hostname, summary.process_id) == (
        AuditEventType.SECURITY_VIOLATION,
        "vault",
        "host",
        7,
    )
    assert not summary.contains_pii
    assert "alice" not in repr(summary)
    assert "4242" not in repr(summary)
    assert len(summary.event_id) == 36
    assert summary.event_id not in counted


async def test_a_summary_of_one_reads_well() -> None:
    """A single alert that was counted is told of in the singular."""
    inner = RecordingDispatcher()
    async with Digest(inner) as digest:
        await storm(digest, range(1, 3))
    assert inner.alerts[-1].event.message.startswith(
        "1 more alert of this kind within 60 s, counted and not sent by itself: "
    )
    assert f"Events: {event(2).event_id}. Digest" in inner.alerts[-1].event.message


async def test_a_summary_is_as_severe_as_the_worst() -> None:
    """Its level and severity are the highest that it counts, and its channel is that of the first."""
    inner = RecordingDispatcher()
    async with Digest(inner, key=lambda *_: "all", burst=0) as digest:
        for number, level in enumerate([AuditLogLevel.INFO, AuditLogLevel.CRITICAL, AuditLogLevel.WARNING], 1):
            await digest.send_alert(event(number, log_level=level), severity=level.value, channel=f"#{number}")
        await digest.send_alert(event(4, log_level=AuditLogLevel.DEBUG), severity="unheard of")
    [alert] = inner.alerts
    assert (alert.event.log_level, alert.severity, alert.channel) == (AuditLogLevel.CRITICAL, "critical", "#1")


async def test_events_that_are_not_stored_can_be_counted() -> None:
    """Of alerts that were announced by hand, the summary names no records."""
    inner = RecordingDispatcher()
    async with Digest(inner) as digest:
        for _ in range(3):
            await digest.send_alert(
                AuditEvent(event_type=AuditEventType.DATA_ACCESS, message="by hand"), severity="info"
            )
    summary = inner.alerts[-1].event
    assert (summary.sequence_number, summary.metadata["first_sequence_number"]) == (None, None)
    assert "not in the trail" in summary.message


async def test_the_order_in_which_alerts_come_does_not_matter() -> None:
    """Alerts that overtake each other on the way give the same range, checksum and digest."""
    inner = RecordingDispatcher()
    async with Digest(inner, burst=0) as digest:
        for number in (3, 1, 4, 2):
            await storm(digest, range(number, number + 1))
    summary = inner.alerts[-1].event
    assert summary.metadata["ids_sha256"] == digest_of(ids(range(1, 5))) == digest_of(reversed(ids(range(1, 5))))
    assert (summary.metadata["first_sequence_number"], summary.sequence_number, summary.checksum) == (
        1,
        4,
        event(4).checksum,
    )
    assert summary.timestamp == event(4).timestamp


def test_the_digest_tells_sets_apart() -> None:
    """One id more, fewer or twice is another digest."""
    all_ids = ids(range(1, 50))
    assert len({digest_of(given) for given in ([], all_ids, all_ids[1:], [*all_ids, all_ids[0]], ["x"])}) == 5
    assert len(digest_of([])) == 64


# -- what becomes of a summary


@pytest.mark.parametrize("error", [BUSY, AmbiguousDeliveryError("no answer"), ValueError("t0k3n")])
async def test_a_summary_that_fails_is_sent_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again with growing waits, as the same event, until it is taken; the trail hears of both."""
    inner = RecordingDispatcher()
    digest = Digest(inner, window=10.0)
    async with owned(digest) as trail:
        await storm(digest, range(1, 4))
        inner.error = error
        await anyio.sleep(10 + 1 + 2 + 4 + 1)
        assert told(inner) == [1, -2, -2, -2, -2]
        inner.error = None
        await anyio.sleep(20)
        assert told(inner) == [1, -2, -2, -2, -2, -2]
    assert len({alert.event.event_id for alert in inner.alerts[1:]}) == 1
    why = "ValueError" if isinstance(error, ValueError) else str(error)
    assert trail.heard == [("the digest for RecordingDispatcher", why)] * 4 + [("the digest for RecordingDispatcher",)]
    assert caplog.records[0].getMessage() == (
        f"a summary of 2 alerts, records 2 to 3, was not sent; the next try is in 1.0 s: {why}"
    )
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def test_waits_have_a_limit_and_heed_the_target() -> None:
    """No wait is longer than a minute, unless the target asks for it, and an hour is the most."""
    inner = RecordingDispatcher()
    times: list[float] = []

    async def note() -> None:
        times.append(anyio.current_time())

    async with Digest(inner, window=1.0, stop_timeout=0) as digest:
        await storm(digest, range(1, 3))
        inner.error, inner.wait = BUSY, note
        await anyio.sleep(1000)
        inner.error = TransientDeliveryError("slowly", retry_after=1e9)
        await anyio.sleep(4000)
        inner.error = TransientDeliveryError("slowly", retry_after=float("nan"))
        await anyio.sleep(4000)
    *waits, _ = [round(later - earlier) for earlier, later in pairwise(times)]
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert set(waits[8:]) == {60, 3600}


async def test_a_summary_that_is_refused_is_lost_loudly(caplog: pytest.LogCaptureFixture) -> None:
    """After a permanent error it is not sent again, and an error names how many alerts and which records."""
    inner = RecordingDispatcher()
    digest = Digest(inner, window=10.0)
    async with owned(digest) as trail:
        await storm(digest, range(1, 4))
        inner.error = PermanentDeliveryError("gone")
        await anyio.sleep(100)
        assert told(inner) == [1, -2]
    [record] = caplog.records
    assert (record.name, record.levelname) == ("fapilog.delivery", "ERROR")
    assert record.getMessage() == "a summary of 2 alerts, records 2 to 3, is lost: gone"
    assert trail.heard == [("the digest for RecordingDispatcher", "gone")]


async def test_one_that_hangs_is_cancelled_and_the_next_is_sent() -> None:
    """A summary that is not taken in its time comes again later; others go out meanwhile."""
    inner = RecordingDispatcher()
    async with Digest(inner, window=10.0, timeout=30.0) as digest:
        await storm(digest, range(1, 3))
        await storm(digest, range(3, 6), component="cache")
        inner.wait = anyio.sleep_forever
        await anyio.sleep(39)
        inner.wait = None
        await anyio.sleep(1.5)
        assert told(inner) == [1, 3, -1, -2]
        await anyio.sleep(1)
        assert told(inner) == [1, 3, -1, -2, -1]


async def test_one_target_that_recovers_does_not_speak_for_another() -> None:
    """People hear of a recovery when no summary is left that failed, and not in turns."""

    class Half(RecordingDispatcher):
        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
            await super().send_alert(event, severity=severity, channel=channel)
            if event.component == "cache" and len(self.alerts) < 15:
                raise BUSY

    digest = Digest(Half(), window=10.0, burst=0)
    async with owned(digest) as trail:
        await storm(digest, range(1, 3), component="cache")
        for number in range(10, 30):
            await storm(digest, range(number, number + 1))
            await anyio.sleep(10)
    assert [len(words) for words in trail.heard] == [2] * (len(trail.heard) - 1) + [1]
    assert len(trail.heard) > 3


# -- leaving


async def test_leaving_closes_all_windows() -> None:
    """Open windows are summed up when it is left, also when an exception ends the block."""
    inner = Managed()
    with suppress(RuntimeError):
        async with Digest(inner) as digest:
            await storm(digest, range(1, 4))
            await storm(digest, range(4, 7), component="cache")
            raise RuntimeError("the end")
    assert told(inner) == [1, 4, -2, -2]
    assert (inner.entered, inner.left) == (1, 1)


async def test_leaving_tries_again_at_once() -> None:
    """A summary that waits for its next try is tried when the digest is left, and then until the time is over."""
    inner = RecordingDispatcher()
    async with Digest(inner, window=1.0) as digest:
        await storm(digest, range(1, 4))
        inner.error = BUSY
        await anyio.sleep(60)
        inner.error = None
        inner.alerts.clear()
    assert told(inner) == [-2]


@pytest.mark.parametrize("fails", ["raises", "hangs"])
async def test_leaving_takes_no_longer_than_it_may(fails: str, caplog: pytest.LogCaptureFixture) -> None:
    """What can't be sent in time is logged as an error, with its count and records, and the inner one is left."""
    inner = Managed()
    began = anyio.current_time()
    async with Digest(inner, stop_timeout=5.0) as digest:
        await storm(digest, range(1, 4))
        await storm(digest, range(4, 6), component="cache")
        if fails == "raises":
            inner.error = BUSY
        else:
            inner.wait = anyio.sleep_forever
    assert anyio.current_time() - began == pytest.approx(5)
    assert inner.left == 1
    lost = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert lost == [
        "a summary of 2 alerts, records 2 to 3, is lost: the digest was left",
        "a summary of 1 alert, records 5 to 5, is lost: the digest was left",
    ]


async def test_a_cancelled_owner_still_flushes() -> None:
    """Cancellation of the block that it is entered in does not reach what is sent on leaving, for as long as it may."""
    inner = RecordingDispatcher(wait=lambda: anyio.sleep(1))
    with anyio.move_on_after(10) as limit:
        async with Digest(inner) as digest:
            await storm(digest, range(1, 4))
            await anyio.sleep_forever()
    assert limit.cancelled_caught
    assert told(inner) == [1, -2]


async def test_it_can_be_entered_again() -> None:
    """It works as before when it is entered a second time; entered twice at once, it is left by the last."""
    inner = Managed()
    digest = Digest(inner)
    for numbers in (range(1, 4), range(4, 7)):
        async with digest:
            async with digest:
                await storm(digest, numbers)
            assert told(inner)[-1] == numbers[0]
        assert told(inner)[-1] == -2
    assert told(inner) == [1, -2, 4, -2]
    assert (inner.entered, inner.left) == (4, 4)


async def test_the_inner_one_that_can_not_be_entered() -> None:
    """What entering *inner* raises is raised, and nothing is left running."""
    digest = Digest(Managed(refuses=True))
    with pytest.raises(OSError, match="no"):
        await digest.__aenter__()
    assert digest._background.home is None


# -- memory


async def test_further_keys_share_a_window(caplog: pytest.LogCaptureFixture) -> None:
    """Where more windows are open than may be, all other kinds share one, and its summary says so."""
    inner = RecordingDispatcher()
    async with Digest(inner, max_keys=2) as digest:
        for number in range(1, 7):
            await storm(digest, range(number, number + 1), component=f"part {number}")
        assert told(inner) == [1, 2, 3]
        await anyio.sleep(61)
        assert told(inner) == [1, 2, 3, -3]
        await storm(digest, range(9, 10), component="part 4")
        assert told(inner) == [1, 2, 3, -3, 9]
    summary = inner.alerts[3].event
    assert "3 more alerts of kinds for which there was no room within" in summary.message
    assert summary.component is None
    assert not caplog.records


async def test_summaries_that_wait_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Of more summaries than there may be windows, the newest are lost, each with an error that tells which."""
    inner = RecordingDispatcher(wait=anyio.sleep_forever)
    async with Digest(inner, window=1.0, burst=0, max_keys=2, timeout=1e6, stop_timeout=0) as digest:
        for number in range(1, 8):
            await storm(digest, range(number, number + 1))
            await anyio.sleep(1.5)
        # One is being sent, and three wait.
        lost = [record.getMessage() for record in caplog.records]
        assert lost == [
            f"a summary of 1 alert, records {number} to {number}, is lost: 3 summaries are waiting already"
            for number in (5, 6)
        ]


async def test_a_long_component_does_not_fill_the_memory() -> None:
    """Of a component only the beginning counts and is kept."""
    inner = RecordingDispatcher()
    async with Digest(inner) as digest:
        await storm(digest, range(1, 4), component="x" * 10_000)
    assert inner.alerts[-1].event.component == "x" * 200


@pytest.mark.slow_on_trio
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 0, 1, 7, 30]), st.booleans()), max_size=60),
    st.integers(0, 2),
    st.integers(1, 3),
)
async def test_every_alert_is_told_of_once(steps: list[tuple[int, int, bool]], burst: int, max_keys: int) -> None:
    """Whatever comes when, and fails or not, each alert was raised for, sent, or counted in exactly one summary."""
    inner = RecordingDispatcher()
    raised: list[str] = []
    lost: list[int] = []

    class Telling(Digest):
        def _give_up(self, counted: Any, why: str) -> None:
            lost.append(counted.number)

    async with Telling(inner, window=10.0, burst=burst, max_keys=max_keys) as digest:
        for number, (kind, pause, fails) in enumerate(steps, 1):
            await anyio.sleep(pause)
            given = event(number, component=f"part {kind}")
            inner.error = BUSY if fails else None
            try:
                await digest.send_alert(given, severity="security")
            except TransientDeliveryError:
                raised.append(given.event_id)
        inner.error = None
    summaries = {alert.event.event_id: alert.event.metadata for alert in inner.alerts if is_summary(alert)}
    sent = [alert.event.event_id for alert in inner.alerts if not is_summary(alert)]
    counted = [event_id for each in summaries.values() for event_id in each["event_ids"]]
    assert sum(each["count"] for each in summaries.values()) + sum(lost) + len(sent) == len(steps)
    assert set(raised) <= set(sent)
    assert len(set(sent) | set(counted)) == len(sent) + len(counted)
    for each in summaries.values():
        assert len(each["event_ids"]) == min(each["count"], 20)
        assert each["count"] > 20 or each["ids_sha256"] == digest_of(each["event_ids"])


# -- the rest


def test_it_does_not_resume_and_shows_what_is_in_it() -> None:
    """It can't say what it lacks, since what it counted the inner one never had; its repr is made of that one's."""
    digest = Digest(NoopAlertDispatcher())
    assert not isinstance(digest, DurableDispatcher)
    assert repr(digest).startswith("<Digest <fapilog.core.alerting.NoopAlertDispatcher")


@pytest.mark.parametrize(
    "options",
    [
        {"window": 0},
        {"window": float("inf")},
        {"burst": -1},
        {"max_keys": 0},
        {"timeout": 0},
        {"stop_timeout": -1},
        {"stop_timeout": float("nan")},
        {"bypass": ["critcal"]},
    ],
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    """A number out of range, or an unknown severity, is refused at construction."""
    with pytest.raises(ValueError, match=r"^\w+: expected"):
        Digest(NoopAlertDispatcher(), **options)


@pytest.mark.slow_on_trio
@pytest.mark.real_time
async def test_it_keeps_the_contract() -> None:
    """It is a dispatcher as the contract says."""
    await check_dispatcher(
        lambda: Digest(RecordingDispatcher(wait=lambda: anyio.sleep(0.01)), window=0.05),
        failing=lambda: Digest(Managed(error=ValueError())),
    )
