"""
A sign of life, signed, with the head of the chain: silence is noticed, and a cut trail can be proved from outside.

    from fapilog.proof.heartbeat import Heartbeat

    async with AuditTrail(alert_dispatcher=pager) as trail, Heartbeat(trail, webhook, key=key, interval=300):
        ...

The receiver checks the messages by `verify_heartbeat`, and compares the trail with their heads by `AuditTrail.holds`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import anyio
import msgspec

from ..core.alerting import AlertDispatcher, require_dispatcher
from ..core.audit import AuditTrail
from ..record.chain import ChainHead
from ..record.errors import reason
from ..record.events import AuditEvent
from ..record.kinds import AuditEventType, AuditLogLevel
from ..record.options import require, require_callable, require_kind, require_text
from ..record.privacy import Uncopied, without_frames
from ..record.values import kind_of
from ..tasks.background import Background, alone
from ..tasks.fork import call_in_child
from ..tasks.life import Life, enter_all, leave_all
from ..tasks.strangers import Log, contained

__all__ = ["MIN_KEY_BYTES", "Beat", "Heartbeat", "KeySource", "verify_heartbeat"]

_log: Final = Log("fapilog.delivery")

MIN_KEY_BYTES: Final = 16

KeySource = str | bytes | Callable[[], str | bytes]
"""
A key of at least `MIN_KEY_BYTES`, or a function that returns it, which is called for every heartbeat on the event loop
and must not block.

Text is encoded as UTF-8, without the space around it, such as the end of a file's line.
"""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Only characters that no destination escapes, so that the line can be found in any rendering of an alert.
_LINE: Final = re.compile(
    r"(?P<signed>fapilog-heartbeat/1 name=(?P<name>[A-Za-z0-9._-]{1,64}) time=(?P<time>[0-9T:.-]{1,40}Z)"
    r" interval=(?P<interval>[0-9.e+-]{1,32}) head=(?P<head>0:none|[1-9][0-9]{0,18}:[0-9a-f]{64}|unreadable))"
    r" signature=(?P<signature>[0-9a-f]{64})",
    re.ASCII,
)


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """
    The contents of a heartbeat.

    Attributes:
        name: The name of the sender.
        time: When the heartbeat was made, by the clock of the sender's machine; in UTC. The next is due an *interval*
            later.
        interval: Seconds from one to the next.
        head: The newest record of the trail; None if the trail could not be read.
    """

    name: str
    time: datetime
    interval: float
    head: ChainHead | None


class Heartbeat(Uncopied):
    """
    Sends a signed sign of life for a trail every *interval* seconds, the first at once, as long as it is entered.

    A heartbeat is an alert about an event of type ``compliance_check`` in the component "heartbeat", which is not
    stored. Its severity is "info", it has the `sequence_number` and `checksum` of the newest record, and its message is
    one line that says it all and is signed with HMAC-SHA256. It has no content of the records.

    If the trail can't be read the heartbeat comes without a head; the first such heartbeat is "critical". A heartbeat
    that can't be sent is logged and left out: the receiver misses it. There are never two at a time, and none takes
    longer than *interval*.

    Args:
        trail: The trail that shows its life; started or not.
        dispatcher: Takes the heartbeats to a service that notices when they do not come. Not the trail's own, unless
            that may be entered twice: if it is an asynchronous context manager, it is entered and left with this.
        key: The key that signs them.
        interval: Seconds from one to the next.
        name: The name of this sender: up to 64 of the characters ``A-Z a-z 0-9 . _ -``.
        channel: The channel that the dispatcher gets; None leaves the choice to the dispatcher.

    Raises:
        TypeError: *key* is neither text nor bytes nor callable.
        ValueError: An option is not valid. The key is not in the message. On entering: it is entered already.
    """

    @without_frames
    def __init__(
        self,
        trail: AuditTrail,
        dispatcher: AlertDispatcher,
        *,
        key: KeySource,
        interval: float = 60.0,
        name: str = "audit_trail",
        channel: str | None = None,
    ) -> None:
        require("interval", interval, above=0, finite=True)
        if not _NAME.fullmatch(require_text("name", name)):
            raise ValueError(f"name: expected 1 to 64 of the characters A-Z a-z 0-9 . _ -; got {name!r}")
        if callable(key):
            require_callable("key", key, expected="text or bytes, or what returns them")
        else:
            _revealed(key)
        if channel is not None:
            require_text("channel", channel)
        self._trail = require_kind("trail", trail, AuditTrail)
        self._dispatcher = require_dispatcher("dispatcher", dispatcher)
        self._key = key
        self._interval = float(interval)
        self._name = name
        self._channel = channel
        self._background = Background()
        self._life: Life | None = None
        self._failed = 0
        self._unreadable = False
        call_in_child(self, Heartbeat._forget)

    def __repr__(self) -> str:
        return f"<Heartbeat {self._name} of {self._trail!r} every {self._interval:g} s>"

    async def __aenter__(self) -> Self:
        if self._life is not None and not self._life.is_over:
            raise ValueError(f"heartbeat {self._name}: expected one that is not entered; got one that is")
        self._life = Life(self._running())
        await self._life.enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._life is not None  # noqa: S101 - entered
        await self._life.leave()

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        managers = [self._dispatcher] if isinstance(self._dispatcher, AbstractAsyncContextManager) else []
        lives = await enter_all(managers)
        try:
            async with self._background.open():
                self._background.start_soon(self._run)
                yield
        finally:
            await leave_all(lives)

    async def _run(self) -> None:
        due = anyio.current_time()
        while True:
            # In a task of its own: a dispatcher that cancels the task it is called in ends one heartbeat.
            await alone(self._beat)
            # By the schedule, which does not drift; a missed heartbeat is not made up for.
            late = anyio.current_time() - due
            due += self._interval * max(1, math.floor(late / self._interval))
            await anyio.sleep_until(due)

    async def _beat(self) -> None:
        failure: str | None = f"it took longer than {self._interval:g} s"
        try:
            # The border is around the function that returns the key, too.
            with anyio.move_on_after(self._interval), contained():
                await self._send(await self._head())
                failure = None
        except Exception as error:
            failure = reason(error)
        except BaseException:
            if not self._background.leaving:
                self._note("it was cancelled")
            raise
        self._note(failure)

    async def _head(self) -> ChainHead | None:
        """Return the head, or None if it can't be read, or not in half of the time that there is."""
        try:
            with anyio.move_on_after(self._interval / 2):
                return await self._trail.head()
        except Exception as error:
            why = reason(error)
        else:
            why = f"it took longer than {self._interval / 2:g} s"
        _log.error("heartbeat %s: the head of the trail can't be read: %s", self._name, why)
        return None

    async def _send(self, head: ChainHead | None) -> None:
        # Only the first is critical: it calls an engineer, and the next ones would call again and again.
        is_news = head is None and not self._unreadable
        level = AuditLogLevel.CRITICAL if is_news else AuditLogLevel.INFO
        now = datetime.now(UTC)
        event = AuditEvent(
            timestamp=now,
            event_type=AuditEventType.COMPLIANCE_CHECK,
            log_level=level,
            message=self._line(now, head),
            component="heartbeat",
            compliance_level=self._trail.policy.level,
            sequence_number=head.sequence_number if head and head.sequence_number else None,
            checksum=head.checksum if head else None,
        )
        await self._dispatcher.send_alert(event, severity=level.value, channel=self._channel)
        self._unreadable = head is None

    def _line(self, now: datetime, head: ChainHead | None) -> str:
        time = now.isoformat(timespec="microseconds").removesuffix("+00:00")
        where = "unreadable" if head is None else f"{head.sequence_number}:{head.checksum or 'none'}"
        signed = f"fapilog-heartbeat/1 name={self._name} time={time}Z interval={self._interval!r} head={where}"
        return f"{signed} signature={_signature(signed, self._key)}"

    def _note(self, failure: str | None) -> None:
        if failure is not None:
            self._failed += 1
            _log.error("heartbeat %s was not sent, %d in a row: %s", self._name, self._failed, failure)
        elif self._failed:
            _log.warning("heartbeat %s is sent again; %d were not", self._name, self._failed)
            self._failed = 0

    def _forget(self) -> None:
        # In a forked child: the tasks are the parent's.
        self._background.forget()
        self._life = None


@without_frames
def verify_heartbeat(message: str, key: KeySource) -> Beat:
    """
    Return the contents of a heartbeat, if it was signed with *key*.

    The caller must check `time`: an old heartbeat that is sent again is signed as well.

    Args:
        message: The event's message, or any text that holds it, such as the body of a mail.
        key: The sender's key.

    Raises:
        TypeError: *key* is neither text nor bytes nor callable.
        ValueError: There is no heartbeat in *message*, or several, its signature is wrong, or the key is too short.
    """
    # A mail may say it twice, as text and as HTML.
    found = {line[0]: line for line in _LINE.finditer(message)}
    if len(found) != 1:
        raise ValueError(f"message: expected one heartbeat; got {len(found)}")
    [line] = found.values()
    if not hmac.compare_digest(_signature(line["signed"], key), line["signature"]):
        raise ValueError("message: the signature is wrong; it was made with another key, or of something else")
    number, _, checksum = line["head"].partition(":")
    return Beat(
        name=line["name"],
        time=datetime.fromisoformat(line["time"]),
        interval=float(line["interval"]),
        head=ChainHead(int(number), None if checksum == "none" else checksum) if checksum else None,
    )


def _signature(signed: str, key: KeySource) -> str:
    return hmac.new(_revealed(key() if callable(key) else key), signed.encode(), hashlib.sha256).hexdigest()


def _revealed(key: str | bytes) -> bytes:
    """Return the bytes of *key*."""
    if isinstance(key, str):
        key = key.strip().encode(errors="surrogatepass")
    if not isinstance(key, bytes):
        raise TypeError(f"key: expected text or bytes, or a function that returns them; got {kind_of(key)}")
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"key: expected at least {MIN_KEY_BYTES} bytes; got {len(key)}")
    return key
