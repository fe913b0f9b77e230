"""`fapilog verify`: whether a trail is intact."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import anyio
import msgspec
import typer
from rich.progress import SpinnerColumn, TextColumn
from rich.text import Text

from .. import AuditChainVerificationResult, AuditStorageError, ChainHead, ChainStatus, FileStorage
from ..record.chain import ChainError
from ..storage._archive.together import verify_together
from ..storage._files.access import cannot
from ..storage._files.times import Times
from ..storage.archive import Archive
from ..storage.archived import ArchiveStorage
from ..storage.earlier import EarlierTrail, is_of_earlier, verify_earlier
from ._output import CANNOT, NO, Output, in_json, plain, progress, storage_failures, verdict
from ._place import Place, Where, WithArchive, WithName, named, opened, require_trail

__all__ = ["verify"]


def verify(
    place: Place,
    *,
    archive: WithArchive = None,
    name: WithName = None,
    head: Annotated[
        str | None,
        typer.Option(metavar="NUMBER:CHECKSUM", help="A head that it had, for example that of a heartbeat."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """
    Check whether a trail is intact.

    Names the damage and its place. The trail may be written to meanwhile. Records that were cut off its very end can't
    be seen from inside a chain; with --head it is also checked whether the trail still has that record. A trail of
    fapilog 0.3.5 or earlier is checked by the rules of that version. An archive is checked where it is; with --archive
    it is checked together with the trail, as one chain, and the days that retention has removed count as there. A
    password of a database is best in ~/.pgpass or in PGPASSWORD.

    Exit code: 0 if it is intact, 1 if not, 2 if it can't be read or DIR has none.
    """
    where = named(place, name)
    with storage_failures():
        if head is None and isinstance(where, Path) and is_of_earlier(where):
            raise typer.Exit(_say(verify_earlier(where), as_json=as_json))
        result = _verify(where, archive, None if head is None else _head(head))
        if result.valid:
            # The chain itself can't tell that its newest file was moved, and there is a copy of it.
            if isinstance(where, Path) and (words := anyio.run(FileStorage(where).concerns).get("files")):
                typer.echo(f"fapilog: {plain(words)}", err=True)
            require_trail(where)
    if as_json:
        typer.echo(in_json(result))
    else:
        Output().print(verdict(result), soft_wrap=True)
    if isinstance(where, Path) and (words := Times(where.absolute()).check()):
        typer.echo(f"fapilog: {plain(words)}", err=True)
    could_not_read = not result.valid and result.first_invalid_sequence is None
    raise typer.Exit(CANNOT if could_not_read else 0 if result.valid else NO)


def _head(given: str) -> ChainHead:
    found = re.fullmatch(r"0:none|([1-9][0-9]{0,18}):([0-9a-f]{64})", given)
    if found is None:
        words = f"expected NUMBER:CHECKSUM, a checksum of 64 hexadecimal digits; got {given!r}"
        raise typer.BadParameter(words, param_hint="--head")
    return ChainHead(0, None) if found[1] is None else ChainHead(int(found[1]), found[2])


def _verify(where: Where, archive: Archive | None, head: ChainHead | None) -> AuditChainVerificationResult:
    columns = SpinnerColumn(), TextColumn("{task.completed:,.0f} records checked")
    with progress(*columns, total=None) as reached:
        result = _verified(where, archive, reached)
    if not result.valid or head is None or head == result.pruned:
        return result
    for each in (where, *([] if archive is None else [ArchiveStorage(archive)])):
        with opened(each) as trail:
            if trail.sync.holds(head):
                return result
    if result.pruned is not None and head.sequence_number < result.pruned.sequence_number:
        words = f"record {head.sequence_number} was removed by retention: whether it had that checksum can't be checked"
        return msgspec.structs.replace(result, valid=False, error_message=words)
    return msgspec.structs.replace(
        result,
        valid=False,
        first_invalid_sequence=head.sequence_number,
        error_message=f"record {head.sequence_number} is not there, or not with that checksum: "
        "the trail was cut off before it, or made anew",
        status=ChainStatus.GAP,
    )


def _verified(place: Where, archive: Archive | None, reached: Callable[[int], None]) -> AuditChainVerificationResult:
    """Return the verdict on the trail at *place*, and on its *archive*; raise AuditStorageError as that does."""
    if archive is None or not isinstance(place, Path):
        with opened(place, archive) as trail:
            return trail.sync.verify_chain_from_storage(reached)
    directory = place.absolute()
    try:
        return verify_together(directory, archive, reached)
    except ChainError as damage:
        raise AuditStorageError(f"{directory}: {damage}") from None
    except OSError as error:
        raise cannot("read", directory, error) from None


def _say(found: EarlierTrail, *, as_json: bool) -> int:
    """Print the verdict on an earlier trail, and return the exit code."""
    if as_json:
        typer.echo(in_json(found))
    elif found.problem is not None:
        Output().print(Text(f"NOT VALID: {plain(found.problem)}", style="bold red"), soft_wrap=True)
    else:
        runs = "one run" if found.runs == 1 else f"{found.runs} runs, each with a chain of its own"
        words = f"valid: {found.records} records of fapilog 0.3.5 or earlier, in {runs}"
        Output().print(Text(words, style="bold green"), soft_wrap=True)
    return 0 if found.problem is None else NO
