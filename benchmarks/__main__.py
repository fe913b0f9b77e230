"""
Measures what fapilog promises about its speed, and prints one table.

    python -m benchmarks [--quick] [--only NAME] [--json FILE] [--markdown FILE]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Self

from .events import SEED
from .rows import PEER, Row, Subject, rows

ROOT: Final = Path(__file__).parent.parent
ENVS: Final = ROOT / ".envs"
BEGIN, END = "<!-- table -->\n", "<!-- /table -->\n"


@dataclass(frozen=True, kw_only=True)
class Result:
    """
    What a row came to on one backend.

    Attributes:
        row: The row.
        backend: The backend.
        ours: What was measured of ours, round by round.
        peer: What was measured of the peer, in the same rounds.
    """

    row: Row
    backend: str
    ours: list[float]
    peer: list[float]

    @property
    def ratio(self) -> float:
        """The median over the rounds of ours divided by the peer's; minus the peer's, where that is what is asked."""
        pairs = zip(self.ours, self.peer, strict=True)
        if self.row.at_most_more is not None:
            return statistics.median(ours - peer for ours, peer in pairs)
        return statistics.median(ours / peer for ours, peer in pairs)

    @property
    def target(self) -> str:
        """What is asked of the ratio."""
        row = self.row
        targets = (("≥ ", row.at_least), ("≤ ", row.at_most), ("≤ +", row.at_most_more))
        return next((f"{sign}{limit:g}" for sign, limit in targets if limit is not None), "")

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if there is none."""
        row = self.row
        if row.at_least is not None:
            return self.ratio >= row.at_least
        limit = row.at_most if row.at_most is not None else row.at_most_more
        return None if limit is None else self.ratio <= limit

    def cells(self) -> tuple[str, ...]:
        """Return the figures as they stand in a table."""
        unit = self.row.unit
        return (
            self.backend if len(self.row.backends) > 1 else "",
            f"{digits(statistics.median(self.ours))} {unit}",
            f"{digits(statistics.median(self.peer))} {unit}",
            f"{self.ratio:.2f}" if self.row.at_most_more is None else f"{self.ratio:+.1f} {unit}",
            self.target,
            {True: "yes", False: "no", None: ""}[self.reached],
        )


class Process:
    """A subject in its process, which measures when it is asked to."""

    def __init__(self, subject: Subject, backend: str, directory: Path) -> None:
        self._subject = subject
        self._process = subprocess.Popen(
            [
                earlier_python() if subject.is_earlier else sys.executable,
                *("-m", "benchmarks.subject", subject.function),
                *("asyncio" if subject.is_earlier else backend, directory, json.dumps(subject.arguments)),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self) -> float:
        """Return what the subject measures now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._subject} ended; its error is above")
        return float(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def measured(row: Row, backend: str, directory: Path, rounds: int) -> Result:
    """Measure both sides of *row* in turn."""
    result = Result(row=row, backend=backend, ours=[], peer=[])
    with ExitStack() as stack:
        ours, peer = (stack.enter_context(Process(subject, backend, directory)) for subject in (row.ours, row.peer))
        if rounds > 1:
            for process in (ours, peer):
                process.measure()  # what is done only the first time does not count
        for _ in range(rounds):
            result.ours.append(ours.measure())
            result.peer.append(peer.measure())
    return result


def earlier_python() -> Path:
    """Return the Python of an environment with the earlier fapilog, which is made the first time."""
    env = ENVS / PEER.replace("==", "-")
    if not (env / "has-peer").exists():
        print(f"installing {PEER} in {env}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", env], check=True)
        subprocess.run([env / "bin" / "python", "-m", "pip", "install", "-qq", PEER], check=True)
        (env / "has-peer").touch()
    return env / "bin" / "python"


def setting() -> str:
    """Return what else the figures depend on."""
    system = f"{platform.system()} on {platform.machine()} with {os.cpu_count()} CPUs"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    ours = (f"{name} {version(name)}" for name in ("fapilog", "anyio", "trio", "blinker", "msgspec"))
    return ", ".join([system, python, *ours, f"against {PEER}", f"seed {SEED}"])


def show(cells: Iterable[str]) -> None:
    """Print a line of the table."""
    widths = (26, 8, 17, 17, 10, 6, 7)
    print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip(), flush=True)


def markdown(results: list[Result]) -> str:
    """Return the table for the docs."""
    head = ("ours", "compared with", "on", "ours", "the other", "ratio", "target", "reached")
    lines = [head, ("---",) * len(head)]
    lines += [(result.row.ours.what, result.row.peer.what, *result.cells()) for result in results]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + f"\n{setting()}\n"


def put_between(path: Path, text: str) -> None:
    """Put *text* into the file between its lines BEGIN and END, in the place of what is there."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{path}: expected the lines {BEGIN.strip()} and {END.strip()}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def digits(value: float) -> str:
    """Return *value* with three digits that count, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def main() -> None:
    """Measure, print and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures what fapilog promises.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and fewer events: a try, not a result")
    parser.add_argument("--only", action="append", metavar="NAME", help="only the rows whose names begin so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help=f"put the table there, after {BEGIN.strip()}")
    parser.add_argument("--directory", type=Path, default=ENVS, help="keep the trails there, on the disk to measure")
    options = parser.parse_args()
    every = rows(quick=options.quick)
    chosen = [row for row in every if row.name.startswith(tuple(options.only or [""]))]
    if not chosen:
        parser.error(f"--only: expected one of {', '.join(row.name for row in every)}")

    print(setting())
    show(("row", "on", "ours", "the other", "ratio", "target", "reached"))
    results: list[Result] = []
    options.directory.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=options.directory, prefix="bench-") as directory:
        for row in chosen:
            for backend in row.backends:
                rounds = min(row.rounds, 3) if options.quick else row.rounds
                result = measured(row, backend, Path(directory), rounds)
                show((row.name, *result.cells()))
                results.append(result)
    for row in chosen:
        print(f"{row.name}: {row.ours.what}; compared with: {row.peer.what}")
    if options.markdown:
        put_between(options.markdown, markdown(results))
    if options.json:
        figures = [{**asdict(result), "ratio": result.ratio, "reached": result.reached} for result in results]
        options.json.write_text(json.dumps({"setting": setting(), "results": figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
