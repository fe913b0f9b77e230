"""The changes of a model's objects: created, changed, deleted, recorded when the transaction commits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, Final, Literal, TypeVar, Unpack, overload

from django.apps import apps
from django.db import transaction
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save, pre_delete, pre_save

from ...context import settled_context
from ...record.freezing import frozen_mapping
from ...record.intake import CommonFields
from ...record.options import several
from ...record.parties import Target
from ...record.values import kind_of
from ...tasks.strangers import is_interrupt
from .._failures import logged
from .._rowchanges import Changes, RowChange, key_part, masked, require_fields
from ._settings import recording, trail

__all__ = ["audited", "connect_relations", "target_of"]

_Model = TypeVar("_Model", bound=type[Any])

_BEFORE: Final = "fapilog_before"

# By the names of fields.
_Values = dict[str, Any]


@dataclass(frozen=True)
class _Audited:
    """How the changes of a model are recorded: excluded fields, masked fields, and further fields of the events."""

    exclude: frozenset[str]
    mask: frozenset[str]
    fields: Mapping[str, Any]


_models: Final[dict[type[Any], _Audited]] = {}


@overload
def audited(
    model: _Model, /, *, exclude: Iterable[str] = ..., mask: Iterable[str] = ..., **fields: Unpack[CommonFields]
) -> _Model: ...


@overload
def audited(
    *, exclude: Iterable[str] = ..., mask: Iterable[str] = ..., **fields: Unpack[CommonFields]
) -> Callable[[_Model], _Model]: ...


def audited(
    model: Any = None,
    /,
    *,
    exclude: Iterable[str] = (),
    mask: Iterable[str] = (),
    **fields: Unpack[CommonFields],
) -> Any:
    """
    Record the changes of a model's objects: as a decorator of its class, or by a call for a model of another app.

        @audited(exclude=["last_seen"], contains_phi=True)
        class Patient(models.Model): ...

        audited(User, exclude=["last_login"])

    An object that is created, changed or deleted is recorded with the old and the new values of the fields that differ,
    and so are changes of its many-to-many relations. Proxies and other subclasses of the model are recorded too. The
    old values are read from the database before an object is saved: one query by the primary key more.

    An event is stored when the transaction commits, with the request, the user and the other values of the
    `audit_context` in which the object was saved; nothing is stored if the transaction, or a block of
    `transaction.atomic` in it, is rolled back. Django keeps callbacks when `transaction.savepoint_rollback` undoes what
    was saved: these changes have an event. If the process is killed between the commit and the record, or another
    callback of `transaction.on_commit`, which was given before and not as *robust*, raises, then the change has no
    record. An event that can't be stored is logged, and raises nothing: the site has made its change already.

    Django sends no signal for ``QuerySet.update``, ``bulk_create``, ``bulk_update``, for an ``on_delete`` that sets a
    field, and for SQL of your own: record these yourself, by ``trail.sync.log_change`` or `AuditTrail.audited`. It does
    for every object that ``QuerySet.delete`` or a cascade deletes.

    Args:
        model: The class of the model.
        exclude: The names of fields that are not recorded; a save that changes no other field is not recorded either.
        mask: The names of fields of which only the change is recorded, and no value. Fields with a word such as
            password, secret, token or api_key in their names always are. A primary key that is masked, or excluded, is
            masked in the target too, such as the ``key`` of a token of Django REST framework.
        **fields: Further fields of the events, as for `AuditTrail.log_event`: ``contains_phi=True``.

    Returns:
        The model; without one, a decorator.

    Raises:
        TypeError: *model* is no class of a model, *exclude* or *mask* no list of names, or one of *fields* is not for
            the events of all changes.
        ValueError: The model has no such field, or one of *fields* is an unknown level or outcome.
    """
    if model is None:
        return partial(audited, exclude=exclude, mask=mask, **fields)
    names = "the name of a field, or a list"
    excluded, masks = several("exclude", exclude, expected=names), several("mask", mask, expected=names)
    _check(model, excluded + masks)
    how = _Audited(frozenset(excluded), frozenset(masks), require_fields(fields))
    for each in (model, *_subclasses(model)):
        _connect(each, how)
    return model


def target_of(instance: Any) -> Target:
    """
    Return the target that `audited` records for an object of a model: "clinic.patient/42".

    For events of your own about the object, so that they are found together with its changes. A primary key that is
    masked or excluded, or that has a secret by its name, is masked here too.

    Args:
        instance: The object, which is saved.

    Raises:
        TypeError: It is no object of a model.
        ValueError: It has no primary key: it was never saved, or is deleted.
    """
    meta: Any = getattr(instance, "_meta", None)
    if isinstance(instance, type) or meta is None:
        raise TypeError(f"instance: expected an object of a model; got {kind_of(instance)}")
    if instance.pk is None:
        raise ValueError(f"instance: expected a saved {meta.label}; got one without a primary key")
    model = meta.concrete_model._meta
    how = _models.get(type(instance))
    masks = how.mask | how.exclude if how is not None else ()
    # A composite key has several fields, and a name of its own.
    parts = (
        key_part(str(getattr(instance, field.attname)), [model.pk.name, *_names(field)], masks.__contains__)
        for field in model.pk_fields
    )
    return Target(type=model.label_lower, id=",".join(parts))


def _names(key: Any) -> list[str]:
    """Return the names of a field of a primary key: in a subclass it refers to that of the parent."""
    names = [key.name]
    while key.remote_field is not None:
        key = key.target_field
        names.append(key.name)
    return names


def _check(model: Any, names: Iterable[str]) -> None:
    meta = getattr(model, "_meta", None)
    if meta is None or not isinstance(model, type):
        raise TypeError(f"audited: expected the class of a model; got {model!r:.100}")
    there = [field.name for field in (*meta.fields, *meta.many_to_many)]
    for name in names:
        if name not in there:
            raise ValueError(f"{meta.label}: expected a field, one of {', '.join(there)}; got {name!r}")


# -- connecting


def _subclasses(model: type[Any]) -> list[type[Any]]:
    return [each for child in model.__subclasses__() for each in (child, *_subclasses(child))]


def _inherit(*, sender: type[Any], **_: object) -> None:
    """Record the changes of a class that is made later, of which a base is audited."""
    for base in sender.__mro__[1:]:
        if base in _models:
            _connect(sender, _models[base])
            return


class_prepared.connect(_inherit, dispatch_uid="fapilog")


def _connect(model: Any, how: _Audited) -> None:
    _models[model] = how
    if not model._meta.abstract:
        for signal, receive in (
            (pre_save, _before),
            (pre_delete, _before),
            (post_save, _saved),
            (post_delete, _deleted),
        ):
            signal.connect(receive, sender=model, dispatch_uid="fapilog")
        if apps.models_ready:
            connect_relations(model)


def connect_relations(*models: Any) -> None:
    """Record changes of the many-to-many relations of *models*, or of all: when the models at their ends are there."""
    for model in models or [each for each in _models if not each._meta.abstract]:
        for field in model._meta.many_to_many:
            m2m_changed.connect(_related, sender=field.remote_field.through, dispatch_uid="fapilog")


# -- receiving


def _contained(receive: Callable[..., Iterable[RowChange]]) -> Callable[..., None]:
    """
    Return a receiver that records the changes that *receive* returns, when the transaction commits.

    It raises into the code that saves what `logged` does, and nothing else.
    """

    @wraps(receive)
    def call(*, sender: type[Any], using: str, **given: Any) -> None:
        with logged("a change of a %s is not recorded", sender.__qualname__):
            for change in receive(sender=sender, using=using, **given):
                _record(change, using)

    return call


@_contained
def _before(*, sender: type[Any], instance: Any, using: str, raw: bool = False, **_: object) -> list[RowChange]:
    """
    Keep the values that are stored now, until the object is saved or deleted.

    Read from the database, and not remembered from when the object was loaded: another process may have changed them
    since, the object may have been made by hand, or loaded in part. The recorded values are the ones that the
    transaction replaces.
    """
    primary_key = sender._meta.pk
    # Django inserts such an object without a look for an older one.
    is_new = instance._state.adding and not raw and (primary_key.has_default() or primary_key.has_db_default())
    stored = None if instance.pk is None or is_new else _stored(sender, instance, _fields(sender), using)
    # One on top of the other: a receiver of the site may save the object again before ours is called.
    instance._state.__dict__.setdefault(_BEFORE, []).append(stored)
    return []


@_contained
def _saved(
    *, sender: type[Any], instance: Any, created: bool, using: str, update_fields: Any = None, **_: object
) -> list[RowChange]:
    before = _popped(instance) or {}
    fields = [
        field
        for field in _fields(sender)
        # A field that is not there was never loaded, and so is not saved.
        if field.attname in instance.__dict__
        and (update_fields is None or field.name in update_fields or field.attname in update_fields)
    ]
    after = {field.name: _prepared(field, getattr(instance, field.attname)) for field in fields}
    # The database computes these: F("visits") + 1.
    computed = [field for field in fields if hasattr(after[field.name], "resolve_expression")]
    if computed:
        after |= _stored(sender, instance, computed, using) or {}
    old = {} if created else before
    changes = {name: (old.get(name), value) for name, value in after.items() if old.get(name) != value}
    if not created and not changes:
        return []
    return [_change(sender, instance, "create" if created else "update", changes)]


@_contained
def _deleted(*, sender: type[Any], instance: Any, **_: object) -> list[RowChange]:
    before = _popped(instance)
    if before is None:  # another transaction had deleted it already
        return []
    # A field without a value loses none.
    lost = {name: (value, None) for name, value in before.items() if value is not None}
    return [_change(sender, instance, "delete", lost)]


def _popped(instance: Any) -> _Values | None:
    kept: list[_Values | None] = instance._state.__dict__.get(_BEFORE, [])
    return kept.pop() if kept else None


@_contained
def _related(
    *, sender: type[Any], instance: Any, action: str, reverse: bool, model: Any, pk_set: Any, using: str, **_: object
) -> Iterator[RowChange]:
    if action not in {"post_add", "pre_remove", "pre_clear"}:
        return
    audited_model = model if reverse else type(instance)
    for field in audited_model._meta.many_to_many if audited_model in _models else ():
        if field.remote_field.through is sender and field.name not in _models[audited_model].exclude:
            near, far = field.m2m_field_name(), field.m2m_reverse_field_name()
            if reverse:
                near, far = far, near
            keys = sorted(pk_set if action == "post_add" else _going(sender, using, {near: instance}, far, pk_set))
            far_side = [(model(pk=key), [instance.pk]) for key in keys]
            near_side = [(instance, keys)] if keys else []
            if field.remote_field.symmetrical:
                # Of the two rows of such a relation, Django signals the one of the object that was asked.
                sides = [*near_side, *(pair for pair in far_side if pair[0].pk != instance.pk)]
            else:
                sides = far_side if reverse else near_side
            for each, others in sides:
                change = ([], others) if action == "post_add" else (others, [])
                yield _change(audited_model, each, "update", {field.name: change})


def _going(through: Any, using: str, near: dict[str, Any], far: str, pk_set: Any) -> Any:
    """Return the keys of the objects that the relation is about to lose: all, or those of *pk_set* that it has."""
    asked = {} if pk_set is None else {f"{far}__in": pk_set}
    return through._base_manager.using(using).filter(**near, **asked).values_list(far, flat=True)


# -- recording


def _fields(model: Any) -> list[Any]:
    exclude = _models[model].exclude
    return [
        field
        for field in model._meta.concrete_fields
        if not field.primary_key and not field.generated and field.name not in exclude
    ]


def _stored(model: Any, instance: Any, fields: list[Any], using: str) -> _Values | None:
    """Return the values that the database has of these fields; None if it has no such object."""
    rows = model._base_manager.using(using).filter(pk=instance.pk).values(*(field.attname for field in fields))
    for row in rows[:1]:
        return {field.name: _prepared(field, row[field.attname]) for field in fields}
    return None


def _prepared(field: Any, value: Any) -> Any:
    """Return a value as it is given to the database, so that "1" and 1 are no difference."""
    # A value that the field does not take is the site's error, which is raised there.
    try:
        prepared = field.get_prep_value(value)
        # Of a JSONField, the database has a list for a tuple, and texts for keys and times.
        return json.loads(json.dumps(prepared, cls=field.encoder)) if hasattr(field, "encoder") else prepared
    except Exception as error:
        if is_interrupt(error):
            raise
        return value


def _change(model: Any, instance: Any, operation: Literal["create", "update", "delete"], changes: Changes) -> RowChange:
    how = _models[model]
    # A copy: the site may go on to change a list that it has saved.
    shown = frozen_mapping(masked(changes, how.mask.__contains__))
    return RowChange(operation, target_of(instance), shown, how.fields)


def _record(change: RowChange, using: str) -> None:
    """Store an event when the transaction commits, with the context of now."""
    # With the values of now: by then the view may have signed the user out.
    context = settled_context()

    def then() -> None:
        with recording():
            context.run(change.log, trail.sync)

    try:
        transaction.on_commit(then, using=using, robust=True)
    except transaction.TransactionManagementError:
        # Without autocommit, and outside of `atomic`, Django doesn't know when the site commits.
        then()
