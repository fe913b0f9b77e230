"""
Receivers of the signals about alerts and their outcomes: one module per destination.

`logs` writes to the standard library's logging, `metrics` counts for Prometheus, `otel` for OpenTelemetry. Every module
has one function, ``connect``, and nothing happens until it is called.
"""

from __future__ import annotations

__all__: list[str] = []
