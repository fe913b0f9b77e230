"""What is compared with what, and what is asked of it."""

from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["PEER", "Row", "Subject", "rows"]

PEER: Final = "fapilog==0.3.5"
"""The last release of the earlier fapilog that has `fapilog.core.audit`. It runs on asyncio only."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """
    Something that is measured, in a process of its own.

    Attributes:
        what: For the reader.
        function: "module:function" in this package.
        arguments: Its keywords.
        is_earlier: Whether fapilog is the earlier one there.
    """

    what: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    is_earlier: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    A line of the table for each backend.

    Attributes:
        name: For ``--only``.
        unit: Of both figures.
        ours: The subject that the row is about.
        peer: What it is compared with.
        at_least: Ours divided by the peer's must not be below.
        at_most: It must not be above.
        at_most_more: Ours minus the peer's must not be above.
        rounds: How often both are measured, in turn.
        backends: Where both are measured.
    """

    name: str
    unit: str
    ours: Subject
    peer: Subject
    at_least: float | None = None
    at_most: float | None = None
    at_most_more: float | None = None
    rounds: int = 11
    backends: tuple[str, ...] = ("asyncio", "trio")


def rows(*, quick: bool) -> list[Row]:
    """Return all rows; with *quick*, with fewer events."""
    events, large = (1_000, 100_000) if quick else (5_000, 1_000_000)
    return [
        *_storing(events),
        *_handling(events),
        *_verifying(20_000, large),
        *_asking(large),
        *_announcing(events),
        *_alerting(events // 25),
        *_hanging(events // 5),
        *_delivering(events // 5),
        *_rendering(events // 5),
        *_keeping(events, large),
        *_from_anywhere(events // 10, large),
        *_sharing(events),
        *_requesting(events),
        *_importing(),
    ]


def _from_anywhere(events: int, large: int) -> list[Row]:
    insert = Subject(
        what="an INSERT with its commit into SQLite (WAL, FULL), one thread",
        function="anywhere:inserted",
        arguments={"events": events},
    )

    def ours(threads: int) -> Subject:
        return Subject(
            what=f"trail.sync.log_event, {threads} thread{'s' if threads > 1 else ''}, an event",
            function="anywhere:logged_without_loop",
            arguments={"events": events, "threads": threads},
        )

    def together(processes: int, figure: str) -> Subject:
        return Subject(
            what=f"log_event, 10 callers in each of {processes} processes, {figure}",
            function="anywhere:logged_by_processes",
            arguments={"events": events, "processes": processes, "figure": figure},
        )

    def among(days: int) -> Subject:
        return Subject(
            what=f"log_event, one caller in each of 4 processes, {days:,} file{'s' if days > 1 else ''}",
            function="manyfiles:logged_among",
            arguments={"events": events, "days": days},
        )

    return [
        Row(name="sync-1", unit="µs", ours=ours(1), peer=insert, at_most=1.2, backends=("asyncio",)),
        *[
            Row(name=f"sync-{threads}", unit="µs", ours=ours(threads), peer=ours(1), backends=("asyncio",))
            for threads in (8, 32)
        ],
        *[
            Row(
                name=f"processes-{processes}-{figure}",
                unit="µs",
                ours=together(processes, figure),
                peer=together(1, figure),
                rounds=5,
                backends=("asyncio",),
            )
            for processes in (2, 4)
            for figure in ("cpu", "p50", "p99.9")
        ],
        *[
            Row(
                name=f"files-{days}",
                unit="events/s",
                ours=among(days),
                peer=among(1),
                at_least=0.83,
                backends=("asyncio",),
            )
            for days in (365, 2190)
        ],
        Row(
            name="first-event",
            unit="ms",
            ours=Subject(
                what=f"the first log_event after start, with {large:,} records",
                function="anywhere:first_event",
                arguments={"records": large},
            ),
            peer=Subject(what="with none", function="anywhere:first_event", arguments={"records": 0}),
            rounds=5,
        ),
        Row(
            name="pending-memory",
            unit="bytes",
            ours=Subject(
                what="an alert that waits, with its event", function="anywhere:pending", arguments={"alerts": events}
            ),
            peer=Subject(what="its event", function="anywhere:memory_of_events", arguments={"events": events}),
            rounds=3,
        ),
    ]


def _requesting(requests: int) -> list[Row]:
    def subject(what: str, how: str, requests: int) -> Subject:
        return Subject(what=what, function="requesting:handled", arguments={"requests": requests, "how": how})

    return [
        Row(
            name="asgi",
            unit="µs",
            ours=subject("a request through AuditMiddleware, no event", "middleware", 4 * requests),
            peer=subject("the application alone", "bare", 4 * requests),
            at_most_more=10,
            rounds=21,
        ),
        Row(
            name="asgi-event",
            unit="µs",
            ours=subject("a request through AuditMiddleware, with its event stored", "event", requests // 10),
            peer=subject("the application writes and syncs a line of JSON, in a thread", "line", requests // 10),
            at_most=1.3,
            rounds=21,
        ),
    ]


def _importing() -> list[Row]:
    libraries = Subject(
        what="import blinker, msgspec, anyio, and what of anyio is loaded at the first use",
        function="imports:imported",
        arguments={"statement": "import blinker, msgspec, anyio, anyio.lowlevel, anyio.to_thread"},
    )
    return [
        Row(
            name=name,
            unit="ms",
            ours=Subject(what=statement, function="imports:imported", arguments={"statement": statement}),
            peer=libraries,
            at_most=1.35,
            rounds=31,
            backends=("asyncio",),
        )
        for name, statement in (("import", "import fapilog"), ("import-trail", "from fapilog import AuditTrail"))
    ]


def _handling(events: int) -> list[Row]:
    return [
        Row(
            name="handler",
            unit="µs",
            ours=Subject(
                what="a call of a logger with AuditHandler",
                function="handling:handled",
                arguments={"events": events},
            ),
            peer=Subject(
                what="logging.FileHandler, lines as long",
                function="handling:filed",
                arguments={"events": events},
            ),
            backends=("asyncio",),
        )
    ]


def _storing(events: int) -> list[Row]:
    written = Subject(
        what='log_event, durability="write", one caller',
        function="throughput:logged",
        arguments={"events": events, "durability": "write"},
    )
    earlier = Subject(
        what="the earlier fapilog, which never syncs",
        function="throughput:logged",
        arguments={"events": events},
        is_earlier=True,
    )
    return [
        Row(name="write", unit="events/s", ours=written, peer=earlier, at_least=5),
        Row(
            name="write-logging",
            unit="events/s",
            ours=written,
            peer=Subject(
                what="logging.FileHandler, lines as long",
                function="throughput:logged_by_stdlib",
                arguments={"events": events},
            ),
        ),
        Row(
            name="fsync-100",
            unit="events/s",
            ours=Subject(
                what='log_event, durability="fsync", 100 callers',
                function="throughput:logged",
                arguments={"events": events, "callers": 100, "durability": "fsync"},
            ),
            peer=earlier,
            at_least=2,
        ),
        Row(
            name="fsync-1",
            unit="µs",
            ours=Subject(
                what='log_event, durability="fsync", one caller, median',
                function="latency:logged",
                arguments={"events": events // 10},
            ),
            peer=Subject(
                what="one thread hop that writes and syncs the same bytes, median",
                function="latency:written",
                arguments={"events": events // 10},
            ),
            at_most=1.2,
        ),
    ]


def _asking(large: int) -> list[Row]:
    grep = Subject(what="grep -c over the same files", function="asking:grepped", arguments={"records": large})

    def ours(what: str, **arguments: object) -> Subject:
        arguments = {"records": large, **arguments}
        return Subject(what=f"get_events, {what}, of {large:,}", function="asking:asked", arguments=arguments)

    return [
        # A file has no index: the first question for times reads them all, so that a wrong clock hides no record.
        Row(name="since-first", unit="ms", ours=ours("since a minute ago, a process's first"), peer=grep, rounds=5),
        Row(name="since", unit="ms", ours=ours("since a minute ago", again=True), peer=grep, at_most=0.5, rounds=5),
        Row(name="rare-user", unit="ms", ours=ours("of a rare user", user_id="nobody"), peer=grep, rounds=5),
    ]


def _verifying(records: int, large: int) -> list[Row]:
    return [
        Row(
            name="verify",
            unit="records/s",
            ours=Subject(
                what="verify_chain_from_storage", function="verification:verified", arguments={"records": records}
            ),
            peer=Subject(
                what="the earlier fapilog, the same events",
                function="verification:verified",
                arguments={"records": records},
                is_earlier=True,
            ),
            at_least=12,
        ),
        Row(
            name="verify-memory",
            unit="MiB",
            ours=Subject(
                what=f"peak memory after verifying {large:,} records",
                function="verification:peak_memory",
                arguments={"records": large},
            ),
            peer=Subject(
                what=f"after {large // 100:,}",
                function="verification:peak_memory",
                arguments={"records": large // 100},
            ),
            at_most_more=20,
            rounds=1,
        ),
        Row(
            name="verify-gap",
            unit="ms",
            ours=Subject(
                what=f"longest gap between ticks of 10 ms while {large:,} records are verified",
                function="verification:longest_gap",
                arguments={"records": large},
            ),
            peer=Subject(
                what="while nothing is done",
                function="verification:longest_gap",
                arguments={"records": large, "idle": True},
            ),
            rounds=3,
        ),
    ]


def _announcing(times: int) -> list[Row]:
    def ours(what: str, receiver: str, **arguments: Any) -> Subject:
        arguments = {"times": times, "receiver": receiver, **arguments}
        return Subject(what=f"announcing to {what}", function="announcing:announced", arguments=arguments)

    def blinker(receiver: str) -> Subject:
        arguments = {"times": times, "receiver": receiver}
        return Subject(what="blinker's send_async", function="announcing:sent_by_blinker", arguments=arguments)

    return [
        Row(
            name="announce-function",
            unit="µs",
            ours=ours("one function", "function", batch=times),
            peer=blinker("function"),
            at_most=2.5,
            rounds=21,
        ),
        Row(
            name="announce-coroutine",
            unit="µs",
            ours=ours("one coroutine function, until it has run", "coroutine"),
            peer=blinker("coroutine"),
            rounds=21,
        ),
        Row(
            name="announce-coroutine-100",
            unit="µs",
            ours=ours("one coroutine function, 100 at a time, until all have run", "coroutine", batch=100),
            peer=blinker("coroutine"),
            at_most=15,
            rounds=21,
        ),
        Row(
            name="announce-coroutine-caller",
            unit="µs",
            ours=ours("one coroutine function, until the caller goes on", "coroutine", batch=500, until_run=False),
            peer=blinker("coroutine"),
            at_most=2.5,
            rounds=21,
        ),
        Row(
            name="announce-none",
            unit="µs",
            ours=ours("nobody", "none", times=20 * times, batch=20 * times),
            peer=Subject(
                what="calling a method that does nothing",
                function="announcing:called",
                arguments={"times": 20 * times},
            ),
            at_most=1.5,
            rounds=21,
            backends=("asyncio",),
        ),
    ]


def _alerting(events: int) -> list[Row]:
    def subject(what: str, durability: str, *, posts: bool) -> Subject:
        arguments = {"events": events, "durability": durability, "posts": posts}
        return Subject(what=what, function="latency:logged_one_by_one", arguments=arguments)

    return [
        Row(
            name=f"alerting-{durability}",
            unit="µs",
            ours=subject(f'log_event of an alert to a webhook, durability="{durability}"', durability, posts=True),
            peer=subject("no dispatcher", durability, posts=False),
            at_most=1.3,
            rounds=21,
        )
        for durability in ("write", "fsync")
    ]


def _hanging(events: int) -> list[Row]:
    def subject(what: str, **arguments: Any) -> Subject:
        return Subject(what=what, function="latency:logged_alerting", arguments={"events": events, **arguments})

    return [
        Row(
            name=f"hang-{durability}-{buffer}",
            unit="µs",
            ours=subject(
                f'p99 of log_event, durability="{durability}", the dispatcher hangs, {how}',
                durability=durability,
                alert_buffer=size,
                hangs=True,
            ),
            peer=subject("no dispatcher", durability=durability, alert_buffer=size, hangs=False),
            at_most=1.2,
            rounds=21,
        )
        for durability in ("write", "fsync")
        for buffer, size, how in (("waiting", 2 * events, "alerts wait"), ("full", 10, "the buffer is full"))
    ]


def _delivering(alerts: int) -> list[Row]:
    def row(provider: str, name: str, how: str, **arguments: Any) -> Row:
        arguments = {"provider": provider, "alerts": alerts, **arguments}
        return Row(
            name=name,
            unit="µs",
            ours=Subject(what=f"an alert by {provider}{how}", function="providing:delivered", arguments=arguments),
            peer=Subject(what=f"httpx2 posts the same bytes{how}", function="providing:posted", arguments=arguments),
            at_most=1.25,
            rounds=21,
        )

    return [
        *(
            row(provider, f"deliver-{provider}", ", one after the other")
            for provider in ("webhook", "slack", "pagerduty", "opsgenie", "alertmanager")
        ),
        row("webhook", "deliver-50", ", 50 at once", at_once=50),
    ]


def _keeping(alerts: int, large: int) -> list[Row]:
    """Return the rows about the outbox."""
    return [
        Row(
            name="outbox-take",
            unit="alerts/s",
            ours=Subject(what="Outbox, 100 callers", function="outboxing:taken", arguments={"alerts": alerts}),
            peer=Subject(
                what="sqlite3, a commit for each", function="outboxing:committed", arguments={"alerts": alerts // 10}
            ),
            at_least=2,
        ),
        Row(
            name="outbox-take-beside",
            unit="alerts/s",
            ours=Subject(
                what=f"Outbox, {large:,} pending",
                function="outboxing:taken",
                arguments={"alerts": alerts, "pending": large},
            ),
            peer=Subject(what="Outbox, none pending", function="outboxing:taken", arguments={"alerts": alerts}),
            at_least=0.8,
        ),
        Row(
            name="outbox-send",
            unit="alerts/s",
            ours=Subject(
                what="Outbox(webhook), backlog", function="outboxing:drained", arguments={"alerts": 2 * alerts}
            ),
            peer=Subject(
                what="httpx2, as many at once", function="outboxing:posted_at_once", arguments={"alerts": 2 * alerts}
            ),
            at_least=0.75,
            rounds=5,
        ),
        Row(
            name="outbox-send-cpu",
            unit="alerts/s",
            ours=Subject(
                what="Outbox(webhook), backlog, a second of processor time",
                function="outboxing:drained",
                arguments={"alerts": 2 * alerts, "by_processor": True},
            ),
            peer=Subject(
                what="httpx2, as many at once",
                function="outboxing:posted_at_once",
                arguments={"alerts": 2 * alerts, "by_processor": True},
            ),
            at_least=0.75,
            rounds=5,
        ),
        Row(
            name="outbox-start",
            unit="ms",
            ours=Subject(
                what=f"Outbox, {large:,} receipts", function="outboxing:started", arguments={"delivered": large}
            ),
            peer=Subject(what="Outbox, empty", function="outboxing:started", arguments={"delivered": 0}),
            at_most_more=50,
        ),
    ]


def _sharing(events: int) -> list[Row]:
    """Return the rows about PostgreSQL."""
    return [
        Row(
            name="postgres",
            unit="events/s",
            ours=Subject(
                what="PostgresStorage, 100 callers in each of 4 processes, one trail",
                function="fleet:appended",
                arguments={"processes": 4, "callers": 100, "events": events},
            ),
            # A chain has one commit after the other, so that one process is enough to make them.
            peer=Subject(
                what="COPY of the same rows, 100 a commit",
                function="fleet:copied",
                arguments={"processes": 1, "callers": 100, "events": events},
            ),
            at_least=0.5,
            rounds=5,
        )
    ]


def _rendering(alerts: int) -> list[Row]:
    return [
        Row(
            name=f"render-{provider}",
            unit="µs",
            ours=Subject(
                what=f"writing an alert for {provider}",
                function="providing:rendered",
                arguments={"provider": provider, "alerts": alerts},
            ),
            peer=Subject(
                what="msgspec writes the event as JSON", function="providing:encoded", arguments={"alerts": alerts}
            ),
            at_most_more=100,
            backends=("asyncio",),
        )
        for provider in ("webhook", "slack", "pagerduty", "opsgenie", "alertmanager", "email", "apprise", "console")
    ]
