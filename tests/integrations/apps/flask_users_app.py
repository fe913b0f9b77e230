"""A small Flask service with users: who signs in, who fails to, and what each of them reads."""

from flask import Flask, abort, current_app, request
from flask_login import (
    LoginManager,
    UserMixin,
    login_required,
    login_user,
    logout_user,
)

from fapilog import AuditTrail
from fapilog.integrations.flask import Audit

audit = Audit(
    trail=AuditTrail(storage_path="audit"),
    trusted_proxies=1,
    log_requests=lambda method, path, status: status >= 400,
)
logins = LoginManager()
PASSWORDS = {"alice": "wonderland", "bob": "builder"}
WARDS = {7: "Surgery", 8: "Oncology"}


class User(UserMixin):
    """A user, by name."""

    def __init__(self, name: str) -> None:
        self.id = name


@logins.user_loader
def load(name: str) -> User | None:
    """Return the user of a session."""
    return User(name) if name in PASSWORDS else None


def log_in() -> str:
    """Sign in; Flask-Login has no signal for a failure."""
    name = request.form["name"]
    if PASSWORDS.get(name) != request.form["password"]:
        audit.trail.sync.log_authentication(success=False, method="password", user_id=name)
        abort(401)
    login_user(User(name))
    return "welcome"


@login_required
def log_out() -> str:
    """Sign out."""
    logout_user()
    return "bye"


@login_required
def read_ward(number: int) -> dict[str, str]:
    """Read a ward."""
    trail = current_app.extensions["audit"].trail
    trail.sync.log_data_access(f"ward/{number}", "read")
    return {"ward": WARDS[number]}


def create_app() -> Flask:
    """Make the application."""
    app = Flask(__name__)
    app.secret_key = "from your settings"
    logins.init_app(app)
    audit.init_app(app)
    app.add_url_rule("/login", view_func=log_in, methods=["POST"])
    app.add_url_rule("/logout", view_func=log_out, methods=["POST"])
    app.add_url_rule("/wards/<int:number>", view_func=read_ward)
    return app
