"""Changes of mapped classes: what is recorded of them, when, and what never is."""

from __future__ import annotations

import asyncio
import importlib
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from fapilog import AuditEvent, AuditOutcome, AuditStorageError, AuditTrail
from fapilog.context import audit_context
from fapilog.core.sync import SyncAuditTrail
from tests.doubles.alarms import TimeUp, alarming
from tests.doubles.databases import memory_engine

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy import orm
    from sqlalchemy.ext import asyncio as aio
    from sqlalchemy.ext import mutable

    from fapilog.integrations.sqlalchemy import audit_changes, target_of
else:
    sa = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    aio = pytest.importorskip("sqlalchemy.ext.asyncio")
    mutable = pytest.importorskip("sqlalchemy.ext.mutable")
    module = pytest.importorskip("fapilog.integrations.sqlalchemy")
    audit_changes, target_of = module.audit_changes, module.target_of


class Base(orm.DeclarativeBase):
    """The base of the mapped classes."""


class User(Base):
    """A user with secrets."""

    __tablename__ = "user_account"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    kind: orm.Mapped[str] = orm.mapped_column(default="user")
    name: orm.Mapped[str | None]
    password_hash: orm.Mapped[str | None]
    diagnosis: orm.Mapped[str | None]
    last_seen: orm.Mapped[int | None]
    settings: orm.Mapped[dict[str, Any] | None] = orm.mapped_column(mutable.MutableDict.as_mutable(sa.JSON))
    anything: orm.Mapped[Any | None] = orm.mapped_column(sa.PickleType(comparator=lambda a, b: a is b))
    version: orm.Mapped[int] = orm.mapped_column()

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "user", "version_id_col": version}  # noqa: RUF012


class Doctor(User):
    """A user with a table more."""

    __tablename__ = "doctor"
    id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("user_account.id"), primary_key=True)
    pager: orm.Mapped[str | None]

    __mapper_args__ = {"polymorphic_identity": "doctor"}  # noqa: RUF012


class Shift(Base):
    """A row with a key of two parts."""

    __tablename__ = "shift"
    day: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    number: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    doctor_id: orm.Mapped[int | None] = orm.mapped_column(
        sa.ForeignKey("user_account.id", deferrable=True, initially="DEFERRED")
    )


@pytest.fixture
def factory() -> Any:
    """Return what makes sessions of one database in memory."""
    engine = memory_engine()
    Base.metadata.create_all(engine)
    yield orm.sessionmaker(engine)
    engine.dispose()


def stored(trail: AuditTrail) -> list[AuditEvent]:
    """Return all events, the oldest first."""
    return list(trail.sync.events(oldest_first=True))


def in_short(trail: AuditTrail) -> list[tuple[str | None, str, dict[str, Any]]]:
    """Return operation, target and changes of all events."""
    return [(event.operation, str(event.target), dict(event.changes)) for event in stored(trail)]


# -- what is recorded


def test_a_row_is_recorded_from_its_creation_to_its_end(trail: AuditTrail, factory: Any) -> None:
    """A row that is created, changed and deleted has an event each, with the values that were and are."""
    audit_changes(factory, trail, contains_phi=True)
    with factory.begin() as session:
        session.add(user := User(name="alice", settings={"a": [1]}))
    with factory.begin() as session:
        user = session.get(User, 1)
        user.name = "bob"
    with factory.begin() as session:
        session.delete(session.get(User, 1))
    settings = {"a": [1]}
    created, changed, deleted = stored(trail)
    assert dict(created.changes) == {"kind": [None, "user"], "name": [None, "alice"], "settings": [None, settings]}
    assert dict(changed.changes) == {"name": ["alice", "bob"]}
    assert dict(deleted.changes) == {"kind": ["user", None], "name": ["bob", None], "settings": [settings, None]}
    assert [(event.event_type.value, event.operation, event.message) for event in (created, changed, deleted)] == [
        ("data_modification", "create", "Created user_account/1"),
        ("data_modification", "update", "Changed user_account/1: name"),
        ("data_deletion", "delete", "Deleted user_account/1"),
    ]
    for event in (created, changed, deleted):
        assert (str(event.target), event.outcome, event.contains_phi) == ("user_account/1", AuditOutcome.SUCCESS, True)


def test_a_transaction_is_recorded_as_a_whole(trail: AuditTrail, factory: Any) -> None:
    """Of several flushes the first old value and the last new one count, and what comes to nothing has no event."""
    audit_changes(factory, trail)
    with factory.begin() as session:
        session.add_all([User(name="alice"), User(name="bob")])
        session.flush()
        alice, bob = session.get(User, 1), session.get(User, 2)
        alice.name = "carol"
        session.delete(bob)
        session.flush()
        alice.name = "dave"
    with factory.begin() as session:
        for name in ("eve", "dave"):
            session.get(User, 1).name = name
            session.flush()
    assert in_short(trail) == [("create", "user_account/1", {"kind": [None, "user"], "name": [None, "dave"]})]


def test_an_old_value_that_was_not_read_is_recorded(trail: AuditTrail, factory: Any) -> None:
    """An attribute that is set after a commit, without being read, has its old value in the event."""
    audit_changes(factory, trail)
    with factory() as session:
        session.add(user := User(name="alice"))
        session.commit()
        user.name = "bob"
        session.commit()
        # To what it is already.
        user.name = "bob"
        session.commit()
    assert in_short(trail)[1:] == [("update", "user_account/1", {"name": ["alice", "bob"]})]


def test_a_value_that_is_changed_in_place_is_recorded(trail: AuditTrail, factory: Any) -> None:
    """Of a mutable value the event has the one that was stored, though the object never was another."""
    audit_changes(factory, trail)
    with factory() as session:
        settings: dict[str, Any] = {"a": [1]}
        session.add(user := User(settings=settings))
        session.commit()
        assert user.settings is not None
        user.settings["b"] = 2
        session.commit()
    assert in_short(trail)[1:] == [("update", "user_account/1", {"settings": [{"a": [1]}, {"a": [1], "b": 2}]})]


def test_a_value_that_nothing_can_read_stops_no_commit(trail: AuditTrail, factory: Any) -> None:
    """Whatever a column holds is stored by the application, and recorded as far as it can be."""
    audit_changes(factory, trail)
    with factory.begin() as session:
        session.add(User(anything=Hostile()))
    [(_, _, changes)] = in_short(trail)
    assert "Hostile" in str(changes["anything"])


class Hostile:
    """A value that says nothing about itself."""

    def __repr__(self) -> str:
        raise KeyError

    __eq__ = __hash__ = __str__ = __iter__ = __len__ = __repr__  # type: ignore[assignment]


def test_keys_and_classes_make_the_target(trail: AuditTrail, factory: Any) -> None:
    """A class that inherits has the table of the first one, a key of several parts commas, a new key is a change."""
    audit_changes(factory, trail)
    with factory() as session:
        session.add_all([doctor := Doctor(name="who", pager="1"), shift := Shift(day="monday", number=2)])
        session.commit()
        doctor.pager = "2"
        shift.number = 3
        session.commit()
        assert (str(target_of(doctor)), str(target_of(shift))) == ("user_account/1", "shift/monday,3")
        with pytest.raises(ValueError, match="flushed"):
            target_of(Doctor())
        for wrong, kind in ((Doctor, "the class Doctor"), ("user_account/1", "a str")):
            with pytest.raises(TypeError, match=f"^instance: expected an object of a mapped class; got {kind}$"):
                target_of(wrong)
    events = in_short(trail)
    assert ("create", "shift/monday,2", {}) in events
    assert ("update", "user_account/1", {"pager": ["1", "2"]}) in events
    assert ("update", "shift/monday,2", {"number": [2, 3]}) in events


# -- what is not


def test_no_secret_is_recorded(trail: AuditTrail, factory: Any, tmp_path: Path) -> None:
    """A column that is masked, or has a secret by its name, shows that it changed; one that is excluded nothing."""
    audit_changes(factory, trail, exclude=["last_seen"], mask=[User.diagnosis, Doctor.pager])
    with factory() as session:
        session.add(
            doctor := Doctor(password_hash="s3cret-1", diagnosis="s3cret-2", pager="s3cret-3", last_seen=1234567)
        )
        session.commit()
        doctor.password_hash, doctor.last_seen = "s3cret-4", 1234568
        session.commit()
        doctor.password_hash, doctor.diagnosis = None, ""
        session.commit()
        doctor.last_seen = 1234569
        session.commit()
    masked = "********"
    assert [changes for _, _, changes in in_short(trail)] == [
        {
            "kind": [None, "doctor"],
            "password_hash": [None, masked],
            "diagnosis": [None, masked],
            "pager": [None, masked],
        },
        {"password_hash": [masked, masked]},
        {"password_hash": [masked, None], "diagnosis": [masked, masked]},
    ]
    [file] = (tmp_path / "audit").glob("*.jsonl")
    assert "s3cret" not in file.read_text()
    assert "123456" not in file.read_text()


class ResetToken(Base):
    """A row whose key is the secret."""

    __tablename__ = "password_reset"
    token: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    nonce: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    user: orm.Mapped[int]


@pytest.mark.parametrize("option", ["mask", "exclude"])
def test_a_key_that_is_a_secret_is_no_target(option: str, trail: AuditTrail, factory: Any, tmp_path: Path) -> None:
    """A part of a primary key that is a secret by its name, or is masked or excluded, is masked in the target."""
    options: dict[str, Any] = {option: ["nonce"]}
    audit_changes(factory, trail, **options)
    with factory() as session:
        session.add(row := ResetToken(token="s3cret-1", nonce="s3cret-2", user=7))
        session.commit()
        assert str(target_of(row)) == "password_reset/********,s3cret-2"
        row.token, row.nonce = "s3cret-3", "s3cret-4"
        session.commit()
        session.delete(row)
        session.commit()
    assert {target for _, target, _ in in_short(trail)} == {"password_reset/********,********"}
    [file] = (tmp_path / "audit").glob("*.jsonl")
    assert "s3cret" not in file.read_text()


def test_only_the_given_models_are_recorded(trail: AuditTrail, factory: Any) -> None:
    """With *models* objects of other classes have no events, and those of subclasses do."""
    audit_changes(factory, trail, models=[User])
    with factory.begin() as session:
        session.add_all([Doctor(), Shift(day="monday", number=1)])
    assert [target for _, target, _ in in_short(trail)] == ["user_account/1"]


def test_an_attribute_of_one_class_is_not_that_of_another(trail: AuditTrail, factory: Any) -> None:
    """A column that is excluded as an attribute is excluded in its class and in subclasses of that."""
    audit_changes(factory, trail, exclude=[Doctor.name, "kind"])
    with factory.begin() as session:
        session.add_all([User(name="alice"), Doctor(name="who", pager="1")])
    assert [changes for _, _, changes in in_short(trail)] == [{"name": [None, "alice"]}, {"pager": [None, "1"]}]


def test_statements_and_bulk_methods_are_not_seen(trail: AuditTrail, factory: Any) -> None:
    """What does not go through a flush has no event, as the documentation says."""
    audit_changes(factory, trail)
    with factory.begin() as session:
        session.execute(sa.insert(User), [{"name": "alice", "version": 1}])
        session.execute(sa.update(User).values(name="bob"))
        session.bulk_save_objects([User(name="carol")])
        session.execute(sa.delete(User))
    assert stored(trail) == []


def test_what_is_rolled_back_is_not_recorded(trail: AuditTrail, factory: Any) -> None:
    """A transaction that is rolled back, closed or refused by the database leaves no event, and a savepoint neither."""
    audit_changes(factory, trail)
    with factory() as session:
        session.add(User(name="rolled back"))
        session.flush()
        session.rollback()
        session.add(User(name="closed"))
        session.flush()
    with factory() as session:
        session.add(Shift(day="monday", number=1, doctor_id=4711))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
        session.rollback()
        session.add(User(name="kept"))
        with suppress(LookupError), session.begin_nested():
            session.add(User(name="undone"))
            session.flush()
            raise LookupError
        with session.begin_nested():
            session.add(User(name="released"))
        session.commit()
    assert [changes["name"][1] for _, _, changes in in_short(trail)] == ["kept", "released"]


def test_a_session_that_is_not_given_is_not_recorded(trail: AuditTrail, factory: Any) -> None:
    """One session can be recorded without those that the same factory makes, and each session has its own changes."""
    with factory() as audited, factory() as other:
        audit_changes(audited, trail)
        audited.add(User(name="audited"))
        audited.commit()
        other.add(User(name="other"))
        other.commit()
    assert [changes["name"][1] for _, _, changes in in_short(trail)] == ["audited"]


# -- who, and when


def test_the_user_of_an_expired_session_is_known(trail: AuditTrail, factory: Any) -> None:
    """A user whom the same session has loaded is found before the commit, which makes the session forget."""
    audit_changes(factory, trail, models=[Shift])
    with factory() as session:
        session.add(user := User(name="alice"))
        session.commit()
        with audit_context(user_id=lambda: user.name, request_id="r-1", tenant="north"):
            session.add(Shift(day="monday", number=1))
            session.flush()
        session.commit()
    [event] = stored(trail)
    assert (event.user_id, event.request_id, event.metadata) == ("alice", "r-1", {"tenant": "north"})


def test_an_event_is_stored_after_the_commit_and_without_the_connection(trail: AuditTrail, tmp_path: Path) -> None:
    """When the event is stored the rows are committed, and the session has given its connection back."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db'}")
    Base.metadata.create_all(engine)
    session = orm.Session(engine)
    audit_changes(session, trail)
    seen: list[tuple[int, int]] = []

    def look() -> str:
        with engine.connect() as connection:
            rows = connection.execute(sa.select(sa.func.count()).select_from(User)).scalar_one()
            seen.append((rows, engine.pool.checkedout()))  # type: ignore[attr-defined]
        return "north"

    original = trail.log_event

    async def log_event(*given: Any, **fields: Any) -> str:
        look()
        return await original(*given, **fields)

    trail.log_event = log_event  # type: ignore[method-assign]
    session.add(User(name="alice"))
    session.commit()
    assert seen == [(1, 1)]
    assert len(stored(trail)) == 1
    engine.dispose()


def test_threads_have_their_own_sessions(trail: AuditTrail, tmp_path: Path) -> None:
    """Sessions in several threads, some rolled back, are recorded each with its own changes and its own user."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db'}", connect_args={"timeout": 30})
    Base.metadata.create_all(engine)
    factory = orm.scoped_session(orm.sessionmaker(engine))
    audit_changes(factory, trail)

    def work(number: int) -> None:
        for count in range(5):
            with audit_context(user_id=f"user-{number}"):
                factory.add(User(name=f"user-{number}", last_seen=count))
                factory.flush()
                (factory.rollback if count % 2 else factory.commit)()
        factory.remove()

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    found = sorted((event.user_id, event.changes["name"][1], event.changes["last_seen"][1]) for event in stored(trail))
    assert found == sorted((f"user-{number}", f"user-{number}", count) for number in range(4) for count in (0, 2, 4))


# -- failures


def test_a_storage_that_fails_breaks_no_commit(
    trail: AuditTrail, factory: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows whose events can't be stored are committed; the log says how many, and storing ends after a while."""
    clock = iter(range(0, 100, 7))
    tried = []

    def fail(*args: object, **kwargs: object) -> None:
        tried.append(1)
        raise AuditStorageError("s3cret")

    audit_changes(factory, trail)
    monkeypatch.setattr("fapilog.core.sync.SyncAuditTrail.log_event", fail)
    monkeypatch.setattr("fapilog.integrations.sqlalchemy._changes.time.monotonic", lambda: next(clock))
    with factory.begin() as session:
        session.add_all([User() for _ in range(5)])
    with factory() as session:
        assert len(session.scalars(sa.select(User)).all()) == 5
    assert len(tried) == 2
    assert "no event" in caplog.text
    assert ": 5 (AuditStorageError, TimeoutError)" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_listener_that_fails_breaks_no_flush(
    trail: AuditTrail, factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong while changes are noted is logged, and the session goes on."""
    audit_changes(factory, trail)

    def refuse(state: Any) -> None:
        if state.is_select and not state.is_column_load:
            raise LookupError("s3cret")

    with factory() as session:
        session.add(user := User(name="alice"))
        session.commit()
        sa.event.listen(session, "do_orm_execute", refuse)
        user.name = "bob"
        session.commit()
    with factory() as session:
        assert session.get(User, 1).name == "bob"
    assert "not recorded: LookupError" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_time_limit_reaches_the_code_that_commits(
    trail: AuditTrail, factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception of a signal handler that arrives in a listener is raised, when the other changes are stored."""
    audit_changes(factory, trail)
    real, tried = SyncAuditTrail.log_event, 0

    def interrupted(*args: Any, **fields: Any) -> str:
        nonlocal tried
        tried += 1
        if tried == 1:
            expire()
        return real(*args, **fields)

    with alarming() as expire, factory() as session:
        session.add_all([alice := User(name="alice"), User(name="bob")])
        monkeypatch.setattr(SyncAuditTrail, "log_event", interrupted)
        with pytest.raises(TimeUp):
            session.commit()
        assert (tried, len(stored(trail))) == (2, 1)
        # Our listener reads the old value.
        sa.event.listen(session, "do_orm_execute", lambda state: expire() if state.is_select else None)
        alice.name = "carol"
        with pytest.raises(TimeUp):
            session.commit()
    with factory() as session:
        assert session.get(User, 1).name == "alice"


# -- options


def kinds(engine: Any) -> dict[str, Callable[[], Any]]:
    """Return functions that make what makes sessions, or a session, by name."""
    return {
        "session": lambda: orm.Session(engine),
        "factory": lambda: orm.sessionmaker(engine),
        "scoped": lambda: orm.scoped_session(orm.sessionmaker(engine)),
        "class": lambda: type("Own", (orm.Session,), {}),
    }


@pytest.mark.parametrize("kind", ["session", "factory", "scoped", "class"])
def test_every_kind_of_session_is_recorded(kind: str, trail: AuditTrail, factory: Any) -> None:
    """A session, a factory, a scoped session and a class are taken, and a session of another one is left alone."""
    engine = factory.kw["bind"]
    sessions = kinds(engine)[kind]()
    audit_changes(sessions, trail)
    session = sessions if kind == "session" else sessions(bind=engine) if kind == "class" else sessions()
    for each in (session, orm.Session(engine)):
        each.add(User(name="alice"))
        each.commit()
        each.close()
    assert len(stored(trail)) == 1


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"sessions": "sqlite://"}, "sessions"),
        ({"sessions": User}, "sessions"),
        ({"trail": "audit"}, "trail"),
        ({"models": User}, "models"),
        ({"models": ["User"]}, "models"),
        ({"exclude": 1}, "exclude"),
        ({"mask": [User]}, "mask"),
    ],
)
def test_a_wrong_option_is_refused(given: dict[str, Any], named: str, trail: AuditTrail, factory: Any) -> None:
    """An option of the wrong kind is refused when it is given, by its name."""
    options = {"sessions": factory, "trail": trail, **given}
    with pytest.raises(TypeError, match=named):
        audit_changes(options.pop("sessions"), options.pop("trail"), **options)


@pytest.mark.parametrize(
    "given",
    [
        *({"target": "user/1"}, {"event_id": "e"}, {"message": "m"}, {"operation": "o"}, {"contains_ph": True}),
        *({"log_level": "loud"}, {"outcome": "meh"}, {"contains_phi": "yes"}),
    ],
    ids=str,
)
def test_a_field_that_fits_no_change_is_refused(given: dict[str, Any], trail: AuditTrail, factory: Any) -> None:
    """With it, no change would be recorded when the time comes."""
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(given))}: "):
        audit_changes(factory, trail, **given)


def test_tags_that_can_be_read_once_are_in_every_event(trail: AuditTrail, factory: Any) -> None:
    """An iterator is read where it is given."""
    audit_changes(factory, trail, regulatory_tags=iter(["GDPR"]))
    with factory() as session:
        session.add_all([User(name="alice"), User(name="bob")])
        session.commit()
    assert [event.regulatory_tags for event in stored(trail)] == [("GDPR",)] * 2


def test_a_name_that_no_class_has_is_said(trail: AuditTrail, factory: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The values that it means are recorded, so the log says so, once."""
    audit_changes(factory, trail, exclude=["name"], mask=["nmae"])
    for name in ("alice", "bob"):
        with factory() as session:
            session.add(User(name=name))
            session.commit()
    [line] = caplog.messages
    assert line == "audit_changes: mask: expected attributes that are columns; got 'nmae'; did you mean name?"


# -- asyncio


@pytest.fixture
def async_engine(tmp_path: Path) -> Any:
    """Return an engine of a database in a file, for asyncio."""
    pytest.importorskip("aiosqlite")
    pytest.importorskip("greenlet")
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db'}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return aio.create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'db'}")


@pytest.mark.real_time
@pytest.mark.one_backend
@pytest.mark.parametrize("kind", ["session", "factory", "scoped", "with a factory of its own"])
async def test_async_sessions_are_recorded(kind: str, async_engine: Any, trail: AuditTrail) -> None:
    """Sessions of asyncio are recorded by the context of their task, and those of another factory are left alone."""
    made: dict[str, Callable[[], Any]] = {
        "session": lambda: aio.AsyncSession(async_engine),
        "factory": lambda: aio.async_sessionmaker(async_engine),
        "scoped": lambda: aio.async_scoped_session(aio.async_sessionmaker(async_engine), asyncio.current_task),
        "with a factory of its own": lambda: aio.async_sessionmaker(
            async_engine, sync_session_class=orm.sessionmaker()
        ),
    }
    sessions = made[kind]()
    audit_changes(sessions, trail)
    for session in (sessions if kind == "session" else sessions(), aio.AsyncSession(async_engine)):
        with audit_context(user_id="alice"):
            session.add(user := User(name="alice"))
            await session.commit()
            user.name = "bob"
            await session.commit()
            await session.close()
    await async_engine.dispose()
    events = await trail.get_events()
    assert [(event.operation, event.user_id) for event in events] == [("update", "alice"), ("create", "alice")]
    assert dict(events[0].changes) == {"name": ["alice", "bob"]}


@pytest.mark.real_time
@pytest.mark.one_backend
async def test_a_caller_that_is_cancelled_after_the_commit_is_recorded(async_engine: Any, trail: AuditTrail) -> None:
    """While an event is stored other tasks run, and the cancellation of its task waits for it."""
    sessions = aio.async_sessionmaker(async_engine)
    audit_changes(sessions, trail)
    original, storing = trail.log_event, anyio.Event()

    async def log_event(*given: Any, **fields: Any) -> str:
        storing.set()
        await anyio.lowlevel.checkpoint()
        return await original(*given, **fields)

    trail.log_event = log_event  # type: ignore[method-assign]

    async def work() -> None:
        async with sessions() as session:
            session.add(User(name="alice"))
            await session.commit()
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await storing.wait()
        tasks.cancel_scope.cancel()
    await async_engine.dispose()
    assert [event.changes["name"][1] for event in await trail.get_events()] == ["alice"]


# -- the application of the docs


def test_the_script_of_the_docs_records_its_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that the docs show has an event for each of its transactions, with its user and without the secret."""
    monkeypatch.chdir(tmp_path)
    name = "tests.integrations.apps.sqlalchemy_app"
    monkeypatch.delitem(sys.modules, name, raising=False)
    app: Any = importlib.import_module(name)
    app.main()
    app.Session.kw["bind"].dispose()
    created, changed = stored(app.trail)
    assert (created.user_id, created.changes["portal_password"]) == ("dr-who", [None, "********"])
    assert (changed.user_id, dict(changed.changes)) == ("dr-no", {"ward": ["Surgery", "Oncology"]})
