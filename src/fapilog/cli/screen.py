"""The demonstration as it is seen: live and in colour on a terminal, line by line as plain text anywhere else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.highlighter import JSONHighlighter
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from ._output import headed

__all__ = ["Screen"]

_COLOURS: Final = {"security": "bold red", "critical": "bold red", "error": "red", "warning": "yellow", "info": "cyan"}
# Rows that are not lines of the two panels.
_OTHER_ROWS: Final = 9
_MOST_LINES: Final = 12
_REQUESTS_A_LINE: Final = 52
_INDENT: Final = 2


class Screen:
    """
    Shows the demonstration.

    Args:
        console: The console to print to.
        requests: How many requests there will be.

    Attributes:
        live: Whether it is drawn, on a terminal; else it is printed line by line.
    """

    def __init__(self, console: Console, *, requests: int) -> None:
        # FORCE_COLOR makes a console of a pipe, but a pipe can't be drawn on.
        self.live: bool = console.is_interactive and console.file.isatty()
        self._console = console
        self._progress = _bar(console)
        self._task = self._progress.add_task("  requests", total=requests)
        self._answered = self._stored = self._arrived = self._logged = 0
        self._on_call: deque[Text] = deque(maxlen=_MOST_LINES)
        self._log: deque[Text] = deque(maxlen=_MOST_LINES)
        self._json = JSONHighlighter()

    @contextmanager
    def watching(self) -> Generator[Callable[[int], None], None, None]:
        """Show the service at work; yields a function that draws it, called with the number of stored events."""
        if not self.live:
            yield lambda _: None
            return
        with Live(self, console=self._console, auto_refresh=False, transient=True) as live:

            def draw(stored: int) -> None:
                self._stored = stored
                live.refresh()

            yield draw

    def answered(self) -> None:
        """Count a request."""
        self._answered += 1
        self._progress.update(self._task, completed=self._answered)
        if not self.live and self._answered % _REQUESTS_A_LINE == 0:
            self.say(f"{self._answered} requests; alerts: {self._arrived} at the receiver, {self._logged} in the log")

    def arrived(self, alert: str) -> None:
        """Show an alert that the receiver took, as it came."""
        self._arrived += 1
        self._on_call.append(self._json(_line(alert)))

    def logged(self, line: str, severity: str) -> None:
        """Show a line of the log."""
        self._logged += 1
        self._log.append(_line(line, style=_COLOURS.get(severity, "")))

    def __rich__(self) -> RenderableType:
        counts = Text.assemble(
            ("  events stored ", "dim"),
            (f"{self._stored:<6}", "bold green"),
            ("alerts at the receiver ", "dim"),
            (f"{self._arrived:<6}", "bold cyan"),
            ("in the log ", "dim"),
            (f"{self._logged:<6}", "bold cyan"),
        )
        shown = max(1, min(_MOST_LINES, (self._console.height - _OTHER_ROWS) // 2))
        return Group(
            self._progress,
            counts,
            _panel("posted to the engineer on call", self._on_call, shown),
            _panel("logged as fapilog.alerts", self._log, shown),
            # The terminal's echo of Ctrl-C stays in a row of its own, and the other rows can be erased.
            Text(),
        )

    def heading(self, text: str) -> None:
        """Print a line that something new begins with."""
        self._console.print()
        self._console.print(Text(text, style="bold"), soft_wrap=not self.live)

    def say(self, text: str | Text) -> None:
        """Print a line."""
        if self.live:
            self._console.print(Padding.indent(text, _INDENT))
        else:
            # Where it is piped to, a line is one line, however long.
            self._console.print(Text.assemble(" " * _INDENT, text), soft_wrap=True)

    def table(self, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        """Print a table."""
        table = headed()
        for head in heads:
            table.add_column(head, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self._console.print(Padding.indent(table, _INDENT))

    @contextmanager
    def checking(self, heading: str, total: int) -> Generator[Callable[[int], None], None, None]:
        """Show a bar while records are checked; yields a function that takes the number so far, from any thread."""
        if not self.live:
            self.heading(heading)
            yield lambda _: None
            return
        self._console.print()
        with _bar(self._console) as bar:
            task = bar.add_task(f"[bold]{heading}", total=total)
            yield lambda checked: bar.update(task, completed=checked, refresh=True)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        console=console,
        expand=True,
        auto_refresh=False,
    )


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _panel(title: str, lines: Iterable[Text], shown: int) -> Panel:
    latest = list(lines)[-shown:]
    return Panel(Group(*latest, *[Text()] * (shown - len(latest))), title=title, title_align="left", border_style="dim")
