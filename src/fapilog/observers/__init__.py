"""
Receivers of the signals that tell what became of each alert: one module for each place to tell it.

`logs` writes to the standard library's logging, `metrics` counts for Prometheus, `otel` for OpenTelemetry. Each has one
function, ``connect``, and nothing happens until it is called.
"""

from __future__ import annotations

__all__: list[str] = []
