"""What Flask-Login and Flask-Security signal is recorded, without any secret."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fapilog import AuditEvent, AuditOutcome, AuditStorageError, AuditTrail

if TYPE_CHECKING:
    import flask

    from fapilog.integrations.flask import Audit
else:
    flask = pytest.importorskip("flask")
    Audit = pytest.importorskip("fapilog.integrations.flask").Audit

# Flask-Login 0.6.3 sets its remember cookie by a call that Python 3.12 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning:flask_login.login_manager")

SECRET = "correct horse battery"


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """Return a trail, not started."""
    return AuditTrail(storage_path=tmp_path / "audit")


def stored(trail: AuditTrail) -> list[AuditEvent]:
    """Return all events, the oldest first."""
    return list(trail.sync.events(oldest_first=True))


def in_short(event: AuditEvent) -> tuple[str, str | None, str | None]:
    """Return type, operation and user."""
    return event.event_type.value, event.operation, event.user_id


@pytest.fixture
def with_login(trail: AuditTrail) -> flask.Flask:
    """Return an application with Flask-Login, which signs in and out whom it is told."""
    login: Any = pytest.importorskip("flask_login")
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    manager = login.LoginManager(app)

    class User(login.UserMixin):  # type: ignore[misc]
        id = 7

        def get_id(self) -> str:
            return "an alternative token"

    manager.user_loader(lambda _: User())

    def view(name: str) -> str:
        if name == "in":
            login.login_user(User(), remember=True)
        elif name == "read":
            trail.sync.log_data_access("patient/42", "read")
        else:
            {"out": login.logout_user, "confirm": login.confirm_login}[name]()
        return "done"

    app.add_url_rule("/<name>", view_func=view)
    Audit(app, trail=trail)
    return app


def test_signing_in_and_out_is_recorded(with_login: flask.Flask, trail: AuditTrail) -> None:
    """Who signs in, confirms it, reads and signs out is recorded by id; nobody signs out who was not signed in."""
    client = with_login.test_client()
    for name in ("read", "out", "in", "confirm", "read", "out", "read"):
        assert client.get(f"/{name}").text == "done"
    assert [in_short(event) for event in stored(trail)] == [
        ("data_access", "read", None),
        ("authentication_succeeded", None, "7"),
        ("authentication_succeeded", "confirm sign-in", "7"),
        ("data_access", "read", "7"),
        ("session_ended", "sign out", "7"),
        ("data_access", "read", None),
    ]


def test_a_session_that_begins_by_the_remember_cookie_is_a_sign_in(with_login: flask.Flask, trail: AuditTrail) -> None:
    """A user who comes back without a session signs in by the cookie, once, also where an event asks for the user."""
    client = with_login.test_client()
    client.get("/in")
    client.delete_cookie("session")
    client.get("/read")
    client.get("/read")
    _, read, remembered, again = stored(trail)
    assert in_short(remembered) == ("authentication_succeeded", "remember cookie", "7")
    assert (remembered.request_id, remembered.client_ip) == (read.request_id, "127.0.0.1")
    assert in_short(again) == ("data_access", "read", "7")


def test_the_user_of_a_stream_is_known(with_login: flask.Flask, trail: AuditTrail) -> None:
    """While a response is streamed, without Flask's contexts, events still have Flask-Login's user."""

    def parts() -> Any:
        yield trail.sync.log_data_access("part", "read")

    with_login.add_url_rule("/parts", view_func=lambda: flask.Response(parts()))
    client = with_login.test_client()
    client.get("/in")
    assert client.get("/parts").text
    assert stored(trail)[-1].user_id == "7"


def test_a_storage_that_fails_stops_no_login(
    with_login: flask.Flask, trail: AuditTrail, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A sign-in that can't be recorded succeeds, and the log says what is missing."""

    def fail(*args: object, **kwargs: object) -> None:
        raise AuditStorageError("s3cret")

    monkeypatch.setattr("fapilog.core.sync.SyncAuditTrail.log_authentication", fail)
    assert with_login.test_client().get("/in").text == "done"
    assert "not recorded: AuditStorageError" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_user_that_can_not_be_read_signs_in(trail: AuditTrail) -> None:
    """The sign-in is recorded, with a text in the place of the id, as when the row of the user is gone meanwhile."""
    signals: Any = pytest.importorskip("flask_login.signals")

    class Gone:
        @property
        def id(self) -> int:
            raise LookupError("s3cret")

    app = flask.Flask(__name__)
    Audit(app, trail=trail)
    signals.user_logged_in.send(app, user=Gone())
    [event] = stored(trail)
    assert (event.event_type.value, event.user_id) == (
        "authentication_succeeded",
        "<test_a_user_that_can_not_be_read_signs_in.<locals>.Gone, unreadable: LookupError>",
    )


def test_neither_library_is_needed(trail: AuditTrail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Flask-Login and Flask-Security, requests have their context all the same."""
    for name in ("flask_login", "flask_login.signals", "flask_security", "flask_security.signals"):
        monkeypatch.setitem(sys.modules, name, None)
    app = flask.Flask(__name__)
    app.add_url_rule("/", view_func=lambda: trail.sync.log_data_access("patient/42", "read"))
    Audit(app, trail=trail)
    assert app.test_client().get("/", headers={"X-Request-ID": "r-1"}).status_code == 200
    assert [(event.request_id, event.user_id) for event in stored(trail)] == [("r-1", None)]


@pytest.fixture
def with_security(trail: AuditTrail, monkeypatch: pytest.MonkeyPatch) -> Iterator[flask.Flask]:
    """Yield an application with Flask-Security, and its users in a database in memory."""
    security: Any = pytest.importorskip("flask_security")
    orm: Any = pytest.importorskip("sqlalchemy.orm")
    sqlalchemy: Any = pytest.importorskip("sqlalchemy")
    models: Any = pytest.importorskip("flask_security.models.sqla")
    app = flask.Flask(__name__)
    app.config.update(
        SECRET_KEY=SECRET,
        SECURITY_PASSWORD_SALT="a salt",
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SCHEMES=["plaintext"],
        SECURITY_PASSWORD_SINGLE_HASH=["plaintext"],
        SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},
        SECURITY_REGISTERABLE=True,
        SECURITY_CHANGEABLE=True,
        SECURITY_RECOVERABLE=True,
        SECURITY_SEND_REGISTER_EMAIL=False,
        SECURITY_USE_REGISTER_V2=True,
        WTF_CSRF_ENABLED=False,
    )
    engine = sqlalchemy.create_engine(
        "sqlite://", poolclass=sqlalchemy.StaticPool, connect_args={"check_same_thread": False}
    )
    base = orm.declarative_base()
    models.FsModels.set_db_info(base_model=base)
    user = type("User", (base, models.FsUserMixin), {"__tablename__": "user"})
    role = type("Role", (base, models.FsRoleMixin), {"__tablename__": "role"})
    base.metadata.create_all(engine)
    session = orm.scoped_session(orm.sessionmaker(bind=engine))
    monkeypatch.setattr("flask_security.mail_util.MailUtil.send_mail", lambda *args, **kwargs: None)
    security.Security(app, security.SQLAlchemySessionUserDatastore(session, user, role))
    Audit(app, trail=trail)
    app.logger.setLevel(logging.CRITICAL)
    yield app
    session.remove()
    engine.dispose()


@pytest.mark.slow
def test_an_account_is_recorded_from_registration_to_a_new_password(
    with_security: flask.Flask, trail: AuditTrail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Flask-Security each step is recorded once, with its user and without passwords, tokens and addresses."""
    sent: list[str] = []
    monkeypatch.setattr(
        "flask_security.mail_util.MailUtil.send_mail", lambda *args, **kwargs: sent.append(str((args, kwargs)))
    )
    client = with_security.test_client()
    alice, new, newest = {"email": "alice@example.com", "password": SECRET}, "new one of them", "newest of them all"

    def post(path: str, **form: str) -> None:
        response = client.post(path, json=form)
        assert response.status_code in {200, 400}, response.text

    post("/register", **alice, password_confirm=SECRET)
    post("/logout")
    post("/login", email="alice@example.com", password="wrong password")
    post("/login", **alice)
    post("/change", password=SECRET, new_password=new, new_password_confirm=new)
    post("/logout")
    post("/reset", email="alice@example.com")
    [token] = re.findall(r"/reset/([\w.-]+)", sent[-1])[:1]
    post(f"/reset/{token}", password=newest, password_confirm=newest)
    events = stored(trail)
    assert [in_short(event) for event in events] == [
        ("account_changed", "register", "1"),
        ("authentication_succeeded", "register", "1"),
        ("session_ended", "sign out", "1"),
        ("authentication_failed", "password", "1"),
        ("authentication_succeeded", "password", "1"),
        ("authentication_succeeded", "change", "1"),
        ("credential_changed", "change password", "1"),
        ("session_ended", "sign out", "1"),
        ("credential_changed", "reset password", "1"),
    ]
    assert {str(event.target) for event in events if event.target} == {"user/1"}
    [file] = (tmp_path / "audit").glob("*.jsonl")
    for secret in (SECRET, new, newest, token, "wrong password", "alice@example.com"):
        assert secret not in file.read_text()


SIGNALS: dict[str, tuple[str, dict[str, Any]]] = {
    "user_confirmed": ("account_changed", {}),
    "username_changed": ("account_changed", {"old_username": SECRET}),
    "change_email_confirmed": ("account_changed", {"old_email": SECRET}),
    "us_profile_changed": ("credential_changed", {"methods": ["sms"], "delete": True}),
    "wan_registered": ("credential_changed", {"name": SECRET}),
    "wan_deleted": ("credential_changed", {"name": SECRET}),
    "tf_profile_changed": ("mfa_changed", {"method": "authenticator"}),
    "tf_disabled": ("mfa_changed", {}),
}


@pytest.mark.slow
def test_each_change_of_a_credential_is_recorded(with_security: flask.Flask, trail: AuditTrail, tmp_path: Path) -> None:
    """Second factors, passkeys and accounts that change are recorded with who changed whose, and no other value."""
    signals: Any = pytest.importorskip("flask_security.signals")

    class Other:
        id = 8

    audit = with_security.extensions["audit"]
    for name, (_, given) in SIGNALS.items():
        with with_security.test_request_context("/"):
            getattr(signals, name).send(with_security, user=Other(), **given)
    signals.user_failed_authn.send(with_security, user=Other(), auth_type="code", tfa=True)
    *changes, failed = stored(audit.trail)
    assert [event.event_type.value for event in changes] == [kind for kind, _ in SIGNALS.values()]
    assert {(str(event.target), event.user_id, event.outcome) for event in changes} == {
        ("user/8", "8", AuditOutcome.SUCCESS)
    }
    assert [event.metadata for event in changes if event.metadata] == [{"method": ["sms"]}, {"method": "authenticator"}]
    assert (failed.operation, failed.metadata, failed.log_level.value) == ("code", {"second_factor": True}, "security")
    [file] = (tmp_path / "audit").glob("*.jsonl")
    assert SECRET not in file.read_text()


def test_an_administrator_changes_the_password_of_another(with_security: flask.Flask, trail: AuditTrail) -> None:
    """A change that somebody else makes has that person as the user, and the account as the target."""
    signals: Any = pytest.importorskip("flask_security.signals")

    class Patient:
        id = 8

    app = flask.Flask("admin")
    app.add_url_rule("/", view_func=lambda: str(signals.password_changed.send(app, user=Patient()) and ""))
    Audit(app, trail=trail, user=lambda: "root")
    app.test_client().get("/")
    [event] = stored(trail)
    assert (event.user_id, str(event.target)) == ("root", "user/8")
