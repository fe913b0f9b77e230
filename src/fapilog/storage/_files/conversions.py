"""Conversions that well-meaning tools make of a file of a trail, and whether its records are whole once undone."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from typing import Final

import msgspec

from ...record.chain import MAX_RECORD_BYTES, ChainError, ChainHead, follow, follow_events
from ...record.formats import decoded
from .descriptors import blocks

__all__ = ["undone"]

_NO_NEWLINE: Final = "its last newline is missing"
_UTF_8_MARK: Final = codecs.BOM_UTF8
_UTF_16: Final = {
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    b"{\0": "utf-16-le",
    b"\0{": "utf-16-be",
}


def undone(fd: int, head: ChainHead) -> tuple[str, ChainHead | None]:
    """
    Undo in memory the conversions of the file *fd*, and check that its records follow *head*.

    Returns:
        The conversions, in words; and the head after the last record, None if some record is not whole all the same.
    """
    found: dict[str, None] = {}
    try:
        for record in _records(fd, found):
            head = _followed(head, record, found)
    except (ChainError, msgspec.MsgspecError, UnicodeError):
        # That alone is no conversion: a record may be torn.
        found.pop(_NO_NEWLINE, None)
        return ", ".join(found), None
    return ", ".join(found), head


def _followed(head: ChainHead, record: bytes, found: dict[str, None]) -> ChainHead:
    try:
        return follow(head, [record])
    except ChainError:
        # One encoder writes all records: read and written again, a record has its old bytes, whatever spaces were
        # added.
        head = follow_events(head, [decoded(record)])
        found["its records were written anew by another program"] = None
        return head


def _records(fd: int, found: dict[str, None]) -> Iterator[bytes]:
    """Yield the records without the additions of a tool, which are noted in *found*."""
    spread: list[bytes] = []
    size = 0
    for line in _lines(fd, found):
        if spread or line == b"{":
            # As jq prints an object if nothing else is asked for: its last line is as short as its first.
            spread.append(line)
            # With its newline: there may be any number of empty ones.
            size += len(line) + 1
            if size > 2 * MAX_RECORD_BYTES:
                raise UnicodeError
            if line == b"}":
                yield b"".join(spread)
                spread.clear()
                size = 0
        elif line:
            yield line
        else:
            found["it has blank lines"] = None
    if spread:
        raise UnicodeError


def _lines(fd: int, found: dict[str, None]) -> Iterator[bytes]:
    rest = b""
    for data in _in_utf_8(fd, found):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.endswith(b"\r"):
                found["its lines end in CR LF"] = None
            yield line.removesuffix(b"\r")
        if len(rest) > 2 * MAX_RECORD_BYTES:
            raise UnicodeError
    if rest:
        found[_NO_NEWLINE] = None
        yield rest


def _in_utf_8(fd: int, found: dict[str, None]) -> Iterator[bytes]:
    encoding = _UTF_16.get(os.pread(fd, 2, 0))
    offset = 0
    if encoding is None:
        if os.pread(fd, len(_UTF_8_MARK), 0) == _UTF_8_MARK:
            found["it begins with a byte order mark"] = None
            offset = len(_UTF_8_MARK)
        yield from blocks(fd, offset)
    else:
        found["it is in UTF-16"] = None
        for text in codecs.iterdecode(blocks(fd), encoding):
            yield text.encode()
