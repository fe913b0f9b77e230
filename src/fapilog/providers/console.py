"""Print alerts: the dispatcher to start with, or to pipe into a program of yours. Needs no extra."""

from __future__ import annotations

import functools
import os
import sys
import threading
from typing import Final, TextIO

import msgspec

from ..record.errors import PermanentDeliveryError
from ..record.events import AuditEvent
from ..record.privacy import Uncopied, without_frames
from ..record.values import kind_of, text
from ..tasks.fork import call_in_child
from ._rendering import Disclosure, Rendered, Renderer, in_words, one_line
from ._threads import in_daemon_thread

__all__ = ["ConsoleDispatcher"]

# Seconds after which an alert that waits for its turn looks whether its caller has gone.
_LOOK: Final = 0.1
_COLORS: Final = {"warning": "33", "error": "31", "critical": "1;31", "security": "1;35"}


class ConsoleDispatcher(Uncopied):
    """
    Prints every alert: in words on a terminal, as a line of JSON elsewhere.

    On a terminal the title is coloured, unless ``NO_COLOR`` is in the environment. Printed means delivered. An alert
    that waits behind a stream that blocks, such as a pipe without a reader, is not printed if its caller is cancelled.

    Args:
        stream: The stream to print to; None is `sys.stdout` as it is when the alert comes.
        disclosure: How much of an event is printed.
        link: The way to a record, for example ``https://audit.example.com/{event_id}``.

    Raises:
        TypeError: An option is not of its type.
        ValueError: An option is not valid.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
    ) -> None:
        if stream is not None and not all(hasattr(stream, name) for name in ("write", "flush", "isatty")):
            raise TypeError(f"stream: expected a stream of text, such as sys.stderr; got {kind_of(stream)}")
        self._stream = stream
        self._render = Renderer(disclosure, link)
        self._forget()
        call_in_child(self, ConsoleDispatcher._forget)

    def _forget(self) -> None:
        # In a forked child: another thread of the parent may have held the lock.
        self._lock = threading.Lock()

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Print the alert."""
        stream = sys.stdout if self._stream is None else self._stream
        rendered = self._render(event, severity)
        channel = channel and text(channel)
        left = threading.Event()
        # In a thread, since a pipe without a reader blocks.
        write = functools.partial(self._write_in_turn, stream, rendered, channel, left)
        try:
            taken = await in_daemon_thread("console", write)
        finally:
            left.set()
        if not taken:
            raise PermanentDeliveryError("console: the stream takes nothing more; it is closed or broken")

    def _write_in_turn(
        self, stream: TextIO | None, rendered: Rendered, channel: str | None, left: threading.Event
    ) -> bool:
        # Otherwise a stream that blocks would keep one thread more for every alert.
        lock = self._lock
        while not lock.acquire(timeout=_LOOK):
            if left.is_set():
                return False
        try:
            # There is no `sys.stdout` in a process that was started with a closed one.
            return stream is not None and not left.is_set() and _write(stream, rendered, channel)
        finally:
            lock.release()


def _write(stream: TextIO, rendered: Rendered, channel: str | None) -> bool:
    try:
        words = _pretty(rendered, channel) if stream.isatty() else _json(rendered, channel)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(words.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def _json(rendered: Rendered, channel: str | None) -> str:
    parts = {
        "title": rendered.title,
        "severity": rendered.severity,
        "channel": channel,
        "link": rendered.link,
    } | rendered.details
    return msgspec.json.encode({name: value for name, value in parts.items() if value is not None}).decode() + "\n"


def _pretty(rendered: Rendered, channel: str | None) -> str:
    color = None if "NO_COLOR" in os.environ else _COLORS.get(rendered.severity)
    lines = [f"\x1b[{color}m{rendered.title}\x1b[0m" if color else rendered.title]
    if rendered.message:
        lines += [f"  {line}" for line in rendered.message.splitlines()]
    shown = {
        name: value for name, value in rendered.details.items() if name not in {"event_type", "log_level", "message"}
    }
    shown |= {name: value for name, value in (("channel", channel), ("link", rendered.link)) if value}
    width = max(map(len, shown))
    for name, value in shown.items():
        lines.append(f"  {name:<{width}}  {one_line(in_words(value))}")
    return "\n".join(lines) + "\n\n"
