"""The middleware for ASGI, without a server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import anyio
import pytest

from fapilog import AuditEvent, AuditEventType, AuditOutcome, AuditTrail
from fapilog.context import bind_audit_context, current_audit_context
from fapilog.integrations.asgi import AuditMiddleware, with_lifespan
from fapilog.testing import RecordedTrail
from tests.doubles.alarms import TimeUp, alarming
from tests.doubles.failing_storage import FailingStorage

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
View = Callable[[dict[str, Any], Any, Send], Awaitable[None]]


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """Return a trail, not started."""
    return AuditTrail(storage_path=tmp_path / "audit")


def scope(**others: Any) -> dict[str, Any]:
    """Return the scope of a request."""
    headers = {"user-agent": "curl", **others.pop("headers", {})}
    return {
        "type": "http",
        "method": "GET",
        "path": "/patients/42",
        "query_string": b"token=s3cret",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("192.0.2.7", 4711),
        **others,
    }


async def asked(app: View, **others: Any) -> list[Message]:
    """Send a request to *app*, and return the messages that it sends."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        sent.append(message)

    await app(scope(**others), receive, send)
    return sent


def answering(status: int = 200, *headers: tuple[bytes, bytes]) -> View:
    """Return an application that answers."""

    async def app(_: dict[str, Any], receive: Any, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": b""})

    return app


def sending(*messages: Message) -> View:
    """Return an application that sends *messages*."""

    async def app(_: dict[str, Any], receive: Any, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def stored(trail: AuditTrail) -> list[AuditEvent]:
    """Return all events, the oldest first."""
    return [event async for event in trail.events(oldest_first=True)]


# -- context


async def test_events_know_their_request(trail: AuditTrail) -> None:
    """An event in a view has the request, the client, the user that the view finds out, and the session."""

    async def app(scope: dict[str, Any], receive: Any, send: Send) -> None:
        await trail.log_data_access("patient/42", "read")
        scope["user"], scope["session"] = "alice", {"id": "s-1"}
        await trail.log_data_access("patient/42", "read")

    middleware = AuditMiddleware(
        app,
        user=lambda scope: scope.get("user"),
        session=lambda scope: scope.get("session", {}).get("id"),
        trusted_proxies=1,
    )
    await asked(middleware, headers={"x-request-id": "r-1", "x-forwarded-for": "203.0.113.9, 192.0.2.9"})
    before, after = await stored(trail)
    assert (before.user_id, before.session_id) == (None, None)
    assert (after.user_id, after.session_id) == ("alice", "s-1")
    for event in (before, after):
        assert (event.request_id, event.client_ip, event.user_agent) == ("r-1", "192.0.2.9", "curl")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "client", "expected"),
    [
        ({}, ("192.0.2.7", 1), "192.0.2.7"),
        ({}, None, None),
        ({}, ("", 0), None),
        ({"trusted_proxies": 1}, None, "192.0.2.8"),
        ({"trusted_proxies": 1, "proxy_header": "Forwarded"}, ("192.0.2.7", 1), "192.0.2.9"),
        ({"trusted_proxies": 1, "proxy_header": "X-Real-IP"}, ("192.0.2.7", 1), "192.0.2.7"),
    ],
)
async def test_only_the_header_of_the_proxies_is_read(options: Any, client: Any, expected: str | None) -> None:
    """The client's address is from the one header that our proxies write, and else the peer's, if it has one."""
    clients: list[object] = []

    async def app(scope: object, receive: object, send: object) -> None:
        clients.append(current_audit_context().get("client_ip"))

    headers = {"x-forwarded-for": "192.0.2.8", "forwarded": "for=192.0.2.9"}
    await asked(AuditMiddleware(app, **options), client=client, headers=headers)
    assert clients == [expected]


async def test_nothing_leaks_into_the_next_request() -> None:
    """Requests in one task and in many, whose views bind values and raise, begin without the values of any other."""
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: Any, send: Send) -> None:
        seen.append(current_audit_context())
        bind_audit_context(user_id=scope["path"], tenant="north")
        await anyio.lowlevel.checkpoint()
        assert current_audit_context()["user_id"] == scope["path"]
        raise LookupError(scope["path"])

    middleware = AuditMiddleware(app)

    async def client(number: int) -> None:
        for count in range(10):
            with pytest.raises(LookupError, match=f"^/{number}/{count}$"):
                await asked(middleware, path=f"/{number}/{count}", headers={"x-request-id": f"{number}-{count}"})
            assert current_audit_context() == {}

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(client, number)
    assert len({each["request_id"] for each in seen}) == len(seen) == 200
    assert {name for each in seen for name in each} == {"request_id", "client_ip", "user_agent"}


async def test_a_user_that_cannot_be_had_is_named(trail: AuditTrail) -> None:
    """An event is stored with a text in the place of a user that raises."""

    def user(scope: object) -> NoReturn:
        raise LookupError("s3cret")

    async def app(scope: object, receive: object, send: object) -> None:
        await trail.log_data_access("patient/42", "read")

    await asked(AuditMiddleware(app, user=user))
    assert [event.user_id for event in await stored(trail)] == ["<function, unreadable: LookupError>"]


async def test_other_connections_pass_unchanged() -> None:
    """The lifespan reaches the application as it is, with no context."""
    passed: list[object] = []

    async def app(*arguments: object) -> None:
        passed.extend(arguments)
        assert current_audit_context() == {}

    arguments: tuple[Any, Any, Any] = {"type": "lifespan"}, object(), object()
    await AuditMiddleware(app)(*arguments)
    assert all(one is other for one, other in zip(passed, arguments, strict=True))


# -- lifespan


async def lived(app: View) -> list[Message]:
    """Start and stop *app* as a server does, and return the messages that it sends."""
    sent: list[Message] = []
    phases = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> Message:
        return {"type": next(phases)}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    return sent


async def test_a_trail_lives_as_long_as_an_application_without_a_lifespan(trail: AuditTrail) -> None:
    """The trail is started and stopped, and a request reaches the application."""
    app = with_lifespan(answering(204), trail)
    started: list[bool] = []

    async def watching(scope: dict[str, Any], receive: Any, send: Send) -> None:
        async def watch(message: Message) -> None:
            started.append(trail.is_started)
            await send(message)

        await app(scope, receive, watch)

    assert await lived(watching) == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]
    assert started == [True, False]
    start, _ = await asked(app)
    assert start["status"] == 204


async def test_a_trail_that_can_not_be_started_ends_the_server(tmp_path: Path) -> None:
    """The server is told that the startup has failed, and not with the words of a stranger."""

    class Locked:
        async def __aenter__(self) -> NoReturn:
            raise ConnectionError("s3cret")

        async def __aexit__(self, *_: object) -> None: ...

        async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None: ...

    trail = AuditTrail(storage_path=tmp_path, alert_dispatcher=Locked())
    [sent] = await lived(with_lifespan(answering(), trail))
    assert sent == {"type": "lifespan.startup.failed", "message": "the trail: ConnectionError"}


def test_only_an_application_has_a_lifespan(trail: AuditTrail) -> None:
    """What can't be called is refused at once, and not with the first request."""
    with pytest.raises(TypeError, match=r"^app: expected an ASGI application; got a str$"):
        with_lifespan("service:app", trail)  # type: ignore[arg-type]


# -- request id


async def test_the_request_id_is_returned() -> None:
    """The response has the request id once, that of the request or a new one, whatever the application says itself."""
    app = AuditMiddleware(answering(200, (b"content-type", b"text/plain"), (b"X-Request-ID", b"other")))
    start, body = await asked(app, headers={"x-request-id": "r-1"})
    assert start["headers"] == [(b"content-type", b"text/plain"), (b"x-request-id", b"r-1")]
    assert body == {"type": "http.response.body", "body": b""}
    start, _ = await asked(app, headers={"x-request-id": "r 1"})
    assert len(start["headers"][1][1]) == 32


async def test_the_request_id_may_have_another_header() -> None:
    """The request id is taken from and returned in the header that is named, and a message without headers gets it."""
    app = AuditMiddleware(sending({"type": "http.response.start", "status": 200}), request_id_header="Trace-ID")
    [start] = await asked(app, headers={"trace-id": "r-1", "x-request-id": "r-2"})
    assert start["headers"] == [(b"trace-id", b"r-1")]


async def test_middleware_in_middleware_has_one_id() -> None:
    """Two of them around one application, as with a mounted one, give it one request id, which the view can read."""
    ids: list[object] = []

    async def app(scope: dict[str, Any], receive: Any, send: Send) -> None:
        ids.extend([scope["fapilog.request_id"], current_audit_context()["request_id"]])
        await answering()(scope, receive, send)

    start, _ = await asked(AuditMiddleware(AuditMiddleware(app)))
    [(_, returned)] = start["headers"]
    assert ids == [returned.decode()] * 2


# -- log_requests


async def test_middleware_in_middleware_has_one_event(trail: AuditTrail) -> None:
    """Of two that would store the event of a request in one trail the inner one does, and in its own trail each."""
    inner = AuditMiddleware(answering(), trail=trail, log_requests=lambda _, path, __: path != "/health")
    other = RecordedTrail()
    app = AuditMiddleware(AuditMiddleware(inner, trail=other, log_requests=True), trail=trail, log_requests=True)
    for path in ("/patients/42", "/health"):
        await asked(app, path=path)
    assert [event.message for event in await stored(trail)] == ["GET /patients/42: 200", "GET /health: 200"]
    assert len(other.events) == 2


@pytest.mark.parametrize(
    ("method", "status", "expected"),
    [
        ("GET", 200, ("data_access", "info", "success")),
        ("HEAD", 304, ("data_access", "info", "success")),
        ("POST", 201, ("data_modification", "info", "success")),
        ("PATCH", 404, ("data_modification", "info", "failure")),
        ("DELETE", 204, ("data_deletion", "info", "success")),
        ("GET", 401, ("authorization_failed", "warning", "denied")),
        ("POST", 403, ("authorization_failed", "warning", "denied")),
        ("GET", 429, ("authorization_failed", "warning", "denied")),
        ("DELETE", 503, ("error_occurred", "error", "failure")),
    ],
)
async def test_requests_are_recorded(
    trail: AuditTrail, method: str, status: int, expected: tuple[str, str, str]
) -> None:
    """A request has an event of a type and a level by its method and status, without its query and headers."""
    app = AuditMiddleware(answering(status), trail=trail, log_requests=True)
    await asked(app, method=method, headers={"authorization": "s3cret"})
    [event] = await stored(trail)
    assert event.outcome is not None
    assert (event.event_type, event.log_level.value, event.outcome.value) == expected
    assert event.message == f"{method} /patients/42: {status}"
    assert (event.operation, str(event.target), event.metadata["status"]) == (method, "/patients/42", status)
    assert (event.client_ip, event.user_agent) == ("192.0.2.7", "curl")
    assert event.request_id
    assert b"s3cret" not in b"".join(file.read_bytes() for file in (trail.storage_path or Path()).iterdir())


async def test_only_chosen_requests_are_recorded(trail: AuditTrail) -> None:
    """A function chooses by method, path and status which requests are recorded."""

    def chosen(method: str, path: str, status: int) -> bool:
        return method == "POST" and path == "/a" and status == 201

    for status in (200, 201):
        app = AuditMiddleware(answering(status), trail=trail, log_requests=chosen)
        for method in ("GET", "POST"):
            for path in ("/a", "/b"):
                await asked(app, method=method, path=path)
    assert [event.message for event in await stored(trail)] == ["POST /a: 201"]


async def test_a_function_that_cannot_choose_loses_no_event(
    trail: AuditTrail, caplog: pytest.LogCaptureFixture
) -> None:
    """A request is recorded if the function that chooses raises or is asynchronous, which is logged by its type."""

    def chosen(method: str, path: str, status: int) -> NoReturn:
        raise LookupError("s3cret")

    async def later() -> bool:
        raise AssertionError

    for function in (chosen, lambda method, path, status: later()):
        await asked(AuditMiddleware(answering(), trail=trail, log_requests=function))
    assert len(await stored(trail)) == 2
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "log_requests raised LookupError: the request is recorded",
        "log_requests raised TypeError: the request is recorded",
    ]


async def test_the_event_is_stored_before_the_answer(trail: AuditTrail) -> None:
    """When the response begins, its event is stored, with what the view has bound."""

    async def app(scope: dict[str, Any], receive: Any, send: Send) -> None:
        bind_audit_context(user_id="alice")
        await answering()(scope, receive, send)

    found: list[str | None] = []

    async def send(message: Message) -> None:
        found.extend(event.user_id for event in await stored(trail))

    await AuditMiddleware(app, trail=trail, log_requests=True)(scope(), None, send)  # type: ignore[arg-type]
    assert found == ["alice", "alice"]


async def test_a_trail_that_fails_stops_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    """A request whose event can't be stored is answered all the same, and the failure is logged."""
    app = AuditMiddleware(
        answering(), trail=AuditTrail(storage=FailingStorage(refuses=lambda _: True)), log_requests=True
    )
    start, _ = await asked(app)
    assert start["status"] == 200
    assert [record.getMessage() for record in caplog.records] == [
        "a request is answered without its event, which can't be stored: AuditStorageError"
    ]


async def test_a_time_limit_reaches_the_server(trail: AuditTrail, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exception of a signal handler that arrives while the event of a request is stored is raised."""
    with alarming() as expire:
        monkeypatch.setattr(trail, "log_event", lambda *_, **__: expire())
        with pytest.raises(TimeUp):
            await asked(AuditMiddleware(answering(), trail=trail, log_requests=True))


async def test_a_view_that_raises_is_an_error(trail: AuditTrail) -> None:
    """An exception before the response is recorded with status 500, and passes as it is."""
    error = LookupError("no such patient")

    async def app(scope: object, receive: object, send: object) -> NoReturn:
        raise error

    with pytest.raises(LookupError) as raised:
        await asked(AuditMiddleware(app, trail=trail, log_requests=True))
    assert raised.value is error
    [event] = await stored(trail)
    assert (event.event_type.value, event.metadata["status"]) == ("error_occurred", 500)
    assert event.error is not None
    assert event.error.message == "no such patient"


async def test_a_request_has_one_event(trail: AuditTrail) -> None:
    """An exception behind the beginning of a response adds no event, and an application that never answers has one."""

    async def failing_late(scope: dict[str, Any], receive: Any, send: Send) -> NoReturn:
        await send({"type": "http.response.start", "status": 200})
        raise LookupError

    with pytest.raises(LookupError):
        await asked(AuditMiddleware(failing_late, trail=trail, log_requests=True))
    await asked(AuditMiddleware(sending(), trail=trail, log_requests=True))
    assert [event.metadata["status"] for event in await stored(trail)] == [200, 500]


async def test_a_client_that_leaves_is_no_error(trail: AuditTrail) -> None:
    """An application that gives up then has not failed, and the event says that nothing was answered."""

    async def app(scope: dict[str, Any], receive: Any, send: Send) -> None:
        assert (await receive())["type"] == "http.disconnect"

    async def gone() -> Message:
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        raise AssertionError

    await AuditMiddleware(app, trail=trail, log_requests=True)(scope(), gone, send)
    [event] = await stored(trail)
    assert (event.event_type, event.metadata["status"]) == (AuditEventType.DATA_ACCESS, 499)
    assert event.outcome is AuditOutcome.FAILURE


async def test_a_cancellation_passes(trail: AuditTrail) -> None:
    """A request that is cancelled ends at once, and leaves no context behind."""

    async def app(scope: object, receive: object, send: object) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(1) as limit:
        await asked(AuditMiddleware(app, trail=trail, log_requests=True))
    assert limit.cancelled_caught
    assert current_audit_context() == {}
    assert await stored(trail) == []


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"type": "websocket.accept"}, {"type": "websocket.send", "text": "a"}, {"type": "websocket.close"}], 101),
        ([{"type": "websocket.close", "code": 1008}], 403),
        ([{"type": "websocket.http.response.start", "status": 401, "headers": []}], 401),
    ],
)
async def test_a_websocket_has_one_event(trail: AuditTrail, messages: list[Message], status: int) -> None:
    """A WebSocket that is accepted, closed or refused has one event with the status of its handshake, and its id."""
    websocket = {"type": "websocket", "headers": {"x-request-id": "r-1"}}
    request = scope(**websocket)  # with a method, as a client for tests gives one: that of the handshake
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await AuditMiddleware(sending(*messages), trail=trail, log_requests=True)(request, None, send)  # type: ignore[arg-type]
    [event] = await stored(trail)
    assert (event.operation, event.metadata["status"], event.request_id) == ("WEBSOCKET", status, "r-1")
    assert [message["type"] for message in sent] == [message["type"] for message in messages]
    if "headers" in sent[0]:
        assert sent[0]["headers"] == [(b"x-request-id", b"r-1")]
    else:
        assert sent[0]["type"] == "websocket.close"


# -- options


async def asynchronous(*_: object) -> bool:
    raise AssertionError


CHOICE = "log_requests: expected True, False or a function of the method, the path and the status"


def test_an_application_is_asked_for(trail: AuditTrail) -> None:
    """What is no application, such as a trail that is given first, is refused when the middleware is made."""
    first: Any = trail
    with pytest.raises(TypeError, match=r"^app: expected an ASGI application; got an AuditTrail"):
        AuditMiddleware(first)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"trail": "audit"}, TypeError, "trail: expected an AuditTrail; got a str"),
        ({"user": "alice"}, TypeError, "user: expected a function of the scope; got a str"),
        ({"user": asynchronous}, TypeError, "user: expected a function of the scope; got an asynchronous one"),
        (
            {"user": lambda: "alice"},
            TypeError,
            "user: expected a function of the scope; got one that can't be called with 1 argument",
        ),
        ({"session": 1}, TypeError, "session: expected a function of the scope; got an int"),
        ({"trusted_proxies": -1}, ValueError, "trusted_proxies: expected a number of at least 0; got -1"),
        ({"trusted_proxies": 1.5}, TypeError, "trusted_proxies: expected a whole number; got a float"),
        ({"log_requests": "GET"}, TypeError, f"{CHOICE}; got a str"),
        ({"log_requests": None}, TypeError, f"{CHOICE}; got None"),
        (
            {"log_requests": asynchronous},
            TypeError,
            f"{CHOICE}; got an asynchronous one",
        ),
        ({"proxy_header": b"forwarded"}, TypeError, "proxy_header: expected text; got a bytes"),
        (
            {"proxy_header": "Forwarded"},
            ValueError,
            "proxy_header: expected trusted_proxies too, their number; got 0, which reads no header",
        ),
        ({"request_id_header": None}, TypeError, "request_id_header: expected text; got None"),
        ({"log_requests": True}, ValueError, "log_requests: expected a trail to store the events in; got none"),
    ],
)
def test_options_are_checked(options: dict[str, Any], error: type[Exception], words: str) -> None:
    """An option that can't work is refused when the middleware is made, in words."""
    with pytest.raises(error) as raised:
        AuditMiddleware(answering(), **options)
    assert str(raised.value) == words
