"""The extension for Flask, by Flask's own test client and under a server of threads."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fapilog import AuditEvent, AuditOutcome, AuditStorageError, AuditTrail
from fapilog.context import audit_context, bind_audit_context, current_audit_context

if TYPE_CHECKING:
    import flask
    from werkzeug import serving

    from fapilog.integrations.flask import Audit
else:
    flask = pytest.importorskip("flask")
    serving = pytest.importorskip("werkzeug.serving")
    Audit = pytest.importorskip("fapilog.integrations.flask").Audit


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """Return a trail, not started."""
    return AuditTrail(storage_path=tmp_path / "audit")


@pytest.fixture
def app(trail: AuditTrail) -> flask.Flask:
    """Return an application of which ``/patients/42`` reads, and ``/failing`` raises."""
    app = flask.Flask(__name__)
    # Or else Flask logs the exception that a test makes it raise.
    app.logger.setLevel(logging.CRITICAL)

    @app.get("/patients/<int:number>")
    def read(number: int) -> str:
        return trail.sync.log_data_access(f"patient/{number}", "read")

    @app.get("/failing")
    def fail() -> str:
        bind_audit_context(ward=13)
        raise LookupError("no such ward")

    return app


def stored(trail: AuditTrail) -> list[AuditEvent]:
    """Return all events, the oldest first."""
    return list(trail.sync.events(oldest_first=True))


# -- context


def test_events_know_their_request(app: flask.Flask, trail: AuditTrail) -> None:
    """An event in a view has the request, the client behind the proxies, its program, the user and the session."""
    Audit(app, trail=trail, user=lambda: flask.g.user, session=lambda: "s-1", trusted_proxies=1)
    app.before_request(lambda: setattr(flask.g, "user", "alice"))
    headers = {"X-Request-ID": "r-1", "X-Forwarded-For": "203.0.113.9, 192.0.2.9", "User-Agent": "curl"}
    response = app.test_client().get("/patients/42", headers=headers)
    [event] = stored(trail)
    assert response.headers.getlist("X-Request-ID") == ["r-1"]
    assert (event.request_id, event.client_ip, event.user_agent) == ("r-1", "192.0.2.9", "curl")
    assert (event.user_id, event.session_id) == ("alice", "s-1")


@pytest.mark.parametrize(
    ("options", "peer", "expected"),
    [
        ({}, "192.0.2.7", "192.0.2.7"),
        ({}, "", None),
        ({"trusted_proxies": 1}, "", "192.0.2.8"),
        ({"trusted_proxies": 1, "proxy_header": "Forwarded"}, "192.0.2.7", "192.0.2.9"),
        ({"trusted_proxies": 1, "proxy_header": "X-Real-IP"}, "192.0.2.7", "192.0.2.7"),
    ],
)
def test_only_the_header_of_the_proxies_is_read(
    options: dict[str, Any], peer: str, expected: str | None, app: flask.Flask, trail: AuditTrail
) -> None:
    """The client's address is from the one header that our proxies write, and else the peer's, if it has one."""
    Audit(app, trail=trail, **options)
    headers = {"X-Forwarded-For": "203.0.113.9, 192.0.2.8", "Forwarded": 'for="192.0.2.9:4711"'}
    app.test_client().get("/patients/42", headers=headers, environ_base={"REMOTE_ADDR": peer})
    assert stored(trail)[0].client_ip == expected


def test_a_request_without_an_id_gets_one(app: flask.Flask, trail: AuditTrail) -> None:
    """A new id, or that of a middleware around the application, is in the event, the response and the environment."""
    Audit(app, trail=trail, request_id_header="X-Correlation-ID")
    app.add_url_rule("/id", view_func=lambda: flask.request.environ["fapilog.request_id"])
    client = app.test_client()
    made = client.get("/patients/42", headers={"X-Correlation-ID": "not an id\t"})
    assert len(made.headers["X-Correlation-ID"]) == 32
    assert stored(trail)[0].request_id == made.headers["X-Correlation-ID"]
    response = client.get("/id", environ_base={"fapilog.request_id": "outer"})
    assert (response.text, response.headers["X-Correlation-ID"]) == ("outer", "outer")


def test_a_user_that_cannot_be_told_is_named(app: flask.Flask, trail: AuditTrail) -> None:
    """A function for the user that raises makes no request fail, and the event says so."""

    def user() -> str:
        raise LookupError

    Audit(app, trail=trail, user=user)
    assert app.test_client().get("/patients/42").status_code == 200
    assert "LookupError" in str(stored(trail)[0].user_id)


def leaving(app: flask.Flask, trail: AuditTrail) -> dict[str, Any]:
    """Return what may leave something behind: functions, by what they do."""
    client = app.test_client()

    def nested_contexts() -> None:
        with app.app_context(), app.test_request_context("/patients/1"):
            client.get("/patients/42")

    def kept_context() -> None:
        with app.test_client() as keeping:
            keeping.get("/patients/42")
            assert flask.request.path == "/patients/42"
            assert current_audit_context() == {}

    def abandoned_stream() -> None:
        response = client.get("/stream", buffered=False)
        next(iter(response.response))
        response.close()

    def raised_to_the_server() -> None:
        with pytest.raises(LookupError):
            client.get("/failing", environ_overrides={"test.raise": True})

    return {
        "answered": lambda: client.get("/patients/42"),
        "not found": lambda: client.get("/nowhere"),
        "failing": lambda: client.get("/failing"),
        "raised to the server": raised_to_the_server,
        "nested contexts": nested_contexts,
        "kept context": kept_context,
        "abandoned stream": abandoned_stream,
    }


def test_nothing_leaks_from_a_request(app: flask.Flask, trail: AuditTrail) -> None:
    """Whichever way a request ends, the thread has the context that it had before, and the next request its own."""

    @app.get("/stream")
    def stream() -> Iterator[str]:
        with audit_context(ward=7):
            yield "a"
            yield "b"

    @app.before_request
    def propagate() -> None:
        app.config["PROPAGATE_EXCEPTIONS"] = "test.raise" in flask.request.environ

    Audit(app, trail=trail)
    with audit_context(tenant="north"):
        for leave in leaving(app, trail).values():
            # The client that keeps a context finds none of ours there.
            with audit_context(tenant=None):
                leave()
            assert current_audit_context() == {"tenant": "north"}
    app.test_client().get("/patients/42", headers={"X-Request-ID": "last"})
    last = stored(trail)[-1]
    assert (last.request_id, last.metadata) == ("last", {"resource": "patient/42"})


def test_a_view_that_asks_its_own_application_keeps_its_context(app: flask.Flask, trail: AuditTrail) -> None:
    """A request inside of another one has an id of its own, and the outer one its own before and after."""

    @app.get("/outer")
    def outer() -> str:
        trail.sync.log_data_access("before", "read")
        app.test_client().get("/patients/42", headers={"X-Request-ID": "inner"})
        return trail.sync.log_data_access("after", "read")

    Audit(app, trail=trail)
    app.test_client().get("/outer", headers={"X-Request-ID": "outer"})
    assert [event.request_id for event in stored(trail)] == ["outer", "inner", "outer"]


def test_what_closes_a_response_has_no_user(app: flask.Flask, trail: AuditTrail) -> None:
    """When the server closes a response, Flask's contexts are gone: the request is known, and the user is not."""
    Audit(app, trail=trail, user=lambda: flask.g.user)

    @app.get("/closing")
    def closing() -> flask.Response:
        flask.g.user = "alice"
        response = flask.Response("ok")
        response.call_on_close(lambda: trail.sync.log_event("shop.closed", "m"))
        return response

    app.test_client().get("/closing", headers={"X-Request-ID": "r-1"}).close()
    [event] = stored(trail)
    assert (event.user_id, event.request_id) == (None, "r-1")


@pytest.mark.parametrize("stream", ["plain", "with context"])
def test_a_stream_has_the_context_of_its_request(stream: str, app: flask.Flask, trail: AuditTrail) -> None:
    """What is logged while a response is streamed has the request and the user, and what the view has bound."""

    @app.get("/stream")
    def view() -> flask.Response:
        flask.g.user = "alice"
        bind_audit_context(ward=7)

        def parts() -> Iterator[str]:
            with audit_context(part=1):
                yield trail.sync.log_data_access("part", "read")
                yield trail.sync.log_data_access("part", "read")

        return flask.Response(parts() if stream == "plain" else flask.stream_with_context(parts()))

    Audit(app, trail=trail, user=lambda: flask.g.user)
    streamed = app.test_client().get("/stream", headers={"X-Request-ID": "r-1"}).text
    events = stored(trail)
    assert streamed == "".join(event.event_id for event in events)
    for event in events:
        assert (event.request_id, event.user_id) == ("r-1", "alice")
        assert event.metadata == {"resource": "part", "ward": 7, "part": 1}


def test_an_async_view_has_the_context(app: flask.Flask, trail: AuditTrail) -> None:
    """A view that is a coroutine function logs with the context of its request."""
    pytest.importorskip("asgiref")

    @app.get("/async")
    async def view() -> str:
        return await trail.log_data_access("patient/42", "read")

    Audit(app, trail=trail)
    app.test_client().get("/async", headers={"X-Request-ID": "r-1"})
    assert stored(trail)[0].request_id == "r-1"


def test_a_file_is_left_to_the_server(app: flask.Flask, trail: AuditTrail) -> None:
    """A response that the server can send by itself reaches it as it is."""

    class Wrapper:
        def __init__(self, file: Any, size: int = 0) -> None:
            self.file = file

        def __iter__(self) -> Iterator[bytes]:
            return iter(self.file.read, b"")

    app.add_url_rule("/file", view_func=lambda: flask.send_file(io.BytesIO(b"content"), download_name="a.txt"))
    Audit(app, trail=trail)
    environ = app.test_request_context("/file").request.environ | {"wsgi.file_wrapper": Wrapper}
    body = app(environ, lambda status, headers, exc_info=None: lambda data: None)
    assert isinstance(body, Wrapper)
    assert b"".join(body) == b"content"


@pytest.mark.slow
def test_threads_have_their_own_contexts(app: flask.Flask, trail: AuditTrail) -> None:
    """Under a server with a thread for each request, every record has the context of its own request."""
    pytest.importorskip("httpx2")
    import httpx2  # noqa: PLC0415

    Audit(app, trail=trail, user=lambda: flask.request.authorization and flask.request.authorization.username)
    server = serving.make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    expected: dict[str, tuple[str, str]] = {}
    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    def ask(number: int) -> None:
        path = "/failing" if number % 5 == 4 else f"/patients/{number}"
        headers = {"X-Request-ID": f"r-{number}"}
        url = f"http://127.0.0.1:{server.port}{path}"
        trust = httpx2.create_ssl_context()  # one for all tests: see the tests' conftest
        with httpx2.Client(verify=trust) as client:
            response = client.get(url, headers=headers, auth=(f"user-{number}", "x"))
        if response.status_code == 200:
            expected[response.text] = (f"r-{number}", f"user-{number}")

    try:
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(ask, range(20)))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert len(expected) == 16
    assert {event.event_id: (event.request_id, event.user_id) for event in stored(trail)} == expected


# -- options


def test_the_application_knows_its_audit(app: flask.Flask, trail: AuditTrail) -> None:
    """One `Audit` serves several applications, each of which has it among its extensions, and takes no second one."""
    other = flask.Flask("other")
    audit = Audit(trail=trail)
    for each in (app, other):
        audit.init_app(each)
        assert each.extensions["audit"] is audit
        assert each.extensions["audit"].trail is trail
    with pytest.raises(RuntimeError, match="already"):
        Audit(app, trail=trail)


async def asynchronous(*_: object) -> bool:
    raise AssertionError


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"trail": "audit"}, TypeError),
        ({"user": "alice"}, TypeError),
        ({"user": lambda request: request}, TypeError),
        ({"app": "shop"}, TypeError),
        ({"log_requests": lambda status: status}, TypeError),
        ({"session": 1}, TypeError),
        ({"session": asynchronous}, TypeError),
        ({"log_requests": "GET"}, TypeError),
        ({"log_requests": asynchronous}, TypeError),
        ({"trusted_proxies": -1}, ValueError),
        ({"trusted_proxies": True}, TypeError),
        ({"proxy_header": None}, TypeError),
        ({"request_id_header": b"x"}, TypeError),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], kind: type[Exception], trail: AuditTrail) -> None:
    """An option of the wrong kind is refused when it is given, by its name."""
    with pytest.raises(kind, match=next(iter(options))):
        Audit(**{"trail": trail, **options})


# -- one event a request


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/status/200", (200, "data_access", AuditOutcome.SUCCESS)),
        ("POST", "/status/201", (201, "data_modification", AuditOutcome.SUCCESS)),
        ("DELETE", "/status/204", (204, "data_deletion", AuditOutcome.SUCCESS)),
        ("GET", "/status/403", (403, "authorization_failed", AuditOutcome.DENIED)),
        ("GET", "/nowhere/ü", (404, "data_access", AuditOutcome.FAILURE)),
        ("GET", "/status/503", (503, "error_occurred", AuditOutcome.FAILURE)),
    ],
)
def test_a_request_has_an_event(
    method: str, path: str, expected: tuple[int, str, AuditOutcome], app: flask.Flask, trail: AuditTrail
) -> None:
    """With `log_requests` a request has an event with its method, its path without the query, and how it ended."""
    Audit(app, trail=trail, log_requests=True)
    methods = ["GET", "POST", "DELETE"]
    app.add_url_rule("/status/<int:status>", methods=methods, view_func=lambda status: ("", status))
    app.test_client().open(path, method=method, query_string={"token": "s3cret"}, headers={"X-Request-ID": "r-1"})
    [event] = stored(trail)
    assert (event.metadata["status"], event.event_type.value, event.outcome) == expected
    assert (event.operation, str(event.target), event.request_id) == (method, path, "r-1")
    assert "s3cret" not in str(event.message)
    assert event.error is None


@pytest.mark.parametrize("answers", ["flask", "server"])
def test_the_event_of_a_failed_request_has_the_exception(answers: str, app: flask.Flask, trail: AuditTrail) -> None:
    """A view that raises has an event with status 500 and the exception, whether Flask answers it or the server."""
    Audit(app, trail=trail, log_requests=True)
    app.config["PROPAGATE_EXCEPTIONS"] = answers == "server"
    client = app.test_client()
    if answers == "server":
        with pytest.raises(LookupError):
            client.get("/failing")
    else:
        assert client.get("/failing").headers["X-Request-ID"]
    [event] = stored(trail)
    assert event.error is not None
    assert (event.error.type, event.metadata) == ("LookupError", {"status": 500, "ward": 13})


def test_a_function_chooses_the_requests(app: flask.Flask, trail: AuditTrail) -> None:
    """A function of method, path and status says which requests have an event."""
    Audit(
        app, trail=trail, log_requests=lambda method, path, status: (method, path, status) == ("GET", "/nowhere", 404)
    )
    client = app.test_client()
    assert client.get("/nowhere").status_code == 404
    assert client.get("/patients/42").status_code == 200
    assert [event.message for event in stored(trail)] == ["GET /nowhere: 404", "Data read on resource: patient/42"]


def test_a_request_whose_event_cannot_be_stored_is_answered(
    app: flask.Flask, trail: AuditTrail, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A storage that fails is logged without its secrets, and the response is sent all the same."""

    def fail(*args: object, **kwargs: object) -> None:
        raise AuditStorageError("s3cret")

    app.add_url_rule("/", view_func=lambda: "answered")
    Audit(app, trail=trail, log_requests=True)
    monkeypatch.setattr("fapilog.core.sync.SyncAuditTrail.log_event", fail)
    assert app.test_client().get("/").text == "answered"
    assert "AuditStorageError" in caplog.text
    assert "s3cret" not in caplog.text
