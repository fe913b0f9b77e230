"""How much a search may do before it is a long one."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["DECODED", "Effort", "TooLongError"]

DECODED: Final = 16
"""How many times as long as to search the bytes of a record it takes to decode it."""


class TooLongError(Exception):
    """Raised where a search has taken all of its `Effort`."""


class Effort:
    """
    How much a search may do.

    Args:
        size: So many bytes it may search, or decode a share of them in vain.
    """

    def __init__(self, size: float = math.inf) -> None:
        self._left = size

    def take(self, size: int) -> None:
        """Note that *size* bytes are searched, or that it takes as long; raise `TooLongError` if that is too much."""
        self._left -= size
        if self._left < 0:
            raise TooLongError

    def end(self) -> None:
        """Have the search end with the next bytes; any thread may call it."""
        self._left = -math.inf
