"""
The context of a call that the code around it knows: the user, the address, the request.

    with audit_context(user_id="alice", request_id="7f3a", client_ip="192.0.2.7"):
        await trail.log_data_access("patient/42", "read")  # has all three

    @audit_context(component="exports")
    async def export() -> None: ...

The values are kept in a context variable: they hold for the code inside of the block, for its tasks, for the threads of
`anyio.to_thread` and `asyncio.to_thread`, and for `trail.sync`. A thread that you start yourself begins without them,
unless you start it by ``contextvars.copy_context().run``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, ContextVar, copy_context
from inspect import iscoroutine
from types import TracebackType
from typing import Any, Final, Never, TypeVar, cast

from ._typos import look_for_typos
from .record.containers import as_dict
from .record.options import is_async, require_decorated
from .record.values import given_text, kind_of, unreadable
from .tasks.strangers import Log, answer, tamed

__all__ = [
    "AuditContext",
    "KeptContext",
    "audit_context",
    "bind_audit_context",
    "completed",
    "current_audit_context",
    "settled_context",
]

_log: Final = Log("fapilog.context")

F = TypeVar("F", bound=Callable[..., Any])

_Blocks = tuple[tuple[object, dict[str, Any]], ...]
# From the outermost block to the innermost, every block with all values that hold in it. No dict is ever changed:
# copies of a context share them. The name must not begin with "fapilog_": such variables come along into the tasks of a
# trail, which outlive the request that happened to start the trail; see `tasks.background.own_context`.
_blocks: Final[ContextVar[_Blocks]] = ContextVar("audit_context", default=())

# The fields that a block may fill in. The other fields are about one event alone: if all had the same *event_id*, all
# but the first would be lost.
_FILLED: Final = frozenset(
    {
        *("actor", "user_id", "session_id", "request_id", "trace_id", "span_id", "client_ip", "user_agent"),
        *("component", "operation", "target", "reason", "data_classification", "regulatory_tags"),
        *("contains_pii", "contains_phi"),
    }
)
_NAMES: Final = _FILLED | {"metadata"}
_FLAGS: Final = frozenset({"contains_pii", "contains_phi"})
# Two fields for one thing: where one of the two is given, the other is not taken from an outer block.
_PAIRS: Final = (frozenset({"actor", "user_id"}), frozenset({"trace_id", "span_id"}))
_PAIRED: Final = frozenset().union(*_PAIRS)


def audit_context(*_unnamed: Never, **values: Any) -> AuditContext:
    """
    Fill in every event that is logged inside of the block with *values*.

    A block inside of another one adds to the values of the outer block, and its own values win. However the block is
    left, afterwards the earlier values hold again, without any that were bound inside of the block.

    Args:
        **values: *actor*, *user_id*, *session_id*, *request_id*, *trace_id*, *span_id*, *client_ip*, *user_agent*,
            *component*, *operation*, *target*, *reason*, *data_classification*, *regulatory_tags*, *contains_pii* and
            *contains_phi* fill these fields of the event. Any other name, such as *tenant*, goes to the metadata, and
            so does the content of ``metadata={...}``. A value that the call itself gives wins. None takes the value of
            an outer block away. An *actor* replaces the *user_id* from further out, and the other way round.

            A name that is similar to that of a field, such as *user*, is asked about in the log, once per place in the
            code. A trail with a strict `CompliancePolicy` refuses to log an event in the block: TypeError.

            A value may be a function without arguments. It is called for every event, when the event is logged, and so
            may return a value that was not known yet when the block was entered. It must not wait: an event loop waits
            with it. If it raises, a text in its place names the type of the exception. Events that it logs itself have
            no context.

    Returns:
        A context manager for ``with``, in asynchronous code too, and a decorator for functions, asynchronous or not. It
        can be entered again.

    Raises:
        TypeError: A value has no name, as the function under a decorator without parentheses.
    """
    _check_names("audit_context", _unnamed, values)
    return AuditContext(values)


def bind_audit_context(*_unnamed: Never, **values: Any) -> None:
    """
    Add *values* until the end of the `audit_context` around this code, or of the request that a middleware handles.

    Without one around it, they stay until the current context ends: that of the task, or of the thread. Values that are
    bound in a task or in a thread do not reach the code that started it.

    Args:
        **values: As for `audit_context`.

    Raises:
        TypeError: A value has no name.
    """
    _check_names("bind_audit_context", _unnamed, values)
    block, outer = _innermost()
    _blocks.set((*_blocks.get()[:-1], (block, _within(outer, values))))


def _check_names(function: str, unnamed: tuple[object, ...], values: dict[str, Any]) -> None:
    if unnamed:
        words = f'expected values by name, as in {function}(user_id="alice")'
        raise TypeError(f"{function}: {words}; got {kind_of(unnamed[0])}")
    look_for_typos(values, _NAMES)


def current_audit_context() -> dict[str, Any]:
    """
    Return the values that an event would be filled in with here and now, to carry them elsewhere or to show them.

    Functions among them are called; a value that is None is left out.
    """
    return {name: value for name, value in _evaluated(_innermost()[1]).items() if value is not None}


def completed(given: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    """
    Return the keywords *given* to `AuditTrail.log_event`, completed from the context; for the trail.

    The ids of OpenTelemetry's current span are part of the context. No value in the context makes it raise.

    Raises:
        TypeError: A name in the context is no field but similar to one, and *strict* is set.
    """
    _, values = _innermost()
    if strict:
        look_for_typos(values, _NAMES, strict=True, where="audit_context: ")
    whole = _filled(given, values) if values else given
    if "opentelemetry.trace" in sys.modules and (span := _current_span(whole.get("trace_id"))):
        return whole | {name: value for name, value in span.items() if whole.get(name) is None}
    return whole


def _filled(given: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    result = dict(given)
    if not _PAIRED.isdisjoint(given):
        values = _outside(values, (name for name in given if given[name] is not None))
    lacking = {name: value for name, value in values.items() if name in _FILLED and given.get(name) is None}
    for name, value in _evaluated(lacking).items():
        if value is not None:
            result[name] = _is_true(value) if name in _FLAGS else value
    others = {name: value for name, value in values.items() if name not in _FILLED}
    if others and (metadata := _metadata(others, given)):
        result["metadata"] = metadata
    return result


def _current_span(trace_id: object) -> dict[str, str]:
    """
    Return the ids of OpenTelemetry's current span as members of an event; none where there is no span.

    Nor if a *trace_id* is given that is of another trace, in which there is no such span.

    As the W3C writes them: https://www.w3.org/TR/trace-context/#traceparent-header. Nothing is imported: without
    OpenTelemetry in the process there is no span.
    """
    try:
        context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        _log.warning("OpenTelemetry's current span can't be read: %s", type(error).__qualname__)
        return {}
    return ids if trace_id is None or given_text(trace_id) == ids["trace_id"] else {}


def _metadata(others: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata *given*, completed by *others*; an empty dict if there is nothing to add."""
    own = as_dict(given.get("metadata"))
    if own is None:
        own = {"metadata": given["metadata"]} if given.get("metadata") is not None else {}
    if "metadata" in others:
        mapping = as_dict(_evaluated({"metadata": others["metadata"]})["metadata"])
        if mapping is not None:
            others = {**mapping, **{name: value for name, value in others.items() if name != "metadata"}}
    lacking = {name: value for name, value in others.items() if name not in given and name not in own}
    added = {name: value for name, value in _evaluated(lacking).items() if value is not None}
    return {**own, **added} if added else {}


def _outside(outer: dict[str, Any], inner: Iterable[str]) -> dict[str, Any]:
    """Return *outer* without the values that a name in *inner* replaces."""
    names = frozenset(inner)
    gone = frozenset().union(*(pair for pair in _PAIRS if not pair.isdisjoint(names)))
    return {name: value for name, value in outer.items() if name not in gone} if gone else outer


def _within(outer: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    return {**_outside(outer, values), **values} if outer else values


def settled_context() -> Context:
    """Return a copy of this context, with the values that functions have now in place of the functions."""
    context = copy_context()
    block, values = _innermost()
    if any(map(callable, values.values())):
        context.run(_blocks.set, ((block, _evaluated(values)),))
    return context


class AuditContext:
    """
    A block of code with values of its own under ``with``, or every call of a function under ``@``.

    `audit_context` makes it. It keeps no state, so that it can be entered anywhere and again.
    """

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __enter__(self) -> None:
        _, outer = _innermost()
        _blocks.set((*_blocks.get(), (self, _within(outer, self._values))))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not by the token of the variable: a token is refused in any other context, such as that of the thread in which
        # FastAPI leaves a synchronous dependency, and brings back the values of a block that was left in between.
        blocks = _blocks.get()
        for place in reversed(range(len(blocks))):
            if blocks[place][0] is self:
                _blocks.set(blocks[:place])
                return

    def __call__(self, function: F) -> F:
        """
        Return *function*, asynchronous or not, whose every call is such a block.

        Raises:
            TypeError: It is no function, or a generator, which would run outside of the block.
        """
        require_decorated(function)

        @functools.wraps(function)
        async def wait(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                result = function(*args, **kwargs)
            # An asynchronous function behind a decorator of others looks like one that is not.
            return self._around(result) if iscoroutine(result) else result

        return cast("F", wait if is_async(function) else call)

    async def _around(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with self:
            return await coroutine


class KeptContext:
    """
    The blocks around this code, to be entered for code that belongs into them and runs when they are left.

    Where it is entered again, it has the values that the code has bound in the meantime.
    """

    __slots__ = ("_inside", "_outside")

    def __init__(self) -> None:
        self._inside = _blocks.get()
        self._outside: _Blocks = ()

    def __enter__(self) -> None:
        self._outside = _blocks.get()
        _blocks.set(self._inside)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = _blocks.get()
        _blocks.set(self._outside)


def _innermost() -> tuple[object, dict[str, Any]]:
    """Return the innermost block, with the values that hold in it."""
    blocks = _blocks.get()
    return blocks[-1] if blocks else (None, {})


def _evaluated(values: dict[str, Any]) -> dict[str, Any]:
    """Return *values*, with the results of the functions among them; events that a function logs have no context."""
    token = _blocks.set(())
    try:
        return {name: _answered(value) if callable(value) else value for name, value in values.items()}
    finally:
        _blocks.reset(token)


def _answered(function: Callable[[], Any]) -> Any:
    try:
        return answer(function)
    except BaseException as error:
        return unreadable(function, tamed(error))


def _is_true(value: object) -> bool:
    """Return whether *value* is true; a value that can't be asked counts as true, since it may well be personal."""
    try:
        return bool(value)
    except BaseException as error:
        tamed(error)
        return True
