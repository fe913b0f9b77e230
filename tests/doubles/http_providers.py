"""The providers over HTTP: how each is made for an address, what refuses its alerts, and what takes them."""

import base64
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from fapilog import AlertDispatcher
from tests.doubles.origin import Answer, Request

pytest.importorskip("httpx2")

from fapilog.providers.alertmanager import AlertmanagerDispatcher
from fapilog.providers.opsgenie import OpsgenieDispatcher
from fapilog.providers.pagerduty import PagerDutyDispatcher
from fapilog.providers.slack import SlackDispatcher
from fapilog.providers.webhook import WebhookDispatcher

__all__ = ["EACH", "PROVIDERS", "Provider"]

LINK = "https://audit.example.com/{event_id}"


class Provider(NamedTuple):
    """
    What a provider sends to, and how.

    Attributes:
        make: Makes a dispatcher for an address.
        refusals: What the other side answers when it is the content that it refuses.
        taken: What it answers when it takes an alert.
        key: Returns what it knows an alert again by; None where it has nothing for that.
    """

    make: Callable[[str], AlertDispatcher]
    refusals: list[Answer]
    taken: Answer
    key: Callable[[Request], Any] = lambda _: None


def said_by_slack(word: str) -> Answer:
    return Answer(200, json.dumps({"ok": False, "error": word}).encode())


PROVIDERS = {
    "webhook": Provider(
        lambda url: WebhookDispatcher(url=url, secret="whsec_" + base64.b64encode(bytes(32)).decode(), link=LINK),
        [Answer(400), Answer(413), Answer(422)],
        Answer(204, b""),
        lambda request: request.headers["webhook-id"],
    ),
    "slack": Provider(
        lambda url: SlackDispatcher(webhook_url=url, link=LINK),
        [Answer(400, b"invalid_payload"), Answer(400, b"invalid_blocks"), Answer(413)],
        Answer(),
    ),
    "slack, a bot": Provider(
        lambda url: SlackDispatcher(token="xoxb-1", channel="C1", base_url=url, link=LINK),
        [
            said_by_slack(word)
            for word in ("invalid_blocks", "msg_too_long", "msg_blocks_too_long", "invalid_arguments")
        ],
        Answer(200, b'{"ok":true}'),
        lambda request: request.json()["channel"],
    ),
    "pagerduty": Provider(
        lambda url: PagerDutyDispatcher(routing_key="0" * 32, base_url=url, link=LINK),
        [Answer(400, b'{"status":"invalid event","errors":["\'payload.timestamp\' is not a timestamp"]}'), Answer(413)],
        Answer(202, b'{"status":"success"}'),
        lambda request: request.json()["dedup_key"],
    ),
    "opsgenie": Provider(
        lambda url: OpsgenieDispatcher(api_key="k", base_url=url, link=LINK),
        [Answer(400), Answer(413), Answer(422, b'{"message":"Request body is not processable"}')],
        Answer(202, b'{"requestId":"1"}'),
        lambda request: request.json()["alias"],
    ),
    "alertmanager": Provider(
        lambda url: AlertmanagerDispatcher(urls=[url], link=LINK),
        [Answer(400), Answer(413)],
        Answer(),
        lambda request: request.json()[0]["labels"],
    ),
}
EACH = [pytest.param(each, id=name) for name, each in PROVIDERS.items()]
