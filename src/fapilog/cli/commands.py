"""The commands, as typer takes them."""

import functools
import importlib.metadata
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Annotated, Final, Literal

import anyio
import msgspec
import typer
from rich.progress import SpinnerColumn, TextColumn

from .. import AuditChainVerificationResult, AuditStorageError, ChainHead, ChainStatus
from ..config import ConfigError, dispatcher_from_env
from ..record.chain import ChainError
from ..storage._files.directory import cannot
from ..storage._files.recovering import recover as seal_damage
from ..storage._files.times import Times
from ..storage.archive import Archive
from ..storage.archived import ArchiveStorage
from ..storage.earlier import is_of_earlier, verify_earlier
from ._ending import CANNOT, INTERRUPTED, NO, failed
from ._operator import operator
from ._output import Output, in_json, plain, progress, verdict
from ._place import Directory, Place, Where, WithArchive, WithName, named, opened, require_trail, verified
from .alerts import alerts
from .check_config import check_config
from .continue_ import continue_, say
from .copy import copy
from .demo import REQUESTS, run
from .events import count, show, tail
from .hold import hold
from .replicate import replicate
from .retain import retain
from .screen import Screen
from .send_test import Destination, Severity, send
from .storage import storage

__all__ = ["app", "demo", "recover", "send_test", "verify"]

_LONGEST_REASON: Final = 8192  # characters

app: Final = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    # A traceback with the values of variables may show personal data.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(alerts, name="alerts")
app.add_typer(hold, name="hold")
app.add_typer(storage, name="storage")
app.command()(show)
app.command()(tail)
app.command()(count)
app.command()(check_config)
app.command()(copy)
app.command("continue")(continue_)
app.command()(replicate)
app.command()(retain)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"fapilog {importlib.metadata.version('fapilog')}")
        raise typer.Exit


@app.callback()
def _fapilog(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """A hash-chained, durable audit trail that alerts."""


@app.command()
def demo(
    *,
    backend: Annotated[Literal["asyncio", "trio"], typer.Option(help="The event loop to run on.")] = "asyncio",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, writable=True, help="Leave the trail in DIR: empty, or new."),
    ] = None,
) -> None:
    """
    See a trail at work.

    A small HIPAA service on loopback handles a few hundred requests; its alerts go to an HTTP receiver and to a log.
    Then its trail is verified, one byte of it is changed, and it is verified again. That takes some seconds, and
    leaves nothing behind unless --keep is given.

    Exit code: 0 if everything was as it should be, 1 if not, 130 if it was interrupted.
    """
    if importlib.util.find_spec(backend) is None:
        raise typer.BadParameter(f"needs the package of that name: pip install {backend}", param_hint="--backend")
    if keep is not None:
        _make_empty(keep)
    screen = Screen(Output(), requests=REQUESTS)
    as_it_should_be = anyio.run(functools.partial(run, screen, keep), backend=backend)
    if as_it_should_be is None:
        raise typer.Exit(INTERRUPTED)
    if keep is None:
        screen.heading("That trail is gone. Try: fapilog demo --keep DIR, then fapilog verify DIR")
    else:
        screen.heading(f"The trail is in {keep}. Try: fapilog verify {shlex.quote(str(keep))}")
    raise typer.Exit(0 if as_it_should_be else NO)


def _make_empty(keep: Path) -> None:
    """Make the directory *keep*, or raise BadParameter if it can't be made or is not empty."""
    try:
        keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        empty = not any(keep.iterdir())
    except OSError as error:
        raise typer.BadParameter(f"{keep}: {error.strerror}", param_hint="--keep") from error
    if not empty:
        # It might be a trail, and the demonstration damages it.
        raise typer.BadParameter(f"{keep} is not empty", param_hint="--keep")


@app.command()
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
    try:
        if head is None and isinstance(where, Path) and is_of_earlier(where):
            raise typer.Exit(say(verify_earlier(where), as_json=as_json))
        result = _verify(where, archive, None if head is None else _head(head))
        if result.valid:
            require_trail(where)
    except AuditStorageError as error:
        raise failed(error) from None
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


@app.command()
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
    try:
        require_trail(directory)
    except AuditStorageError as error:
        raise failed(error) from None
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


def _verify(where: Where, archive: Archive | None, head: ChainHead | None) -> AuditChainVerificationResult:
    columns = SpinnerColumn(), TextColumn("{task.completed:,.0f} records checked")
    with progress(*columns, total=None) as reached:
        result = verified(where, archive, reached)
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


@app.command()
def send_test(
    *,
    to: Annotated[Destination, typer.Option(help="Where to.", show_default=False)],
    severity: Annotated[Severity, typer.Option(help="How severe it claims to be.")] = "info",
    allow_http: Annotated[bool, typer.Option("--allow-http", help="Let an address be http: and not loopback.")] = False,
) -> None:
    """
    Send one test alert, and print the outcome.

    Addresses and credentials come from environment variables, such as FAPILOG_SLACK_WEBHOOK_URL; the reference of the
    command line lists them. It is sent once: nothing tries again.

    Exit code: 0 if the other side has it, 1 if not, or if that is unknown, 2 if it could not be tried.
    """
    try:
        dispatcher = dispatcher_from_env(to, allow_http=allow_http)
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(plain(f"fapilog: {problem.replace('allow_http=True', '--allow-http')}"), err=True)
        raise typer.Exit(CANNOT) from None
    has_it, words = anyio.run(send, dispatcher, to, severity)
    typer.echo(words)
    raise typer.Exit(0 if has_it else NO)
