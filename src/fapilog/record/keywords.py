"""The keywords of a recording method, before an event is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .containers import MAX_PAIRS, as_dict, named, read_mapping
from .texts import storable

__all__ = ["keywords", "merged", "names_in"]

# Of changed fields in a message, and characters of each.
_MAX_NAMES: Final = 16
_LONGEST_NAME: Final = 128


def merged(given: dict[str, Any], most: int = MAX_PAIRS) -> dict[str, Any]:
    """
    Merge the keyword *metadata* into the other keywords, without losing a value.

    Args:
        given: The keywords.
        most: The most values of *metadata*; with more, it stays what it is.
    """
    mapping = as_dict(given.get("metadata"), most)
    if mapping is None:
        return given
    others = {key: value for key, value in given.items() if key != "metadata"}
    taken = {key: value for key, value in mapping.items() if key in others}
    if taken and "metadata" in mapping:
        taken["metadata"] = mapping["metadata"]
    return {**mapping, **others, **({"metadata": taken} if taken else {})}


def names_in(changes: object) -> list[str]:
    """Return the names of the fields in *changes*, for a message: the first of them, and a "…" for more."""
    pairs, size = read_mapping(changes, _MAX_NAMES) or ((), 0)
    more = ["…"] if len(pairs) != size else []
    return [storable(name, _LONGEST_NAME)[0] for name in named(pairs)] + more


def keywords(given: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """
    Return the keywords for `log_event`: *fields* that are not None, or the values *given* in their place.

    A keyword that clashes with a positional argument of that method is put into the metadata.
    """
    found = {**{name: value for name, value in fields.items() if value is not None}, **given}
    if "event_type" in found or "message" in found:
        clashing = {key: found.pop(key) for key in ("event_type", "message") if key in found}
        nested = {"metadata": found["metadata"]} if "metadata" in found else {}
        found["metadata"] = merged(clashing | nested)
    return found
