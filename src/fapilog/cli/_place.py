"""The place of a trail, as a command gets it: a directory, or the address of an archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import AuditChainVerificationResult, AuditStorageError, AuditTrail
from ..record.chain import ChainError
from ..storage._archivereader import ArchiveReader
from ..storage._directory import cannot
from ..storage._reader import TrailReader
from ..storage._together import verify_together
from ..storage.archive import Archive, is_address, require_archive
from ..storage.archived import ArchiveStorage
from ..tasks.threads import in_thread

__all__ = ["Place", "WithArchive", "archive_at", "reader_of", "require_trail", "trail_in", "verified"]


def archive_at(given: str) -> Archive:
    """Return the archive given to a command."""
    try:
        return require_archive("archive", given)
    except (ImportError, ValueError) as error:
        raise typer.BadParameter(str(error).removeprefix("archive: ")) from None


def _place(given: str) -> Path | Archive:
    if is_address(given):
        return archive_at(given)
    path = Path(given)
    if not path.is_dir():
        raise typer.BadParameter(f"Directory {given!r} {'is a file' if path.exists() else 'does not exist'}.")
    return path


Place = Annotated[
    Any, typer.Argument(metavar="DIR", help="Where the trail is; s3://BUCKET/PREFIX for an archive.", parser=_place)
]
WithArchive = Annotated[
    Any,
    typer.Option("--archive", metavar="PLACE", help="Its archive, for days that were removed.", parser=archive_at),
]


def require_trail(place: Path | Archive) -> None:
    """Raise AuditStorageError if there is no trail at *place*: that another place has no such event is no answer."""
    if not (any(place.glob("audit_*.jsonl*")) if isinstance(place, Path) else place.sizes()):
        raise AuditStorageError(f"there is no trail in {place}")


def trail_in(place: Path | Archive, archive: Archive | None = None) -> AuditTrail:
    """Return the trail at *place*, together with its *archive*."""
    if isinstance(place, Path):
        return AuditTrail(storage_path=place, archive=archive)
    if archive is not None:
        raise typer.BadParameter("expected the directory of the trail as DIR; got an archive", param_hint="--archive")
    return AuditTrail(storage=ArchiveStorage(place))


async def verified(
    place: Path | Archive, archive: Archive | None, progress: Callable[[int], None]
) -> AuditChainVerificationResult:
    """Return the verdict on the trail at *place*, and on its *archive*; raise AuditStorageError as that does."""
    trail = trail_in(place, archive)
    if archive is None or not isinstance(place, Path):
        return await trail.verify_chain_from_storage(progress)
    return await in_thread(_together, place, archive, progress)


def _together(place: Path, archive: Archive, progress: Callable[[int], None]) -> AuditChainVerificationResult:
    directory = place.absolute()
    try:
        return verify_together(directory, archive, progress)
    except ChainError as damage:
        raise AuditStorageError(f"{directory}: {damage}") from None
    except OSError as error:
        raise cannot("read", directory, error) from None


def reader_of(place: Path | Archive) -> TrailReader:
    """Return a reader of the trail at *place*."""
    return TrailReader(place.absolute(), durable=False) if isinstance(place, Path) else ArchiveReader(place)
