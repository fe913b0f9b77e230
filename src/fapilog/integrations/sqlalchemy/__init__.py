"""
SQLAlchemy: the changes of objects of mapped classes, recorded when the transaction has committed.

    Session = sessionmaker(engine)
    audit_changes(Session, trail, exclude=["last_seen"])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias, Unpack

from ..._extras import needs

with needs("sqlalchemy"):
    from sqlalchemy import event, inspect
    from sqlalchemy.exc import NoInspectionAvailable
    from sqlalchemy.orm import InstanceState, Mapper, QueryableAttribute, Session, scoped_session, sessionmaker

from ...core.audit import AuditTrail
from ...record.intake import CommonFields
from ...record.options import require_kind, several
from ...record.parties import Target
from ...record.values import kind_of
from .._failures import logged
from .._rowchanges import require_fields
from ._asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from ._changes import Changes
from ._states import Attribute, State, key_of, target_at

__all__ = ["Sessions", "audit_changes", "target_of"]

Sessions: TypeAlias = (
    Session
    | type[Session]
    | sessionmaker[Any]
    | scoped_session[Any]
    | AsyncSession
    | async_sessionmaker[Any]
    | async_scoped_session[Any]
)
"""One session, or a maker of sessions."""


def audit_changes(
    sessions: Sessions,
    trail: AuditTrail,
    *,
    models: Iterable[type[Any]] | None = None,
    exclude: Iterable[Attribute] = (),
    mask: Iterable[Attribute] = (),
    **fields: Unpack[CommonFields],
) -> None:
    """
    Record the changes of objects of mapped classes in these sessions, from now on.

        audit_changes(Session, trail, models=[Patient], exclude=["last_seen"], contains_phi=True)

    An object that is created, changed or deleted has one event per committed transaction: with the values before and
    after the transaction of all columns that differ, or that a new or a deleted row has. An object that was changed and
    changed back has none. Nothing is recorded of a transaction, or of a savepoint, that is rolled back.

    The target is "table/primary key"; see `target_of`. Request, user and all else come from the `audit_context` in
    which the changes were flushed.

    A session that joins the transaction of a `Connection` (``Session(bind=connection)``) records at its own
    ``commit()``, whatever becomes of that transaction later: it may still be rolled back. With an engine of
    ``isolation_level="AUTOCOMMIT"`` a flush stays in the database, and has no event, if the session rolls back.

    Each call records on its own: called twice for the same sessions and classes, a change has two events.

    The flushes of a session are seen. Not seen are ``insert()``, ``update()`` and ``delete()`` statements, also those
    on mapped classes, the ``bulk_`` methods, the rows of a ``secondary`` table, a foreign key's ``ON DELETE``,
    triggers, and columns with ``onupdate=``. Record these yourself, by ``log_change`` or `AuditTrail.audited`.

    The event is stored when the database has committed, and before ``commit()`` returns. A session waits for that,
    without its connection; an `AsyncSession` waits and lets other tasks run. If the event can't be stored, this is
    logged (logger "fapilog"), the trail opens an incident, and ``commit()`` succeeds all the same. If the process is
    killed in between, or the connection breaks or the task is cancelled while the database commits, the change has no
    event.

    An old value that the session does not know is read before the flush: one SELECT for an object that was changed
    without being read, as after a commit.

    Args:
        sessions: A session, or a maker of sessions: a `sessionmaker`, `scoped_session`, `async_sessionmaker`,
            `async_scoped_session`, or a class of sessions.
        trail: Stores the events.
        models: The mapped classes whose objects are recorded, with their subclasses; None for all.
        exclude: Columns that are not recorded, by the names of their attributes, for all classes, or as attributes:
            ``User.last_seen``. If nothing else changes there is no event. With the first flush, a name that no mapped
            class has is logged as an error.
        mask: Columns of which only the change is recorded, and no value. Columns with a word such as password, secret,
            token or api_key in their names always are. A primary key that is masked, or excluded, is masked in the
            target too.
        **fields: Further fields of the events, as for `AuditTrail.log_event`: ``contains_phi=True``.

    Raises:
        TypeError: *sessions* is none of these, *models* is no list of classes, *exclude* or *mask* no list of columns,
            or one of *fields* is not for the events of all changes.
        ValueError: One of *fields* is an unknown level or outcome.
    """
    require_kind("trail", trail, AuditTrail)
    changes = Changes(
        trail,
        None if models is None else _mapped(models),
        _attributes("exclude", exclude),
        _attributes("mask", mask),
        require_fields(fields),
    )
    listenable = _listenable(sessions)
    for name in (
        "before_flush",
        "after_flush",
        "pending_to_persistent",
        "persistent_to_deleted",
        "after_flush_postexec",
        "after_commit",
        "after_transaction_end",
    ):
        event.listen(listenable, name, logged("a change in the database is not recorded")(getattr(changes, name)))


def target_of(instance: object) -> Target:
    """
    Return the target that `audit_changes` records for an object: "patient/42", by its table and its primary key.

    For events of your own about the object, so that they are found together with its changes. A part of the key that is
    a secret by its name is masked; one that *mask* names is not, since that is for some sessions alone. Of a class that
    inherits from another mapped class it is the table of the first of these; the parts of a composite key are joined by
    commas.

    Args:
        instance: The object, which is flushed.

    Raises:
        TypeError: It is no object of a mapped class.
        ValueError: It is not flushed.
    """
    state: State | None = inspect(instance, raiseerr=False)
    if not isinstance(state, InstanceState):
        raise TypeError(f"instance: expected an object of a mapped class; got {kind_of(instance)}")
    return target_at(key_of(state))


# -- options


def _mapped(models: Iterable[type[Any]]) -> tuple[type[Any], ...]:
    classes = several("models", models, expected="a list of mapped classes")
    for each in classes:
        try:
            is_mapped = isinstance(inspect(each), Mapper)
        except NoInspectionAvailable:
            # A mixin, or the base of all: its subclasses are mapped.
            is_mapped = isinstance(each, type)
        if not is_mapped:
            raise TypeError(f"models: expected a list of mapped classes; got {kind_of(each)}")
    return classes


def _attributes(name: str, given: Iterable[Attribute]) -> tuple[Attribute, ...]:
    expected = "a list of attributes, or of their names"
    attributes = several(name, given, expected=expected)
    for each in attributes:
        if not isinstance(each, str | QueryableAttribute):
            raise TypeError(f"{name}: expected {expected}; got {kind_of(each)}")
    return attributes


def _listenable(sessions: object) -> Any:
    """Return the object for *sessions* that SQLAlchemy takes as the target of an event."""
    if isinstance(sessions, async_scoped_session):
        sessions = sessions.session_factory
    if isinstance(sessions, AsyncSession):
        return sessions.sync_session
    if isinstance(sessions, async_sessionmaker):
        # Its sessions have a synchronous one inside, made by this.
        inner: Any = sessions.kw.get("sync_session_class") or sessions.class_.sync_session_class
        if isinstance(inner, type):
            # A class of its own, so that other sessions are left alone.
            inner = type(inner.__name__, (inner,), {})
            sessions.configure(sync_session_class=inner)
        return inner
    if isinstance(sessions, Session | sessionmaker | scoped_session) or (
        isinstance(sessions, type) and issubclass(sessions, Session)
    ):
        return sessions
    raise TypeError(f"sessions: expected a session, or a maker of sessions; got {kind_of(sessions)}")
