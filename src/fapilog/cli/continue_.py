"""`fapilog continue`: a new trail that continues one of the earlier fapilog."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import AuditEventType, AuditTrail
from ..storage.earlier import EarlierTrail, as_metadata, is_of_earlier, verify_earlier
from ._output import NO, bad_parameters, failed, plain, storage_failures
from ._place import directory_at, directory_there

__all__ = ["continue_"]


def continue_(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="The earlier trail.", parser=directory_there)],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The directory of the new one.", parser=directory_at)],
) -> None:
    """
    Continue a trail of fapilog 0.3.5 or earlier by a new one.

    The first record of NEW names the head of OLD.

    OLD is verified first, and is not changed. The record has its last checksum and the SHA-256 of all its files: NEW,
    once verified, vouches for OLD.

    Exit code: 0 if it is done, 1 if OLD is not intact, 2 if it can't be read, is no such trail, or NEW has records.
    """
    with bad_parameters("storage_path", "NEW"), storage_failures():
        if not is_of_earlier(old):
            raise failed(f"expected a trail of fapilog 0.3.5 or earlier in {old}; there is none")
        found = verify_earlier(old)
        if found.problem is None and not _begun(new, found):
            raise failed(f"expected no trail in {new}; there is one")
    if found.problem is not None:
        raise failed(found.problem, NO)
    typer.echo(f"record 1 in {plain(str(new))} names the {found.records} records of {plain(str(old))}")


def _begun(new: Path, found: EarlierTrail) -> bool:
    """Begin a trail with the record that names *found*; return False if there is one already."""
    trail = AuditTrail(storage_path=new).sync
    try:
        if trail.head().sequence_number:
            return False
        trail.log_event(
            AuditEventType.AUDIT_LOG_LIFECYCLE,
            "this trail continues one of the earlier fapilog",
            operation="continue",
            metadata=as_metadata(found),
        )
    finally:
        trail.stop()
    return True
