"""
One subject, in a process of its own: ``python -m benchmarks.subject MODULE:FUNCTION BACKEND DIRECTORY ARGUMENTS``.

For every line on standard input it measures once, and prints the result.
"""

import importlib
import json
import sys
from collections.abc import Iterator


def main(function: str, backend: str, directory: str, arguments: str) -> None:
    """Measure as often as asked."""
    module, _, name = function.partition(":")
    results: Iterator[float] = getattr(importlib.import_module(f"benchmarks.{module}"), name)(
        backend, directory, **json.loads(arguments)
    )
    for _ in sys.stdin:
        print(next(results), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
