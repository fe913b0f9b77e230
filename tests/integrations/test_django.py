"""The Django app: what events know of their request, who signs in, and what is wrong with settings."""

from __future__ import annotations

import asyncio
import base64
import importlib
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fapilog import (
    AuditEvent,
    AuditEventType,
    AuditOutcome,
    AuditTrail,
    MemoryStorage,
    NoopAlertDispatcher,
    audit_context,
    bind_audit_context,
    current_audit_context,
)
from fapilog.core.signals import compliance_alert
from fapilog.testing import RecordingDispatcher
from tests.doubles import django_site

pytest.importorskip("django")
django_site.set_up()
auth: Any = importlib.import_module("django.contrib.auth.models")
http: Any = importlib.import_module("django.http")
conf: Any = importlib.import_module("django.conf")
testing: Any = importlib.import_module("django.test")
apps: Any = importlib.import_module("fapilog.integrations.django.apps")
ours: Any = importlib.import_module("fapilog.integrations.django")

ROOT = Path(__file__).parents[2]
AGENT = {"user-agent": "Firefox"}


@pytest.fixture
def pager() -> RecordingDispatcher:
    """Return what the trail of the site sends its alerts to."""
    return RecordingDispatcher()


@pytest.fixture
def trail(tmp_path: Path, pager: RecordingDispatcher) -> Iterator[AuditTrail]:
    """Yield the trail of the site, in a directory of its own."""
    with django_site.audit_settings(tmp_path / "audit", dispatcher=pager) as trail:
        yield trail


@pytest.fixture
def alice() -> Iterator[Any]:
    """Yield a user of the site."""
    user = auth.User(username="alice")
    user.set_password("correct horse")
    # Unseen by the trail.
    auth.User.objects.bulk_create([user])
    yield user
    user.delete()


def events(trail: AuditTrail) -> list[AuditEvent]:
    """Return the events, the oldest first."""
    return trail.sync.get_events()[::-1]


@pytest.mark.parametrize("page", ["/patients/42", "/patients/42/watch"])
@pytest.mark.parametrize("is_async", [False, True], ids=["wsgi", "asgi"])
def test_an_event_knows_its_request_and_its_user(page: str, is_async: bool, trail: AuditTrail, alice: Any) -> None:  # noqa: FBT001
    """In a view with or without await, under both interfaces, an event has the request, the address and the user."""
    headers = {**AGENT, "x-request-id": "r-1", "x-forwarded-for": "203.0.113.9, 192.0.2.7"}
    if is_async:
        client = testing.AsyncClient()
        client.force_login(alice)
        response = asyncio.run(client.get(page, headers=headers))
    else:
        client = testing.Client()
        client.force_login(alice)
        response = client.get(page, headers=headers)
    assert response.headers["x-request-id"] == "r-1"
    event = events(trail)[-1]
    assert (event.user_id, event.request_id, event.client_ip, event.user_agent) == (
        "alice",
        "r-1",
        "192.0.2.7",
        "Firefox",
    )
    assert event.session_id is not None
    assert event.session_id != client.session.session_key


def test_the_address_is_counted_over_trusted_proxies(tmp_path: Path) -> None:
    """Without a trusted proxy a header of the client says nothing, and with RFC 7239 the entry of the proxy counts."""
    headers = {"x-forwarded-for": "203.0.113.9", "forwarded": 'for=203.0.113.9, for="[2001:db8::7]:4711"'}
    for count, header in ((0, "x-forwarded-for"), (1, "forwarded")):
        with django_site.audit_settings(tmp_path / header, trusted_proxies=count, proxy_header=header) as trail:
            testing.Client().get("/patients/42", headers=headers)
            [event] = events(trail)
        assert event.client_ip == ("2001:db8::7" if count else "127.0.0.1")


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_nothing_outlives_a_request(kind: str, trail: AuditTrail) -> None:
    """What a view that raises has bound is in its own event, and not in the next one."""
    client = getattr(testing, kind)(raise_request_exception=False)

    def get(page: str) -> Any:
        answer = client.get(page)
        return asyncio.run(answer) if asyncio.iscoroutine(answer) else answer

    assert get("/patients/1/break").status_code == 500
    assert get("/patients/2").status_code == 200
    trail.sync.log_data_access("patient/3", "read")
    broken, read, outside = events(trail)
    assert broken.metadata["tenant"] == "tenant-1"
    assert "tenant" not in read.metadata
    assert broken.request_id != read.request_id
    assert (outside.request_id, outside.client_ip) == (None, None)


def test_what_is_streamed_knows_its_request(trail: AuditTrail, alice: Any) -> None:
    """A generator that the server runs after the view, with or without await, logs with the context of the request."""
    client, async_client = testing.Client(), testing.AsyncClient()
    for each in (client, async_client):
        each.force_login(alice)
    assert b"".join(client.get("/export/2", headers={"x-request-id": "r-1"}).streaming_content) == b"0\n1\n"

    async def read() -> bytes:
        response = await async_client.get("/aexport/2", headers={"x-request-id": "r-2"})
        return b"".join([chunk async for chunk in response.streaming_content])

    assert asyncio.run(read()) == b"0\n1\n"
    exports = [event for event in events(trail) if event.operation == "export"]
    assert [(event.request_id, event.user_id) for event in exports] == [("r-1", "alice")] * 2 + [("r-2", "alice")] * 2


def test_what_is_streamed_has_the_values_that_were_bound(trail: AuditTrail) -> None:
    """What the view, and the generator of an earlier part, have bound is known, and the blocks of a generator end."""

    def rows() -> Iterator[str]:
        with audit_context(reason="ticket 7"):
            trail.sync.log_data_access("patient/1", "export")
            yield "1"
            bind_audit_context(tenant="south")
            trail.sync.log_data_access("patient/2", "export")
        yield "2"
        trail.sync.log_data_access("patient/3", "export")

    def view(_: Any) -> Any:
        bind_audit_context(tenant="north")
        return http.StreamingHttpResponse(rows())

    async def async_view(request: Any) -> Any:
        return view(request)

    async def read() -> bytes:
        response = await ours.AuditMiddleware(async_view)(testing.RequestFactory().get("/"))
        with pytest.warns(Warning, match="must consume synchronous iterators"):
            return b"".join([chunk async for chunk in response])

    assert b"".join(ours.AuditMiddleware(view)(testing.RequestFactory().get("/"))) == b"12"
    assert asyncio.run(read()) == b"12"
    found = [(event.metadata["tenant"], event.reason) for event in events(trail)]
    assert found == [("north", "ticket 7"), ("south", "ticket 7"), ("north", None)] * 2
    assert current_audit_context() == {}


def test_middleware_around_the_site_adds_no_event(tmp_path: Path) -> None:
    """Where the middleware for ASGI stores an event of each request too, there is one, with what Django knows."""
    around = importlib.import_module("fapilog.integrations.asgi").AuditMiddleware
    site = importlib.import_module("django.core.handlers.asgi").ASGIHandler()
    scope = {"type": "http", "method": "GET", "path": "/patients/42", "query_string": b"", "http_version": "1.1"}
    asked: Iterator[Any] = iter([{"type": "http.request", "body": b""}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(asked, None) or await asyncio.Future()

    async def send(message: Any) -> None:
        sent.append(message)

    with django_site.audit_settings(tmp_path, log_requests=True) as trail:
        app = around(site, trail=trail, log_requests=True)
        asyncio.run(app({**scope, "headers": [(b"host", b"testserver")]}, receive, send))
        assert sent[0]["status"] == 200
        assert [event.message for event in events(trail) if event.operation == "GET"] == ["GET /patients/42: 200"]


@pytest.mark.parametrize("is_around", [False, True])
def test_a_request_that_is_given_up_has_an_event(is_around: bool, tmp_path: Path, alice: Any) -> None:  # noqa: FBT001
    """Where the client leaves, and Django cancels the view, the request has one event, with the status 499."""
    path: Any = importlib.import_module("django.urls").path
    begun = asyncio.Event()

    async def admit(_: Any) -> Any:
        await trail.log_data_access("ward/7", "admit")
        begun.set()
        await asyncio.Future()

    async def receive() -> Any:
        if begun.is_set() or asked:
            await begun.wait()
            return {"type": "http.disconnect"}
        asked.append(True)
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        raise AssertionError(message["type"])

    asked: list[bool] = []
    client = testing.Client()
    client.force_login(alice)
    headers = [(b"host", b"testserver"), (b"cookie", f"sessionid={client.session.session_key}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/admit", "query_string": b"", "headers": headers}
    urls = type("Urls", (), {"urlpatterns": [path("admit", admit)]})
    app = importlib.import_module("django.core.handlers.asgi").ASGIHandler
    with (
        django_site.audit_settings(tmp_path, log_requests=True) as trail,
        testing.override_settings(ROOT_URLCONF=urls),
    ):
        around = partial(importlib.import_module("fapilog.integrations.asgi").AuditMiddleware, trail=trail)
        site = around(app(), log_requests=True) if is_around else app()
        asyncio.run(site(scope, receive, send))
        admitted, given_up = events(trail)
    assert (str(given_up.target), given_up.metadata["status"], given_up.user_id) == ("/admit", 499, "alice")
    assert given_up.request_id == admitted.request_id


def test_a_stream_that_ends_early_knows_its_request(trail: AuditTrail) -> None:
    """What a generator of a view logs when the client has left it has the context of the request."""

    def rows() -> Iterator[str]:
        sent = 0
        try:
            while True:
                sent += 1
                yield f"{sent}\n"
        finally:
            trail.sync.log_data_access("clinic.patient/*", "export", metadata={"rows": sent})

    view = ours.AuditMiddleware(lambda _: http.StreamingHttpResponse(rows()))
    response = view(testing.RequestFactory().get("/", headers={"x-request-id": "r-1"}))
    assert next(iter(response)) == b"1\n"
    response.close()
    [event] = events(trail)
    assert (event.request_id, event.client_ip, event.metadata["rows"]) == ("r-1", "127.0.0.1", 1)
    assert current_audit_context() == {}


@pytest.mark.slow
def test_a_user_who_is_found_in_the_view_is_known(trail: AuditTrail) -> None:
    """With Django REST framework, which authenticates in the view, events have the user."""
    views: Any = pytest.importorskip("rest_framework.views")
    authentication: Any = pytest.importorskip("rest_framework.authentication")
    response = pytest.importorskip("rest_framework.response").Response

    class Named(authentication.BaseAuthentication):  # type: ignore[misc]
        def authenticate(self, request: Any) -> Any:
            return auth.User(username=request.headers["authorization"]), None

    class View(views.APIView):  # type: ignore[misc]
        authentication_classes = (Named,)

        def get(self, _: Any) -> Any:
            trail.sync.log_data_access("patient/42", "read")
            return response()

    request = testing.RequestFactory().get("/", headers={"authorization": "bob"})
    assert ours.AuditMiddleware(View.as_view())(request).status_code == 200
    assert [event.user_id for event in events(trail)] == ["bob"]


def denied(method: str, path: str, status: int) -> bool:
    return status in {401, 403, 429}


@pytest.mark.parametrize("is_async", [False, True], ids=["wsgi", "asgi"])
def test_what_an_api_refuses_is_recorded(is_async: bool, tmp_path: Path, alice: Any) -> None:  # noqa: FBT001
    """Each request that Django REST framework refuses is a failed authorization, with the code of its error."""
    pytest.importorskip("rest_framework")
    importlib.import_module("django.core.cache").cache.clear()
    client = testing.AsyncClient() if is_async else testing.Client()

    def get(page: str, password: str | None = None) -> int:
        headers = {}
        if password is not None:
            headers["authorization"] = f"Basic {base64.b64encode(f'alice:{password}'.encode()).decode()}"
        answer = client.get(page, headers=headers)
        return int((asyncio.run(answer) if is_async else answer).status_code)

    api = testing.override_settings(ROOT_URLCONF="tests.integrations.apps.django_site.api")
    with django_site.audit_settings(tmp_path, log_requests=f"{__name__}.denied") as trail, api:
        assert get("/api/patients/42") == 401
        assert get("/api/patients/42", "battery staple") == 401
        assert get("/api/patients/42", "correct horse") == 200
        assert get("/api/users/7", "correct horse") == 403
        assert [get("/api/status/1"), get("/api/status/1")] == [200, 429]
        found = [
            (event.message, event.metadata["code"], event.user_id)
            for event in events(trail)
            if event.event_type is AuditEventType.AUTHORIZATION_FAILED
        ]
        assert {event.outcome for event in trail.sync.get_events(event_type="authorization_failed")} == {
            AuditOutcome.DENIED
        }
    assert found == [
        ("GET /api/patients/42: 401", "not_authenticated", None),
        ("GET /api/patients/42: 401", "authentication_failed", None),
        ("GET /api/users/7: 403", "permission_denied", "alice"),
        ("GET /api/status/1: 429", "throttled", None),
    ]
    assert b"staple" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_each_request_may_have_an_event(kind: str, tmp_path: Path, alice: Any) -> None:
    """With `log_requests` a request has an event with its user, what was bound, and the exception behind a 500."""
    client = getattr(testing, kind)(raise_request_exception=False)
    client.force_login(alice)
    with django_site.audit_settings(tmp_path, log_requests=True) as trail:
        for page in ("/patients/42", "/patients/1/break", "/nowhere?password=s3cret"):
            answer = client.get(page)
            assert (asyncio.run(answer) if asyncio.iscoroutine(answer) else answer).status_code
        read, broken, nowhere = (event for event in events(trail) if event.operation == "GET")
    assert (read.message, read.user_id, read.error) == ("GET /patients/42: 200", "alice", None)
    assert (broken.event_type, broken.metadata) == ("error_occurred", {"status": 500, "tenant": "tenant-1"})
    assert broken.error is not None
    assert (broken.error.type, broken.user_id) == ("RuntimeError", "alice")
    assert (nowhere.message, nowhere.error) == ("GET /nowhere: 404", None)


def refusing(_: Any) -> Any:
    """Return a middleware of a site that answers every request."""
    return lambda _: http.HttpResponse(status=403)


def test_a_request_that_other_middleware_answers_has_an_event(tmp_path: Path) -> None:
    """With the settings of the docs, a refusal by any other middleware has a request id, and is recorded."""
    first, *others = conf.settings.MIDDLEWARE
    with (
        django_site.audit_settings(tmp_path, log_requests=denied) as trail,
        testing.override_settings(MIDDLEWARE=[first, f"{__name__}.refusing", *others]),
    ):
        response = testing.Client().get("/patients/42")
        [event] = events(trail)
    assert (event.message, event.outcome) == ("GET /patients/42: 403", AuditOutcome.DENIED)
    assert event.request_id == response.headers["x-request-id"]


def named(get_response: Any) -> Any:
    """Return a middleware of a site that finds the user by a header, when the user is asked for, and without await."""
    lazy: Any = importlib.import_module("django.utils.functional").SimpleLazyObject

    def middleware(request: Any) -> Any:
        request.user = lazy(lambda: auth.User.objects.get(username=request.headers["authorization"]))
        return get_response(request)

    return middleware


@pytest.mark.parametrize("place", [0, None], ids=["outside", "inside"])
@pytest.mark.parametrize("page", ["/patients/42", "/patients/42/watch"])
def test_a_user_who_is_found_by_other_middleware_is_known(
    page: str, place: int | None, trail: AuditTrail, alice: Any
) -> None:
    """Wherever that middleware stands, and though it asks the database late, each view knows the user."""
    middleware = ["fapilog.integrations.django.AuditMiddleware"]
    middleware.insert(len(middleware) if place is None else place, f"{__name__}.named")
    with testing.override_settings(MIDDLEWARE=middleware):
        response = asyncio.run(testing.AsyncClient().get(page, headers={"authorization": "alice"}))
    assert response.status_code == 200
    assert [event.user_id for event in events(trail)] == ["alice"]


def test_the_id_of_a_user_is_yours_to_choose(tmp_path: Path, alice: Any) -> None:
    """A function in the settings says what a user is called, in requests and sign-ins; it may raise."""
    with django_site.audit_settings(tmp_path / "a", user_id=lambda user: f"u{user.pk}") as trail:
        client = testing.Client()
        client.force_login(alice)
        client.get("/patients/42")
        assert [event.user_id for event in events(trail)] == [f"u{alice.pk}"] * 2
    with django_site.audit_settings(tmp_path / "b", user_id=lambda user: user.nothing) as trail:
        client.force_login(alice)
        assert client.get("/patients/42").status_code == 200
        assert len(events(trail)) == 2


def test_signing_in_and_out_is_recorded(
    trail: AuditTrail, pager: RecordingDispatcher, alice: Any, tmp_path: Path
) -> None:
    """A failure, a sign-in and a sign-out are recorded, the failure alerts, and no password is stored."""
    client = testing.Client()
    login = {"username": "alice", "password": "battery staple", "next": "/admin/"}
    address = {"x-forwarded-for": "192.0.2.7"}
    client.post("/admin/login/", login, headers=address)
    client.post("/admin/login/", {**login, "password": "correct horse"}, headers=address)
    auth.User.objects.filter(pk=alice.pk).update(is_staff=True)
    client.post("/admin/login/", {**login, "password": "correct horse"}, headers=address)
    client.post("/admin/logout/", headers=address)
    testing.Client().logout()
    kinds = [event.event_type.value for event in events(trail)]
    assert kinds == ["authentication_failed", "authentication_succeeded", "session_ended"]
    assert {(event.user_id, event.client_ip) for event in events(trail)} == {("alice", "192.0.2.7")}
    trail.sync.drain()
    assert [alert.event.event_type.value for alert in pager.alerts] == ["authentication_failed"]
    stored = "".join(file.read_text() for file in (tmp_path / "audit").glob("*.jsonl"))
    assert "battery staple" not in stored
    assert "correct horse" not in stored


def test_who_signs_in_is_not_stopped_by_the_trail(tmp_path: Path, alice: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Where the trail can't be stored, users sign in all the same, and the log says so without a name."""
    (tmp_path / "audit").write_text("a file, and no directory")
    with django_site.audit_settings(tmp_path / "audit", dispatcher=NoopAlertDispatcher()):
        assert testing.Client().login(username="alice", password="correct horse")
    assert "an event of Django is not recorded: AuditStorageError" in caplog.text
    assert "alice" not in caplog.text


def test_who_signs_in_is_not_stopped_by_wrong_settings(alice: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Where AUDIT describes no trail, users sign in, fail to, and sign out all the same, and the log says so."""
    without = [each for each in conf.settings.MIDDLEWARE if "fapilog" not in each]
    with testing.override_settings(AUDIT={"path": "audit", "durabilty": "write"}, MIDDLEWARE=without):
        client = testing.Client()
        assert client.login(username="alice", password="correct horse")
        assert not client.login(username="alice", password="wrong")
        client.logout()
    assert caplog.text.count("an event of Django is not recorded: ImproperlyConfigured") == 3


def test_the_trail_is_made_once_and_when_it_is_used(trail: AuditTrail, pager: RecordingDispatcher) -> None:
    """Nothing is there before the first request, which starts the trail; a receiver may name it as the sender."""
    assert "not used yet" in repr(trail)
    heard: list[AuditEvent] = []

    def receive(_: object, event: AuditEvent, **__: object) -> None:
        heard.append(event)

    with compliance_alert.connected_to(receive, sender=trail):
        asyncio.run(testing.AsyncClient().get("/patients/42/watch"))
        assert trail.is_started
        auth_failed = trail.sync.log_authentication(success=False)
        trail.sync.drain()
    assert [event.event_id for event in heard] == [auth_failed]
    assert [alert.event.event_id for alert in pager.alerts] == [auth_failed]


def test_a_dispatcher_that_is_not_entered_stops_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The request is answered and its event is stored; the log says that the trail is not started, once."""

    class Unreachable(NoopAlertDispatcher):
        async def __aenter__(self) -> None:
            raise OSError("no route")

        async def __aexit__(self, *_: object) -> None:
            """Never called."""

    with django_site.audit_settings(tmp_path / "audit", dispatcher=Unreachable()) as trail:
        for _ in range(2):
            assert testing.Client().get("/patients/42").status_code == 200
        assert len(events(trail)) == 2
    assert caplog.text.count("can't be started") == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # what gunicorn does, too
def test_a_forked_worker_has_the_trail_too(trail: AuditTrail) -> None:
    """A child that is forked when the trail was used stores in the same chain, and starts a trail of its own."""
    testing.Client().get("/patients/1")
    child = os.fork()
    if child == 0:
        try:
            is_begun = trail.is_started
            testing.Client().get("/patients/2")
            os._exit(0 if trail.is_started and not is_begun else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    first, second = events(trail)
    assert (first.process_id, second.process_id) == (os.getpid(), child)
    assert trail.sync.verify_chain_from_storage().valid


async def asynchronous(*_: object) -> str:
    raise AssertionError


def found(**options: Any) -> list[str]:
    """Return what ``manage.py check`` says of a setting AUDIT."""
    with testing.override_settings(AUDIT=options):
        return [each.msg for each in apps.check_settings()]


def test_the_settings_are_checked(tmp_path: Path) -> None:
    """What is wrong with AUDIT is an error with the name, what was expected, and the nearest name."""
    good = {"path": tmp_path}
    assert found(**good, dispatcher="fapilog.NoopAlertDispatcher", policy={"level": "hipaa"}) == []
    assert found(**good, dispatcher=NoopAlertDispatcher(), trusted_proxies=2) == []
    assert found(**good, dispatchers={"pager": {"type": "noop"}}, dispatcher="pager") == []
    assert not list(tmp_path.iterdir())

    assert found(**good, trusted_proxy=1) == [
        "AUDIT.trusted_proxy: there is no such option; did you mean trusted_proxies?"
    ]
    # As of a variable of the environment that is not set.
    for nothing in ({}, {"path": None}, {"storage": None}):
        assert found(**nothing) == [
            "AUDIT.path: expected the directory of the trail, such as BASE_DIR / 'audit'; got nothing"
        ]
    for options, words in (
        ({"trusted_proxies": -1}, "AUDIT.trusted_proxies: expected a number of at least 0; got -1"),
        ({"trusted_proxies": "1"}, "AUDIT.trusted_proxies: expected a whole number; got a str"),
        ({"proxy_header": 1}, "AUDIT.proxy_header: expected text; got an int"),
        ({"user_id": 1}, "AUDIT.user_id: expected a function of the user, or its dotted path; got an int"),
        ({"user_id": None}, "AUDIT.user_id: expected a function of the user, or its dotted path; got None"),
        ({"user_id": asynchronous}, "AUDIT.user_id: expected a function of the user, or its dotted path; got an async"),
        (
            {"user_id": "username"},
            "AUDIT.user_id: expected an object, or its dotted path such as 'shop.audit.user_id';",
        ),
        ({"user_id": lambda request, user: user}, "AUDIT.user_id: expected a function of the user, or its dotted path"),
        ({"log_requests": 1}, "AUDIT.log_requests: expected True, False or a function of the method, the path and the"),
        ({"log_requests": "clinic.chosen"}, "AUDIT.log_requests: clinic.chosen can't be imported: No module named 'cl"),
        ({"user_id": "clinic.name"}, "AUDIT.user_id: clinic.name can't be imported: No module named 'clinic'"),
        ({"storage_path": "audit"}, "AUDIT.storage_path: there is no such option; did you mean path?"),
        ({"alert_timeout": 0}, "AUDIT.alert_timeout: expected a number above 0; got 0"),
        ({"policy": {"level": "hippa"}}, "AUDIT.policy.level: expected one of none, basic, sox, hipaa"),
        ({"dispatcher": "clinic.alerts.pager"}, "AUDIT.dispatcher: clinic.alerts.pager can't be imported: No module"),
        ({"dispatcher": {"type": "slack", "webhook_url": "https://s3cret"}}, "AUDIT.dispatcher.webhook_url: expected"),
        ({"dispatcher": "pager"}, "AUDIT.dispatcher: expected"),
        ({"dispatcher": "os.path.join"}, "AUDIT.dispatcher: os.path.join can't be called: join() missing 1 required"),
        ({"storage": "django.http.HttpResponse"}, 'AUDIT.storage: expected a table with a "type"; got a HttpResponse'),
        ({"storage": {"type": "sqlit"}}, "AUDIT.storage.type: expected one of postgres, sqlite; got 'sqlit'; did you"),
        ({"storage": MemoryStorage()}, "AUDIT.storage: expected a storage or a path; got both"),
    ):
        [said] = found(**good, **options)
        assert said.startswith(words)
        assert "s3cret" not in said
    with testing.override_settings(AUDIT=None):
        assert [each.msg for each in apps.check_settings()] == [
            "AUDIT: expected a dict such as {'path': BASE_DIR / 'audit'}; got nothing"
        ]
    # That for ASGI applications is none of Django's.
    for names in ([], ["fapilog.integrations.asgi.AuditMiddleware"]):
        with testing.override_settings(MIDDLEWARE=names):
            [warning] = apps.check_settings()
        assert warning.hint == "Add 'fapilog.integrations.django.AuditMiddleware' to MIDDLEWARE."


def test_the_storage_may_be_a_table(tmp_path: Path) -> None:
    """The storage is configured as everywhere, and may be one of the site's own."""
    table = {"type": "sqlite", "path": tmp_path / "audit.db"}
    for storage in (table, MemoryStorage(), "fapilog.MemoryStorage"):
        with testing.override_settings(AUDIT={"storage": storage}):
            assert apps.check_settings() == []
            ours.trail.sync.log_admin_action("restart")
            assert len(ours.trail.sync.get_events()) == 1
    assert (tmp_path / "audit.db").exists()


def test_a_server_does_not_start_with_wrong_settings(tmp_path: Path) -> None:
    """What a check would find is raised when a server loads the middleware."""
    wrong = importlib.import_module("django.core.exceptions").ImproperlyConfigured
    with testing.override_settings(AUDIT={"path": tmp_path, "durability": "sometimes"}), pytest.raises(wrong):
        ours.AuditMiddleware(lambda _: http.HttpResponse())


def test_a_server_does_not_start_without_the_app() -> None:
    """The middleware alone would record no sign-in."""
    wrong = importlib.import_module("django.core.exceptions").ImproperlyConfigured
    others = [each for each in conf.settings.INSTALLED_APPS if each != "fapilog.integrations.django"]
    with testing.override_settings(INSTALLED_APPS=others), pytest.raises(wrong, match="INSTALLED_APPS: expected"):
        ours.AuditMiddleware(lambda _: http.HttpResponse())


def test_no_trail_is_made_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no check of Django runs, as under gunicorn, the site is refused all the same, and no directory is made."""
    wrong = importlib.import_module("django.core.exceptions").ImproperlyConfigured
    monkeypatch.chdir(tmp_path)
    with testing.override_settings(AUDIT={"policy": {"level": "hipaa"}}):
        with pytest.raises(wrong, match=r"^AUDIT\.path: expected the directory of the trail"):
            ours.trail.sync.log_admin_action("restart")
        with pytest.raises(wrong, match=r"^AUDIT\.path: expected the directory of the trail"):
            ours.AuditMiddleware(lambda _: None)
    assert not list(tmp_path.iterdir())


def test_the_lines_of_the_docs_are_those_of_the_site() -> None:
    """The blocks of the page that are not run are in the files of the site, which is; and all options are listed."""
    page = (ROOT / "docs/how-to/use-with-django.md").read_text(encoding="utf-8")
    blocks = re.findall(r"[Ii]n `clinic/(\w+\.py)`:\n\n<!-- skip: next -->\n```python\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in blocks] == ["settings.py", "models.py", "urls.py", "admin.py", "asgi.py"]
    for name, block in blocks:
        text = (ROOT / "tests/integrations/apps/django_site" / name).read_text(encoding="utf-8")
        site = text.replace("tests.integrations.apps.django_site", "clinic").splitlines()
        assert [line for line in block.splitlines() if line and line not in site] == []
    assert page.count("<!-- skip: next -->") == len(blocks)
    listed = re.findall(r"^\| `(\w+)` \| ", page.partition("| option |")[2].partition("\n\n")[0], re.MULTILINE)
    assert listed == [
        "dispatcher",
        "storage",
        "trusted_proxies",
        "proxy_header",
        "request_id_header",
        "user_id",
        "log_requests",
    ]
    assert set(listed) <= set(importlib.import_module("fapilog.integrations.django._settings")._KNOWN)
