"""
The errors of this package.

FapilogError
├── AuditStorageError            the event is not stored, or the trail can't be read
│   ├── StoringInterruptedError  unknown: it may be stored
│   └── TrailMismatchError       records can't be copied: they do not continue the trail that is there
├── OutboxError                  the file or database of an outbox can't be used
├── PanicError                   other code raised what is no ordinary Exception
├── ConfigError                  a configuration does not describe a trail: `fapilog.config`
└── DeliveryError                the alert was not delivered
    ├── TransientDeliveryError   trying again may help
    ├── PermanentDeliveryError   trying again will not help
    │   └── BrokenRouteError     no alert can arrive by this route
    ├── AmbiguousDeliveryError   unknown: it may have arrived
    ├── AlertTimeoutError        the dispatcher took longer than `alert_timeout`
    ├── AlertBufferFullError     more alerts were waiting than `alert_buffer`
    ├── AlertCancelledError      the dispatcher cancelled the task it was called in
    └── AlertStoppedError        the trail was stopped first

The messages are made here, hold no secret and nothing of the event but its place in the trail, so they may be printed.
"""

from __future__ import annotations

from typing import Final

from .values import text

__all__ = [
    "AlertBufferFullError",
    "AlertCancelledError",
    "AlertStoppedError",
    "AlertTimeoutError",
    "AmbiguousDeliveryError",
    "AuditStorageError",
    "BrokenRouteError",
    "DeliveryError",
    "FapilogError",
    "OutboxError",
    "PanicError",
    "PermanentDeliveryError",
    "StoringInterruptedError",
    "TrailMismatchError",
    "TransientDeliveryError",
    "reason",
]


class FapilogError(Exception):
    """Base of all errors of this package."""


class AuditStorageError(FapilogError):
    """
    Raised when an event could not be stored, or the trail could not be read.

    The message names the place and the reason. In three cases it says that the event may be stored all the same: the
    disk failed to write it and then failed to take it back, the event loop was ended in the middle, or a database did
    not answer to a commit, and did not come back in time.
    """


class StoringInterruptedError(AuditStorageError):
    """
    Raised when the event may be stored or not, for the call that stores it was ended from outside.

    A signal handler, such as that of Ctrl-C or of a time limit, has raised in another thread, which was storing the
    events of several callers; or the event loop was ended, the stack was full, or the memory. It is no failure of the
    storage.
    """

    def __init__(self, message: str = "interrupted while storing: the event may be stored or not") -> None:
        super().__init__(message)


class TrailMismatchError(AuditStorageError):
    """
    Raised when records can't be copied, for they are not the next ones of the trail that is there.

    The source is damaged, or the target is another trail: another program writes to it, or it was restored. A retry
    will not help until an operator has decided which of the two is right. Nothing was changed.
    """


class OutboxError(FapilogError):
    """Raised when the file or database of an outbox could not be used. The message names it, and the reason."""


class PanicError(FapilogError):
    """
    Takes the place of an exception of a dispatcher, a receiver or a storage that is no ordinary `Exception`.

    For example a CancelledError, although the task was not cancelled, a GeneratorExit, the panic of an extension
    module, or an exception that claims to be of another class; its `__cause__` is the original exception.

    Args:
        name: The qualified name of the class that was raised.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"it raised {name}, which is no ordinary Exception")


class DeliveryError(FapilogError):
    """
    Raised when an alert was not delivered.

    A dispatcher may raise it or any other exception. The text of a `DeliveryError` is logged, so it must hold no
    secret; of any other exception only the type is logged, since its text may hold the address of a webhook.
    """


class TransientDeliveryError(DeliveryError):
    """
    Raised when the alert did not arrive, and may arrive if it is sent again.

    Args:
        message: The failure in words, without a secret.
        retry_after: Seconds to wait first, if the other side gave a time; None leaves it to the caller.
    """

    # Also of a subclass that does not call this constructor.
    retry_after: float | None = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentDeliveryError(DeliveryError):
    """Raised when the alert did not arrive, and will not until a setting is changed, which the message names."""


class BrokenRouteError(PermanentDeliveryError):
    """
    Raised when the route to the target is broken: no alert can arrive until an operator mends it.

    A proxy or a firewall answers in the target's place, the address is gone, or the credentials are refused. The alert
    itself is as good as before. An `Outbox` keeps its alerts, and tries one of them now and then.
    """


class AmbiguousDeliveryError(DeliveryError):
    """
    Raised when the alert may have arrived: it was sent, and no answer came.

    Args:
        message: The failure in words, without a secret.
        repeatable: Whether it may be sent again without harm, since the other side knows it by a key and takes it once.
            Otherwise it may be seen twice.
    """

    repeatable: bool = False

    def __init__(self, message: str, *, repeatable: bool = False) -> None:
        super().__init__(message)
        self.repeatable = repeatable


class AlertTimeoutError(DeliveryError):
    """Reported when the dispatcher did not return in time."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"the dispatcher did not return within {timeout:g} s")


class AlertBufferFullError(DeliveryError):
    """Reported when too many alerts were already waiting."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} alerts were waiting already")


class AlertCancelledError(DeliveryError):
    """Reported when the dispatcher ended its own task, or the caller of `log_event` was cancelled while sending."""

    def __init__(self, message: str = "the dispatcher was cancelled") -> None:
        super().__init__(message)


class AlertStoppedError(DeliveryError):
    """Reported when the trail was stopped before the alert was delivered."""

    def __init__(self, message: str = "the trail was stopped first") -> None:
        super().__init__(message)


def reason(error: Exception) -> str:
    """
    Return the failure in words that may be printed.

    The words are the text of an error of this package, cut if it is very long, and the type alone of any other
    exception: its text may hold the address of a webhook, which is a secret. The type also if there is no text.
    """
    words = text(error) if isinstance(error, FapilogError) else ""
    # It is logged, and kept with every attempt; a dispatcher may have put a whole answer into it.
    return (words if len(words) <= _LONGEST_REASON else words[: _LONGEST_REASON - 1] + "…") or type(error).__qualname__


_LONGEST_REASON: Final = 2000
