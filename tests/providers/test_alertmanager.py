"""Alertmanager: every replica, none twice; scripted, and the real one where its Debian package is installed."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import anyio
import pytest

from fapilog import (
    AmbiguousDeliveryError,
    AuditEvent,
    BrokenRouteError,
    DeliveryError,
    PermanentDeliveryError,
    TransientDeliveryError,
)
from fapilog.core.alerting import Alert
from fapilog.providers import Disclosure
from fapilog.providers._rendering import Rendered
from fapilog.testing import Limit, check_dispatcher, check_provider
from fapilog.testing import Request as Seen
from tests.doubles.malicious_alerts import check_many, is_clean
from tests.doubles.origin import SECRET_PATH, Answer, Origin, Request
from tests.providers.conftest import an_event

pytest.importorskip("httpx2")

from fapilog.providers.alertmanager import AlertmanagerDispatcher

pytestmark = pytest.mark.real_time


def posted(request: Request) -> dict[str, Any]:
    """Return the one alert of *request*."""
    [alert] = json.loads(request.body)
    return dict(alert)


@pytest.fixture
def replicas() -> Iterator[list[Origin]]:
    """Run three scripted servers."""
    with ExitStack() as stack:
        yield [stack.enter_context(Origin()) for _ in range(3)]


def at(replicas: list[Origin], **options: Any) -> AlertmanagerDispatcher:
    return AlertmanagerDispatcher(urls=[replica.url for replica in replicas], **options)


@pytest.mark.one_backend
async def test_what_is_posted(origin: Origin) -> None:
    """The labels say which alert it is, the annotations what it is about, and it ends by itself."""
    event = an_event(timestamp=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC))
    before = datetime.now(UTC)
    async with at([origin], link="https://audit/{event_id}", labels={"team": "security"}) as dispatcher:
        await dispatcher.send_alert(event, severity="security", channel="#on-call")
    [request] = origin.requests
    assert (request.method, request.path) == ("POST", f"{SECRET_PATH}/api/v2/alerts")
    assert request.headers["content-type"] == "application/json"
    alert = posted(request)
    assert re.fullmatch("[0-9a-f]{32}", alert["labels"].pop("event_key"))
    assert alert["labels"] == {
        "alertname": "fapilog",
        "team": "security",
        "severity": "security",
        "event_type": "authentication_failed",
        "component": "auth",
        "channel": "#on-call",
    }
    assert (
        alert["annotations"].items()
        >= {
            "summary": "SECURITY authentication_failed in auth",
            "description": "five wrong passwords in a row",
            "hostname": "web-1",
            "sequence_number": "12",
            "regulatory_tags": '["AC-7"]',
        }.items()
    )
    assert "user_id" not in alert["annotations"]
    assert alert["generatorURL"] == f"https://audit/{event.event_id}"
    assert datetime.fromisoformat(alert["startsAt"]) == event.timestamp
    end = datetime.fromisoformat(alert["endsAt"])
    assert before <= end - timedelta(hours=1) <= datetime.now(UTC)


@pytest.mark.one_backend
async def test_a_late_alert_has_not_ended(origin: Origin) -> None:
    """An event of last year ends an hour from now, and one of tomorrow does not end before it begins."""
    async with at([origin]) as dispatcher:
        for timestamp in (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)):
            await dispatcher.send_alert(an_event(timestamp=timestamp), severity="info")
    for request in origin.requests:
        alert = posted(request)
        begin, end = (datetime.fromisoformat(alert[name]) for name in ("startsAt", "endsAt"))
        assert begin <= datetime.now(UTC) < end


@pytest.mark.one_backend
async def test_the_key_is_that_of_the_event(replicas: list[Origin]) -> None:
    """The labels are the same on every replica and for every dispatcher, and others for another event."""
    for disclosure in Disclosure:
        async with at(replicas, disclosure=disclosure) as dispatcher:
            await dispatcher.send_alert(an_event(), severity="info")
    async with at(replicas) as dispatcher:
        await dispatcher.send_alert(an_event(event_id="another"), severity="info")
    labels = [[posted(request)["labels"] for request in replica.requests] for replica in replicas]
    assert labels[0] == labels[1] == labels[2]
    first, second, third, other = labels[0]
    assert first == second == third
    assert first | {"event_key": ""} == other | {"event_key": ""}
    assert first != other


@pytest.mark.slow_on_trio
async def test_a_retry_goes_to_those_that_failed(replicas: list[Origin]) -> None:
    """Each replica is posted to whatever the others do, and those that have the alert do not get it again."""
    replicas[0].script(Answer(503, headers={"retry-after": "7"}), Answer(307), Answer())
    replicas[2].script(Answer(fault="reset_before_answering"), Answer())
    async with at(replicas) as dispatcher:
        with pytest.raises(TransientDeliveryError) as caught:
            await dispatcher.send_alert(an_event(), severity="info")
        assert str(caught.value).startswith("alertmanager: 1 of 3 replicas have the alert; ")
        assert "not number 1: status 503" in str(caught.value)
        assert "not number 3: sent, but there was no answer" in str(caught.value)
        assert caught.value.retry_after == 7
        assert caught.value.__context__ is None
        with pytest.raises(TransientDeliveryError, match=r"2 of 3 .* number 1: status 307"):
            await dispatcher.send_alert(an_event(), severity="info")
        await dispatcher.send_alert(an_event(), severity="info")
        assert [len(replica.requests) for replica in replicas] == [3, 1, 2]
        await dispatcher.send_alert(an_event(), severity="info")
        assert [len(replica.requests) for replica in replicas] == [4, 2, 3]


@pytest.mark.one_backend
async def test_a_200_is_enough(origin: Origin) -> None:
    """A 200 says that a replica has the alert, whatever packed the rest."""
    origin.script(Answer(200, b"\xff", {"content-encoding": "br"}))
    async with at([origin]) as dispatcher:
        await dispatcher.send_alert(an_event(), severity="info")


async def test_a_hanging_replica_does_not_hold_up_the_others(replicas: list[Origin]) -> None:
    """When the call is cancelled, those that have the alert are remembered."""
    replicas[0].script(Answer(fault="hang_before_answering"), Answer())
    alert = Alert(an_event(), "info", None)
    async with at(replicas) as dispatcher:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: dispatcher.send_alert(alert.event, severity="info"))
            with anyio.fail_after(60):
                while (  # noqa: ASYNC110  what has an event to wait for is in other threads
                    dispatcher._partial.receivers_without(alert, range(3)) != [0] or not replicas[0].requests
                ):
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        assert [len(replica.requests) for replica in replicas] == [1, 1, 1]
        await dispatcher.send_alert(an_event(), severity="info")
    assert [len(replica.requests) for replica in replicas] == [2, 1, 1]


KINDS = [
    (Answer(400), PermanentDeliveryError),
    (Answer(500), TransientDeliveryError),
    (Answer(fault="reset_before_answering"), AmbiguousDeliveryError),
    (Answer(200, b"\n<!doctype html><title>Log in</title>"), BrokenRouteError),
    (Answer(200, b"<a/>", {"content-type": "text/xml"}), BrokenRouteError),
    (Answer(403), BrokenRouteError),
    (Answer(302), BrokenRouteError),
    (Answer(202, b"\xff", {"content-encoding": "br"}), PermanentDeliveryError),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("answer", "kind"), KINDS)
async def test_one_replica_fails_as_it_fails(origin: Origin, answer: Answer, kind: type[DeliveryError]) -> None:
    """With one replica, its error is raised as it is; a page for people is none of Alertmanager's answers."""
    origin.script(answer)
    async with at([origin]) as dispatcher:
        with pytest.raises(kind) as caught:
            await dispatcher.send_alert(an_event(), severity="info")
    assert "replicas" not in str(caught.value)


async def test_a_name_and_a_password_are_sent(origin: Origin, everything_said: Callable[..., str]) -> None:
    """An Alertmanager behind a password gets it, and nobody else does."""
    url = origin.base_url.replace("//", "//user:p4ssw0rd@") + "/api/v2/alerts/"
    async with AlertmanagerDispatcher(urls=[lambda: url]) as dispatcher:
        await dispatcher.send_alert(an_event(), severity="info")
    [request] = origin.requests
    assert request.path == "/api/v2/alerts"
    assert request.headers["authorization"] == "Basic dXNlcjpwNHNzdzByZA=="
    said = everything_said()
    assert "p4ssw0rd" not in said
    assert "dXNlcjpwNHNzdzByZA" not in said


BAD = [
    ({"urls": []}, "urls: expected at least one; got none"),
    ({"urls": ["https://am", "ftp://am/s3cr3t"]}, r"urls\[1\]: expected an address that begins with https://"),
    ({"urls": ["http://am/s3cr3t"]}, r"urls\[0\]: expected https:, or this machine"),
    ({"urls": ["https://am/?s3cr3t"]}, r"urls\[0\]: expected an address without \?"),
    ({"duration": 0}, "duration: expected a number above 0"),
    ({"duration": float("nan")}, "duration: expected a number above 0"),
    ({"labels": {"a-b": "c"}}, "labels: expected names"),
    ({"labels": ["a"]}, "labels: expected a mapping of names and texts; got a list"),
    ({"labels": {5: "c"}}, "labels: expected names of further labels; got an int"),
    ({"labels": {"__name__": "c"}}, "labels: expected names"),
    ({"labels": {"severity": "c"}}, "labels: expected names"),
    ({"labels": {"a": 1}}, "labels: expected names"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_options_are_checked(options: dict[str, Any], words: str) -> None:
    """A wrong option is refused at once, by its name and without its secret."""
    with pytest.raises((TypeError, ValueError), match=words) as caught:
        AlertmanagerDispatcher(**{"urls": ["https://am"], **options})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.slow_on_trio
async def test_it_keeps_the_contract(origin: Origin) -> None:
    """The dispatcher passes the kit, and its addresses stay hidden."""
    with Origin() as failing:
        failing.script(Answer(500))
        await check_dispatcher(
            lambda: at([origin, origin]), failing=lambda: at([origin, failing]), secrets=[SECRET_PATH]
        )


def seen(request: Seen) -> dict[str, Any]:
    [alert] = json.loads(request.body)
    assert len(request.body) < 20_000
    return dict(alert)


@pytest.mark.slow
async def test_it_keeps_its_promises() -> None:
    """The dispatcher passes the kit for providers: outcomes, deadline, key, severity, limits and secrets."""
    severities = ["debug", "info", "warning", "error", "critical", "security"]
    await check_provider(
        lambda url: AlertmanagerDispatcher(
            urls=[url + SECRET_PATH], timeout=2.0, link="https://audit.example.com/{event_id}"
        ),
        key=lambda request: seen(request)["labels"]["event_key"],
        severity=lambda request: severities.index(seen(request)["labels"]["severity"]),
        limits=[Limit(field="component", most=200, read=lambda request: seen(request)["labels"]["component"])],
        valid=seen,
        secrets=[SECRET_PATH],
        timeout=10.0,
    )


# The real Alertmanager.

CONFIG = """
route: {{receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers: [{{name: hook, webhook_configs: [{{url: {url}/hook, send_resolved: true}}]}}]
"""
BINARY = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
needs_alertmanager = pytest.mark.skipif(BINARY is None, reason="the Debian package prometheus-alertmanager is missing")


@contextmanager
def alertmanager(directory: Path, hook: Origin) -> Iterator[str]:
    """Run an Alertmanager that notifies *hook*, and give its address."""
    config = directory / "alertmanager.yml"
    config.write_text(CONFIG.format(url=hook.base_url))
    options = {
        "config.file": config,
        "storage.path": directory / "data",
        "web.listen-address": "127.0.0.1:0",
        "cluster.listen-address": "",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with subprocess.Popen([str(BINARY), *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            while not (found := re.search(r"Listening on.*address=\S*?(127\.0\.0\.1:[0-9]+)", said)):
                said = process.stderr.readline()
                assert said, "Alertmanager ended"
            yield f"http://{found[1]}"
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def real(tmp_path: Path, origin: Origin) -> Iterator[list[str]]:
    """Run two Alertmanagers that both notify `origin`."""
    with ExitStack() as stack:
        urls = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            urls.append(stack.enter_context(alertmanager(tmp_path / name, origin)))
        yield urls


def alerts_of(url: str) -> list[dict[str, Any]]:
    with urlopen(f"{url}/api/v2/alerts", timeout=60) as response:  # noqa: S310  the address is ours
        return list(json.load(response))


async def notified(origin: Origin, count: int) -> list[dict[str, Any]]:
    """Wait until *count* notifications have come."""
    with anyio.fail_after(60):
        while len(origin.requests) < count:  # noqa: ASYNC110  it is in other threads, and has no event to wait for
            await anyio.sleep(0.01)
    return [json.loads(request.body) for request in origin.requests]


@pytest.mark.slow
@needs_alertmanager
async def test_the_real_one_takes_it_once(real: list[str], origin: Origin) -> None:
    """Sent three times to two replicas, an event is one alert on each, which ends when it should, and notifies once."""
    event = an_event()
    for _ in range(3):
        async with AlertmanagerDispatcher(urls=real, link="https://audit/{event_id}") as dispatcher:
            await dispatcher.send_alert(event, severity="security", channel="#on-call")
    for url in real:
        [alert] = alerts_of(url)
        assert alert["labels"]["component"] == "auth"
        assert alert["annotations"]["description"] == "five wrong passwords in a row"
        assert alert["generatorURL"] == f"https://audit/{event.event_id}"
        assert alert["status"]["state"] == "active"
        assert datetime.fromisoformat(alert["startsAt"]) - event.timestamp < timedelta(milliseconds=1)
        assert 3500 < (datetime.fromisoformat(alert["endsAt"]) - datetime.now(UTC)).total_seconds() < 3601
    told = await notified(origin, 2)
    assert [each["status"] for each in told] == ["firing", "firing"]
    # Another event: it comes after whatever else the first would have caused.
    async with AlertmanagerDispatcher(urls=real) as dispatcher:
        await dispatcher.send_alert(an_event(event_id="another"), severity="security")
    told = await notified(origin, 4)
    assert [alert["labels"].get("channel") for each in told for alert in each["alerts"]].count("#on-call") == 2


@pytest.mark.slow
@needs_alertmanager
async def test_a_late_event_still_notifies(real: list[str], origin: Origin) -> None:
    """An event from long ago fires, and is resolved when its duration is over."""
    began = time.monotonic()
    async with AlertmanagerDispatcher(urls=real[:1], duration=4.0) as dispatcher:
        await dispatcher.send_alert(an_event(timestamp=datetime(2020, 1, 1, tzinfo=UTC)), severity="info")
    first, second = await notified(origin, 2)
    assert (first["status"], second["status"]) == ("firing", "resolved")
    assert time.monotonic() - began >= 4


HOSTILE = [
    an_event(message=words, component=words, operation=words, request_id=words, metadata={words: words, "n": [1, None]})
    for words in (
        '{{ template "x" }}',
        "\x00\x1b[31m\r\nx: y",
        "\ud83d \u202e\ufeff",
        "é" * 10_000,
        "",
        '"\\',
        "<!here>",
    )
]


@pytest.mark.slow
@pytest.mark.one_backend
@needs_alertmanager
@pytest.mark.parametrize("event", HOSTILE, ids=range(len(HOSTILE)))
async def test_the_real_one_takes_any_text(real: list[str], origin: Origin, event: AuditEvent) -> None:
    """Whatever an event says, Alertmanager takes it and tells of it."""
    async with AlertmanagerDispatcher(urls=real[:1], disclosure=Disclosure.FULL) as dispatcher:
        await dispatcher.send_alert(event, severity="info", channel=event.message)
    [told] = await notified(origin, 1)
    assert told["alerts"][0]["labels"]["event_type"] == "authentication_failed"


def check_hostile(rendered: Rendered, channel: str | None) -> None:
    """Fail unless labels are lines within their limit, and the texts are clean."""
    content = AlertmanagerDispatcher(urls=["https://am"])._content(rendered, "key", channel, datetime.now(UTC))
    assert len(content) < 20_000
    [posted] = json.loads(content)
    assert all(0 < len(value) <= 200 and is_clean(value, set()) for value in posted["labels"].values())
    assert all(isinstance(value, str) and is_clean(value) for value in posted["annotations"].values())
    assert posted["startsAt"] < posted["endsAt"]


def test_hostile_alerts() -> None:
    """Thirty hostile alerts become what the other side takes; `make torture` tries 10,000."""
    check_many(check_hostile, 30)
