"""The state of an object in SQLAlchemy: its key, its columns, and their values before and after a flush."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from sqlalchemy import Column, select
from sqlalchemy.orm import InstanceState, Mapper, PassiveFlag, QueryableAttribute, Session, class_mapper
from sqlalchemy.orm.attributes import History

from ...record.freezing import frozen_mapping
from ...record.parties import Target
from ...record.values import FrozenDict
from .._rowchanges import key_part
from ._ledger import Key

__all__ = [
    "Attribute",
    "State",
    "columns",
    "history_of",
    "is_among",
    "key_of",
    "known_values",
    "may_change",
    "new_values",
    "old_values",
    "primary",
    "target_at",
]

Attribute: TypeAlias = str | QueryableAttribute[Any]
"""A column of a mapped class, or the name of such attributes."""

State: TypeAlias = InstanceState[Any]
"""SQLAlchemy's state of an object."""


def key_of(state: State) -> Key:
    """Return which row an object is; raise ValueError if it is not flushed."""
    key = state.identity_key
    if key is None:
        raise ValueError("instance: expected an object that is flushed; got one without a primary key")
    # The class that has the table, of several that inherit the first one; its primary key; and a name for sharding.
    return key[0], tuple(key[1])


def target_at(key: Key, is_masked: Callable[[str], bool] = lambda _: False) -> Target:
    """Return the target that a row is in an event, without the parts of its key that hold secrets or *is_masked*."""
    kind, identity = key
    mapper = class_mapper(kind)
    table = getattr(mapper.local_table, "fullname", None) or kind.__name__
    parts = zip(primary(mapper), identity, strict=True)
    return Target(type=table, id=",".join(key_part(value, [name], is_masked) for name, value in parts))


def _column(mapper: Mapper[Any], name: str) -> Any:
    return mapper.column_attrs[name].columns[0]


def columns(mapper: Mapper[Any]) -> list[str]:
    """Return the names of the attributes that are columns, but for the primary key and the counter of versions."""
    left_out = {*mapper.primary_key, mapper.version_id_col}
    return [
        each.key
        for each in mapper.column_attrs
        if isinstance(each.columns[0], Column) and left_out.isdisjoint(each.columns)
    ]


def primary(mapper: Mapper[Any]) -> list[str]:
    """Return the names of the attributes of the primary key."""
    return [mapper.get_property_by_column(column).key for column in mapper.primary_key]


def is_among(attributes: tuple[Attribute, ...], mapper: Mapper[Any], name: str) -> bool:
    """Return whether a column of the class of *mapper* is one of *attributes*."""
    return any(_is_it(each, mapper, name) for each in attributes)


def _is_it(attribute: Attribute, mapper: Mapper[Any], name: str) -> bool:
    if isinstance(attribute, str):
        return attribute == name
    owner = attribute.class_
    return attribute.key == name and isinstance(owner, type) and issubclass(mapper.class_, owner)


def history_of(state: State, name: str) -> History:
    """Return the value of an attribute before the flush, and now, as far as it is loaded."""
    return state.get_history(name, PassiveFlag.PASSIVE_NO_INITIALIZE)


def may_change(state: State, name: str) -> bool:
    """Return whether a flush may change a column: it was assigned to, or a relationship fills it in."""
    return bool(history_of(state, name).added or _column(state.mapper, name).foreign_keys)


def known_values(state: State, names: list[str]) -> dict[str, Any]:
    """Return the values before the flush that the session knows."""
    histories = ((name, history_of(state, name)) for name in names)
    known = ((name, [*(history.deleted or ()), *(history.unchanged or ())]) for name, history in histories)
    return {name: values[0] for name, values in known if values}


def old_values(session: Session, state: State, names: list[str]) -> FrozenDict:
    """Return the values before the flush; values that the session does not know are read."""
    known = known_values(state, names)
    unknown = [name for name in names if name not in known]
    return frozen_mapping({**known, **(_read(session, state, unknown) if unknown else {})})


def new_values(session: Session, state: State, names: list[str], *, is_row_new: bool = False) -> FrozenDict:
    """Return the values after the flush; values that the database has made are read."""
    found = {name: state.dict[name] for name in names if name in state.dict}
    lacking = [name for name in names if name not in found]
    if is_row_new:
        # Not given: NULL.
        found |= {name: None for name in lacking if not _has_default(_column(state.mapper, name))}
        lacking = [name for name in lacking if name not in found]
    return frozen_mapping({**found, **(_read(session, state, lacking) if lacking else {})})


def _has_default(column: Any) -> bool:
    return column.default is not None or column.server_default is not None


def _read(session: Session, state: State, names: list[str]) -> dict[str, Any]:
    """Read columns of an object's row, past the object itself."""
    mapper = state.mapper
    attributes = mapper.class_manager
    row = session.execute(
        select(*(attributes[name] for name in names)).where(
            *(attributes[name] == value for name, value in zip(primary(mapper), state.identity or (), strict=True))
        )
    ).first()
    return dict(zip(names, row, strict=True)) if row is not None else {}
