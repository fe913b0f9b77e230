"""
Wrappers for dispatchers: a wrapper takes one, or several, and is one itself.

Import a wrapper from its module, for example ``from fapilog.delivery.retry import Retrying``.
"""

from __future__ import annotations

__all__: list[str] = []
