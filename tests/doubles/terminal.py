"""A terminal that a command runs in."""

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

__all__ = ["COMMAND", "Terminal", "colours"]


COMMAND = [sys.executable, str(Path(__file__).parents[1] / "programs" / "unhurried.py")]


class Terminal:
    """A terminal of 24 lines that the command runs in, and what it shows."""

    def __init__(self, *arguments: str, env: dict[str, str]) -> None:
        self._fd, inner = pty.openpty()
        termios.tcsetwinsize(inner, (24, 80))
        self.process = subprocess.Popen([*COMMAND, *arguments], env=env, stdin=inner, stdout=inner, stderr=inner)
        os.close(inner)
        self.shown = ""

    def read_until(self, text: str) -> None:
        """Read until *text* is shown."""
        for piece in self._pieces():
            self.shown += piece
            if text in self.shown:
                return
        raise AssertionError(f"{text!r} was not shown in {self.shown!r}")

    def read_to_the_end(self) -> int:
        """Read until the command ends, and return its exit code."""
        self.shown += "".join(self._pieces())
        os.close(self._fd)
        return self.process.wait(60)

    def _pieces(self) -> Iterator[str]:
        while True:
            try:
                piece = os.read(self._fd, 65_536)
            except OSError:  # how Linux tells the end
                return
            if not piece:
                return
            yield piece.decode(errors="replace")


def colours(shown: str) -> set[str]:
    """Return the codes for colours, of the foreground and the background, that *shown* holds."""
    codes = (code for group in re.findall(r"\x1b\[([\d;]+)m", shown) for code in group.split(";"))
    return {code for code in codes if re.fullmatch(r"[349]\d|10\d", code)}
