"""Archives by their addresses: the one that an option of the trail or of the command names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from ..._extras import MissingExtraError
from ...record.options import require_path
from ...record.values import kind_of
from ..archive import Archive, DirectoryArchive

__all__ = ["is_address", "require_archive"]

_ADDRESS: Final = r"([A-Za-z][A-Za-z0-9+.-]*)://"
# In an address, behind a question mark.
_S3_OPTIONS: Final = frozenset({"endpoint", "lock_days", "region", "timeout"})
_S3_NUMBERS: Final[Mapping[str, Callable[[str], float]]] = {"lock_days": int, "timeout": float}


def is_address(given: str) -> bool:
    """Return whether *given* is an address, and no path."""
    return re.match(_ADDRESS, given) is not None


def require_archive(given: Any) -> Archive:
    """
    Return the archive given as an object, as a directory or as an address; errors begin with "archive".

    An address is ``s3://bucket/prefix?lock_days=2190&region=eu-west-1``. Behind the question mark are options of
    `S3Archive`: *lock_days*, *region*, *endpoint* and *timeout*.

    Raises:
        ImportError: The library of the archive is missing; the message says how to get it.
        TypeError: It is neither a path nor an archive.
        ValueError: It is an address of something else, or with an option that is wrong.
    """
    if isinstance(given, str) and (scheme := re.match(_ADDRESS, given)):
        if scheme[1].lower() != "s3":
            raise ValueError(f"archive: expected a directory or s3://bucket/prefix; got {scheme[0]}...")
        return _s3(given)
    if isinstance(given, str | os.PathLike):
        return DirectoryArchive(require_path("archive", given))
    lacking = [each for each in ("sizes", "put", "prove", "open") if not callable(getattr(given, each, None))]
    if lacking or isinstance(given, type):
        raise TypeError(f"archive: expected a directory, s3://bucket/prefix, or an Archive; got {kind_of(given)}")
    archive: Archive = given
    return archive


def _s3(address: str) -> Archive:
    try:
        from ..s3 import S3Archive  # noqa: PLC0415  an extra of its own
    except MissingExtraError as missing:
        raise ImportError(f"archive: {missing}", name=missing.name) from missing
    parts = urlsplit(address)
    if parts.fragment:
        raise ValueError("archive: expected s3://bucket/prefix; got an address with a #")
    options: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
    for unknown in options.keys() - _S3_OPTIONS:
        raise ValueError(f"archive: there is no option {unknown[:100]!r}; there are {', '.join(sorted(_S3_OPTIONS))}")
    for option in _S3_NUMBERS.keys() & options.keys():
        try:
            options[option] = _S3_NUMBERS[option](options[option])
        except ValueError:
            kind = "whole number" if _S3_NUMBERS[option] is int else "number"
            raise ValueError(f"archive: expected a {kind} as {option}; got something else") from None
    try:
        return S3Archive(parts.netloc, prefix=parts.path, **options)
    except ValueError as error:
        raise ValueError(f"archive: {error}") from None
