"""Which values are secrets, by the names that an application gives them, and the text that is recorded instead."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MASK", "is_secret"]

MASK: Final = "********"
"""In the place of a secret."""

# Whole words, so that an author and a monkey are not taken for an authorization and a key.
_SECRET: Final = re.compile(
    r"(^|_)(passwords?|passwd|passphrases?|secrets?|tokens?|(api|private|secret|access)_?keys?|signatures?|otp|totp|salt"
    r"|recovery_codes|uniquifier)(_|$)"
)
_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def is_secret(name: str) -> bool:
    """Return whether a value with this *name* is a secret: "password_hash", "apiKey"."""
    return _SECRET.search(_HUMP.sub("_", name).lower()) is not None
