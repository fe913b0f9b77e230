"""`fapilog recover`: a damaged trail continues, and a record seals the damage."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from ..record.chain import ChainError
from ..storage._files.access import cannot
from ..storage._files.recovering import recover as seal_damage
from ..storage.earlier import is_of_earlier
from ._operator import operator
from ._output import NO, failed, storage_failures
from ._place import Directory, require_trail

__all__ = ["recover"]

_LONGEST_REASON: Final = 8192  # characters


def recover(
    directory: Directory,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, in your words; it is recorded.")],
) -> None:
    """
    Continue a damaged trail, and seal the damage as it is.

    A record in the trail seals it. Stop the services that write to it first, copy the directory, and find the cause.
    Nothing in the files is changed or deleted. From then on `fapilog verify` says "recovered", and never again that the
    trail is intact.

    Exit code: 0 if the damage is sealed, 1 if there is none, 2 if the trail can't be read or written or is not there.
    """
    if not reason.strip():
        raise typer.BadParameter("expected the reason in words", param_hint="--reason")
    with storage_failures():
        require_trail(directory)
    if is_of_earlier(directory):
        raise failed(f"{directory} is a trail of the earlier fapilog: `fapilog continue` begins one that continues it")
    try:
        sealed = seal_damage(directory.absolute(), reason[:_LONGEST_REASON], user_id=operator())
    except OSError as error:
        raise failed(cannot("recover", directory, error)) from None
    except ChainError as broken:
        # Damage of a compressed day, or of the anchor: no bytes of records that could be sealed.
        words = "put that file back from a copy; or move it elsewhere, and recover again"
        raise failed(f"cannot recover {directory}: {broken}: {words}") from None
    if sealed is None:
        raise failed("there is nothing to recover", NO)
    number, damage = sealed
    typer.echo(
        f"record {number} seals {f'{damage.size} bytes' if damage.size else 'the gap'} behind record {damage.after}, "
        f"from byte {damage.offset} of {damage.file} on; services can go on"
    )
