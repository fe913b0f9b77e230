"""A path may hold a secret, as that of a link which resets a password."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fapilog import AuditEvent, AuditTrail
from fapilog.integrations import wsgi
from fapilog.integrations.asgi import AuditMiddleware
from tests.doubles import django_site

# A UUID, of which routers make small letters, with a character that means more in a pattern.
SECRET = "0F2C4E5A-0000-4000-8000-0000000000AB"
PATH = f"/wards/7/reset/{SECRET}"


def starlette(trail: AuditTrail) -> Any:
    """Return an application whose router has two levels."""
    routing, responses = pytest.importorskip("starlette.routing"), importlib.import_module("starlette.responses")

    async def reset(request: Any) -> Any:
        return responses.Response()

    inner = routing.Route("/reset/{access_token:uuid}", reset)
    router = routing.Router(routes=[routing.Mount("/wards/{ward:int}", routes=[inner])])
    return AuditMiddleware(router, trail=trail, log_requests=True)


def fastapi(trail: AuditTrail) -> Any:
    """Return an application of FastAPI, which has the middleware inside of its own."""
    app = pytest.importorskip("fastapi").FastAPI()
    app.add_middleware(AuditMiddleware, trail=trail, log_requests=True)

    async def reset(ward: int, token: str) -> None: ...

    app.add_api_route("/wards/{ward}/reset/{token}", reset)
    return app


def litestar(trail: AuditTrail) -> Any:
    """Return an application of Litestar."""
    framework = pytest.importorskip("litestar")

    async def reset() -> None: ...

    app = framework.Litestar([framework.get("/wards/7/reset/{token:uuid}")(reset)])
    return AuditMiddleware(app, trail=trail, log_requests=True)


@pytest.mark.parametrize("make", [starlette, fastapi, litestar])
async def test_no_secret_of_a_path_is_recorded_under_asgi(make: Callable[[AuditTrail], Any], trail: AuditTrail) -> None:
    """The event of a request has stars in the place of a parameter of the path that is a secret by its name."""
    httpx2 = pytest.importorskip("httpx2")
    transport = httpx2.ASGITransport(make(trail))
    async with httpx2.AsyncClient(transport=transport, base_url="http://service") as client:
        assert (await client.get(PATH)).status_code == 200
    check(await trail.get_events())


def test_no_secret_of_a_path_is_recorded_of_flask(trail: AuditTrail) -> None:
    """So it is in Flask, also if the application takes the parameter away before its view is called."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("clinic")
    importlib.import_module("fapilog.integrations.flask").Audit(app, trail=trail, log_requests=True)
    app.url_value_preprocessor(lambda _, values: values and values.pop("token"))
    app.add_url_rule("/wards/<int:ward>/reset/<uuid:token>", view_func=lambda ward: "")
    assert app.test_client().get(PATH).status_code == 200
    check(trail.sync.get_events())


def test_no_secret_of_a_path_is_recorded_under_wsgi(trail: AuditTrail) -> None:
    """So it is in an application whose router leaves the parameters in the environment, as the convention has it."""

    def application(environ: dict[str, Any], start: Callable[..., object]) -> list[bytes]:
        environ["wsgiorg.routing_args"] = ((), {"ward": "7", "token": SECRET})
        start("200 OK", [])
        return []

    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "PATH_INFO": PATH}
    wsgi.AuditMiddleware(application, trail=trail, log_requests=True)(environ, lambda *_: lambda _: None)
    check(trail.sync.get_events())


def test_no_secret_of_a_path_is_recorded_of_django(tmp_path: Path) -> None:
    """So it is in Django, whose own link to reset a password has such a parameter."""
    urls = pytest.importorskip("django.urls")
    django_site.set_up()
    http, test = importlib.import_module("django.http"), importlib.import_module("django.test")
    route = urls.path("wards/<int:ward>/reset/<token>", lambda *_, **__: http.HttpResponse())
    routes = test.override_settings(ROOT_URLCONF=type("Routes", (), {"urlpatterns": (route,)}))
    with django_site.audit_settings(tmp_path, log_requests=True) as trail, routes:
        assert test.Client().get(PATH).status_code == 200
        check(trail.sync.get_events())


def check(events: list[AuditEvent]) -> None:
    """Fail if the one event has the secret, or not the rest of the path."""
    [event] = events
    assert (event.message, str(event.target)) == ("GET /wards/7/reset/********: 200", "/wards/7/reset/********")
