"""
The destinations of alerts: one module per destination, with an extra of the same name.

Import a dispatcher from its module, for example ``from fapilog.providers.webhook import WebhookDispatcher``.

`send_alert` of each makes one attempt, within its *timeout*, and returns when the target has the alert. Otherwise it
raises `TransientDeliveryError` if another attempt may help, `BrokenRouteError` if no alert can arrive until a setting
is changed, `PermanentDeliveryError` if the target refuses this one, or `AmbiguousDeliveryError` if it may have arrived.
Cancellation passes, and the alert may have arrived.

A provider makes a text of the alert by `_rendering`, and has its secrets in `_secret`. Over HTTP it posts by `_http`:
that has its connections from `_connections`, the meaning of an answer from `_answers`, and the reason why there is none
from `_causes`. A library that blocks is called in a thread, by `_threads`; so is `_smtp_client`, which talks to a mail
server and reads `_smtp_replies`. `_muting` keeps what is sent out of logs and traces.
"""

from __future__ import annotations

from ._rendering import Disclosure
from ._secret import SecretSource

__all__ = ["Disclosure", "SecretSource"]
