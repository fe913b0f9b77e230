"""The keywords of a recording method, sorted into the fields of an event and its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["keywords", "merged"]


def merged(given: dict[str, Any]) -> dict[str, Any]:
    """Merge the keyword *metadata* into the others, without losing a value."""
    mapping = given.get("metadata")
    if not isinstance(mapping, Mapping):
        return given
    others = {key: value for key, value in given.items() if key != "metadata"}
    taken = {key: value for key, value in mapping.items() if key in others}
    if taken and "metadata" in mapping:
        taken["metadata"] = mapping["metadata"]
    return {**mapping, **others, **({"metadata": taken} if taken else {})}


def keywords(given: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the keywords for `log_event`: *fields*, or what was *given* in their place, and the rest as metadata."""
    found = {**fields, **given}
    clashing = {key: found.pop(key) for key in ("event_type", "message") if key in found}
    if clashing:
        nested = {"metadata": found["metadata"]} if "metadata" in found else {}
        found["metadata"] = merged(clashing | nested)
    return found
