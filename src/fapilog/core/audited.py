"""Recording how a block of code, or every call of a function, ends: `Audited`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import anyio

from .._typos import look_for_typos
from ..record.errors import reason
from ..record.events import data_event_type
from ..record.intake import CHECKS
from ..record.keywords import keywords
from ..record.kinds import AuditEventType, AuditLogLevel, AuditOutcome, member
from ..record.later import imported_later
from ..record.options import is_async, require_decorated
from ..record.values import given_text, kind_of
from ..tasks.strangers import Log

if TYPE_CHECKING:
    from .audit import AuditTrail
else:
    AuditTrail = imported_later("fapilog.core.audit", "AuditTrail")

__all__ = ["Audited"]

# Recording a failure delays the exception: a storage that hangs must not keep a cancelled task.
_SECONDS_TO_RECORD: Final = 5.0

_log: Final = Log("fapilog")

F = TypeVar("F", bound=Callable[..., Any])


class Audited:
    """
    Records one event when the block under ``with`` or ``async with`` ends, or per call of a function under ``@``.

        async with trail.audited("export", target="report/7") as audit:
            audit.add(rows=await export())

        @trail.audited("delete", target="cache")
        def clear() -> None: ...

    The outcome is success; or, when an exception ends the block, failure, or denied for a `PermissionError`. A
    cancellation is a failure too. The exception is in the event and is raised on, whether or not the event can be
    stored: if not, that is logged; after a success, an event that can't be stored raises `AuditStorageError`.

    A plain function, and ``with``, record by `AuditTrail.sync`, which blocks an event loop in the same thread. A
    generator is no block: use ``with`` inside of it. An object serves one block, entered once: call
    `AuditTrail.audited` anew for the next block or task.

    Raises:
        TypeError: A field is not of its type, as for `AuditTrail.log_event`.
        ValueError: An unknown type, level or outcome, likewise.
        RuntimeError: On entering: it was entered before. What one block adds would be in the event of another.
    """

    def __init__(self, trail: AuditTrail, operation: str, fields: dict[str, Any]) -> None:
        if callable(operation):
            words = 'expected the name of the operation, as in @trail.audited("export")'
            raise TypeError(f"operation: {words}; got {kind_of(operation)}")
        self._trail = trail
        self._operation = operation
        self._fields: dict[str, Any] = {}
        self._begun: float | None = None
        self.add(**fields)

    def add(self, **fields: Any) -> None:
        """
        Add *fields* to the event: members of an event, its type and message, and other values as metadata.

        Raises:
            TypeError: As for `AuditTrail.log_event`, and at once: when the block has ended, it is too late to refuse.
            ValueError: Likewise.
        """
        if fields.get("event_type") is not None:
            member(AuditEventType, fields["event_type"], "event_type")
        for name, value in fields.items():
            if name in CHECKS and value is not None:
                CHECKS[name](name, value)
        if self._trail.policy.strict:
            look_for_typos(fields.keys() - {"event_type"}, strict=True)
        self._fields |= fields

    def __enter__(self) -> Self:
        if self._begun is not None:
            raise RuntimeError("audited: expected a block of its own; got one that was entered before")
        self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        event_type, message, fields = self._ended(error)
        try:
            self._trail.sync.log_event(event_type, message, **fields)
        except Exception as failure:
            if error is None:
                raise
            _complain(reason(failure))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        event_type, message, fields = self._ended(error)
        try:
            if error is None:
                await self._trail.log_event(event_type, message, **fields)
            else:
                # That it was cancelled is recorded too.
                with anyio.move_on_after(_SECONDS_TO_RECORD, shield=True) as scope:
                    await self._trail.log_event(event_type, message, **fields)
                if scope.cancelled_caught:
                    _complain(f"storing it took more than {_SECONDS_TO_RECORD:g} s")
        except Exception as failure:
            if error is None:
                raise
            _complain(reason(failure))

    def __call__(self, function: F) -> F:
        """
        Return *function*, asynchronous or not, with every call recorded.

        Raises:
            TypeError: It is no function, or a generator: its success would be recorded before it began.
        """
        require_decorated(function)

        @functools.wraps(function)
        async def wait(*args: Any, **kwargs: Any) -> Any:
            async with self._again():
                return await function(*args, **kwargs)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return cast("F", wait if is_async(function) else call)

    def _again(self) -> Audited:
        return Audited(self._trail, self._operation, dict(self._fields))

    def _ended(self, error: BaseException | None) -> tuple[Any, str, dict[str, Any]]:
        fields = dict(self._fields)
        seconds = round(time.monotonic() - (self._begun or 0.0), 6)
        outcome, words, level = AuditOutcome.SUCCESS, "succeeded", AuditLogLevel.INFO
        # Not by `isinstance`, which asks an exception for its `__class__`.
        if issubclass(type(error), PermissionError):
            outcome, words, level = AuditOutcome.DENIED, "was denied", AuditLogLevel.WARNING
        elif error is not None:
            outcome, words, level = AuditOutcome.FAILURE, "failed", AuditLogLevel.ERROR
        name = given_text(self._operation)
        event_type = fields.pop("event_type", None)
        if event_type is None:
            event_type = data_event_type(self._operation)
        message = fields.pop("message", f"{name} {words}")
        own = {"operation": name, "outcome": outcome, "log_level": level, "error": error, "duration_seconds": seconds}
        return event_type, message, keywords(fields, **own)


def _complain(why: str) -> None:
    _log.error("the failure of a block under `audited` is not recorded: %s", why)
