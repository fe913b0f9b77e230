"""
Sends alerts that fail, and stores events that can't be stored, while others watch; prints all that these would send.

    python watched_alerts.py DIRECTORY asyncio|trio WATCHER < WORDS

WATCHER is one of `WATCHERS`. WORDS are a JSON object: `secret`, which is in every secret, and `person`, which is in
every record. Neither is written here, or given as an argument: a crash reporter prints source lines and `sys.argv`.
The last line that is printed is the number of reports.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import resource
import socketserver
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import requests

from fapilog import (
    AlertDispatcher,
    AuditEvent,
    AuditEventType,
    AuditLogLevel,
    AuditTrail,
    NoopAlertDispatcher,
    alert_failed,
)
from fapilog.core.alerting import DeliveryReport
from fapilog.delivery.digest import Digest
from fapilog.delivery.fallback import Fallback
from fapilog.delivery.fanout import FanOut
from fapilog.delivery.ratelimit import RateLimit
from fapilog.delivery.retry import Retrying
from fapilog.delivery.route import Route
from fapilog.integrations.logging import AuditHandler
from fapilog.proof.heartbeat import verify_heartbeat
from fapilog.providers import Disclosure
from fapilog.providers.alertmanager import AlertmanagerDispatcher
from fapilog.providers.apprise import AppriseDispatcher
from fapilog.providers.console import ConsoleDispatcher
from fapilog.providers.opsgenie import OpsgenieDispatcher
from fapilog.providers.pagerduty import PagerDutyDispatcher
from fapilog.providers.slack import SlackDispatcher
from fapilog.providers.smtp import EmailDispatcher
from fapilog.providers.webhook import WebhookDispatcher
from fapilog.storage.files import FileStorage
from fapilog.storage.protocol import EventFilter
from fapilog.testing import Answer, Origin


class Words:
    """The words that nobody may see: methods, since loguru prints the value of every attribute in a line."""

    def __init__(self) -> None:
        self._words: dict[str, str] = json.load(sys.stdin)

    def secret(self) -> str:
        """Return what is in every secret."""
        return self._words["secret"]

    def person(self) -> str:
        """Return who is in every record."""
        return self._words["person"]


WORDS = Words()
FULL = Disclosure.FULL
# Answers, by what is wrong with the other side.
ANSWERS = {
    "refuses the sender": Answer(403, b"no_service"),
    "refuses the content": Answer(400),
    "fails": Answer(503),
    "hangs": Answer(fault="hang_before_answering"),
    "hangs up": Answer(fault="close_before_answering"),
    "is not there": Answer(),
}


def providers() -> dict[str, Callable[[str, int], AlertDispatcher]]:
    """Return what makes a dispatcher for an address over HTTP, and the port of a mail server."""
    one = WORDS.secret().ljust(32, "0")[:32]
    key = "whsec_" + base64.b64encode(WORDS.secret().encode().ljust(32)).decode()
    return {
        "webhook": lambda url, _: WebhookDispatcher(
            url=f"{url}/{WORDS.secret()}", secret=key, headers={"x-key": one}, disclosure=FULL, timeout=0.2
        ),
        "slack": lambda url, _: SlackDispatcher(webhook_url=f"{url}/{WORDS.secret()}", disclosure=FULL, timeout=0.2),
        "slack, a bot": lambda url, _: SlackDispatcher(
            token=WORDS.secret(), channel="#ops", base_url=url, disclosure=FULL, timeout=0.2
        ),
        "pagerduty": lambda url, _: PagerDutyDispatcher(routing_key=one, base_url=url, disclosure=FULL, timeout=0.2),
        "opsgenie": lambda url, _: OpsgenieDispatcher(
            api_key=WORDS.secret(), base_url=url, disclosure=FULL, timeout=0.2
        ),
        "alertmanager": lambda url, _: AlertmanagerDispatcher(
            urls=[url.replace("//", f"//user:{WORDS.secret()}@"), f"{url}/{WORDS.secret()}"],
            disclosure=FULL,
            timeout=0.2,
        ),
        "apprise": lambda url, _: AppriseDispatcher(
            urls=[f"json{url.removeprefix('http')}/{WORDS.secret()}"], disclosure=FULL, timeout=0.2
        ),
        "email": lambda _, port: EmailDispatcher(
            host="127.0.0.1",
            port=port,
            sender="audit@example.com",
            recipients=["ops@example.com"],
            username="audit",
            password=WORDS.secret(),
            tls="none",
            disclosure=FULL,
            timeout=0.2,
        ),
    }


WRAPPERS: dict[str, Callable[[AlertDispatcher], AlertDispatcher]] = {
    "Retrying": lambda inner: Retrying(inner, attempts=2, wait_initial=0.01, wait_jitter=0.01),
    "FanOut": lambda inner: FanOut([inner, NoopAlertDispatcher()]),
    "Fallback": lambda inner: Fallback([inner]),
    "Route": lambda inner: Route({}, default=inner),
    "RateLimit": lambda inner: RateLimit(inner, rate=100.0, burst=1),
    "Digest": Digest,
}

# What can't be a secret of each, but has it in it: a constructor that refuses it.
MISTAKES: dict[str, Callable[[], object]] = {
    "webhook": lambda: WebhookDispatcher(url="https://example.com", secret=WORDS.secret()),
    "slack": lambda: SlackDispatcher(webhook_url=f"http://example.com/{WORDS.secret()}"),
    "slack, a bot": lambda: SlackDispatcher(token=f"{WORDS.secret()} ", channel="", base_url="https://example.com"),
    "pagerduty": lambda: PagerDutyDispatcher(routing_key=f"{WORDS.secret()}, too long to be a key of PagerDuty"),
    "opsgenie": lambda: OpsgenieDispatcher(api_key=f"{WORDS.secret()}\N{EURO SIGN}"),
    "alertmanager": lambda: AlertmanagerDispatcher(urls=[f"http://example.com/{WORDS.secret()}"]),
    "apprise": lambda: AppriseDispatcher(urls=[f"nonsense://{WORDS.secret()}"]),
    "email": lambda: EmailDispatcher(
        host="localhost", sender="a@b.example", recipients=[], username="u", password=WORDS.secret()
    ),
    "heartbeat": lambda: verify_heartbeat("no heartbeat", WORDS.secret().ljust(32)),
}


def an_event() -> AuditEvent:
    """Return an event with the person wherever one can be."""
    person = WORDS.person()
    return AuditEvent(
        event_type=AuditEventType.AUTHENTICATION_FAILED,
        log_level=AuditLogLevel.SECURITY,
        # So long that every target gets it cut, of which the log has a line.
        message=f"chart of {person}; " * 1000,
        user_id=person,
        metadata={"patient": [person]},
        sequence_number=1,
        checksum="0" * 64,
    )


# What a mail server says, by the beginning of a line, and where it is another word that something is wrong with.
REPLIES = {b"EHLO": "250-here\r\n250 AUTH PLAIN LOGIN", b"AUTH": "235 ok", b"DATA": "354 go on"}
REFUSALS = {
    ("refuses the sender", b"AUTH"): "535 refused: {}",
    ("refuses the content", b"RCPT"): "550 no: {}",
    ("fails", b"MAIL"): "451 later: {}",
}


class MailServer(socketserver.StreamRequestHandler):
    """Refuses with the client's own words, or says nothing, or takes the mail and hangs up."""

    def handle(self) -> None:
        """Talk."""
        state: str = self.server.state  # type: ignore[attr-defined]
        if state == "hangs":
            self.rfile.read()
            return
        self.wfile.write(b"220 here\r\n")
        is_mail = False
        for line in self.rfile:
            if is_mail:
                if line == b".\r\n":
                    return
                continue
            word = line[:4].upper()
            reply = REFUSALS.get((state, word)) or REPLIES.get(word, "250 ok")
            self.wfile.write(reply.format(line.decode().strip()).encode() + b"\r\n")
            is_mail = word == b"DATA"


@contextmanager
def mail_server(state: str) -> Iterator[int]:
    """Run a mail server; yield its port, at which nobody listens where nobody should."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), MailServer) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.state = state  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield 9 if state == "is not there" else server.server_address[1]
        server.shutdown()


class Failures:
    """Reports what is raised, as a framework reports what reaches it."""

    def __init__(self, report: Callable[[BaseException], object]) -> None:
        self._report = report
        self.count = 0

    def report(self, error: BaseException) -> None:
        """Report *error*."""
        self.count += 1
        self._report(error)

    async def of(self, call: Callable[[], Awaitable[object]]) -> None:
        """Report what *call* raises."""
        of_the_application = "LOCAL" + "-VARIABLE"  # noqa: F841 - which may be printed
        try:
            await call()
        except Exception as error:
            self.report(error)

    def of_plain(self, call: Callable[[], object]) -> None:
        """Report what *call* raises."""
        try:
            call()
        except Exception as error:
            self.report(error)

    async def of_impatience(self, call: Callable[[], Awaitable[object]]) -> None:
        """Report the time-out of *call*, behind which there is the cancellation, with its frames."""
        try:
            with anyio.fail_after(0.1):
                try:
                    await call()
                except BaseException as error:
                    self.report(error)
                    raise
        except Exception as error:
            self.report(error)


async def send(dispatcher: AlertDispatcher, failures: Failures, *, impatient: bool) -> None:
    """Send one alert, and one more that nobody waits for."""

    def call() -> Awaitable[object]:
        return dispatcher.send_alert(an_event(), severity="security")

    await failures.of(call)
    if impatient:
        await failures.of_impatience(call)


async def send_to(state: str, failures: Failures) -> None:
    """Send by every provider to another side with something wrong."""
    with Origin() as origin, mail_server(state) as port:
        origin.script(ANSWERS[state])
        url = "http://127.0.0.1:9" if state == "is not there" else origin.base_url
        dispatchers = [make(url, port) for make in providers().values()]
        if state == "refuses the sender":
            dispatchers += [wrap(providers()["slack"](url, port)) for wrap in WRAPPERS.values()]
        async with anyio.create_task_group() as tasks:
            for dispatcher in dispatchers:
                tasks.start_soon(partial(send, dispatcher, failures, impatient=state == "hangs"))


async def send_to_a_firewall(failures: Failures) -> None:
    """Send by way of what refuses all but the least of an alert, of which the log has a line."""
    for name in ("slack", "webhook", "alertmanager"):
        with Origin() as origin:
            origin.script(Answer(403), Answer(200, b"ok"))
            await send(providers()[name](origin.base_url, 9), failures, impatient=False)


async def alert(failures: Failures, directory: Path, *, started: bool) -> None:
    """Have a trail alert by a target that refuses, and report what its reports hold."""

    def receive(_: AuditTrail, report: DeliveryReport) -> None:
        if report.error is not None:
            failures.report(report.error)

    with Origin() as origin, alert_failed.connected_to(receive):
        origin.script(ANSWERS["refuses the sender"])
        targets = [make(origin.base_url, 9) for make in providers().values()]
        trail = AuditTrail(storage_path=directory, alert_dispatcher=FanOut(targets))
        if started:
            await trail.start()
        await trail.log_security_event(
            AuditEventType.AUTHENTICATION_FAILED,
            WORDS.person(),
            user_id=WORDS.person(),
            metadata={"patient": WORDS.person()},
        )
        await trail.stop()


async def store(failures: Failures, directory: Path) -> None:
    """Store where nothing can be stored, and read where nothing can be read."""
    (directory / "file").touch()
    wanted = EventFilter(user_id=WORDS.person())
    for durability in ("fsync", "write"):
        full = FileStorage(directory / durability, durability=durability)
        await full.append(an_event())
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # As on a full disk: the kernel writes the part that fits, and refuses the rest.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        await failures.of(lambda s=full: s.append(an_event()))  # type: ignore[misc]
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        with next((directory / durability).glob("*.jsonl")).open("ab") as day:
            day.write(b'{"v":2,' + WORDS.person().encode() + b"}\n")
        await full.aclose()
        nowhere = FileStorage(directory / "file" / "audit", durability=durability)
        for storage in (full, nowhere):
            await failures.of(lambda s=storage: s.append(an_event()))  # type: ignore[misc]
            await failures.of(lambda s=storage: s.find(wanted, 10))  # type: ignore[misc]
            await failures.of(lambda s=storage: s.read(0, 10))  # type: ignore[misc]


async def ask_as_the_application() -> None:
    """Make requests that are none of ours, and may be seen."""
    with Origin() as origin:
        async with httpx2.AsyncClient() as client:
            await client.get(f"{origin.base_url}/seen-by-httpx2")
        await anyio.to_thread.run_sync(requests.get, f"{origin.base_url}/seen-by-requests")


def recordings(trail: Any) -> list[Callable[[], Any]]:
    """Return a call of each method of a trail, or of its `sync`, that takes or looks for a person."""
    person = WORDS.person
    return [
        lambda: trail.log_event(AuditEventType.DATA_ACCESS, person(), user_id=person(), patient=person()),
        lambda: trail.log_event(AuditEventType.DATA_ACCESS, person(), log_level="critical", user_id=person()),
        lambda: trail.log_event("nonsense", person(), user_id=person()),
        lambda: trail.log_error(ValueError(person()), user_id=person()),
        lambda: trail.log_security_event(AuditEventType.AUTHENTICATION_FAILED, person(), user_id=person()),
        lambda: trail.log_data_access(person(), "read", user_id=person()),
        lambda: trail.get_events(user_id=person()),
    ]


async def record(failures: Failures, directory: Path) -> None:
    """Record in a trail that can store nothing, started and not, with ``await`` and without."""
    (directory / "no directory").touch()
    trail = AuditTrail(storage_path=directory / "no directory" / "audit")
    for started in (False, True):
        if started:
            await trail.start()
        for call in recordings(trail):
            await failures.of(call)
    await trail.stop()
    for call in recordings(trail.sync):
        await anyio.to_thread.run_sync(failures.of_plain, call)
    handler = AuditHandler(trail)
    handler.emit(logging.makeLogRecord({"msg": WORDS.person(), "levelno": 30, "audit": {"user_id": WORDS.person()}}))
    await anyio.to_thread.run_sync(handler.close)


async def main(report: Callable[[BaseException], object], directory: Path) -> int:
    """Fail in every way, and return how often."""
    failures = Failures(report)
    await ask_as_the_application()
    async with anyio.create_task_group() as tasks:
        for state in ANSWERS:
            tasks.start_soon(send_to, state, failures)
    await send_to_a_firewall(failures)
    stream = io.StringIO()
    stream.close()
    await failures.of(lambda: ConsoleDispatcher(stream, disclosure=FULL).send_alert(an_event(), severity="security"))
    for mistake in MISTAKES.values():
        failures.of_plain(mistake)
    await alert(failures, directory / "started", started=True)
    await alert(failures, directory / "stopped", started=False)
    await store(failures, directory)
    await record(failures, directory)
    return failures.count


# -- who watches: each returns what reports an exception, and what returns all that was sent


Watcher = tuple[Callable[[BaseException], object], Callable[[], str]]


def locals_by_repr() -> Watcher:
    """Print the local variables of every frame, and every line of every log."""
    said: list[str] = []
    handler = logging.StreamHandler(stream := io.StringIO())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)

    def report(error: BaseException) -> None:
        said.extend(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    return report, lambda: "".join(said) + stream.getvalue()


def sentry(**options: Any) -> Watcher:
    """Be Sentry, whose transport is a list, in a transaction, as a web framework begins one for each request."""
    sentry_sdk = import_module("sentry_sdk")
    transport = import_module("sentry_sdk.transport")
    sent: list[str] = []

    class ToList(transport.Transport):  # type: ignore[name-defined,misc]
        def capture_envelope(self, envelope: Any) -> None:
            sent.append(envelope.serialize().decode("utf-8", "replace"))

    sentry_sdk.init("https://key@sentry.invalid/1", transport=ToList, traces_sample_rate=1.0, **options)
    transaction = sentry_sdk.start_transaction(name="a request", op="http.server")
    transaction.__enter__()

    def said() -> str:
        transaction.__exit__(None, None, None)
        # With the breadcrumbs of all that came before.
        sentry_sdk.capture_message("the next event of the application")
        sentry_sdk.flush()
        return "\n".join(sent)

    return sentry_sdk.capture_exception, said


def opentelemetry() -> Watcher:
    """Be OpenTelemetry, with the instrumentors of all HTTP clients that are in use, within a request."""
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: PLC0415
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: PLC0415

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for library, name in (("httpx", "HTTPX2Client"), ("requests", "Requests"), ("urllib3", "URLLib3")):
        module = import_module(f"opentelemetry.instrumentation.{library}")
        getattr(module, f"{name}Instrumentor")().instrument(tracer_provider=provider)
    manager = provider.get_tracer("app").start_as_current_span("a request")
    span = manager.__enter__()

    def said() -> str:
        manager.__exit__(None, None, None)
        return "\n".join(each.to_json() for each in exporter.get_finished_spans())

    return span.record_exception, said


def structlog() -> Watcher:
    """Log as JSON with structlog, which prints local variables."""
    import structlog as library  # noqa: PLC0415

    stream = io.StringIO()
    library.configure(
        processors=[library.processors.dict_tracebacks, library.processors.JSONRenderer(default=repr)],
        logger_factory=library.PrintLoggerFactory(stream),
    )
    return lambda error: library.get_logger().error("failed", exc_info=error), stream.getvalue


def loguru() -> Watcher:
    """Log with loguru, which prints the values of the variables in each line, and the frames around."""
    logger = import_module("loguru").logger
    logger.remove()
    logger.add(stream := io.StringIO(), diagnose=True, backtrace=True)
    return lambda error: logger.opt(exception=error).error("failed"), stream.getvalue


def rich() -> Watcher:
    """Print with rich, which prints local variables, and looks into containers, dataclasses and structs."""
    from rich.console import Console  # noqa: PLC0415
    from rich.traceback import Traceback  # noqa: PLC0415

    class Plain(Traceback):
        """Lines without colours: to find those takes three quarters of the time."""

        @classmethod
        def _guess_lexer(cls, filename: str, code: str) -> str:
            return "text"

    console = Console(file=(stream := io.StringIO()), width=100_000)

    def report(error: BaseException) -> None:
        console.print(
            Plain.from_exception(
                type(error),
                error,
                error.__traceback__,
                show_locals=True,
                locals_hide_dunder=False,
                locals_max_length=1_000_000,
                locals_max_string=1_000_000,
                max_frames=0,
            )
        )

    return report, stream.getvalue


WATCHERS: dict[str, Callable[[], Watcher]] = {
    "repr": locals_by_repr,
    "sentry": sentry,
    "sentry-attach-stacktrace": lambda: sentry(
        attach_stacktrace=True,
        send_default_pii=True,
        max_value_length=100_000,
        max_breadcrumbs=10_000,
        # Each with the local variables of all frames that it was logged from.
        integrations=[import_module("sentry_sdk.integrations.logging").LoggingIntegration(event_level=logging.WARNING)],
    ),
    "opentelemetry": opentelemetry,
    "structlog": structlog,
    "loguru": loguru,
    "rich": rich,
}


def run(directory: str, backend: str, name: str) -> None:
    """Be watched, and print it."""
    # Loading the certificates takes longer than all the rest.
    httpx2.create_ssl_context = cache(httpx2.create_ssl_context)
    report, said = WATCHERS[name]()
    count = anyio.run(main, report, Path(directory), backend=backend)
    print(said(), count, sep="\n")  # noqa: T201


if __name__ == "__main__":
    run(*sys.argv[1:])
