"""Texts as they are stored: with lone surrogates escaped, and cut if they are too long."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Final

__all__ = ["cut", "escaped", "mark_of", "original", "storable"]


def escaped(given: str) -> str:
    r"""
    Return *given* with lone surrogates as escapes, from which `original` makes *given* again.

    A lone surrogate, as `os.fsdecode` makes of a byte that is no UTF-8, becomes `\udcff`. Backslashes in front of it
    are doubled, and so are backslashes in front of the characters `udcff`: no two texts become one. All else stays.
    """
    if "\\ud" not in given and given.isascii():
        return given
    if "\\" in given:
        # With a call for each, a text full of them would take seconds.
        parts = _doubled().split(given)
        parts[1::2] = [slashes * 2 for slashes in parts[1::2]]
        given = "".join(parts)
    return given.encode("utf-8", "backslashreplace").decode()


@cache
def _doubled() -> re.Pattern[str]:
    # All backslashes in front of a lone surrogate, or of the characters that its escape has. Possessive, and only from
    # the first of them, so that every backslash is looked at once.
    return re.compile(r"(?<!\\)(\\++)(?=ud[89a-f][0-9a-f]{2}|[\ud800-\udfff])")


def original(stored: str) -> str:
    """Return the text that was given to the trail, lone surrogates included, from the one that it *stored*."""
    return re.sub(r"(\\++)(?:u(d[89a-f][0-9a-f]{2}))?", _original, stored)


def _original(found: re.Match[str]) -> str:
    slashes, digits = found.groups()
    if digits is None:
        return slashes
    return slashes[: len(slashes) // 2] + (chr(int(digits, 16)) if len(slashes) % 2 else f"u{digits}")


def mark_of(given: str) -> str:
    """Return the length and hash of *given*, a text that is cut."""
    from hashlib import sha256  # noqa: PLC0415  as in `chain`

    digest = sha256()
    for start in range(0, len(given), _AT_ONCE):
        digest.update(given[start : start + _AT_ONCE].encode("utf-8", "surrogatepass"))
    return f"({len(given)} characters, sha256 {digest.hexdigest()})"


_AT_ONCE: Final = 1 << 20


def cut(given: str, limit: int, *, keep_end: bool = False) -> str:
    """
    Return *given*, or as much of it as has *limit* characters together with its length and hash.

    Args:
        given: The text.
        limit: The most characters to return; at least 128.
        keep_end: Whether the end is kept, and not the beginning.
    """
    return given if len(given) <= limit else _shortened(given, limit, mark_of(given), keep_end=keep_end)


def _shortened(given: str, limit: int, mark: str, *, keep_end: bool) -> str:
    kept = limit - len(mark) - 2
    return f"{mark} …{given[-kept:]}" if keep_end else f"{given[:kept]}… {mark}"


def storable(
    given: str, limit: int, *, keep_end: bool = False, mark: Callable[[str], str] = mark_of
) -> tuple[str, bool]:
    """
    Return *given* with lone surrogates as escapes, cut as by `cut`, and whether it was cut.

    Of a long text only the part that is kept is escaped; the length and hash are those of the text without escapes.

    Args:
        given: The text.
        limit: The most characters to return; at least 128.
        keep_end: Whether the end is kept, and not the beginning.
        mark: Returns the length and hash of a text that is cut.
    """
    if len(given) <= limit and len(stored := escaped(given)) <= limit:
        return stored, False
    part = escaped(given[-limit:] if keep_end else given[:limit])
    return _shortened(part, limit, mark(given), keep_end=keep_end), True
