"""Whatever a session does, the events are the difference between the rows before and after each commit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fapilog import AuditTrail
from tests.doubles.databases import memory_engine

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy import orm

    from fapilog.integrations.sqlalchemy import audit_changes
else:
    sa = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    audit_changes = pytest.importorskip("fapilog.integrations.sqlalchemy").audit_changes

Rows = dict[str, dict[str, Any]]


class Base(orm.DeclarativeBase):
    """The base of the mapped classes."""


class Ward(Base):
    """A ward."""

    __tablename__ = "ward"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    name: orm.Mapped[str]
    note: orm.Mapped[str | None] = orm.mapped_column(deferred=True)
    state: orm.Mapped[str] = orm.mapped_column(server_default="open")
    patients: orm.Mapped[list[Patient]] = orm.relationship(cascade="all, delete-orphan", passive_deletes=False)


class Patient(Base):
    """A patient, whom a ward takes along when it is deleted."""

    __tablename__ = "patient"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True, autoincrement=False)
    ward_id: orm.Mapped[int | None] = orm.mapped_column(sa.ForeignKey("ward.id"))
    name: orm.Mapped[str | None]
    data: orm.Mapped[dict[str, Any] | None] = orm.mapped_column(sa.JSON)


TABLES: dict[str, type[Ward | Patient]] = {"ward": Ward, "patient": Patient}


class Service:
    """A database, a session and the savepoints that are open in it."""

    def __init__(self, directory: Path) -> None:
        self.engine = memory_engine()
        Base.metadata.create_all(self.engine)
        self.trail = AuditTrail(storage_path=directory, durability="write")
        self.session = orm.Session(self.engine, autoflush=False)
        self.savepoints: list[Any] = []
        audit_changes(self.session, self.trail)
        patient = Patient(id=1, name="c", data={"name": []})
        self.session.add_all([Ward(id=1, name="c", note="d", patients=[patient]), Patient(id=2)])
        self.session.commit()

    def rows(self) -> Rows:
        """Return what the database has, by target."""
        found: Rows = {}
        with self.engine.connect() as connection:
            for name in TABLES:
                for row in connection.execute(sa.select(Base.metadata.tables[name])).mappings():
                    found[f"{name}/{row['id']}"] = {key: value for key, value in row.items() if key != "id"}
        return found

    def _add(self, given: Ward | Patient) -> None:
        # Of two new objects with one key, SQLAlchemy may write either one last.
        if not any(type(each) is type(given) and each.id == given.id for each in self.session.new):
            self.session.add(given)

    def add_ward(self, number: int, name: str) -> None:
        self._add(Ward(id=number, name=name))

    def add_patient(self, number: int, name: str) -> None:
        self._add(Patient(id=number, name=name, ward_id=None))

    def rename(self, number: int, name: str) -> None:
        for found in (self.session.get(Ward, number), self.session.get(Patient, number)):
            if found is not None:
                found.name = name

    def set_without_reading(self, number: int, name: str) -> None:
        for found in (self.session.get(Ward, number), self.session.get(Patient, number)):
            if found is not None:
                self.session.expire(found)
                found.name = name

    def note(self, number: int, name: str) -> None:
        if (ward := self.session.get(Ward, number)) is not None:
            ward.note = name

    def write_data(self, number: int, name: str) -> None:
        if (patient := self.session.get(Patient, number)) is not None:
            patient.data = {"name": [name]}

    def compute(self, number: int, name: str) -> None:
        if (ward := self.session.get(Ward, number)) is not None:
            ward.name = sa.func.upper(name)

    def admit(self, number: int, _: str) -> None:
        ward, patient = self.session.get(Ward, number), self.session.get(Patient, number)
        if ward is not None and patient is not None:
            ward.patients.append(patient)

    def discharge(self, number: int, _: str) -> None:
        if (ward := self.session.get(Ward, number)) is not None:
            ward.patients.clear()

    def delete(self, number: int, name: str) -> None:
        if (found := self.session.get(TABLES["ward" if name == "a" else "patient"], number)) is not None:
            self.session.delete(found)

    def replace(self, number: int, name: str) -> None:
        """Delete a row and add one with its key: SQLAlchemy makes an UPDATE of it."""
        if (found := self.session.get(Patient, number)) is not None:
            self.session.delete(found)
            self._add(Patient(id=number, name=name))

    def renumber(self, number: int, name: str) -> None:
        if (found := self.session.get(Patient, number)) is not None:
            found.id = number + 1 + len(name)

    def flush(self, *_: object) -> None:
        self.session.flush()

    def expire(self, *_: object) -> None:
        self.session.expire_all()

    def begin(self, *_: object) -> None:
        self.savepoints.append(self.session.begin_nested())

    def release(self, *_: object) -> None:
        if self.savepoints:
            self.savepoints.pop().commit()

    def undo(self, *_: object) -> None:
        if self.savepoints:
            self.savepoints.pop().rollback()

    def commit(self, *_: object) -> None:
        self.session.commit()
        self.savepoints.clear()

    def rollback(self, *_: object) -> None:
        self.session.rollback()
        self.savepoints.clear()

    def close(self) -> None:
        self.session.close()
        self.engine.dispose()


OPERATIONS = [
    *("add_ward", "add_patient", "rename", "set_without_reading", "note", "write_data", "compute", "admit"),
    *("discharge", "delete", "replace", "renumber", "flush", "expire", "begin", "release", "undo"),
    *("commit", "commit", "rollback"),
]
STEPS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(1, 2), st.sampled_from(["a", "b", ""])), min_size=1, max_size=30
)


def differences(before: Rows, after: Rows) -> list[str]:
    """Return, as texts, the operations and changes that make *after* of *before*."""
    found = []
    for target in before.keys() | after.keys():
        old, new = before.get(target), after.get(target)
        names = (old or new or {}).keys()
        pairs = {name: ((old or {}).get(name), (new or {}).get(name)) for name in names}
        changes = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        operation = "create" if old is None else "delete" if new is None else "update"
        if changes or operation != "update":
            found.append(str((operation, target, sorted(changes.items()))))
    return sorted(found)


def recorded(service: Service) -> list[str]:
    """Return the same of the events, where a row with another key is one that is gone and one that came."""
    found = []
    for event in service.trail.sync.events(oldest_first=True):
        changes = {name: (pair[0], pair[1]) for name, pair in event.changes.items()}
        found.append(str((event.operation, str(event.target), sorted(changes.items()))))
    return found


@contextmanager
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as directory:
        made = Service(Path(directory))
        try:
            yield made
        finally:
            made.close()


def check(steps: list[tuple[str, int, str]]) -> None:
    """Take these steps, and compare the events of each commit with the rows."""
    with service() as made:
        before, seen = made.rows(), len(recorded(made))
        for operation, number, name in [*steps, ("commit", 0, "")]:
            try:
                getattr(made, operation)(number, name)
            except sa.exc.SQLAlchemyError:
                made.rollback()
                continue
            if operation == "commit":
                events = recorded(made)
                after = made.rows()
                assert sorted(events[seen:]) == differences(before, after), steps
                before, seen = after, len(events)
        assert len(recorded(made)) == seen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
@given(STEPS)
def test_the_events_are_what_was_committed(steps: list[tuple[str, int, str]]) -> None:
    """Of any sequence of changes, savepoints, failures and commits, the events say what became of the rows."""
    check([step for step in steps if step[0] != "renumber"])
