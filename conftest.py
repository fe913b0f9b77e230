"""
Run the Python examples of the docs and the README.

The ``python`` blocks of a page run from top to bottom in one namespace and one empty directory, as if the reader had
saved the page as a script. An ``output`` block after one of them is what it printed; ``...`` stands for any text.
"""

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import redirect_stdout
from doctest import ELLIPSIS, OutputChecker
from functools import cache
from io import StringIO
from pathlib import Path
from socket import MSG_DONTWAIT, MSG_PEEK, socket
from threading import local
from typing import Any
from unittest import mock

import anyio
import pytest
from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from fapilog.testing import Answer, Origin, _provider
from tests.clock import Unhurried

_run = PythonEvaluator()


def _python(example: Example) -> None:
    with redirect_stdout(StringIO()) as printed:
        _run(example)
    example.namespace["printed"] = printed.getvalue()


def _output(example: Example) -> str | None:
    expected, printed = str(example.parsed), str(example.namespace["printed"])
    if OutputChecker().check_output(expected, printed, ELLIPSIS):
        return None
    return f"Expected:\n{expected}\nPrinted:\n{printed}"


@pytest.fixture(scope="session", autouse=True)
def _one_tls_context() -> Iterator[None]:
    """Load the certificates of a client once: that takes 70 ms, and a thousand tests and examples make a client."""
    try:
        import httpx2  # noqa: PLC0415  an extra
        import httpx2._transports.default as transports  # noqa: PLC0415
    except ImportError:
        yield
        return
    once = cache(httpx2.create_ssl_context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx2, "create_ssl_context", once)
        # What a client without certificates of its own calls.
        patch.setattr(transports, "create_ssl_context", once)
        yield


@pytest.fixture(scope="module")
def empty_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Be in an empty directory while the examples of one page run."""
    path = tmp_path_factory.mktemp("docs")
    # An example may set variables, as its reader would.
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ):
        patch.chdir(path)
        yield path


@pytest.fixture(scope="module")
def hangs_take_no_time() -> Iterator[None]:
    """Let the short limits of the examples be over at once where a server hangs, and nowhere else on a busy machine."""
    clock, run = Unhurried(), anyio.run

    here = local()

    class Hanging(Origin):
        def _fail(self, connection: socket, answer: Answer) -> None:
            here.connection = connection
            super()._fail(connection, answer)

        def _pause(self, seconds: float | None = None) -> bool:
            # A client that has given up is busy with its next alert.
            if not _has_left(here.connection):
                clock.moved += 2.0 if seconds is None else 10 * seconds
            return super()._pause(seconds)

    def run_unhurried(main: Callable[..., Awaitable[Any]], *args: object, backend: str = "asyncio") -> Any:
        return run(main, *args, backend=backend, backend_options=clock.backend(backend))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_provider, "Origin", Hanging)
        patch.setattr(anyio, "run", run_unhurried)
        yield


def _has_left(connection: socket) -> bool:
    """Return whether the other side has closed *connection*."""
    try:
        return not connection.recv(1, MSG_PEEK | MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _examples(*patterns: str, but: str | None = None, fixtures: Sequence[str] = ()) -> Sybil:
    return Sybil(
        parsers=[CodeBlockParser("python", _python), CodeBlockParser("output", _output), SkipParser()],
        patterns=patterns,
        exclude=but,
        setup=lambda namespace: namespace.update(__name__="__main__"),
        teardown=dict.clear,  # drops the receivers that the page has connected
        # pytest gives an example none of those that each test has.
        fixtures=["_one_tls_context", "empty_directory", *fixtures],
    )


# Its examples wait for servers that hang.
_WAITS = "docs/how-to/write-a-provider.md"

pytest_collect_file = (
    _examples("README.md", "docs/*.md", "docs/**/*.md", but=_WAITS) + _examples(_WAITS, fixtures=["hangs_take_no_time"])
).pytest()
