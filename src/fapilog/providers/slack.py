"""
Post alerts to a Slack channel, by an incoming webhook or as a bot.

Needs the extra ``slack``. https://docs.slack.dev/messaging
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final, Self

import msgspec

from .._extras import needs

with needs("slack"):
    import httpx2

from ..record.errors import AmbiguousDeliveryError, BrokenRouteError, DeliveryError, PermanentDeliveryError
from ..record.events import AuditEvent
from ..record.privacy import Uncopied, without_frames
from ..record.values import text
from ._answers import Answer, FilteredError, PayloadRefusedError
from ._http import Poster, Request
from ._rendering import Disclosure, Rendered, Renderer, cut, fit, in_words, least
from ._secret import Secret, SecretSource, check_printable

__all__ = ["SlackDispatcher"]

# Characters; https://docs.slack.dev/reference/block-kit/blocks
_MAX_HEADER: Final = 150
_MAX_SECTION: Final = 3000
_MAX_FIELD: Final = 2000
_FIELDS_IN_A_SECTION: Final = 10
# Characters of the notification; ours.
_MAX_TEXT: Final = 1000
# Bytes, ours too. Blocks of together 13 200 characters are refused (https://github.com/slackapi/bolt-js/issues/2509),
# and `chat.postMessage` answers with the message, in which a byte may have become five ("&amp;", "\u2026"): the answer
# must still be short enough to be read.
_MAX_MESSAGE_BYTES: Final = 6000
_MAX_FIELDS_BYTES: Final = 4000

# Slack's words, as `error` or as the whole body. https://docs.slack.dev/reference/methods/chat.postMessage and
# https://docs.slack.dev/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks; words of webhooks that are on
# neither page were seen: https://routeforms.com/tools/slack-webhook-error-decoder
_THROTTLED: Final = {"ratelimited", "rate_limited", "message_limit_exceeded"}
_PASSING: Final = {"service_unavailable", "team_added_to_org", "org_login_required", "request_timeout"}
# "It's possible some aspect of the operation succeeded before the error was raised."
_AMBIGUOUS: Final = {"fatal_error", "internal_error"}
_DEAD: Final = "the webhook or token is dead; make a new one in Slack, and configure it here"
_NO_CHANNEL: Final = "the channel is not there, or archived; choose another, or make a new webhook"
_NOT_INVITED: Final = "the bot is not in the channel; invite it there"
_NOT_ALLOWED: Final = "it may not post there; change the app's scopes, or the settings of the workspace or channel"
_REFUSED: Final = "the message was refused; report it with this word"
_UNKNOWN: Final = "it was refused; look the word up in Slack's reference of chat.postMessage"
_ADVICE: Final = {
    "account_inactive": _DEAD,
    "invalid_auth": _DEAD,
    "invalid_token": _DEAD,
    "no_active_hooks": _DEAD,
    "no_service": _DEAD,
    "no_team": _DEAD,
    "not_authed": _DEAD,
    "team_disabled": _DEAD,
    "token_expired": _DEAD,
    "token_revoked": _DEAD,
    "user_not_found": _DEAD,
    "channel_is_archived": _NO_CHANNEL,
    "channel_not_found": _NO_CHANNEL,
    "is_archived": _NO_CHANNEL,
    "not_in_channel": _NOT_INVITED,
    "access_denied": _NOT_ALLOWED,
    "action_prohibited": _NOT_ALLOWED,
    "ekm_access_denied": _NOT_ALLOWED,
    "missing_scope": _NOT_ALLOWED,
    "no_permission": _NOT_ALLOWED,
    "restricted_action": _NOT_ALLOWED,
    "restricted_action_read_only_channel": _NOT_ALLOWED,
    "invalid_arguments": _REFUSED,
    "invalid_blocks": _REFUSED,
    "invalid_blocks_format": _REFUSED,
    "invalid_payload": _REFUSED,
    "missing_text_or_fallback_or_attachments": _REFUSED,
    "msg_blocks_too_long": _REFUSED,
    "msg_too_long": _REFUSED,
    "no_text": _REFUSED,
}
_API: Final = "https://slack.com/api"
_KINDS: Final = {_DEAD: BrokenRouteError, _REFUSED: PayloadRefusedError}


class SlackDispatcher(Uncopied):
    """
    Posts every alert as a message.

    Give a *webhook_url*, which posts to the one channel that it was made for, whatever the policy says; or a bot's
    *token* and a *channel*, which is for alerts without a channel of the policy.

    Returning means that Slack has the message. Slack has no key to drop duplicates by: after an
    `AmbiguousDeliveryError`, an alert that is sent again may be seen twice. A message that Slack refuses for its
    content, or something between with a 4xx or a web page, is posted once more as plain text, with the title and the
    place in the chain alone.

    Args:
        webhook_url: An incoming webhook. It is a secret: any sender who has it can post.
        token: A bot's token, ``xoxb-...``, with the scope ``chat:write``. The bot must be in the channel, or have
            ``chat:write.public``.
        channel: A channel's id or name, where *token* is given.
        base_url: The address of the API that *token* is for; for GovSlack ``https://slack-gov.com/api``.
        disclosure: How much of an event is sent.
        link: The way to a record, for example ``https://audit.example.com/{event_id}``.
        timeout: Seconds for one attempt.
        client: Sends the requests, all in one event loop; it stays yours to close. None connects in any loops.
        allow_http: Whether the address may begin with ``http:`` and not be this machine's.

    Raises:
        TypeError: An option is not of its type.
        ValueError: An option is not valid, or the options are not of one way. No secret is in the message.
    """

    @without_frames
    def __init__(
        self,
        *,
        webhook_url: SecretSource | None = None,
        token: SecretSource | None = None,
        channel: str | None = None,
        base_url: SecretSource = _API,
        disclosure: Disclosure = Disclosure.STANDARD,
        link: str | None = None,
        timeout: float = 10.0,
        client: httpx2.AsyncClient | None = None,
        allow_http: bool = False,
    ) -> None:
        self._poster = Poster(
            "slack",
            self._judge,
            timeout=timeout,
            client=client,
            allow_http=allow_http,
            repeatable=False,
            # A webhook reports failures by the status; the API reports all but one of them with a 200. See _ADVICE.
            enough={HTTPStatus.OK} if token is None else (),
        )
        options = {"webhook_url": webhook_url, "token": token, "channel": channel}
        given = {name: value for name, value in options.items() if value is not None}
        if [name for name, value in given.items() if value] not in (["webhook_url"], ["token", "channel"]):
            # The values are secrets: the message has the names alone.
            words = [name if value else f"an empty {name}" for name, value in given.items()]
            got = " and ".join(words) or "none of them: webhook_url is None (is a variable not set?)"
            ways = "expected either webhook_url, or token and channel"
            raise ValueError(f"webhook_url, token, channel: {ways}; got {got}")
        if webhook_url is not None and base_url != _API:
            raise ValueError("base_url: expected a token too; got webhook_url, which is an address already")
        self._render = Renderer(disclosure, link)
        self._token = None if token is None else Secret(token, "token", check=check_printable)
        self._channel = channel
        if webhook_url is not None:
            self._url = self._poster.address(webhook_url, "webhook_url")
        else:
            self._url = self._poster.address(base_url, "base_url")

    async def __aenter__(self) -> Self:
        await self._poster.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._poster.close()

    @without_frames
    async def send_alert(self, event: AuditEvent, *, severity: str, channel: str | None = None) -> None:
        """Post the message once; once more as text alone if it is refused."""
        to: dict[str, Any] = {}
        headers = {"content-type": "application/json; charset=utf-8"}
        address = self._url.reveal()
        if self._token is not None:
            to = {"channel": text(channel or self._channel)}
            headers["authorization"] = f"Bearer {self._token.reveal()}"
            address = address.rstrip("/") + "/chat.postMessage"

        def request(message: dict[str, Any]) -> Request:
            return Request(address, headers, msgspec.json.encode(message | to))

        failure: DeliveryError | None = None
        try:
            await self._poster.post(
                request(_message(self._render(event, severity))), lambda: request(_text_alone(least(event, severity)))
            )
        except _NotThereError as error:
            # The alert's own channel is not the way of the other alerts.
            own = self._token is not None and bool(channel)
            failure = PermanentDeliveryError(str(error)) if own else BrokenRouteError(str(error))
        if failure is not None:
            raise failure

    def _judge(self, answer: Answer) -> DeliveryError | None:
        said = answer.json()
        word = said.get("error")
        if not isinstance(word, str):
            word = answer.body.decode("ascii", "replace").strip()
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
            return None
        failure = _by_word(answer, word)
        agrees = said.get("ok") is True or (word == "ok" and self._token is None)
        if failure is not None or not answer.is_success or agrees:
            return failure
        if said.get("ok") is False:
            # Slack has many words, and new ones: most are about the app, the workspace or the network. Letters alone:
            # anything else may be a secret that something in between repeats.
            word = word if re.fullmatch("[a-z_]{1,50}", word) else "a word that is not known here"
            return FilteredError(f"slack: {word}: {_UNKNOWN}", f"the message was refused: {word}")
        return BrokenRouteError(f"slack: status {answer.status}, but the answer is not Slack's; check the address")


def _by_word(answer: Answer, word: str) -> DeliveryError | None:
    if word in _THROTTLED | _PASSING:
        return answer.later(f"slack: {word}", throttled=word in _THROTTLED)
    if word in _AMBIGUOUS:
        return AmbiguousDeliveryError(f"slack: {word}; it may have been posted")
    if word in _ADVICE:
        return _KINDS.get(_ADVICE[word], _NotThereError)(f"slack: {word}: {_ADVICE[word]}")
    return None


class _NotThereError(PermanentDeliveryError):
    """Means that the app can't post this to the channel."""


def _message(rendered: Rendered) -> dict[str, Any]:
    summary = f"{rendered.title}\n{rendered.message}" if rendered.message else rendered.title
    return {**_text(summary), "blocks": list(_blocks(rendered))}


def _text_alone(rendered: Rendered) -> dict[str, Any]:
    """Return the message without blocks, for which Slack has many more rules than for text."""
    said = {"event_type", "log_level", "component"}
    place = [f"{name}: {in_words(value)}" for name, value in rendered.details.items() if name not in said]
    return _text("\n".join([rendered.title, *place]))


def _text(shown: str) -> dict[str, Any]:
    return {
        # Notifications show this, and clients that can't show blocks. Any text can mention users or hide a link unless
        # it is escaped: https://docs.slack.dev/messaging/formatting-message-text#escaping
        "text": _escaped(shown),
        "mrkdwn": False,
        # Otherwise Slack would visit all links in the message.
        "unfurl_links": False,
        "unfurl_media": False,
    }


def _blocks(rendered: Rendered) -> Iterator[dict[str, Any]]:
    yield {"type": "header", "text": _plain(cut(rendered.title, "header", max_characters=_MAX_HEADER))}
    if rendered.message and rendered.message.strip():
        message = cut(rendered.message, "message", max_characters=_MAX_SECTION, max_bytes=_MAX_MESSAGE_BYTES)
        yield {"type": "section", "text": _plain(message)}
    # The title has said these, and the message is above.
    said = {"event_type", "log_level", "message"}
    details = {name: in_words(value) for name, value in rendered.details.items() if name not in said}
    fields = fit(details, _MAX_FIELDS_BYTES)
    shown = [_plain(cut(f"{name}\n{value}", name, max_characters=_MAX_FIELD)) for name, value in fields.items()]
    for first in range(0, len(shown), _FIELDS_IN_A_SECTION):
        yield {"type": "section", "fields": shown[first : first + _FIELDS_IN_A_SECTION]}
    if rendered.link is not None:
        address = _entities(rendered.link).replace("|", "%7C")
        yield {"type": "section", "text": {"type": "mrkdwn", "text": f"<{address}|The record>"}}


def _plain(shown: str) -> dict[str, Any]:
    """Return a text object in which nothing is markup."""
    return {"type": "plain_text", "text": shown, "emoji": False}


def _escaped(given: str) -> str:
    """Return *given* as text for `text`, within its limit, which does not cut an entity in two."""
    return re.sub("&[a-z]*…$", "…", cut(_entities(given), "text", max_characters=_MAX_TEXT))


def _entities(given: str) -> str:
    return given.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
