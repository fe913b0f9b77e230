"""The flushes, commits and rollbacks of sessions: `Changes` listens, and records committed changes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final
from weakref import WeakKeyDictionary

import anyio
from sqlalchemy import inspect
from sqlalchemy.orm import Mapper, Session, SessionTransaction
from sqlalchemy.util import concurrency

from ...context import audit_context, current_audit_context
from ...core.audit import AuditTrail
from ...record.freezing import frozen_mapping
from ...record.options import did_you_mean
from ...tasks.strangers import Log, is_interrupt
from .._rowchanges import RowChange, masked
from ._asyncio import async_session
from ._ledger import UNKNOWN, Changed, Created, Deleted, Key, Outcome, outcomes
from ._states import (
    Attribute,
    State,
    columns,
    history_of,
    is_among,
    key_of,
    known_values,
    may_change,
    new_values,
    old_values,
    primary,
    target_at,
)

__all__ = ["Changes"]

_log: Final = Log("fapilog")

# Any of many events may take its time; when one could not be stored, the rest have this long altogether.
_SECONDS: Final = 10.0
# SQLAlchemy 2.2 calls it so.
_await: Final[Callable[[Any], Any]] = getattr(concurrency, "await_", None) or concurrency.await_only


def _current(session: Session) -> SessionTransaction | None:
    """Return the savepoint, or the transaction, that *session* is in; not the one that is the flush itself."""
    return session.get_nested_transaction() or session.get_transaction()


class _Flush:
    """The state of a running flush."""

    def __init__(self) -> None:
        # Now, and not when the event is logged: by then the application may have left the user's context.
        self.context = current_audit_context()
        # The old values of objects that may change.
        self.old: dict[State, Mapping[str, Any]] = {}
        # The changed objects, with their keys and old values.
        self.changed: list[tuple[State, Key, Mapping[str, Any]]] = []
        self.created: list[State] = []
        # The order in which the new objects were added; the session has them in a set while it flushes.
        self.order: dict[State, int] = {}
        self.deleted: list[Deleted] = []
        # The session itself holds objects weakly as soon as they are flushed.
        self.alive: list[object] = []


class _Steps(list[Changed | Created | Deleted]):
    """The steps of a transaction, or of a savepoint, so far."""

    is_committed = False


class Changes:
    """Listens to sessions; see `audit_changes`. A method without an underscore has the name of SQLAlchemy's event."""

    def __init__(
        self,
        trail: AuditTrail,
        models: tuple[type[Any], ...] | None,
        exclude: tuple[Attribute, ...],
        mask: tuple[Attribute, ...],
        fields: dict[str, Any],
    ) -> None:
        self._trail = trail
        self._models = models
        self._exclude = exclude
        self._mask = mask
        self._fields = fields
        # Checked with the first flush: when *exclude* and *mask* were given, not all classes were mapped.
        self._unchecked = True
        self._flushes: WeakKeyDictionary[Session, _Flush] = WeakKeyDictionary()
        self._steps: WeakKeyDictionary[SessionTransaction, _Steps] = WeakKeyDictionary()

    # -- a flush

    def before_flush(self, session: Session, _flush: object, _objects: object) -> None:
        """Keep the old values of attributes that may change, and read values that the session does not know."""
        flush = self._flushes[session] = _Flush()
        flush.order = {inspect(each, raiseerr=True): number for number, each in enumerate(session.new)}
        for state in self._states(session.deleted):
            flush.old[state] = old_values(session, state, self._columns(state.mapper))
        for state in self._states(each for each in session.dirty if session.is_modified(each)):
            names = [*self._columns(state.mapper), *primary(state.mapper)]
            flush.old[state] = old_values(session, state, [name for name in names if may_change(state, name)])
        if self._unchecked:
            self._check_names(self._states([*session.new, *session.dirty, *session.deleted]))

    def after_flush(self, session: Session, _flush: object) -> None:
        """Keep the objects that were changed, with the values that only the flush itself has changed."""
        flush = self._flushes[session]
        flush.alive += session.dirty
        for state in self._states(session.dirty):
            old = flush.old.get(state, {})
            names = [*self._columns(state.mapper), *primary(state.mapper)]
            late = [name for name in names if name not in old and history_of(state, name).added]
            if old or late:
                added = frozen_mapping(dict.fromkeys(late, UNKNOWN) | known_values(state, late))
                flush.changed.append((state, key_of(state), {**old, **added}))

    def pending_to_persistent(self, session: Session, instance: object) -> None:
        """Note an object that was created."""
        flush = self._flushes[session]
        flush.alive.append(instance)
        flush.created += self._states([instance])

    def persistent_to_deleted(self, session: Session, instance: object) -> None:
        """Note an object that was deleted, by itself or by a relationship, with its values."""
        flush = self._flushes[session]
        for state in self._states([instance]):
            known = frozen_mapping(known_values(state, self._columns(state.mapper)))
            old = {**known, **flush.old.get(state, {})}
            flush.deleted.append(Deleted(state.mapper, key_of(state), old, flush.context))

    def after_flush_postexec(self, session: Session, _flush: object) -> None:
        """Add the steps of the flush to the steps of the transaction."""
        flush = self._flushes.pop(session)
        gone = {step.key for step in flush.deleted}
        steps = _Steps()
        for state, before, old in flush.changed:
            if before not in gone:
                new = new_values(session, state, [*old])
                steps.append(Changed(state.mapper, key_of(state), new, flush.context, before, old))
        steps += flush.deleted
        for state in sorted(flush.created, key=lambda state: flush.order.get(state, len(flush.order))):
            names, key = self._columns(state.mapper), key_of(state)
            # An object in place of one that the same flush deletes: SQLAlchemy changes the row, which keeps its values.
            new = new_values(session, state, names, is_row_new=key not in gone)
            steps.append(Created(state.mapper, key, new, flush.context))
        transaction = _current(session)
        if steps and transaction is not None:
            self._steps.setdefault(transaction, _Steps()).extend(steps)

    # -- a transaction

    def after_commit(self, session: Session) -> None:
        """Note that the transaction, or the savepoint, is committed."""
        transaction = _current(session)
        if transaction is not None and transaction in self._steps:
            self._steps[transaction].is_committed = True

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Record the steps of a transaction, if it is committed; a savepoint adds its steps to the one around it."""
        steps = self._steps.pop(transaction, None)
        if steps is None or not steps.is_committed:
            return
        around = _current(session)
        if around is not None:
            self._steps.setdefault(around, _Steps()).extend(steps)
            return
        if async_session(session) is None:
            self._store(outcomes(steps))
        else:
            _await(self._store_async(outcomes(steps)))

    # -- recording

    def _event(self, outcome: Outcome) -> RowChange:
        def is_masked(name: str) -> bool:
            # Of a column that is excluded, the primary key alone is among them.
            return is_among((*self._mask, *self._exclude), outcome.kind, name)

        changes = masked(outcome.changes, is_masked)
        return RowChange(outcome.operation, target_at(outcome.key, is_masked), changes, self._fields)

    def _store(self, found: list[Outcome]) -> None:
        losses = _Losses()
        for outcome in found:
            with losses, audit_context(**outcome.context):
                losses.check()
                self._event(outcome).log(self._trail.sync)
        losses.tell()

    async def _store_async(self, found: list[Outcome]) -> None:
        losses = _Losses()
        for outcome in found:
            # The transaction is committed: a caller that is cancelled now has changed the database all the same.
            with losses, anyio.fail_after(_SECONDS, shield=True), audit_context(**outcome.context):
                losses.check()
                await self._event(outcome).log(self._trail)
        losses.tell()

    # -- which objects, and which columns

    def _states(self, instances: Iterable[object]) -> list[State]:
        models = self._models
        return [inspect(each, raiseerr=True) for each in instances if models is None or isinstance(each, models)]

    def _check_names(self, states: list[State]) -> None:
        """Say which names in *exclude* and *mask* no mapped class has: the values that they mean are recorded."""
        for state in states[:1]:
            self._unchecked = False
            known = {each.key for mapper in state.mapper.registry.mappers for each in mapper.column_attrs}
            for option, given in (("exclude", self._exclude), ("mask", self._mask)):
                for name in given:
                    if isinstance(name, str) and name not in known:
                        words = f"expected attributes that are columns; got {name[:100]!r}{did_you_mean(name, known)}"
                        _log.error("audit_changes: %s: %s", option, words)

    def _columns(self, mapper: Mapper[Any]) -> list[str]:
        """Return the names of the attributes that are recorded, without the primary key's."""
        return [name for name in columns(mapper) if not is_among(self._exclude, mapper, name)]


class _Losses:
    """Contains the exceptions of events that can't be stored, and counts them."""

    def __init__(self) -> None:
        self._errors: list[str] = []
        self._interrupt: Exception | None = None
        self._until = math.inf

    def check(self) -> None:
        """Give up the next event, if storing has failed for long enough to keep the caller waiting."""
        if time.monotonic() > self._until:
            raise TimeoutError

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if is_interrupt(error):
            self._interrupt = error
        self._errors.append(type(error).__qualname__)
        self._until = min(self._until, time.monotonic() + _SECONDS)
        return True

    def tell(self) -> None:
        if self._errors:
            _log.error(
                "changes that are committed have no event, since these can't be stored: %s (%s)",
                len(self._errors),
                ", ".join(sorted(set(self._errors))),
            )
        # Not before: the other changes are committed too.
        if self._interrupt is not None:
            raise self._interrupt
