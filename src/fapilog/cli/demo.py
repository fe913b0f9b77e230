"""`fapilog demo`: a service works and alerts, its trail is verified, and then a byte of the trail is changed."""

from __future__ import annotations

import functools
import importlib.util
import logging
import shlex
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

import anyio
import typer
from anyio.abc import TaskStatus
from prometheus_client import CollectorRegistry

from .. import AuditChainVerificationResult, AuditEvent, AuditEventType, AuditTrail, ComplianceLevel, CompliancePolicy
from ..observers import logs, metrics
from ._output import INTERRUPTED, NO, Output, verdict
from .clinic import LOOPBACK, STAFF, Clinic, OnCall, Request, serve, work
from .screen import Screen

__all__ = ["demo"]

_REQUESTS: Final = 52 * len(STAFF)
_LOGGER: Final = "fapilog.alerts"

# So that a viewer can follow.
_SECONDS_TO_THINK: Final = 0.07
_SECONDS_TO_READ: Final = 0.8
_SECONDS_A_FRAME: Final = 0.1
# On a slow disk there are fewer requests, so that it ends all the same.
_LONGEST_DAY: Final = 10.0

# One byte, and another user did it.
_BEFORE: Final = b'"user_id":"kim"'
_AFTER: Final = b'"user_id":"jim"'
_BYTE: Final = _BEFORE.index(b"k")


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
    screen = Screen(Output(), requests=_REQUESTS)
    as_it_should_be = anyio.run(functools.partial(_run, screen, keep), backend=backend)
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


async def _run(screen: Screen, keep: Path | None) -> bool | None:
    """
    Run the demonstration.

    Args:
        screen: Shows the demonstration.
        keep: The directory of the trail, empty; None for one that is gone afterwards, whatever signal comes.

    Returns:
        Whether everything was as it should be; None if a signal ended it early.
    """
    posted: list[str] = []

    async def take(request: Request) -> int:
        posted.append(request.body.decode())
        screen.arrived(posted[-1])
        return 204

    as_it_should_be: bool | None = None
    async with anyio.create_task_group() as tasks:
        # The receiver outlives the clinic, also when a signal ends the clinic.
        on_call = await tasks.start(serve, take)
        with anyio.CancelScope() as story:
            await tasks.start(_cancel_on_signal, story)
            with _directory(keep) as directory:
                trail, all_arrived = await _serve_and_alert(screen, directory, on_call, posted)
                as_it_should_be = await _verify_and_alter(screen, trail, directory) and all_arrived
        tasks.cancel_scope.cancel()
    return as_it_should_be


@contextmanager
def _directory(keep: Path | None) -> Generator[Path, None, None]:
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="fapilog-") as name:
        yield Path(name)


async def _cancel_on_signal(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def _serve_and_alert(screen: Screen, directory: Path, on_call: int, posted: list[str]) -> tuple[AuditTrail, bool]:
    """Return the trail of a day at the clinic, and whether every alert was posted and logged."""
    policy = CompliancePolicy(level=ComplianceLevel.HIPAA, hipaa_minimum_necessary=True)
    trail = AuditTrail(policy, directory, OnCall(LOOPBACK, on_call), alert_timeout=3, stop_timeout=3)
    registry = CollectorRegistry()
    answers: Counter[int] = Counter()
    with (
        _log_on(screen) as logged,
        logs.connect(sender=trail, logger=_LOGGER),
        metrics.connect(sender=trail, registry=registry),
    ):
        async with trail, anyio.create_task_group() as clinic:
            await trail.log_event(AuditEventType.SYSTEM_STARTUP, "the clinic opens")
            port = await clinic.start(serve, Clinic(trail).answer)
            screen.heading(f"A clinic under HIPAA at {LOOPBACK}:{port}; on call is {LOOPBACK}:{on_call}")
            await _one_day(screen, trail, port, answers)
            clinic.cancel_scope.cancel()
        statistics = await trail.get_statistics()
        alerts = sum(statistics["alerts"].values())
        good, refused, failed = answers[200], answers[401], answers[500]
        screen.say(f"{answers.total()} requests: {good} answered, {refused} refused, {failed} failed")
        screen.say(f"{statistics['total_events']} events stored, each on the disk before its request was answered")
        screen.say(f"{alerts} alerts: {len(posted)} at the receiver, {len(logged)} in the log; one, as it was posted:")
        for alert in posted[-1:]:
            screen.say(alert)
        await _let_read(screen)
        _show_metrics(screen, registry)
    await _let_read(screen)
    return trail, len(posted) == len(logged) == alerts


async def _one_day(screen: Screen, trail: AuditTrail, port: int, answers: Counter[int]) -> None:
    """Let the staff use the clinic, and count the statuses that they get."""

    def on_answer(status: int) -> None:
        answers[status] += 1
        screen.answered()

    with screen.watching() as draw:
        async with anyio.create_task_group() as drawing:
            drawing.start_soon(_draw, draw, trail)
            with anyio.move_on_after(_LONGEST_DAY):
                async with anyio.create_task_group() as people:
                    for index, user in enumerate(STAFF):
                        numbers = range(index, _REQUESTS, len(STAFF))
                        pause = _SECONDS_TO_THINK if screen.live else 0
                        people.start_soon(
                            functools.partial(work, port, user, numbers, pause=pause, on_answer=on_answer)
                        )
            await trail.drain()
            drawing.cancel_scope.cancel()


async def _draw(draw: Callable[[int], None], trail: AuditTrail) -> None:
    while True:
        draw((await trail.get_statistics())["total_events"])
        await anyio.sleep(_SECONDS_A_FRAME)


@contextmanager
def _log_on(screen: Screen) -> Generator[list[str], None, None]:
    """Show the log of the alerts; yields its lines."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))
            screen.logged(lines[-1], record.__dict__["fapilog_severity"])

    handler = Lines(logging.INFO)
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s %(levelname)s %(message)s"
            " record=%(fapilog_sequence_number)s %(fapilog_severity)s took=%(fapilog_took).3f",
            "%H:%M:%S",
        )
    )
    logger = logging.getLogger(_LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _show_metrics(screen: Screen, registry: CollectorRegistry) -> None:
    screen.heading("The metrics: fapilog_alerts_finished_total, fapilog_alert_took_seconds (mean)")
    rows: list[tuple[str, ...]] = []
    for sample in (sample for metric in registry.collect() for sample in metric.samples):
        if sample.name == "fapilog_alerts_finished_total":
            labels = sample.labels
            timed = {name: labels[name] for name in ("severity", "outcome")}
            seconds, count = (
                registry.get_sample_value(f"fapilog_alert_took_seconds_{part}", timed) or 0 for part in ("sum", "count")
            )
            mean = f"{seconds / count:.4f}"
            rows.append((labels["event_type"], labels["severity"], labels["outcome"], f"{sample.value:.0f}", mean))
    screen.table(("event_type", "severity", "outcome", "finished", "took"), rows)


async def _verify_and_alter(screen: Screen, trail: AuditTrail, directory: Path) -> bool:
    """Verify the trail, change a byte, verify again; return whether both verdicts are right."""
    intact = await _verify(screen, trail, "Verify the trail")
    await _let_read(screen)

    by_kim = await trail.get_events(user_id="kim", event_type=AuditEventType.DATA_ACCESS)
    event = by_kim[len(by_kim) // 2]
    screen.heading("Change one byte of it")
    screen.say(_change_a_byte(directory, event))
    await _let_read(screen)

    altered = await _verify(screen, trail, "Verify it again")
    return intact.valid and not altered.valid and altered.first_invalid_sequence == event.sequence_number


async def _verify(screen: Screen, trail: AuditTrail, heading: str) -> AuditChainVerificationResult:
    total = (await trail.get_statistics())["total_events"]
    with screen.checking(heading, total) as checked:
        result = await trail.verify_chain_from_storage(checked)
        checked(result.events_checked)
    screen.say(verdict(result))
    return result


def _change_a_byte(directory: Path, event: AuditEvent) -> str:
    """Change a byte of the record of *event*; return a sentence about the change."""
    for path in sorted(directory.glob("audit_*.jsonl")):
        content = path.read_bytes()
        record = content.find(event.event_id.encode())
        if record >= 0:
            start = content.index(_BEFORE, record)
            with path.open("r+b") as file:
                file.seek(start + _BYTE)
                file.write(_AFTER[_BYTE : _BYTE + 1])
            return f"byte {start + _BYTE} of {path.name}: {_BEFORE.decode()} is now {_AFTER.decode()}"
    raise LookupError(f"record {event.sequence_number} is in no file")


async def _let_read(screen: Screen) -> None:
    if screen.live:
        await anyio.sleep(_SECONDS_TO_READ)
