"""A check of a provider that speaks HTTP: its requests, and the errors that it raises for the answers."""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final, TypeVar

import msgspec

from ..core.alerting import AlertDispatcher
from ..record.errors import AmbiguousDeliveryError, DeliveryError, PermanentDeliveryError, TransientDeliveryError
from ..record.events import AuditEvent
from ..record.kinds import AuditLogLevel
from ..record.values import tags
from ._contract import Subject, an_event, check, check_dispatcher, hidden_in_logs
from ._origin import Answer, Fault, Origin, Request

__all__ = ["Limit", "check_provider"]

T = TypeVar("T")
Kind = type[DeliveryError] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """
    How much of a text the other side takes.

    Attributes:
        field: The field of an `AuditEvent` that the text comes from: "message".
        most: The longest text that the other side takes.
        read: Returns the text as it was sent. Its length counts: a str in code points, bytes in bytes.
        letter: The letter that the text repeats.
    """

    field: str
    most: int
    read: Callable[[Request], str | bytes]
    letter: str = "q"


async def check_provider(
    make: Callable[[str], AlertDispatcher],
    *,
    accepts: Answer | None = None,
    outcomes: Iterable[tuple[Answer, Kind]] = (),
    key: Callable[[Request], object] | None = None,
    severity: Callable[[Request], int] | None = None,
    limits: Iterable[Limit] = (),
    valid: Callable[[Request], object] | None = None,
    secrets: Iterable[str] = (),
    timeout: float = 5.0,
) -> None:
    """
    Check that a provider over HTTP keeps its promises, against an `Origin`; return if it does.

    Every clause has a name, which a failure begins with:

    - *contract*: `check_dispatcher` passes: every kind of event, hostile text, calls at once, cancellation wherever it
      waits.
    - *outcome*: it returns when the alert was taken, also if the answer is compressed, or labelled with a wrong
      encoding; for 408, 429 and 5xx, and if the connection is refused, it raises `TransientDeliveryError`; for any
      other 4xx, for a redirect, which it does not follow, and for a sign-in page with a 200, `PermanentDeliveryError`,
      or better `BrokenRouteError` where the content is not the reason; when the request was sent and no answer came,
      `AmbiguousDeliveryError`. An answer that is cut off after a status that accepts may count as either.
    - *retry-after*: `retry_after` has the header of a 429 and of a 503: seconds, with a fraction or without, or a date.
    - *deadline*: if the other side hangs, or drips its answer, it gives up within *timeout*.
    - *key*: the key by which the other side recognises an alert is the same for the same event, from another dispatcher
      too, and a different one for another event.
    - *severity*: a more severe event is never less severe over there, and "critical" is more than "debug".
    - *limit*: a text arrives whole as long as the other side takes it, and a longer text arrives cut.
    - *valid*: the other side takes all these requests.

    In all clauses, no secret is shown by a `repr`, an exception, its causes, or a log at DEBUG, also when an answer
    repeats it; otherwise the failure says *secrets*.

    It needs real time and a real event loop, so no clock that jumps; run it on asyncio and on trio.

    Args:
        make: Makes a dispatcher that sends to an address, which is given without a slash at the end. Let its own limit
            in time be well below *timeout*.
        accepts: The answer of the other side to an alert that it takes; None is a 200 with "ok".
        outcomes: Further answers, with the exception that the provider should raise; None for none. An answer replaces
            the rule above for its status, or for its fault if it has one.
        key: Returns the key by which the other side recognises an alert; None if it has none.
        severity: Returns the rank of an alert over there, higher for more severe; None if it knows no severities.
        limits: The limits of texts.
        valid: Raises if the other side would not take a request: too large, malformed, with markup in it.
        secrets: Secret texts, or parts of them, that *make* gives to a dispatcher.
        timeout: Seconds that a call may take.

    Raises:
        AssertionError: It does not. The message begins with the clause, and with the expectation.
    """
    kit = _Kit(make, accepts or Answer(), tags(secrets), timeout)
    rows = list(outcomes)
    with kit.clause("contract") as origin:
        await check_dispatcher(lambda: make(origin.base_url), secrets=kit.secrets, timeout=timeout)
    with kit.clause("outcome") as origin:
        await kit.check(origin, lambda subject: _tells_the_truth(kit, origin, subject, rows))
    # Bound, so that no other process gets the port meanwhile, and not listening.
    with kit.clause("outcome"), socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        await check(make(url), _misses_the_other_side, kit.secrets, timeout)
    with kit.clause("retry-after") as origin:
        await kit.check(origin, lambda subject: _heeds_retry_after(origin, subject, rows))
    with kit.clause("deadline") as origin:
        await kit.check(origin, lambda subject: _gives_up(kit, origin, subject, rows))
    if key is not None:
        with kit.clause("key") as origin:
            await _keeps_its_key(kit, origin, key)
    if severity is not None:
        with kit.clause("severity") as origin:
            await kit.check(origin, lambda subject: _keeps_the_order(origin, subject, severity))
    with kit.clause("limit") as origin:
        for limit in limits:
            await kit.check(origin, lambda subject, limit=limit: _keeps_within(origin, subject, limit))  # type: ignore[misc]
    if valid is not None:
        for request in kit.requests:
            _read(valid, request, "valid: ")


class _Kit:
    """The values that all clauses share."""

    def __init__(
        self,
        make: Callable[[str], AlertDispatcher],
        accepts: Answer,
        secrets: tuple[str, ...],
        timeout: float,
    ) -> None:
        self.make = make
        self.accepts = accepts
        self.secrets = secrets
        self.timeout = timeout
        self.requests: list[Request] = []

    @contextmanager
    def clause(self, name: str) -> Generator[Origin]:
        """Run an origin for the clause *name*, which a failure begins with."""
        failure: AssertionError | None = None
        origin = Origin()
        try:
            with hidden_in_logs(self.secrets), origin:
                origin.script(self.accepts)
                yield origin
        except AssertionError as error:
            failure = error
        if failure is not None:
            raise AssertionError(f"{name}: {failure}") from failure.__cause__
        self.requests += origin.requests

    async def check(self, origin: Origin, clause: Callable[[Subject], Awaitable[None]]) -> None:
        """Check a clause of a dispatcher of its own that sends to *origin*."""
        await check(self.make(origin.base_url), clause, self.secrets, self.timeout)


def _read(read: Callable[[Request], T], request: Request, clause: str = "") -> T:
    try:
        return read(request)
    except Exception as error:
        raise AssertionError(f"{clause}a request should be as expected; {type(error).__qualname__}: {error}") from error


async def _sent(origin: Origin, subject: Subject, event: AuditEvent) -> Request:
    """Deliver *event*, and return the first request that it made."""
    before = len(origin.requests)
    await subject.deliver(event)
    if len(origin.requests) == before:
        raise AssertionError("an alert should come to the other side before send_alert returns")
    return origin.requests[before]


def _expect(error: Exception | None, expected: tuple[Kind, ...], seen: str) -> None:
    if not any(error is None if kind is None else isinstance(error, kind) for kind in expected):
        names = " or ".join("return" if kind is None else f"raise {kind.__name__}" for kind in expected)
        did = "returned" if error is None else f"raised {type(error).__qualname__}"
        raise AssertionError(f"send_alert should {names} after {seen}; it {did}")


def _overridden(rows: Iterable[tuple[Answer, Kind]]) -> set[int | Fault]:
    return {answer.fault or answer.status for answer, _ in rows}


async def _tells_the_truth(kit: _Kit, origin: Origin, subject: Subject, rows: list[tuple[Answer, Kind]]) -> None:
    # A careless provider shows the text of the answer.
    echo = " ".join(["no such address", *kit.secrets]).encode()
    headers = {"location": f"{origin.base_url}{_ELSEWHERE}"}
    table: list[tuple[Answer, tuple[Kind, ...], str]] = [
        *((Answer(status, echo, headers), (kind,), f"status {status}") for status, kind in _STATUSES),
        (Answer(200, _PAGE, {"content-type": "text/html"}), (PermanentDeliveryError,), "status 200 and a sign-in page"),
        *((_faulty(kit, fault), kinds, f"the fault {fault!r}") for fault, kinds in _FAULTS),
    ]
    overridden = _overridden(rows)
    table = [row for row in table if (row[0].fault or row[0].status) not in overridden]
    for label, pack in _LABELS.items() if kit.accepts.body else ():
        labelled = {**kit.accepts.headers, "content-encoding": label}
        answer = Answer(kit.accepts.status, pack(kit.accepts.body), labelled)
        table.append((answer, (None,), f"an answer that takes the alert, with Content-Encoding: {label}"))
    for answer, kind in [(kit.accepts, None), *rows]:
        seen = f"the fault {answer.fault!r}" if answer.fault else f"status {answer.status} and {answer.body[:60]!r}"
        table.append((answer, (kind,), seen))
    for answer, kinds, seen in table:
        origin.script(answer)
        error = await subject.outcome(an_event())
        if any(request.path == _ELSEWHERE for request in origin.requests):
            raise AssertionError("a redirect should not be followed")
        _expect(error, kinds, seen)


async def _misses_the_other_side(subject: Subject) -> None:
    _expect(await subject.outcome(an_event()), (TransientDeliveryError,), "a connection that was refused")


async def _heeds_retry_after(origin: Origin, subject: Subject, rows: list[tuple[Answer, Kind]]) -> None:
    for status in {429, 503} - _overridden(rows):
        for given, least, most in (("7", 7, 7), ("0.75", 0.75, 0.75), ("", 80, 90)):
            now = time.time()
            headers = {"date": formatdate(now, usegmt=True), "retry-after": given or formatdate(now + 90, usegmt=True)}
            origin.script(Answer(status, b"later", headers))
            error = await subject.outcome(an_event())
            seconds = error.retry_after if isinstance(error, TransientDeliveryError) else None
            if seconds is None or not least <= seconds <= most:
                raise AssertionError(
                    f"TransientDeliveryError should have a retry_after of {most:g} s after status {status} with"
                    f" Retry-After: {headers['retry-after']}; got {seconds!r}"
                )


async def _gives_up(kit: _Kit, origin: Origin, subject: Subject, rows: list[tuple[Answer, Kind]]) -> None:
    overridden = _overridden(rows)
    for fault, kinds in _HANGS:
        if fault not in overridden:
            origin.script(_faulty(kit, fault))
            _expect(await subject.outcome(an_event()), kinds, f"the fault {fault!r}")


def _faulty(kit: _Kit, fault: Fault) -> Answer:
    # Long enough to be cut, and to drip for longer than a call may take; white space changes no JSON.
    body = kit.accepts.body + b" " * (int(kit.timeout / 0.05) * 2)
    return Answer(kit.accepts.status, body, kit.accepts.headers, fault)


async def _keeps_its_key(kit: _Kit, origin: Origin, key: Callable[[Request], object]) -> None:
    keys: list[object] = []
    event = an_event()
    # As it is read from the trail again, by another process.
    again = msgspec.json.decode(msgspec.json.encode(event), type=AuditEvent)
    other = msgspec.structs.replace(event, event_id=an_event().event_id)

    async def send(subject: Subject, *events: AuditEvent) -> None:
        keys.extend([_read(key, await _sent(origin, subject, each)) for each in events])

    await kit.check(origin, lambda subject: send(subject, event, event, other))
    await kit.check(origin, lambda subject: send(subject, again))
    first, second, different, later = keys
    if not first == second == later:
        raise AssertionError("it should be the same for the same event, from another dispatcher too")
    if first == different:
        raise AssertionError("it should be another one for another event")


async def _keeps_the_order(origin: Origin, subject: Subject, severity: Callable[[Request], int]) -> None:
    ranks: dict[str, int] = {}
    for level in AuditLogLevel:
        ranks[level.value] = _read(severity, await _sent(origin, subject, an_event(log_level=level)))
    values = list(ranks.values())
    if values != sorted(values) or ranks["debug"] >= ranks["critical"]:
        raise AssertionError(f"the order should be kept; the ranks over there are {ranks}")


async def _keeps_within(origin: Origin, subject: Subject, limit: Limit) -> None:
    async def send(count: int) -> tuple[int, bool]:
        """Return how long the text has arrived, and whether it is whole."""
        text = limit.letter * count
        event = msgspec.structs.replace(an_event(), **{limit.field: text})
        read = _read(limit.read, await _sent(origin, subject, event))
        return len(read), (text.encode() in read if isinstance(read, bytes) else text in read)

    (one, _), (two, _) = await send(1), await send(2)
    weight = two - one
    if weight < 1:
        raise AssertionError(f"{limit.field} should be in the text that is read")
    fits = (limit.most - one) // weight + 1
    for count in (fits - 1, fits, fits + 1, fits * 10):
        length, whole = await send(count)
        if length > limit.most:
            raise AssertionError(f"{limit.field} should have at most {limit.most} over there; it has {length}")
        if count <= fits and not whole:
            raise AssertionError(f"{limit.field} should be whole with {one + weight * (count - 1)} of {limit.most}")


_ELSEWHERE: Final = "/fapilog-redirected"
_PAGE: Final = b"<!doctype html><html><head><title>Sign in</title></head><body><form></form></body></html>"
_LABELS: Final[Mapping[str, Callable[[bytes], bytes]]] = {"gzip": gzip.compress, "utf-8": bytes}

_STATUSES: Final[tuple[tuple[int, type[DeliveryError]], ...]] = (
    *((status, TransientDeliveryError) for status in (408, 429, 500, 502, 503, 504)),
    *((status, PermanentDeliveryError) for status in (301, 302, 303, 307, 308)),
    *((status, PermanentDeliveryError) for status in (400, 401, 403, 404, 405, 407, 410, 413, 451)),
)
_FAULTS: Final[tuple[tuple[Fault, tuple[Kind, ...]], ...]] = (
    ("reset_before_answering", (AmbiguousDeliveryError,)),
    ("close_before_answering", (AmbiguousDeliveryError,)),
    ("half_closed", (AmbiguousDeliveryError,)),
    ("not_http", (AmbiguousDeliveryError,)),
    ("reset_in_body", (AmbiguousDeliveryError, None)),
    ("close_in_body", (AmbiguousDeliveryError, None)),
)
_HANGS: Final[tuple[tuple[Fault, tuple[Kind, ...]], ...]] = (
    ("hang_before_answering", (AmbiguousDeliveryError,)),
    ("hang_in_body", (AmbiguousDeliveryError, None)),
    ("drip", (AmbiguousDeliveryError, None)),
)
