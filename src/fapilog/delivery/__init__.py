"""
Wrappers for dispatchers: a wrapper takes one, or several, and is one itself.

Import a wrapper from its module, for example ``from fapilog.delivery.retry import Retrying``.

- Around one dispatcher: `retry`, `ratelimit`, `digest`, whose summaries are made in `_summary`, and `outbox`.
- Around several: `fanout`, `fallback` and `route`.
- `_inner` has what they share: how the dispatchers inside are entered, called, resumed and left.
"""

from __future__ import annotations

__all__: list[str] = []
