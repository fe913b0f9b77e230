"""The middleware for WSGI applications without a framework that has its own."""

import io
import sys
import wsgiref.handlers
import wsgiref.util
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.simple_server import demo_app
from wsgiref.validate import validator

import pytest

from fapilog import AuditTrail, current_audit_context
from fapilog.core.sync import SyncAuditTrail
from fapilog.integrations.wsgi import AuditMiddleware
from tests.doubles.alarms import TimeUp, alarming

Start = Callable[..., object]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


def call(app: Any, path: str = "/", **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """Ask *app* as a server does that is strict about WSGI, and return the status, the headers and the body."""
    answered: list[Any] = []
    asked: dict[str, Any] = {"PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", **environ}
    wsgiref.util.setup_testing_defaults(asked)

    def start(status: str, headers: list[tuple[str, str]], _: object = None, /) -> Callable[[bytes], object]:
        answered[:] = status, dict(headers)
        return lambda _: None

    body = validator(app)(asked, start)
    try:
        content = b"".join(body)
    finally:
        body.close()  # type: ignore[attr-defined]
    return answered[0], answered[1], content


def answering(trail: AuditTrail, status: str = "200 OK") -> Application:
    """Return an application that logs an event before it answers, and another one with its body."""

    def application(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        environ["REMOTE_USER"] = "alice"
        trail.sync.log_event("shop.before", "m")
        start(status, [("Content-Type", "text/plain")])

        def body() -> Iterator[bytes]:
            trail.sync.log_event("shop.body", "m")
            yield b"ok"

        return body()

    return application


def test_events_know_their_request(trail: AuditTrail) -> None:
    """Those of the application, and of a body that is streamed; the response has the id, and nothing stays behind."""
    app = AuditMiddleware(
        answering(trail),
        user=lambda environ: environ["REMOTE_USER"],
        session=lambda environ: environ["HTTP_X_SESSION"],
        trusted_proxies=1,
    )
    status, headers, body = call(
        app,
        HTTP_X_REQUEST_ID="r-1",
        HTTP_X_SESSION="s-1",
        HTTP_USER_AGENT="curl",
        HTTP_X_FORWARDED_FOR="203.0.113.9, 192.0.2.7",
        REMOTE_ADDR="10.0.0.2",
    )
    assert (status, headers["X-Request-ID"], body) == ("200 OK", "r-1", b"ok")
    for event in trail.sync.get_events():
        assert (event.request_id, event.user_id, event.session_id) == ("r-1", "alice", "s-1")
        assert (event.client_ip, event.user_agent) == ("192.0.2.7", "curl")
    assert trail.sync.get_statistics()["total_events"] == 2
    assert current_audit_context() == {}


@pytest.mark.parametrize(
    ("status", "event_type", "outcome"),
    [("200 OK", "data_access", "success"), ("403 Forbidden", "authorization_failed", "denied")],
)
def test_a_request_is_an_event(trail: AuditTrail, status: str, event_type: str, outcome: str) -> None:
    """It is stored before the response begins, with the method and the path."""
    app = AuditMiddleware(answering(trail, status), trail=trail, log_requests=True)
    call(app, "/orders/7", QUERY_STRING="token=s3cret")
    _, event, _ = trail.sync.events(oldest_first=True)
    assert (event.event_type.value, event.outcome and event.outcome.value) == (event_type, outcome)
    assert (event.operation, event.target and event.target.id) == ("GET", "/orders/7")


def test_the_length_of_a_body_stays_known(trail: AuditTrail) -> None:
    """A server sees the list that an application returns, and so adds its length."""

    def application(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    output, environ = io.BytesIO(), dict[str, Any]()
    wsgiref.util.setup_testing_defaults(environ)
    handler = wsgiref.handlers.SimpleHandler(io.BytesIO(), output, io.StringIO(), environ)
    handler.run(AuditMiddleware(application, trail=trail))
    assert b"Content-Length: 5\r\n" in output.getvalue()


def test_middleware_in_middleware_has_one_event(trail: AuditTrail) -> None:
    """Of two that would store the event of a request, the inner one does."""
    inner = AuditMiddleware(answering(trail), trail=trail, log_requests=lambda _, path, __: path != "/health")
    for path in ("/orders/7", "/health"):
        call(AuditMiddleware(inner, trail=trail, log_requests=True), path)
    asked = [event.message for event in trail.sync.events(oldest_first=True) if event.operation == "GET"]
    assert asked == ["GET /orders/7: 200", "GET /health: 200"]


def failing(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    """Raise when it is called."""
    raise LookupError("no such order")


def failing_later(environ: dict[str, Any], start: Start) -> Iterator[bytes]:
    """Raise when it is asked for the first part of the body: a generator."""
    yield from failing(environ, start)


@pytest.mark.parametrize("failing", [failing, failing_later])
def test_an_application_that_raises_is_an_error(trail: AuditTrail, failing: Application) -> None:
    """The exception is in the event, goes on to the server, and leaves no context."""
    with pytest.raises(LookupError):
        call(AuditMiddleware(failing, trail=trail, log_requests=True))
    [event] = trail.sync.get_events()
    assert (event.event_type.value, event.metadata["status"]) == ("error_occurred", 500)
    assert event.error is not None
    assert event.error.message == "no such order"
    assert current_audit_context() == {}


def test_an_application_that_forgets_its_body_is_an_error(trail: AuditTrail) -> None:
    """A view without a ``return`` is recorded as one that raises."""

    def forgetful(*_: Any) -> Any:
        pass

    with pytest.raises(TypeError):
        AuditMiddleware(forgetful, trail=trail, log_requests=True)({"REQUEST_METHOD": "GET"}, forgetful)
    [event] = trail.sync.get_events()
    assert event.metadata["status"] == 500


def test_an_answer_that_is_replaced_is_an_error(trail: AuditTrail) -> None:
    """What the client gets in the end is recorded, too, with the exception: the way that PEP 3333 has for errors."""

    def application(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        headers = [("Content-Type", "text/plain")]
        start("200 OK", headers)
        try:
            raise LookupError("no such order")
        except LookupError:
            start("500 Oops", headers, sys.exc_info())
        return [b"sorry"]

    assert call(AuditMiddleware(application, trail=trail, log_requests=True))[0] == "500 Oops"
    answered, failed = trail.sync.events(oldest_first=True)
    assert [each.metadata["status"] for each in (answered, failed)] == [200, 500]
    assert failed.error is not None
    assert failed.error.message == "no such order"


def test_a_body_that_breaks_off_is_no_second_request(trail: AuditTrail) -> None:
    """The event was stored before the response began, and says how it began."""

    def breaking(environ: dict[str, Any], start: Start) -> Iterator[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        yield b"o"
        raise LookupError

    with pytest.raises(LookupError):
        call(AuditMiddleware(breaking, trail=trail, log_requests=True))
    [event] = trail.sync.get_events()
    assert event.metadata["status"] == 200


def test_an_application_is_asked_for(trail: AuditTrail) -> None:
    """What is no application, such as a trail that is given first, is refused when the middleware is made."""
    first: Any = trail
    with pytest.raises(TypeError, match=r"^app: expected a WSGI application; got an AuditTrail"):
        AuditMiddleware(first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"user": "alice"}, "user: expected a function of the environment; got a str"),
        (
            {"session": lambda: 1},
            "session: expected a function of the environment; got one that can",
        ),
        ({"trail": "audit"}, "trail: expected an AuditTrail; got a str"),
        ({"log_requests": True}, "log_requests: expected a trail to store the events in; got none"),
        ({"trusted_proxies": -1}, "trusted_proxies: expected a number of at least 0; got -1"),
    ],
)
def test_options_are_checked(trail: AuditTrail, options: dict[str, Any], words: str) -> None:
    """An option that can't work is refused when the middleware is made, in words."""
    with pytest.raises((TypeError, ValueError)) as raised:
        AuditMiddleware(answering(trail), **options)
    assert str(raised.value).startswith(words)


def test_a_time_limit_reaches_the_server(trail: AuditTrail, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception of a signal handler that arrives while the event of a request is stored is raised."""
    with alarming() as expire:
        monkeypatch.setattr(SyncAuditTrail, "log_event", lambda *_, **__: expire())
        with pytest.raises(TimeUp):
            call(AuditMiddleware(demo_app, trail=trail, log_requests=True))
