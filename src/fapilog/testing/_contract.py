"""A check of any dispatcher against the contract."""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import math
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import Any, Final, NoReturn

import anyio
import msgspec

from ..core.alerting import AlertDispatcher
from ..core.audit import AuditTrail
from ..record.errordetails import ErrorDetails
from ..record.errors import DeliveryError, PanicError
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel
from ..record.values import kind_of, tags
from ..tasks.strangers import contained

__all__ = ["Cancelled", "Subject", "an_event", "at_once", "check", "check_dispatcher", "hidden_in_logs", "printed"]


async def check_dispatcher(
    make: Callable[[], AlertDispatcher],
    *,
    failing: Callable[[], AlertDispatcher] | None = None,
    secrets: Iterable[str] = (),
    timeout: float = 10.0,
) -> None:
    """
    Check that a dispatcher keeps the contract of `AlertDispatcher`; return if it does.

    - An `AuditTrail` takes it, and `send_alert` takes the trail's arguments: the event by position, *severity* and
      *channel* by name, and *channel* may be left out.
    - It delivers every type of event, also one of your own, and at every severity, and an event that says nothing but
      a message, and returns None. It raises only an `Exception`: no CancelledError of its own, and nothing that ends
      the process.
    - Whatever text an event holds, it delivers the alert, or raises `DeliveryError`: an attacker must not be able to
      stop the alert about an attack.
    - It does not change the event.
    - Calls overlap.
    - Wherever a call waits, cancellation ends it, and passes; the dispatcher works afterwards.
    - With *failing*: it raises when the other side does not take the alert.
    - With *secrets*: none of them is in its `repr` or `str`, in its exceptions and their causes, or in a log record.
      For this the root logger is set to DEBUG meanwhile.

    It runs on the event loop that it is called in; run it on asyncio and on trio if you support both. A call that
    shields itself from cancellation for ever makes it hang.

    Args:
        make: Makes a dispatcher whose other side takes alerts, such as a fake; every part of the check makes its own.
            An asynchronous context manager is entered first and left afterwards.
        failing: Makes a dispatcher whose other side takes no alert.
        secrets: Secret texts, or parts of them, that *make* and *failing* give to a dispatcher.
        timeout: Seconds that a call may take, and that it may take to end when it is cancelled.

    Raises:
        AssertionError: It does not. The message gives the expectation.
    """
    hidden = tags(secrets)
    with hidden_in_logs(hidden):
        for clause in _CLAUSES:
            await check(make(), clause, hidden, timeout)
        if failing is not None:
            await check(failing(), _raises_if_not_delivered, hidden, timeout)


async def check(
    dispatcher: AlertDispatcher,
    clause: Callable[[Subject], Awaitable[None]],
    secrets: tuple[str, ...],
    timeout: float,
) -> None:
    """Enter *dispatcher*, check one clause of it, and leave it."""
    failure: AssertionError | None = None
    manager = dispatcher if isinstance(dispatcher, AbstractAsyncContextManager) else nullcontext()
    async with manager:
        try:
            await clause(Subject(dispatcher, secrets, timeout))
            _require_hidden(secrets, [repr(dispatcher), str(dispatcher)], "the repr or str of the dispatcher")
        except AssertionError as error:
            # Raised outside, where no task group of the dispatcher wraps it.
            failure = error
    if failure is not None:
        raise failure


class Subject:
    """The dispatcher that is checked, and the checks of every call."""

    def __init__(self, dispatcher: AlertDispatcher, secrets: tuple[str, ...], timeout: float) -> None:
        self.dispatcher = dispatcher
        self.timeout = timeout
        self._secrets = secrets

    def call(self, event: AuditEvent, **channel: str | None) -> Coroutine[Any, Any, object]:
        """Call the dispatcher about *event*, as the trail does."""
        return self.dispatcher.send_alert(event, severity=event.log_level.value, **channel)

    async def outcome(self, event: AuditEvent, **channel: str | None) -> Exception | None:
        """Send *event*, and return the exception; fail if the call breaks the contract."""
        before = msgspec.json.encode(event)
        returned: object = None
        raised: Exception | None = None
        with anyio.move_on_after(self.timeout) as limit:
            try:
                with contained():
                    returned = await self.call(event, **channel)
            except PanicError as error:
                # Also a CancelledError of its own, although the call was not cancelled.
                self.fail("raise nothing but exceptions of class Exception", because=error.__cause__)
            except SystemExit as error:
                self.fail("raise nothing but exceptions of class Exception", because=error)
            except Exception as error:
                raised = error
        if anyio.current_time() >= limit.deadline:
            self.fail(f"return within {self.timeout:g} s")
        if returned is not None:
            self.fail(f"return None, and not {kind_of(returned)}")
        if msgspec.json.encode(event) != before:
            self.fail("leave the event as it is")
        if raised is not None:
            _require_hidden(self._secrets, printed(raised), "an exception")
        return raised

    async def deliver(self, event: AuditEvent, **channel: str | None) -> None:
        """Send *event*, and fail if anything is raised."""
        error = await self.outcome(event, **channel)
        if error is not None:
            self.fail(f"deliver an alert of type {event.event_type.value} and severity {event.log_level.value}", error)

    def fail(self, expected: str, because: BaseException | None = None) -> NoReturn:
        """Raise an AssertionError: `send_alert` should do as *expected*, and raised *because* instead."""
        if because is None:
            raise AssertionError(f"send_alert should {expected}")
        _require_hidden(self._secrets, printed(because), "an exception")
        raise AssertionError(f"send_alert should {expected}; it raised {type(because).__qualname__}") from because


async def _is_taken_by_the_trail(subject: Subject) -> None:
    try:
        AuditTrail(alert_dispatcher=subject.dispatcher)
    except TypeError as error:
        raise AssertionError(str(error)) from None
    try:
        inspect.signature(subject.dispatcher.send_alert).bind(an_event(), severity="info")
    except TypeError as error:
        raise AssertionError(
            f"send_alert should take (event, *, severity, channel=None); given severity: {error}"
        ) from None


async def _delivers_every_kind(subject: Subject) -> None:
    channels: Iterator[dict[str, str | None]] = itertools.cycle(({}, {"channel": None}, {"channel": "#on-call"}))
    for event_type, log_level in zip(AuditEventType, itertools.cycle(AuditLogLevel), strict=False):
        await subject.deliver(an_event(event_type, log_level), **next(channels))
    await subject.deliver(an_event(AuditEventType("billing.refund")))
    error = await subject.outcome(
        AuditEvent(
            event_type=AuditEventType.SECURITY_VIOLATION,
            message="someone opened the safe",
            sequence_number=1,
            checksum="0" * 64,
        )
    )
    if error is not None:
        subject.fail("deliver an alert about an event that says nothing but its message", error)


async def _delivers_any_text(subject: Subject) -> None:
    for words in _WORDS:
        error = await subject.outcome(an_event(words=words))
        if error is not None and not isinstance(error, DeliveryError):
            subject.fail(f"deliver an alert that says {words[:30]!r}, or refuse it with a DeliveryError", error)


async def _overlaps(subject: Subject) -> None:
    events = [an_event(words=f"overlapping call {number}") for number in range(_CALLS_AT_ONCE)]
    try:
        await at_once(functools.partial(subject.deliver, event) for event in events)
    except AssertionError as failure:
        raise AssertionError(f"calls should overlap; of {_CALLS_AT_ONCE} at once one failed") from failure


async def at_once(calls: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Make all *calls*, and raise the first failure as it is: no task group wraps it."""
    failures: list[AssertionError] = []

    async def make(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except AssertionError as failure:
            failures.append(failure)

    async with anyio.create_task_group() as tasks:
        for call in calls:
            tasks.start_soon(make, call)
    if failures:
        raise failures[0]


async def _lets_cancellation_pass(subject: Subject) -> None:
    for wait in range(_MOST_WAITS):
        call = Cancelled(subject.call(an_event()), wait)
        error = await call.run(subject.timeout)
        if error is not None:
            subject.fail("let a cancellation pass", error)
        if call.deaf:
            subject.fail(f"end within {subject.timeout:g} s when it is cancelled")
        if call.told and not call.scope.cancelled_caught:
            subject.fail("let a cancellation pass, and not return as if the alert were delivered")
        await subject.deliver(an_event(words="after a cancellation"))
        if not call.scope.cancel_called:
            return


async def _raises_if_not_delivered(subject: Subject) -> None:
    if await subject.outcome(an_event()) is None:
        subject.fail("raise if the other side does not take the alert: returning means that it has it")


_CLAUSES: Final = (
    _is_taken_by_the_trail,
    _delivers_every_kind,
    _delivers_any_text,
    _overlaps,
    _lets_cancellation_pass,
)

# As many as a trail makes by default.
_CALLS_AT_ONCE: Final = 8
# If a call waits more often, only the first waits are tried.
_MOST_WAITS: Final = 100
# A cancelled call is cancelled again whenever it waits; a call that still goes on after so many times ignores it.
_MOST_TELLINGS: Final = 100

_WORDS: Final = (
    "",
    "\x00 and \x1b[31m and \x7f",
    "half a pair \ud83d",
    "one\r\nBcc: everyone@example.com\n\n.\n",
    "\u202eright to left, \u2028 and \ufeff",
    "<!channel> <@U123> @everyone &amp; </b><script>alert(1)</script>",
    "%s %(name)s %n {0} {name} ${name} {{ name }} `id` $(id) \\",
    "\"quoted\" and 'quoted'; -- ]]> */",
    "[look](https://evil.example) https://evil.example/ `code` *bold* _it_ ~no~ \n# head\n- item\n> said",
    "\U0001f9d1\u200d\U0001f692 e\u0301 \uffff",
    "long " * 20_000,
)


def an_event(
    event_type: AuditEventType = AuditEventType.SECURITY_VIOLATION,
    log_level: AuditLogLevel = AuditLogLevel.CRITICAL,
    words: str = "someone opened the safe",
) -> AuditEvent:
    """Return a stored event that says *words* wherever an event can say anything."""
    return AuditEvent(
        event_type=event_type,
        log_level=log_level,
        message=words,
        component=words,
        operation=words,
        user_id=words,
        session_id=words,
        request_id=words,
        client_ip=words,
        user_agent=words,
        error=ErrorDetails.of(ValueError(words)),
        data_classification=words,
        regulatory_tags=(words,),
        metadata={words: words, "nested": {"list": [words, 1, None, 0.5, True]}},
        sequence_number=1,
        checksum="0" * 64,
    )


class Cancelled:
    """
    A call that is cancelled while it waits.

    Attributes:
        scope: Is cancelled when the call waits.
        told: Whether the cancellation was delivered at that wait.
        deaf: Whether the call ignored the cancellation again and again, or for too long.
    """

    def __init__(self, call: Coroutine[Any, Any, object], wait: int) -> None:
        self._call = call
        self._wait = wait
        self._tellings = 0
        self.scope = anyio.CancelScope()
        self.told = False
        self.deaf = False

    async def run(self, within: float) -> Exception | None:
        """Await the call inside of its scope, for so many seconds at most, and return the exception that it raised."""
        with anyio.move_on_after(within) as limit:
            try:
                with self.scope:
                    await self
            except Exception as error:
                return error
        self.deaf |= anyio.current_time() >= limit.deadline
        return None

    def __await__(self) -> Generator[Any, Any, None]:
        """Stand between the call and the event loop, any event loop: a call yields when it waits."""
        step = functools.partial(self._call.send, None)
        for wait in itertools.count():
            try:
                request = step()
            except StopIteration:
                return
            reached = wait == self._wait and self._cancel()
            try:
                answer = yield request
            except BaseException as raised:
                error: object = raised
                step = functools.partial(self._call.throw, raised)
            else:
                # Trio does not throw an error, but answers with it, as an `outcome.Error`.
                error = getattr(answer, "error", None)
                step = functools.partial(self._call.send, answer)
            if self.scope.cancel_called and isinstance(error, anyio.get_cancelled_exc_class()):
                self.told |= reached
                self._tellings += 1
                if self._tellings > _MOST_TELLINGS:
                    self.deaf = True
                    self._call.close()
                    raise error

    def _cancel(self) -> bool:
        """Cancel the call, and return whether that reaches it: not behind a shield, nor where it cancelled itself."""
        before = anyio.current_effective_deadline()
        self.scope.cancel()
        return before > -math.inf and anyio.current_effective_deadline() == -math.inf


def printed(error: BaseException) -> Iterator[str]:
    """Yield all texts that a report of *error* and of its causes may print."""
    yield "".join(traceback.format_exception(error))
    behind: list[BaseException | None] = [error]
    seen: set[int] = set()
    while behind:
        each = behind.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield from (str(each), repr(each))
        behind += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]


def _require_hidden(secrets: tuple[str, ...], texts: Iterable[str], where: str) -> None:
    for text, (number, secret) in itertools.product(texts, enumerate(secrets, 1)):
        if secret in text:
            raise AssertionError(f"secrets should stay hidden; {where} shows number {number} of them")


@contextmanager
def hidden_in_logs(secrets: tuple[str, ...]) -> Generator[None]:
    if not secrets:
        yield
        return
    handler = _ToList()
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
    for name, text in handler.texts:
        _require_hidden(secrets, [text], f"a record of the logger {name}")


class _ToList(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [(record.name, self.format(record)), (record.name, repr(vars(record)))]
