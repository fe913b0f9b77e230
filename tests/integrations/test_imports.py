"""An integration imports its own framework, and no other that happens to be installed; and it needs a trail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Frameworks and extensions, of which an application imports its own.
OPTIONAL = {
    *("arq", "celery", "django", "dramatiq", "fastapi", "flask", "flask_login", "flask_security", "litestar", "loguru"),
    *("opentelemetry", "prometheus_client", "quart", "rest_framework", "sentry_sdk", "sqlalchemy", "starlette"),
    *("structlog", "trio"),
}
TRAIL = "from fapilog import AuditTrail; trail = AuditTrail(storage_path=sys.argv[1], durability='write')\n"
FLASK = """
from flask import Flask
from fapilog.integrations.flask import Audit
app = Flask("shop")
app.secret_key = "k"
Audit(app, trail=trail)
app.get("/")(lambda: trail.sync.log_event("shop.view", "m"))
"""
REQUEST = "assert app.test_client().get('/').status_code == 200\n"
ASGI = """
import asyncio
from fapilog.integrations.asgi import AuditMiddleware
async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
async def send(message):
    pass
asked = {"type": "http", "method": "GET", "path": "/", "headers": []}
asyncio.run(AuditMiddleware(answer, trail=trail, log_requests=True)(asked, None, send))
"""
LOGGING = """
import logging
from fapilog.integrations.logging import AuditHandler
logging.getLogger().addHandler(AuditHandler(trail))
logging.warning("m")
logging.shutdown()
"""
STRUCTLOG = """
import structlog
from fapilog.integrations.structlog import AuditProcessor
structlog.configure(processors=[AuditProcessor(trail), structlog.processors.JSONRenderer()])
structlog.get_logger().warning("m")
"""
DJANGO = """
import django
from django.conf import settings
from django.http import HttpResponse
from django.test import Client
from django.urls import path
settings.configure(
    SECRET_KEY="k", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], AUDIT={"path": sys.argv[1]},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "fapilog.integrations.django"],
    MIDDLEWARE=["fapilog.integrations.django.AuditMiddleware"],
)
django.setup()
urlpatterns = [path("", lambda request: HttpResponse("ok"))]
assert Client().get("/").status_code == 200
"""
PLAIN = "trail.sync.log_event('shop.sale', 'm')\n"


def run(program: str, path: Path) -> str:
    """Run *program* in a process of its own, and return what it has printed."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys\n{program}", path],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("COV_", "DJANGO_"))},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize(
    ("program", "own"),
    [
        pytest.param(PLAIN, set(), id="script"),
        pytest.param(LOGGING, set(), id="logging"),
        pytest.param(STRUCTLOG, {"structlog"}, id="structlog"),
        pytest.param(ASGI, set(), id="asgi"),
        pytest.param(FLASK + REQUEST, {"flask"}, id="flask"),
        pytest.param(DJANGO, {"django"}, id="django"),
        pytest.param("import fapilog.integrations.celery\n", {"celery.signals"}, id="celery"),
        pytest.param("import fapilog.integrations.sqlalchemy\n", {"sqlalchemy"}, id="sqlalchemy"),
    ],
)
def test_no_other_framework_is_imported(program: str, own: set[str], tmp_path: Path) -> None:
    """An application that does without an installed extension starts no slower for it, and gets no warnings of it."""
    loaded = "print(*{each.partition('.')[0] for each in sys.modules})"
    found = OPTIONAL & set(run(TRAIL + program + loaded, tmp_path).split())
    # A framework's own imports are its own affair.
    alone = run("".join(f"import {each}\n" for each in sorted(own)) + loaded, tmp_path).split()
    assert found <= set(alone)


LATE = f"""{TRAIL}{FLASK}
from flask_login import LoginManager, UserMixin, login_user
login = LoginManager(app)
user = UserMixin()
user.id = "alice"
login.user_loader(lambda number: user)
@app.get("/login")
def sign_in():
    return str(login_user(user))
assert app.test_client().get("/login").status_code == 200
print(*(event.event_type.value for event in trail.sync.get_events()))
"""


@pytest.mark.slow
@pytest.mark.real_time
def test_an_extension_that_is_imported_after_the_call_is_recorded(tmp_path: Path) -> None:
    """A sign-in by a Flask-Login that the application imports last is an event."""
    assert run(LATE, tmp_path).split() == ["authentication_succeeded"]


WITHOUT_GREENLET = """
sys.modules["greenlet"] = None
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from fapilog.integrations.sqlalchemy import audit_changes
class Base(DeclarativeBase):
    pass
class Patient(Base):
    __tablename__ = "patient"
    id: Mapped[int] = mapped_column(primary_key=True)
engine = create_engine("sqlite://")
Base.metadata.create_all(engine)
with Session(engine) as session:
    audit_changes(session, trail)
    session.add(Patient(id=1))
    session.commit()
print(*(event.target for event in trail.sync.get_events()))
try:
    audit_changes(engine, trail)
except TypeError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.real_time
def test_sqlalchemy_without_greenlet(tmp_path: Path) -> None:
    """Without greenlet, an extra of SQLAlchemy, the changes of plain sessions are recorded."""
    pytest.importorskip("sqlalchemy")
    refused = "sessions: expected a session, or a maker of sessions; got an Engine"
    assert run(TRAIL + WITHOUT_GREENLET, tmp_path).splitlines() == ["patient/1", refused]


NOT_A_TRAIL = """
from fapilog.integrations import arq, asgi, celery, dramatiq, logging, structlog
async def application(scope, receive, send): ...
for make in (
    arq.AuditMiddleware, celery.instrument, dramatiq.AuditMiddleware, logging.AuditHandler, structlog.AuditProcessor,
    lambda given: asgi.with_lifespan(application, given),
):
    try:
        make("audit")
    except TypeError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.real_time
def test_an_integration_without_a_trail_is_refused(tmp_path: Path) -> None:
    """A path in the place of a trail is an error at once: else each event would be lost, with a line in the log."""
    assert run(NOT_A_TRAIL, tmp_path).splitlines() == ["trail: expected an AuditTrail; got a str"] * 6
