"""
The destinations of alerts: one module per destination, with an extra of the same name.

Import a dispatcher from its module, for example ``from fapilog.providers.webhook import WebhookDispatcher``.

`send_alert` of each makes one attempt, within its *timeout*, and returns when the target has the alert. Otherwise it
raises `TransientDeliveryError` if another attempt may help, `BrokenRouteError` if no alert can arrive until a setting
is changed, `PermanentDeliveryError` if the target refuses this one, or `AmbiguousDeliveryError` if it may have arrived.
Cancellation passes, and the alert may have arrived.
"""

from __future__ import annotations

from ._rendering import Disclosure
from ._secret import SecretSource

__all__ = ["Disclosure", "SecretSource"]
