"""The trace that a recording method is called in."""

from __future__ import annotations

import sys
from typing import Any, Final

from ..record.values import given_text
from ..tasks.strangers import Log

__all__ = ["current_span"]

_log: Final = Log("fapilog.core.audit")


def current_span(trace_id: object) -> dict[str, Any]:
    """
    Return the ids of OpenTelemetry's current span as members of an event; none where there is no span.

    Nor if a *trace_id* is given that is of another trace, in which there is no such span.

    As the W3C writes them: https://www.w3.org/TR/trace-context/#traceparent-header. Nothing is imported: without
    OpenTelemetry in the process there is no span.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    try:
        context = trace.get_current_span().get_span_context()
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context.is_valid else {}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        _log.warning("OpenTelemetry's current span can't be read: %s", type(error).__qualname__)
        return {}
    return ids if trace_id is None or given_text(trace_id) == ids.get("trace_id") else {}
