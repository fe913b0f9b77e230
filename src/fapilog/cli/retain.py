"""`fapilog retain`: compress, archive and remove the old days of a trail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .. import ComplianceLevel, CompliancePolicy, OutboxError
from ..delivery.outbox._file.place import OutboxFile, has_mark
from ..delivery.outbox._place import Queue
from ..storage._files.access import cannot
from ..storage._regular import regular_file
from ..storage.retention import RetainedDay, RetentionReport
from ._output import Output, failed, headed, in_json, plain, storage_failures
from ._place import Directory, archive_at, require_trail, to_write

__all__ = ["retain"]


def retain(
    directory: Directory,
    *,
    retention_days: Annotated[int | None, typer.Option(metavar="N", min=1, help="Remove days older than that.")] = None,
    archive_after_days: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Compress, and archive, days older than that.")
    ] = None,
    archive: Annotated[
        Any,
        typer.Option(
            metavar="PLACE",
            help="Where the archive is, if there is one: a directory, or s3://BUCKET/PREFIX.",
            parser=archive_at,
        ),
    ] = None,
    level: Annotated[ComplianceLevel, typer.Option(help="The level of the policy.")] = ComplianceLevel.BASIC,
    outboxes: Annotated[
        list[Path] | None,
        typer.Option("--outbox", metavar="FILE", help="An outbox of the trail; may be repeated.", dir_okay=False),
    ] = None,
    below_floor: Annotated[
        bool, typer.Option("--below-floor", help="Remove also days that the level asks to keep longer.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; only print what would change.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """
    Compress, archive and remove old days of a trail.

    Never today's day or the newest; never one with a record about which an outbox has an alert that has not arrived,
    one that a legal hold names, one that is damaged, or one with records that their level asks to keep longer. Every
    removal is recorded in the trail, which may be written to meanwhile. With --archive a day is removed only
    after the archive has proved that it has the day. In S3 the lock of a day ends N days after it, by
    s3://BUCKET/PREFIX?lock_days=N, or else by --retention-days.

    Exit code: 0 if it is done, also if there is nothing to do; 2 if not, or not all.
    """
    try:
        policy = CompliancePolicy(
            level,
            retention_days=retention_days,
            archive_after_days=archive_after_days,
            retention_below_floor=below_floor,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error).replace("retention_below_floor=True", "--below-floor")) from None
    if retention_days is None and archive_after_days is None:
        raise typer.BadParameter("expected --retention-days, --archive-after-days, or both")
    with storage_failures():
        require_trail(directory)
        trail = to_write(directory, policy)
        try:
            keep_from = _first_that_stays([*(outboxes or ()), *_outboxes_in(directory)])
            report = trail.sync.apply_retention(archive=archive, keep_from=keep_from, dry_run=dry_run)
        except (OutboxError, ValueError) as error:
            raise failed(error) from None
        finally:
            trail.sync.stop()
    if as_json:
        typer.echo(in_json(report))
    else:
        _show(report)


def _outboxes_in(directory: Path) -> list[Path]:
    """Return the files in *directory* that are outboxes: one that is beside its trail need not be named."""
    found: list[Path] = []
    for path in sorted(directory.iterdir()):
        if path.is_file():
            try:
                with regular_file(path) as file:
                    header = file.read(72)
            except OSError as error:
                # It may be one, with alerts about records that would be removed.
                raise cannot("read", path, error) from None
            if has_mark(header):
                found.append(path)
    return found


def _first_that_stays(outboxes: list[Path]) -> int | None:
    """Return the number of the first record about which one of *outboxes* lacks an alert, or has one pending."""

    def ask(queue: Queue) -> list[int | None]:
        marks = [queue.mark(name) for name in queue.outboxes()]
        return [*(None if mark is None else mark.sequence_number + 1 for mark in marks), queue.oldest_pending()]

    numbers: list[int] = []
    for path in outboxes:
        opened = OutboxFile(path, must_exist=True)
        try:
            [found] = opened.run([ask], writes=False)
        finally:
            opened.close()
        numbers += [number for number in found if number is not None]
    return min(numbers, default=None)


def _show(report: RetentionReport) -> None:
    if not report.days:
        typer.echo("nothing is old enough")
        return
    table = headed("day", "records", "would be" if report.dry_run else "done")
    for day in report.days:
        records = "" if day.first is None else f"{day.first}-{day.last}"
        table.add_row(day.file.removesuffix(".jsonl"), records, plain(_words(day)))
    Output().show(table)


def _words(day: RetainedDay) -> str:
    done = [name for name in ("compressed", "archived", "removed") if getattr(day, name)]
    words = ", ".join([*done, *([] if day.kept is None else [f"kept: {day.kept}"])])
    return f"{words}; with {', '.join(day.set_aside)}" if day.set_aside else words
