"""The command line, run in this process."""

from collections.abc import Callable

import pytest

from fapilog.cli import main

__all__ = ["Run", "runs"]

Run = Callable[..., tuple[int, str, str]]
"""Runs the command with these arguments, and returns its exit code, its output and its errors."""


def runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["fapilog", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        printed = capsys.readouterr()
        return code or 0, printed.out, printed.err

    return run
