"""
The destinations of alerts: one module per destination, with an extra of the same name.

Import a dispatcher from its module, for example ``from fapilog.providers.webhook import WebhookDispatcher``.
"""

from __future__ import annotations

from ._rendering import Disclosure
from ._secret import SecretSource

__all__ = ["Disclosure", "SecretSource"]
